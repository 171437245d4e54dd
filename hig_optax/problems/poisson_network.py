"""Poisson's equation in two and in five dimensions, with a network for its solution."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax.problems._box import Box
from hig_optax.problems._derivatives import Field, Point, laplacian
from hig_optax.problems._pinn import PhysicsInformed, Solution


@dataclasses.dataclass(frozen=True)
class Poisson2D(PhysicsInformed):
    """Poisson's equation on the unit square, for a solution that is known.

        Δu + 2π² sin(πx) sin(πy) = 0 in [0, 1]²        u given on all four sides
        u = sin(πx) sin(πy)

        network     2 - 32 - 1, tanh                                             129 parameters
        rows        900 interior and 120 boundary points, one each               1020
        error       relative L² error of u on a grid of 65 × 65

    The one problem here with more rows than parameters by far.

    Attributes:
        hidden: As in `PhysicsInformed`, like all others.

    Example:
        >>> problem = Poisson2D()
        >>> params = problem.init(jax.random.key(0))
        >>> train, test = problem.data(jax.random.key(1))
        >>> {name: points.shape for name, points in train.items()}
        {'interior': (900, 2), 'boundary': (120, 2)}

    References:
        Müller and Zeinhofer, Achieving High Accuracy with PINNs via Energy Natural Gradient Descent,
        ICML 2023: equation, solution and numbers of points.
    """

    hidden: tuple[int, ...] = (32,)
    num_interior: int = 900
    num_boundary: int = 120

    @property
    def name(self) -> str:
        """``"poisson-2d"``."""
        return "poisson-2d"

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
            "adam-cosine": {"learning_rate": 0.003},
            "muon": {"learning_rate": 0.01},
            "soap": {"learning_rate": 0.01},
            "lbfgs": {"learning_rate": None, "memory_size": 50},
        }

    @property
    def box(self) -> Box:
        """The unit square."""
        return Box.with_all_faces((0.0, 0.0), (1.0, 1.0))

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """Δu + 2π² sin(πx) sin(πy)."""
        return laplacian(field, x) + 2 * np.pi**2 * self.given(x)

    def given(self, x: Point) -> Float[Array, ""]:
        """The solution sin(πx) sin(πy)."""
        return jnp.prod(jnp.sin(np.pi * x))

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """A grid, and the solution there."""
        x = self.box.grid(*self.grid)
        return x, jax.vmap(self.given)(x)


@dataclasses.dataclass(frozen=True)
class Poisson5D(PhysicsInformed):
    """Poisson's equation in the five-dimensional unit cube, for a solution that is known.

        Δu + π² Σ sin(π xᵢ) = 0 in [0, 1]⁵        u given on all ten faces
        u = Σ sin(π xᵢ)

        network     5 - 64 - 64 - 48 - 48 - 1, tanh                              10065 parameters
        rows        650 interior and 150 boundary points, one each               800
        error       relative L² error of u at 4096 random points, always the same

    Points are few in five dimensions: a network that has met all 800 may still be far off in between.

    Example:
        >>> problem = Poisson5D()
        >>> problem.given(jnp.full(5, 0.5))
        Array(5., dtype=float32)

    References:
        Müller and Zeinhofer, Achieving High Accuracy with PINNs via Energy Natural Gradient Descent,
        ICML 2023: an equation of this kind.
    """

    hidden: tuple[int, ...] = (64, 64, 48, 48)
    num_interior: int = 650
    num_boundary: int = 150

    @property
    def name(self) -> str:
        """``"poisson-5d"``."""
        return "poisson-5d"

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
            "soap": {"learning_rate": 0.01},
            "lbfgs": {"learning_rate": None, "memory_size": 50},
            "geodesic-lm": {"learning_rate": None, "solver": "gram-cg", "num_matvecs": 30},
        }

    @property
    def box(self) -> Box:
        """The unit cube in five dimensions."""
        return Box.with_all_faces((0.0,) * 5, (1.0,) * 5)

    def equation(self, field: Field, x: Point) -> Float[Array, ""]:
        """Δu + π² Σ sin(π xᵢ)."""
        return laplacian(field, x) + np.pi**2 * self.given(x)

    def given(self, x: Point) -> Float[Array, ""]:
        """The solution Σ sin(π xᵢ)."""
        return jnp.sum(jnp.sin(np.pi * x))

    def solution(self) -> tuple[Float[Array, "grid d"], Float[Array, "grid"]]:
        """Random points, and the solution there."""
        x = jnp.asarray(np.random.default_rng(0).uniform(size=(4096, 5)), float)
        return x, jax.vmap(self.given)(x)

    def picture(self, test: Solution) -> tuple[jax.Array, jax.Array]:
        """The first two axes in the middle of the others."""
        del test
        x, y = jnp.meshgrid(*(jnp.linspace(0.0, 1.0, 65),) * 2, indexing="ij")
        points = jnp.stack([x, y, *(jnp.full_like(x, 0.5),) * 3], axis=-1)
        return points, jnp.sum(jnp.sin(np.pi * points), axis=-1)
