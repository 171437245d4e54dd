"""A step of `adaptive_hig`: what is seen of a batch, what is found; and the state that tells the next."""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._optimizers.control import FIXED_AFTER, count_repeats
from hig_optax._optimizers.model import Model, model_of
from hig_optax._optimizers.plateau import Plateau
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
        >>> opt = hig_optax.adaptive_hig(lambda w, x: w * x)
        >>> opt.init(jnp.ones(2)).damping
        Array(0.01, dtype=float32)
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
    """Loss of the same batch at the last trial; after the step, if that was accepted. A new batch that is far
    worse for the step before it has that taken back in place of a step (`plateau.num_returns` counts): it is
    accepted, and gain ratio, step norm and momentum are zero."""

    step_norm: Float[Array, ""]
    """Euclidean norm of the last trial's step in the optimized parameters."""

    is_cut: Bool[Array, ""]
    """Whether `max_relative_step` shortened the last step."""

    momentum: Tree | None
    """The last step, uphill and before the learning rate, in the tree of the parameters, at least float32,
    with ``optax.MaskedNode`` where one is frozen; None where `momentum` is the number 0 and there is no
    `patience`."""

    trial_scale: Float[Array, ""]
    """Fraction of the full step that is tried first next time; below 1 after rejections."""

    plateau: Plateau | None
    """What new batches say of the last steps, and the factor s on the next (`scale`); None without
    `patience`."""

    repeats: Int[Array, ""]
    """How many steps in a row have found the loss as the one before had left it, int32: from two on the batch
    counts as fixed."""

    spectrum: Spectrum
    """What the last step saw; zeros before the first."""

    def __repr__(self) -> str:
        return named(self)


MADE_BY = {
    "momentum": "momentum, or patience,",
    "plateau": "patience",
    "spectrum.singular_values": "spectrum_size",
    "spectrum.block_shares": "residual_fn, in other blocks,",
}
"""Fields of the state, and the settings that decide what they hold."""


# On a fixed batch all of the momentum is kept where the gain ratio is at least this, and less below. Without
# that a Hamiltonian network on 64 states in float32 took three times as long to 2e-11, where its loss stopped
# falling; now it falls to 1e-12. After 10 s helmholtz was 8 times higher, heat 2.5 times lower (seed 100).
FULL_TRUST = 0.5

# Factor of the plateau from which on large batches whose J is dear are no longer worth it.
NOISY = 0.5


class Seen(NamedTuple):
    """A batch, before the step on it."""

    at: Linearised
    model: Model
    repeats: Int[Array, ""]
    is_fixed: Bool[Array, ""]
    is_large: bool
    is_accelerated: Bool[Array, ""] | None
    """Whether the batch is fixed, or large; None where the settings keep accelerated steps away."""
    previous: Float[Array, " n"] | None
    """The last step, uphill."""
    image: Float[Array, " k"] | None
    """J of this batch times that."""
    has_momentum: bool
    """Whether some of it may be kept as momentum, or its slope alone is looked at."""
    recipe: Recipe
    """What the settings are on this batch."""

    @property
    def is_partial(self) -> bool:
        """Whether a step may be made of some products with J, or of a sketch of its rows."""
        return self.at.solver == "krylov" or self.at.sketch is not None


def see(
    settings: Settings,
    choices: Choices,
    state: AdaptiveHigState,
    columns: Columns,
    batch: Tree,
    devices: Devices | None,
    *,
    may_accelerate: bool,
    has_momentum: bool,
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
        has_momentum: Whether they carry on the last step.
    """
    at = linearise(settings, columns, batch, devices, state.count)
    model = model_of(settings.loss_fn, at)
    expected = jnp.where(state.accepted, state.trial_loss, state.loss)
    repeats = count_repeats(state.repeats, model.loss, model.excess, expected, state.count)
    is_fixed = (repeats >= FIXED_AFTER) & (at.solver != "krylov" or at.held is not None)
    is_large_enough = may_accelerate and is_large(at)
    # Where J is dear, short steps by products average more batches in the same time.
    is_noisy = at.held is not None and state.plateau is not None and state.plateau.scale <= NOISY
    is_steady = is_fixed | (is_large_enough & ~jnp.asarray(is_noisy))
    recipe = choices.on(
        is_steady, is_large=is_large_enough, rows=at.J.shape[0], columns=columns.view.size
    )
    if choices.is_auto("momentum"):
        # What the last step carried on is what the model knew least of.
        trust = jnp.clip(state.gain_ratio / FULL_TRUST, 0, 1)
        recipe = recipe._replace(momentum=recipe.momentum * jnp.where(is_fixed, trust, 1))
    previous = None if state.momentum is None else columns.vector(state.momentum, at.dtype)
    return Seen(
        at,
        model,
        repeats,
        is_fixed,
        is_large_enough,
        is_steady if may_accelerate else None,
        previous,
        None if previous is None else at.J.matvec(previous),
        has_momentum,
        recipe,
    )


def find(
    settings: Settings, seen: Seen, state: AdaptiveHigState, columns: Columns, updates: Tree | None
) -> tuple[Direction, Path]:
    """What is seen of J, finite only if path and loss are, and where the step leads.

    Args:
        settings: What is alike on all batches.
        seen: The batch.
        state: After the last step.
        columns: The parameters.
        updates: The incoming gradient, which is only compared; None if there is none.
    """
    at, recipe, work = seen.at, seen.recipe, seen.at.dtype
    scaling = Scaling(
        relative_damping=at.relative_damping(state.damping),
        curvature=seen.model.curvature.astype(work),
        previous=seen.previous if seen.has_momentum else None,
        image=seen.image if seen.has_momentum else None,
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
