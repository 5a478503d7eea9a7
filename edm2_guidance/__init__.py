"""Guided samples of diffusion networks, and their scores. What this package exports is documented in docs/api.md."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edm2_guidance.images.batch import ImageBatch
    from edm2_guidance.images.diagnostics import Diagnostics
    from edm2_guidance.library import decode, diagnostics, generate, generate_zip, sample_latents, score, search
    from edm2_guidance.metrics.scoring import Score
    from edm2_guidance.models import open_classifier, open_model
    from edm2_guidance.recipe.guide import Guide, classifier_guide
    from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
    from edm2_guidance.recipe.recipe import Recipe
    from edm2_guidance.reproduction.sweeps import Trial
    from edm2_guidance.sampling.generation import Generation
    from edm2_guidance.sampling.latents import Latents
    from edm2_guidance.sampling.opening import open_recipe
    from edm2_guidance.work.again import read_recipe

# Imported when first asked for: `import edm2_guidance` takes no time.
_PLACES = {
    "Diagnostics": "images.diagnostics",
    "Generation": "sampling.generation",
    "Guide": "recipe.guide",
    "ImageBatch": "images.batch",
    "Latents": "sampling.latents",
    "Recipe": "recipe.recipe",
    "Score": "metrics.scoring",
    "SigmaInterval": "recipe.intervals",
    "StepInterval": "recipe.intervals",
    "Trial": "reproduction.sweeps",
    "classifier_guide": "recipe.guide",
    "decode": "library",
    "diagnostics": "library",
    "generate": "library",
    "generate_zip": "library",
    "open_classifier": "models",
    "open_model": "models",
    "open_recipe": "sampling.opening",
    "read_recipe": "work.again",
    "sample_latents": "library",
    "score": "library",
    "search": "library",
}
__all__ = [
    "Diagnostics", "Generation", "Guide", "ImageBatch", "Latents", "Recipe", "Score", "SigmaInterval", "StepInterval",
    "Trial", "classifier_guide", "decode", "diagnostics", "generate", "generate_zip", "open_classifier", "open_model",
    "open_recipe", "read_recipe", "sample_latents", "score", "search",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
