"""The Helmholtz equation in a square, with a network for its solution."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, laplacian
from hig_optax.problems._pinn import PhysicsInformed


@dataclasses.dataclass(frozen=True)
class Helmholtz(PhysicsInformed):
    """The Helmholtz equation in a square, for a solution that is known.

        Δu + k² u = q in [-1, 1]²        u given on all four sides
        u = sin(a₁πx) sin(a₂πy), hence q = (k² - (a₁π)² - (a₂π)²) u        a₁ = 1, a₂ = 4, k = 1

        network     2 - 50 - 50 - 50 - 1, tanh                                   5301 parameters
        rows        1000 interior and 200 boundary points, one each              1200
        error       relative L² error of u on a grid of 101 × 101

    Four periods along y: networks find the slow direction first, and the equation's rows are 168 times as
    large as the solution.

    Attributes:
        wave_number: k.
        periods: (a₁, a₂), half periods per unit length along x and y.

    Example:
        >>> problem = Helmholtz()
        >>> float(problem.given(jnp.array([0.5, 0.125])).round(3))
        1.0

    References:
        Wang, Teng and Perdikaris, Understanding and Mitigating Gradient Flow Pathologies in
        Physics-Informed Neural Networks, SIAM J. Sci. Comput. 2021: equation and solution.
    """

    hidden: tuple[int, ...] = (50, 50, 50)
    num_interior: int = 1000
    num_boundary: int = 200
    wave_number: float = 1.0
    periods: tuple[float, float] = (1.0, 4.0)

    @property
    def name(self) -> str:
        """``"helmholtz"``."""
        return "helmholtz"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "gauss-newton": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "spring": {
                "learning_rate": 1.0,
                "damping": 1e-08,
                "max_step_norm": 0.1,
                "solver": "gram",
            },
            "adam": {"learning_rate": 2e-3},
            "adam-cosine": {"learning_rate": 0.01},
            "muon": {"learning_rate": 0.03},
            "soap": {"learning_rate": 0.01},
            "lbfgs": {"learning_rate": None, "memory_size": 10},
            "geodesic-lm": {"learning_rate": None, "solver": "gram-cg", "num_matvecs": 30},
        }

    @property
    def box(self) -> Box:
        """The square [-1, 1]²."""
        return Box.with_all_faces((-1.0, -1.0), (1.0, 1.0))

    @property
    def grid(self) -> tuple[int, int]:
        """Points of `solution` along both axes."""
        return 101, 101

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """Δu + k² u - q."""
        k2 = self.wave_number**2
        q = (k2 - np.pi**2 * sum(a**2 for a in self.periods)) * self.given(x)
        return laplacian(field, x) + k2 * field(x) - q

    def given(self, x: Point) -> Float[Array, ""]:
        """The solution sin(a₁πx) sin(a₂πy)."""
        a1, a2 = self.periods
        return jnp.sin(a1 * np.pi * x[0]) * jnp.sin(a2 * np.pi * x[1])

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """A grid, and the solution there."""
        x = self.box.grid(*self.grid)
        return x, jax.vmap(self.given)(x)
