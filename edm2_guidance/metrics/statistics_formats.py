"""The formats in which statistics of image sets are written: ours, and those of other evaluators. No torch here.

A format is chosen by its name or by the ending of the file. What it cannot hold is refused before any image is read.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

#: Arrays in files of guided-diffusion; EDM's and pytorch-fid's have the first pair.
_MU_SIGMA = {"fid": ("mu", "sigma")}
_SPATIAL = {**_MU_SIGMA, "sfid": ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class StatisticsFormat:
    """One format.

    Attributes:
        name: As it is asked for.
        files: Names of its files: of a single one its ending, such as ".npz"; else what follows the name that is given.
        holds: What it holds, for the list.
        lacks: What it has no place for, for the list and for errors.
        arrays: Names of mean and covariance in an .npz, by features, all of which it must have; empty if it takes any.
        features: Whether features are kept: never, where they are asked for, or always.
        kept_file: Which of `files` holds the features, if that is one of its own.
    """

    name: str
    files: tuple[str, ...]
    holds: str
    lacks: str
    arrays: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    features: str = "never"
    kept_file: str | None = None

    @property
    def ending(self) -> str:
        """The ending of its file; "" where a name stands for several files."""
        return self.files[0] if len(self.files) == 1 else ""

    def paths(self, dest: str | Path, *, kept: bool = False) -> dict[str, Path]:
        """The files that are written for `dest`, by their name in `files`; kept: with features."""
        if self.ending:
            return {self.ending: Path(dest)}
        name = Path(dest).name
        name = name.lower() if self.name == "clean-fid" else name  # which looks for such names alone
        return {end: Path(dest).with_name(name + end) for end in self.files if kept or end != self.kept_file}

    def check_name(self, dest: str | Path) -> None:
        """ValueError if its files cannot have that name."""
        suffix = Path(dest).suffix.lower()
        if self.ending and suffix != self.ending:
            raise ValueError(f"{dest}: a file of {self.name} ends in {self.ending}; choose such a name")
        if not self.ending and suffix in (".npz", ".pkl", ".pt"):
            written = " and ".join(f"NAME{end}" for end in self.files)
            raise ValueError(f"{dest}: give FOLDER/NAME; {self.name} finds its files by their names, {written}")

    def check(self, dest: str | Path, features: Collection[str], kept: Collection[str] = ()) -> None:
        """ValueError if it has no place for these features' moments, or for the features themselves that are `kept`."""
        whose = f"{dest}: {self.name.upper() if self.name.startswith('edm') else self.name}'s format"
        missing = [name for name in self.arrays if name not in features]
        others = [name for name in features if self.arrays and name not in self.arrays]
        if missing or others:
            raise ValueError(f"{whose} holds {self.holds}: use --metrics={','.join(self.arrays)}, or another --format")
        if kept and self.features == "never":
            raise ValueError(
                f"{whose} has no place for features, which these metrics need: choose .npz, or another --format"
            )


_NO_MORE = "number of images, detectors, features"

FORMATS: Mapping[str, StatisticsFormat] = MappingProxyType(
    {
        each.name: each
        for each in (
            StatisticsFormat(
                "edm2-guidance",
                (".npz",),
                "mean and covariance of all metrics, features, number of images, detectors, how images were made",
                "nothing",
                features="asked",
            ),
            StatisticsFormat(
                "edm2", (".pkl",), "mean and covariance of all metrics, number of images", "features, detectors"
            ),
            StatisticsFormat("edm", (".npz",), "mu and sigma of fid", _NO_MORE, _MU_SIGMA),
            StatisticsFormat("pytorch-fid", (".npz",), "mu and sigma of fid", _NO_MORE, _MU_SIGMA),
            StatisticsFormat(
                "guided-diffusion",
                (".npz",),
                "mu and sigma of fid, mu_s and sigma_s of sfid",
                f"{_NO_MORE}; nor images (arr_0), which its own evaluator takes precision and recall of",
                _SPATIAL,
            ),
            StatisticsFormat(
                "clean-fid",
                ("_legacy_tensorflow_custom_na.npz", "_legacy_tensorflow_custom_na_kid.npz"),
                "mu and sigma of fid, and its features; used there as dataset_split='custom', mode='legacy_tensorflow'",
                "number of images of the first file, detectors; nor its own mode 'clean', which resizes otherwise",
                _MU_SIGMA,
                features="always",
            ),
            StatisticsFormat(
                "torch-fidelity",
                ("-inception-v3-compat-stat-fid-2048.pt", "-inception-v3-compat-features-2048.pt"),
                "mu and sigma of fid, and its features if they are kept; used there by cache_root=FOLDER, "
                "input2_cache_name=NAME",
                "number of images of the first file, detectors",
                _MU_SIGMA,
                features="asked",
                kept_file="-inception-v3-compat-features-2048.pt",
            ),
        )
    }
)
_BY_ENDING = {".npz": "edm2-guidance", ".pkl": "edm2"}


def choose_format(dest: str | Path, name: str | None = None) -> StatisticsFormat:
    """The format of that name, or else that of the ending. ValueError if `dest` is no name for it."""
    suffix = Path(dest).suffix.lower()
    if name is None and suffix not in _BY_ENDING:
        raise ValueError(f"{dest}: statistics are written as .npz or, for EDM2, as .pkl; choose such a name")
    found = FORMATS[_BY_ENDING[suffix] if name is None else name]
    found.check_name(dest)
    return found


def formats_table() -> str:
    """Every format with its files, what it holds and what it lacks, for the command line."""
    lines = []
    for each in FORMATS.values():
        lines += [f"{each.name}: {' and '.join('NAME' + end for end in each.files)}", f"  holds {each.holds}"]
        lines.append(f"  lacks {each.lacks}")
    return "\n".join(lines)
