"""The text of the gallery: a page for every kind, and one before them. No torch here."""

import inspect
import re
import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from edm2_guidance.cli.recipe_flags import recipe_flags
from edm2_guidance.papers.gallery import DIGIT_W, DIGITS, Entry, axes, entries
from edm2_guidance.recipe.catalog import OF_FUNCTIONS
from edm2_guidance.recipe.spec import fields_of, number_text

#: How kinds fared in the arena, a line each, by the name of the entry; of those that were there.
Arena = Mapping[str, str]

_GUIDED_BY = {
    "unconditional": "the unconditional network guides (classifier-free guidance)",
    "weak": "the weak network guides (autoguidance)",
}
_HEAD = """# Gallery

![The toy without guidance](unguided.png)

*Without guidance, on [the toy](../toy.md): the density of 16,384 samples over the class that they should fill
(orange; grey: the other class), and the paths of 64 of them. Each page has this picture of its kind, and digits.*

Made by `python reproduce.py gallery`: text and fields are those of the code. [The toy](../toy.md) has all pictures in
one sheet, and the kinds in numbers. A rule of your own: [A new rule](../new-rule.md).

The letters of the formulas:

| letter | what |
|---|---|
| x, sigma | the noisy image and its noise level; sigma' and x' at the end of the step |
| D, D_m, D_g | the denoised image: as guided; of the main network; of the reference |
| push | D_m - D_g |
| w, w_t | the guidance weight, 1 = off, and what it is at this step: D = D_g + w_t push, unless a rule says otherwise |
| p | the share of the steps that is done: 0 at the first, 1 at the last |
| n | unit noise; or, of steps, their number |
| \\|a\\|, <a, b> | length and inner product, over all channels and pixels of an image |
"""


def pages(arena: Arena = MappingProxyType({})) -> dict[str, str]:
    """All pages by file name."""
    own = {f"{entry.name}.md": page(entry, arena.get(entry.name, "")) for entry in entries()}
    return {"index.md": index(entries()), **own}


def index(shown: Sequence[Entry]) -> str:
    """The page before the others."""
    parts = [_HEAD]
    for axis in axes():
        lines = [f"| {axis} | |", "|---|---|"]
        lines += [_row(entry) for entry in shown if entry.axis == axis]
        if axis in OF_FUNCTIONS:
            lines.append(f"| {OF_FUNCTIONS[axis]} | A function of your own: [Python](../api.md) |")
        parts.append("\n".join(lines) + "\n")
    names = "\n".join(entry.name for entry in shown)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{names}\n```\n")
    return "\n".join(parts)


def _row(entry: Entry) -> str:
    what = _escaped(_paragraphs(entry)[0]).replace("|", "\\|")
    return f"| [{entry.kind}]({entry.name}.md) | {what} |"


def page(entry: Entry, fared: str = "") -> str:
    """Of one kind. fared: how, in the arena; empty for a kind that was not there."""
    cls = entry.cls
    formula = "\n".join(f"    {line}" for line in cls.formula.split("\n"))
    fields = "\n".join(f"    {line}" for line in fields_of(cls))
    parts = [
        f"# {entry.title}",
        formula,
        *map(_escaped, _paragraphs(entry)),
        f"{entry.axis.capitalize()}: `{_option(entry)}`, {_linked(cls.source) or 'of your own'}.",
        *([f"Its fields:\n\n{fields}"] if fields else []),
        *_of_points(entry),
        *_of_digits(entry),
        *([f"## In the arena\n\n[All of it](../arena.md).\n\n{fared}"] if fared else []),
    ]
    return "\n\n".join(parts) + "\n"


def _of_points(entry: Entry) -> list[str]:
    if entry.not_on_points:
        return [f"Not on points: {entry.not_on_points}."]
    recipe = entry.of_points({role: role for role in DIGITS})
    since = " since noise was added last" if any(step.renoise > 0 for step in recipe.steps()) else ""
    said = [
        _guide(entry),
        f"w = {number_text(entry.w)}",
        f"{recipe.num_steps} steps",
        *_beside(entry),
        *_fields(entry, entry.text_on_points),
    ]
    return [
        f"![{entry.title} on the toy]({entry.name}-points.png)",
        f"*On the toy: {', '.join(said)}. Density of samples, and paths{since}; beside [unguided ones](index.md).*",
    ]


def _of_digits(entry: Entry) -> list[str]:
    if entry.not_on_digits:
        return [f"Not on digits: {entry.not_on_digits}."]
    rows = {"weight": "weights", "num_steps": "numbers of steps"}.get(entry.over, entry.over)
    said = [
        _guide(entry),
        *([] if entry.over == "weight" else [f"w = {DIGIT_W:g}"]),
        *_beside(entry),
        *_fields(entry, entry.text),
    ]
    return [
        f"![Digits by {entry.title}]({entry.name}-digits.png)",
        f"*Digits by {rows}, class and seed 0 to 9: {', '.join(said)}.*",
        f"```bash\n{command(entry)}\n```",
    ]


def command(entry: Entry) -> str:
    """That draws the digits of the page; where a grid has no such axis, one row of them."""
    recipe = entry.of_digits(entry.values[len(entry.values) // 2])
    words = ["python", "generate_images.py", *shlex.split(recipe_flags(recipe)), "--columns=seed", "--seeds=0-9"]
    if entry.fields:  # which may name a file, whose numbers the recipe has
        words = [f"--{entry.axis}={entry.text}" if word.startswith(f"--{entry.axis}=") else word for word in words]
    if entry.over == "weight":
        of_classifier = recipe.guides[0].of_classifier
        values = ",".join(number_text(float(value) - of_classifier) for value in entry.values)
        varied = "scale" if of_classifier else "weight"
        words = [word for word in words if not word.startswith(("--guidance=", "--classifier-scale="))]
        words += [f"--rows={varied}", f"--{varied}s={values}"]
    return shlex.join([*words, f"--grid=out/{entry.name}.png"])


def _option(entry: Entry) -> str:
    of_classifier = entry.axis == "reference" and entry.of_digits(entry.values[0]).guides[0].of_classifier
    return "--classifier=NETWORK" if of_classifier else f"--{entry.axis}={entry.kind}"


def _guide(entry: Entry) -> str:
    guide = entry.of_digits(entry.values[0]).guides[0]
    if guide.of_classifier:
        return "the classifier guides"
    return "the main network guides itself" if guide.net is None else _GUIDED_BY[entry.guide]


def _beside(entry: Entry) -> list[str]:
    return [f"{axis} {text}" for axis, text in entry.beside.items()]


def _fields(entry: Entry, text: str) -> list[str]:
    return [] if text == entry.kind else [f"`{text}`"]


def _paragraphs(entry: Entry) -> list[str]:
    """Of the kind's docstring, each in one line."""
    return [" ".join(part.split()) for part in inspect.cleandoc(entry.cls.__doc__ or "").split("\n\n")]


def _escaped(text: str) -> str:
    """Plain text as Markdown; names in backticks stay code."""
    return re.sub(r"[*<\\]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _linked(source: str) -> str:
    return re.sub(r"arXiv (\d{4}\.\d{5})", r"[arXiv \1](https://arxiv.org/abs/\1)", source)
