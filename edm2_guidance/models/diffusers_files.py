"""Pipelines as the library diffusers writes them: a folder, or one of the Hugging Face hub, as data.

`model_index.json` names a pipeline and the class of each component, whose weights and configuration lie in the folder
of that component's name. Both are looked up in `PIPELINES`; nothing that a folder brings along is run.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

INDEX = "model_index.json"


@dataclass(frozen=True)
class DiffusersFiles:
    """A pipeline whose files are there and fit together.

    Attributes:
        source: As the user gave it.
        folder: Where the files are.
        pipeline: Its class, one of `PIPELINES`.
        index: Content of `model_index.json`; DiT's names of classes are there, as `id2label`.
        scheduler: Configuration of the component "scheduler", its class as `_class_name`.
        configs: Of every component, by its name. Of tokenizers, their `tokenizer_config.json`.
    """

    source: str
    folder: Path
    pipeline: str
    index: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    configs: Mapping[str, Mapping[str, Any]]
    _loaded: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def config(self, component: str) -> Mapping[str, Any]:
        """Configuration of a component. ValueError for one that the pipeline lacks, naming those that it has."""
        raise NotImplementedError

    def component(self, name: str) -> Any:
        """A component, ready to be used, the same object each time: a network, a tokenizer or a scheduler.

        Networks are in evaluation mode, without gradients, in float32, on the CPU.

        Raises ValueError for one that the pipeline lacks, or files that do not fit its class; OSError if they cannot be
        read.
        """
        raise NotImplementedError

    def sha256(self, *names: str) -> str:
        """Of the weights, vocabularies and configurations of these components; without names, of all.

        It tells contents and what is what, not paths, times or names of files.
        """
        raise NotImplementedError


def recognises(source: str, *, offline: bool) -> bool:
    """Whether a source counts as a pipeline: `hf://...`, or a folder with a `model_index.json`."""
    return source.startswith("hf://") or (Path(source) / INDEX).is_file()


def load(source: str, *, offline: bool) -> DiffusersFiles:
    """A pipeline by its folder, or `hf://org/repository[@revision]` from the hub or its cache.

    All files are found, and all configurations checked, before this returns; weights are read as components are asked
    for. offline: ask no server.

    Raises ValueError for what is no pipeline that is known here, OSError if it cannot be had or read, ImportError
    without the extra [diffusers]; each with one line that says what to do.
    """
    raise NotImplementedError
