"""A nerve's oscillation, learned as a differential equation from its trajectories."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._data import consecutive
from hig_optax.problems._network import DenseNetwork

State = Float[Array, "2"]


class Trajectory(NamedTuple):
    """One trajectory.

    Attributes:
        start: State (v, w) at time 0.
        target: States at the later times, evenly spaced.
    """

    start: Float[Array, "*batch 2"]
    target: Float[Array, "*batch times 2"]


@dataclasses.dataclass(frozen=True)
class NeuralODE:
    """The FitzHugh-Nagumo equations, learned as a neural ODE from 80 states of each trajectory.

        v' = v - v³/3 - w + 1/2
        w' = (v + 0.7 - 0.8 w) / 12.5

    The network takes the place of the right-hand side; classical Runge-Kutta steps of 0.25 lead from the
    start through 80 states, which are compared with those of the equations, for steps an eighth as long.

        network         2 - 32 - 32 - 2, tanh, last layer linear             1218 parameters
        residual        states - target, shape (80, 2)
        sample_loss     mean of (states - target)² over states and components; the mean over the batch is
                        minimised
        data            256 training and 256 test starts, uniform in [-2, 2] × [-1, 2]

    Everything is dimensionless. A trajectory brings 160 rows that say much the same: what the right-hand side
    is along one curve in the plane.

    Attributes:
        hidden: Widths of the hidden layers.
        num_times: States of a trajectory.
        dt: Time from one to the next.
        num_train: Number of training samples.
        num_test: Number of test samples.

    Example:
        >>> NeuralODE().path(lambda s: -s, jnp.ones(2)).shape
        (80, 2)

    References:
        FitzHugh, Impulses and physiological states in theoretical models of nerve membrane, Biophys. J. 1
        (1961) 445: the equations. Chen et al., Neural Ordinary Differential Equations, NeurIPS 2018.
    """

    hidden: tuple[int, ...] = (32, 32)
    num_times: int = 80
    dt: float = 0.25
    num_train: int = 256
    num_test: int = 256

    @property
    def name(self) -> str:
        """``"neural-ode"``."""
        return "neural-ode"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 2, "learning_rate": 1.0, "rtol": 1e-4},
            "gauss-newton": {"batch_size": 2, "learning_rate": 1.0, "rtol": 1e-4},
            "adaptive-hig": {"batch_size": 16, "learning_rate": 1.0},
            "adaptive-lm": {"batch_size": 16, "learning_rate": 1.0},
            "spring": {"batch_size": 4, "learning_rate": 1.0, "damping": 1e-2},
            "geodesic-lm": {"batch_size": 16, "learning_rate": None},
            "adam": {"batch_size": 16, "learning_rate": 3e-3},
            "adam-cosine": {"batch_size": 8, "learning_rate": 1e-2},
            "muon": {"batch_size": 32, "learning_rate": 1e-2},
            "soap": {"batch_size": 8, "learning_rate": 1e-2},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from a state to its rate of change."""
        return DenseNetwork((2, *self.hidden, 2), "tanh")

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[Trajectory, Trajectory]:
        """Training and test set."""

        def samples(key: jax.Array, size: int) -> Trajectory:
            low, high = jnp.array([-2.0, -1.0]), jnp.array([2.0, 2.0])
            start = jax.random.uniform(key, (size, 2), minval=low, maxval=high)
            return Trajectory(start, jax.vmap(lambda s: self.path(_nerve, s, substeps=8))(start))

        train_key, test_key = jax.random.split(key)
        return samples(train_key, self.num_train), samples(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: Trajectory, batch_size: int
    ) -> Trajectory:
        """Consecutive training samples; the key has no say."""
        del key
        return consecutive(step, train, batch_size)

    def path(
        self, slope: Callable[[State], State], start: State, substeps: int = 1
    ) -> Float[Array, "times 2"]:
        """The states after the start, (num_times, 2), where s' = slope(s)."""

        def step(s: State, _: None) -> tuple[State, State]:
            for _step in range(substeps):
                s = _runge_kutta(slope, s, self.dt / substeps)
            return s, s

        return jax.lax.scan(step, start, length=self.num_times)[1]

    def residual(self, params: dict[str, Any], sample: Trajectory) -> Float[Array, "times 2"]:
        """Rows states - target."""
        return self.path(lambda s: self.network.apply(params, s), sample.start) - sample.target

    def sample_loss(self, rows: Float[Array, "times 2"], sample: Trajectory) -> Float[Array, ""]:
        """Mean of (states - target)²."""
        del sample
        return jnp.mean(rows**2)


def _nerve(state: State) -> State:
    v, w = state
    return jnp.stack([v - v * v * v / 3 - w + 0.5, (v + 0.7 - 0.8 * w) / 12.5])


def _runge_kutta(slope: Callable[[State], State], s: State, h: float) -> State:
    """One classical step of fourth order."""
    k1 = slope(s)
    k2 = slope(s + h / 2 * k1)
    k3 = slope(s + h / 2 * k2)
    k4 = slope(s + h * k3)
    return s + h / 6 * (k1 + 2 * (k2 + k3) + k4)
