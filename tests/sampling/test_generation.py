"""Generation from a recipe: seeds and batches, labels, counts, and networks that do not fit."""

import json
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch

from dnnlib.inference import Inference
from edm2_guidance.recipe.class_names import ClassName
from edm2_guidance.recipe.files import NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import SigmaInterval, StepInterval
from edm2_guidance.recipe.parts import Sampler, constant
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.sampling import seeds as seeding
from edm2_guidance.sampling.generation import sample
from edm2_guidance.sampling.opening import open_recipe, opener
from tests.digits_network import save_digits_network
from tests.functions import denoise_at, levels, steps_of
from training.encoders import StabilityVAEEncoder
from training.network_io import load_network, save_network
from training.networks_edm2 import Precond


@pytest.fixture
def recipe(tiny_networks):
    return Recipe(NetworkRef(str(tiny_networks["cond"])), num_steps=6, noise_device="device")


def guide(tiny_networks, name="uncond", weight=2.0, interval=None):
    return Guide(NetworkRef(str(tiny_networks[name])), constant(weight), interval)


def collect(generation, seeds, batch):
    batches = list(generation.images(seeds, batch))
    images = torch.cat([part.images for part in batches])
    return images, [s for part in batches for s in part.seeds], [c for part in batches for c in part.labels]


def test_images_do_not_depend_on_batch_or_order(recipe, tiny_networks):
    generation = open_recipe(replace(recipe, guides=(guide(tiny_networks),)), "cpu")
    whole, seeds, labels = collect(generation, range(7), 7)
    parts, seeds_parts, labels_parts = collect(generation, range(7), 2)
    assert seeds == seeds_parts == list(range(7))
    assert labels == labels_parts
    assert (whole.int() - parts.int()).abs().max() <= 1, "last bits may differ, an 8-bit level at most"
    again, *_ = collect(generation, [5], 1)
    assert (again[0].int() - whole[5].int()).abs().max() <= 1
    repeated, *_ = collect(generation, range(7), 7)
    assert torch.equal(whole, repeated), "the same batches give the same bytes"


def test_labels_and_recipe(recipe):
    generation = open_recipe(replace(recipe, labels="balanced"), "cpu")
    assert collect(generation, [0, 13, 29], 2)[2] == [0, 3, 9]
    zero = open_recipe(replace(recipe, labels=0), "cpu")
    assert collect(zero, [0, 13], 2)[2] == [0, 0]
    assert zero.recipe.net.sha256 is not None
    assert zero.recipe.noise_device == "cpu"
    assert zero.recipe.encoder == {"class": "StandardRGBEncoder"}


def test_class_zero_is_not_the_random_class(recipe):
    seeds = list(range(4))
    zero, _ = sample(open_recipe(replace(recipe, labels=0), "cpu"), seeds)
    free, labels = sample(open_recipe(recipe, "cpu"), seeds)
    assert any(label != 0 for label in labels)
    assert not torch.allclose(zero, free)


@pytest.mark.parametrize(
    ("weight", "interval", "expected"),
    [
        (2.0, None, [11, 11]),
        (1.0, None, [11, 0]),
        (2.0, StepInterval(2, 3), [11, 4]),
        (2.0, StepInterval(5, 5), [11, 1]),
        (2.0, SigmaInterval(79.5, 79.9), [11, 0]),
    ],
)
def test_evaluations_are_counted_as_announced(recipe, tiny_networks, weight, interval, expected):
    generation = open_recipe(replace(recipe, guides=(guide(tiny_networks, "weak", weight, interval),)), "cpu")
    assert list(generation.evaluations_per_image().values()) == expected
    source = generation.images(range(5), 2)
    for _ in source:
        pass
    assert list(source.evaluations.values()) == [5 * n for n in expected]


def test_weight_one_is_the_main_network_alone(recipe, tiny_networks):
    plain, _ = sample(open_recipe(recipe, "cpu"), [1, 2])
    off, _ = sample(open_recipe(replace(recipe, guides=(guide(tiny_networks, weight=1.0),)), "cpu"), [1, 2])
    on, _ = sample(open_recipe(replace(recipe, guides=(guide(tiny_networks, weight=1.5),)), "cpu"), [1, 2])
    assert torch.equal(plain, off)
    assert not torch.allclose(plain, on)


def test_blend_of_two_guides_is_neither_alone(recipe, tiny_networks):
    both = (guide(tiny_networks, "uncond", 1.5), guide(tiny_networks, "weak", 1.5))
    blend, _ = sample(open_recipe(replace(recipe, guides=both), "cpu"), [3])
    for spec in both:
        alone, _ = sample(open_recipe(replace(recipe, guides=(spec,)), "cpu"), [3])
        assert not torch.allclose(blend, alone)


@pytest.mark.parametrize(
    ("main", "name", "says"),
    [
        ("cond", "larger", "resolution 16"),
        ("cond", "fewer-classes", r"has 10 classes, .*fewer-classes\.pkl 4: take networks with the same"),
    ],
)
def test_guides_that_do_not_fit(tiny_networks, main, name, says):
    misfit = Recipe(NetworkRef(str(tiny_networks[main])), (guide(tiny_networks, name),))
    with pytest.raises(ValueError, match=says):
        open_recipe(misfit, "cpu")


@pytest.mark.parametrize(("reference", "role"), [("network", "guide 1"), ("other-label", "main")])
def test_what_two_guides_ask_alike_is_evaluated_once(recipe, tiny_networks, reference, role):
    """Under the linear rule their pushes are one of both weights, where both are on."""
    net = NetworkRef(str(tiny_networks["cond"])) if reference == "network" else None

    def made(*guides):
        given = [Guide(net, w, interval, reference) for w, interval in guides]
        generation = open_recipe(replace(recipe, net=NetworkRef(str(tiny_networks["cond"])), guides=given), "cpu")
        counted = dict.fromkeys(generation.evaluations_per_image(), 0)
        samples, _ = sample(generation, [1, 2], counted)
        assert counted == {name: 2 * count for name, count in generation.evaluations_per_image().items()}
        return samples, counted

    one, counted = made((2.5, None))
    two, counted_two = made((2.0, None), (1.5, None))
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-4)
    assert sum(counted.values()) == sum(counted_two.values())
    _, overlapping = made((2.0, (0, 3)), (1.5, (2, 4)))
    _, whole = made((2.0, (0, 4)))
    assert sum(overlapping.values()) == sum(whole.values())
    assert counted[role] == counted_two[role]


def test_an_unconditional_main_network_with_a_conditional_guide(tiny_networks):
    """As in EDM2: no label is drawn, so the guide runs without one. A class that is asked for is the guide's."""
    main, weak = (load_network(tiny_networks[name]).net for name in ("uncond", "weak"))
    base = Recipe(
        NetworkRef(str(tiny_networks["uncond"])), (guide(tiny_networks, "weak"),), 3, Sampler.parse("heun:S_churn=2"),
        noise_device="cpu",
    )  # fmt: skip
    found = []
    expected = {"random": None, 0: 0, 7: 7, "balanced": 3}
    for labels, index in expected.items():
        generation = open_recipe(replace(base, labels=labels), "cpu")
        assert generation.recipe.labels == ("none" if labels == "random" else labels)
        assert any("the main network is unconditional" in note for note in generation.notes)
        made, classes = sample(generation, [13])
        streams = seeding.SeededStreams([13])
        noise = streams.randn([3, 8, 8])
        if index is not None:
            streams.randint(10)
        onehot = None if index is None else torch.eye(10)[[index]]

        def denoise(x, sigma, onehot=onehot):
            return 2 * main(x, sigma) - weak(x, sigma, onehot)

        *_, last = steps_of(
            denoise_at(denoise),
            noise,
            levels(3),
            "heun:S_churn=2",
            streams.randn_like,
        )
        assert (made - last.x).abs().max() < 0.01
        assert all((made - other).abs().max() > 0.1 for other in found)
        found.append(made)
        assert classes is None


def test_classes_of_guides_beside_an_unconditional_network(tiny_networks):
    base = Recipe(NetworkRef(str(tiny_networks["uncond"])), (guide(tiny_networks, "weak"),))
    with pytest.raises(ValueError, match=r"weak\.pkl has classes 0 to 9"):
        open_recipe(replace(base, labels=10), "cpu")
    two = (*base.guides, guide(tiny_networks, "fewer-classes"))
    with pytest.raises(ValueError, match=r"weak\.pkl has 10 classes, .*fewer-classes\.pkl 4"):
        open_recipe(replace(base, guides=two), "cpu")


def test_classes_out_of_range(recipe, tiny_networks):
    with pytest.raises(ValueError, match="classes 0 to 9"):
        open_recipe(replace(recipe, labels=10), "cpu")
    with pytest.raises(ValueError, match="unconditional"):
        open_recipe(Recipe(NetworkRef(str(tiny_networks["uncond"])), labels=0), "cpu")


def test_classes_by_the_names_in_the_network(recipe, tmp_path):
    """Eleven names, of which the network has ten; digits in an odd order, so that an index is no name."""
    names = ["zero", "one", "Two", "3", "3", "1", "six", "seven", "eight", "nine", "ten"]
    path = save_digits_network(tmp_path / "net.safetensors", class_names=names)
    named = replace(recipe, net=NetworkRef(str(path)))
    generation = open_recipe(replace(named, labels=ClassName("two")), "cpu")
    assert generation.recipe.labels == 2
    assert generation.notes == ("--class=two is class 2",)
    assert generation.recipe.hash == open_recipe(replace(named, labels=2), "cpu").recipe.hash
    (note,) = open_recipe(replace(named, labels=1), "cpu").notes
    assert note == "class 1 is the one of this index; the one named 1 is 5"
    for name, says in (
        ("3", "3 .3., 3 .4.; give the index"),
        ("ten", "no class of that name"),
        ("tow", "near it: Two"),
    ):
        with pytest.raises(ValueError, match=f"--class={name}: .*{says}"):
            open_recipe(replace(named, labels=ClassName(name)), "cpu")
    with pytest.raises(ValueError, match=r"give a class number from 0 to 9, .*has no class names"):
        open_recipe(replace(recipe, labels=ClassName("two")), "cpu")


def test_unconditional_networks_give_no_labels(tiny_networks):
    generation = open_recipe(Recipe(NetworkRef(str(tiny_networks["uncond"])), num_steps=2), "cpu")
    (batch,) = generation.images([1, 2], 8)
    assert batch.labels is None
    balanced = Recipe(NetworkRef(str(tiny_networks["uncond"])), num_steps=2, labels="balanced")
    assert open_recipe(balanced, "cpu").recipe == generation.recipe, (
        "without classes there is no label rule to differ in"
    )


def test_a_network_that_its_encoder_cannot_decode_is_refused_before_sampling(tiny_networks):
    with pytest.raises(ValueError, match="4 channels"):
        open_recipe(Recipe(NetworkRef(str(tiny_networks["latent"]))), "cpu")


def test_image_size_is_that_of_decoded_images(recipe):
    generation = open_recipe(recipe, "cpu")
    (batch,) = generation.images([1], 8)
    assert batch.images.shape[-1] == generation.image_size == 8


def test_absurd_weights_are_reported_with_the_seed(recipe, tiny_networks):
    generation = open_recipe(replace(recipe, guides=(guide(tiny_networks, "weak", 1e39),)), "cpu")
    with pytest.raises(RuntimeError, match="seed 12"):
        list(generation.images([12, 13], 2))
    with pytest.raises(RuntimeError, match="seed 12"):
        list(generation.images([12, 13], 2).latents())


@pytest.fixture(scope="module")
def vae_folders(tmp_path_factory):
    """Two tiny VAEs of the Stability VAE's kind, with other weights each."""
    from diffusers import AutoencoderKL

    folders = []
    for seed in range(2):
        torch.manual_seed(seed)
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            block_out_channels=[8, 8],
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
        )
        folders.append(tmp_path_factory.mktemp(f"vae{seed}"))
        vae.save_pretrained(folders[-1])
    return folders


def test_latent_networks_sample_through_the_vae_that_the_recipe_names(vae_folders, tmp_path, monkeypatch):
    """Latents to pixels, whatever the decoder's batch; another VAE is another recipe."""
    torch.manual_seed(3)
    net = Precond(8, 4, 10, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8)
    save_network(tmp_path / "latent.pkl", net, encoder=StabilityVAEEncoder())
    recipe = Recipe(NetworkRef(str(tmp_path / "latent.pkl")), num_steps=3)
    made = []
    for folder in vae_folders:
        monkeypatch.setenv("EDM2_VAE", str(folder))
        generation = open_recipe(recipe, "cpu", offline=True)
        (whole,) = generation.images(range(5), 5)
        generation.set_decoder_batch(2)
        (parts,) = generation.images(range(5), 5)
        assert (whole.images.int() - parts.images.int()).abs().max() <= 1
        assert whole.images.shape[-1] == generation.image_size == 16
        made.append((generation.recipe.hash, whole.images))
    assert made[0][0] != made[1][0]
    assert not torch.equal(made[0][1], made[1][1])
    text = json.dumps(generation.recipe.to_json())
    assert str(tmp_path) not in text
    assert str(vae_folders[1]) not in text


def test_the_decoders_batch_is_set(vae_folders, tmp_path, monkeypatch):
    torch.manual_seed(3)
    net = Precond(8, 4, 0, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8)
    save_network(tmp_path / "latent.pkl", net, encoder=StabilityVAEEncoder())
    monkeypatch.setenv("EDM2_VAE", str(vae_folders[0]))
    generation = open_recipe(Recipe(NetworkRef(str(tmp_path / "latent.pkl")), num_steps=2), "cpu")
    sizes = []
    decoder = generation.main.encoder._vae.decoder
    decoder.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    generation.set_decoder_batch(2)
    list(generation.images(range(5), 5))
    assert sizes == [2, 2, 1]


# ----------------------------------------------------------------------------
# Memory that does not hold a batch.


def out_of_memory(sizes, limit, freed=None):
    """A hook before a network that fails above `limit` images; `sizes` gets the number of images of every call."""

    def hook(module, args):
        if freed is not None:
            assert all(reference() is None for reference in freed), "a failed attempt is still in memory"
        sizes.append(len(args[0]))
        if len(args[0]) > limit:
            if freed is not None:
                freed.append(weakref.ref(args[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return hook


def noise_of(monkeypatch):
    """By seed, the noise that sampling starts from."""
    noise, plain = {}, seeding.start

    def start(seeds, *args):
        streams, drawn, labels = plain(seeds, *args)
        noise.update(zip(seeds, drawn.clone(), strict=True))
        return streams, drawn, labels

    monkeypatch.setattr(seeding, "start", start)
    return noise


@pytest.mark.parametrize("guided", [False, True])
def test_a_batch_that_memory_does_not_hold_is_sampled_in_parts(recipe, tiny_networks, monkeypatch, guided):
    """The same noise and labels, the same pixels up to a level; nothing of a failed attempt stays or is counted."""
    recipe = replace(recipe, guides=(guide(tiny_networks),) if guided else ())
    undisturbed = open_recipe(recipe, "cpu")
    whole_noise = noise_of(monkeypatch)
    source = undisturbed.images(range(10), 8)
    whole = list(source)
    assert source.reduced == undisturbed.reduced == {}
    monkeypatch.undo()

    generation, sizes, freed = open_recipe(recipe, "cpu", inference=Inference("plain")), [], []
    last = generation.guides[0].net if guided else generation.main.net
    last.register_forward_pre_hook(out_of_memory(sizes, 3, freed))
    noise = noise_of(monkeypatch)
    parts_source = generation.images(range(10), 8)
    with pytest.warns(RuntimeWarning, match="sampling: memory does not hold 8 images at a time; from now on 2") as told:
        parts = list(parts_source)
    assert len(told) == 1
    assert sizes == [8, 4, *[2] * 11 * 5], "the size that fits is kept, for the last two images too"
    assert len(freed) == 2
    assert [batch.reduced for batch in parts] == [{"sampling": 2}, {}]
    assert parts_source.reduced == generation.reduced == {"sampling": 2}
    assert parts_source.evaluations == source.evaluations
    assert all(torch.equal(noise[seed], whole_noise[seed]) for seed in range(10))
    for ours, theirs in zip(parts, whole, strict=True):
        assert (ours.seeds, ours.labels) == (theirs.seeds, theirs.labels)
        assert (ours.images.int() - theirs.images.int()).abs().max() <= 1


def test_what_memory_holds_is_remembered_for_networks_of_the_same_size(recipe, tiny_networks):
    open_ = opener("cpu", inference=Inference("plain"))
    first = open_(recipe)
    with pytest.warns(RuntimeWarning), first.main.net.register_forward_pre_hook(out_of_memory([], 2)):
        list(first.images(range(4), 4))
    assert open_(replace(recipe, labels=3)).reduced == {"sampling": 2}
    assert open_(replace(recipe, guides=(guide(tiny_networks),))).reduced == {}
    assert open_recipe(recipe, "cpu").reduced == {}


@pytest.fixture
def latent_generation(vae_folders, tmp_path, monkeypatch):
    torch.manual_seed(3)
    net = Precond(8, 4, 10, model_channels=8, channel_mult=[1], num_blocks=1, attn_resolutions=[], channels_per_head=8)
    save_network(tmp_path / "latent.pkl", net, encoder=StabilityVAEEncoder())
    monkeypatch.setenv("EDM2_VAE", str(vae_folders[0]))
    recipe = Recipe(NetworkRef(str(tmp_path / "latent.pkl")), num_steps=2)
    return open_recipe(recipe, "cpu", offline=True, inference=Inference("plain"))


def test_a_decoder_that_memory_does_not_hold_samples_nothing_twice(latent_generation):
    generation, sampled, decoded, freed = latent_generation, [], [], []
    (whole,) = generation.images(range(9), 9)
    generation.main.net.register_forward_pre_hook(out_of_memory(sampled, 9))
    generation.main.encoder._vae.decoder.register_forward_pre_hook(out_of_memory(decoded, 2, freed))
    source = generation.images(range(9), 9)
    with pytest.warns(RuntimeWarning, match="decoding: memory does not hold 8 images at a time; from now on 2"):
        (parts,) = source
    assert sampled == [9, 9, 9], "two steps of Heun, once"
    assert decoded == [8, 4, 2, 2, 2, 2, 1]
    assert parts.reduced == source.reduced == generation.reduced == {"decoding": 2}
    assert parts.labels == whole.labels
    assert (parts.images.int() - whole.images.int()).abs().max() <= 1
    decoded.clear()
    list(generation.images(range(5), 5))
    assert decoded == [2, 2, 1]
    generation.set_decoder_batch(1)
    (single,) = generation.images(range(3), 3)
    assert single.reduced == {}, "as asked"


@pytest.mark.cuda
def test_batches_begin_without_waiting_for_the_device_and_end_in_another_thread(recipe):
    generation = open_recipe(replace(recipe, noise_device="cpu"), "cuda")
    expected = torch.cat([batch.images for batch in generation.images(range(12), 4)])  # records what is recorded
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        begun = list(generation.images(range(12), 4).begun())
    finally:
        torch.cuda.set_sync_debug_mode(before)
    with ThreadPoolExecutor(1) as thread:
        made = [batch.images for batch in thread.map(lambda finish: finish(), begun)]
    assert torch.equal(torch.cat(made), expected)


def test_a_batch_is_decoded_where_it_is_finished(recipe, monkeypatch):
    """Unless code of users, or networks on the CPU, would run beside sampling."""
    generation, threads = open_recipe(recipe, "cpu"), []
    decode = generation.main.decode

    def decoding(latents):
        threads.append(threading.current_thread())
        return decode(latents)

    monkeypatch.setattr(generation.main, "decode", decoding)
    for apart in (True, False):
        generation.main.decodes_apart = apart
        with ThreadPoolExecutor(1) as thread:
            assert [len(thread.submit(finish).result()) for finish in generation.images([1, 2, 3], 2).begun()] == [2, 1]
    here = threading.current_thread()
    assert [thread is here for thread in threads] == [False, False, True, True]
