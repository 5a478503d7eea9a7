"""Lines of a ledger, for tests of what is made of them."""

from dataclasses import replace

from edm2_guidance.papers.tables import find


def line(
    value, metric="fd_mnist", num=10, name="mnist16-cfg", seeds=None, search=None, point=None, steps=None, recipe=None,
    interval=None, by=None,
):  # fmt: skip
    """The score of a row's images, or of those of a recipe. by: the metric by which a search was, of several."""
    recipe = recipe or find(name)[0].recipe()
    recipe = recipe if steps is None else replace(recipe, num_steps=steps)
    made = {
        "schema": 2,
        "metric": metric,
        "name": f"{metric}@{num}",
        "value": value,
        "num_images": num,
        "flags": [],
        "reference": {"source": "mnist16-refs", "sha256": "r"},
        "detector": {"published": True, "resize": "none", "weights_sha256": "d"},
        "images": {"kind": "generated", "seeds": seeds or f"0-{num - 1}", "subset_seed": None, "path": None},
        "recipe": recipe.to_json(),
        "recipe_hash": recipe.hash,
        "labels": "random",
        "time": "2026-11-26T10:00:00+00:00",
    }
    if search is not None:
        made["search"] = {"name": search, "point": point} | ({} if by is None else {"metric": by})
    if interval is not None:
        low, high = interval
        made["interval"] = {"low": low, "high": high, "error": (high - low) / 4}
    return made
