"""Arenas: what competes, and what of it cannot be."""

import re
from collections import Counter
from pathlib import Path

import pytest

from edm2_guidance.papers import arena
from edm2_guidance.papers.arena import Final, load, within
from edm2_guidance.recipe import catalog
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Sampler, Schedule
from edm2_guidance.recipe.recipe import Recipe
from tests.arenas import TOML


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "small.toml"
        path.write_text(text)
        return str(path)

    return write


@pytest.mark.parametrize("name", arena.names())
def test_methods_are_searched_by_the_same_number_of_values(name):
    entries = load(name).entries
    assert len({len(entry.axis.values) for entry in entries if entry.axis is not None}) == 1
    assert max(Counter(entry.name for entry in entries).values()) == 1


def test_methods_are_held_against_plain_guidance():
    """By their own guide; those that need none, by the first one of the arena."""
    against = {entry.name: entry.against for entry in load("mnist16").entries}
    assert against["fdg/weak"] == "linear/weak"
    assert against["pag/self"] == against["fdg/uncond"] == "linear/uncond"
    assert against["linear/weak"] is None


def test_every_kind_of_guidance_competes():
    """What is left out needs what the networks of digits, or the sampler, have not."""
    entries = load("mnist16").entries
    found = {axis: set() for axis in ("rule", "weight", "reference", "around", "sampler")}
    for entry in entries:
        found["around"] |= {each.kind for each in entry.recipe.around}
        found["reference"] |= {guide.reference.kind for guide in entry.recipe.guides}
        found["rule"].add(entry.recipe.rule.kind)
        found["sampler"].add(entry.recipe.sampler.kind)
        found["weight"] |= {guide.weight.kind for guide in entry.recipe.guides}
    lacking = {axis: set(catalog.kinds(axis)) - kinds for axis, kinds in found.items()}
    assert lacking == {
        "rule": {"own-rule"},
        "weight": {"own-weight", "posterior", "table"},
        "reference": {"classifier", "crops", "unconditional"},
        "around": set(),
        "sampler": {"ddim", "heun-edm"},  # without noise they are Euler's method, and Heun's
    }


def test_entries_of_a_file(written):
    found = load(written(TOML))
    assert [entry.name for entry in found.entries] == ["linear/weak", "linear/weak/heun/4", "linear/weak/euler/4"]
    method, heun, euler = found.entries
    assert method.axis.values == (1.5, 2)
    assert method.against is None
    assert method.at({"weight": 1.5}).guides[0].weight.w == 1.5
    assert (heun.axis, heun.searched, heun.against) == (None, method, None)
    assert (euler.recipe.num_steps, euler.against) == (4, "linear/weak/heun/4")
    assert euler.at({"weight": 2.0}).guides[0].weight.w == 2
    assert found.final == Final()
    assert found.blocks(2)[1] == range(15_000, 20_000)
    assert found.chosen(["*/euler/*"]) == [method, euler]


@pytest.mark.parametrize(
    ("sampler", "more", "evaluations", "steps"),
    [
        ("heun", {}, 8, 4), ("heun", {}, 1, 1), ("euler", {}, 8, 8), ("dpm2", {}, 32, 16), ("unipc", {}, 16, 16),
        ("euler", {"guides": Guide(None, 2, reference="attention")}, 8, 4),  # which asks the main network as well
        ("euler", {"guides": Guide("net2", 2), "rule": "cfg-zero:zero=2"}, 8, 8),
        ("heun", {"around": "restart:cifar10"}, 40, 16),
    ],
)  # fmt: skip
def test_most_steps_within_evaluations(sampler, more, evaluations, steps):
    made = within(evaluations, Recipe("net", **more), Sampler.parse(sampler), Schedule.parse("edm"), {})
    assert made.num_steps == steps
    assert made.effective().evaluations()["main"] <= evaluations


def test_what_takes_more_evaluations_is_refused():
    with pytest.raises(ValueError, match="not within 8 evaluations: 1 step, and the schedule timesteps"):
        within(8, Recipe("net"), Sampler.parse("euler"), Schedule.parse("timesteps:steps=ddim25"), {})
    with pytest.raises(ValueError, match="not within 8 evaluations: guidance on steps 4-7, but sampling takes 1 step"):
        within(8, Recipe("net", Guide("net2", 2, (4, 7))), Sampler.parse("heun"), Schedule.parse("edm"), {})
    own = Recipe("net", Guide(None, 2, reference="attention"))
    with pytest.raises(ValueError, match="even 1 step evaluates the main network more than 1 times"):
        within(1, own, Sampler.parse("heun"), Schedule.parse("edm"), {})


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_steps = 2", "steps = 2", "the arena: unknown steps"),
        ('title = "Small"', "", "the arena: title must be given"),
        ('name = "linear"', 'name = "linear"\nrules = "fdg"', "methods: unknown rules"),
        ('name = "linear"', 'name = "linear"\nrule = "fgd"', "linear/weak: there is no rule 'fgd'"),
        ('name = "linear"', 'name = "linear"\nguides = ["uncond"]', "no guide is called uncond"),
        ('name = "linear"', 'name = "linear"\nover = "phi"', "'phi': no part of this recipe has it"),
        ('name = "linear"', 'name = "linear"\n[[methods]]\nname = "linear"', "two methods are called linear/weak"),
        ("[1.5, 2]", "[2, 2]", "rise or fall throughout"),
        ("linear/weak", "fdg/weak", "solvers: no method is called fdg/weak"),
        ('[[methods]]\nname = "linear"', "", "no method is called"),
        ("[guides]", "[guides", "small.toml"),
        ("[search]", "[final]\nseed = 999\n[search]", "search takes seeds 0 to 999"),
        ("[search]", "[final]\nblocks = 0\n[search]", "and 1 block"),
        ('["fd_mnist"]', '"fd_mnist"', "the arena: metrics = 'fd_mnist': write a list of texts"),
        ('["fd_mnist"]', "[]", "metrics: one at least, and each once"),
        ('["fd_mnist"]', '["fd_mnist", "fd_mnist"]', "metrics: one at least, and each once"),
        ('["fd_mnist"]', "[3]", "write a list of texts"),
        ('"Small"', "3", "the arena: title = 3: write a text"),
        ('"mnist16-weak"', "3", "the arena: guides = {'weak': 3}: write a table of texts"),
        ("num_steps = 2", "num_steps = true", "num_steps = True: write a whole number"),
        ("[1.5, 2]", "[1.5, inf]", "search: values = [1.5, inf]: write a list of numbers"),
        ("[4]", '["x"]', "solvers: evaluations = ['x']: write a list of whole numbers"),
        ('"euler"]', "3]", "write a list of texts"),
        ('name = "linear"', 'name = "linear"\ninterval = "all"', "interval = 'all': write a list of 2 whole numbers"),
        ('name = "linear"', 'name = "a/b"', "the name 'a/b': take one line of at most 64 characters, without /"),
        ('name = "linear"', 'name = "a\\nb"', "the name 'a\\nb': take one line"),
        ('name = "linear"', f'name = "{"a" * 65}"', "at most 64 characters"),
        ("weak =", '"" =', "the name '': take one line"),
        ('weak = "mnist16-weak"', "", "method linear: there are no [guides]: name some"),
        ('name = "linear"', 'name = "linear"\nvalues = []', "rise or fall throughout, not ()"),
        ('name = "linear"', 'name = "linear"\nrule = "apg"\nover = "radius"', 'say how far, weight = "constant:w=2"'),
        (
            'name = "linear"',
            'name = "linear"\nrule = "rescale"\nweight = "constant:w=2"\nover = "phi"\nvalues = [0.5, 7]',
            "linear/weak: rescale: phi=7: must be",
        ),
        (
            'name = "linear"',
            'name = "linear"\nrule = "my_rule.py:own"',
            "'my_rule.py:own': the file of an arena runs no",
        ),
        ('"euler"]', '"euler over timesteps:steps=ddim25"]', "linear/weak/euler over timesteps:steps=ddim25/4: not"),
        ("[[methods]]", "[methods]", "methods: a table of its own for each, [[methods]]"),
        (
            "[search]",
            "[final]\nseed = 4294967290\n[search]",
            "[final] goes up to seed 4294982289, and seeds to 4294967295",
        ),
        ("[search]", "[[search]]", "search: one table"),
        ("[search]", "[search]\nstride = 0", "stride 0"),
        ("[1.5, 2]", "2", "search: values = 2: write a list of numbers"),
        ("[guides]", '[guides]\nself = "mnist16-weak"', "'self' is the main network"),
        ('"euler"]', '"heun"]', "one is there twice in heun, heun"),
    ],
)
def test_what_cannot_be_is_refused(written, old, new, said):
    with pytest.raises(ValueError, match=r"small.toml") as error:
        load(written(TOML.replace(old, new)))
    assert said in str(error.value)


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "arena.toml"
    path.write_bytes(b"\x80")
    with pytest.raises(ValueError, match=r"arena\.toml: is no text"):
        load(str(path))


def test_names_that_are_not_there(written):
    with pytest.raises(FileNotFoundError, match=r"no arena .mnist.: .*one of mnist16"):
        load("mnist")
    with pytest.raises(ValueError, match="called 'fdg/\\*'"):
        load(written(TOML)).chosen(["fdg/*"])


def test_the_arena_of_the_docs_is_one(written):
    page = (Path(__file__).parents[2] / "docs" / "arena.md").read_text()
    (text,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    names = [entry.name for entry in load(written(text)).entries]
    assert names[:3] == ["linear/uncond", "fdg-cads/uncond", "feedback/uncond"]
