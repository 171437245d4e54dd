"""Weights of rows: blocks that count more than others, and samples that do not count at all."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from hig_optax._inputs.batch import is_array, replaced
from hig_optax._types import ResidualFn, ResidualFns, Tree


def weighted_residual(
    residual_fn: ResidualFns, weights: Tree | Callable[[Tree], Tree]
) -> ResidualFns:
    """A residual whose rows are scaled by the square root of their weights.

    For rows y and weights w the rows become √w·y, the sum of whose squares is the weighted one, Σ w y². Use
    the result both for the optimizer and in the loss: then Jacobian and gradient speak of the same rows, and
    a weight of zero is the same as leaving the rows out. (With another loss the part of its gradient that
    comes from rows of weight zero alone is outside the row space of J and is dropped.) A `loss_fn` given to
    the optimizer sees the weighted rows.

    Weights change more than the loss: the singular values are those of diag(√w)·∂y/∂θ, and with κ = -1/2 a
    block with four times the weight is not simply followed twice or four times as fast.

    Args:
        residual_fn: ``(params, sample) -> rows``, or a dict of blocks, as `hig_optax.scale_by_hig` takes it.
        weights: Number >= 0, or a tree of numbers that is a prefix of the rows: one per block. Or a function
            ``sample -> weights``, for weights that are part of the batch, such as the mask of a padded last
            batch: ``lambda sample: sample["weight"]``. An array weight belongs to the leading axes of a row
            array (with ``batch_axis=None``: (b,) weighs the samples of a (b, r) array). Dimensionless; may be
            traced where they come from the batch. For a dict of blocks: one of these for all, or a dict with
            one for each block.

    Returns:
        ``(params, sample) -> rows``, or a dict of them: the same tree, shapes and dtypes.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: A plain number is negative or not finite; (of the returned function, while tracing) the
            weights do not fit the rows; weights for other blocks than there are.

    Notes:
        A sample of weight 0 is out, whatever it holds: under ``jax.vmap`` its numbers are replaced by those
        of the first sample that counts before `residual_fn` sees them, so that rows and derivatives are
        finite, in the optimizer and in a loss outside. So padding may be NaN. (With `chunk_size` that holds
        for chunks with at least one sample that counts; for others there is ``bad_samples="drop"``. Of a
        residual that takes the whole batch rows of weight 0 may be NaN, but not their derivatives.) A mean
        over samples should divide by the sum of the weights, not by the length of the padded batch.

    Example:
        >>> import hig_optax, jax.numpy as jnp
        >>> blocks = lambda w, x: {"interior": w * x, "boundary": w - 1}
        >>> residual_fn = hig_optax.weighted_residual(blocks, {"interior": 1.0, "boundary": 4.0})
        >>> residual_fn(jnp.float32(3.0), 2.0)["boundary"]
        Array(4., dtype=float32)

    References:
        The row scaling by which weighted least squares become plain least squares, in any textbook.
    """
    if isinstance(residual_fn, Mapping):
        by_block = weights if isinstance(weights, Mapping) else dict.fromkeys(residual_fn, weights)
        if set(by_block) != set(residual_fn):
            raise ValueError(
                f"weights must be given for the blocks of residual_fn, {sorted(residual_fn)}, got "
                f"{sorted(by_block)}. A block to leave out has weight 0."
            )
        return {name: _weighted(fun, by_block[name]) for name, fun in residual_fn.items()}
    return _weighted(residual_fn, weights)


def _weighted(residual_fn: ResidualFn, weights: Tree | Callable[[Tree], Tree]) -> ResidualFn:
    if not callable(residual_fn):
        raise TypeError(
            f"residual_fn must be a function of (params, sample), got {residual_fn!r} of type "
            f"{type(residual_fn).__name__}."
        )
    is_out = False
    if not callable(weights):
        jax.tree.map(_check, weights)  # once, before anything is traced
        is_out = all(isinstance(x, (int, float)) and x == 0 for x in jax.tree.leaves(weights))

    def weighted(params: Tree, sample: Tree) -> Tree:
        tree = weights(sample) if callable(weights) else weights
        if callable(weights):
            sample = _filled(sample, tree)
        if is_out:  # times a derivative of NaN the zero that is pulled back would be NaN
            params = jax.tree.map(lambda x: jax.lax.stop_gradient(x) if is_array(x) else x, params)
        rows = residual_fn(params, sample)
        try:
            scales = jax.tree.broadcast(tree, rows)
        except ValueError as error:
            raise ValueError(
                "weights must be a number or a tree of numbers that is a prefix of the rows, got "
                f"{jax.tree.structure(tree)} for rows of structure {jax.tree.structure(rows)}."
            ) from error
        return jax.tree.map(_scale, rows, scales)

    return weighted


def _filled(sample: Tree, weights: Tree) -> Tree:
    """A sample, and one that counts in its place where its weights are all zero."""
    counts = [jnp.any(jnp.asarray(x) != 0) for x in jax.tree.leaves(weights) if is_array(x)]
    leaves, treedef = jax.tree.flatten(sample)
    if not counts or not any(map(is_array, leaves)):
        return sample
    arrays = iter(_one_that_counts(jnp.any(jnp.stack(counts)), [x for x in leaves if is_array(x)]))
    return jax.tree.unflatten(treedef, [next(arrays) if is_array(x) else x for x in leaves])


@jax.custom_batching.custom_vmap
def _one_that_counts(counts: Array, leaves: list[Array]) -> list[Array]:
    """The leaves of one sample as they are: there is no other. Of a batch see below."""
    del counts
    return leaves


@_one_that_counts.def_vmap
def _(
    axis_size: int, in_batched: list, counts: Array, leaves: list[Array]
) -> tuple[list[Array], list[bool]]:
    del axis_size
    if not in_batched[0]:
        return _one_that_counts(counts, leaves), in_batched[1]
    first = jnp.argmax(counts)

    def filled(x: Array, is_batched: bool) -> Array:
        return replaced(x, counts, x[first]) if is_batched else x

    return jax.tree.map(filled, leaves, in_batched[1]), in_batched[1]


def _check(weight: Any) -> None:
    if isinstance(weight, (jax.Array, np.ndarray)):
        return
    if isinstance(weight, bool) or not isinstance(weight, (int, float, np.number)):
        raise TypeError(
            f"weights must be numbers, arrays, or a function of the sample, got {weight!r} of type "
            f"{type(weight).__name__}."
        )
    if not 0 <= weight < np.inf:
        raise ValueError(f"weights must be finite and not negative, got {weight}.")


def _scale(row: Any, weight: Any) -> Any:
    if not hasattr(row, "dtype") and not isinstance(row, (bool, int, float, complex)):
        return row  # the optimizer refuses it, with its name
    _check(weight)
    row, weight = jnp.asarray(row), jnp.asarray(weight)
    if weight.shape != row.shape[: weight.ndim]:
        raise ValueError(
            f"weights must have the leading axes of their rows, got shape {weight.shape} for rows of shape "
            f"{row.shape}. Give one number per block, or one per sample where batch_axis=None."
        )
    if not jnp.issubdtype(row.dtype, jnp.inexact):
        return row  # and so of integers
    scale = jnp.sqrt(weight.astype(jnp.finfo(row.dtype).dtype)).astype(row.dtype)
    scale = scale.reshape(scale.shape + (1,) * (row.ndim - scale.ndim))
    return jnp.where(scale == 0, 0, row * scale)
