"""Guided images and their scores, from Python. `import edm2_guidance` has these names, and docs/api.md promises them.

Nothing is printed. What the commands warn of is in the results: `Generation.notes`, `Score.flags`.
"""

import operator
import reprlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from numbers import Integral
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from dnnlib.atomic import check_destination
from dnnlib.inference import AUTO, Inference
from dnnlib.terminal import unlocking
from edm2_guidance.images.archive import select_subset
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.metrics import ledger as ledgers
from edm2_guidance.metrics.catalog import ALL, check_counts, detector_choices, find_metric, names_of
from edm2_guidance.metrics.detectors import load_detector
from edm2_guidance.metrics.environment import environment
from edm2_guidance.metrics.evaluation import check_image_sizes
from edm2_guidance.metrics.image_sets import ImageSet, open_set
from edm2_guidance.metrics.provenance import describe_generated, vae_ran
from edm2_guidance.metrics.scoring import Score, score_lines
from edm2_guidance.metrics.sides import (
    ReferenceImages,
    common_metrics,
    open_reference_side,
    open_side,
    settled,
)
from edm2_guidance.papers.references import find_reference
from edm2_guidance.papers.search import Axis, expected_points
from edm2_guidance.recipe.recipe import MAX_SEED, Recipe
from edm2_guidance.recipe.search import recipe_at, valid
from edm2_guidance.reproduction.rows import Runner, Settings
from edm2_guidance.reproduction.sweeps import Sweep, Trials, find_best
from edm2_guidance.sampling.generation import Batched, GeneratedImages, Generation
from edm2_guidance.sampling.latents import Latents
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.diagnostics import stored_diagnostics
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.zip_output import ZipOutput
from torch_utils.distributed import device_identity, pick_device

Images = ImageBatch | Recipe | Generation | str | PathLike[str]


def generate(
    recipe: Recipe | Generation,
    seeds: int | Iterable[int],
    *,
    batch: int | str = 32,
    device: str | None = None,
    form: str | None = None,
    precision: str | None = None,
    diagnostics: bool = False,
    progress: bool = False,
) -> ImageBatch:
    """The images of these seeds, with their classes: uint8 [N, 3, H, W] on the CPU.

    Args:
        recipe: What is sampled, or that with its networks open (`open_recipe`).
        seeds: One seed each, as many as images; a number stands for the seeds below it.
        batch: Images at a time, as far as memory holds them; "auto" for as many as are fast. It moves last bits only.
        device: "cpu", "cuda", "cuda:1", "mps". None: where the recipe's open networks are, or the best there is.
        form: Of the networks: "plain" (as in their files), "prepared" (made ready for inference) or "compiled". It
            moves last digits only. None: as the recipe was opened; else "auto", the one that is faster for so many.
        precision: In which networks compute, "fp32", "tf32", "bf16" or "fp16". None: as the recipe was opened; else as
            they were published.
        diagnostics: Whether to take down what guidance does to each image: `diagnostics(images)` gives it.
        progress: Whether to show a bar.

    Raises ValueError for what cannot be sampled, OSError for files that cannot be had, RuntimeError for images that are
    not finite.
    """
    generation = _opened(recipe, device, form, precision)
    return ImageBatch.joined(_passed(GeneratedImages.__iter__, generation, seeds, batch, progress, diagnostics))


def sample_latents(
    recipe: Recipe | Generation,
    seeds: int | Iterable[int],
    *,
    batch: int | str = 32,
    device: str | None = None,
    form: str | None = None,
    precision: str | None = None,
    progress: bool = False,
) -> Latents:
    """The samples of these seeds before they are decoded, on the CPU; arguments and errors as `generate`."""
    generation = _opened(recipe, device, form, precision)
    return Latents.joined(
        _passed(GeneratedImages.latents, generation, seeds, batch, progress), generation.recipe.to_json()
    )


def _passed(
    parts: Callable[[GeneratedImages], Iterator[Batched]],
    generation: Generation,
    seeds: int | Iterable[int],
    batch: int | str,
    progress: bool,
    diagnostics: bool = False,
) -> list[Batched]:
    """All parts of one pass over these seeds."""
    size, wanted = _batch(batch), _seeds(seeds)
    generation.check_seeds(wanted)
    made = []
    with _bar(len(wanted), progress) as advance:
        for part in parts(generation.images(wanted, size, diagnostics)):
            made.append(part)
            advance(len(part))
    return made


def decode(recipe: Recipe | Generation, latents: Latents, *, device: str | None = None) -> ImageBatch:
    """The images of latents, as the main network of a recipe decodes them: those of `generate` where it is the same.

    ValueError for what is no `Latents`, or of another shape; else as `generate`.
    """
    if not isinstance(latents, Latents):
        raise ValueError(f"a {type(latents).__name__} is no Latents: write Latents(VALUES, SEEDS)")
    generation = _opened(recipe, device)
    found, wanted = tuple(latents.values.shape[1:]), generation.main.shape
    if found != wanted:
        raise ValueError(f"latents of {list(found)}: {generation.main.source} makes and decodes {list(wanted)}")
    return generation.decoded(replace(latents, values=latents.values.to(generation.device)))


def generate_zip(
    recipe: Recipe | Generation,
    seeds: int | Iterable[int],
    path: str | PathLike[str],
    *,
    batch: int | str = 64,
    shard_size: int = 512,
    device: str | None = None,
    form: str | None = None,
    precision: str | None = None,
    diagnostics: bool = False,
    progress: bool = False,
) -> Path:
    """Sample into a ZIP of PNGs, with classes and recipe, as generate_zip.py does; what an interrupted call made stays.

    The same call, or the command, goes on with it. shard_size: images that an interruption costs at most. diagnostics:
    whether to write them, too, in a file beside the ZIP: `diagnostics(path)` reads it. Other arguments and errors as
    `generate`; what is left to it is as in the interrupted call. ValueError, too, if the file is there and holds other
    images, or was made without diagnostics.
    """
    size, shard_size = _batch(batch), _count("shard_size", shard_size)
    generation, path = _opened(recipe, device, form, precision), Path(path)
    check_destination(path)
    plan = ShardPlan(_seeds(seeds), shard_size)
    generation.check_seeds(plan.seeds)
    numerics = generation.numerics(size, len(plan.seeds), most=shard_size)
    run = Run(device=device_identity(generation.device), **numerics)

    @contextmanager
    def bar(total: int, there: int) -> Iterator[Callable[[int], None]]:
        with _bar(total, progress, there) as advance:
            yield advance

    output = ZipOutput(path, plan, generation.recipe, run, diagnostics=diagnostics)
    complete(output, lambda part: generation.images_by(output.work.run, part, diagnostics), bar)
    return path


def diagnostics(images: ImageBatch | str | PathLike[str]) -> Diagnostics:
    """What guidance did to each image, at every step.

    images: made by `generate(..., diagnostics=True)`, or the path of a ZIP that was made with diagnostics, or of the
    `.diagnostics.npz` beside it. ValueError for images that were made without, and for a file that is damaged or of
    other images than the ZIP; OSError if it cannot be read.
    """
    if not isinstance(images, ImageBatch):
        return stored_diagnostics(images)
    if images.diagnostics is None:
        raise ValueError("these images were made without: generate(..., diagnostics=True)")
    return images.diagnostics


def score(
    images: Images,
    reference: str | PathLike[str],
    metrics: str | Sequence[str] | None = None,
    *,
    num: int | None = None,
    seed: int = 0,
    batch: int | str = 64,
    device: str | None = None,
    form: str | None = None,
    precision: str | None = None,
    ledger: str | PathLike[str] | None = None,
    note: str | None = None,
    offline: bool = False,
    progress: bool = False,
) -> dict[str, Score]:
    """Scores of images against a reference, by the names of the metrics.

    Args:
        images: A folder, ZIP, tar or `.npz`, or statistics; images at hand; or a recipe, which is sampled for it.
        reference: Statistics or images, by path, URL or name ("mnist16", "img512").
        metrics: Such as "fd_mnist", ["fid", "kid"], or a set, "all" or "adm". None: those that the reference has.
        num: How many images, of a set chosen by `seed` if there are more; None takes all. Of a recipe, which needs it,
            those of the seeds from `seed` on.
        batch, device, form, precision: As of `generate`; "auto" is of recipes.
        ledger: A file of JSON lines to append the scores to. note: your words for these lines.
        offline: Never download; use what is there.
        progress: Whether to show a bar.

    Raises ValueError for images or statistics that do not fit, OSError for what cannot be had.
    """
    if ledger is not None:
        ledgers.check_writable(Path(ledger))
    size, num = _batch(batch), None if num is None else _count("num", num, 2)
    batch = size or 64  # where nothing is sampled
    against = find_reference(_named(reference))
    stored = fspath(images) if isinstance(images, str | PathLike) else None
    names = _metrics(metrics, against, stored, num, offline)
    theirs = open_reference_side(open_side(against, names, reference=True, offline=offline), names, batch=batch)
    if stored is not None:
        side, target = open_side(stored, names, offline=offline), pick_device(device or "auto")
        samples = open_set(side, names, num=num, most=None, seed=seed, batch=batch)
    elif isinstance(images, ImageBatch):
        target, samples = pick_device(device or "auto"), _held(images, names, num, seed, batch)
    else:
        generation = _opened(images, device, form, precision)
        target, samples = generation.device, _sampled(generation, names, num, seed, size)
    choices = detector_choices(names) if samples.source is not None or isinstance(theirs, ReferenceImages) else {}
    detectors = [load_detector(name, target, offline=offline, **choice) for name, choice in choices.items()]
    opened = theirs.measure(detectors) if isinstance(theirs, ReferenceImages) else theirs
    with _bar(samples.num_images or 0, progress and samples.source is not None) as advance:
        moments, identities, run = samples.measure(detectors, advance)
    around, tags = environment(target, vae=vae_ran(samples.description)), {"note": note}
    lines = score_lines(opened, moments, identities, samples.description, around, tags=tags, **run)
    if ledger is not None:
        for line in lines:
            ledgers.append(Path(ledger), line)
    return {line["metric"]: Score.of(line) for line in lines}


def search(
    recipe: Recipe,
    values: Mapping[str, Sequence[float]],
    reference: str | PathLike[str],
    metric: str,
    num: int,
    *,
    seed: int = 0,
    stride: int = 1,
    name: str = "search",
    batch: int | str = 32,
    device: str | None = None,
    form: str | None = None,
    precision: str | None = None,
    ledger: str | PathLike[str] | None = None,
    offline: bool = False,
    progress: bool = False,
) -> Trials:
    """The scores of a recipe over a grid of values, best first.

    Args:
        recipe: What is varied. Its networks may be names or open.
        values: By the name of what is varied, the values to try, each with each: "weight" (of guides), "scale" (of a
            classifier), "first" and "last" (ends of the interval), "alpha" (blend of two guides), "ema" and "guide_ema"
            (lengths, of files that have them in their names), any field of its rule, weights, around, sampler and
            schedule, and any parameter of functions of your own.
        reference, offline: As of `score`. metric: one.
        num: Images per point, the same seeds at all: `seed` and those that follow.
        stride: Above 1 every stride-th value is tried, then those between around the best, as reproduce.py search does.
        name: What ledger and plots call the search.
        ledger: A file of JSON lines for the scores; points that it holds are not computed again, and parts of others
            lie in `work`, beside it, so that the same call goes on after an interruption. None keeps nothing.
        batch, device, form, precision, progress: As of `generate`.

    Raises ValueError for names and values that the recipe does not take; else as `score`.
    """
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{reprlib.repr(recipe)} is no recipe to vary: give Recipe(NETWORK), open or not")
    size, num, seed = _batch(batch), _count("num", num, 2), _seeds(range(seed, seed + num))[0]
    axes = [Axis(each, _values(each, of_each)) for each, of_each in values.items()]
    start = {axis.name: axis.values[0] for axis in axes}
    for axis in axes:
        tried = [recipe_at(recipe, {**start, axis.name: value}) for value in axis.values]
        if len(tried) > 1 and tried[0] == tried[-1]:
            raise ValueError(f"'{axis.name}' changes nothing of this recipe: has it a guide to change?")
    sweep = Sweep(name, recipe, recipe_at, find_metric(metric).name, find_reference(_named(reference)), num, seed)
    where = device or next((str(net.opened.device) for net in recipe.nets if net.opened is not None), "auto")
    total = num * expected_points(start, [axes], stride=stride, valid=valid)
    with tempfile.TemporaryDirectory() as folder, _bar(total, progress) as advance:
        path = Path(folder, "ledger.jsonl") if ledger is None else Path(ledger)
        ledgers.check_writable(path)
        how = Inference.of(form, precision)
        settings = Settings(path.parent, path, path.parent, batch=size, device=where, offline=offline, inference=how)
        runner = Runner(settings, lambda total, what, there: nullcontext(advance))
        found, records = find_best(runner, sweep, start, [axes], stride, valid, lambda point, value: None)
    return Trials.of(sweep, found, records)


def _held(images: ImageBatch, metrics: Sequence[str], num: int | None, seed: int, batch: int) -> ImageSet:
    if num is not None and num > len(images):
        raise ValueError(f"{len(images)} images are there, fewer than the {num} to score")
    chosen = images if num is None else images.select(select_subset(len(images), num, seed))
    size = (chosen.images.shape[2], chosen.images.shape[3])
    _check(metrics, len(chosen), size)
    described = {
        "path": None, "kind": "memory", "num_images": len(chosen), "total": len(images),
        "subset_seed": seed if len(chosen) < len(images) else None, "size": list(size),
    }  # fmt: skip
    return ImageSet(described, len(chosen), _Held(chosen, batch), batch)


def _sampled(generation: Generation, metrics: Sequence[str], num: int | None, seed: int, batch: int | None) -> ImageSet:
    if num is None:
        raise ValueError(
            "a recipe makes any number of images: give num=1000, or as many as the reference's scores have"
        )
    seeds, size = _seeds(range(seed, seed + num)), (generation.image_size, generation.image_size)
    _check(metrics, num, size)
    generation.check_seeds(seeds)
    source = generation.images(seeds, batch)
    described = describe_generated(generation.recipe, seeds, size, generation.recorded_precision, source.form)
    return ImageSet(described, num, source, source.batch)


def _check(metrics: Sequence[str], count: int, size: tuple[int, int]) -> None:
    if count < 2:
        raise ValueError(f"{count} image to score: statistics need at least 2")
    check_image_sizes(metrics, size)
    check_counts(metrics, count)


class _Held:
    """Images at hand as an `ImageSource`."""

    def __init__(self, images: ImageBatch, batch: int) -> None:
        self._images, self._batch, self.num_images = images, batch, len(images)

    def __len__(self) -> int:
        return -(-self.num_images // self._batch)

    def __iter__(self) -> Iterator[ImageBatch]:
        for start in range(0, self.num_images, self._batch):
            yield self._images.select(range(start, min(start + self._batch, self.num_images)))


def _opened(recipe: Any, device: str | None, form: str | None = None, precision: str | None = None) -> Generation:
    """Where the networks are that are open already. ValueError for what is no recipe."""
    asked = Inference.of(form, precision)
    if isinstance(recipe, Generation):
        if device is not None and pick_device(device) != recipe.device:
            raise ValueError(f"device={device}: the recipe was opened on {recipe.device}")
        known = recipe.inference
        return recipe.computing(Inference(asked.form or known.form, asked.precision or known.precision))
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{reprlib.repr(recipe)} is no recipe: write Recipe(NETWORK)")
    return open_recipe(recipe, device or "auto", inference=asked)


def _seeds(seeds: int | Iterable[int]) -> tuple[int, ...]:
    try:
        found = tuple(range(int(seeds)) if isinstance(seeds, int | Integral) else map(operator.index, seeds))
    except TypeError as error:
        raise ValueError(f"seeds are integers: {error}") from None
    if not found:
        raise ValueError("no seeds: one per image is needed")
    if min(found) < 0 or max(found) > MAX_SEED:
        wrong, limit = (min(found), "at least 0") if min(found) < 0 else (max(found), f"at most {MAX_SEED}")
        raise ValueError(f"seed {wrong}: {limit}")
    return found


def _count(name: str, value: Any, least: int = 1) -> int:
    """A whole number, NumPy's as well. ValueError for what is none, or too small."""
    if not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name}={value!r}: give an integer of at least {least}")
    return int(value)


def _batch(value: Any) -> int | None:
    """Images at a time; None for "auto"."""
    if isinstance(value, str) and value != AUTO:
        raise ValueError(f"batch={value!r}: give an integer of at least 1, or {AUTO!r}")
    return None if value == AUTO else _count("batch", value)


def _values(name: str, given: Any) -> tuple[float, ...]:
    """What a search tries of one thing, rising, each once."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise ValueError(f"{name}={given!r}: give the values to try, such as [1, 1.5, 2]")
    return tuple(sorted({value.item() if hasattr(value, "item") else value for value in given}))  # of NumPy


def _named(reference: Any) -> str:
    """The name or path of a reference. ValueError for what is none."""
    if not isinstance(reference, str | PathLike):
        what = type(reference).__name__
        raise ValueError(f"a reference is a name or a path, no {what}: keep its images in a ZIP or folder, and name it")
    return fspath(reference)


def _metrics(
    asked: str | Sequence[str] | None, reference: str, samples: str | None, num: int | None, offline: bool
) -> list[str]:
    """The names of the metrics that are asked for, or of all that the reference has."""
    if asked is None:
        theirs = open_side(reference, reference=True, offline=offline)
        found = common_metrics(theirs, None if samples is None else open_side(samples, offline=offline))
        if not found:
            raise ValueError('nothing says by which metrics: give some, such as metrics=["fid", "fd_dinov2"]')
        return found
    texts = [asked] if isinstance(asked, str) else asked
    names = list(dict.fromkeys(name for text in texts for name in names_of(text)))
    if not names:
        raise ValueError("no metrics: name some, or leave them out for all that the reference has")
    if any(name.partition("/")[0] == ALL for name in names):
        return settled(names, reference, samples, num, offline=offline).metrics
    return names


@contextmanager
def _bar(total: int, shown: bool, there: int = 0) -> Iterator[Callable[[int], None]]:
    """A bar, of a notebook in one."""
    if not shown:
        yield lambda count: None
        return
    from tqdm.auto import tqdm  # which warns in a notebook without widgets

    with unlocking(tqdm)(total=total, initial=there, unit="img") as bar:

        def advance(count: int) -> None:
            if count:  # with 0, another thread may be drawing
                bar.update(count)

        yield advance
