"""The solution of Burgers' equation as a function of where it starts, learned as an operator."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._data import drawn
from hig_optax.problems._network import DenseNetwork


class EvolvedSample(NamedTuple):
    """A start and what becomes of it.

    Attributes:
        start: Values on the grid at time 0.
        target: Those at the end.
    """

    start: Float[Array, "*batch points"]
    target: Float[Array, "*batch points"]


@dataclasses.dataclass(frozen=True)
class OperatorNetwork:
    """A DeepONet from the start of Burgers' equation to its solution a tenth of a time unit later.

        u_t + u u_x = 0.05 u_xx        0 <= x < 1, periodic
        u(0, x) = Σ_k (a_k sin 2πkx + b_k cos 2πkx) / k,  k = 1, …, 4, with standard normal a, b

    One network, the branch, reads the start on 64 grid points and says 24 numbers; another, the trunk, makes
    24 functions of x. The answer is the sum of these with those weights, u(x) = Σ_j trunk_j(x) branch_j. The
    equation is solved with central differences and 200 explicit Euler steps of 5e-4.

        branch          64 - 48 - 48 - 24, tanh, last layer linear           6648 parameters
        trunk           2 - 48 - 24, tanh, last layer linear, of (sin 2πx, cos 2πx)     1320 parameters
        residual        (answer - solution) / 8, shape (64,)
        sample_loss     sum of residual², the mean of (answer - solution)² over the grid; its mean over the
                        batch is minimised
        data            512 training and 128 test functions; batches are drawn without replacement

    Everything is dimensionless. The loss of functions that training has not seen ends above that of training,
    by some methods ten times.

    Attributes:
        branch_hidden: Widths of the hidden layers of the branch.
        trunk_hidden: Widths of those of the trunk.
        num_features: Functions that the trunk makes.
        num_points: Grid points.
        viscosity: Factor of u_xx.
        num_steps: Time steps of the solver.
        dt: Length of a time step.
        num_train: Number of training samples.
        num_test: Number of test samples.

    Example:
        >>> problem = OperatorNetwork()
        >>> float(problem.solve(jnp.full(64, 0.5)).mean())  # what is constant stays so
        0.5

    References:
        Lu, Jin, Pang, Zhang and Karniadakis, Learning nonlinear operators via DeepONet based on the universal
        approximation theorem of operators, Nature Machine Intelligence 3 (2021) 218: the network. Own task.
    """

    branch_hidden: tuple[int, ...] = (48, 48)
    trunk_hidden: tuple[int, ...] = (48,)
    num_features: int = 24
    num_points: int = 64
    viscosity: float = 0.05
    num_steps: int = 200
    dt: float = 5e-4
    num_train: int = 512
    num_test: int = 128

    @property
    def name(self) -> str:
        """``"operator-network"``."""
        return "operator-network"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 8, "learning_rate": 1.0, "rtol": 1e-3},
            "gauss-newton": {"batch_size": 8, "learning_rate": 1.0, "rtol": 1e-2},
            "adaptive-hig": {"batch_size": 32, "learning_rate": 1.0},
            "adam": {"batch_size": 32, "learning_rate": 1e-3},
            "adam-cosine": {"batch_size": 64, "learning_rate": 3e-3},
            "muon": {"batch_size": 128, "learning_rate": 3e-3},
            "soap": {"batch_size": 32, "learning_rate": 1e-2},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def branch(self) -> DenseNetwork:
        """The network that reads the start."""
        return DenseNetwork((self.num_points, *self.branch_hidden, self.num_features), "tanh")

    @property
    def trunk(self) -> DenseNetwork:
        """The network that reads where the answer is wanted."""
        return DenseNetwork((2, *self.trunk_hidden, self.num_features), "tanh")

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters of both networks."""
        branch_key, trunk_key = jax.random.split(key)
        return {"branch": self.branch.init(branch_key), "trunk": self.trunk.init(trunk_key)}

    def data(self, key: jax.Array) -> tuple[EvolvedSample, EvolvedSample]:
        """Training and test set."""

        def samples(key: jax.Array, size: int) -> EvolvedSample:
            # Sine and cosine of each wave number, (2, 4, points).
            number = jnp.arange(1.0, 5.0, dtype=float)[:, None]
            angle = number * self._angles()
            waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)]) / number
            weights = jax.random.normal(key, (size, 2, 4))
            start = jnp.einsum("nij,ijp->np", weights, waves, precision="highest")
            return EvolvedSample(start, jax.vmap(self.solve)(start))

        train_key, test_key = jax.random.split(key)
        return samples(train_key, self.num_train), samples(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: EvolvedSample, batch_size: int
    ) -> EvolvedSample:
        """Training samples at random, no sample twice; the same ones for the same key and step."""
        return drawn(key, step, train, batch_size)

    def solve(self, start: Float[Array, "points"]) -> Float[Array, "points"]:
        """The solution at the end."""

        def step(u: jax.Array, _: None) -> tuple[jax.Array, None]:
            left, right = jnp.roll(u, 1), jnp.roll(u, -1)
            slope = (right - left) * (self.num_points / 2)
            bend = (right - 2 * u + left) * self.num_points**2
            return u + self.dt * (self.viscosity * bend - u * slope), None

        return jax.lax.scan(step, start, length=self.num_steps)[0]

    def answer(
        self, params: dict[str, Any], start: Float[Array, "points"]
    ) -> Float[Array, "points"]:
        """What the networks make of a start."""
        angle = self._angles()
        where = jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=1)
        functions = jax.vmap(lambda x: self.trunk.apply(params["trunk"], x))(where)
        return jnp.dot(functions, self.branch.apply(params["branch"], start), precision="highest")

    def residual(self, params: dict[str, Any], sample: EvolvedSample) -> Float[Array, "points"]:
        """Rows (answer - solution) / √points."""
        return (self.answer(params, sample.start) - sample.target) / self.num_points**0.5

    def sample_loss(self, rows: Float[Array, "points"], sample: EvolvedSample) -> Float[Array, ""]:
        """Sum of the squares of the rows."""
        del sample
        return jnp.sum(rows**2)

    def _angles(self) -> Float[Array, "points"]:
        """2πx on the grid."""
        return 2 * jnp.pi * jnp.arange(self.num_points, dtype=float) / self.num_points
