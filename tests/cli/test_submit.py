"""--submit and --fetch-only: what jobs run, what is checked before, what becomes of them. Real Slurm: tests/slurm."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from edm2_guidance.cli import submit
from edm2_guidance.cli.command import Command
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.run_options import RunOptions
from edm2_guidance.cli.submit import JobOptions, SlurmOption, SlurmTime, check_space, own_arguments, send

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import json, os, signal, time
import click
from edm2_guidance.cli.command import Command
from edm2_guidance.cli.option_group import takes_options
from edm2_guidance.cli.run_options import RunOptions
from edm2_guidance.cli.submit import JobOptions, send

def leave(number, frame):
    sys.exit(128 + number)

@click.command(cls=Command)
@click.option("--code", type=int, default=0)
@click.option("--seconds", type=float, default=0)
@takes_options
def main(code, seconds, jobs: JobOptions, run: RunOptions):
    if jobs.elsewhere():
        return send(jobs, run, lambda offline: ["a file"], {{"out.zip": 0}}, "out.zip")
    signal.signal(signal.SIGTERM, leave)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "CUDA_VISIBLE_DEVICES")
    print(json.dumps([sys.argv[1:], *map(os.environ.get, names)]), flush=True)
    time.sleep(seconds)
    if code == 7:
        print("Error: the disk is full", file=sys.stderr)
    sys.exit(code)

main()
"""


@click.command(cls=Command)
@click.argument("names", nargs=-1)
@click.option("--note")
@takes_options
def command(names, note, jobs: JobOptions, run: RunOptions):
    """In the tests below it says what it would do."""
    arguments = own_arguments(sys.argv[1:])
    click.echo(json.dumps(arguments if jobs.elsewhere() else "works here"))


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def invoke(monkeypatch):
    def invoke(*args, code=0, command=command):
        monkeypatch.setattr(sys, "argv", ["script.py", *args])
        result = CliRunner().invoke(command, args)
        assert result.exit_code == code, result.output
        return result

    return invoke


# what the jobs run


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("--submit=slurm", ""),
        ("--submit slurm --jobs 3 a", "a"),
        ("a --time 4:00:00 --no-requeue b --gpus-per-node=2 --slurm account=x --slurm mem=4G", "a b"),
        ("--submit_dir logs --note=--jobs=4 --offline --steal", "--note=--jobs=4 --offline --steal"),
        ("--requeue --tasks_per_node=2 --note 3 --partition gpu", "--note 3"),
        ("--jobs=2 -- --jobs=3 --submit", "-- --jobs=3 --submit"),
    ],
)
def test_jobs_get_the_command_without_its_submission(invoke, given, left):
    args = given.split()
    result = invoke(*(args if "--submit=slurm" in args or "slurm" in args else ["--submit=slurm", *args]))
    assert json.loads(result.stdout) == left.split()


def test_each_job_is_a_worker_and_offline(invoke, monkeypatch):
    sent = []
    monkeypatch.setattr(submit, "_executor", lambda *args: FakeExecutor(sent))
    invoke("--submit=local", "--jobs=2", "--", "name", command=sending())
    assert [job.command[2:] for job in sent] == [(f"--worker={n}/2", "--offline", "--", "name") for n in (0, 1)]
    assert [job.command[:2] for job in sent] == [(sys.executable, str(Path("script.py").absolute()))] * 2
    sent.clear()
    invoke("--submit=local", "--offline", command=sending())
    assert [job.command[2:] for job in sent] == [("--offline", "--worker=0/1")]


def test_local_jobs_share_out_the_gpus(invoke, monkeypatch):
    sent = []
    monkeypatch.setattr(submit, "_executor", lambda *args: FakeExecutor(sent))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    invoke("--submit=local", "--jobs=2", "--gpus-per-node=2", command=sending())
    assert [job.environment["CUDA_VISIBLE_DEVICES"] for job in sent] == ["4,5", "6,7"]
    result = invoke("--submit=local", "--jobs=3", "--gpus-per-node=2", command=sending(), code=2)
    assert "3 jobs of 2 GPUs on this machine, which has 4" in result.stderr
    sent.clear()
    invoke("--submit=local", command=sending())
    assert sent[0].environment["CUDA_VISIBLE_DEVICES"] == "4,5,6,7"


class FakeExecutor:
    """Keeps what it is given."""

    def __init__(self, sent):
        self.sent = sent

    def submit_array(self, jobs):
        self.sent += jobs
        return [type("Job", (), {"job_id": str(number)}) for number in range(len(jobs))]


def sending(fetch=lambda offline: ["a file"], writes=None):
    """A command that sends itself."""

    @click.command(cls=Command)
    @click.argument("names", nargs=-1)
    @takes_options
    def command(names, jobs: JobOptions, run: RunOptions):
        assert jobs.elsewhere()
        send(jobs, run, fetch, {"out/a.zip": 0} if writes is None else writes, "out")

    return command


# what is checked


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--jobs=2"], "--jobs is for jobs that are sent: add --submit=slurm"),
        (["--no-requeue"], "--requeue is for jobs"),
        (["--submit=slurm", "--worker=0/2"], "leave it out, and say --jobs=N"),
        (["--submit=slurm", "--wait"], "--wait is for --submit=local"),
        (["--submit=slurm", "--time=soon"], "--time=soon: give minutes, or a time such as"),
        (["--submit=slurm", "--slurm=time=3"], "time has an option of its own"),
        (["--submit=slurm", "--slurm=a b=3"], "--slurm=a b=3: give KEY=VALUE of sbatch"),
        (["--submit=slurm", "--jobs=0"], "--jobs=0: give a whole number of at least 1"),
    ],
)
def test_contradictions_are_usage_errors(invoke, args, message):
    assert message in invoke(*args, code=2).stderr


def test_one_process_sends(invoke, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "without torchrun or srun" in invoke("--submit=slurm", code=2).stderr


def test_without_any_of_this_the_work_is_done_here(invoke):
    assert json.loads(invoke("a", "--worker=0/2").stdout) == "works here"


def missing(offline):
    raise FileNotFoundError(f"no network (offline: {offline})")


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ({"fetch": missing}, "no network (offline: True) (the same command with --fetch-only fetches all of it)"),
        ({"writes": {"out/a.zip": 10**18}}, "out/a.zip needs about 1e+09 GB, and "),
        ({"writes": {"file/a.zip": 0}}, "file is a file, so file/a.zip cannot be made"),
    ],
)
def test_nothing_is_sent_that_could_not_work(invoke, monkeypatch, fails, message):
    sent = []
    monkeypatch.setattr(submit, "_executor", lambda *args: FakeExecutor(sent))
    Path("file").touch()
    result = invoke("--submit=slurm", command=sending(**fails), code=2)
    assert message in result.stderr
    assert sent == []
    assert [path.name for path in Path().iterdir()] == ["file"]


def test_without_slurm_or_submitit(invoke, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "there is no sbatch here" in invoke("--submit=slurm", command=sending(), code=2).stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install submitit" in invoke("--submit=local", command=sending(), code=1).stderr
    assert not list(Path().iterdir())


def test_a_system_without_the_signals_of_unix(invoke, monkeypatch):
    monkeypatch.delattr(signal, "SIGUSR2")
    assert "signals, which this system has not" in invoke("--submit=local", command=sending(), code=2).stderr


def test_space_is_that_of_the_nearest_folder_there_is(tmp_path):
    check_space(tmp_path / "new" / "newer" / "a.zip", 1)
    check_space("a.zip", 1)
    with pytest.raises(ValueError, match="needs about 1e"):
        check_space("a.zip", 10**20)


@pytest.mark.parametrize(("offline", "args"), [(False, []), (True, ["--offline"])])
def test_fetch_only_says_where_everything_is(invoke, offline, args):
    asked = []

    def fetch(offline):
        asked.append(offline)
        return ["/cache/a.pkl", "/cache/b.pkl"]

    result = invoke("--fetch-only", "--submit=slurm", *args, command=sending(fetch))
    assert result.stdout == "/cache/a.pkl\n/cache/b.pkl\n"
    assert asked == [offline]


# times and options of Slurm


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("90", 90), ("90:00", 90), ("0:30", 1), ("1:30:00", 90), ("1:30:01", 91), ("2-12", 3600), ("1-0:5", 1445),
     ("2-12:30:00", 3630)],
)  # fmt: skip
def test_times_mean_what_they_mean_to_slurm(text, minutes):
    assert SlurmTime().convert(text, None, None) == minutes


@pytest.mark.parametrize("text", ["", "1:2:3:4", "-5", "0", "0:00", "1-", "1.5"])
def test_what_is_no_time(text):
    with pytest.raises(click.UsageError):
        SlurmTime().convert(text, None, None)


def test_options_of_sbatch():
    convert = SlurmOption().convert
    assert convert("account=a=b", None, None) == ("account", "a=b")
    assert convert("--cpus_per_task=8", None, None) == ("cpus-per-task", "8")
    assert convert("exclusive", None, None) == ("exclusive", True)


# jobs, for real


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return path


def start(script, *args, **changes):
    environment = {**os.environ, **changes}
    environment.pop("PYTHONPATH", None)
    return subprocess.run(
        [sys.executable, str(script), *args], capture_output=True, text=True, timeout=300, env=environment
    )


def logs(end):
    return [path.read_text() for path in sorted(Path("results/submit").glob(f"*/*{end}"))]


def test_local_jobs_of_several_tasks(script):
    done = start(script, "--submit=local", "--jobs=2", "--tasks-per-node=2", "--wait", CUDA_VISIBLE_DEVICES="3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sent 2 jobs: ")
    assert "status out.zip" in done.stdout
    assert "\nended:   4 processes, none failed\n         [" in done.stdout
    lines = [line for text in logs(".out") for line in text.splitlines() if line.startswith("[")]
    said = sorted((arguments[0], *rest) for arguments, *rest in map(json.loads, lines))
    assert said == [(f"--worker={job}/2", str(rank), "2", str(rank), "3") for job in (0, 1) for rank in (0, 1)]


def test_a_job_fails_with_its_script(script):
    done = start(script, "--submit=local", "--code=7", "--wait")
    assert done.returncode == 1
    assert "1 of 1 process failed; see " in done.stderr
    assert done.stderr.endswith("_log.err: the disk is full\n")
    assert "the script ended with exit code 7" in logs(".err")[0]


def test_a_local_job_outlives_its_terminal_and_stops_its_script_when_cancelled(script):
    done = start(script, "--submit=local", "--seconds=60")
    assert done.returncode == 0, done.stderr
    (number,) = done.stdout.splitlines()[0].split(": ")[1:]
    _until(lambda: logs(".out") and "[[" in logs(".out")[0])
    os.kill(int(number), signal.SIGHUP)
    os.kill(int(number), signal.SIGTERM)
    _until(lambda: "exit code 143" in logs(".err")[0])


def _until(condition):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, (logs(".out"), logs(".err"))
        time.sleep(0.05)


JOB = """
import signal, sys
from edm2_guidance.cli.script_job import ScriptJob

def put_back(number, frame):
    print("put back", flush=True)
    if {first}:
        sys.exit(9)

signal.signal(signal.SIGUSR2, put_back)
script = '''
import signal, sys, time
def leave(number, frame):
    print("stopped", flush=True)
    {at_stop}
signal.signal(signal.SIGTERM, leave)
print("started", flush=True)
time.sleep(60)
'''
ScriptJob([sys.executable, "-c", script], ".", {{}}, {seconds}, {requeue})()
"""


class Running:
    """A ScriptJob in a process of its own, where submitit would have it."""

    def __init__(self, where, first=True, requeue=True, at_stop="sys.exit(143)", seconds=60):
        code = JOB.format(first=first, requeue=requeue, at_stop=at_stop, seconds=seconds)
        environment = {**os.environ, "SUBMITIT_EXECUTOR": where, "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, bufsize=0, start_new_session=True
        )
        assert self.line() == "started"

    def line(self):
        return self.process.stdout.readline().decode().strip()  # without a buffer: `end` gets what comes after

    def send(self, number):
        """Slurm sends its warning to the script too."""
        (os.killpg if number == signal.SIGUSR2 else os.kill)(self.process.pid, number)

    def end(self):
        """What else it prints, and its exit code."""
        rest, _ = self.process.communicate(timeout=120)
        return rest.decode().strip(), self.process.returncode

    def goes_on(self):
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            return True
        return False


@pytest.mark.parametrize("where", ["slurm", "local"])
def test_a_job_that_is_warned_stops_its_script_and_is_put_back(where):
    job = Running(where)
    job.send(signal.SIGUSR2)
    assert job.end() == ("stopped\nput back", 9)


def test_other_tasks_wait_until_slurm_ends_them():
    job = Running("slurm", first=False)
    job.send(signal.SIGUSR2)
    assert (job.line(), job.line()) == ("stopped", "put back")
    assert job.goes_on()
    job.process.kill()
    assert job.end() == ("", -signal.SIGKILL)


def test_a_pre_empted_job_waits_until_slurm_ends_it():
    job = Running("slurm")
    job.send(signal.SIGTERM)
    assert job.line() == "stopped"
    assert job.goes_on()
    job.send(signal.SIGUSR2)
    assert job.end() == ("put back", 9)


@pytest.mark.parametrize(("where", "requeue", "number"), [("slurm", False, "SIGTERM"), ("slurm", False, "SIGUSR2"),
                                                          ("local", True, "SIGTERM")])  # fmt: skip
def test_jobs_that_end_for_good(where, requeue, number):
    job = Running(where, requeue=requeue)
    job.send(getattr(signal, number))
    assert job.end() == ("stopped", 143)


def test_a_script_that_ends_its_work_is_not_started_again():
    job = Running("slurm", at_stop="sys.exit(0)")
    job.send(signal.SIGUSR2)
    assert job.end() == ("stopped", 0)


def test_a_script_that_does_not_stop_is_killed():
    job = Running("local", at_stop="pass", seconds=0.5)
    begun = time.monotonic()
    job.send(signal.SIGTERM)
    assert job.end()[1] == 137
    assert time.monotonic() - begun > 0.5
