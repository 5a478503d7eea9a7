"""Training of EDM2 networks: the steps, and the run around them with its files.

A step is a function of the parameters and of the images seen so far: which images it takes, their noise levels and
noise, and the rate are all computed from (seed, position in the endless order of images). So a run that was stopped,
by whatever means, ends with the same bytes as one that never was (same software, threads, workers and rounds).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import Refused, odd_files_are_value_errors
from dnnlib.filelock import exclusive
from dnnlib.regular import sha256_of
from dnnlib.terminal import counted
from torch_utils import distributed
from torch_utils.finite import first_not_finite
from training.checkpoint import CheckpointFolder
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset, ShuffledOrder
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.finite import NotFiniteError, StepWatch, explain, gradient_flags, not_finite_flag
from training.loss import EDM2Loss
from training.network_io import save_network
from training.networks_edm2 import Precond
from training.phema import PowerFunctionEMA
from training.resume import begin
from training.run_folder import Run, code_hash
from training.run_log import RunLog
from training.watch import Snapshot, Watcher, cost_text, look

Encoder = StandardRGBEncoder | StabilityVAEEncoder

# Streams of random numbers, kept apart by what they are for.
_INIT, _ORDER, _NOISE, _ROUND = range(4)


def derived_seed(seed: int, stream: int, *counters: int) -> int:
    """63-bit seed of one random stream of a run, from the run's seed and counters such as images seen."""
    entropy = np.random.SeedSequence([seed % (1 << 64), stream, *counters])
    return int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1))


def learning_rate(images_seen: int, batch: int, lr: float, decay: float, rampup: int) -> float:
    """Rate of the step that follows `images_seen` images: arXiv 2312.02696, Appendix B.2 (Eq. 67), with ramp-up.

    lr / sqrt(max(images_seen / (decay * batch), 1)) * min(images_seen / rampup, 1); `decay` is in steps of `batch`
    images, `rampup` in images; 0 turns either off.
    """
    if decay > 0:
        lr /= max(images_seen / (decay * batch), 1) ** 0.5
    if rampup > 0:
        lr *= min(images_seen / rampup, 1)
    return lr


def build_network(config: TrainingConfig, resolution: int, channels: int, label_dim: int) -> Precond:
    """A network in its initial state, which depends on the configuration and its seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(config.seed, _INIT))
        return Precond(img_resolution=resolution, img_channels=channels, label_dim=label_dim, **config.network_kwargs())


def make_encoder(image_shape: Sequence[int]) -> Encoder:
    """The encoder that a data set's items call for: three channels are RGB pixels, eight are VAE latents."""
    if image_shape[0] == 3:
        return StandardRGBEncoder()
    if image_shape[0] == 8:
        return StabilityVAEEncoder()
    raise ValueError(f"items have {image_shape[0]} channels: expected 3 (RGB pixels) or 8 (mean and std latents)")


def network_channels(image_shape: Sequence[int]) -> int:
    """Channels of what the network sees: those of pixels, or of one sample from latents' mean and std."""
    return 4 if image_shape[0] == 8 else image_shape[0]


def configure_backends(bench: bool) -> None:
    """Process-wide settings of training on CUDA: cuDNN's own timing (`bench`), and full float32 and float16 sums."""
    torch.backends.cudnn.benchmark = bench
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False


class PositionRandn:
    """Standard normal numbers for a batch in which every image has a generator of its own."""

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self._device = device
        self._generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """float32 of the given shape [N, ...]: row i continues the stream of image i."""
        out = torch.empty(list(shape), device=self._device)
        for row, generator in zip(out, self._generators, strict=True):
            row.normal_(generator=generator)
        return out


@dataclass
class RunState:
    """What a step changes."""

    net: Precond
    optimizer: torch.optim.Optimizer
    ema: PowerFunctionEMA[Precond]
    images_seen: int = 0
    seconds: float = 0.0  # spent training, over all starts

    def as_checkpoint(self) -> dict[str, Any]:
        return {
            "images_seen": self.images_seen,
            "seconds": self.seconds,
            "net": self.net.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict(),
        }

    def load(self, checkpoint: dict[str, Any]) -> None:
        self.net.load_state_dict(checkpoint["net"])
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.ema.load_state_dict(checkpoint["ema"])
        self.images_seen, self.seconds = checkpoint["images_seen"], checkpoint["seconds"]


class Trainer:
    """One worker's share of a run: takes steps, and turns its state into network files."""

    def __init__(
        self, config: TrainingConfig, dataset: ImageFolderDataset, device: torch.device, workers: int = 1
    ) -> None:
        """Builds everything on `device`; `workers` is the number of threads that read images."""
        self.config, self.dataset, self.device = config, dataset, device
        self.rank, self.world_size = distributed.rank(), distributed.world_size()
        self.batch_gpu, self.rounds = config.split_batch(self.world_size)
        self.encoder = make_encoder(dataset.image_shape)
        channels = network_channels(dataset.image_shape)
        net = build_network(config, dataset.image_shape[-1], channels, dataset.label_dim).to(device).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.0, betas=(0.9, 0.99))
        self.state = RunState(net, optimizer, PowerFunctionEMA(net, config.ema))
        self.loss_fn = EDM2Loss(config.P_mean, config.P_std, config.sigma_data)
        self.order = ShuffledOrder(len(dataset), derived_seed(config.seed, _ORDER))
        self._parallel: nn.Module = net
        if self.world_size > 1:
            self._parallel = nn.parallel.DistributedDataParallel(net, broadcast_buffers=False)
        self.run = Run(_identity(config, dataset), _free(config, device))
        self.flags = torch.zeros(4)  # of the last step: loss, gradients and weights, see `StepWatch.after_step`
        self._readers = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="read-images")
        self._ahead: tuple[int, list[Any]] | None = None

    def close(self) -> None:
        """Stop reading ahead."""
        self._readers.shutdown(cancel_futures=True)

    def step(self) -> Tensor:
        """Train on the next batch; returns this worker's loss, averaged over pixels and summed over images: [].

        The gradient is that of the loss summed over pixels and averaged over the whole batch; what is not finite in
        it counts as 0, and is told by `flags`.
        """
        config, state = self.config, self.state
        state.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros([], dtype=distributed.wide_dtype(self.device), device=self.device)
        for index, (positions, items, labels) in enumerate(self._rounds(state.images_seen)):
            total += self._backward(index, positions, items, labels)
        rate = learning_rate(state.images_seen, config.batch, config.lr, config.decay, config.rampup)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        gradients = [parameter.grad for parameter in state.net.parameters() if parameter.grad is not None]
        flags = gradient_flags(gradients)
        for gradient in gradients:
            torch.nan_to_num(gradient, nan=0, posinf=0, neginf=0, out=gradient)
        state.optimizer.step()
        self.flags = torch.cat([not_finite_flag([total]), flags, not_finite_flag(state.net.parameters())])
        state.images_seen += config.batch
        state.ema.update(state.net, state.images_seen, config.batch)
        return total

    def _backward(self, index: int, positions: list[int], items: Tensor, labels: Tensor | None) -> Tensor:
        """Add one round's gradients; returns its loss, summed over images and averaged over pixels."""
        config = self.config
        last = index == self.rounds - 1
        silent = nullcontext() if last or self.world_size == 1 else self._parallel.no_sync()  # type: ignore[operator]
        # Dropout and the encoder's sampling use torch's global stream.
        torch.manual_seed(derived_seed(config.seed, _ROUND, self.state.images_seen, self.rank, index))
        randn = PositionRandn([derived_seed(config.seed, _NOISE, p) for p in positions], self.device)
        with silent, torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            images = self.encoder.encode_latents(items.to(self.device, non_blocking=True))
            labels = labels.to(self.device, non_blocking=True) if labels is not None else None
            loss = self.loss_fn(self._parallel, images, labels, randn)
            loss.sum().mul(config.ls / (self.batch_gpu * self.rounds)).backward()
        return loss.detach().mean(dim=[1, 2, 3]).sum(dtype=distributed.wide_dtype(self.device))

    def _rounds(self, start: int) -> Iterator[tuple[list[int], Tensor, Tensor | None]]:
        """Positions, items and labels of the rounds of the step at `start`; the next step is read ahead."""
        if self._ahead is None or self._ahead[0] != start:
            self._ahead = (start, self._read(start))
        futures = self._ahead[1]
        following = start + self.config.batch
        self._ahead = (following, self._read(following)) if following < self.config.duration else None
        for future in futures:
            yield future.result()

    def _read(self, start: int) -> list[Any]:
        mine = range(start + self.rank, start + self.config.batch, self.world_size)
        rounds = [list(mine[i : i + self.batch_gpu]) for i in range(0, len(mine), self.batch_gpu)]
        return [self._readers.submit(self._load, positions) for positions in rounds]

    def _load(self, positions: list[int]) -> tuple[list[int], Tensor, Tensor | None]:
        indices = [self.order[position] for position in positions]
        labels = self.dataset.labels(indices)
        items = torch.from_numpy(self.dataset.items(indices))
        return positions, items, torch.from_numpy(labels) if labels is not None else None

    def snapshot_paths(self, outdir: Path) -> list[Path]:
        """Names of the network files that show the present state, one per EMA length."""
        kimg = self.state.images_seen // 1000
        return [outdir / f"network-snapshot-{kimg:07d}-{length:.3f}.pkl" for length in self.config.ema]

    def save_snapshots(self, outdir: Path) -> list[Path]:
        """Write one network file per EMA length; returns their paths."""
        kwargs: dict[str, Any] = {
            "class_name": "training.dataset.ImageFolderDataset",
            "path": Path(self.dataset.path).name,
            "use_labels": self.config.cond,
            "training_run": self.run.name,  # by which reconstruct_phema.py tells runs apart
        }
        if self.dataset.class_names is not None:
            kwargs["class_names"] = list(self.dataset.class_names)
        paths = self.snapshot_paths(outdir)
        for path, (_, net) in zip(paths, self.state.ema.snapshots(self.state.net), strict=True):
            save_network(path, net, encoder=self.encoder, dataset_kwargs=kwargs, loss_fn=self.loss_fn)
        return paths


def train(
    config: TrainingConfig,
    dataset: ImageFolderDataset,
    outdir: Path,
    *,
    device: torch.device,
    workers: int = 1,
    should_stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int], None] | None = None,
    watchers: Sequence[Watcher] = (),
    trackers: Sequence[str] = (),
    about: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Run or resume the training described by `config` in the folder `outdir`.

    Writes `network-snapshot-*.pkl`, `training-state-*.pt`, `training_options.json`, `stats.jsonl` and `log.txt` there.
    When `should_stop` says so, the step at hand is finished and a checkpoint written; calling again goes on from the
    newest sound one. Nothing but `config` and `dataset` has a part in the networks' bits.

    Args:
        config, dataset, outdir: The run, its images, and its folder, which is made if missing.
        device: Where to train.
        workers: Threads that read images.
        should_stop: Asked after every step.
        progress: Told the images of every step, on the first worker.
        watchers: Shown every snapshot, on the first worker.
        trackers: Where numbers and previews go beside the files, by the names of `training.trackers`.
        about: What the record tells of this start, plain JSON data: options as given, versions.

    Returns:
        Images seen at the end: `config.duration` unless stopped.

    Raises:
        Refused: The folder holds another run (other options or data) or files of another program, all of its
            checkpoints are damaged, or another process is training in it.
        NotFiniteError: Loss, gradients or weights were not finite for so long that it is no use to go on.
        OSError: The folder cannot be written.
        RuntimeError: Another worker cannot go on.
    """
    with _isolated(device), ExitStack() as lock:
        distributed.init(device)
        distributed.on_first(lambda: lock.enter_context(_locked(outdir)), device)
        trainer = Trainer(config, dataset, device, workers)
        try:
            checkpoints = CheckpointFolder(outdir)
            begun = _begin(trainer, outdir, checkpoints, device, about)  # before anything is written
            with RunLog(outdir, enabled=trainer.rank == 0) as log:
                notes = [*begun, *(cost_text(watcher, config) for watcher in watchers)]
                log.start(trainer.state.images_seen, config.duration, _describe(trainer), notes)
                log.track(trackers, trainer.run, trainer.state.images_seen)
                if progress is not None:
                    progress(trainer.state.images_seen)
                show = partial(_show, trainer, outdir, log, watchers, should_stop)
                return _run(trainer, outdir, checkpoints, log, should_stop, progress, show)
        finally:
            trainer.close()


def _begin(
    trainer: Trainer, outdir: Path, checkpoints: CheckpointFolder, device: torch.device, about: Mapping[str, Any]
) -> Sequence[str]:
    """Go on from the last sound checkpoint, if there is one, whose tensors are let go of here; what is to be said."""
    start = begin(outdir, trainer.run, checkpoints, device, about)
    if start.state is not None:
        with odd_files_are_value_errors("the checkpoint"):
            trainer.state.load(start.state)
    return start.notes


def _identity(config: TrainingConfig, dataset: ImageFolderDataset) -> dict[str, Any]:
    data = {f"data {name}": value for name, value in dataset.fingerprint().items()}
    return {**config.identity(), **data}


def _free(config: TrainingConfig, device: torch.device) -> dict[str, Any]:
    """What may change from start to start, with what moves the last digits of a run's numbers."""
    found = {"training code": code_hash(), "torch version": torch.__version__, "kind of device": device.type}
    return {**config.free_options(), "number of workers": distributed.world_size(), **found}


def _describe(trainer: Trainer) -> str:
    parameters = sum(p.numel() for p in trainer.state.net.parameters())
    return (
        f"{parameters} parameters, {len(trainer.dataset)} items of {list(trainer.dataset.image_shape)}, "
        f"{counted(trainer.world_size, 'worker')} x {counted(trainer.rounds, 'round')} x "
        f"{counted(trainer.batch_gpu, 'image')} on {trainer.device}"
    )


def _run(
    trainer: Trainer,
    outdir: Path,
    checkpoints: CheckpointFolder,
    log: RunLog,
    should_stop: Callable[[], bool],
    progress: Callable[[int], None] | None,
    show: Callable[..., bool],
) -> int:
    config, state = trainer.config, trainer.state
    report = _Reports(trainer, log)
    watch = StepWatch((config.duration - state.images_seen) // config.batch)
    if state.images_seen >= config.duration and trainer.rank == 0:
        _after_the_end(trainer, outdir, log)
    with report.paused():
        show(fresh=False)
    while state.images_seen < config.duration:
        loss = trainer.step()
        if progress is not None:
            progress(config.batch)
        stopping, *flags = distributed.any_rank([float(should_stop()), *trainer.flags.tolist()], trainer.device)
        reason = watch.after_step(*flags)
        report.add(loss, overflow=flags[1])
        done = state.images_seen >= config.duration
        if state.images_seen % config.status == 0 or done or stopping or reason is not None:
            report.write()
        _end_if(reason, trainer, checkpoints)
        snapshots = _is_snapshot(state.images_seen, config)
        checkpoint = (state.images_seen % config.checkpoint == 0 and not watch.losing) or done or stopping
        if snapshots or checkpoint:
            _end_if(_not_to_be_written(trainer), trainer, checkpoints)
        if snapshots:
            distributed.on_first(lambda: _write_snapshots(trainer, outdir, log), trainer.device)
        if checkpoint:
            distributed.on_first(lambda: _write_checkpoint(trainer, checkpoints, log), trainer.device)
        if snapshots and not stopping:
            with report.paused():
                stopping = show(fresh=True)
            if stopping and not checkpoint:
                distributed.on_first(lambda: _write_checkpoint(trainer, checkpoints, log), trainer.device)
        if stopping and not done:
            log.line("stopped as told; the same command goes on from the checkpoint")
            break
    return state.images_seen


def _is_snapshot(images_seen: int, config: TrainingConfig) -> bool:
    """Whether networks are written at this moment of the run."""
    return images_seen % config.snapshot == 0 or images_seen >= config.duration


def _show(
    trainer: Trainer,
    outdir: Path,
    log: RunLog,
    watchers: Sequence[Watcher],
    should_stop: Callable[[], bool],
    fresh: bool,
) -> bool:
    """Show the networks of the present state, if there are any, to who looks at them; as `training.watch.look`."""
    seen, config = trainer.state.images_seen, trainer.config
    if seen == 0 or not _is_snapshot(seen, config):
        return False
    paths = tuple(trainer.snapshot_paths(outdir))
    there = all(path.exists() for path in paths)
    snapshot = Snapshot(paths, seen, -(-seen // config.snapshot), seen >= config.duration, fresh)
    return look(watchers if there else (), snapshot, log, should_stop, trainer.device)


class _Reports:
    """What was trained on since the last status line, for the next."""

    def __init__(self, trainer: Trainer, log: RunLog) -> None:
        self._trainer, self._log = trainer, log
        self._loss = torch.zeros([], dtype=distributed.wide_dtype(trainer.device), device=trainer.device)
        self._begin()

    def _begin(self) -> None:
        self._loss.zero_()
        self._images = self._overflows = 0
        self._time, self._seen = time.monotonic(), self._trainer.state.images_seen

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, time does not count as that of training."""
        began = time.monotonic()
        yield
        self._time += time.monotonic() - began

    def add(self, loss: Tensor, overflow: bool) -> None:
        """Take note of a step."""
        self._loss += loss
        self._images += self._trainer.config.batch // self._trainer.world_size
        self._overflows += overflow

    def write(self) -> None:
        """A status line of all workers together."""
        state, config, device = self._trainer.state, self._trainer.config, self._trainer.device
        seconds = time.monotonic() - self._time
        state.seconds += seconds
        loss_sum, count = distributed.sum_over_ranks([float(self._loss), float(self._images)], device)
        rate = (state.images_seen - self._seen) / max(seconds, 1e-9)
        self._log.status(state.images_seen, config.duration, loss_sum / count, _rate(state), rate, state.seconds)
        if self._overflows:
            steps = (state.images_seen - self._seen) // config.batch
            self._log.line(f"gradients overflowed in {self._overflows} of {steps} steps")
        self._begin()


def _end_if(reason: str | None, trainer: Trainer, checkpoints: CheckpointFolder) -> None:
    """Raise NotFiniteError if there is a reason to; it is the same on all workers."""
    if reason is None:
        return
    if trainer.rank > 0:
        raise NotFiniteError(f"{reason}: see the message of worker 0")
    last = checkpoints.last_sound()
    raise NotFiniteError(explain(reason, trainer.state.images_seen, None if last is None else str(last)))


def _not_to_be_written(trainer: Trainer) -> str | None:
    """Why the present state may not become a file, or None; the same on all workers."""
    ema = trainer.state.ema
    in_float16 = (
        f"{name} of the average {length:.3f} in float16"
        for length, average in zip(ema.sigma_rels, ema.averages, strict=True)
        for name, parameter in average.named_parameters()
        if not parameter.half().isfinite().all()
    )
    name = first_not_finite(trainer.state.as_checkpoint()) or next(in_float16, None)
    if not distributed.any_rank([float(name is not None)], trainer.device)[0]:
        return None
    return f"values that are not finite, first in {'another worker' if name is None else name}"


def _write_snapshots(trainer: Trainer, outdir: Path, log: RunLog) -> None:
    """Write networks, and say where one of an earlier start was not the same."""
    before = {path: sha256_of(path) for path in trainer.snapshot_paths(outdir) if path.exists()}
    for path in trainer.save_snapshots(outdir):
        replaced = path in before and sha256_of(path) != before[path]
        log.line(f"wrote {path}" + (" in place of another one, of an earlier start of this run" if replaced else ""))


def _write_checkpoint(trainer: Trainer, checkpoints: CheckpointFolder, log: RunLog) -> None:
    path = checkpoints.save({**trainer.state.as_checkpoint(), "identity": dict(trainer.run.identity)})
    log.line(f"wrote {path}")


def _after_the_end(trainer: Trainer, outdir: Path, log: RunLog) -> None:
    """Say that there is nothing to train; write the last networks again, if they were deleted since."""
    seen, duration = trainer.state.images_seen, trainer.config.duration
    log.line(
        f"nothing to train: the run in {outdir} is at {seen / 1000:.1f} kimg, and --duration={duration} "
        f"({duration / 1000:.1f} kimg) is over; give a longer one to go on"
    )
    if seen == duration and not all(path.exists() for path in trainer.snapshot_paths(outdir)):
        _write_snapshots(trainer, outdir, log)


def _rate(state: RunState) -> float:
    return float(state.optimizer.param_groups[0]["lr"])


@contextmanager
def _locked(outdir: Path) -> Iterator[None]:
    """Keep a second run out of the folder while this one's first worker is at it. Refused if there is one."""

    def refuse() -> None:
        raise Refused(f"another process is training in {outdir}: wait for it, or give another --outdir")

    outdir.mkdir(parents=True, exist_ok=True)
    with exclusive(outdir / ".training.lock", waiting=refuse):
        for pattern in (".training-state-*.tmp.pt", ".network-snapshot-*.tmp.pkl"):
            for unfinished in outdir.glob(pattern):  # by a process that was killed while it wrote
                unfinished.unlink()
        yield


@contextmanager
def _isolated(device: torch.device) -> Iterator[None]:
    """Leave torch's global random state as it was, and close the process group that training opened."""
    devices = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=devices))
        stack.callback(distributed.shutdown)
        yield
