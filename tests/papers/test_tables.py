"""The papers' tables as data: every number against a list typed from the papers independently, and how rows resolve."""

import pytest

from dnnlib.places import EMBEDDED
from edm2_guidance.papers import tables
from edm2_guidance.papers.presets import POSTHOC, all_presets
from edm2_guidance.papers.tables import NETWORK_NAME, TABLES, all_rows, find, how_to_make, select
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from training.reconstruct import GOOD_ERROR, find_snapshots, plan_reconstructions

S, XS, XXL, M = "s-2147483", "xs-2147483", "xxl-0939524", "m-2147483"
XSU, SU = "xs-uncond-2147483", "s-uncond-2147483"
EARLY = "xs-0134217"

# Autoguidance, Table 1: data, method, then for FID and FD-DINOv2: score, w, EMA of main and guide; last the networks.
AG1 = [
    (512, "no guidance", (2.56, None, 0.130, None), (68.64, None, 0.190, None), S, None),
    (512, "CFG", (2.23, 1.40, 0.025, 0.025), (52.32, 1.90, 0.085, 0.085), S, XSU),
    (512, "interval", (1.68, 2.10, 0.025, 0.025), (46.25, 3.20, 0.085, 0.085), S, XSU),
    (512, "autoguidance", (1.34, 2.10, 0.070, 0.125), (36.67, 2.45, 0.120, 0.165), S, EARLY),
    (512, "same EMA", (1.53, 1.95, 0.050, 0.050), (40.81, 2.25, 0.115, 0.115), S, EARLY),
    (512, "less training only", (1.51, 2.20, 0.090, 0.130), (42.27, 2.55, 0.130, 0.170), S, "s-0134217"),
    (512, "less capacity only", (2.13, 1.80, 0.120, 0.160), (59.89, 1.90, 0.140, 0.085), S, XS),
    (512, "no guidance", (1.91, None, 0.070, None), (42.84, None, 0.150, None), XXL, None),
    (512, "CFG", (1.81, 1.20, 0.015, 0.015), (33.09, 1.70, 0.015, 0.015), XXL, XSU),
    (512, "interval", (1.40, 2.00, 0.015, 0.015), (29.16, 2.90, 0.015, 0.015), XXL, XSU),
    (512, "autoguidance", (1.25, 2.05, 0.075, 0.155), (24.18, 2.30, 0.130, 0.205), XXL, "m-0268435"),
    (512, "no guidance", (11.67, None, 0.145, None), (209.53, None, 0.170, None), SU, None),
    (512, "autoguidance", (3.86, 2.85, 0.070, 0.110), (90.39, 2.90, 0.090, 0.125), SU, "xs-uncond-0134217"),
    (64, "no guidance", (1.58, None, 0.075, None), (58.52, None, 0.160, None), "s-1073741", None),
    (64, "CFG", (1.48, 1.15, 0.030, 0.030), (41.84, 1.85, 0.040, 0.040), "s-1073741", XSU),
    (64, "autoguidance", (1.01, 1.70, 0.045, 0.110), (31.85, 2.20, 0.105, 0.175), "s-1073741", EARLY),
]

# EDM2, Tables 2 and 5: size, kimg, FID EMA, FID by CFG w EMA, FD EMA, FD by CFG w EMA.
EDM2 = [
    ("xs", 2147483, 3.53, 0.135, 2.91, 1.4, 0.045, 103.39, 0.200, 79.94, 1.7, 0.150),
    ("s", 2147483, 2.56, 0.130, 2.23, 1.4, 0.025, 68.64, 0.190, 52.32, 1.9, 0.085),
    ("m", 2147483, 2.25, 0.100, 2.01, 1.2, 0.030, 58.44, 0.155, 41.98, 2.0, 0.015),
    ("l", 1879048, 2.06, 0.085, 1.88, 1.2, 0.015, 52.25, 0.155, 38.20, 1.7, 0.035),
    ("xl", 1342177, 1.96, 0.085, 1.85, 1.2, 0.020, 45.96, 0.155, 35.67, 1.7, 0.030),
    ("xxl", 939524, 1.91, 0.070, 1.81, 1.2, 0.015, 42.84, 0.150, 33.09, 1.7, 0.015),
]


def file(data, network, ema):
    return f"edm2-img{data}-{network}-{ema:.3f}.pkl"


def test_every_row_of_autoguidance_table_1():
    rows = [row for row in find("ag1") if row.net is not None]
    typed = [(case, metric) for case in AG1 for metric in ("fid", "fd_dinov2")]
    assert len(rows) == len(typed) == 32
    for row, ((data, method, fid, fd, net, gnet), metric) in zip(rows, typed, strict=True):
        score, weight, main, guide = fid if metric == "fid" else fd
        assert (row.metric, row.published) == (metric, score), row.name
        assert method in row.method
        assert row.net == file(data, net, main)
        assert row.gnets == (() if gnet is None else (file(data, gnet, guide),))
        assert row.weights == (() if gnet is None else (weight,))
        assert row.emas == ((main,) if gnet is None else (main, guide))
        assert (row.num_images, row.num_steps) == (50000, 32)
        assert row.labels == ("none" if net == SU else "random")
        assert row.reference.endswith(f"/edm2/dataset-refs/img{data}.pkl")
    (rin,) = (row for row in find("ag1") if row.net is None)
    assert (rin.model, rin.metric, rin.published, rin.data) == ("RIN", "fid", 1.23, "img64")


def test_every_row_of_interval_table_1():
    typed = [
        ("EDM2-S", "CFG", 2.23, 52.32, None, None, 1.4, 1.9),
        ("EDM2-S", "CFG in an interval", 1.68, 46.25, ("(0.28, 2.90]", 15, 21), ("(0.60, 5.00]", 13, 19), 2.1, 3.2),
        ("EDM2-XXL", "CFG", 1.81, 33.09, None, None, 1.2, 1.7),
        ("EDM2-XXL", "CFG in an interval", 1.40, 29.16, ("(0.19, 1.61]", 17, 22), ("(0.60, 5.00]", 13, 19), 2.0, 2.9),
        ("DiT-XL/2", "CFG", 3.04, 51.97, None, None, 1.5, 2.0),
        ("DiT-XL/2", "CFG in an interval", 2.40, 43.94, ("(0.34, 1.02]", 124, 198), ("(0.45, 1.23]", 109, 183), 2.5, 4),
    ]
    rows = iter(find("gi1"))
    for model, method, fid, fd, fid_where, fd_where, fid_weight, fd_weight in typed:
        for metric, score, where, weight in (
            ("fid", fid, fid_where, fid_weight),
            ("fd_dinov2", fd, fd_where, fd_weight),
        ):
            row = next(rows)
            assert (row.model, row.method, row.metric, row.published) == (model, method, metric, score)
            assert row.weights == (weight,)
            assert row.sigmas == ("" if where is None else where[0])
            assert row.interval == (None if where is None else StepInterval(*where[1:]))
            assert row.num_steps == (250 if model.startswith("DiT") else 32)
            assert row.runnable is None
            assert bool(row.assumed) == model.startswith("DiT")
    assert next(rows, None) is None


def test_printed_intervals_are_the_steps():
    printed = [row for row in all_rows() if row.sigmas.startswith("(") and row.interval is not None]
    assert [row.name for row in printed if row.translated] == ["dit-img512-interval-fid", "dit-img512-interval-dino"]
    printed = [row for row in printed if not row.translated]
    assert len(printed) == 8 + 2
    for row in printed:
        lo, hi = map(float, row.sigmas.strip("(]").split(","))
        steps, _ = SigmaInterval(lo, hi).steps(row.levels())
        assert steps == row.interval


@pytest.mark.parametrize(("table", "metric", "start"), [("edm2-2", "fid", 2), ("edm2-5", "fd_dinov2", 7)])
def test_every_size_of_edm2_tables_2_and_5(table, metric, start):
    rows = iter(row for row in find(table) if row.model.startswith("EDM2"))
    for case in EDM2:
        size, kimg = case[:2]
        score, ema, guided_score, weight, guided_ema = case[start : start + 5]
        plain, guided = next(rows), next(rows)
        assert (plain.metric, plain.published, plain.gnets) == (metric, score, ())
        assert plain.net == file(512, f"{size}-{kimg:07d}", ema)
        assert (guided.metric, guided.published, guided.weights) == (metric, guided_score, (weight,))
        assert guided.net == file(512, f"{size}-{kimg:07d}", guided_ema)
        assert guided.gnets == (file(512, XSU, guided_ema),)
        assert plain.repeats == guided.repeats == (3 if metric == "fid" else 1)
    assert next(rows, None) is None


def test_earlier_methods_of_edm2_table_2():
    typed = {
        "ADM": (23.24, 7.72), "DiT-XL/2": (12.03, 3.04), "ADM-U": (9.96, 3.85), "RIN": (3.95, None),
        "U-ViT-L": (3.54, 3.02), "VDM++": (2.99, 2.65), "StyleGAN-XL": (None, 2.41),
    }  # fmt: skip
    found = {model: [None, None] for model in typed}
    for row in find("edm2-2"):
        if not row.model.startswith("EDM2"):
            found[row.model][row.method != "no guidance"] = row.published
            assert row.metric == "fid"
            assert (row.runnable is None) == (row.model == "DiT-XL/2")
    assert found == {model: list(pair) for model, pair in typed.items()}


def test_every_row_of_edm2_table_3():
    rows = find("edm2-3")
    others = [(r.model, r.published, r.note) for r in rows if r.net is None]
    assert others == [
        ("ADM", 2.07, "250 evaluations, stochastic"),
        ("VDM++", 1.43, "511 evaluations"),
        ("RIN", 1.23, "1000 evaluations"),
    ]
    ours = [(r.model, r.published, r.net) for r in rows if r.net is not None]
    assert ours == [
        ("ADM + EDM sampling", 2.66, "baseline-imagenet-64x64-cond-adm.pkl"),
        ("ADM + EDM sampling", 1.57, "baseline-imagenet-64x64-cond-adm.pkl"),
        ("EDM training", 2.22, "edm-imagenet-64x64-cond-adm.pkl"),
        ("EDM training", 1.36, "edm-imagenet-64x64-cond-adm.pkl"),
        ("EDM2-S", 1.58, "edm2-img64-s-1073741-0.075.pkl"),
        ("EDM2-M", 1.43, "edm2-img64-m-2147483-0.060.pkl"),
        ("EDM2-L", 1.33, "edm2-img64-l-1073741-0.040.pkl"),
        ("EDM2-XL", 1.33, "edm2-img64-xl-0671088-0.040.pkl"),
    ]


def test_every_row_of_edm2_table_4():
    typed = [("xs", 1.81, 0.015), ("s", 1.80, 0.015), ("m", 1.80, 0.015), ("l", 1.86, 0.020), ("xl", 1.82, 0.020),
             ("xxl", 1.85, 0.020)]  # fmt: skip
    kimg = {size: case[0] for size, *case in EDM2}
    for row, (size, fid, ema) in zip(find("edm2-4"), typed, strict=True):
        assert (row.metric, row.published, row.weights) == ("fid", fid, (1.2,))
        assert row.net == file(512, XXL, ema)
        assert row.gnets == (file(512, f"{size}-uncond-{kimg[size]:07d}", ema),)


def test_a_row_that_is_a_preset_has_its_name_and_settings():
    rows = {row.name: row for row in all_rows()}
    for name, preset in all_presets().items():
        if name in ("mnist16", "mnist16-uncond") or name.startswith("adm-"):  # of several metrics: test_adm.py
            continue
        if name.startswith(("dit-img256", "sdxl-", "if-")):  # in no table
            continue
        row = rows[name]
        assert row.sources() == tuple(preset.sources)
        assert (row.metric, row.published, row.interval) == (preset.metric, preset.published, preset.interval)
        assert row.runnable is None


def test_a_row_in_several_tables_is_the_same_row():
    settings = {}
    for row in all_rows():
        told = {key: value for key, value in vars(row).items() if key not in ("table", "note")}
        assert settings.setdefault(row.name, told) == told
        assert row.table in TABLES
        assert row.model
        assert row.data
    assert (len(all_rows()), len(settings)) == (575, 505)
    assert {row.table for row in all_rows()} == set(TABLES)


def test_find_and_select():
    assert [row.table for row in find("edm2-img512-s-fid")] == ["ag1"]
    both = select(["gi1", "ag1", "edm2-img512-s-fid"])
    assert [row.name for row in both[:12]] == [row.name for row in find("gi1")]
    assert len({row.name for row in both}) == len(both) == 33 + 4
    with pytest.raises(ValueError, match=r"near it: .*edm2-img512-s-autog-fid"):
        find("edm2-img512-s-auto-fid")
    with pytest.raises(ValueError, match=r"there is no table or row '\?\?' \(all: reproduce\.py list\)"):
        find("??")


def test_what_is_not_published_names_the_command_that_makes_it(tmp_path):
    (row,) = find("edm2-img512-s-autog-training-only-fid")
    root = "https://nvlabs-fi-cdn.nvidia.com/edm2"
    command = (
        f"python reconstruct_phema.py --indir={root}/raw-snapshots/edm2-img512-s --outdir=networks "
        "--outprefix=edm2-img512-s --outkimg=134217 --outstd=0.130"
    )
    assert command in row.runnable
    assert row.sources(tmp_path) == (str(tmp_path / row.net), str(tmp_path / row.gnets[0]))
    assert row.missing(tmp_path) == row.files
    (tmp_path / row.net).touch()
    assert row.missing(tmp_path) == row.gnets
    (tmp_path / row.gnets[0]).touch()
    assert row.missing(tmp_path) == ()


def test_one_reconstruction_serves_all_lengths_of_a_run():
    files = ["edm2-img512-s-2147483-0.090.pkl", "edm2-img512-s-2147483-0.050.pkl", "edm2-img512-s-2147483-0.130.pkl"]
    (line,) = how_to_make(files, "nets")  # the last one is published
    assert line.endswith("--outdir=nets --outprefix=edm2-img512-s --outkimg=2147483 --outstd=0.050,0.090")
    with pytest.raises(ValueError, match=r"mine\.pkl is not named"):
        how_to_make(["mine.pkl"])


def test_a_network_that_was_never_released_is_trained_first():
    (row,) = find("edm2-img64-s-guid-fid")
    assert row.runnable.startswith("no network of edm2-img64-xs-uncond is known to be released; to make it: ")
    train, reconstruct = how_to_make(row.gnets)
    assert "train_edm2.py --preset=edm2-img64-xs --cond=False --duration=2048Mi --data=datasets/img64.zip" in train
    assert "--indir=training-runs/edm2-img64-xs-uncond " in reconstruct


def test_recipes_say_what_the_row_says():
    (row,) = find("edm2-img512-xxl-interval-fid")
    recipe = row.recipe()
    assert recipe.net.source == POSTHOC + "edm2-img512-xxl-0939524-0.015.pkl"
    (guide,) = recipe.guides
    assert (guide.net.source, guide.weight.w, guide.interval) == (
        POSTHOC + "edm2-img512-xs-uncond-2147483-0.015.pkl", 2.0, StepInterval(17, 22)
    )  # fmt: skip
    blend = find("mnist16-blend")[0].recipe()
    assert [g.net.name for g in blend.guides] == ["mnist16-uncond", "mnist16-weak"]
    assert blend.num_steps == 16
    with pytest.raises(ValueError, match="real images"):
        find("mnist16-floor")[0].recipe()
    with pytest.raises(ValueError, match="a number copied from another paper"):
        find("rin-img512-fid")[0].recipe()


def test_the_table_of_digits():
    rows = find("mnist16")
    assert [row.name for row in rows] == [
        f"mnist16-{kind}" for kind in ("unguided", "cfg", "interval", "autog", "classifier", "blend", "floor")
    ]
    for row in rows:
        assert (row.metric, row.published, row.num_images, row.runnable) == ("fd_mnist", None, 5000, None)
        assert row.reference == str(EMBEDDED / "mnist16-refs.npz")
        assert row.missing() == ()
        assert all((EMBEDDED / file).is_file() for file in row.files)
    assert [row.repeats for row in rows] == [3] * 7


def test_spread_is_stated_for_fid_alone():
    assert find("edm2-img512-s-fid")[0].spread == 2.0
    assert find("edm2-img512-s-dino")[0].spread is None
    assert find("mnist16-cfg")[0].spread is None


def test_files_of_other_names_have_no_stated_ema():
    assert tables.find("mnist16-cfg")[0].emas == (None, None)


def test_rows_whose_networks_snapshots_do_not_give_well_say_so(tmp_path):
    """Beside the number that reconstruct_phema.py would warn with."""
    poor = {}
    for each in all_rows():
        for match in filter(None, map(NETWORK_NAME.fullmatch, each.missing(tmp_path))):
            ema, kimg = float(match["ema"]), int(match["kimg"])
            snapshots = find_snapshots(f"https://server/raw-snapshots/{match['run']}", kimg=kimg)
            error = plan_reconstructions(snapshots, [ema], tmp_path, match["run"]).outputs[0].error
            if error > GOOD_ERROR:
                poor[each.name] = f"profile error {100 * error:.1f} % at {match['ema']}"
    assert poor
    for each in all_rows():
        assert ("profile error" in each.note) == (each.name in poor), each.name
        assert poor.get(each.name, "") in each.note
