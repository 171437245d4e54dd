"""Burgers' equation, whose solution steepens to a front, with a network for it."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, along, twice_along
from hig_optax.problems._pinn import PhysicsInformed


@dataclasses.dataclass(frozen=True)
class Burgers(PhysicsInformed):
    """Burgers' equation with little viscosity: a sine that steepens to a front at x = 0.

        u_t + u u_x - ν u_xx = 0 for t in [0, 1], x in [-1, 1]        ν = 0.01 / π
        u(0, x) = -sin(πx)        u(t, ±1) = 0

        network     2 - 20 - 20 - 20 - 20 - 1, tanh, of (t, x)                   1341 parameters
        rows        2000 interior points, 100 at t = 0 and 50 at each end        2200
        error       relative L² error of u on a grid of 101 × 256, against `cole_hopf`

    The front is some 0.01 wide from t = 0.3 on; few of the points lie in it.

    Attributes:
        viscosity: ν.

    Example:
        >>> problem = Burgers()
        >>> problem.given(jnp.array([0.0, 0.5]))
        Array(-1., dtype=float32)

    References:
        Raissi, Perdikaris and Karniadakis, Physics-informed neural networks, J. Comput. Phys. 378 (2019)
        686: equation and data.
    """

    hidden: tuple[int, ...] = (20, 20, 20, 20)
    num_interior: int = 2000
    num_boundary: int = 200
    viscosity: float = 0.01 / np.pi

    @property
    def name(self) -> str:
        """``"burgers"``."""
        return "burgers"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "gauss-newton": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "spring": {
                "learning_rate": 1.0,
                "damping": 0.0001,
                "max_step_norm": 1.0,
                "solver": "gram",
            },
            "adam": {"learning_rate": 2e-3},
            "adam-cosine": {"learning_rate": 0.01},
            "muon": {"learning_rate": 0.03},
            "soap": {"learning_rate": 0.003},
            "lbfgs": {"learning_rate": None, "memory_size": 10},
            "geodesic-lm": {"learning_rate": None, "solver": "gram-cg", "num_matvecs": 30},
        }

    @property
    def box(self) -> Box:
        """Unit time and the interval [-1, 1]; half of the given points lie at the start."""
        return Box((0.0, -1.0), (1.0, 1.0), ((0, 0.0), (1, -1.0), (0, 0.0), (1, 1.0)))

    @property
    def coordinates(self) -> tuple[str, str]:
        """Time and place."""
        return "t", "x"

    @property
    def grid(self) -> tuple[int, int]:
        """Points of `solution` along both axes."""
        return 101, 256

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """u_t + u u_x - ν u_xx."""
        u, u_x, u_xx = twice_along(field, x, 1)
        return along(field, x, 0)[1] + u * u_x - self.viscosity * u_xx

    def given(self, x: Point) -> Float[Array, ""]:
        """-sin(πx), which is 0 at both ends."""
        return -jnp.sin(np.pi * x[1])

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """A grid, and the solution there."""
        x = self.box.grid(*self.grid)
        return x, jnp.asarray(_on_grid(self.viscosity, *self.grid), float)


@functools.cache
def _on_grid(viscosity: float, times: int, places: int) -> np.ndarray:
    t, x = np.meshgrid(np.linspace(0, 1, times), np.linspace(-1, 1, places), indexing="ij")
    return cole_hopf(t.ravel(), x.ravel(), viscosity)


def cole_hopf(t: np.ndarray, x: np.ndarray, viscosity: float, nodes: int = 100) -> np.ndarray:
    """The solution of Burgers' equation from -sin(πx), by Cole and Hopf's transformation.

    u = -2ν φ_x / φ turns the equation into φ_t = ν φ_xx, which Gauss's kernel solves:

        u(t, x) = -∫ sin(πy) f(y) e(z) dz / ∫ f(y) e(z) dz        y = x - √(4νt) z,
        f(y) = exp(-cos(πy) / (2πν)), e(z) = exp(-z²)

    by Gauss-Hermite quadrature.

    Args:
        t: Times from 0 on, any shape; dimensionless, like all here. May be complex, like `x`.
        x: Places, of the same shape.
        viscosity: ν.
        nodes: Of the quadrature. At ν = 0.01/π the error up to t = 1 is 2e-7 with 50 and rounding with 100.

    Returns:
        u, of the same shape.

    Example:
        >>> float(cole_hopf(np.array([0.0]), np.array([0.5]), 0.01)[0])
        -1.0

    References:
        Hopf, The partial differential equation u_t + u u_x = μ u_xx, Comm. Pure Appl. Math. 3 (1950) 201.
    """
    z, weights = np.polynomial.hermite.hermgauss(nodes)
    y = np.pi * (x[..., None] - np.sqrt(4 * viscosity * t)[..., None] * z)
    # The largest f is scaled to 1: it would be e⁵⁰ at ν = 0.01/π, and overflow for less.
    kernel = weights * np.exp(-(1 + np.cos(y)) / (2 * np.pi * viscosity))
    return -np.sum(np.sin(y) * kernel, axis=-1) / np.sum(kernel, axis=-1)
