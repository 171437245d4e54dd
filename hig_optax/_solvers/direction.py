"""The direction of a step, from a Jacobian and a gradient: one pure function over the parts."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.leaves import Dense
from hig_optax._jacobian.strips import Condensed
from hig_optax._solvers import gram, svd
from hig_optax._solvers.formula import Direction, Numbers, RowBlocks, Scaling
from hig_optax._types import Scalar


def half_inverse_direction(
    J: Float[Array, "m n"] | Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    *,
    exponent: Scalar,
    rtol: Scalar,
    atol: Scalar,
    damping: Scalar,
    max_rank: int | None,
    solver: Literal["svd", "gram"],
    scaling: Scaling | None = None,
    row_blocks: RowBlocks = (),
    condensed: Condensed | None = None,
) -> Direction:
    """Direction V f(Σ) Uᵀ g for the Jacobian J = U Σ Vᵀ, f(σ) = σ(σ²+λ)^((κ-1)/2) on kept σ.

    Without `cotangent` the incoming gradient x = Jᵀ g takes the place of g: V f(Σ)Σ⁻¹ Vᵀ x. In exact
    arithmetic both are one. In floating point x, computed as Jᵀ g by differentiation, carries a rounding of
    about ε·‖|J|ᵀ|g|‖ in every direction, which σ^(κ-1) magnifies most for the smallest kept σ. The result is
    at least σ₁^(κ-1)·sqrt(gradient_kept)·‖x‖ long for κ <= 0, so that relative to it

        error <= c · ε · (σ₁/σ_rank)^(1-κ) · (‖|J|ᵀ|g|‖ / ‖x‖) / sqrt(gradient_kept),     c ~ 1 to 10.

    The ratio in brackets says how far the rows cancel in the gradient: it is near one early in training and
    grows without bound at a minimum where the rows do not vanish. The bound covers the rounding of J too,
    unless a singular value lies so close to the cut that rounding decides whether it is kept.

    Args:
        J: (m, n), float32 or float64. Unit: row per parameter.
        gradient: (n,), dtype of J: the incoming gradient. Unit: loss per parameter.
        cotangent: (m,), dtype of J: g = ∂loss/∂rows. Unit: loss per row.
        exponent: κ.
        rtol: Relative cut.
        atol: Absolute cut, in the unit of J.
        damping: λ, in the unit of J squared.
        max_rank: Largest number of kept singular values.
        solver: ``"svd"`` works in the dtype of J, ``"gram"`` in float64 wherever the backend has it.
        scaling: If given, the result is a step of its own length, t·V f(Σ) Uᵀ g + p: t minimises the model of
            the loss, and p is what is left of the previous step outside of the rows. Needs `cotangent`.
        row_blocks: Names and numbers of rows of the blocks that `Direction.block_shares` tells of.
        condensed: For ``"gram"``: what `gram.condense` has made of J already.

    Returns:
        A `Direction`, real numbers in the dtype of J, `gradient_cosine` None without `cotangent`. If anything
        that went in or the decomposition was NaN or inf, the direction is unspecified and `is_finite` false;
        an overflow of the direction itself is left to the caller, who knows the dtype it must fit.

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022: the update
        built from the half-inverse of the stacked Jacobian.
    """
    J = Dense(J) if isinstance(J, jax.Array) else J
    numbers = Numbers(*(jnp.asarray(x, J.dtype) for x in (exponent, rtol, atol, damping)))
    keywords: dict[str, Any] = {"scaling": scaling, "row_blocks": row_blocks, "max_rank": max_rank}
    if solver == "gram":
        return gram.direction(J, gradient, cotangent, numbers, condensed=condensed, **keywords)
    return svd.direction(J, gradient, cotangent, numbers, **keywords)
