"""Weight matrices of dense layers, found in the residual: their rows of J are outer products.

A sample that passes through z = a W has ∂y/∂W = a ⊗ ∂y/∂z, so a row of J need not be written out: the few
numbers of a and δ = ∂y/∂z say it all. This module finds such matrices in the residual's jaxpr and adds a
tap, a zero that is summed onto each z, by which δ is differentiated and where a is read. Where the residual
holds derivatives of a network, its matrices are met several times: by the values, by each tangent, and,
behind `jax.grad`, as z = a Wᵀ by the cotangents.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex
from jaxtyping import Array

_INLINED = ("jit", "pjit", "closed_call", "core_call")


class Use(NamedTuple):
    """A product with a matrix W that is a parameter: a W, or a Wᵀ."""

    path: tuple[int, ...]
    """Where in the jaxpr it is."""
    part: int
    """Which column part W is."""
    operand: int
    """Which operand of the product is W."""
    is_turned: bool
    """Whether it is a Wᵀ."""
    positions: int
    """Rows of a."""
    out: tuple[int, Any]
    """Columns of the product, and its dtype."""

    @property
    def tap(self) -> jax.ShapeDtypeStruct:
        """What is summed onto the product, (positions, out)."""
        size, dtype = self.out
        return jax.ShapeDtypeStruct((self.positions, size), dtype)


@dataclasses.dataclass(frozen=True)
class Tapped:
    """A residual with taps on the products of some of its weight matrices."""

    evaluate: Callable[
        [tuple[Array, ...], tuple[Any, ...], Sequence[Array | None]], tuple[Array, list]
    ]
    """``(column parts, entries of one sample, taps) -> rows, inputs``: taps and inputs use by use, each
    (positions, out) and (positions, in). Where a tap is None there is none, and its input is None."""

    uses: tuple[Use, ...]
    """In the order of taps and inputs."""

    @property
    def matrices(self) -> frozenset[int]:
        """The column parts that are tapped."""
        return frozenset(use.part for use in self.uses)

    def may_stay_factored(self, part: int, shape: tuple[int, ...]) -> bool:
        """Whether a Gram matrix is had with fewer products from the factors of a matrix than from its J."""
        uses = [use for use in self.uses if use.part == part]
        return not any(use.is_turned for use in uses) and _pays(uses, shape)


def _pays(uses: Sequence[Use], shape: tuple[int, ...]) -> bool:
    size_in, size_out = shape
    positions = sum(use.positions for use in uses)
    return 2 * positions**2 * (size_in + size_out) <= size_in * size_out


def find_taps(
    evaluate: Callable[[tuple[Array, ...], tuple[Any, ...]], Array],
    columns: Sequence[Any],
    entries: tuple[Any, ...],
) -> Tapped | None:
    """Find the matrices that enter a residual by products ``a @ W`` and ``a @ W.T`` alone.

    A matrix that is used in any other way too (sliced, in a loop, under `jax.checkpoint`, as part of another
    value) is left to be differentiated as any other parameter. So is one that is used once, unless its J may
    stay in factors: nothing is won by writing that out from them.

    Args:
        evaluate: ``(column parts, entries of one sample) -> rows``, (r,).
        columns: Column parts; only shapes and dtypes are looked at.
        entries: What differs from sample to sample; only shapes and dtypes are looked at.

    Returns:
        The residual with taps; None where there is no such matrix.
    """
    closed = jax.make_jaxpr(evaluate)(tuple(columns), entries)
    names = {v: i for i, v in enumerate(closed.jaxpr.invars[: len(columns)])}
    found: dict[int, list[Use]] = {}
    others: set[int] = {names[v] for v in closed.jaxpr.outvars if _is_named(v, names)}
    _collect(closed.jaxpr, names, (), found, others)
    uses = tuple(
        use
        for part, uses in found.items()
        if part not in others and (len(uses) > 1 or _pays(uses, columns[part].shape))
        for use in uses
    )
    if not uses:
        return None
    place = {use.path: i for i, use in enumerate(uses)}

    def tapped(
        columns: tuple[Array, ...], entries: tuple[Any, ...], taps: Sequence[Array | None]
    ) -> tuple[Array, list]:
        inputs: list[Any] = [None] * len(uses)
        flat = jax.tree.leaves((columns, entries))
        run = _Run(uses, place, taps, inputs)
        (rows,) = run(closed.jaxpr, closed.consts, flat, ())
        return rows, inputs

    return Tapped(tapped, uses)


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
    found: dict[int, list[Use]],
    others: set[int],
) -> None:
    """Sort the uses of the named variables into products and others."""
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
                _collect(body, passed, here, found, others)
            continue
        use = _product(eqn, names, here)
        if use is not None:
            found.setdefault(use.part, []).append(use)
        # Of a parameter times a parameter one is what the other puts in.
        operand = None if use is None else use.operand
        others |= {
            names[v] for k, v in enumerate(eqn.invars) if _is_named(v, names) and k != operand
        }


def _product(eqn: Any, names: dict, path: tuple[int, ...]) -> Use | None:
    """The use that an equation makes of a named matrix, if that is a product and nothing is batched."""
    if eqn.primitive.name != "dot_general":
        return None
    contracted, batched = eqn.params["dimension_numbers"]
    (out,) = eqn.outvars
    for operand in (1, 0):
        w, a = eqn.invars[operand], eqn.invars[1 - operand]
        is_matrix = _is_named(w, names) and w.aval.ndim == 2 and not batched[0]
        if not is_matrix or len(contracted[operand]) != 1:
            continue
        if not a.aval.dtype == w.aval.dtype == out.aval.dtype:
            continue
        (axis,) = contracted[operand]
        size = w.aval.shape[1 - axis]
        positions = math.prod(out.aval.shape) // max(size, 1)
        return Use(path, names[w], operand, axis == 1, positions, (size, out.aval.dtype))
    return None


class _Run(NamedTuple):
    """Evaluates a jaxpr; at the tapped equations, adds the tap and notes the input."""

    uses: Sequence[Use]
    place: dict[tuple, int]
    taps: Sequence[Array | None]
    inputs: list[Any]

    def __call__(
        self, jaxpr: Any, consts: Sequence[Any], args: Sequence[Any], path: tuple[int, ...]
    ) -> list[Any]:
        values: dict[Any, Any] = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= dict(zip(jaxpr.invars, args, strict=True))
        for i, eqn in enumerate(jaxpr.eqns):
            here = (*path, i)
            operands = [v.val if isinstance(v, jex.Literal) else values[v] for v in eqn.invars]
            if any(tap[: len(here)] == here and tap != here for tap in self.place):
                inner = _inner(eqn)
                body, inner_consts = getattr(inner, "jaxpr", inner), getattr(inner, "consts", ())
                results = self(body, inner_consts, operands, here)
            else:
                results = _bind(eqn, operands)
            if here in self.place:
                results = [self._tapped(self.place[here], eqn, operands, results[0])]
            values |= dict(zip(eqn.outvars, results, strict=True))
        return [v.val if isinstance(v, jex.Literal) else values[v] for v in jaxpr.outvars]

    def _tapped(self, i: int, eqn: Any, operands: Sequence[Array], product: Array) -> Array:
        use, tap = self.uses[i], self.taps[i]
        if tap is None:
            return product
        (axis,) = eqn.params["dimension_numbers"][0][1 - use.operand]
        a = jnp.moveaxis(operands[1 - use.operand], axis, -1)
        self.inputs[i] = a.reshape(use.positions, -1)
        # Axes of the first operand come first: those of W, where it is that one.
        return product + (tap if use.operand == 1 else tap.T).reshape(product.shape)


def _bind(eqn: Any, operands: Sequence[Any]) -> list[Any]:
    """Evaluate one equation, as the interpreters in JAX's own documentation do."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    # Up to some release the functions among the parameters came apart from the others.
    functions, params = bound if isinstance(bound, tuple) else ((), bound)
    with eqn.ctx.manager:
        answer = eqn.primitive.bind(*functions, *operands, **params)
    return list(answer) if eqn.primitive.multiple_results else [answer]
