"""What one optimizer step costs, part by part, beside a transcription of the formula and Adam."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hig_optax import problems
from hig_optax.experiments import machine, methods, store, transcription
from hig_optax.experiments.clock import Timing, race
from hig_optax.experiments.losses import batch_loss
from hig_optax.experiments.optimizers import Optimizer
from hig_optax.experiments.table import Table
from hig_optax.problems import Batch, Params, Problem

BATCH_SIZES = {
    "linear-oscillators": 32,
    "nonlinear-oscillators": 128,
    "quantum-dipole": 16,
    "poisson": 8,  # the paper's 64 would make the transcription decompose a 4096×24896 matrix
}
LOOP_STEPS = 20
SOLVERS = ("auto", "gram", "svd")
COLUMNS = (
    "problem",
    "solver",
    "step",
    "Jacobian",
    "product",
    "factors",
    "step / parts",
    "transcription",
    "ratio",
    "Adam",
    "adaptive",
    "adaptive / step",
    "in a loop",
    "first call, s",
)
NOTE = (
    "Milliseconds, medians of interleaved calls; first call with compilation in seconds. Step: loss, "
    "gradient, HIG, update, jitted whole. Jacobian, product (float64 Gram matrix) and factors (float64 "
    "eigh, or SVD in the program's precision) alone; step / parts compares the step with their sum. "
    "Transcription: reverse mode over all rows at once, SVD, the half-inverse formed and multiplied; "
    "ratio is its time over the step's (*: of one call). Adaptive: a step of adaptive_hig, trial included, "
    "and its time over that of a HIG step; in a loop: that ratio for {loop} steps in one compiled loop, on "
    "fresh batches, where a state of more arrays costs no dispatch. "
)


def step(
    names: Sequence[str] | None = None, *, out: Path | str = "results", quick: bool = False
) -> tuple[Table, list[Path]]:
    """Time the step on each problem; writes ``bench-step.json`` and ``bench-step.md`` to `out`.

    Args:
        names: Problems, by name; None takes all of `BATCH_SIZES` that there are.
        out: Folder of results.
        quick: Few repetitions.

    Raises:
        ValueError: No such problem, or none with a batch size here.
    """
    names = [n for n in BATCH_SIZES if n in problems.PROBLEMS] if names is None else names
    if unknown := sorted(set(names) - set(BATCH_SIZES)):
        raise ValueError(f"No bench of {', '.join(unknown)}; there is {', '.join(BATCH_SIZES)}.")
    results = [measure(problems.get(n), BATCH_SIZES[n], 0.2 if quick else 2.0) for n in names]
    where = machine.environment()
    rows = tuple(row for result in results for row in _rows(result))
    table = Table(
        "One optimizer step", COLUMNS, rows, NOTE.format(loop=LOOP_STEPS) + machine.describe(where)
    )
    found = {"environment": where, "results": results}
    return table, store.write_page(Path(out) / "bench-step", found, table.markdown())


def fresh(problem: Problem, batch_size: int) -> tuple[Params, Callable[[jax.Array], Batch]]:
    """A fresh network, and the batch of a step: ``(params, step -> batch)``."""
    init_key, data_key, draw_key = jax.random.split(jax.random.key(0), 3)
    params = jax.jit(problem.init)(init_key)
    train_set, _ = jax.jit(problem.data)(data_key)
    return params, lambda step: problem.draw(draw_key, step, train_set, batch_size)


def measure(problem: Problem, batch_size: int, seconds: float) -> dict[str, Any]:
    """Time every part on one batch at a fresh network, for about `seconds` each.

    Returns:
        ``problem``, ``batch_size``, ``rows``, ``columns``, and the `Timing` of each rival under
        ``timings``, as JSON values; the Jacobian and the product are compiled beforehand.
    """
    params, draw = fresh(problem, batch_size)
    batch = draw(jnp.int32(0))
    settings = methods.get("hig").settings(problem, {"batch_size": batch_size})

    jacobian = jax.jit(transcription.jacobian(problem))
    product = transcription.in_float64(transcription.gram)
    J = jacobian(params, batch)
    JJ = product(J)
    eigh = transcription.in_float64(jnp.linalg.eigh)
    svd = jax.jit(lambda J: jnp.linalg.svd(J, full_matrices=False))
    direct = jax.jit(transcription.half_inverse_step(problem, rtol=settings["rtol"]))
    rivals: dict[str, Callable[[], Any]] = {
        "jacobian": lambda: jacobian(params, batch),
        "product": lambda: product(J),
        "eigh": lambda: eigh(JJ),
        "svd": lambda: svd(J),
        "transcription": lambda: direct(params, batch),
        "adam": _once(problem, "adam", {"batch_size": batch_size}, params, batch),
    }
    for solver in SOLVERS:
        chosen = {"batch_size": batch_size, "solver": solver}
        rivals[f"step-{solver}"] = _once(problem, "hig", chosen, params, batch)
    plain: dict[str, Any] = {"batch_size": batch_size}
    adaptive: dict[str, Any] = {"batch_size": batch_size, "solver": "auto", "num_matvecs": None}
    rivals["step-adaptive"] = _once(problem, "adaptive-hig", adaptive, params, batch)
    for method, chosen in (("hig", plain), ("adaptive-hig", adaptive)):
        rivals[f"loop-{method}"] = _in_a_loop(problem, method, chosen, params, draw)
    timings = race(rivals, seconds=seconds)
    return {
        "problem": problem.name,
        "batch_size": batch_size,
        "rows": J.shape[0],
        "columns": J.shape[1],
        "timings": {name: asdict(timing) for name, timing in timings.items()},
    }


def _once(
    problem: Problem, method: str, settings: Any, params: Params, batch: Batch
) -> Callable[[], Any]:
    """A whole training step of a method on a fixed batch, jitted."""
    optimizer, step = training_step(problem, method, settings)
    compiled, state = jax.jit(step), optimizer.init(params)
    return lambda: compiled(params, state, batch)


def _in_a_loop(
    problem: Problem,
    method: str,
    settings: Any,
    params: Params,
    draw: Callable[[jax.Array], Batch],
) -> Callable[[], Any]:
    """`LOOP_STEPS` training steps of a method in one compiled loop."""
    optimizer, step = training_step(problem, method, settings)

    def body(number: jax.Array, carry: Any) -> Any:
        params, state = carry
        return step(params, state, draw(number))[:2]

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, LOOP_STEPS, body, carry))
    carry = (params, optimizer.init(params))
    return lambda: loop(carry)


def training_step(
    problem: Problem, method: str, settings: Any
) -> tuple[Optimizer, Callable[[Params, optax.OptState, Batch], Any]]:
    """A method's optimizer, and ``(params, state, batch) -> (params, state, loss)``."""
    chosen = methods.get(method)
    optimizer = chosen.optimizer(problem, chosen.settings(problem, settings))
    value_and_grad = jax.value_and_grad(batch_loss(problem))

    def step(params: Params, state: optax.OptState, batch: Batch) -> Any:
        loss, grads = value_and_grad(params, batch)
        updates, state = optimizer.update(grads, state, params, batch=batch)
        return optax.apply_updates(params, updates), state, loss

    return optimizer, step


def _rows(result: dict[str, Any]) -> list[tuple[str, ...]]:
    timings = {name: Timing(**value) for name, value in result["timings"].items()}
    ms = {name: 1e3 * timing.median for name, timing in timings.items()}
    parts = {
        "auto": ("", "", ""),
        "gram": (in_ms(ms["jacobian"]), in_ms(ms["product"]), in_ms(ms["eigh"])),
        "svd": (in_ms(ms["jacobian"]), "", in_ms(ms["svd"])),
    }
    sums = {
        "gram": ms["jacobian"] + ms["product"] + ms["eigh"],
        "svd": ms["jacobian"] + ms["svd"],
    }
    adaptive = (
        in_ms(ms["step-adaptive"]),
        f"{ms['step-adaptive'] / ms[f'step-{SOLVERS[0]}']:.2f}",
        f"{ms['loop-adaptive-hig'] / ms['loop-hig']:.2f}",
    )
    label = f"{result['problem']}, b={result['batch_size']}, {result['rows']}×{result['columns']}"
    return [
        (
            label if solver == SOLVERS[0] else "",
            solver,
            in_ms(ms[f"step-{solver}"]),
            *parts[solver],
            f"{ms[f'step-{solver}'] / sums[solver]:.2f}" if solver in sums else "",
            in_ms(ms["transcription"]) + ("*" if timings["transcription"].repeats == 1 else ""),
            f"{ms['transcription'] / ms[f'step-{solver}']:.1f}",
            in_ms(ms["adam"]),
            *(adaptive if solver == SOLVERS[0] else ("", "", "")),
            f"{timings[f'step-{solver}'].first:.1f}",
        )
        for solver in SOLVERS
    ]


def in_ms(value: float) -> str:
    """Milliseconds with three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
