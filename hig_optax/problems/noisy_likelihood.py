"""A field and its noise to recover from readings: a loss that is no sum of squares, and ends below zero."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._network import Activation, DenseNetwork
from hig_optax.problems._readings import FieldSample, field, points


@dataclasses.dataclass(frozen=True)
class NoisyLikelihood:
    """A field in the plane and the noise of its readings, which a network recovers as the likeliest ones.

    A sensor reads the field u at a point with normal noise that is larger at the sides than in the middle,

        target = u(x) + σ(x) · normal        u(x) = sin(3 x₁) cos(2 x₂)        σ(x) = least + rise · x₁²

    and the network says the mean m of a reading and the logarithm l of its standard deviation. What is
    minimised is the negative logarithm of their likelihood, without the constant log √(2π). It is no sum
    of squares and has no end at zero: the field and the noise themselves have E[log σ] + 1/2, which is -1.3.

        network         2 - 32 - 32 - 2, tanh, last layer linear     1218 parameters
        residual        (m, l), shape (2,): two rows, and no errors
        sample_loss     l + ((target - m) e⁻ˡ)² / 2; the mean over the batch is minimised
        data            fresh uniform x and noise at every step; 2048 test points

    Everything is dimensionless. The test loss is the `divergence` of the network's normal distribution from
    the true one, by which the mean of `sample_loss` over all readings is above its least: 0 at the truth, and
    1.2 for the best constants.

    Attributes:
        least: Standard deviation of the noise at x₁ = 0.
        rise: What it is more at x₁ = ±1.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of samples in the set that `data` returns for measuring.
        num_test: Number of test samples.

    Example:
        >>> problem = NoisyLikelihood()
        >>> sample = FieldSample(x=jnp.array([0.5, 0.0]), target=jnp.array(1.0))
        >>> truth = jnp.stack([problem.mean(sample.x), jnp.log(problem.spread(sample.x))])
        >>> float(problem.divergence(truth, sample))
        0.0
        >>> wide = truth.at[1].add(1.0)
        >>> round(float(problem.divergence(wide, sample)), 3)
        0.568

    References:
        Nix and Weigend, Estimating the Mean and Variance of the Target Probability Distribution, ICNN 1994:
        the loss. Own task.
    """

    least: float = 0.05
    rise: float = 0.5
    activation: Activation = "tanh"
    hidden: tuple[int, ...] = (32, 32)
    num_train: int = 2048
    num_test: int = 2048

    @property
    def name(self) -> str:
        """``"noisy-likelihood"``."""
        return "noisy-likelihood"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 128, "learning_rate": 0.3, "rtol": 1e-4},
            "gauss-newton": {"batch_size": 128, "learning_rate": 0.3, "rtol": 1e-2},
            "adaptive-hig": {"batch_size": 128, "learning_rate": 1.0},
            "adam": {"batch_size": 256, "learning_rate": 3e-3},
            "adam-cosine": {"batch_size": 64, "learning_rate": 3e-3},
            "muon": {"batch_size": 256, "learning_rate": 3e-3},
            "soap": {"batch_size": 256, "learning_rate": 3e-3},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from a point to the mean of a reading there and the logarithm of its spread."""
        return DenseNetwork((2, *self.hidden, 2), self.activation)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[FieldSample, FieldSample]:
        """Two sets to measure by, of readings like those that `draw` makes."""
        train_key, test_key = jax.random.split(key)
        return self._samples(train_key, self.num_train), self._samples(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: FieldSample, batch_size: int
    ) -> FieldSample:
        """Fresh readings, the same ones for the same key and step."""
        del train
        return self._samples(jax.random.fold_in(key, step), batch_size)

    def mean(self, x: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """The field u: the mean of the readings at a point."""
        return field(x)

    def spread(self, x: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
        """σ, the standard deviation of the readings at a point."""
        return self.least + self.rise * x[..., 0] ** 2

    def residual(self, params: dict[str, Any], sample: FieldSample) -> Float[Array, "2"]:
        """Rows (m, l): what the network says of a reading at the sample's point."""
        return self.network.apply(params, sample.x)

    def sample_loss(self, rows: Float[Array, "2"], sample: FieldSample) -> Float[Array, ""]:
        """The negative log likelihood l + ((target - m) e⁻ˡ)² / 2, without its constant."""
        m, log_spread = rows
        return log_spread + ((sample.target - m) * jnp.exp(-log_spread)) ** 2 / 2

    def divergence(self, rows: Float[Array, "2"], sample: FieldSample) -> Float[Array, ""]:
        """How far the rows are from the truth at the sample's point, whatever was read there.

        The Kullback-Leibler divergence of the normal distribution (m, eˡ) from the true one, (u, σ), in
        nats. With d = log σ - l it is (e²ᵈ - 1 - 2 d) / 2 + ((u - m) e⁻ˡ)² / 2: never negative but for
        rounding.
        """
        m, log_spread = rows
        d = jnp.log(self.spread(sample.x)) - log_spread
        missed = (self.mean(sample.x) - m) * jnp.exp(-log_spread)
        return (jnp.expm1(2 * d) - 2 * d + missed**2) / 2

    def _samples(self, key: jax.Array, count: int) -> FieldSample:
        x_key, noise_key = jax.random.split(key)
        x = points(x_key, count)
        noise = self.spread(x) * jax.random.normal(noise_key, (count,))
        return FieldSample(x, self.mean(x) + noise)
