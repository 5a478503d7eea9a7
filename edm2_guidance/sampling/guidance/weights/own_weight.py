"""A weight of the user's own: a Python function."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from edm2_guidance.recipe.own import OwnFunction
from edm2_guidance.recipe.parts import Seen, StepInfo, Weight
from edm2_guidance.sampling.guidance.own_code import call as call_own

if TYPE_CHECKING:
    from torch import Tensor

_OF_IMAGES = ("x", "main", "push", "labels")


@dataclass(frozen=True)
class OwnWeight(OwnFunction, Weight):
    """A function of your own, FILE.py:FUNCTION: weight(step) -> number, 1 = off, docs/api.md.

    One that names none of x, main, push and labels is known before anything is evaluated: where it makes 1, its guide
    is not. A parameter `w` of it is the guidance weight, which searches, grids and --guidance set; at w = 1 it is off.
    """

    kind: ClassVar[str] = "own-weight"
    formula: ClassVar[str] = "w_t = weight(step=..., w=w, ...)"
    offered: ClassVar[tuple[str, ...]] = ("step", "level", "sigma", "progress", "w", *_OF_IMAGES)

    scaled: bool = False  # whether the function has a parameter w

    @classmethod
    def _made(cls, name: str, sha256: str) -> Self:
        made = cls(name=name, sha256=sha256)
        given = made.parameters.get("w")
        if given is None:
            return made
        usual = 1.0 if given.default is inspect.Parameter.empty else given.default
        return cls(name=name, sha256=sha256, scaled=True, w=usual)

    @classmethod
    def of(cls, function: Callable[..., Any], *, later: bool = False) -> Self:
        """As `OwnFunction.of`. ValueError for a w without a value, unless it comes later, as on a command line."""
        made = super().of(function, later=later)
        bound = "w" in getattr(function, "keywords", {})
        if made.scaled and not bound and not later and made._usual is None:
            raise ValueError(f"{made.name} needs w: give functools.partial({made.name}, w=2), or w a default")
        return made

    @property
    def _usual(self) -> float | None:
        """The function's own default of w; None without one."""
        given = self.parameters["w"].default
        return None if given is inspect.Parameter.empty else float(given)

    @property
    def schedule(self) -> str:
        return self.caption if self.scaled else ""

    @property
    def amount(self) -> str:
        return super().amount if self.scaled else f"w by {self.caption}"

    @property
    def short(self) -> str:
        return super().short if self.scaled else self.amount

    @property
    def moves(self) -> bool:
        return not self.scaled or self.w != 1

    @property
    def stated(self) -> bool:
        return not self.scaled or self.w not in (1, self._usual)

    def check(self) -> None:
        super().check()
        if not self.scaled and self.w != 1:
            raise ValueError(f"the weight {self.name} has no parameter w to be {self.w:g}: add one, or leave w out")

    def off(self, step: StepInfo) -> bool:
        return not self.moves or (not self._of_images and self._value(step) == 1)

    def at(self, step: StepInfo, seen: Seen) -> "float | Tensor":
        """ValueError for what is no weight."""
        if not self._of_images:
            return self._value(step)
        made = call_own(self, self._offered(step) | {name: getattr(seen, name) for name in _OF_IMAGES})
        if not isinstance(made, type(seen.x)):
            return self._checked(made)
        if made.ndim == 1:
            made = made.view(-1, 1, 1, 1)
        if made.ndim not in (0, 4) or any(a not in (1, b) for a, b in zip(made.shape, seen.x.shape, strict=False)):
            raise ValueError(f"the weight {self.name} made {list(made.shape)}: a number, or one per image")
        weight: Tensor = made.to(seen.x)
        return weight

    @property
    def _of_images(self) -> bool:
        """Whether it looks at more than the step."""
        named = self.parameters
        return any(name in named for name in _OF_IMAGES) or any(p.kind is p.VAR_KEYWORD for p in named.values())

    def _offered(self, step: StepInfo) -> dict[str, Any]:
        return {"step": step, "level": step.level, "sigma": step.sigma, "progress": step.progress, "w": self.w}

    def _value(self, step: StepInfo) -> float:
        return self._checked(call_own(self, self._offered(step)))

    def _checked(self, made: Any) -> float:
        try:
            weight = float(made)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f"the weight {self.name} made a {type(made).__name__}: return a number") from None
        if not math.isfinite(weight):
            raise ValueError(f"the weight {self.name} made {weight}: return a finite number (1 = off)")
        return weight
