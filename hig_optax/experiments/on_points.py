"""What a step on fixed points costs, beside a Jacobian, half a Gram matrix and a Cholesky factor alone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hig_optax import problems
from hig_optax.experiments import machine, store, transcription
from hig_optax.experiments.bench import fresh, in_ms, training_step
from hig_optax.experiments.clock import race
from hig_optax.experiments.table import Table
from hig_optax.problems import PhysicsInformed

COLUMNS = ("problem", "rows × columns", "step", "Jacobian", "½ product", "factor", "step / parts")
NOTE = (
    "Milliseconds, medians of interleaved calls, float64. Step: loss, gradient, a step of adaptive_hig "
    "without settings on points that it knows to stay, and update, jitted whole. Alone: the Jacobian "
    "(reverse mode, point by point, block by block), half the time of the Gram matrix on its shorter side, "
    "of which symmetry leaves half, and its Cholesky factor; step / parts compares the step with their sum. "
)
SETTLED = 4  # steps after which the points are known to stay


def pinns(
    names: Sequence[str] | None = None, *, out: Path | str = "results", quick: bool = False
) -> tuple[Table, list[Path]]:
    """Time the step on each network for an equation; writes ``bench-pinns.json`` and ``bench-pinns.md``.

    Args:
        names: Problems, by name; None takes all that have points.
        out: Folder of results.
        quick: Few repetitions.

    Raises:
        ValueError: No such problem, or one without points.
    """
    there = {n: p for n in problems.PROBLEMS if isinstance(p := problems.get(n), PhysicsInformed)}
    if unknown := sorted(set(names or ()) - set(there)):
        raise ValueError(f"No points in {', '.join(unknown)}; there are in {', '.join(there)}.")
    with jax.enable_x64(True):
        results = [measure(there[n], 0.2 if quick else 3.0) for n in names or there]
        where = machine.environment()
    table = Table(
        "A step on fixed points",
        COLUMNS,
        tuple(map(_row, results)),
        NOTE + machine.describe(where),
    )
    found = {"environment": where, "results": results}
    return table, store.write_page(Path(out) / "bench-pinns", found, table.markdown())


def measure(problem: PhysicsInformed, seconds: float) -> dict[str, Any]:
    """Time a step and its parts for about `seconds` each; `jax.enable_x64` is on.

    Returns:
        ``problem``, ``rows``, ``columns``, and the `Timing` of each part under ``timings``.
    """
    params, draw = fresh(problem, problem.num_points)
    points = draw(jnp.int32(0))
    optimizer, plain = training_step(problem, "adaptive-hig", {})
    step, state = jax.jit(plain), optimizer.init(params)
    for _ in range(SETTLED):
        params, state, _ = step(params, state, points)
    jacobian, product = jax.jit(transcription.jacobian(problem)), jax.jit(transcription.gram)
    factor = jax.jit(_factor)
    J = jacobian(params, points)
    JJ = product(J)
    rivals: dict[str, Callable[[], Any]] = {
        "step": lambda: step(params, state, points),
        "jacobian": lambda: jacobian(params, points),
        "product": lambda: product(J),
        "factor": lambda: factor(JJ),
    }
    timings = race(rivals, seconds=seconds)
    return {
        "problem": problem.name,
        "rows": J.shape[0],
        "columns": J.shape[1],
        "timings": {name: asdict(timing) for name, timing in timings.items()},
    }


def _factor(JJ: jax.Array) -> jax.Array:
    # With some damping, or rounding could leave it indefinite; the time does not depend on how much.
    mean = jnp.trace(JJ) / JJ.shape[0]
    return jnp.linalg.cholesky(JJ + 1e-6 * mean * jnp.eye(JJ.shape[0]))


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    ms = {name: 1e3 * timing["median"] for name, timing in result["timings"].items()}
    parts = [ms["jacobian"], ms["product"] / 2, ms["factor"]]
    size = f"{result['rows']}×{result['columns']}"
    ratio = f"{ms['step'] / sum(parts):.2f}"
    return result["problem"], size, in_ms(ms["step"]), *map(in_ms, parts), ratio
