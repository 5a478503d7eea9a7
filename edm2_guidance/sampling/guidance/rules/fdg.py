"""Guidance of its own strength in each band of spatial frequencies."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Rule
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FDG(Rule):
    """The push of the low frequencies is weakened: w is the weight of the high ones, 1 + low (w - 1) of the low ones.

    Two bands of a Laplacian pyramid: the image blurred and halved, and what that leaves. With `parallel` below 1, what
    a band of the push has along the same band of D_m is scaled by it, image by image (the paper's FDG with APG).
    Sides must be even, of 6 pixels at least.
    """

    kind: ClassVar[str] = "fdg"
    source: ClassVar[str] = "arXiv 2506.19713, Algorithm 2"
    formula: ClassVar[str] = (
        "L = half(blur(push)), H = push - up(L)\n"
        "with parallel < 1, of the bands of D_m: L -= (1 - parallel) <L, L_m> / |L_m|^2 L_m, and so H\n"
        "D = D_m + (w - 1) (H + low up(L))"
    )

    low: float = option(0.0, "Share of the push that the low frequencies get; 1 = the linear rule", low=0)
    parallel: float = option(1.0, "Share of what is along D_m; 1 = all of it", low=0, high=1)

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        low, high = _bands(push)
        if self.parallel < 1:
            of_low, of_high = _bands(call.main())
            low, high = self._across(low, of_low), self._across(high, of_high)
        return high + self.low * _up(low)

    def _across(self, band: "Tensor", main: "Tensor") -> "Tensor":
        """The band less 1 - parallel of its projection on the band of D_m, in float64."""
        axes, wide, of = (1, 2, 3), band.double(), main.double()
        along = (wide * of).sum(axes, keepdim=True) / (of**2).sum(axes, keepdim=True).clamp_min(1e-300)
        return (wide - (1 - self.parallel) * along * of).to(band.dtype)


def _bands(x: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Low frequencies at half the size, and high ones at full size."""
    if any(side % 2 or side < 6 for side in x.shape[2:]):
        sides = " x ".join(map(str, x.shape[2:]))
        raise ValueError(f"the rule {FDG.kind} halves images, whose sides must be even and at least 6, not {sides}")
    from torch.nn.functional import interpolate

    low = interpolate(_blurred(x), scale_factor=0.5, mode="bilinear", align_corners=False)
    return low, x - _up(low)


def _up(x: "Tensor") -> "Tensor":
    from torch.nn.functional import interpolate

    return _blurred(interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


def _blurred(x: "Tensor") -> "Tensor":
    """By the binomial kernel of 5 x 5, at borders mirrored without the edge."""
    from torch.nn.functional import conv2d, pad

    count = x.shape[1]
    taps = (x.new_tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16).expand(count, 1, 1, 5)
    across = conv2d(pad(x, [2, 2, 2, 2], mode="reflect"), taps, groups=count)
    return conv2d(across, taps.mT, groups=count)
