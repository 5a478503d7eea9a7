"""Nearest neighbours and balls of two sets of features, exactly, and in memory that grows with N + M alone.

Squared distances of a block of points are found by a matrix product, |x|^2 + |y|^2 - 2 x . y, in float32. Its rounding
error has a bound, e (|x|^2 + |y|^2). Where the bound does not decide (who is nearer? inside or outside?), and only
there, distances are computed again as sums of squared differences in float64. So near-duplicates are right, copies are
at distance 0, ties are ties, and what is counted depends neither on the size of blocks nor on threads.

`float16` is another distance, the one of guided-diffusion's evaluator: the product form in half precision throughout.
Of features that are too large for it, as Inception's are not, distances are exact (the evaluator changes to float32).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from edm2_guidance.metrics.measures.base import GROUPS, Measure, features_of, groups
from edm2_guidance.recipe.spec import option

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from edm2_guidance.metrics.moments import Moments

Form = Literal["exact", "float16"]
Set = Literal["images", "reference"]
_USUAL = 24  # neighbours are found at once, for all who want fewer; some for k of 5 when a group is left out
_BLOCK = 1 << 23  # pairs at once: products of fewer rows than a hundred, with 50,000 others, take twice the time
_PIECE = 1 << 19  # numbers at once, where rows are converted or differences formed
_ROWS = 1024  # likewise
_HALF_NORM = 65504 / 4  # up to which |x - y|^2 is no more than half precision holds
_MANY = 1 / 16  # of the pairs of a block undecided: float64 products decide most of them faster than differences


class Nearest(NamedTuple):
    """Of the k nearest by distance, then place: squared distances, float64 [N, k], and places, int64 [N, k]."""

    squared: "Tensor"
    place: "Tensor"


class Block(Protocol):
    """Distances of the points `rows` to all others."""

    rows: slice

    def inside(self, radii: "Tensor", closed: bool) -> "Tensor":
        """bool [n, M]: squared distance < radii (or <=, if closed); radii: squared, float64 [n, 1] or [1, M]."""
        ...

    def nearest(self, k: int, own: bool) -> Nearest:
        """The k nearest of each point. own: they are among the others, and count as no neighbours of their own."""
        ...


def blocks(points: "Tensor", others: "Tensor", form: Form, pairs: int = _BLOCK) -> Iterator[Block]:
    """Blocks of the points [N, D] in order, each with all of the others [M, D]; so many pairs at once."""
    halves = form == "float16" and max(_largest_norm(points), _largest_norm(others)) <= _HALF_NORM
    make: Callable[[slice], Block] = (_Halves if halves else _Products)(points, others).block
    yield from map(make, _rows_of_blocks(points, others, pairs))


def _rows_of_blocks(points: "Tensor", others: "Tensor", pairs: int) -> Iterator[slice]:
    size = max(1, pairs // len(others))
    return (slice(start, min(start + size, len(points))) for start in range(0, len(points), size))


def _largest_norm(points: "Tensor") -> float:
    """The largest |x|^2."""
    return max(float(piece.double().square().sum(dim=1).max()) for piece in points.split(_ROWS))


def nearest(points: "Tensor", others: "Tensor", k: int, form: Form = "exact", pairs: int = _BLOCK) -> Nearest:
    """The k nearest of the others for each of the points; of one and the same set, others than itself."""
    import torch

    # Made first: small results between large blocks would keep the C library from using their memory again.
    shape = len(points), k
    found = Nearest(torch.empty(shape, dtype=torch.float64), torch.empty(shape, dtype=torch.int64))
    for block in blocks(points, others, form, pairs):
        found.squared[block.rows], found.place[block.rows] = block.nearest(k, points is others)
    return found


def own_nearest(moments: "Moments", k: int, form: Form = "exact") -> Nearest:
    """The k nearest, or more, of each point in its own set; found once."""
    rows = features_of(moments)
    most = max(k, min(_USUAL, len(rows) - 1))
    found: Nearest = moments.once(("nearest", form, most), lambda: nearest(rows, rows, most, form))
    return found


def least_ratio(points: "Tensor", others: "Tensor", over: "Tensor", plus: float, pairs: int = _BLOCK) -> "Tensor":
    """The least (squared distance + plus) / over of each point to one of the others, float64 [N].

    over: float64 [M], above 0. plus: 0 or more.
    """
    import torch

    found, both = torch.empty(len(points), dtype=torch.float64), _Products(points, others)
    for rows in _rows_of_blocks(points, others, pairs):
        found[rows] = _ProductBlock(both, rows, torch.float32).least_ratio(over, plus)
    return found


def differences(points: "Tensor", others: "Tensor", rows: "Tensor", columns: "Tensor") -> "Tensor":
    """Squared distances of the pairs, float64, by differences; by numpy, whose sums know nothing of threads."""
    import numpy as np
    import torch

    squared = np.empty(len(rows))
    size = max(1, _PIECE // points.shape[1])
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        apart = points[rows[part]].double().numpy() - others[columns[part]].double().numpy()
        squared[part] = np.square(apart, out=apart).sum(axis=1)
    return torch.from_numpy(squared)


class _Products:
    """Two sets, centred and scaled for products: norms are at most 1, and only differences matter."""

    def __init__(self, points: "Tensor", others: "Tensor") -> None:
        import torch

        self.points, self.others = points, others
        pieces = others.split(_ROWS)  # torch makes float64 of all that it is given at once
        self.centre = torch.stack([piece.sum(dim=0, dtype=torch.float64) for piece in pieces]).sum(dim=0) / len(others)
        ends = [end.double() - self.centre for rows in (points, others) for end in (rows.amax(dim=0), rows.amin(dim=0))]
        widest = max(float(end.abs().max()) for end in ends) * len(self.centre) ** 0.5
        self.scale = 2.0 ** math.frexp(widest)[1]
        # What subtracting the centre may move a point by, in norm.
        self.moved = 2.0**-52 * (float(self.centre.norm()) / self.scale + 1)
        self.columns = torch.empty(others.shape, dtype=torch.float32)
        self.norms = torch.empty(len(others), dtype=torch.float64)
        for piece in self.pieces():
            centred = self.centred(others[piece])
            self.columns[piece], self.norms[piece] = centred.float(), centred.square().sum(dim=1)

    def pieces(self) -> Iterator[slice]:
        """The others in pieces that are small in float64."""
        size = max(1, _PIECE // len(self.centre))
        return (slice(start, start + size) for start in range(0, len(self.others), size))

    def centred(self, rows: "Tensor") -> "Tensor":
        return (rows.double() - self.centre) / self.scale

    def error(self, norms: "Tensor", dtype: "torch.dtype") -> "Tensor":
        """A point's share of the bound on the error of its squared distances; norms: |x|^2 of points.

        A sum of D products is off by at most D u |x| |y|, u the unit roundoff, in whatever order it is taken. Points
        that are moved by m move |x - y|^2 by at most e |x - y|^2 + m^2 / e, whatever e.
        """
        import torch

        unit = (len(self.centre) + 16) * torch.finfo(dtype).eps / 2
        return 4.004 * unit * norms + 4.004 * self.moved**2 / unit + 1e-30

    def block(self, rows: slice) -> "_ProductBlock":
        import torch

        return _ProductBlock(self, rows, torch.float32)


class _ProductBlock:
    """Squared distances, over the square of the scale, are between `low` and `high`, [n, M]."""

    def __init__(self, both: _Products, rows: slice, dtype: "torch.dtype") -> None:
        import torch

        self.both, self.rows, self.dtype = both, rows, dtype
        self._sharper: _ProductBlock | None = None
        x = both.centred(both.points[rows])
        if dtype == torch.float32:
            product = x.float() @ both.columns.T
        else:
            product = torch.cat([x @ both.centred(both.others[piece]).T for piece in both.pieces()], dim=1)
        row, column = x.square().sum(dim=1)[:, None], both.norms[None]
        row_error, column_error = both.error(row, dtype), both.error(column, dtype)
        self.low = torch.add((row - row_error).to(dtype), product, alpha=-2).add_((column - column_error).to(dtype))
        self.high = product.mul_(-2).add_((row + row_error).to(dtype)).add_((column + column_error).to(dtype))

    def inside(self, radii: "Tensor", closed: bool) -> "Tensor":
        import torch

        scaled, eps = radii / self.both.scale**2, torch.finfo(self.dtype).eps
        found = self.high < (scaled * (1 - eps)).to(self.dtype)
        near = (self.low <= (scaled * (1 + eps)).to(self.dtype)).logical_xor_(found)
        if self._undecided(near):
            return self._sharp().inside(radii, closed)
        rows, columns, exact = self._exact(near)
        limit = radii.expand(near.shape)[rows, columns]
        found[rows, columns] = exact <= limit if closed else exact < limit
        return found

    def nearest(self, k: int, own: bool) -> Nearest:
        """Those whose lower bound is not above the k-th smallest upper bound are compared by their exact distance."""
        import torch

        low, high = self.low, self.high
        if own:
            itself = torch.arange(len(low)), torch.arange(self.rows.start, self.rows.stop)
            low, high = (bound.index_put(itself, torch.tensor(torch.inf, dtype=self.dtype)) for bound in (low, high))
        near = low <= torch.topk(high, k, dim=1, largest=False).values[:, -1:]
        if self._undecided(near):
            return self._sharp().nearest(k, own)
        rows, columns, exact = self._exact(near)
        order = exact.argsort(stable=True)  # `columns` go up in each row already
        order = order[rows[order].argsort(stable=True)]
        counts = rows.bincount(minlength=len(near))
        first = order[(counts.cumsum(0) - counts)[:, None] + torch.arange(k)]
        return Nearest(exact[first], columns[first])

    def least_ratio(self, over: "Tensor", plus: float) -> "Tensor":
        """As `neighbours.least_ratio`: those whose lower bound is not above the least upper bound are compared."""
        import torch

        unit = self.both.scale**2  # of the bounds, which float64 takes from here on: `over` may be of any size
        low, high = (bound.double().clamp_(min=0).mul_(unit).add_(plus).div_(over) for bound in (self.low, self.high))
        slack = 1 + 16 * torch.finfo(torch.float64).eps
        near = low <= high.amin(dim=1, keepdim=True) * slack
        if self._undecided(near):
            return self._sharp().least_ratio(over, plus)
        rows, columns, exact = self._exact(near)
        least = torch.full((len(near),), torch.inf, dtype=torch.float64)
        return least.scatter_reduce_(0, rows, (exact + plus) / over[columns], "amin")

    def _undecided(self, near: "Tensor") -> bool:
        """Whether float32 leaves so much open that float64 is quicker."""
        return self.dtype.itemsize == 4 and int(near.count_nonzero()) > _MANY * near.numel()

    def _sharp(self) -> "_ProductBlock":
        import torch

        if self._sharper is None:
            self._sharper = _ProductBlock(self.both, self.rows, torch.float64)
        return self._sharper

    def _exact(self, near: "Tensor") -> "tuple[Tensor, Tensor, Tensor]":
        """Rows, columns and squared distances of the pairs that are marked."""
        rows, columns = near.nonzero(as_tuple=True)
        return rows, columns, differences(self.both.points[self.rows], self.both.others, rows, columns)


class _Halves:
    """Products in half precision: sums are rounded once. Of one and the same set, or of images and a reference."""

    def __init__(self, points: "Tensor", others: "Tensor") -> None:
        self.points, self.own = points, points is others
        self.columns, self.norms = others.half().double(), self.norms_of(others)

    def norms_of(self, rows: "Tensor") -> "Tensor":
        import torch

        return torch.cat([piece.half().square().double().sum(dim=1).half() for piece in rows.split(_ROWS)])

    def block(self, rows: slice) -> "_HalfBlock":
        return _HalfBlock(self, rows)


class _HalfBlock:
    def __init__(self, both: _Halves, rows: slice) -> None:
        self.rows = rows
        product = (both.points[rows].half().double() @ both.columns.T).half()
        row, column = both.norms_of(both.points[rows])[:, None], both.norms[None]
        first, last = (row, column) if both.own else (column, row)
        self.squared = (first - 2 * product + last).clamp_(min=0).double()

    def inside(self, radii: "Tensor", closed: bool) -> "Tensor":
        return self.squared <= radii if closed else self.squared < radii

    def nearest(self, k: int, own: bool) -> Nearest:
        """Of its own set, the point itself is where rounding puts it, and the first is left out."""
        import torch

        found = torch.topk(self.squared, k + own, dim=1, largest=False)
        return Nearest(found.values[:, own:], found.indices[:, own:])


@dataclass(frozen=True)
class Balls:
    """A ball around each point of one set, out to its k-th nearest neighbour in that set.

    closed: its surface is part of it. clipped: no radius is above the median of all.
    """

    around: Set
    k: int
    closed: bool
    clipped: bool = False

    def radii(self, moments: "Moments", form: Form = "exact") -> "Tensor":
        """Squared radii, float64 [points]."""
        radii = own_nearest(moments, self.k, form).squared[:, self.k - 1]
        if not self.clipped:
            return radii
        low, high = radii.sort().values[[(len(radii) - 1) // 2, len(radii) // 2]]
        return radii.minimum(low if low == high else ((low.sqrt() + high.sqrt()) / 2).square())


class Counts(NamedTuple):
    """Pairs of an image and a reference image of which one is in the ball around the other.

    by_image: int64 [N]. by_reference: int64 [M]. without: int64 [GROUPS, M], the same when each group of images
    (`base.groups`) is left out: its pairs are gone, and balls around other images reach to the k-th that is left.
    """

    by_image: "NDArray[Any]"
    by_reference: "NDArray[Any]"
    without: "NDArray[Any]"


Counting = Callable[["Moments"], Counts]


@dataclass(frozen=True)
class NeighbourMeasure(Measure):
    """Base of what is counted in balls that reach to the k-th nearest neighbour."""

    needs = "features"
    needs_reference = "features"
    better = "higher"

    k: int = option(5, "Balls reach to the k-th nearest other point of their set", low=1)

    def check_count(self, count: int, what: str, metric: str) -> None:
        if count <= self.k:
            few = f"{count} {what} are too few for the {self.k} nearest neighbours of each"
            raise ValueError(f"{metric}: {few}: give more, or a smaller k")

    def rows(self, moments: "Moments", what: str, metric: str) -> "Tensor":
        """The features of a set. ValueError for too few. what, metric: as in `check_count`."""
        rows = features_of(moments)
        self.check_count(len(rows), what, metric)
        return rows

    def counts(self, reference: "Moments", *, closed: bool = False, clipped: bool = False) -> "Counting":
        """What counts images in the balls of the reference."""
        return Neighbours.of(reference).ask(Balls("reference", self.k, closed, clipped))


class Neighbours:
    """A reference, and what is asked of its neighbourhoods: all of it is answered in one pass over the pairs."""

    def __init__(self, reference: "Moments", form: Form) -> None:
        self._reference = reference
        self._form = form
        self._asked: set[Balls] = set()

    @classmethod
    def of(cls, reference: "Moments", form: Form = "exact") -> "Neighbours":
        """The one that all measures of this reference share."""
        found: Neighbours = reference.once(("neighbours", form), lambda: cls(reference, form))
        return found

    def ask(self, balls: Balls) -> Counting:
        """What counts for these balls; ask before the first images come, and all asked is counted together."""
        self._asked.add(balls)
        return lambda images: self._counts(images)[balls]

    def _counts(self, images: "Moments") -> dict[Balls, Counts]:
        known: dict[Balls, Counts] = images.once(self, dict)
        asked = self._asked - known.keys()
        if asked:
            known.update(self._count(images, asked))
        return known

    def _count(self, images: "Moments", asked: set[Balls]) -> dict[Balls, Counts]:
        import torch

        ours, theirs = features_of(images), features_of(self._reference)
        sizes = {balls: self._sizes(balls, images) for balls in asked}
        found = {
            balls: (torch.zeros(len(ours), dtype=torch.int64), torch.zeros(1 + GROUPS, len(theirs), dtype=torch.int64))
            for balls in asked
        }
        for block in blocks(ours, theirs, self._form):
            for balls, (by_image, by_reference) in found.items():
                for radii, which in sizes[balls].of(block.rows):
                    inside = block.inside(radii, balls.closed).float()  # whose sums are exact, and quick
                    by_reference += (which.float() @ inside).long()
                    if which[0].any():
                        by_image[block.rows] = inside.sum(dim=1).long()
        return {
            balls: Counts(by_image.numpy(), by_reference[0].numpy(), by_reference[1:].numpy())
            for balls, (by_image, by_reference) in found.items()
        }

    def _sizes(self, balls: Balls, images: "Moments") -> "_Sizes":
        import torch

        group_of = torch.from_numpy(groups(len(features_of(images))))
        there = torch.cat([torch.full((1, len(group_of)), True), group_of != torch.arange(GROUPS)[:, None]])
        if balls.around == "reference":
            return _Sizes(balls.radii(self._reference, self._form)[:, None], torch.where(there, 0, -1))
        near = own_nearest(images, balls.k, self._form)
        ranks = [each[near.place].cumsum(dim=1).clamp(max=balls.k).argmax(dim=1) for each in there]
        return _Sizes(near.squared, torch.where(there, torch.stack(ranks), -1), by_row=True)


@dataclass(frozen=True)
class _Sizes:
    """Radii of balls with all images, and without each of the groups.

    rank: int64 [1 + GROUPS, N], which of the `squared` an image has then, -1 if it is left out. squared: float64, by
    image and rank if `by_row`, or else by reference image, of which none has another.
    """

    squared: "Tensor"
    rank: "Tensor"
    by_row: bool = False

    def of(self, rows: slice) -> "Iterator[tuple[Tensor, Tensor]]":
        """Radii, as `Block.inside` takes them, and the images of these rows that have them, bool [1 + GROUPS, n]."""
        here = self.rank[:, rows]
        for rank in range(int(here.max()) + 1):
            which = here == rank
            if which.any():
                yield (self.squared[rows, rank, None] if self.by_row else self.squared[None, :, rank]), which
