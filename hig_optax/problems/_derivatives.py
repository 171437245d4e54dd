"""Derivatives of a field by its coordinates, in forward mode.

A residual that contains them is differentiated once more, by the parameters and in reverse; with forward
mode inside that is one backward pass.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Point = Float[Array, "d"]
Field = Callable[[Point], jax.Array]


def along(field: Field, x: Point, axis: int) -> tuple[jax.Array, jax.Array]:
    """Value and first derivative of a field along one axis.

    Args:
        field: ``(d,) -> array`` of any shape.
        x: Where, (d,).
        axis: Number of the coordinate.

    Example:
        >>> along(lambda x: x[0] * x[1], jnp.array([2.0, 3.0]), 1)
        (Array(6., dtype=float32), Array(2., dtype=float32))
    """
    return jax.jvp(field, (x,), (_unit(x, axis),))


def twice_along(field: Field, x: Point, axis: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Value, first and second derivative of a field along one axis; arguments as of `along`.

    Example:
        >>> [float(y) for y in twice_along(lambda x: x[0] ** 3, jnp.array([2.0]), 0)]
        [8.0, 12.0, 12.0]
    """
    (value, slope), (_, curvature) = jax.jvp(
        lambda x: along(field, x, axis), (x,), (_unit(x, axis),)
    )
    return value, slope, curvature


def laplacian(field: Field, x: Point) -> jax.Array:
    """Sum of the second derivatives along all axes; arguments as of `along`.

    Example:
        >>> laplacian(lambda x: x[0] ** 2 + 3 * x[1] ** 2, jnp.zeros(2))
        Array(8., dtype=float32)
    """
    total = twice_along(field, x, 0)[2]
    for axis in range(1, x.size):
        total = total + twice_along(field, x, axis)[2]
    return total


def _unit(x: Point, axis: int) -> Point:
    return jnp.zeros_like(x).at[axis].set(1)
