"""What a step that was tried says of the next: damping, first length, and whether the batch stays."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hig_optax._eager import while_loop
from hig_optax._types import Rate, Scalar

# Marquardt's control: a step that did what the model promised lowers the damping, one that did not raises it.
GOOD_GAIN, POOR_GAIN, FACTOR = 0.75, 0.25, 3.0
FIRST_DAMPING, MAX_DAMPING = 1e-2, 1e6
# On a steady batch: with Marquardt's thirds the Kovasznay flow on fixed points ended thirty times higher.
STEADY, UNSTEADY = 0.5, 4.0

# A step that fails is tried again at a quarter of its length, along the same direction, so that nothing is
# decomposed anew. Four trials reach 1/64 of it.
TRIALS, SHORTER = 4, 0.25
MIN_SCALE = SHORTER**10

# A predicted decrease below so many ε·loss is lost in the rounding of the loss: it says nothing about λ.
STATIONARY_IN_EPS = 4

# A batch counts as fixed once so many steps in a row have found the loss that the one before had left: up to
# its rounding, and sqrt(ε) of what it may still fall, which is what rounding leaves of a difference that fell
# by a few decades. Of batches that change, one in a thousand does so by chance, in float32. Then up to 1 % of
# it: near the end the rows themselves are rounding. Of new samples on which the network does as well the loss
# may be that close, for a step.
FIXED_AFTER, STILL_FIXED = 2, 0.01


def count_repeats(
    repeats: Int[Array, ""],
    loss: Float[Array, ""],
    excess: Float[Array, ""],
    expected: Float[Array, ""],
    count: Int[Array, ""],
) -> Int[Array, ""]:
    """How many steps in a row have found the loss that was `expected` of the batch before, with this one.

    Args:
        repeats: The same after the step before.
        loss: Of this batch.
        excess: By how much that may still fall.
        expected: The loss that the step before left of its batch.
        count: Number of steps so far.
    """
    tolerance = jnp.where(repeats >= FIXED_AFTER, STILL_FIXED, jnp.finfo(loss.dtype).eps ** 0.5)
    gap = jnp.abs(loss - expected.astype(loss.dtype))
    # Of an energy, straight in some rows, the model has no least value to speak of.
    size = jnp.minimum(jnp.abs(excess), jnp.abs(loss))
    is_same = (count > 0) & is_rounding(gap - tolerance.astype(loss.dtype) * size, loss)
    return jnp.where(is_same, optax.safe_increment(repeats), 0)


def rate_at(learning_rate: Rate, count: Int[Array, ""]) -> Scalar:
    """A learning rate, or what a schedule says it is after so many updates."""
    return learning_rate(count) if callable(learning_rate) else learning_rate


def share_within(
    norm: Float[Array, ""], bound: Float[Array, ""]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """Factor ≤ 1 that scales a vector of this norm to at most `bound`; whether it is below 1."""
    bound = jnp.maximum(bound, 0)  # less than nothing would turn the vector round
    is_cut = norm > bound
    return jnp.where(is_cut, bound / jnp.where(is_cut, norm, 1), 1), is_cut


class Trial(NamedTuple):
    """The last length at which a step was tried."""

    number: Int[Array, ""]
    """How many lengths were tried."""
    scale: Float[Array, ""]
    """The last of them, as a fraction of the step."""
    decrease: Float[Array, ""]
    """By how much the loss fell there."""
    accepted: Bool[Array, ""]


def shorten_until_lower(
    decrease_at: Callable[[Array], Array], scale: Float[Array, ""], is_usable: Bool[Array, ""]
) -> tuple[Trial, Float[Array, ""]]:
    """Shorten a step until the loss falls; without a single trial, and rejected, where it is not usable.

    Args:
        decrease_at: ``share of the step -> by how much the loss falls``.
        scale: Fraction of the step to begin with.
        is_usable: Whether there is a step to try.

    Returns:
        How it went, and the share that the next step begins with: four times the last one, at most 1, or a
        quarter of it after a step that failed at every length. Damping alone does not shorten a step that is
        scaled to the model, least of all where there is one direction only: it would fail again for ever.
    """

    def body(last: Trial) -> Trial:
        scale = jnp.where(last.number > 0, SHORTER * last.scale, last.scale)
        decrease = decrease_at(scale)
        accepted = jnp.isfinite(decrease) & (decrease > 0)
        return Trial(last.number + 1, scale, decrease, accepted)

    shape = jax.eval_shape(decrease_at, scale)
    start = Trial(jnp.int32(0), scale, jnp.zeros(shape.shape, shape.dtype), jnp.zeros((), bool))
    trial = while_loop(
        lambda last: is_usable & ~last.accepted & (last.number < TRIALS), body, start
    )
    following = jnp.where(trial.accepted, trial.scale / SHORTER, trial.scale * SHORTER)
    return trial, jnp.where(is_usable, jnp.clip(following, MIN_SCALE, 1), scale)


def is_rounding(change: Float[Array, ""], loss: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether a change of the loss, such as a predicted decrease, is lost in the rounding of the loss."""
    return change <= STATIONARY_IN_EPS * jnp.finfo(loss.dtype).eps * jnp.abs(loss)


def next_damping(
    damping: Float[Array, ""],
    trial: Trial,
    predicted: Float[Array, ""],
    loss: Float[Array, ""],
    minimum: Float[Array, ""],
    is_cut: Bool[Array, ""],
    is_usable: Bool[Array, ""],
    is_steady: Bool[Array, ""] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The damping of the next step, and the gain ratio of this one.

    Args:
        damping: Of this step, relative to the mean of σ².
        trial: How it went.
        predicted: Decrease of the loss that the model had promised at the last trial.
        loss: Of the batch before the step.
        minimum: Least damping.
        is_cut: Whether a bound shortened the step, so that its success says nothing about a longer one.
        is_usable: Whether there was a step to try.
        is_steady: Whether the batch is fixed or large: there the damping falls steadily while steps succeed.
    """
    predicted = predicted.astype(trial.decrease.dtype)
    gain = trial.decrease / jnp.where(predicted > 0, predicted, 1)
    failed = trial.number - trial.accepted.astype(jnp.int32)
    raised = jnp.power(FACTOR, failed.astype(damping.dtype))
    raised = jnp.where((failed == 0) & (gain < POOR_GAIN), FACTOR, raised)
    factor = jnp.where((failed == 0) & (gain > GOOD_GAIN) & ~is_cut, 1 / FACTOR, raised)
    if is_steady is not None:
        steady = jnp.where(failed == 0, STEADY, jnp.power(UNSTEADY, failed.astype(damping.dtype)))
        factor = jnp.where(is_steady, steady, factor)
    factor = jnp.where(is_usable & ~is_rounding(predicted, loss), factor, 1).astype(damping.dtype)
    return jnp.clip(damping * factor, minimum, MAX_DAMPING), jnp.where(is_usable, gain, 0)
