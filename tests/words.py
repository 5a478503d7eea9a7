"""Command lines of tests: usual words, and others in place of some of them."""


def last_of_each(words, several=("--gnet", "--net-guide", "--weights")):
    """The words as texts, without those of an option that is given again further on; several: may come many times."""
    kept = {}
    for number, word in enumerate(map(str, words)):
        name = word.partition("=")[0].replace("_", "-")
        kept[name if name.startswith("--") and "=" in word and name not in several else number] = word
    return [*kept.values()]
