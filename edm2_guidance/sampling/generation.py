"""From a recipe and seeds to images: networks opened and checked once, then batches made as they are asked for."""

import functools
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypedDict, TypeVar

import torch
from torch import Tensor

from dnnlib.inference import FULL, PLAIN, PREPARED, UNSAID, Inference
from edm2_guidance.images.batch import Begun, ImageBatch
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.models.base import Classifier, Model
from edm2_guidance.recipe.files import ImageSet
from edm2_guidance.recipe.parts import Prediction, Step, StepInfo, constant
from edm2_guidance.recipe.recipe import LabelRule, Recipe, of_base
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling import tuning
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import Batch, Counted, Differentiated, LogProbs, Network, guided
from edm2_guidance.sampling.guidance.recorder import Recorder
from edm2_guidance.sampling.latents import Latents
from edm2_guidance.sampling.rounding import steps_for
from torch_utils.memory import Batches
from torch_utils.transfer import Queued, to_device, to_host

BEYOND = 1000.0  # no pixel or latent comes near it
Batched = TypeVar("Batched", ImageBatch, Latents)
Made = TypeVar("Made")
Watch = Callable[[Step], None]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@dataclass(frozen=True)
class Memory:
    """How many images memory was found to hold at a time, while sampling and while decoding."""

    sampling: Batches = field(default_factory=lambda: Batches("sampling"))
    decoding: Batches = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "decoding", Batches("decoding", beside=self.sampling))


class Numerics(TypedDict):
    """See `work.complete.Run`."""

    batch: int
    decoder_batch: int | None
    deterministic: bool
    threads: int | None
    precision: str
    unusual: bool
    form: str
    auto: Mapping[str, Callable[["Settled"], Any]]


class Settled(Protocol):
    """What a `work.complete.Run` says once a plan has settled it."""

    @property
    def batch(self) -> int: ...
    @property
    def form(self) -> str: ...


class Base(Protocol):
    """Where the images come from that a network enlarges: another `Generation`, or a set that is stored.

    recipe: of it, with every file's hash. image_classes: of how many classes its images are; 0 = they have none.
    label_rule: how each got its class.
    """

    @property
    def recipe(self) -> Recipe | ImageSet: ...
    @property
    def image_size(self) -> int: ...
    @property
    def image_classes(self) -> int: ...
    @property
    def label_rule(self) -> LabelRule: ...
    @property
    def notes(self) -> tuple[str, ...]: ...

    def check_seeds(self, seeds: Sequence[int]) -> None:
        """ValueError for seeds whose images cannot be had."""

    def make(self, seeds: Sequence[int]) -> tuple[ImageBatch, dict[str, int]]:
        """The images of these seeds, as one batch, and the network evaluations that they took, in images."""


@dataclass(frozen=True)
class Generation:
    """Opened networks of a recipe, ready to make images. `recipe` has intervals as steps and every file's hash."""

    recipe: Recipe
    main: Model
    guides: tuple[Model | Classifier | None, ...]  # None where the main network is asked
    device: torch.device
    notes: tuple[str, ...] = ()  # for the user: snapped interval ends, guides that are off
    memory: Memory = field(default_factory=Memory, compare=False)
    base: Base | None = None  # of a network that enlarges images
    inference: Inference = UNSAID

    @property
    def image_size(self) -> int:
        """Width and height of the decoded images, in pixels."""
        return self.main.image_size

    def evaluations_per_image(self) -> dict[str, int]:
        """Network evaluations that one image takes: main first, then every guide (0 for one that is off), the base."""
        return self.recipe.evaluations()

    @property
    def num_classes(self) -> int:
        """Of the labels that are drawn; 0 = none are."""
        return labelled_network(self.main, [guide for guide in self.guides if guide is not None]).num_classes

    @property
    def knows_classes(self) -> bool:
        """Whether its images are of their labels: of the main network's classes, or of a classifier's that guides."""
        return self.main.num_classes > 0 or any(guide.of_classifier and not guide.off for guide in self.recipe.guides)

    @property
    def image_classes(self) -> int:
        """As `Base`; guides alone may know classes that the images do not have."""
        if self.base is not None and self.recipe.labels in ("stored", "none"):
            return self.base.image_classes
        return self.num_classes if self.knows_classes and self.recipe.labels != "none" else 0

    @property
    def label_rule(self) -> LabelRule:
        """As `Base`."""
        return self.recipe.labels

    def networks(self) -> dict[str, Model | Classifier]:
        """What is evaluated, by the names of `evaluations_per_image`."""
        guides = enumerate(zip(self.recipe.guides, self.guides, strict=True), start=1)
        return {"main": self.main, **{spec.role(n): model for n, (spec, model) in guides if model is not None}}

    def diagnostics(self, recorder: Recorder, seeds: Sequence[int], labels: Sequence[int] | None) -> Diagnostics:
        """What was taken down of a batch of these seeds, with the names of guides and networks."""
        guides = [guide.role(number) for number, guide in enumerate(self.recipe.guides, start=1)]
        return recorder.diagnostics(seeds, labels, guides, list(self.networks()))

    def set_decoder_batch(self, batch: int) -> None:
        """Decode at most this many images at a time, if the decoder is a network (it needs far more memory)."""
        for each in self.stages():
            if each.main.decoder_batch is not None:
                each.main.decoder_batch = batch

    @property
    def precision(self) -> str:
        """In which the networks compute; where they differ, all of them: "float16+float32"."""
        return self._precision(self.inference.precision)

    @property
    def unusual_precision(self) -> str | None:
        """It, if they usually compute in another one here; else None."""
        return self.precision if self.precision != self._precision(None) else None

    @property
    def recorded_precision(self) -> str | None:
        """As scores and pictures say it: None for the usual float32."""
        return self.precision if self.precision != FULL else self.unusual_precision

    def _precision(self, asked: str | None) -> str:
        networks = (net for each in self.stages() for net in each.networks().values())
        return "+".join(sorted({asked or net.precision for net in networks}))

    def numerics(self, batch: int | None, images: int, workers: int = 1, most: int | None = None) -> Numerics:
        """What may change images beside the recipe and the device.

        batch: images at a time; None for as many as are fast, of `most`. images: in all, made by so many workers.
        """
        auto: dict[str, Callable[[Settled], Any]] = {}
        if self.inference.form is None:
            auto["form"] = lambda run: tuning.fast_form(self, -(-images // workers), run.batch)
        if batch is None:
            auto["batch"] = lambda run: tuning.fast_batch(self.in_form(run.form), min(images, most or images))
        stages = self.stages()
        return {
            "batch": batch or 1,
            "decoder_batch": next((each.main.decoder_batch for each in stages if each.main.decoder_batch), None),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "precision": self.precision,
            "unusual": self.unusual_precision is not None,
            "form": self.inference.form or PLAIN,
            "auto": auto,
        }

    def computing(self, inference: Inference) -> "Generation":
        """The same in this form and precision; ValueError where networks or this machine do not have it."""
        networks = [net for each in self.stages() for net in each.networks().values()]
        tuning.check_inference(inference, networks, self.device)
        return self._with(inference)

    def _with(self, inference: Inference) -> "Generation":
        base = self.base._with(inference) if isinstance(self.base, Generation) else self.base
        return replace(self, inference=inference, base=base)

    def in_form(self, form: str) -> "Generation":
        """The same in this form, which is settled now. ValueError where it cannot be computed."""
        return self.computing(replace(self.inference, form=form)) if form != self.inference.form else self

    def stages(self) -> list["Generation"]:
        """This one, and those that make the images that it enlarges."""
        return [self, *(self.base.stages() if isinstance(self.base, Generation) else [])]

    def evaluate(self, size: int) -> None:
        """Ask every network of this stage once, as guidance asks it, for so many images of nothing."""
        labels = None if self.num_classes == 0 else [0] * size
        side = self.main.low_res_size
        low_res = torch.zeros([size, 3, side, side], dtype=torch.uint8) if side else None
        bound: dict[str, Any] = {name: _bound(model, self, low_res) for name, model in self.networks().items()}
        on = [
            (replace(guide, weight=constant(2), interval=None), bound.get(guide.role(number)))
            for number, guide in enumerate(self.recipe.guides, start=1)
            if not guide.off
        ]
        batch = Batch(labels, self.num_classes, seeding.Draws(range(size)))
        x = torch.zeros([size, *self.main.shape], dtype=DTYPES[self.recipe.dtype], device=self.device)
        with torch.no_grad():
            guided(bound["main"], on, batch=batch)(StepInfo(0, 1, 1.0, 1.0, 0.0))(x, 1.0)

    def images(
        self, seeds: Sequence[int], batch: int | None, diagnostics: bool = False, watch: Watch | None = None
    ) -> "GeneratedImages":
        """Of these seeds, `batch` at a time, None for as many as are fast; in a form that is, unless one is settled."""
        settled = self.in_form(self.inference.form or tuning.fast_form(self, len(seeds), batch or 1))
        size = tuning.fast_batch(settled, len(seeds)) if batch is None else batch
        known = self.inference.batch or size  # that of the stage which asks, where this is its base
        return GeneratedImages(settled._with(replace(settled.inference, batch=known)), seeds, size, diagnostics, watch)

    def images_by(self, run: Settled, seeds: Sequence[int], diagnostics: bool = False) -> "GeneratedImages":
        """Of these seeds, as the plan of their work says."""
        return self.in_form(run.form).images(seeds, run.batch, diagnostics)

    def check_unchanged(self) -> None:
        """ValueError if what is the user's own, functions or networks, is no longer what the recipe says."""
        for stage in self.stages():
            stage.recipe.check_here()
            for network in stage.networks().values():
                network.check_unchanged()

    def check_seeds(self, seeds: Sequence[int]) -> None:
        """ValueError for seeds whose images are not in the set of those to be enlarged."""
        if self.base is not None:
            self.base.check_seeds(seeds)

    def make(self, seeds: Sequence[int]) -> tuple[ImageBatch, dict[str, int]]:
        """As `Base`."""
        source = self.images(seeds, len(seeds))
        (batch,) = source
        return batch, source.evaluations

    @property
    def reduced(self) -> dict[str, int]:
        """How many images at a time memory holds of the work of which it did not hold what was asked; mostly none."""
        kinds = (self.memory.sampling, self.memory.decoding)
        return {kind.work: kind.limit for kind in kinds if kind.limit is not None}

    def decode(self, latents: Tensor) -> tuple[Tensor, int | None]:
        """Latents [N,C,h,w] to images, uint8 [N,3,H,W] on the CPU; and how many at a time, if not as many as asked.

        RuntimeError if memory does not hold one.
        """
        size = self.main.decoder_batch or len(latents)
        parts, limit = self.memory.decoding.run(
            lambda part: to_host(self.main.decode(latents[part])), len(latents), size
        )
        return torch.cat(parts), limit

    def decoded(self, latents: Latents) -> ImageBatch:
        """The same, with what is known of each."""
        images, limit = self.decode(latents.values)
        reduced = {**latents.reduced, **({} if limit is None else {"decoding": limit})}
        return ImageBatch(images, latents.seeds, latents.labels, reduced, latents.diagnostics)


class GeneratedImages:
    """An ImageSource that samples `seeds` in order, `batch` at a time. Every pass over it samples again.

    A batch that memory does not hold is sampled in parts: the same noise and labels, last bits as in smaller batches.
    diagnostics: whether its batches have them, of this recipe's steps; those of a base are not taken down.
    watch: sees every step of every batch as it is made; what it raises ends the pass. A batch that runs out of memory
    begins again, with its first step.

    Attributes:
        evaluations: Network evaluations of the last pass, in images.
        reduced: As `ImageBatch.reduced`, over the last pass.
    """

    def __init__(
        self,
        generation: Generation,
        seeds: Sequence[int],
        batch: int,
        diagnostics: bool = False,
        watch: Watch | None = None,
    ) -> None:
        if batch < 1:
            raise ValueError(f"batch {batch}: at least 1 image")
        self.generation = generation
        self.seeds = tuple(seeds)
        self.batch = batch
        self.diagnostics = diagnostics
        self.watch = watch
        self.num_images = len(self.seeds)
        self.evaluations: dict[str, int] = {}
        self.reduced: dict[str, int] = {}

    @property
    def form(self) -> str:
        """In which the networks compute."""
        return self.generation.inference.form or PREPARED

    def __iter__(self) -> Iterator[ImageBatch]:
        with closing(self.begun()) as batches:
            yield from (finish() for finish in batches)

    def begun(self) -> Generator[Begun]:
        """A pass whose batches are sampled, or queued on the device; the rest, as far as `Model.decodes_apart`, is not
        done before they are called."""
        return self._pass(self._make)

    def latents(self) -> Iterator[Latents]:
        """A pass that decodes nothing."""
        return self._pass(lambda seeds: checked(self._sample(seeds)))

    def _pass(self, make: Callable[[Sequence[int]], Made]) -> Generator[Made]:
        self.generation.check_unchanged()
        self.evaluations = dict.fromkeys(self.generation.evaluations_per_image(), 0)
        self.reduced = {}
        for start in range(0, self.num_images, self.batch):
            yield make(self.seeds[start : start + self.batch])
        self.generation.check_unchanged()

    def _make(self, seeds: Sequence[int]) -> Begun:
        latents, device = self._sample(seeds), self.generation.device
        finish = functools.cache(functools.partial(self._finish, latents, Queued(device)))
        if not self.generation.main.decodes_apart or device.type not in ("cpu", "cuda"):
            finish()
        return finish

    def _finish(self, latents: Latents, sampled: Queued) -> ImageBatch:
        with sampled.after():
            batch = self.generation.decoded(checked(latents))
        self.reduced |= batch.reduced
        return batch

    def _sample(self, seeds: Sequence[int]) -> Latents:
        generation, small = self.generation, self._small(seeds)

        def sampled(part: slice) -> tuple[Tensor, list[int] | None, Diagnostics | None]:
            theirs = None if small is None else small.select(range(len(seeds))[part])
            recorder = Recorder() if self.diagnostics else None
            latents, labels = sample(generation, seeds[part], self.evaluations, theirs, recorder, self.watch)
            done = None if recorder is None else generation.diagnostics(recorder, seeds[part], labels)
            return latents, labels, done

        parts, limit = generation.memory.sampling.run(sampled, len(seeds), len(seeds))
        labels = tuple(label for _, some, _ in parts for label in some or ())
        reduced = {} if limit is None else {"sampling": limit}
        reduced |= {} if small is None else of_base(small.reduced)
        values = torch.cat([latents for latents, *_ in parts])
        taken_down = [each for *_, each in parts if each is not None]
        diagnostics = Diagnostics.joined(taken_down) if taken_down else None
        self.reduced |= reduced
        return Latents(values, tuple(seeds), labels or None, reduced, diagnostics=diagnostics)

    def _small(self, seeds: Sequence[int]) -> ImageBatch | None:
        """The images that are enlarged, with their classes; None for a network that takes none."""
        base, rule = self.generation.base, self.generation.recipe.labels
        if base is None:
            return None
        small, evaluations = base.make(seeds)
        for name, count in of_base(evaluations).items():
            self.evaluations[name] += count
        return replace(small, labels=(rule,) * len(small)) if isinstance(rule, int) else small


@torch.no_grad()
def sample(
    generation: Generation,
    seeds: Sequence[int],
    evaluations: dict[str, int] | None = None,
    small: ImageBatch | None = None,
    recorder: Recorder | None = None,
    watch: Watch | None = None,
) -> tuple[Tensor, list[int] | None]:
    """Sample one batch: latents [N,C,H,W] (pixels for RGB networks, before decoding), and the class of each image.

    small: what `generation.base` made of these seeds, with the classes. Without, the class is None if the main network
    knows none, whatever its guides were told, unless a classifier guides it.
    Adds to `evaluations` how often each network was run, in images. recorder: takes down what guidance does. watch: is
    called with every step that is made.
    Nothing waits for the device, nor looks at the result: see `checked`.
    """
    recipe, main, device = generation.recipe, generation.main, generation.device
    num_classes, low_res, of_seeds = generation.num_classes, None, seeds
    if small is None:
        streams, noise, labels = seeding.start(
            seeds, main.shape, num_classes, recipe.labels, recipe.seed_rule, recipe.noise_device
        )
    else:
        of_seeds, low_res = seeding.second_stage(seeds, main.shape), small.images
        streams, noise, _ = seeding.start(of_seeds, main.shape, 0, "none", device=recipe.noise_device)
        labels = None if small.labels is None or recipe.labels == "none" else list(small.labels)
    counted = {name: Counted(_bound(model, generation, low_res)) for name, model in generation.networks().items()}
    guides = [(guide, counted.get(guide.role(number))) for number, guide in enumerate(recipe.guides, start=1)]
    batch = Batch(labels, num_classes, seeding.Draws(of_seeds))
    gradient = Differentiated(counted["main"])
    at = guided(
        counted["main"], guides, recipe.rule, batch, clip=recipe.sampler.clips, recorder=recorder, gradient=gradient,
        around=recipe.around,
    )  # fmt: skip
    noise = to_device(noise, device).to(DTYPES[recipe.dtype])
    for last in trajectory(
        recipe.sampler, steps_for(recipe, main), at, noise, streams.randn_like
    ):  # one in memory at a time
        if recorder is not None:
            recorder.end(last.info, [network.evaluations for network in counted.values()])
        if watch is not None:
            watch(last)
    if evaluations is not None:
        for name, network in counted.items():
            evaluations[name] += network.evaluations
        if recipe.rule.takes_gradient:
            evaluations["main gradient"] += gradient.evaluations
    return last.x, labels if generation.knows_classes or small is not None else None


def checked(latents: Latents) -> Latents:
    """The same. RuntimeError if they are not finite, a warning if they are far from any image; waits for the device."""
    values = latents.values
    if not bool(torch.isfinite(values).all()):
        bad = next(seed for seed, x in zip(latents.seeds, values, strict=True) if not bool(torch.isfinite(x).all()))
        raise RuntimeError(
            f"sampling gave values that are not finite (first for seed {bad}): the weight may be far too large, "
            "or the network file damaged"
        )
    if float(values.abs().max()) > BEYOND:
        warnings.warn(
            f"sampling gave values beyond {BEYOND:g}, where those of images are about 1: the weight may be far too "
            "large, or the steps too few, and pictures of saturated pixels are what is left",
            RuntimeWarning,
            stacklevel=2,
        )
    return latents


def _bound(model: Model | Classifier, generation: Generation, low_res: Tensor | None) -> Network | LogProbs:
    """A model or classifier as guidance calls it; classes are embedded once, as long as they are the same.

    low_res: small images, uint8 [N,3,h,w], which guides need not take.
    """
    if isinstance(model, Classifier):
        return model.log_probs
    inference, device = generation.inference, generation.device
    form = inference.form or PREPARED
    model.take(replace(inference, form=form if form in model.forms else PLAIN))

    @functools.lru_cache(maxsize=2)
    def conditions(labels: tuple[int, ...] | None) -> Any:
        told = None if labels is None else list(labels)
        if model.low_res_size == 0:
            return model.conditions(told, device)
        assert low_res is not None
        times = 1 if told is None else len(told) // len(low_res)  # guidance may ask for two results of each at once
        return model.conditions(told, device, low_res.repeat(times, 1, 1, 1))

    def call(x: Tensor, sigma: Tensor, labels: list[int] | None, **how: Any) -> Prediction:
        if labels is None or model.num_classes == 0:
            how.pop("label_embedding", None)
        return model.predict(x, sigma, conditions(None if labels is None else tuple(labels)), **how)

    return call


def labelled_network(main: Model, guides: Sequence[Model | Classifier]) -> Model | Classifier:
    """The network whose classes the labels are of: the main one, or, if it knows none, a guide that does.

    ValueError if networks that know classes differ in them.
    """
    known = [model for model in (main, *guides) if model.num_classes > 0]
    for other in known[1:]:
        if other.num_classes != known[0].num_classes:
            raise ValueError(
                f"{known[0].source} has {known[0].num_classes} classes, {other.source} {other.num_classes}: take "
                "networks with the same classes, or unconditional ones"
            )
    return known[0] if known else main
