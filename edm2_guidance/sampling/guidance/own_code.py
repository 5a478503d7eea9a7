"""Functions of the user's own, called: what they raise is said in one line, as of the user's own networks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dnnlib.user_code import UserCode
from edm2_guidance.recipe.own import OwnFunction


def call(own: OwnFunction, offered: Mapping[str, Any]) -> Any:
    """As `OwnFunction.call`. ValueError for whatever the function raises; memory that runs out stays what it is."""
    code = getattr(own.function, "__code__", None)
    file = Path("" if code is None else code.co_filename)
    with UserCode(own.name, file, _is_out_of_memory).runs(f"the {own.axis}"):
        return own.call(offered)


def _is_out_of_memory(error: BaseException) -> bool:
    from torch_utils.memory import is_out_of_memory  # and torch, which planning does without

    return is_out_of_memory(error)
