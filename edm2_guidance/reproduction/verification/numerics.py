"""The machine, what its device computes beside the CPU, and how fast."""

import os
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dnnlib.atomic import atomic_path
from dnnlib.cache import make_cache_dir_path
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.metrics.catalog import find_metric
from edm2_guidance.metrics.environment import environment
from edm2_guidance.models import open_model
from edm2_guidance.papers.costs import VAE_BYTES, facts_of
from edm2_guidance.recipe.recipe import Recipe
from edm2_guidance.reproduction.verification.check import PRESETS, Finding, Place, preset_for, skip_if_slow
from edm2_guidance.reproduction.verification.files import FLOAT32, relative
from edm2_guidance.sampling.generation import Generation, checked, sample
from edm2_guidance.sampling.latents import Latents
from edm2_guidance.sampling.opening import open_recipe
from torch_utils.distributed import pick_device
from torch_utils.memory import is_out_of_memory

SIGMAS = (80.0, 5.0, 1.0, 0.2, 0.01)
IMAGES = 2  # that the CPU computes, too
#: How far F may be from the CPU's in half precision, TF32's among them: an error is of the size of F, rounding is not.
HALF = 0.05
ALIKE = 0.9  # correlation of two images of one seed, those of two seeds have about none
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "DNNLIB_CACHE_DIR", "HF_HUB_OFFLINE", "OMP_NUM_THREADS")
SHORT = 4  # steps in which speed is measured
LARGEST, SECONDS = 512, 10.0  # batches are doubled up to so many images, or until one takes so long


def machine(place: Place) -> Finding:
    """Versions, hardware, memory and room on the disk."""
    device = pick_device(place.device)
    around = environment(device, vae=True)
    found = Finding()
    for kind in around.values():
        for name, value in kind.items():
            found.row(name, value)
    found.row("platform", platform.platform())
    found.row("CPU cores", os.cpu_count())
    found.row("memory", _gib(_memory(), 1))
    if device.type == "cuda":
        found.row("driver", _driver())
        theirs = torch.cuda.get_device_properties(device)
        found.row("device memory", _gib(theirs.total_memory, 1))
        found.row("compute capability", f"{theirs.major}.{theirs.minor}")
        found.row("GPUs", torch.cuda.device_count())
    cache = next(each for each in _above(make_cache_dir_path()) if os.path.exists(each))
    free, needed = shutil.disk_usage(cache).free, download_bytes()
    found.row("room for downloads", f"{free / 1e9:.1f} GB", f"{needed / 1e9:.1f} GB for all of them", fine=True)
    for name in sorted(name for name in os.environ if name.startswith("EDM2_") or name in _VARIABLES):
        found.row(name, os.environ[name])
    software, name = around["software"], str(around["hardware"]["device"])
    found.summary = f"{name}, torch {software['torch']}"
    found.values = {"key": [str(software[key]) for key in ("edm2-guidance", "commit", "torch")] + [name]}
    return found


def _driver() -> str:
    """Version of NVIDIA's, as its own tool says it; why not, if it does not."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        return "; ".join(done.stdout.splitlines()) or f"exit code {done.returncode}"
    except (OSError, subprocess.SubprocessError) as error:
        return f"nvidia-smi: {error}"


def _above(path: str) -> Iterator[str]:
    while True:
        yield path
        path = os.path.dirname(path) or os.curdir


def _memory() -> int:
    """Of the machine, in bytes; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def _gib(size: int, decimals: int) -> str:
    return f"{size / 2**30:.{decimals}f} GiB" if size > 0 else "not told"


def download_bytes() -> int:
    """Of everything that the checks fetch, about."""
    networks = {source for metric in PRESETS for source in preset_for(metric).sources}
    weights = (find_metric(metric).extractor.weights.num_bytes for metric in PRESETS)
    return VAE_BYTES + sum(facts_of(source.rpartition("/")[2]).bytes for source in networks) + sum(weights)


# ----------------------------------------------------------------------------
# Numbers.


@dataclass(frozen=True)
class Form:
    """How a network may be computed. float16: activations, where the device has them. tf32: products in 19 bits.

    allowed: deviation of F from the CPU's float32.
    """

    name: str
    float16: bool
    tf32: bool
    allowed: float


def forms(device: torch.device) -> list[Form]:
    """Those of a device; none for the CPU, which is what they are compared with."""
    full = Form("float32", False, False, FLOAT32)
    if device.type == "cuda":
        return [full, Form("float32 with TF32", False, True, HALF), Form("float16", True, False, HALF)]
    return [] if device.type == "cpu" else [full]


def precision(place: Place) -> Finding:
    """F of D = c_skip x + c_out F, of two images at each of five noise levels, beside float32 on the CPU."""
    device, source = pick_device(place.device), preset_for("fid").net
    main: Any = open_model(source, offline=True)
    began = time.perf_counter()
    wanted = {sigma: _network_output(main, sigma, Form("the CPU", False, False, 0.0)) for sigma in SIGMAS}
    pace = (time.perf_counter() - began) / (IMAGES * len(SIGMAS))
    found = Finding(f"{pace:.2g} s for one evaluation of the CPU", values={"cpu_seconds": pace})
    found.table = [("form", *(f"sigma {sigma:g}" for sigma in SIGMAS), "allowed")]
    if not all(bool(each.isfinite().all()) for each in wanted.values()):
        found.problems.append("float32 on the CPU: not finite")
    there: Any = open_model(source, device, offline=True) if forms(device) else main
    for form in forms(device):
        apart = [relative(_network_output(there, sigma, form).cpu(), wanted[sigma]) for sigma in SIGMAS]
        found.table.append((form.name, *(f"{each:.1e}" for each in apart), f"{form.allowed:g}"))
        if not all(each <= form.allowed for each in apart):  # as NaN is not
            worst = max(apart, key=lambda each: (each != each, each))
            found.problems.append(f"{form.name}: {worst:.1e} from the CPU's float32, {form.allowed:g} are allowed")
    there_are = ", ".join(form.name for form in forms(device)) or "nothing to compare with the CPU"
    found.summary += f"; {device}: {there_are}"
    return found


def _network_output(model: Any, sigma: float, form: Form) -> Tensor:
    """F, float32 [N, C, H, W], of noise of the standard deviation that noisy data have at this level."""
    net, device, generator = model.net, model.device, torch.Generator().manual_seed(0)
    level = (sigma**2 + net.sigma_data**2) ** 0.5
    x = (level * torch.randn(IMAGES, *model.shape, generator=generator)).to(device)
    labels = model.conditions(range(IMAGES) if model.num_classes else None, device)
    with torch.no_grad(), _tf32(form.tf32):
        denoised = net(x, torch.tensor(sigma, device=device), labels, force_fp32=not form.float16)
    output: Tensor = (denoised - net.sigma_data**2 / level**2 * x) * level / (sigma * net.sigma_data)
    return output


@contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    """Inside, convolutions and products of matrices with or without TF32."""
    cudnn, before = torch.backends.cudnn, torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=allowed):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def images(place: Place) -> Finding:
    """Whole images by the CPU and by the device as it is used, from the same noise; all of them in a picture."""
    recipe, device = replace(preset_for("fid").recipe(), noise_device="cpu"), pick_device(place.device)
    skip_if_slow(place, IMAGES, preset_for("fid").num_steps)
    latents, pictures = _sampled(recipe, "cpu", place)
    batches, found = [pictures], Finding("made on the CPU alone")
    found.row("finite", bool(latents.isfinite().all()), True)
    if device.type != "cpu":
        others, theirs = _sampled(recipe, str(device), place)
        batches.append(theirs)
        found.row("samples: from the CPU's, relative", f"{relative(others, latents):.1e}")
        for seed, (one, other) in enumerate(zip(pictures.images, theirs.images, strict=True)):
            alike = float(torch.corrcoef(torch.stack([one.flatten().float(), other.flatten().float()]))[0, 1])
            found.row(f"seed {seed}: correlation", f"{alike:.4f}", f"{ALIKE:g} or more", fine=alike >= ALIKE)
            levels = (one.int() - other.int()).abs()
            found.row(f"seed {seed}: levels of 255 apart", f"mean {levels.float().mean():.2f}, most {levels.max()}")
        found.summary = f"{IMAGES} images of {device} beside the CPU's"
    with atomic_path(place.folder / "images.png") as path:
        ImageBatch.joined(batches).grid(columns=IMAGES).save(path)
    found.row("to look at: the CPU's above", place.folder.name + "/images.png")
    return found


def _sampled(recipe: Recipe, device: str, place: Place) -> tuple[Tensor, ImageBatch]:
    """Samples on the CPU, and what they decode to."""
    generation = open_recipe(recipe, device, offline=True)
    latents = checked(Latents(sample(generation, range(IMAGES))[0], tuple(range(IMAGES)))).values
    decoded, _ = generation.decode(latents)
    return latents.cpu(), ImageBatch(decoded)


# ----------------------------------------------------------------------------
# Speed.


def speed(place: Place) -> Finding:
    """Images per second and memory, by batch, doubled until memory or patience ends. As it is used: float16 on CUDA."""
    preset = preset_for("fid")
    whole = open_recipe(preset.recipe(), place.device, offline=True)
    if whole.device.type == "cpu":
        skip_if_slow(place, 2, SHORT)
    short = replace(whole, recipe=replace(whole.recipe, num_steps=SHORT))
    longer = sum(whole.evaluations_per_image().values()) / sum(short.evaluations_per_image().values())
    found = Finding(table=[("batch", "sampling, images/s", "decoding, images/s", "both", "memory")])
    end, best, size = time.monotonic() + place.seconds / 2, 0.0, 1
    sample(short, [0])  # the first takes longer: networks are prepared, kernels are chosen
    while size <= LARGEST:
        try:
            sampling, decoding, memory = _measured(short, size)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            found.table.append((str(size), "does not fit", "", "", ""))
            break
        pace = size / (sampling * longer + decoding)
        found.table.append((str(size), f"{size / sampling / longer:.3g}", f"{size / decoding:.3g}", f"{pace:.3g}",
                            _gib(memory, 2)))  # fmt: skip
        if pace > best:
            best, found.values = pace, {"images_per_second": pace, "batch": size}
        if sampling + decoding > SECONDS or time.monotonic() > end:
            break
        size *= 2
    found.summary = (
        f"{best:.3g} images/s at a batch of {found.values['batch']} (from {SHORT} of {preset.num_steps} steps)"
    )
    return found


def _measured(generation: Generation, size: int) -> tuple[float, float, int]:
    """Seconds of sampling and of decoding one batch, and bytes of memory at most."""
    device = generation.device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        sample(generation, range(size))  # records its graph
    began = time.perf_counter()
    latents = checked(Latents(sample(generation, range(size))[0], tuple(range(size))))  # waits for the device
    between = time.perf_counter()
    generation.decode(latents.values)
    ended = time.perf_counter()
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_memory()
    return between - began, ended - between, memory


def _process_memory() -> int:
    """The most that this process ever had, in bytes; 0 where the system does not say."""
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if platform.system() == "Darwin" else most * 1024
