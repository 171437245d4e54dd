"""A field to recover from noisy readings: a sum of squares that has no zero."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from jaxtyping import Array, Float

from hig_optax.problems._network import Activation, DenseNetwork
from hig_optax.problems._readings import FieldSample, field, points


@dataclasses.dataclass(frozen=True)
class NoisyField:
    """A field in the plane that a network recovers from readings with noise.

    The network says what the field u is at a point; a sensor reads it there with normal noise,

        y = u(x)        target = sin(3 x₁) cos(2 x₂) + noise · normal

    so that the loss of no batch can fall to zero, and a step that fits its batch fits the noise. In the other
    problems here rows can all vanish, and such steps are the best there are.

        network         2 - 32 - 32 - 1, tanh, last layer linear     1185 parameters
        control         u(x), scalar
        physics         y = u(x), scalar
        residual        y - target, scalar: one row
        sample_loss     (y - target)²; the mean over the batch is minimised
        data            fresh uniform x and noise at every step; 2048 test points without noise

    Everything is dimensionless. The test loss is the squared error of the field itself; that of
    the best constant is 0.26.

    Attributes:
        noise: Standard deviation of the noise.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of samples in the set that `data` returns for measuring.
        num_test: Number of test samples.

    Example:
        >>> import jax.numpy as jnp
        >>> problem = NoisyField(noise=0.0)
        >>> train, _ = problem.data(jax.random.key(0))
        >>> bool(jnp.allclose(train.target, jnp.sin(3 * train.x[:, 0]) * jnp.cos(2 * train.x[:, 1])))
        True

    References:
        Own problem.
    """

    noise: float = 0.3
    activation: Activation = "tanh"
    hidden: tuple[int, ...] = (32, 32)
    num_train: int = 2048
    num_test: int = 2048

    @property
    def name(self) -> str:
        """``"noisy-field"``."""
        return "noisy-field"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 32, "learning_rate": 1.0, "rtol": 1e-4},
            "adaptive-hig": {"batch_size": 128, "learning_rate": 1.0},
            "adaptive-lm": {"batch_size": 128, "learning_rate": 1.0},
            "gauss-newton": {"batch_size": 32, "learning_rate": 1.0, "rtol": 1e-4},
            "adam": {"batch_size": 64, "learning_rate": 1e-3},
            "adam-cosine": {"batch_size": 256, "learning_rate": 3e-3},
            "muon": {"batch_size": 256, "learning_rate": 3e-3, "schedule": "cosine"},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from a point to the field there."""
        return DenseNetwork((2, *self.hidden, 1), self.activation)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[FieldSample, FieldSample]:
        """Two sets to measure by: noisy readings like those that `draw` makes, and the field itself."""
        train_key, test_key = jax.random.split(key)
        x = points(test_key, self.num_test)
        return self._samples(train_key, self.num_train), FieldSample(x, field(x))

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: FieldSample, batch_size: int
    ) -> FieldSample:
        """Fresh readings, the same ones for the same key and step."""
        del train
        return self._samples(jax.random.fold_in(key, step), batch_size)

    def control(self, params: dict[str, Any], sample: FieldSample) -> Float[Array, ""]:
        """The field at the sample's point."""
        return self.network.apply(params, sample.x)[0]

    def physics(self, control: Float[Array, ""], sample: FieldSample) -> Float[Array, ""]:
        """What a perfect sensor reads: the field."""
        del sample
        return control

    def residual(self, params: dict[str, Any], sample: FieldSample) -> Float[Array, ""]:
        """Row y - target."""
        return self.physics(self.control(params, sample), sample) - sample.target

    def sample_loss(self, rows: Float[Array, ""], sample: FieldSample) -> Float[Array, ""]:
        """(y - target)²."""
        del sample
        return rows**2

    def _samples(self, key: jax.Array, count: int) -> FieldSample:
        x_key, noise_key = jax.random.split(key)
        x = points(x_key, count)
        return FieldSample(x, field(x) + self.noise * jax.random.normal(noise_key, (count,)))
