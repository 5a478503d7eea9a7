"""From networks to a score: guided digits by their fd_mnist, straight from the generator, beside the plain way."""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.files import plain_folder, plain_read
from benchmarks.frechet import plain_distance
from benchmarks.image import PlainSampler, opened
from benchmarks.side_by_side import Options, Result, Way, compare
from dnnlib.places import find_file
from edm2_guidance.images.batch import drain
from edm2_guidance.metrics.detectors import Detector, load_detector
from edm2_guidance.metrics.measures.gaussians import factor_of, frechet_distance
from edm2_guidance.metrics.moments import Moments
from edm2_guidance.metrics.reference import open_statistics
from edm2_guidance.metrics.running import MomentsSink
from edm2_guidance.recipe.intervals import StepInterval
from edm2_guidance.sampling.generation import Generation
from training.encoders import StandardRGBEncoder

NAMES = ("mnist16-cond", "mnist16-uncond")
BATCH = 64
METRIC = "fd_mnist"


def run(options: Options) -> Iterator[Result]:
    """As the stage `image`, and scored."""
    num, steps, interval = (68, 2, StepInterval(1, 1)) if options.quick else (64, 32, StepInterval(17, 22))
    detector = load_detector(METRIC, options.device)
    reference = open_statistics(find_file("mnist16-refs")).of(METRIC, detector.dims[METRIC])
    factor_of(reference, "the reference")
    plainly, seeds = PlainSampler(NAMES, steps, options), range(num)
    generations = {form: opened(NAMES, steps, interval, form, options) for form in ("plain", "prepared")}
    with tempfile.TemporaryDirectory() as name:
        score = partial(plain_score, plainly, detector, reference, seeds, Path(name))
        same = score(interval)
        ways = [
            Way(f"{form}, no files", partial(our_score, g, detector, reference, seeds))
            for form, g in generations.items()
        ]
        case = f"{num} digits, {steps} steps, guided at {interval}, {METRIC}"
        yard = Way("plain, guided everywhere, PNGs, sqrtm", score)
        yield from compare("end-to-end", case, yard, ways, options, expected=same)


def plain_score(
    sampler: PlainSampler, detector: Detector, reference: Moments, seeds: Sequence[int], folder: Path,
    interval: StepInterval | None = None,
) -> float:  # fmt: skip
    """Sample, write PNGs, read them, take their features, compare. interval: None guides everywhere."""
    encoder = StandardRGBEncoder()
    batches = [seeds[start : start + BATCH] for start in range(0, len(seeds), BATCH)]
    made = [sampler(part, lambda step: interval is None or step in interval) for part in batches]
    plain_folder(torch.cat([encoder.decode(part).cpu() for part in made]), folder)
    with torch.no_grad():
        parts = [detector.net(part.to(detector.device)).cpu().numpy() for part in plain_read(folder)]
    features = np.concatenate(parts).astype(np.float64)
    return plain_distance(Moments(features.mean(axis=0), np.cov(features, rowvar=False)), reference)


def our_score(generation: Generation, detector: Detector, reference: Moments, seeds: Sequence[int]) -> float:
    sink = MomentsSink([detector])
    drain(generation.images(seeds, BATCH), sink)
    return frechet_distance(sink.moments()[METRIC], factor_of(reference, "the reference"))
