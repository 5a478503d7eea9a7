"""Every command in the documentation parses, and those that need no download run."""

import importlib
import importlib.util
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.toy import plots
from tests.words import last_of_each

ROOT = Path(__file__).resolve().parents[1]
RUN = [
    "README.md", "docs/sampling.md", "docs/pictures.md", "docs/tables.md", "docs/scoring.md", "docs/studies.md",
    "docs/networks.md", "docs/training.md", "docs/speed.md", "docs/install.md", "docs/toy.md", "examples/README.md",
    "edm2_guidance/pretrained/README.md",
]  # fmt: skip
LONG = [
    "docs/digits.md",
    "docs/distrust.md",
    "docs/cluster.md",
    "docs/reliability.md",
    "docs/datasets.md",
    "docs/arena.md",
]  # minutes
DOCUMENTS = [*RUN, *LONG, "docs/explore.md"]  # a page that stays open until its user ends it
NEEDS_MORE = (
    "edm2-",
    "edm-cifar10",
    "edm-img64",
    "https://",
    "hf://",
    "dit-img",
    "sdxl-",
    "=if-",
    "adm-256",
    "fdg-",
    "downloads/",
    "datasets/",
    "training-runs/",
    "torchrun",
    "train_",
    "toy_example.py train",
    "verify",
)  # downloads, data or hours


PASSED_OVER = ("#", "head=$(", "pip install ", "mkdir ", "source ", "python examples/")  # those test_library runs


def commands(document):
    text = (ROOT / document).read_text()
    for fence in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        for line in fence.replace("\\\n", " ").splitlines():
            if line.strip() and not line.startswith(PASSED_OVER):
                yield shlex.split(line.replace("$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT", "3/32"), comments=True)


ALL = [(document, words) for document in DOCUMENTS for words in commands(document)]
RUNNABLE = [
    words
    for document, words in ALL
    if document in RUN and words[0] == "python" and not any(m in " ".join(words) for m in NEEDS_MORE)
]


def contexts(command, args):
    """Parse like the command line does, down to the subcommand; raises click's errors."""
    context = command.make_context(command.name, list(args))
    rest = [*getattr(context, "_protected_args", ()), *context.args]
    if isinstance(command, click.Group) and rest:
        _, subcommand, rest = command.resolve_command(context, rest)
        contexts(subcommand, rest)


@pytest.mark.parametrize(("document", "words"), ALL, ids=[" ".join(words)[:60] for _, words in ALL])
def test_commands_parse(document, words):
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
        assert words[1] in targets
        return
    if words[0] == "srun":
        words = words[next(i for i, word in enumerate(words) if i and not word.startswith("--")) :]
    if words[0] == "torchrun":
        words = ["python", *words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]]
    assert words[0] == "python", f"{document}: {words}"
    if words[1] == "-m":
        assert importlib.util.find_spec(words[2]) is not None
        return
    module = importlib.import_module(f"edm2_guidance.commands.{words[1].removesuffix('.py')}")
    contexts(module.main, words[2:])


COUNTS = re.compile(r"^(--(?:final-)?num(?:-images|-samples)?)=\d+$")
RANGES = re.compile(r"^(--seeds|--classes)=(\d+)-\d+$")
LISTS = re.compile(r"^(--weights|--classes|--alphas)=([^,]+,[^,]+),.*$")


def cut(words):
    """The same command for less work: two of the images counted, one block of a row, few columns and steps."""
    small = [COUNTS.sub(r"\1=100" if words[1] == "toy_example.py" else r"\1=2", word) for word in words[2:]]
    small = [word.replace("=examples/", f"={ROOT}/examples/") for word in small]
    if any(word.startswith("--grid=") for word in words):
        small = [word for word in small if not word.startswith("--cell=")]  # of as many seeds
        small = [LISTS.sub(r"\1=\2", RANGES.sub(r"\1=\2", word)) for word in small]
    if words[1:3] == ["reproduce.py", "run"]:
        one_row = ["mnist16-interval" if word == "mnist16" else word for word in small]  # of the table of that name
        return last_of_each([*one_row, "--blocks=1"])
    samples = words[1].startswith("generate_") or words[1:3] == ["reproduce.py", "search"]
    return last_of_each([*small, "--steps=3"]) if samples else small


@pytest.mark.first
def test_offline_commands_run(tmp_path, monkeypatch):
    """In order, in one folder, as a reader would; only the counts of images, steps and plotted points are cut."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "NUM_SAMPLES", 500)
    monkeypatch.setattr(plots, "_PIXELS", 40)
    assert len(RUNNABLE) >= 20
    for words in RUNNABLE:
        main = importlib.import_module(f"edm2_guidance.commands.{words[1].removesuffix('.py')}").main
        done = CliRunner().invoke(main, cut(words))
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.stderr[-2000:]}"
    assert len((tmp_path / "results" / "ledger.jsonl").read_text().splitlines()) >= 5
    made = {str(path.relative_to(tmp_path)) for path in (tmp_path / "out").rglob("*.*")}
    assert {"out/weights.png", "out/classes.png", "out/interval.zip", "out/my-refs.npz", "out/main.safetensors"} <= made
    assert {"out/weights-curve.png", "out/blend.png", "out/classes-by-weights.png", "out/fig1.png"} <= made
    assert len(list((tmp_path / "out" / "digits").glob("*.png"))) == 16
