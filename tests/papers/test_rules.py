"""The tables of papers about guidance rules: every number against a list typed from the papers, and what rows make."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from edm2_guidance.commands import calculate_metrics, network_tool, reproduce
from edm2_guidance.papers import rules
from edm2_guidance.papers.costs import evaluations
from edm2_guidance.papers.tables import all_rows, find, select
from edm2_guidance.recipe.intervals import StepInterval

TABLES = list(dict.fromkeys(setting.table for setting in rules.settings()))

# Setting: scores, of FID and FD-DINOv2 unless the table says otherwise; None where there is none.
FEEDBACK = {
    "": {"cfg": (2.97, 88.4), "linear": (2.75, 97.1), "cfgpp": (3.66, 87.8), "interval": (2.31, 77.1),
         "feedback": (2.50, 75.6), "feedback-interval": (2.45, 74.6)},
    "-stochastic": {"cfg": (5.00, 100.2), "linear": (4.58, 103.1), "interval": (3.59, 88.5), "feedback": (3.76, 89.0),
                    "feedback-interval": (3.62, 87.9)},
}  # fmt: skip
STIFF = {
    "unguided-32": ((2.58, 90.1), (2.74, 82.8)), "unguided-16": ((2.79, 97.4), (2.68, 88.9)),
    "unguided-8": ((7.06, 161.2), (4.91, 136.9)), "cfg-32": ((2.27, 88.5), (2.27, 83.9)),
    "cfg-16": ((3.61, None), (3.20, None)), "autog-32": ((1.36, 50.4), (1.36, 47.6)),
    "autog-16": ((2.32, None), (1.93, None)),
}  # fmt: skip
WINDOWS = {
    "s-swg": (2.59, 56.1), "s-cfg": (None, 52.9), "s-rct": (None, 42.1), "xxl-swg": (2.61, 37.7),
    "xxl-cfg": (None, 36.7), "xxl-cfg-mswg": (None, 36.2),
    "s-unguided": (2.91, 112), "s-mswg-1.2": (2.55, 81.35), "s-mswg-2.1": (4.96, 53.45), "s-rt": (1.79, 46.5),
    "s-rt-mswg": (3.35, 40.94), "s-rct-mswg": (3.22, 39.17), "s-cfg-mswg": (7.57, 51.86), "xxl-unguided": (2.29, 49.7),
    "xxl-rt": (2.26, 34.6), "xxl-mswg": (2.46, 36.8), "xxl-rt-mswg": (2.26, 32.9), "xxl-rct": (None, 30.3),
    "xxl-rct-mswg": (None, 29.8), "s-uncond": (13.7, 250), "s-uncond-rt": (4.89, 107.8),
    "s-uncond-mswg": (9.32, 149.4), "s-uncond-rct": (None, 97.9), "s-uncond-rct-mswg": (None, 91.8),
}  # fmt: skip
# By sampler, network and metric: at 16, 32 and 64 steps of EDM's schedule, then of the entropic one.
ENTROPY = {
    ("deterministic", "xs", "fid"): (10.42, 4.81, 3.83, 7.57, 4.44, 3.75),
    ("deterministic", "xs", "dino"): (156.5, 115.9, 107.1, 157.3, 116.5, 106.8),
    ("deterministic", "xxl", "fid"): (9.68, 3.47, 2.41, 5.91, 2.78, 2.14),
    ("deterministic", "xxl", "dino"): (79.56, 52.60, 46.27, 68.36, 48.26, 43.83),
    ("stochastic", "xs", "fid"): (32.31, 10.01, 4.98, 13.64, 4.98, 3.80),
    ("stochastic", "xs", "dino"): (294, 149.9, 107.0, 182, 109.7, 97.1),
    ("stochastic", "xxl", "fid"): (30.39, 8.80, 3.81, 13.38, 3.83, 2.60),
    ("stochastic", "xxl", "dino"): (218, 95.2, 60.8, 108.2, 57.1, 46.75),
}
TYPED = {
    "gi-steps": {"gi-s-16-cfg": (2.49, None), "gi-s-16-interval": (1.84, None), "gi-s-64-cfg": (2.27, None),
                 "gi-s-64-interval": (1.70, None)},
    "fbg-512": {f"fbg-{name}{how}": pair for how, pairs in FEEDBACK.items() for name, pair in pairs.items()},
    "icg-512": {"icg-cfg": (3.36, 79.94), "icg": (3.35, 79.54)},
    "power-law-512": {"power-law-cfg": (2.29, None), "power-law": (1.93, None), "power-law-cads": (1.52, None),
                      "power-law-dit": (2.27, None), "power-law-dit-cads": (1.63, None)},
    "erk-512": {f"erk-{name}{end}": pair for name, pairs in STIFF.items()
                for end, pair in zip(("-heun", ""), pairs, strict=True)},
    "c2fg-64": {"c2fg-autog": (1.04, None), "c2fg": (1.03, None)},
    "swg-512": {f"swg-{name}": pair for name, pair in WINDOWS.items()},
    "ddo-512": {"ddo-l": (1.26, None), "ddo-l-autog": (1.21, None)},
    "ddo-64": {"ddo-s": (0.97, None)},
    "ambient-512": {"ambient-xs": (3.59, 107.26), "ambient-xs-cfg": (2.89, 79.56), "ambient-xxl": (1.91, 42.84),
                    "ambient-xxl-cfg": (1.80, 32.63)},
}  # fmt: skip
# FID, precision and recall, 10,000 images by ADM's evaluator.
TEN_THOUSAND = {
    "fdg-10k": {"fdg-s-cfg": (9.77, 0.85, 0.52), "fdg-s": (5.44, 0.83, 0.68), "fdg-xxl-cfg": (8.65, None, None),
                "fdg-xxl": (4.99, None, None), "fdg-dit-cfg": (9.31, None, None), "fdg-dit": (5.33, None, None)},
    "apg-10k": {"apg-s-cfg": (10.42, None, 0.48), "apg-s": (6.49, None, 0.62),
                "apg-s-no-projection": (6.63, None, None), "apg-s-no-rescaling": (7.93, None, None),
                "apg-s-no-momentum": (6.85, None, None), "apg-xxl-cfg": (8.65, None, None),
                "apg-xxl": (4.94, None, None), "apg-dit-cfg": (19.14, None, None), "apg-dit": (9.34, None, None)},
}  # fmt: skip


def scores_of(table, endings):
    """The scores of a table's rows by setting, one for each ending of their names."""
    found = {}
    for row in find(table):
        setting, _, ending = row.name.rpartition("-")
        found.setdefault(setting, dict.fromkeys(endings))[ending] = row.published
    return {setting: tuple(scores.values()) for setting, scores in found.items()}


@pytest.mark.parametrize("table", TYPED)
def test_every_number_of_fid_and_fd_dinov2(table):
    assert scores_of(table, ("fid", "dino")) == TYPED[table]
    assert {row.num_images for row in find(table)} == {50000}


@pytest.mark.parametrize("table", TEN_THOUSAND)
def test_every_number_of_ten_thousand_images(table):
    assert scores_of(table, ("fid", "precision", "recall")) == TEN_THOUSAND[table]
    for row in find(table):
        assert row.num_images == 10000
        assert row.reference.endswith(("VIRTUAL_imagenet512.npz", "VIRTUAL_imagenet256_labeled.npz"))
        assert ("1000 images instead of 10000" in row.note) == (row.metric != "fid")


def test_every_number_of_entropic_schedules():
    rows = {row.name: row.published for row in find("entropy-512")}
    assert rows == {
        f"entropy-{size}-{how}-{steps}-{schedule}-{metric}": score
        for (how, size, metric), scores in ENTROPY.items()
        for (schedule, steps), score in zip(
            [(schedule, steps) for schedule in ("edm", "entropy") for steps in (16, 32, 64)], scores, strict=True
        )
    }


def test_all_tables_are_typed_here():
    assert {*TYPED, *TEN_THOUSAND, "entropy-512", "reg-512"} == set(TABLES)
    (curves,) = find("reg-512")
    assert curves.published is None


def test_a_row_has_a_recipe_or_says_why_not():
    states = {"made": 0, "searched": 0, "blocked": 0}
    for row in select(TABLES):
        if row.blocked is None:
            recipe = row.recipe()
            assert (recipe.net.name, recipe.num_steps) == (row.net.removesuffix(".pkl"), row.num_steps)
            assert [str(recipe.rule), str(recipe.sampler), str(recipe.schedule)] == [
                row.rule, row.sampler, row.schedule
            ]  # fmt: skip
            assert ",".join(map(str, recipe.around)) == row.around
            states["made"] += 1
            continue
        states["searched" if "reproduce.py search" in row.blocked else "blocked"] += 1
        with pytest.raises(ValueError, match=row.name):
            row.recipe()
    assert states == STATES


STATES = {"made": 104, "searched": 27, "blocked": 51}


def recipe_of(name):
    return find(name)[0].recipe()


def test_rules_weights_and_references_are_those_of_the_papers():
    guides = {name: [(guide.net and guide.net.name, str(guide.weight), str(guide.reference)) for guide in recipe.guides]
              for name in ("icg-fid", "fbg-feedback-interval-fid", "c2fg-fid", "reg-interval-fid", "ddo-l-autog-fid")
              for recipe in [recipe_of(name)]}  # fmt: skip
    assert guides == {
        "icg-fid": [(None, "constant:w=1.25", "other-label")],
        "fbg-feedback-interval-fid": [
            ("edm2-img512-xs-uncond-2147483-0.045", "feedback:w=2.6:t1=0.492:lo=0.48:hi=6.84", "network")
        ],
        "c2fg-fid": [("edm2-img64-xs-0134217-0.110", "c2fg:w=1.7", "network")],
        "reg-interval-fid": [("edm2-img512-xs-uncond-2147483-0.025", "constant:w=3", "network")],
        "ddo-l-autog-fid": [("edm2-img512-xs-0134217-0.165", "constant:w=1.1", "network")],
    }
    assert recipe_of("reg-interval-fid").guides[0].interval == StepInterval(15, 22)
    apg = {name: str(recipe_of(f"apg-s{name}-fid").rule)
           for name in ("", "-no-projection", "-no-rescaling", "-no-momentum")}  # fmt: skip
    assert apg == {
        "": "apg", "-no-projection": "apg:parallel=1", "-no-rescaling": "apg:radius=inf",
        "-no-momentum": "apg:momentum=0",
    }  # fmt: skip
    fdg = recipe_of("fdg-xxl-fid")
    assert (1 + fdg.rule.low * (fdg.guides[0].weight.w - 1), fdg.guides[0].weight.w) == (1, 2)  # low, high
    assert {row.labels for row in find("ddo-512")} == {"balanced"}
    assert recipe_of("swg-s-uncond-fid").labels == "none"
    assert {row.first_seed for row in find("erk-512") if row.net is not None} == {100000}


def test_settings_of_the_correction_for_stiffness():
    """w_stiff and w_con by what is corrected."""
    typed = {
        "unguided-32": (2, 0.5), "unguided-16": (0.75, 0.3), "unguided-8": (0.5, 0.1), "cfg-32": (1, 0.5),
        "cfg-16": (0.75, 0.5), "autog-32": (1, 0.5), "autog-16": (0.75, 0.5),
    }  # fmt: skip
    for name, pair in typed.items():
        recipe, plain = recipe_of(f"erk-{name}-fid"), recipe_of(f"erk-{name}-heun-fid")
        (around,) = recipe.around
        assert (around.w_stiff, around.w_con) == pair, name
        assert replace(recipe, around=()) == plain
        assert evaluations(find(f"erk-{name}-fid")[0]) == evaluations(find(f"erk-{name}-heun-fid")[0])


@pytest.mark.parametrize(("steps", "first", "last"), [(16, 8, 10), (64, 31, 44)])
def test_an_interval_in_noise_levels_at_other_numbers_of_steps(steps, first, last):
    """Those of the levels of EDM's schedule, written out, that lie in (0.28, 2.90]."""
    levels = [(80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(steps)]
    assert [i for i, level in enumerate(levels) if 0.28 < level <= 2.90] == list(range(first, last + 1))
    assert find(f"gi-s-{steps}-interval-fid")[0].interval == StepInterval(first, last)


def test_scores_of_one_setting_are_of_the_same_images():
    fid, recall = find("apg-s")
    assert (fid.images, fid.together) == (recall.images, recall.together)
    assert {"fid", "recall:adm"} <= set(fid.together)
    (alone,) = find("apg-s-no-momentum-fid")
    assert alone.together == ("fid",)
    assert alone.images == alone.name


def test_only_tables_of_the_same_authors_state_their_spread():
    spread = {row.table for row in all_rows() if row.spread is not None}
    assert spread == {"ag1", "gi1", "gi-steps", "edm2-2", "edm2-3", "edm2-4"}


def test_what_measures_and_scores_an_entropic_schedule_are_commands():
    rows = [row for row in find("entropy-512") if row.blocked]
    assert len(rows) == 24
    for row in rows:
        measure, score = row.blocked.partition("; to make it: ")[2].split("; ")
        options = [dict(word[2:].split("=", 1) for word in shlex.split(line)[3:]) for line in (measure, score)]
        network_tool.main.commands["entropy"].make_context("entropy", shlex.split(measure)[3:])
        calculate_metrics.main.commands["gen"].make_context("gen", [
            "--schedule=edm" if word.startswith("--schedule=") else word for word in shlex.split(score)[3:]
        ])  # fmt: skip
        assert options[1]["schedule"] == f"entropy:file={options[0]['out']}:rescaled"
        assert options[0]["net"] == options[1]["net"] in {source for row in all_rows() for source in row.sources()}
        assert (options[1]["metrics"], int(options[1]["steps"])) == (row.metric, int(row.name.split("-")[3]))
        assert options[1]["sampler"] == ("ddpm:clip=false" if "stochastic" in row.name else "euler")


def test_windows_are_a_reference_of_the_main_network():
    for name, w in (("swg-s-mswg-1.2-fid", 1.2), ("swg-s-mswg-2.1-dino", 2.1)):
        (guide,) = recipe_of(name).guides
        assert (guide.net, guide.weight.w, str(guide.reference)) == (None, w, "crops")
        assert evaluations(find(name)[0]) == {"main": 63 * (1 + 4)}


def test_what_finds_a_missing_weight_is_a_command(monkeypatch, tmp_path):
    """It is taken up to the point where networks are opened; those that are made first are taken to be there."""
    monkeypatch.chdir(tmp_path)
    Path("networks").mkdir()

    def opened(*args):
        raise ValueError("reached")

    monkeypatch.setattr(reproduce, "runner_from", opened)
    commands = {row.blocked.partition("; to find it: python reproduce.py ")[2] for row in select(TABLES) if row.blocked}
    assert len(commands) == 1 + STATES["searched"]
    for command in filter(None, commands):
        for file in re.findall(r"networks/\S+\.pkl", command):
            Path(file).touch()
        done = CliRunner().invoke(reproduce.main, shlex.split(command))
        assert "reached" in done.output, command
