"""What half-inverse gradients are compared with, where Optax has no such thing.

`gauss_newton` and `levenberg_marquardt` are `hig_optax.hig` at κ = -1, and `adaptive_levenberg_marquardt` is
`hig_optax.adaptive_hig` there; `spring` adds momentum to damped steps.
"""

from typing import Any

import optax

from hig_optax._moved import refuse_moved, without_old_settings
from hig_optax._optimizers.adaptive import adaptive_hig
from hig_optax._optimizers.hig import hig
from hig_optax._optimizers.spring import spring as spring
from hig_optax._types import (
    AxisName,
    BadSamples,
    Count,
    JacobianMode,
    LossFn,
    ResidualFns,
    Scalar,
    Solver,
    Tree,
)

# Not by name: type checkers that see a module's __getattr__ let every misspelt name pass.
globals()["__getattr__"] = refuse_moved(__name__)


def gauss_newton(
    learning_rate: optax.ScalarOrSchedule,
    residual_fn: ResidualFns,
    *,
    loss_fn: LossFn | None = None,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    max_rank: Count | None = None,
    batch_axis: Tree = 0,
    mask: Any = None,
    jacobian: JacobianMode = "auto",
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    chunk_size: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    """Gauss-Newton by a truncated pseudo-inverse: `hig_optax.hig` with exponent κ = -1.

    With the rows y(θ) of all samples, J = ∂y/∂θ = U Σ Vᵀ and g = ∂L/∂y, the update is

        -η pinv(J) g = -η V Σ⁻¹ Uᵀ g      over σ > max(rtol·σ₁, atol).

    For L = ½‖y - t‖² and η = 1 it solves the linearised least-squares problem. The direction is linear in
    g, so the full step belongs to another η where the loss is scaled otherwise: without the ½ the step is
    twice as long (η = ½ is the full step), and with a mean over b samples it is 1/b of it (η = b; η = b/2
    for the mean of Σ(y - t)²).

    The settings that are not described here are those of `hig_optax.scale_by_hig`.

    Args:
        learning_rate: η, a number or a schedule; dimensionless.
        rtol: As in `hig_optax.scale_by_hig`. It decides more here than for the half-inverse: the smallest
            kept σ lengthens its direction by 1/σ.
        mask: As in `hig_optax.hig`: the False leaves are frozen.

    Returns:
        An ``optax.GradientTransformationExtraArgs``, as from `hig_optax.hig`.

    Raises:
        TypeError: As `hig_optax.scale_by_hig`.
        ValueError: As `hig_optax.scale_by_hig`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from hig_optax import baselines
        >>> def residual_fn(w, sample):
        ...     return jnp.array([1.0, 2.0**-10]) * w - sample
        >>> def loss_fn(w, batch):
        ...     return jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2) / 2
        >>> opt = baselines.gauss_newton(1.0, residual_fn)
        >>> w, batch = jnp.zeros(2), jnp.array([[3.0, 2.0**-10]])
        >>> updates, _ = opt.update(jax.grad(loss_fn)(w, batch), opt.init(w), w, batch=batch)
        >>> updates  # the solution, in one step
        Array([3., 1.], dtype=float32)

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022, compares
        with it.
    """
    return hig(exponent=-1.0, **locals())


def levenberg_marquardt(
    learning_rate: optax.ScalarOrSchedule,
    residual_fn: ResidualFns,
    *,
    damping: Scalar,
    loss_fn: LossFn | None = None,
    rtol: Scalar = 0.0,
    atol: Scalar = 0.0,
    max_rank: Count | None = None,
    batch_axis: Tree = 0,
    mask: Any = None,
    jacobian: JacobianMode = "auto",
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    chunk_size: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt at a fixed damping: `hig_optax.hig` with exponent κ = -1 and damping λ.

    With the rows y(θ) of all samples, J = ∂y/∂θ = U Σ Vᵀ and g = ∂L/∂y, the update is

        -η (JᵀJ + λI)⁻¹ Jᵀ g = -η V σ/(σ² + λ) Uᵀ g.

    Directions with σ² well above λ move as in Gauss-Newton, those below as in gradient descent at rate η/λ.
    λ is what it is given as from the first step to the last; nothing is accepted or rejected. The remarks
    of `gauss_newton` on the scale of the loss hold: without the ½ of ½‖y - t‖² the step is twice as long.

    The settings that are not described here are those of `hig_optax.scale_by_hig`.

    Args:
        learning_rate: η, a number or a schedule; dimensionless.
        damping: λ >= 0, absolute, in the unit of σ²; may be traced.
        rtol: As in `hig_optax.scale_by_hig`, but 0 by default: damping makes a cut needless. Singular
            values that are rounding noise are dropped all the same.
        mask: As in `hig_optax.hig`: the False leaves are frozen.

    Returns:
        An ``optax.GradientTransformationExtraArgs``, as from `hig_optax.hig`.

    Raises:
        TypeError: As `hig_optax.scale_by_hig`.
        ValueError: As `hig_optax.scale_by_hig`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from hig_optax import baselines
        >>> def residual_fn(w, sample):
        ...     return jnp.array([1.0, 2.0**-10]) * w - sample
        >>> def loss_fn(w, batch):
        ...     return jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2) / 2
        >>> opt = baselines.levenberg_marquardt(1.0, residual_fn, damping=2.0**-20)
        >>> w, batch = jnp.zeros(2), jnp.array([[3.0, 2.0**-10]])
        >>> updates, _ = opt.update(jax.grad(loss_fn)(w, batch), opt.init(w), w, batch=batch)
        >>> updates.round(4)  # the first weight solved, the second, whose σ² is λ, half of the way
        Array([3. , 0.5], dtype=float32)

    References:
        Marquardt, An Algorithm for Least-Squares Estimation of Nonlinear Parameters, 1963: the damped
        normal equations.
    """
    return hig(exponent=-1.0, **locals())


@without_old_settings
def adaptive_levenberg_marquardt(
    residual_fn: ResidualFns,
    *,
    loss_fn: LossFn | None = None,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    momentum: Scalar = 0.0,
    max_relative_step: Scalar | None = None,
    patience: Scalar | None = None,
    batch_axis: Tree = 0,
    mask: Any = None,
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    chunk_size: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt with damping by success: `hig_optax.adaptive_hig` with exponent κ = -1.

    Without momentum and without a bound on the step, it is the method of full batches. On mini-batches it
    can drift away though every step lowers the loss of its batch: there use `hig_optax.adaptive_hig`.

    The settings that are not described here are those of `hig_optax.adaptive_hig`.

    Args:
        mask: As in `hig_optax.hig`: the False leaves are frozen.

    Returns:
        An ``optax.GradientTransformationExtraArgs``, as from `hig_optax.adaptive_hig`.

    Raises:
        TypeError: As `hig_optax.adaptive_hig`.
        ValueError: As `hig_optax.adaptive_hig`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from hig_optax import baselines
        >>> def residual_fn(w, t):  # a decay, measured at times t
        ...     return w[0] * jnp.exp(-w[1] * t) - 2 * jnp.exp(-0.5 * t)
        >>> def loss_fn(w, t):
        ...     return jnp.sum(jax.vmap(residual_fn, (None, 0))(w, t) ** 2)
        >>> opt = baselines.adaptive_levenberg_marquardt(residual_fn)
        >>> w, t = jnp.array([1.0, 1.0]), jnp.linspace(0.0, 4.0, 9)
        >>> state = opt.init(w)
        >>> for _ in range(8):
        ...     updates, state = opt.update(jax.grad(loss_fn)(w, t), state, w, batch=t)
        ...     w = optax.apply_updates(w, updates)
        >>> [round(float(x), 4) for x in w]
        [2.0, 0.5]

    References:
        Levenberg, Quart. Appl. Math. 2 (1944) 164; Marquardt, SIAM J. Appl. Math. 11 (1963) 431.
    """
    return adaptive_hig(exponent=-1.0, **locals())
