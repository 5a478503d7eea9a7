"""Random numbers that depend on an image's seed alone: not on batch, worker count or order."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from edm2_guidance.recipe.recipe import LabelRule, SeedRule
from torch_utils.transfer import to_device


def figure_seed(class_index: int, seed: int) -> int:
    """The generator seed of the interval paper's figures: CPython's hash((class_index, seed)) modulo 2^31.

    Written out (the tuple hash since CPython 3.8, a round of xxHash per item), so that the pixels of the figures do
    not depend on the interpreter that draws them. ValueError for a number below 0, or from 2^61 - 1 on.
    """
    mask, prime_1, prime_2, prime_5 = (
        (1 << 64) - 1,
        11400714785074694791,
        14029467366897019727,
        2870177450012600261,
    )
    acc = prime_5
    for item in (class_index, seed):
        if not 0 <= item < 2**61 - 1:  # where hash(int) is the int itself
            raise ValueError(f"figure seeds need a class and a seed of at least 0, not {item}")
        acc = (acc + item * prime_2) & mask
        acc = ((acc << 31) | (acc >> 33)) & mask
        acc = (acc * prime_1) & mask
    acc = (acc + (2 ^ prime_5 ^ 3527539)) & mask
    return (1546275796 if acc == mask else acc) % 2**31


class SeededStreams:
    """One generator per image of a batch, on `device`, seeded with seed mod 2^32 (numbers differ between devices)."""

    def __init__(self, seeds: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self.generators = [torch.Generator(self.device).manual_seed(seed % 2**32) for seed in seeds]

    def randn(self, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Unit normal [N, *shape], every image from its own generator."""
        draws = [torch.randn(list(shape), generator=g, dtype=dtype, device=self.device) for g in self.generators]
        return torch.stack(draws)

    def randn_like(self, x: Tensor) -> Tensor:
        """Unit normal in the shape, dtype and device of x [N, ...]."""
        return to_device(self.randn(x.shape[1:], dtype=x.dtype), x.device)

    def randint(self, high: int) -> list[int]:
        """One integer in [0, high) per image."""
        drawn = [torch.randint(high, [], generator=g, device=self.device) for g in self.generators]
        numbers: list[int] = torch.stack(drawn).tolist()  # one wait for the device
        return numbers


class Draws:
    """Random numbers inside guidance, apart from noise, labels and churn: by an image's seed and a purpose.

    Drawn on the CPU, so that they are the same for every device; a purpose never moves the numbers of another.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds = tuple(seeds)
        self._generators: dict[str, list[torch.Generator]] = {}

    def integers(self, purpose: str, high: int) -> list[int]:
        """The next integer in [0, high) of this purpose, per image."""
        return [int(torch.randint(high, [], generator=generator)) for generator in self._of(purpose)]

    def normal(self, purpose: str, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """The next unit normal numbers of this purpose, [N, *shape]."""
        return torch.stack([torch.randn(list(shape), generator=each, dtype=dtype) for each in self._of(purpose)])

    def _of(self, purpose: str) -> list[torch.Generator]:
        if purpose not in self._generators:
            self._generators[purpose] = [torch.Generator().manual_seed(_seed_of(purpose, seed)) for seed in self.seeds]
        return self._generators[purpose]


KEYS = 2**31  # of `hashed`


def hashed(keys: Sequence[int], place: str, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Random numbers in [0, 1), float32 [N, count], by a key in [0, KEYS) per image and a place.

    They are the same on every device. For so many that drawing them on the CPU would take longer than a network does.
    """
    start = to_device(torch.tensor([_seed_of(place, key) for key in keys]), torch.device(device))
    mixed = (start[:, None] + torch.arange(count, device=device) * 0x9E3779B1) & 0xFFFFFFFF
    for shift, factor in ((16, 0x21F0AAAD), (15, 0x735A2D97)):  # below 2^31, so that no product overflows
        mixed ^= mixed >> shift
        mixed *= factor
        mixed &= 0xFFFFFFFF
    mixed ^= mixed >> 15
    return (mixed >> 8).float() * 2.0**-24


def second_stage(seeds: Sequence[int], shape: Sequence[int]) -> list[int]:
    """The seeds for all random numbers of a network that enlarges the images of these seeds.

    The image of a seed was made of that seed's numbers, which must not come again. So, as in `Draws`, the seed is
    hashed with a purpose: the shape (C, H, W) of what is denoised, which differs from stage to stage of a cascade.
    Whether the small images are stored, and which networks there are, does not matter.
    """
    purpose = f"enlarge to {'x'.join(map(str, shape))}"
    return [_seed_of(purpose, seed) for seed in seeds]


def _seed_of(purpose: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{purpose} {seed}".encode()).digest()[:4])


def start(
    seeds: Sequence[int],
    shape: Sequence[int],
    num_classes: int,
    labels: LabelRule,
    seed_rule: SeedRule = "edm2",
    device: torch.device | str = "cpu",
) -> tuple[SeededStreams, Tensor, list[int] | None]:
    """Streams, noise [N, *shape] float32 and class per image (None without classes, or by the rule none) of a batch.

    The noise is drawn first, then the label. A label that the rule then overrides is drawn all the same, as EDM2
    does, since churn noise comes after it; figure seeds draw none, as the interval paper's code does.
    """
    if seed_rule == "figure":
        assert isinstance(labels, int)  # Recipe has checked
        streams = SeededStreams([figure_seed(labels, seed) for seed in seeds], device)
    else:
        streams = SeededStreams(seeds, device)
    noise = streams.randn(shape)
    if num_classes == 0 or labels == "none":
        return streams, noise, None
    drawn = streams.randint(num_classes) if seed_rule == "edm2" else []
    if labels == "random":
        return streams, noise, drawn
    if labels == "balanced":
        return streams, noise, [seed % num_classes for seed in seeds]
    assert isinstance(labels, int)
    return streams, noise, [labels] * len(seeds)
