"""The parameters as columns of J: which leaves count, and the way back into the tree."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from hig_optax._inputs.leaves import as_array, is_array_like, is_float0, is_inexact, raised
from hig_optax._inputs.mask import broadcast_mask, unhidden
from hig_optax._inputs.real_view import RealView
from hig_optax._inputs.updates import as_numbers, check_structure, no_update, zero_unless_finite
from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class Columns:
    """Parameters of which the leaves marked by a mask are optimized."""

    treedef: Any
    leaves: tuple[Any, ...]
    is_optimized: tuple[bool, ...]
    all_params: Tree = None
    """The parameters with the leaves that a wrapper hides behind ``optax.MaskedNode``."""

    @classmethod
    def of(cls, params: Tree, mask: Any, all_params: Tree = None) -> "Columns":
        """Mark the optimized leaves.

        Args:
            params: The parameters; leaves hidden behind ``optax.MaskedNode`` are not optimized.
            mask: Tree of bools, a function to one, or None for all.
            all_params: The parameters without hidden leaves; needed by `rebuild` if any are hidden.

        Raises:
            TypeError: An optimized leaf is not a floating-point array; the mask holds something else than
                bools.
            ValueError: There is nothing to optimize; the mask does not fit.
        """
        paths, treedef = jax.tree.flatten_with_path(params)
        is_optimized = broadcast_mask(mask, params)
        leaves = []
        for (path, leaf), marked in zip(paths, is_optimized, strict=True):
            # A leaf that is not optimized may be anything that residual_fn can use.
            if marked and not is_array_like(leaf):
                raise TypeError(
                    "params must be real or complex floating-point arrays, got "
                    f"{leaf!r} of type {type(leaf).__name__} at params{jax.tree_util.keystr(path)}. Keep "
                    "such leaves out of params: of an Equinox module optimize eqx.filter(model, "
                    "eqx.is_inexact_array), and put the rest back in residual_fn by eqx.combine."
                )
            leaves.append(as_array(leaf) if marked else leaf)
            if marked and not is_inexact(leaves[-1]):
                raise TypeError(
                    "params must be real or complex floating-point arrays, got "
                    f"{getattr(leaves[-1], 'dtype', repr(leaf))} at params{jax.tree_util.keystr(path)}. "
                    "Convert that leaf, or leave it out with mask=."
                )
        columns = cls(treedef, tuple(leaves), is_optimized, all_params)
        if columns.view.size == 0:
            raise ValueError(
                f"params must hold at least one number to optimize, got {treedef} with mask={mask}. Pass "
                "parameters, and a mask that is True somewhere."
            )
        return columns

    @functools.cached_property
    def view(self) -> RealView:
        """The optimized leaves as real numbers."""
        return RealView.of(self._marked(self.leaves))

    @functools.cached_property
    def parts(self) -> tuple[Array, ...]:
        """The optimized leaves as real arrays."""
        return self.view.split(self._marked(self.leaves))

    @property
    def is_one_vector(self) -> bool:
        """Whether the parameters are a single vector and not in any container."""
        return jax.tree_util.treedef_is_leaf(self.treedef) and jnp.ndim(self.leaves[0]) == 1

    def rebuild(self, parts: Sequence[Array]) -> Tree:
        """The whole parameter tree for other values of `parts`, floats in at least float32.

        Raises:
            ValueError: Leaves are hidden, and `all_params` does not have them.
        """
        leaves = [raised(x) for x in self.leaves]
        return unhidden(self._with_marked(leaves, self.view.merge(parts)), self.all_params)

    def gradient(self, updates: Tree | None, dtype: Any) -> Float[Array, " n"]:
        """The incoming updates of the optimized leaves as one real vector; zeros where there are none.

        Raises:
            ValueError: `updates` differ from the parameters in structure or in a leaf's shape.
            TypeError: They differ in that one of two leaves is complex.
        """
        if updates is None:
            return jnp.zeros(self.view.size, dtype)
        check_structure(updates, self.treedef)
        marked = [as_array(x) for x in self._marked(jax.tree.leaves(updates))]
        for update, leaf in zip(marked, self._marked(self.leaves), strict=True):
            if not is_inexact(update):
                raise TypeError(
                    "updates must be floating-point arrays, got "
                    f"{getattr(update, 'dtype', update)}. Pass the gradient of the loss."
                )
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
            The new updates, all of them zero unless `is_finite`, and whether they are finite too: in the
            dtypes of the parameters, the passed ones included. Where an integer leaf has float0 for a
            gradient, which nothing can be added to, it gets zeros.
        """
        given = zip(jax.tree.leaves(updates), self.leaves, strict=True)
        passed = [no_update(leaf) if is_float0(x) else x for x, leaf in given]
        tree = self._with_marked(passed, self.view.unravel(direction))
        return zero_unless_finite(tree, is_finite)

    def moved(self, step: Float[Array, " n"]) -> tuple[Array, ...]:
        """`parts` at params + step, rounded leaf by leaf as ``optax.apply_updates`` rounds them."""
        updates = jax.tree.leaves(self.view.unravel(step))
        leaves = self._marked(self.leaves)
        return self.view.split([_stored(x + u) for x, u in zip(leaves, updates, strict=True)])

    def split(self, vector: Float[Array, " n"]) -> tuple[Array, ...]:
        """A vector of the column side in the shapes and dtypes of `parts`."""
        ends = np.cumsum([part.size for part in self.parts])[:-1]
        pieces = jnp.split(vector, ends)
        return tuple(
            piece.reshape(part.shape).astype(part.dtype)
            for piece, part in zip(pieces, self.parts, strict=True)
        )

    def momentum(self) -> Tree:
        """Zeros in the tree of the parameters, at least float32; ``optax.MaskedNode`` for frozen leaves."""
        zeros = [jnp.zeros(part.shape, part.dtype) for part in self.parts]
        return self._with_marked([optax.MaskedNode()] * len(self.leaves), self.view.merge(zeros))

    def vector(self, momentum: Tree, dtype: Any) -> Float[Array, " n"]:
        """A tree of the kind that `momentum` makes, as a vector of the column side."""
        leaves = jax.tree.leaves(momentum)
        return RealView.of(leaves).ravel(leaves, dtype)

    def renewed(self, momentum: Tree, step: Float[Array, " n"], is_usable: Bool[Array, ""]) -> Tree:
        """A step as such a tree, or the old one where the step is not usable."""
        # In the old one's structure: flax.nnx wraps parameters in `init` that come bare to `update`.
        old, treedef = jax.tree.flatten(momentum)
        new = self.view.merge(self.split(step))
        leaves = [jnp.where(is_usable, x.astype(y.dtype), y) for x, y in zip(new, old, strict=True)]
        return jax.tree.unflatten(treedef, leaves)

    def zeros(self, updates: Tree | None) -> Tree:
        """Zero updates in the tree and the dtypes of `updates`, or of the parameters if those are None."""
        params = jax.tree.unflatten(self.treedef, self.leaves)
        given = params if updates is None else as_numbers(updates, params)
        return jax.tree.map(no_update, given)

    def _marked(self, leaves: Sequence[Any]) -> list[Any]:
        return [x for x, marked in zip(leaves, self.is_optimized, strict=True) if marked]

    def _with_marked(self, leaves: Sequence[Any], values: Sequence[Any]) -> Tree:
        remaining = iter(values)
        return jax.tree.unflatten(
            self.treedef,
            [next(remaining) if m else x for x, m in zip(leaves, self.is_optimized, strict=True)],
        )


def _stored(leaf: Array) -> Array:
    """A leaf as memory would hold it: within a fused loop XLA keeps bfloat16 sums in float32."""
    info = jnp.finfo(leaf.dtype)
    if info.bits >= 32:
        return leaf
    return jax.lax.reduce_precision(leaf, exponent_bits=info.nexp, mantissa_bits=info.nmant)
