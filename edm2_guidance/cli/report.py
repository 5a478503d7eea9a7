"""What the sampling scripts say about a run, in the same words everywhere."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import click

from dnnlib.terminal import counted, printable
from edm2_guidance.recipe.parts import Sampler
from edm2_guidance.recipe.recipe import Recipe, StepInterval

if TYPE_CHECKING:
    from edm2_guidance.sampling.generation import GeneratedImages, Generation
    from edm2_guidance.work.complete import Pending

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
    labels = recipe.labels if isinstance(recipe.labels, str) else f"class {recipe.labels}"
    unusual = "".join(f", {spec.axis} {spec}" for spec in recipe.unusual() if spec is not recipe.sampler)
    sampler = "Heun" if recipe.sampler == Sampler.parse("heun") else recipe.sampler
    parts.append(f"{counted(recipe.num_steps, 'step')} of {sampler} in {recipe.dtype}{unusual}, labels: {labels}")
    return "; ".join(parts)


def announce(generation: "Generation") -> None:
    """Say on stderr what is about to be sampled and what it costs."""
    click.echo(describe(generation.recipe), err=True)
    base = generation.recipe.base
    while isinstance(base, Recipe):
        click.echo(f"enlarged: {describe(base)}", err=True)
        base = base.base
    say_notes(generation.notes)
    for guide in generation.recipe.guides:
        if guide.of_classifier:
            if guide.weight.w < 1:
                click.echo(f"note: {guide.strength} moves away from the class; 0 is off, above it guides", err=True)
            continue
        if guide.weight.w < 1:
            click.echo(f"note: w = {guide.weight.w:g} moves towards the guide; w = 1 is off, w > 1 guides", err=True)
        if guide.weight.w > SENSIBLE:
            click.echo(f"note: w = {guide.weight.w:g} is beyond all use; the papers' best are from 1 to 4", err=True)
    costs = counts(generation.evaluations_per_image())
    click.echo(f"on {generation.device}, noise from {generation.recipe.noise_device}; evaluations per image: {costs}",
               err=True)  # fmt: skip


def say_notes(notes: Iterable[str]) -> None:
    """Say on stderr what the user should know, a line each."""
    for note in notes:
        click.echo(f"note: {printable(note)}", err=True)


def others(pending: "Pending") -> str:
    """What a worker says that is through, but not the one to end the work."""
    if pending.left == 0:
        return "another joins the shards (if none does, run the same command again)"
    verb = "is" if pending.left == 1 else "are"
    left = f"{pending.left} of {counted(pending.parts, 'shard')} {verb} left to the other workers"
    return f"{left} (start any that does not run, or --steal)"


class Sampling:
    """Sources of images, `batch` images at a time, whose evaluations are counted."""

    def __init__(self, generation: "Generation", batch: int) -> None:
        self._generation = generation
        self._batch = batch
        self._sources: list[GeneratedImages] = []

    def __call__(self, seeds: Sequence[int]) -> "GeneratedImages":
        """The images of these seeds."""
        self._sources.append(self._generation.images(seeds, self._batch))
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
