"""What a training problem is: a network, a physics it acts through, data and a loss."""

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
    """

    @property
    def name(self) -> str:
        """Name in the registry, in words joined by hyphens, e.g. ``"linear-oscillators"``."""
        ...

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method, by the method's name: at least ``batch_size``, ``learning_rate``."""
        ...

    @property
    def reduction(self) -> str:
        """How `sample_loss` is reduced over a batch in training: ``"mean"`` or ``"sum"``."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Fresh network parameters (a tree of float arrays) from a random key."""
        ...

    def data(self, key: jax.Array) -> tuple[Batch, Batch]:
        """The training and the test set, with a leading sample axis each."""
        ...

    def draw(self, key: jax.Array, step: jax.Array, train: Batch, batch_size: int) -> Batch:
        """The mini-batch of one step; `step` may be traced, `batch_size` is static."""
        ...

    def control(self, params: Params, sample: Batch) -> jax.Array:
        """What the network says for one sample: the control, or the field that is solved for."""
        ...

    def physics(self, control: jax.Array, sample: Batch) -> jax.Array:
        """The physics' answer y to a control, for one sample."""
        ...

    def residual(self, params: Params, sample: Batch) -> jax.Array:
        """Rows of one sample: an array, real or complex, whose Jacobian the optimizer takes."""
        ...

    def sample_loss(self, rows: jax.Array, sample: Batch) -> jax.Array:
        """Loss of one sample, a scalar, from the rows that `residual` returned."""
        ...
