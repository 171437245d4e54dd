"""A curve in the plane to fit, behind a physics that shrinks one of its two components."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax.problems._network import Activation, DenseNetwork


class ToySample(NamedTuple):
    """One point of the curve.

    Attributes:
        x: Position along the curve, in [-1, 1].
        target: The curve's point there, (sin 6x, cos 9x).
    """

    x: Float[Array, "*batch"]
    target: Float[Array, "*batch 2"]


@dataclasses.dataclass(frozen=True)
class Toy:
    """A curve in the plane to fit with seven neurons, one component shrunk by λ: 0.01, or 1 if balanced.

    A network with output (c1, c2) is to learn the curve ŷ(x) = (sin 6x, cos 9x) on [-1, 1], but
    its second output reaches the loss shrunk by a factor λ:

        y = (c1, λ c2)        L = ½ (c1 - sin 6x)² + ½ (λ c2 - cos 9x)²

    This mimics a simulator whose state has components of unequal scale. At λ = 1 the problem is
    balanced; at λ = 0.01 the network's second output must grow to a hundred times the first.

        network         1 - 7 - 2, tanh, last layer linear                   30 parameters
        control         the network's output (c1, c2), shape (2,)
        physics         y = (c1, λ c2), shape (2,)
        residual        y - target, shape (2,)
        sample_loss     ½ Σ(y - target)²; the mean over the batch is minimised
        data            fresh uniform x at every step; 512 evenly spaced x to test by

    Everything is dimensionless.

    The book writes y for the network's output and λ into the loss. Here λ belongs to the physics
    and thus to the Jacobian, where a method that inverts the Jacobian can see it; the loss is the
    same number. With λ in the loss alone, the rows (c1, c2) are perfectly scaled, a full inversion
    has nothing to invert, and the second component moves λ² as fast as the first: in float64 and
    over 3000 steps, half-inverse gradients stayed at a loss of 0.24, against 1e-3 to 1e-2 so.

    The book's figure shows three things, and `neurons` gives the second of them: the loss; mean
    and standard deviation of the neurons' activations over many x, where a standard deviation that
    goes to zero tells that the neurons have saturated and are lost; and the way of one y to its
    target.

    Recommended settings are for batches of 128. Half-inverse gradients take learning rate 1.
    Gauss-Newton takes its full step, pinv(J) (y - target): as the loss is a mean, its gradient by
    the rows is (y - target) / 128, hence learning rate 128. It saturates the neurons at either
    λ.

    Attributes:
        lam: Factor λ on the second output.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of samples in the set that `data` returns for measuring.
        num_test: Number of test samples.

    Example:
        >>> problem = Toy(lam=0.1)
        >>> sample = ToySample(x=jnp.zeros(()), target=jnp.array([0.0, 1.0]))
        >>> problem.physics(jnp.array([1.0, 2.0]), sample)
        Array([1. , 0.2], dtype=float32)

    References:
        Thuerey et al., Physics-based Deep Learning, chapter Half-Inverse Gradients: curve, loss
        and network. Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning,
        ICLR 2022: the method.
    """

    lam: float = 0.01
    activation: Activation = "tanh"
    hidden: tuple[int, ...] = (7,)
    num_train: int = 512
    num_test: int = 512

    @property
    def name(self) -> str:
        """``"toy-balanced"`` where λ is 1, else ``"toy"``."""
        return "toy-balanced" if self.lam == 1 else "toy"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 128, "learning_rate": 1.0, "rtol": 1e-6},
            "adaptive-hig": {"batch_size": 128, "learning_rate": 1.0},
            "adaptive-lm": {"batch_size": 128, "learning_rate": 1.0},
            "gauss-newton": {"batch_size": 128, "learning_rate": 128.0, "rtol": 1e-6},
            "adam": {"batch_size": 128, "learning_rate": 3e-3},
            "muon": {"batch_size": 128, "learning_rate": 3e-3, "schedule": "cosine"},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from x to a point in the plane."""
        return DenseNetwork((1, *self.hidden, 2), self.activation)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[ToySample, ToySample]:
        """Two sets to measure by: random points like those that `draw` makes, and a grid."""
        grid = jnp.linspace(-1.0, 1.0, self.num_test)
        return self._samples(key, self.num_train), ToySample(grid, _curve(grid))

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: ToySample, batch_size: int
    ) -> ToySample:
        """Fresh samples, the same ones for the same key and step."""
        del train
        return self._samples(jax.random.fold_in(key, step), batch_size)

    def control(self, params: dict[str, Any], sample: ToySample) -> Float[Array, "2"]:
        """The network's output (c1, c2)."""
        return self.network.apply(params, sample.x[None])

    def physics(self, control: Float[Array, "2"], sample: ToySample) -> Float[Array, "2"]:
        """The output with its second component shrunk."""
        del sample
        return control * jnp.array([1.0, self.lam], control.dtype)

    def residual(self, params: dict[str, Any], sample: ToySample) -> Float[Array, "2"]:
        """Rows y - target."""
        return self.physics(self.control(params, sample), sample) - sample.target

    def sample_loss(self, rows: Float[Array, "2"], sample: ToySample) -> Float[Array, ""]:
        """½ Σ(y - target)²."""
        del sample
        return jnp.sum(rows**2) / 2

    def neurons(self, params: dict[str, Any], sample: ToySample) -> Float[Array, "neurons"]:
        """Activations of the last hidden layer, each in (-1, 1); ±1 is saturation."""
        return self.network.hidden(params, sample.x[None])

    def _samples(self, key: jax.Array, count: int) -> ToySample:
        x = jax.random.uniform(key, (count,), minval=-1.0, maxval=1.0)
        return ToySample(x, _curve(x))


def _curve(x: Float[Array, "count"]) -> Float[Array, "count 2"]:
    return jnp.stack([jnp.sin(6 * x), jnp.cos(9 * x)], axis=-1)
