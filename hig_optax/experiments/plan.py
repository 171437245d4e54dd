"""Which runs a comparison consists of, and where each of them is kept."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from hig_optax.experiments import checkpoint, machine, store
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.history import History
from hig_optax.experiments.train import Trainer
from hig_optax.problems import Problem

Overrides = Mapping[str, Mapping[str, Any]]
"""Settings that differ from the recommended ones, by method."""


@dataclass(frozen=True)
class Run:
    """One run: who trains, from which seed, and the file that will hold it."""

    trainer: Trainer
    seed: int
    path: Path

    def checkpoint(self) -> checkpoint.Checkpoint:
        """Where the run is kept while it is in progress."""
        directory = self.path.with_suffix(".checkpoint")
        return checkpoint.Checkpoint(directory, every=checkpoint.EVERY_SECONDS)

    def stored(self) -> History | None:
        """The run as it was kept; None where it is not there, or not whole."""
        value = store.read_json(self.path)
        try:
            return None if value is None else History.from_json(value)
        except (KeyError, TypeError, ValueError):
            return None


@dataclass(frozen=True)
class Plan:
    """All runs of a comparison.

    They go seed by seed, so that a machine that is busy for a while slows every method alike.
    """

    problem: Problem
    budget: Budget
    directory: Path
    runs: tuple[Run, ...]

    @classmethod
    def of(
        cls,
        problem: Problem,
        method_names: Sequence[str],
        seeds: Sequence[int],
        budget: Budget,
        *,
        out: Path | str,
        overrides: Overrides | None = None,
    ) -> "Plan":
        """Plan every method from every seed; nothing is run or written.

        Every run is one file under ``<out>/<comparison>/runs``, named by a digest of all that
        decides it, versions and machine included: a changed setting is another run.

        Raises:
            ValueError: No such method or setting.
        """
        overrides = overrides or {}
        if unused := sorted(set(overrides) - set(method_names)):
            raise ValueError(
                f"Settings are given for {', '.join(unused)}, which is not compared here."
            )
        trainers = [Trainer(problem, name, overrides.get(name)) for name in method_names]
        with machine.precision_of(problem):
            directory = Path(out) / _directory_name(problem, budget, overrides)

        def path(trainer: Trainer, seed: int) -> Path:
            digest = _digest(trainer.request(seed, budget))
            return directory / "runs" / f"{trainer.method}-seed{seed}-{digest}.json"

        runs = [Run(trainer, seed, path(trainer, seed)) for seed in seeds for trainer in trainers]
        return cls(problem, budget, directory, tuple(runs))

    def missing(self) -> list[Run]:
        """The runs that are not kept yet."""
        return [run for run in self.runs if run.stored() is None]


def unusual(problem: Problem) -> dict[str, Any]:
    """The settings of a problem that are not its class's own."""
    own = {f.name: (getattr(problem, f.name), f.default) for f in fields(cast("Any", problem))}
    return {name: value for name, (value, usual) in own.items() if value != usual}


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:10]


def _directory_name(problem: Problem, budget: Budget, overrides: Overrides) -> str:
    """A readable name that tells comparisons apart by what was asked for, e.g. ``toy-lam=0.1-5000steps``."""
    parts = [problem.name]
    parts += [f"{name}={value}" for name, value in unusual(problem).items()]
    parts.append(str(budget))
    parts += [f"{m}.{k}={v}" for m, given in overrides.items() for k, v in given.items()]
    if (precision := machine.environment()["float"]) != "float32":
        parts.append(precision)
    return re.sub(r"[^\w.=+-]", "_", "-".join(parts))
