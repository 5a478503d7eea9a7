"""Costs against the papers' arithmetic, our own networks and the sampler itself."""

import math

import pytest
import torch

from dnnlib.published import PUBLISHED
from edm2_guidance.models import family_of
from edm2_guidance.models.adm_files import PUBLISHED as ARCHITECTURES
from edm2_guidance.papers.costs import (
    all_networks,
    cost,
    downloads,
    evaluations,
    facts_of,
    feature_bytes,
    png_bytes,
    reference_bytes,
    snapshot_bytes,
    tflop_per_image,
)  # fmt: skip
from edm2_guidance.papers.plan import plan_lines, size, total_lines
from edm2_guidance.papers.rates import Rates
from edm2_guidance.papers.tables import all_rows, find, select
from edm2_guidance.papers.train_presets import find_train_preset
from edm2_guidance.sampling.guidance.guided import Counted, guided
from tests.functions import network, steps_of
from training.networks_edm2 import Precond

SIZES = ["xs", "s", "m", "l", "xl", "xxl"]


def row(name):
    return find(name)[0]


@pytest.mark.parametrize(
    ("size", "plain", "guided"),
    [("xs", 4.13, 6.99), ("s", 7.70, 10.57), ("m", 12.65, 15.52), ("l", 19.04, 21.91), ("xl", 26.83, 29.70),
     ("xxl", 36.04, 38.91)],
)  # fmt: skip
def test_tflop_per_image_of_edm2_table_6(size, plain, guided):
    assert round(tflop_per_image(row(f"edm2-img512-{size}-fid")), 2) == plain
    assert round(tflop_per_image(row(f"edm2-img512-{size}-guid-fid")), 2) == guided


def test_tflop_per_image_of_edm2_table_4():
    assert [round(tflop_per_image(r), 1) for r in find("edm2-4")] == [38.9, 42.5, 47.4, 53.8, 61.6, 70.8]


def test_published_gflops_are_those_of_the_tables():
    published = {name: facts.gflops for name, facts in all_networks().items() if facts.gflops_from == "published"}
    assert published == {
        **{f"edm2-img512-{s}": g for s, g in zip(SIZES, (45.5, 102.2, 180.8, 282.2, 405.9, 552.1), strict=True)},
        **{f"edm2-img64-{s}": g for s, g in zip(SIZES[1:5], (101.9, 180.8, 282.1, 405.9), strict=True)},
    }


def test_images_of_64_pixels_have_no_decoder():
    assert tflop_per_image(row("edm2-img64-s-fid")) == pytest.approx(63 * 101.9e-3, rel=1e-12)


def test_guided_evaluations_of_intervals():
    assert evaluations(row("edm2-img512-xxl-interval-fid")) == {"main": 63, "guide 1": 12}  # 6 of 32 steps
    assert evaluations(row("edm2-img512-xxl-interval-dino")) == {"main": 63, "guide 1": 14}
    assert evaluations(row("edm2-img512-s-interval-fid")) == {"main": 63, "guide 1": 14}
    assert evaluations(row("edm2-img512-s-guid-fid")) == {"main": 63, "guide 1": 63}
    assert evaluations(row("edm2-img512-s-fid")) == {"main": 63}
    assert evaluations(row("dit-img512-interval-fid")) == {"main": 250 + 75}
    assert evaluations(row("rin-img512-fid")) == {}


@pytest.mark.parametrize("name", ["mnist16-blend", "mnist16-interval", "edm2-img512-xxl-interval-fid"])
def test_evaluations_are_those_of_the_sampler(name):
    it = row(name)
    counted = [Counted(network(lambda x, sigma: x * 0.5)) for _ in it.files]
    guides = zip(it.recipe().guides, counted[1:], strict=True)
    for _ in steps_of(guided(counted[0], list(guides)), torch.ones(1, 1, 1, 1), it.levels()):
        pass
    assert [net.evaluations for net in counted] == list(evaluations(it).values())


@pytest.mark.parametrize("name", [name for name in all_networks() if name.startswith("edm2")])
def test_parameters_of_the_published_networks(name):
    preset = find_train_preset(name.removesuffix("-uncond"))
    with torch.device("meta"):
        net = Precond(
            64, 4 if "img512" in name else 3, 0 if "uncond" in name else 1000, model_channels=int(preset["channels"])
        )
    assert sum(p.numel() for p in net.parameters()) == all_networks()[name].params


def test_facts_of_the_embedded_networks():
    networks = {pair for row in find("mnist16") for pair in zip(row.files, row.sources(), strict=True)}
    networks |= {pair for row in find("adm-mnist16") for pair in zip(row.files, row.sources(), strict=True)}
    for file, source in networks:
        counted, facts = family_of(source).cost(source), facts_of(file)
        assert counted.parameters == facts.params
        assert counted.gflops == pytest.approx(facts.gflops, rel=1e-9)


def test_parameters_of_the_networks_of_adm():
    for name, arch in ARCHITECTURES.items():
        facts = facts_of(PUBLISHED[name].url)
        assert facts.params == sum(weights.numel() for weights in arch.empty().parameters()), name
        assert facts.bytes == 4 * facts.params


def test_sizes():
    assert facts_of("edm2-img512-xs-2147483-0.135.pkl").bytes == pytest.approx(238 * 2**20, rel=0.005)
    assert reference_bytes(row("edm2-img512-s-fid")) == 8 * (2048 + 2048**2 + 1024 + 1024**2)
    assert [size(n) for n in (12, 362_900, 2.5e8, 3.0463e9, 2e12)] == [
        "12 bytes",
        "363 kB",
        "250 MB",
        "3.05 GB",
        "2 TB",
    ]
    with pytest.raises(ValueError, match="nothing is known of the cost of mine"):
        facts_of("mine.pkl")


def test_features_are_kept_once_for_all_metrics_of_an_extractor():
    assert feature_bytes(["fid", "fd/inception"], 1000) == feature_bytes(["fid"], 1000) == 4 * 1000 * 2048
    assert feature_bytes(["fid", "fd_mnist"], 10) == 4 * 10 * (2048 + 64)


def test_downloads_count_every_file_once(tmp_path):
    rows = select(["edm2-img512-s-guid-fid", "edm2-img512-xxl-guid-fid", "edm2-img512-xxl-guid-dino"])
    files = downloads(rows)
    networks = [name for name in files if name.endswith(".pkl") and "dataset-refs" not in name]
    assert len(networks) == 4  # both metrics of XXL share both networks
    assert sum(files.values()) == (
        2 * (280212837 + 124201253) + 2 * (1523164773 + 124201253)
        + reference_bytes(rows[0]) + 95_628_359 + 1_217_586_395 + 335_000_000
    )  # fmt: skip
    assert downloads(find("mnist16")) == {}


def test_a_network_to_reconstruct_is_not_downloaded_but_its_snapshots_are():
    it = row("edm2-img512-s-autog-training-only-fid")
    assert not any("edm2-img512-s-" in name for name in downloads([it]))
    every_32_mi = 2147483648 // (32 * 2**20)
    assert snapshot_bytes(it.files) == 2 * every_32_mi * 2 * 280212837
    assert snapshot_bytes(it.gnets) == 2 * 4 * 2 * 280212837  # up to 128 Mi
    assert snapshot_bytes(["edm2-img512-m-uncond-2147483-0.015.pkl"]) == 0  # nothing to fetch: it is trained


def test_cost_of_a_row():
    it = row("edm2-img512-xxl-interval-fid")
    made = cost(it)
    assert made.tflop == pytest.approx((63 * 552.1 + 12 * 45.5 + 1260.9) / 1000)
    assert made.pflop == pytest.approx(made.tflop * 150)
    assert made.hours == pytest.approx(made.pflop / 0.04 / 3600)
    assert made.features == 50000 * 2048 * 4
    half = cost(it, num=25000, rates=Rates([(1.0, 80.0)], "given"))
    assert (half.pflop, half.hours) == pytest.approx((made.pflop / 2, made.hours / 4))
    assert cost(row("edm2-img512-xxl-guid-dino")).repeats == 1
    assert cost(row("mnist16-floor")) is None


def test_a_default_throughput_gives_the_hours_that_the_paper_states():
    eight = cost(row("edm2-img512-s-autog-fid"), gpus=8)
    assert 0.4 < eight.hours / 3 < 1.0  # "30 to 60 min on 8 A100"


def test_every_row_has_a_plan(tmp_path):
    for it in all_rows():
        made = cost(it)
        text = "\n".join(plan_lines(it, made, tmp_path))
        assert text.startswith(f"{it.name}: {it.metric}")
        if it.blocked is not None:
            assert f"cannot run   {it.blocked}" in text
        elif made is not None:
            steps = 2 * it.num_steps - 1 if it.sampler.startswith("heun") else it.num_steps
            of_main = sum(
                guide.reference.evaluations() * (steps if guide.interval is None else 75)  # of DiT, by hand
                for guide in it.recipe().guides
                if guide.net is None
            )
            assert f"{steps + of_main} main" in text
            assert math.isfinite(made.hours)
            assert ("make first" in text) == (it.runnable is not None)


def test_rows_of_adm_count_gradients_bases_and_shared_images():
    it = row("adm-256-gu-sfid")
    assert evaluations(it) == {"main": 250, "base main": 250, "base classifier 1": 250}
    gflops = 631.643 + 109.679 + 2 * 19.079  # forward, and back to the image
    assert tflop_per_image(it) == pytest.approx(250 * gflops / 1000, rel=1e-4)
    rows = find("adm-256-gu")
    text = "\n".join(total_lines([cost(each) for each in rows]))
    assert "together: 5 rows" in text
    assert f"{cost(it).pflop:,.0f} PFLOP" in text, "one pass gives all five"
    networks = {name: n for name, n in downloads(rows).items() if name.endswith(("r.pt", "n.pt"))}
    assert sum(networks.values()) == 4 * (311_795_910 + 295_904_454 + 65_438_568)


def test_gradients_and_references_asked_of_the_main_network_are_counted():
    it = row("reg-interval-fid")
    assert evaluations(it) == {"main": 63, "guide 1": 16, "main gradient": 16}  # steps 15 to 22, twice each
    assert tflop_per_image(it) == pytest.approx(((63 + 16) * 102.2 + 16 * 45.5 + 1260.9) / 1000)
    text = "\n".join(plan_lines(it, cost(it)))
    assert "63 main + 16 guide = 79 per image, 16 of them with the gradient, 32 steps" in text
    it = row("icg-dino")
    assert tflop_per_image(it) == pytest.approx((126 * 45.5 + 1260.9) / 1000)
    assert "guided by the main network (other-label), w = 1.25" in "\n".join(plan_lines(it, cost(it)))


def test_a_row_against_another_reference_fetches_that_and_has_the_decoder():
    it = row("fdg-s-fid")
    assert it.reference in downloads([it])
    assert it.reference.endswith("VIRTUAL_imagenet512.npz")
    assert "the Stability VAE" in downloads([it])
    assert reference_bytes(it) == reference_bytes(row("adm-512-fid"))


def test_a_pipeline_is_fetched_whole_and_decodes_its_latents():
    it = row("fdg-dit-fid")
    assert tflop_per_image(it) == pytest.approx((500 * 118.667 + 311.1) / 1000)
    found = downloads([it])
    assert found["hf://facebook/DiT-XL-2-256"] == 4 * 749_826_464
    assert "the VAE of DiT-XL-2-256" in found
    text = "\n".join(plan_lines(it, cost(it)))
    assert "guided by the main network (unconditional), w = 2" in text
    assert "the VAE decoder's 0.3111 in it" in text


def test_a_network_of_others_is_saved_by_hand(tmp_path):
    it = row("ddo-l-autog-fid")
    assert it.files == ("ddo-edm2-img512-l.pkl", "edm2-img512-xs-0134217-0.165.pkl")
    assert it.missing(tmp_path) == it.files[:1]
    assert snapshot_bytes(it.missing(tmp_path)) == 0
    text = "\n".join(plan_lines(it, cost(it), tmp_path))
    assert f"make first   save the network from https://github.com/NVlabs/DDO as {tmp_path / it.net}" in text
    assert it.recipe(tmp_path).net.source == str(tmp_path / it.net)


def test_the_plan_in_words(tmp_path):
    it = row("edm2-img512-xxl-interval-fid")
    text = "\n".join(plan_lines(it, cost(it)))
    assert "63 main + 12 guide = 75 per image" in text
    assert "36.59 Tflop per image" in text
    assert "w = 2 on steps 17-22 = sigma in (0.1886, 1.609], printed (0.19, 1.61]" in text
    guide = row("edm2-img512-xxl-guid-s-fid")
    text = "\n".join(plan_lines(guide, cost(guide), tmp_path))
    assert f"--outdir={tmp_path} --outprefix=edm2-img512-s-uncond --outkimg=2147483 --outstd=0.015" in text
    (tmp_path / guide.gnets[0]).touch()
    assert "make first" not in "\n".join(plan_lines(guide, cost(guide), tmp_path))


def test_rows_together_need_their_files_once(tmp_path):
    rows = select(["edm2-img512-xxl-guid-fid", "edm2-img512-xxl-guid-dino"])
    costs = [cost(it) for it in rows]
    text = "\n".join(total_lines(costs, tmp_path))
    assert f"fetch        {size(sum(downloads(rows).values()))} in 6 files" in text
    assert f"{sum(c.pflop for c in costs):,.0f} PFLOP" in text


def test_sizes_of_images_by_the_name_of_their_network():
    assert png_bytes(f"https://host/run/{row('edm2-img512-xxl-guid-fid').net}") == 430_000
    assert png_bytes("networks/edm2-img64-s-1073741-0.075.pkl") == 9_200
    assert png_bytes("/img512/my-own.pkl") == 0
