"""ADM as a family: files known by their tensors, denoisers and classifiers in sigma coordinates, what is refused."""

import ast
import gzip
import itertools
import json
import math
import pickle
import re
from collections import OrderedDict
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, safe_open, save_file

from dnnlib import download
from dnnlib.published import PUBLISHED as URLS
from dnnlib.published import published_as
from edm2_guidance.commands import network_tool
from edm2_guidance.models import adm_files, open_classifier, open_model
from edm2_guidance.models.adm_files import PUBLISHED, load_adm, save_adm
from edm2_guidance.models.networks import adm as networks
from edm2_guidance.models.networks.adm import Architecture
from edm2_guidance.recipe.parts import Reference
from edm2_guidance.recipe.perturbation import is_chosen
from edm2_guidance.recipe.timesteps import alphas_bar, noise_levels

DATA = Path(__file__).parents[1] / "data"
TINY = Architecture("denoiser", 16, 32, (1, 2), 1, 10, head_width=16, attention=(8,))
SECTIONS = {  # of the table of keys
    "64": "adm-64", "128": "adm-128", "256": "adm-256", "256u": "adm-256-uncond", "512": "adm-512",
    "c64": "adm-64-classifier", "c128": "adm-128-classifier", "c256": "adm-256-classifier",
    "c512": "adm-512-classifier", "64_256": "adm-64-256", "128_512": "adm-128-512",
}  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "adm.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files if not name.startswith("traj")}


@pytest.fixture(scope="module")
def files(golden, tmp_path_factory):
    """Safetensors of the golden networks, by name."""
    folder = tmp_path_factory.mktemp("adm")
    roles = {"unet_legacy": "denoiser", "superres": "upsampler", "classifier": "classifier"}
    for name, role in roles.items():
        net = replace(TINY, role=role).build()
        net.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in golden.items() if k.startswith(f"{name}/")})
        save_adm(folder / f"{name}.safetensors", net, [f"digit {n}" for n in range(10)])
    return {name: str(folder / f"{name}.safetensors") for name in roles}


@pytest.fixture(scope="module")
def table():
    """Every key and shape of the published files, {name: {key: shape}}."""
    found, tensors = {}, {}
    for line in gzip.decompress((DATA / "adm_keys.txt.gz").read_bytes()).decode().splitlines():
        key, _, shape = line.strip().partition(" ")
        if key == "##":
            tensors = found.setdefault(SECTIONS[shape], {})
        elif key:
            tensors[key] = ast.literal_eval(shape)
    return found


def state_of(shapes):
    """Tensors of these shapes in next to no memory, or bytes in a file."""
    return {key: torch.zeros(1).expand(shape) for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_are_known_by_their_tensors(table, name):
    assert adm_files._shapes(PUBLISHED[name]) == table[name]
    assert adm_files._nearest(state_of(table[name])) is PUBLISHED[name]


def test_what_no_tensor_tells_is_as_published():
    """Schedule, heads, their order, and the torso's type: the files do not hold them."""
    for name, arch in PUBLISHED.items():
        assert arch.betas == ("cosine" if name in ("adm-64", "adm-64-classifier") else "linear"), name
        assert arch.heads == (4 if name in ("adm-128", "adm-64-256") else None), name
        assert arch.order == ("new" if name == "adm-64" else "legacy"), name
        assert arch.float16 == (arch.role != "classifier" and name != "adm-512"), name
        assert (arch.head_width, arch.groups) == (64, 32), name


def test_every_published_file_has_a_name():
    assert set(PUBLISHED) <= set(URLS)
    assert {name for name in URLS if name not in PUBLISHED} == {
        f"adm-lsun-{kind}" for kind in ("bedroom", "cat", "horse", "horse-nodropout")
    }
    assert URLS["adm-64-256"].url.endswith("/jul-2021/64_256_upsampler.pt")
    assert URLS["adm-lsun-horse-nodropout"].url.endswith("/lsun_horse_nodropout.pt")


# ----------------------------------------------------------------------------
# Denoisers.


def at(t, dtype=torch.float64):
    """The level of a timestep of the linear schedule."""
    return torch.tensor(noise_levels("linear")[t], dtype=dtype)


def test_a_denoiser_in_sigma_coordinates(golden, files):
    """D = x - sigma * noise, from the golden outputs of the network at x / sqrt(1 + sigma^2)."""
    model = open_model(files["unet_legacy"])
    y = model.conditions([3, 8], CPU)
    for row, t in enumerate(golden["in/t"].tolist()):
        sigma = at(t)
        x = golden["in/x"].double() * (1 + sigma**2).sqrt()
        made = model.predict(x, sigma, y)
        noise, code = golden["out/unet_legacy"][row].double().chunk(2)
        assert made.denoised.dtype == made.mix.dtype == torch.float64
        error = (made.denoised[row] - (x[row] - sigma * noise)) / sigma
        assert error.norm() / noise.norm() < 5e-6
        assert torch.allclose(made.mix[row], (code + 1) / 2, atol=1e-5)
    assert (model.shape, model.num_classes, model.image_size) == ((3, 16, 16), 10, 16)
    assert model.class_names[3] == "digit 3"
    assert model.precision == "float32"
    assert model.num_parameters == 829638


def test_every_level_of_the_schedule_is_its_own_timestep(files):
    clock = open_model(files["unet_legacy"])._clock
    found = [int(clock(at(t, torch.float32), 2)[1]) for t in range(1000)]
    assert found == list(range(1000))
    between = math.sqrt(float(at(500)) * float(at(501)))
    assert [int(clock(torch.tensor(between * (1 + e)), 1)) for e in (-1e-4, 1e-4)] == [500, 501]
    assert [int(clock(torch.tensor(sigma), 1)) for sigma in (1e-4, 1e6)] == [0, 999]


def test_schedules_are_the_published_ones():
    for betas, first, middle, last, ends in [
        ("linear", 0.9999, 0.07779665837, 4.035829765e-5, (0.0100, 157.4)),
        ("cosine", 0.9999587158, 0.4922851724, 2.428766907e-9, (0.00643, 20291)),
    ]:
        kept = alphas_bar(betas)
        assert [kept[0], kept[500], kept[999]] == pytest.approx([first, middle, last], rel=1e-9)
        assert (noise_levels(betas)[0], noise_levels(betas)[-1]) == pytest.approx(ends, rel=1e-3)


def test_pixels_are_cut_off_as_published(files):
    model = open_model(files["unet_legacy"])
    levels = torch.tensor([-2, -1, -1 + 1.99 / 127.5, 0, 0.9999, 1, 3]).view(1, 1, 1, 7).expand(1, 3, 1, 7)
    assert model.decode(levels)[0, 0, 0].tolist() == [0, 0, 1, 127, 254, 255, 255]
    with pytest.raises(ValueError, match="NaN"):
        model.decode(levels * torch.nan)
    model.load_decoder()
    assert model.identity["encoder"] == {"class": "TruncatedRGB"}
    assert set(model.identity) == {"sha256", "encoder"}


def test_an_upsampler_sees_the_small_image(golden, files):
    model, sigma = open_model(files["superres"]), at(7)
    x = golden["in/x"].double() * (1 + sigma**2).sqrt()
    assert model.low_res_size == 4
    pixels = torch.randint(256, [2, 3, 4, 4], dtype=torch.uint8)
    classes, low_res = model.conditions([3, 8], CPU, pixels)
    assert torch.equal(low_res, pixels / 127.5 - 1)
    made = model.predict(x, sigma, (classes, golden["in/low_res"]))
    noise = (x - made.denoised)[0] / sigma
    assert (noise - golden["out/superres"][0, :3]).norm() / noise.norm() < 5e-6
    plain = open_model(files["unet_legacy"])
    assert plain.low_res_size == 0
    with pytest.raises(ValueError, match="denoises no image without one"):
        plain.predict(x, sigma, None)
    with pytest.raises(ValueError, match="ADM's networks know no attention"):
        plain.predict(x, sigma, classes, attention="perturbed")


def test_attention_is_perturbed_at_the_layers_that_are_named(golden, files, monkeypatch):
    """Against the network whose attention, the one of this number, gives its values as they are."""
    model, sigma, y = open_model(files["unet_legacy"]), torch.tensor(1.7), torch.eye(10)[[3, 8]]
    x, usual = golden["in/x"] * 2, networks.F.scaled_dot_product_attention
    reference = Reference.parse("attention")
    by_name = {}
    for number, layer in enumerate(model.layers):
        count = itertools.count()
        asked = []
        reference.with_fields({"layers": (layer.name,)}).denoise(Asked(asked.append))
        by_name[layer.name] = model.predict(x, sigma, y, perturbation=asked[0]).denoised

        def attend(q, k, v, number=number, count=count):
            return v if next(count) == number else usual(q, k, v)

        with monkeypatch.context() as patch:
            patch.setattr(networks.F, "scaled_dot_product_attention", attend)
            assert torch.equal(model.predict(x, sigma, y).denoised, by_name[layer.name])
        assert next(count) == len(model.layers)
    assert len({float(each.sum()) for each in by_name.values()}) == len(model.layers) > 2
    middle = [layer for layer in model.layers if layer.side == "middle"]
    assert [layer.name for layer in middle] == ["middle_block.1"]
    with pytest.raises(ValueError, match=r"has no layers 'input_blocks\.14\.1' for it; write one of all, mid,"):
        Reference.parse("attention:adm").check_network(model)
    with pytest.raises(ValueError, match="supports dropout"):
        Reference.parse("dropout").check_network(model)


class Asked(SimpleNamespace):
    """A call that hands over what is to be perturbed."""

    labels = None

    def __init__(self, see):
        super().__init__(guide=lambda labels, perturbed: see(perturbed))


def test_the_layers_of_the_paper_are_those_of_adm_256():
    layers = PUBLISHED["adm-256"].empty().layers
    named = Reference.parse("attention:adm").layers
    sizes = {layer.name: layer.size for layer in layers if is_chosen(named, layer)}
    assert sizes == {"input_blocks.14.1": 16, "input_blocks.16.1": 8, "input_blocks.17.1": 8, "middle_block.1": 8}
    assert [layer.name for layer in layers if layer.coarsest and layer.side == "encoder"] == list(named[1:3])
    assert len(layers) == 16


@pytest.mark.cuda
def test_on_cuda_a_torso_is_float16_where_that_is_published(golden, files, tmp_path):
    net = load_adm(files["unet_legacy"]).net
    net.arch = replace(TINY, float16=True)
    save_adm(tmp_path / "half.safetensors", net)
    x, sigma = golden["in/x"] * 2, torch.tensor(1.7)
    found = {}
    for source in (tmp_path / "half.safetensors", files["unet_legacy"]):
        model = open_model(source, "cuda")
        y = model.conditions([3, 8], torch.device("cuda"))
        found[model.precision] = model.predict(x.cuda(), sigma.cuda(), y).denoised.cpu()
    plain = open_model(files["unet_legacy"]).predict(x, sigma, y.cpu()).denoised
    assert (found["float32"] - plain).norm() / plain.norm() < 1e-3
    assert 1e-6 < (found["float16"] - plain).norm() / plain.norm() < 1e-2


# ----------------------------------------------------------------------------
# Classifiers.


def test_a_classifier_in_sigma_coordinates(golden, files):
    classifier = open_classifier(files["classifier"])
    for row, t in enumerate(golden["in/t"].tolist()):
        x = golden["in/x"].double() * (1 + at(t) ** 2).sqrt()
        found = classifier.log_probs(x, at(t))
        assert found.dtype == torch.float64
        assert torch.allclose(found[row], golden["out/classifier_logits"][row].double().log_softmax(0), atol=1e-6)
    assert (classifier.shape, classifier.num_classes, classifier.precision) == ((3, 16, 16), 10, "float32")
    assert classifier.class_names[0] == "digit 0"


def test_its_gradient_is_that_of_finite_differences_and_each_images_own(golden, files):
    classifier = open_classifier(files["classifier"])
    sigma, x = at(300), golden["in/x"].double() * 2

    def total(x):
        return classifier.log_probs(x, sigma)[:, 3].sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(total(leaf), leaf)
    for seed in range(3):
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        step = 1e-2 * way
        quotient = float(total(x + step) - total(x - step)) / 2e-2
        assert float((slope * way).sum()) == pytest.approx(quotient, rel=1e-3, abs=1e-4)
    alone = x[:1].clone().requires_grad_()
    (single,) = torch.autograd.grad(total(alone), alone)
    assert torch.allclose(single, slope[:1], rtol=1e-4, atol=1e-6)


# ----------------------------------------------------------------------------
# Files.


@pytest.fixture
def published(golden, monkeypatch):
    """Tensors of a tiny network, which counts as published."""
    monkeypatch.setattr(adm_files, "PUBLISHED", {"adm-64": PUBLISHED["adm-64"], "adm-tiny": TINY})
    return {k.removeprefix("unet_legacy/"): v.float() for k, v in golden.items() if k.startswith("unet_legacy/")}


def test_a_state_dict_of_torch_is_read(published, tmp_path):
    """Of kinds of tensors and their order nothing depends."""
    torch.save(OrderedDict((k, torch.nn.Parameter(v)) for k, v in reversed(published.items())), tmp_path / "net.pt")
    file = load_adm(str(tmp_path / "net.pt"))
    assert file.net.arch is TINY
    assert all(torch.equal(value, published[key]) for key, value in file.net.state_dict().items())
    assert not any(weights.requires_grad for weights in file.net.parameters())
    assert open_model(tmp_path / "net.pt").class_names is None


def test_safetensors_keep_float16_exactly_and_one_entry_of_metadata(golden, files):
    file = load_adm(files["classifier"])
    assert all(torch.equal(file.net.state_dict()[k], golden[f"classifier/{k}"].float()) for k in file.net.state_dict())
    assert {value.dtype for value in load_file(files["classifier"]).values()} == {torch.float16}
    with safe_open(files["classifier"], "pt") as opened:
        (entry,) = opened.metadata().values()
    assert json.loads(entry)["architecture"] == json.loads(json.dumps(asdict(file.net.arch)))


def test_network_tool_says_what_files_hold(published, files, tmp_path):
    def inspected(path):
        return json.loads(CliRunner().invoke(network_tool.main, ["inspect", str(path), "--json"]).output)

    report = inspected(files["classifier"])
    assert (report["format"], report["refusal"], report["network"]["class"]) == ("safetensors", None, "Classifier")
    assert report["network"]["tensors"] == {"float16": 77}
    torch.save(published, tmp_path / "net.pt")
    report = inspected(tmp_path / "net.pt")
    assert (report["format"], report["refusal"], report["network"]["parameters"]) == ("pickle", None, 829638)
    assert report["network"]["arguments"]["mult"] == [1, 2]
    torch.save({"a": torch.zeros(1)}, tmp_path / "net.pt")
    assert inspected(tmp_path / "net.pt")["refusal"].startswith("its tensors (1) are not those")


def test_denoisers_and_classifiers_do_not_take_each_others_place(files):
    with pytest.raises(ValueError, match=r"is a classifier, not a denoiser: give it as --classifier="):
        open_model(files["classifier"])
    with pytest.raises(ValueError, match=r"is a denoiser and classifies nothing: give it as --net="):
        open_classifier(files["unet_legacy"])


def changed(state, name, how):
    """State dicts that are not those of the file they are near to, and what is said."""
    if how == "missing":
        return {key: value for key, value in state.items() if key != name}
    return {**state, name: torch.zeros(how)}


@pytest.mark.parametrize(
    ("name", "how", "says"),
    [
        ("label_emb.weight", (11, 128), r"label_emb\.weight is \(11, 128\) in the file, \(10, 128\) in a network$"),
        ("out.2.bias", (3,), r"out\.2\.bias is \(3,\) in the file, \(6,\) in"),
        ("middle_block.1.qkv.bias", "missing", r"middle_block\.1\.qkv\.bias is missing in the file"),
        ("more", (1,), r"more is \(1,\) in the file, unknown in a network"),
        (
            "input_blocks.0.0.weight",
            (8, 3, 3, 3),
            r"tensors \(\d+\) are not those of a published file \(adm-64, ",
        ),
    ],
)
def test_what_does_not_fit_a_published_file_is_said(published, tmp_path, name, how, says):
    state = published | ({} if how == "missing" else {name: torch.zeros(how)})
    torch.save({key: value for key, value in state.items() if (key, how) != (name, "missing")}, tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"net\.pt is no network or classifier of ADM's: .*{says}"):
        open_model(tmp_path / "net.pt")


def test_half_a_file_is_refused(published, tmp_path):
    torch.save(dict(list(published.items())[:50]), tmp_path / "net.pt")
    with pytest.raises(ValueError, match=rf"is missing in the file, .* and {len(published) - 51} others like it"):
        open_model(tmp_path / "net.pt")
    data = (tmp_path / "net.pt").read_bytes()
    (tmp_path / "net.pt").write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match=r"damaged or truncated ZIP"):
        open_model(tmp_path / "net.pt")


def test_a_training_state_is_told_from_the_network_beside_it(tmp_path):
    torch.save({"state": {"cur_nimg": 5}, "net": {"a": torch.zeros(2)}}, tmp_path / "training-state-0000005.pt")
    with pytest.raises(ValueError, match=r"expected a state dict, .* wrote beside it \(network-snapshot-KIMG"):
        open_model(tmp_path / "training-state-0000005.pt")


class Hostile:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('ran').touch()",)


def test_a_hostile_file_runs_nothing_and_stays_small(tmp_path, monkeypatch):
    """Neither code, nor tensors that announce more than the bytes of the file, nor names without end."""
    monkeypatch.chdir(tmp_path)
    torch.save({"input_blocks.0.0.weight": Hostile()}, "code.pt")
    torch.save(OrderedDict(a=torch.zeros(1).expand(1 << 40)), "bomb.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Hostile()))
    for name in ("code.pt", "bomb.pt", "plain.pt"):
        for opener in (open_model, open_classifier):
            with pytest.raises(ValueError, match=rf"{name} is no network or classifier of ADM's: ") as caught:
                opener(name)
            assert len(str(caught.value)) < 1000
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("width", 0.5, r"width = 0\.5, which no network has"),
        ("width", 1 << 40, "width = 1099511627776"),
        ("mult", 3, "mult = 3"),
        ("mult", [1] * 64, "1 blocks on 64 levels"),
        ("blocks", 10**5, "100000 blocks on 2 levels"),
        ("order", "newer", "order = 'newer'"),
        ("role", ["denoiser"], "role = "),
        ("float16", 1, "float16 = 1"),
        ("groups", 7, "divisible by num_groups"),
        ("groups", 0, "odd in a way that no reader knows"),
        ("heads", 5, "64 channels cannot be those of 5 heads"),
        ("width", 64, r"is \(128, 32\) in the file, \(256, 64\) in a network, and \d+ others like it"),
    ],
)
def test_our_own_files_are_read_as_strictly(files, tmp_path, field, value, says):
    state = load_file(files["unet_legacy"])
    config = {"version": 1, "architecture": {**asdict(TINY), field: value}, "class_names": None}
    save_file(state, tmp_path / "net.safetensors", {adm_files.CONFIG_KEY: json.dumps(config)})
    with pytest.raises(ValueError, match=rf"net\.safetensors is no network or classifier of ADM's: .*{says}"):
        open_model(tmp_path / "net.safetensors")


def test_our_own_files_may_lack_what_has_a_default(files, tmp_path):
    state, said = load_file(files["unet_legacy"]), asdict(TINY)
    for name, known in (("float16", True), ("role", False)):
        config = {"version": 1, "architecture": {k: v for k, v in said.items() if k != name}, "class_names": None}
        save_file(state, tmp_path / "net.safetensors", {adm_files.CONFIG_KEY: json.dumps(config)})
        if known:
            assert load_adm(str(tmp_path / "net.safetensors")).net.arch == TINY
            continue
        with pytest.raises(ValueError, match="do not give the fields of an architecture"):
            load_adm(str(tmp_path / "net.safetensors"))


def test_safetensors_of_other_kinds_go_to_edm2(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="edm2_network"):
        open_model(tmp_path / "net.safetensors")
    with pytest.raises(ValueError, match="metadata have no entry adm_network"):
        open_classifier(tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").write_bytes(b"\0" * 100)
    for opener in (open_model, open_classifier):
        with pytest.raises(ValueError, match="damaged or incomplete safetensors file"):
            opener(tmp_path / "net.safetensors")


# ----------------------------------------------------------------------------
# Downloads.


def test_the_first_download_is_what_later_ones_must_be(files):
    """By name; another file under the same name is refused."""
    url = URLS["adm-64-classifier"].url
    cached = download.cache_path(url)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(Path(files["classifier"]).read_bytes())
    assert open_classifier("adm-64-classifier", offline=True).source == "adm-64-classifier"
    recorded = download.recorded_sha256(url)
    assert recorded == load_adm(files["classifier"]).sha256
    cached.write_bytes(Path(files["unet_legacy"]).read_bytes())
    with pytest.raises(OSError, match=rf"has SHA-256 \w+, not {recorded} as on "):
        open_classifier("adm-64-classifier", offline=True)


def test_the_known_hash_is_pinned(files):
    cached = download.cache_path(URLS["adm-256-uncond"].url)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(Path(files["unet_legacy"]).read_bytes())
    with pytest.raises(OSError, match="not the published a37c32fffd316cd4"):
        open_model("adm-256-uncond", offline=True)


def test_what_is_not_in_the_cache_is_said_with_its_place():
    with pytest.raises(FileNotFoundError, match=r"jul-2021/64x64_diffusion\.pt is not in the cache.*Put the file at"):
        open_model("adm-64", offline=True)
    with pytest.raises(FileNotFoundError, match=re.escape("there is no file adm-65; near it: adm-6")):
        open_model("adm-65")


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert published_as("adm-64") == (URLS["adm-64"].url, None)
    assert published_as("adm-256-uncond", "0" * 64)[1] == "0" * 64
    Path("adm-64").touch()
    assert published_as("adm-64") == ("adm-64", None)
