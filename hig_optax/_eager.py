"""Branches and loops that outside of a trace are Python's: JAX would compile its own at every call."""

from collections.abc import Callable
from typing import TypeVar

import jax
from jaxtyping import Array, Bool

Carry = TypeVar("Carry")


def cond(is_true: Bool[Array, ""], yes: Callable[[], Carry], no: Callable[[], Carry]) -> Carry:
    """`jax.lax.cond`, with a branch that is simply taken where it is known which.

    Args:
        is_true: Traced, or a value.
        yes: A branch that closes over what it needs, and so is new to JAX at every call.
        no: The other one, with a result of the same tree, shapes and dtypes.

    Example:
        >>> import jax.numpy as jnp
        >>> cond(jnp.asarray(True), lambda: 1.0, lambda: 2.0)
        1.0
    """
    if is_known(is_true):
        return yes() if is_true else no()
    return jax.lax.cond(is_true, yes, no)


def while_loop(
    is_wanted: Callable[[Carry], Bool[Array, ""]], body: Callable[[Carry], Carry], start: Carry
) -> Carry:
    """`jax.lax.while_loop`, in Python where all is known that decides whether it goes on.

    Args:
        is_wanted: Whether to go on.
        body: What is done then; tree, shapes and dtypes stay.
        start: What it begins with.

    Example:
        >>> import jax.numpy as jnp
        >>> while_loop(lambda n: n < 5, lambda n: 2 * n, jnp.int32(1))
        Array(8, dtype=int32)
    """
    if not is_known(is_wanted(start)):
        return jax.lax.while_loop(is_wanted, body, start)
    while is_wanted(start):
        start = body(start)
    return start


def is_known(x: Bool[Array, ""]) -> bool:
    """Whether an array has a value here, rather than a trace of it or one on another host."""
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)
