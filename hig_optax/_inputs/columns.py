"""The parameters as columns of J: which leaves count, and the way back into the tree."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float

from hig_optax._inputs.residual import RealView
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
        is_optimized = _broadcast_mask(mask, params)
        leaves = []
        for (path, leaf), marked in zip(paths, is_optimized, strict=True):
            # A leaf that is not optimized may be anything that residual_fn can use.
            if marked and not _is_array_like(leaf):
                raise TypeError(
                    "params must be real or complex floating-point arrays, got "
                    f"{leaf!r} of type {type(leaf).__name__} at params{jax.tree_util.keystr(path)}. Keep "
                    "such leaves out of params: of an Equinox module optimize eqx.filter(model, "
                    "eqx.is_inexact_array), and put the rest back in residual_fn by eqx.combine."
                )
            leaves.append(_as_array(leaf) if marked else leaf)
            if marked and not _is_inexact(leaves[-1]):
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
        leaves = [_raised(x) for x in self.leaves]
        return _unhidden(self._with_marked(leaves, self.view.merge(parts)), self.all_params)

    def gradient(self, updates: Tree, dtype: Any) -> Float[Array, " n"]:
        """The incoming updates of the optimized leaves as one real vector.

        Raises:
            ValueError: `updates` differ from the parameters in structure or in a leaf's shape.
            TypeError: They differ in that one of two leaves is complex.
        """
        _check_structure(updates, self.treedef)
        marked = [_as_array(x) for x in self._marked(jax.tree.leaves(updates))]
        for update, leaf in zip(marked, self._marked(self.leaves), strict=True):
            if not _is_inexact(update):
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
        passed = [no_update(leaf) if _is_float0(x) else x for x, leaf in given]
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

    def zeros(self, updates: Tree) -> Tree:
        """Zero updates in the tree and the dtypes of `updates`; a number where there is no array."""
        params = jax.tree.unflatten(self.treedef, self.leaves)
        return jax.tree.map(no_update, as_numbers(updates, params))

    def _marked(self, leaves: Sequence[Any]) -> list[Any]:
        return [x for x, marked in zip(leaves, self.is_optimized, strict=True) if marked]

    def _with_marked(self, leaves: Sequence[Any], values: Sequence[Any]) -> Tree:
        remaining = iter(values)
        return jax.tree.unflatten(
            self.treedef,
            [next(remaining) if m else x for x, m in zip(leaves, self.is_optimized, strict=True)],
        )


def without_frozen(
    mask: Any, params: Tree, updates: Tree
) -> tuple[list[Any], Callable[[Sequence[Any]], Tree]]:
    """The updates of the leaves that a mask marks, and what puts them back beside zeros for all others.

    Raises:
        TypeError: The mask holds something else than bools.
        ValueError: It does not fit.
    """
    leaves, (given, treedef) = jax.tree.leaves(params), jax.tree.flatten(updates)
    marks = _broadcast_mask(mask, params)

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
    _check_structure(updates, jax.tree.structure(params))

    def number(x: Any, leaf: Any) -> Any:
        return _as_array(x) if _is_array_like(x) and not _is_float0(x) else no_update(leaf)

    return jax.tree.map(number, updates, params)


def zero_unless_finite(updates: Tree, is_finite: Bool[Array, ""]) -> tuple[Tree, Bool[Array, ""]]:
    """Updates, all of them zero unless `is_finite` and they all are; and whether that holds."""
    for x in jax.tree.leaves(updates):
        if _is_inexact(x):
            is_finite &= jnp.all(jnp.isfinite(x))
    return jax.tree.map(
        lambda x: jnp.where(is_finite, x, jnp.zeros_like(x)) if _is_array_like(x) else x, updates
    ), is_finite


def no_update(leaf: Any) -> Array:
    """A zero update for a leaf of any kind, to which a number, at least, can be added."""
    dtype = getattr(leaf, "dtype", None)
    if _is_array_like(leaf) and (dtype is None or jnp.issubdtype(dtype, jnp.number)):
        return jnp.zeros_like(leaf)
    return jnp.zeros(getattr(leaf, "shape", ()), jnp.float32)


def _check_structure(updates: Tree, wanted: Any) -> None:
    if jax.tree.structure(updates) != wanted:
        raise ValueError(
            f"updates must have the structure of params, {wanted}, got "
            f"{jax.tree.structure(updates)}. Differentiate the loss with respect to the same params."
        )


def _is_float0(leaf: Any) -> bool:
    return getattr(leaf, "dtype", None) == jax.dtypes.float0


def _as_array(leaf: Any) -> Any:
    """Python numbers as arrays; what has a shape and dtype already, if only those, as it is."""
    return leaf if hasattr(leaf, "dtype") else jnp.asarray(leaf)


def _is_array_like(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") or isinstance(leaf, (bool, int, float, complex))


def _is_inexact(leaf: Any) -> bool:
    return jnp.issubdtype(getattr(leaf, "dtype", None) or type(leaf), jnp.inexact)


def _raised(leaf: Any) -> Any:
    if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
        return leaf
    return leaf if jnp.finfo(leaf.dtype).bits >= 32 else leaf.astype(jnp.float32)


def _stored(leaf: Array) -> Array:
    """A leaf as memory would hold it: within a fused loop XLA keeps bfloat16 sums in float32."""
    info = jnp.finfo(leaf.dtype)
    if info.bits >= 32:
        return leaf
    return jax.lax.reduce_precision(leaf, exponent_bits=info.nexp, mantissa_bits=info.nmant)


def _is_masked(node: Any) -> bool:
    return isinstance(node, optax.MaskedNode)


def _has_hidden_leaves(tree: Tree) -> bool:
    return any(map(_is_masked, jax.tree.leaves(tree, is_leaf=_is_masked)))


def _unhidden(params: Tree, all_params: Tree) -> Tree:
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
            lambda x, whole: jax.tree.map(_raised, whole) if _is_masked(x) else x,
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


def _broadcast_mask(mask: Any, params: Tree) -> tuple[bool, ...]:
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
