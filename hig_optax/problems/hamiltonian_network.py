"""Three coupled pendulums, learned as an energy whose derivatives are the equations of motion."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._data import drawn
from hig_optax.problems._network import DenseNetwork

State = Float[Array, "6"]


class MotionSample(NamedTuple):
    """One measurement of the motion.

    Attributes:
        state: Where the pendulums are and how fast they move, z = (q₁, q₂, q₃, p₁, p₂, p₃).
        target: The measured rate of change z', with noise in training and without in the test set.
    """

    state: Float[Array, "*batch 6"]
    target: Float[Array, "*batch 6"]


@dataclasses.dataclass(frozen=True)
class HamiltonianNetwork:
    """A chain of three pendulums, whose energy a network learns from noisy measurements of the motion.

        E(q, p) = Σ p_i²/2 + Σ (1 - cos q_i) + (q₁ - q₂)²/2 + (q₂ - q₃)²/2

    The network says one number H(z) for a state z = (q, p). What is compared with the measurements is the
    motion that follows from it, q' = ∂H/∂p and p' = -∂H/∂q, so that whatever it learns conserves an energy.

        network         6 - 64 - 64 - 1, tanh, last layer linear             4673 parameters
        physics         (∂H/∂p, -∂H/∂q), shape (6,)
        residual        field - target, shape (6,)
        sample_loss     sum of (field - target)²; the mean over the batch is minimised
        data            2000 states, z standard normal, with noise of 0.02 on each of the six numbers of the
                        target; 1000 test states without noise; batches are drawn without replacement

    Everything is dimensionless. The noise alone brings 6 · 0.02² = 2.4e-3 to the loss of a training batch;
    the test loss, without it, can fall lower. The rows hold derivatives of the network by its input, and
    training differentiates them once more.

    Attributes:
        noise: Standard deviation of the noise.
        hidden: Widths of the hidden layers.
        num_train: Number of training samples.
        num_test: Number of test samples.

    Example:
        >>> problem = HamiltonianNetwork()
        >>> free = lambda z: jnp.sum(z[3:] ** 2) / 2
        >>> problem.field(free, jnp.array([0.0, 0.0, 0.0, 1.0, 2.0, 3.0])).tolist()
        [1.0, 2.0, 3.0, -0.0, -0.0, -0.0]

    References:
        Greydanus, Dzamba and Yosinski, Hamiltonian Neural Networks, NeurIPS 2019: the method. Own task.
    """

    noise: float = 0.02
    hidden: tuple[int, ...] = (64, 64)
    num_train: int = 2000
    num_test: int = 1000

    @property
    def name(self) -> str:
        """``"hamiltonian-network"``."""
        return "hamiltonian-network"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 16, "learning_rate": 1.0, "rtol": 1e-4},
            "gauss-newton": {"batch_size": 32, "learning_rate": 1.0, "rtol": 1e-2},
            "adaptive-hig": {"batch_size": 64, "learning_rate": 1.0},
            "adam": {"batch_size": 64, "learning_rate": 1e-3},
            "adam-cosine": {"batch_size": 16, "learning_rate": 1e-2},
            "muon": {"batch_size": 16, "learning_rate": 1e-2},
            "soap": {"batch_size": 64, "learning_rate": 3e-2},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from a state to its energy."""
        return DenseNetwork((6, *self.hidden, 1), "tanh")

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[MotionSample, MotionSample]:
        """Training set with noise, and test set without."""

        def samples(key: jax.Array, size: int) -> MotionSample:
            state = jax.random.normal(key, (size, 6))
            return MotionSample(state, jax.vmap(self.motion)(state))

        train_key, test_key, noise_key = jax.random.split(key, 3)
        train, test = samples(train_key, self.num_train), samples(test_key, self.num_test)
        noise = self.noise * jax.random.normal(noise_key, train.target.shape)
        return train._replace(target=train.target + noise), test

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: MotionSample, batch_size: int
    ) -> MotionSample:
        """Training samples at random, no sample twice; the same ones for the same key and step."""
        return drawn(key, step, train, batch_size)

    def motion(self, state: State) -> State:
        """How the pendulums move: z' without noise."""
        return self.field(_energy, state)

    def field(self, energy: Callable[[State], Float[Array, ""]], state: State) -> State:
        """The motion (∂H/∂p, -∂H/∂q) at a state, where H = energy(state)."""
        slope = jax.grad(energy)(state)
        return jnp.concatenate([slope[3:], -slope[:3]])

    def residual(self, params: dict[str, Any], sample: MotionSample) -> State:
        """Rows field - target."""
        return self.field(lambda z: self.network.apply(params, z)[0], sample.state) - sample.target

    def sample_loss(self, rows: State, sample: MotionSample) -> Float[Array, ""]:
        """Sum of (field - target)²."""
        del sample
        return jnp.sum(rows**2)


def _energy(state: State) -> Float[Array, ""]:
    q, p = state[:3], state[3:]
    return jnp.sum(p**2 / 2 + 1 - jnp.cos(q)) + jnp.sum(jnp.diff(q) ** 2) / 2
