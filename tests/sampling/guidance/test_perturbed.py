"""References that perturb a network: against the network written out again, image by image, in float64."""

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from dnnlib.inference import Inference
from edm2_guidance.commands import generate_images
from edm2_guidance.models import open_model
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.parts import Prediction, Reference, StepInfo
from edm2_guidance.recipe.perturbation import Layer
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.guidance.guided import Batch, guided
from edm2_guidance.sampling.opening import open_recipe
from edm2_guidance.sampling.seeds import KEYS, Draws, hashed, start
from training.encoders import StandardRGBEncoder
from training.network_safetensors import save_safetensors
from training.networks_edm2 import Precond

SEEDS = [3, 4, 5]
SIZE, FINE, COARSE = 8, "8x8", "4x4"
RANDOM = ["noise-embedding", "skip-blocks:random:share=0.5", "dropout:p=0.3"]
KINDS = [*RANDOM, "attention", "attention:blur:sigma=0.7", "skip-blocks", "previous-step", "crops:size=6"]


@pytest.fixture(scope="module")
def net():
    """Two levels, both with attention, two heads in the coarse one; every gain and every width counts."""
    torch.manual_seed(5)
    net = Precond(
        SIZE, 3, 4, model_channels=8, channel_mult=[1, 2], num_blocks=1, channels_per_head=8, attn_resolutions=[8, 4],
        concat_balance=0.4, label_balance=0.3, clip_act=3,
    )  # fmt: skip
    for name, parameter in net.named_parameters():
        if name.endswith("gain"):
            torch.nn.init.constant_(parameter, 0.8)
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def path(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("perturbed") / "net.safetensors"
    save_safetensors(path, net, encoder=StandardRGBEncoder())
    return str(path)


# ----------------------------------------------------------------------------
# The network once more: one image [C,H,W], float64.


def weight(conv, gain=1.0):
    w = conv.weight.double()
    fan_in = w[0].numel()
    norms = w.flatten(1).norm(dim=1) / math.sqrt(fan_in) + 1e-4
    return w / norms.view(-1, *[1] * (w.ndim - 1)) * float(gain) / math.sqrt(fan_in)


def conv(module, x, gain=1.0):
    w = weight(module, gain)
    return torch.nn.functional.conv2d(x[None], w, padding=w.shape[-1] // 2)[0]


def silu(x):
    return x / (1 + torch.exp(-x)) / 0.596


def blend(a, b, t):
    return ((1 - t) * a + t * b) / math.sqrt((1 - t) ** 2 + t**2)


def unit(x, dim):
    return x / (x.pow(2).mean(dim, keepdim=True).sqrt() + 1e-4)


def gaussian(q, sigma):
    """Queries [channels, side, side], blurred in two dimensions at once."""
    side = q.shape[-1]
    width = math.ceil(6 * sigma)
    width = min(width + (width % 2 == 0), side + 1 if side % 2 == 0 else side)
    half, total, made = width // 2, 0.0, torch.zeros_like(q)
    for a, b in itertools.product(range(-half, half + 1), repeat=2):
        tap = math.exp(-(a**2 + b**2) / 2 / sigma**2)
        rows, columns = ([mirrored(place + c, side) for place in range(side)] for c in (a, b))
        total, made = total + tap, made + tap * q[:, rows][:, :, columns]
    return made / total


def mirrored(place, side):
    return 2 * (side - 1) - abs(place) if abs(place) >= side else abs(place)


def attended(block, x, how):
    channels, side, _ = x.shape
    qkv = conv(block.attn_qkv, x).reshape(block.num_heads, -1, 3, side * side)
    heads = []
    for head in unit(qkv, 1):
        q, k, v = head.unbind(1)
        if how == "identity":
            heads.append(v)
            continue
        if how == math.inf:
            q = q.mean(1, keepdim=True).expand_as(q)
        elif how is not None:
            q = gaussian(q.reshape(-1, side, side), how).flatten(1)
        scores = (q.T @ k / math.sqrt(len(q))).softmax(1)
        heads.append(v @ scores.T)
    return conv(block.attn_proj, torch.cat(heads).reshape(channels, side, side))


def evaluated(block, side, x, emb, changes):
    if block.resample_mode == "down":
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    if block.resample_mode == "up":
        x = x.repeat_interleave(2, 1).repeat_interleave(2, 2)
    trunk = x if block.conv_skip is None else conv(block.conv_skip, x)
    if side == "enc":
        x = trunk = unit(trunk, 0)
    if not changes.get("skip"):
        y = conv(block.conv_res0, silu(x))
        y = silu(y * (weight(block.emb_linear, block.emb_gain) @ emb + 1)[:, None, None])
        y = y * changes.get("mask", 1)
        trunk = blend(trunk, conv(block.conv_res1, y), 0.3)
        if block.num_heads:
            trunk = blend(trunk, attended(block, trunk, changes.get("attention")), 0.3)
    return trunk.clamp(-3, 3)


def slow(net, x, sigma, label, changes=None, noise=None):
    """D of one image. changes: by the names of blocks. noise: the embedding of the level -> what "noise" blocks see."""
    changes, unet = changes or {}, net.unet
    variance = sigma**2 + 0.25
    angle = 2 * math.pi * 0 + math.log(sigma) / 4 * unet.emb_fourier.freqs.double() + unet.emb_fourier.phases.double()
    level = weight(unet.emb_noise) @ (angle.cos() * math.sqrt(2))
    classes = weight(unet.emb_label)[:, label] * 2  # sqrt of four classes
    usual, told = (silu(blend(e, classes, 0.3)) for e in (level, level if noise is None else noise(level)))
    h = torch.cat([x / math.sqrt(variance), torch.ones_like(x[:1])])
    skips = []
    for side, blocks in (("enc", unet.enc), ("dec", unet.dec)):
        for name, block in blocks.items():
            if "conv" in name:
                h = conv(block, h)
            else:
                if side == "dec" and "block" in name:
                    other = skips.pop()
                    total = math.sqrt((len(h) + len(other)) / (0.6**2 + 0.4**2))
                    h = torch.cat([total / math.sqrt(len(h)) * 0.6 * h, total / math.sqrt(len(other)) * 0.4 * other])
                mine = changes.get(f"{side}.{name}", {})
                h = evaluated(block, side, h, told if mine.get("noise") else usual, mine)
            if side == "enc":
                skips.append(h)
    out = conv(unet.out_conv, h, unet.out_gain)
    return 0.25 / variance * x + sigma * 0.5 / math.sqrt(variance) * out


# ----------------------------------------------------------------------------
# One step of Euler from sigma to 0 ends at D, which shows what the reference was.

SIGMA, W = 1.7, 3.0
BLOCKS = {
    FINE: ["enc.8x8_block0", "dec.8x8_block0", "dec.8x8_block1"],
    COARSE: ["enc.4x4_block0", "dec.4x4_in0", "dec.4x4_in1", "dec.4x4_block0", "dec.4x4_block1"],
}
ATTENDING = ["enc.8x8_block0", "enc.4x4_block0", "dec.4x4_in0", "dec.4x4_block0", "dec.4x4_block1",
             "dec.8x8_block0", "dec.8x8_block1"]  # fmt: skip
EVERY = ["enc.8x8_block0", "enc.4x4_down", "enc.4x4_block0", *BLOCKS[COARSE][1:], "dec.8x8_up", *BLOCKS[FINE][1:]]


def denoised(path, reference, form, seeds=SEEDS):
    """x, the D that the reference's guide made of it, and the classes."""
    recipe = Recipe(path, Guide(None, W, reference=reference), 1, "euler", f"edm:sigma_max={SIGMA}", noise_device="cpu")
    made, labels = sample(open_recipe(recipe, "cpu", inference=Inference(form)), seeds)
    _, noise, _ = start(seeds, (3, SIZE, SIZE), 4, "random")
    return SIGMA * noise.double(), made.double(), labels


def at(names, **changes):
    return dict.fromkeys(names, changes)


@pytest.mark.parametrize("form", ["plain", "prepared"])
@pytest.mark.parametrize(
    ("reference", "changes"),
    [
        ("attention", at([name for name in ATTENDING if "4x4" in name], attention="identity")),
        ("attention:layers=all", at(ATTENDING, attention="identity")),
        ("attention:layers=dec.4x4_in0+8x8", at(["dec.4x4_in0", *BLOCKS[FINE]], attention="identity")),
        ("attention:blur", at([name for name in ATTENDING if "4x4" in name], attention=math.inf)),
        ("attention:blur:sigma=0.6:layers=all", at(ATTENDING, attention=0.6)),
        ("attention:blur:sigma=3:layers=8x8", at(BLOCKS[FINE], attention=3.0)),
        ("skip-blocks", at(BLOCKS[COARSE], skip=True)),
        ("skip-blocks:layers=all", at([*BLOCKS[FINE], *BLOCKS[COARSE]], skip=True)),
        ("skip-blocks:layers=dec.8x8_block0", at(["dec.8x8_block0"], skip=True)),
    ],
)
def test_is_the_network_with_that_changed(net, path, reference, changes, form):
    x, made, labels = denoised(path, reference, form)
    for image, result, label in zip(x, made, labels, strict=True):
        main, other = slow(net, image, SIGMA, label), slow(net, image, SIGMA, label, changes)
        assert (main - other).norm() > 1e-3 * main.norm(), "it does something"
        torch.testing.assert_close(result, main + (W - 1) * (main - other), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_a_noisy_embedding_is_seen_by_the_first_blocks(net, path, form):
    x, made, labels = denoised(path, "noise-embedding:s=1.5:alpha=2:blocks=2", form)
    drawn = Draws(SEEDS).normal("noise-embedding", [16]).double()
    changes = at(["enc.8x8_block0", "enc.4x4_down", "dec.4x4_in0", "dec.4x4_in1"], noise=True)
    for image, result, label, n in zip(x, made, labels, drawn, strict=True):
        main = slow(net, image, SIGMA, label)
        other = slow(net, image, SIGMA, label, changes, lambda e, n=n: e + 1.5 * e.std(correction=0) * n)
        torch.testing.assert_close(result, main + (W - 1) * (main - other), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_dropout_is_where_training_has_it(net, path, form):
    """Masks as the reference draws them; that they are masks, and of what share, is asked below."""
    x, made, labels = denoised(path, "dropout:p=0.3", form)
    keys = Draws(SEEDS).integers("dropout", KEYS)
    blocks = {"enc": net.unet.enc, "dec": net.unet.dec}
    for image, result, label, key in zip(x, made, labels, keys, strict=True):
        changes = {}
        for name in EVERY:
            side, _, inner = name.partition(".")
            shape = blocks[side][inner].out_channels, *[int(inner[0])] * 2
            kept = hashed([key], f"dropout {name}", math.prod(shape)).view(shape) >= 0.3
            changes[name] = {"mask": kept.double() / 0.7}
        main = slow(net, image, SIGMA, label)
        other = slow(net, image, SIGMA, label, changes)
        torch.testing.assert_close(result, main + (W - 1) * (main - other), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_each_image_skips_blocks_of_its_own(net, path, form):
    x, made, labels = denoised(path, "skip-blocks:layers=all:share=0.5", form)
    keys, sets = Draws(SEEDS).integers("skip-blocks", KEYS), set()
    for image, result, label, key in zip(x, made, labels, keys, strict=True):
        names = [name for names in BLOCKS.values() for name in names]
        skipped = [name for name in names if hashed([key], f"skip-blocks {name}", 1) < 0.5]
        sets.add(tuple(skipped))
        main, other = slow(net, image, SIGMA, label), slow(net, image, SIGMA, label, at(skipped, skip=True))
        torch.testing.assert_close(result, main + (W - 1) * (main - other), rtol=2e-4, atol=2e-4)
    assert len(sets) == len(SEEDS)


@pytest.mark.parametrize("form", ["plain", "prepared"])
@pytest.mark.parametrize(("size", "mask"), [(6, True), (6, False), (4, False)])
def test_crops(net, path, form, size, mask):
    """Four crops of 6 in 8: pixels 2 to 5 of a side are seen twice. Without a mask they need not overlap."""
    x, made, labels = denoised(path, f"crops:size={size}:mask={str(mask).lower()}", form)
    for image, result, label in zip(x, made, labels, strict=True):
        total, count = torch.zeros_like(image), torch.zeros(8, 8)
        for i, j in itertools.product((0, 8 - size), repeat=2):
            total[:, i : i + size, j : j + size] += slow(net, image[:, i : i + size, j : j + size], SIGMA, label)
            count[i : i + size, j : j + size] += 1
        main = slow(net, image, SIGMA, label)
        push = (main - total / count) * ((count > 1) if mask else 1)
        torch.testing.assert_close(result, main + (W - 1) * push, rtol=2e-4, atol=2e-4)


# ----------------------------------------------------------------------------
# Identities, streams, costs.


@pytest.mark.parametrize("form", ["plain", "prepared"])
@pytest.mark.parametrize(
    "reference",
    [
        "noise-embedding:s=1e-12",
        "noise-embedding:blocks=0",
        "attention:blur:sigma=1e-50",
        "skip-blocks:share=0",
        "dropout:p=1e-12",
    ],
)
def test_nothing_perturbed_is_no_push(path, reference, form):
    _, made, _ = denoised(path, reference, form)
    _, other, _ = denoised(path, "previous-step", form)  # whose first step is not guided
    torch.testing.assert_close(made, other, rtol=1e-5, atol=1e-5)


def few_steps(path, reference, seeds, form="prepared"):
    recipe = Recipe(path, Guide(None, 1.5, (0, 1), reference=reference), 3, "heun", noise_device="cpu")
    generation = open_recipe(recipe, "cpu", inference=Inference(form))
    counted = dict.fromkeys(generation.evaluations_per_image(), 0)
    made, _ = sample(generation, seeds, counted)
    assert counted == {name: count * len(seeds) for name, count in generation.evaluations_per_image().items()}
    return made, counted["main"] // len(seeds)


@pytest.mark.parametrize("reference", KINDS)
def test_no_batch_changes_an_image_and_costs_are_known(path, reference):
    whole, cost = few_steps(path, reference, SEEDS)
    assert cost == 5 + 4 * {"previous-step": 0, "crops:size=6": 4}.get(reference, 1)
    split = torch.cat([few_steps(path, reference, part)[0] for part in ([5], [4, 3])])
    plain, _ = few_steps(path, reference, SEEDS, "plain")
    for other in (split[[2, 1, 0]], plain):
        assert (other - whole).norm() < 1e-3 * whole.norm()
    assert (whole[0] - whole[1]).abs().max() > 1e-2


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reference", KINDS)
def test_on_cuda(path, reference):
    """Masks, blocks and noise are those of the CPU, whatever graphs and compiled code do beside."""
    whole, _ = few_steps(path, reference, SEEDS)
    recipe = Recipe(path, Guide(None, 1.5, (0, 1), reference=reference), 3, "heun", noise_device="cpu")
    for form in ("plain", "prepared", "compiled"):
        made, _ = sample(open_recipe(recipe, "cuda", inference=Inference(form, "float32")), SEEDS)
        assert (made.cpu() - whole).norm() < 2e-3 * whole.norm()
    torch.compiler.reset()


@pytest.mark.parametrize("form", ["plain", "prepared"])
def test_in_bfloat16_it_is_near(path, form):
    for reference in ("attention:blur:sigma=0.7:layers=all", "skip-blocks", "dropout:p=0.3", "noise-embedding:s=0.5"):
        recipe = Recipe(path, Guide(None, 1.5, reference=reference), 1, "euler", "edm:sigma_max=2", noise_device="cpu")
        half, full = (
            sample(open_recipe(recipe, "cpu", inference=Inference(form, precision)), SEEDS)[0]
            for precision in ("bfloat16", "float32")
        )
        assert 1e-4 < (half - full).norm() / full.norm() < 5e-2


@pytest.mark.parametrize("reference", ["crops:size=6", "dropout", "previous-step"])
def test_sizes_of_batches_are_tried_with_what_references_ask(path, reference, monkeypatch):
    recipe = Recipe(path, Guide(None, 1.5, reference=reference, interval=(0, 1)), 3)
    generation, asked = open_recipe(recipe, "cpu"), []
    predict = generation.main.predict
    monkeypatch.setattr(
        generation.main, "predict", lambda x, *y, **how: asked.append((*x.shape[::3], *how)) or predict(x, *y, **how)
    )
    generation.evaluate(5)
    assert asked == [(5, 8), *{"dropout": [(5, 8, "perturbation")], "crops:size=6": [(5, 6)] * 4}.get(reference, [])]


def asked_of(reference, *shares):
    """The perturbations that a network gets in two calls of the first of four steps, and two of the third.

    shares: of the way, of steps of legs.
    """
    asked = []

    def network(x, sigma, labels, perturbation=None):
        if perturbation is not None:
            asked.append(perturbation)
        return Prediction(torch.zeros_like(x))

    x = torch.zeros(len(SEEDS), 3, 8, 8)
    of_each = guided(network, [(Guide(None, 2.0, reference=reference), None)], batch=Batch(None, 0, Draws(SEEDS)))
    for index, share in itertools.zip_longest((0, 2), shares):
        denoise = of_each(StepInfo(index, 4, 1.0, 1.0, 0.5, share=share))
        denoise(x, 1.0), denoise(x, 0.5)
    return asked


def test_noise_is_drawn_anew_and_shrinks_with_the_steps_that_are_left():
    emb = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    made = [how.noise(emb) - emb for how in asked_of("noise-embedding:s=3:alpha=2")]
    drawn = Draws(SEEDS)
    for push, left in zip(made, (1, 1, 0.5, 0.5), strict=True):
        n = drawn.normal("noise-embedding", [50])
        torch.testing.assert_close(push, 3 * left**2 * float(np.std(emb.numpy())) * n, rtol=1e-4, atol=1e-5)
    again, drawn = [how.noise(emb) - emb for how in asked_of("noise-embedding:s=3", 0.25, 0.25)], Draws(SEEDS)
    for push in again:  # of legs, the same at the same noise level
        n = drawn.normal("noise-embedding", [50])
        torch.testing.assert_close(push, 3 * 0.75 * float(np.std(emb.numpy())) * n, rtol=1e-4, atol=1e-5)
    first, last = asked_of("noise-embedding:alpha=0")[1::2]
    assert (first.noise(emb) - emb).std() == pytest.approx(float((last.noise(emb) - emb).std()), rel=0.2)
    layers = [Layer("a", side, index, 8) for side in ("encoder", "decoder") for index in (9, 10)]
    assert [first.at(layer) for layer in layers] == [True, False] * 2


def test_skipped_blocks_stay_for_a_step():
    layers = [Layer(str(number), "encoder", number, 8) for number in range(200)]
    drawn = [torch.stack([how.skip(layer) for layer in layers]) for how in asked_of("skip-blocks:random")]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])
    assert 0.06 < float(torch.stack(drawn).float().mean()) < 0.14
    down = Layer("down", "encoder", 0, 8, resizes=True)
    assert not asked_of("skip-blocks:layers=all")[0].at(down)


def test_dropout_keeps_its_share_and_the_mean():
    x = torch.ones(3, 4, 32, 32)
    layers = [Layer(name, "encoder", 0, 32) for name in ("a", "b")]
    made = [how.dropout(layer, x) for how in asked_of("dropout:p=0.25") for layer in layers]
    for each in made:
        assert each.unique().tolist() == pytest.approx([0, 1 / 0.75])
        assert float((each == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    for one, other in itertools.combinations(made, 2):
        assert float(((one == 0) & (other == 0)).float().mean()) == pytest.approx(0.0625, abs=0.012)
    assert float(((made[0][0] == 0) & (made[0][1] == 0)).float().mean()) == pytest.approx(0.0625, abs=0.02)


def test_hashed_numbers_are_as_good_as_drawn():
    drawn = hashed([1, 2], "here", 100_000)
    counts = torch.histc(drawn[0], 100, 0, 1)
    assert float(((counts - 1000) ** 2 / 1000).sum()) == pytest.approx(99, abs=60)
    assert (drawn.min() >= 0, drawn.max() < 1) == (True, True)
    pairs = [(drawn[0], drawn[1]), (drawn[0][1:], drawn[0][:-1]), (drawn[0], hashed([1], "there", 100_000)[0])]
    for a, b in pairs:
        assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.02
    assert torch.equal(hashed([2], "here", 7)[0], drawn[1][:7])


def test_normal_draws_are_of_seed_and_purpose():
    draws = Draws([1, 2])
    first, second = draws.normal("a", [3, 2]), draws.normal("a", [3, 2])
    assert first.shape == (2, 3, 2)
    assert not torch.equal(first, second)
    other = Draws([2])
    other.integers("b", 10)
    assert torch.equal(other.normal("a", [3, 2])[0], first[1])
    assert draws.normal("c", [1], torch.float64).dtype == torch.float64


def test_the_step_before_is_the_reference():
    """D = D_m + 2 (D_m - D_m of the step before), also where that step was not guided; the network counts its calls."""
    calls = itertools.count(1)
    spec = Guide(None, 3.0, (2, 3), reference="previous-step")
    of_each = guided(lambda x, sigma, labels: Prediction(torch.full_like(x, next(calls))), [(spec, None)])
    x, made = torch.zeros(1, 1), []
    for index in range(4):
        denoise = of_each(StepInfo(index, 4, 1.0, 1.0, 0.5))
        made += [float(denoise(x, 1.0)), float(denoise(x, 0.5))]
        denoise.end(None)
    assert made == [1, 2, 3, 4, 5 + 2 * (5 - 3), 6 + 2 * (6 - 3), 7 + 2 * (7 - 5), 8 + 2 * (8 - 5)]


def test_where_crops_overlap():
    """By counting: of 64 pixels, 24 to 39 are in both crops of a side."""
    seen = Reference.parse("crops").times_seen(64)
    assert {int(count): int((seen == count).sum()) for count in seen.unique()} == {1: 48**2, 2: 2 * 48 * 16, 4: 16**2}
    assert int((seen > 1).sum()) == 64**2 - 48**2 == 1792
    assert (seen[23, 0], seen[24, 0], seen[39, 63], seen[40, 63]) == (1, 2, 2, 1)


# ----------------------------------------------------------------------------
# What is refused, and how it is said.


@pytest.mark.parametrize("text", ["noise-embedding:s=0", "dropout:p=0"])
def test_nothing_at_the_cost_of_an_evaluation_is_refused(text):
    with pytest.raises(ValueError, match="=0: must be above 0"):
        Reference.parse(text)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("crops", "denoises 8 x 8, and crops of 40 x 40 are no smaller: give crops:size=K"),
        ("crops:size=5", "crops must be multiples of 2, not 5"),
        ("crops:size=2", "2 crops of 2 along a side do not cover: take more"),
        ("crops:size=4", "2 crops of 4 along a side do not overlap: enlarge them"),
        ("attention:layers=16x16", "has no layers '16x16' for it; write one of all, mid, 4x4, 8x8, enc.8x8_block0,"),
        ("attention:layers=mid+dec.4x4_in1", "has no layers 'dec.4x4_in1' for it"),
        ("attention:layers=", "has no layers '' for it; write one of all, mid"),
        ("skip-blocks:layers=enc.4x4_down", "has no layers 'enc.4x4_down' for it"),
        ("dropout:layers=dec.32x32_in0", "has no layers 'dec.32x32_in0' for it"),
    ],
)
def test_what_a_network_does_not_have_is_refused(path, reference, message):
    with pytest.raises(ValueError, match=message):
        open_recipe(Recipe(path, Guide(None, 2, reference=reference)), "cpu")


def test_crops_do_not_have_the_small_image():
    network = SimpleNamespace(source="up", shape=(3, 64, 64), low_res_size=16, supports={"crops"}, crop_multiple=8)
    with pytest.raises(ValueError, match="a small image of the whole beside it, which crops do not have"):
        Reference.parse("crops").check_network(network)


@pytest.mark.parametrize(
    ("reference", "needed"),
    [("attention", "attention"), ("noise-embedding", "noise embedding"), ("skip-blocks", "blocks"),
     ("dropout", "dropout"), ("crops:size=6", "crops")],
)  # fmt: skip
def test_a_network_that_cannot_is_refused(path, reference, needed):
    model = open_model(path, "cpu")
    model.supports = frozenset({"gradients"})
    with pytest.raises(ValueError, match=rf"needs a network that supports {needed}, and .* supports gradients: take"):
        open_recipe(Recipe(model, Guide(None, 2, reference=reference)), "cpu")
    other = Recipe(path, Guide(model, 2, reference=reference))
    with pytest.raises(ValueError, match=f"supports {needed}"):
        open_recipe(other, "cpu")


def test_what_contradicts_itself_is_refused():
    with pytest.raises(ValueError, match="sigma=2 is of a blur: add attention:blur"):
        Reference.parse("attention:sigma=2")
    with pytest.raises(ValueError, match="'previous-step' asks no other network: leave out --gnet"):
        Guide("net", 2, reference="previous-step")


class Own:
    """A network of one's own: zero, or the mean of what is asked for inside."""

    shape, num_classes = (3, 8, 8), 0

    def __init__(self, *supports):
        self.supports = supports
        self.identity = {"supports": list(supports)}
        self.layers = (Layer("mine", "middle", 0, 4, coarsest=True, attends=True),)

    def predict(self, x, sigma, y, **how):
        if not how:
            return torch.zeros_like(x)
        values = torch.full((len(x), 1, 16, 1), 7.0)
        assert how["perturbation"].at(self.layers[0])
        return x * 0 + how["perturbation"].attention(values - 1, values, values).mean()


def test_own_networks_say_what_they_support():
    guide = Guide(None, 2.0, reference="attention")
    with pytest.raises(ValueError, match="needs a network that supports attention, and Own supports nothing"):
        open_recipe(Recipe(Own(), guide, 1, noise_device="cpu"), "cpu")
    made, _ = sample(open_recipe(Recipe(Own("attention"), guide, 1, noise_device="cpu"), "cpu"), [1])
    torch.testing.assert_close(made, torch.full((1, 3, 8, 8), -7.0))


def test_another_network_may_be_perturbed(net, path, tmp_path):
    """It is what the guide names, under its own name where evaluations are counted."""
    save_safetensors(tmp_path / "other.safetensors", net.half().float(), encoder=StandardRGBEncoder())
    recipe = Recipe(path, Guide(str(tmp_path / "other.safetensors"), 2, reference="skip-blocks"), 2)
    generation, counted = open_recipe(recipe, "cpu"), {"main": 0, "guide 1": 0}
    sample(generation, [1], counted)
    assert counted == generation.evaluations_per_image() == {"main": 3, "guide 1": 3}


def test_from_the_command_line(path, tmp_path):
    words = ["--reference=attention:blur:layers=4x4+dec.8x8_block0", "--seeds=0-1", "--steps=2", "--guidance=1.4"]
    done = CliRunner().invoke(generate_images.main, [f"--net={path}", *words, f"--outdir={tmp_path / 'out'}"])
    assert done.exit_code == 0, done.stderr
    assert "guided by the main network (attention:blur:layers=4x4+dec.8x8_block0), w = 1.4" in done.stderr
    assert "evaluations per image: 6 main" in done.stderr
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())["recipe"]
    assert recipe["guides"][0]["reference"] == "attention:blur:layers=4x4+dec.8x8_block0"
    done = CliRunner().invoke(generate_images.main, [f"--net={path}", "--reference=crops", *words[1:], "--outdir=out"])
    assert (done.exit_code, "crops of 40 x 40 are no smaller" in done.stderr) == (2, True), done.stderr
