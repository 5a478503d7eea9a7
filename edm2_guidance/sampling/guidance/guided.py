"""The guided denoiser of a batch: main network, guides and rule put together.

Convention, as in the papers: D = D_guide + w * (D_main - D_guide), so w = 1 is off and w > 1 extrapolates. A limited
interval (arXiv 2404.07724) is a guide that is on at some steps only. A guide that is off is not evaluated.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from edm2_guidance.recipe.parts import Denoise, Rule, StepInfo, Weight
from edm2_guidance.recipe.recipe import Guide
from edm2_guidance.sampling.seeds import Draws

# x [N,C,H,W], sigma [] in the precision of x, and the class of each image or None -> D [N,C,H,W], in that precision.
Network = Callable[[Tensor, Tensor, list[int] | None], Tensor]
# A planned step -> the denoiser for the whole of it, predictor and corrector alike.
DenoiseAt = Callable[[StepInfo], Denoise]


@dataclass(frozen=True)
class Batch:
    """What is known of the images of a batch: their classes (None without), of how many; and their random numbers."""

    labels: list[int] | None = None
    num_classes: int = 0
    draws: Draws = field(default_factory=lambda: Draws(()))


def guided(
    main: Network,
    guides: Sequence[tuple[Guide, Network | None]] = (),
    rule: Rule | None = None,
    batch: Batch | None = None,
) -> DenoiseAt:
    """The denoiser of every step. guides: of a resolved recipe, each with its network (None = the main one)."""
    rule = Rule.parse("linear") if rule is None else rule
    batch = Batch() if batch is None else batch

    def at(step: StepInfo) -> Denoise:
        active = [(guide, main if network is None else network) for guide, network in guides if guide.on(step)]

        def denoise(x: Tensor, sigma: float) -> Tensor:
            call = _Call(x, sigma, step, batch, main)
            return rule.denoise(call, [_Acting(call, *each) for each in active]) if active else call.main()

        return denoise

    return at


class _Call:
    """One evaluation, as `recipe.parts.Call` promises it."""

    def __init__(self, x: Tensor, sigma: float, step: StepInfo, batch: Batch, main: Network) -> None:
        self.x, self.sigma, self.step, self.batch = x, sigma, step, batch
        self.labels, self.num_classes = batch.labels, batch.num_classes
        self._asked = self._network = main
        self._main: Tensor | None = None

    def main(self) -> Tensor:
        if self._main is None:
            self._main = self._network(self.x, self.x.new_tensor(self.sigma), self.labels)
        return self._main

    def guide(self, labels: list[int] | None) -> Tensor:
        return self._asked(self.x, self.x.new_tensor(self.sigma), labels)

    def asking(self, network: Network) -> "_Call":
        """The same call, whose guide is this network."""
        other = copy.copy(self)
        other._asked = network
        return other

    def draw(self, purpose: str, high: int) -> list[int]:
        return self.batch.draws.integers(purpose, high)


@dataclass(frozen=True)
class _Acting:
    """A guide that is on in a call, with the network that its reference asks."""

    call: _Call
    guide: Guide
    network: Network

    @property
    def weight(self) -> Weight:
        return self.guide.weight

    def push(self) -> Tensor:
        main = self.call.main()
        return main - self.guide.reference.denoise(self.call.asking(self.network))


class Counted:
    """A network that counts its evaluations, in images (a batch of N counts N)."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: Tensor, labels: list[int] | None) -> Tensor:
        self.evaluations += x.shape[0]
        return self.network(x, sigma, labels)
