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


_ONE_CORE = (
    "batches of 8: 64, as in the source, make a 4096 × 24896 Jacobian, tens of seconds a step"
)

ADJUSTMENTS: Mapping[tuple[str, str], Adjustment] = {
    ("poisson", "hig"): Adjustment({"batch_size": 8}, _ONE_CORE),
    ("poisson", "gauss-newton"): Adjustment({"batch_size": 8}, _ONE_CORE),
}
"""By the names of problem and method."""
