"""The equations of a program in which all calls are written out, and what each reads and writes."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex


class Step(NamedTuple):
    """An equation of a program in which all calls are written out."""

    eqn: Any
    inputs: tuple[int, ...]
    """Numbers of the values read, `LITERAL` for constants in the text."""
    outputs: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """The inputs without literals."""
        return tuple(v for v in self.inputs if v != LITERAL)


# Another name for a value, or another order of reading it.
ALIASES = {
    "bitcast_convert_type",
    "copy",
    "copy_p",
    "expand_dims",
    "reshape",
    "sharding_constraint",
    "squeeze",
    "stop_gradient",
    "transpose",
}


# What reads its arguments from memory and writes its results there. All else is fused with what follows.
_KEPT = {
    "all_gather",
    "all_to_all",
    "concatenate",
    "cond",
    "conv_general_dilated",
    "custom_linear_solve",
    "dot_general",
    "dynamic_update_slice",
    "fft",
    "pad",
    "pmax",
    "ppermute",
    "psum",
    "rev",
    "scan",
    "sort",
    "while",
}


# What may write its first result over its first argument.
_IN_PLACE = {"dynamic_update_slice", "eigh", "scatter", "scatter-add", "scatter_add"}


SUMS = ("reduce_", "arg", "cum")


LITERAL = -1


_LOOPS = {"scan", "while", "cond"}


def places_of(
    steps: Sequence[Step], results: set[int], *, in_loop: bool
) -> Callable[[int], set[int]]:
    """Where a value lies in memory: ``value -> values``.

    A kept value lies in its own place, an alias where its source does, and what is fused is read from the
    places of what it is made of.
    """
    kept = _kept_values(steps, results)
    last_read = {v: t for t, step in enumerate(steps) for v in step.read}
    made = {v for step in steps for v in step.outputs}
    of: dict[int, set[int]] = {}

    def places(v: int) -> set[int]:
        return of.get(v, {v})

    def may_be_overwritten(v: int, t: int) -> bool:
        # Within a loop the arguments are its carry, or it would not write to them.
        is_last = last_read.get(v) == t and v not in results
        return is_last and len(places(v)) == 1 and (in_loop or places(v) <= made)

    for t, step in enumerate(steps):
        name = step.eqn.primitive.name
        if name in ALIASES and step.read:
            of[step.outputs[0]] = places(step.read[0])
        elif name in _IN_PLACE and may_be_overwritten(step.inputs[0], t):
            of[step.outputs[0]] = places(step.inputs[0])
        elif name in ("scan", "while"):
            for start, v in zip(_carry(step), step.outputs, strict=False):
                if start != LITERAL and may_be_overwritten(start, t):
                    of[v] = places(start)
        else:
            sources = {place for v in step.read for place in places(v)}
            of |= {v: sources for v in step.outputs if v not in kept}
    return places


def _carry(step: Step) -> tuple[int, ...]:
    """What a loop starts from, in the order of its first results."""
    eqn, params = step.eqn, step.eqn.params
    if eqn.primitive.name == "scan":
        # Constants, carry and what is scanned go in, carry and what is stacked come out. What is scanned or
        # stacked has an axis more outside of the body; the counts have other names from release to release.
        body = params["jaxpr"].jaxpr
        scanned = sum(map(_has_another_axis, eqn.invars, body.invars))
        carried = len(eqn.outvars) - sum(map(_has_another_axis, eqn.outvars, body.outvars))
        first = len(eqn.invars) - scanned - carried
        return step.inputs[first : first + carried]
    return step.inputs[params["cond_nconsts"] + params["body_nconsts"] :]


def _has_another_axis(outside: Any, inside: Any) -> bool:
    return outside.aval.ndim != inside.aval.ndim


def written_out(
    jaxpr: Any, arguments: dict[Any, int], sizes: list[int], results: list[int]
) -> Iterator[Step]:
    """The equations with those of called functions in their place, and values by number.

    Numbers of new values are appended to `sizes` with their bytes, those of the results to `results`.
    """
    names = dict(arguments)

    def number(v: Any) -> int:
        if v not in names:
            names[v] = len(sizes)
            sizes.append(bytes_of(v.aval))
        return names[v]

    for v in (*jaxpr.constvars, *jaxpr.invars):
        number(v)
    for eqn in jaxpr.eqns:
        body = _called(eqn)
        inputs = tuple(LITERAL if isinstance(v, jex.Literal) else number(v) for v in eqn.invars)
        if body is None:
            yield Step(eqn, inputs, tuple(number(v) for v in eqn.outvars))
            continue
        passed = {
            inner: number(v)
            for inner, v in zip(body.invars, eqn.invars, strict=True)
            if not isinstance(v, jex.Literal)
        }
        of_body: list[int] = []
        yield from written_out(body, passed, sizes, of_body)
        returned = zip(eqn.outvars, of_body, strict=True)
        names |= {v: value for v, value in returned if value != LITERAL}
    results += [LITERAL if isinstance(v, jex.Literal) else number(v) for v in jaxpr.outvars]


def _called(eqn: Any) -> Any:
    """The body of a call, if the equation is one whose arguments are those of the body."""
    if eqn.primitive.name in _LOOPS:
        return None
    for key in ("jaxpr", "call_jaxpr", "call"):
        inner = eqn.params.get(key)
        inner = getattr(inner, "jaxpr", inner)
        if hasattr(inner, "eqns") and len(inner.invars) == len(eqn.invars):
            return inner
    return None


def _kept_values(steps: Sequence[Step], results: set[int]) -> set[int]:
    """Which values are written to memory: what kept operations read or write, sums, and results."""
    kept = set(results)
    for step in reversed(steps):
        name = step.eqn.primitive.name
        if is_kept(name):
            kept |= {*step.read, *step.outputs}
        elif name.startswith(SUMS):
            kept |= set(step.outputs)
        elif name in ALIASES and kept & set(step.outputs):
            kept |= set(step.read)
    return kept


def is_kept(name: str) -> bool:
    return name in _KEPT or name in _IN_PLACE or name in FACTORISATIONS


def bytes_of(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    itemsize = getattr(dtype, "itemsize", 8)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def _eigh(n: int, _: int) -> tuple[float, float]:
    return 9 * n**3, 2 * n**2


def _svd(m: int, n: int) -> tuple[float, float]:
    r, q = min(m, n), max(m, n)
    return 4 * q**2 * r + 8 * q * r**2 + 9 * r**3, 4 * r**2 + m * n


def _qr(m: int, n: int) -> tuple[float, float]:
    r, q = min(m, n), max(m, n)
    return 2 * q * r**2, 0


# Rows and columns -> flops, and entries of workspace. Symmetric QR with vectors, R-SVD and Householder QR in
# Golub and Van Loan; workspace of LAPACK's divide and conquer.
FACTORISATIONS = {
    "cholesky": lambda n, _: (n**3 / 3, 0),
    "eigh": _eigh,
    "geqrf": _qr,
    "householder_product": _qr,
    "qr": _qr,
    "svd": _svd,
    "triangular_solve": lambda m, n: (m * n**2, 0),
    "tridiagonal": lambda n, _: (4 / 3 * n**3, 0),
}
