"""A chaotic flame front that a network steers from one state to another."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._etd import Etdrk4
from hig_optax.problems._network import DenseNetwork


class FrontSample(NamedTuple):
    """One control task.

    Attributes:
        start: State at time 0.
        target: State wanted at the end; one that can be reached.
    """

    start: Float[Array, "*batch points"]
    target: Float[Array, "*batch points"]


@dataclasses.dataclass(frozen=True)
class KSControl:
    """The Kuramoto-Sivashinsky equation on a ring, pushed by eight actuators for five time units.

        y_t + y y_x + y_xx + y_xxxx = Σ_j c_j b_j(x)        0 <= x < 32, periodic

    The actuators push with b_j, Gaussian bumps of standard deviation 2 at distance 4, and keep their
    strengths c_j from start to end. The network reads the lowest 16 modes of the target and answers with
    c over `strength`. The solver works on 128 grid points, with Fourier modes in space and 20 steps of fourth
    order in time. It starts from y = cos(2πx/32) (1 + sin(2πx/32)); targets are what random strengths,
    uniform in [-0.02, 0.02), make of it, so that rows can vanish. With ten times that strength they are so
    bent a function of the targets that a network of this width ends far higher by any method (Muon 7.5e-4,
    Adam 1.0e-2 after 15 s).

        network         32 - 32 - 32 - 8, tanh, last layer linear            2376 parameters
        control         c, shape (8,)
        physics         y at time 5, shape (128,)
        residual        y - target, shape (128,)
        sample_loss     mean of (y - target)² over the grid; the mean over the batch is minimised
        data            fresh tasks at every step; 256 test tasks, and as many to measure training by

    Everything is dimensionless. One sample brings 128 rows, and eight numbers decide them: a batch of 16
    has 2048 rows and at most 128 directions.

    Attributes:
        hidden: Widths of the hidden layers.
        num_points: Grid points.
        length: Circumference of the ring.
        num_steps: Time steps.
        dt: Length of a time step.
        num_modes: Modes of the target that the network reads.
        num_actuators: Number of actuators.
        strength: Largest strength behind a target, and the unit in which the network tells them.
        num_train: Number of samples in the set that `data` returns for measuring.
        num_test: Number of test samples.

    Example:
        >>> problem = KSControl()
        >>> rest = FrontSample(start=jnp.zeros(128), target=jnp.zeros(128))
        >>> float(jnp.abs(problem.physics(jnp.zeros(8), rest)).max())
        0.0

    References:
        Kassam and Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci. Comput. 26 (2005)
        1214: equation and scheme. Own task.
    """

    hidden: tuple[int, ...] = (32, 32)
    num_points: int = 128
    length: float = 32.0
    num_steps: int = 20
    dt: float = 0.25
    num_modes: int = 16
    num_actuators: int = 8
    strength: float = 0.02
    num_train: int = 256
    num_test: int = 256

    @property
    def name(self) -> str:
        """``"ks-control"``."""
        return "ks-control"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"batch_size": 2, "learning_rate": 1.0, "rtol": 1e-4},
            "gauss-newton": {"batch_size": 2, "learning_rate": 1.0, "rtol": 1e-4},
            "adaptive-hig": {"batch_size": 16, "learning_rate": 1.0},
            "adaptive-lm": {"batch_size": 16, "learning_rate": 1.0},
            "spring": {"batch_size": 4, "learning_rate": 1.0, "damping": 1e-6},
            "geodesic-lm": {"batch_size": 4, "learning_rate": None},
            "adam": {"batch_size": 16, "learning_rate": 3e-3},
            "adam-cosine": {"batch_size": 8, "learning_rate": 1e-2},
            "muon": {"batch_size": 16, "learning_rate": 3e-2},
            "soap": {"batch_size": 16, "learning_rate": 1e-2},
        }

    @property
    def reduction(self) -> str:
        """The mean over the batch."""
        return "mean"

    @property
    def network(self) -> DenseNetwork:
        """The network, from the modes of the target to the strengths."""
        return DenseNetwork((2 * self.num_modes, *self.hidden, self.num_actuators), "tanh")

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh network parameters."""
        return self.network.init(key)

    def data(self, key: jax.Array) -> tuple[FrontSample, FrontSample]:
        """Two sets to measure by; `draw` makes its own samples and uses neither."""
        train_key, test_key = jax.random.split(key)
        return self._samples(train_key, self.num_train), self._samples(test_key, self.num_test)

    def draw(
        self, key: jax.Array, step: jax.Array | int, train: FrontSample, batch_size: int
    ) -> FrontSample:
        """Fresh samples, the same ones for the same key and step."""
        del train
        return self._samples(jax.random.fold_in(key, step), batch_size)

    def control(self, params: dict[str, Any], sample: FrontSample) -> Float[Array, "actuators"]:
        """Strengths of the actuators, from the target."""
        modes = jnp.fft.rfft(sample.target)[1 : self.num_modes + 1] * (2 / self.num_points)
        said = self.network.apply(params, jnp.concatenate([modes.real, modes.imag]))
        return self.strength * said

    def physics(
        self, control: Float[Array, "actuators"], sample: FrontSample
    ) -> Float[Array, "points"]:
        """State y at the end."""
        end, _ = jax.lax.scan(
            lambda v, _: (self._step(v, control), None),
            jnp.fft.rfft(sample.start),
            length=self.num_steps,
        )
        return jnp.fft.irfft(end, self.num_points)

    def trajectory(
        self, control: Float[Array, "actuators"], sample: FrontSample
    ) -> Float[Array, "times points"]:
        """All states from the start on, ``(num_steps + 1, num_points)``: the path `physics` ends."""

        def step(v: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            v = self._step(v, control)
            return v, jnp.fft.irfft(v, self.num_points)

        _, path = jax.lax.scan(step, jnp.fft.rfft(sample.start), length=self.num_steps)
        return jnp.concatenate([sample.start[None], path])

    def residual(self, params: dict[str, Any], sample: FrontSample) -> Float[Array, "points"]:
        """Rows y - target."""
        return self.physics(self.control(params, sample), sample) - sample.target

    def sample_loss(self, rows: Float[Array, "points"], sample: FrontSample) -> Float[Array, ""]:
        """Mean of (y - target)² over the grid."""
        del sample
        return jnp.mean(rows**2)

    def _step(self, v: jax.Array, control: jax.Array) -> jax.Array:
        """One time step of the modes v."""
        scheme, slope, bumps = _solver(
            self.num_points, self.length, self.dt, self.num_actuators, control.dtype
        )
        push = jnp.fft.rfft(jnp.dot(control, bumps, precision="highest"))

        def nonlinear(v: jax.Array) -> jax.Array:
            y = jnp.fft.irfft(v, self.num_points)
            return jnp.fft.rfft(y * y) * slope + push

        return scheme.step(v, nonlinear)

    def _samples(self, key: jax.Array, count: int) -> FrontSample:
        """Tasks that the strengths of this key solve."""
        angle = jnp.asarray(2 * np.pi * np.arange(self.num_points) / self.num_points, float)
        rest = jnp.cos(angle) * (1 + jnp.sin(angle))
        start = jnp.broadcast_to(rest, (count, self.num_points))
        return FrontSample(
            start, jax.vmap(self.physics)(self._strengths(key, count), FrontSample(start, start))
        )

    def _strengths(self, key: jax.Array, count: int) -> Float[Array, "count actuators"]:
        return jax.random.uniform(
            key, (count, self.num_actuators), minval=-self.strength, maxval=self.strength
        )


@functools.cache
def _solver(
    points: int, length: float, dt: float, actuators: int, dtype: Any
) -> tuple[Etdrk4, np.ndarray, np.ndarray]:
    """The scheme, the factor of (y²)^ that gives (-y y_x)^, and the bumps (actuators, points)."""
    k = 2 * np.pi / length * np.arange(points // 2 + 1)
    of_modes = np.result_type(dtype, np.complex64)
    scheme = Etdrk4(*(x.astype(of_modes) for x in Etdrk4.of(k**2 - k**4, dt)))
    slope = -0.5j * k
    slope[-1] = 0.0  # the highest mode of a real field has no phase to turn
    away = length * (np.arange(points) / points - np.arange(actuators)[:, None] / actuators)
    away = (away + length / 2) % length - length / 2
    bumps = np.exp(-((away / (length / actuators / 2)) ** 2) / 2)
    return scheme, slope.astype(of_modes), bumps.astype(dtype)
