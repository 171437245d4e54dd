"""Half-inverse gradients that choose their own step: scaled, tried, and damped by how well steps do."""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp
import optax

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments
from hig_optax._inputs.call import state_dtype, zero_momentum
from hig_optax._inputs.checks import are_finite, check_number, checked_rate, is_zero
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._moved import without_old_settings
from hig_optax._optimizers.adaptive_step import MADE_BY, AdaptiveHigState, find, leads_down, see
from hig_optax._optimizers.control import FIRST_DAMPING, next_damping, rate_at
from hig_optax._optimizers.plateau import Plateau
from hig_optax._optimizers.reach import reach, try_along
from hig_optax._optimizers.recipe import OPEN, Auto, Choices
from hig_optax._optimizers.report import blank, report
from hig_optax._optimizers.retreat import retreat
from hig_optax._optimizers.update import transformation
from hig_optax._planning.planning import settled
from hig_optax._types import (
    AxisName,
    BadSamples,
    LossFn,
    ResidualFns,
    Scalar,
    Solver,
    Tree,
)


@without_old_settings
def adaptive_hig(
    residual_fn: ResidualFns,
    *,
    loss_fn: LossFn | None = None,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    exponent: Scalar | Auto = "auto",
    momentum: Scalar | Auto = "auto",
    max_relative_step: Scalar | Auto | None = "auto",
    patience: Scalar | None = 20.0,
    batch_axis: Tree = 0,
    mask: Any = None,
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    rows_per_sample: int | Auto | None = "auto",
    chunk_size: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    r"""Half-inverse gradients without a learning rate to tune: damped, scaled, tried before taken.

    With rows y(θ), J = ∂y/∂θ = U Σ Vᵀ and the loss ½‖y‖² (any multiple of it gives the same steps), a step is

        -η s (t V f(Σ) Uᵀ y + p),    f(σ) = σ (σ² + λ)^((κ-1)/2),    p = μ V⊥ V⊥ᵀ previous step,

    where t minimises the linearised loss ½‖y - J·step‖², and p keeps the part of the previous step, before η
    and s, that this batch does not determine: V⊥ V⊥ᵀ stands for 1 - V Σ²(Σ²+λ)⁻¹ Vᵀ. For κ = -1 and t = 1
    that is SPRING, without momentum Levenberg-Marquardt. Steps are bounded by a share of ‖θ‖.

    Then the step is tried: one forward pass of the batch. If the loss does not fall or is not finite, the
    same direction is tried at 1/4, 1/16 and 1/64 of the length; the Jacobian is not decomposed again. If
    none lowers the loss, the updates are zero, the momentum is set to zero, and the damping is raised. The
    next step starts shorter; each success allows four times more, up to all of it. λ is a multiple of
    the mean of σ²: divided by 3 where the loss fell by more than 3/4 of what the model had promised,
    multiplied by 3 where it fell by less than 1/4, and for every trial that failed. It stays where the step
    was cut to its bound, where the promise is below the rounding of the loss, and in [least damping, 1e6].

    On mini-batches the trial is no safeguard: every step can lower the loss of its own batch and still raise
    that of all others. A new batch, before the step on it, tells of those others: by its loss, and by the
    slope of its loss along the last step, which was not fitted to it. Where the slope says that the last step
    was too long, s shrinks, by up to one e-fold in `patience` batches; where it was too short, s grows, to
    at most 1. The slope is taken as a share of what the loss may still fall by (of the loss, for a sum of
    squares). Where the loss falls as t⁻ᵖ in t batches, s shrinks less: 0.7 p, less what chance alone would
    show, is added to the slope, or p - 1 where steps are made of products with J or of a sketch of its rows.
    And for p < 1 s falls as t^((p-1)/2) by itself. The least damping rises to 1 from s = 0.3 to s = 0.01,
    geometrically in s, and below s = 0.2 the bound shrinks with s. All of it averages the noise that single
    batches leave in the parameters: a schedule that needs no horizon.

    The settings "auto" are known once a batch of m rows has been seen beside n parameters, while tracing:

        m < n    exponent -3/4, momentum 0.95, max_relative_step 0.02
        m >= n   exponent -1/2, momentum 0, no bound
        steady   exponent -1, momentum 0.9; large: max_relative_step 0.1; fixed: no bound

    and so is the least damping, 1e-8, 1e-10 and 1e-16 in the same order.

    A batch is large with 256 samples and min(m, n) >= 256, and fixed where two steps in a row have found the
    loss that the one before had left, until one does not; s is 1 then. On either a step also follows the
    curve of the rows to second order (geodesic acceleration, one more forward pass), nothing is cut off (the
    damping alone keeps noise small), and λ is halved after every step that was taken and multiplied by 4 for
    every trial that failed. On a large one, and on a fixed one where both sides of J are longer than 128, the
    step comes from a Cholesky factor, without singular values: `Spectrum.rank` is -1. A number given for one
    of these settings holds everywhere; one for `exponent` keeps the acceleration and this rule of λ away, and
    brings the spectrum back. ``"krylov"`` has none of it.

    ``solver="auto"`` counts operations here. Where a step by J takes five times more of them than one by 20
    products with J, it is ``"krylov"``, and J is decomposed only on a batch that is fixed, or large while s
    is above 1/2. A residual that takes the whole batch is treated as if its batch were fixed. Else it is
    ``"gram"``, for a float64 J as well: the damping is above the noise of a Gram matrix.

    The settings that are not described here are those of `scale_by_hig`.

    Args:
        residual_fn: ``(params, sample) -> rows``, as in `scale_by_hig`. Without `loss_fn` the rows must be
            errors, y - target: their sum of squares is what is minimised, that of all blocks if there are.
        loss_fn: ``(rows, batch) -> scalar``, as in `scale_by_hig`, for a loss that is no sum of squares. The
            model is then h/2·‖g/h - J·step‖² with g = ∂loss/∂rows and h the curvature along g: exact for any
            multiple of a sum of squares, else as if the loss were equally curved in all rows. A loss that is
            linear along g, such as a root mean square or a relative L², is modelled by its square; one that
            is not positive and not curved upwards, such as the logarithm of a sum of squares, as if it were
            that of its rows. For losses far from these, a mean of absolute values say, the model promises too
            much, the damping ends at its maximum, and the steps are those of gradient descent.
        learning_rate: η, a number or a schedule (of `AdaptiveHigState.count`), dimensionless: 1 is the
            step of the model, whatever the scale of the loss. Below 1 the steps of several batches average.
        exponent: κ; may be traced.
        momentum: μ in [0, 1); may be traced.
        max_relative_step: Longest step, after the learning rate, as a share of the Euclidean norm of all
            optimized parameters; that norm counts as 1 where it is less, so that parameters can start from
            zero. May be traced. None: no bound.
        patience: Number of batches, at least 1, in which s may shrink or grow by one e-fold; a quarter of
            it on large batches, which tell more. May be traced. None: s = 1, and no step that did other
            samples great harm is taken back (`plateau.num_returns` of the state).
        mask: As in `hig`: the False leaves are frozen.
        solver: As in `scale_by_hig`; nothing is cut off but what is noise. With ``"krylov"`` the mean of σ²
            is that of the Ritz values, and the previous step is kept whole, p = μ·previous step, beside
            the direction of y - J p. For κ = -1 and all of the row space both ways are one.
        rows_per_sample: How many rows of each sample J keeps: the cotangent and random combinations of what
            its rows can do, drawn anew in every step, where the gradient stays exact, and so do loss and
            trial. The rows of one trajectory say much the same, and J of all of them is dear. "auto": some
            128 for the whole batch, and 8 for each sample at least, where that is at most half of a sample's
            rows and a quarter of the shorter side of J; where even these cost more operations than 20
            products, `solver` is ``"krylov"``. None: all rows. Residuals that take the whole batch
            keep all. A number under ``optax.inject_hyperparams`` is one more static argument:
            ``static_args=(*STATIC_ARGS, "rows_per_sample")``.
        bad_samples: As in `scale_by_hig`, but ``"drop"`` needs no `loss_fn`: bad samples are left out of the
            step, of the trial and of the mean.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose updates are final: add them to the parameters.
        ``update(grads, state, params, batch=batch)``; `grads` is only compared with Jᵀ g, and may be None, as
        for physics that reverse mode cannot pass: the step is the same, and nothing is compared. Where both
        point apart (`Spectrum.gradient_cosine` not positive: a loss of another sign, say), and where rows,
        Jacobian or gradient are not finite, the updates are zero and the damping stays.

    Raises:
        TypeError: As `scale_by_hig`.
        ValueError: As `scale_by_hig`.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp, optax
        >>> def residual_fn(w, sample):  # Rosenbrock's valley
        ...     return jnp.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]]) * sample
        >>> def loss_fn(w, batch):
        ...     return jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2)
        >>> opt = hig_optax.adaptive_hig(residual_fn)
        >>> w, batch = jnp.array([-1.2, 1.0]), jnp.ones(1)
        >>> state = opt.init(w)
        >>> for _ in range(30):
        ...     updates, state = opt.update(jax.grad(loss_fn)(w, batch), state, w, batch=batch)
        ...     w = optax.apply_updates(w, updates)
        >>> bool(jnp.all(jnp.abs(w - 1) < 1e-3))
        True

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022: the
        direction. Marquardt, SIAM J. Appl. Math. 11 (1963) 431: damping by success. Goldshlager, Abrahamsen
        and Lin, J. Comput. Phys. 516 (2024) 113351: SPRING, the projected momentum and its bounded step.
        Chee and Toulis, Convergence diagnostics for stochastic gradient descent with constant step size
        (2019): what successive gradients say of the length of steps. Transtrum and Sethna, arXiv:1201.5885
        (2012): geodesic acceleration.
    """
    choices = Choices(exponent, momentum, max_relative_step)
    choices.check()
    settings = Settings(
        residual_fn=residual_fn,
        loss_fn=loss_fn,
        exponent=OPEN.exponent if isinstance(exponent, str) else exponent,
        rtol=0.0,
        batch_axis=batch_axis,
        mask=mask,
        solver=solver,
        num_matvecs=num_matvecs,
        rows_per_sample=rows_per_sample,
        chunk_size=chunk_size,
        spectrum_size=spectrum_size,
        axis_name=axis_name,
        bad_samples=bad_samples,
        is_damped=True,
    )
    if patience is not None:
        check_number("patience", patience, "finite and at least 1", lambda x: 1 <= x < math.inf)
    rate_or_schedule = checked_rate(learning_rate)
    may_accelerate = choices.is_auto("exponent")
    has_momentum = not is_zero(momentum)
    keeps_last = has_momentum or patience is not None

    def init_fn(params: Tree) -> AdaptiveHigState:
        dtype = state_dtype(settings, params)
        # One buffer per field, so that the state can be donated.
        return AdaptiveHigState(
            count=jnp.zeros((), jnp.int32),
            damping=jnp.array(FIRST_DAMPING, dtype),
            gain_ratio=jnp.zeros((), dtype),
            accepted=jnp.ones((), bool),
            loss=jnp.zeros((), dtype),
            trial_loss=jnp.zeros((), dtype),
            step_norm=jnp.zeros((), dtype),
            is_cut=jnp.zeros((), bool),
            momentum=zero_momentum(settings, params) if keeps_last else None,
            trial_scale=jnp.ones((), dtype),
            plateau=None if patience is None else Plateau.start(dtype),
            repeats=jnp.zeros((), jnp.int32),
            spectrum=blank(spectrum_size, dtype, settings.blocks),
        )

    def numbers_of(state: AdaptiveHigState) -> dict[str, Any]:
        rate = rate_at(rate_or_schedule, state.count)
        return {
            "settings": settings.numbers,
            "choices": choices,
            "rate": rate,
            "patience": patience,
        }

    def take_step(
        devices: Devices | None, given: Arguments, columns: Columns
    ) -> tuple[Tree, AdaptiveHigState]:
        numbers, updates, state, _, _, batch = given
        choices, rate = numbers["choices"], numbers["rate"]
        sized = settled(dataclasses.replace(settings, **numbers["settings"]), given, devices)
        allowed = {"may_accelerate": may_accelerate, "has_momentum": has_momentum}
        seen = see(sized, choices, state, columns, batch, devices, **allowed)
        found, path = find(sized, seen, state, columns, updates)
        found = found._replace(is_finite=found.is_finite & are_finite(numbers))
        back = None
        if state.plateau is not None:
            back = retreat(seen, state, columns, rate, sized.chunk_size)
        is_back = jnp.zeros((), bool) if back is None else back.is_taken
        is_usable = leads_down(found) & ~is_back
        path = path.where(is_usable)
        reached = reach(seen, choices, state, columns, path.step, rate, numbers["patience"])
        first = state.trial_scale.astype(path.step.dtype)
        trial, scale = try_along(seen, columns, path, reached, first, is_usable, sized.chunk_size)
        tried = reached.share * trial.scale
        damping, gain = next_damping(
            state.damping,
            trial,
            path.promised(reached.rate * tried),
            seen.model.loss,
            reached.least_damping,
            reached.is_cut,
            is_usable,
            seen.is_accelerated,
        )
        share = jnp.where(trial.accepted, tried, 0)
        factor, momentum = reached.rate * share, state.momentum
        # A step that is taken back takes the place of the one that was looked for.
        move, plateau, decrease = path.at(factor), reached.plateau, trial.decrease
        if back is not None:
            move = jnp.where(is_back, back.step, move)
            decrease = jnp.where(is_back, back.decrease.astype(decrease.dtype), decrease)
            assert state.plateau is not None
            assert plateau is not None
            plateau = back.plateau(state.plateau, plateau)
        new, is_finite = columns.replace(columns.zeros(updates), move, found.is_finite | is_back)
        if momentum is not None:
            momentum = columns.renewed(momentum, share * path.mean(factor), is_usable | is_back)
        dtype = columns.view.highest_dtype
        return new, AdaptiveHigState(
            count=optax.safe_increment(state.count),
            damping=damping.astype(dtype),
            gain_ratio=gain.astype(dtype),
            accepted=trial.accepted | is_back,
            loss=seen.model.loss.astype(dtype),
            trial_loss=(seen.model.loss - decrease).astype(dtype),
            step_norm=(tried * reached.norm).astype(dtype),
            is_cut=reached.is_cut,
            momentum=momentum,
            trial_scale=scale.astype(dtype),
            plateau=plateau,
            repeats=seen.repeats,
            spectrum=report(found, is_finite, spectrum_size, dtype),
        )

    return transformation(settings, init_fn, numbers_of, take_step, MADE_BY)
