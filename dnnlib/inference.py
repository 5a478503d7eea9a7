"""How networks compute, as far as somebody says it. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

AUTO = "auto"
PLAIN, PREPARED, COMPILED = FORMS = ("plain", "prepared", "compiled")
#: As they are given, and as they are recorded.
PRECISIONS = {"fp32": "float32", "tf32": "tf32", "bf16": "bfloat16", "fp16": "float16"}
FULL = "float32"  # goes without saying where it is usual
NEVER_USUAL = ("tf32", "bfloat16")  # of no network as published, so that somebody asked for it


@dataclass(frozen=True)
class Inference:
    """In which form and precision networks compute. It touches speed and last digits, and is no part of a recipe.

    Attributes:
        form: One of `FORMS`: the modules of the network file, these made ready for inference alone, or that compiled.
            A network that does not have it stays plain. None: whatever is faster for the work, as its plan says.
        precision: One of `PRECISIONS`, as recorded. None: what each network usually computes in on its device.
        batch: Images at a time, mostly: what is made for one number of images is made for so many. None: not known.
    """

    form: str | None = None
    precision: str | None = None
    batch: int | None = None

    @classmethod
    def of(cls, form: str | None = None, precision: str | None = None) -> Self:
        """As somebody gives them, "auto" and "bf16" among them. ValueError for what there is not."""
        if form not in (None, AUTO, *FORMS):
            raise ValueError(f"form={form!r}: give one of {AUTO}, {', '.join(FORMS)}")
        recorded = PRECISIONS.get(precision, precision) if isinstance(precision, str) else precision
        if recorded not in (None, *PRECISIONS.values()):
            raise ValueError(f"precision={precision!r}: give one of {', '.join(PRECISIONS)}")
        return cls(None if form == AUTO else form, recorded)


UNSAID = Inference()


def unusual(recorded: object) -> str | None:
    """A precision on record if it makes other images than the usual one, float16 on CUDA and else float32; or None.

    Where float32 is usual, nothing is on record.
    """
    return str(recorded) if recorded in (*NEVER_USUAL, FULL) else None


def precision_words(images: Mapping[str, Any] | None) -> str:
    """Of images as a ledger describes them: "networks in bfloat16", if that is `unusual`; else ""."""
    found = unusual((images or {}).get("precision"))
    return "" if found is None else f"networks in {found}"


def in_names(unusual_one: str | None) -> str:
    """What a precision that was asked for adds to names of files: "-bf16"; nothing for the usual one, None."""
    return "" if unusual_one is None else f"-{precision_option(unusual_one)}"


def precision_option(recorded: str) -> str:
    """How a precision is given, if it is one of `PRECISIONS`: "bf16"."""
    return next((given for given, name in PRECISIONS.items() if name == recorded), recorded)
