"""What text encoders of diffusers' pipelines make of prompts, as their networks are told it."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from edm2_guidance.models.diffusers_files import DiffusersFiles
from edm2_guidance.recipe.prompts import shortened

Embedded = tuple[Tensor, ...]  # of one prompt, without a batch: tokens [T, E], of some a vector for all [P] as well
_KEPT = 256  # prompts
_IF_TOKENS = 77  # as many as DeepFloyd IF was trained with; its T5 knows more


class Texts(ABC):
    """The text encoders of a pipeline. Each prompt is encoded by itself, so that no batch changes it.

    They compute in float32, and are on the device only while new prompts are encoded.
    """

    components: ClassVar[tuple[str, ...]]

    def __init__(self, files: DiffusersFiles) -> None:
        """ValueError for a tokenizer that is damaged, or whose texts are longer than the encoder sees."""
        self._files = files
        for name in self.components:
            if name.startswith("tokenizer"):
                self._check_length(name)
        self._known: dict[tuple[str | None, torch.device], Embedded] = {}

    def _check_length(self, tokenizer: str) -> None:
        length = self._files.component(tokenizer).model_max_length
        most = self._files.config(tokenizer.replace("tokenizer", "text_encoder")).get("max_position_embeddings")
        if type(length) is not int or length < 2 or (most is not None and length > most):
            seen = "" if most is None else f", and its text encoder sees {most}"
            raise ValueError(f"{self._files.source}: component {tokenizer}: model_max_length is {length!r}{seen}")

    def embedded(self, texts: Sequence[str | None], device: torch.device) -> list[Embedded]:
        """Of each prompt, on a device; of None what the network is told without one."""
        new = [text for text in dict.fromkeys(texts) if (text, device) not in self._known]
        encoders = [self._files.component(name) for name in self.components if name.startswith("text_encoder")]
        for encoder in encoders if new else ():
            encoder.to(device)
        with torch.no_grad():
            self._known |= {(text, device): tuple(each[0] for each in self._encoded(text, device)) for text in new}
        for encoder in encoders if new else ():
            encoder.to("cpu")
        found = [self._known[text, device] for text in texts]
        for oldest in [*self._known][:-_KEPT]:
            del self._known[oldest]
        return found

    @abstractmethod
    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        """Of one prompt, as a batch of it."""

    def _run(
        self, encoder: str, text: str, device: torch.device, *, length: int | None = None, mask: bool = False
    ) -> Any:
        """The output of an encoder for a text of so many tokens, None for as many as it knows; warns of longer ones.

        mask: whether the encoder does not see what fills a text up.
        """
        tokens = self._files.component(encoder.replace("text_encoder", "tokenizer"))
        length = length or tokens.model_max_length
        if len(tokens(text, verbose=False).input_ids) > length:
            said = f"{shortened(text)} has more than {length} tokens: the network is told none beyond them"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        told = tokens([text], padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        hidden = {"attention_mask": told.attention_mask.to(device)} if mask else {}
        return self._files.component(encoder)(told.input_ids.to(device), output_hidden_states=True, **hidden)


class ClipTexts(Texts):
    """Stable Diffusion's: the last layer of CLIP. Without a prompt it is told an empty one."""

    components = ("text_encoder", "tokenizer")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        mask = bool(self._files.config("text_encoder").get("use_attention_mask"))
        return (self._run("text_encoder", text or "", device, mask=mask)[0],)


class TwoClipTexts(Texts):
    """SD-XL's: the last layer but one of two CLIPs, and the second's vector for all (arXiv 2307.01952, Section 2.1).

    Without a prompt all is zero, where the pipeline's `force_zeros_for_empty_prompt` says so.
    """

    components = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        zero = text is None and self._files.index.get("force_zeros_for_empty_prompt", True)
        first, second = (self._run(f"text_encoder{each}", text or "", device) for each in ("", "_2"))
        tokens = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return (tokens * 0, second[0] * 0) if zero else (tokens, second[0])


class T5Texts(Texts):
    """DeepFloyd IF's: T5 of the prompt in small letters, its padding hidden; an empty one stands for none."""

    components = ("text_encoder", "tokenizer")

    def _encoded(self, text: str | None, device: torch.device) -> Embedded:
        written = (text or "").lower().strip()
        return (self._run("text_encoder", written, device, mask=True, length=_IF_TOKENS)[0],)


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
