"""What the toy must show, number by number."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hig_optax.experiments.claims import SATURATED, Runs, median_loss, most, neuron_std
from hig_optax.experiments.table import Table


@dataclass(frozen=True)
class Criterion:
    """A number that runs of the toy must reach.

    Attributes:
        experiment: Name in the study.
        text: What is wanted.
        measure: The numbers that decide, for a reader, and whether they do.
    """

    experiment: str
    text: str
    measure: Callable[[Runs], tuple[str, bool]]


def _loss(
    method: str, *, below: float = np.inf, above: float = 0.0
) -> Callable[[Runs], tuple[str, bool]]:
    def measure(runs: Runs) -> tuple[str, bool]:
        median = median_loss(runs[method])
        each = ", ".join(f"{run.last_measured:.1e}" for run in runs[method])
        return f"{median:.1e} ({each})", above < median < below

    return measure


def _lively(runs: Runs) -> tuple[str, bool]:
    stds = [neuron_std(run) for run in runs["hig"]]
    return _list(stds), float(np.median(stds)) > 0.4


def _saturated(runs: Runs) -> tuple[str, bool]:
    stds = [neuron_std(run) for run in runs["gauss-newton"]]
    return _list(stds), most([std < SATURATED for std in stds])


def _list(stds: list[float]) -> str:
    return f"{np.median(stds):.2f} ({', '.join(f'{std:.2f}' for std in stds)})"


CRITERIA = (
    Criterion("toy", "λ = 0.01: median test loss of hig below 5e-3", _loss("hig", below=5e-3)),
    Criterion("toy", "λ = 0.01: its neurons vary by more than 0.4 over x", _lively),
    Criterion("toy", "λ = 0.01: those of gauss-newton by less than 0.2 on most seeds", _saturated),
    Criterion("toy", "λ = 0.01: adam stays above 0.2", _loss("adam", above=0.2)),
    Criterion(
        "toy-balanced", "λ = 1: median test loss of hig below 1e-4", _loss("hig", below=1e-4)
    ),
)
"""All criteria."""


def table(experiments: Mapping[str, Runs]) -> Table:
    """The criteria, what was measured (median, and every seed), and whether it is met."""
    rows = []
    for criterion in CRITERIA:
        runs = experiments[criterion.experiment]
        measured, met = criterion.measure(runs)
        rows.append((criterion.text, measured, "yes" if met else "**no**"))
    ours = experiments["toy"]["hig"]
    asked = ours[0].request
    note = (
        f"Median, and each of seeds {', '.join(str(run.seed) for run in ours)}; {ours[0].steps} steps of "
        f"{asked['settings']['batch_size']} points, {asked['environment']['float']}."
    )
    return Table("What the toy must show", ("wanted", "measured", "met"), tuple(rows), note)
