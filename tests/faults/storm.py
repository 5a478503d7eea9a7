"""Workers that are killed at random moments until the work is done all the same; prints what came out as JSON.

    python -m tests.faults.storm --workers=3 --kills=30 --num=2000
    python -m tests.faults.storm --layout=number,steal,rank --workers=1,2,3,5 --kills=0 --num=2000
    python -m tests.faults.storm --signals=KILL,TERM,INT,STOP --layout=steal --what=score

Workers are forked from this process, which has everything imported, so that they die in their work and not in their
imports. Whoever died is started again, as a batch system would. The result is compared with that of one undisturbed
process: a ZIP (and its diagnostics) byte for byte, a score and its moments bit for bit, with one line in the ledger.
"""

import argparse
import itertools
import json
import os
import random
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from contextlib import suppress
from pathlib import Path

import torch

from edm2_guidance.commands import calculate_metrics, generate_zip
from edm2_guidance.metrics import environment, score_output, scoring
from edm2_guidance.metrics.extractors.networks import mnist
from edm2_guidance.sampling import generation
from edm2_guidance.work import lease as claims
from edm2_guidance.work import zip_output
from tests.digits_network import save_digits_network

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "edm2_guidance" / "pretrained" / "mnist16-refs.npz"
IMPORTED_LATE = (environment, generation, mnist, score_output, scoring, zip_output)  # by the commands: by now, here
LIMIT = 600  # seconds until a storm is given up on: something hangs

#: What tells worker i of n who it is, by layout: (options, environment). A number as in arrays, a rank as by torchrun.
LAYOUTS = {
    "number": lambda i, n: ([f"--worker={i}/{n}"], {}),
    "steal": lambda i, n: (["--steal"], {}),
    "rank": lambda i, n: ([], {"RANK": str(i), "LOCAL_RANK": str(i), "WORLD_SIZE": str(n)}),
}

# So that a stopped process is given up on within the storm; in use these are minutes.
claims.BEAT_SECONDS, claims.WATCH_SECONDS, claims.STALE_SECONDS = 0.1, 0.4, 0.8


def command(what, folder, num, shard_size):
    """(the click command, its arguments) that makes `what` in `folder`."""
    common = [f"--net={folder.parent / 'net.safetensors'}", "--steps=3", "--batch=8", f"--shard-size={shard_size}"]
    if what != "score":
        more = ["--diagnostics"] if what == "diagnostics" else []
        return generate_zip.main, [*common, f"--num_images={num}", f"--out={folder / 'out.zip'}", *more]
    places = [f"--ledger={folder / 'ledger.jsonl'}", f"--workdir={folder / 'work'}"]
    target = ["--metrics=fd_mnist", f"--ref={REFERENCE}", f"--num={num}"]
    return calculate_metrics.main, ["gen", *common, *target, *places]


def start(what, folder, args, place=((), {})):
    """Fork a worker with these options and environment; returns its process number."""
    pid = os.fork()
    if pid:
        return pid
    code = 130  # if an interrupt comes before the command can say what that means, or after it ended
    with suppress(BaseException), open(folder / f"log-{os.getpid()}.txt", "w") as log:
        sys.stdout = sys.stderr = log
        signal.signal(signal.SIGINT, signal.default_int_handler)  # which shells take from what runs in the background
        try:
            main, arguments = command(what, folder, args.num, args.shard_size)
            options, environ = place
            os.environ.update(environ)
            main.main([*arguments, *options])
        except SystemExit as end:
            code = end.code or 0
        except Exception as error:
            code = 70
            print(repr(error))
        claims._heart(os.getpid())._stop()  # what the interpreter does at its end, which a fork has not
    os._exit(code)


def storm(args, folder):
    """Start workers and signal them until all have ended well; returns counts of what happened."""
    rng = random.Random(args.seed)
    places = [LAYOUTS[args.layout](i, args.workers) for i in range(args.workers)]
    running = {start(args.what, folder, args, place): place for place in places}
    signals = [signal.Signals[f"SIG{name}"] for name in args.signals.split(",")]
    sent, ends = Counter(), Counter()
    deadline, next_blow = time.monotonic() + LIMIT, time.monotonic() + rng.uniform(*args.pause)
    stopped = {}
    while running:
        assert time.monotonic() < deadline, f"still at it after {LIMIT} s: {os.listdir(folder)}"
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid:
            place, code = running.pop(pid), os.waitstatus_to_exitcode(status)
            stopped.pop(pid, None)
            ends[code] += 1
            if code != 0:
                assert code in (-9, 130, 143, -15, -2), f"{code}: " + (folder / f"log-{pid}.txt").read_text()
                running[start(args.what, folder, args, place)] = place
            continue
        for pid, until in list(stopped.items()):
            if time.monotonic() > until:
                os.kill(pid, signal.SIGCONT)
                del stopped[pid]
        if time.monotonic() > next_blow and sum(sent.values()) < args.kills:
            next_blow = time.monotonic() + rng.uniform(*args.pause)
            pid, blow = rng.choice(list(running)), rng.choice(signals)
            if pid not in stopped or blow == signal.SIGKILL:
                os.kill(pid, blow)
                sent[blow.name] += 1
                if blow == signal.SIGSTOP:
                    stopped[pid] = time.monotonic() + rng.uniform(0.1, 3)
        time.sleep(0.002)
    return dict(sent), {str(code): number for code, number in ends.items()}


def outcome(what, folder):
    """What was made: the bytes of a ZIP (and of its diagnostics), or a score and the hash of its moments.

    AssertionError for anything lost, double or left.
    """
    left = sorted(p.name for p in folder.iterdir() if not p.name.startswith("log-"))
    if what != "score":
        files = ["out.zip", "out.zip.diagnostics.npz"] if what == "diagnostics" else ["out.zip"]
        assert left == files, left
        with zipfile.ZipFile(folder / "out.zip") as file:
            names = [name for name in file.namelist() if name.endswith(".png")]
        assert names == sorted(set(names))
        return [(folder / name).read_bytes() for name in files]
    assert left == ["ledger.jsonl", "work"], left
    assert not list((folder / "work").iterdir())
    (line,) = (folder / "ledger.jsonl").read_text().splitlines()
    record = json.loads(line)
    return record["value"], record["moments_sha256"]


def run(args, top):
    """One undisturbed process, then a storm on each layout and number of workers; yields one record per storm."""
    save_digits_network(top / "net.safetensors")
    alone = top / "alone"
    alone.mkdir()
    _, status = os.waitpid(start(args.what, alone, args), 0)
    assert status == 0, next(alone.glob("log-*")).read_text()
    expected = outcome(args.what, alone)
    for layout, workers in itertools.product(args.layout, args.workers):
        folder = top / f"{layout}-{workers}"
        folder.mkdir()
        began = time.monotonic()
        sent, ends = storm(argparse.Namespace(**{**vars(args), "layout": layout, "workers": workers}), folder)
        same = outcome(args.what, folder) == expected
        yield {
            "what": args.what, "images": args.num, "layout": layout, "workers": workers, "sent": sent,
            "exit codes": ends, "seconds": round(time.monotonic() - began, 1), "same": same,
        }  # fmt: skip


def parse(argv=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--what", choices=["zip", "diagnostics", "score"], default="zip")
    parser.add_argument("--workers", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2, 3, 5])
    parser.add_argument("--kills", type=int, default=30, help="per number of workers")
    parser.add_argument("--signals", default="KILL", help="KILL, TERM, INT, STOP (stopped for up to 3 s)")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument("--layout", type=lambda text: text.split(","), default=["number"], help="number, steal, rank")
    parser.add_argument("--pause", type=float, nargs=2, default=(0.05, 0.5), help="seconds between two blows")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        for record in run(parse(), Path(temporary)):
            print(json.dumps(record), flush=True)
            if not record["same"]:
                sys.exit(1)
