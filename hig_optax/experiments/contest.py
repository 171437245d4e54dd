"""Who is ahead when: several methods at several times, on several problems."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hig_optax import problems
from hig_optax.experiments import machine
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.compare import carry_out
from hig_optax.experiments.history import History, by_method
from hig_optax.experiments.methods import METHODS
from hig_optax.experiments.plan import Overrides, Plan, unusual
from hig_optax.experiments.report import Report
from hig_optax.experiments.table import Table, over_seeds, rate_in_words, seeds_in_words

CONTESTANTS = (
    "adaptive-hig",
    "adaptive-hig-cosine",
    "spring",
    "adaptive-lm",
    "hig",
    "muon",
    "adam-cosine",
)


@dataclass(frozen=True)
class Entry:
    """A method on a problem, read at several times.

    Attributes:
        method: Its name.
        runs: A history per seed, for each of the times.
    """

    method: str
    runs: tuple[tuple[History, ...], ...]

    def measured(self, i: int, seconds: float) -> list[float]:
        """What is measured of all seeds at the i-th time."""
        return [measured_at(run, seconds) for run in self.runs[i]]


def measured_at(history: History, seconds: float) -> float:
    """What is measured at the last look up to that time; a segment may end a little after its budget."""
    return [p.measured for p in history.points if p.seconds <= 1.02 * seconds][-1]


def decays(method: str, problem: problems.Problem) -> bool:
    """Whether the end of the budget decides the steps before, so that each time takes a run of its own."""
    return METHODS[method].settings(problem)["schedule"] != "constant"


def hold(
    problem: problems.Problem,
    methods: Sequence[str],
    seeds: Sequence[int],
    times: Sequence[float],
    *,
    out: Path | str = "results",
    overrides: Overrides | None = None,
    fresh: bool = False,
    report: Report | None = None,
) -> list[Entry]:
    """Train `problem` by every method from every seed, for the longest time or for each.

    Args:
        problem: What is trained.
        methods: Names in `methods.METHODS`.
        seeds: Seeds of data, network and batches.
        times: Seconds of training, ascending.
        out: Folder of results; runs found there are read.
        overrides: Settings that differ from the recommended ones, by method.
        fresh: Do every run again.
        report: Told of the progress.

    Raises:
        ValueError: No such method or setting.
    """
    chosen = dict(overrides or {})
    if unused := sorted(set(chosen) - set(methods)):
        raise ValueError(f"Settings are given for {', '.join(unused)}, which is not compared here.")

    def runs(names: Sequence[str], seconds: float) -> dict[str, tuple[History, ...]]:
        if not names:
            return {}
        own = {name: chosen[name] for name in names if name in chosen}
        plan = Plan.of(problem, names, seeds, Budget(seconds), out=out, overrides=own)
        done = carry_out(plan, fresh=fresh, report=report)
        return {name: tuple(found) for name, found in by_method(done.histories).items()}

    constant = runs([m for m in methods if not decays(m, problem)], times[-1])
    decaying = [m for m in methods if decays(m, problem)]
    by_time = [runs(decaying, seconds) for seconds in times]
    return [
        Entry(
            m,
            (constant[m],) * len(times) if m in constant else tuple(found[m] for found in by_time),
        )
        for m in methods
    ]


def table(problem: problems.Problem, entries: Sequence[Entry], times: Sequence[float]) -> Table:
    """Medians and ranges over seeds, the lowest median of each time in bold."""
    cells = [[entry.measured(i, seconds) for i, seconds in enumerate(times)] for entry in entries]
    told = best_in_bold([[over_seeds(values, ".1e") for values in row] for row in cells])
    rows = []
    for entry, values in zip(entries, told, strict=True):
        last = entry.runs[-1]
        settings = last[0].request["settings"]
        rows.append(
            (
                entry.method,
                str(settings["batch_size"]),
                rate_in_words(settings),
                f"{pace(last):.2g}",
                *values,
            )
        )
    seeds = sorted({run.request["seed"] for entry in entries for run in entry.runs[-1]})
    first = entries[0].runs[-1][0]
    spread = f"{'median (range), seeds' if len(seeds) > 1 else 'seed'} {seeds_in_words(seeds)}"
    others = sorted({e.runs[-1][0].request.get("package", "") for e in entries} - {""})
    note = f"{first.measure_at_start}, {spread}. {machine.describe(first.request['environment'])}"
    if others:
        note += f" Of other packages: {', '.join(others)}."
    columns = ("method", "batch", "rate", "ms per step", *(f"{t:g} s" for t in times))
    return Table(title(problem), columns, tuple(rows), note)


def title(problem: problems.Problem) -> str:
    """Name of a problem, and what of its settings is not as usual.

    Example:
        >>> title(problems.Toy()), title(problems.Burgers(fixed_points=False))
        ('toy', 'burgers, fixed_points False')
    """
    return ", ".join([problem.name, *(f"{k} {v}" for k, v in unusual(problem).items())])


def best_in_bold(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cells "median (range)", the lowest median of each column in bold.

    Example:
        >>> best_in_bold([["2.0 (1.0 to 3.0)"], ["1.0 (0.5 to 9.0)"]])
        [['2.0 (1.0 to 3.0)'], ['**1.0** (0.5 to 9.0)']]
    """
    told = [list(row) for row in rows]
    for i in range(len(told[0])):
        # One that is not finite is never the lowest.
        medians = [float(row[i].split()[0]) for row in told]
        best = told[int(np.argmin(np.nan_to_num(medians, nan=np.inf)))]
        median, *rest = best[i].split(" ", 1)
        best[i] = " ".join([f"**{median}**", *rest])
    return told


def pace(runs: Sequence[History]) -> float:
    """Milliseconds per step, the median over runs."""
    return float(np.median([1e3 * run.seconds / run.steps for run in runs]))
