"""What one sample of a batch is."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class Samples:
    """A batch taken apart into what differs from sample to sample and what all share."""

    size: int | None
    """Number of samples b; None where the residual takes the whole batch at once."""

    mapped: tuple[Any, ...]
    """The leaves that hold one entry per sample, (b, ...) each; empty for a whole batch."""

    assemble: Callable[[Sequence[Any]], Tree]
    """One entry of each mapped leaf, in order -> the sample as `residual_fn` takes it."""

    @property
    def example(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Shape and dtype of one entry of each mapped leaf."""
        return tuple(jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in self.mapped)


def take_apart(batch: Tree, batch_axis: Tree) -> Samples:
    """Find the sample axes of a batch.

    Args:
        batch: Tree of arrays, random keys and Nones included.
        batch_axis: An int for all leaves, a tree of ints and Nones that is a prefix of `batch` (a None
            leaf is shared by all samples), or None for a residual that takes the whole batch.

    Returns:
        The batch as `Samples`.

    Raises:
        TypeError: A leaf with a sample axis is not an array.
        ValueError: `batch_axis` does not fit `batch`; leaves disagree about the number of samples; there
            are no samples.

    Example:
        >>> samples = take_apart({"x": jnp.zeros((5, 2)), "scale": 3.0}, {"x": 0, "scale": None})
        >>> samples.size, samples.example
        (5, (ShapeDtypeStruct(shape=(2,), dtype=float32),))
        >>> samples.assemble(["x of a sample"])
        {'scale': 3.0, 'x': 'x of a sample'}
    """
    if batch_axis is None:
        return Samples(None, (), lambda _: batch)
    # A None in the batch is no leaf to JAX, but it is one to a tree of axes: keep its place.
    paths, treedef = jax.tree.flatten_with_path(batch, is_leaf=_is_none)
    leaves = [leaf for _, leaf in paths]
    axes = sample_axes(batch_axis, batch)
    if all(axis is None for axis in axes):
        raise ValueError(
            f"batch must hold an array with a sample axis, got {jax.tree.structure(batch)} with batch_axis="
            f"{batch_axis}. Pass a batch of arrays, or batch_axis=None if residual_fn takes all at once."
        )
    sizes: dict[str, int] = {}
    for (path, leaf), axis in zip(paths, axes, strict=True):
        if axis is None:
            continue
        name = f"batch{jax.tree_util.keystr(path)}"
        check_array(name, leaf)
        ndim = jnp.ndim(leaf)
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"batch_axis={axis} does not exist in {name} of shape {jnp.shape(leaf)}. Give the axis that "
                "counts the samples, or None for a leaf that all samples share."
            )
        sizes[name] = jnp.shape(leaf)[axis]
    size = next(iter(sizes.values()))
    if any(other != size for other in sizes.values()):
        raise ValueError(
            f"batch leaves must have the same number of samples along batch_axis={batch_axis}, got {sizes}. "
            "Mark leaves that all samples share by None in a tree of batch axes."
        )
    if size == 0:
        raise ValueError(
            f"batch must hold at least one sample, got {sizes}. Skip the update for an empty batch."
        )

    def assemble(entries: Sequence[Any]) -> Tree:
        remaining = iter(entries)
        return jax.tree.unflatten(
            treedef,
            [x if axis is None else next(remaining) for x, axis in zip(leaves, axes, strict=True)],
        )

    mapped = tuple(
        jnp.moveaxis(jnp.asarray(x), axis, 0)
        for x, axis in zip(leaves, axes, strict=True)
        if axis is not None
    )
    return Samples(size, mapped, assemble)


def check_array(name: str, leaf: Any) -> None:
    """Refuse what JAX cannot compute with.

    Raises:
        TypeError: `leaf` is no array of numbers, bools or random keys.
    """
    if isinstance(leaf, (int, float, complex)) or is_array(leaf):
        return
    dtype = getattr(leaf, "dtype", None)
    what = repr(leaf) if dtype is None else f"one of dtype {dtype}"
    raise TypeError(
        f"{name} must be an array, got {what} of type {type(leaf).__name__}. JAX takes numbers, bools and "
        "random keys: convert it (.numpy() of PyTorch, .filled(value) of a masked array, dates as numbers), "
        "leave it out, or mark it by None in a tree of batch axes if all samples share it."
    )


def is_array(leaf: Any) -> bool:
    """Whether JAX can compute with a leaf, or with what it stands for."""
    if isinstance(leaf, np.ma.MaskedArray) or not hasattr(leaf, "shape"):
        return False
    dtype = getattr(leaf, "dtype", None)
    if isinstance(leaf, (jax.Array, jax.ShapeDtypeStruct)):
        return dtype != jax.dtypes.float0
    if not isinstance(dtype, np.dtype) or dtype.kind in "mM":
        return False
    return dtype.kind == "b" or bool(jnp.issubdtype(dtype, np.number))


def replaced(samples: jax.Array, is_kept: jax.Array, by: jax.Array) -> jax.Array:
    """Stacked samples, (b, ...), and another one in place of those that are not kept."""
    marks = is_kept.reshape(-1, *(1,) * (samples.ndim - 1))
    return jnp.where(marks, samples, by[None])


def split_batch(names: tuple[str, ...], batch: Tree, batch_axis: Tree) -> dict[str | None, Samples]:
    """The samples of each block of rows.

    Args:
        names: Of the blocks; none for a residual without, whose samples are those of None.
        batch: Mapping with a batch for each block, or the batch.
        batch_axis: For all blocks, or a mapping with those of each.

    Raises:
        TypeError: As `take_apart`.
        ValueError: As `take_apart`; a block has no batch, or a batch no block.
    """
    if not names:
        return {None: take_apart(batch, batch_axis)}
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
    samples: dict[str | None, Samples] = {}
    for name, own, axes in by_block(names, batch, batch_axis):
        try:
            samples[name] = take_apart(own, axes)
        except (TypeError, ValueError) as error:
            error.add_note(f"This is batch[{name!r}].")
            raise
    return samples


def by_block(
    names: Iterable[str | None], batch: Tree, batch_axis: Tree
) -> list[tuple[str | None, Tree, Tree]]:
    """Batch and sample axes of each block of rows: (name, batch, axes); None is the name of all there is."""
    found = []
    for name in names:
        axes = batch_axis[name] if isinstance(batch_axis, Mapping) and name else batch_axis
        found.append((name, batch if name is None else batch[name], axes))
    return found


def sample_axes(batch_axis: Tree, batch: Tree) -> list[int | None]:
    """The sample axis of each leaf of a batch, Nones in it counted as leaves; None for leaves that all share.

    Raises:
        ValueError: `batch_axis` is no prefix of `batch`.
    """
    try:
        axes = jax.tree.broadcast(batch_axis, batch, is_leaf=_is_none)
    except ValueError as error:
        raise ValueError(
            f"batch_axis must be an int, None, or a tree of them that is a prefix of batch, got {batch_axis} "
            f"for a batch of structure {jax.tree.structure(batch)}."
        ) from error
    leaves = jax.tree.leaves(batch, is_leaf=_is_none)
    of_leaves = jax.tree.leaves(axes, is_leaf=_is_none)
    return [None if leaf is None else axis for leaf, axis in zip(leaves, of_leaves, strict=True)]


def _is_none(node: Any) -> bool:
    return node is None
