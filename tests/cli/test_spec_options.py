"""Options made of specs: what they take, list and refuse, and the recipe that they give."""

import pytest
from click.testing import CliRunner

from edm2_guidance.cli.report import describe
from edm2_guidance.cli.search_options import search_text
from edm2_guidance.commands import calculate_metrics, generate_images
from edm2_guidance.recipe import catalog

MAIN, GUIDE = "--net=mnist16-cond", "--gnet=mnist16-uncond"


@pytest.fixture
def recipe_of(recipe_command):
    command, made = recipe_command

    def recipe(*words):
        made.clear()
        done = CliRunner().invoke(command, [MAIN, *words])
        return made[0] if made else done

    return recipe


def test_fields_by_text_or_by_option(recipe_of):
    by_text = recipe_of("--sampler=heun:S_churn=40:S_noise=1.003", "--schedule=edm:rho=5:sigma_min=0.01")
    by_option = recipe_of("--S_churn=40", "--S_noise=1.003", "--rho=5", "--sigma_min=0.01")
    assert by_text == by_option
    assert by_text.hash == by_option.hash
    assert "steps of heun:S_churn=40:S_noise=1.003 in float32" in describe(by_text)
    assert "steps of Heun in float32" in describe(recipe_of())
    assert recipe_of("--sigma_min=100", "--sigma_max=200").schedule.sigma_max == 200, "both at once"
    assert str(recipe_of("--sampler=euler", "--S_churn=40").sampler) == "euler:S_churn=40"
    assert str(recipe_of("--schedule=logsnr", "--sigma_max=50").schedule) == "logsnr:sigma_max=50"


def test_weights_of_guides(recipe_of):
    (guide,) = recipe_of(GUIDE, "--guidance=1.5", "--weight=cosine").guides
    assert str(guide.weight) == "cosine:w=1.5"
    assert recipe_of(GUIDE, "--weight=cosine:w=1.5").guides == (guide,)
    assert recipe_of(GUIDE, "--guidance=1.5", "--weight=cosine:w=1.5").guides == (guide,)
    two = [GUIDE, "--gnet=mnist16-weak", "--guidance=1.2", "--guidance=1.4"]
    assert [str(guide.weight) for guide in recipe_of(*two, "--weight=linear").guides] == [
        "linear:w=1.2",
        "linear:w=1.4",
    ]
    mixed = recipe_of(*two, "--weight=linear", "--weight=constant").guides
    assert [str(guide.weight) for guide in mixed] == ["linear:w=1.2", "constant:w=1.4"]


def test_a_reference_that_asks_the_main_network_needs_no_other(recipe_of):
    (guide,) = recipe_of("--reference=other-label", "--guidance=1.4").guides
    assert (guide.net, str(guide.reference)) == (None, "other-label")
    (guide,) = recipe_of(GUIDE, "--reference=other-label", "--guidance=1.4").guides
    assert (guide.net.name, str(guide.reference)) == ("mnist16-uncond", "other-label")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--sampler=hein"], "--sampler=hein: there is no sampler 'hein' (did you mean heun?): one of heun, euler"),
        (["--sampler=heun:S_chrun=3"], "heun has no 'S_chrun' (did you mean S_churn?)"),
        (["--sampler=heun:S_churn=-3"], "S_churn=-3: must be at least 0"),
        (["--sampler=heun:S_churn=3", "--S_churn=4"], "--S_churn=4: --sampler=heun:S_churn=3 says it already"),
        (["--sampler=dpmpp-2m", "--S_churn=4"], "--S_churn=4: the sampler dpmpp-2m has none"),
        (["--schedule=logsnr", "--rho=5"], "--rho=5: the schedule logsnr has none; see --schedule=list"),
        ([GUIDE, "--guidance=2", "--weight=cosine:w=3"], "--weight=cosine:w=3 and --guidance=2 say two weights"),
        ([GUIDE, "--weight=cosine"], "a guide needs a weight; give it as --guidance=W"),
        ([GUIDE, "--guidance=2", "--weight=linear:w=1"], "--weight=linear:w=1: w=1 is off: give --guidance=1"),
        ([GUIDE, GUIDE, "--weight=linear:w=2", "--weight=cosine"], "a guide needs a weight"),
        (["--weight=cosine:w=2"], "--weight=cosine:w=2: a weight needs a guiding network"),
        (["--reference=network", "--guidance=2"], "the reference 'network' asks another network: name it (--gnet)"),
        (
            [GUIDE, "--guidance=2", "--weight=linear", "--weight=cosine"],
            "1 guide, 1 weight, 1 interval, 1 reference, 2 of --weight",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(recipe_of, words, said):
    done = recipe_of(*words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("axis", ["sampler", "schedule", "reference", "weight", "rule"])
def test_lists(recipe_of, axis):
    done = recipe_of(f"--{axis}=list")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [*catalog.kinds(axis), "With"]
    assert all("[default: " in line or "  for " in line for line in lines if line.startswith(" "))


def test_what_is_not_as_usual_is_said(recipe_of):
    guided = [GUIDE, "--guidance=1.5"]
    plain, other = recipe_of(*guided), recipe_of(*guided, "--weight=cosine", "--rule=rescale", "--sampler=dpmpp-2m")
    assert plain.unusual_text() == ""
    assert other.unusual_text() == "cosine, dpmpp-2m, rescale"
    assert recipe_of("--reference=other-label", "--guidance=2").unusual_text() == "other-label"
    assert "cosine, dpmpp-2m, rescale" in search_text(other, [], 1)[0]
    assert "w = 1.5 (cosine), at all steps; 32 steps of dpmpp-2m in float32, rule rescale" in describe(other)


def test_help_and_lists_say_how_fields_are_written():
    for page in (generate_images.main, calculate_metrics.gen):
        text = " ".join(CliRunner().invoke(page, ["--help-all"]).stdout.split())
        for axis in ("sampler", "schedule", "weight", "reference", "rule"):
            assert f"--{axis} KIND[:FIELD=VALUE]..." in text
    assert "KIND:FIELD=VALUE:FIELD=VALUE" in CliRunner().invoke(page, ["--sampler=list"]).stdout
    assert "METRIC:FIELD=VALUE" in text
    metrics = CliRunner().invoke(page, ["--metrics=list"]).stdout
    assert "METRIC:FIELD=VALUE:FIELD=VALUE" in metrics
    assert "kid: size=IMAGES  Images of either set in a subset  [default: 1000]" in metrics


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("kid_mnist:size=1", "kid_mnist: size=1: must be at least 2"),
        ("kid_mnist:sise=5", "kid_mnist has no 'sise' (did you mean size?)"),
        ("kid_mnist:size=5:size=6", "kid_mnist:size=5:size=6: size is given twice"),
        ("kid_mnist:size=x", "kid_mnist: size=x: 'x' is not an integer"),
        ("kid:size=1/mnist", "kid: size=1: must be at least 2"),
    ],
)
def test_errors_of_a_metric_name_it_as_it_was_asked(metric, said):
    done = CliRunner().invoke(calculate_metrics.gen, [f"--metrics={metric}"])
    assert done.exit_code == 2
    assert f"--metrics={metric}: {said}" in done.stderr.replace("--metric=", "--metrics=")
