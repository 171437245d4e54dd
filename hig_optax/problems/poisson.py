"""A Poisson equation that a network learns to solve: its physics is the Laplacian."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._network import Activation, DenseNetwork


class PoissonSample(NamedTuple):
    """One Poisson equation.

    Attributes:
        target: Right-hand side; what the network reads and the loss compares with.
        field: Solution, from which the right-hand side was made; for comparison only.
    """

    target: Float[Array, "*batch n n"]
    field: Float[Array, "*batch n n"]


@dataclasses.dataclass(frozen=True)
class Poisson:
    """Poisson's equation on a grid of 8 × 8 cells, right-hand side in, solution out.

    The network reads a right-hand side t and answers with a field x. The physics is the 5-point
    Laplacian with grid distance 1, for a field that is zero outside the grid,

        y_ij = x_{i-1,j} + x_{i+1,j} + x_{i,j-1} + x_{i,j+1} - 4 x_ij

    so that y = t where x solves Poisson's equation.

        network         64 - 64 - 128 - 64 - 64, tanh, last layer linear     24896 parameters
        control         x, shape (8, 8): the field itself
        physics         y = Laplacian of x, shape (8, 8)
        residual        y - target, shape (8, 8): 64 rows
        sample_loss     ½ Σ(y - target)²; the sum over the batch is minimised, not the mean
        data            fresh at every step; 256 test samples, and as many to measure training by

    Everything is dimensionless. The fields are smooth noise (`smooth_noise`) and the right-hand
    sides their Laplacians. As each step draws its own, from its key and its number, the network
    cannot fit samples by heart, and no sample ever comes back.

    The physics is linear and well understood: its singular values lie between 0.24 and 7.8, the
    smooth fields at the small end. The smooth part of a solution, which dominates the data, is
    thus what a gradient moves least. The singular values of the Jacobian span little more than two
    decades, 127 to 0.9 for a batch of 8, and all of them matter. The difficulty is their number: a
    batch of 64 has a Jacobian of 4096 × 24896.

    Recommended settings are the paper's: for half-inverse gradients, batches of 64 at learning
    rate 0.01, singular values cut below 1e-5 of the largest; for Adam, the same batches at 3e-4.
    The sum over the batch is why the learning rate of the former is small. Those of the other methods
    were searched for.

    Attributes:
        size: Number n of cells along an edge.
        activation: Activation of the hidden layers.
        hidden: Widths of the hidden layers.
        num_train: Number of samples in the set that `data` returns for measuring.
        num_test: Number of test samples.

    Example:
        >>> problem = Poisson()
        >>> params = problem.init(jax.random.key(0))
        >>> train, _ = problem.data(jax.random.key(1))
        >>> batch = problem.draw(jax.random.key(2), 0, train, 64)
        >>> jax.vmap(problem.residual, in_axes=(None, 0))(params, batch).shape
        (64, 8, 8)

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022,
        and the authors' code: physics, network, noise and settings.
    """

    size: int = 8
    activation: Activation = "tanh"
    hidden: tuple[int, ...] = (64, 128, 64)
    num_train: int = 256
    num_test: int = 256

    @property
    def name(self) -> str:
        """``"poisson"``."""
        return "poisson"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 64, "learning_rate": 0.01, "rtol": 1e-5},
            "adaptive-hig": {
                "batch_size": 64,
                "learning_rate": 1.0,
                "solver": "krylov",
                "num_matvecs": 10,
                "momentum": 0.99,
                "max_relative_step": 0.01,
            },
            "spring": {
                "batch_size": 128,
                "learning_rate": 1.0,
                "solver": "krylov",
                "num_matvecs": 5,
                "damping": 1.0,
                "max_step_norm": 0.1,
            },
            "adaptive-lm": {
                "batch_size": 64,
                "learning_rate": 1.0,
                "solver": "krylov",
                "num_matvecs": 5,
            },
            "gauss-newton": {"batch_size": 64, "learning_rate": 0.01, "rtol": 1e-5},
            "adam": {"batch_size": 64, "learning_rate": 3e-4},
            "muon": {"batch_size": 256, "learning_rate": 1e-2, "schedule": "cosine"},
        }

    @property
    def reduction(self) -> str:
        """The sum over the batch."""
        return "sum"

    @property
    def network(self) -> DenseNetwork:
        """The network, from right-hand side to field, both raveled."""
        return DenseNetwork((self.size**2, *self.hidden, self.size**2), self.activation)

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[PoissonSample, PoissonSample]:
        """Two sets to measure by; `draw` makes its own samples and uses neither."""
        train_key, test_key = jax.random.split(key)
        return self._samples(train_key, self.num_train), self._samples(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: PoissonSample, batch_size: int
    ) -> PoissonSample:
        """Fresh samples, the same ones for the same key and step."""
        del train
        return self._samples(jax.random.fold_in(key, step), batch_size)

    def control(self, params: dict[str, Any], sample: PoissonSample) -> Float[Array, "n n"]:
        """The field x, from the right-hand side."""
        field = self.network.apply(params, sample.target.ravel())
        return field.reshape(sample.target.shape)

    def physics(self, control: Float[Array, "n n"], sample: PoissonSample) -> Float[Array, "n n"]:
        """The Laplacian y of a field."""
        del sample
        return laplacian(control)

    def residual(self, params: dict[str, Any], sample: PoissonSample) -> Float[Array, "n n"]:
        """Rows y - target."""
        return self.physics(self.control(params, sample), sample) - sample.target

    def sample_loss(self, rows: Float[Array, "n n"], sample: PoissonSample) -> Float[Array, ""]:
        """½ Σ(y - target)²."""
        del sample
        return jnp.sum(rows**2) / 2

    def _samples(self, key: jax.Array, count: int) -> PoissonSample:
        field = smooth_noise(key, count, self.size)
        return PoissonSample(target=jax.vmap(laplacian)(field), field=field)


def laplacian(field: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """The 5-point Laplacian with grid distance 1 of a field that is zero outside its grid.

    The grid's sines, sin(π p i / (n+1)) · sin(π q j / (n+1)) for i, j from 1, are its
    eigenvectors, with eigenvalues 2 cos(π p / (n+1)) + 2 cos(π q / (n+1)) - 4.

    Example:
        >>> laplacian(jnp.ones((3, 3)))
        Array([[-2., -1., -2.],
               [-1.,  0., -1.],
               [-2., -1., -2.]], dtype=float32)
    """
    padded = jnp.pad(field, 1)
    vertical = padded[:-2, 1:-1] + padded[2:, 1:-1]
    horizontal = padded[1:-1, :-2] + padded[1:-1, 2:]
    return vertical + horizontal - 4 * field


def smooth_noise(key: jax.Array, count: int, size: int) -> Float[Array, "count size size"]:
    """Random fields whose amplitudes fall with the square of the wave number.

    White complex noise r is divided by k² in Fourier space, without the mode k = 0, and the real
    part of what comes back is scaled to standard deviation 1: Re(ifft2(r / k²)) / std, with
    k = 10 times the sample frequencies along each axis (a factor that the scaling removes again).
    On a grid of 8 × 8 the longest waves carry most of the field.

    Args:
        key: Random key.
        count: Number of fields.
        size: Number of cells along an edge, at least 2.

    Returns:
        Periodic fields, shape ``(count, size, size)``, in JAX's default float dtype; each has mean
        0 and standard deviation 1 over its own cells, up to rounding.
    """
    k = 10 * np.fft.fftfreq(size)
    k2 = k[:, None] ** 2 + k[None, :] ** 2
    falloff = np.divide(1.0, k2, where=k2 > 0, out=np.zeros_like(k2))
    real, imag = jax.random.normal(key, (2, count, size, size))
    spectrum = jax.lax.complex(real, imag) * jnp.asarray(falloff, real.dtype).astype(complex)
    field = jnp.fft.ifft2(spectrum).real
    field = field / jnp.std(field, axis=(1, 2), keepdims=True)
    return field - jnp.mean(field, axis=(1, 2), keepdims=True)
