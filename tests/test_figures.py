"""--figs and blends as their user draws them: pixels against the sampler, stand-ins, resuming, workers."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from edm2_guidance.cli.figures import wanted_pictures
from edm2_guidance.cli.grid import AXES, grid_layout
from edm2_guidance.commands.generate_images import ImageOptions, main
from edm2_guidance.images.insets import sheet
from edm2_guidance.papers.figures import pictures
from tests.functions import Plain, levels, steps_of
from training.network_io import load_network, save_network


@pytest.fixture
def run(tiny_networks, tmp_path):
    def run(*args, net="cond", guide="uncond"):
        networks = [f"--uncond_pkl={tiny_networks[guide]}"]
        if not any(str(arg).startswith("--net=") for arg in args):
            networks.append(f"--cond_pkl={tiny_networks[net]}")
        return CliRunner().invoke(main, [*networks, f"--results_dir={tmp_path}/results", *map(str, args)])

    return run


@pytest.fixture(scope="session")
def thousand_classes(tmp_path_factory):
    """A network that is taken for one of ImageNet."""
    from training.encoders import StandardRGBEncoder
    from training.networks_edm2 import Precond

    torch.manual_seed(0)
    common = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [], "channels_per_head": 8}
    net = Precond(8, 3, 1000, **common)
    with torch.no_grad():
        for key, parameter in net.named_parameters():
            if key.endswith("gain"):
                parameter.fill_(0.6)
    path = tmp_path_factory.mktemp("networks") / "thousand.pkl"
    save_network(path, net, encoder=StandardRGBEncoder())
    return path


def reference_image(net, guide, class_index, seed, weight, steps):
    """One image by the definition of the figures: seed hashed with the class, float64 state, guided steps 17 to 22."""
    main_file, guide_file = (load_network(str(path), device=torch.device("cpu")) for path in (net, guide))
    generator = torch.Generator().manual_seed(hash((class_index, seed)) % 2**31)
    noise = torch.randn([3, 8, 8], generator=generator)[None].to(torch.float64)
    labels = torch.zeros(1, main_file.net.label_dim)
    labels[0, class_index] = 1

    def at(step):
        def denoiser(x, sigma):
            ours = main_file.net(x, sigma, labels).to(torch.float64)
            return ours if step not in steps else ours + (weight - 1) * (ours - guide_file.net(x, sigma).to(x.dtype))

        return denoiser

    with torch.inference_mode():
        *_, last = steps_of(lambda info: Plain(at(info.index)), noise, levels())
    return Image.fromarray(main_file.encoder.decode(last.x)[0].permute(1, 2, 0).numpy())


def test_pixels_of_a_figure(run, thousand_classes, tiny_networks, tmp_path):
    result = run("--figs=fig8b", f"--net={thousand_classes}")
    assert result.exit_code == 0, result.output
    (path,) = (tmp_path / "results").iterdir()
    assert path.name == "fig8b-class483-g1.00-3.00-5.00-gi.png"
    networks = (thousand_classes, tiny_networks["uncond"])
    images = [reference_image(*networks, 483, 17, weight, range(17, 23)) for weight in (1, 3, 5)]
    expected = sheet(images, 3, (2, 3, 5, 6))  # 150, 175 and 180 of 512, in an image of 8
    assert expected.size == (3 * 256, 2 * 256)  # no caption: these are the paper's own
    difference = np.asarray(Image.open(path)).astype(int) - np.asarray(expected)
    assert abs(difference).max() <= 1


def test_stand_ins_say_so(run, tiny_networks, tmp_path):
    result = run("--figs=fig8a", "--steps=3")
    assert result.exit_code == 0, result.output
    assert "the main network is not of ImageNet: its 10 classes stand in for the paper's" in result.stderr
    picture = Image.open(tmp_path / "results" / "fig8a-class483-g1.00-3.00-5.00-cfg.png")
    recipe = json.loads(picture.info["recipe"])["recipes"][2]
    assert (recipe["labels"], recipe["seed_rule"], recipe["dtype"]) == (3, "figure", "float64")
    assert (recipe["guides"][0]["weight"], recipe["guides"][0]["steps"]) == ("constant:w=5", None)
    pixels = np.asarray(picture)
    assert pixels.shape[0] > 512 + 30
    caption = pixels[: pixels.shape[0] - 540]
    assert ((caption == 255).all(axis=2)).mean() > 0.5
    assert (caption < 100).any()


def test_the_embedded_networks_stand_in_when_none_are_given(tmp_path):
    result = CliRunner().invoke(main, ["--figs=fig8a", f"--results_dir={tmp_path}", "--steps=3", "--verbose=True"])
    assert result.exit_code == 0, result.output
    assert "mnist16-cond; guided by mnist16-uncond, w = 5, at all steps" in result.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_intervals_on_another_schedule_are_the_same_noise_levels(run, tmp_path):
    result = run("--figs=fig8b", "--steps=16")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("steps 17-22 of 32 are taken as sigma in (0.1886, 1.609]") == 1
    picture = Image.open(next((tmp_path / "results").iterdir()))
    assert json.loads(picture.info["recipe"])["recipes"][2]["guides"][0]["steps"] == [
        9,
        11,
    ]  # levels 0.966, 0.470, 0.211


def test_finished_pictures_are_kept(run, tmp_path):
    assert run("--figs=fig6", "--steps=3").exit_code == 0
    first, second = sorted((tmp_path / "results").iterdir())
    first.unlink()
    stamp = second.stat().st_mtime_ns
    again = run("--figs=fig6", "--steps=3")
    assert "1 picture made" in again.stdout
    assert second.stat().st_mtime_ns == stamp
    assert first.exists()
    for other in (["--steps=4"], ["--dtype=float32", "--steps=3"]):
        refused = run("--figs=fig6", *other)
        assert refused.exit_code == 2
        assert "other networks or settings" in refused.stderr
    assert run("--figs=fig6", "--steps=4", "--overwrite").exit_code == 0
    assert second.stat().st_mtime_ns != stamp


@pytest.mark.parametrize("preset", ["mnist16-classifier", "adm-mnist16-g", "mnist16"])
def test_pictures_of_classifier_free_guidance_are_by_a_guiding_network(tmp_path, preset):
    refused = CliRunner().invoke(main, [f"--preset={preset}", "--figs=fig5", f"--results_dir={tmp_path}/results"])
    assert refused.exit_code == 2
    assert "figures take a main network and one guide: --cond_pkl and --uncond_pkl" in refused.stderr
    assert not (tmp_path / "results").exists()


def test_workers_share_the_pictures_out(run, tmp_path, monkeypatch):
    assert run("--figs=fig5", "--steps=2").exit_code == 0
    alone = {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()}
    for path in (tmp_path / "results").iterdir():
        path.unlink()
    monkeypatch.setenv("WORLD_SIZE", "4")
    made = []
    for rank in "2031":
        monkeypatch.setenv("RANK", rank)
        assert run("--figs=fig5", "--steps=2").exit_code == 0
        made.append(len(list((tmp_path / "results").iterdir())))
    assert made == [1, 3, 4, 6]
    assert {path.name: path.read_bytes() for path in (tmp_path / "results").iterdir()} == alone


@pytest.mark.parametrize(
    ("args", "count"),
    [
        (["--cond_pkl=a", "--uncond_pkl=b"], 35),  # the reference's default is all figures
        (["--cond_pkl=a", "--uncond_pkl=b", "--results_dir=c", "--seed=0", "--verbose=False"], 35),
        (["--cond_pkl=a", "--uncond_pkl=b", "--outdir=c"], 0),
        (["--cond_pkl=a", "--uncond_pkl=b", "--num=2"], 0),
        (["--net=a", "--gnet=b"], 0),  # these are not its words
        (["--net=a"], 0),
        (["--figs=fig5,fig8a"], 7),
        (["--figs=all"], 35),
    ],
)
def test_which_command_lines_draw_figures(args, count):
    with main.make_context("generate_images.py", list(args)) as context:
        asked = ImageOptions.of(context.params)
        assert len(wanted_pictures(asked.figures.figs, asked.networks)) == count
    assert len(pictures(["all"])) == 35


def grid_of(tiny_networks, args):
    args = [str(arg).replace("@", f"{tiny_networks['cond'].parent}/") for arg in args]
    with main.make_context("generate_images.py", ["--grid=x.png", *args]) as context:
        asked = ImageOptions.of(context.params)
        layout = grid_layout(asked.grid, asked.method, asked.seeds)
        captions = ([caption(place) for place in side] for side in (layout.rows, layout.columns))
        return *captions, [[layout.recipe(row, column) for column in layout.columns] for row in layout.rows]


def caption(place):
    return ", ".join(place[axis].caption for axis in AXES if axis in place)


def test_blends_by_alpha(tiny_networks):
    """Eq. 6 of arXiv 2406.02507, weights by hand."""
    guides = ["--net=@cond.pkl", "--gnet=@uncond.pkl", "--gnet=@weak.pkl", "--class=3"]
    rows, columns, recipes = grid_of(tiny_networks, [*guides, "--weights=1,3", "--alphas=0,0.25,1"])
    assert rows == ["w = 1", "w = 3"]
    assert columns == ["alpha = 0 (uncond)", "alpha = 0.25", "alpha = 1 (weak)"]
    weights = [[tuple(guide.weight.w for guide in recipe.guides) for recipe in line] for line in recipes]
    assert weights == [[(1, 1), (1, 1), (1, 1)], [(3, 1), (2.5, 1.5), (1, 3)]]
    assert {recipe.labels for line in recipes for recipe in line} == {3}
    assert grid_of(tiny_networks, [*guides, "--guidance=3", "--alphas=0,0.25,1"])[2] == recipes[1:]


def test_methods_by_weights_for_chosen_classes(tiny_networks):
    args = ["--preset=mnist16-cfg,mnist16-autog", "--weights=1,2,3", "--classes=0,7", "--seeds=5"]
    rows, columns, recipes = grid_of(tiny_networks, args)
    assert rows == ["CFG, class 0", "autoguidance, class 0", "CFG, class 7", "autoguidance, class 7"]
    assert columns == ["w = 1", "w = 2", "w = 3"]
    assert [line[0].labels for line in recipes] == [0, 0, 7, 7]
    assert [[recipe.guides[0].weight.w for recipe in line] for line in recipes] == [[1, 2, 3]] * 4


@pytest.mark.parametrize(
    "args",
    [
        ["--gnet=@uncond.pkl", "--gnet=@weak.pkl", "--weights=2,3", "--alphas=0,0.5,1"],
        ["--gnet=@weak.pkl", "--weights=1,2", "--classes=0,3"],
    ],
)
def test_such_grids_are_drawn(tiny_networks, tmp_path, args):
    args = ["--net=@cond.pkl", f"--grid={tmp_path}/grid.png", "--steps=2", "--seeds=0-1", *args]
    result = CliRunner().invoke(main, [arg.replace("@", f"{tiny_networks['cond'].parent}/") for arg in args])
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "grid.png").height > 2 * 64
