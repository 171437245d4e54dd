"""One method at several settings: a grid of them, or one changed at a time."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hig_optax import problems
from hig_optax.experiments import contest, machine
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.compare import carry_out
from hig_optax.experiments.history import History
from hig_optax.experiments.plan import Plan
from hig_optax.experiments.report import Report
from hig_optax.experiments.table import Table, over_seeds, seeds_in_words
from hig_optax.experiments.train import Trainer

Variant = Mapping[str, Any]
"""Settings that differ from the recommended ones."""


@dataclass(frozen=True)
class Result:
    """The runs of one variant.

    Attributes:
        variant: Its settings.
        runs: A history per seed, by the name of the problem.
    """

    variant: Variant
    runs: Mapping[str, tuple[History, ...]]


def grid(values: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """All combinations of the values of each setting.

    Example:
        >>> grid({"momentum": [0, 0.9], "damping": [1]})
        [{'momentum': 0, 'damping': 1}, {'momentum': 0.9, 'damping': 1}]
    """
    return [
        dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())
    ]


def one_at_a_time(values: Mapping[str, Sequence[Any]]) -> list[Variant]:
    """No change, then each value of each setting with the others as they are recommended.

    Example:
        >>> one_at_a_time({"momentum": [0], "damping": [1, 2]})
        [{}, {'momentum': 0}, {'damping': 1}, {'damping': 2}]
    """
    return [{}, *({name: value} for name, some in values.items() for value in some)]


def carry_out_all(
    chosen: Sequence[problems.Problem],
    method: str,
    variants: Sequence[Variant],
    seeds: Sequence[int],
    budget: Budget,
    *,
    base: Variant | None = None,
    out: Path | str = "results",
    fresh: bool = False,
    report: Report | None = None,
) -> list[Result]:
    """Train every problem by `method` at every variant of its settings, from every seed.

    Args:
        chosen: What is trained.
        method: Name in `methods.METHODS`.
        variants: Settings that differ.
        seeds: Seeds of data, network and batches.
        budget: Of each run.
        base: Settings that all variants share, other than the recommended ones.
        out: Folder of results; runs found there are read.
        fresh: Do every run again.
        report: Told of the progress.

    Raises:
        ValueError: No such method or setting.
    """
    report = report or Report()
    runs: list[dict[str, tuple[History, ...]]] = [{} for _ in variants]
    for problem, variant in itertools.product(chosen, variants):
        check(problem, [method], {method: {**(base or {}), **variant}})
    for problem in chosen:
        for found, variant in zip(runs, variants, strict=True):
            settings = {**(base or {}), **variant}
            overrides = {method: settings} if settings else {}
            plan = Plan.of(problem, [method], seeds, budget, out=out, overrides=overrides)
            about = f"{problem.name}, {told(variant)}" if variant else f"{problem.name}, unchanged"
            done = carry_out(plan, fresh=fresh, report=report.of(about))
            found[problem.name] = done.histories
    return [Result(variant, found) for variant, found in zip(variants, runs, strict=True)]


def check(
    problem: problems.Problem, names: Sequence[str], overrides: Mapping[str, Variant]
) -> None:
    """Refuse settings that a method does not take, before the first run.

    Raises:
        ValueError: No such method or setting, or a value that it cannot have.
    """
    for name in names:
        Trainer(problem, name, overrides.get(name))


def table(
    method: str, results: Sequence[Result], times: Sequence[float], base: Variant | None = None
) -> Table:
    """Medians and ranges over seeds, the lowest median of each column in bold.

    Args:
        method: Whose settings were changed.
        results: Of each variant.
        times: Seconds at which the runs are read; none: at their end, whatever the time.
        base: Settings that all variants share.
    """
    names = list(results[0].runs)
    ends: Sequence[float] = times or [float("inf")]
    values = [
        [
            [contest.measured_at(run, seconds) for run in result.runs[name]]
            for name in names
            for seconds in ends
        ]
        for result in results
    ]
    varied = list(dict.fromkeys(name for result in results for name in result.variant))
    singly = any(len(result.variant) < len(varied) for result in results)
    columns = ("changed",) if singly else tuple(varied)
    rows = [
        (told(result.variant),) if singly else tuple(str(result.variant[name]) for name in varied)
        for result in results
    ]
    one = len(names) == 1
    if one:
        columns += ("ms per step",)
        rows = [
            (*row, f"{contest.pace(result.runs[names[0]]):.2g}")
            for row, result in zip(rows, results, strict=True)
        ]
    for name in names:
        columns += tuple(
            (f"{seconds:g} s" if times else "end")
            if one
            else f"{name}{f', {seconds:g} s' if times else ''}"
            for seconds in ends
        )
    last = results[0].runs[names[0]]
    seeds = [run.seed for run in last]
    said = f"{method}, otherwise as recommended" + (f" but for {told(base)}" if base else "")
    spread = "median (range), seeds" if len(seeds) > 1 else "seed"
    note = (
        f"{last[0].measure_at_start} of {said}; {spread} {seeds_in_words(seeds)}. "
        + machine.describe(last[0].request["environment"])
    )
    cells = contest.best_in_bold([[over_seeds(x, ".1e") for x in row] for row in values])
    title = f"{', '.join(names)}: {method}"
    return Table(title, columns, tuple((*a, *b) for a, b in zip(rows, cells, strict=True)), note)


def told(variant: Variant) -> str:
    """Settings in words.

    Example:
        >>> told({"momentum": 0, "solver": "svd"}), told({})
        ('momentum 0, solver svd', 'nothing')
    """
    return ", ".join(f"{name} {value}" for name, value in variant.items()) or "nothing"
