"""Jobs on a cluster instead of work in this process: what is needed is fetched, checked and sent. No torch here.

    python generate_zip.py ... --fetch-only                                       where there is a network
    python generate_zip.py ... --submit=slurm --jobs=8 --gpus-per-node=4          a job array, of the same command

Each job runs the same command line without these options, as --worker=I/N.
"""

import math
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from dnnlib.atomic import check_destination
from dnnlib.extras import need
from dnnlib.terminal import counted
from dnnlib.workers import launched
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.option_group import COUNT, flag, option
from edm2_guidance.cli.param_type import ParamType
from edm2_guidance.cli.run_options import RunOptions, WorkerOptions
from edm2_guidance.cli.say import note
from edm2_guidance.cli.start import as_started
from edm2_guidance.cli.typed import given, occurrences

if TYPE_CHECKING:
    from edm2_guidance.cli.script_job import ScriptJob

INSTALL = "pip install submitit"
_TIMEOUTS = 100  # how often a job goes on after its time was up; one that gets nowhere must end some day
_NOTICE = 120  # seconds before the time is up, for the script to end well
_MARGIN = 10  # of these, for putting the job back into the queue
_TAKEN = ("partition", "time", "gpus-per-node", "ntasks-per-node", "array", "requeue", "no-requeue", "output", "error")


class SlurmTime(ParamType):
    """A time as sbatch takes it, in whole minutes: 90, 90:00, 1:30:00, 2-12, 2-12:30 or 2-12:30:00."""

    name = "time"

    def parse(self, text: str) -> int:
        match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
        if match is None:
            raise ValueError("give minutes, or a time such as 4:00:00 or 2-12:00:00")
        days, *rest = match.groups()
        numbers = [int(number) for number in rest if number is not None]
        if days is not None:  # days-hours:minutes:seconds
            hours, minutes, seconds = [*numbers, 0, 0][:3]
        else:  # minutes, minutes:seconds, hours:minutes:seconds
            hours, minutes, seconds = [0, *numbers, 0][:3] if len(numbers) < 3 else numbers
        total = math.ceil(int(days or 0) * 1440 + hours * 60 + minutes + seconds / 60)
        if total < 1:
            raise ValueError("that is no time at all: give at least a minute")
        return total


class SlurmOption(ParamType):
    """KEY=VALUE or KEY, an option of sbatch without its dashes, as (key, value) or (key, True)."""

    name = "key=value"

    def parse(self, text: str) -> tuple[str, str | bool]:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("_", "-")
        if re.fullmatch(r"[a-z][a-z-]+", key) is None or "\n" in value:
            raise ValueError("give KEY=VALUE of sbatch, such as account=physics")
        if key in _TAKEN:
            raise ValueError(f"{key} has an option of its own, or is set by --jobs, --submit-dir")
        return key, value if equals else True


class JobOptions(WorkerOptions, heading="Jobs of a cluster"):
    """Which worker this process is; or jobs instead of work in this process."""

    submit: Literal["slurm", "local"] | None = option("Send jobs and end; each is a --worker")
    jobs: int = option("How many jobs share it", type=COUNT, default=1)
    partition: str | None = option("Of Slurm  [default: the cluster's]", metavar="NAME")
    time: int = option(
        "Of a job, in minutes or D-HH:MM:SS; it goes on in another when that is over",
        type=SlurmTime(),
        default="4:00:00",
    )
    gpus_per_node: int | None = option("GPUs of a job  [default: none]", type=COUNT)
    tasks_per_node: int | None = option("Processes of a job  [default: one per GPU, or one]", type=COUNT)
    slurm: tuple[tuple[str, str | bool], ...] = option(
        "Any other option of sbatch: account=NAME, qos=NAME, cpus-per-task=8, mem=64G, exclusive",
        type=SlurmOption(),
        multiple=True,
    )
    requeue: bool = option("Go on after pre-emption and time-out", "--requeue/--no-requeue", default=True)
    submit_dir: str = option("Logs of the jobs; on a disk that all nodes see", metavar="DIR", default="results/submit")
    wait: bool = flag("With --submit=local: until all jobs have ended")
    fetch_only: bool = flag("Fetch every file that this needs, say where it is, and end")

    @property
    def tasks(self) -> int:
        """Processes of one job, on each of its nodes."""
        return self.tasks_per_node or self.gpus_per_node or 1

    @property
    def notice(self) -> int:
        """Seconds between the warning that the time of a job is nearly up and its end."""
        return min(_NOTICE, 30 * self.time)

    def elsewhere(self) -> bool:
        """Whether this process has no images to make: --fetch-only or --submit was given. Usage errors."""
        if self.fetch_only:
            return True
        if self.submit is None:
            for name in filter(given, _NAMES):
                shown = f"--{name.replace('_', '-')}"
                raise click.UsageError(f"{shown} is for jobs that are sent: add --submit=slurm or --submit=local")
            return False
        if self.worker is not None:
            raise click.UsageError("--submit gives every job its --worker: leave it out, and say --jobs=N")
        if launched().world > 1:
            raise click.UsageError("--submit is said once: start it without torchrun or srun")
        if self.wait and self.submit == "slurm":
            raise click.UsageError("--wait is for --submit=local; squeue shows what Slurm's jobs do")
        return True


_NAMES = [field.name for field in fields(JobOptions)[len(fields(WorkerOptions)) :]]


def send(
    jobs: JobOptions,
    run: RunOptions,
    fetch_all: Callable[..., Sequence[str]],
    writes: Mapping[Path, int],
    work: str | Path,
) -> None:
    """Do what is asked for in place of the work: fetch what is needed and say where it is, or send the jobs.

    Nothing enters the queue before all files were found here, networks opened, and places and space for results found.

    Args:
        jobs, run: What the command was told.
        fetch_all: Returns where each file is that is needed; by keyword, offline: raise OSError for what is not here.
        writes: What the jobs will write, and about how many bytes of it.
        work: The folder that shows how far the work is.

    Raises click.UsageError if a check fails, RuntimeError if the queue refuses the jobs or, with --wait, one fails.
    """
    with bad_input():
        if jobs.fetch_only:
            return click.echo("\n".join(fetch_all(offline=run.offline)))
        if not hasattr(signal, "SIGUSR2"):
            raise ValueError("jobs are told to stop by signals, which this system has not: start the workers yourself")
        submitit: Any = need("submitit", INSTALL)
        name = Path(sys.argv[0]).stem
        folder = Path(jobs.submit_dir) / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        for path, size in {**writes, folder / "log": 0}.items():
            check_destination(path)
            check_space(path, size)
        scripts = _scripts(jobs, run)
        try:
            fetch_all(offline=True)
        except FileNotFoundError as error:
            raise ValueError(f"{error} (the same command with --fetch-only fetches all of it)") from error
        executor = _executor(submitit, jobs, folder, name)
    gpus = jobs.submit == "slurm" or glob("/dev/nvidia[0-9]*")
    if gpus and jobs.gpus_per_node is None and run.device != "cpu":
        note("no GPUs are asked for; --gpus-per-node=N does, --device=cpu says that none are meant")
    folder.mkdir(parents=True, exist_ok=True)
    with _detached(folder) if jobs.submit == "local" else nullcontext():
        sent = executor.submit_array(scripts)
    click.echo("\n".join(_about(jobs.submit == "slurm", [job.job_id for job in sent], folder, work)))
    if jobs.wait:
        click.echo("\n".join(_wait(sent)))
    return None


def check_space(path: str | Path, size: int) -> None:
    """ValueError if the disk that will hold `path` has less than `size` bytes left."""
    folder = next(parent for parent in Path(path).absolute().parents if parent.exists())
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(f"{path} needs about {size / 1e9:.3g} GB, and {folder} has {free / 1e9:.3g} GB left")


def _scripts(jobs: JobOptions, run: RunOptions) -> list["ScriptJob"]:
    """One for each job: this command line, as one of so many workers."""
    from edm2_guidance.cli.script_job import ScriptJob

    count, local = jobs.jobs, jobs.submit == "local"
    # The first task of a job puts it back into the queue when its time is up: it has to stay while others work.
    alone = jobs.tasks == 1 and not {"nodes", "ntasks"} & set(dict(jobs.slurm))
    steal = [] if alone or jobs.steal else ["--steal"]
    devices = _devices(count, jobs.gpus_per_node or 0) if local else []
    scripts = []
    for number in range(count):
        own = [f"--worker={number}/{count}", *([] if run.offline else ["--offline"]), *steal]
        command = (sys.executable, os.path.abspath(sys.argv[0]), *_with(own_arguments(sys.argv[1:]), own))
        environment = {"CUDA_VISIBLE_DEVICES": devices[number]} if local else {}
        scripts.append(ScriptJob(command, os.getcwd(), environment, jobs.notice - _MARGIN, jobs.requeue))
    return scripts


def own_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line without the options of this module, by the current command's parameters."""
    found = occurrences(click.get_current_context().command, arguments)
    return [word for option, words in found if option is None or option.name not in _NAMES for word in words]


def _with(arguments: Sequence[str], more: Sequence[str]) -> list[str]:
    """The arguments and more options: before "--", which ends the options."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return [*arguments[:end], *more, *arguments[end:]]


def _devices(jobs: int, each: int) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each local job: its own share of the GPUs. ValueError if there are too few."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if each == 0:
        return [visible] * jobs
    there = str(visible).split(",") if visible else [str(n) for n in range(len(glob("/dev/nvidia[0-9]*")))]
    if jobs * each > len(there):
        raise ValueError(f"{counted(jobs, 'job')} of {counted(each, 'GPU')} on this machine, which has {len(there)}")
    return [",".join(there[job * each : (job + 1) * each]) for job in range(jobs)]


def _executor(submitit: Any, jobs: JobOptions, folder: Path, name: str) -> Any:
    """submitit's, which has no types, with everything that was asked for. ValueError where there is no Slurm."""
    from edm2_guidance.cli import script_job  # needs the signals of Unix

    # Jobs get the module itself: in the folder where they run there may be no `cli`.
    need("cloudpickle", INSTALL).register_pickle_by_value(script_job)
    if jobs.submit == "local":
        executor = submitit.LocalExecutor(folder, max_num_timeout=_TIMEOUTS)
        executor.update_parameters(timeout_min=jobs.time, tasks_per_node=jobs.tasks, signal_delay_s=jobs.notice)
        return executor
    if shutil.which("sbatch") is None or shutil.which("srun") is None:
        raise ValueError("--submit=slurm: there is no sbatch here; run it on a login node, or take --submit=local")
    extra: dict[str, str | bool] = dict(jobs.slurm)
    extra["requeue" if jobs.requeue else "no-requeue"] = True
    asked = {"partition": jobs.partition, "gpus_per_node": jobs.gpus_per_node}
    # srun no longer takes the number of CPUs from sbatch (since 22.05)
    cpus = [f"--cpus-per-task={extra['cpus-per-task']}"] if "cpus-per-task" in extra else []
    executor = submitit.SlurmExecutor(folder, max_num_timeout=_TIMEOUTS)
    executor.update_parameters(
        job_name=name,
        time=jobs.time,
        ntasks_per_node=jobs.tasks,
        signal_delay_s=jobs.notice,
        array_parallelism=jobs.jobs,
        additional_parameters=extra,
        srun_args=cpus,
        **{name: value for name, value in asked.items() if value is not None},
    )
    return executor


@contextmanager
def _detached(folder: Path) -> Iterator[None]:
    """Processes started inside outlive a terminal, and do not hold on to it or to a pipe: submitit's hand on both."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    kept = [(number, os.dup(number)) for number in (1, 2)]
    with open(folder / "jobs.log", "ab") as log:
        for number, _ in kept:
            os.dup2(log.fileno(), number)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, previous)
        for number, copy in kept:
            os.dup2(copy, number)
            os.close(copy)


def _about(slurm: bool, numbers: Sequence[str], folder: Path, work: str | Path) -> Iterator[str]:
    """What the user wants to know of jobs that were sent."""
    first = numbers[0].partition("_")[0]
    yield f"sent {len(numbers)} jobs: {', '.join(numbers)}" if len(numbers) > 1 else f"sent one job: {first}"
    yield f"logs:    {folder}/*_log.out, *_log.err"
    yield f"queue:   squeue --job={first}" if slurm else f"running: ps {' '.join(numbers)}"
    yield f"work:    {as_started(f'python reproduce.py status {work}')}"
    yield f"cancel:  scancel {first}" if slurm else f"cancel:  kill {' '.join(numbers)}"


def _wait(jobs: Sequence[Any]) -> Iterator[str]:
    """Until all local jobs, of submitit, have ended: how, and the last line that each of their scripts printed.

    RuntimeError, naming the logs, if one of them failed.
    """
    for job in jobs:
        job.wait()
    tasks = [job.task(number) for job in jobs for number in range(job.num_tasks)]
    failed = [task.paths.stderr for task in tasks if not task.paths.result_pickle.exists()]
    if failed:
        why = _last(failed[0], lambda line: line.startswith("Error: "))
        where = f"{failed[0]}: {why.removeprefix('Error: ')}" if why else failed[0]
        raise RuntimeError(f"{len(failed)} of {counted(len(tasks), 'process')} failed; see {where}")
    yield f"ended:   {counted(len(tasks), 'process')}, none failed"
    said = (_last(task.paths.stdout, lambda line: not line.startswith("submitit ")) for task in tasks)
    yield from (f"         {line}" for line in said if line)


def _last(log: Path, wanted: Callable[[str], bool]) -> str:
    """The last such line of a log; empty if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return next(filter(wanted, reversed(lines)), "")
