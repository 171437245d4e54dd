"""The stationary flow behind a row of obstacles, with a network for velocity and pressure."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, twice_along
from hig_optax.problems._network import DenseNetwork
from hig_optax.problems._pinn import PhysicsInformed


@dataclasses.dataclass(frozen=True)
class Kovasznay(PhysicsInformed):
    """Kovasznay's flow: the stationary Navier-Stokes equations in a plane, for a solution that is known.

        u u_x + v u_y + p_x - Δu / Re = 0
        u v_x + v v_y + p_y - Δv / Re = 0        in [-1/2, 1] × [-1/2, 3/2], Re = 40
        u_x + v_y = 0                            (u, v) given on all four sides

        u = 1 - exp(λx) cos(2πy)        v = λ/(2π) exp(λx) sin(2πy)        p = (1 - exp(2λx)) / 2
        λ = Re/2 - √(Re²/4 + 4π²)

        network     2 - 50 - 50 - 50 - 3, tanh, of (x, y), for (u, v, p)         5403 parameters
        rows        300 interior points with three each, 100 on the sides with two      1100
        error       relative L² error of the velocity (u, v) on a grid of 61 × 81

    The pressure, which these equations leave open up to a constant, is in neither data nor error.

    Attributes:
        reynolds: Reynolds number Re.

    Example:
        >>> problem = Kovasznay()
        >>> problem.exact(jnp.array([0.0, 0.25]))[0].round(6)
        Array(1., dtype=float32)

    References:
        Kovasznay, Laminar flow behind a two-dimensional grid, Proc. Cambridge Phil. Soc. 44 (1948) 58:
        the solution.
    """

    hidden: tuple[int, ...] = (50, 50, 50)
    num_interior: int = 300
    num_boundary: int = 100
    reynolds: float = 40.0

    @property
    def name(self) -> str:
        """``"kovasznay"``."""
        return "kovasznay"

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
            "muon": {"learning_rate": 0.01},
            "soap": {"learning_rate": 0.003},
            "lbfgs": {"learning_rate": None, "memory_size": 50},
            "geodesic-lm": {"learning_rate": None, "solver": "gram-cg", "num_matvecs": 30},
        }

    @property
    def box(self) -> Box:
        """The rectangle, with the velocity given all around."""
        return Box.with_all_faces((-0.5, -0.5), (1.0, 1.5))

    @property
    def network(self) -> DenseNetwork:
        """The network, from a point to (u, v, p)."""
        return DenseNetwork((2, *self.hidden, 3), "tanh")

    def field(self, params: dict[str, Any], x: Point) -> Float[Array, "3"]:
        """What the network says at one point: (u, v, p)."""
        return self.network.apply(params, x)

    @property
    def grid(self) -> tuple[int, int]:
        """Points of `solution` along both axes."""
        return 61, 81

    def equation(self, field: Field, x: Point) -> Float[Array, "3"]:
        """Both momentum equations and the divergence."""
        (u, v, _), along_x, along_xx = twice_along(field, x, 0)
        _, along_y, along_yy = twice_along(field, x, 1)
        transport = u * along_x[:2] + v * along_y[:2]
        pressure = jnp.stack([along_x[2], along_y[2]])
        momentum = transport + pressure - (along_xx + along_yy)[:2] / self.reynolds
        return jnp.append(momentum, along_x[0] + along_y[1])

    def exact(self, x: Point) -> Float[Array, "3"]:
        """The solution (u, v, p)."""
        rate = self.reynolds / 2 - (self.reynolds**2 / 4 + 4 * np.pi**2) ** 0.5
        decay, phase = jnp.exp(rate * x[0]), 2 * np.pi * x[1]
        u, v = 1 - decay * jnp.cos(phase), rate / (2 * np.pi) * decay * jnp.sin(phase)
        return jnp.stack([u, v, (1 - decay**2) / 2])

    def given(self, x: Point) -> Float[Array, "2"]:
        """The velocity."""
        return self.exact(x)[:2]

    def compared(self, u: Float[Array, "3"]) -> Float[Array, "2"]:
        """The velocity."""
        return u[:2]

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid 2"]]:
        """A grid, and the velocity there."""
        x = self.box.grid(*self.grid)
        return x, jax.vmap(self.given)(x)
