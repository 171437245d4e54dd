"""States as the course of a run: NumPy arrays, one entry a step, for each member of an ensemble."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from hig_optax._optimizers.adaptive_step import AdaptiveHigState
from hig_optax._optimizers.scale import ScaleByHigState
from hig_optax._optimizers.spring import SpringState
from hig_optax._types import Spectrum, Tree

KINDS = (AdaptiveHigState, ScaleByHigState, SpringState, Spectrum)

# What "of late" means: the last quarter of the steps, one at least.
LATE = 4


@dataclasses.dataclass(frozen=True)
class Course:
    """One run, or one member of an ensemble: arrays of shape (steps,), None for what its state lacks."""

    optimizer: str
    count: np.ndarray | None
    rank: np.ndarray
    full_rank: np.ndarray
    condition: np.ndarray
    gradient_kept: np.ndarray
    gradient_cosine: np.ndarray
    is_finite: np.ndarray
    damping: np.ndarray | None = None
    gain_ratio: np.ndarray | None = None
    accepted: np.ndarray | None = None
    loss: np.ndarray | None = None
    trial_loss: np.ndarray | None = None
    trial_scale: np.ndarray | None = None
    is_cut: np.ndarray | None = None
    repeats: np.ndarray | None = None
    plateau_scale: np.ndarray | None = None
    plateau_power: np.ndarray | None = None

    @property
    def steps(self) -> int:
        """How many states there are."""
        return len(self.rank)

    @property
    def eps(self) -> float:
        """Rounding of the losses, relative."""
        assert self.loss is not None
        return float(np.finfo(self.loss.dtype).eps)

    def late(self, x: np.ndarray) -> np.ndarray:
        """The last quarter of a course."""
        return x[-max(1, -(-self.steps // LATE)) :]

    def where(self, mask: np.ndarray) -> str:
        """In which steps something was the case, in words; steps are counted from 0."""
        if self.steps == 1:
            return "in the last step"
        if mask.all():
            return f"in all {self.steps} steps"
        first = int(np.argmax(mask))
        number = first if self.count is None else int(self.count[first]) - 1
        return f"in {int(mask.sum())} of {self.steps} steps, first in step {number}"


def courses_of(state: Tree) -> list[Course]:
    """The course of every member of every optimizer of the family that a state holds.

    Raises:
        TypeError: There is none, or its numbers are traced.
    """
    found = [s for s in jax.tree.leaves(state, is_leaf=_is_ours) if _is_ours(s)]
    if not found:
        raise TypeError(
            f"state must hold the state of an optimizer of hig_optax, got {type(state).__name__}. Pass what "
            "init or update returned, with the chain or wrapper around it, or several of them stacked."
        )
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(found)):
        raise TypeError(
            "state must hold numbers to read, got traced ones. Call diagnose outside jit, vmap and scan, on "
            "what they return; states that a scan returns stacked are read as the course of a run."
        )
    return [course for ours in found for course in _members(ours)]


def _is_ours(x: Any) -> bool:
    return isinstance(x, KINDS)


def _members(state: Any) -> Iterator[Course]:
    """Split stacked states into members; the axis along which `count` grows is that of the steps."""
    fields = {name: np.asarray(x) for name, x in _numbers(state).items()}
    shape, count = fields["rank"].shape, fields.get("count")
    axis = len(shape) - 1
    if count is not None and shape:
        grows = [i for i in range(len(shape)) if np.ptp(count, axis=i).any()]
        axis = grows[0] if grows else -1
    for name, x in fields.items():
        if not shape:
            fields[name] = x.reshape(1, 1)
        elif axis < 0:
            fields[name] = x.reshape(-1, 1)
        else:
            fields[name] = np.moveaxis(x, axis, -1).reshape(-1, shape[axis])
    for i in range(len(fields["rank"])):
        yield Course(
            type(state).__name__, **({"count": None} | {k: x[i] for k, x in fields.items()})
        )


def _numbers(state: Any) -> dict[str, Any]:
    spectrum = state if isinstance(state, Spectrum) else state.spectrum
    names = ("rank", "full_rank", "condition", "gradient_kept", "gradient_cosine", "is_finite")
    found = {name: getattr(spectrum, name) for name in names}
    if isinstance(state, (AdaptiveHigState, SpringState)):
        found["count"] = state.count
    if isinstance(state, AdaptiveHigState):
        more = (
            "damping",
            "gain_ratio",
            "accepted",
            "loss",
            "trial_loss",
            "trial_scale",
            "is_cut",
            "repeats",
        )
        found |= {name: getattr(state, name) for name in more}
        if state.plateau is not None:
            found["plateau_scale"] = state.plateau.scale
            found["plateau_power"] = state.plateau.power
    return found
