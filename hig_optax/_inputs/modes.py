"""What a traced residual depends on, and which mode of differentiation it would fail in."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core as jex
from jaxtyping import Array

_CALLS = ("jaxpr", "call_jaxpr")


_LOOPS = ("scan", "while", "cond")


def depending(jaxpr: Any, inputs: Sequence[bool]) -> list[bool]:
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
                outputs = depending(inner, marks)
        marked |= {id(v) for v, mark in zip(eqn.outvars, outputs, strict=True) if mark}
    return [not isinstance(v, jex.Literal) and id(v) in marked for v in jaxpr.outvars]


# What may have no rule for a mode. Whether that matters depends on what goes in: a function of the batch
# alone, or of what stands behind a stop_gradient, is never differentiated.
_MAY_LACK_FORWARD = ("custom_vjp_call", "pure_callback", "io_callback", "ffi_call")


_MAY_LACK_REVERSE = ("while", "pure_callback", "io_callback", "ffi_call")


def hurdles(
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
