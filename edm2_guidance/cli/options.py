"""Options that several scripts share, their types, and the recipe that they describe. No torch here.

Both reference vocabularies parse: --net or --cond_pkl, --gnet or --uncond_pkl, --guidance or --guidance_scale.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Any

import click

from dnnlib.places import find_file
from edm2_guidance.cli import settings, typed
from edm2_guidance.cli.class_names import Class, class_names_option, with_index
from edm2_guidance.cli.command import bad_input
from edm2_guidance.cli.typed import plain_number
from edm2_guidance.papers.presets import Preset, find_preset
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.recipe import GuideSpec, NetworkRef, Recipe, SamplerSpec, SigmaInterval, StepInterval

MAX_SEED = 2**32 - 1  # generators take seeds modulo 2^32: larger ones would repeat images
MAX_IMAGES = 10**7
MAX_VALUES = 10**4  # of a list such as 1,1.05,...,3.5
_SMALL_DETECTORS = frozenset({"fd_mnist"})  # of these metrics: for them, too, one thread is best
EVERYWHERE = "everywhere"  # an interval option that says: no limit


class IntList(click.ParamType):
    """Numbers and ranges such as 0,5,10-19, as a list of ints that holds none twice."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        if isinstance(value, list):
            return value
        numbers: list[int] = []
        parts = str(value).split(",")
        for part in parts:
            match = re.fullmatch(r"\s*(\d{1,20})(?:-(\d{1,20}))?\s*", part)
            if match is None or (len(parts) > 1 and re.fullmatch(r"0\d\d", part)):  # 50,000 is not 50 and 0
                self.fail(_about_list(str(value)), param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"the range {part.strip()} runs backwards; write {last}-{first}", param, ctx)
            if last > MAX_SEED:
                self.fail(f"{last} is too large: numbers go up to {MAX_SEED}", param, ctx)
            if len(numbers) + last - first >= MAX_IMAGES:
                self.fail(f"these are more than {MAX_IMAGES} numbers", param, ctx)
            numbers.extend(range(first, last + 1))
        seen: set[int] = set()
        for number in numbers:
            if number in seen:
                self.fail(f"{number} stands there more than once", param, ctx)
            seen.add(number)
        return numbers


def _about_list(text: str) -> str:
    """What to write in place of a text that is no list of whole numbers."""
    advice = "give whole numbers and ranges, such as 0,5,10-19"
    ranges = re.sub(r"\s*(?:\.\.+|[\u2013\u2014]|\bto\b)\s*", "-", text.strip().strip("[](){}"))
    ranges = re.sub(r"\s*[,;\s]\s*", ",", ranges).strip(",")
    if re.fullmatch(r"\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*", ranges) and not re.search(r",0\d\d\b", ranges):
        return f"{advice}: here {ranges}"
    count = plain_number(text)
    if count is not None and count.isdigit() and int(count) > 0 and count != text:
        return f"{advice}; the first {count} are 0-{int(count) - 1}"
    return advice


class FloatList(click.ParamType):
    """Numbers such as 1,1.5,2; in a,b,...,c the dots stand for evenly spaced ones. unique: none comes twice."""

    name = "list"

    def __init__(self, *, unique: bool = False) -> None:
        self.unique = unique

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        if isinstance(value, list):
            return value
        parts = [part.strip() for part in str(value).split(",")]
        numbers: list[Decimal] = []  # decimal, so that the spacing is that of the digits
        dots = False
        for index, part in enumerate(parts):
            if part == "...":
                if dots or len(numbers) < 2 or index == len(parts) - 1:
                    self.fail("write a,b,...,c with two numbers before the dots and one after", param, ctx)
                dots = True
                continue
            number = self._number(part, param, ctx)
            if dots:
                numbers += self._between(numbers[-2], numbers[-1], number, param, ctx)
            numbers.append(number)
            dots = False
        if self.unique and len(set(numbers)) < len(numbers):
            self.fail("a number stands there more than once", param, ctx)
        return [float(number) for number in numbers]

    def _number(self, part: str, param: Any, ctx: Any) -> Decimal:
        try:
            number = Decimal(part)
        except InvalidOperation:
            number = Decimal("nan")
        if not number.is_finite():
            self.fail(f"'{part}' is not a number; give numbers such as 1,1.5,2 or 1,1.05,...,3", param, ctx)
        return number

    def _between(self, first: Decimal, second: Decimal, end: Decimal, param: Any, ctx: Any) -> list[Decimal]:
        """What follows `second` before `end` at the spacing of the first two."""
        step = second - first
        count = 0 if step == 0 else (end - second) / step
        if count < 1 or count != int(count) or count > MAX_VALUES:
            self.fail(f"steps of {step} from {second} do not lead to {end}", param, ctx)
        return [second + step * i for i in range(1, int(count))]


class Names(click.ParamType):
    """Comma-separated names out of a fixed set, as a list; '-' and '_' are the same."""

    name = "list"

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        if isinstance(value, list):
            return value
        names = [name.strip().replace("-", "_") for name in str(value).split(",")]
        for name in names:
            if name not in self.choices:
                self.fail(f"'{name}' is not one of {', '.join(self.choices)}", param, ctx)
        return list(dict.fromkeys(names))


class Steps(click.ParamType):
    """FIRST,LAST (also "[17, 22]" and 17-22) as a StepInterval; None as EVERYWHERE."""

    name = "first,last"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> StepInterval | str:
        if isinstance(value, StepInterval) or value == EVERYWHERE:
            return value
        text = str(value).strip()
        if text.lower() in ("none", EVERYWHERE):
            return EVERYWHERE
        match = re.fullmatch(r"[\[(]?\s*(\d+)\s*[,-]\s*(\d+)\s*[\])]?", text)
        if match is None:
            self.fail(
                "give FIRST,LAST in sampling steps, such as 17,22, or None for all; noise levels are --guidance-sigma",
                param,
                ctx,
            )
        try:
            return StepInterval(int(match[1]), int(match[2]))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Sigmas(click.ParamType):
    """LO,HI as a SigmaInterval (inf allowed); None as EVERYWHERE."""

    name = "lo,hi"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> SigmaInterval | str:
        if isinstance(value, SigmaInterval) or value == EVERYWHERE:
            return value
        text = str(value).strip()
        if text.lower() in ("none", EVERYWHERE):
            return EVERYWHERE
        parts = text.strip("[]()").split(",")
        try:
            lo, hi = (float(part) for part in parts)
            return SigmaInterval(lo, hi)
        except ValueError as error:
            reason = str(error) if "LO,HI" in str(error) else "give LO,HI in noise levels, such as 0.28,2.90, or None"
            self.fail(reason, param, ctx)


@dataclass(frozen=True)
class RunOptions:
    """What does not determine the images: where and how they are computed."""

    device: str
    trust_pickle: bool
    offline: bool


def stack(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    """Several click options as one decorator, in the order of --help."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def network_options(*, presets: bool = True) -> Callable[[Any], Any]:
    """--preset, networks, guidance and its intervals; the arguments that `recipe_from` takes."""
    preset = click.option(
        "--preset", metavar="NAME", multiple=True, help="Networks, guidance and steps of a paper's row"
    )
    options = [
        click.option("--net", "--cond_pkl", metavar="PATH|URL", help="Main network"),
        click.option(
            "--gnet", "--uncond_pkl", metavar="PATH|URL", multiple=True, help="Guiding network; one per guide"
        ),
        click.option(
            "--guidance",
            "--guidance_scale",
            metavar="FLOAT",
            type=float,
            multiple=True,
            help="Guidance weight w, needed with a guide; 1 = off, one per guide",
        ),
        click.option(
            "--guidance_interval",
            metavar="FIRST,LAST",
            type=Steps(),
            multiple=True,
            help="Guide at these sampling steps only, both included, 0 = noisiest; None = all",
        ),
        click.option(
            "--guidance-sigma",
            metavar="LO,HI",
            type=Sigmas(),
            multiple=True,
            help="Guide at noise levels in (LO, HI] only, decided once per step",
        ),
    ]
    return stack([preset, *options] if presets else options)


deterministic_option = click.option(
    "--deterministic", is_flag=True, help="Only kernels that give the same bits every time; no TF32"
)

_positive = click.FloatRange(min=0, min_open=True)

sampler_options = stack(
    [
        click.option("--steps", metavar="INT", type=click.IntRange(min=1), default=32, show_default=True, help="Steps"),
        click.option(
            "--sigma_min", metavar="FLOAT", type=_positive, default=0.002, show_default=True, help="Lowest noise level"
        ),
        click.option(
            "--sigma_max", metavar="FLOAT", type=_positive, default=80, show_default=True, help="Highest noise level"
        ),
        click.option("--rho", metavar="FLOAT", type=_positive, default=7, show_default=True, help="Schedule exponent"),
        click.option(
            "--S_churn", "S_churn", metavar="FLOAT", type=click.FloatRange(min=0), default=0, show_default=True,
            help="Stochasticity, over all steps",
        ),
        click.option(
            "--S_min", "S_min", metavar="FLOAT", type=click.FloatRange(min=0), default=0, show_default=True,
            help="Churn at or above this noise level",
        ),
        click.option(
            "--S_max", "S_max", metavar="FLOAT", type=click.FloatRange(min=0), default=math.inf, show_default="inf",
            help="Churn at or below this noise level",
        ),
        click.option(
            "--S_noise", "S_noise", metavar="FLOAT", type=float, default=1, show_default=True,
            help="Scale of the churned noise",
        ),
        click.option(
            "--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True,
            help="Precision of the sampler's state",
        ),
    ]
)  # fmt: skip

label_options = stack(
    [
        click.option(
            "--class", "class_idx", metavar="INT|NAME", type=Class(), help="One class for all images; 0 counts"
        ),
        class_names_option,
        click.option(
            "--labels",
            type=click.Choice(["random", "balanced"]),
            help="Classes: drawn per seed, as in the papers (default), or seed mod classes",
        ),
    ]
)

run_options = stack(
    [
        click.option(
            "--device",
            metavar="NAME",
            default="auto",
            show_default=True,
            help="cpu, cuda, cuda:1, mps; auto = the best",
        ),
        click.option(
            "--noise-device",
            type=click.Choice(["cpu", "cuda", "mps"]),
            help="Whose generator draws the noise: the numbers differ (default: the device's)",
        ),
        deterministic_option,
        click.option("--offline", is_flag=True, help="Never download; use what is there or say what is missing"),
        click.option(
            "--trust-pickle", is_flag=True, help="Execute the code in network files. Only for files you trust"
        ),
    ]
)


@dataclass(frozen=True)
class GuideDefaults:
    """What a guide gets for which the command line says no weight or no interval, where that is varied later on."""

    weight: float | None = None  # None = a usage error
    interval: StepInterval | str | None = None  # None = everywhere


#: What the interval paper's repository takes for them: arXiv 2404.07724, ImageNet-512, EDM2-XXL.
_INTERVAL_PAPER = GuideDefaults(2.0, StepInterval(17, 22))


def recipe_from(
    params: dict[str, Any],
    preset: Preset | None = None,
    defaults: GuideDefaults | None = None,
    *,
    scored: bool = False,
) -> Recipe:
    """The recipe that a command line describes: the preset's settings, overridden by the options that were given.

    `params` are click's parameters; which of them the user gave, and in which words, is asked of the current click
    context. A guide needs a weight, its own or the preset's or that of `defaults`; one that is given in the interval
    paper's words takes what is said there. Files are checked to exist, and everything that contradicts itself is a
    usage error, before any network opens. The command gets as many threads as these networks are worth, unless its
    images are `scored` as well: then it calls `threads_for` itself, once it knows by what.
    """
    if preset is None and params.get("preset"):
        preset = only_preset(params["preset"])
    params = with_index(params, params["net"] or (preset.net if preset is not None else None))
    if preset is not None and params["net"] is None and not params["gnet"]:
        _check_class(params["class_idx"], preset)
    with bad_input():
        net = params["net"] or (preset.net if preset is not None else None)
        if net is None:
            raise click.UsageError("which network? Give --net=PATH|URL or --preset=NAME")
        sampler = _sampler(params, preset)
        recipe = Recipe(
            net=NetworkRef(_existing(net)),
            guides=_guides(params, preset, defaults or GuideDefaults(), sampler),
            sampler=sampler,
            labels=_labels(params),
            noise_device=params.get("noise_device") or "device",
        )
    if not scored:
        threads_for(recipe.sources)
    return recipe


def threads_for(sources: Sequence[str], metrics: Iterable[str] = ()) -> None:
    """As many threads as these networks, and the detectors of these metrics, are worth, until the current command ends.

    More on this in `settings.threads_for`.
    """
    context = click.get_current_context(silent=True)
    if context is not None and _SMALL_DETECTORS.issuperset(metrics):
        context.with_resource(settings.threads_for(sources))


def _check_class(class_idx: int | ClassName | None, preset: Preset) -> None:
    if isinstance(class_idx, int) and class_idx >= preset.num_classes:
        known = f"has classes 0 to {preset.num_classes - 1}" if preset.num_classes else "is unconditional"
        raise click.UsageError(f"--class={class_idx}: {preset.name} {known}")


def only_preset(names: Sequence[str]) -> Preset:
    """The one preset that was named; a usage error for none that is known, or for several."""
    if len(names) > 1 or "," in names[0]:
        ctx = click.get_current_context(silent=True)
        draws = ctx is not None and any(option.name == "grid" for option in ctx.command.params)
        grid = "add --grid=FILE.png" if draws else "use generate_images.py --grid=FILE.png"
        raise click.UsageError(f"several presets make rows of a grid: name one preset, or {grid}")
    with bad_input():
        return find_preset(names[0])


def run_options_from(params: dict[str, Any]) -> RunOptions:
    return RunOptions(device=params["device"], trust_pickle=params["trust_pickle"], offline=params["offline"])


def given(name: str) -> bool:
    """Whether the user gave this parameter of the current command, rather than leaving it to its default."""
    ctx = click.get_current_context(silent=True)
    source = None if ctx is None else ctx.get_parameter_source(name)
    return source not in (None, click.core.ParameterSource.DEFAULT)


def _sampler(params: dict[str, Any], preset: Preset | None) -> SamplerSpec:
    steps = params["steps"]
    if preset is not None and not given("steps"):
        steps = preset.num_steps
    names = ("sigma_min", "sigma_max", "rho", "S_churn", "S_min", "S_max", "S_noise", "dtype")
    return SamplerSpec(num_steps=steps, **{name: params[name] for name in names})


def _labels(params: dict[str, Any]) -> Any:
    if params["class_idx"] is not None and params["labels"] is not None:
        raise click.UsageError("--class fixes the class of every image; leave out --labels")
    if params["class_idx"] is not None:
        return params["class_idx"]
    return params["labels"] or "random"


def _existing(source: str) -> str:
    if "://" not in source and not find_file(source).is_file():
        raise ValueError(f"no network file at '{source}'; give a path to a .pkl or .safetensors file, or a URL")
    return source


def _guides(
    params: dict[str, Any], preset: Preset | None, defaults: GuideDefaults, sampler: SamplerSpec
) -> tuple[GuideSpec, ...]:
    nets = list(params["gnet"])
    weights = list(params["guidance"])
    intervals = _intervals(params)
    if preset is not None and preset.gnet is not None:
        nets = nets or [preset.gnet]
        weights = weights or [preset.guidance] * len(nets)
        intervals = intervals or [on_schedule(preset.interval, SamplerSpec(preset.num_steps), sampler)]
    if not nets:
        if any(weight != 1 for weight in weights):
            raise ValueError(f"{typed.quoted('guidance')}: a weight needs a guiding network; give --gnet=PATH|URL")
        if intervals and intervals != [EVERYWHERE]:
            shown = typed.quoted("guidance_interval" if params["guidance_interval"] else "guidance_sigma")
            raise ValueError(f"{shown}: an interval needs a guiding network; give --gnet=PATH|URL and --guidance=W")
        return ()
    defaults = _of_the_interval_paper(defaults, weights, intervals)
    if not weights and defaults.weight is None:
        raise ValueError(f"{typed.quoted('gnet')}: a guide needs a weight; give it as --guidance=W (1 = off)")
    weights = weights or [defaults.weight] * len(nets)
    intervals = intervals or [on_schedule(defaults.interval, SamplerSpec(), sampler)]
    if len(intervals) == 1:
        intervals = intervals * len(nets)
    if not len(nets) == len(weights) == len(intervals):
        raise ValueError(
            f"{len(nets)} guides, {len(weights)} weights, {len(intervals)} intervals: repeat --gnet, --guidance and "
            "the interval once per guide, in the same order"
        )
    return tuple(
        GuideSpec(NetworkRef(_existing(net)), weight, None if interval == EVERYWHERE else interval)
        for net, weight, interval in zip(nets, weights, intervals, strict=True)
    )


def in_the_interval_papers_words() -> bool:
    """Whether the networks, one of them a guide, were given by the names that the interval paper's repository has."""
    theirs = typed.spellings("net") == {"--cond-pkl"} and typed.spellings("gnet") == {"--uncond-pkl"}
    return theirs and len(typed.typed("gnet")) == 1


def _of_the_interval_paper(defaults: GuideDefaults, weights: list[Any], intervals: list[Any]) -> GuideDefaults:
    """What is not said of a guide, filled up with the interval paper's, and a note, if its words name the networks."""
    if not in_the_interval_papers_words():
        return defaults
    paper, notes = defaults, []
    if not weights and defaults.weight is None:
        paper = replace(paper, weight=_INTERVAL_PAPER.weight)
        notes.append(f"w = {paper.weight:g} (--guidance_scale=W for another)")
    if not intervals and defaults.interval is None:
        paper = replace(paper, interval=_INTERVAL_PAPER.interval)
        notes.append(f"{paper.interval} (--guidance_interval=None for all)")
    if notes:
        click.echo(f"note: --uncond_pkl guides as in the interval paper, {' and '.join(notes)}", err=True)
    return paper


def on_schedule(interval: StepInterval | str | None, defined: SamplerSpec, used: SamplerSpec) -> Any:
    """An interval that is known in steps of one schedule, for another: by the noise levels that the steps stand for."""
    if interval is None or isinstance(interval, str):
        return EVERYWHERE
    if used.levels() == defined.levels():
        return interval
    sigmas = interval.sigmas(defined.levels())
    click.echo(f"note: {interval} of {defined.num_steps} are taken as {sigmas} on this schedule", err=True)
    return sigmas


def _intervals(params: dict[str, Any]) -> list[Any]:
    if params["guidance_interval"] and params["guidance_sigma"]:
        raise ValueError("--guidance_interval counts steps and --guidance-sigma noise levels: give one of them")
    return list(params["guidance_interval"] or params["guidance_sigma"])


def batch_option(default: int) -> Callable[[Any], Any]:
    """--batch: images at a time."""
    return click.option(
        "--batch", "--batch_size", "batch", metavar="INT", type=click.IntRange(min=1), default=default,
        show_default=True, help="Images at a time",
    )  # fmt: skip


def seeds_from(params: dict[str, Any], num: int) -> list[int]:
    """The seeds of --seeds, or those from --seed on, --num_images or `num` of them; a usage error for both."""
    if params["seeds"] is not None and not (given("seed") or given("num_images")):
        return list(params["seeds"])
    if given("seeds"):
        raise click.UsageError("--seeds says which and how many: leave out --seed and --num_images")
    last = params["seed"] + (params["num_images"] or num) - 1
    if last > MAX_SEED:
        raise click.UsageError(f"seeds up to {last}: they go up to {MAX_SEED}")
    return list(range(params["seed"], last + 1))


def with_weight(recipe: Recipe, weight: float) -> Recipe:
    """The recipe with this weight on its guide (columns of a grid). ValueError unless it has exactly one."""
    if len(recipe.guides) != 1:
        raise ValueError("columns of weights need exactly one guide per row")
    return replace(recipe, guides=(replace(recipe.guides[0], weight=weight),))
