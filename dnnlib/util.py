"""The class of the outermost object of an EDM2 network pickle, under the name that such files give it."""

from __future__ import annotations

from typing import Any


class EasyDict(dict[str, Any]):
    """A `dict` whose string keys can also be read, written and deleted as attributes.

    EDM2 pickles are instances of this class, found under the name `dnnlib.util.EasyDict`.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r}; there are: {', '.join(map(str, self)) or 'none'}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __delattr__(self, name: str) -> None:
        try:
            del self[name]
        except KeyError:
            raise AttributeError(f"no entry {name!r} to delete") from None
