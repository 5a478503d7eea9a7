"""Figures: their panels, what is in them, and the small tools behind them."""

import numpy as np
import pytest
import torch

from dnnlib import figures
from edm2_guidance.toy import one_dim, plots
from edm2_guidance.toy.network import ToyModel

pytest.importorskip("matplotlib")


@pytest.fixture
def nets(monkeypatch):
    """Networks that know nothing, and as few points, steps and pixels as possible."""
    monkeypatch.setattr(plots, "NUM_SAMPLES", 64)
    monkeypatch.setattr(plots, "NUM_STARTS", 96)
    monkeypatch.setattr(plots, "_PIXELS", 24)
    monkeypatch.setattr(plots, "DPI", 20)
    plots._shape.cache_clear()
    monkeypatch.setattr(one_dim, "NUM_STEPS", 16)
    models = {role: ToyModel(hidden_dim=8).requires_grad_(False) for role in ("net", "gnet", "uncond_net")}
    for model in models.values():
        model.gain.fill_(0.05)
    yield models
    plots._shape.cache_clear()


SLOW = [pytest.param(*each, marks=pytest.mark.slow) for each in (("sheet", 8), ("gi1d", 8))]


@pytest.mark.parametrize(("name", "panels"), [("fig1", 5), ("fig2", 5), ("fig9", 25), *SLOW])
def test_every_figure_has_its_panels_and_is_written(nets, name, panels, tmp_path):
    figure = plots.new_figure((10, 4))
    plots.draw(name, figure, nets, cfg=4.0, guidance=3.0)
    assert len(figure.axes) == panels
    figures.save(figure, tmp_path / "figure.png", plots.DPI)
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    if name == "fig1":
        assert [ax.get_title()[:3] for ax in figure.axes] == ["(a)", "(b)", "(c)", "(d)", "(e)"]


def test_a_window_needs_a_screen(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "backend", "agg")
    with pytest.raises(ValueError, match="leave out --show"):
        plots.new_figure((1, 1), window=True)


def test_a_view_is_its_square():
    view = plots.View((1.0, 2.0), 0.5)
    grid = view.grid(4)
    assert np.allclose(view.extent, (0.5, 1.5, 1.5, 2.5))
    assert torch.allclose(grid[0], torch.tensor([0.625, 1.625])), "left bottom first"
    assert torch.allclose(grid[1], torch.tensor([0.875, 1.625])), "then to the right"
    assert view.holds(torch.tensor([[1.4, 2.4], [1.6, 2.0]])).tolist() == [True, False]


def test_thinned_points_are_apart_and_none_is_missing():
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    kept = plots.thinned(points, 0.1)
    distances = torch.cdist(kept, kept) + torch.eye(len(kept))
    assert distances.min() >= 0.1
    assert torch.cdist(points, kept).min(dim=1).values.max() < 0.1
    assert plots.thinned(points[:0], 0.1).shape == (0, 2)
