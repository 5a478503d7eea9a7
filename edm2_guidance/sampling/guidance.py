"""Guidance as a denoiser: a main network pushed away from one or several guides, at the steps where they are on.

Convention, as in the papers: D = D_guide + w * (D_main - D_guide), so w = 1 is off and w > 1 extrapolates. Classifier-
free guidance is an unconditional guide; autoguidance (arXiv 2406.02507) is a worse version of the main network;
a limited interval (arXiv 2404.07724) is a guide that is on at some steps only.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from edm2_guidance.models.base import Model
from edm2_guidance.recipe.recipe import StepInterval

# x [N,C,H,W] and sigma [] -> D(x; sigma) [N,C,H,W]; labels are bound already.
Denoiser = Callable[[Tensor, Tensor], Tensor]
# Step index -> the denoiser for the whole step, predictor and corrector alike.
DenoiserAt = Callable[[int], Denoiser]


def bind(model: Model, y: Tensor | None) -> Denoiser:
    """A model as a Denoiser, under the conditions y that it made of the labels."""
    return lambda x, sigma: model.predict(x, sigma, y).denoised


@dataclass(frozen=True)
class Guide:
    """A guiding denoiser, its weight (1 = off) and the steps at which it is on (None = all)."""

    denoiser: Denoiser
    weight: float
    interval: StepInterval | None = None

    def on(self, step: int) -> bool:
        return self.weight != 1 and (self.interval is None or step in self.interval)


def guided(main: Denoiser, guides: Sequence[Guide] = ()) -> DenoiserAt:
    """The denoiser of every step: D = D_m + sum_i (w_i - 1) * (D_m - D_i) over the guides that are on.

    Eq. 6 of arXiv 2406.02507; with one guide the usual extrapolation. A guide that is off is not evaluated. Whether
    one is on is decided once for a step, by the noise level that the step starts from: arXiv 2404.07724, App. A.
    """

    def at(step: int) -> Denoiser:
        active = [guide for guide in guides if guide.on(step)]
        if not active:
            return main
        return lambda x, sigma: _extrapolate(main(x, sigma), x, sigma, active)

    return at


def _extrapolate(denoised: Tensor, x: Tensor, sigma: Tensor, guides: Sequence[Guide]) -> Tensor:
    result = denoised
    for guide in guides:
        result = result + (guide.weight - 1) * (denoised - guide.denoiser(x, sigma))
    return result


class Counted:
    """A denoiser that counts its evaluations, in images (a batch of N counts N)."""

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.evaluations = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.evaluations += x.shape[0]
        return self.denoiser(x, sigma)
