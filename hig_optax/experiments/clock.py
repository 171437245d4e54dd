"""Timing of rival computations, taken in turns so that a busy machine slows all alike."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

_SHORTEST = 2e-3  # seconds; quicker calls are repeated within one measurement


@dataclass(frozen=True)
class Timing:
    """Seconds of one call.

    Attributes:
        first: The first call: tracing, compilation and the computation.
        median: The median of the later ones.
        repeats: How many those were.
    """

    first: float
    median: float
    repeats: int


def race(rivals: Mapping[str, Callable[[], Any]], *, seconds: float) -> dict[str, Timing]:
    """Time every rival, round after round, for about `seconds` each, and at least once.

    Args:
        rivals: Functions without arguments that return arrays; they are waited for.
        seconds: Time to spend on each rival after its first call.

    Returns:
        A `Timing` for each, under the same names.
    """
    firsts = {name: _time(call, 1) for name, call in rivals.items()}
    samples: dict[str, list[float]] = {name: [_time(call, 1)] for name, call in rivals.items()}
    calls = {name: max(1, math.ceil(_SHORTEST / t[0])) for name, t in samples.items()}
    rounds = {
        name: min(50, math.floor(seconds / (t[0] * calls[name]))) for name, t in samples.items()
    }
    most = max(rounds.values(), default=0)
    for name in rivals:
        if rounds[name]:
            samples[name].clear()  # the second call, too, may still warm something up
    for i in range(most):
        for name, call in rivals.items():
            # Spread the rounds of a slow rival evenly over those of the quickest.
            if (i + 1) * rounds[name] // most > i * rounds[name] // most:
                samples[name].append(_time(call, calls[name]))
    return {
        name: Timing(firsts[name], float(np.median(samples[name])), len(samples[name]))
        for name in rivals
    }


def _time(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(call())
    return (time.perf_counter() - start) / repeats
