"""The explorer's curves as Apache ECharts draws them."""

import math
from typing import Any

from edm2_guidance.explorer.session import Curve
from edm2_guidance.explorer.settings import Settings

_COLOURS = ["#d55e00", "#0072b2", "#cc79a7", "#009e73"]


def options(curves: list[Curve], settings: Settings) -> dict[str, Any]:
    """ECharts' options: differences above, weights below, noise falling to the right; the interval is shaded."""
    if not curves:
        return {}
    ends = {"min": float(f"{curves[0].sigma.min():.4g}"), "max": float(f"{curves[0].sigma.max():.4g}")}
    axis, name = {"type": "log", "inverse": True, **ends}, {"nameTextStyle": {"align": "left"}}
    below = {"name": "noise level sigma", "nameLocation": "middle", "nameGap": 24, "axisLabel": {"hideOverlap": True}}
    grid = {"left": 52, "right": 28, "outerBoundsMode": "none"}
    return {
        "animation": False,
        "color": _COLOURS,
        "legend": {"top": 0, "left": "left"},
        "tooltip": {"trigger": "axis"},
        "axisPointer": {"link": [{"xAxisIndex": "all"}]},
        "grid": [{**grid, "top": 56, "height": 140}, {**grid, "top": 228, "height": 56}],
        "xAxis": [{**axis, "axisLabel": {"show": False}}, {**axis, **below, "gridIndex": 1}],
        "yAxis": [
            {"type": "log", "name": "RMS of D_main - D_ref", **name},
            {"name": "w", "scale": True, "splitNumber": 2, "gridIndex": 1, **name},
        ],
        "series": [_line(curve, panel, settings) for curve in reversed(curves) for panel in (0, 1)],
    }


def _line(curve: Curve, panel: int, settings: Settings) -> dict[str, Any]:
    """A curve in one of the two panels; of a weight, what holds until the next level."""
    values = (curve.difference, curve.weight)[panel]
    points = [[float(x), float(y)] for x, y in zip(curve.sigma, values, strict=True) if not math.isnan(y)]
    line: dict[str, Any] = {
        "name": curve.name, "type": "line", "data": points, "xAxisIndex": panel, "yAxisIndex": panel, "symbolSize": 5,
        "step": "end" if panel else False,
    }  # fmt: skip
    if settings.interval is not None:
        sigmas = settings.sigmas
        area = [{"xAxis": sigmas.hi}, {"xAxis": max(sigmas.lo, float(curve.sigma.min()))}]
        line["markArea"] = {"silent": True, "itemStyle": {"color": "#0072b2", "opacity": 0.06}, "data": [area]}
    return line
