"""Rows and searches: once computed, never again; interrupted, continued; shared by workers, the same numbers."""

import zipfile
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest
import torch

from dnnlib.inference import UNSAID, Inference
from dnnlib.workers import Workers
from edm2_guidance.images.sources import content_sha256
from edm2_guidance.metrics import ledger
from edm2_guidance.papers.report import collect
from edm2_guidance.papers.search import Axis, Found
from edm2_guidance.papers.tables import Row, find
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.recipe.search import recipe_at
from edm2_guidance.reproduction.rows import Runner, Settings
from edm2_guidance.reproduction.sweeps import Sweep, find_best, repeat, within_noise
from edm2_guidance.sampling.generation import GeneratedImages
from training.encoders import StandardRGBEncoder
from training.network_safetensors import save_safetensors
from training.networks_edm2 import Precond


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """main-0000001-0.050.pkl, the same of length 0.100, and guide-0000001-0.050.pkl: 16x16, ten classes.

    Safetensors in fact, which open eight times as fast: the content tells, and the names are those of rows.
    """
    folder = tmp_path_factory.mktemp("reproduction")
    common = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    for number, name in enumerate(("main-0000001-0.050", "main-0000001-0.100", "guide-0000001-0.050")):
        torch.manual_seed(number)
        net = Precond(16, 3, 10, **common)
        for key, parameter in net.named_parameters():
            if key.endswith("gain"):
                parameter.data.fill_(0.6)
        save_safetensors(folder / f"{name}.pkl", net.half(), encoder=StandardRGBEncoder())
    return folder


@pytest.fixture
def row():
    return Row(
        table="mnist16", name="tiny", data="mnist16", model="tiny", method="autoguidance", metric="fd_mnist",
        published=None, net="main-0000001-0.050.pkl", gnets=("guide-0000001-0.050.pkl",), weights=(2.0,),
        num_steps=2, num_images=6, repeats=2,
    )  # fmt: skip


@pytest.fixture
def runner(networks, tmp_path):
    def make(**changes):
        settings = Settings(tmp_path, tmp_path / "ledger.jsonl", networks, batch=2, shard_size=2, device="cpu")
        return Runner(replace(settings, **changes), lambda total, text, done: nullcontext(lambda count: None))

    return make


@pytest.fixture
def sampled(monkeypatch):
    """How many images were sampled, in order of their seeds; set `limit` to be killed after so many."""
    seeds = []
    make = GeneratedImages._make

    def counted(self, part):
        if sampled_seeds.limit is not None and len(seeds) + len(part) > sampled_seeds.limit:
            raise KeyboardInterrupt
        seeds.extend(part)
        return make(self, part)

    class sampled_seeds:
        limit = None
        list = seeds

    monkeypatch.setattr(GeneratedImages, "_make", counted)
    return sampled_seeds


def values(blocks):
    return [block.record["value"] for block in blocks]


def test_a_second_run_computes_nothing(runner, row, sampled):
    first = list(runner().run(row))
    assert sampled.list == list(range(12))
    assert [block.seeds for block in first] == [range(6), range(6, 12)]
    again = list(runner().run(row))
    assert len(sampled.list) == 12
    assert values(again) == values(first)
    assert [block.reused for block in again] == [True, True]
    lines = ledger.read(runner().settings.ledger)
    assert [line["row"] for line in lines] == [{"name": "tiny", "block": 0}, {"name": "tiny", "block": 1}]
    assert len(set(values(first))) == 2


def test_a_row_by_other_rules_and_seeds(runner, row, sampled):
    """What rows of papers about rules are made of: references, weights that see, a rule, another reference."""
    it = replace(
        row, gnets=(None, *row.gnets), weights=(1.25, "feedback:tau=0.1"), references=("other-label", "network"),
        rule="apg", first_seed=100, against="mnist16", repeats=1,
    )  # fmt: skip
    (block,) = runner().run(it)
    assert sampled.list == list(range(100, 106))
    made = block.record["recipe"]
    assert (made["rule"], [guide["reference"] for guide in made["guides"]]) == ("apg", ["other-label", "network"])
    assert [guide["net"] is None for guide in made["guides"]] == [True, False]
    (result,) = collect([it], [block.record])
    assert result.differs == tuple(block.record["flags"])  # six images are few, and that is all
    list(runner(seed=0).run(it))
    assert sampled.list[6:] == list(range(6))


def test_after_a_kill_only_what_is_missing_is_made(runner, row, sampled, tmp_path):
    whole = values(runner(results=tmp_path / "whole", ledger=tmp_path / "whole.jsonl").run(row))
    sampled.list.clear()
    sampled.limit = 9  # in the second shard of the second block
    with pytest.raises(KeyboardInterrupt):
        list(runner().run(row))
    assert sampled.list == list(range(8))
    sampled.limit = None
    assert values(runner().run(row)) == whole
    assert sampled.list == list(range(12))
    assert not list((tmp_path / "work").iterdir())


def test_kept_images_give_the_same_score_and_are_reused(runner, row, sampled, tmp_path):
    streamed = values(runner(results=tmp_path / "other", ledger=tmp_path / "other.jsonl").run(row))
    kept = runner(keep_images=True)
    assert values(kept.run(row)) == pytest.approx(streamed, rel=1e-9)
    zips = sorted(path.name for path in (tmp_path / "images").iterdir())
    assert len(zips) == 2
    assert all(name.startswith("tiny-") and name.endswith(".zip") for name in zips)
    count = len(sampled.list)
    assert values(runner(keep_images=True, ledger=tmp_path / "third.jsonl").run(row)) == values(kept.run(row))
    assert len(sampled.list) == count


def test_images_of_an_unusual_precision_lie_beside_the_others(runner, row, tmp_path):
    for keep_images in (False, True):
        for inference in (UNSAID, Inference(precision="bfloat16"), Inference(precision="float32")):
            place = tmp_path / str(keep_images)
            where = {"results": place, "ledger": place / "ledger.jsonl"}
            made = list(runner(keep_images=keep_images, inference=inference, blocks=1, **where).run(row))
            assert [block.reused for block in made] == [inference.precision == "float32"]
        lines = ledger.read(place / "ledger.jsonl")
        assert [line["images"].get("precision") for line in lines] == [None, "bfloat16"]
    (usual,) = (tmp_path / "True" / "images").glob("tiny-*-0-5.zip")
    assert sorted((tmp_path / "True" / "images").iterdir()) == [usual.with_stem(f"{usual.stem}-bf16"), usual]


def test_two_workers_share_a_block(runner, row, sampled, tmp_path):
    alone = values(runner(results=tmp_path / "alone", ledger=tmp_path / "alone.jsonl").run(row))
    sampled.list.clear()
    assert [block.record for block in runner(workers=Workers(job=0, jobs=2)).run(row)] == [None, None]
    assert sampled.list == [0, 1, 4, 5, 6, 7, 10, 11]
    assert values(runner(workers=Workers(job=1, jobs=2)).run(row)) == alone
    assert sorted(sampled.list) == list(range(12))
    assert len(ledger.read(tmp_path / "ledger.jsonl")) == 2


def test_other_rules_are_other_results(runner, row):
    first = values(runner(blocks=1).run(row))
    for changes in ({"labels": "balanced"}, {"num": 5}, {"seed": 100}):
        assert values(runner(blocks=1, **changes).run(row)) != first
    assert len(ledger.read(runner().settings.ledger)) == 4


def test_real_images_are_scored_from_what_ships(runner):
    (floor,) = find("mnist16-floor")
    blocks = list(runner(num=500, blocks=1).run(floor))
    assert values(blocks) == pytest.approx([0.517], abs=5e-4)
    assert [block.reused for block in runner(num=500, blocks=1).run(floor)] == [True]
    assert runner(num=500).obstacle(floor) is None
    assert "no statistics of 77 real images" in runner(num=77).obstacle(floor)
    assert list(runner(num=77).run(floor)) == []


def test_all_is_checked_before_the_first_image(runner, row, sampled):
    bad = replace(row, name="bad", net="absent-0000001-0.050.pkl")
    with pytest.raises((ValueError, OSError), match="absent"):
        runner().prepare([row, bad])
    assert sampled.list == []


def sweep_of(networks, **changes):
    net, guide = (NetworkRef(str(networks / f"{name}-0000001-0.050.pkl")) for name in ("main", "guide"))
    recipe = Recipe(net, (Guide(guide, constant(1.5)),), 2)
    (floor,) = find("mnist16-floor")
    return Sweep("tiny", recipe, recipe_at, "fd_mnist", floor.reference, **{"num": 4, **changes})


def test_a_search_goes_on_from_the_ledger(runner, networks, sampled):
    stages = [[Axis("weight", (1.0, 1.5, 2.0, 2.5, 3.0))], [Axis("ema", (0.05, 0.1))]]
    start = {"weight": 1.5, "ema": 0.05}
    said = []

    def found(runner_):
        return find_best(runner_, sweep_of(networks), start, stages, 2, lambda p: True, lambda *s: said.append(s))[0]

    sampled.limit = 11
    with pytest.raises(KeyboardInterrupt):
        found(runner())
    sampled.limit = None
    first = found(runner())
    count = len(sampled.list)
    assert count <= 4 * (5 + 1)
    assert found(runner()) == first
    assert len(sampled.list) == count
    assert first.score == min(value for _, value in first.scores)
    lines = ledger.read(runner().settings.ledger)
    assert {"weight": 1.0, "ema": 0.05} in [line["search"]["point"] for line in lines]
    records = repeat(runner(), sweep_of(networks), first.point, 4, 3)
    assert records[0]["value"] == first.score
    assert len({record["value"] for record in records}) == 3


def test_points_within_noise_of_the_best():
    """By intervals of 0.1 about the values, those less than 0.1 sqrt(2) above the least; one has none."""
    values = {1.0: 2.3, 1.5: 2.0, 2.0: 2.13, 2.5: 2.15, 3.0: 2.1, 3.5: 2.01}
    found = Found({"weight": 1.5}, 2.0, tuple(({"weight": w}, value) for w, value in values.items()))
    lines = [{"value": v, "interval": {"low": v - 0.1, "high": v + 0.1, "error": 0.05}} for v in values.values()]
    lines[-1] = {"value": 2.01}
    assert within_noise(found, lines, "fid") == [{"weight": 3.0}, {"weight": 2.0}]
    assert within_noise(found, [{"value": value} for value in values.values()], "fid") == []


def test_points_within_noise_of_the_highest():
    values = {1.0: 0.5, 1.5: 0.9, 2.0: 0.77, 2.5: 0.75, 3.0: 0.8}
    found = Found({"weight": 1.5}, 0.9, tuple(({"weight": w}, value) for w, value in values.items()))
    lines = [{"value": v, "interval": {"low": v - 0.1, "high": v + 0.1, "error": 0.05}} for v in values.values()]
    assert within_noise(found, lines, "recall") == [{"weight": 3.0}, {"weight": 2.0}]


def test_scores_made_for_something_else_are_shown_by_a_search_and_not_made_again(runner, row, networks, sampled):
    """Weight 1 is the main network alone in every search; a row's score counts for a search of the same point."""
    unguided = replace(row, name="unguided", gnets=(), weights=())
    (block,) = runner(blocks=1).run(unguided)
    sweep, point = sweep_of(networks, num=6), {"weight": 1.0}
    for _ in range(2):
        (record,) = repeat(runner(), sweep, point, 6, 1)
        assert record["value"] == block.record["value"]
        assert record["search"] == {"name": "tiny", "point": point}
    assert sampled.list == list(range(6))
    assert len(ledger.read(runner().settings.ledger)) == 2


def test_a_reference_may_be_images(runner):
    digits = "tests/data/mnist16-200.npz"
    reference = runner().scorer(["fd_mnist"], digits).reference
    assert reference.statistics.source == digits
    assert reference.statistics.moments["fd_mnist"].num_images == 200


def test_progress_is_shown_per_block(networks, row, tmp_path):
    shown = []

    @contextmanager
    def bar(total, text, done):
        shown.append((total, text, done))
        yield lambda count: shown.append(count)

    settings = Settings(tmp_path, tmp_path / "ledger.jsonl", networks, batch=4, blocks=1, device="cpu")
    list(Runner(settings, bar).run(row))
    assert shown == [(6, "tiny 0-5", 0), 4, 2]


def test_images_asked_for_later_are_made_and_scored_once(runner, row, sampled, tmp_path):
    """A score in the ledger does not stand in for the images that --keep-images asks for."""
    first = values(runner(blocks=1).run(row))
    assert values(runner(blocks=1, keep_images=True).run(row)) == first
    assert len(list((tmp_path / "images").iterdir())) == 1
    assert len(ledger.read(runner().settings.ledger)) == 1


def test_kept_images_are_scored_as_they_are_made(runner, row, sampled, tmp_path, monkeypatch):
    """By features beside the PNGs: the ZIP is not read again, and holds the images alone."""
    from edm2_guidance.metrics import score_output

    monkeypatch.setattr(score_output, "open_stored", None)
    sampled.limit = 5
    with pytest.raises(KeyboardInterrupt):
        list(runner(keep_images=True).run(row))
    sampled.limit = None
    scores = values(runner(keep_images=True).run(row))
    assert sampled.list == list(range(12))
    assert scores == values(runner(results=tmp_path / "other", ledger=tmp_path / "other.jsonl").run(row))
    for path, line in zip(sorted((tmp_path / "images").iterdir()), ledger.read(tmp_path / "ledger.jsonl"), strict=True):
        assert line["images"]["path"] == str(path)
        assert line["images"]["content_sha256"] == content_sha256(path)
        with zipfile.ZipFile(path) as file:
            assert [name for name in file.namelist() if not name.endswith(".png")] == ["dataset.json", "recipe.json"]


def test_again_computes_what_the_ledger_has_once_more(runner, row, sampled):
    first = values(runner().run(row))
    again = list(runner(again=True).run(row))
    assert [block.reused for block in again] == [False, False]
    assert values(again) == first
    assert sampled.list == [*range(12), *range(12)]
    assert [line["row"]["block"] for line in ledger.read(runner().settings.ledger)] == [0, 1, 0, 1]


def test_workers_that_compute_again_share_it(runner, row, sampled):
    list(runner(blocks=1).run(row))
    sampled.list.clear()
    started = [runner(blocks=1, again=True, workers=Workers(job=job, jobs=2)) for job in (0, 1)]
    assert [block.record for block in started[0].run(row)] == [None]
    assert [block.record is None for block in started[1].run(row)] == [False]
    assert [block.reused for block in started[0].run(row)] == [True]  # its sibling's line, not the one before
    assert sorted(sampled.list) == list(range(6))
    assert len(ledger.read(runner().settings.ledger)) == 2
