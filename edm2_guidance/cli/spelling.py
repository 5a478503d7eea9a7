"""One spelling of every option. The others that are accepted for it, wherever a command has it, stand here alone.

They are those of the papers' repositories and of earlier versions. --help shows none of them. `-` and `_` are the same
in all (`typed.either_spelling`).
"""

from collections.abc import Sequence

OTHERS = {
    "--batch": ("--batch-size",),
    "--data": ("--images",),
    "--detector-weights": ("--weights",),
    "--dry-run": ("-n",),
    "--format": ("--to",),
    "--gnet": ("--uncond-pkl",),
    "--guidance": ("--guidance-scale",),
    "--images": ("--data", "--source", "--gen-zip"),
    "--max-images": ("--num-images", "--num"),
    "--metrics": ("--metric",),
    "--net": ("--cond-pkl", "--network"),
    "--num-images": ("--num",),  # torchrun takes --num for its own
    "--num-samples": ("--num",),
    "--out": ("--dest", "--save"),
    "--outdir": ("--zip-dir",),
    "--overwrite": ("--force",),
    "--ref": ("--ref-path",),
    "--results-dir": ("--results",),
    "--sampler": ("--solver",),
    "--source": ("--images", "--data"),
    "--trackers": ("--log",),  # likewise
}

_ABLATION = (
    "EDM's ablations are not made here, only its own sampler (edm, linear, none): leave out --disc, --schedule and "
    "--scaling; --schedule names the noise levels here, and =list shows which"
)
#: Options of EDM's generate.py without a counterpart: beside --schedule, which here means what --disc means there.
WITHOUT_COUNTERPART = {"--disc": _ABLATION, "--scaling": _ABLATION}

#: What was once said by other words, also of the interval paper's repository, and the switches that say it now.
_SWITCHED = {
    "--csv": ["--format=csv"],
    "--json": ["--format=json"],
    "--list-presets": ["--preset=list"],
    "--verbose=1": ["--verbose"],
    "--verbose=0": [],
    **{f"--verbose{between}{word}": ["--verbose"] for between in "= " for word in ("true", "yes")},
    **{f"--verbose{between}{word}": [] for between in "= " for word in ("false", "no")},
}


def spellings(field: str, name: str | None = None) -> Sequence[str]:
    """All spellings of the option of a field, first the one that is shown.

    name: the one that is shown, if it is not the field's own in dashes: a symbol of a paper's (--S_churn), or a word
    that Python has reserved (--class).
    """
    shown = name or f"--{field.replace('_', '-')}"
    return shown, *OTHERS.get(shown, ())


def in_our_words(arguments: Sequence[str]) -> list[str]:
    """A command line in which --csv, --json, --list-presets and --verbose BOOL are said as they are now."""
    words: list[str] = []
    rest = iter(arguments)
    for word in rest:
        both = f"{words[-1]} {word}".lower() if words else ""
        if word == "--":
            return [*words, word, *rest]
        if both in _SWITCHED:
            words[-1:] = _SWITCHED[both]
        else:
            words += _SWITCHED.get(word.lower().replace("_", "-"), [word])
    return words
