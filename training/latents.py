"""Image sets of pixels to image sets of VAE latents, and back: what `dataset_tool.py encode` and `decode` do.

A latent is stored as the mean and the standard deviation of the VAE's posterior, float32 [8, H/8, W/8], so that
training can draw from it anew at every visit. Labels are carried over.
"""

import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from edm2_guidance.images.archive import open_archive
from edm2_guidance.images.labels import Label, count_classes
from edm2_guidance.images.set_writer import check_set_destination, image_set, latents_name, pixels_name
from edm2_guidance.images.sinks import png_bytes
from edm2_guidance.images.sources import StoredImages
from torch_utils.memory import Batches
from training.dataset import ImageFolderDataset
from training.encoders import StabilityVAEEncoder

#: The VAE halves its images three times.
REDUCTION = 8

Progress = Callable[[int], None]


class _Recoding:
    """What both directions share: a source, a destination, the VAE, and how many items there are.

    Attributes:
        num_images: How many items will be written, the first ones in sorted order.
        notes: What of the source is not read, as a sentence each.
    """

    _name_of: Callable[[int], str]

    def __init__(
        self,
        source: str | os.PathLike[str],
        dest: str | os.PathLike[str],
        encoder: StabilityVAEEncoder,
        *,
        max_images: int | None = None,  # None = all
    ) -> None:
        """Looks at names, labels and the first item; `encoder.batch_size` items go through the VAE at a time.

        Raises:
            FileNotFoundError: Nothing is at `source`.
            FileExistsError: Something is at `dest`.
            PermissionError: The folder that `dest` lies in is not writable.
            ValueError: The source is not what this direction reads, or has bad labels.
        """
        if max_images is not None and max_images < 1:
            raise ValueError(f"--max-images={max_images}: give 1 or more")
        check_set_destination(Path(dest), source)
        self._dest, self._encoder = Path(dest), encoder
        self._memory = Batches(type(self).__name__.lower())
        with open_archive(source) as archive:
            names, listed = archive.names, archive.labels()
            self._class_names, notes = archive.class_names(count_classes((listed or {}).values()))
            self.notes = (*archive.notes, *notes)
        latents = sum(name.lower().endswith(".npy") for name in names)
        self._open_source(source, latents, len(names))
        self.num_images = min(len(names), max_images or len(names))
        self._labels: list[Label] | None = None if listed is None else [listed[n] for n in names[: self.num_images]]

    def run(self, device: torch.device | str, progress: Progress | None = None) -> None:
        """Write the set, the VAE on `device`. Nothing is at the destination until all is done.

        A batch that memory does not hold is taken in parts. Raises ValueError, naming the file, for an item that cannot
        be read or is unlike the first; OSError if the disk is full or the like; RuntimeError if not one item fits.
        """
        done = 0
        with torch.no_grad(), image_set(self._dest, self._name_of, self._labels, self._class_names) as add:
            for batch in self._batches():
                batch = batch[: self.num_images - done]
                for item in self._in_parts(batch, device):
                    add(item)
                done += len(batch)
                if progress is not None:
                    progress(len(batch))
                if done == self.num_images:
                    return

    def _in_parts(self, batch: torch.Tensor, device: torch.device | str) -> Iterator[bytes]:
        parts, _ = self._memory.run(lambda part: list(self._recode(batch[part].to(device))), len(batch), len(batch))
        return itertools.chain.from_iterable(parts)

    def _open_source(self, source: object, latents: int, items: int) -> None:
        raise NotImplementedError

    def _batches(self) -> Iterator[torch.Tensor]:
        raise NotImplementedError

    def _recode(self, batch: torch.Tensor) -> Iterator[bytes]:
        raise NotImplementedError


class Encoding(_Recoding):
    """Pixels, uint8 RGB of one size with sides that are multiples of 8, to `img-mean-std-*.npy`."""

    _name_of = staticmethod(latents_name)

    def _open_source(self, source: object, latents: int, items: int) -> None:
        if latents > 0:
            raise ValueError(f"{source} holds .npy arrays: encode reads images (decode reads latents)")
        self._images = StoredImages(Path(str(source)), self._encoder.batch_size)
        height, width = self._images.image_size
        if height % REDUCTION or width % REDUCTION:
            raise ValueError(
                f"{source} holds {width}x{height} images: the VAE takes multiples of {REDUCTION}; "
                "see --resolution of dataset_tool.py convert"
            )

    def _batches(self) -> Iterator[torch.Tensor]:
        return (batch.images for batch in self._images)

    def _recode(self, batch: torch.Tensor) -> Iterator[bytes]:
        for latents in self._encoder.encode_pixels(batch).cpu().numpy():
            buffer = io.BytesIO()
            np.save(buffer, latents, allow_pickle=False)
            yield buffer.getvalue()


class Decoding(_Recoding):
    """`img-mean-std-*.npy` to pixels, by decoding the means: nothing is drawn, so a set decodes to the same images."""

    _name_of = staticmethod(pixels_name)

    def _open_source(self, source: object, latents: int, items: int) -> None:
        if latents < items:
            raise ValueError(f"{source} holds images: decode reads sets of .npy latents, as encode writes them")
        self._set = ImageFolderDataset(Path(str(source)), use_labels=False)
        channels = 2 * len(self._encoder.scale)
        if self._set.image_shape[0] != channels:
            raise ValueError(
                f"{source} holds arrays {list(self._set.image_shape)}: latents have {channels} channels, "
                "means and standard deviations"
            )

    def _batches(self) -> Iterator[torch.Tensor]:
        for start in range(0, len(self._set), self._encoder.batch_size):
            chosen = range(start, min(start + self._encoder.batch_size, len(self._set)))
            yield torch.from_numpy(self._set.items(chosen))

    def _recode(self, batch: torch.Tensor) -> Iterator[bytes]:
        mean, std = batch.chunk(2, dim=1)
        latents = self._encoder.encode_latents(torch.cat([mean, torch.zeros_like(std)], dim=1))
        for pixels in self._encoder.decode(latents).permute(0, 2, 3, 1).cpu().numpy():
            yield png_bytes(pixels)
