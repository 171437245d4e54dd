"""What a leaf of parameters or updates is, and as an array."""

from typing import Any

import jax
import jax.numpy as jnp


def is_float0(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def as_array(leaf: Any) -> Any:
    """Python numbers as arrays; what has a shape and dtype already, if only those, as it is."""
    return leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)


def is_array_like(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))


def is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", None) or type(leaf), jnp.inexact)


def raised(leaf: Any) -> Any:
    if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
        return leaf
    return leaf if jnp.finfo(leaf.dtype).bits >= 32 else leaf.astype(jnp.float32)
