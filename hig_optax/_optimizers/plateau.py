"""What new batches say of the last steps: the factor on the next, and its least damping."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from hig_optax._shown import named
from hig_optax._types import Scalar

# The power p of a loss that falls as t⁻ᵖ in t batches is told by two averages of its logarithm, over the
# latter quarter and twentieth of the batches, from so many on.
LONG, SHORT = 4.0, 20.0
# What p exceeds chance by, and such a least power, is added to the slope along the last step, with a weight:
# by it steps half as long take 2^0.7 times as long. Without chance noisy-field ended ten times higher, with
# twice chance the nonlinear oscillators ten times (ADAPTIVE.md, the notebooks').
WEIGHT, LEAST_POWER = 0.7, 0.1
# As 1/t falls what a mean over noise leaves. A step by some products or a sketch is itself one of many that
# are to be averaged, so there p = 1 is no praise of long steps, and p - 1 counts: five problems of six ended
# 1.2 to 3.5 times lower, Poisson's equation most, and one alike. Whole steps are another matter: with p - 1
# the linear oscillators stood still at 9e-11, where they go on to 1e-11, for s then falls, and p with it.
# On both the factor falls as t^((p-1)/2) by itself where p is below 1: near the noise the slope along a step
# is a thousandth of the loss, which hundreds of batches do not tell from chance. With t^(p-1) a field read
# through noise (fresh samples, 64 a batch) ended 2.7 times higher, without it noisy-field 3 times.
NATURAL_POWER, FADING = 1.0, 0.5
MIN_FACTOR = 1e-3
# Where the factor is the latter or less, steps are damped by the mean of σ² at least, above the former by the
# minimum alone: with 1 in its place the nonlinear oscillators ended six times higher.
FREE_FACTOR, DAMPED_FACTOR = 0.3, 0.01
# From such a factor on the bound of a step shrinks with it. Without that steps far above their bound stay as
# long as it is, whatever the factor says: cross-entropy on fresh samples, 0.90 after 1600 steps, was at 0.98
# after 3200, with it at 0.88, and with 0.3 at 0.86; but noisy-field then ended 1.5 times higher, with 1 three
# times, with 0.2 no higher than its seeds differ.
BOUNDED_FACTOR = 0.2
# Each step taken back (`retreat`) multiplies the least damping by WARIER, from WARY on: damped by 1e-8 a step
# fits its own batch as promised, and may let others explode.
WARIER, WARY, MOST_WARY = 10.0, 1e-4, 1e-2


class Plateau(NamedTuple):
    """What new batches say of the last steps, and the factor on the next that follows from it."""

    num_batches: Int[Array, ""]
    """Number t of batches seen, int32."""
    recent: Float[Array, ""]
    """Average over some t/20 batches of the logarithm of what the loss may still fall by."""
    past: Float[Array, ""]
    """The same over some t/4 batches."""
    variance: Float[Array, ""]
    """Of that logarithm from one batch to the next, over as many."""
    scale: Float[Array, ""]
    """Factor on the steps, in [0.001, 1]; 1 at first."""

    num_returns: Int[Array, ""]
    """How many steps were taken back because a new batch showed great harm, int32."""

    def __repr__(self) -> str:
        return named(self)

    def least_damping(self, minimum: Float[Array, ""]) -> Float[Array, ""]:
        """The least damping, relative to the mean of σ²: `minimum` at a factor of 0.3 and above, 1 at 0.01.

        In between it is geometric. Short steps average the noise of many batches, but along small σ, damped
        by the minimum alone, that noise is so large that the average is no better: a network that read noisy
        targets then got ever worse. After steps that had to be taken back it is at least 1e-4, 1e-3, 1e-2.
        """
        span = math.log(DAMPED_FACTOR / FREE_FACTOR)
        share = jnp.clip(jnp.log(self.scale / FREE_FACTOR) / span, 0, 1)
        wary = WARY * jnp.power(WARIER, self.num_returns.astype(minimum.dtype) - 1)
        wary = jnp.minimum(jnp.where(self.num_returns > 0, wary, 0), MOST_WARY)
        noisy = jnp.power(minimum, 1 - share)
        return jnp.maximum(jnp.maximum(minimum, wary), noisy).astype(minimum.dtype)

    @property
    def bound_share(self) -> Float[Array, ""]:
        """Factor on the bound of a step: 1 at a factor of 0.2 and above, below in proportion to that."""
        return jnp.minimum(self.scale / BOUNDED_FACTOR, 1)

    @classmethod
    def start(cls, dtype: jnp.dtype) -> "Plateau":
        """Before the first batch."""
        # One buffer per field, for donation.
        recent, past, variance = (jnp.zeros((), dtype) for _ in range(3))
        batches, returns = (jnp.zeros((), jnp.int32) for _ in range(2))
        return cls(batches, recent, past, variance, jnp.ones((), dtype), returns)

    @property
    def power(self) -> Float[Array, ""]:
        """p, where the loss falls as t⁻ᵖ: averages that forget in proportion to t differ by a share of it."""
        return (self.past - self.recent) / (1 / LONG - 1 / SHORT)

    @property
    def chance(self) -> Float[Array, ""]:
        """Standard deviation of p where the loss does not fall: from the shorter average, of t/10 batches."""
        t = jnp.maximum(self.num_batches, 1).astype(self.variance.dtype)
        return jnp.sqrt(self.variance * SHORT / (2 * t)) / (1 / LONG - 1 / SHORT)

    def seen(
        self,
        excess: Float[Array, ""],
        slope: Float[Array, ""],
        patience: Scalar,
        *,
        is_partial: bool = False,
    ) -> "Plateau":
        """After one more batch, as it was before the step on it.

        The last step was not fitted to these samples, so that the slope of their loss along it is that of all
        samples, but for chance: where it is positive the step was too short for them, where it is negative
        too long. A step that brings the least loss at once is too short in the long run, which is why
        progress is added to the slope.

        Args:
            excess: What the loss of the batch may still fall by: a sum of squares, by all of it. Not positive
                or not finite: nothing changes.
            slope: By how much it would fall if the last step, before the factor, were taken once more, to
                first order.
            patience: Batches in which the factor may change e-fold. None of them, or NaN: nothing changes.
            is_partial: Whether steps are made of some products with J, or of a sketch of its rows.

        References:
            Chee and Toulis, Convergence diagnostics for stochastic gradient descent with constant step size
            (2019): steps are too long where successive gradients point apart. Wu, Ren, Liao and
            Grosse, Understanding short-horizon bias in stochastic meta-optimization, arXiv:1803.02021: what
            rates that serve the next step alone lose later.
        """
        dtype = self.recent.dtype
        is_usable = (
            jnp.isfinite(excess) & (excess > 0) & jnp.isfinite(slope) & jnp.isfinite(patience)
        )
        excess = jnp.where(is_usable, excess, 1)
        x, number = jnp.log(excess).astype(dtype), optax.safe_increment(self.num_batches)
        t = number.astype(dtype)

        def averaged(average: Array, share: float, x: Array) -> Array:
            return average + jnp.minimum(share / t, 1) * (x - average)

        after = self._replace(
            num_batches=number,
            recent=averaged(self.recent, SHORT, x),
            past=averaged(self.past, LONG, x),
            variance=averaged(self.variance, LONG, jnp.square(x - self.recent)),
        )
        left = jnp.clip(slope / excess, -1, 1).astype(dtype)
        weight, least = (1.0, NATURAL_POWER) if is_partial else (WEIGHT, LEAST_POWER)
        progress = jnp.maximum(after.power - after.chance - least, 0)
        told = jnp.clip(left + weight * progress, -1, 1)
        fading = FADING * jnp.clip(after.power - NATURAL_POWER, -1, 0)
        change = told / jnp.maximum(jnp.asarray(patience, dtype), 1)
        change = jnp.where(t > SHORT, change + fading / t, 0)
        factor = jnp.clip(self.scale * jnp.exp(change), MIN_FACTOR, 1).astype(dtype)
        after = after._replace(scale=factor)
        return jax.tree.map(lambda new, old: jnp.where(is_usable, new, old), after, self)
