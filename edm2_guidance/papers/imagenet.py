"""The 1,000 classes of ImageNet, which the published class-conditional networks number. No torch here."""

import functools
import re
from pathlib import Path

#: Words that WordNet has for two of the classes, which the names here tell apart by another word behind them.
SHARED_WORDS = {"crane": (134, 517), "maillot": (638, 639)}

_PUBLISHED = re.compile(
    r"edm2-img(64|512)-(xs|s|m|l|xl|xxl)-\d{7}-0\.\d{3}|(edm|baseline)-imagenet-64x64-cond-adm|DiT-XL-2-(256|512)",
    re.ASCII,
)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Names of classes 0 to 999, in the order of their sorted WordNet IDs, as torchvision's metadata lists them."""
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text(encoding="utf-8").splitlines())


def is_published(source: str) -> bool:
    """Whether a path or URL has the name of a published network with ImageNet's classes."""
    name = source.replace("\\", "/").rsplit("/", 1)[-1].rsplit(".", 1)[0]
    return _PUBLISHED.fullmatch(name) is not None
