"""The loss of a batch as a function of its rows, to second order."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._float64 import norm
from hig_optax._solvers.step import Linearised, loss_of_rows
from hig_optax._types import LossFn

# A loss whose second derivative along its gradient is less than this share of that of its square is straight.
STRAIGHT = 1e-3


class Model(NamedTuple):
    """The loss of a batch as a function of its rows, to second order at the rows y."""

    loss: Float[Array, ""]
    cotangent: Float[Array, " m"]
    curvature: Float[Array, ""]
    """Second derivative along the cotangent."""
    excess: Float[Array, ""]
    """By how much the model falls to its minimum, ‖g‖²/(2h): the loss, of a sum of squares. A loss that ends
    above or below zero, such as a likelihood or an energy, is measured from its own end so."""
    decrease: Callable[[Float[Array, " m"]], Float[Array, ""]]
    """``new rows -> loss(y) - loss(new rows)``, not finite where the new rows are not."""


def model_of(loss_fn: LossFn | None, at: Linearised) -> Model:
    """The model of `loss_fn`, or of ½Σrows², averaged over the samples of a residual that takes one."""
    y = at.y
    if loss_fn is not None:
        loss_at = loss_of_rows(loss_fn, at.residual, at.batch)
        loss, g = jax.value_and_grad(loss_at)(y)
        length = norm(g)
        unit = g / jnp.where(length > 0, length, 1)
        # Reverse over reverse: a loss may hold a function without forward rule.
        curved = jax.grad(lambda y: jnp.vdot(jax.grad(loss_at)(y), unit, precision="highest"))(y)
        curvature = jnp.vdot(unit, curved, precision="highest")
        # A norm is linear along its rows, up to rounding of either sign. Its square has the same minimum,
        # and (L²/2)'' / L = L'' + ‖g‖²/L. A loss that is not positive may be the log of a sum of squares.
        is_positive, size = loss > 0, norm(y)
        of_square = length * (length / jnp.where(is_positive, loss, 1))
        of_rows = jnp.vdot(g, y / jnp.where(size > 0, size, 1), precision="highest")
        bent = jnp.where(is_positive, of_square, of_rows / jnp.where(size > 0, size, 1))
        is_curved = curvature > STRAIGHT * bent
        curvature = jnp.where(is_curved, curvature, bent)
        excess = jnp.where(
            is_curved, length / 2 * (length / jnp.where(is_curved, curvature, 1)), loss
        )
        return Model(loss, g, curvature, excess, lambda new: loss - loss_at(new))

    scale = 1 / jnp.asarray(at.residual.num_averaged, y.dtype)

    def decrease(new: Array) -> Array:
        # Not as a difference of two sums, which would carry the rounding of the sums.
        return scale / 2 * jnp.sum((y - new) * (y + new))

    loss = scale / 2 * jnp.sum(jnp.square(y))
    return Model(loss, scale * y, scale, loss, decrease)
