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
from hig_optax._types import Count, Scalar


def half_inverse_direction(
    J: Float[Array, "m n"] | Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    *,
    exponent: Scalar,
    rtol: Scalar,
    atol: Scalar,
    damping: Scalar,
    max_rank: Count | None,
    solver: Literal["svd", "gram"],
    scaling: Scaling | None = None,
    row_blocks: RowBlocks = (),
    condensed: Condensed | None = None,
) -> Direction:
    """Direction V f(Σ) Uᵀ g for the Jacobian J = U Σ Vᵀ, f(σ) = σ(σ²+λ)^((κ-1)/2) on kept σ.

    Without `cotangent` the incoming gradient x = Jᵀ g takes the place of g: V f(Σ)Σ⁻¹ Vᵀ x. In exact
    arithmetic both are one. In floating point the decomposition is that of a matrix off by some ε·σ₁, and for
    κ <= 0

        error <= c · ε · σ₁ · f(σ_k) / (σ_k - σ_(k+1)) · ‖g‖,

    with σ_k the smallest kept singular value, σ_(k+1) the largest that is cut, or 0. For such a perturbation
    turns two singular vectors by its size over σ_i - σ_j, and what a direction gains or loses by that is the
    divided difference of f: between a kept and a cut one f(σ_i)/(σ_i - σ_j), largest at the cut; between two
    kept ones less. The rounding of x as differentiation leaves it, ε·‖|J|ᵀ|g|‖, is magnified by f(σ)/σ and
    so is within the bound, too. The Gram matrix adds an error of 2⁻⁵²·σ₁² to σ²: a factor
    1 + (2⁻⁵²/ε)·σ₁/σ_k, which for a float32 J is near one down to the floor. c grows as the square root of
    min(m, n) at most; 50 for ``"svd"`` and 10 for ``"gram"`` are twice the worst of some thousand random
    matrices from 2x5 to 40x25 (notebooks/TRUST.md), and leave room for larger ones.

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
    if max_rank is not None:
        numbers = numbers._replace(max_rank=jnp.asarray(max_rank, int))
    keywords: dict[str, Any] = {"scaling": scaling, "row_blocks": row_blocks}
    if solver == "gram":
        return gram.direction(J, gradient, cotangent, numbers, condensed=condensed, **keywords)
    return svd.direction(J, gradient, cotangent, numbers, **keywords)
