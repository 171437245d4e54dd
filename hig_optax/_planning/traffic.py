"""What a traced step sends between devices, counted without running or compiling it."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend import core as jex

_KINDS = {
    "psum": "all-reduce",
    "pmax": "all-reduce",
    "all_gather": "all-gather",
    "all_to_all": "all-to-all",
    "ppermute": "collective-permute",
}


class Collective(NamedTuple):
    """One exchange between the devices of a mesh."""

    kind: str
    """``"all-reduce"``, ``"all-gather"``, ``"all-to-all"`` or ``"collective-permute"``, as XLA calls them."""

    result_bytes: int
    """Size of what one device has afterwards."""

    devices: int
    """How many take part."""

    times: int
    """How often in a step; what a loop of unknown length does counts once."""

    @property
    def received_bytes(self) -> int:
        """What one device receives in a step, by the algorithms that move least.

        A reduction is a scatter of sums and a gathering of them, which receive (d-1)/d of the result each.
        """
        share = (self.devices - 1) / self.devices
        each = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return round(self.times * each * self.result_bytes)


def collectives(jaxpr: Any) -> tuple[Collective, ...]:
    """The collectives that a jaxpr asks for, in order; not those that the compiler adds on its own.

    What nothing is made of, the compiler leaves out: it does not count.

    Args:
        jaxpr: A closed jaxpr.

    Returns:
        One entry for each equation that is needed for the outputs and moves anything.
    """
    return tuple(_found(jaxpr.jaxpr, [True] * len(jaxpr.jaxpr.outvars), {}, 1))


def _found(
    jaxpr: Any, needed: Sequence[bool], sizes: dict[str, int], times: int
) -> Iterator[Collective]:
    live = {v for v, mark in zip(jaxpr.outvars, needed, strict=True) if mark and _is_var(v)}
    equations = []
    for eqn in reversed(jaxpr.eqns):
        marks = [v in live for v in eqn.outvars]
        if any(marks) or eqn.effects:
            equations.append((eqn, marks))
            live |= {v for v in eqn.invars if _is_var(v)}
    for eqn, marks in reversed(equations):
        kind = _KINDS.get(eqn.primitive.name)
        if kind is not None:
            number = math.prod(sizes[name] for name in _axes(eqn.params))
            size = sum(
                v.aval.size * v.aval.dtype.itemsize
                for v, mark in zip(eqn.outvars, marks, strict=True)
                if mark
            )
            if number > 1 and size > 0:
                yield Collective(kind, size, number, times)
            continue
        inner_sizes = sizes
        if eqn.primitive.name == "shard_map":
            inner_sizes = sizes | dict(eqn.params["mesh"].shape)
        is_loop = eqn.primitive.name in ("scan", "while")
        length = eqn.params["length"] if eqn.primitive.name == "scan" else 1
        inside = []
        for inner in jex.jaxprs_in_params(eqn.params):
            body = getattr(inner, "jaxpr", inner)
            # A loop feeds its outputs back, so that it needs them all.
            is_same = len(body.outvars) == len(marks) and not is_loop
            used = marks if is_same else [True] * len(body.outvars)
            inside.append(list(_found(body, used, inner_sizes, times * length)))
        if eqn.primitive.name == "cond":
            # Only one of them runs: the one that sends most stands for all.
            inside = [max(inside, key=lambda found: sum(x.received_bytes for x in found))]
        for found in inside:
            yield from found


def _axes(params: dict[str, Any]) -> tuple[str, ...]:
    names = params.get("axes", params.get("axis_name"))
    return names if isinstance(names, tuple) else (names,)


def _is_var(v: Any) -> bool:
    return not isinstance(v, jex.Literal)
