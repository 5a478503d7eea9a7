"""Mean and covariance of features, and the features themselves where they are kept: what measures compare. No torch."""

import hashlib
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean [D] and unbiased covariance [D, D] of features, float64.

    num_images: how many images they are of; None where a file does not say. features: these themselves, floating point
    [N, D], where somebody asked for them to be kept. sample: else those of `running.SAMPLE` images drawn at random, or
    of all if these are fewer, [n, D]: of two sets of as many images, the same places. None of moments out of a file.
    """

    mean: NDArray[np.float64]
    cov: NDArray[np.float64]
    num_images: int | None = None
    features: NDArray[Any] | None = None
    sample: NDArray[Any] | None = None
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        dim = self.mean.shape[0] if self.mean.ndim == 1 else None
        if dim is None or self.cov.shape != (dim, dim):
            shapes = f"{list(self.mean.shape)} and {list(self.cov.shape)}"
            raise ValueError(f"mean and covariance have shapes {shapes}: expected [D] and [D, D]")
        if self.mean.dtype != np.float64 or self.cov.dtype != np.float64:
            raise ValueError(f"moments are {self.mean.dtype} and {self.cov.dtype}: expected float64")
        if self.features is not None and self.features.shape != (self.num_images, dim):
            raise ValueError(f"features have shape {list(self.features.shape)}: expected [{self.num_images}, {dim}]")

    @property
    def dim(self) -> int:
        return len(self.mean)

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What measures derive from these features: made when first asked for under the key, and then kept."""
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    @property
    def sha256(self) -> str:
        """Hash of the bytes of the mean and of the covariance: runs with equal ones agree to the last bit."""
        digest = hashlib.sha256()
        for part in (self.mean, self.cov):
            digest.update(np.ascontiguousarray(part, dtype="<f8").data.cast("B"))
        return digest.hexdigest()
