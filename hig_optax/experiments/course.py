"""What has happened in a run so far, and how a later process goes on from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hig_optax.experiments.budget import Budget, Pacer
from hig_optax.experiments.checkpoint import Checkpoint, Saved, Tree
from hig_optax.experiments.history import Point
from hig_optax.experiments.views import Recorder


@dataclass
class Course:
    """A run between two segments of training, without what the steps themselves hand on.

    Attributes:
        pacer: Steps and training time.
        points: The looks, the one before the first step included.
        losses: Mini-batch losses, an array per segment.
        recorder: Views.
        first_call_seconds: What the process that began the run needed before its first step.
        resumed: How often the run went on from a checkpoint.
    """

    pacer: Pacer
    points: list[Point]
    losses: list[np.ndarray]
    recorder: Recorder
    first_call_seconds: float
    resumed: int = 0

    def save(self, checkpoint: Checkpoint, carry: Tree, identity: str) -> None:
        """Keep the run as it is; `identity` stands for the program and the data that brought it here."""
        facts = {
            "pacer": self.pacer.spent(),
            "points": [asdict(point) for point in self.points],
            "first_call_seconds": self.first_call_seconds,
            "resumed": self.resumed,
        }
        record = {"losses": np.concatenate(self.losses), **self.recorder.record()}
        checkpoint.save(Saved(identity, self.pacer.steps, carry, record, facts))

    @classmethod
    def restore(
        cls, checkpoint: Checkpoint, like: Tree, identity: str, budget: Budget, recorder: Recorder
    ) -> tuple["Course", Tree] | None:
        """The run as it was kept, and its carry; None where there is none of this identity.

        Args:
            checkpoint: Where it may be.
            like: A carry of the same structure, shapes and dtypes.
            identity: What `save` was given.
            budget: Of the run.
            recorder: One that has recorded nothing; it is given what was recorded.
        """
        saved = checkpoint.restore(like, identity)
        if saved is None:
            return None
        recorder.take_up(saved.record)
        course = cls(
            pacer=Pacer(budget, **saved.facts["pacer"]),
            points=[_point(value) for value in saved.facts["points"]],
            losses=[np.asarray(saved.record["losses"])],
            recorder=recorder,
            first_call_seconds=saved.facts["first_call_seconds"],
            resumed=saved.facts["resumed"] + 1,
        )
        return course, saved.carry


def _point(value: Mapping[str, Any]) -> Point:
    singular_values = value["singular_values"]
    return Point(
        **{
            **value,
            "singular_values": None if singular_values is None else tuple(singular_values),
        }
    )
