"""How time and memory of a step grow with the rows and with the parameters, by every solver."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hig_optax.experiments import machine, store
from hig_optax.experiments.figures import growth as figures
from hig_optax.experiments.figures import style
from hig_optax.experiments.table import Table

# Samples and width of the hidden layers, from which first the samples and then the parameters grow tenfold.
STARTS = {"svd": (8, 128), "gram": (16, 128), "krylov": (256, 304), "adam": (256, 304)}
GROWTH = (1.0, 10**0.5, 10.0)
QUICK_STARTS = {"svd": (1, 8), "gram": (2, 8), "krylov": (4, 8), "adam": (4, 8)}
LARGEST = {"solver": "auto", "samples": 4096, "hidden": 984}
COLUMNS = (
    "solver",
    "rows",
    "parameters",
    "ms",
    "predicted",
    "grown",
    "grown / predicted",
    "process",
)
NOTE = (
    "Whole steps on a dense network of two hidden layers, 16 rows a sample, float32, each size in a fresh "
    "process: milliseconds (median), and memory in MiB. Predicted: the peak of hig_optax.plan. "
    "Grown: how far the process's resident memory rose, in its first step, above what it was before with "
    "everything compiled and a small program run. Process: its peak in all, Python, JAX and compilation "
    "included. Exponents are slopes of log time over log size. "
)


def scale(
    solvers: Sequence[str] | None = None,
    *,
    out: Path | str = "results",
    quick: bool = False,
    report: Callable[[str], None] = print,
) -> tuple[Table, list[Path]]:
    """Measure every size; writes ``bench-scale.json``, ``.md`` and two log-log plots to `out`.

    Args:
        solvers: Of `STARTS`; None takes all, and then a step of a million parameters and 65,536 rows.
        out: Folder of results.
        quick: Sizes far too small to tell anything.
        report: Is told each size before it is measured.

    Raises:
        ValueError: No such solver.
    """
    starts = QUICK_STARTS if quick else STARTS
    solvers = list(starts) if solvers is None else solvers
    if unknown := sorted(set(solvers) - set(starts)):
        raise ValueError(f"No bench of {', '.join(unknown)}; there is {', '.join(starts)}.")
    requests = [request for solver in solvers for request in sizes(solver, *starts[solver])]
    if set(solvers) == set(starts) and not quick:
        requests.append(LARGEST)
    results = []
    for request in requests:
        report(f"{request['solver']}: {request['samples']} samples, width {request['hidden']}")
        results.append(request | in_a_fresh_process(request))
    where = machine.environment()
    table = Table(
        "Growth of a step",
        COLUMNS,
        tuple(_row(result) for result in results),
        NOTE + _told(exponents(results)) + machine.describe(where),
    )
    folder = Path(out)
    found = {"environment": where, "results": results}
    written = store.write_page(folder / "bench-scale", found, table.markdown())
    drawn = [
        style.save(figures.time(results), folder / "bench-scale-time.png"),
        style.save(figures.memory(results), folder / "bench-scale-memory.png"),
    ]
    return table, [*written, *drawn]


def sizes(solver: str, samples: int, hidden: int) -> list[dict[str, Any]]:
    """The start, and what grows from it: ``grows`` says what a size is a point of.

    Example:
        >>> [(r["samples"], r["hidden"], r["grows"]) for r in sizes("gram", 10, 100)][1:4]
        [(32, 100, ['rows']), (100, 100, ['rows']), (10, 190, ['columns'])]
    """
    start = {"solver": solver, "samples": samples, "hidden": hidden, "grows": ["rows", "columns"]}
    more = [
        start | {"samples": round(factor * samples), "grows": ["rows"]} for factor in GROWTH[1:]
    ]
    wider = [
        start | {"hidden": _width(factor, hidden), "grows": ["columns"]} for factor in GROWTH[1:]
    ]
    return [start, *more, *wider]


def _width(factor: float, hidden: int) -> int:
    """The width with about `factor` times as many parameters."""
    wanted = factor * (hidden**2 + 34 * hidden)
    return round(-17 + (17**2 + wanted) ** 0.5)


def in_a_fresh_process(request: Mapping[str, Any]) -> dict[str, Any]:
    """`footprint.measure` in a process of its own, on as many cores as this one has.

    Raises:
        RuntimeError: It failed, out of memory perhaps.
    """
    asked = {key: request[key] for key in ("solver", "samples", "hidden")}
    asked["cores"] = machine.num_cores()
    command = [sys.executable, "-m", "hig_optax.experiments.footprint", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def exponents(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each solver, the power of rows and of columns by which the time grows."""
    found: dict[str, dict[str, float]] = {}
    for solver in dict.fromkeys(result["solver"] for result in results):
        for side in ("rows", "columns"):
            points = [r for r in results if r["solver"] == solver and side in r.get("grows", ())]
            if len(points) > 1:
                x, y = (np.log([point[key] for point in points]) for key in (side, "seconds"))
                found.setdefault(solver, {})[side] = float(np.polyfit(x, y, 1)[0])
    return found


def _told(found: Mapping[str, Mapping[str, float]]) -> str:
    parts = [
        f"{solver} {powers['rows']:.2f} in rows, {powers['columns']:.2f} in parameters"
        for solver, powers in found.items()
    ]
    return f"Here: {'; '.join(parts)}. "


def _row(result: Mapping[str, Any]) -> tuple[str, ...]:
    solver, predicted = result["solver"], result["predicted"]
    return (
        f"auto: {result['chosen']}" if solver == "auto" else solver,
        str(result["rows"]),
        str(result["columns"]),
        f"{1e3 * result['seconds']:.3g}",
        "" if predicted is None else f"{predicted:.3g}",
        f"{result['grown']:.3g}",
        "" if predicted is None else f"{result['grown'] / predicted:.2f}",
        f"{result['process']:.0f}",
    )
