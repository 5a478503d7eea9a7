"""EDM's networks: golden outputs and levels of the original code, keys of the published files, and what is refused."""

import gzip
import itertools
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edm2_guidance.models import edm, edm_files, family_of, open_model
from edm2_guidance.models.networks import edm as networks
from edm2_guidance.models.networks.edm import Conv2d, attend
from edm2_guidance.papers.costs import facts_of
from edm2_guidance.papers.presets import all_presets
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval
from edm2_guidance.recipe.parts import Reference, Sampler, Schedule
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe, opener
from edm2_guidance.sampling.rounding import steps_for
from tests.edm_pickles import Stored, content_of, pickled
from torch_utils.safe_pickle import PersistentRecord, UnsafePickleError

DATA = Path(__file__).parents[1] / "data"
NETS = ("edm_ddpmpp_cond", "edm_ncsnpp_cond", "vp_ddpmpp_uncond", "ve_ncsnpp_uncond", "iddpm_adm_cond", "edm_song_skip")
CPU = torch.device("cpu")
DDPMPP = {
    "model_type": "SongUNet", "embedding_type": "positional", "encoder_type": "standard", "decoder_type": "standard",
    "channel_mult_noise": 1, "resample_filter": [1, 1], "model_channels": 128,
}  # fmt: skip
NCSNPP = {
    **DDPMPP, "embedding_type": "fourier", "encoder_type": "residual", "channel_mult_noise": 2,
    "resample_filter": [1, 3, 3, 1],
}  # fmt: skip
ADM = {"model_type": "DhariwalUNet", "model_channels": 192, "channel_mult": [1, 2, 3, 4]}
CIFAR, FACES = {"channel_mult": [2, 2, 2]}, {"channel_mult": [1, 2, 2, 2]}
PUBLISHED = {  # constructor arguments, size, classes
    "cifar10_cond_ddpmpp": (DDPMPP | CIFAR | {"augment_dim": 9}, 32, 10),
    "cifar10_uncond_ddpmpp": (DDPMPP | CIFAR | {"augment_dim": 9}, 32, 0),
    "cifar10_cond_ncsnpp": (NCSNPP | CIFAR | {"augment_dim": 9}, 32, 10),
    "cifar10_uncond_ncsnpp": (NCSNPP | CIFAR | {"augment_dim": 9}, 32, 0),
    "ffhq_afhqv2_uncond_ddpmpp": (DDPMPP | FACES | {"augment_dim": 9}, 64, 0),
    "ffhq_afhqv2_uncond_ncsnpp": (NCSNPP | FACES | {"augment_dim": 9}, 64, 0),
    "imagenet64_cond_adm": (ADM, 64, 1000),
    "baseline_cifar10_uncond_vp": (DDPMPP | FACES, 32, 0),
    "baseline_cifar10_uncond_ve": (NCSNPP | FACES, 32, 0),
    "baseline_imagenet64_cond_adm": (ADM, 64, 1000),
}
FILES = {  # their names, one of each
    **{f"cifar10_{kind}_{name}": f"edm-cifar10-32x32-{kind}-{end}"
       for kind in ("cond", "uncond") for name, end in (("ddpmpp", "vp"), ("ncsnpp", "ve"))},
    "ffhq_afhqv2_uncond_ddpmpp": "edm-ffhq-64x64-uncond-vp",
    "ffhq_afhqv2_uncond_ncsnpp": "edm-afhqv2-64x64-uncond-ve",
    "imagenet64_cond_adm": "edm-imagenet-64x64-cond-adm",
    "baseline_cifar10_uncond_vp": "baseline-cifar10-32x32-uncond-vp",
    "baseline_cifar10_uncond_ve": "baseline-cifar10-32x32-uncond-ve",
    "baseline_imagenet64_cond_adm": "baseline-imagenet-64x64-cond-adm",
}  # fmt: skip


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "edm.npz") as file:
        return {name: file[name] for name in file.files}


@pytest.fixture(scope="module")
def described(golden):
    return json.loads(str(golden["json/nets"][()]))


@pytest.fixture(scope="module")
def nets(golden, described):
    made = {}
    for name in NETS:
        arguments = described[name]["kwargs"]
        net = empty(described[name]["cls"], arguments)
        weights = {k.removeprefix(f"w/{name}/"): v for k, v in golden.items() if k.startswith(f"w/{name}/")}
        net.load_state_dict({k: torch.from_numpy(v).float() for k, v in weights.items()}, assign=True)
        net.sigma_min = described[name]["sigma_min"]  # which is of float32 in files
        made[name] = net.eval().requires_grad_(False)
    return made


@pytest.fixture(scope="module")
def files(nets, described, tmp_path_factory):
    folder = tmp_path_factory.mktemp("edm")
    for name, net in nets.items():
        (folder / f"{name}.pkl").write_bytes(pickled(content_of(net, described[name]["kwargs"])))
    return {name: str(folder / f"{name}.pkl") for name in nets}


def empty(class_name, arguments):
    checked = edm_files._arguments(
        PersistentRecord(class_name, 6, {"_init_args": (), "_init_kwargs": dict(arguments)}, "", ""), "ema"
    )
    return edm_files._empty(class_name, checked, "ema")


def relative(found, expected):
    expected = torch.from_numpy(expected)
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", NETS)
def test_outputs_are_those_of_the_original(golden, files, name):
    """Through the file. 2e-6 shows even the small constant of the normalisations."""
    net = open_model(files[name]).net
    x, sigma, y = (torch.from_numpy(golden[f"in/{part}"]) for part in ("x", "sigma", "class_labels"))
    y = y if net.label_dim else None
    out = {key.split("/")[-1]: value for key, value in golden.items() if key.startswith(f"out/{name}/")}
    wide = sigma.reshape(-1, 1, 1, 1)
    _, _, c_in, c_noise = net.coefficients(wide)
    assert relative(c_noise.flatten(), out["c_noise"]) < 2e-6
    assert relative(net.model.map_noise(c_noise.flatten()), out["map_noise_raw"]) < 2e-6
    assert relative(net.model.embedded(c_noise.flatten(), y), out["emb"]) < 2e-6
    assert relative(net.raw(c_in * x, wide, y), out["F"]) < 2e-6
    assert relative(net(x, sigma, y), out["D"]) < 2e-6
    assert relative(net(x, torch.tensor(1.5), y), out["D_scalar"]) < 2e-6
    if net.label_dim:
        assert relative(net(x, sigma), out["D_null"]) < 2e-6


def test_channels_of_attention_lie_head_by_head():
    heads, width, side = 2, 3, 2
    qkv = torch.randn([1, 3 * heads * width, side, side], dtype=torch.float64, generator=torch.manual_seed(0))
    expected = torch.empty([1, heads * width, side, side], dtype=torch.float64)
    for head in range(heads):
        q, k, v = (
            torch.stack([qkv[0, (head * width + c) * 3 + part].flatten() for c in range(width)]) for part in range(3)
        )
        weights = (q.T @ k / math.sqrt(width)).softmax(dim=1)
        expected[0, head * width : (head + 1) * width] = (v @ weights.T).reshape(width, side, side)
    assert torch.allclose(attend(qkv, heads), expected, rtol=1e-5, atol=1e-6)  # logits are float32


def test_every_name_and_shape_of_the_published_files():
    with gzip.open(DATA / "edm_keys.txt.gz", "rt") as file:
        sections = re.split(r"^## ", file.read(), flags=re.MULTILINE)[1:]
    assert len(sections) == len(PUBLISHED)
    for section in sections:
        title, *lines = section.strip().splitlines()
        name, class_name = re.fullmatch(r"(\w+) \((\w+)\)", title).groups()
        unet, size, classes = PUBLISHED[name]
        net = empty(class_name, unet | {"img_resolution": size, "img_channels": 3, "label_dim": classes})
        counted = sum(weights.numel() for weights in net.parameters())
        assert counted == facts_of(f"{FILES[name]}.pkl").params
        found = [f"{key} {tuple(value.shape)}" for key, value in net.state_dict().items()]
        assert found == [line for line in lines if line], name
    gflops = edm_files.network_cost(
        empty("EDMPrecond", {**DDPMPP, **CIFAR, "img_resolution": 32, "img_channels": 3})
    ).gflops
    assert gflops == pytest.approx(facts_of("edm-cifar10-32x32-uncond-vp.pkl").gflops, rel=1e-5)


def test_levels_that_a_network_knows(golden, nets, described):
    for name, net in nets.items():
        assert net.sigma_min == pytest.approx(described[name]["sigma_min"], rel=1e-3)
        assert net.sigma_max == pytest.approx(float(described[name]["sigma_max"]), rel=1e-3)
    iddpm = nets["iddpm_adm_cond"]
    sigma = torch.from_numpy(golden["round/in"])
    assert iddpm.index(sigma).tolist() == golden["round/index"].tolist()
    assert iddpm.round_sigma(sigma).tolist() == golden["round/value64"].tolist()
    assert iddpm.round_sigma(sigma.float()).tolist() == golden["round/value32"].tolist()
    vp = nets["vp_ddpmpp_uncond"]
    assert relative(torch.tensor([vp.sigma(t) for t in golden["vp/t"]]), golden["vp/sigma"]) < 1e-6
    times = vp.time(torch.from_numpy(golden["vp/sigma"]))
    assert relative(times, golden["vp/sigma_inv_of_sigma"]) < 1e-6


def test_a_file_is_of_this_family_and_looked_into(files):
    for file in files.values():
        assert family_of(file) is edm
    report = edm.inspect(files["edm_ncsnpp_cond"])
    assert report["refusal"] is None
    assert report["network"]["class"] == "EDMPrecond"
    assert report["network"]["parameters"] == 267395
    cost = edm.cost(files["iddpm_adm_cond"])
    assert cost.parameters == 829638
    assert cost.multiply_adds == open_model(files["iddpm_adm_cond"]).multiply_adds > 0


def test_as_a_denoiser(files, golden):
    model = open_model(files["edm_ncsnpp_cond"])
    assert (model.shape, model.num_classes, model.image_size) == ((3, 16, 16), 10, 16)
    x = torch.from_numpy(golden["in/x"]).double()
    y = model.conditions([3, 8], CPU)
    found = model.predict(x, torch.tensor(1.5, dtype=torch.float64), y).denoised
    assert found.dtype == torch.float64
    assert relative(found, golden["out/edm_ncsnpp_cond/D_scalar"]) < 2e-6
    with pytest.raises(ValueError, match="know no label_embedding"):
        model.predict(x, torch.tensor(1.5), y, label_embedding=None)


@pytest.mark.parametrize("name", ["edm_ncsnpp_cond", "iddpm_adm_cond"])
def test_attention_is_perturbed_at_the_layers_that_are_named(golden, files, monkeypatch, name):
    """Against the network whose attention, the one of this number, gives its values as they are."""
    model, sigma, y = open_model(files[name]), torch.tensor(1.7), torch.eye(10)[[3, 8]]
    x, usual, found = torch.from_numpy(golden["in/x"]) * 2, networks._softmax_attention, []
    for number, layer in enumerate(model.layers):
        count, asked = itertools.count(), []
        call = SimpleNamespace(labels=None, guide=lambda labels, perturbed, asked=asked: asked.append(perturbed))
        Reference.parse(f"attention:layers={layer.name}").denoise(call)
        found.append(model.predict(x, sigma, y, perturbation=asked[0]).denoised)

        def attend(q, k, v, number=number, count=count):
            return v if next(count) == number else usual(q, k, v)

        with monkeypatch.context() as patch:
            patch.setattr(networks, "_softmax_attention", attend)
            assert torch.equal(model.predict(x, sigma, y).denoised, found[-1])
        assert next(count) == len(model.layers)
    assert len({float(each.sum()) for each in found}) == len(found) > 1
    with pytest.raises(ValueError, match="supports dropout"):
        Reference.parse("dropout").check_network(model)


def test_layers_with_attention_of_the_published_networks():
    layers = {}
    for name in ("cifar10_cond_ncsnpp", "imagenet64_cond_adm"):
        unet, size, classes = PUBLISHED[name]
        arguments = unet | {"img_resolution": size, "img_channels": 3, "label_dim": classes}
        layers[name] = empty("EDMPrecond", arguments).model.layers
    assert [layer.name for layer in layers["cifar10_cond_ncsnpp"]] == [
        *(f"enc.16x16_block{number}" for number in range(4)), "dec.8x8_in0", "dec.16x16_block4"
    ]  # fmt: skip
    assert [layer.name for layer in layers["cifar10_cond_ncsnpp"] if layer.coarsest] == ["dec.8x8_in0"]
    of_adm = layers["imagenet64_cond_adm"]
    assert len(of_adm) == 3 * 3 + 1 + 3 * 4
    assert [layer.index for layer in of_adm] == [*range(9), *range(13)]


def changed(nets, described, change):
    """A pickle of the first network after `change` of its content."""
    name = "edm_ddpmpp_cond"
    content = content_of(nets[name], described[name]["kwargs"])
    change(content)
    return pickled(content)


def at(content, *names):
    """The state of a layer."""
    layer = content["ema"]
    for name in names:
        layer = (layer.state if isinstance(layer, Stored) else vars(layer))["_modules"][name]
    return layer.state


BLOCK = ("model", "enc", "8x8_block0")
CHANGES = {
    "attribute num_heads is 2": lambda c: at(c, *BLOCK).update(num_heads=2),
    "attribute skip_scale is 1": lambda c: at(c, *BLOCK).update(skip_scale=1),
    "attribute eps is 1e-05": lambda c: at(c, *BLOCK, "norm0").update(eps=1e-5),
    "attribute surprise = 1 is unknown": lambda c: at(c, *BLOCK).update(surprise=1),
    "attribute sigma_max is 80": lambda c: at(c).update(sigma_max=80),
    "no constructor argument 'surprise'": lambda c: at(c)["_init_kwargs"].update(surprise=1),
    "encoder_type = 'other' is not possible": lambda c: at(c)["_init_kwargs"].update(encoder_type="other"),
    "the file lacks the layers proj": lambda c: at(c, *BLOCK)["_modules"].pop("proj"),
    "shape": lambda c: at(c, *BLOCK, "norm0")["_parameters"].update(weight=torch.ones(8)),
    "hooks are code": lambda c: at(c, *BLOCK).update(_forward_hooks={0: 1}),
    "two tensors are one": lambda c: at(c, *BLOCK, "norm0")["_parameters"].update(
        weight=at(c, *BLOCK, "norm1")["_parameters"]["weight"]
    ),
    "resample_filter is not what": lambda c: at(c, "model", "enc", "8x8_down", "conv0").update(
        _buffers={"resample_filter": torch.tensor([[[[0.5, 0.2], [0.2, 0.1]]]])}
    ),
    "bias is not finite": lambda c: at(c, *BLOCK, "norm0")["_parameters"].update(bias=torch.full([32], math.nan)),
    "it has an encoder": lambda c: c.update(encoder=Stored("StandardRGBEncoder", {})),
    "class Other is not known": lambda c: setattr(c["ema"], "class_name", "Other"),
}


@pytest.mark.parametrize("why", CHANGES)
def test_what_our_classes_do_not_reproduce_is_refused(nets, described, tmp_path, why):
    path = tmp_path / "net.pkl"
    path.write_bytes(changed(nets, described, CHANGES[why]))
    with pytest.raises(ValueError, match=re.escape(why)):
        edm_files.load_edm(str(path))


class Runs:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return eval, (f"open({str(self.marker)!r}, 'w').close()",)


@pytest.mark.parametrize("place", ["augment_pipe", "loss_fn", "attribute", "constructor argument", "source"])
def test_a_hostile_file_runs_nothing(nets, described, tmp_path, place):
    marker, path = tmp_path / "marker", tmp_path / "net.pkl"

    def change(content):
        if place == "source":
            content["ema"].source = f"open({str(marker)!r}, 'w').close()"
        elif place == "attribute":
            at(content, *BLOCK)["dropout"] = Runs(marker)
        elif place == "constructor argument":
            at(content)["_init_kwargs"]["dropout"] = Runs(marker)
        else:
            content[place] = Runs(marker)

    path.write_bytes(changed(nets, described, change))
    if place == "source":  # is never looked at
        assert open_model(path).num_classes == 10
    else:
        with pytest.raises(UnsafePickleError, match=r"eval"):
            open_model(path)
        assert "eval" in edm.inspect(str(path))["refusal"]
    assert not marker.exists()


def test_halving_after_a_convolution_differs_at_the_borders():
    torch.manual_seed(0)
    first = Conv2d(1, 1, 3, down=True, taps=(1, 3, 3, 1))
    fused = Conv2d(1, 1, 3, down=True, taps=(1, 3, 3, 1), fused_resample=True)
    torch.nn.init.constant_(first.weight, 1.0)
    torch.nn.init.constant_(first.bias, 0.5)
    fused.load_state_dict(first.state_dict())
    x = torch.randn(1, 1, 8, 8)
    plain, after = first(x), fused(x)
    assert plain.shape == after.shape == (1, 1, 4, 4)
    assert not torch.allclose(plain, after, atol=1e-3)


TRAJECTORIES = ("edm_ncsnpp_cond/det", "edm_ncsnpp_cond/stoch", "ve_ncsnpp_uncond/det")


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_samples_are_those_of_the_original(golden, files, case):
    """With the seeds, in float64: levels exactly, pixels too."""
    how = json.loads(str(golden["json/traj"][()]))[case]
    name, traj = (
        case.split("/")[0],
        {k.rsplit("/", 1)[1]: v for k, v in golden.items() if k.startswith(f"traj/{case}/")},
    )
    generation = open_recipe(
        Recipe(
            NetworkRef(files[name]),
            sampler=Sampler.parse(f"heun-edm:S_churn={how['S_churn']}:S_min={how['S_min']}:S_max={how['S_max']}"
                                  f":S_noise={how['S_noise']}"),
            num_steps=how["num_steps"],
            dtype="float64",
            noise_device="cpu",
        ),
        "cpu",
    )  # fmt: skip
    calls, predict = [], generation.main.predict

    def seen(x, sigma, y, **more):
        calls.append(float(sigma))
        return predict(x, sigma, y, **more)

    generation.main.predict = seen
    with torch.no_grad():
        x, labels = sample(generation, golden["traj/seeds"].tolist())
    assert labels == (traj["labels"].tolist() if "labels" in traj else None)
    assert calls == pytest.approx(traj["sigma_calls"].tolist(), rel=1e-12)
    assert relative(x, traj["final"]) < 2e-6
    assert generation.main.decode(x).permute(0, 2, 3, 1).numpy().tolist() == traj["uint8"].tolist()


def test_schedules_end_where_a_network_does(files):
    """What is recorded are the levels that are used, so that it stays as it is; intervals are of these levels."""
    open_ = opener("cpu")

    def opened(name, schedule, **more):
        return open_(Recipe(NetworkRef(files[name]), schedule=schedule, **more))

    found = opened("ve_ncsnpp_uncond", "edm:sigma_max=200")
    assert str(found.recipe.schedule) == "edm:sigma_min=0.02:sigma_max=100"
    source = files["ve_ncsnpp_uncond"]
    assert found.notes == (
        f"{source} is for noise levels from 0.02 to 100: the schedule is edm:sigma_min=0.02:sigma_max=100",
    )
    again = open_(found.recipe)
    assert (again.recipe.hash, again.notes) == (found.recipe.hash, ())
    assert str(opened("ve_ncsnpp_uncond", "logsnr").recipe.schedule) == "logsnr:sigma_min=0.02"
    assert str(opened("vp_ddpmpp_uncond", "edm").recipe.schedule) == "edm"
    assert opened("vp_ddpmpp_uncond", "vp").notes == ()  # from 152.2, where the network ends
    listed = opened("ve_ncsnpp_uncond", "vp")
    assert str(listed.recipe.schedule) == "vp"
    assert listed.notes[0].endswith("and the schedule vp goes from 152.167 to 0.010486")
    guided = opened(
        "ve_ncsnpp_uncond", "edm", guides=[Guide(NetworkRef(source), 2, SigmaInterval(0.01, 0.1))], num_steps=8
    )
    (guide,) = guided.recipe.guides
    assert guide.interval == SigmaInterval(0.01, 0.1).steps(guided.recipe.levels())[0]
    assert guide.interval.last == 7  # at 0.02; of levels down to 0.002 it was 6


@pytest.mark.parametrize(
    ("preset", "name"),
    [
        ("edm-baseline-vp", "vp_ddpmpp_uncond"),
        ("edm-cifar10-uncond-ve-a", "ve_ncsnpp_uncond"),
        ("edm-baseline-img64-det", "iddpm_adm_cond"),
        ("edm-img64", "edm_ddpmpp_cond"),
    ],
)
def test_rows_say_the_levels_that_their_networks_are_sampled_at(files, preset, name):
    """So that their scores are found again, and none is of another schedule."""
    asked = all_presets()[preset].recipe()
    opened = open_recipe(replace(asked, net=NetworkRef(files[name]), noise_device="cpu"), "cpu")
    assert (opened.recipe.schedule, opened.recipe.sampler) == (asked.schedule, asked.sampler)
    assert not [note for note in opened.notes if "noise levels" in note]


def test_steps_go_to_the_levels_that_a_network_knows(golden, files):
    main = open_model(files["iddpm_adm_cond"])
    for count in (18, 40, 256):
        schedule = Schedule.parse("edm").within(main.sigma_min, main.sigma_max)
        recipe = Recipe(NetworkRef(files["iddpm_adm_cond"]), schedule=schedule, num_steps=count)
        steps = steps_for(recipe, main)
        assert [step.level for step in steps] == golden[f"round/steps{count}_value"].tolist()
        assert [step.sigma_next for step in steps] == [*golden[f"round/steps{count}_value"].tolist()[1:], 0]
    churned = replace(recipe, sampler=Sampler.parse("heun:S_churn=40:S_min=0.05:S_max=50"))
    known = set(main.net.u.tolist())
    moved = [step for step in steps_for(churned, main) if step.sigma > step.level]
    assert moved
    assert all(step.sigma in known and 0.05 <= step.level <= 50 for step in moved)
    others = replace(recipe, sampler=Sampler.parse("dpmpp-2m"))
    assert steps_for(others, main) == others.steps()
