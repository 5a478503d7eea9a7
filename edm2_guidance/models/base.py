"""What networks are to this project: denoisers D(x; sigma) with a decoder behind them, and noise-aware classifiers."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from dnnlib.inference import PLAIN, Inference
from edm2_guidance.recipe.parts import Prediction
from edm2_guidance.recipe.perturbation import Layer
from edm2_guidance.recipe.timesteps import Betas
from torch_utils.transfer import to_device
from training.encoders import StandardRGBEncoder

__all__ = ["Classifier", "Model", "Prediction"]


class Model(ABC):
    """A network as a denoiser, and what turns its samples into pixels.

    Attributes:
        source: Path, URL or name, as the user gave it.
        device: Where it computes.
        shape: (C, H, W) of what is denoised, with H = W.
        image_size: Width and height of decoded images, in pixels; right once `load_decoder` was called.
        num_classes: How many classes it knows; 0 = unconditional.
        needs_classes: Whether it denoises no image without a class.
        low_res_size: Width and height of the small image that it enlarges, in pixels; 0 = it takes none.
        takes_prompts: Whether its classes are texts that are given, of which `prompted` makes such a network.
        prompts: These texts, its classes 0, 1, ...; empty if none are given.
        class_names: Names of classes 0, 1, ...; None if they are unknown.
        identity: What its images depend on, plain JSON that is the same on every machine: `sha256` of the network, and
            `encoder`, what decodes, once `load_decoder` was called.
        supports: What parts of guidance may ask for: "gradients" (autograd through `predict`, to x); "label noise"
            (`predict(..., label_embedding=f)`, where f makes of the embedded classes [N, E], float32, others); "crops"
            (x of another size); of a `perturbation` that `predict` gets, "attention", "noise embedding", "dropout" and
            "blocks" (that are skipped); "unconditional", where training dropped
            the labels or prompts of some images, so that it denoises without.
        layers: Those that a perturbation may choose.
        crop_multiple: What the side of a crop must be a multiple of.
        precision: In which its activations are usually computed here, a name of a torch dtype.
        forms: In which it can compute (`dnnlib.inference`).
        num_parameters: Of the network, without the decoder: memory that was found too small is so for its equals.
        decoder_batch: Images to decode at a time at most; None where decoding needs no batches.
        decodes_apart: Whether one thread should decode while another samples: not where code of users would see that,
            or networks compute on the same cores.
        sigma_min, sigma_max: The lowest and the highest noise level that it is for. Schedules end there.
        rounds: Whether it is for some noise levels alone, to which `round_sigma` brings others.
        notes: What its user should know of its files.
        betas: Of a network of discrete time, which of its noise schedules it was trained on (`recipe.timesteps`).
    """

    source: str
    device: torch.device
    shape: tuple[int, int, int]
    image_size: int
    num_classes: int = 0
    needs_classes: bool = False
    low_res_size: int = 0
    takes_prompts: bool = False
    prompts: tuple[str, ...] = ()
    class_names: tuple[str, ...] | None = None
    identity: dict[str, Any]
    supports: frozenset[str] = frozenset()
    layers: Sequence[Layer] = ()
    crop_multiple: int = 1
    precision: str = "float32"
    forms: Sequence[str] = (PLAIN,)
    num_parameters: int = 0
    decoder_batch: int | None = None
    decodes_apart: bool = True
    sigma_min: float = 0.0
    sigma_max: float = math.inf
    rounds: bool = False
    notes: tuple[str, ...] = ()
    betas: Betas | None = None

    def load_decoder(self, *, offline: bool = False) -> None:
        """Load what decoding needs; of guides it is never asked. offline: ask no server.

        Plain RGB here, with `decode`: other models override both. Raises ValueError if the decoder does not fit the
        network, OSError or RuntimeError if it cannot be had.
        """
        if self.shape[0] != 3:
            raise ValueError(f"{self.source} makes {self.shape[0]} channels, but plain RGB, which it decodes as, has 3")
        self.identity["encoder"] = StandardRGBEncoder().identity()

    def check_unchanged(self) -> None:  # noqa: B027 - networks out of files stay what they are
        """ValueError if it is no longer what its `identity` says."""

    def round_sigma(self, levels: Sequence[float]) -> list[float]:
        """The nearest noise levels that it is for; here these."""
        return list(levels)

    @property
    def precisions(self) -> Sequence[str]:
        """In which it can compute here: its usual one alone, unless a family knows more."""
        return (self.precision,)

    @property
    def multiply_adds(self) -> int:
        """Of one evaluation for one image, about; 0 if nothing is known of it."""
        return 0

    def take(self, inference: Inference) -> None:  # noqa: B027 - most know one way
        """Compute in this form and precision from now on, both of those that it has; None is for the usual one.

        What that needs is made when it is next asked to denoise.
        """

    def prompted(self, prompts: Sequence[str]) -> Self:
        """A shallow copy whose classes are these prompts, at least one. ValueError for a network that takes none.

        What a family loads or keeps later, it keeps in objects that its copies share.
        """
        if not self.takes_prompts:
            raise ValueError(f"{self.source} takes no prompts: leave them out, or name a network that does (--net)")
        told = copy.copy(self)
        told.prompts = told.class_names = tuple(prompts)
        told.num_classes = len(told.prompts)
        return told

    def enlarging(self, size: int) -> Self:
        """The same network, for small images of another size. ValueError where it knows one alone."""
        raise ValueError(f"{self.source} enlarges those of {self.low_res_size}x{self.low_res_size}")

    def texts(self, labels: Sequence[int] | None) -> list[str] | None:
        """The prompt of each image, by its class; None for no labels, or without prompts."""
        return [self.prompts[label] for label in labels] if labels is not None and self.prompts else None

    def conditions(
        self, labels: Sequence[int] | None, device: torch.device, low_res: Tensor | None = None
    ) -> Any:  # by the family
        """What `predict` takes as y: here the classes of a batch one-hot, float32 [N, num_classes].

        Of a network that takes prompts, their `texts`: a list of N.
        labels: a class index per image. None, for no labels or a network without classes, is unconditional.
        low_res: the small images, uint8 [N, 3, low_res_size, low_res_size] on any device, of a network that enlarges
            them. Here y is then a pair: the classes, and these as float32 in [-1, 1] (x / 127.5 - 1).
        """
        classes: Any = None
        if self.takes_prompts:
            classes = self.texts(labels)
        elif labels is not None and self.num_classes > 0:
            classes = nn.functional.one_hot(to_device(torch.tensor(labels), device), self.num_classes).float()
        return classes if low_res is None else (classes, StandardRGBEncoder().encode(to_device(low_res, device)))

    @abstractmethod
    def predict(self, x: Tensor, sigma: Tensor, y: Any, **how: Any) -> Prediction:
        """Denoise x [N,C,H,W], float32 or float64, at noise level sigma, [] in the dtype of x; y by `conditions`.

        how: `label_embedding` and `perturbation`, what is computed otherwise inside (`recipe.perturbation`), where
            `supports` has it. ValueError for what is not known.
        """

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Pixels, uint8 [N,3,image_size,image_size], to what is denoised: float32 [N,C,H,W].

        Latents are drawn, from `generator` or torch's own.
        """
        return StandardRGBEncoder().encode(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        """Samples [N,C,H,W], in any float dtype, to pixels: uint8 [N,3,image_size,image_size], all at once."""
        return StandardRGBEncoder().decode(latents)


class Classifier(ABC):
    """A classifier of noisy images, whose gradient guides (arXiv 2105.05233, Section 4).

    Attributes:
        source: Path, URL or name, as the user gave it.
        device: Where it computes.
        shape: (C, H, W) of what is classified: that of the networks that it guides, in their coordinates.
        num_classes: How many classes it tells apart, at least 2: those of the networks that it guides, in their order.
        class_names: Names of classes 0, 1, ...; None if they are unknown.
        identity: What its gradients depend on: `sha256`.
        precision: In which its activations are computed, a name of a torch dtype.
        num_parameters: Memory that was found too small is so for its equals.
    """

    source: str
    device: torch.device
    shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...] | None = None
    identity: dict[str, Any]
    precision: str = "float32"
    num_parameters: int = 0

    def check_unchanged(self) -> None:  # noqa: B027 - networks out of files stay what they are
        """ValueError if it is no longer what its `identity` says."""

    @abstractmethod
    def log_probs(self, x: Tensor, sigma: Tensor) -> Tensor:
        """log p(class | x; sigma) [N, num_classes] of noisy x [N,C,H,W], float32 or float64, differentiable in x.

        x is data plus noise of standard deviation sigma, [] in the dtype of x, as denoisers see it. An image's result
        must not depend on the others of its batch: their sum is what is differentiated.
        """
