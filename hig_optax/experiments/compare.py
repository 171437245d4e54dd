"""Methods beside one another on one problem: equal wall time or equal steps, several seeds."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import numpy as np

from hig_optax.experiments import figures, machine, store
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.history import History
from hig_optax.experiments.report import Report
from hig_optax.experiments.table import Table, over_seeds
from hig_optax.experiments.train import Trainer
from hig_optax.problems import Problem

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings that differ from the recommended ones, by method."""


@dataclass(frozen=True)
class Comparison:
    """Runs of several methods on one problem, and the files that tell of them."""

    problem: Problem
    budget: Budget
    histories: tuple[History, ...]
    directory: Path

    def by_method(self) -> dict[str, list[History]]:
        """The runs of each method, in the order in which the methods were asked for."""
        groups: dict[str, list[History]] = {}
        for history in self.histories:
            groups.setdefault(history.method, []).append(history)
        return groups

    def table(self) -> Table:
        """Median and range over seeds at the end of the budget."""
        columns = (
            "method",
            "batch",
            "rate",
            "test loss",
            "training loss",
            "steps",
            "ms per step",
            "first call, s",
        )
        groups = self.by_method()
        rows = tuple(_row(method, runs) for method, runs in groups.items())
        seeds = max(len(runs) for runs in groups.values())
        title = f"{self.problem.name}: {_budget_in_words(self.budget)} per run"
        note = (
            f"{f'Median (range) of {seeds} seeds' if seeds > 1 else 'One seed'}. Losses are means over "
            "samples: of the test set, and of the mini-batches since the last look. "
            "First call: tracing, compilation and one step, outside the budget. "
            + machine.describe(self.histories[0].request["environment"])
        )
        return Table(title, columns, rows, note)

    def write(self) -> list[Path]:
        """Write history.json, table.md and the figures; returns their paths."""
        history = self.directory / "history.json"
        table = self.directory / "table.md"
        store.write_json(
            history,
            {
                "problem": self.problem.name,
                "budget": str(self.budget),
                "environment": self.histories[0].request["environment"],
                "runs": [run.to_json() for run in self.histories],
            },
        )
        store.write_text(table, self.table().markdown())
        return [history, table, *figures.write(self.histories, self.directory)]


def compare(
    problem: Problem,
    method_names: Sequence[str],
    seeds: Sequence[int],
    budget: Budget,
    *,
    out: Path | str = "results",
    overrides: Overrides | None = None,
    fresh: bool = False,
    report: Report | None = None,
) -> Comparison:
    """Train `problem` with every method from every seed, or find the runs done already.

    Every finished run is one file under ``<out>/<run>/runs``, named by a digest of all that decides
    it, versions and machine included: an interrupted comparison goes on where it was, and a changed
    setting is another run. The runs go seed by seed, so that a machine that is busy for a
    while slows every method alike.

    Args:
        problem: What is trained.
        method_names: Names in `methods.METHODS`.
        seeds: Seeds of data, network and batches.
        budget: Training time or steps of each run.
        out: Folder of results.
        overrides: Settings that differ from the recommended ones, by method.
        fresh: Do every run again.
        report: Told of the progress.

    Raises:
        ValueError: No such method or setting.
    """
    overrides, report = overrides or {}, report or Report()
    if unused := sorted(set(overrides) - set(method_names)):
        raise ValueError(f"Settings are given for {', '.join(unused)}, which is not compared here.")
    trainers = [Trainer(problem, name, overrides.get(name)) for name in method_names]
    directory = Path(out) / _directory_name(problem, budget, overrides)
    found: dict[tuple[str, int], History] = {}
    for seed in seeds:
        for trainer in trainers:
            request = trainer.request(seed, budget)
            path = directory / "runs" / f"{trainer.method}-seed{seed}-{_digest(request)}.json"
            history = None if fresh else _stored(path)
            if history is None:
                with report.run(trainer.method, seed, budget) as watch:
                    history = trainer.run(seed, budget, watch)
                store.write_json(path, history.to_json())
                report.finished(history)
            else:
                report.found(history)
            found[trainer.method, seed] = history
    ordered = tuple(found[name, seed] for name in method_names for seed in seeds)
    return Comparison(problem, budget, ordered, directory)


def _stored(path: Path) -> History | None:
    value = store.read_json(path)
    try:
        return None if value is None else History.from_json(value)
    except (KeyError, TypeError, ValueError):
        return None


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]


def _directory_name(problem: Problem, budget: Budget, overrides: Overrides) -> str:
    """A readable name that tells runs apart by what was asked for, e.g. ``toy-scale=1-5000steps``."""
    parts = [problem.name]
    own = {f.name: (getattr(problem, f.name), f.default) for f in fields(cast("Any", problem))}
    parts += [f"{name}={value}" for name, (value, usual) in own.items() if value != usual]
    parts.append(str(budget))
    parts += [f"{m}.{k}={v}" for m, given in overrides.items() for k, v in given.items()]
    if (precision := machine.environment()["float"]) != "float32":
        parts.append(precision)
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))


def _budget_in_words(budget: Budget) -> str:
    if budget.seconds is not None:
        return f"{budget.seconds:g} s of training"
    return f"{budget.steps} steps"


def _row(method: str, runs: Sequence[History]) -> tuple[str, ...]:
    settings = runs[0].request["settings"]
    last = [run.points[-1] for run in runs]
    return (
        method,
        str(settings["batch_size"]),
        "search" if (rate := settings["learning_rate"]) is None else f"{rate:g}",
        over_seeds([point.test_loss for point in last], ".1e"),
        over_seeds([float("nan") if p.train_loss is None else p.train_loss for p in last], ".1e"),
        f"{np.median([run.steps for run in runs]):.0f}",
        f"{np.median([1e3 * run.seconds / run.steps for run in runs]):.3g}",
        # One compilation serves all seeds.
        f"{runs[0].first_call_seconds:.1f}",
    )
