"""ZIP files whose bytes depend on their content alone: not on the clock, the user or the platform.

Members are stored uncompressed (PNGs do not shrink), in the order in which they are added, with fixed times
and permissions. ZIP64 fields appear only where sizes or counts need them. Torch-free.
"""

import json
import os
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from dnnlib.plain_json import parse_json
from dnnlib.regular import read_regular
from edm2_guidance.images.members import RECIPE_NAME
from edm2_guidance.images.unzip import check_member_name, open_zip, read_zip_member

_MAX_FILE_BYTES = 1 << 28  # a plan or recipe that lists ten million seeds one by one has a third of that
_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that the format knows
_UNIX = 3
_KINDS = {type(None): "null", list: "a list", str: "a text", int: "a number", float: "a number", bool: "true or false"}
_MODE = 0o100644 << 16  # a plain file, -rw-r--r--


class ZipWriter:
    """Write members one after the other; leaving the `with` block without an error completes the ZIP.

    It writes to where it is told: whoever wants the file to appear at once gives a temporary path and renames.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: zipfile.ZipFile | None = None
        self._raw: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._raw = open(self.path, "xb")
        self._file = zipfile.ZipFile(self._raw, "w", zipfile.ZIP_STORED)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None or self._raw is None:
            return
        file, raw, self._file, self._raw = self._file, self._raw, None, None
        with raw:
            if error is None:
                file.close()
                return
            with suppress(OSError):  # closed all the same, or zipfile tries again when it is collected
                file.close()
            with suppress(OSError):
                raw.truncate(0)

    def add(self, name: str, *pieces: bytes | memoryview) -> None:
        """Append a member, in one piece or several. ValueError for an unsafe name or one that was added before."""
        if self._file is None:
            raise RuntimeError("a ZipWriter takes members inside its with block only")
        check_member_name(self.path, name)
        if name in self._file.NameToInfo:
            raise ValueError(f"{name!r} was added to {self.path} before; every member needs a name of its own")
        info = zipfile.ZipInfo(name, _TIME)
        info.create_system = _UNIX
        info.external_attr = _MODE
        info.file_size = sum(map(len, pieces))
        with self._file.open(info, "w") as file:
            for piece in pieces:
                file.write(piece)


def json_bytes(content: Any, indent: int | None = 2) -> bytes:
    """JSON as one fixed byte string: sorted keys, ASCII, one final newline.

    Raises ValueError for NaN and infinities, which JSON does not know, and TypeError for what is no plain data.
    """
    return (json.dumps(content, sort_keys=True, indent=indent, allow_nan=False) + "\n").encode("ascii")


def dataset_json(labels: Iterable[tuple[str, object]] | None, class_names: Sequence[str] | None = None) -> bytes:
    """The member `dataset.json`: {"labels": [[name, class], ...]}, or {"labels": null} for images without.

    class_names: of classes 0, 1, ..., kept beside the labels, where other readers do not look; None if unknown.
    """
    pairs = None if labels is None else [[name, label] for name, label in labels]
    names = {} if class_names is None else {"class_names": list(class_names)}
    return json_bytes({"labels": pairs, **names}, indent=None)


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """The `recipe.json` of a ZIP file, or None if it has none.

    Raises FileNotFoundError if there is no file, ValueError if it is no readable ZIP or the member no JSON object.
    """
    path = Path(path)
    with open_zip(path) as file:
        if RECIPE_NAME not in file.NameToInfo:
            return None
        return read_json(path, file, RECIPE_NAME)


def read_json(path: Path, file: zipfile.ZipFile, name: str) -> dict[str, Any]:
    """A JSON object that is a member of the open ZIP `file` at `path`; ValueError if it is not or is damaged."""
    return parse_object(read_zip_member(path, file, name), f"{name} in {path}")


def read_object(path: str | Path) -> dict[str, Any]:
    """A JSON object that is a file of its own. OSError as `open`; ValueError as `open_regular` and `parse_object`."""
    return parse_object(read_regular(path, _MAX_FILE_BYTES), os.fspath(path))


def parse_object(data: bytes, where: str) -> dict[str, Any]:
    """A JSON object, as strict as `parse_json`. ValueError for anything else; `where` begins its message."""
    try:
        content = parse_json(data)
    except ValueError as error:
        raise ValueError(f"{where} {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds {_KINDS[type(content)]}; expected a JSON object")
    return content
