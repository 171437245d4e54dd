"""The heat equation in one dimension, with a network for its solution in space and time."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, along, twice_along
from hig_optax.problems._pinn import PhysicsInformed


@dataclasses.dataclass(frozen=True)
class Heat(PhysicsInformed):
    """The heat equation on an interval, for a solution that is known.

        u_t - u_xx / 4 = 0 for t, x in [0, 1]        u given at t = 0, x = 0 and x = 1
        u = exp(-π² t / 4) sin(πx)

        network     2 - 64 - 1, tanh, of (t, x)                                  257 parameters
        rows        900 interior points, 30 at t = 0 and 30 at each end          990
        error       relative L² error of u on a grid of 65 × 65

    Example:
        >>> problem = Heat()
        >>> problem.given(jnp.array([0.0, 0.5]))
        Array(1., dtype=float32)

    References:
        Müller and Zeinhofer, Achieving High Accuracy with PINNs via Energy Natural Gradient Descent,
        ICML 2023: equation and solution.
    """

    hidden: tuple[int, ...] = (64,)
    num_interior: int = 900
    num_boundary: int = 90

    @property
    def name(self) -> str:
        """``"heat-1d"``."""
        return "heat-1d"

    @property
    def recommended(self) -> Mapping[str, Mapping[str, Any]]:
        """Settings per method."""
        return {
            "hig": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "gauss-newton": {"learning_rate": 0.1, "rtol": 1e-6, "solver": "gram"},
            "spring": {
                "learning_rate": 1.0,
                "damping": 1e-08,
                "max_step_norm": 1.0,
                "solver": "gram",
            },
            "adam": {"learning_rate": 2e-3},
            "adam-cosine": {"learning_rate": 0.01},
            "muon": {"learning_rate": 0.03},
            "soap": {"learning_rate": 0.003},
            "lbfgs": {"learning_rate": None, "memory_size": 50},
        }

    @property
    def box(self) -> Box:
        """Unit time and unit length; given at the start and at both ends."""
        return Box((0.0, 0.0), (1.0, 1.0), ((0, 0.0), (1, 0.0), (1, 1.0)))

    @property
    def coordinates(self) -> tuple[str, str]:
        """Time and place."""
        return "t", "x"

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """u_t - u_xx / 4."""
        return along(field, x, 0)[1] - twice_along(field, x, 1)[2] / 4

    def given(self, x: Point) -> Float[Array, ""]:
        """The solution exp(-π² t / 4) sin(πx)."""
        return jnp.exp(-(np.pi**2) / 4 * x[0]) * jnp.sin(np.pi * x[1])

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """A grid, and the solution there."""
        x = self.box.grid(*self.grid)
        return x, jax.vmap(self.given)(x)
