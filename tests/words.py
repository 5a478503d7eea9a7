"""Command lines of tests: usual words, and others in place of some of them; all commands."""

import importlib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def last_of_each(words, several=("--gnet", "--net-guide", "--weights")):
    """The words as texts, without those of an option that is given again further on; several: may come many times."""
    kept = {}
    for number, word in enumerate(map(str, words)):
        name = word.partition("=")[0].replace("_", "-")
        kept[name if name.startswith("--") and "=" in word and name not in several else number] = word
    return [*kept.values()]


def commands():
    """(script, words before, command) of everything that has options of its own."""
    for script in sorted(path.stem for path in ROOT.glob("*.py")):
        main = importlib.import_module(f"edm2_guidance.commands.{script}").main
        yield script, [], main
        for name, command in getattr(main, "commands", {}).items():
            yield script, [name], command
