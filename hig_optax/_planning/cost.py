"""What a traced program will cost, read off its jaxpr: nothing is compiled or run."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex


class Cost(NamedTuple):
    """Of one call of a program."""

    flops: float
    """Floating-point operations, a multiplication and an addition counted as two."""

    peak_bytes: int
    """Most bytes that are held at once for values that the program makes, its results included and its
    arguments not."""


def cost_of(closed: Any) -> Cost:
    """Flops and peak memory of a closed jaxpr.

    Memory is that of a compiler that fuses elementwise operations into what follows, keeps what a product, a
    loop or a factorisation reads and writes, lets loops update their carry in place, and reuses the place of
    a value after its last use, in the order of the program; on top of it comes the largest workspace of a
    factorisation. A compiler that schedules otherwise takes more or less.

    Args:
        closed: As `jax.make_jaxpr` returns it.

    Returns:
        The cost.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jax.ShapeDtypeStruct((10, 100), jnp.float32)
        >>> cost_of(jax.make_jaxpr(lambda x: jnp.tanh(x + 1) @ x.T)(x))  # tanh 4000 bytes, product 400
        Cost(flops=22000.0, peak_bytes=4400)
    """
    found = _cost(closed.jaxpr)
    return Cost(found.flops, found.arena + found.workspace)


class _Cost(NamedTuple):
    flops: float
    arena: int
    """Most bytes of values that live at once; a compiler sets them aside for the whole call."""
    workspace: int
    """Most bytes that an operation takes on top of that, for itself."""


class _Step(NamedTuple):
    """An equation of a program in which all calls are written out."""

    eqn: Any
    inputs: tuple[int, ...]
    """Numbers of the values read, `_LITERAL` for constants in the text."""
    outputs: tuple[int, ...]

    @property
    def read(self) -> tuple[int, ...]:
        """The inputs without literals."""
        return tuple(v for v in self.inputs if v != _LITERAL)


# Another name for a value, or another order of reading it.
_ALIASES = {
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
_SUMS = ("reduce_", "arg", "cum")
_LITERAL = -1
_LOOPS = {"scan", "while", "cond"}


def _cost(jaxpr: Any, *, in_loop: bool = False) -> _Cost:
    sizes: list[int] = []
    returned: list[int] = []
    steps = list(_written_out(jaxpr, {}, sizes, returned))
    results = {v for v in returned if v != _LITERAL}
    end = len(steps)
    places = _places(steps, results, in_loop=in_loop)
    last_use = dict.fromkeys((place for v in results for place in places(v)), end)
    for t, step in reversed(list(enumerate(steps))):
        for v in step.read:
            for place in places(v):
                last_use.setdefault(place, t)

    given = set(range(len(sizes))) - {v for step in steps for v in step.outputs}
    flops, live, arena, workspace = 0.0, 0, 0, 0
    alive: set[int] = set()
    expiring: dict[int, list[int]] = {}
    for t, step in enumerate(steps):
        inner = _inner(step.eqn)
        flops += inner.flops
        for v in step.outputs:
            # A value that is fused lives nowhere, and one that lies where another lies is there already.
            if places(v) == {v} and v not in alive | given:
                alive.add(v)
                live += sizes[v]
                expiring.setdefault(last_use.get(v, t), []).append(v)
        arena, workspace = max(arena, live + inner.arena), max(workspace, inner.workspace)
        for v in expiring.pop(t, []):
            alive.discard(v)
            live -= sizes[v]
    return _Cost(flops, arena, workspace)


def _places(
    steps: Sequence[_Step], results: set[int], *, in_loop: bool
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
        if name in _ALIASES and step.read:
            of[step.outputs[0]] = places(step.read[0])
        elif name in _IN_PLACE and may_be_overwritten(step.inputs[0], t):
            of[step.outputs[0]] = places(step.inputs[0])
        elif name in ("scan", "while"):
            for start, v in zip(_carry(step), step.outputs, strict=False):
                if start != _LITERAL and may_be_overwritten(start, t):
                    of[v] = places(start)
        else:
            sources = {place for v in step.read for place in places(v)}
            of |= {v: sources for v in step.outputs if v not in kept}
    return places


def _carry(step: _Step) -> tuple[int, ...]:
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


def _written_out(
    jaxpr: Any, arguments: dict[Any, int], sizes: list[int], results: list[int]
) -> Iterator[_Step]:
    """The equations with those of called functions in their place, and values by number.

    Numbers of new values are appended to `sizes` with their bytes, those of the results to `results`.
    """
    names = dict(arguments)

    def number(v: Any) -> int:
        if v not in names:
            names[v] = len(sizes)
            sizes.append(_bytes(v.aval))
        return names[v]

    for v in (*jaxpr.constvars, *jaxpr.invars):
        number(v)
    for eqn in jaxpr.eqns:
        body = _called(eqn)
        inputs = tuple(_LITERAL if isinstance(v, jex.Literal) else number(v) for v in eqn.invars)
        if body is None:
            yield _Step(eqn, inputs, tuple(number(v) for v in eqn.outvars))
            continue
        passed = {
            inner: number(v)
            for inner, v in zip(body.invars, eqn.invars, strict=True)
            if not isinstance(v, jex.Literal)
        }
        of_body: list[int] = []
        yield from _written_out(body, passed, sizes, of_body)
        returned = zip(eqn.outvars, of_body, strict=True)
        names |= {v: value for v, value in returned if value != _LITERAL}
    results += [_LITERAL if isinstance(v, jex.Literal) else number(v) for v in jaxpr.outvars]


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


def _kept_values(steps: Sequence[_Step], results: set[int]) -> set[int]:
    """Which values are written to memory: what kept operations read or write, sums, and results."""
    kept = set(results)
    for step in reversed(steps):
        name = step.eqn.primitive.name
        if _is_kept(name):
            kept |= {*step.read, *step.outputs}
        elif name.startswith(_SUMS):
            kept |= set(step.outputs)
        elif name in _ALIASES and kept & set(step.outputs):
            kept |= set(step.read)
    return kept


def _is_kept(name: str) -> bool:
    return name in _KEPT or name in _IN_PLACE or name in _FACTORISATIONS


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    itemsize = getattr(dtype, "itemsize", 8)
    return math.prod(getattr(aval, "shape", ())) * itemsize


def _inner(eqn: Any) -> _Cost:
    """What one equation costs besides its arguments and results."""
    name, params = eqn.primitive.name, eqn.params
    size = sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return _Cost(2 * size * math.prod(shape[i] for i in contracted), 0, 0)
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out = params["dimension_numbers"].rhs_spec[0]
        return _Cost(2 * size * math.prod(kernel) / kernel[out], 0, 0)
    if name == "fft":
        return _Cost(5 * size * math.log2(max(2, math.prod(params["fft_lengths"]))), 0, 0)
    if name in _FACTORISATIONS:
        *batch, rows, columns = eqn.invars[0].aval.shape
        flops, entries = _FACTORISATIONS[name](rows, columns)
        itemsize = eqn.invars[0].aval.dtype.itemsize
        return _Cost(math.prod(batch) * flops, 0, int(entries * itemsize))
    if name == "scan":
        body = _cost(params["jaxpr"].jaxpr, in_loop=True)
        return body._replace(flops=params["length"] * body.flops)
    if name == "while":
        return _either([params[key].jaxpr for key in ("cond_jaxpr", "body_jaxpr")], in_loop=True)
    if name == "cond":
        return _either([branch.jaxpr for branch in params["branches"]], in_loop=False)
    if name in _ALIASES or name in ("broadcast_in_dim", "iota", "convert_element_type"):
        return _Cost(0, 0, 0)
    if name.startswith(_SUMS):
        return _Cost(sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.invars), 0, 0)
    return _Cost(size, 0, 0)


def _either(jaxprs: Sequence[Any], *, in_loop: bool) -> _Cost:
    """The most of what one of several programs may cost; a loop of unknown length counts once."""
    costs = [_cost(jaxpr, in_loop=in_loop) for jaxpr in jaxprs]
    return _Cost(*(max(figures) for figures in zip(*costs, strict=True)))


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
_FACTORISATIONS = {
    "cholesky": lambda n, _: (n**3 / 3, 0),
    "eigh": _eigh,
    "geqrf": _qr,
    "householder_product": _qr,
    "qr": _qr,
    "svd": _svd,
    "triangular_solve": lambda m, n: (m * n**2, 0),
    "tridiagonal": lambda n, _: (4 / 3 * n**3, 0),
}
