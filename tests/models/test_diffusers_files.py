"""Pipelines of diffusers as data: what is read is what was saved, and nothing in a folder is run."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dnnlib.errors import DownloadError
from edm2_guidance.models import diffusers_files, diffusers_hub
from edm2_guidance.models.diffusers_files import load, recognises
from tests import diffusers_pipelines
from tests.diffusers_pipelines import made_once, tiny_ddpm, tiny_dit, tiny_if, tiny_sd, tiny_sdxl
from tests.hub_server import serving

ROOT = Path(__file__).resolve().parents[2]

PIPELINES = {
    "dit": (tiny_dit, "DiTPipeline"),
    "sdxl": (tiny_sdxl, "StableDiffusionXLPipeline"),
    "sd": (tiny_sd, "StableDiffusionPipeline", "v_prediction"),
    "if": (tiny_if, "IFPipeline"),
    "ddpm": (tiny_ddpm, "DDPMPipeline"),
}
UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def tiny(tmp_path_factory):
    """The folder of a tiny pipeline, by its short name: not to be written in."""

    def folder(name):
        make, _, *args = PIPELINES[name]
        return made_once(tmp_path_factory, make, *args)

    return folder


@pytest.fixture
def copied(tiny, tmp_path):
    """A copy of a tiny pipeline, to be changed."""
    return lambda name: Path(shutil.copytree(tiny(name), tmp_path / "pipeline", copy_function=os.link))


def edit(path, **changes):
    """Change a JSON file; None takes a key out."""
    content = json.loads(path.read_text()) | changes
    replace(path, json.dumps({key: value for key, value in content.items() if value is not None}).encode())


def replace(path, data):
    path.unlink(missing_ok=True)  # it may be a link to one that others read
    path.write_bytes(data)


def edit_tensors(path, change, target=None):
    tensors = change(load_file(path))
    path.unlink()
    save_file(tensors, target or path)


def equal(tensors, others):
    return tensors.keys() == others.keys() and all(torch.equal(value, others[key]) for key, value in tensors.items())


def refusal(folder, *components):
    """The one line that a pipeline, or one of its components, is refused with."""
    with pytest.raises((ValueError, OSError)) as caught:  # noqa: PT012
        found = load(str(folder), offline=True)
        for name in components:
            found.component(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ----------------------------------------------------------------------------
# What is there.


@pytest.mark.parametrize("name", PIPELINES)
def test_components_are_what_was_saved(tiny, name):
    folder, drawn = tiny(name), torch.get_rng_state()
    found = load(str(folder), offline=True)
    assert (found.pipeline, found.folder, found.notes) == (PIPELINES[name][1], folder, ())
    assert (
        found.scheduler
        == found.config("scheduler")
        == json.loads((folder / "scheduler/scheduler_config.json").read_text())
    )
    for role, full_name in found.classes.items():
        part = found.component(role)
        assert part is found.component(role)
        assert type(part).__name__ == full_name.split(".")[1]
        if isinstance(part, torch.nn.Module):
            (path,) = (folder / role).glob("*.safetensors")
            saved, state = load_file(path), part.state_dict()
            state.pop("encoder.embed_tokens.weight", None)  # of T5, which `shared.weight` is too
            assert equal(state, saved)
            assert not part.training
            assert not any(weights.requires_grad for weights in part.parameters())
            assert {value.dtype for value in state.values()} == {torch.float32}
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(("name", "role"), [("sdxl", "tokenizer"), ("sdxl", "tokenizer_2"), ("if", "tokenizer")])
def test_tokenizers_are_those_of_their_own_reader(tiny, name, role):
    import transformers

    part = load(str(tiny(name)), offline=True).component(role)
    own = getattr(transformers, type(part).__name__).from_pretrained(tiny(name) / role)
    for text in ("a photo of  a Raccoon, of straße", ""):
        assert part(text, padding="max_length").data == own(text, padding="max_length").data
    assert part.model_max_length == 77


def test_a_tokenizer_may_have_no_limit(copied):
    folder = copied("if")
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=int(1e30))
    assert load(str(folder), offline=True).component("tokenizer").model_max_length == int(1e30)


def test_names_of_classes_are_in_the_index(tiny):
    assert load(str(tiny("dit")), offline=True).index["id2label"]["3"] == "class 3, third class"


def test_what_counts_as_a_pipeline(tiny, tmp_path):
    assert recognises(str(tiny("dit")), offline=True)
    assert recognises("hf://facebook/DiT-XL-2-256", offline=True)
    others = ("adm-64", "net.py:make", "https://host/net.pt", str(tmp_path), "a\0b", "a" * 5000, "")
    assert not any(recognises(source, offline=True) for source in others)


def test_a_folder_may_be_named_from_home(tiny, monkeypatch):
    folder = tiny("dit")
    monkeypatch.setenv("HOME", str(folder.parent))
    source = f"~/{folder.name}"
    assert recognises(source, offline=True)
    assert load(source, offline=True).sha256() == load(str(folder), offline=True).sha256()


def test_digests_tell_contents_and_no_paths(tiny, copied):
    before, folder = load(str(tiny("dit")), offline=True), copied("dit")
    again = load(str(folder), offline=True)
    assert again.sha256() == before.sha256() == before.sha256("scheduler", "vae", "transformer")
    assert before.sha256("vae") != before.sha256("transformer")

    def nudged(tensors):
        tensors["proj_out_2.bias"][0] += 1e-3
        return tensors

    edit_tensors(folder / "transformer/diffusion_pytorch_model.safetensors", nudged)
    changed = load(str(folder), offline=True)
    assert changed.sha256("vae") == before.sha256("vae")
    assert changed.sha256("transformer") != before.sha256("transformer")
    assert changed.sha256() != before.sha256()
    edit(folder / "vae/config.json", scaling_factor=0.5)
    assert load(str(folder), offline=True).sha256("vae") != before.sha256("vae")


# ----------------------------------------------------------------------------
# As published.


def as_before_2023(tensors):
    names = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}

    def former(name):
        for now, before in names.items():
            name = name.replace(now, before)
        return name

    return {former(name): value for name, value in tensors.items()}


def as_of_transformers_4(tensors):
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    return {f"text_model.{name}": value for name, value in tensors.items()} | positions


def with_the_table_twice(tensors):
    return tensors | {"encoder.embed_tokens.weight": tensors["shared.weight"].clone()}


def with_the_other_name(tensors):
    return {name.replace("shared", "encoder.embed_tokens"): value for name, value in tensors.items()}


@pytest.mark.parametrize(
    ("name", "role", "change"),
    [
        ("dit", "vae", as_before_2023),
        ("ddpm", "unet", as_before_2023),
        ("sd", "text_encoder", as_of_transformers_4),
        ("if", "text_encoder", with_the_table_twice),
        ("if", "text_encoder", with_the_other_name),
    ],
)
def test_tensors_go_by_the_names_of_published_files_too(tiny, copied, name, role, change):
    folder = copied(name)
    (path,) = (folder / role).glob("*.safetensors")
    before = load_file(path)
    edit_tensors(path, change)
    assert load_file(path).keys() != before.keys()
    parts = [load(str(each), offline=True).component(role) for each in (tiny(name), folder)]
    assert equal(*(part.state_dict() for part in parts))


def test_the_published_dit_is_a_state_dict_of_torch_and_of_the_class_of_before(tiny, copied):
    folder = copied("dit")
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    edit(folder / "model_index.json", transformer=["diffusers", "Transformer2DModel"])
    edit(
        path.parent / "config.json", _class_name="Transformer2DModel", cross_attention_dim=None, num_vector_embeds=None,
        only_cross_attention=False, use_linear_projection=False,
    )  # fmt: skip
    part = load(str(folder), offline=True).component("transformer")
    assert type(part).__name__ == "DiTTransformer2DModel"
    assert equal(part.state_dict(), load(str(tiny("dit")), offline=True).component("transformer").state_dict())


def in_shards(folder, stem, ending="safetensors", index="safetensors.index.json"):
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    path.unlink()
    placed = {name: f"{stem}-0000{1 + number % 2}-of-00002.{ending}" for number, name in enumerate(sorted(tensors))}
    for file in set(placed.values()):
        save_file({name: value for name, value in tensors.items() if placed[name] == file}, folder / file)
    (folder / f"{stem}.{index}").write_text(json.dumps({"metadata": {}, "weight_map": placed}))


def test_weights_may_be_in_shards(tiny, copied):
    folder = copied("if")
    in_shards(folder / "text_encoder", "model")
    found = load(str(folder), offline=True)
    assert [path.name for path in found.files["text_encoder"][1:]] == [
        f"model-0000{n}-of-00002.safetensors" for n in (1, 2)
    ]
    before = load(str(tiny("if")), offline=True).component("text_encoder")
    assert equal(found.component("text_encoder").state_dict(), before.state_dict())
    (folder / "text_encoder/model-00002-of-00002.safetensors").unlink()
    assert "lacks model-00002-of-00002.safetensors" in refusal(folder)


def test_halves_are_taken_where_there_is_nothing_else_and_told(copied):
    folder = copied("ddpm")
    whole = load_file(folder / UNET)
    halves = {name: value.half() for name, value in whole.items()}
    save_file(halves, folder / UNET.replace(".s", ".fp16.s"))
    both = load(str(folder), offline=True)
    assert (both.notes, equal(both.component("unet").state_dict(), whole)) == ((), True)
    (folder / UNET).unlink()
    found = load(str(folder), offline=True)
    assert "unet the variant fp16 alone" in found.notes[0]
    assert equal(found.component("unet").state_dict(), {name: value.float() for name, value in halves.items()})


def test_folders_may_be_links(tiny, copied):
    folder = copied("ddpm")
    shutil.rmtree(folder / "unet")
    (folder / "unet").symlink_to(tiny("ddpm") / "unet")
    assert load(str(folder), offline=True).sha256() == load(str(tiny("ddpm")), offline=True).sha256()


def test_a_sentencepiece_vocabulary(copied, monkeypatch):
    folder = copied("if")
    (folder / "tokenizer/tokenizer.json").unlink()
    assert "no vocabulary, neither tokenizer.json nor spiece.model" in refusal(folder)
    (folder / "tokenizer/spiece.model").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"^sentencepiece is not .* pip install 'edm2-guidance\[diffusers\]'$"):
        load(str(folder), offline=True)
    monkeypatch.undo()
    trainer = pytest.importorskip("sentencepiece").SentencePieceTrainer
    pytest.importorskip("google.protobuf")
    texts = ["a photo of a blue jay", "the painting of a raccoon in a castle", "a ship with the blue castle"] * 20
    where = {"sentence_iterator": iter(texts), "model_prefix": str(folder / "tokenizer/spiece"), "vocab_size": 26}
    trainer.train(**where, model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1, minloglevel=2)
    ids = load(str(folder), offline=True).component("tokenizer")("a photo of a blue jay").input_ids
    import sentencepiece

    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer/spiece.model"))
    assert ids == [*own.encode("a photo of a blue jay"), 1]


def test_without_the_extra_one_line_says_what_to_install(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"^diffusers is not installed.*: pip install 'edm2-guidance\[diffusers\]'$"):
        load(str(tiny("dit")), offline=True)


# ----------------------------------------------------------------------------
# Refusals.


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"_class_name": "FluxPipeline"}, "pipeline FluxPipeline is not known here: known are DiTPipeline, "),
        ({"_class_name": ["my_module", "MyPipeline"]}, r"pipeline ['my_module', 'MyPipeline'] is not known here"),
        ({"unet": ["my_module", "MyUNet"]}, "component unet is of class 'my_module.MyUNet', not known here: "),
        ({"unet": ["diffusers", "UNetSpatioTemporalConditionModel"]}, "diffusers.UNet2DConditionModel is"),
        ({"unet": ["diffusers.models", "UNet2DConditionModel"]}, "component unet is of class"),
        ({"unet": "my_unet.py"}, "component unet is of class"),
        ({"unet": [None, None]}, "component unet is of class [None, None]"),
        ({"unet": None}, "component unet is of class None"),
        ({"../unet": ["diffusers", "UNet2DConditionModel"]}, "has no component '../unet' here, only vae, "),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, "has no component controlnet here"),
        ({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "component scheduler is of class"),
    ],
)
def test_what_an_index_may_not_say(copied, changes, line):
    folder = copied("sd")
    edit(folder / "model_index.json", **changes)
    assert line in refusal(folder)


@pytest.mark.parametrize(
    ("file", "changes", "line"),
    [
        ("unet/config.json", {"_class_name": "UNet2DModel"}, "_class_name in it is 'UNet2DModel', not 'UNet2DCond"),
        ("unet/config.json", {"_class_name": ["my_module", "MyUNet"]}, "_class_name in it is"),
        ("text_encoder/config.json", {"model_type": "bert"}, "model_type in it is 'bert', not 'clip_text_model'"),
        ("tokenizer/tokenizer_config.json", {"tokenizer_class": "T5Tokenizer"}, "tokenizer_class in it is"),
        ("text_encoder/config.json", {"auto_map": {"AutoModel": "mine.Model"}}, "auto_map in it names code of its own"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["mine.T", None]}}, "auto_map in it"),
        ("unet/config.json", {"trust_remote_code": True}, "trust_remote_code in it"),
        ("unet/config.json", {"cross_attention_dim": 1 << 40}, "cross_attention_dim in it is larger"),
        ("unet/config.json", {"layers_per_block": 100, "transformer_layers_per_block": 100}, "are more than"),
        ("unet/config.json", {"block_out_channels": [16] * 100}, "block_out_channels in it is larger"),
    ],
)  # fmt: skip
def test_what_a_configuration_may_not_say(copied, file, changes, line):
    folder = copied("sd")
    edit(folder / file, **changes)
    assert line in refusal(folder)
    assert f"component {file.split('/')[0]}" in refusal(folder)


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
def test_json_is_small_and_strict(copied, file):
    folder = copied("ddpm")
    for data, line in (
        (b'{"a": "' + b"x" * (2 << 20) + b'"}', "bytes allowed"),
        (b"[" * 100_000, "nested too deeply"),
        (b'["DDPMPipeline"]', "expected a JSON object"),
        (b'{"_class_name": NaN}', "is no number"),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ):
        replace(folder / file, data)
        assert line in refusal(folder)


def test_files_that_are_missing_or_no_files(copied):
    folder = copied("ddpm")
    (folder / UNET).unlink()
    assert "has no weights, neither diffusion_pytorch_model.safetensors nor diffusion_pytorch_model.bin" in refusal(
        folder
    )
    (folder / "unet/config.json").unlink()
    assert "config.json is missing" in refusal(folder)
    os.mkfifo(folder / "unet/config.json")
    assert "a pipe (FIFO)" in refusal(folder)
    assert "it has no model_index.json" in refusal(folder / "unet")
    assert "it has no model_index.json" in refusal(folder / "nowhere")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda tensors: tensors | {"conv_in.bias": torch.zeros(7)},
            "tensor conv_in.bias is (7,) in the files, (16,) in",
        ),
        (
            lambda tensors: tensors | {"other": torch.zeros(1)},
            "tensor other is (1,) in the files, unknown in a UNet2DModel",
        ),
        (lambda tensors: tensors | {"conv_in.bias": torch.full([16], torch.nan)}, "numbers that are not finite"),
        (lambda tensors: tensors | {"conv_in.bias": torch.ones([16], dtype=torch.int8)}, "is of type torch.int8"),
        (lambda tensors: tensors.pop("conv_in.bias") is None or tensors, "tensor conv_in.bias is missing in the files"),
        (
            lambda tensors: {name: value for name, value in tensors.items() if "conv_in" not in name},
            "tensor conv_in.weight is missing in the files, (16, 3, 3, 3) in a UNet2DModel here, and 1 other like it",
        ),
    ],
)
def test_tensors_that_do_not_fit(copied, change, line):
    folder = copied("ddpm")
    edit_tensors(folder / UNET, change)
    load(str(folder), offline=True)
    assert line in refusal(folder, "unet")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda data: data[: len(data) // 2], "damaged or incomplete safetensors file"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (lambda data: (1 << 40).to_bytes(8, "little") + data[8:], "damaged or incomplete"),
    ],
)
def test_damaged_weights(copied, change, line):
    folder = copied("ddpm")
    replace(folder / UNET, change((folder / UNET).read_bytes()))
    assert line in refusal(folder, "unet")


@pytest.mark.parametrize("place", ["../vae/x.safetensors", "/etc/x.safetensors", "..safetensors", "x.bin", "", 7])
def test_shards_lie_beside_their_index(copied, place):
    folder = copied("ddpm") / "unet"
    in_shards(folder, "diffusion_pytorch_model")
    edit(folder / "diffusion_pytorch_model.safetensors.index.json", weight_map={"conv_in.bias": place})
    assert "diffusion_pytorch_model.safetensors.index.json" in refusal(folder.parent)


def test_a_tensor_in_two_shards(copied):
    folder = copied("ddpm") / "unet"
    in_shards(folder, "diffusion_pytorch_model")
    names = [f"diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    shutil.copy(folder / names[0], folder / names[1])
    assert "is in two files" in refusal(folder.parent, "unet")


@pytest.mark.parametrize(
    ("name", "file", "data"),
    [
        ("sd", "vocab.json", b"[]"),
        ("sd", "vocab.json", b'{"a": "x"}'),
        ("sd", "merges.txt", b"no such words in it"),
        ("sd", "tokenizer_config.json", b'{"eos_token": {"__type": "AddedToken", "content": 7}}'),
        ("if", "tokenizer.json", b"{}"),
        ("if", "tokenizer.json", b'{"model": {"type": "Unigram", "vocab": []}}'),
        ("if", "tokenizer.json", b"<html>"),
        ("if", "special_tokens_map.json", b'{"eos_token": {"content": 7}}'),
    ],
)
def test_vocabularies_that_are_none(copied, name, file, data):
    folder = copied(name)
    replace(folder / "tokenizer" / file, data)
    assert "component tokenizer: " in refusal(folder, "tokenizer")


def test_components_that_are_not_there_or_never_read(copied):
    found = load(str(copied("if")), offline=True)
    for ask in (found.component, found.config, found.sha256):
        for name in ("safety_checker", "vae", "../unet"):
            with pytest.raises(ValueError, match=f"IFPipeline has no component {name}, only tokenizer, text_encoder, "):
                ask(name)


class Runs:
    """What a pickle calls as it is opened."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_nothing_in_a_folder_is_run(copied, tmp_path, monkeypatch):
    folder, marker = copied("sd"), tmp_path / "marker"
    for place in ("", "unet", "text_encoder", "tokenizer"):
        for name in ("my_module", "modeling", "pipeline", "unet", "torch_extra"):
            (folder / place / f"{name}.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    (folder / "text_encoder/adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    (folder / "tokenizer/chat_template.jinja").write_text("{{ 1 / 0 }}")
    edit(
        folder / "text_encoder/config.json", _attn_implementation="someone/kernel", attn_implementation="someone/kernel"
    )
    edit(folder / "tokenizer/tokenizer_config.json", vocab="/etc/passwd", tokenizer_object="x", init_inputs=["x"])
    monkeypatch.chdir(folder)
    found = load(str(folder), offline=True)
    for name in found.classes:
        found.component(name)
    bin = folder / UNET.replace(".safetensors", ".bin")
    for content in ({"conv_in.weight": Runs(marker)}, Runs(marker)):
        (folder / UNET).unlink(missing_ok=True)
        torch.save(content, bin)
        assert "component unet: " in refusal(folder, "unet")
    assert not marker.exists()
    torch.load(bin, weights_only=False)
    assert marker.exists()  # such a file does it


# ----------------------------------------------------------------------------
# The hub.


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The hub in place of which a folder stands, and its cache as the client lays it out. Tells what was asked for."""
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    class Server:
        folder, asked, error = None, [], None
        cache = tmp_path / "cache/models--org--name"

        def snapshot_download(self, repository, *, revision, allow_patterns, local_files_only=False):
            assert repository == "org/name"
            snapshot = self.cache / "snapshots" / ("c" * 40)
            if local_files_only:
                if not snapshot.exists():
                    raise LocalEntryNotFoundError("not\nthere")
                return str(snapshot)
            if self.error is not None:
                raise self.error
            self.asked.append((revision, allow_patterns))
            (self.cache / "blobs").mkdir(parents=True, exist_ok=True)
            for path in self.folder.rglob("*"):
                name = path.relative_to(self.folder).as_posix()
                if path.is_file() and any(fnmatch(name, pattern) for pattern in allow_patterns):
                    self.put(snapshot / name, path.read_bytes())
            return str(snapshot)

        def put(self, place, data):
            blob = self.cache / "blobs" / hashlib.sha256(data).hexdigest()
            blob.write_bytes(data)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.unlink(missing_ok=True)
            place.symlink_to(os.path.relpath(blob, place.parent))

    made = Server()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return made


def test_of_the_hub_what_is_needed_is_fetched_once(copied, server, monkeypatch):
    server.folder = folder = copied("sd")
    for name in ("x.bin", "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors", "own.py"):
        (folder / "unet" / name).write_bytes(b"x")
    (folder / "vae/diffusion_flax_model.msgpack").write_bytes(b"x")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker/model.safetensors").write_bytes(b"x")
    found = load("hf://org/name@main", offline=False)
    there = {path.relative_to(found.folder).as_posix() for path in found.folder.rglob("*") if path.is_file()}
    assert there == {
        "model_index.json", "scheduler/scheduler_config.json", "text_encoder/config.json",
        "text_encoder/model.safetensors", "tokenizer/merges.txt", "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }  # fmt: skip
    assert [revision for revision, _ in server.asked] == ["main", "c" * 40]  # all of one commit
    found.component("unet")
    assert found.sha256() == load(str(folder), offline=True).sha256()

    monkeypatch.setattr(diffusers_files, "sha256_of", None)  # blobs are called by their digest
    server.error = AssertionError("nothing is asked again")
    assert load("hf://org/name@main", offline=False).sha256() == found.sha256()
    assert load("hf://org/name@main", offline=True).sha256() == found.sha256()


def test_of_the_hub_the_next_kind_is_fetched_where_there_is_none_better(copied, server):
    server.folder = folder = copied("dit")
    path = folder / "transformer/diffusion_pytorch_model.safetensors"
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()
    path = folder / "vae/diffusion_pytorch_model.safetensors"
    edit_tensors(path, lambda tensors: tensors, path.with_suffix(".fp16.safetensors"))
    found = load("hf://org/name", offline=False)
    assert [files[1].name for files in (found.files["transformer"], found.files["vae"])] == [
        "diffusion_pytorch_model.bin", "diffusion_pytorch_model.fp16.safetensors"
    ]  # fmt: skip
    assert len(server.asked) == 4
    assert {pattern.split("/")[0] for pattern in server.asked[3][1]} == {"model_index.json", "vae"}


def test_weights_are_not_fetched_for_what_is_not_known(copied, server):
    server.folder = copied("ddpm")
    edit(server.folder / "model_index.json", _class_name="FluxPipeline")
    with pytest.raises(ValueError, match="pipeline FluxPipeline is not known"):
        load("hf://org/name", offline=False)
    assert server.asked == [(None, ["model_index.json"])]


def test_what_the_hub_answers_becomes_one_line(server):
    from huggingface_hub import errors

    def made(kind):  # without the answer of a server that it wants
        return kind.__new__(kind, "x\ny")

    for error, line in (
        (
            made(errors.GatedRepoError),
            "accept its licence: do so on https://huggingface.co/org/name, .* `hf auth login`",
        ),
        (made(errors.RepositoryNotFoundError), "no such repository, or a private one: .* `hf auth login`"),
        (made(errors.RevisionNotFoundError), "no revision v2: see .*/commits"),
        (errors.LocalEntryNotFoundError("no\nnetwork"), r"could not be fetched \(no network\): try again, or give"),
        (RuntimeError(), r"could not be fetched \(RuntimeError\)"),
    ):
        server.error = error
        with pytest.raises(DownloadError, match=f"^hf://org/name@v2.*{line}[^\n]*$"):
            load("hf://org/name@v2", offline=False)


# What the hub's own client does, in a process of its own, since it reads the address as it is imported.
BY_ITS_CLIENT = """
import json, sys
from edm2_guidance.models.diffusers_files import load
for source in sys.argv[1:]:
    try:
        found = load(source, offline=False)
        print(json.dumps([str(found.folder), found.sha256()]))
    except OSError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


@pytest.mark.slow  # ten seconds, for importing diffusers once more
def test_the_hub_by_its_own_client(tiny, tmp_path):
    sources = ["hf://org/name", "hf://org/name", "hf://org/gated", "hf://org/none"]
    with serving(tiny("ddpm")) as (url, asked):
        where = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", BY_ITS_CLIENT, *sources]
        done = subprocess.run(command, env={**os.environ, **where}, capture_output=True, text=True, check=True)
    (folder, digest), again, gated, none = map(json.loads, done.stdout.splitlines())
    assert Path(folder).is_relative_to(tmp_path / "hub")
    assert digest == load(str(tiny("ddpm")), offline=True).sha256()
    assert again == [folder, digest]
    assert asked.count("/api/models/org/name/revision/main") == 1
    assert (gated[0], none[0]) == ("DownloadError", "DownloadError")
    assert "accept its licence" in gated[1]
    assert "no such repository" in none[1]


def test_offline_asks_nobody(server, monkeypatch):
    server.error = AssertionError("asked")
    with pytest.raises(
        FileNotFoundError, match=r"not complete in the hub's cache, and offline .*network_tool\.py fetch hf://"
    ):
        load("hf://org/name", offline=True)
    monkeypatch.setattr(diffusers_hub.need("huggingface_hub.constants", ""), "HF_HUB_OFFLINE", True)
    with pytest.raises(FileNotFoundError, match="offline was asked for"):
        load("hf://org/name", offline=False)


@pytest.mark.parametrize(
    "source", ["hf://", "hf://name", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@../c", "hf:///a/b"]
)
def test_repositories_are_written_in_one_way(source):
    with pytest.raises(ValueError, match="no repository of the hub: write hf://organisation/repository"):
        load(source, offline=True)


def test_each_tiny_pipeline_is_the_same_on_every_call(tmp_path, tiny):
    diffusers_pipelines.tiny_ddpm(tmp_path / "again")
    assert load(str(tmp_path / "again"), offline=True).sha256() == load(str(tiny("ddpm")), offline=True).sha256()
