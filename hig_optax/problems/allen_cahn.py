"""The Allen-Cahn equation, whose solution falls into two phases, with a network for it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, along, twice_along
from hig_optax.problems._etd import Etdrk4
from hig_optax.problems._network import DenseNetwork
from hig_optax.problems._pinn import PhysicsInformed

TIMES = 100  # intervals of the grid of the reference, and
PLACES = 256  # its points along x


@dataclasses.dataclass(frozen=True)
class AllenCahn(PhysicsInformed):
    """The Allen-Cahn equation on a ring: two phases, u = ±1, part with sharp walls between them.

        u_t - D u_xx - 5 (u - u³) = 0 for t in [0, 1], x in [-1, 1], periodic        D = 1e-4
        u(0, x) = x² cos(πx)

    The network reads (t, cos πx, sin πx), so that every answer is periodic.

        network     3 - 32 - 32 - 32 - 1, tanh                                   2273 parameters
        rows        1500 interior points and 200 at t = 0, one each              1700
        error       relative L² error of u on a grid of 101 × 256, against `etdrk4_solution`

    u = 0 solves the equation too, and is what a network finds that has not learned the start.

    Attributes:
        diffusion: D.
        rate: Factor of u - u³.

    Example:
        >>> AllenCahn().given(jnp.array([0.0, -1.0]))
        Array(-1., dtype=float32)

    References:
        Raissi, Perdikaris and Karniadakis, Physics-informed neural networks, J. Comput. Phys. 378 (2019)
        686: equation and data.
    """

    hidden: tuple[int, ...] = (32, 32, 32)
    num_interior: int = 1500
    num_boundary: int = 200
    boundary_weight: float = 100.0
    diffusion: float = 1e-4
    rate: float = 5.0

    @property
    def name(self) -> str:
        """``"allen-cahn"``."""
        return "allen-cahn"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"learning_rate": 0.02, "rtol": 1e-6, "solver": "gram"},
            "gauss-newton": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "spring": {
                "learning_rate": 1.0,
                "damping": 0.0001,
                "max_step_norm": 1.0,
                "solver": "gram",
            },
            "adam": {"learning_rate": 2e-3},
            "adam-cosine": {"learning_rate": 0.01},
            "muon": {"learning_rate": 0.01},
            "soap": {"learning_rate": 0.01},
            "lbfgs": {"learning_rate": None, "memory_size": 50},
            "geodesic-lm": {"learning_rate": None, "solver": "gram-cg", "num_matvecs": 100},
        }

    @property
    def box(self) -> Box:
        """Unit time and the interval [-1, 1]; given at the start alone."""
        return Box((0.0, -1.0), (1.0, 1.0), ((0, 0.0),))

    @property
    def network(self) -> DenseNetwork:
        """The network, from (t, cos πx, sin πx) to u."""
        return DenseNetwork((3, *self.hidden, 1), "tanh")

    def field(self, params: dict[str, Any], x: Point) -> Float[Array, ""]:
        """What the network says at one point."""
        angle = np.pi * x[1]
        return self.network.apply(params, jnp.stack([x[0], jnp.cos(angle), jnp.sin(angle)]))[0]

    @property
    def coordinates(self) -> tuple[str, str]:
        """Time and place."""
        return "t", "x"

    @property
    def grid(self) -> tuple[int, int]:
        """Points of `solution` along both axes."""
        return TIMES + 1, PLACES

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """u_t - D u_xx - 5 (u - u³)."""
        u, _, u_xx = twice_along(field, x, 1)
        reaction = self.rate * (u - u * u * u)
        return along(field, x, 0)[1] - self.diffusion * u_xx - reaction

    def given(self, x: Point) -> Float[Array, ""]:
        """x² cos(πx)."""
        return x[1] ** 2 * jnp.cos(np.pi * x[1])

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """A grid, its right end left out as the ring closes there, and the solution."""
        t, x = np.linspace(0, 1, TIMES + 1), 2 * np.arange(PLACES) / PLACES - 1
        points = np.stack(np.meshgrid(t, x, indexing="ij"), axis=-1).reshape(-1, 2)
        u = _on_grid(self.diffusion, self.rate)
        return jnp.asarray(points, float), jnp.asarray(u, float).ravel()


@functools.cache
def _on_grid(diffusion: float, rate: float) -> np.ndarray:
    u = etdrk4_solution(diffusion, rate)
    return u[:, :: u.shape[1] // PLACES]


def etdrk4_solution(
    diffusion: float, rate: float, points: int = 2048, steps_per_interval: int = 4
) -> np.ndarray:
    """The solution by Fourier modes in space and exponential time differencing.

    The start has a kink where the ring closes, at x = ±1, which diffusion rounds off. It decides the error:
    6e-5 at t = 0.01, 3e-10 at the end and 8e-7 in relative L² norm over all, by comparison with twice as many
    modes and eight times as many steps.

    Args:
        diffusion: D.
        rate: Factor of u - u³.
        points: Grid points and modes.
        steps_per_interval: Time steps per hundredth of the unit time.

    Returns:
        u at the times 0, 0.01, …, 1 and the places -1 + 2 j / points, (101, points).
    """
    x = 2 * np.arange(points) / points - 1
    k = np.pi * np.arange(points // 2 + 1)
    step = Etdrk4.of(rate - diffusion * k**2, 1 / (TIMES * steps_per_interval)).step
    v = np.fft.rfft(x**2 * np.cos(np.pi * x))
    states = [v]
    for _ in range(TIMES):
        for _ in range(steps_per_interval):
            v = step(v, lambda v: -rate * np.fft.rfft(np.fft.irfft(v, points) ** 3))
        states.append(v)
    return np.fft.irfft(np.array(states), points)
