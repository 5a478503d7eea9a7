"""The same network, which sees crops alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edm2_guidance.recipe.parts import Call, Reference
from edm2_guidance.recipe.perturbation import Perturbed
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Crops(Reference):
    """The mean of what a network (the main one, if no other is named) makes of overlapping crops (SWG).

    Crops are not resized, and have the image's noise level and class. With the mask (M-SWG) D is moved only where crops
    overlap; beside another guide the paper leaves it out. Published for EDM2-S at 64 x 64: w = 1.2 (FID), 2.1 (FD).

    An evaluation of a crop counts as one of the network, though it costs less: by its share of the pixels, about.
    """

    kind: ClassVar[str] = "crops"
    source: ClassVar[str] = "arXiv 2411.10257"
    formula: ClassVar[str] = (
        "D_g = mean over the crops that see a pixel of D(crop of x; sigma)\n"
        "push = D_m - D_g; with the mask 0 where one crop alone sees a pixel"
    )
    of_main: ClassVar[bool] = True
    needs: ClassVar[str] = "crops"

    size: int = option(40, "Width and height of a crop, in pixels or latents", low=1)
    count: int = option(2, "How many crops along each side", low=2)
    mask: bool = option(True, "Move D only where crops overlap")

    def evaluations(self) -> int:
        return self.count**2

    def check_network(self, network: Perturbed) -> None:
        super().check_network(network)
        side = network.shape[-1]
        wrong = f"{self.kind}: {network.source} denoises {side} x {side}"
        if network.low_res_size > 0:
            raise ValueError(f"{wrong} with a small image of the whole beside it, which crops do not have")
        if not self.size < side:
            raise ValueError(f"{wrong}, and crops of {self.size} x {self.size} are no smaller: give {self.kind}:size=K")
        if self.size % network.crop_multiple or side % network.crop_multiple:
            raise ValueError(f"{wrong}, and crops must be multiples of {network.crop_multiple}, not {self.size}")
        seen = self._times_seen(side)
        if min(seen) == 0:
            raise ValueError(f"{wrong}, which {self.count} crops of {self.size} along a side do not cover: take more")
        if self.mask and max(seen) == 1:
            raise ValueError(
                f"{wrong}, and {self.count} crops of {self.size} along a side do not overlap: enlarge them"
            )

    def _starts(self, side: int) -> list[int]:
        """Where crops begin along a side."""
        return [index * ((side - self.size) // (self.count - 1)) for index in range(self.count)]

    def _times_seen(self, side: int) -> list[int]:
        """By how many crops each pixel along a side is seen."""
        starts = self._starts(side)
        return [sum(start <= pixel < start + self.size for start in starts) for pixel in range(side)]

    def _corners(self, side: int) -> Iterator[tuple[slice, slice]]:
        starts = self._starts(side)
        return ((slice(y, y + self.size), slice(x, x + self.size)) for y in starts for x in starts)

    def times_seen(self, side: int) -> "Tensor":
        """By how many crops each pixel is seen: int64 [side, side]."""
        import torch

        along = torch.tensor(self._times_seen(side))
        return along[:, None] * along

    def denoise(self, call: Call) -> "Tensor":
        side = call.x.shape[-1]
        total = call.x.new_zeros(call.x.shape)
        for rows, columns in self._corners(side):
            crop = call.x[..., rows, columns].contiguous()
            total[..., rows, columns] += call.guide(call.labels, crop)
        return total / self.times_seen(side).to(total)

    def push(self, call: Call) -> "Tensor":
        push = super().push(call)
        if not self.mask:
            return push
        return push * (self.times_seen(push.shape[-1]) > 1).to(push)
