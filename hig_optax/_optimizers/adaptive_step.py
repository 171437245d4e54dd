"""A step of `adaptive_hig`: seen, found, bounded, tried; and the state that tells the next of it."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._optimizers.control import (
    FIXED_AFTER,
    Plateau,
    Trial,
    count_repeats,
    is_rounding,
    share_within,
    shorten_until_lower,
)
from hig_optax._optimizers.model import Model, model_of
from hig_optax._optimizers.recipe import Choices, Recipe
from hig_optax._optimizers.steady import Path, find_step, is_large
from hig_optax._shown import named
from hig_optax._solvers.formula import Direction, Scaling
from hig_optax._solvers.step import Linearised, counted, linearise, usable
from hig_optax._types import Spectrum, Tree


class AdaptiveHigState(NamedTuple):
    """State of `adaptive_hig`. Real numbers have the real dtype of the parameters, at least float32.

    Example:
        >>> import hig_optax, jax.numpy as jnp
        >>> opt = hig_optax.adaptive_hig(lambda w, x: w * x, init_relative_damping=0.5)
        >>> opt.init(jnp.ones(2)).damping
        Array(0.5, dtype=float32)
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    """Number of updates so far, int32; what a schedule is evaluated at."""

    damping: Float[Array, ""]
    """Damping of the next step, relative to the mean of σ², dimensionless."""

    gain_ratio: Float[Array, ""]
    """Actual over predicted decrease of the batch loss, of the last trial of the last step, dimensionless."""

    accepted: Bool[Array, ""]
    """Whether the last step was taken. False: its updates were zero."""

    loss: Float[Array, ""]
    """Loss of the last batch before the step: `loss_fn`, or ½Σrows², averaged over the samples unless
    `residual_fn` takes the whole batch or has blocks."""

    trial_loss: Float[Array, ""]
    """Loss of the same batch at the last trial; after the step, if that was accepted."""

    step_norm: Float[Array, ""]
    """Euclidean norm of the last trial's step in the optimized parameters."""

    is_cut: Bool[Array, ""]
    """Whether `max_relative_step` shortened the last step."""

    momentum: Tree | None
    """The last step, uphill and before the learning rate, in the tree of the parameters, at least float32,
    with ``optax.MaskedNode`` where one is frozen; None where the setting `momentum` is the number 0."""

    trial_scale: Float[Array, ""]
    """Fraction of the full step that is tried first next time; below 1 after rejections."""

    plateau: Plateau | None
    """Whether the loss of new batches falls, and the factor s on the steps (`scale`); None without
    `patience`."""

    repeats: Int[Array, ""]
    """How many steps in a row have found the loss as the one before had left it, int32: from two on the batch
    counts as fixed."""

    spectrum: Spectrum
    """What the last step saw; zeros before the first."""

    def __repr__(self) -> str:
        return named(self)


MADE_BY = {
    "momentum": "momentum",
    "plateau": "patience",
    "spectrum.singular_values": "spectrum_size",
    "spectrum.block_shares": "residual_fn, in other blocks,",
}
"""Fields of the state, and the settings that decide what they hold."""


class Seen(NamedTuple):
    """A batch, before the step on it."""

    at: Linearised
    model: Model
    repeats: Int[Array, ""]
    is_fixed: Bool[Array, ""]
    is_accelerated: Bool[Array, ""] | None
    """Whether the batch is fixed, or large; None where the settings keep accelerated steps away."""
    recipe: Recipe
    """What the settings are on this batch."""


def see(
    settings: Settings,
    choices: Choices,
    state: AdaptiveHigState,
    columns: Columns,
    batch: Tree,
    devices: Devices | None,
    *,
    may_accelerate: bool,
) -> Seen:
    """Linearise the rows of a batch, and find out what kind of batch it is.

    Args:
        settings: What the rows are, and how J is to be had.
        choices: The settings of steps.
        state: After the last step.
        columns: The parameters.
        batch: The samples.
        devices: Those that share them.
        may_accelerate: Whether the settings allow it.
    """
    at = linearise(settings, columns, batch, devices, state.count)
    model = model_of(settings.loss_fn, at)
    expected = jnp.where(state.accepted, state.trial_loss, state.loss)
    repeats = count_repeats(state.repeats, model.loss, expected, state.count)
    is_fixed = (repeats >= FIXED_AFTER) & (at.solver != "krylov")
    is_large_enough = may_accelerate and is_large(at)
    is_steady = is_fixed | is_large_enough
    return Seen(
        at,
        model,
        repeats,
        is_fixed,
        is_steady if may_accelerate else None,
        choices.on(
            is_steady, is_large=is_large_enough, rows=at.J.shape[0], columns=columns.view.size
        ),
    )


def find(
    settings: Settings, seen: Seen, state: AdaptiveHigState, columns: Columns, updates: Tree | None
) -> tuple[Direction, Path]:
    """What is seen of J, finite only if path and loss are, and where the step leads.

    Args:
        settings: With the cuts.
        seen: The batch.
        state: After the last step.
        columns: The parameters.
        updates: The incoming gradient, which is only compared; None if there is none.
    """
    at, recipe, work = seen.at, seen.recipe, seen.at.dtype
    scaling = Scaling(
        relative_damping=at.relative_damping(state.damping),
        curvature=seen.model.curvature.astype(work),
        previous=None if state.momentum is None else columns.vector(state.momentum, work),
        momentum=jnp.asarray(recipe.momentum, work),
    )
    gradient = usable(columns.gradient(updates, work), at)
    found, path = find_step(
        dataclasses.replace(settings, exponent=recipe.exponent),
        at,
        columns,
        gradient,
        seen.model,
        scaling,
        seen.is_accelerated,
    )
    found = counted(found, gradient, at)
    # An overflow of the step is left to us.
    is_finite = jnp.all(jnp.isfinite(path.step)) & jnp.isfinite(seen.model.loss)
    return found._replace(
        is_finite=found.is_finite & is_finite,
        gradient_cosine=None if updates is None else found.gradient_cosine,
    ), path


def leads_down(found: Direction) -> Bool[Array, ""]:
    """Whether a direction is finite, and not away from the incoming gradient where there is one."""
    if found.gradient_cosine is None:
        return found.is_finite
    # It is NaN where samples were left out that the incoming gradient has: there is nothing to compare.
    return found.is_finite & ~(found.gradient_cosine <= 0)


class Reach(NamedTuple):
    """How far a step may go before it is tried."""

    rate: Float[Array, ""]
    """The learning rate, times the factor of the plateau."""
    norm: Float[Array, ""]
    """Euclidean norm of the step at this rate."""
    share: Float[Array, ""]
    """Factor ≤ 1 that leaves the bound of it."""
    is_cut: Bool[Array, ""]
    least_damping: Float[Array, ""]
    plateau: Plateau | None


def reach(
    seen: Seen, choices: Choices, state: AdaptiveHigState, columns: Columns, step: Array, rate: Any
) -> Reach:
    """What noise among the batches and the bound leave of a step.

    Args:
        seen: The batch.
        choices: The settings of steps: a bound or patience that was left open does not hold on every batch.
        state: After the last step.
        columns: The parameters.
        step: (n,).
        rate: The learning rate.
    """
    work, recipe, plateau = step.dtype, seen.recipe, state.plateau
    rate = jnp.asarray(rate, work)
    least = jnp.asarray(recipe.min_relative_damping, state.damping.dtype)
    least = jnp.where(jnp.isfinite(least), least, 0)
    if plateau is not None and recipe.patience is not None:
        # A fixed batch says nothing of progress: that stays as it was, and steps are whole.
        is_idle = seen.is_fixed & choices.is_auto("patience")
        after = plateau.seen(seen.model.loss, recipe.patience)
        plateau = jax.tree.map(lambda new, old: jnp.where(is_idle, old, new), after, plateau)
        used = plateau._replace(scale=jnp.where(is_idle, 1, plateau.scale))
        rate *= used.scale.astype(work)
        least = used.least_damping(least)
    norm = jnp.abs(rate) * jnp.linalg.norm(step)
    share, is_cut = jnp.ones((), work), jnp.zeros((), bool)
    if recipe.max_relative_step is not None:
        size = jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(work))) for x in columns.parts))
        bound = jnp.asarray(recipe.max_relative_step, work) * jnp.maximum(size, 1)
        is_free = seen.is_fixed & choices.is_auto("max_relative_step")
        share, is_cut = share_within(norm, jnp.where(is_free, jnp.inf, bound))
    return Reach(rate, norm, share, is_cut, least, plateau)


def try_along(
    seen: Seen,
    columns: Columns,
    path: Path,
    reached: Reach,
    first: Float[Array, ""],
    is_usable: Bool[Array, ""],
    chunk_size: int | None,
) -> tuple[Trial, Float[Array, ""]]:
    """Follow a path until the loss is lower.

    Args:
        seen: The batch.
        columns: The parameters.
        path: Where the step leads.
        reached: How far it may go.
        first: Fraction of that at which it is tried first.
        is_usable: Whether there is a step to try.
        chunk_size: Samples of a forward pass at once.

    Returns:
        How it went, and the fraction that the next step is tried at first.
    """

    def decrease_at(scale: Array) -> Array:
        moved = columns.moved(path.at(reached.rate * reached.share * scale))
        return seen.model.decrease(seen.at.residual.evaluate(moved, chunk_size))

    trial, scale = shorten_until_lower(decrease_at, first, is_usable)
    # With nothing to gain at the length that was tried first, that it failed says nothing about lengths.
    promised = path.promised(reached.rate * reached.share * first)
    is_lost = is_rounding(promised, seen.model.loss) & ~trial.accepted
    return trial, jnp.where(is_lost, first, scale)
