"""What a traced program will cost, read off its jaxpr: nothing is compiled or run."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from hig_optax._planning.equations import (
    ALIASES,
    FACTORISATIONS,
    LITERAL,
    SUMS,
    places_of,
    written_out,
)


class Cost(NamedTuple):
    """Of one call of a program."""

    flops: float
    """Floating-point operations, a multiplication and an addition counted as two."""

    arena: int = 0
    """Most bytes of values that live at once; a compiler sets them aside for the whole call."""

    workspace: int = 0
    """Most bytes that an operation takes on top of that, for itself."""

    turns: float = 0
    """Turns of loops of known length, one after the other: however little one computes, it takes its time."""

    @property
    def peak_bytes(self) -> int:
        """Most bytes that are held at once for what the program makes, its results among it."""
        return self.arena + self.workspace


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
        Cost(flops=22000.0, arena=4400, workspace=0, turns=0.0)
    """
    return _cost(closed.jaxpr)


def _cost(jaxpr: Any, *, in_loop: bool = False) -> Cost:
    sizes: list[int] = []
    returned: list[int] = []
    steps = list(written_out(jaxpr, {}, sizes, returned))
    results = {v for v in returned if v != LITERAL}
    end = len(steps)
    places = places_of(steps, results, in_loop=in_loop)
    last_use = dict.fromkeys((place for v in results for place in places(v)), end)
    for t, step in reversed(list(enumerate(steps))):
        for v in step.read:
            for place in places(v):
                last_use.setdefault(place, t)

    given = set(range(len(sizes))) - {v for step in steps for v in step.outputs}
    flops, turns, live, arena, workspace = 0.0, 0.0, 0, 0, 0
    alive: set[int] = set()
    expiring: dict[int, list[int]] = {}
    for t, step in enumerate(steps):
        inner = _inner(step.eqn)
        flops, turns = flops + inner.flops, turns + inner.turns
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
    return Cost(flops, arena, workspace, turns)


def _inner(eqn: Any) -> Cost:
    """What one equation costs besides its arguments and results."""
    name, params = eqn.primitive.name, eqn.params
    size = sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.outvars)
    if name == "dot_general":
        ((contracted, _), _) = params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return Cost(2 * size * math.prod(shape[i] for i in contracted))
    if name == "conv_general_dilated":
        kernel = eqn.invars[1].aval.shape
        out = params["dimension_numbers"].rhs_spec[0]
        return Cost(2 * size * math.prod(kernel) / kernel[out])
    if name == "fft":
        return Cost(5 * size * math.log2(max(2, math.prod(params["fft_lengths"]))))
    if name in FACTORISATIONS:
        *batch, rows, columns = eqn.invars[0].aval.shape
        flops, entries = FACTORISATIONS[name](rows, columns)
        itemsize = eqn.invars[0].aval.dtype.itemsize
        return Cost(math.prod(batch) * flops, 0, int(entries * itemsize))
    if name == "scan":
        body = _cost(params["jaxpr"].jaxpr, in_loop=True)
        length = params["length"]
        return body._replace(flops=length * body.flops, turns=length * (1 + body.turns))
    if name == "while":
        return _either([params[key].jaxpr for key in ("cond_jaxpr", "body_jaxpr")], in_loop=True)
    if name == "cond":
        return _either([branch.jaxpr for branch in params["branches"]], in_loop=False)
    if name in ALIASES or name in ("broadcast_in_dim", "iota", "convert_element_type"):
        return Cost(0)
    if name.startswith(SUMS):
        return Cost(sum(math.prod(getattr(v.aval, "shape", ())) for v in eqn.invars))
    return Cost(size)


def _either(jaxprs: Sequence[Any], *, in_loop: bool) -> Cost:
    """The most of what one of several programs may cost; a loop of unknown length counts once."""
    costs = [_cost(jaxpr, in_loop=in_loop) for jaxpr in jaxprs]
    return Cost(*(max(figures) for figures in zip(*costs, strict=True)))
