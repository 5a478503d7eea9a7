"""Commands run in this process, and what they made."""

import numpy as np
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.commands import generate_zip
from tests.interruptions import terminated_at


def run(command, *words, code=0):
    result = CliRunner().invoke(command, words)
    assert result.exit_code == code, result.output
    return result


def pixels(path):
    """Of a picture: int64 [H, W, 3], so that differences have signs."""
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def zip_by_three_workers_and_a_kill(words, monkeypatch):
    """Six images in shards of two, whole.zip, and by workers of whom one is killed: the same bytes. What one says."""
    words = [*words, "--num=6", "--shard-size=2", "--batch=2"]
    whole = run(generate_zip.main, *words, "--out=whole.zip")
    with terminated_at(4, monkeypatch):
        run(generate_zip.main, *words, "--out=parts.zip", "--worker=2/3", code=143)
    for worker in (1, 0, 2):
        run(generate_zip.main, *words, "--out=parts.zip", f"--worker={worker}/3")
    with open("whole.zip", "rb") as ours, open("parts.zip", "rb") as theirs:
        assert ours.read() == theirs.read()
    return whole
