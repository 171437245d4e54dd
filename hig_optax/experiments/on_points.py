"""What a step on fixed points costs, beside a Jacobian, half a Gram matrix and a Cholesky factor alone."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hig_optax import problems
from hig_optax.experiments import machine, store
from hig_optax.experiments.bench import in_ms, training_step
from hig_optax.experiments.clock import Timing, race
from hig_optax.experiments.table import Table
from hig_optax.problems import Batch, Params, PhysicsInformed

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
    json, markdown = Path(out) / "bench-pinns.json", Path(out) / "bench-pinns.md"
    store.write_json(json, {"environment": where, "results": results})
    store.write_text(markdown, table.markdown())
    return table, [json, markdown]


def measure(problem: PhysicsInformed, seconds: float) -> dict[str, Any]:
    """Time a step and its parts for about `seconds` each; `jax.enable_x64` is on.

    Returns:
        ``problem``, ``rows``, ``columns``, and the `Timing` of each part under ``timings``.
    """
    init_key, data_key, draw_key = jax.random.split(jax.random.key(0), 3)
    params = problem.init(init_key)
    points = problem.draw(draw_key, jnp.int32(0), problem.data(data_key)[0], problem.num_points)
    optimizer, plain = training_step(problem, "adaptive-hig", {})
    step, state = jax.jit(plain), optimizer.init(params)
    for _ in range(SETTLED):
        params, state, _ = step(params, state, points)
    jacobian, product, factor = jax.jit(jacobian_of(problem)), jax.jit(_product), jax.jit(_factor)
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


def jacobian_of(problem: PhysicsInformed) -> Callable[[Params, Batch], jax.Array]:
    """The Jacobian of all blocks, shape (rows, parameters), as `jax.jacrev` of one point has it."""

    def build(params: Params, points: Batch) -> jax.Array:
        theta, unravel = ravel_pytree(params)
        found = []
        for name, residual in problem.residual.items():
            one = jax.jacrev(lambda theta, x, residual=residual: residual(unravel(theta), x))
            J = jax.vmap(one, in_axes=(None, 0))(theta, points[name])
            found.append(J.reshape(-1, theta.size))
        return jnp.concatenate(found)

    return build


def _product(J: jax.Array) -> jax.Array:
    return J @ J.T if J.shape[0] <= J.shape[1] else J.T @ J


def _factor(JJ: jax.Array) -> jax.Array:
    mean = jnp.trace(JJ) / JJ.shape[0]
    return jnp.linalg.cholesky(JJ + 1e-6 * mean * jnp.eye(JJ.shape[0]))


def _row(result: dict[str, Any]) -> tuple[str, ...]:
    timings = {name: Timing(**value) for name, value in result["timings"].items()}
    ms = {name: 1e3 * timing.median for name, timing in timings.items()}
    parts = [ms["jacobian"], ms["product"] / 2, ms["factor"]]
    size = f"{result['rows']}×{result['columns']}"
    ratio = f"{ms['step'] / sum(parts):.2f}"
    return result["problem"], size, in_ms(ms["step"]), *map(in_ms, parts), ratio
