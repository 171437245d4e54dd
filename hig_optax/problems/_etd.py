"""Exponential time differencing: stiff linear terms exactly, the rest by Runge and Kutta's fourth order."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Etdrk4(NamedTuple):
    """Coefficients of one step for v' = c v + N(v), c diagonal; arrays of the shape of c."""

    whole: Any
    """exp(c h)."""
    half: Any
    """exp(c h / 2)."""
    stage: Any
    """h φ(c h / 2) / 2 with φ(z) = (exp z - 1) / z."""
    first: Any
    """Weight of N at the start,"""
    middle: Any
    """of each of the two in the middle, and"""
    last: Any
    """at the end."""

    @classmethod
    def of(cls, rates: np.ndarray, dt: float, nodes: int = 32) -> "Etdrk4":
        """The coefficients, in float64.

        The formulas divide differences of nearly equal numbers by powers of c h. They are entire functions,
        and means over a circle around c h are free of that.

        Args:
            rates: c, real, any shape.
            dt: Length h of a step.
            nodes: Points on the upper half of the circle, of radius 1.

        Example:
            >>> Etdrk4.of(np.zeros(1), 0.6).first.round(6)  # without a linear term: h / 6
            array([0.1])

        References:
            Cox and Matthews, Exponential time differencing for stiff systems, J. Comput. Phys. 176 (2002)
            430: the scheme. Kassam and Trefethen, Fourth-order time-stepping for stiff PDEs, SIAM J. Sci.
            Comput. 26 (2005) 1214: the circle.
        """
        circle = np.exp(1j * np.pi * (np.arange(nodes) + 0.5) / nodes)
        z = (dt * rates)[..., None] + circle
        e = np.exp(z)

        def mean(values: np.ndarray) -> np.ndarray:
            return dt * values.mean(axis=-1).real

        return cls(
            whole=np.exp(dt * rates),
            half=np.exp(dt * rates / 2),
            stage=mean((np.exp(z / 2) - 1) / z),
            first=mean((-4 - z + e * (4 - 3 * z + z**2)) / z**3),
            middle=2 * mean((2 + z + e * (z - 2)) / z**3),
            last=mean((-4 - 3 * z - z**2 + e * (4 - z)) / z**3),
        )

    def step(self, v: Any, nonlinear: Callable[[Any], Any]) -> Any:
        """One step, with arrays of NumPy's or of JAX's, whatever the coefficients are."""
        at_start = nonlinear(v)
        a = self.half * v + self.stage * at_start
        at_a = nonlinear(a)
        b = self.half * v + self.stage * at_a
        at_b = nonlinear(b)
        c = self.half * a + self.stage * (2 * at_b - at_start)
        in_middle = self.middle * (at_a + at_b)
        return self.whole * v + self.first * at_start + in_middle + self.last * nonlinear(c)
