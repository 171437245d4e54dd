"""Trees in, flat real vectors out: the columns (parameters) and the rows (residuals) of J.

Real and imaginary part of a complex number count as two real ones, so that everything behind this
module is real. Leaves in less than float32 are raised to float32.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array, Float

from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class RealView:
    """A tree of real or complex arrays seen as a tuple of real arrays, or as one real vector.

    A complex leaf becomes two entries of the tuple, real part first. For an incoming gradient in Optax's
    convention, ``conj(jax.grad(loss))`` = ∂L/∂Re + i ∂L/∂Im, the two entries are the real derivatives.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Tree) -> "RealView":
        """The view of any tree like `tree`, whose leaves need only shape and dtype."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(
            treedef,
            tuple(x.shape for x in leaves),
            tuple(jax.dtypes.canonicalize_dtype(x.dtype) for x in leaves),
        )

    @property
    def size(self) -> int:
        """Number of real numbers in the tree."""
        return sum(
            math.prod(shape) * (1 + _is_complex(dtype))
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    @property
    def real_dtypes(self) -> tuple[Any, ...]:
        """Dtype of the real parts of each leaf, at least float32."""
        return tuple(_real_dtype(dtype) for dtype in self.dtypes)

    @property
    def lowest_dtype(self) -> Any:
        """The least precise of `real_dtypes`: what is computed from all leaves is no better."""
        return min(self.real_dtypes, key=_bits)

    @property
    def highest_dtype(self) -> Any:
        """The most precise of `real_dtypes`."""
        return max(self.real_dtypes, key=_bits)

    def split(self, tree: Tree) -> tuple[Array, ...]:
        """The tree as real arrays."""
        parts: list[Array] = []
        for x, dtype in zip(jax.tree.leaves(tree), self.real_dtypes, strict=True):
            if _is_complex(x.dtype):
                parts += [jnp.real(x).astype(dtype), jnp.imag(x).astype(dtype)]
            else:
                parts.append(jnp.asarray(x, dtype))
        return tuple(parts)

    def merge(self, parts: Sequence[Array]) -> Tree:
        """The tree again, low-precision leaves still raised to float32."""
        remaining = iter(parts)
        leaves = [
            jax.lax.complex(next(remaining), next(remaining))
            if _is_complex(dtype)
            else next(remaining)
            for dtype in self.dtypes
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def ravel(self, tree: Tree, dtype: Any) -> Float[Array, " size"]:
        """The tree as one vector of length `size`."""
        return jnp.concatenate([x.ravel().astype(dtype) for x in self.split(tree)])

    def unravel(self, vector: Float[Array, " size"]) -> Tree:
        """The tree of a vector, with the leaves' own shapes and dtypes."""
        parts, start = [], 0
        for shape, dtype, real in zip(self.shapes, self.dtypes, self.real_dtypes, strict=True):
            for _ in range(1 + _is_complex(dtype)):
                stop = start + math.prod(shape)
                parts.append(vector[start:stop].reshape(shape).astype(real))
                start = stop
        leaves = jax.tree.leaves(self.merge(parts))
        leaves = [x.astype(dtype) for x, dtype in zip(leaves, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


@dataclasses.dataclass(frozen=True)
class Rows:
    """The residual as a function of real arrays: real column parts in, one real row vector out."""

    evaluate: Callable[[tuple[Array, ...], tuple[Any, ...]], Float[Array, " r"]]
    """``(column parts, entries of one sample) -> rows of the sample``, (r,)."""

    view: RealView
    """The rows of one sample as `residual_fn` returns them."""

    has_custom_vjp: bool
    """Whether derivatives pass through a function with a reverse rule only: forward mode would fail."""

    is_forward_only: bool
    """Whether they pass through something with a forward rule only, a dynamic loop: reverse would fail."""


def trace_rows(
    residual: Callable[[tuple[Array, ...], tuple[Any, ...]], Tree],
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
    *,
    has_frozen: bool = False,
) -> Rows:
    """Find out what rows a residual has, without computing anything.

    Args:
        residual: ``(column parts, entries of one sample) -> tree of rows``.
        columns: Real column parts; only shapes and dtypes are looked at.
        entries: What differs from sample to sample; only shapes and dtypes are looked at.
        has_frozen: Whether rows may depend on parameters that are not among the columns.

    Returns:
        The residual as `Rows`.

    Raises:
        TypeError: The rows are not real or complex floating-point arrays.
        ValueError: There are no rows, or they depend on none of the columns; there is something beside them;
            neither mode can differentiate them.
    """

    def call(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Tree:
        return jax.tree_util.tree_map_with_path(_as_rows, residual(columns, entries))

    jaxpr, shapes = jax.make_jaxpr(call, return_shape=True)(columns, entries)
    for path, leaf in jax.tree.leaves_with_path(shapes):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            raise TypeError(
                f"residual_fn must return real or complex floating-point rows, got {leaf.dtype} "
                f"at {jax.tree_util.keystr(path) or 'the root'}. Convert with .astype(jnp.float32)."
            )
    view = RealView.of(shapes)
    if view.size == 0:
        raise ValueError(
            f"residual_fn must return the rows of a sample, at least one number, got {shapes}. "
            "Return the residual array (or a tree of arrays) whose Jacobian is wanted: y - target."
        )
    is_column = [i < len(columns) for i in range(len(jaxpr.jaxpr.invars))]
    depends = _depends(jaxpr.jaxpr, is_column)
    if not any(depends):
        raise ValueError(
            "residual_fn ignores its parameters: no row depends on any that is optimized, so that the "
            "Jacobian is zero. Compute the rows from the params that residual_fn is given, not from a "
            "closure, and let mask= be True for some that matter."
        )
    if isinstance(shapes, tuple) and not has_frozen and not all(depends):
        beside = jax.tree_util.keystr(jax.tree.leaves_with_path(shapes)[depends.index(False)][0])
        raise ValueError(
            f"residual_fn must return the rows and nothing beside them, got a tuple whose part {beside} "
            "depends on no parameter. All that it returns counts as rows, and there is no auxiliary output. "
            "Return the rows alone, y - target."
        )

    def evaluate(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
        return view.ravel(call(columns, entries), view.highest_dtype)

    forward, reverse = _hurdles(evaluate, jaxpr.jaxpr, columns, entries)
    if forward and reverse:
        raise ValueError(
            f"residual_fn cannot be differentiated: reverse mode fails ({reverse}), and so does forward mode "
            f"({forward}). Write loops with lax.scan or a fixed number of turns, which both modes pass, or "
            "give the function that stands in the way the other rule: jax.custom_jvp serves both."
        )
    return Rows(evaluate, view, has_custom_vjp=bool(forward), is_forward_only=bool(reverse))


STATEFUL = (
    "A flax.nnx module with BatchNorm or Dropout has state beside its parameters, and changes it when it is "
    "called. Split it all, graphdef, params, rest = nnx.split(model, nnx.Param, ...), and merge a copy in "
    "residual_fn: nnx.merge(graphdef, params, rest, copy=True). Call model.eval() before, so that BatchNorm "
    "takes its stored statistics: residual_fn sees one sample, of which there are none."
)


@contextlib.contextmanager
def explained(sample: Tree, *, is_whole: bool, is_one_vector: bool) -> Iterator[None]:
    """Tell, where a residual fails within, what it was called with, and how else it may have been meant.

    Args:
        sample: What it is called with.
        is_whole: Whether that is the whole batch.
        is_one_vector: Whether the parameters are a flat vector, which a wrapper may have made of them.

    Raises:
        ValueError: It failed, on parameters that are one flat vector.
    """
    try:
        yield
    except Exception as error:
        shapes = jax.tree.map(lambda x: getattr(x, "shape", type(x).__name__), sample)
        if is_whole:
            error.add_note(
                f"residual_fn was called with the whole batch, of shapes {shapes}, since batch_axis=None. If "
                "it is meant for one sample, say which axis counts them: batch_axis=0."
            )
        else:
            error.add_note(
                f"residual_fn was called with one sample, of shapes {shapes}: the batch without the axis "
                "that batch_axis names. If it is meant for the whole batch, pass batch_axis=None."
            )
        # Told by name: Flax is no dependency.
        if type(error).__name__ == "TraceContextError" or "number of leaves, expected" in str(
            error
        ):
            error.add_note(STATEFUL)
        if is_one_vector:
            raise ValueError(
                f"residual_fn failed on params that are one flat vector ({type(error).__name__}: {error}). "
                "If optax.flatten is wrapped around this transformation, remove it: residual_fn needs the "
                "parameters in their own structure."
            ) from error
        raise


def _as_rows(path: Any, leaf: Any) -> Array:
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError):
        raise TypeError(
            f"residual_fn must return arrays, got {leaf!r} of type {type(leaf).__name__} at "
            f"{jax.tree_util.keystr(path) or 'the root'}."
        ) from None


def _is_complex(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def _real_dtype(dtype: Any) -> Any:
    real = jnp.finfo(dtype).dtype
    return real if _bits(real) >= 32 else jnp.dtype(jnp.float32)


def _bits(dtype: Any) -> int:
    return jnp.finfo(dtype).bits


_CALLS = ("jaxpr", "call_jaxpr")
_LOOPS = ("scan", "while", "cond")


def _depends(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
    """Which outputs of a jaxpr depend on the inputs marked true; where unsure, it does."""
    if any(eqn.effects for eqn in jaxpr.eqns):
        return [True] * len(
            jaxpr.outvars
        )  # written to a reference, values travel outside the graph
    marked = {id(v) for v, mark in zip(jaxpr.invars, inputs, strict=True) if mark}
    for eqn in jaxpr.eqns:
        marks = [not isinstance(v, jex.Literal) and id(v) in marked for v in eqn.invars]
        if not any(marks):
            continue
        outputs = [True] * len(eqn.outvars)
        inner = next((eqn.params[key] for key in _CALLS if key in eqn.params), None)
        # Loops feed outputs back, so one pass through their body would not do.
        if inner is not None and eqn.primitive.name not in _LOOPS:
            inner = getattr(inner, "jaxpr", inner)
            if len(inner.invars) == len(marks) and len(inner.outvars) == len(outputs):
                outputs = _depends(inner, marks)
        marked |= {id(v) for v, mark in zip(eqn.outvars, outputs, strict=True) if mark}
    return [not isinstance(v, jex.Literal) and id(v) in marked for v in jaxpr.outvars]


# What may have no rule for a mode. Whether that matters depends on what goes in: a function of the batch
# alone, or of what stands behind a stop_gradient, is never differentiated.
_MAY_LACK_FORWARD = ("custom_vjp_call", "pure_callback", "io_callback", "ffi_call")
_MAY_LACK_REVERSE = ("while", "pure_callback", "io_callback", "ffi_call")


def _hurdles(
    evaluate: Callable[[tuple[Array, ...], tuple[Any, ...]], Array],
    jaxpr: Any,
    columns: tuple[Array, ...],
    entries: tuple[Any, ...],
) -> tuple[str | None, str | None]:
    """Why forward mode cannot differentiate the rows, and why reverse mode cannot; None where it can."""

    def push(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
        return jax.jvp(lambda columns: evaluate(columns, entries), (columns,), (columns,))[1]

    def pull(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> tuple[Array, ...]:
        y, pullback = jax.vjp(lambda columns: evaluate(columns, entries), columns)
        return pullback(y)[0]

    def hurdle(derivative: Callable, suspects: tuple[str, ...]) -> str | None:
        if not _holds(jaxpr, suspects):
            return None
        try:
            traced = jax.make_jaxpr(derivative)(columns, entries)
        except Exception as error:
            return str(error).split(". ")[0].rstrip(".")
        # Of a custom_vjp that forward mode reached this is left, which fails when it is evaluated.
        return (
            "a jax.custom_vjp has a reverse rule only"
            if _holds(traced.jaxpr, ("custom_lin",))
            else None
        )

    return hurdle(push, _MAY_LACK_FORWARD), hurdle(pull, _MAY_LACK_REVERSE)


def _holds(jaxpr: Any, names: tuple[str, ...]) -> bool:
    return any(
        eqn.primitive.name.startswith(names)
        or any(_holds(inner, names) for inner in jex.jaxprs_in_params(eqn.params))
        for eqn in jaxpr.eqns
    )
