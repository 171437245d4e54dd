"""What a training problem is: a network, a physics it acts through, data and rows."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax

Params = Any
Batch = Any


@runtime_checkable
class Problem(Protocol):
    """A network trained through a differentiable physics.

    A *sample* is a tree of arrays without batch axis; a *batch* is the same tree with one leading
    axis on every leaf. All quantities are dimensionless. Implementations are frozen dataclasses
    (hashable, so that they can be static under ``jax.jit``) whose fields are the problem's settings.

    There are two kinds: a `SampleProblem` has one kind of rows, and a `PhysicsInformed` several, in blocks.
    """

    @property
    def name(self) -> str:
        """Name in the registry, in words joined by hyphens, e.g. ``"linear-oscillators"``."""
        ...

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method, by the method's name: at least ``learning_rate``."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Fresh network parameters (a tree of float arrays) from a random key."""
        ...

    def data(self, key: jax.Array) -> tuple[Batch, Batch]:
        """The training and the test set."""
        ...

    def draw(self, key: jax.Array, step: jax.Array, train: Batch, batch_size: int) -> Batch:
        """The mini-batch of one step; `step` may be traced, `batch_size` is static."""
        ...

    @property
    def residual(self) -> Any:
        """Rows of one sample, ``(params, sample) -> array``, or a dict of such functions, block by block."""
        ...


@runtime_checkable
class SampleProblem(Problem, Protocol):
    """A problem whose rows come sample by sample, and whose loss is a mean or sum over samples."""

    @property
    def reduction(self) -> str:
        """How `sample_loss` is reduced over a batch in training: ``"mean"`` or ``"sum"``."""
        ...

    def sample_loss(self, rows: jax.Array, sample: Batch) -> jax.Array:
        """Loss of one sample, a scalar, from the rows that `residual` returned."""
        ...


@runtime_checkable
class ControlProblem(SampleProblem, Protocol):
    """A problem whose network speaks first and whose physics answers."""

    def control(self, params: Params, sample: Batch) -> jax.Array:
        """What the network says for one sample: the control, or the field that is solved for."""
        ...

    def physics(self, control: jax.Array, sample: Batch) -> jax.Array:
        """The physics' answer y to a control, for one sample."""
        ...
