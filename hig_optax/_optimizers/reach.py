"""How far a step goes: what noise among the batches and the bound leave of it, and what the trial does."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._inputs.columns import Columns
from hig_optax._optimizers.adaptive_step import AdaptiveHigState, Seen
from hig_optax._optimizers.control import (
    FIXED_AFTER,
    Trial,
    is_rounding,
    share_within,
    shorten_until_lower,
)
from hig_optax._optimizers.plateau import Plateau
from hig_optax._optimizers.recipe import LARGE_TELLS, Choices
from hig_optax._optimizers.steady import Path
from hig_optax._types import Scalar


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
    seen: Seen,
    choices: Choices,
    state: AdaptiveHigState,
    columns: Columns,
    step: Array,
    rate: Any,
    patience: Scalar | None,
) -> Reach:
    """What noise among the batches and the bound leave of a step.

    Args:
        seen: The batch.
        choices: The settings of steps: a bound that was left open does not hold on every batch.
        state: After the last step.
        columns: The parameters.
        step: (n,).
        rate: The learning rate.
        patience: As in `hig_optax.adaptive_hig`.
    """
    work, recipe, plateau = step.dtype, seen.recipe, state.plateau
    rate, bound_share = jnp.asarray(rate, work), jnp.ones((), work)
    least = jnp.asarray(recipe.least_damping, state.damping.dtype)
    least = jnp.where(jnp.isfinite(least), least, 0)
    if plateau is not None and patience is not None:
        assert seen.image is not None
        slope = jnp.vdot(seen.at.kept(seen.model.cotangent), seen.image, precision="highest")
        if seen.is_large:
            patience = patience / LARGE_TELLS
        # A batch that stays the same says nothing of others: nothing changes then, and steps are whole.
        is_idle = seen.repeats >= FIXED_AFTER
        after = plateau.seen(seen.model.excess, slope, patience, is_partial=seen.is_partial)
        plateau = jax.tree.map(lambda new, old: jnp.where(is_idle, old, new), after, plateau)
        used = plateau._replace(scale=jnp.where(is_idle, 1, plateau.scale))
        rate *= used.scale.astype(work)
        bound_share = used.bound_share.astype(work)
        least = used.least_damping(least)
    norm = jnp.abs(rate) * jnp.linalg.norm(step)
    share, is_cut = jnp.ones((), work), jnp.zeros((), bool)
    if recipe.max_relative_step is not None:
        size = jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(work))) for x in columns.parts))
        bound = jnp.asarray(recipe.max_relative_step, work) * jnp.maximum(size, 1) * bound_share
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
    scale = jnp.where(is_lost, first, scale)
    if seen.is_accelerated is not None:
        # There a higher damping makes the next step short enough; a tiny one would tell of rounding alone.
        scale = jnp.where(seen.is_accelerated & ~trial.accepted, 1, scale)
    return trial, scale
