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
from dnnlib.places import recorded_place
from edm2_guidance.images.batch import Begun, ImageBatch
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.models import open_classifier, open_model
from edm2_guidance.models.base import Classifier, Model
from edm2_guidance.recipe.class_names import ClassName, find_class
from edm2_guidance.recipe.parts import Prediction, Rule, Step, StepInfo, constant
from edm2_guidance.recipe.prompts import texts_of
from edm2_guidance.recipe.recipe import FileRef, ImageSet, LabelRule, NetworkRef, Recipe, of_base
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling import tuning
from edm2_guidance.sampling.engine import trajectory
from edm2_guidance.sampling.guidance.guided import Batch, Counted, Differentiated, LogProbs, Network, guided
from edm2_guidance.sampling.guidance.recorder import Recorder
from edm2_guidance.sampling.latents import Latents
from edm2_guidance.sampling.rounding import steps_for
from edm2_guidance.sampling.stored_base import StoredBase
from torch_utils.distributed import pick_device
from torch_utils.memory import Batches
from torch_utils.transfer import Queued, to_device, to_host

BEYOND = 1000.0  # no pixel or latent comes near it
_ROUNDING = 1 + 1e-5  # of a network's ends, as of those of a schedule, computed in float32
Batched = TypeVar("Batched", ImageBatch, Latents)
Made = TypeVar("Made")
Watch = Callable[[Step], None]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def check_guide(main: Model, guide: Model | Classifier) -> None:
    """ValueError unless the guide or classifier can stand beside the main network: same images, small ones too."""
    if isinstance(guide, Model) and guide.low_res_size not in (0, main.low_res_size):
        raise ValueError(
            f"the guide {guide.source} enlarges images of {guide.low_res_size}x{guide.low_res_size}, which the main "
            f"network {main.source} does not: take another guide"
        )
    role = "classifier" if isinstance(guide, Classifier) else "guide"
    for word, axis in (("resolution", -1), ("channels", 0)):
        if guide.shape[axis] != main.shape[axis]:
            raise ValueError(
                f"the {role} {guide.source} has {word} {guide.shape[axis]}, the main network {main.source} "
                f"{main.shape[axis]}: take a {role} trained on the same images"
            )


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
        return _labelled(self.main, [guide for guide in self.guides if guide is not None]).num_classes

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


def open_network(source: str, *, classifier: bool = False, **how: Any) -> Model | Classifier:
    """`open_model`, or `open_classifier`."""
    return open_classifier(source, **how) if classifier else open_model(source, **how)


def open_recipe(
    recipe: Recipe,
    device: str = "auto",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
    load: Callable[..., Any] = open_network,
    memory: Callable[[tuple[int, ...]], Memory] = lambda sizes: Memory(),
    stored: Callable[[str], StoredBase] = StoredBase,
    inference: Inference = UNSAID,
) -> Generation:
    """Open the networks of a recipe on a device and check that they fit. ValueError or OSError if they do not.

    inference: how all of them compute. memory: what is known of networks with these numbers of parameters, and, last,
    with a gradient or without. load, stored: open a network, and stored images.
    """
    target = _device_for(recipe, device)
    recipe.check_here()
    noise_device = target.type if recipe.noise_device == "device" else recipe.noise_device
    pick_device(noise_device, "--noise-device")

    loaded = functools.cache(functools.partial(load, device=target, trust_pickle=trust_pickle, offline=offline))
    main, guides = _opened_networks(recipe, loaded, target)
    recipe, notes = _resolved_for(main, recipe)
    notes += dict.fromkeys(note for each in (main, *guides) if isinstance(each, Model) for note in each.notes)
    open_base = functools.partial(
        open_recipe, device=device, trust_pickle=trust_pickle, offline=offline, load=load, memory=memory, stored=stored
    )
    base = _opened_base(main, recipe.base, open_base, stored)
    if base is not None:
        main, guides = _of_size(main, base), tuple(_of_size(guide, base) for guide in guides)
    others = [guide for guide in guides if guide is not None]
    labelled = _labelled(main, others)
    if base is None:
        recipe = _with_checked_labels(recipe, labelled, notes)
    else:
        notes += base.notes
        recipe = _with_labels_of(base, recipe, labelled, notes)
    _check_references(recipe, main, guides, notes)
    if base is None and labelled is not main:
        recipe = _for_guides_alone(recipe, notes)
    _check_classes(recipe, main, guides)
    main.load_decoder(offline=offline)
    _check_sampling(recipe, main, notes)
    recipe = replace(
        _with_files(recipe, main, guides),
        base=None if base is None else base.recipe,
        noise_device=noise_device,
        encoder=main.identity["encoder"],
    )
    known = memory((*(model.num_parameters for model in (main, *others)), recipe.rule.takes_gradient))
    return Generation(recipe, main, guides, target, tuple(notes), known, base).computing(inference)


def _opened_networks(
    recipe: Recipe, load: Callable[..., Any], device: torch.device
) -> tuple[Model, tuple[Model | Classifier | None, ...]]:
    """The main network and the guides, told the recipe's prompts if they take some. Errors as of `open_recipe`."""
    prompts = texts_of(recipe.prompts)

    def opened(net: NetworkRef, option: str) -> Any:
        model = _loaded(load, net, option) if net.opened is None else _checked_open(net, option, device)
        return model.prompted(prompts) if prompts and _takes_prompts(model) else model

    main: Model = opened(recipe.net, "--net")
    guides = tuple(None if spec.net is None else opened(spec.net, spec.option) for spec in recipe.guides)
    _check_prompts(recipe, main, guides)
    for guide in guides:
        if guide is not None:
            check_guide(main, guide)
    return main, guides


def _resolved_for(main: Model, recipe: Recipe) -> tuple[Recipe, list[str]]:
    """`Recipe.resolved` of the recipe between noise levels that the main network is for, and notes."""
    schedule = recipe.schedule.within(main.sigma_min, main.sigma_max)
    resolved, notes = replace(recipe, schedule=schedule).resolved()
    known = f"{main.source} is for noise levels from {main.sigma_min:g} to {main.sigma_max:g}"
    if schedule != recipe.schedule:
        notes.append(f"{known}: the schedule is {schedule}")
    levels = resolved.levels()
    if levels[0] > main.sigma_max * _ROUNDING or levels[-1] * _ROUNDING < main.sigma_min:
        notes.append(f"{known}, and the schedule {schedule.caption} goes from {levels[0]:g} to {levels[-1]:g}")
    return resolved, notes


def _loaded(load: Callable[..., Any], net: NetworkRef, option: str) -> Any:
    """The network of a recipe, opened. OSError or ValueError if it cannot be had, or is another."""
    try:
        model = load(net.source, classifier=option == "--classifier")
    except FileNotFoundError as error:
        if net.sha256 is None or net.source != net.name:
            raise
        why = "the recipe was read, and names its content alone"  # of code, or of a file that is not found again
        raise FileNotFoundError(f"{error}; {why}: give it again, dataclasses.replace(recipe, net=...)") from None
    _check_content(net, model.identity["sha256"], f"{option}=PATH|URL")
    return model


def _checked_open(net: NetworkRef, option: str, device: torch.device) -> Any:
    """A network that was opened before. ValueError if it is elsewhere, or a classifier where none is meant."""
    model, wanted = net.opened, option == "--classifier"
    if isinstance(model, Classifier) != wanted:
        cure = (
            "no classifier: Guide(NETWORK, WEIGHT)" if wanted else "a classifier: classifier_guide(IT, SCALE, SAMPLER)"
        )
        raise ValueError(f"{net.source} is {cure} guides by it")
    if model.device != device:
        raise ValueError(f"{net.source} was opened on {model.device}: open it on {device}, with the others")
    return model


def _check_content(ref: FileRef, sha256: str, option: str) -> None:
    """ValueError, naming the option that gives it anew, for a file with another hash than its recipe has."""
    if ref.sha256 not in (None, sha256):
        raise ValueError(
            f"{ref.source} is another file than that of the recipe, its SHA-256 {sha256}, not {ref.sha256}: "
            f"{option} gives it anew"
        )


def _device_for(recipe: Recipe, device: str) -> torch.device:
    """The device of that name; auto is where networks are open already, if any are."""
    places = [net.opened.device for net in recipe.nets if net.opened is not None]
    target: torch.device = places[0] if device == "auto" and places else pick_device(device)
    if target.type == "mps" and recipe.dtype == "float64":
        raise ValueError("mps has no float64: take --dtype=float32 or --device=cpu")
    return target


def opener(
    device: str = "auto",
    *,
    trust_pickle: bool = False,
    offline: bool = False,
    inference: Inference = UNSAID,
) -> Callable[[Recipe], Generation]:
    """`open_recipe` with these settings for many recipes; the last few files are kept open for the next ones.

    What memory held of networks is remembered for others that are as large; a rule that takes gradients needs more.
    """

    load = functools.lru_cache(maxsize=4)(open_network)  # a search over EMA lengths opens a hundred

    @functools.cache
    def memory(sizes: tuple[int, ...]) -> Memory:
        return Memory()

    stored = functools.lru_cache(maxsize=2)(StoredBase)
    return functools.partial(
        open_recipe, device=device, trust_pickle=trust_pickle, offline=offline, load=load, memory=memory, stored=stored,
        inference=inference,
    )  # fmt: skip


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


def _ref(model: Model | Classifier) -> NetworkRef:
    return NetworkRef(model.source, model.identity["sha256"], recorded_place(model.source))


def _with_files(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> Recipe:
    """The recipe with the hash of each network's file."""
    pairs = zip(recipe.guides, guides, strict=True)
    known = tuple(spec if guide is None else replace(spec, net=_ref(guide)) for spec, guide in pairs)
    return replace(recipe, net=_ref(main), guides=known)


def _labelled(main: Model, guides: Sequence[Model | Classifier]) -> Model | Classifier:
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


def _takes_prompts(model: Model | Classifier) -> bool:
    return isinstance(model, Model) and model.takes_prompts


def _check_prompts(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> None:
    """ValueError for prompts that the main network does not take, nor what makes its base; and for none that it needs.

    Classes that are texts and classes that are not make no labels of one kind.
    """
    if recipe.prompts and not main.takes_prompts and not isinstance(recipe.base, Recipe):
        main.prompted(texts_of(recipe.prompts))  # which refuses them
    if main.takes_prompts and not recipe.prompts and recipe.labels != "none":
        raise ValueError(f"{main.source} draws what prompts say: give --prompt=TEXT, or --prompts=FILE")
    networks = [main, *(guide for guide in guides if guide is not None)]
    texts = next((each for each in networks if _takes_prompts(each)), None)
    classes = next((each for each in networks if not _takes_prompts(each) and each.num_classes > 0), None)
    if texts is not None and classes is not None:
        raise ValueError(
            f"{texts.source} takes prompts, and {classes.source} has {classes.num_classes} classes: no label says "
            "both; take networks that are told the same, or unconditional ones"
        )


def _opened_base(
    main: Model,
    base: Recipe | ImageSet | None,
    open_: Callable[[Recipe], Generation],
    stored: Callable[[str], StoredBase],
) -> Base | None:
    """Where the images come from that the main network enlarges; None for a network that takes none.

    ValueError for images that it does not take, and for none where it needs some.
    """
    size = main.low_res_size
    if base is None and size > 0:
        raise ValueError(f"{main.source} enlarges images of {size}x{size}: say which, --upsample=IMAGES or =PRESET")
    if base is None:
        return None
    if size == 0:
        raise ValueError(f"{main.source} enlarges no images: leave out --upsample, or name a network that does (--net)")
    if isinstance(base, Recipe):
        opened: Base = open_(base)
    else:
        opened = images = stored(base.source)
        _check_content(base, str(images.recipe.sha256), "--upsample=IMAGES")
    return opened


def _of_size(model: Any, base: Base) -> Any:
    """A network as it enlarges images of the base's size. ValueError for one of another size alone."""
    size = base.image_size
    if not isinstance(model, Model) or model.low_res_size in (0, size):
        return model
    try:
        return model.enlarging(size)
    except ValueError as error:
        raise ValueError(f"{base.recipe.name} has images of {size}x{size}, and {error}") from None


def _with_labels_of(base: Base, recipe: Recipe, labelled: Model | Classifier, notes: list[str]) -> Recipe:
    """The recipe, with the classes of the images that it enlarges.

    labelled: the network whose classes the labels are of. A class for all, or one prompt, may be given to stored images
    without. ValueError for images without classes, or of others than the networks know.
    """
    name, classes = base.recipe.name, labelled.num_classes
    given = isinstance(recipe.labels, int | ClassName)
    if base.image_classes == 0 and given:
        return _with_checked_labels(recipe, labelled, notes)
    if base.image_classes == 0 and classes > 0 and recipe.labels != "none":
        if isinstance(base.recipe, ImageSet) and len(recipe.prompts) == 1:
            return replace(recipe, labels=0)
        raise ValueError(
            f"{name} has images without classes, which {labelled.source} needs: take a set with labels, such as "
            "generate_zip.py writes, or give all images one class (--class)"
        )
    if given and base.label_rule == "stored":
        raise ValueError(f"the images of {name} have classes, which they keep: leave out --class")
    if base.image_classes > classes > 0:
        known = f"{base.image_classes} classes, {labelled.source} knows {classes}"
        cure = "give it all prompts that they have" if recipe.prompts else "take networks with the same classes"
        raise ValueError(f"{name} has images of {known}: {cure}")
    return recipe if recipe.labels == "none" else replace(recipe, labels=base.label_rule)


def _with_checked_labels(recipe: Recipe, labelled: Model | Classifier, notes: list[str]) -> Recipe:
    """The recipe, its label rule 'none' if there are no classes, a class given by name as its index.

    ValueError for a class that the network lacks. Adds to `notes` what may be taken for another class.
    """
    classes = labelled.num_classes
    names = None if labelled.class_names is None else labelled.class_names[:classes]
    if isinstance(recipe.labels, ClassName) and classes > 0:
        index = find_class(recipe.labels.text, names, labelled.source, classes)
        notes.append(f"--class={recipe.labels} is class {index}")
        return replace(recipe, labels=index)
    if isinstance(recipe.labels, int | ClassName) and not _is_index(recipe.labels, classes):
        hint = f"has classes 0 to {classes - 1}" if classes > 0 else "is unconditional: leave out --class"
        raise ValueError(f"class {recipe.labels}: {labelled.source} {hint}")
    if isinstance(recipe.labels, int) and names and str(recipe.labels) in names:
        named = names.index(str(recipe.labels))
        if named != recipe.labels:
            notes.append(f"class {recipe.labels} is the one of this index; the one named {recipe.labels} is {named}")
    return recipe if classes > 0 else replace(recipe, labels="none")


def _check_references(
    recipe: Recipe, main: Model, models: Sequence[Model | Classifier | None], notes: list[str]
) -> None:
    """ValueError for a reference or a rule that needs what its network does not know, or does not let through.

    Notes a rule that does nothing.
    """
    for guide, model in zip(recipe.guides, models, strict=True):
        asked = main if model is None else model
        if guide.reference.needs_labels and (asked.num_classes == 0 or recipe.labels == "none"):
            raise ValueError(f"the reference '{guide.reference}' needs classes, and {asked.source} knows none")
        if isinstance(asked, Model):
            guide.reference.check_network(asked)
    if recipe.rule.takes_gradient and "gradients" not in main.supports:
        raise ValueError(f"the rule {recipe.rule.kind} takes gradients, which {main.source} does not let through")
    of_networks = any(not guide.off and not guide.of_classifier for guide in recipe.guides)
    if of_networks:
        recipe.rule.check_shape(main.shape)
    elif any(not guide.off for guide in recipe.guides) and recipe.rule != Rule.parse("linear"):
        notes.append(f"the rule {recipe.rule} is of networks that guide, and a classifier alone does: unused")
    told = [model for model in (main, *models) if isinstance(model, Model) and model.num_classes > 0]
    for each in recipe.around:
        if each.needs and (not told or recipe.labels == "none"):
            raise ValueError(f"{each.kind} is of images with classes, and these are made without")
        for model in told:
            if not each.needs <= model.supports:
                missing = ", ".join(sorted(each.needs - model.supports))
                raise ValueError(f"{each.kind} asks networks for {missing}, which {model.source} does not support")


def _for_guides_alone(recipe: Recipe, notes: list[str]) -> Recipe:
    """The recipe of an unconditional main network with a conditional guide, and a note.

    As in EDM2, no labels are drawn, and the guide runs without one; a class, or balanced ones, that are asked for
    are the guide's. For a classifier they are drawn: its images are of them.
    """
    if any(guide.of_classifier and not guide.off for guide in recipe.guides):
        notes.append("the main network is unconditional: the classes are the classifier's")
        return recipe
    if recipe.labels in ("random", "none"):
        notes.append("the main network is unconditional: its guide runs without a class, as in EDM2, unless --class=N")
        return replace(recipe, labels="none")
    notes.append("the main network is unconditional: the class is its guide's, not that of the images")
    return recipe


def _check_classes(recipe: Recipe, main: Model, guides: Sequence[Model | Classifier | None]) -> None:
    """ValueError for a network that denoises no image without a class, where there are none."""
    on = [model for spec, model in zip(recipe.guides, guides, strict=True) if not spec.off]
    for model in (main, *on):
        if recipe.labels == "none" and isinstance(model, Model) and model.needs_classes:
            raise ValueError(f"{model.source} was trained with classes alone: it denoises no image without one")


def _is_index(label: int | ClassName, classes: int) -> bool:
    return isinstance(label, int) and 0 <= label < classes


def _check_sampling(recipe: Recipe, main: Model, notes: list[str]) -> None:
    """ValueError for latents that would be held in the range of pixels. Notes a schedule of other networks."""
    latents = main.shape != (3, main.image_size, main.image_size)
    for each in recipe.around if latents else ():
        if each.of_pixels:
            raise ValueError(f"{each.kind} is of pixels, and {main.source} denoises latents, which have no range")
    if recipe.sampler.clips and latents:
        raise ValueError(
            f"the sampler {recipe.sampler} clips to the range of pixels, and {main.source} denoises latents: add "
            f"clip=false to it, --sampler={recipe.sampler}:clip=false"
        )
    betas = getattr(recipe.schedule, "betas", None)
    if betas is not None and main.betas not in (None, betas):
        notes.append(f"{main.source} was trained on {main.betas} betas, and the schedule has {betas} ones")
    if recipe.schedule.measured_on not in ("", main.identity["sha256"]):
        notes.append(f"the schedule {recipe.schedule.caption} was measured on another network than {main.source}")
