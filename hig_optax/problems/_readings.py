"""A field in the plane, and readings of it: what the noisy problems recover it from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class FieldSample(NamedTuple):
    """One reading.

    Attributes:
        x: Where it was taken, in [-1, 1]².
        target: What was read there: the field, with noise or without.
    """

    x: Float[Array, "*batch 2"]
    target: Float[Array, "*batch"]


def field(x: Float[Array, "*batch 2"]) -> Float[Array, "*batch"]:
    """u(x) = sin(3 x₁) cos(2 x₂)."""
    return jnp.sin(3 * x[..., 0]) * jnp.cos(2 * x[..., 1])


def points(key: jax.Array, count: int) -> Float[Array, "count 2"]:
    """Uniform points in [-1, 1]²."""
    return jax.random.uniform(key, (count, 2), minval=-1.0, maxval=1.0)
