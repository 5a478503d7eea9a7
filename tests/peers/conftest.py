"""Other evaluators beside ours. Each runs in processes of its own, in the environment that `make test-peers` makes."""

import itertools
import json
import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics
from edm2_guidance.metrics import ledger

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
PROGRAMS = Path(__file__).with_name("programs")


@pytest.fixture(scope="session")
def peer(tmp_path_factory):
    """What a peer finds: peer("prdc", {"do": ...}, ...) runs `programs/of_prdc.py` once, to answer all these questions.

    Paths in them are relative to the folder that we are in.
    """
    if not PYTHON.exists():
        pytest.fail("the other evaluators are not installed: `make test-peers` does that, and runs these tests")
    answers, numbers = tmp_path_factory.mktemp("answers"), itertools.count()
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def ask(name, *questions):
        path, program = answers / f"{next(numbers)}.json", PROGRAMS / f"of_{name}.py"
        command = [PYTHON, program, path, json.dumps(questions)]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{questions}\n{done.stdout}\n{done.stderr}"
        return json.loads(path.read_text())

    return ask


@pytest.fixture(scope="session")
def score():
    """Our own values by metric, of `calc` with these arguments."""

    def calc(*arguments):
        Path("ledger.jsonl").unlink(missing_ok=True)
        result = CliRunner().invoke(calculate_metrics.main, ["calc", *map(str, arguments), "--ledger=ledger.jsonl"])
        assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
        return {record["metric"]: record["value"] for record in ledger.read("ledger.jsonl")}

    return calc
