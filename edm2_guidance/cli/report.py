"""What the sampling scripts say about a run, in the same words everywhere."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from dnnlib.terminal import counted
from edm2_guidance.cli.again import tell_changes
from edm2_guidance.cli.say import detail, say, say_notes
from edm2_guidance.recipe.describe import labels_text
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.parts import Sampler
from edm2_guidance.recipe.recipe import Recipe

if TYPE_CHECKING:
    from edm2_guidance.sampling.generation import GeneratedImages, Generation
    from edm2_guidance.work.complete import Pending, Run, Work

SENSIBLE = 100.0  # weights above it leave nothing of an image


def describe(recipe: Recipe) -> str:
    """One line: network, guides with weight and interval, sampler, label rule."""
    parts = [recipe.name]
    if recipe.base is not None:
        parts.append(f"enlarges the images of {recipe.base.name}")
    for guide in recipe.guides:
        if guide.off:
            parts.append(f"guide {guide.name} off")
            continue
        where = "at all steps" if guide.interval is None else f"at {guide.interval}"
        if isinstance(guide.interval, StepInterval):
            where += f" = {guide.interval.sigmas(recipe.levels())}"
        parts.append(f"guided by {guide.name}, {guide.strength}, {where}")
    unusual = "".join(f", {spec.axis} {spec.caption}" for spec in recipe.unusual() if spec is not recipe.sampler)
    sampler = "Heun" if recipe.sampler == Sampler.parse("heun") else recipe.sampler
    parts.append(
        f"{counted(recipe.num_steps, 'step')} of {sampler} in {recipe.dtype}{unusual}, labels: {labels_text(recipe)}"
    )
    return "; ".join(parts)


def announce(generation: "Generation", run: "Run") -> None:
    """Say on stderr, in a line and notes, what is about to be sampled, where, and what it costs. run: settled."""
    say(_summary(generation))
    detail(f"networks {run.form}, in {run.precision}; {counted(run.batch, 'image')} at a time")
    tell_changes([generation.recipe])
    base = generation.recipe.base
    while isinstance(base, Recipe):
        detail(f"enlarged: {describe(base)}")
        base = base.base
    say_notes(_notes(generation))


def announce_grid(captions: Sequence[str], lines: "Sequence[Sequence[Generation]]", num_seeds: int) -> None:
    """`announce` for a grid: one line for all of its cells, and of each row what --verbose wants to know.

    captions, lines: of the rows, and their cells. Each recipe among these is sampled once, from so many seeds.
    """
    cells = {cell.recipe.hash: cell for line in lines for cell in line}.values()
    size = f"{counted(len(lines), 'row')} of {counted(len(lines[0]), 'cell')}, {counted(num_seeds, 'seed')}"
    evaluations = num_seeds * sum(sum(cell.evaluations_per_image().values()) for cell in cells)
    say(f"{size}; on {lines[0][0].device}; network evaluations in all: {evaluations:,}")
    tell_changes([cell.recipe for cell in cells])
    for caption, line in zip(captions, lines, strict=True):
        costliest = max(line, key=lambda cell: sum(cell.evaluations_per_image().values()))
        detail(f"{caption}, the costliest cell: {_summary(costliest)}")
    say_notes(dict.fromkeys(text for cell in cells for text in _notes(cell)))


def _summary(generation: "Generation") -> str:
    recipe, device = generation.recipe, str(generation.device)
    noise = "" if device.startswith(recipe.noise_device) else f", noise from {recipe.noise_device}"
    return (
        f"{describe(recipe)}; on {device}{noise}; evaluations per image: {counts(generation.evaluations_per_image())}"
    )


def _notes(generation: "Generation") -> Iterator[str]:
    """What the user should know of what is about to be sampled."""
    yield from generation.notes
    for guide in generation.recipe.guides:
        if guide.of_classifier:
            if guide.weight.w < 1:
                yield f"{guide.strength} moves away from the class; 0 is off, above it guides"
        elif guide.weight.w < 1 and not guide.weight.with_fields({"w": 1.0}).moves:
            yield f"w = {guide.weight.w:g} moves towards the guide; w = 1 is off, w > 1 guides"
        elif guide.weight.w > SENSIBLE:
            yield f"w = {guide.weight.w:g} is beyond all use; the papers' best are from 1 to 4"


def others(pending: "Pending") -> str:
    """What a worker says that is through, but not the one to end the work."""
    if pending.left == 0:
        return "another joins the shards (if none does, run the same command again)"
    verb = "is" if pending.left == 1 else "are"
    left = f"{pending.left} of {counted(pending.parts, 'shard')} {verb} left to the other workers"
    return f"{left} (start any that does not run, or --steal)"


class Sampling:
    """Sources of a work's images, whose evaluations are counted. diagnostics: of each, beside it."""

    def __init__(self, generation: "Generation", work: "Work", diagnostics: bool = False) -> None:
        """work: whose run says how, once it is open."""
        self._generation, self._work, self._diagnostics = generation, work, diagnostics
        self._sources: list[GeneratedImages] = []

    def __call__(self, seeds: Sequence[int]) -> "GeneratedImages":
        """The images of these seeds."""
        self._sources.append(self._generation.images_by(self._work.run, seeds, self._diagnostics))
        return self._sources[-1]

    @property
    def images(self) -> int:
        """How many images were sampled so far, those that were there among them: batches are sampled whole."""
        return sum(source.num_images for source in self._sources)

    def evaluations(self) -> str:
        """Network evaluations so far, in words."""
        total = Counter(dict.fromkeys(self._generation.evaluations_per_image(), 0))
        for source in self._sources:
            total.update(source.evaluations)
        return counts(total)


def counts(evaluations: Mapping[str, int]) -> str:
    """'63 main + 12 guide 1 = 75'. A classifier's are each a pass forward and one back, for its gradient."""
    back = {name: " (and back)" if name.startswith("classifier") else "" for name in evaluations}
    parts = [f"{number} {name}{back[name]}" for name, number in evaluations.items()]
    return " + ".join(parts) + (f" = {sum(evaluations.values())}" if len(parts) > 1 else "")
