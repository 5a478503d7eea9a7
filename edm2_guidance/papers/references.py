"""Reference statistics by name, as `--ref=NAME` takes them: of the published data sets, and of the digits. No torch."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from dnnlib.places import EMBEDDED, embedded, files_like, find_file, short_name
from dnnlib.published import ADM_ROOT, MODEL_ROOT
from edm2_guidance.metrics.catalog import SETS
from edm2_guidance.papers.edm import EDM_ROOT

#: Where the authors of ADM published samples, and their references, which hold statistics and some of the images.
ADM_BATCHES = f"{ADM_ROOT}/ref_batches/imagenet"
ADM_IMAGES = 10_000  # in each reference, as its paper says


@dataclass(frozen=True)
class NamedReference:
    """source: URL, or path of a file that ships here. metrics: those that it is meant for. what: of which images.

    image_bytes: size of the images that it holds beside statistics, about.
    """

    source: str
    metrics: tuple[str, ...]
    what: str
    image_bytes: int = 0


REFERENCES: Mapping[str, NamedReference] = MappingProxyType({
    "img512": NamedReference(
        f"{MODEL_ROOT}/dataset-refs/img512.pkl", ("fid", "fd_dinov2"), "ImageNet at 512x512, by the EDM2 authors"
    ),
    "img64": NamedReference(
        f"{MODEL_ROOT}/dataset-refs/img64.pkl", ("fid", "fd_dinov2"), "ImageNet at 64x64, by the EDM2 authors"
    ),
    "mnist16": NamedReference(
        str(EMBEDDED / "mnist16-refs.npz"), ("fd_mnist",), "the 60,000 training digits, shipped here"
    ),
    **{
        f"adm{size}": NamedReference(
            f"{ADM_BATCHES}/{size}/VIRTUAL_imagenet{size}{labeled}.npz", SETS["adm"],
            f"ImageNet at {size}x{size}, by the authors of ADM", ADM_IMAGES * 3 * size**2,
        )
        for size, labeled in ((64, "_labeled"), (128, "_labeled"), (256, "_labeled"), (512, ""))
    },
    **{
        f"lsun-{kind}": NamedReference(
            f"{ADM_ROOT}/ref_batches/lsun/{kind}/VIRTUAL_lsun_{kind}256.npz", SETS["adm"],
            f"LSUN {kind} at 256x256, by the authors of ADM", ADM_IMAGES * 3 * 256**2,
        )
        for kind in ("bedroom", "cat", "horse")
    },
    **{
        name: NamedReference(f"{EDM_ROOT}/fid-refs/{file}.npz", ("fid",), f"{what}, by the authors of EDM")
        for name, file, what in (
            ("cifar10", "cifar10-32x32", "CIFAR-10 at 32x32"),
            ("ffhq64", "ffhq-64x64", "FFHQ at 64x64"),
            ("afhqv2-64", "afhqv2-64x64", "AFHQv2 at 64x64"),
            ("edm-img64", "imagenet-64x64", "ImageNet at 64x64, for EDM's network"),
            ("edm-img64-baseline", "imagenet-64x64-baseline", "ImageNet at 64x64, for ADM's network in EDM"),
        )
    },
})  # fmt: skip


def find_reference(text: str) -> str:
    """What `--ref=TEXT` stands for: the URL or path of the reference of that name, else `text`, a URL or what is there.

    FileNotFoundError, telling the names that are known, if nothing is there.
    """
    if text in REFERENCES:
        return short_name(REFERENCES[text].source)
    if "://" in text or find_file(text).exists() or files_like(text):
        return text
    near = difflib.get_close_matches(text, [*REFERENCES, *embedded()], n=1)
    meant = f" (did you mean {near[0]}?)" if near else ""
    known = "; ".join(f"{name}: {reference.what}" for name, reference in REFERENCES.items())
    raise FileNotFoundError(
        f"there is no reference '{text}'{meant}: give a file, folder or URL, or one of these names ({known})"
    )
