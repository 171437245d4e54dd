"""The parameters as columns of J: which leaves count, and the way back into the tree."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from hig_optax._residual import RealView
from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class Columns:
    """Parameters of which the leaves marked by a mask are optimized."""

    treedef: Any
    leaves: tuple[Any, ...]
    is_optimized: tuple[bool, ...]

    @classmethod
    def of(cls, params: Tree, mask: Any) -> "Columns":
        """Mark the optimized leaves.

        Raises:
            TypeError: An optimized leaf is not a floating-point array; the mask holds something else than
                bools.
            ValueError: There is nothing to optimize; the mask does not fit; leaves are missing.
        """
        if any(
            isinstance(x, optax.MaskedNode) for x in jax.tree.leaves(params, is_leaf=_is_masked)
        ):
            raise ValueError(
                "params hold optax.MaskedNode in place of leaves, as optax.masked and optax.partition put "
                "there, and residual_fn cannot be evaluated without those leaves. Use "
                "scale_by_hig(..., mask=...) without that wrapper instead."
            )
        paths, treedef = jax.tree.flatten_with_path(params)
        is_optimized = _broadcast_mask(mask, params)
        columns = cls(treedef, tuple(jnp.asarray(leaf) for _, leaf in paths), is_optimized)
        for (path, _), leaf, marked in zip(paths, columns.leaves, is_optimized, strict=True):
            if marked and not jnp.issubdtype(leaf.dtype, jnp.inexact):
                raise TypeError(
                    f"params must be real or complex floating-point arrays, got {leaf.dtype} at "
                    f"params{jax.tree_util.keystr(path)}. Convert that leaf, or leave it out with mask=."
                )
        if sum(leaf.size for leaf in columns._marked(columns.leaves)) == 0:
            raise ValueError(
                f"params must hold at least one number to optimize, got {treedef} with mask={mask}. Pass "
                "parameters, and a mask that is True somewhere."
            )
        return columns

    @property
    def view(self) -> RealView:
        """The optimized leaves as real numbers."""
        return RealView.of(self._marked(self.leaves))

    @property
    def parts(self) -> tuple[Array, ...]:
        """The optimized leaves as real arrays."""
        return self.view.split(self._marked(self.leaves))

    def rebuild(self, parts: Sequence[Array]) -> Tree:
        """The whole parameter tree for other values of `parts`, in at least float32."""
        return self._with_marked(self.leaves, self.view.merge(parts))

    def gradient(self, updates: Tree, dtype: Any) -> Float[Array, " n"]:
        """The incoming updates of the optimized leaves as one real vector.

        Raises:
            ValueError: `updates` differ from the parameters in structure or in a leaf's shape.
            TypeError: They differ in that one of two leaves is complex.
        """
        if jax.tree.structure(updates) != self.treedef:
            raise ValueError(
                f"updates must have the structure of params, {self.treedef}, got "
                f"{jax.tree.structure(updates)}. Differentiate the loss with respect to the same params."
            )
        marked = self._marked(jax.tree.leaves(updates))
        for update, leaf in zip(marked, self._marked(self.leaves), strict=True):
            if jnp.shape(update) != leaf.shape:
                raise ValueError(
                    f"updates must have the shapes of params, got {jnp.shape(update)} for {leaf.shape}."
                )
            if jnp.iscomplexobj(update) != jnp.iscomplexobj(leaf):
                raise TypeError(
                    f"updates must be complex where params are, got {update.dtype} for {leaf.dtype}."
                )
        return RealView.of(marked).ravel(marked, dtype)

    def replace(
        self, updates: Tree, direction: Float[Array, " n"], is_finite: Bool[Array, ""]
    ) -> tuple[Tree, Bool[Array, ""]]:
        """Put the direction in place of the updates of the optimized leaves; pass the others on.

        Returns:
            The new updates, all of them zero unless `is_finite`, and whether they are finite in the dtypes
            of the parameters too.
        """
        new = self.view.unravel(direction)
        for x in new:
            is_finite &= jnp.all(jnp.isfinite(x))
        tree = self._with_marked(jax.tree.leaves(updates), new)
        return jax.tree.map(lambda x: jnp.where(is_finite, x, jnp.zeros_like(x)), tree), is_finite

    def _marked(self, leaves: Sequence[Any]) -> list[Any]:
        return [x for x, marked in zip(leaves, self.is_optimized, strict=True) if marked]

    def _with_marked(self, leaves: Sequence[Any], values: Sequence[Any]) -> Tree:
        remaining = iter(values)
        return jax.tree.unflatten(
            self.treedef,
            [next(remaining) if m else x for x, m in zip(leaves, self.is_optimized, strict=True)],
        )


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _broadcast_mask(mask: Any, params: Tree) -> tuple[bool, ...]:
    if mask is None:
        return (True,) * len(jax.tree.leaves(params))
    tree = mask(params) if callable(mask) else mask
    try:
        marks = jax.tree.leaves(jax.tree.broadcast(tree, params))
    except ValueError as error:
        raise ValueError(
            f"mask must be a tree of bools that is a prefix of params, got {jax.tree.structure(tree)} for "
            f"params of structure {jax.tree.structure(params)}."
        ) from error
    for mark in marks:
        if not isinstance(mark, (bool, np.bool_)):
            raise TypeError(f"mask must hold bools, got {mark!r} of type {type(mark).__name__}.")
    return tuple(bool(mark) for mark in marks)
