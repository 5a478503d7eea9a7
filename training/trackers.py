"""Where a run's numbers and previews go beside its files: TensorBoard, and Weights & Biases. Both are extras.

A missing package is an error before the training; whatever fails later is told once, and the training goes on without.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from dnnlib.extras import need_tracker
from edm2_guidance.images.decode import opened_image
from training.run_folder import Run


class Tracker(ABC):
    """Shows the numbers and pictures of one run."""

    @abstractmethod
    def numbers(self, images_seen: int, values: Mapping[str, float]) -> None:
        """Numbers by name, after so many images."""

    @abstractmethod
    def picture(self, images_seen: int, name: str, path: Path) -> None:
        """A picture out of a file, after so many images."""

    @abstractmethod
    def close(self) -> None:
        """The run ends, or pauses."""


class TensorBoard(Tracker):
    """Event files in `outdir/tensorboard`. What an earlier start wrote beyond `images_seen` is not shown again."""

    def __init__(self, outdir: Path, run: Run, images_seen: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(outdir / "tensorboard"), purge_step=images_seen + 1)

    def numbers(self, images_seen: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, images_seen)
        self._writer.flush()

    def picture(self, images_seen: int, name: str, path: Path) -> None:
        with opened_image(path.read_bytes(), str(path)) as image:
            self._writer.add_image(name, np.asarray(image), images_seen, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandB(Tracker):
    """A run of the project $WANDB_PROJECT, or edm2-guidance, that a later start goes on with.

    Its name is the folder's. WANDB_MODE=offline and wandb's other variables are left to it.
    """

    def __init__(self, outdir: Path, run: Run, images_seen: int) -> None:
        self._wandb: Any = need_tracker("wandb")
        name = outdir.resolve().name
        self._run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", "edm2-guidance"),
            id=f"{run.name}-{re.sub(r'[^A-Za-z0-9_-]', '-', name)[:64]}",
            name=name,
            dir=str(outdir),
            resume="allow",
            config={**run.identity, **run.free},
        )
        self._run.define_metric("images_seen")
        self._run.define_metric("*", step_metric="images_seen")  # its own steps may not go back, as a resumed run does

    def numbers(self, images_seen: int, values: Mapping[str, float]) -> None:
        self._run.log({"images_seen": images_seen, **values})

    def picture(self, images_seen: int, name: str, path: Path) -> None:
        self._run.log({"images_seen": images_seen, name: self._wandb.Image(str(path))})

    def close(self) -> None:
        self._run.finish()


#: Of `dnnlib.extras.TRACKERS`.
_KINDS: Mapping[str, Callable[[Path, Run, int], Tracker]] = {"tensorboard": TensorBoard, "wandb": WandB}


class Trackers:
    """Some trackers; one that fails is told once, by `say`, and left out from then on."""

    def __init__(self, names: Sequence[str], outdir: Path, run: Run, images_seen: int, say: Callable[[str], None]):
        self._say = say
        self._open: dict[str, Tracker] = {}
        for name in names:
            with self._surviving(name):
                self._open[name] = _KINDS[name](outdir, run, images_seen)

    def numbers(self, images_seen: int, values: Mapping[str, float]) -> None:
        """As `Tracker`, of all; so the others."""
        self._each(lambda tracker: tracker.numbers(images_seen, values))

    def picture(self, images_seen: int, name: str, path: Path) -> None:
        self._each(lambda tracker: tracker.picture(images_seen, name, path))

    def close(self) -> None:
        self._each(lambda tracker: tracker.close())

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with self._surviving(name):
                tell(tracker)

    @contextmanager
    def _surviving(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a package of others, its server, or the disk
            self._open.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            self._say(f"warning: {name} failed, and the run goes on without: {reason}")
