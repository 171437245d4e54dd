"""Methods beside one another on one problem: equal wall time or equal steps, several seeds."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hig_optax.experiments import figures, machine, store
from hig_optax.experiments.adjustments import ADJUSTMENTS
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.history import History, by_method
from hig_optax.experiments.plan import Overrides, Plan
from hig_optax.experiments.report import Report
from hig_optax.experiments.table import Table, over_seeds, rate_in_words
from hig_optax.problems import NoisyLikelihood, PhysicsInformed, Problem

ERROR = "relative L2 error"
COLUMNS = (
    "method",
    "batch",
    "rate",
    ERROR,
    "test loss",
    "training loss",
    "steps",
    "ms per step",
    "first call, s",
)


@dataclass(frozen=True)
class Comparison:
    """Runs of several methods on one problem, and the files that tell of them.

    Attributes:
        problem: What was trained.
        budget: Of each run.
        histories: The runs, method by method in the order asked for.
        directory: Where the files are.
        reused: How many of the runs were done before and only read.
    """

    problem: Problem
    budget: Budget
    histories: tuple[History, ...]
    directory: Path
    reused: int = 0

    def table(self) -> Table:
        """Median and range over seeds at the end of the budget."""
        groups = by_method(self.histories)
        seeds = max(len(runs) for runs in groups.values())
        note = (
            f"{f'Median (range) of {seeds} seeds' if seeds > 1 else 'One seed'}. {_losses(self.problem)} "
            "First call: tracing, compilation and one step, outside the budget. "
            + "".join(f"{remark} " for remark in self.remarks())
            + machine.describe(self.histories[0].request["environment"])
        )
        rows = [_row(method, runs) for method, runs in groups.items()]
        has_error = self.histories[0].points[0].relative_error is not None
        shown = [i for i, name in enumerate(COLUMNS) if has_error or name != ERROR]
        columns, *kept = (tuple(row[i] for i in shown) for row in (COLUMNS, *rows))
        title = f"{self.problem.name}: {self.budget.in_words()} per run"
        return Table(title, columns, tuple(kept), note)

    def remarks(self) -> list[str]:
        """Sentences on methods that run with other settings than the source's."""
        said = []
        for method, runs in by_method(self.histories).items():
            adjusted = ADJUSTMENTS.get((self.problem.name, method))
            if (
                adjusted
                and adjusted.why
                and runs[0].request["settings"].items() >= adjusted.settings.items()
            ):
                said.append(f"{method}: {adjusted.why}.")
        return said

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
    plan = Plan.of(problem, method_names, seeds, budget, out=out, overrides=overrides)
    return carry_out(plan, fresh=fresh, report=report)


def carry_out(plan: Plan, *, fresh: bool = False, report: Report | None = None) -> Comparison:
    """Do the runs of a plan; those that are done already are read, unless `fresh`.

    Each is kept as soon as it is finished, and every few seconds until then: a comparison that was stopped
    or killed goes on where it was, within a run too.
    """
    report, reused = report or Report(), 0
    groups: dict[str, list[History]] = {}
    for run in plan.runs:
        history = None if fresh else run.stored()
        with contextlib.closing(run.checkpoint()) as checkpoint:
            if fresh:
                checkpoint.discard()
            if history is None:
                with report.run(run.trainer.method, run.seed, plan.budget) as watch:
                    history = run.trainer.run(run.seed, plan.budget, watch, checkpoint)
                store.write_json(run.path, history.to_json())
                report.finished(history)
            else:
                report.found(history)
                reused += 1
            checkpoint.discard()
        groups.setdefault(run.trainer.method, []).append(history)
    histories = tuple(history for runs in groups.values() for history in runs)
    return Comparison(plan.problem, plan.budget, histories, plan.directory, reused)


def _row(method: str, runs: Sequence[History]) -> tuple[str, ...]:
    settings = runs[0].request["settings"]
    last = [run.points[-1] for run in runs]
    return (
        method,
        str(settings["batch_size"]),
        rate_in_words(settings),
        over_seeds([_or_nan(point.relative_error) for point in last], ".1e"),
        over_seeds([point.test_loss for point in last], ".1e"),
        over_seeds([_or_nan(point.train_loss) for point in last], ".1e"),
        f"{np.median([run.steps for run in runs]):.0f}",
        f"{np.median([1e3 * run.seconds / run.steps for run in runs]):.3g}",
        # One compilation serves all seeds.
        f"{runs[0].first_call_seconds:.1f}",
    )


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _losses(problem: Problem) -> str:
    """What the losses of a table are."""
    if isinstance(problem, PhysicsInformed):
        return (
            "The error is that of the solution; losses are weighted means over points: test points that no "
            "step sees, and the points of the steps since the last look."
        )
    if isinstance(problem, NoisyLikelihood):
        return (
            "The test loss is the Kullback-Leibler divergence from the truth, a mean over test points; the "
            "training loss is the negative log likelihood, which has no end at zero, a mean over the "
            "mini-batches since the last look."
        )
    return "Losses are means over samples: of the test set, and of the mini-batches since the last look."
