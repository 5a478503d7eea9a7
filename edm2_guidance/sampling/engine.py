"""From noise to data: the one loop over sampling steps."""

from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from edm2_guidance.recipe.parts import RandnLike, Sampler, Step, StepInfo
from edm2_guidance.sampling.guidance.guided import DenoiseAt


def trajectory(
    sampler: Sampler,
    steps: Sequence[StepInfo],
    at: DenoiseAt,
    noise: Tensor,
    randn_like: RandnLike = torch.randn_like,
) -> Iterator[Step]:
    """Follow the sampler from noise to data, yielding every step; the last one's x is the sample.

    noise [N,C,H,W]: unit normal, in the precision that the state is kept in. steps: as `Recipe.steps`
    makes them. at: as `guided` makes it. `randn_like` draws what a sampler adds, and what is added before a leg: such a
    step begins without past ones.
    """
    x = noise * sampler.start(steps[0].level)
    past: deque[Step] = deque(maxlen=sampler.memory)
    for info in steps:
        if info.renoise > 0:
            x = x + info.renoise * randn_like(x)
            past.clear()
        denoise = at(info)
        step = denoise.end(sampler.step(x, info, denoise, randn_like, past))
        past.append(step)
        x = step.x
        yield step
