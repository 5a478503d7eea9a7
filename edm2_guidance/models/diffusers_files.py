"""Pipelines as the library diffusers writes them: a folder, or one of the Hugging Face hub, as data.

`model_index.json` names a pipeline and the class of each component, whose configuration and weights lie in the folder
of that component's name. Both are looked up in `PIPELINES`; nothing that a folder brings along is run.
"""

import hashlib
import json
import os
import re
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from dnnlib.errors import odd_files_are_value_errors
from dnnlib.extras import need
from dnnlib.places import PIPELINE_INDEX, is_pipeline
from dnnlib.regular import read_regular, sha256_of
from edm2_guidance.images.zips import parse_object
from edm2_guidance.models.diffusers_hub import (
    INSTALL,
    SCHEME,
    cached_folder,
    check_online,
    fetched_folder,
    one_process_at_a_time,
)
from edm2_guidance.models.diffusers_parts import (
    VOCABULARIES,
    build,
    check_config,
    check_packages,
    config_file,
    vocabulary_files,
)
from edm2_guidance.models.diffusers_weights import KINDS, weight_files, weight_patterns

_MAX_CONFIG = 1 << 20  # bytes of a file
_NO_LIMIT = str(int(1e30)).encode()  # what transformers writes as the length of texts of a tokenizer without one
_MAX_REASON = 500  # characters of an error of the libraries that are shown
_BLOB = re.compile("[0-9a-f]{64}")
_Value = TypeVar("_Value")

_SCHEDULERS = tuple(
    f"diffusers.{name}"
    for name in (
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "PNDMScheduler",
        "UniPCMultistepScheduler",
    )
)
_CLIP_TOKENIZERS = ("transformers.CLIPTokenizer", "transformers.CLIPTokenizerFast")
_UNCONDITIONAL = {"unet": ("diffusers.UNet2DModel",), "scheduler": _SCHEDULERS}
_STABLE = {
    "vae": ("diffusers.AutoencoderKL",),
    "tokenizer": _CLIP_TOKENIZERS,
    "text_encoder": ("transformers.CLIPTextModel",),
    "unet": ("diffusers.UNet2DConditionModel",),
    "scheduler": _SCHEDULERS,
}
_IF = {
    "tokenizer": ("transformers.T5Tokenizer", "transformers.T5TokenizerFast"),
    "text_encoder": ("transformers.T5EncoderModel",),
    "unet": ("diffusers.UNet2DConditionModel",),
    "scheduler": _SCHEDULERS,
}

#: Of each pipeline the components, and of each of these the classes, "library.Class", that are known here.
PIPELINES: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType({
    "DiTPipeline": {
        "transformer": ("diffusers.DiTTransformer2DModel", "diffusers.Transformer2DModel"),
        "vae": ("diffusers.AutoencoderKL",),
        "scheduler": _SCHEDULERS,
    },
    "StableDiffusionPipeline": _STABLE,
    "StableDiffusionXLPipeline": {
        **_STABLE,
        "tokenizer_2": _CLIP_TOKENIZERS,
        "text_encoder_2": ("transformers.CLIPTextModelWithProjection",),
    },
    "StableDiffusionUpscalePipeline": {**_STABLE, "low_res_scheduler": _SCHEDULERS},
    "IFPipeline": _IF,
    "IFSuperResolutionPipeline": {**_IF, "image_noising_scheduler": _SCHEDULERS},
    "DDPMPipeline": _UNCONDITIONAL,
    "DDIMPipeline": _UNCONDITIONAL,
})  # fmt: skip

#: Components of these pipelines that are never read: they check or mark images, or take images as prompts.
LEFT_OUT = ("feature_extractor", "image_encoder", "safety_checker", "watermarker")


@dataclass(frozen=True)
class DiffusersFiles:
    """A pipeline whose files are there, and name classes that are known.

    Attributes:
        source: As the user gave it.
        folder: Where the files are.
        pipeline: Its class, one of `PIPELINES`.
        index: Content of `model_index.json`; DiT's names of classes are there, as `id2label`.
        scheduler: Configuration of the component "scheduler", its class as `_class_name`.
        classes: Of every component, "library.Class".
        files: Of every component, those that are read: its configuration, then its weights or vocabulary.
    """

    source: str
    folder: Path
    pipeline: str
    index: Mapping[str, Any]
    scheduler: Mapping[str, Any]
    classes: Mapping[str, str]
    files: Mapping[str, tuple[Path, ...]]
    _configs: Mapping[str, Mapping[str, Any]] = field(repr=False)
    _components: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """A line for each component that is there as the variant fp16 alone."""
        halves = [role for role, files in self.files.items() if any(".fp16" in path.name for path in files[1:])]
        return tuple(f"{self.source}: of {role} the variant fp16 alone is there, and is taken" for role in halves)

    def config(self, component: str) -> Mapping[str, Any]:
        """Configuration of a component. ValueError for one that the pipeline lacks."""
        return self._one_of(self._configs, component)

    def component(self, name: str) -> Any:
        """A component, ready to be used, the same object each time: a network, a tokenizer or a scheduler.

        Networks are in evaluation mode, without gradients, in float32, on the CPU.

        Raises ValueError for one that the pipeline lacks, or files that do not fit its class; OSError if they cannot be
        read; ImportError if a package is missing.
        """
        if name not in self._components:
            library, _, made = self._one_of(self.classes, name).partition(".")
            with _naming(f"{self.source}: component {name}"):
                self._components[name] = build(library, made, self._configs[name], self.files[name][1:])
        return self._components[name]

    def sha256(self, *names: str) -> str:
        """Of the configurations, and weights or vocabularies, of these components; without names, of all.

        It tells contents and what is what, not paths, times or names of files. Files that the hub's cache calls by
        their digest are not read for it.
        """
        total = hashlib.sha256()
        for name in sorted({*(names or self.classes)}):
            if name not in self._digests:
                digests = [_digest(path, self.source) for path in self._one_of(self.files, name)]
                self._digests[name] = json.dumps([name, self.classes[name], *digests])
            total.update(self._digests[name].encode())
        return total.hexdigest()

    def _one_of(self, table: Mapping[str, _Value], name: str) -> _Value:
        if name not in table:
            raise ValueError(f"{self.source}: a {self.pipeline} has no component {name}, only {', '.join(table)}")
        return table[name]


def _digest(path: Path, source: str) -> str:
    blob = path.resolve()
    if source.startswith(SCHEME) and blob.parent.name == "blobs" and _BLOB.fullmatch(blob.name):
        return blob.name
    return sha256_of(path)


def recognises(source: str, *, offline: bool) -> bool:
    """As `is_pipeline`."""
    return is_pipeline(source)


def load(source: str, *, offline: bool) -> DiffusersFiles:
    """A pipeline by its folder, or `hf://organisation/repository[@revision]` of the hub.

    All files are found, and all configurations checked, before this returns; weights are read as components are asked
    for. They are taken from safetensors; of a component without them from `.bin`, by a reader that runs nothing; else
    from the variant fp16, as `notes` tells. What is complete in the hub's cache is taken as it is, without asking for a
    newer one; offline: ask no server at all.

    Raises ValueError for what is no pipeline that is known here, OSError if it cannot be had or read, ImportError
    without the extra [diffusers]; each with one line that says what to do.
    """
    for library in ("diffusers", "transformers"):
        need(library, INSTALL)
    if source.startswith(SCHEME):
        return _of_hub(source, offline)
    return _of_folder(source, Path(os.path.expanduser(source)))


def _of_hub(source: str, offline: bool) -> DiffusersFiles:
    found = _of_cache(source)
    if found is not None:
        return found
    check_online(source, offline)
    with one_process_at_a_time():
        found = _of_cache(source)  # whoever was here before us may have fetched it
        return _of_folder(source, _fetched(source)) if found is None else found


def _of_cache(source: str) -> DiffusersFiles | None:
    """A pipeline of the hub's cache, if it is complete there."""
    folder = cached_folder(source, PIPELINE_INDEX)
    try:
        return None if folder is None else _of_folder(source, folder)
    except FileNotFoundError:
        return None


def _fetched(source: str) -> Path:
    """The folder of the hub's cache with all that is needed, of one commit; weights of the best kind that there is."""
    folder = fetched_folder(source, [PIPELINE_INDEX])
    _, _, classes = _read_index(source, folder)
    for kind in range(KINDS):
        patterns = [f"{role}/{each}" for role, name in classes.items() for each in _lacking(folder / role, name, kind)]
        if patterns:  # with one that is there, since the client warns where it finds nothing
            fetched_folder(source, [PIPELINE_INDEX, *patterns], commit=folder.name)
    return folder


def _lacking(folder: Path, name: str, kind: int) -> list[str]:
    """What is to be fetched of a component, beginning with kind 0: all but weights, and the best of these."""
    library, _, made = name.partition(".")
    found = [config_file(made), *VOCABULARIES.get(made, ())] if kind == 0 else []
    if config_file(made) != "config.json":
        return found
    try:
        weight_files(folder, library)
    except FileNotFoundError:
        found += weight_patterns(library, kind)
    return found


def _of_folder(source: str, folder: Path) -> DiffusersFiles:
    index, pipeline, classes = _read_index(source, folder)
    configs: dict[str, Mapping[str, Any]] = {}
    files: dict[str, tuple[Path, ...]] = {}
    for role, name in classes.items():
        library, _, made = name.partition(".")
        path = folder / role / config_file(made)
        with _naming(f"{source}: component {role}"):
            configs[role] = _read_object(path)
            check_config(configs[role], made)
            files[role] = (path, *_content_files(path.parent, library, made))
        check_packages(files[role])
    return DiffusersFiles(source, folder, pipeline, index, configs["scheduler"], classes, files, configs)


def _content_files(folder: Path, library: str, made: str) -> tuple[Path, ...]:
    if made in VOCABULARIES:
        return vocabulary_files(folder, made)
    return () if made.endswith("Scheduler") else weight_files(folder, library)


def _read_index(source: str, folder: Path) -> tuple[Mapping[str, Any], str, Mapping[str, str]]:
    """Content of the index, the pipeline's class, and of its components those that are read."""
    if not (folder / PIPELINE_INDEX).is_file():
        raise FileNotFoundError(f"{source} is no pipeline of diffusers: it has no {PIPELINE_INDEX}")
    with _naming(f"{source}: {PIPELINE_INDEX}"):
        index = _read_object(folder / PIPELINE_INDEX)
        pipeline = index.get("_class_name")
        if not isinstance(pipeline, str) or pipeline not in PIPELINES:
            raise ValueError(f"pipeline {_shown(pipeline)} is not known here: known are {', '.join(PIPELINES)}")
        named = {role: value for role, value in index.items() if isinstance(value, list) and not role.startswith("_")}
        roles = PIPELINES[pipeline]
        for role, value in named.items():
            if role not in roles and role not in LEFT_OUT and any(value):
                raise ValueError(f"a {pipeline} has no component {_shown(role)} here, only {', '.join(roles)}")
        classes = {role: _known(role, named.get(role), known) for role, known in roles.items()}
    return index, pipeline, classes


def _known(role: str, value: Any, known: tuple[str, ...]) -> str:
    """The class of a component, "library.Class". ValueError if it is none that is known here."""
    names = isinstance(value, list) and len(value) == 2 and all(isinstance(part, str) for part in value)
    name = ".".join(value) if names else None
    if name not in known:
        raise ValueError(
            f"component {role} is of class {_shown(name or value)}, not known here: {' or '.join(known)} is"
        )
    return name


def _read_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: fetch it again")
    data = read_regular(path, _MAX_CONFIG)
    return parse_object(data.replace(_NO_LIMIT, b"null"), path.name)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) and value.isidentifier() and len(value) < 100 else reprlib.repr(value)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Inside, what files make their readers raise is a ValueError of one line that begins so; OSError passes."""
    try:
        with odd_files_are_value_errors("it"):
            yield
    except ValueError as error:
        raise ValueError(f"{what}: {' '.join(str(error).split())[:_MAX_REASON]}") from error
