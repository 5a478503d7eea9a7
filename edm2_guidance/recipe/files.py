"""The files of a recipe: networks and images, each by where it lies and what it holds."""

import os
import re
from dataclasses import dataclass, field
from typing import Any, Protocol

from edm2_guidance.recipe import catalog


@dataclass(frozen=True)
class FileRef:
    """A file: where it was read from, and what it held (SHA-256; None until it was read).

    found: where, in the words that others may read (`dnnlib.places.recorded_place`), of a file that was read.
    """

    source: str
    sha256: str | None = None
    found: str | None = field(default=None, compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """Plain data, in which the source is the file's name."""
        return {"source": self.name, "sha256": self.sha256, **({} if self.found is None else {"found": self.found})}

    def canonical(self) -> dict[str, str]:
        """What is hashed of it: the content, once that is known, whatever the name."""
        return {"source": self.name} if self.sha256 is None else {"sha256": self.sha256}

    @property
    def name(self) -> str:
        """File name without folder and suffix; of a URL without what follows `?`. FILE-function of FILE.py:function."""
        source = re.split(r"[?#]", self.source)[0] if "://" in self.source else self.source
        source = re.sub(r"\.py:(\w+)$", r"-\1.py", source)
        return re.sub(r"\.(pkl|safetensors|pt|py)$", "", source.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


@dataclass(frozen=True)
class NetworkRef(FileRef):
    """A network file. opened: the network itself, where it is open already (`models.base`)."""

    opened: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, network: "Network") -> "NetworkRef":
        """Of a path, URL or name, of an open network, or of an object; whatever is a reference already stays.

        ValueError for an object that is no network, or of which there is no hash.
        """
        if isinstance(network, NetworkRef):
            return network
        if isinstance(network, str | os.PathLike):
            return cls(os.fspath(network))
        if not hasattr(network, "source") or "sha256" not in (getattr(network, "identity", None) or ()):
            network = catalog.network_of(network)
        return cls(network.source, network.identity["sha256"], opened=network)


class OpenNetwork(Protocol):
    """What a recipe needs of a network that is open (`models.base`)."""

    source: str
    identity: dict[str, Any]


#: What may be given for a network; objects of the user's own besides.
Network = NetworkRef | str | os.PathLike[str] | OpenNetwork | Any


@dataclass(frozen=True)
class ImageSet(FileRef):
    """Stored images, a ZIP, folder or `.npz`: `sha256` is of the images and their classes, wherever they lie."""
