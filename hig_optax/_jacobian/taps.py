"""Weight matrices of dense layers, found in the residual: their rows of J are outer products.

A sample that passes through z = a W has ∂y/∂W = a ⊗ ∂y/∂z, so a row of J need not be written out: the few
numbers of a and δ = ∂y/∂z say it all. This module finds such matrices in the residual's jaxpr and adds a
tap, a zero that is summed onto each z, by which δ is differentiated and where a is read.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex
from jaxtyping import Array

_INLINED = ("jit", "pjit", "closed_call", "core_call")


@dataclasses.dataclass(frozen=True)
class Tapped:
    """A residual with taps on the products of some of its weight matrices."""

    evaluate: Callable[[tuple[Array, ...], tuple[Any, ...], Sequence[Array]], tuple[Array, list]]
    """``(column parts, entries of one sample, taps) -> rows, inputs``: taps and inputs use by use, each
    (positions, out) and (positions, in)."""

    matrices: tuple[int, ...]
    """Which column part each use belongs to, in order."""

    taps: tuple[jax.ShapeDtypeStruct, ...]
    """Shape (positions, out) and dtype of each tap."""


def find_taps(
    evaluate: Callable[[tuple[Array, ...], tuple[Any, ...]], Array],
    columns: Sequence[Any],
    entries: tuple[Any, ...],
) -> Tapped | None:
    """Find the matrices that enter a residual by products ``a @ W`` alone.

    A matrix that is used in any other way too (transposed, sliced, in a loop, under `jax.custom_jvp` or
    `jax.checkpoint`, as part of another value) is left to be differentiated as any other parameter, and so
    is one that is used so often that its outer products would cost more than their sum written out.

    Args:
        evaluate: ``(column parts, entries of one sample) -> rows``, (r,).
        columns: Column parts; only shapes and dtypes are looked at.
        entries: What differs from sample to sample; only shapes and dtypes are looked at.

    Returns:
        The residual with taps; None where there is no such matrix.
    """
    closed = jax.make_jaxpr(evaluate)(tuple(columns), entries)
    names = {v: i for i, v in enumerate(closed.jaxpr.invars[: len(columns)])}
    products: dict[int, list[tuple]] = {}
    others: set[int] = {names[v] for v in closed.jaxpr.outvars if _is_named(v, names)}
    _collect(closed.jaxpr, names, (), products, others)

    chosen: dict[tuple, int] = {}
    for part, uses in products.items():
        size_in, size_out = columns[part].shape
        positions = sum(rows for _, rows, _ in uses)
        pays = 2 * positions**2 * (size_in + size_out) <= size_in * size_out
        if part not in others and pays:
            chosen |= {path: part for path, _, _ in uses}
    if not chosen:
        return None
    found = {path: use for uses in products.values() for path, *use in uses}
    order = list(chosen)  # the order of evaluation, matrix by matrix
    place = {path: i for i, path in enumerate(order)}

    def tapped(
        columns: tuple[Array, ...], entries: tuple[Any, ...], taps: Sequence[Array]
    ) -> tuple[Array, list]:
        inputs: list[Any] = [None] * len(order)
        flat = jax.tree.leaves((columns, entries))
        (rows,) = _run(closed.jaxpr, closed.consts, flat, (), place, taps, inputs)
        return rows, inputs

    shapes = tuple(
        jax.ShapeDtypeStruct((found[path][0], columns[chosen[path]].shape[1]), found[path][1])
        for path in order
    )
    return Tapped(tapped, tuple(chosen[path] for path in order), shapes)


def _is_named(v: Any, names: dict) -> bool:
    return not isinstance(v, jex.Literal) and v in names


def _inner(eqn: Any) -> Any:
    """The jaxpr of a call that can be evaluated in place, if the equation is one."""
    if eqn.primitive.name not in _INLINED:
        return None
    return eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))


def _collect(
    jaxpr: Any,
    names: dict[Any, int],
    path: tuple[int, ...],
    products: dict[int, list[tuple]],
    others: set[int],
) -> None:
    """Sort the uses of the named variables into products and others.

    A use is the path to its equation, its number of positions, and the dtype of its product.
    """
    for i, eqn in enumerate(jaxpr.eqns):
        here = (*path, i)
        inner = _inner(eqn)
        if inner is not None:
            body = getattr(inner, "jaxpr", inner)
            passed = {
                b: names[v]
                for b, v in zip(body.invars, eqn.invars, strict=True)
                if _is_named(v, names)
            }
            others |= {passed[v] for v in body.outvars if _is_named(v, passed)}
            if passed:
                _collect(body, passed, here, products, others)
            continue
        used = [v for v in eqn.invars if _is_named(v, names)]
        if not used:
            continue
        if _is_product(eqn, names):
            (out,) = eqn.outvars
            positions = math.prod(out.aval.shape[:-1])
            use = (here, positions, out.aval.dtype)
            products.setdefault(names[eqn.invars[1]], []).append(use)
            others |= {names[v] for v in used[:-1]}  # a parameter times a parameter
        else:
            others |= {names[v] for v in used}


def _is_product(eqn: Any, names: dict) -> bool:
    """Whether this is ``a @ W``, W a named matrix: contracted along its first axis, nothing batched."""
    if eqn.primitive.name != "dot_general":
        return False
    a, w = eqn.invars
    ((of_a, of_w), (batch_a, _)) = eqn.params["dimension_numbers"]
    return (
        _is_named(w, names)
        and w.aval.ndim == 2
        and tuple(of_w) == (0,)
        and tuple(of_a) == (a.aval.ndim - 1,)
        and not batch_a
        and a.aval.dtype == w.aval.dtype == eqn.outvars[0].aval.dtype
    )


def _run(
    jaxpr: Any,
    consts: Sequence[Any],
    args: Sequence[Any],
    path: tuple[int, ...],
    place: dict[tuple, int],
    taps: Sequence[Array],
    inputs: list[Any],
) -> list[Any]:
    """Evaluate a jaxpr; at the tapped equations, add the tap and note the input."""
    values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
    values |= dict(zip(jaxpr.invars, args, strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else values[v]

    for i, eqn in enumerate(jaxpr.eqns):
        here = (*path, i)
        operands = [read(v) for v in eqn.invars]
        if any(tap[: len(here)] == here and tap != here for tap in place):
            inner = _inner(eqn)
            body, inner_consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
            results = _run(body, inner_consts, operands, here, place, taps, inputs)
        else:
            results = _bind(eqn, operands)
        if here in place:
            tap = taps[place[here]]
            inputs[place[here]] = operands[0].reshape(tap.shape[0], -1)
            results = [results[0] + tap.reshape(results[0].shape)]
        values |= dict(zip(eqn.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, as the interpreters in JAX's own documentation do."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # Up to some release the functions among the parameters came apart from the others.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        answer = eqn.primitive.bind(*functions, *operands, **params)
    return list(answer) if eqn.primitive.multiple_results else [answer]
