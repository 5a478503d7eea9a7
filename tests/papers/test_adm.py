"""ADM's tables as data: every number against a list typed from the paper independently, and how rows resolve."""

import pytest

from edm2_guidance.papers.presets import all_presets
from edm2_guidance.papers.references import ADM_BATCHES, REFERENCES
from edm2_guidance.papers.tables import all_rows, find

# FID, sFID, precision, recall, IS where the table prints it.
TABLE_4 = {
    "adm-256-uncond": (26.21, 6.35, 0.61, 0.63, 39.70),
    "adm-256-uncond-g1": (33.03, 6.99, 0.56, 0.65, 32.92),
    "adm-256-uncond-g10": (12.00, 10.40, 0.76, 0.44, 95.41),
    "adm-256": (10.94, 6.02, 0.69, 0.63, 100.98),
    "adm-256-g": (4.59, 5.25, 0.82, 0.52, 186.70),
    "adm-256-g10": (9.11, 10.93, 0.88, 0.32, 283.92),
}
TABLE_5 = {
    "adm-64": (2.07, 4.29, 0.74, 0.63),
    "adm-64-nodropout": (2.61, 3.77, 0.73, 0.63),
    "adm-128": (5.91, 5.09, 0.70, 0.65),
    "adm-128-g25": (5.98, 7.04, 0.78, 0.51),
    "adm-128-g": (2.97, 5.09, 0.78, 0.59),
    "adm-256": (10.94, 6.02, 0.69, 0.63),
    "adm-256-u": (7.49, 5.13, 0.72, 0.63),
    "adm-256-g25": (5.44, 5.32, 0.81, 0.49),
    "adm-256-g": (4.59, 5.25, 0.82, 0.52),
    "adm-256-gu": (3.94, 6.14, 0.83, 0.53),
    "adm-512": (23.24, 10.19, 0.73, 0.60),
    "adm-512-u": (9.96, 5.62, 0.75, 0.64),
    "adm-512-g25": (8.41, 9.67, 0.83, 0.47),
    "adm-512-g": (7.72, 6.57, 0.87, 0.42),
    "adm-512-gu-25-25": (5.96, 12.10, 0.81, 0.54),
    "adm-512-gu-250-25": (4.11, 9.57, 0.83, 0.55),
    "adm-512-gu": (3.85, 5.86, 0.84, 0.53),
    "adm-lsun-bedroom": (1.90, 5.59, 0.66, 0.51),
    "adm-lsun-horse": (2.57, 6.81, 0.71, 0.55),
    "adm-lsun-horse-nodropout": (2.95, 5.94, 0.69, 0.55),
    "adm-lsun-cat": (5.57, 6.69, 0.63, 0.52),
}
TABLE_6 = {
    "adm-256": (10.94, 6.02, 0.69, 0.63, 100.98),
    "adm-256-u": (7.49, 5.13, 0.72, 0.63, 127.49),
    "adm-256-g": (4.59, 5.25, 0.82, 0.52, 186.70),
    "adm-256-gu": (3.94, 6.14, 0.83, 0.53, 215.84),
    "adm-512": (23.24, 10.19, 0.73, 0.60, 58.06),
    "adm-512-u": (9.96, 5.62, 0.75, 0.64, 121.78),
    "adm-512-g": (7.72, 6.57, 0.87, 0.42, 172.71),
    "adm-512-gu-25-25": (5.96, 12.10, 0.81, 0.54, 187.87),
    "adm-512-gu-250-25": (4.11, 9.57, 0.83, 0.55, 219.29),
    "adm-512-gu": (3.85, 5.86, 0.84, 0.53, 221.72),
}
METRICS = ("fid", "sfid", "precision:adm", "recall:adm", "is:adm")
# Scale, sampler and list of steps of every guided setting: the paper's Section 4.3 and Table 14, and the README.
GUIDED = {
    "adm-64-g": (1, "ddpm", "250"),
    "adm-128-g": (0.5, "ddpm", "250"),
    "adm-128-g25": (1.25, "ddim", "ddim25"),
    "adm-256-g": (1, "ddpm", "250"),
    "adm-256-g10": (10, "ddpm", "250"),
    "adm-256-g25": (2.5, "ddim", "ddim25"),
    "adm-256-uncond-g1": (1, "ddpm", "250"),
    "adm-256-uncond-g10": (10, "ddpm", "250"),
    "adm-512-g": (4, "ddpm", "250"),
    "adm-512-g25": (9, "ddim", "ddim25"),
}


@pytest.mark.parametrize(("table", "typed"), [("adm-4", TABLE_4), ("adm-5", TABLE_5), ("adm-6", TABLE_6)])
def test_every_number_of_the_table(table, typed):
    found = {}
    for row in find(table):
        found.setdefault(row.name.rsplit("-", 1)[0], []).append((row.metric, row.published))
    assert {name: tuple(value for _, value in scores) for name, scores in found.items()} == typed
    assert all(tuple(metric for metric, _ in scores) == METRICS[: len(scores)] for scores in found.values())


def test_scales_samplers_and_steps_of_guided_settings():
    presets = {name: preset for name, preset in all_presets().items() if preset.classifier is not None}
    adm = {name: preset for name, preset in presets.items() if preset.net.endswith("_diffusion.pt") or "uncond" in name}
    assert {
        name: (preset.classifier_scale, preset.sampler, preset.schedule.rsplit("=", 1)[1])
        for name, preset in adm.items()
    } == GUIDED
    for name, preset in adm.items():
        assert preset.classifier.rsplit("/", 1)[1] == f"{name.split('-')[1]}x{name.split('-')[1]}_classifier.pt"
        (guide,) = preset.recipe().guides
        assert (
            str(guide.weight) == f"{'posterior' if preset.sampler == 'ddpm' else 'constant'}:w={1 + GUIDED[name][0]:g}"
        )


def test_only_the_network_of_64_pixels_has_the_cosine_schedule():
    schedules = {p.net.rsplit("/", 1)[1]: p.schedule for p in all_presets().values() if p.net.endswith(".pt")}
    assert {net for net, text in schedules.items() if "cosine" in text} == {"64x64_diffusion.pt"}
    assert all("linear" in text for net, text in schedules.items() if net != "64x64_diffusion.pt")


def test_published_samples_are_rows_of_their_own():
    rows = find("adm-samples")
    assert len({row.samples for row in rows}) == 14
    for row in rows:
        assert row.runnable is None
        assert row.metric in REFERENCES[row.data].metrics
        assert row.samples.startswith(f"{ADM_BATCHES}/{row.data.removeprefix('adm')}/admnet_")
    found = [row.published for row in rows if row.name.startswith("adm-512-g25-samples")]
    assert found == [8.41, 9.67, 0.83, 0.47]


def test_names_are_of_one_setting_and_one_metric():
    rows = [row for row in all_rows() if row.table.startswith("adm-")]
    assert len({(row.table, row.name) for row in rows}) == len(rows)
    for name in {row.name for row in rows}:
        assert len({(row.metric, row.published, row.base, row.sampler) for row in rows if row.name == name}) == 1
