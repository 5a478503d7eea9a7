"""Imports torchvision also where its own operators do not load: PyPI's is built for CUDA, and torch may not be.

Detection needs these operators, measures do not; but torchvision will not be imported without some of their names.
"""

import torch

try:
    import torchvision
except RuntimeError:
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401
