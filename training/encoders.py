"""Between pixels and what a network denoises: plain RGB, or the latents of the Stability VAE.

Four kinds of data, in this order:

    raw pixels     uint8 [N, 3, H, W], 0..255: images as files hold them
    raw latents    what a data set on disk holds: the pixels themselves (RGB), or the mean and standard
                   deviation of the VAE's posterior, float32 [N, 8, H/8, W/8]
    final latents  what the network sees, float32 [N, C, h, w], of standard deviation near 0.5
    and back       `decode`: final latents to raw pixels

The conversions are those that EDM2's networks and published scores come from. Note their rounding: decoding
cuts the fraction off, and the VAE's images lie in [0, 1], not [-1, 1]; anything else moves every pixel and
with it the FID.

This module's text travels inside network pickles, to be run where only torch, numpy and the EDM2 code base
are installed. So it imports nothing else of this project at the top, and `diffusers` where it is needed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from torch_utils import persistence

VAE_VARIABLE = "EDM2_VAE"  # environment: a folder with the VAE, in place of what the network names
VAE_FILES = ("config.json", "diffusion_pytorch_model.safetensors")  # what such a folder holds


@persistence.persistent_class
class Encoder:
    """What the encoders have in common. `init` may be left out: the other methods call it when needed."""

    def init(self, device: torch.device | str, *, offline: bool = False) -> None:
        """Load what the encoder needs onto `device`; with `offline`, without asking any server."""

    def identity(self) -> dict[str, Any]:
        """What the decoded pixels depend on, as plain JSON data that is the same on every machine."""
        return {"class": type(self).__name__}

    def encode_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """Raw pixels, uint8 [N, 3, H, W], to raw latents."""
        raise NotImplementedError

    def encode_latents(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Raw latents to final latents, float32. Noise, if any, comes from `generator`."""
        raise NotImplementedError

    def encode(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Raw pixels, uint8 [N, 3, H, W], to final latents, float32 [N, C, h, w]."""
        return self.encode_latents(self.encode_pixels(x), generator)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Final latents, floating point [N, C, h, w], to raw pixels, uint8 [N, 3, H, W]."""
        raise NotImplementedError


@persistence.persistent_class
class StandardRGBEncoder(Encoder):
    """Pixels as they are, shifted and scaled to [-1, 1].

    encode: x / 127.5 - 1.  decode: x * 127.5 + 128, clipped to [0, 255], fraction cut off; so level k comes
    from [(k - 128) / 127.5, (k - 127) / 127.5), and decode(encode(k)) = k.
    """

    def encode_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """The pixels themselves. Raises ValueError unless uint8 [N, 3, H, W]."""
        return _checked_pixels(x)

    def encode_latents(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """uint8 [N, 3, H, W] to float32 in [-1, 1]. Nothing is random here; `generator` is not used."""
        return _checked_pixels(x).to(torch.float32) / 127.5 - 1

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Floating point [N, 3, H, W] to uint8. Infinities clip; NaN is a ValueError, as it has no level."""
        x = _checked_float(x, 3, "final latents").to(torch.float32)
        return _without_nan(x * 127.5 + 128).clip(0, 255).to(torch.uint8)


@persistence.persistent_class
class StabilityVAEEncoder(Encoder):
    """Latents of the VAE of Stable Diffusion, per channel brought to mean `final_mean`, std `final_std`.

    vae_name: folder of a diffusers `AutoencoderKL`, or its name on the Hugging Face hub.
    raw_mean, raw_std: statistics of the VAE's latents over ImageNet, one number per channel.
    final_mean, final_std: what they become, one number each or one per channel.
    batch_size: images per run of the VAE. Affects memory only.

    final = sample * scale + bias, where sample ~ N(mean, std^2) of the posterior, scale = final_std / raw_std
    and bias = final_mean - raw_mean * scale. The VAE itself never goes into a pickle; it is loaded by `init`.
    """

    vae_name: str
    scale: np.ndarray  # float32 [C]
    bias: np.ndarray  # float32 [C]
    batch_size: int
    _vae: Any
    _vae_sha256: dict[str, str] | None = None  # by file name, of the files that `init` loaded; never in a pickle

    def __init__(
        self,
        vae_name: str = "stabilityai/sd-vae-ft-mse",
        raw_mean: Any = (5.81, 3.25, 0.12, -2.15),
        raw_std: Any = (4.17, 4.62, 3.71, 3.28),
        final_mean: Any = 0,
        final_std: Any = 0.5,
        batch_size: int = 8,
    ) -> None:
        super().__init__()
        mean, std = np.float32(raw_mean), np.float32(raw_std)
        if mean.ndim != 1 or std.shape != mean.shape or not (std > 0).all() or not np.isfinite(mean).all():
            raise ValueError(
                f"raw_mean and raw_std are a number per latent channel, std positive; got {raw_mean}, {raw_std}"
            )
        if int(batch_size) < 1:
            raise ValueError(f"batch_size is at least 1 image, got {batch_size}")
        # In float32 throughout, as in the files whose attributes these must equal.
        self.vae_name = vae_name
        self.scale = np.broadcast_to(np.float32(final_std) / std, mean.shape).copy()
        self.bias = np.broadcast_to(np.float32(final_mean) - mean * self.scale, mean.shape).copy()
        self.batch_size = int(batch_size)
        self._vae = None

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "_vae": None}  # 335 MB that every reader can get elsewhere
        state.pop("_vae_sha256", None)  # of this process's copy; and readers expect no other attributes
        return state

    def init(self, device: torch.device | str, *, offline: bool = False) -> None:
        """Load the VAE, once, and move it to `device`.

        Looked for in this order: the folder `$EDM2_VAE`; `vae_name`, if that is a folder; the cache of the
        Hugging Face hub; the place where EDM2's own scripts keep it; the hub itself, unless `offline` or the
        hub's own HF_HUB_OFFLINE=1.

        Raises RuntimeError if diffusers is not installed, FileNotFoundError if the VAE is in none of these
        places (or no network is allowed or there), OSError if it is there but broken, ValueError if it has
        another number of latent channels than this encoder.
        """
        if self._vae is None:
            model_class = _autoencoder_class()
            folder = _local_folder(self.vae_name)
            if folder is None:
                folder = _hub_folder(self.vae_name, offline)
            self._vae = _load_vae(model_class, folder, len(self.scale))
            self._vae_sha256 = {name: _sha256_of(os.path.join(folder, name)) for name in VAE_FILES}
        self._vae.to(device)

    def identity(self) -> dict[str, Any]:
        """Name and content of the VAE, and the standardisation. Raises RuntimeError before `init`.

        The content is that of the files that were loaded, wherever they came from; of a folder's name, which is
        this machine's affair, the last part.
        """
        if self._vae_sha256 is None:
            raise RuntimeError("which VAE this is shows when it is loaded: call init first")
        return {
            **super().identity(),
            "vae_name": _public_name(self.vae_name),
            "vae_sha256": dict(self._vae_sha256),
            "scale": [float(value) for value in self.scale],
            "bias": [float(value) for value in self.bias],
        }

    def encode_pixels(self, x: torch.Tensor) -> torch.Tensor:
        """uint8 [N, 3, H, W] to float32 [N, 2 C, H/8, W/8]: posterior means, then standard deviations."""
        x = _checked_pixels(x)
        self.init(x.device)
        return self._in_batches(self._posterior, x)

    def encode_latents(self, x: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw from the posterior and standardise: floating point [N, 2 C, h, w] to float32 [N, C, h, w].

        The noise is standard normal from `generator`, or from torch's default one of the device of `x`.
        """
        x = _checked_float(x, 2 * len(self.scale), "raw latents (means, then standard deviations)")
        mean, std = x.to(torch.float32).chunk(2, dim=1)
        source = x.device if generator is None else generator.device
        noise = torch.randn(mean.shape, generator=generator, device=source).to(x.device)
        return (mean + std * noise) * self._channels(self.scale, x) + self._channels(self.bias, x)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Floating point [N, C, h, w] to uint8 [N, 3, 8 h, 8 w]; fractions of a level are cut off.

        Raises ValueError where the VAE's output, or its input, has a NaN.
        """
        x = _checked_float(x, len(self.scale), "final latents").to(torch.float32)
        self.init(x.device)
        x = (x - self._channels(self.bias, x)) / self._channels(self.scale, x)
        images = self._in_batches(lambda latents: self._vae.decode(latents).sample, x)
        return (_without_nan(images).clamp(0, 1) * 255).to(torch.uint8)

    def _posterior(self, x: torch.Tensor) -> torch.Tensor:
        """Mean and standard deviation of the VAE's posterior for one batch of pixels."""
        posterior = self._vae.encode(x / 255).latent_dist
        return torch.cat([posterior.mean, posterior.std], dim=1)

    def _in_batches(self, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """`run` over `batch_size` items at a time. No items: one blank item shows the shape."""
        if len(x) == 0:
            return run(x.new_zeros(1, *x.shape[1:]))[:0]
        return torch.cat([run(part) for part in x.split(self.batch_size)])

    def _channels(self, values: np.ndarray, like: torch.Tensor) -> torch.Tensor:
        """One number per channel as a tensor [1, C, 1, 1] on the device of `like`."""
        return torch.as_tensor(values, device=like.device).reshape(1, -1, 1, 1)


def _checked_pixels(x: torch.Tensor) -> torch.Tensor:
    if x.dtype != torch.uint8 or x.ndim != 4 or x.shape[1] != 3:
        raise ValueError(f"pixels are uint8 [N, 3, H, W], got {_describe(x)}")
    return x


def _checked_float(x: torch.Tensor, channels: int, what: str) -> torch.Tensor:
    if not x.is_floating_point() or x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"{what} are floating point [N, {channels}, H, W], got {_describe(x)}")
    return x


def _describe(x: torch.Tensor) -> str:
    return f"{str(x.dtype).removeprefix('torch.')} {list(x.shape)}"


def _without_nan(x: torch.Tensor) -> torch.Tensor:
    """`x`, once it is known to hold no NaN: turned into a byte it would become an arbitrary colour."""
    if bool(x.isnan().any()):
        bad = x.isnan().flatten(1).any(dim=1).nonzero().flatten().tolist()
        raise ValueError(f"images {bad} of a batch of {len(x)} hold NaN and cannot be decoded")
    return x


def _autoencoder_class() -> Any:
    """diffusers' `AutoencoderKL`, imported here because most work needs no VAE."""
    try:
        from diffusers import AutoencoderKL
    except ImportError as error:
        if not isinstance(error, ModuleNotFoundError) or error.name != "diffusers":
            raise RuntimeError(f"diffusers is installed, but cannot be imported: {error}") from error
        raise RuntimeError(
            "this network works on the latents of a VAE, which needs the package diffusers: pip install diffusers"
        ) from error
    return AutoencoderKL


def _local_folder(vae_name: str) -> str | None:
    """The folder that the user or the name itself points to; None if the name is one of the hub."""
    override = os.environ.get(VAE_VARIABLE, "")
    named_by = f"{VAE_VARIABLE}={override}" if override else f"vae_name {vae_name!r}"
    folder = os.path.expanduser(override or vae_name)
    if os.path.isdir(folder):
        missing = [name for name in VAE_FILES if not os.path.isfile(os.path.join(folder, name))]
        if missing:
            raise FileNotFoundError(f"{named_by}: the folder lacks {' and '.join(missing)}")
        return folder
    if override or _is_path(folder):
        raise FileNotFoundError(f"{named_by}: there is no such folder")
    return None


def _is_path(name: str) -> bool:
    """Whether it was meant as a path, because it looks different from the hub's `name` and `owner/name`."""
    return os.path.isabs(name) or name.startswith((".", "~")) or name.count("/") > 1


def _public_name(vae_name: str) -> str:
    return os.path.basename(os.path.normpath(vae_name)) if _is_path(vae_name) else vae_name


def _sha256_of(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while True:
            piece = file.read(1 << 20)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def _hub_folder(vae_name: str, offline: bool) -> str:
    """The folder of the hub's cache that holds the VAE, filled from the hub if it must be."""
    folder = _cached_folder(vae_name)
    if folder is not None:
        return folder
    remedy = (
        f"fetch it once where there is network, or set {VAE_VARIABLE} to a folder with its "
        f"{' and '.join(VAE_FILES)} (from https://huggingface.co/{vae_name})"
    )
    if offline:
        raise FileNotFoundError(f"VAE {vae_name} is in no cache, and offline was asked for: {remedy}")
    import huggingface_hub

    with _one_process_at_a_time():
        folder = _cached_folder(vae_name)  # whoever was here before us may have fetched it
        if folder is not None:
            return folder
        try:
            return str(huggingface_hub.snapshot_download(vae_name, allow_patterns=list(VAE_FILES)))
        except Exception as error:  # by version: the hub's own, those of requests or of httpx; none swallowed
            reason = " ".join(str(error).split()) or type(error).__name__
            raise FileNotFoundError(
                f"VAE {vae_name} is in no cache and could not be fetched ({reason}): {remedy}"
            ) from error


def _cached_folder(vae_name: str) -> str | None:
    """A complete copy in the hub's cache, or where EDM2's own scripts put one; asks no server."""
    from huggingface_hub import try_to_load_from_cache

    import dnnlib

    for cache in (None, dnnlib.make_cache_dir_path("diffusers")):
        paths = [try_to_load_from_cache(vae_name, name, cache_dir=cache) for name in VAE_FILES]
        if isinstance(paths[0], str) and all(isinstance(path, str) for path in paths):
            return os.path.dirname(paths[0])
    return None


def _one_process_at_a_time() -> contextlib.AbstractContextManager[Any]:
    """Of the workers on a machine one fetches and the rest wait; the hub refuses crowds."""
    try:
        from pathlib import Path

        import dnnlib
        from dnnlib.filelock import exclusive
    except ImportError:  # inside the EDM2 code base, whose dnnlib knows no locks
        return contextlib.nullcontext()
    folder = dnnlib.make_cache_dir_path()
    os.makedirs(folder, exist_ok=True)
    return exclusive(Path(folder, ".vae.lock"))


def _load_vae(model_class: Any, folder: str, channels: int) -> Any:
    """The VAE in a folder, in float32, frozen. Only from safetensors: the other format runs code."""
    try:
        with torch.random.fork_rng(devices=[]):  # the parameters are drawn before they are loaded
            vae, info = model_class.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                low_cpu_mem_usage=False,
                torch_dtype=torch.float32,
                output_loading_info=True,
            )
    except Exception as error:  # whatever the libraries raise on a configuration or tensors not made for them
        reason = " ".join(str(error).split())[:500] or type(error).__name__
        raise OSError(f"the VAE in {folder} is broken ({reason}): fetch it again") from error
    absent = [*info["missing_keys"], *info["mismatched_keys"]]  # diffusers would leave these random
    if absent:
        raise OSError(f"the VAE in {folder} lacks {len(absent)} tensors, such as {absent[0]}: fetch it again")
    if vae.config.latent_channels != channels:
        raise ValueError(
            f"the VAE in {folder} has {vae.config.latent_channels} latent channels, the encoder {channels}"
        )
    return vae.eval().requires_grad_(False)
