"""The residual of one sample as a function of real arrays: its rows, traced and looked at."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._inputs.modes import depending, hurdles
from hig_optax._inputs.real_view import RealView
from hig_optax._types import Tree


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
    depends = depending(jaxpr.jaxpr, is_column)
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

    forward, reverse = hurdles(evaluate, jaxpr.jaxpr, columns, entries)
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
