"""The study behind the results: which experiments, and at what cost."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hig_optax import problems
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.plan import Overrides, Plan

COMPILATION = 4.0  # seconds per problem and method, about
OVERHEAD = 1.5  # seconds per run: data, looks at the test loss, pictures
STEP = 4e-4  # seconds of one of the toy's steps, which are counted rather than timed


@dataclass(frozen=True)
class Experiment:
    """Methods beside one another on one problem.

    Attributes:
        problem: Name of the problem.
        methods: Names of the methods.
        seeds: Seeds of data, network and batches.
        budget: Of each run.
        overrides: Settings that differ from the recommended ones, by method.
    """

    problem: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    budget: Budget
    overrides: Overrides = field(default_factory=dict)

    def plan(self, out: Path) -> Plan:
        """The runs of this experiment."""
        problem = problems.get(self.problem)
        return Plan.of(
            problem, self.methods, self.seeds, self.budget, out=out, overrides=self.overrides
        )


Study = Mapping[str, Experiment]
"""Experiments by name."""

OURS = ("hig", "adaptive-hig")
"""The method at its published fixed rate, and with steps that choose their own size."""

AS_IN_THE_PAPER = "nonlinear-oscillators with batches of 128"

_PAPERS_BATCHES = {name: {"batch_size": 128} for name in ("hig", "gauss-newton")}
_OF_TOYS = ("hig", "gauss-newton", "adam")
_AGAINST_TIME = {
    "linear-oscillators": (*OURS, "gauss-newton", "adam", "sip", "adam-cosine", "muon", "lbfgs"),
    "nonlinear-oscillators": (*OURS, "adam", "adam-cosine", "muon"),
    AS_IN_THE_PAPER: ("hig", "gauss-newton", "adam"),
    "quantum-dipole": (*OURS, "gauss-newton", "adam", "muon"),
    "poisson": (*OURS, "adam", "adam-cosine", "muon"),
}


def full(seconds: float = 20.0) -> Study:
    """Every problem with the methods that its source compares, and with what a user would pick today.

    The toys take 5000 steps from 5 seeds, and a fifth of `seconds` from 3; the others `seconds`
    from 3 seeds, the dipole twice that, as its steps are the slowest.
    """
    return _study(5000, (0, 1, 2, 3, 4), seconds, (0, 1, 2))


def quick() -> Study:
    """The same experiments, far too short to tell anything."""
    return _study(100, (0,), 0.4, (0,))


def _study(
    steps: int, seeds_of_steps: Sequence[int], seconds: float, seeds: Sequence[int]
) -> Study:
    study = {}
    for toy in ("toy", "toy-balanced"):
        study[toy] = Experiment(toy, _OF_TOYS, tuple(seeds_of_steps), Budget(steps=steps))
    for toy in ("toy", "toy-balanced"):
        budget = Budget(seconds=seconds / 5)
        study[f"{toy} against time"] = Experiment(
            toy, (*_OF_TOYS, "adaptive-hig", "muon"), tuple(seeds), budget
        )
    for name, methods in _AGAINST_TIME.items():
        budget = Budget(seconds=2 * seconds if name == "quantum-dipole" else seconds)
        problem, overrides = name.split(" ")[0], {}
        if name == AS_IN_THE_PAPER:
            overrides = _PAPERS_BATCHES
        study[name] = Experiment(problem, methods, tuple(seeds), budget, overrides)
    return study


def predicted_seconds(plans: Iterable[Plan], *, fresh: bool = False) -> float:
    """About how long the runs that are missing, or all, will take, compilation included."""
    total = 0.0
    for plan in plans:
        todo = plan.runs if fresh else plan.missing()
        length = plan.budget.seconds or STEP * (plan.budget.steps or 0)
        total += len(todo) * (length + OVERHEAD)
        total += len({run.trainer.method for run in todo}) * COMPILATION
    return total
