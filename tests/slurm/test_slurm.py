"""Through a real Slurm: whatever starts, ends and restarts the workers, the results are the plain run's to the bit.

Run by `make test-slurm`, which starts the Slurm of one node that these need (start_slurm.sh).
"""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edm2_guidance.metrics import ledger
from tests.digits_network import save_digits_network

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
ZIP, SCORE = (str(ROOT / script) for script in ("generate_zip.py", "calculate_metrics.py"))
NUM_SHARDS = 50


@pytest.fixture(scope="module", autouse=True)
def slurm():
    """The Slurm of start_slurm.sh, and no other: these tests cancel whatever is in its queue."""
    if not Path(os.environ.get("SLURM_CONF", "none")).with_name("munge.socket").exists():
        pytest.fail('no Slurm for tests: make test-slurm, or eval "$(tests/slurm/start_slurm.sh)"')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(autouse=True)
def queue(slurm, tmp_path, monkeypatch):
    """An empty queue, and a folder of its own for each test."""
    monkeypatch.chdir(tmp_path)
    yield
    run("scancel", f"--user={os.getuid()}")
    until(lambda: not run("squeue", "--noheader"))


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_digits_network(tmp_path_factory.mktemp("net") / "net.safetensors")


@pytest.fixture(scope="module")
def args(network):
    """What is sampled: long enough for signals to come in the middle."""
    return [f"--net={network}", "--steps=12", f"--num_images={4 * NUM_SHARDS}", "--shard-size=4", "--out=out.zip"]


@pytest.fixture(scope="module")
def plain(args, tmp_path_factory):
    """The bytes of the ZIP that one process makes."""
    folder = tmp_path_factory.mktemp("plain")
    subprocess.run([sys.executable, ZIP, *args], cwd=folder, check=True, capture_output=True, timeout=300)
    return (folder / "out.zip").read_bytes()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return done.stdout.strip()


def until(condition, seconds=240):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, (run("squeue"), logs())
        time.sleep(0.1)


def logs():
    return [(str(path), path.read_text()) for path in sorted(Path().rglob("*log*")) if path.is_file()]


def sbatch(script, *options):
    """The number of a job whose batch script is one command line."""
    return run("sbatch", "--parsable", "--output=log-%a.txt", "--open-mode=append", *options, f"--wrap={script}")


def line(*args, script=ZIP):
    return shlex.join([sys.executable, script, *args])


def state(job):
    """(state, exit code) of a job, as Slurm has it."""
    text = run("scontrol", "show", "job", "--oneliner", job)
    return re.search(r"JobState=(\w+)", text)[1], re.search(r"ExitCode=(\S+)", text)[1]


def ended(job):
    return not run("squeue", "--noheader", "--states=PENDING,RUNNING,COMPLETING,SUSPENDED", f"--job={job}")


def shards():
    return len(list(Path().glob("*/shard-*.zip")))


def in_the_middle():
    return 3 <= shards() < NUM_SHARDS


def start_again(job):
    """A job that is put back is held for two minutes: not here."""
    until(lambda: state(job)[0] == "PENDING")
    run("scontrol", "update", f"jobid={job}", "StartTime=now")


def submit(*options):
    """The number of the (first) job that the script sends itself."""
    said = run(sys.executable, ZIP, *options, "--submit=slurm", "--time=30")
    assert "reproduce.py status ." in said
    return re.search(r"scancel (\d+)", said)[1]


# sent by hand


def test_a_job_array(args, plain):
    job = sbatch(line(*args) + " --worker=$SLURM_ARRAY_TASK_ID/3", "--array=0-2")
    until(lambda: ended(job))
    assert Path("out.zip").read_bytes() == plain
    assert [f"worker {n} of 3 (launch {n} of 3)" in text for n, (_, text) in enumerate(logs())] == [True] * 3


def test_srun(args, plain):
    done = run("srun", "--ntasks=2", sys.executable, ZIP, *args)
    assert Path("out.zip").read_bytes() == plain
    assert done.count(f"out.zip: {4 * NUM_SHARDS} images") == 1


def test_srun_inside_an_array(args, plain):
    job = sbatch(f"srun {line(*args)} --worker=$SLURM_ARRAY_TASK_ID/2", "--array=0-1", "--ntasks=2")
    until(lambda: ended(job))
    assert Path("out.zip").read_bytes() == plain
    assert "worker 2 of 4 (launch 1 of 2, srun: rank 0 of 2)" in dict(logs())["log-1.txt"]


def test_a_batch_script_is_one_worker_however_many_tasks_its_job_has(args, plain):
    job = sbatch(line(*args), "--ntasks=2")
    until(lambda: ended(job))
    assert Path("out.zip").read_bytes() == plain


def test_a_score_by_steps_of_an_array(network):
    """The value and the moments behind it are those of one process, to the last bit."""
    args = [
        "gen", f"--net={network}", "--steps=2", "--metrics=fd_mnist", "--ref=mnist16",
        "--num_images=70", "--batch=10", "--shard-size=10",
    ]  # fmt: skip
    subprocess.run([sys.executable, SCORE, *args, "--ledger=plain.jsonl"], check=True, capture_output=True, timeout=300)
    work = f"srun {line(*args, '--ledger=l.jsonl', script=SCORE)} --worker=$SLURM_ARRAY_TASK_ID/2"
    job = sbatch(work, "--array=0-1", "--ntasks=2")
    until(lambda: ended(job))
    plain, shared = (ledger.read(path) for path in ("plain.jsonl", "l.jsonl"))
    assert [(r["value"], r["moments_sha256"]) for r in shared] == [(r["value"], r["moments_sha256"]) for r in plain]
    assert sum("fd_mnist@70" in text for _, text in logs()) == 1


@pytest.mark.parametrize("how", [["--signal=KILL", "--full"], []], ids=["SIGKILL", "cancelled"])
def test_a_task_of_an_array_is_killed_and_put_back(args, plain, how):
    job = sbatch(line(*args) + " --worker=$SLURM_ARRAY_TASK_ID/2", "--array=0-1", "--requeue")
    until(in_the_middle)
    run("scancel", *how, f"{job}_1")
    until(lambda: ended(job))
    assert in_the_middle()
    assert not Path("out.zip").exists()
    run("scontrol", "requeue", f"{job}_1")
    start_again(f"{job}_1")
    until(lambda: ended(job))
    assert Path("out.zip").read_bytes() == plain


# sent by the script


def test_submitted_jobs_of_two_tasks(args, plain):
    job = submit(*args, "--jobs=2", "--tasks-per-node=2")
    until(lambda: ended(job))
    assert [state(f"{job}_{n}") for n in range(2)] == [("COMPLETED", "0:0")] * 2
    assert Path("out.zip").read_bytes() == plain
    said = "".join(text for _, text in logs())
    assert "worker 2 of 4 (launch 1 of 2, srun: rank 0 of 2, stealing)" in said


def test_a_submitted_job_whose_time_is_nearly_up_goes_on_later(args, plain):
    job = submit(*args, "--gpus-per-node=2")
    until(in_the_middle)
    run("scancel", "--signal=USR2", job)  # what Slurm sends then
    start_again(job)
    assert in_the_middle()
    until(lambda: ended(job))
    assert state(job) == ("COMPLETED", "0:0")
    assert Path("out.zip").read_bytes() == plain


def test_a_submitted_job_that_is_pre_empted_goes_on_later(args, plain):
    job = submit(*args, "--jobs=1")
    until(in_the_middle)
    other = sbatch("sleep 1", "--partition=urgent", "--ntasks=4")
    start_again(job)
    assert in_the_middle()
    until(lambda: ended(job) and ended(other))
    assert state(job) == ("COMPLETED", "0:0")
    assert Path("out.zip").read_bytes() == plain


def test_a_submitted_job_ends_as_its_script_does(args):
    job = submit(*args, "--device=cuda:7", "--jobs=2")
    until(lambda: ended(job))
    assert [state(f"{job}_{n}") for n in range(2)] == [("FAILED", "2:0")] * 2


def test_what_slurm_refuses(args):
    done = subprocess.run(
        [sys.executable, ZIP, *args, "--submit=slurm", "--partition=nowhere"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "invalid partition" in done.stderr
    assert not run("squeue", "--noheader")
