"""Half-inverse gradients that choose their own step: scaled, tried, and damped by how well steps do."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from hig_optax._columns import Columns
from hig_optax._direction import Direction, Scaling
from hig_optax._report import blank, report
from hig_optax._settings import NOT_PASSED, Settings, check_number
from hig_optax._step import (
    Linearised,
    direction_from,
    linearise,
    loss_of_rows,
    optimized_columns,
)
from hig_optax._types import JacobianMode, LossFn, ResidualFn, Scalar, Solver, Spectrum, Tree

# Marquardt's control: a step that did what the model promised lowers the damping, one that did not raises it.
GOOD_GAIN, POOR_GAIN, FACTOR = 0.75, 0.25, 3.0
MIN_DAMPING, MAX_DAMPING = 1e-10, 1e6

# A step that fails is tried again at a quarter of its length, along the same direction, so that nothing is
# decomposed anew. Four trials reach 1/64 of it.
TRIALS, SHORTER = 4, 0.25

# A predicted decrease below so many ε·loss is lost in the rounding of the loss: it says nothing about λ.
STATIONARY_IN_EPS = 4


class AdaptiveHigState(NamedTuple):
    """State of `adaptive_hig`. Real numbers have the real dtype of the parameters, at least float32."""

    num_updates: Int[Array, ""]
    """Number of updates so far, int32; what a schedule is evaluated at."""

    damping: Float[Array, ""]
    """Damping of the next step, relative to the mean of σ²."""

    gain_ratio: Float[Array, ""]
    """Actual over predicted decrease of the batch loss, of the last trial of the last step."""

    accepted: Bool[Array, ""]
    """Whether the last step was taken. False: its updates were zero."""

    loss: Float[Array, ""]
    """Loss of the last batch before the step: ½Σrows², averaged over the samples, or `loss_fn`."""

    trial_loss: Float[Array, ""]
    """Loss of the same batch at the last trial; after the step, if that was accepted."""

    step_norm: Float[Array, ""]
    """Euclidean norm of the last trial's step in the optimized parameters."""

    previous: Float[Array, " n"] | None
    """The last step, uphill, for the momentum; None where `momentum` is the number 0."""

    spectrum: Spectrum
    """What the last step saw; zeros before the first."""


def adaptive_hig(
    residual_fn: ResidualFn,
    *,
    loss_fn: LossFn | None = None,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    exponent: Scalar = -0.75,
    init_relative_damping: Scalar = 1e-2,
    momentum: Scalar = 0.95,
    max_step_norm: Scalar | None = 0.1,
    rtol: Scalar = 0.0,
    atol: Scalar = 0.0,
    max_rank: int | None = None,
    batch_axis: Tree = 0,
    mask: Any = None,
    jacobian: JacobianMode = "auto",
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    chunk_size: int | None = None,
    spectrum_size: int = 64,
) -> optax.GradientTransformationExtraArgs:
    r"""Half-inverse gradients without a learning rate to tune: damped, scaled, tried before taken.

    With rows y(θ), J = ∂y/∂θ = U Σ Vᵀ and the loss ½‖y‖² (any multiple of it gives the same steps), a step is

        -(t V f(Σ) Uᵀ y + p),    f(σ) = σ (σ² + λ)^((κ-1)/2),    p = μ V⊥ V⊥ᵀ previous step,

    where t minimises the linearised loss ½‖y - J·step‖², and p carries on what the last step did outside of
    what this batch's rows decide: V⊥ V⊥ᵀ stands for 1 - V Σ²(Σ²+λ)⁻¹ Vᵀ. For κ = -1 and t = 1 that is SPRING,
    without momentum Levenberg-Marquardt. A step longer than `max_step_norm` is shortened to it.

    Then the step is tried: one forward pass of the batch. If the loss does not fall or is not finite, the
    same direction is tried at 1/4, 1/16 and 1/64 of the length; the Jacobian is not decomposed again. If
    none serves, the updates are zero, the momentum is forgotten and the damping raised. λ is a multiple of
    the mean of σ²: divided by 3 where the loss fell by more than 3/4 of what the model had promised,
    multiplied by 3 where it fell by less than 1/4, and for every trial that failed. It stays where the step
    was cut to `max_step_norm`, where the promise is below the rounding of the loss, and in
    [1e-10, 1e6].

    On mini-batches the trial is no safeguard against drift: every step can lower the loss of its own batch
    and still raise that of all others, most of all with κ = -1 and neither momentum nor a bound on the step.
    On a fixed batch, and on batches with more rows than there are parameters, set both off by
    ``momentum=0.0, max_step_norm=None``: there they only slow it down, and by much (see ADAPTIVE.md among the
    notebooks). The bound is absolute: a larger network may want a larger one.

    Args:
        residual_fn: ``(params, sample) -> rows``, as in `scale_by_hig`. Without `loss_fn` the rows must be
            errors, y - target: their sum of squares is what is minimised.
        loss_fn: ``(rows, batch) -> scalar``, as in `scale_by_hig`, for a loss that is no sum of squares. The
            model is then h/2·‖g/h - J·step‖² with g = ∂loss/∂rows and h the curvature along g: exact for any
            multiple of a sum of squares, else as if the loss were equally curved in all rows. Where h is
            not positive, the step is as long as the tangent of the loss takes to reach 0, so that such a loss
            should be bounded by 0.
        learning_rate: Factor on the step, a number or a schedule (of `AdaptiveHigState.num_updates`),
            dimensionless: 1 is the step of the model, whatever the scale of the loss.
        exponent: κ; may be traced.
        init_relative_damping: λ > 0 of the first step over the mean of σ²; may be traced (read by ``init``).
        momentum: μ in [0, 1); may be traced.
        max_step_norm: Longest step, in the Euclidean norm of all optimized parameters, after the learning
            rate; may be traced. None: no bound.
        rtol: As in `scale_by_hig`. The damping takes its place, so that 0 (the noise floor alone) is enough.
        atol: As in `scale_by_hig`.
        max_rank: As in `scale_by_hig`.
        batch_axis: As in `scale_by_hig`.
        mask: As in `hig`: the False leaves are frozen.
        jacobian: As in `scale_by_hig`.
        solver: As in `scale_by_hig`.
        num_matvecs: As in `scale_by_hig`.
        chunk_size: As in `scale_by_hig`.
        spectrum_size: As in `scale_by_hig`.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` whose updates are final: add them to the parameters.
        ``update(grads, state, params, batch=batch)``; `grads` is only compared with Jᵀ g. Where they do not
        agree (`Spectrum.agreement` not positive: a loss of another sign, say), and where rows, Jacobian or
        gradient are not finite, the updates are zero and the damping stays.

    Raises:
        TypeError: As `scale_by_hig`.
        ValueError: As `scale_by_hig`.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp, optax
        >>> def residual_fn(w, sample):  # Rosenbrock's valley
        ...     return jnp.stack([10 * (w[1] - w[0] ** 2), 1 - w[0]]) * sample
        >>> def loss_fn(w, batch):
        ...     return jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2)
        >>> opt = hig_optax.adaptive_hig(residual_fn, momentum=0.0, max_step_norm=None)
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
    """
    settings = Settings(
        residual_fn=residual_fn,
        loss_fn=loss_fn,
        exponent=exponent,
        rtol=rtol,
        atol=atol,
        max_rank=max_rank,
        damping=0.0,
        batch_axis=batch_axis,
        mask=mask,
        jacobian=jacobian,
        solver=solver,
        num_matvecs=num_matvecs,
        chunk_size=chunk_size,
        spectrum_size=spectrum_size,
    )
    if solver == "krylov":
        raise ValueError(
            'adaptive_hig scales its steps by the whole spectrum, got solver="krylov", which sees a part of '
            'it. Use "auto", "gram" or "svd", or scale_by_hig with solver="krylov".'
        )
    positive = ("finite and positive", lambda x: 0 < x < math.inf)
    check_number("init_relative_damping", init_relative_damping, *positive)
    check_number("momentum", momentum, "in [0, 1)", lambda x: 0 <= x < 1)
    if max_step_norm is not None:
        check_number("max_step_norm", max_step_norm, *positive)
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, "a finite number", math.isfinite)
    has_momentum = not (isinstance(momentum, (int, float)) and momentum == 0)

    def init_fn(params: Tree) -> AdaptiveHigState:
        view = Columns.of(params, mask).view
        dtype = view.highest_dtype
        # One buffer per field, so that the state can be donated.
        return AdaptiveHigState(
            num_updates=jnp.zeros((), jnp.int32),
            damping=jnp.array(init_relative_damping, dtype),
            gain_ratio=jnp.zeros((), dtype),
            accepted=jnp.ones((), bool),
            loss=jnp.zeros((), dtype),
            trial_loss=jnp.zeros((), dtype),
            step_norm=jnp.zeros((), dtype),
            previous=jnp.zeros((view.size,), dtype) if has_momentum else None,
            spectrum=blank(spectrum_size, dtype),
        )

    def update_fn(
        updates: Tree,
        state: AdaptiveHigState,
        params: Tree | None = None,
        *,
        batch: Tree = NOT_PASSED,
        all_params: Tree | None = None,
        **extra_args: Any,
    ) -> tuple[Tree, AdaptiveHigState]:
        del extra_args
        columns = optimized_columns(settings, params, batch, all_params)
        at = linearise(settings, columns, batch)
        model, work = _model(loss_fn, at, batch), at.dtype
        scaling = Scaling(
            relative_damping=state.damping.astype(work),
            curvature=model.curvature.astype(work),
            loss=model.loss.astype(work),
            previous=None if state.previous is None else state.previous.astype(work),
            momentum=jnp.asarray(momentum, work),
        )
        gradient = columns.gradient(updates, work)
        found = direction_from(settings, at, gradient, model.cotangent.astype(work), scaling)
        assert found.agreement is not None
        # An overflow of the step is left to us.
        is_finite = found.is_finite & jnp.all(jnp.isfinite(found.direction))
        is_finite &= jnp.isfinite(model.loss)
        is_usable = is_finite & (found.agreement > 0)
        step = jnp.where(is_usable, found.direction, 0)

        rate = learning_rate(state.num_updates) if callable(learning_rate) else learning_rate
        size, norm = jnp.asarray(rate, work), jnp.linalg.norm(step)
        is_cut = jnp.zeros((), bool)
        if max_step_norm is not None:
            bound = jnp.asarray(max_step_norm, work)
            is_cut = jnp.abs(size) * norm > bound
            size = jnp.where(is_cut, jnp.sign(size) * bound / jnp.where(is_cut, norm, 1), size)

        trial = _try(
            lambda size: model.decrease(
                at.evaluate(columns.moved(-size * step), settings.chunk_size)
            ),
            size,
            is_usable,
        )
        damping, gain = _control(state.damping, trial, found, model.loss, is_cut, is_usable)
        taken = jnp.where(trial.accepted, trial.size, 0) * step
        new, is_finite = columns.replace(columns.zeros(updates), -taken, is_finite)
        dtype = columns.view.highest_dtype
        return new, AdaptiveHigState(
            num_updates=optax.safe_increment(state.num_updates),
            damping=damping.astype(dtype),
            gain_ratio=gain.astype(dtype),
            accepted=trial.accepted,
            loss=model.loss.astype(dtype),
            trial_loss=(model.loss - trial.decrease).astype(dtype),
            step_norm=(jnp.abs(trial.size) * norm).astype(dtype),
            previous=None if state.previous is None else taken.astype(dtype),
            spectrum=report(found, is_finite, spectrum_size, dtype),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


class _Model(NamedTuple):
    """The loss of a batch as a function of its rows, to second order at the rows y."""

    loss: Float[Array, ""]
    cotangent: Float[Array, " m"]
    curvature: Float[Array, ""]
    """Second derivative along the cotangent."""
    decrease: Callable[[Float[Array, " m"]], Float[Array, ""]]
    """``new rows -> loss(y) - loss(new rows)``, not finite where the new rows are not."""


def _model(loss_fn: LossFn | None, at: Linearised, batch: Tree) -> _Model:
    y = at.y
    if loss_fn is not None:
        loss_at = loss_of_rows(loss_fn, at, batch)
        loss, g = jax.value_and_grad(loss_at)(y)
        norm = jnp.linalg.norm(g)
        unit = g / jnp.where(norm > 0, norm, 1)
        # Reverse over reverse: a loss may hold a function without forward rule.
        curved = jax.grad(lambda y: jnp.vdot(jax.grad(loss_at)(y), unit, precision="highest"))(y)
        curvature = jnp.vdot(unit, curved, precision="highest")
        return _Model(loss, g, curvature, lambda new: loss - loss_at(new))

    scale = 1 / (at.samples.size or 1)

    def decrease(new: Array) -> Array:
        # Not as a difference of two sums, which would carry the rounding of the sums.
        return scale / 2 * jnp.sum((y - new) * (y + new))

    loss = scale / 2 * jnp.sum(jnp.square(y))
    return _Model(loss, scale * y, jnp.full((), scale, y.dtype), decrease)


class _Trial(NamedTuple):
    number: Int[Array, ""]
    """How many lengths were tried."""
    size: Float[Array, ""]
    """The last of them, as a factor on the step."""
    decrease: Float[Array, ""]
    """By how much the loss fell there."""
    accepted: Bool[Array, ""]


def _try(
    decrease_at: Callable[[Array], Array], size: Float[Array, ""], is_usable: Bool[Array, ""]
) -> _Trial:
    """Shorten the step until the loss falls."""

    def body(last: _Trial) -> _Trial:
        size = jnp.where(last.number > 0, SHORTER * last.size, last.size)
        decrease = decrease_at(size)
        accepted = jnp.isfinite(decrease) & (decrease > 0)
        return _Trial(last.number + 1, size, decrease, accepted)

    shape = jax.eval_shape(decrease_at, size)
    start = _Trial(jnp.int32(0), size, jnp.zeros(shape.shape, shape.dtype), jnp.zeros((), bool))
    return jax.lax.while_loop(
        lambda last: is_usable & ~last.accepted & (last.number < TRIALS), body, start
    )


def _control(
    damping: Array,
    trial: _Trial,
    found: Direction,
    loss: Array,
    is_cut: Bool[Array, ""],
    is_usable: Bool[Array, ""],
) -> tuple[Array, Array]:
    """The damping of the next step, and the gain ratio of this one."""
    assert found.slope is not None
    assert found.curvature is not None
    predicted = trial.size * found.slope - jnp.square(trial.size) / 2 * found.curvature
    predicted = predicted.astype(trial.decrease.dtype)
    gain = trial.decrease / jnp.where(predicted > 0, predicted, 1)
    failed = trial.number - trial.accepted.astype(jnp.int32)
    raised = jnp.power(FACTOR, failed.astype(damping.dtype))
    raised = jnp.where((failed == 0) & (gain < POOR_GAIN), FACTOR, raised)
    factor = jnp.where((failed == 0) & (gain > GOOD_GAIN) & ~is_cut, 1 / FACTOR, raised)
    is_stationary = predicted <= STATIONARY_IN_EPS * jnp.finfo(loss.dtype).eps * jnp.abs(loss)
    factor = jnp.where(is_usable & ~is_stationary, factor, 1).astype(damping.dtype)
    return jnp.clip(damping * factor, MIN_DAMPING, MAX_DAMPING), jnp.where(is_usable, gain, 0)
