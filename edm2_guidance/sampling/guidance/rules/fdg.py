"""Guidance of its own strength in each band of spatial frequencies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Rule
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class FDG(Rule):
    """The push of low frequencies is weakened: w is the weight of the highest band, 1 + low (w - 1) of the lowest.

    Bands of a Laplacian pyramid: the image blurred and halved, again and again, and what each halving leaves. With
    `parallel` below 1, what a band of the push has along the same band of D_m is scaled by it, image by image (the
    paper's FDG with APG). Sides must be even and 6 pixels at least, each time.

    The paper has two bands. Experimental: that shares of more go from `low` to 1 in equal steps, as ports have it.
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
    bands: int = option(2, "How many; 1 = the whole image, which gets all of the push", low=1, high=8)

    def check_shape(self, shape: Sequence[int]) -> None:
        sides = [side / 2**halved for halved in range(self.bands - 1) for side in shape[-2:]]
        if any(side % 2 or side < 6 for side in sides):
            shown = " x ".join(map(str, shape[-2:]))
            times, when = ("", "") if self.bands == 2 else (f" {self.bands - 1} times", " each time")
            raise ValueError(
                f"the rule {self.kind} halves images{times}, whose sides must be even and at least 6{when}, not {shown}"
            )

    def shape(self, push: "Tensor", call: Call, memory: "dict[str, Tensor]") -> "Tensor":
        self.check_shape(push.shape)
        bands = _pyramid(push, self.bands)
        if self.parallel < 1:
            of_main = _pyramid(call.main(), self.bands)
            bands = [self._across(band, main) for band, main in zip(bands, of_main, strict=True)]
        made = self._share(0) * bands[0]
        for number, band in enumerate(bands[1:], start=1):
            made = _up(made) + self._share(number) * band
        return made

    def _share(self, band: int) -> float:
        """Of the push that a band gets, the lowest band first."""
        highest = self.bands - 1
        return 1.0 if band == highest else self.low + (1 - self.low) * band / highest

    def _across(self, band: "Tensor", main: "Tensor") -> "Tensor":
        """The band less 1 - parallel of its projection on the band of D_m, in float64."""
        axes, wide, of = (1, 2, 3), band.double(), main.double()
        along = (wide * of).sum(axes, keepdim=True) / (of**2).sum(axes, keepdim=True).clamp_min(1e-300)
        return (wide - (1 - self.parallel) * along * of).to(band.dtype)


def _pyramid(x: "Tensor", count: int) -> "list[Tensor]":
    """So many bands of x [N,C,H,W], the lowest first, each of twice the size of the one before."""
    from torch.nn.functional import interpolate

    higher: list[Tensor] = []
    for _ in range(count - 1):
        low = interpolate(_blurred(x), scale_factor=0.5, mode="bilinear", align_corners=False)
        higher.insert(0, x - _up(low))
        x = low
    return [x, *higher]


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
