"""What guidance does to the images of one batch, taken down while they are sampled, by reading alone."""

from collections.abc import Iterable, Sequence

import numpy as np
from torch import Tensor

from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.recipe.parts import StepInfo


class Recorder:
    """Takes down what `images.diagnostics.Diagnostics` holds: of each step its first evaluation, and what it costs."""

    def __init__(self) -> None:
        self._sigmas: list[float] = []
        self._totals: list[list[int]] = []  # evaluations so far, after each step
        self._seen: dict[tuple[int, int], tuple[Tensor, Tensor | float]] = {}  # of a step and a guide, [N] each

    def see(self, step: StepInfo, guide: int, push: Tensor, weight: Tensor | float) -> None:
        """What a guide, counted from 0, does at a step. Its push [N,C,H,W], and the weight of it, as of `Weight.at`."""
        if (step.index, guide) not in self._seen:
            if isinstance(weight, Tensor):
                weight = weight.expand_as(push).flatten(1).mean(1)
            self._seen[step.index, guide] = push.flatten(1).square().mean(1).sqrt(), weight

    def end(self, step: StepInfo, evaluations: Iterable[int]) -> None:
        """A step is over. evaluations: of each network so far, in images."""
        self._sigmas.append(step.sigma)
        self._totals.append(list(evaluations))

    def diagnostics(
        self, seeds: Sequence[int], labels: Sequence[int] | None, guides: Sequence[str], networks: Sequence[str]
    ) -> Diagnostics:
        """All of it, of a batch of these seeds that is through with its steps. guides, networks: their names."""
        shape = (len(seeds), len(self._sigmas), len(guides))
        difference, weight = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
        for (step, guide), (size, w) in self._seen.items():
            difference[:, step, guide] = size.cpu()
            weight[:, step, guide] = w.cpu() if isinstance(w, Tensor) else w
        counts = np.diff(np.array(self._totals), axis=0, prepend=0) // len(seeds)
        return Diagnostics(
            seeds=np.array(seeds, np.int64),
            labels=None if labels is None else np.array(labels, np.int64),
            sigma=np.array(self._sigmas, np.float32),
            difference=difference,
            weight=weight,
            evaluations=np.tile(counts.astype(np.uint8), (len(seeds), 1, 1)),
            guides=tuple(guides),
            networks=tuple(networks),
        )
