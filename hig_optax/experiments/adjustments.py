"""Settings of the comparisons where a problem recommends none, or none that one core can afford."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Adjustment:
    """Settings that replace a problem's recommendation for one method.

    Attributes:
        settings: The settings.
        why: Told beside the numbers, where the settings depart from the source's.
    """

    settings: Mapping[str, Any]
    why: str = ""


_ONE_SAMPLE = Adjustment(
    {"batch_size": 1, "learning_rate": 0.05},
    "batches of 1 at rate 0.05 in place of the source's 64 at 0.01, whose Jacobian of 4096 × 24896 takes "
    "tens of seconds a step on one core",
)

_TEN_PRODUCTS = Adjustment(
    {
        "solver": "krylov",
        "num_matvecs": 10,
        "learning_rate": 0.05,
        "exact_cotangent": True,
    },
    "10 Krylov products at rate 0.05 in place of the source's decomposition at 0.01, which of a Jacobian of "
    "4096 × 24896 takes tens of seconds a step on one core",
)

_HALF_BATCHES = Adjustment(
    {"batch_size": 8},
    "batches of 8 in place of the source's 16: 2.4 times as many steps in the same time",
)

_SMALL_BATCHES = Adjustment(
    {"batch_size": 32},
    "batches of 32 in place of the source's 128: ten times as many steps in the same time",
)

ADJUSTMENTS: Mapping[tuple[str, str], Adjustment] = {
    ("nonlinear-oscillators", "hig"): _SMALL_BATCHES,
    ("nonlinear-oscillators", "gauss-newton"): _SMALL_BATCHES,
    ("quantum-dipole", "hig"): _HALF_BATCHES,
    ("quantum-dipole", "gauss-newton"): _HALF_BATCHES,
    ("poisson", "hig"): _TEN_PRODUCTS,
    ("poisson", "gauss-newton"): _ONE_SAMPLE,
    # Of a fixed data set L-BFGS takes all samples, where that is affordable: noise misleads it.
    ("linear-oscillators", "lbfgs"): Adjustment({"batch_size": 4096}),
    ("nonlinear-oscillators", "lbfgs"): Adjustment({"batch_size": 4096}),
    ("quantum-dipole", "lbfgs"): Adjustment({"batch_size": 64}),
}
"""By the names of problem and method."""
