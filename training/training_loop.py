"""Training of EDM2 networks: the steps, and the run around them with its files.

A step is a function of the parameters and of the images seen so far: which images it takes, their noise levels and
noise, and the rate are all computed from (seed, position in the endless order of images). So a run that was stopped,
by whatever means, ends with the same bytes as one that never was (same software, threads, workers and rounds).
"""

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from dnnlib.errors import Refused, odd_files_are_value_errors
from dnnlib.filelock import exclusive
from dnnlib.regular import sha256_of
from dnnlib.terminal import counted
from torch_utils import distributed
from torch_utils.finite import first_not_finite, tensors_in
from training.checkpoint import CheckpointFolder
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset, ShuffledOrder
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.finite import Behind, NotFiniteError, StepWatch, explain, gradient_flags, not_finite_flag
from training.loss import EDM2Loss
from training.network_io import save_network
from training.networks_edm2 import Precond
from training.phema import PowerFunctionEMA
from training.resume import begin
from training.run_folder import Run, code_hash
from training.run_log import RunLog
from training.saving import Background, copied
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


def _on_device(encoder: Encoder, device: torch.device) -> Encoder:
    """The encoder with its numbers on the device, where they are used in every step."""
    moved = copy.copy(encoder)
    for name, value in vars(encoder).items():
        if isinstance(value, np.ndarray):
            setattr(moved, name, torch.as_tensor(value, device=device))
    return moved


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


class _Speaking(nn.Module):
    """A network, and words that workers tell each other: their gradients are averaged with those of the network.

    So the workers need no message of their own for them.
    """

    def __init__(self, net: nn.Module, words: int, device: torch.device) -> None:
        super().__init__()
        self.net = net
        self.words = nn.Parameter(torch.zeros(words, device=device))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.net(*args, **kwargs)

    def saying(self, words: Sequence[bool | Tensor]) -> Tensor:
        """A part of the loss that is 0, and whose gradient is these words, 0 or 1 each: []."""
        device = self.words.device  # full: a number becomes a tensor there without waiting
        said = [w if isinstance(w, Tensor) else torch.full([], float(w), device=device) for w in words]
        return (self.words * torch.stack(said)).sum()


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
        self._encoder = _on_device(self.encoder, device)
        channels = network_channels(dataset.image_shape)
        net = build_network(config, dataset.image_shape[-1], channels, dataset.label_dim).to(device).train()
        self._parameters = list(net.parameters())
        optimizer = torch.optim.Adam(self._parameters, lr=0.0, betas=(0.9, 0.99), fused=True)
        self.state = RunState(net, optimizer, PowerFunctionEMA(net, config.ema))
        self.loss_fn = EDM2Loss(config.P_mean, config.P_std, config.sigma_data)
        self.order = ShuffledOrder(len(dataset), derived_seed(config.seed, _ORDER))
        self._parallel: nn.Module = net
        self._speaking: _Speaking | None = None
        if self.world_size > 1:
            self._speaking = _Speaking(net, 3, device)
            self._parallel = nn.parallel.DistributedDataParallel(
                self._speaking, broadcast_buffers=False, gradient_as_bucket_view=True
            )
        self.run = Run(_identity(config, dataset), _free(config, device))
        self.words = (False, False)  # told to all with the next step: this worker is to stop; it could not write
        self.flags = torch.zeros(6)  # of the last step, of any worker: the words, then see `StepWatch.after_step`
        self._readers = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="read-images")
        self._ahead: tuple[int, list[Any]] | None = None

    def close(self) -> None:
        """Stop reading ahead."""
        self._readers.shutdown(cancel_futures=True)

    def step(self) -> Tensor:
        """Train on the next batch; returns this worker's loss, averaged over pixels and summed over images: [].

        The gradient is that of the loss summed over pixels and averaged over the whole batch; what is not finite in
        it counts as 0, and is told by `flags`. Nothing here waits for the device.
        """
        config, state = self.config, self.state
        state.optimizer.zero_grad(set_to_none=True)
        if self._speaking is not None:
            self._speaking.words.grad = None
        total = torch.zeros([], dtype=distributed.wide_dtype(self.device), device=self.device)
        for index, (positions, items, labels) in enumerate(self._rounds(state.images_seen)):
            total += self._backward(index, positions, items, labels)
        rate = learning_rate(state.images_seen, config.batch, config.lr, config.decay, config.rampup)
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        flags = gradient_flags(gradients)
        for gradient in gradients:
            torch.nan_to_num(gradient, nan=0, posinf=0, neginf=0, out=gradient)
        state.optimizer.step()
        self.flags = torch.cat([self._heard(total), flags, not_finite_flag(self._parameters)])
        state.images_seen += config.batch
        state.ema.update(state.net, state.images_seen, config.batch)
        return total

    def _heard(self, total: Tensor) -> Tensor:
        """The words, and whether the loss is not finite, of any worker: float32 [words + 1]."""
        if self._speaking is not None:
            assert self._speaking.words.grad is not None
            return self._speaking.words.grad
        said = [torch.full([1], float(word), device=self.device) for word in self.words]
        return torch.cat([*said, not_finite_flag([total])])

    def _backward(self, index: int, positions: list[int], items: Tensor, labels: Tensor | None) -> Tensor:
        """Add one round's gradients; returns its loss, summed over images and averaged over pixels."""
        config = self.config
        last = index == self.rounds - 1
        silent = nullcontext() if last or self.world_size == 1 else self._parallel.no_sync()  # type: ignore[operator]
        # Dropout and the encoder's sampling use torch's global stream.
        torch.manual_seed(derived_seed(config.seed, _ROUND, self.state.images_seen, self.rank, index))
        randn = PositionRandn([derived_seed(config.seed, _NOISE, p) for p in positions], self.device)
        # What autocast casts comes to it in float32: the network's own float16 has no part in it.
        net: Any = partial(self._parallel, force_fp32=True) if config.bf16 else self._parallel
        with silent, torch.autocast(self.device.type, torch.bfloat16, enabled=config.bf16):
            images = self._encoder.encode_latents(items.to(self.device, non_blocking=True))
            labels = labels.to(self.device, non_blocking=True) if labels is not None else None
            loss = self.loss_fn(net, images, labels, randn)
            total = loss.detach().mean(dim=[1, 2, 3]).sum(dtype=distributed.wide_dtype(self.device))
            scaled = loss.sum().mul(config.ls / (self.batch_gpu * self.rounds))
            if self._speaking is not None:
                scaled = scaled + self._speaking.saying([*self.words, (~total.isfinite()).float()])
            scaled.backward()
        return total

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
        parts = [torch.from_numpy(part) for part in (self.dataset.items(indices), labels) if part is not None]
        if self.device.type == "cuda":  # from such memory a copy to the device waits for nothing
            parts = [part.pin_memory() for part in parts]
        return positions, parts[0], parts[1] if labels is not None else None

    def snapshot_paths(self, outdir: Path) -> list[Path]:
        """Names of the network files that show the present state, one per EMA length."""
        kimg = self.state.images_seen // 1000
        return [outdir / f"network-snapshot-{kimg:07d}-{length:.3f}.pkl" for length in self.config.ema]

    def snapshots(self, outdir: Path) -> list[tuple[Path, Precond]]:
        """The averages as they are now, on the CPU, as a network file holds them: paths and networks."""
        averages = [net for _, net in self.state.ema.snapshots(self.state.net)]
        nets = [copy.deepcopy(net).to("cpu", torch.float16) for net in averages]
        return list(zip(self.snapshot_paths(outdir), nets, strict=True))

    def save(self, path: Path, net: Precond) -> None:
        """Write a network file."""
        kwargs: dict[str, Any] = {
            "class_name": "training.dataset.ImageFolderDataset",
            "path": Path(self.dataset.path).name,
            "use_labels": self.config.cond,
            "training_run": self.run.name,  # by which reconstruct_phema.py tells runs apart
        }
        if self.dataset.class_names is not None:
            kwargs["class_names"] = list(self.dataset.class_names)
        save_network(path, net, encoder=self.encoder, dataset_kwargs=kwargs, loss_fn=self.loss_fn)


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
                with Background(log.line) as writer:
                    return _Course(trainer, outdir, checkpoints, log, writer, should_stop, watchers).run(progress)
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


class _Course:
    """The steps of a run, one after the other, and what is read, reported, written and shown after them.

    All workers go through the same; what concerns files is done by the first.
    """

    def __init__(
        self,
        trainer: Trainer,
        outdir: Path,
        checkpoints: CheckpointFolder,
        log: RunLog,
        writer: Background,
        should_stop: Callable[[], bool],
        watchers: Sequence[Watcher],
    ) -> None:
        self._trainer, self._outdir, self._checkpoints = trainer, outdir, checkpoints
        self._log, self._writer, self._should_stop, self._watchers = log, writer, should_stop, watchers
        self._config, self._state, self._device = trainer.config, trainer.state, trainer.device
        self._report = _Reports(trainer, log)
        self._flags = Behind(trainer.device)
        self._watch = StepWatch((self._config.duration - self._state.images_seen) // self._config.batch)

    def run(self, progress: Callable[[int], None] | None) -> int:
        """Take steps until the end, or until told to stop; returns the images seen."""
        config, state, alone = self._config, self._state, self._trainer.world_size == 1
        if self._over and self._trainer.rank == 0:
            _after_the_end(self._trainer, self._outdir, self._log)
        with self._report.paused():
            self._show(fresh=False)
        stopping = False
        while not (self._over or stopping):
            self._trainer.words = (not alone and self._should_stop(), self._writer.failed)
            loss = self._trainer.step()
            if progress is not None:
                progress(config.batch)
            self._report.add(loss)
            self._flags.add(state.images_seen, self._trainer.flags)
            self._writer.check()
            stopping = self._after_step(stopping=alone and self._should_stop())
        distributed.on_first(self._writer.wait, self._device)
        if stopping and not self._over:
            self._log.line("stopped as told; the same command goes on from the checkpoint")
        return state.images_seen

    @property
    def _over(self) -> bool:
        return self._state.images_seen >= self._config.duration

    def _after_step(self, stopping: bool) -> bool:
        """Do what is due after a step; whether to stop now."""
        seen, config = self._state.images_seen, self._config
        status, checkpoint = (seen % every == 0 for every in (config.status, config.checkpoint))
        snapshots = _is_snapshot(seen, config)
        stopping |= self._read(everything=status or checkpoint or snapshots)
        ending = stopping or self._over
        if ending:
            self._read(everything=True)
        if status or ending:
            self._report.write()
        checkpoint = (checkpoint and not self._watch.losing) or ending
        if snapshots or checkpoint:
            self._write(snapshots, checkpoint)
        if snapshots and not stopping:
            stopping = self._show(fresh=True)
            if stopping and not checkpoint:
                self._write(snapshots=False, checkpoint=True)
        return stopping

    def _read(self, everything: bool) -> bool:
        """Judge steps by their flags, see `Behind.read`; whether some worker was told to stop.

        Raises NotFiniteError if the run cannot go on, and what writing a file failed of.
        """
        stopping = False
        for seen, (stop, unwritten, loss, overflow, nothing, weights) in self._flags.read(everything):
            if unwritten:
                distributed.on_first(self._writer.wait, self._device)
            reason = self._watch.after_step(loss, overflow, nothing, weights)
            self._report.add_overflow(overflow)
            if reason is not None:
                self._report.write()
                self._end(reason, seen)
            stopping |= stop
        return stopping

    def _end(self, reason: str, seen: int) -> NoReturn:
        """Raise NotFiniteError; `seen`: images, at the step that is the reason."""
        if self._trainer.rank > 0:
            raise NotFiniteError(f"{reason}: see the message of worker 0")
        self._writer.settle()
        last = self._checkpoints.last_sound()
        raise NotFiniteError(explain(reason, seen, None if last is None else str(last)))

    def _write(self, snapshots: bool, checkpoint: bool) -> None:
        """Begin to write the present state, when what was begun before is written."""

        def begin() -> None:
            self._writer.wait()
            trainer = self._trainer
            nets = trainer.snapshots(self._outdir) if snapshots else []
            whole = {**trainer.state.as_checkpoint(), "identity": dict(trainer.run.identity)}
            state = copied(whole) if checkpoint else None

            def work(say: Callable[[str], None]) -> None:
                if snapshots:
                    _write_snapshots(trainer, nets, say)
                if state is not None:
                    say(f"wrote {self._checkpoints.save(state)}")

            self._writer.begin(work)

        reason = _not_to_be_written(self._trainer)
        if reason is not None:
            self._end(reason, self._state.images_seen)
        distributed.on_first(begin, self._device)

    def _show(self, fresh: bool) -> bool:
        """Show the networks of the present state, if there are any, to who looks at them; as `training.watch.look`."""
        seen, config = self._state.images_seen, self._config
        if seen == 0 or not _is_snapshot(seen, config):
            return False
        paths = tuple(self._trainer.snapshot_paths(self._outdir))
        snapshot = Snapshot(paths, seen, -(-seen // config.snapshot), seen >= config.duration, fresh)
        due = [watcher for watcher in self._watchers if snapshot.is_due(watcher.every)]
        distributed.on_first(self._writer.wait if due else lambda: None, self._device)
        there = all(path.exists() for path in paths)
        with self._report.paused():
            return look(self._watchers if there else (), snapshot, self._log, self._should_stop, self._device)


def _is_snapshot(images_seen: int, config: TrainingConfig) -> bool:
    """Whether networks are written at this moment of the run."""
    return images_seen % config.snapshot == 0 or images_seen >= config.duration


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

    def add(self, loss: Tensor) -> None:
        """Take note of a step."""
        self._loss += loss
        self._images += self._trainer.config.batch // self._trainer.world_size

    def add_overflow(self, overflow: bool) -> None:
        """Take note of its flag, once it is read."""
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


def _not_to_be_written(trainer: Trainer) -> str | None:
    """Why the present state may not become a file, or None; the same on all workers."""
    state, ema = trainer.state.as_checkpoint(), trainer.state.ema
    kept = [tensor for _, tensor in tensors_in(state) if tensor.device.type == trainer.device.type]
    published = [parameter for average in ema.averages for parameter in average.parameters()]
    bad = bool((not_finite_flag(kept) + not_finite_flag(published, torch.float16)).item())
    if not distributed.any_rank([float(bad)], trainer.device)[0]:
        return None
    in_float16 = (
        f"{name} of the average {length:.3f} in float16"
        for length, average in zip(ema.sigma_rels, ema.averages, strict=True)
        for name, parameter in average.named_parameters()
        if not parameter.half().isfinite().all()
    )
    name = first_not_finite(state) or next(in_float16, "another worker")
    return f"values that are not finite, first in {name}"


def _write_snapshots(trainer: Trainer, nets: Iterable[tuple[Path, Precond]], say: Callable[[str], None]) -> None:
    """Write networks, and say where one of an earlier start was not the same."""
    for path, net in nets:
        before = sha256_of(path) if path.exists() else None
        trainer.save(path, net)
        replaced = before is not None and sha256_of(path) != before
        say(f"wrote {path}" + (" in place of another one, of an earlier start of this run" if replaced else ""))


def _after_the_end(trainer: Trainer, outdir: Path, log: RunLog) -> None:
    """Say that there is nothing to train; write the last networks again, if they were deleted since."""
    seen, duration = trainer.state.images_seen, trainer.config.duration
    log.line(
        f"nothing to train: the run in {outdir} is at {seen / 1000:.1f} kimg, and --duration={duration} "
        f"({duration / 1000:.1f} kimg) is over; give a longer one to go on"
    )
    if seen == duration and not all(path.exists() for path in trainer.snapshot_paths(outdir)):
        _write_snapshots(trainer, trainer.snapshots(outdir), log.line)


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
