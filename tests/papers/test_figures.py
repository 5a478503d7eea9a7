"""The figures as data against the list of their layouts, typed independently (tests/data/interval_figures.json)."""

import json
from pathlib import Path

import pytest

from edm2_guidance.papers.figures import Inset, figure_names, pictures
from edm2_guidance.recipe.intervals import StepInterval

REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "interval_figures.json").read_text())


def test_every_figure_is_there():
    assert figure_names() == list(REFERENCE) == ["fig5", "fig6", "fig8a", "fig8b", "fig10", "fig12", "fig15a", "fig15b"]
    assert [len(pictures([name])) for name in REFERENCE] == [6, 2, 1, 1, 9, 8, 4, 4]
    every = pictures(["all"])
    assert every == pictures(figure_names()) == pictures(["fig5", "all"])
    assert len({picture.file_name for picture in every}) == len(every) == 35
    assert sum(picture.num_images for picture in every) == 24 + 6 + 3 + 3 + 54 + 24 + 12 + 12


@pytest.mark.parametrize("name", REFERENCE)
def test_layouts(name):
    reference = REFERENCE[name]
    found = {}
    for picture in pictures([name]):
        for setting in picture.settings:
            interval = setting.interval
            steps = None if interval is None else [interval.first, interval.last]
            found.setdefault(picture.class_index, []).append({"guidance": setting.weight, "interval_steps": steps})
    assert found == dict.fromkeys(reference["classes"], reference["settings"])
    assert {p.columns for p in pictures([name])} == {reference["cols"]}
    for number, index in enumerate(reference["classes"]):
        for picture in [p for p in pictures([name]) if p.class_index == index]:
            assert list(picture.seeds) == reference["seeds"][number]
            magnified_rows = 0 if picture.inset is None else 1
            assert picture.num_images / picture.columns + magnified_rows == reference["rows"]
            if reference["insets"] is None:
                assert picture.inset is None
            else:
                inset = reference["insets"][number]
                assert picture.inset == Inset(inset["x"], inset["y"], inset["size"])


def test_file_names():
    assert [picture.file_name for picture in pictures(["fig5", "fig8a", "fig8b"])] == [
        "fig5-class064-g1.00-gi.png",
        "fig5-class064-g5.00-gi.png",
        "fig5-class064-g5.00-cfg.png",
        "fig5-class959-g1.00-gi.png",
        "fig5-class959-g5.00-gi.png",
        "fig5-class959-g5.00-cfg.png",
        "fig8a-class483-g1.00-3.00-5.00-cfg.png",
        "fig8b-class483-g1.00-3.00-5.00-gi.png",
    ]


def test_only_the_published_interval():
    intervals = {setting.interval for picture in pictures(["all"]) for setting in picture.settings}
    assert intervals == {None, StepInterval(17, 22)}


@pytest.mark.parametrize(("width", "box"), [(512, (225, 10, 415, 200)), (64, (28, 1, 52, 25)), (2, (1, 0, 2, 1))])
def test_insets_scale_with_the_image(width, box):
    assert Inset(225, 10, 190).box(width) == box


@pytest.mark.parametrize("picture", [p for p in pictures(["all"]) if p.inset is not None], ids=lambda p: p.file_name)
@pytest.mark.parametrize("width", [8, 16, 64, 512])
def test_insets_lie_in_the_image(picture, width):
    left, top, right, bottom = picture.inset.box(width)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= width


def test_unknown_figures_are_named():
    with pytest.raises(ValueError, match=r"no figure 'fig7'; there are: all, fig5, fig6"):
        pictures(["fig5", "fig7"])
