"""A weight schedule of one's own, searched: how far, and how late in the steps, makes the best digits?"""

from functools import partial

import edm2_guidance as eg


def late(progress, w, power=1.0):
    """From 1 at the noise to w at the data; the higher the power, the later."""
    return 1 + (w - 1) * progress**power


if __name__ == "__main__":  # so that --weight=examples/own_schedule.py:late runs none of it
    guide = eg.Guide(eg.open_model("mnist16-weak"), partial(late, w=2))
    recipe = eg.Recipe(eg.open_model("mnist16-cond"), guide, num_steps=8)
    values = {"weight": [1.5, 2.5], "power": [0.5, 2]}
    found = eg.search(recipe, values, "mnist16", "fd_mnist", num=100, ledger="scores.jsonl")  # goes on if interrupted
    print(found)
    eg.generate(found[0].recipe, 16).grid().save("best.png")
