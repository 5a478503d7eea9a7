"""Reads mutants of files with the project's own readers, under watch; prints what came out as JSON.

    python -m tests.fuzz.run --count=20000 "network pickle" "image zip:1000"
    python -m tests.fuzz.run --only=1234 "image zip"           one mutant again, with its traceback

A mutant is a function of its format's name and its number. A reader may succeed or raise one of the project's own
errors, with a message that names the file. All else is a finding: another exception, memory beyond the limit, too much
time, an import, a process, code that is compiled or run, a file opened outside the sandbox, content that a checksum
should have refused.
"""

import argparse
import codecs
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dnnlib.errors import DownloadError, Refused
from edm2_guidance.work.complete import ShardsMissing
from tests.fuzz.formats import Format, all_formats
from tests.fuzz.mutations import Mutant, mutate
from torch_utils.safe_pickle import DamagedPickleError, UnsafePickleError
from training.network_safetensors import DamagedFileError

MEMORY = 1 << 30  # bytes that reading may take beyond what is taken before the first mutant
SECONDS = 10.0  # of work on one mutant
MAX_MESSAGE = 2000  # characters
MAX_FINDINGS = 20
OWN_ERRORS = {ValueError, UnsafePickleError, DamagedPickleError, DamagedFileError, DownloadError, Refused,
              ShardsMissing, FileNotFoundError, IsADirectoryError, NotADirectoryError}  # fmt: skip

# What the interpreter reports of reading files and of work in threads, and of claims.
HARMLESS = {"array.__new__", "object.__getattr__", "mmap.__new__", "builtins.id", "sys._getframe", "os.listdir",
            "os.scandir", "_thread.start_new_thread", "_thread.start_joinable_thread", "glob.glob",
            "pathlib.Path.glob", "pathlib.Path.rglob", "fcntl.flock", "socket.gethostname", "time.sleep",
            "os.truncate"}  # fmt: skip
INSIDE = {"open", "os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.link", "os.utime", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """An audit hook, which cannot be taken away again: on between `begin` and `end`."""

    def __init__(self) -> None:
        self.on = False
        self.events: list[str] = []
        sys.addaudithook(self._hook)

    def begin(self, sandbox: Path, writes: bool) -> None:
        self.sandbox, self.writes = f"{sandbox}{os.sep}", writes
        self.events.clear()
        self.on = True

    def end(self) -> list[str]:
        self.on = False
        return self.events[:3]

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        if not self.on or event in HARMLESS:
            return
        if event in INSIDE and self._inside(event, args):
            return
        if event == "compile" and args[0] == b"def foo(self, *args, **kwargs): pass":  # how `inspect` reads a signature
            return
        if event == "os.kill" and args[1] == 0:  # asks whether a process is there
            return
        if event == "os.utime" and str(args[0]).endswith(
            ".claim"
        ):  # a thread of its own keeps claims alive, of all sandboxes
            return
        self.events.append(f"{event}{args!r}"[:300])

    def _inside(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether an operation on files stays in the sandbox, and only reads where nothing is to be written."""
        paths = [os.fsdecode(arg) for arg in args if isinstance(arg, str | bytes | os.PathLike)]
        if event == "open":
            if isinstance(args[0], int):
                return True
            paths = [os.fsdecode(args[0])]
            writing = bool((args[2] or 0) & WRITING)
        else:
            writing = True
        within = all(os.path.abspath(path).startswith(self.sandbox) or f"{path}/" == self.sandbox for path in paths)
        return within and (self.writes or not writing)


class TooLong(BaseException):
    """The time for one mutant is over. No Exception, so that no reader takes it for damage."""


@contextmanager
def time_limit() -> Iterator[None]:
    """Of processor time, over all threads: machines may be busy."""

    def stop(*_: object) -> None:
        raise TooLong

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def limit_memory() -> None:
    with open("/proc/self/status") as status:
        now = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))


def complaint(error: BaseException, file: Path) -> str | None:
    """What is wrong with an error that a reader raised; None if it is one of the project's own that names the file."""
    message = str(error)
    if type(error) not in OWN_ERRORS:
        return f"{type(error).__name__}: {message[:300]}"
    if not any(part in message for part in (file.name, file.parent.name)):
        return f"does not name the file: {message[:300]}"
    if len(message) > MAX_MESSAGE:
        return f"a message of {len(message)} characters: {message[:300]}"
    return None


class Fuzzer:
    """One format in its sandbox."""

    def __init__(self, name: str, form: Format, watch: Watch, folder: Path) -> None:
        self.name, self.form, self.watch = name, form, watch
        self.folder = folder / "sandbox"
        self.file = self.folder / form.file
        os.environ["DNNLIB_CACHE_DIR"] = str(self.folder)  # of the formats that are downloads
        self._place_others()
        self.expected = [self._result_of(original) for original in form.originals]  # also imports what is imported late

    def mutant(self, number: int) -> Mutant:
        rng = random.Random(f"{self.name} {number}")
        return mutate(rng.choice(self.form.originals), self.form.kind, rng)

    def attempt(self, mutant: Mutant) -> tuple[str, str | None, float]:
        """("accepted" or "refused", what is wrong or None, seconds)."""
        self._place(mutant.data)
        result = problem = None
        outcome = "accepted"
        start = time.process_time()
        self.watch.begin(self.folder, self.form.writes)
        try:
            with time_limit():
                result = self.form.read(self.folder)
        except TooLong:
            problem = f"more than {SECONDS} seconds"
        except BaseException as error:
            self.watch.on = False
            outcome = "refused"
            problem = complaint(error, self.file)
            if problem is not None:
                problem += "\n" + "".join(traceback.format_exception(error)[-4:])
        events = self.watch.end()
        if events:
            problem = f"did what no reader does: {events}"
        elif (
            outcome == "accepted"
            and problem is None
            and mutant.sealed
            and self.form.sealed
            and result not in self.expected
        ):
            problem = f"content changed under its checksum: {str(result)[:300]}"
        return outcome, problem, time.process_time() - start

    def run(self, numbers: range) -> dict[str, Any]:
        os.environ["DNNLIB_CACHE_DIR"] = str(self.folder)
        counts: Counter[str] = Counter()
        findings = []
        slowest = (0.0, 0)
        for number in numbers:
            mutant = self.mutant(number)
            outcome, problem, seconds = self.attempt(mutant)
            counts[outcome] += 1
            slowest = max(slowest, (seconds, number))
            if problem is not None:
                findings.append({"number": number, "how": mutant.how, "problem": problem})
            if len(findings) >= MAX_FINDINGS:
                break
        return {
            "mutants": counts.total(),
            "accepted": counts["accepted"],
            "refused": counts["refused"],
            "findings": findings,
            "slowest": {"seconds": round(slowest[0], 3), "number": slowest[1]},
        }

    def _result_of(self, original: bytes) -> object:
        self._place(original)
        return self.form.read(self.folder)

    def _place(self, data: bytes) -> None:
        if self.form.writes:
            self._place_others()
        self.file.write_bytes(data)

    def _place_others(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, data in {**self.form.others, self.form.file: b""}.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", help="names of formats, NAME:COUNT for another count; none: all")
    parser.add_argument("--count", type=int, default=300, help="mutants per format")
    parser.add_argument("--start", type=int, default=0, help="number of the first")
    parser.add_argument("--only", type=int, help="this mutant alone")
    args = parser.parse_args()
    for encoding in (
        "utf-8-sig",
        "utf-16-le",
        "utf-16-be",
        "utf-32-le",
        "utf-32-be",
    ):  # json imports them when it needs them
        codecs.lookup(encoding)
    warnings.simplefilter("ignore")  # of shards that are made again; and PIL's, which follow from sizes
    report = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        formats = all_formats(folder)
        asked = dict(text.partition(":")[::2] for text in args.formats or formats)
        unknown = set(asked) - set(formats)
        if unknown:
            parser.error(f"unknown: {', '.join(unknown)}; there are: {', '.join(formats)}")
        watch = Watch()
        fuzzers = {name: Fuzzer(name, formats[name], watch, folder / str(i)) for i, name in enumerate(asked)}
        limit_memory()
        for name, fuzzer in fuzzers.items():
            first = args.start if args.only is None else args.only
            count = int(asked[name] or args.count) if args.only is None else 1
            start = time.perf_counter()
            report[name] = fuzzer.run(range(first, first + count)) | {
                "wall_seconds": round(time.perf_counter() - start, 1)
            }
            print(json.dumps({name: report[name]}), file=sys.stderr, flush=True)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
