"""What text encoders of diffusers' pipelines make of prompts, as their networks are told it."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from edm2_guidance.models.diffusers_files import DiffusersFiles

Embedded = tuple[Tensor, ...]  # of one prompt, without a batch: tokens [T, E], of some a vector for all [P] as well
_IF_TOKENS = 77  # as many as DeepFloyd IF was trained with; its T5 knows more


class Texts(ABC):
    """The text encoders of a pipeline. Each prompt is encoded by itself, so that no batch changes it.

    They compute in float32, and are on the device only while they do: for a new prompt.
    """

    components: ClassVar[tuple[str, ...]]

    def __init__(self, files: DiffusersFiles) -> None:
        self._files = files
        self.embedded = functools.lru_cache(maxsize=256)(self._embedded)

    def _embedded(self, text: str | None, device: torch.device) -> Embedded:
        with torch.no_grad():
            return tuple(each[0] for each in self._encoded(text, device))

    @abstractmethod
    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        """Of one prompt, as a batch of it; of None what the network is told without one."""

    def _run(self, encoder: str, tokenizer: str, text: str, device: torch.device, **how: Any) -> Any:
        """The output of an encoder. how: of the tokenizer, "mask" apart: whether padding is hidden."""
        mask = how.pop("mask", False)
        tokens = self._files.component(tokenizer)
        length = how.pop("length", None) or tokens.model_max_length
        told = tokens([text], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        hidden = {"attention_mask": told.attention_mask.to(device)} if mask else {}
        network = self._files.component(encoder).to(device)
        made = network(told.input_ids.to(device), output_hidden_states=True, **hidden)
        network.to("cpu")
        return made


class ClipTexts(Texts):
    """Stable Diffusion's: the last layer of CLIP. Without a prompt it is told an empty one."""

    components = ("text_encoder", "tokenizer")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        mask = bool(self._files.config("text_encoder").get("use_attention_mask"))
        return (self._run("text_encoder", "tokenizer", text or "", device, mask=mask)[0],)


class TwoClipTexts(Texts):
    """SD-XL's: the last layer but one of two CLIPs, and the second's vector for all (arXiv 2307.01952, Section 2.1).

    Without a prompt all is zero, where the pipeline's `force_zeros_for_empty_prompt` says so.
    """

    components = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        zero = text is None and self._files.index.get("force_zeros_for_empty_prompt", True)
        first, second = (
            self._run(f"text_encoder{n}", f"tokenizer{n}", text or "", device) for n in ("", "_2")
        )  # fmt: skip
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return (tokens * 0, second[0] * 0) if zero else (tokens, second[0])


class T5Texts(Texts):
    """DeepFloyd IF's: T5 of the prompt in small letters, its padding hidden; an empty one stands for none."""

    components = ("text_encoder", "tokenizer")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        written = (text or "").lower().strip()
        return (self._run("text_encoder", "tokenizer", written, device, mask=True, length=_IF_TOKENS)[0],)


KINDS: Mapping[str, type[Texts]] = {
    "StableDiffusionPipeline": ClipTexts,
    "StableDiffusionXLPipeline": TwoClipTexts,
    "IFPipeline": T5Texts,
    "IFSuperResolutionPipeline": T5Texts,
    "StableDiffusionUpscalePipeline": ClipTexts,
}
_KNOWN: "WeakValueDictionary[tuple[str, str], Texts]" = WeakValueDictionary()  # by kind and content


def texts_of(files: DiffusersFiles) -> Texts:
    """The text encoders of a pipeline: the same of all pipelines that have the same, such as DeepFloyd IF's sizes."""
    kind = KINDS[files.pipeline]
    key = kind.__name__, files.sha256(*kind.components)
    found = _KNOWN.get(key)
    if found is None:
        found = _KNOWN[key] = kind(files)
    return found
