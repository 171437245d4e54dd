"""Which leaves of the parameters are optimized, and those that a wrapper hides."""

from typing import Any

import jax
import numpy as np
import optax

from hig_optax._inputs.leaves import raised
from hig_optax._types import Tree


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _has_hidden_leaves(tree: Tree) -> bool:
    return any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked)))


def unhidden(params: Tree, all_params: Tree) -> Tree:
    """Put the leaves of `all_params` in the places that ``optax.MaskedNode`` holds."""
    if not _has_hidden_leaves(params):
        return params
    if all_params is None or _has_hidden_leaves(all_params):
        raise ValueError(
            "params hold optax.MaskedNode in place of leaves, as optax.masked and optax.partition put "
            "there, and residual_fn cannot be evaluated without those leaves. Pass them: opt.update(grads, "
            "state, params, batch=batch, all_params=params). Or leave the wrapper out and use mask=...: "
            "scale_by_hig(..., mask=...)."
        )
    try:
        return jax.tree.map(
            lambda x, whole: jax.tree.map(raised, whole) if _is_masked(x) else x,
            params,
            all_params,
            is_leaf=_is_masked,
        )
    except ValueError as error:
        raise ValueError(
            "all_params must have the structure of params where those are not hidden, got "
            f"{jax.tree.structure(all_params)} for {jax.tree.structure(params)}. Pass the params that the "
            "whole optimizer gets."
        ) from error


def broadcast_mask(mask: Any, params: Tree) -> tuple[bool, ...]:
    if mask is None:
        return (True,) * len(jax.tree.leaves(params))
    tree = mask(params) if callable(mask) else mask
    try:
        marks = jax.tree.leaves(jax.tree.broadcast(tree, params))
    except ValueError as error:
        if not _are_alike_but_for_wrappers(tree, params):
            raise ValueError(
                "mask must be a tree of bools that is a prefix of params, got "
                f"{jax.tree.structure(tree)} for params of structure {jax.tree.structure(params)}. Or give a "
                "function of params."
            ) from error
        marks = jax.tree.leaves(tree)
    for mark in marks:
        if not isinstance(mark, (bool, np.bool_)):
            raise TypeError(f"mask must hold bools, got {mark!r} of type {type(mark).__name__}.")
    return tuple(bool(mark) for mark in marks)


def _are_alike_but_for_wrappers(tree: Tree, params: Tree) -> bool:
    """Whether two trees have the same leaves, of which one holds some a step deeper.

    ``nnx.Optimizer`` hands over parameters in their ``nnx.Param`` at `init`, and without it at `update`. So a
    mask that was made from the former, or from the latter, is right for both.
    """
    ours, theirs = jax.tree.leaves_with_path(tree), jax.tree.leaves_with_path(params)
    if len(ours) != len(theirs):
        return False
    for (a, _), (b, _) in zip(ours, theirs, strict=True):
        shared = min(len(a), len(b))
        if a[:shared] != b[:shared] or max(len(a), len(b)) > shared + 1:
            return False
    return True
