"""What the sources claim, checked against the runs of a study.

Every verdict is computed, and every explanation is built from the numbers that it explains, so that
both stay true whatever the runs say.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hig_optax.experiments.history import History
from hig_optax.experiments.study import AS_IN_THE_PAPER

Runs = Mapping[str, list[History]]
"""The runs of one experiment, by method."""

SATURATED = 0.2  # mean over neurons of the activation's standard deviation over x; 0 is dead
STALLED = 0.2  # test loss of the toy
CONVERGED = 1e-2  # likewise


@dataclass(frozen=True)
class Verdict:
    """What was measured, whether the claim holds, and why."""

    measured: str
    holds: bool
    why: str


@dataclass(frozen=True)
class Claim:
    """A sentence of a source, and how it is checked.

    Attributes:
        source: ``"book"`` or ``"paper"``.
        experiment: Name in the study.
        text: The claim.
        check: From the runs of that experiment.
    """

    source: str
    experiment: str
    text: str
    check: Callable[[Runs], Verdict]


def median_loss(runs: Sequence[History]) -> float:
    """Median over seeds of the test loss at the end; infinite where most runs blew up."""
    return float(np.median([run.last_measured for run in runs]))


def median_steps(runs: Sequence[History]) -> float:
    """Median over seeds of the steps taken."""
    return float(np.median([run.steps for run in runs]))


def neuron_std(run: History) -> float:
    """Mean over the toy's neurons of their standard deviation over x, at the end of a run."""
    return float(run.views["neuron_std"][-1].mean())


def most(flags: Sequence[bool]) -> bool:
    """More than half."""
    return sum(flags) > len(flags) / 2


def lower_than(*rivals: str) -> Callable[[Runs], Verdict]:
    """HIG ends lower than each of the rivals."""

    def check(runs: Runs) -> Verdict:
        losses = {name: median_loss(runs[name]) for name in ("hig", *rivals)}
        ahead = [name for name in rivals if losses[name] <= losses["hig"]]
        told = ahead or rivals
        steps = {name: median_steps(runs[name]) for name in ("hig", *told)}
        counts = ", ".join(f"{name} {steps[name]:.0f}" for name in told)
        why = f"In the same time hig took {steps['hig']:.0f} steps, {counts}. "
        if ahead:
            why += (
                f"The steps of {' and '.join(ahead)} that fit into the time of one of hig lower the loss "
                "more."
            )
        else:
            why += "One step of hig lowers the loss more than the other steps that fit into the same time."
        return Verdict(_losses(losses), not ahead, why)

    return check


def explodes(runs: Runs) -> Verdict:
    """Gauss-Newton ends above where it began, or at nothing finite, from most seeds."""
    rivals = runs["gauss-newton"]
    up = [run.last_measured > run.points[0].test_loss for run in rivals]
    start = float(np.median([run.points[0].test_loss for run in rivals]))
    measured = (
        f"gauss-newton from {start:.1e} to {median_loss(rivals):.1e}; "
        f"{sum(up)} of {len(up)} seeds end above their start"
    )
    names = ("batch_size", "learning_rate", "rtol")
    alike = all(_setting(runs, "hig", n) == _setting(runs, "gauss-newton", n) for n in names)
    with_what = "With the same batch size, rate and cut" if alike else "With its own settings"
    return Verdict(measured, most(up), f"{with_what} hig ends at {median_loss(runs['hig']):.1e}.")


def converges_alone(runs: Runs) -> Verdict:
    """HIG converges where Adam stalls and Gauss-Newton saturates the neurons."""
    losses = {name: median_loss(runs[name]) for name in ("hig", "adam", "gauss-newton")}
    dead = [neuron_std(run) < SATURATED for run in runs["gauss-newton"]]
    stalled = losses["adam"] > STALLED and losses["gauss-newton"] > STALLED
    errors = [_component_errors(run) for run in runs["adam"]]
    share = float(np.median([second / (first + second) for first, second in errors]))
    return Verdict(
        f"{_losses(losses)} after {median_steps(runs['hig']):.0f} steps; neurons of gauss-newton "
        f"saturated on {sum(dead)} of {len(dead)} seeds",
        losses["hig"] < CONVERGED and stalled and most(dead),
        f"{share:.0%} of adam's squared error lies in the second, shrunken component; a neuron of "
        f"gauss-newton varies by {_std(runs['gauss-newton'])} over x, one of hig by {_std(runs['hig'])}.",
    )


def all_converge(runs: Runs) -> Verdict:
    """All three methods come down, and keep a broad range of activations."""
    names = ("hig", "adam", "gauss-newton")
    losses = {name: median_loss(runs[name]) for name in names}
    dead = [name for name in names if most([neuron_std(run) < SATURATED for run in runs[name]])]
    high = [name for name in names if losses[name] > CONVERGED]
    says = [f"Above {CONVERGED:g}: {', '.join(high) or 'none'}."]
    says.append(f"Neurons saturated: {', '.join(dead) or 'none'}.")
    if "gauss-newton" in dead:
        rate = _setting(runs, "gauss-newton", "learning_rate")
        says.append(f"Gauss-Newton's rate is {rate:g} here, for a mean over the batch.")
    measured = f"{_losses(losses)} after {median_steps(runs['hig']):.0f} steps"
    return Verdict(measured, not (high or dead), " ".join(says))


CLAIMS = (
    Claim(
        "book",
        "toy",
        "Toy, λ = 0.01: HIG converges; Adam does not get below about 0.2, nor does Gauss-Newton, whose "
        "neurons saturate",
        converges_alone,
    ),
    Claim(
        "book",
        "toy against time",
        "The same, at equal wall time",
        lower_than("adam", "gauss-newton"),
    ),
    Claim(
        "book",
        "toy-balanced",
        "Toy, λ = 1: all three come down to 1e-2 or below, with a broad range of activations",
        all_converge,
    ),
    Claim(
        "book",
        "linear-oscillators",
        "Linear oscillators: HIG reaches a lower loss than Adam and SIP",
        lower_than("adam", "adam-cosine", "sip"),
    ),
    Claim(
        "paper",
        "nonlinear-oscillators",
        "Nonlinear oscillators: HIG reaches a lower loss than Adam",
        lower_than("adam", "adam-cosine"),
    ),
    Claim(
        "paper", AS_IN_THE_PAPER, "The same, with the paper's batches of 128", lower_than("adam")
    ),
    Claim("paper", AS_IN_THE_PAPER, "Nonlinear oscillators: Gauss-Newton explodes", explodes),
    Claim(
        "paper",
        "quantum-dipole",
        "Quantum dipole: HIG reaches a lower loss than Adam and Gauss-Newton",
        lower_than("adam", "gauss-newton"),
    ),
    Claim(
        "paper",
        "poisson",
        "Poisson: HIG reaches a lower loss than Adam",
        lower_than("adam", "adam-cosine"),
    ),
)
"""All claims, in the order of the experiments."""


def _losses(losses: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {loss:.1e}" for name, loss in losses.items())


def _setting(runs: Runs, method: str, name: str) -> Any:
    return runs[method][0].request["settings"][name]


def _std(runs: Sequence[History]) -> str:
    return f"{np.median([neuron_std(run) for run in runs]):.2f}"


def _component_errors(run: History) -> tuple[float, float]:
    """Mean squared error of the toy's two components after training."""
    first, second = run.views["component_errors"][1]
    return float(first), float(second)
