"""SPRING: damped Gauss-Newton steps that carry the previous one on, at fixed settings."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments
from hig_optax._inputs.call import state_dtype, zero_momentum
from hig_optax._inputs.checks import are_finite, check_number, checked_rate
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._optimizers.control import rate_at, share_within
from hig_optax._optimizers.report import blank, report
from hig_optax._optimizers.update import transformation
from hig_optax._shown import named
from hig_optax._solvers.formula import cosine
from hig_optax._solvers.step import counted, direction_from, linearise, usable
from hig_optax._types import (
    AxisName,
    BadSamples,
    JacobianMode,
    ResidualFns,
    Scalar,
    Solver,
    Spectrum,
    Tree,
)


class SpringState(NamedTuple):
    """State of `spring`."""

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count, as Optax's states do
    """Number of updates so far, int32; what a schedule is evaluated at."""

    momentum: Tree
    """The last step, uphill, before learning rate and bound, as a tree like the parameters, at least float32;
    ``optax.MaskedNode`` where one is frozen."""

    spectrum: Spectrum
    """What the last step saw; zeros before the first."""

    def __repr__(self) -> str:
        return named(self)


MADE_BY = {
    "momentum": "the optimizer",
    "spectrum.singular_values": "spectrum_size",
    "spectrum.block_shares": "residual_fn, in other blocks,",
}
"""Fields of the state, and the settings that decide what they hold."""


def spring(
    learning_rate: optax.ScalarOrSchedule,
    residual_fn: ResidualFns,
    *,
    damping: Scalar,
    momentum: Scalar = 0.9,
    max_step_norm: Scalar | None = 0.1,
    batch_axis: Tree = 0,
    mask: Any = None,
    jacobian: JacobianMode = "auto",
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt at a fixed damping that starts each step from a share of the one before.

    With rows y(θ) divided by the square root of the number b of samples, and their J, the step φ minimises

        ‖y - J φ‖² + λ ‖φ - μ φ_previous‖²,    φ = μ φ_previous + Jᵀ (J Jᵀ + λI)⁻¹ (y - μ J φ_previous)

    and the update is -η φ, shortened to `max_step_norm`. Nothing is tried or rejected.

    The settings that are not described here are those of `hig_optax.adaptive_hig`.

    Args:
        learning_rate: η, a number or a schedule; dimensionless.
        residual_fn: ``(params, sample) -> rows``, errors whose sum of squares is minimised, as in
            `hig_optax.adaptive_hig`.
        damping: λ >= 0, absolute, in the unit of σ²/b; may be traced.
        momentum: μ in [0, 1); may be traced.
        max_step_norm: Longest update, in the Euclidean norm of all optimized parameters; may be traced.
            None: no bound.
        mask: As in `hig_optax.hig`: the False leaves are frozen.
        jacobian: As in `hig_optax.scale_by_hig`.
        solver: As in `hig_optax.scale_by_hig`, but "auto" is the exact solver at any size.
        num_matvecs: As in `hig_optax.scale_by_hig`.

    Under ``optax.inject_hyperparams`` the static arguments are those of `hig_optax.STATIC_ARGS` that there
    are here: ``[name for name in STATIC_ARGS if name in inspect.signature(spring).parameters]``.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; ``update(grads, state, params, batch=batch)``, where
        `grads` is used only as a check: `Spectrum.gradient_cosine` compares it with the gradient of the loss
        that is minimised; expect 1. Rows, Jacobian or gradient that are not finite give zero updates, and the
        momentum stays.

    Raises:
        TypeError: As `hig_optax.scale_by_hig`.
        ValueError: As `hig_optax.scale_by_hig`.

    Example:
        >>> import jax
        >>> from hig_optax import baselines
        >>> def residual_fn(w, t):  # a decay, measured at times t
        ...     return w[0] * jnp.exp(-w[1] * t) - 2 * jnp.exp(-0.5 * t)
        >>> def loss_fn(w, t):
        ...     return jnp.mean(jax.vmap(residual_fn, (None, 0))(w, t) ** 2)
        >>> opt = baselines.spring(1.0, residual_fn, damping=1e-4, momentum=0.5, max_step_norm=0.5)
        >>> w, t = jnp.array([1.0, 1.0]), jnp.linspace(0.0, 4.0, 9)
        >>> state = opt.init(w)
        >>> for _ in range(20):
        ...     updates, state = opt.update(jax.grad(loss_fn)(w, t), state, w, batch=t)
        ...     w = optax.apply_updates(w, updates)
        >>> [round(float(x), 3) for x in w]
        [2.0, 0.5]

    References:
        Goldshlager, Abrahamsen and Lin, J. Comput. Phys. 516 (2024) 113351: the method, for energies of
        wave functions.
    """
    settings = Settings(
        residual_fn=residual_fn,
        exponent=-1.0,
        rtol=0.0,
        damping=damping,
        batch_axis=batch_axis,
        mask=mask,
        jacobian=jacobian,
        solver=solver,
        num_matvecs=num_matvecs,
        spectrum_size=spectrum_size,
        axis_name=axis_name,
        bad_samples=bad_samples,
    )
    check_number("momentum", momentum, "in [0, 1)", lambda x: 0 <= x < 1)
    if max_step_norm is not None:
        check_number(
            "max_step_norm", max_step_norm, "finite and positive", lambda x: 0 < x < math.inf
        )
    rate_or_schedule = checked_rate(learning_rate)

    def init_fn(params: Tree) -> SpringState:
        dtype = state_dtype(settings, params)
        return SpringState(
            count=jnp.zeros((), jnp.int32),
            momentum=zero_momentum(settings, params),
            spectrum=blank(spectrum_size, dtype, settings.blocks),
        )

    def numbers_of(state: SpringState) -> dict[str, Any]:
        return {
            "damping": damping,
            "momentum": momentum,
            "max_step_norm": max_step_norm,
            "rate": rate_at(rate_or_schedule, state.count),
        }

    def take_step(
        devices: Devices | None, given: Arguments, columns: Columns
    ) -> tuple[Tree, SpringState]:
        numbers, updates, state, _, _, batch = given
        damping, momentum = numbers["damping"], numbers["momentum"]
        max_step_norm = numbers["max_step_norm"]
        at = linearise(settings, columns, batch, devices)
        samples = jnp.asarray(at.residual.num_averaged, at.dtype)
        gradient, y = usable(columns.gradient(updates, at.dtype), at), at.y.astype(at.dtype)
        carried = jnp.asarray(momentum, at.dtype) * columns.vector(state.momentum, at.dtype)
        # Rows and J undivided: λ is multiplied by b instead.
        found = direction_from(
            dataclasses.replace(settings, damping=samples * jnp.asarray(damping, at.dtype)),
            at,
            gradient,
            y - at.J.matvec(carried),
        )
        # It was compared with Jᵀ of the rows less what is carried on, whose sign says nothing of the loss.
        found = found._replace(gradient_cosine=cosine(gradient, at.J.rmatvec(y)))
        found = counted(found, gradient, at)
        is_finite = found.is_finite & jnp.all(jnp.isfinite(found.direction)) & are_finite(numbers)
        step = jnp.where(is_finite, found.direction + carried, 0)
        size = jnp.asarray(numbers["rate"], at.dtype)
        if max_step_norm is not None:
            norm = jnp.abs(size) * jnp.linalg.norm(step)
            size *= share_within(norm, jnp.asarray(max_step_norm, at.dtype))[0]
        new, is_finite = columns.replace(columns.zeros(updates), -size * step, is_finite)
        dtype = columns.view.highest_dtype
        return new, SpringState(
            count=optax.safe_increment(state.count),
            momentum=columns.renewed(state.momentum, step, is_finite),
            spectrum=report(found, is_finite, spectrum_size, dtype),
        )

    return transformation(settings, init_fn, numbers_of, take_step, MADE_BY)
