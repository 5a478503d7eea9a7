"""Components of a pipeline, built by the classes of diffusers and transformers from plain data.

No class is looked up by what a file says beyond the names of `diffusers_files.PIPELINES`, and configurations hand on
the fields of these classes alone: transformers' own loader would act on some others, as by fetching programs.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from itertools import chain
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from dnnlib.extras import need
from dnnlib.regular import read_regular
from edm2_guidance.images.zips import parse_object
from edm2_guidance.models.diffusers_hub import INSTALL
from edm2_guidance.models.diffusers_weights import Undrawn, fill, stored_tensors

_MAX_WIDTH, _MAX_IMAGE, _MAX_LAYERS, _MAX_LEVELS = 1 << 20, 1 << 10, 1 << 12, 64
_MAX_VOCABULARY = 64 << 20  # bytes of a file

_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id")
_TEXT_FIELDS = {
    "clip_text_model": (
        "vocab_size", "hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers", "num_attention_heads",
        "max_position_embeddings", "hidden_act", "layer_norm_eps", *_TOKENS,
    ),
    "t5": (
        "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "relative_attention_num_buckets",
        "relative_attention_max_distance", "layer_norm_epsilon", "feed_forward_proj", *_TOKENS,
    ),
}  # fmt: skip
_MODEL_TYPE = {
    "CLIPTextModel": "clip_text_model",
    "CLIPTextModelWithProjection": "clip_text_model",
    "T5EncoderModel": "t5",
}
_TOKENIZER_FIELDS = (
    "add_prefix_space", "added_tokens_decoder", "additional_special_tokens", "bos_token",
    "clean_up_tokenization_spaces", "do_lower_case", "eos_token", "errors", "extra_ids", "extra_special_tokens",
    "model_max_length", "pad_token", "padding_side", "truncation_side", "unk_token",
)  # fmt: skip

_CLIP_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_T5_FILES = ("tokenizer.json", "spiece.model", "special_tokens_map.json", "added_tokens.json")

#: Files of tokenizers beside their configuration: the first or the second must be there.
VOCABULARIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "CLIPTokenizer": _CLIP_FILES,
    "CLIPTokenizerFast": _CLIP_FILES,
    "T5Tokenizer": _T5_FILES,
    "T5TokenizerFast": _T5_FILES,
})  # fmt: skip

#: Names that classes had before.
_FORMERLY = {
    "Transformer2DModel": "DiTTransformer2DModel",
    "CLIPTokenizerFast": "CLIPTokenizer",
    "T5TokenizerFast": "T5Tokenizer",
}


def config_file(name: str) -> str:
    """Where components of a class have their configuration."""
    if name in VOCABULARIES:
        return "tokenizer_config.json"
    return "scheduler_config.json" if name.endswith("Scheduler") else "config.json"


def vocabulary_files(folder: Path, name: str) -> tuple[Path, ...]:
    """The files of a tokenizer beside its configuration. FileNotFoundError if there is no vocabulary."""
    names = VOCABULARIES[name]
    found = tuple(folder / each for each in names if (folder / each).is_file())
    if not {folder / each for each in names[:2]} & {*found}:
        raise FileNotFoundError(f"{folder} has no vocabulary, neither {names[0]} nor {names[1]}: fetch it again")
    return found


def check_packages(files: Sequence[Path]) -> None:
    """ImportError if a tokenizer is there in a form that transformers needs other packages to read."""
    names = {path.name for path in files}
    if "spiece.model" in names and "tokenizer.json" not in names:
        for package, module in (("sentencepiece", "sentencepiece"), ("protobuf", "google.protobuf")):
            try:
                import_module(module)
            except ModuleNotFoundError as error:
                raise ImportError(f"{package} is not installed, and is needed for this: {INSTALL}") from error


def check_config(config: Mapping[str, Any], name: str) -> None:
    """ValueError if a configuration is not of this class, calls for code of its own, or is of no network's size."""
    custom = [key for key in ("auto_map", "custom_pipelines", "trust_remote_code") if config.get(key)]
    if custom:
        raise ValueError(f"{custom[0]} in it names code of its own, which is never run")
    if name in VOCABULARIES:
        found = str(config.get("tokenizer_class") or name)
        if _FORMERLY.get(found, found) != _FORMERLY.get(name, name):
            raise ValueError(f"tokenizer_class in it is {found[:200]!r}, not {name!r} as in model_index.json")
        return
    key, expected = ("model_type", _MODEL_TYPE[name]) if name in _MODEL_TYPE else ("_class_name", name)
    if config.get(key) != expected:
        raise ValueError(f"{key} in it is {str(config.get(key))[:200]!r}, not {expected!r} as in model_index.json")
    _check_sizes(config)


def _check_sizes(config: Mapping[str, Any]) -> None:
    """ValueError for what would take very long, or much memory, to build, before its weights are looked at."""
    for key, value in config.items():
        levels = isinstance(value, list) and key != "trained_betas" and len(value) > _MAX_LEVELS
        if levels or max(_integers(value), default=0) > (_MAX_IMAGE if key == "sample_size" else _MAX_WIDTH):
            raise ValueError(f"{key[:200]} in it is larger than of any network")
    layers = {key: max(_integers(value), default=1) for key, value in config.items() if "layers" in key}
    if prod(layers.values()) > _MAX_LAYERS:
        raise ValueError(f"{' times '.join(layers)[:200]} in it are more than of any network")


def _integers(value: Any) -> list[int]:
    if isinstance(value, list):
        return [*chain.from_iterable(map(_integers, value))]
    return [value] if type(value) is int else []


def build(library: str, name: str, config: Mapping[str, Any], files: Sequence[Path]) -> Any:
    """A component of a class whose name was checked. files: of its weights, or vocabulary."""
    made = _class(library, _FORMERLY.get(name, name))
    if name in VOCABULARIES:
        return _tokenizer(made, config, files)
    if name.endswith("Scheduler"):
        return made.from_config(dict(config))
    with torch.random.fork_rng(devices=[]), Undrawn():
        net: nn.Module = _text_encoder(made, config) if library == "transformers" else made.from_config(dict(config))
    with stored_tensors(files) as stored:
        fill(net, stored)
    return net


def _class(library: str, name: str) -> Any:
    """A class, imported without the advice that transformers gives to whoever wants to read images."""
    log = logging.getLogger("transformers")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        return getattr(need(library, INSTALL), name)
    finally:
        log.setLevel(level)


def _text_encoder(made: Any, config: Mapping[str, Any]) -> nn.Module:
    fields = _TEXT_FIELDS[_MODEL_TYPE[made.__name__]]
    net: nn.Module = made(made.config_class(**{key: config[key] for key in fields if key in config}))
    return net


def _tokenizer(made: Any, config: Mapping[str, Any], files: Sequence[Path]) -> Any:
    """By the class's own reader, which is shown copies of these files and no others."""
    with TemporaryDirectory() as place:
        kept = {key: config[key] for key in _TOKENIZER_FIELDS if key in config}
        Path(place, "tokenizer_config.json").write_text(json.dumps(kept))
        for path in files:
            data = read_regular(path, _MAX_VOCABULARY)
            if path.suffix == ".json":
                parse_object(data, str(path))
            Path(place, path.name).write_bytes(data)
        return made.from_pretrained(place, local_files_only=True)
