"""Every kind of file that the project reads from outside: small originals, and the public reader of each."""

import hashlib
import importlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from dnnlib import download
from dnnlib.partial import PartialFile
from edm2_guidance.cli.config import with_config
from edm2_guidance.images.batch import ImageBatch, drain
from edm2_guidance.images.diagnostics import Diagnostics
from edm2_guidance.images.sources import StoredImages
from edm2_guidance.images.zips import read_recipe
from edm2_guidance.metrics import ledger
from edm2_guidance.metrics.detectors import Detector
from edm2_guidance.metrics.ledger_table import format_table, rows_of
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.provenance import describe_stored
from edm2_guidance.metrics.reference import holds_statistics, open_statistics, save_statistics
from edm2_guidance.metrics.score_output import feature_shards
from edm2_guidance.recipe.files import ImageSet, NetworkRef
from edm2_guidance.recipe.guide import Guide
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.work.again import read_made
from edm2_guidance.work.again import read_recipe as read_recipe_again
from edm2_guidance.work.complete import Run, complete
from edm2_guidance.work.diagnostics import stored_diagnostics, write_file
from edm2_guidance.work.plan import ShardPlan
from edm2_guidance.work.shards import ShardFolder
from edm2_guidance.work.zip_output import ZipOutput
from tests.fuzz.mutations import Member, build_zip
from tests.pictures import encoded, picture
from tests.works import MomentsOutput, Stated
from torch_utils.tensor_file import read_tensors
from training.dataset import ImageFolderDataset
from training.encoders import StabilityVAEEncoder, StandardRGBEncoder
from training.network_inspect import inspect_network, report_lines
from training.network_io import load_network, save_network, save_safetensors
from training.networks_edm2 import Precond


@dataclass(frozen=True)
class Format:
    """What is mutated, and who reads it.

    file: path of the mutant below the sandbox folder; others: files beside it. kind: of `mutations.STRUCTURED`.
    read: given the folder; returns something comparable. sealed: all that counts is under checksums, so a mutant whose
    checksums were not set right is refused or gives what an original gives. writes: reading may write into the folder.
    """

    file: str
    kind: str
    originals: Sequence[bytes]
    read: Callable[[Path], object]
    others: Mapping[str, bytes] = field(default_factory=dict)
    sealed: bool = False
    writes: bool = False


def all_formats(folder: Path) -> dict[str, Format]:
    """By name. folder: an empty place to make the originals in."""
    return {
        "network pickle": Format("net.pkl", "pickle", _network_pickles(folder), _load),
        "network pickle, inspected": Format("net.pkl", "pickle", _network_pickles(folder), _inspect),
        "network safetensors": Format(
            "net.safetensors", "safetensors", _network_safetensors(folder), _inspect_and_load
        ),
        "statistics pickle": Format("refs.pkl", "pickle", _statistics_pickles(folder), _read_statistics),
        "statistics npz": Format("refs.npz", "zip", _statistics_npz(folder), _read_statistics),
        "tensor file": Format("x.pt", "zip", _tensor_files(), _read_tensor_file, sealed=True),
        "image zip": Format("set.zip", "zip", _image_zips(), _read_images("set.zip"), sealed=True),
        "image tar": Format("set.tar", "tar", _image_tars(), _read_images("set.tar")),
        "image npz": Format("set.npz", "zip", _image_npz(), _read_images("set.npz"), sealed=True),
        "png": Format("set/000000.png", "png", _pngs(), _read_images("set"), _beside("PNG"), sealed=True),
        "jpeg, webp, bmp": Format("set/000000.jpg", "", _others(), _read_images("set"), _beside("PNG")),
        "dataset.json": Format(
            "set/dataset.json", "json", [_labels()], _read_images("set"), _beside("PNG", first=True)
        ),
        "recipe.json": Format("set/recipe.json", "json", [_recipe()], _read_images("set"), _beside("PNG", first=True)),
        "recipe made again": Format("a.json", "json", [_to_make_again()], _make_again),
        "options": Format("a.toml", "", [_OPTIONS], _read_options),
        "latents zip": Format("latents.zip", "zip", _latents_zips(), _read_latents, sealed=True),
        "diagnostics": Format("a.npz", "zip", _diagnostics(folder), _read_diagnostics, sealed=True),
        "ledger": Format("scores.jsonl", "jsonl", [_ledger()], _read_ledger),
        "image shard": _image_shard(folder, "shard-00000.zip", "zip"),
        "image shard plan": _image_shard(folder, "plan.json", "json"),
        "feature shard": _feature_shard(folder, "shard-00000.npz", "zip"),
        "download record": _download_record(),
        "partial download": _partial_download(),
    }


def _temporary(folder: Path, name: str, write: Callable[[Path], object]) -> bytes:
    write(folder / name)
    return (folder / name).read_bytes()


# ----------------------------------------------------------------------------
# Networks.


def _network(channels: int = 3) -> Precond:
    torch.manual_seed(0)
    small = {"model_channels": 4, "channel_mult": [1], "num_blocks": 0, "channels_per_head": 4, "logvar_channels": 4}
    return Precond(4, channels, 2, **small)


def _network_pickles(folder: Path) -> list[bytes]:
    variants = [
        lambda path: save_network(
            path, _network(), encoder=StandardRGBEncoder(), dataset_kwargs={"path": "x", "use_labels": True}
        ),
        lambda path: save_network(path, _network(4), encoder=StabilityVAEEncoder()),
    ]
    return [_temporary(folder, "net.pkl", write) for write in variants]


def _network_safetensors(folder: Path) -> list[bytes]:
    variants = [
        lambda path: save_safetensors(path, _network(), dataset_kwargs={"path": "x"}, source_sha256="ab" * 32),
        lambda path: save_safetensors(path, _network(4), encoder=StabilityVAEEncoder()),
    ]
    return [_temporary(folder, "net.safetensors", write) for write in variants]


def _load(folder: Path) -> None:
    load_network(next(folder.glob("net.*")))


def _inspect(folder: Path) -> None:
    """What is shown is read by people and by programs: no control characters, and JSON as it should be."""
    report = inspect_network(next(folder.glob("net.*")))
    assert all(line.isprintable() for line in report_lines(report)), "control characters in what inspect shows"
    json.dumps(report, allow_nan=False)


def _inspect_and_load(folder: Path) -> None:
    _inspect(folder)
    _load(folder)


# ----------------------------------------------------------------------------
# Statistics.


def _moments(dim: int) -> Moments:
    return Moments(np.arange(dim, dtype=np.float64), np.eye(dim), 30)


def _arrays(dim: int, dtype: Any = np.float64) -> dict[str, np.ndarray]:
    return {"mu": np.arange(dim, dtype=dtype), "sigma": np.eye(dim, dtype=dtype)}


def _statistics_pickles(folder: Path) -> list[bytes]:
    own = _temporary(
        folder, "refs.pkl", lambda path: save_statistics(path, {"fid": _moments(3), "fd_dinov2": _moments(2)})
    )
    content = {"fid": _arrays(3), "fd_dinov2": _arrays(2, np.float32), "num_images": 50000}
    scalar = {**content, "num_images": np.int64(50000)}
    return [own, *(pickle.dumps(content, protocol) for protocol in (2, 3, 4, 5)), pickle.dumps(scalar, 4)]


def _npz(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def _statistics_npz(folder: Path) -> list[bytes]:
    def write(path: Path) -> None:
        save_statistics(
            path,
            {"fid": _moments(3), "fd_mnist": _moments(2)},
            detectors={"fid": {"weights_sha256": "ab"}},
            images={"size": [16, 16]},
        )

    adm = {"mu_s": np.zeros(3), "sigma_s": np.eye(3), "arr_0": np.zeros((2, 4, 4, 3), np.uint8)}
    return [
        _temporary(folder, "refs.npz", write),
        _npz(np.savez, **_arrays(3)),
        _npz(np.savez_compressed, **_arrays(3, np.float32), **adm),
        _npz(np.savez, mu=np.arange(3.0), sigma=np.asfortranarray(np.eye(3))),
    ]


def _read_statistics(folder: Path) -> None:
    path = next(folder.glob("refs.*"))
    if holds_statistics(path):
        open_statistics(path)


# ----------------------------------------------------------------------------
# Files of torch.save.


def _tensor_files() -> list[bytes]:
    tensor = torch.arange(12.0).reshape(3, 4)
    state = {
        "weights": OrderedDict(a=tensor, b=torch.nn.Parameter(tensor.t()), c=tensor[0].expand(2, 4).bfloat16()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "lr": 0.1}}, "betas": (0.9, 0.99), "fused": None},
        "types": [tensor.bool(), tensor.to(torch.uint16), tensor.to(torch.complex64), torch.empty(0, 3)],
    }
    files = []
    for content in (state, tensor):
        buffer = io.BytesIO()
        torch.save(content, buffer)
        files.append(buffer.getvalue())
    return files


def _read_tensor_file(folder: Path) -> str:
    return _described(read_tensors(folder / "x.pt"))


def _described(value: object) -> str:
    """Everything about what was read, copies of the tensors included, as programs make them."""
    if isinstance(value, torch.Tensor):
        data = value.detach().contiguous().reshape(-1).view(torch.uint8) if value.numel() > 0 else value
        return f"{value.dtype} {list(value.shape)} {hashlib.sha256(data.numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return "{" + " ".join(f"{key!r} {_described(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({' '.join(map(_described, value))})"
    return repr(value)


# ----------------------------------------------------------------------------
# Images.


def _encoded(number: int, kind: str, **options: Any) -> bytes:
    return encoded(picture(number), kind, **options)


def _labels() -> bytes:
    return json.dumps({"labels": [[f"{i:06d}.png", i % 2] for i in range(3)]}).encode()


def _recipe() -> bytes:
    recipe = {
        "net": {"source": "main", "sha256": "ab"},
        "guides": [{"weight": 1.5, "steps": [3, 9]}],
        "encoder": {"class": "X"},
    }
    return json.dumps(
        {"format": 1, "recipe": recipe, "recipe_hash": "c0", "seeds": "0-2", "batches": [[2, 1], [1, 1]]}
    ).encode()


def _to_make_again() -> bytes:
    net, guide = NetworkRef("a.pkl", "ab", "nets/a.pkl"), NetworkRef("https://host/b.pkl", "cd", "https://host/b.pkl")
    recipe = Recipe(net, Guide(guide, "cosine:w=2", StepInterval(3, 9)), 16, base=ImageSet("set.zip", "ef", "set.zip"))
    return json.dumps({"recipe": recipe.to_json(), "seeds": "0-2,7", "batches": [[2, 2]], "run": {"batch": 2}}).encode()


def _make_again(folder: Path) -> str:
    made = read_made(folder / "a.json")
    nets = [made.recipe.net, *(guide.net for guide in made.recipe.guides if guide.net is not None)]
    for net in nets:
        with suppress(ValueError):  # it is not there
            made.file(net, "--net")
    return str(made.changes(made.recipe, (1,))) + repr(read_recipe_again(folder / "a.json"))


_OPTIONS = b"""
[generate_zip]
seeds = [1, 2]  # a comment
steal = true
"guidance" = 1.5
[calculate_metrics.gen]
metrics = "fid"
"""


def _read_options(folder: Path) -> list[str]:
    command = importlib.import_module("edm2_guidance.commands.generate_zip").main
    return with_config(click.Context(command), [f"--config={folder / 'a.toml'}"])[:-1]


def _beside(kind: str, *, first: bool = False) -> dict[str, bytes]:
    """The other two images of the folder, or all three."""
    return {f"set/{i:06d}.png": _encoded(i, kind) for i in range(0 if first else 1, 3)}


def _pngs() -> list[bytes]:
    return [_encoded(0, "PNG"), _encoded(0, "PNG", compress_level=0), _encoded(0, "PNG", optimize=True)]


def _others() -> list[bytes]:
    return [_encoded(0, "JPEG"), _encoded(0, "WEBP", lossless=True), _encoded(0, "WEBP"), _encoded(0, "BMP"),
            _encoded(0, "JPEG", progressive=True)]  # fmt: skip


def _image_zips() -> list[bytes]:
    members = [Member(f"{i:06d}.png", _encoded(i, "PNG")) for i in range(3)]
    sidecars = [Member("dataset.json", _labels()), Member("recipe.json", _recipe())]
    return [build_zip([*members, *sidecars]), build_zip([*members, *sidecars], 8), build_zip(members)]


def _image_tars() -> list[bytes]:
    """With labels in one file or beside the images, and with extended headers of both kinds for a long name."""
    long, beside = "set/" * 30 + "x.png", "set/" * 30 + "x."
    two = {"0.png": _encoded(0, "PNG"), long: _encoded(1, "PNG")}
    sets = [
        {"dataset.json": _labels(), "recipe.json": _recipe(), **{f"{i:06d}.png": _encoded(i, "PNG") for i in range(3)}},
        {**two, "0.cls": b"1", beside + "cls": b"0"},
        {**two, "0.json": b'{"cls": 1}', beside + "json": b'{"cls": 0}'},
    ]
    files = []
    for members, kind in zip(sets, (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT), strict=True):
        with tarfile.open(fileobj=(buffer := io.BytesIO()), mode="w", format=kind) as file:
            for name, data in members.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
        files.append(buffer.getvalue())
    return files


def _image_npz() -> list[bytes]:
    images = np.stack([np.asarray(picture(i)) for i in range(3)])
    labels = np.array([0, 1, 0])
    return [_npz(save, arr_0=images, arr_1=labels) for save in (np.savez, np.savez_compressed)] + [
        _npz(np.savez, arr_0=images)
    ]


def _read_images(name: str) -> Callable[[Path], object]:
    def read(folder: Path) -> list[object]:
        path = folder / name
        source = StoredImages(path, batch=2)
        if path.suffix == ".zip":
            read_recipe(path)
        describe_stored(path, source, source.num_images, 0)
        batches = list(source)
        return [[hashlib.sha256(b.images.numpy().tobytes()).hexdigest(), b.seeds, b.labels] for b in batches]

    return read


def _latents_zips() -> list[bytes]:
    def npy(number: int) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.full((4, 2, 2), number, np.float32))
        return buffer.getvalue()

    members = [Member(f"{i:06d}.npy", npy(i)) for i in range(3)]
    labels = Member("dataset.json", _labels().replace(b".png", b".npy"))
    return [build_zip([*members, labels], compression) for compression in (0, 8)]


def _read_latents(folder: Path) -> object:
    data = ImageFolderDataset(folder / "latents.zip")
    everything = range(len(data))
    return data.items(everything).tolist(), np.asarray(data.labels(everything)).tolist()


# ----------------------------------------------------------------------------
# Ledger.


def _ledger() -> bytes:
    record = {
        "schema": 1, "metric": "fid", "name": "fid", "value": 1.5, "labels": "random",
        "time": "2026-01-01T00:00:00+00:00",
        "images": {"path": "out.zip", "num_images": 3}, "reference": {"source": "refs.npz", "sha256": "ab"},
        "note": None,
        "detector": {"weights_sha256": "cd", "resize": "torch"}, "flags": ["few images"],
        "recipe": {"net": {"source": "main.pkl"}, "guides": [{"net": {"source": "g.pkl"}, "weight": 1.5, "steps": [3,
        9]}]},
    }  # fmt: skip
    other = {**record, "recipe": None, "search": {"name": "s", "point": {"weight": 1.5}}, "flags": []}
    return b"".join(json.dumps(each).encode() + b"\n" for each in (record, other))


def _read_ledger(folder: Path) -> None:
    format_table(rows_of(ledger.read(folder / "scores.jsonl")))


# ----------------------------------------------------------------------------
# Shards: the reader is the command itself, which goes on with what is there.


class _Generated:
    """A source whose images depend on the seed alone."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.seeds, self.num_images = tuple(seeds), len(seeds)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[ImageBatch]:
        images = torch.stack([torch.from_numpy(np.array(picture(seed, 4))).permute(2, 0, 1) for seed in self.seeds])
        yield ImageBatch(images, self.seeds, tuple(seed % 2 for seed in self.seeds))


PLAN = ShardPlan((0, 1, 2), 2)


def _sandboxed(folder: Path, make: Callable[[Path], object]) -> dict[str, bytes]:
    """The files that `make` leaves in an empty folder, by relative names."""
    folder = folder / "sandboxed"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    make(folder)
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _image_folder(folder: Path) -> ZipOutput:
    return ZipOutput(folder / "out.zip", PLAN, Stated("c0", json.loads(_recipe())["recipe"]), Run(2))


def _image_shard(folder: Path, file: str, kind: str) -> Format:
    def make(place: Path) -> None:
        output = _image_folder(place)
        output.work.open()
        drain(_Generated(PLAN.shard(0)), output.work.sink(0))
        output.work.close()  # or the claims would be touched, now and then, during other work

    def read(place: Path) -> bytes:
        output = _image_folder(place)
        complete(output, _Generated)
        return (place / "out.zip").read_bytes()

    files = _sandboxed(folder, make)
    path = f"out.zip.shards/{file}"
    return Format(path, kind, [files.pop(path)], read, files, sealed=kind == "zip", writes=True)


def _diagnostics(folder: Path) -> list[bytes]:
    tables = {"difference": np.zeros((2, 3, 1), np.float32), "weight": np.ones((2, 3, 1), np.float32)}
    counts, sigma = np.ones((2, 3, 2), np.uint8), np.arange(3, dtype=np.float32)
    made = Diagnostics(np.arange(2), None, sigma, **tables, evaluations=counts, guides=("a",), networks=("main", "a"))
    return [_temporary(folder, "a.npz", lambda path: write_file(path, made, "c0"))]


def _read_diagnostics(folder: Path) -> object:
    found = stored_diagnostics(folder / "a.npz")
    return found.texts(), {name: array.tolist() for name, array in found.arrays().items()}


class _Mean(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.float().mean(dim=(2, 3))


def _features(folder: Path) -> ShardFolder:
    detector = Detector("fid", {"fid": 3}, {"metric": "fid", "weights_sha256": "ab"}, _Mean(), torch.device("cpu"))
    return feature_shards(folder / "work", PLAN, Stated("c0", {"net": "main"}), Run(2), (detector,))


def _feature_shard(folder: Path, file: str, kind: str) -> Format:
    def make(place: Path) -> None:
        shards = _features(place)
        shards.open()
        drain(_Generated(PLAN.shard(0)), shards.sink(0))
        shards.close()  # or the claims would be touched, now and then, during other work

    def read(place: Path) -> object:
        shards = _features(place)
        moments = complete(MomentsOutput(shards, shards.contents[0].detectors), _Generated).moments["fid"]
        return moments.mean.tolist(), moments.cov.tolist(), moments.num_images

    files = _sandboxed(folder, make)
    path = f"work/{file}"
    return Format(path, kind, [files.pop(path)], read, files, sealed=True, writes=True)


# ----------------------------------------------------------------------------
# What downloads keep beside their files.

URL = "http://127.0.0.1:9/net.bin"  # nobody listens


def _cached(place: Path, name: str) -> str:
    os.environ["DNNLIB_CACHE_DIR"] = str(place)
    target = download.cache_path(URL)
    return str(target.with_name(name.format(target.name)).relative_to(place))


def _download_record() -> Format:
    content = b"content"
    record = {"url": URL, "sha256": hashlib.sha256(content).hexdigest(), "size": 7, "mtime_ns": 1, "ctime_ns": 1,
    "origin": URL,
              "recorded": "2026-01-01T00:00:00+00:00"}  # fmt: skip

    def read(place: Path) -> bytes:
        download.recorded_sha256(URL)
        return download.fetch(URL, offline=True, progress=False).read_bytes()

    place = Path("/sandbox")
    files = {_cached(place, "{}"): content}
    return Format(_cached(place, ".{}.json"), "json", [json.dumps(record).encode()], read, files, writes=True)


def _partial_download() -> Format:
    version = {"url": URL, "etag": '"v1"', "last_modified": "Sun, 06 Nov 1994 08:49:37 GMT", "total": 100}

    def read(place: Path) -> object:
        found = PartialFile(place / "x.part").resumable(URL, hash_known=False)
        assert found is None or found.url == URL
        return found is None or found.validator

    return Format("x.part.json", "json", [json.dumps(version).encode()], read, {"x.part": b"abc"}, writes=True)
