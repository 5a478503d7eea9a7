"""Files of others that have names here: where they are published, and their SHA-256 where one is known."""

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

#: Where EDM2's networks and statistics are published.
MODEL_ROOT = "https://nvlabs-fi-cdn.nvidia.com/edm2"
#: Where the authors of ADM published networks, samples and references.
ADM_ROOT = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021"


class Published(NamedTuple):
    """sha256: 64 hex digits; None where none was published: later copies must then be as the first (`download`)."""

    url: str
    sha256: str | None = None


#: ADM's networks (arXiv 2105.05233): `adm-SIZE` are denoisers with classes, `adm-SMALL-LARGE` upsamplers.
PUBLISHED: Mapping[str, Published] = MappingProxyType({
    **{f"adm-{size}": Published(f"{ADM_ROOT}/{size}x{size}_diffusion.pt") for size in (64, 128, 256, 512)},
    "adm-256-uncond": Published(
        f"{ADM_ROOT}/256x256_diffusion_uncond.pt", "a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1"
    ),
    "adm-64-256": Published(f"{ADM_ROOT}/64_256_upsampler.pt"),
    "adm-128-512": Published(f"{ADM_ROOT}/128_512_upsampler.pt"),
    **{f"adm-{size}-classifier": Published(f"{ADM_ROOT}/{size}x{size}_classifier.pt") for size in (64, 128, 256, 512)},
    **{f"adm-lsun-{kind}": Published(f"{ADM_ROOT}/lsun_{kind.replace('-', '_')}.pt")
       for kind in ("bedroom", "cat", "horse", "horse-nodropout")},
})  # fmt: skip


def published_as(source: str, sha256: str | None = None) -> tuple[str, str | None]:
    """URL and SHA-256 of a name above, or of its URL; any other source, and a file of such a name, as they are."""
    if source in PUBLISHED and not os.path.exists(source):
        source = PUBLISHED[source].url
    return source, sha256 or next((known for url, known in PUBLISHED.values() if url == source), None)
