"""Steps for networks that know some noise levels alone (arXiv 2206.00364, Table 1, footnote of c_noise)."""

from collections.abc import Sequence
from dataclasses import replace

from edm2_guidance.models.base import Model
from edm2_guidance.recipe.parts import StepInfo
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.samplers.churn import Churned


def steps_for(recipe: Recipe, main: Model) -> list[StepInfo]:
    """The recipe's steps, from and to the nearest levels that the main network knows, churned ones too.

    Two levels may become one, over which a step does not move. Samplers of several steps would divide by its length:
    theirs stay, and the network is told the nearest.
    """
    steps, sampler = recipe.steps(), recipe.sampler
    if not main.rounds or not isinstance(sampler, Churned):
        return steps
    levels = _rounded(main, [step.level for step in steps])
    ends = _rounded(main, [step.sigma_next for step in steps])
    made = []
    for step, level, end in zip(steps, levels, ends, strict=True):
        placed = replace(step, level=level, sigma=level, sigma_next=end, levels=tuple(levels))
        planned = sampler.plan(placed, levels)
        made.append(replace(planned, sigma=main.round_sigma([planned.sigma])[0]))
    return made


def _rounded(main: Model, levels: Sequence[float]) -> list[float]:
    return [found if level > 0 else 0.0 for level, found in zip(levels, main.round_sigma(levels), strict=True)]
