"""An arena: methods of guidance and solvers on the same networks, each at its own best setting. No torch here.

An arena is a TOML file, one that ships (`arenas/`) or the user's own:

    title, net, metrics, reference      the first metric is what is searched for; the others are scored beside it
    sampler, num_steps, schedule        under which the methods are compared
    [guides]                            networks by name; "self" is always there: the main network guides itself
    [search]                            over = "weight" or a field, its values, stride, num_images of a point
    [final]                             num_images and seed of the first block, blocks of the `best` ones
    [[methods]]                         name; rule, weight, reference, around, interval = [FIRST, LAST]; guides, over,
                                        values where they differ
    [solvers]                           samplers, "euler over logsnr" with another schedule; evaluations; methods that
                                        they are for

A method beside a guide, and a solver at a number of evaluations beside a method, is an entry: `fdg/weak`,
`linear/weak/unipc/16`. Methods are searched, all by the same number of values and images; solvers take over what was
found for their method. Seeds of the search never count for the final scores.
"""

import fnmatch
import functools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from edm2_guidance.papers.search import Axis, Point
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Sampler, Schedule, Weight
from edm2_guidance.recipe.recipe import MAX_SEED, Recipe
from edm2_guidance.recipe.search import recipe_at

_LONGEST = 64  # characters of a name
_SHIPPED = Path(__file__).with_name("arenas")
SELF = "self"  # the guide that is the main network
T = TypeVar("T")


@dataclass(frozen=True)
class Method:
    """How guidance is made of a main network and a guide. guides: by their names; None = all of the arena."""

    name: str
    rule: str = "linear"
    weight: str = "constant"
    reference: str = "network"
    around: tuple[str, ...] = ()
    interval: tuple[int, int] | None = None
    guides: tuple[str, ...] | None = None
    over: str | None = None
    values: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Search:
    """By what, and with how many images, the best setting of a method is found."""

    over: str = "weight"
    values: tuple[float, ...] = (1.25, 1.5, 2.0, 3.0, 5.0)
    stride: int = 4
    num_images: int = 1000


@dataclass(frozen=True)
class Final:
    """What is scored in the end. best: how many entries are scored in all `blocks`, the others in the first."""

    num_images: int = 5000
    seed: int = 10_000
    blocks: int = 3
    best: int = 10


@dataclass(frozen=True)
class Solvers:
    """Solvers, by evaluations of the main network, under these entries' settings."""

    methods: tuple[str, ...] = ()
    evaluations: tuple[int, ...] = ()
    samplers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One competitor. recipe: before anything was searched. axis: what is; None = nothing, or it is that of `of`.

    of: the entry whose best setting it takes over. group: among which it competes. against: the entry that it is
    compared with.
    """

    name: str
    recipe: Recipe
    group: str
    axis: Axis | None = None
    of: "Entry | None" = None
    against: str | None = None

    @property
    def searched(self) -> "Entry":
        """The entry whose search gives its setting."""
        return self if self.of is None else self.of

    def at(self, point: Point) -> Recipe:
        """The recipe with a setting put in, as short as it can be."""
        return recipe_at(self.recipe, point).effective()


@dataclass(frozen=True)
class Arena:
    """See the module. ValueError, naming what is wrong, for networks, kinds or numbers that cannot be."""

    name: str
    title: str
    net: str
    metrics: tuple[str, ...]
    reference: str
    methods: tuple[Method, ...]
    guides: Mapping[str, str] = field(default_factory=dict)
    sampler: str = "heun"
    schedule: str = "edm"
    num_steps: int = 32
    search: Search = Search()
    final: Final = Final()
    solvers: Solvers = Solvers()

    def __post_init__(self) -> None:
        final = self.final
        if SELF in self.guides:
            raise ValueError(f"guides: '{SELF}' is the main network: give that guide another name")
        if self.search.stride < 1:
            raise ValueError(f"search: stride {self.search.stride}: 1 or more")
        for name in (self.name, *self.guides, *(method.name for method in self.methods)):
            if not name or "/" in name or len(name) > _LONGEST or not name.isprintable():
                raise ValueError(f"the name {name!r}: take one line of at most {_LONGEST} characters, without /")
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ValueError(f"metrics: one at least, and each once, not {list(self.metrics)}")
        if min(self.search.num_images, final.num_images) < 2 or final.blocks < 1 or final.best < 0:
            raise ValueError("at least 2 images of a point and of a block, and 1 block")
        if final.seed < self.search.num_images:
            raise ValueError(
                f"the search takes seeds 0 to {self.search.num_images - 1}, which never count for the"
                f" final scores: let [final] begin after them, not at seed {final.seed}"
            )
        if (last := final.seed + final.blocks * final.num_images - 1) > MAX_SEED:
            raise ValueError(f"[final] goes up to seed {last}, and seeds to {MAX_SEED}")

    @functools.cached_property
    def entries(self) -> list[Entry]:
        """All, the methods first."""
        methods = [entry for method in self.methods for entry in self._of(method)]
        if twice := {entry.name for entry in methods if [each.name for each in methods].count(entry.name) > 1}:
            raise ValueError(f"two methods are called {', '.join(sorted(twice))}")
        return [*methods, *self._solvers({entry.name: entry for entry in methods})]

    def chosen(self, patterns: Sequence[str]) -> list[Entry]:
        """Those that one of the patterns names (`fdg/*`), with those that they take a setting from; all by none.

        ValueError for a pattern that names none.
        """
        entries = self.entries
        for pattern in patterns:
            if not any(fnmatch.fnmatchcase(entry.name, pattern) for entry in entries):
                raise ValueError(f"no entry of the arena {self.name} is called '{pattern}': see --list")
        wanted = [e for e in entries if not patterns or any(fnmatch.fnmatchcase(e.name, each) for each in patterns)]
        needed = {entry.searched.name for entry in wanted} | {entry.name for entry in wanted}
        return [entry for entry in entries if entry.name in needed]

    def search_name(self, entry: Entry) -> str:
        """By which the ledger knows the search of an entry."""
        return f"{self.name}/{entry.name}"

    def blocks(self, count: int) -> list[range]:
        """The seeds of the first blocks."""
        first, num = self.final.seed, self.final.num_images
        return [range(first + k * num, first + (k + 1) * num) for k in range(count)]

    @property
    def unguided(self) -> Recipe:
        """What the methods guide."""
        return Recipe(NetworkRef(self.net), (), self.num_steps, self.sampler, self.schedule)

    def _of(self, method: Method) -> list[Entry]:
        if method.guides == ():
            return [Entry(method.name, self.unguided, "methods")]
        guides = tuple(self.guides) if method.guides is None else method.guides
        if not guides:
            raise ValueError(f'method {method.name}: there are no [guides]: name some, or write guides = ["{SELF}"]')
        return [self._entry(method, guide, self.unguided) for guide in guides]

    def _entry(self, method: Method, guide: str, base: Recipe) -> Entry:
        name = f"{method.name}/{guide}"
        if guide != SELF and guide not in self.guides:
            raise ValueError(f"method {method.name}: no guide is called {guide}")
        net = None if guide == SELF else NetworkRef(self.guides[guide])
        try:
            for text in (method.rule, method.weight):
                if ".py" in text:
                    raise ValueError(f"'{text}': the file of an arena runs no code; make it a kind (docs/new-rule.md)")
            values = self.search.values if method.values is None else method.values
            axis = Axis(method.over or self.search.over, values)
            acting = Guide(net, Weight.parse(method.weight), method.interval, method.reference)
            recipe = Recipe(
                base.net, acting, self.num_steps, self.sampler, self.schedule, method.rule, around=method.around
            )
            settings = [recipe_at(recipe, {axis.name: value}).effective() for value in axis.values]
            if not any(setting.guides for setting in settings):
                raise ValueError(f'no {axis.name} of {axis.values} guides: say how far, weight = "constant:w=2"')
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {error}") from error
        baseline = f"linear/{guide if guide in self.guides else next(iter(self.guides), guide)}"
        return Entry(name, recipe, "methods", axis, against=None if baseline == name else baseline)

    def _solvers(self, methods: Mapping[str, Entry]) -> list[Entry]:
        made = []
        for listed in (self.solvers.methods, self.solvers.evaluations, self.solvers.samplers):
            if len(set(listed)) < len(listed):
                raise ValueError(f"solvers: one is there twice in {', '.join(map(str, listed))}")
        for name in self.solvers.methods:
            if name not in methods:
                raise ValueError(f"solvers: no method is called {name}")
            for budget in self.solvers.evaluations:
                made += [self._solver(methods[name], each, budget) for each in self.solvers.samplers]
        return made

    def _solver(self, method: Entry, solver: str, budget: int) -> Entry:
        group = f"{method.name}/{budget}"
        first, name = (f"{method.name}/{each}/{budget}" for each in (self.solvers.samplers[0], solver))
        try:
            sampler, _, schedule = solver.partition(" over ")
            kind, spaced = Sampler.parse(sampler), Schedule.parse(schedule or self.schedule)
            known = method.axis
            point = {} if known is None else {known.name: known.values[-1]}
            recipe = within(budget, method.recipe, kind, spaced, point)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        return Entry(name, recipe, group, None, method, None if first == name else first)


def within(evaluations: int, recipe: Recipe, sampler: Sampler, schedule: Schedule, point: Point) -> Recipe:
    """With as many steps as evaluate the main network so often at most, with what a reference asks of it.

    ValueError if not even one step does. point: a setting, at which the guides are on.
    """
    why = f"even 1 step evaluates the main network more than {evaluations} times"
    for count in range(evaluations, 0, -1):
        try:
            made = replace(recipe, sampler=sampler, schedule=schedule, num_steps=count)
            if recipe_at(made, point).effective().evaluations()["main"] <= evaluations:
                return made
        except ValueError as error:
            why = str(error)
    raise ValueError(f"not within {evaluations} evaluations: {why}")


def names() -> list[str]:
    """The arenas that ship."""
    return sorted(path.stem for path in _SHIPPED.glob("*.toml"))


def load(text: str) -> Arena:
    """An arena by its name, or a TOML file. ValueError, naming the file, for what it cannot be; FileNotFoundError."""
    path = _SHIPPED / f"{text}.toml" if text in names() else Path(text)
    if not path.is_file():
        raise FileNotFoundError(f"there is no arena '{text}': give a TOML file, or one of {', '.join(names())}")
    try:
        data = tomllib.loads(_text(path))
        parts = {"search": Search, "final": Final, "solvers": Solvers}
        for name, kind in parts.items():
            data[name] = _made(kind, data.get(name, {}), name)
        listed = data.get("methods", [])
        if not isinstance(listed, list):
            raise ValueError("methods: a table of its own for each, [[methods]]")
        data["methods"] = tuple(_made(Method, each, "methods") for each in listed)
        arena: Arena = _made(Arena, {"name": path.stem, **data}, "the arena")
        if not arena.entries:
            raise ValueError("it has no methods")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error
    return arena


def _text(path: Path) -> str:
    """What is in it. ValueError for what is no text."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError("is no text, which an arena is") from error


def _made(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """An instance of a dataclass, whose lists are tuples. ValueError for other names, or types, than it has."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where}: one table, [{where}], not {values!r}")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    if strange := values.keys() - known:
        raise ValueError(f"{where}: unknown {', '.join(sorted(strange))}; there are {', '.join(sorted(known))}")
    needed = [name for name, each in known.items() if each.default is MISSING and each.default_factory is MISSING]
    if missing := [name for name in needed if name not in values]:
        raise ValueError(f"{where}: {', '.join(missing)} must be given")
    hints = get_type_hints(kind)
    made = {name: tuple(each) if isinstance(each, list) else each for name, each in values.items()}
    for name, value in made.items():
        if not _is(hints[name], value):
            raise ValueError(f"{where}: {name} = {values[name]!r}: write {_words(hints[name])}")
    return kind(**made)


def _is(hint: Any, value: Any) -> bool:
    """Whether a value is of the type that a field has. Numbers are finite."""
    parts = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return any(_is(part, value) for part in parts)
    if get_origin(hint) is tuple:
        whole = isinstance(value, tuple) and (parts[-1] is ... or len(value) == len(parts))
        return whole and all(_is(parts[0], each) for each in value)
    if get_origin(hint) is Mapping:
        return isinstance(value, Mapping) and all(_is(parts[1], each) for each in value.values())
    if hint in (int, float):
        return type(value) in (int, hint) and math.isfinite(value)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    """What is to be written for a field of this type."""
    parts, plural = get_args(hint), {str: "texts", int: "whole numbers", float: "numbers"}
    if get_origin(hint) in (Union, UnionType):
        return _words(parts[0])
    if get_origin(hint) is tuple:
        return f"a list of {plural[parts[0]] if parts[-1] is ... else f'{len(parts)} {plural[parts[0]]}'}"
    if get_origin(hint) is Mapping:
        return f"a table of {plural[parts[1]]}"
    return {str: "a text", int: "a whole number", float: "a number"}[hint]
