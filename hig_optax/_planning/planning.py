"""What a step will cost by each solver, and which one fits into a memory."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments, on_devices
from hig_optax._float64 import target_has_float64
from hig_optax._inputs.checks import check_number
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.choices import exact_solver
from hig_optax._planning.cost import cost_of
from hig_optax._planning.options import Option, Plan, Solver
from hig_optax._planning.traced import Call, Seen, look_at, traced_with
from hig_optax._planning.traffic import collectives
from hig_optax._solvers.step import find_direction
from hig_optax._types import ResidualFns, Tree

AUTO_MEMORY = 4 * 2**30
"""Bytes that ``solver="auto"`` keeps a step within, where it can: the same on every machine."""


# Below so many entries of J there is nothing to plan, and tracing each choice would lengthen the first call.
SMALL_JACOBIAN = 2**24


# Bytes an entry of the decomposition of a Gram matrix, in float64: itself, overwritten by its eigenvectors,
# and twice as much of workspace. Where these alone are too many, no chunk is small enough.
GRAM_BYTES = 24


# By how much a step may exceed what is counted: compilers do not keep to the order of a program. Of eleven
# steps from 9 to 390 MiB the worst but one of 12 MiB took 1.15 times what was counted, the least 0.89.
MARGIN = 1.25


# What the first call of any program adds, code and buffers of libraries: 9 MiB for a step of Adam.
FIXED = 10 * 2**20


# A step by J is whole, one by products alone is of a subspace: worth several times the operations, but not
# thirteen times as many: a Hamiltonian network on 64 states ended at 1.6e-3 by J, at 1.8e-4 by products
# (10 s). A sketch is no more whole than they are: with 1.6 times the operations networks of 7,000 to 90,000
# parameters that steer a flow (32 fields of 32 rows) ended 1.4 to 6 times higher so (15 to 20 s, one seed).
DEAR, DEAR_SKETCH = 5.0, 1.0


# From one chunk size to the next smaller one that is tried.
SMALLER = 4


def plan(
    residual_fn: ResidualFns,
    params: Tree,
    batch: Tree,
    memory_budget: int | None = None,
    **settings: Any,
) -> Plan:
    """What a step of `scale_by_hig` will cost by each solver, before anything is run.

    Every option is traced as it would be run, and its operations and the memory of its values are counted;
    nothing is compiled, and nothing runs on the device. The peak is that of ``update`` alone, for a compiler
    that fuses and frees as XLA does on a CPU, and a quarter and 10 MiB more: a bound, at most 1.5 times what
    was measured (``python -m hig_optax.experiments bench scale``).

    ``solver="auto"`` makes the same choice for the default budget: the exact solver that is right for the
    dtype and rtol; if that does not fit, the same in chunks; else ``"krylov"``, which is not exact, whole or
    in chunks; and where nothing fits, what takes least.

    Args:
        residual_fn: As in `scale_by_hig`.
        params: The parameters; arrays, or ``jax.ShapeDtypeStruct`` in their place.
        batch: A batch; arrays, or ``jax.ShapeDtypeStruct`` in their place. Of a batch that is sharded over a
            mesh, or under ``jax.set_mesh``, the plan is that of each device, and says what it receives from
            the others; a ``jax.sharding.AbstractMesh`` of devices that are not there will do.
        memory_budget: Bytes. None: 4 GiB, the budget of ``solver="auto"``, which does not hold where J has
            less than 16 million entries.
        settings: Settings of `scale_by_hig` other than the default. A given `solver` or `chunk_size` is
            kept to, and weighed.

    Returns:
        A `Plan`. To follow one that was made for a budget of your own, hand its `settings` to the optimizer.

    Raises:
        TypeError: As `scale_by_hig`.
        ValueError: As `scale_by_hig`; no option fits into the budget.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp
        >>> def residual_fn(params, sample):
        ...     x, y = sample
        ...     return jnp.tanh(x @ params["w"]) @ params["v"] - y
        >>> shape = lambda *s: jax.ShapeDtypeStruct(s, jnp.float32)
        >>> params = {"w": shape(64, 1000), "v": shape(1000, 16)}
        >>> batch = shape(2048, 64), shape(2048, 16)
        >>> plan = hig_optax.plan(residual_fn, params, batch, memory_budget=2**30)
        >>> plan.rows, plan.columns, plan.settings
        (32768, 80000, {'solver': 'krylov', 'chunk_size': None})
    """
    if unknown := sorted(set(settings) - {f.name for f in dataclasses.fields(Settings)}):
        raise TypeError(
            f"plan takes the settings of scale_by_hig, got {', '.join(unknown)}. Leave them out, or see "
            "help(hig_optax.scale_by_hig) for their names."
        )
    if memory_budget is not None:
        check_number("memory_budget", memory_budget, "a positive number of bytes", lambda x: x > 0)
    given = Settings(residual_fn=residual_fn, **settings)
    call = Call(Arguments({}, params, None, params, None, batch), on_devices)
    layout = look_at(given, call)
    budget = AUTO_MEMORY if memory_budget is None else memory_budget
    wanted = _solvers(given, layout)
    possible = tuple(_options(given, call, layout, budget, wanted))
    others = tuple(_options(given, call, layout, budget, _others(given, wanted)))
    chosen = _first_that_fits(possible, budget)
    if memory_budget is None and _is_small(given, layout):
        chosen, reason = possible[0], "exact, and J is small"
    elif chosen.peak_bytes <= budget:
        reason = _reason(given, chosen, possible[0])
    elif memory_budget is None:
        reason = "the least: nothing fits"
    else:
        m, n = layout.shape
        raise ValueError(
            f"memory_budget={memory_budget} is too little for a step of {m} rows and {n} columns: it takes "
            f'at least {chosen.peak_bytes}, by solver="{chosen.solver}" with chunk_size={chosen.chunk_size}. '
            "Raise memory_budget, or take fewer samples."
        )
    options = (*possible, *others)
    return Plan(*layout.shape, layout.mode, budget, options, chosen, reason, layout.devices)


def settled(settings: Settings, arguments: Arguments, devices: Devices | None) -> Settings:
    """The settings with the solver that ``auto`` stands for, and with chunks where it takes them to fit.

    Where nothing fits into the default budget, the least is taken.

    Args:
        settings: With numbers that may be traced.
        arguments: Of the update, on several devices as this one sees them.
        devices: Those that share the batch.
    """
    if settings.solver != "auto":
        return settings
    arguments = arguments._replace(numbers={}, state=None)
    call = Call(arguments, lambda update, _, arguments: update(devices, arguments))
    layout = look_at(settings, call)
    dear = DEAR_SKETCH if layout.is_sketch else DEAR
    if (layout.price or 0) > dear and not layout.has_custom_vjp:
        may_hold = _may_hold(settings, layout)
        return dataclasses.replace(
            _with(settings, "krylov", settings.chunk_size), may_hold=may_hold
        )
    if _is_small(settings, layout):
        return settings
    options = _options(settings, call, layout, AUTO_MEMORY, _solvers(settings, layout))
    option = _first_that_fits(options, AUTO_MEMORY)
    return _with(settings, option.solver, option.chunk_size)


def _first_that_fits(options: Iterable[Option], budget: float) -> Option:
    """The first option within a budget, and none after it is looked at; else the least."""
    seen = []
    for option in options:
        seen.append(option)
        if option.peak_bytes <= budget:
            return option
    return min(seen, key=lambda option: option.peak_bytes)


def _may_hold(settings: Settings, layout: Seen) -> bool:
    """Whether J can be held as well, on one device, for where a fixed batch makes it worth its price."""
    is_plain = layout.devices == 1 and settings.bad_samples == "refuse"
    is_default = settings.num_matvecs is None and settings.chunk_size is None
    return is_plain and is_default and target_has_float64() and _is_small(settings, layout)


def _with(settings: Settings, solver: Solver, chunk_size: int | None) -> Settings:
    num_matvecs = settings.num_matvecs if solver == "krylov" else None
    return dataclasses.replace(
        settings, solver=solver, chunk_size=chunk_size, num_matvecs=num_matvecs
    )


def _is_small(settings: Settings, layout: Seen) -> bool:
    return settings.solver == "auto" and math.prod(layout.shape) < SMALL_JACOBIAN


def _reason(settings: Settings, chosen: Option, first: Option) -> str:
    if settings.solver != "auto":
        return "the solver that was asked for"
    if chosen == first:
        return "exact, and it fits"
    if chosen.solver == first.solver:
        return "exact, and it fits in chunks"
    return "no exact solver fits; see Spectrum.unsettled for whether num_matvecs is enough"


def _solvers(settings: Settings, layout: Seen) -> tuple[Solver, ...]:
    """Those to choose from, in the order of preference."""
    if settings.solver != "auto":
        return (settings.solver,)
    exact = exact_solver(dtype=layout.dtype, rtol=settings.rtol, is_damped=settings.is_damped)
    return (exact,) if layout.has_custom_vjp else (exact, "krylov")


def _others(settings: Settings, wanted: Sequence[Solver]) -> list[Solver]:
    """Those that "auto" leaves aside and a plan shows."""
    direct: tuple[Solver, ...] = ("gram", "svd") if target_has_float64() else ("svd",)
    return [s for s in direct if s not in wanted and settings.solver == "auto"]


def _options(
    settings: Settings, call: Call, layout: Seen, budget: int, solvers: Sequence[Solver]
) -> Iterator[Option]:
    """Each solver, in smaller and smaller chunks until it fits."""
    for solver in solvers:
        for chunk_size in _chunk_sizes(settings, layout, budget, solver):
            traced = traced_with(_with(settings, solver, chunk_size), call, find_direction)
            cost = cost_of(traced)
            peak = FIXED + int(MARGIN * cost.peak_bytes)
            yield Option(solver, chunk_size, cost.flops, peak, collectives(traced))
            if peak <= budget:
                break


def _chunk_sizes(
    settings: Settings, layout: Seen, budget: int, solver: Solver
) -> Iterator[int | None]:
    yield settings.chunk_size
    is_hopeless = solver == "gram" and GRAM_BYTES * min(layout.shape) ** 2 > budget
    # Chunks bound the differentiation alone where J is held or the whole batch is one sample.
    is_useless = solver == "svd" or (solver == "krylov" and not layout.may_chunk_products)
    if settings.chunk_size is not None or is_hopeless or is_useless:
        return
    size = layout.number // SMALLER
    while size >= 1:
        yield size
        size //= SMALLER
