"""Time as papers count it, in [0, 1] with 1 at the noise, for networks that know noise levels. Floats only."""

from edm2_guidance.recipe.parts import StepInfo


def time_of(step: StepInfo, kind: str) -> float:
    """Of "steps" the share of them that is left; of "flow" the time of a flow at this level, sigma / (1 + sigma)."""
    return 1 - step.progress if kind == "steps" else step.level / (1 + step.level)
