"""What tests of long work share: recipes that are stated, and moments as a result without a ledger."""

from dataclasses import dataclass, field
from typing import Any

from edm2_guidance.metrics.score_output import Features, measured
from edm2_guidance.work.shards import ShardFolder, ShardOutput


@dataclass(frozen=True)
class Stated:
    """A recipe of any content, for works that are made of something else than networks."""

    hash: str
    content: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return self.content


def feature_work(folder, plan, recipe, run, detectors):
    """A work of features alone, as `ScoreOutput.of` makes it."""
    features = Features(detectors)
    more = {"detectors": features.identities}
    return ShardFolder(folder, plan, recipe, run, [features], more=more)


class MomentsOutput(ShardOutput):
    """The moments of all images as the result, which is kept nowhere."""

    def __init__(self, work, detectors):
        self.work, self.detectors = work, detectors

    def find(self):
        self.work.check()

    def join(self):
        made = measured(self.work, self.detectors)
        self.work.check_lease()
        return made
