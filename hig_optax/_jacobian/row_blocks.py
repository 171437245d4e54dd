"""Residuals in blocks: each with a function, a batch and a number of samples of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._inputs.batch import Samples, take_apart
from hig_optax._inputs.residual import RealView, Rows
from hig_optax._jacobian.choices import choose_jacobian
from hig_optax._jacobian.differentiate import stacked_jacobian, stacked_rows
from hig_optax._types import JacobianMode, Tree


@dataclasses.dataclass(frozen=True)
class RowBlock:
    """The rows of one block."""

    rows: Rows
    samples: Samples

    @property
    def size(self) -> int:
        """Rows of all samples."""
        return self.rows.view.size * (self.samples.size or 1)

    @property
    def shapes(self) -> Tree:
        """Shapes and dtypes of the stacked rows, as a loss gets them."""
        view, leading = self.rows.view, () if self.samples.size is None else (self.samples.size,)
        leaves = [
            jax.ShapeDtypeStruct((*leading, *shape), dtype)
            for shape, dtype in zip(view.shapes, view.dtypes, strict=True)
        ]
        return jax.tree.unflatten(view.treedef, leaves)

    @property
    def order(self) -> np.ndarray | None:
        """Where each of the stacked rows, leaf after leaf, lies sample after sample; None if in its place."""
        view, b = self.rows.view, self.samples.size
        sizes = [int(np.prod(x.shape)) for x in jax.eval_shape(view.split, _as_structs(view))]
        if b is None or len(sizes) == 1:
            return None
        places = np.arange(self.size).reshape(b, view.size)
        return np.concatenate([x.ravel() for x in np.split(places, np.cumsum(sizes)[:-1], axis=1)])


def split_batch(names: tuple[str, ...], batch: Tree, batch_axis: Tree) -> dict[str, Samples]:
    """The samples of each block.

    Args:
        names: Of the blocks.
        batch: Mapping with a batch for each block.
        batch_axis: For all blocks, or a mapping with those of each.

    Raises:
        TypeError: As `take_apart`.
        ValueError: As `take_apart`; a block has no batch, or a batch no block.
    """
    if not isinstance(batch, Mapping) or set(batch) != set(names):
        got = sorted(batch) if isinstance(batch, Mapping) else jax.tree.structure(batch)
        raise ValueError(
            f"batch must hold a batch for each block of residual_fn, {list(names)}, got {got}. Give a block "
            "that needs none the batch None, and None as its batch_axis."
        )
    if isinstance(batch_axis, Mapping) and set(batch_axis) != set(names):
        raise ValueError(
            f"batch_axis must name the blocks of residual_fn, {list(names)}, got {sorted(batch_axis)}. Or "
            "give one int for all."
        )
    axes = batch_axis if isinstance(batch_axis, Mapping) else dict.fromkeys(names, batch_axis)
    samples = {}
    for name in names:
        try:
            samples[name] = take_apart(batch[name], axes[name])
        except (TypeError, ValueError) as error:
            error.add_note(f"This is batch[{name!r}].")
            raise
    return samples


def stacked(blocks: Mapping[str, RowBlock], chunk_size: int | None) -> Rows:
    """All blocks as one residual of the whole batch, whose rows are the tree ``{name: stacked rows}``.

    Args:
        blocks: In the order of their names, which is that of JAX.
        chunk_size: Samples of a block that are evaluated at once. None: all.
    """
    view = RealView.of({name: block.shapes for name, block in blocks.items()})

    def evaluate(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
        del entries
        parts = []
        for block in blocks.values():
            y = stacked_rows(block.rows, columns, block.samples, chunk_size=chunk_size)
            parts.append(_in_order(y, block.order).astype(view.highest_dtype))
        return jnp.concatenate(parts)

    return Rows(evaluate, view, any(block.rows.has_custom_vjp for block in blocks.values()))


def blockwise_jacobian(
    blocks: Mapping[str, RowBlock],
    columns: tuple[Array, ...],
    *,
    jacobian: JacobianMode,
    chunk_size: int | None,
    dtype: Any,
) -> tuple[Float[Array, " m"], Float[Array, "m n"]]:
    """Rows of `stacked` and their Jacobian, differentiated sample by sample within each block."""
    size = sum(part.size for part in columns)
    rows, parts = [], []
    for block in blocks.values():
        mode = choose_jacobian(
            jacobian,
            rows=block.rows.view.size,
            columns=size,
            has_custom_vjp=block.rows.has_custom_vjp,
        )
        y, J = stacked_jacobian(
            block.rows, columns, block.samples, mode=mode, chunk_size=chunk_size, dtype=dtype
        )
        rows.append(_in_order(y, block.order))
        parts.append(_in_order(J, block.order))
    highest = max((y.dtype for y in rows), key=lambda dtype: jnp.finfo(dtype).bits)
    return jnp.concatenate([y.astype(highest) for y in rows]), jnp.concatenate(parts)


def _in_order(x: Array, order: np.ndarray | None) -> Array:
    return x if order is None else x[order]


def _as_structs(view: RealView) -> list[jax.ShapeDtypeStruct]:
    return [jax.ShapeDtypeStruct(s, d) for s, d in zip(view.shapes, view.dtypes, strict=True)]
