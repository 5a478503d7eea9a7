"""EDM's tables as data: every number against a list typed from its facts independently, and how rows resolve."""

from dataclasses import replace

import pytest

from edm2_guidance.papers.costs import evaluations, facts_of
from edm2_guidance.papers.edm import EDM_ROOT
from edm2_guidance.papers.imagenet import is_published
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.papers.references import REFERENCES
from edm2_guidance.papers.report import differences, report
from edm2_guidance.papers.tables import find
from tests.papers.ledger_lines import line

COLUMNS = [
    f"{data}-{arch}" for data in ("cifar10-cond", "cifar10-uncond", "ffhq64", "afhqv2-64") for arch in ("vp", "ve")
]
TABLE_2 = {
    "A": (2.48, 3.11, 3.01, 3.77, 3.39, 25.95, 2.58, 18.52),
    "B": (2.18, 2.48, 2.51, 2.94, 3.13, 22.53, 2.43, 23.12),
    "C": (2.08, 2.52, 2.31, 2.83, 2.78, 41.62, 2.54, 15.04),
    "D": (2.09, 2.64, 2.29, 3.10, 2.94, 3.39, 2.79, 3.81),
    "E": (1.88, 1.86, 2.05, 1.99, 2.60, 2.81, 2.29, 2.28),
    "F": (1.79, 1.79, 1.97, 1.98, 2.39, 2.53, 1.96, 2.16),
}
FOLDERS = {"cifar10": "cifar10-32x32", "ffhq64": "ffhq-64x64", "afhqv2-64": "afhqv2-64x64"}
# Evaluations, FID, network, churn, reference.
SAMPLING = {
    "edm-baseline-vp-det": (35, 2.93, "baseline-cifar10-32x32-uncond-vp", None, "cifar10-32x32"),
    "edm-baseline-vp": (383, 2.27, "baseline-cifar10-32x32-uncond-vp", (30, 0.01, 1, 1.007), "cifar10-32x32"),
    "edm-baseline-ve-det": (27, 3.73, "baseline-cifar10-32x32-uncond-ve", None, "cifar10-32x32"),
    "edm-baseline-ve": (767, 2.23, "baseline-cifar10-32x32-uncond-ve", (80, 0.05, 1, 1.007), "cifar10-32x32"),
    "edm-baseline-img64-det": (79, 2.64, "baseline-imagenet-64x64-cond-adm", None, "imagenet-64x64-baseline"),
    "edm-baseline-img64": (
        511, 1.55, "baseline-imagenet-64x64-cond-adm", (80, 0.05, 50, 1.003), "imagenet-64x64-baseline"
    ),
    "edm-img64-det": (79, 2.22, "edm-imagenet-64x64-cond-adm", None, "imagenet-64x64"),
    "edm-img64": (511, 1.36, "edm-imagenet-64x64-cond-adm", (40, 0.05, 50, 1.003), "imagenet-64x64"),
}  # fmt: skip


def test_every_number_of_table_2():
    rows = {row.name: row for row in find("edm-2")}
    assert len(rows) == 48
    for configuration, scores in TABLE_2.items():
        for column, score in zip(COLUMNS, scores, strict=True):
            row = rows[f"edm-{column}" + ("" if configuration == "F" else f"-{configuration.lower()}")]
            assert (row.metric, row.published, row.num_images, row.repeats) == ("fid", score, 50000, 3)
            assert row.method.startswith(f"configuration {configuration}: ")
            assert row.model.startswith("DDPM++" if column.endswith("vp") else "NCSN++")
            assert "second hand" in row.note
            assert (row.runnable is None) == (configuration in "AF")
            assert row.num_steps == (18 if "cifar10" in column else 40)


def test_networks_and_references_of_table_2():
    """Of configuration A all but Song's weights are where somebody else says that they are."""
    for row in (row for row in find("edm-2") if row.net is not None):
        data, arch = FOLDERS[row.data], row.name.removesuffix("-a")[-2:]
        kind = "cond" if "-cond-" in row.name else "uncond"
        start = "baseline/baseline" if row.name.endswith("-a") else "edm"
        assert row.sources() == (f"{EDM_ROOT}/pretrained/{start}-{data}-{kind}-{arch}.pkl",)
        assert row.reference == f"{EDM_ROOT}/fid-refs/{data}.npz"
        assert row.labels == ("none" if kind == "uncond" else "random")
        songs = row.name.startswith("edm-cifar10-uncond")
        assert bool(row.assumed) == (row.name.endswith("-a") and not songs)
        of_ve = row.name.endswith("-ve-a")
        assert (row.sampler, row.schedule) == ("heun", "edm:sigma_min=0.02" if of_ve else "edm")


def test_settings_that_show_the_samplers():
    assert [row.name for row in find("edm-sampling")] == list(SAMPLING)
    for row in find("edm-sampling"):
        count, score, net, churn, reference = SAMPLING[row.name]
        assert (evaluations(row), row.published) == ({"main": count}, score)
        assert row.net == f"{net}.pkl"
        assert row.reference == f"{EDM_ROOT}/fid-refs/{reference}.npz"
        sampler, low = row.recipe().sampler, row.levels()[-1]
        if churn is None:
            assert str(sampler) == "heun"
        else:
            assert sampler.kind == "heun-edm"
            assert (sampler.S_churn, sampler.S_min, sampler.S_max, sampler.S_noise) == churn
        lowest = {"ve": 0.02, "dm": 0.0064223371}.get(net[-2:] if net.startswith("baseline") else "", 0.002)
        assert low == pytest.approx(lowest, rel=1e-7)
        assert bool(row.assumed) == (row.name == "edm-img64-det"), "which reference it is against"


def test_rows_of_another_paper_have_its_numbers():
    """EDM2's table prints others than EDM's, of the same settings."""
    names = {
        "adm-edm-img64-det-fid": ("edm-baseline-img64-det", 2.66),
        "adm-edm-img64-stoch-fid": ("edm-baseline-img64", 1.57),
        "edm-img64-det-fid": ("edm-img64-det", 2.22),
        "edm-img64-stoch-fid": ("edm-img64", 1.36),
    }
    for name, (preset, score) in names.items():
        (row,) = find(name)
        assert row.recipe() == all_presets()[preset].recipe()
        assert (row.table, row.published, row.reference) == ("edm2-3", score, REFERENCES[row.data].source)


def test_presets_are_sampled_as_published():
    presets = [preset for name, preset in all_presets().items() if name.startswith("edm-")]
    assert len(presets) == 24
    for preset in presets:
        recipe = preset.recipe()
        assert (recipe.dtype, recipe.noise_device, recipe.seed_rule, recipe.guides) == ("float64", "device", "edm2", ())
        assert REFERENCES[preset.data].metrics == ("fid",)
        assert facts_of(preset.net).bytes_per_parameter == 4
        assert preset.num_classes == (0 if "uncond" in preset.net else 10 if preset.data == "cifar10" else 1000)
        assert is_published(preset.net) == (preset.num_classes == 1000)
    assert presets[0].describe() == "baseline-cifar10-32x32-cond-vp.pkl, heun, 18 steps; published fid 2.48"


def test_a_report_names_a_precision_that_is_not_the_rows():
    (row,) = find("edm-cifar10-cond-vp")
    lines = [
        line(2.0, "fid", 50000, recipe=replace(row.recipe(), dtype=dtype)) | {"reference": {"source": row.reference}}
        for dtype in ("float64", "float32")
    ]
    text = report([row], lines, "markdown")
    assert [words for words in (", float32", ", float64") if words in text] == [", float32"]
    assert differences(row, lines[0]) == ["images resized by none, not tf1-bilinear-299"]
