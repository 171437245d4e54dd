"""The way back: a step that a new batch shows to have done great harm is taken back."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from hig_optax._eager import cond
from hig_optax._inputs.columns import Columns
from hig_optax._optimizers.adaptive_step import AdaptiveHigState, Seen
from hig_optax._optimizers.control import FIXED_AFTER
from hig_optax._optimizers.plateau import Plateau
from hig_optax._types import Scalar

# A loss is suspect where it is so many times what it usually is: with 30, one run in six of a controlled
# unstable oscillator still exploded, with 10 of the narrower networks none (ADAPTIVE.md).
FAR = 10.0
# What the way back must gain, as a share of the loss: then the step is to blame, and not the samples.
BLAMED = 0.5


def is_far_above(plateau: Plateau, excess: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether what the loss of a batch may still fall by is far above that of the batches before it."""
    usual = jnp.maximum(plateau.recent, plateau.past)
    x = jnp.log(jnp.where(excess > 0, excess, 1)).astype(usual.dtype)
    return (plateau.num_batches > 0) & (excess > 0) & (x > usual + math.log(FAR))


class Retreat(NamedTuple):
    """What it would be to take the last step back."""

    step: Float[Array, " n"]
    """From where the parameters are to where they were."""
    decrease: Float[Array, ""]
    """By how much the loss of the new batch falls on it; 0 where that was not looked at."""
    is_taken: Bool[Array, ""]

    def plateau(self, before: Plateau, after: Plateau) -> Plateau:
        """What is learnt of the batch: that the last step was taken back, and nothing else, or all."""
        returned = before._replace(num_returns=optax.safe_increment(before.num_returns))
        return jax.tree.map(lambda a, b: jnp.where(self.is_taken, a, b), returned, after)


def retreat(
    seen: Seen,
    state: AdaptiveHigState,
    columns: Columns,
    rate: Scalar,
    chunk_size: int | None,
) -> Retreat:
    """Look whether a new batch, whose loss is far above the last ones', has the last step to thank for it.

    The trial of a step sees the samples that made it. Where a physics is unstable a step that is good for
    them may let others explode: no factor on later steps cures what one step did, and each step on exploded
    samples does more. The forward pass that finds out is made only where the loss is far above.

    Args:
        seen: The new batch.
        state: After the last step; with a plateau.
        columns: The parameters.
        rate: The learning rate. The way back is tried before it is taken: of an exact one it is no matter.
        chunk_size: Samples of a forward pass at once.
    """
    plateau, model, work = state.plateau, seen.model, seen.at.dtype
    assert plateau is not None
    assert seen.previous is not None
    scale = jnp.where(state.repeats >= FIXED_AFTER, 1, plateau.scale)
    step = jnp.asarray(rate, work) * scale.astype(work) * seen.previous
    is_lost = ~jnp.isfinite(model.loss)
    # As a bool: optax.contrib.sam mixes states by arithmetic, which leaves integers of them.
    is_suspect = (seen.repeats < FIXED_AFTER) & state.accepted.astype(bool)
    is_suspect &= is_lost | is_far_above(plateau, model.excess)

    def tried() -> tuple[Array, Array]:
        rows = seen.at.residual.evaluate(columns.moved(step), chunk_size)
        decrease = model.decrease(rows)
        is_better = jnp.where(
            is_lost, jnp.all(jnp.isfinite(rows)), decrease >= BLAMED * model.excess
        )
        return jnp.where(is_lost, 0, decrease), is_better

    decrease, is_better = cond(
        is_suspect, tried, lambda: (jnp.zeros_like(model.loss), jnp.zeros((), bool))
    )
    return Retreat(step, decrease, is_suspect & is_better & jnp.any(step != 0))
