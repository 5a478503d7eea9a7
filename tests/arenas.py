"""A small arena, as a TOML file and as it is read, and lines of its ledger, for tests."""

from edm2_guidance.papers.arena import Arena, Final, Method, Solvers
from tests.papers.ledger_lines import line

TOML = """
title = "Small"
net = "mnist16-cond"
reference = "mnist16"
metrics = ["fd_mnist"]
num_steps = 2
[guides]
weak = "mnist16-weak"
[search]
values = [1.5, 2]
[solvers]
methods = ["linear/weak"]
evaluations = [4]
samplers = ["heun", "euler"]
[[methods]]
name = "linear"
"""
#: To be run: of few images, with three methods, and solvers of the one without a guide.
QUICK = (
    TOML.replace(
        "[search]", "[final]\nnum_images = 40\nseed = 100\nblocks = 2\nbest = 1\n[search]\nnum_images = 8"
    ).replace('methods = ["linear/weak"]\nevaluations = [4]', 'methods = ["unguided"]\nevaluations = [2]')
    + """
[[methods]]
name = "fdg"
rule = "fdg"
[[methods]]
name = "unguided"
guides = []
"""
)

METRICS = ("fd_mnist", "fd_mnist_ae")
ARENA = Arena(
    "small", "Small", "mnist16-cond", METRICS, "mnist16", (Method("linear"), Method("fdg", rule="fdg")),
    {"weak": "mnist16-weak"}, num_steps=2, final=Final(10, 1000, 2),
    solvers=Solvers(("linear/weak",), (4, 8), ("heun", "euler")),
)  # fmt: skip


def scores_of(entry, value, half=0.1, block=0, w=1.5):
    """The scores of a block; those of the second metric are twice as high."""
    found = next(each for each in ARENA.entries if each.name == entry)
    point, seeds = {"weight": w}, ARENA.blocks(2)[block]
    tag = {"name": "small", "entry": entry, "point": point, "block": block}
    return [
        {
            **line(
                times * value, metric, 10, seeds=f"{seeds[0]}-{seeds[-1]}", recipe=found.at(point),
                interval=(times * value - half, times * value + half),
            ),
            "arena": tag,
        }
        for times, metric in enumerate(METRICS, 1)
    ]  # fmt: skip
