"""Every kind by its name: one line each, imported on use. What is not here cannot be chosen."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

_HOUSE = "edm2_guidance."
CATALOG: Mapping[str, Mapping[str, str]] = {
    "sampler": {
        "heun": "sampling.samplers.heun:Heun",
        "euler": "sampling.samplers.euler:Euler",
        "dpmpp-2m": "sampling.samplers.dpmpp_2m:DPMpp2M",
        "dpmpp-3m": "sampling.samplers.dpmpp_3m:DPMpp3M",
        "unipc": "sampling.samplers.unipc:UniPC",
        "deis": "sampling.samplers.deis:DEIS",
        "ipndm": "sampling.samplers.ipndm:IPNDM",
        "dpm2": "sampling.samplers.dpm2:DPM2",
        "sa": "sampling.samplers.sa:SA",
        "ddpm": "sampling.samplers.ddpm:DDPM",
        "ddim": "sampling.samplers.ddim:DDIM",
        "heun-edm": "sampling.samplers.heun:HeunEDM",
    },
    "schedule": {
        "edm": "sampling.schedules.edm:EDM",
        "logsnr": "sampling.schedules.logsnr:LogSNR",
        "timesteps": "sampling.schedules.timesteps:Timesteps",
        "entropy": "sampling.schedules.entropy:Entropy",
        "ays": "sampling.schedules.ays:AYS",
        "beta": "sampling.schedules.beta_spaced:BetaSpaced",
        "vp": "sampling.schedules.vp:VP",
        "table": "sampling.schedules.table:Table",
    },
    "reference": {
        "network": "sampling.guidance.references.network:Network",
        "other-label": "sampling.guidance.references.other_label:OtherLabel",
        "unconditional": "sampling.guidance.references.unconditional:Unconditional",
        "classifier": "sampling.guidance.references.classifier:Classifier",
        "noise-embedding": "sampling.guidance.references.noise_embedding:NoiseEmbedding",
        "attention": "sampling.guidance.references.attention:Attention",
        "skip-blocks": "sampling.guidance.references.skip_blocks:SkipBlocks",
        "dropout": "sampling.guidance.references.dropout:Dropout",
        "previous-step": "sampling.guidance.references.previous_step:PreviousStep",
        "crops": "sampling.guidance.references.crops:Crops",
    },
    "weight": {
        "constant": "sampling.guidance.weights.constant:Constant",
        "linear": "sampling.guidance.weights.linear:Linear",
        "cosine": "sampling.guidance.weights.cosine:Cosine",
        "tv": "sampling.guidance.weights.tv:TV",
        "c2fg": "sampling.guidance.weights.c2fg:C2FG",
        "dg": "sampling.guidance.weights.dg:DG",
        "beta": "sampling.guidance.weights.beta:Beta",
        "cfgpp": "sampling.guidance.weights.cfgpp:CFGpp",
        "feedback": "sampling.guidance.weights.feedback:Feedback",
        "power-law": "sampling.guidance.weights.power_law:PowerLaw",
        "mambo-g": "sampling.guidance.weights.mambo_g:MamboG",
        "posterior": "sampling.guidance.weights.posterior:Posterior",
        "table": "sampling.guidance.weights.table:Table",
        "own-weight": "sampling.guidance.weights.own_weight:OwnWeight",
    },
    "rule": {
        "linear": "sampling.guidance.rules.linear:Linear",
        "rescale": "sampling.guidance.rules.rescale:Rescale",
        "apg": "sampling.guidance.rules.apg:APG",
        "fdg": "sampling.guidance.rules.fdg:FDG",
        "tcfg": "sampling.guidance.rules.tcfg:TCFG",
        "cfg-zero": "sampling.guidance.rules.cfg_zero:CFGZero",
        "reg": "sampling.guidance.rules.reg:REG",
        "own-rule": "sampling.guidance.rules.own_rule:OwnRule",
    },
    "around": {
        "erk": "sampling.around.erk:ERK",
        "higs": "sampling.around.higs:HiGS",
        "cads": "sampling.around.cads:CADS",
        "restart": "sampling.around.restart:Restart",
        "cfgig": "sampling.around.cfgig:CFGiG",
        "threshold": "sampling.around.threshold:Threshold",
    },
    "extractor": {
        "inception": "metrics.extractors.inception:Inception",
        "dinov2": "metrics.extractors.dinov2:DinoV2",
        "mnist": "metrics.extractors.mnist:Mnist",
        "mnist-ae": "metrics.extractors.mnist_ae:MnistAutoencoder",
    },
    "measure": {
        "fd": "metrics.measures.frechet:Frechet",
        "kid": "metrics.measures.kernel:Kernel",
        "precision": "metrics.measures.precision:Precision",
        "recall": "metrics.measures.recall:Recall",
        "realism": "metrics.measures.realism:Realism",
        "density": "metrics.measures.density:Density",
        "coverage": "metrics.measures.coverage:Coverage",
        "clipped-density": "metrics.measures.clipped_density:ClippedDensity",
        "clipped-coverage": "metrics.measures.clipped_coverage:ClippedCoverage",
        "is": "metrics.measures.inception_score:InceptionScore",
        "fd-inf": "metrics.measures.fd_inf:FrechetInfinity",
        "mind": "metrics.measures.mind:Mind",
        "vendi": "metrics.measures.vendi:Vendi",
        "authpct": "metrics.measures.authpct:AuthPct",
    },
    "change": {
        "blur": "images.change_kinds:Blur",
        "noise": "images.change_kinds:Noise",
        "jpeg": "images.change_kinds:Jpeg",
        "resize": "images.change_kinds:Resize",
        "shift": "images.change_kinds:Shift",
        "quantise": "images.change_kinds:Quantise",
        "fewer": "images.change_kinds:Fewer",
        "drop": "images.change_kinds:Drop",
        "duplicate": "images.change_kinds:Duplicate",
        "balance": "images.change_kinds:Balanced",
    },
}
#: The kinds that Python functions stand for.
OF_FUNCTIONS = {"rule": "own-rule", "weight": "own-weight"}
#: What the scale of a classifier is of, unless said: the weight for a sampler, as published; constant for all others.
CLASSIFIER_WEIGHTS: Mapping[str, str] = {"ddpm": "posterior"}


def kinds(axis: str) -> list[str]:
    """The names of an axis, in the order of the catalogue."""
    return list(CATALOG[axis])


def find(axis: str, kind: str) -> type[Any]:
    """The class of a kind, a `Spec` (which is built on this module); '-' and '_' are the same.

    ValueError, naming near ones, if there is none.
    """
    known = CATALOG[axis]
    kind = kind.replace("_", "-")
    if kind not in known:
        near = difflib.get_close_matches(kind, known, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"there is no {axis} '{kind}'{meant}: one of {', '.join(known)}")
    found: type[Any] = _load(known[kind])
    return found


def network_of(given: Any) -> Any:
    """An object of the user's own as an open network (`models.python.of_object`)."""
    return _load("models.python:of_object")(given)


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(_HOUSE + module), name)
