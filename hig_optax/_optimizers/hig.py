"""Half-inverse gradients as Optax transformations."""

from typing import Any

import optax

from hig_optax._inputs.checks import checked_rate
from hig_optax._inputs.updates import without_frozen, zero_unless_finite
from hig_optax._optimizers.report import refused_unless
from hig_optax._optimizers.scale import ScaleByHigState, scale_by_hig
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


def hig(
    learning_rate: optax.ScalarOrSchedule,
    residual_fn: ResidualFns,
    *,
    loss_fn: LossFn | None = None,
    exponent: Scalar = -0.5,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    max_rank: Count | None = None,
    damping: Scalar = 0.0,
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
    """Half-inverse gradients with a learning rate: the optimizer to put into an Optax loop.

    ``optax.chain(scale_by_hig(...), optax.scale_by_learning_rate(learning_rate))``, and zero updates with
    ``is_finite`` false where the rate is NaN or the step overflows.

    The direction is linear in the gradient, so a learning rate means one thing for a loss summed over the
    batch and another for its mean. The paper's convention, to which its learning rates (1.0 on the
    oscillators) belong, is the mean over the batch of Σ(y-target)².

    The settings that are not described here are those of `scale_by_hig`.

    Args:
        learning_rate: A number, or a schedule: a function of the number of updates. Its unit is that of a
            parameter over that of the direction; for κ = -1 and a loss in squared rows it has none.
        mask: As in `scale_by_hig`, but the False leaves are frozen: their updates are zero. (Passed
            through they would be plain gradient descent at this learning rate.) To train them by another
            optimizer, chain ``scale_by_hig(..., mask=mask)`` with ``optax.masked`` ones.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; ``optax.tree.get(state, "spectrum")`` is the report
        on the last step. See `scale_by_hig` for what ``update`` takes and for non-finite values.

    Raises:
        TypeError: As `scale_by_hig`.
        ValueError: As `scale_by_hig`.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp, optax
        >>> def residual_fn(w, sample):
        ...     return jnp.array([1.0, 2.0**-10]) * w - sample
        >>> def loss_fn(w, batch):
        ...     return jnp.mean(jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2, axis=-1))
        >>> opt = hig_optax.hig(1.0, residual_fn, exponent=-1.0)
        >>> w, batch = jnp.zeros(2), jnp.array([[1.0, 2.0**-10]])
        >>> updates, state = opt.update(jax.grad(loss_fn)(w, batch), opt.init(w), w, batch=batch)
        >>> updates  # twice the Gauss-Newton step, since the loss has no factor 1/2
        Array([2., 2.], dtype=float32)
        >>> optax.tree.get(state, "spectrum").condition
        Array(1024., dtype=float32)

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022.
    """
    settings = {name: value for name, value in locals().items() if name != "learning_rate"}
    direction = scale_by_hig(**settings)
    scale = optax.scale_by_learning_rate(checked_rate(learning_rate))

    def init_fn(params: Tree) -> tuple[ScaleByHigState, Any]:
        return direction.init(params), scale.init(params)

    def update_fn(
        updates: Tree,
        state: tuple[ScaleByHigState, Any],
        params: Tree | None = None,
        **extra_args: Any,
    ) -> tuple[Tree, tuple[ScaleByHigState, Any]]:
        if bad_samples == "drop":  # of a frozen leaf, too, the gradient may be NaN
            of_others, beside_frozen = without_frozen(mask, params, updates)
            updates = beside_frozen(of_others)
        new, (spectrum,) = direction.update(updates, state[0], params, **extra_args)
        moved, beside_frozen = without_frozen(mask, params, new)
        moved, scale_state = scale.update(moved, state[1])
        # A rate that is traced or scheduled may be NaN, or so large that the step overflows.
        new, is_finite = zero_unless_finite(beside_frozen(moved), spectrum.is_finite)
        return new, (ScaleByHigState(refused_unless(is_finite, spectrum)), scale_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
