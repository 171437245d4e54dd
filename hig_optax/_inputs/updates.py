"""The tree of updates: what comes in looked at, what goes out zero where it has to be."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from hig_optax._inputs.leaves import as_array, is_array_like, is_float0, is_inexact
from hig_optax._inputs.mask import broadcast_mask
from hig_optax._types import Tree


def without_frozen(
    mask: Any, params: Tree, updates: Tree
) -> tuple[list[Any], Callable[[Sequence[Any]], Tree]]:
    """The updates of the leaves that a mask marks, and what puts them back beside zeros for all others.

    Raises:
        TypeError: The mask holds something else than bools.
        ValueError: It does not fit.
    """
    leaves, (given, treedef) = jax.tree.leaves(params), jax.tree.flatten(updates)
    marks = broadcast_mask(mask, params)

    def put_back(values: Sequence[Any]) -> Tree:
        remaining = iter(values)
        return jax.tree.unflatten(
            treedef,
            [
                next(remaining) if mark else no_update(leaf)
                for leaf, mark in zip(leaves, marks, strict=True)
            ],
        )

    return [x for x, mark in zip(given, marks, strict=True) if mark], put_back


def as_numbers(updates: Tree, params: Tree) -> Tree:
    """Updates as arrays: zeros in place of what is no number, float0 or what stands for a frozen function.

    Raises:
        ValueError: `updates` differ from the parameters in structure.
    """
    check_structure(updates, jax.tree.structure(params))

    def number(x: Any, leaf: Any) -> Any:
        return as_array(x) if is_array_like(x) and not is_float0(x) else no_update(leaf)

    return jax.tree.map(number, updates, params)


def zero_unless_finite(updates: Tree, is_finite: Bool[Array, ""]) -> tuple[Tree, Bool[Array, ""]]:
    """Updates, all of them zero unless `is_finite` and they all are; and whether that holds."""
    for x in jax.tree.leaves(updates):
        if is_inexact(x):
            is_finite &= jnp.all(jnp.isfinite(x))
    return jax.tree.map(
        lambda x: jnp.where(is_finite, x, jnp.zeros_like(x)) if is_array_like(x) else x, updates
    ), is_finite


def no_update(leaf: Any) -> Array:
    """A zero update for a leaf of any kind, to which a number, at least, can be added."""
    dtype = getattr(leaf, "dtype", None)
    if is_array_like(leaf) and (dtype is None or jnp.issubdtype(dtype, jnp.number)):
        return jnp.zeros_like(leaf)
    return jnp.zeros(getattr(leaf, "shape", ()), jnp.float32)


def check_structure(updates: Tree, wanted: Any) -> None:
    if jax.tree.structure(updates) != wanted:
        raise ValueError(
            f"updates must have the structure of params, {wanted}, got "
            f"{jax.tree.structure(updates)}. Differentiate the loss with respect to the same params."
        )
