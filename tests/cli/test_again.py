"""What was made is made again: from a ZIP, a folder, a picture or a ledger, unchanged or with one thing changed."""

import json
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

import edm2_guidance as eg
from dnnlib.download import cache_path
from edm2_guidance.commands import calculate_metrics, generate_images, generate_zip, reproduce
from edm2_guidance.recipe import own
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.work.again import read_made
from edm2_guidance.work.plan import ShardPlan, cut_of

CODE = """
import torch

class Net(torch.nn.Module):
    img_channels, img_resolution, label_dim, low_res_size = 3, 16, 0, 8

    def forward(self, x, sigma, labels, low_res):
        large = low_res.repeat_interleave(2, 2).repeat_interleave(2, 3).to(x.dtype)
        return (SHADE * x + sigma**2 * large) / (SHADE + sigma**2)

def make(device):
    return Net()
"""


@pytest.fixture(scope="module")
def made(tiny_networks, tmp_path_factory):
    """A folder with networks and what was made of them: a.zip, a folder, a grid, and of a ledger the second line."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "nets").mkdir()
    for name in ("cond", "weak"):
        shutil.copy(tiny_networks[name], folder / "nets")
    patch = pytest.MonkeyPatch()
    patch.chdir(folder)
    method = ["--net=nets/cond.pkl", "--gnet=nets/weak.pkl", "--guidance=2", "--weight=cosine", "--steps=3"]
    method += ["--guidance_interval=1,2", "--S_churn=3", "--rho=6"]
    run(generate_zip, *method, "--labels=balanced", "--seeds=3-9", "--batch=3", "--shard-size=4", "--out=a.zip")
    run(generate_images, *method, "--labels=balanced", "--seeds=3,5", "--outdir=png")
    run(generate_images, *method, "--seeds=3", "--grid=grid.png", "--classes=1,2")
    Path("score.jsonl").write_text("\n" + json.dumps(line_of(read_made("a.zip"))) + "\n")
    yield folder
    patch.undo()


def line_of(made):
    return {
        "schema": 2, "metric": "fd_mnist", "value": 1.0, "recipe": made.recipe.to_json(), "run": {"batch": 3},
        "images": {"seeds": "3-9"}, "reference": {"source": "mnist16-refs"},
    }  # fmt: skip


@pytest.fixture(autouse=True)
def here(made, tmp_path, monkeypatch):
    """Another folder; `made` lies elsewhere. Relative names of tests are of this one."""
    monkeypatch.chdir(tmp_path)


def run(page, *args, code=0):
    done = CliRunner().invoke(page.main, args)
    assert done.exit_code == code, done.output
    return done


def said(done):
    """What is printed of changes."""
    (found,) = re.findall(r"^note: as \S+, (.*)$", done.stderr, re.M)
    return found.removeprefix("changed (there | now): ")


def test_a_zip_says_where_networks_were_found_and_nothing_of_the_machine(made):
    with zipfile.ZipFile(made / "a.zip") as file:
        text = file.read("recipe.json").decode()
    recipe = json.loads(text)["recipe"]
    assert [net["found"] for net in (recipe["net"], recipe["guides"][0]["net"])] == ["nets/cond.pkl", "nets/weak.pkl"]
    assert str(made) not in text
    moved = replace(read_made(made / "a.zip").recipe, net=NetworkRef("cond", recipe["net"]["sha256"]))
    assert moved.hash == json.loads(text)["recipe_hash"]


def test_it_does_not_say_who_joined_the_shards(made, tmp_path, monkeypatch):
    options = ["--steps=1", "--num=2", "--shard-size=1"]
    monkeypatch.chdir(made)
    for out in ("one.zip", "two.zip"):
        whole = [] if out == "one.zip" else ["--worker=0/2"]
        run(generate_zip, "--net=nets/cond.pkl", *options, *whole, f"--out={tmp_path}/{out}")
    monkeypatch.chdir(tmp_path)
    run(generate_zip, f"--net={made}/nets/cond.pkl", *options, "--worker=1/2", "--out=two.zip")
    assert Path("two.zip").read_bytes() == Path("one.zip").read_bytes()


def test_a_zip_is_made_again_byte_for_byte(made, monkeypatch):
    monkeypatch.chdir(made)
    done = run(generate_zip, "--recipe=a.zip", "--out=b.zip")
    assert said(done) == "unchanged"
    assert Path("b.zip").read_bytes() == Path("a.zip").read_bytes()
    assert "finished before, by the same recipe" in run(generate_zip, "--recipe=b.zip", "--out=a.zip").stdout


@pytest.mark.parametrize("source", ["png", "png/recipe.json", "grid.png:1", "score.jsonl:2", "a.zip"])
def test_a_folder_of_whatever_says_its_recipe(made, source, tmp_path):
    done = run(
        generate_images, f"--recipe={made}/{source}", "--seeds=5", "--outdir=out", "--class=1", "--num=2", code=2
    )
    assert "--seeds says which and how many" in done.stderr
    run(generate_images, f"--recipe={made}/{source}", "--num=2", "--outdir=out")
    seeds = {"png": (3, 5), "grid.png:1": (3, 4)}.get(source.removesuffix("/recipe.json"), (3, 4))
    assert sorted(path.name for path in tmp_path.glob("out/*.png")) == [f"{seed:06d}.png" for seed in seeds]
    again, first = read_made("out").recipe, read_made(made / "a.zip").recipe
    assert (again == first) == (source != "grid.png:1")
    assert replace(again, labels="balanced").hash == first.hash


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ("--guidance=3", "guides.0.weight: cosine:w=2 | cosine:w=3"),
        ("--guidance=1", "guides.0.weight: cosine:w=2 | cosine"),
        ("--weight=linear", "guides.0.weight: cosine:w=2 | linear:w=2"),
        ("--weight=linear:w=4", "guides.0.weight: cosine:w=2 | linear:w=4"),
        ("--guidance_interval=None", "guides.0.steps: [1, 2] | null"),
        ("--gnet=nets/cond.pkl", "guides.0.net.source: weak | cond"),
        ("--net=nets/weak.pkl", "net.source: cond | weak"),
        ("--reference=other-label", "guides.0.reference: network | other-label"),
        ("--S_churn=0", "sampler: heun:S_churn=3 | heun"),
        ("--sampler=dpmpp-2m", "sampler: heun:S_churn=3 | dpmpp-2m"),
        ("--rho=7", "schedule: edm:rho=6 | edm"),
        ("--steps=6", "guides.0.steps: [1, 2] | [3, 5]; num_steps: 3 | 6"),
        ("--dtype=float64", "dtype: float32 | float64"),
        ("--class=0", "labels: balanced | 0"),
        ("--labels=random", "labels: balanced | random"),
        ("--rule=rescale", "rule: linear | rescale"),
        ("--noise-device=cuda", "noise_device: cpu | cuda"),
    ],
)
def test_an_option_changes_one_thing(made, monkeypatch, recipe_command, options, changed):
    monkeypatch.chdir(made)
    command, recipes = recipe_command
    assert CliRunner().invoke(command, ["--recipe=a.zip", *options.split()]).exit_code == 0
    before, (now,) = read_made("a.zip"), recipes
    lines = before.changes(replace(now, encoder=before.recipe.encoder), None)
    assert "; ".join(lines) == changed


GUIDES = [eg.Guide("a.pkl", 1.5), eg.Guide("b.pkl", 2, never=True), eg.classifier_guide("c.pt", 0.5, "ddpm")]


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ("--labels=random", ""),
        (
            "--guidance=3 --guidance=1",
            "guides.0.weight: constant:w=1.5 | constant:w=3; guides.1.weight: constant:w=2 | constant",
        ),
        ("--guidance=3", "Error: 2 guides, 1 weight, 2 intervals, 2 references, 2 of --weight: repeat --gnet"),
        ("--gnet=c.pt", "Error: 1 guide, 2 weights, 2 intervals"),
        ("--classifier-scale=2", "guides.2.weight: posterior:w=1.5 | posterior:w=3"),
        ("--classifier=a.pkl", "guides.2.net.source: c | a"),
        ("--sampler=heun", "guides.2.weight: posterior:w=1.5 | constant:w=1.5; sampler: ddpm | heun"),
    ],
)
def test_guides_of_every_kind_stay_as_they_were(recipe_command, options, changed):
    for name in ("net.pkl", "a.pkl", "b.pkl", "c.pt"):
        Path(name).touch()
    before = eg.Recipe("net.pkl", GUIDES, 4, sampler="ddpm", labels="random")
    Path("r.json").write_text(json.dumps(before.to_json()))
    command, recipes = recipe_command
    done = CliRunner().invoke(command, ["--recipe=r.json", *options.split()])
    if changed.startswith("Error"):
        assert done.stderr.startswith(changed)
    else:
        assert "; ".join(read_made("r.json").changes(recipes[0], None)) == changed
        assert ("the scale of r.json is for the sampler ddpm" in done.stderr) == ("heun" in options)


def test_seeds_are_those_that_it_says_but_for_what_is_given(made, monkeypatch):
    seen = []
    monkeypatch.setattr(generate_zip, "write_zip", lambda recipe, seeds, asked: seen.append(seeds))
    for options, seeds in {
        "": range(3, 10), "--num=2": (3, 4), "--num=9": range(3, 12), "--seed=8": range(8, 15),
        "--seed=0 --num=2": (0, 1), "--seeds=5,1": (5, 1),
    }.items():  # fmt: skip
        run(generate_zip, f"--recipe={made}/a.zip", *options.split())
        assert seen.pop() == list(seeds)
    refused = run(calculate_metrics, "gen", f"--recipe={made}/png", "--ref=mnist16", "--metrics=fd_mnist", code=2)
    assert "has seeds that are not in a row, which gen takes: give --seed and --num" in refused.stderr


def test_the_score_of_a_line_is_computed_again():
    run(
        calculate_metrics,
        "gen",
        "--preset=mnist16",
        "--steps=1",
        "--num=3",
        "--batch=2",
        "--seed=1",
        "--ledger=l.jsonl",
    )
    assert said(run(calculate_metrics, "gen", "--recipe=l.jsonl:1", "--again", "--ledger=l.jsonl")) == "unchanged"
    first, second = map(json.loads, Path("l.jsonl").read_text().splitlines())
    for name in ("metric", "value", "recipe", "recipe_hash", "images", "reference", "run"):
        assert first[name] == second[name]
    searched = ["--over=rho", "--values=7", "--num=3", "--blocks=1", "--name=s", "--ledger=l.jsonl", "--results-dir=."]
    run(reproduce, "search", "--recipe=l.jsonl:1", *searched)
    found = json.loads(Path("l.jsonl").read_text().splitlines()[2])
    assert (found["metric"], found["reference"]) == (first["metric"], first["reference"])


# Where files are found.


@pytest.fixture
def alone(made, tmp_path):
    """The ZIP without its networks."""
    shutil.copy(made / "a.zip", tmp_path / "alone.zip")
    return ["--recipe=alone.zip", "--num=1", "--out=b.zip"]


def test_networks_are_found_beside_the_recipe_and_in_the_cache(made, alone):
    Path("sub").mkdir()
    shutil.move("alone.zip", "sub")
    shutil.copy(made / "nets" / "cond.pkl", "sub")
    cached = cache_path("https://host/weak.pkl")
    cached.parent.mkdir(parents=True)
    shutil.copy(made / "nets" / "weak.pkl", cached)
    run(generate_zip, "--recipe=sub/alone.zip", *alone[1:])
    assert read_made("b.zip").recipe.net.found == "sub/cond.pkl"


def test_a_network_that_is_nowhere_is_given_anew(made, alone):
    done = run(generate_zip, *alone, code=2)
    assert done.stderr == (
        "Error: alone.zip: its file nets/cond.pkl is neither there, nor beside it, nor in the cache: --net=PATH|URL "
        "gives it anew\n"
    )
    done = run(generate_zip, *alone, f"--net={made}/nets/cond.pkl", code=2)
    assert done.stderr.endswith("--gnet=PATH|URL gives it anew\n")
    assert said(
        run(generate_zip, *alone, *(f"--{n}={made}/nets/{f}.pkl" for n, f in (("net", "cond"), ("gnet", "weak"))))
    )


def test_another_file_in_its_place_is_refused_unless_it_is_given(made, alone):
    shutil.copytree(made / "nets", "nets")
    shutil.copy("nets/weak.pkl", "nets/cond.pkl")
    done = run(generate_zip, *alone, code=2)
    assert re.match(
        r"Error: nets/cond\.pkl is another file than that of alone\.zip, its SHA-256 \w{64}, not \w{64}: --net=PATH",
        done.stderr,
    )
    done = run(generate_zip, *alone, "--net=nets/cond.pkl")
    assert re.fullmatch(r"net\.sha256: \w{40}\.\.\. \(\w+\) \| \w{40}\.\.\. \(\w+\); seeds: 3-9 \| 3", said(done))


def test_a_server_that_has_another_file_by_now_is_told(made):
    recipe = replace(read_made(made / "a.zip").recipe, guides=())
    Path("r.json").write_text(
        json.dumps({**recipe.to_json(), "net": {**recipe.net.to_json(), "found": "https://host/c.safetensors"}})
    )
    cached = cache_path("https://host/c.safetensors")
    cached.parent.mkdir(parents=True)
    shutil.copy(made / "nets" / "weak.pkl", cached)
    done = run(generate_zip, "--recipe=r.json", "--num=1", "--out=b.zip", code=2)
    assert "https://host/c.safetensors is another file than that of the recipe, its SHA-256" in done.stderr
    assert "--net=PATH|URL gives it anew" in done.stderr


def test_recipes_without_places_are_found_by_name(made):
    content = read_made(made / "a.zip").recipe.to_json()
    for net in (content["net"], content["guides"][0]["net"]):
        del net["found"]
    Path("nets").mkdir()
    Path("nets/r.json").write_text(json.dumps(content))
    for name in ("cond", "weak"):
        shutil.copy(made / "nets" / f"{name}.pkl", "nets")
    assert said(run(generate_zip, "--recipe=nets/r.json", "--num=1", "--out=b.zip")) == "unchanged"


def test_code_is_given_again_and_its_hash_compared(made):
    shutil.copytree(made / "nets", "nets")
    run(generate_zip, "--net=nets/cond.pkl", "--num=2", "--steps=2", "--out=small.zip")
    Path("mine.py").write_text("SHADE = 0.1" + CODE)
    run(generate_zip, "--net=mine.py:make", "--upsample=small.zip", "--num=2", "--steps=2", "--out=large.zip")
    refused = run(generate_zip, "--recipe=large.zip", "--out=b.zip", code=2)
    assert refused.stderr == (
        "Error: large.zip: a recipe runs no code, such as mine.py:make: give it, --net=mine.py:make\n"
    )
    assert said(run(generate_zip, "--recipe=large.zip", "--net=mine.py:make", "--out=b.zip")) == "unchanged"
    assert Path("b.zip").read_bytes() == Path("large.zip").read_bytes()
    assert read_made("large.zip").recipe.base.found == "small.zip"
    Path("mine.py").write_text("SHADE = 0.2" + CODE)
    assert "net.sha256" in said(run(generate_zip, "--recipe=large.zip", "--net=mine.py:make", "--out=c.zip"))
    run(generate_zip, "--recipe=small.zip", "--steps=3", "--out=other.zip")
    shutil.move("other.zip", "small.zip")
    refused = run(generate_zip, "--recipe=large.zip", "--net=mine.py:make", "--out=d.zip", code=2)
    assert "small.zip is another file than that of the recipe" in refused.stderr
    assert "--upsample=IMAGES gives it anew" in refused.stderr


FUNCTIONS = """
def rule(main):
    return main

def weight(sigma, w=2):
    return w

def plain(sigma):
    return 2
"""


def test_functions_are_given_again_too(made, monkeypatch):
    shutil.copytree(made / "nets", "nets")
    Path("mine.py").write_text(FUNCTIONS)
    method = ["--net=nets/cond.pkl", "--gnet=nets/weak.pkl", "--steps=2", "--num=1", "--guidance=3"]
    run(generate_zip, *method, "--rule=mine.py:rule", "--weight=mine.py:weight", "--out=own.zip")
    again = ["--recipe=own.zip", "--out=b.zip"]
    for more in ("rule", "weight"):
        monkeypatch.setattr(own, "_GIVEN", {})  # as in another process
        refused = run(generate_zip, *again, code=2)
        assert f"the {more} {more} is a function of your own" in refused.stderr
        again.append(f"--{more}=mine.py:{more}")
    assert said(run(generate_zip, *again)) == "unchanged"
    changed = said(run(generate_zip, "--recipe=b.zip", "--rule=linear", "--weight=mine.py:plain", "--out=c.zip"))
    assert re.search(r"own-weight:w=3.* \| own-weight:name=plain.*rule: own-rule.* \| linear", changed)
    Path("mine.py").write_text(FUNCTIONS.replace("def weight(sigma, w=2)", "def weight(sigma, w=2, late=0.5)"))
    given = ["--rule=mine.py:rule", "--weight=mine.py:weight"]
    run(generate_zip, *method, *given, "--out=e.zip")
    given[1] += ":late=0.25"
    changed = said(run(generate_zip, "--recipe=e.zip", *given, "--guidance=3", "--out=f.zip"))
    assert changed.endswith("guides.0.weight: own-weight | own-weight:settings=late=0.25")
    refused = run(generate_zip, "--recipe=c.zip", "--out=d.zip", "--weight=cosine", code=2)
    assert refused.stderr == "Error: --weight=cosine: a guide needs a weight; give it as --guidance=W (1 = off)\n"


# What is no recipe.


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("none.zip", "none.zip: No such file"),
        ("score.jsonl", "score.jsonl has a line for each score: say which, score.jsonl:1 for the first"),
        ("score.jsonl:1", "score.jsonl has no line 1"),
        ("score.jsonl:9", "score.jsonl has no line 9"),
        ("a.zip:1", "a.zip is no ledger: leave out the number"),
        ("grid.png", "grid.png carries 2 recipes: say which, grid.png:1 for the first"),
        ("grid.png:3", "grid.png carries no recipe number 3, but 2"),
        ("grid.png:0", "grid.png carries no recipe number 0, but 2"),
        ("png/000003.png", "png/000003.png carries no recipe"),
        ("grid.jpg", "grid.jpg: of pictures a PNG alone is read"),
        ("nets/cond.pkl", "is not"),
        ("bad.json", "bad.json: is no recipe: 'guides' is missing"),
        ("typed.json", "typed.json: is no recipe: something in it is of another type"),
        ("foreign.json", "foreign.json says no recipe: its images are of another origin"),
        ("seeds.json", "seeds.json: its seeds are no list"),
        ("a.zip --preset=mnist16", "--preset and --recipe each say all"),
    ],
)
def test_what_is_no_recipe_is_said(made, monkeypatch, source, says):
    monkeypatch.chdir(made)
    Path("grid.jpg").write_bytes(b"\xff\xd8\xff")
    Path("bad.json").write_text('{"format": 2, "net": {}}')
    Path("typed.json").write_text(json.dumps(read_made("a.zip").recipe.to_json() | {"rule": {}}))
    Path("foreign.json").write_text('{"recipe": "pancakes"}')
    Path("seeds.json").write_text(json.dumps({"recipe": read_made("a.zip").recipe.to_json(), "seeds": [-1]}))
    done = run(generate_zip, *f"--recipe={source}".split(), "--out=z.zip", code=2)
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_library_reads_them_too(made, monkeypatch):
    monkeypatch.chdir(made)
    recipe = eg.read_recipe("a.zip")
    assert recipe.hash == eg.read_recipe("score.jsonl:2").hash == read_made("a.zip").recipe.hash
    assert (
        eg.generate_zip(recipe, range(3, 10), "lib.zip", batch=3, shard_size=4).read_bytes()
        == Path("a.zip").read_bytes()
    )
    elsewhere = replace(recipe, net=replace(recipe.net, source="nets/weak.pkl"))
    with pytest.raises(ValueError, match=r"nets/weak\.pkl is another file than that of the recipe"):
        eg.open_recipe(elsewhere)


def test_no_recipe_runs_code(tmp_path, monkeypatch):
    Path("evil.py").write_text("open('ran', 'w')")
    recipe = eg.Recipe("mnist16-cond", num_steps=1).to_json()
    for net in ({"source": "evil.py:make"}, {"source": "evil-make", "found": "evil.py:make"}, {"source": "evil.py"}):
        Path("r.json").write_text(json.dumps({**recipe, "net": {"sha256": None, **net}}))
        assert run(generate_zip, "--recipe=r.json", "--num=1", code=2).stderr.startswith("Error: ")
        with pytest.raises((ValueError, OSError), match="evil"):
            eg.open_recipe(eg.read_recipe("r.json"))
    assert not Path("ran").exists()


def test_batches_say_how_they_were_cut():
    for total in (1, 5, 7, 12, 1030):
        for batch in (1, 2, 3, 5, 64):
            for shard_size in (1, 2, 3, 4, 512):
                runs = ShardPlan(tuple(range(total)), shard_size).batch_runs(batch)
                again, size = cut_of(json.loads(json.dumps(runs)), total)
                assert ShardPlan(tuple(range(total)), size).batch_runs(again) == runs
    for nonsense in (None, [], [[0, 1]], [["x", 1]], [[3]], [[2, 3]], 7, [[5, -1]]):
        assert cut_of(nonsense, 5) is None
