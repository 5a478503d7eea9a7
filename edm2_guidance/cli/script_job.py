"""One job of a submission: a script that runs, is told to stop in time, and is put back into the queue.

Jobs get this module by value, wherever they start: it imports the standard library alone at its head.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

# submitit's word for "the time is nearly up, or others need the machine"; Slurm sends it to every process of a step.
_WARNING = signal.SIGUSR2
_ENOUGH = 600  # seconds that Slurm may take to end a job that it has told to end; grace times are shorter


class ScriptJob:
    """Runs a command until it ends, or until Slurm wants it to. Called by submitit, in each task of a job."""

    def __init__(
        self,
        command: Sequence[str],
        folder: str,
        environment: Mapping[str, str | None],
        seconds_to_stop: float,
        requeue: bool,
    ) -> None:
        """Nothing is run yet.

        Args:
            command: Interpreter, script and arguments.
            folder: Where to run it.
            environment: Variables to set, or with None to remove, beside those that the job has.
            seconds_to_stop: How long the script may take to end after SIGTERM before it is killed.
            requeue: Whether the job is to go on later when its time is up or others need the machine.
        """
        self.command = tuple(command)
        self.folder = folder
        self.environment = dict(environment)
        self.seconds_to_stop = seconds_to_stop
        self.requeue = requeue

    def __call__(self) -> None:
        """Run the script. Its exit code, unless it is 0, becomes this process's."""
        told: list[int] = []
        put_back: Any = signal.getsignal(_WARNING)  # submitit's handler: has the job start again, and ends this process
        for number in (signal.SIGTERM, signal.SIGINT, _WARNING):
            signal.signal(number, lambda number, frame: told.append(number))
        shown = (re.sub(r"://.*", "://...", word) for word in self.command)  # URLs may hold passwords and signatures
        print(f"running: {' '.join(shown)}", file=sys.stderr)
        code = self._run(told)
        if code == 0:
            return
        if self.requeue and _WARNING in told:
            put_back(_WARNING, None)
        if self.requeue and _on_slurm() and (told or code == 128 + signal.SIGTERM):
            self._wait_for_the_end(told, put_back)
        print(f"the script ended with exit code {code}", file=sys.stderr)
        sys.exit(code)

    def checkpoint(self) -> Any:
        """What is to run when the job starts again, for submitit, which has no types: the same."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _run(self, told: list[int]) -> int:
        """The script's exit code, 128 + N if a signal N ended it; it is stopped when `told` gets a signal."""
        script = subprocess.Popen(
            self.command, cwd=self.folder, env=self._environment(),
            preexec_fn=lambda: signal.signal(_WARNING, signal.SIG_IGN),  # by default it would kill the script at once
        )  # fmt: skip
        while script.poll() is None and not told:
            time.sleep(0.1)
        if script.poll() is None:
            script.terminate()
            try:
                script.wait(self.seconds_to_stop)
            except subprocess.TimeoutExpired:
                script.kill()
        code = script.wait()
        return code if code >= 0 else 128 - code

    def _wait_for_the_end(self, told: list[int], put_back: Any) -> None:
        """Wait for Slurm to end this process: a pre-empted job that ends by itself is not started again.

        The same after the first of a job's tasks has had it put back, which makes Slurm end the others.
        """
        warned = told.count(_WARNING)
        end = time.monotonic() + _ENOUGH
        while time.monotonic() < end:
            if told.count(_WARNING) > warned:
                warned = told.count(_WARNING)
                put_back(_WARNING, None)
            time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        """The script's: with the place among the tasks of a local job as torchrun would say it; srun says it itself."""
        changed = {**os.environ, **self.environment}
        if not _on_slurm() and os.environ.get("SUBMITIT_LOCAL_NTASKS", "1") != "1":
            changed["RANK"] = os.environ["SUBMITIT_LOCAL_GLOBALID"]
            changed["LOCAL_RANK"] = os.environ["SUBMITIT_LOCAL_LOCALID"]
            changed["WORLD_SIZE"] = os.environ["SUBMITIT_LOCAL_NTASKS"]
        return {name: value for name, value in changed.items() if value is not None}


def _on_slurm() -> bool:
    return os.environ.get("SUBMITIT_EXECUTOR") == "slurm"
