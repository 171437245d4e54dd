"""What is kept of a training run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from hig_optax.experiments.store import rounded
from hig_optax.problems import Params

MAX_STORED_LOSSES = 1000


@dataclass(frozen=True)
class Point:
    """The state of a run between two segments of training.

    Losses are means over samples, whatever the training loss sums. Numbers that do not exist, such
    as the spectrum of a method without one or the training loss before the first step, are None.

    Attributes:
        step: Optimizer steps so far.
        seconds: Training time so far: compilation and the test loss are not in it.
        train_loss: Mini-batch loss, mean over the steps since the point before.
        last_loss: Mini-batch loss of the last step, before its update.
        test_loss: Loss on the test set; see `losses.measured_loss`.
        is_finite: No step since the point before met a loss, or a direction, that is not finite.
        rank: Singular values kept at the last step.
        cutoff: The cut used there.
        condition: Largest over smallest kept singular value.
        captured: Share of the squared gradient norm that the kept directions hold.
        singular_values: The largest ones at the last step, descending.
        relative_error: Of the solution, in the L2 norm, where the problem has one.
    """

    step: int
    seconds: float
    test_loss: float
    train_loss: float | None = None
    last_loss: float | None = None
    is_finite: bool = True
    rank: int | None = None
    cutoff: float | None = None
    condition: float | None = None
    captured: float | None = None
    singular_values: tuple[float, ...] | None = None
    relative_error: float | None = None

    @property
    def measured(self) -> float:
        """What the run is judged by: the relative error where there is one, else the test loss."""
        return self.test_loss if self.relative_error is None else self.relative_error


@dataclass(frozen=True)
class History:
    """One training run: what was asked, what happened.

    Attributes:
        request: Everything that decides the run, as JSON: problem, method, settings, seed, budget,
            dtype, cores, versions. Two runs with equal requests are the same run.
        points: The course of the run, from before its first step to its end.
        losses: Mini-batch loss of every step, shape (steps,); after reading from JSON, means over
            equal numbers of steps.
        losses_every: That number of steps: 1, or more after reading from JSON.
        first_call_seconds: Tracing, compilation and one step, before the clock of the run.
        num_params: Columns of the Jacobian.
        num_rows: Rows of the Jacobian of one mini-batch (a complex row counts twice).
        stopped: Why the run ended: "budget", or "diverged" where nothing finite was left.
        resumed: How often the run was interrupted and went on from a checkpoint.
        views: What `views` recorded, by name.
        params: The trained parameters; not stored.
    """

    request: Mapping[str, Any]
    points: tuple[Point, ...]
    losses: np.ndarray
    first_call_seconds: float
    num_params: int
    num_rows: int
    stopped: str = "budget"
    resumed: int = 0
    losses_every: int = 1
    views: Mapping[str, np.ndarray] = field(default_factory=dict, compare=False)
    params: Params = field(default=None, repr=False, compare=False)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.request["method"]

    @property
    def seed(self) -> int:
        """Seed of data, network and batches."""
        return self.request["seed"]

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self.points[-1].step

    @property
    def seconds(self) -> float:
        """Training time used."""
        return self.points[-1].seconds

    @property
    def measure(self) -> str:
        """What `Point.measured` is, in words."""
        return "test loss" if self.points[0].relative_error is None else "relative L2 error"

    @property
    def measure_at_start(self) -> str:
        """The same at the start of a sentence."""
        return self.measure[0].upper() + self.measure[1:]

    @property
    def last_measured(self) -> float:
        """What is measured at the end; infinite where it is no finite number."""
        value = self.points[-1].measured
        return value if np.isfinite(value) else np.inf

    def to_json(self) -> dict[str, Any]:
        """The run as JSON values, `losses` thinned to at most `MAX_STORED_LOSSES` means."""
        every = self.losses_every * max(1, -(-self.losses.size // MAX_STORED_LOSSES))
        starts = np.arange(0, self.losses.size, every // self.losses_every)
        counts = np.diff(np.append(starts, self.losses.size))
        means = np.add.reduceat(self.losses, starts) / counts if starts.size else self.losses
        return {
            "request": dict(self.request),
            "first_call_seconds": rounded(self.first_call_seconds, 4),
            "num_params": self.num_params,
            "num_rows": self.num_rows,
            "stopped": self.stopped,
            "resumed": self.resumed,
            "losses_every": every,
            "losses": [rounded(float(x)) for x in means],
            "views": {name: _rounded_list(array.tolist()) for name, array in self.views.items()},
            "points": [_point_to_json(point) for point in self.points],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "History":
        """What `to_json` gave, read back.

        Raises:
            KeyError, TypeError, ValueError: It is not a stored history.
        """
        names = {f.name for f in fields(cls)} - {"params"}
        kept = {name: value[name] for name in names - {"resumed"}}
        kept["resumed"] = value.get("resumed", 0)  # older files do not have it
        kept["losses"] = np.array([np.nan if x is None else x for x in kept["losses"]], dtype=float)
        kept["views"] = {name: np.array(v, dtype=float) for name, v in kept["views"].items()}
        kept["points"] = tuple(_point_from_json(point) for point in kept["points"])
        return cls(**kept)


def by_method(histories: Sequence[History]) -> dict[str, list[History]]:
    """The runs of each method, in the order in which they come."""
    groups: dict[str, list[History]] = {}
    for history in histories:
        groups.setdefault(history.method, []).append(history)
    return groups


def _rounded_list(values: Any) -> Any:
    """Nested lists of numbers with few digits: enough to draw from."""
    if isinstance(values, list):
        return [_rounded_list(value) for value in values]
    return rounded(values, 4)


def _point_to_json(point: Point) -> dict[str, Any]:
    value = asdict(point)
    if point.singular_values is not None:
        value["singular_values"] = [rounded(s, 4) for s in point.singular_values]
    return {k: rounded(v) if isinstance(v, float) else v for k, v in value.items()}


def _point_from_json(value: Mapping[str, Any]) -> Point:
    singular_values = value["singular_values"]
    return Point(
        **{
            **value,
            # null stands for a number that was not finite; a loss that blew up must not vanish. A relative
            # error does so together with its test loss.
            "test_loss": np.nan if value["test_loss"] is None else value["test_loss"],
            "singular_values": None if singular_values is None else tuple(singular_values),
        }
    )
