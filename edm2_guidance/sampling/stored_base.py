"""Stored images as those that a network enlarges: found by seed."""

from collections.abc import Mapping, Sequence

from dnnlib.places import find_file, recorded_place
from edm2_guidance.images.archive import Archive
from edm2_guidance.images.batch import ImageBatch
from edm2_guidance.images.labels import count_classes
from edm2_guidance.images.members import RECIPE_NAME, shortened
from edm2_guidance.images.sources import StoredImages, content_sha256
from edm2_guidance.images.zips import parse_object
from edm2_guidance.recipe.files import ImageSet
from edm2_guidance.recipe.prompts import Prompts, checked_prompts
from edm2_guidance.recipe.recipe import LabelRule
from edm2_guidance.recipe.spec import digest


class StoredBase:
    """As `sampling.generation.Base`, of a ZIP, tar or folder with seeds for names, or of an `.npz`, whose N-th image,
    counted from 0, is that of seed N. It is read once when it opens: for its checksum, in which its classes count.

    prompts: what the recipe beside the images says that they show; empty if nothing does.

    Raises as `StoredImages`; ValueError for names that are no seeds.
    """

    notes: tuple[str, ...]

    def __init__(self, source: str) -> None:
        self._images = StoredImages(find_file(source))
        self.source, self.notes = source, self._images.notes
        seeds = range(self._images.num_images) if self._images.archive is None else self._images.seeds
        if seeds is None:
            raise ValueError(f"{source}: its images have no seeds for names, such as 000012.png by generate_zip.py")
        self._rows = {seed: row for row, seed in enumerate(seeds)}
        if self._images.archive is None:
            self._images.check()
        labels = self._images.labels
        self.recipe = ImageSet(source, digest([content_sha256(self._images), labels]), recorded_place(source))
        self.image_classes = count_classes(labels or ())
        self.label_rule: LabelRule = "stored" if labels else "none"
        self.prompts = _prompts_of(self._images.archive)

    @property
    def image_size(self) -> int:
        """Width and height, in pixels. ValueError if they differ."""
        height, width = self._images.image_size
        if height != width:
            raise ValueError(f"{self.source} holds images of {width}x{height}: networks enlarge square ones")
        return height

    def check_seeds(self, seeds: Sequence[int]) -> None:
        """ValueError for seeds whose images are not in the set."""
        missing = [str(seed) for seed in seeds if seed not in self._rows]
        if missing:
            raise ValueError(
                f"{self.source} lacks the images of seeds {shortened(missing)}: make them first, or leave these out"
            )

    def make(self, seeds: Sequence[int]) -> tuple[ImageBatch, dict[str, int]]:
        """The images of these seeds and their classes; no network is evaluated."""
        return self._images.pick([self._rows[seed] for seed in seeds]), {}


def _prompts_of(archive: Archive | None) -> Prompts:
    """Those that a `recipe.json` among these files names; none if it names none, or cannot be read."""
    if archive is None or RECIPE_NAME not in archive:
        return ()
    try:
        recipe = parse_object(archive.read(RECIPE_NAME), RECIPE_NAME).get("recipe")
        return checked_prompts(recipe.get("prompts", ())) if isinstance(recipe, Mapping) else ()
    except ValueError:
        return ()
