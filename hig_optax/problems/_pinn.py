"""What all physics-informed networks share: collocation points, blocks of rows, loss and error."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point
from hig_optax.problems._network import DenseNetwork

Points = dict[str, Float[Array, "_ d"]]
"""Collocation points, block by block."""


class Solution(NamedTuple):
    """What a trained network is measured by.

    Attributes:
        points: Collocation points that no training step sees, for the loss.
        x: Where the solution is known.
        u: The solution there: the components that the relative error compares.
    """

    points: Points
    x: Float[Array, "grid d"]
    u: Float[Array, "grid *components"]


@dataclasses.dataclass(frozen=True)
class PhysicsInformed(abc.ABC):
    """A network that is itself the solution of a differential equation, trained by its residual alone.

    The network maps a point x of a box to the field u(x). Its rows come in two blocks, with own points each:

        interior    equation(u, x) / √num_interior                         at points inside the box
        boundary    √(boundary_weight / num_boundary) · (u - given)(x)     on those faces where u is given;
                                                                           the initial time is one of them

    so that the sum of squares of all rows is the usual loss: the mean squared residual of the equation, plus
    `boundary_weight` times that of the data. A row belongs to one point: `residual` maps the name of each
    block to a function ``(params, point) -> rows``, and a batch is a dict of arrays of points, (points, d).

    A step takes all points: `draw` has no smaller batch. They are the same at every step, or fresh ones, as
    many. Arrays are of JAX's default float dtype; `precision` is what the experiments train in.

    Attributes:
        hidden: Widths of the hidden layers.
        num_interior: Points inside the box, of each step.
        num_boundary: Points on its faces, of each step.
        boundary_weight: Weight of the mean square of u - given.
        fixed_points: Train on the points that `data` drew; else on new ones at every step.
        precision: ``"float64"`` or ``"float32"``.
    """

    hidden: tuple[int, ...]
    num_interior: int
    num_boundary: int
    boundary_weight: float = 10.0
    fixed_points: bool = True
    precision: Literal["float32", "float64"] = "float64"

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name in the registry."""

    @property
    @abc.abstractmethod
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""

    @property
    @abc.abstractmethod
    def box(self) -> Box:
        """Where the equation holds, and the faces where the solution is given."""

    @abc.abstractmethod
    def equation(self, field: Field, x: Point) -> jax.Array:
        """Residual of the equation for any field, at one point: zero for a solution."""

    @abc.abstractmethod
    def given(self, x: Point) -> jax.Array:
        """The solution at a point of a face, those components that are given."""

    @abc.abstractmethod
    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid *components"]]:
        """Points, and the solution there: those components that `compared` picks."""

    @property
    def coordinates(self) -> tuple[str, str]:
        """Names of the first two axes."""
        return "x", "y"

    @property
    def grid(self) -> tuple[int, int]:
        """How the points of `solution` lie: so many along the first axis and the second."""
        return 65, 65

    def picture(self, test: Solution) -> tuple[jax.Array, jax.Array]:
        """A plane of points and one component of the solution there: (i, j, d) and (i, j)."""
        x, u = (leaf.reshape(*self.grid, *leaf.shape[1:]) for leaf in (test.x, test.u))
        return x, u if u.ndim == 2 else u[..., 0]

    def compared(self, u: jax.Array) -> jax.Array:
        """The components of the field that `given` and `solution` tell: all of them."""
        return u

    @property
    def network(self) -> DenseNetwork:
        """The network, from a point to the field there."""
        return DenseNetwork((self.box.dimension, *self.hidden, 1), "tanh")

    @property
    def num_points(self) -> int:
        """Points of a step, of both blocks together."""
        return self.num_interior + self.num_boundary

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[Points, Solution]:
        """The points to train on, and what to measure by."""
        train_key, test_key = jax.random.split(key)
        return self._points(train_key), Solution(self._points(test_key), *self.solution())

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: Points, batch_size: int | None = None
    ) -> Points:
        """The points of one step: all of `train`, or as many fresh ones.

        Raises:
            ValueError: `batch_size` is neither None nor the number of all points.
        """
        if batch_size not in (None, self.num_points):
            raise ValueError(
                f"{self.name} takes all its {self.num_points} points at every step, got batch_size="
                f"{batch_size}. For others set num_interior and num_boundary of the problem."
            )
        return train if self.fixed_points else self._points(jax.random.fold_in(key, step))

    def field(self, params: dict[str, Any], x: Point) -> jax.Array:
        """What the network says at one point: u, a scalar."""
        return self.network.apply(params, x)[0]

    @property
    def residual(self) -> dict[str, Callable[[dict[str, Any], Point], jax.Array]]:
        """Rows of one point, ``(params, point) -> rows``, by the name of its block."""
        return {"interior": self._interior, "boundary": self._boundary}

    def loss(self, params: dict[str, Any], batch: Points) -> Float[Array, ""]:
        """The training loss: the sum of squares of all rows."""
        rows = {
            name: jax.vmap(f, (None, 0))(params, batch[name]) for name, f in self.residual.items()
        }
        return sum((jnp.sum(x**2) for x in rows.values()), jnp.zeros(()))

    def relative_error(self, params: dict[str, Any], test: Solution) -> Float[Array, ""]:
        """‖network - solution‖₂ / ‖solution‖₂ over the points and components of the solution."""
        u = jax.vmap(lambda x: self.compared(self.field(params, x)))(test.x)
        return jnp.sqrt(jnp.sum((u - test.u) ** 2) / jnp.sum(test.u**2))

    def _interior(self, params: dict[str, Any], x: Point) -> jax.Array:
        return self.equation(partial(self.field, params), x) / self.num_interior**0.5

    def _boundary(self, params: dict[str, Any], x: Point) -> jax.Array:
        error = self.compared(self.field(params, x)) - self.given(x)
        return (self.boundary_weight / self.num_boundary) ** 0.5 * error

    def _points(self, key: jax.Array) -> Points:
        inside, on_faces = jax.random.split(key)
        return {
            "interior": self.box.inside(inside, self.num_interior),
            "boundary": self.box.on_faces(on_faces, self.num_boundary),
        }
