"""Every file that work needs, fetched or found before it is begun, for machines without a network later."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dnnlib.download import fetch
from edm2_guidance.metrics.catalog import find_extractor
from edm2_guidance.metrics.detectors import find_weights
from edm2_guidance.models import fetch_network
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.opening import open_recipe


def fetch_all(
    recipes: Sequence[Recipe],
    references: Sequence[str] = (),
    detectors: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    offline: bool = False,
    trust_pickle: bool = False,
) -> list[str]:
    """Where everything is that these need: networks, what their encoders load, statistics, detectors; once each.

    The networks of one recipe per main network and base are opened, on the CPU: whether they fit, and which VAE they
    need, stands in the files alone.

    Args:
        recipes: Their networks, by path or URL.
        references: Statistics, by path or URL.
        detectors: By the name of their features, what `metrics.detectors.load_detector` takes beside it.
        offline: Ask no server.
        trust_pickle: As in `open_recipe`.

    Raises FileNotFoundError for what is not here (if offline, or on this machine), DownloadError for what no server
    delivers, ValueError for networks that do not fit.
    """
    networks = dict.fromkeys(source for recipe in recipes for source in recipe.sources)
    found = [str(fetch_network(source, offline=offline)) for source in networks]
    found += [str(fetch(source, offline=offline)) for source in dict.fromkeys(references)]
    paths = [*dict.fromkeys(found)]  # functions of one file are several networks
    for name, choice in (detectors or {}).items():
        paths.append(str(find_weights(find_extractor(name), choice.get("weights"), offline)))
    by_main = {(recipe.net.source, recipe.base and recipe.base.name): recipe for recipe in reversed(recipes)}
    vaes = (_vae(recipe, offline, trust_pickle) for recipe in by_main.values())
    return [*paths, *(f"{vae}, the VAE" for vae in dict.fromkeys(vaes) if vae)]


def _vae(recipe: Recipe, offline: bool, trust_pickle: bool) -> str:
    """Name of the VAE that the main network of a recipe decodes with, "" for none; once all of it was opened."""
    here = replace(recipe, noise_device="cpu")  # the device that is asked for may be that of another machine
    encoder = open_recipe(here, "cpu", offline=offline, trust_pickle=trust_pickle).recipe.encoder
    return str(encoder.get("vae_name", ""))
