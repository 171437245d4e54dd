"""The direction of a step where J is known by its products alone: on a Krylov subspace of its row space."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._float64 import dot, norm
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._solvers import krylov
from hig_optax._solvers.direction import half_inverse_direction
from hig_optax._solvers.formula import (
    Direction,
    RowBlocks,
    Scaling,
    cosine,
    in_unit,
    ratio,
    shares_of,
    unit_of,
)
from hig_optax._types import Count, Scalar


def krylov_direction(
    J: Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    *,
    num_matvecs: int,
    exponent: Scalar,
    rtol: Scalar,
    atol: Scalar,
    damping: Scalar,
    max_rank: Count | None,
    solver: Literal["svd", "gram"],
    relative_damping: Scalar | None = None,
    row_blocks: RowBlocks = (),
) -> Direction:
    """The direction of `half_inverse_direction` on a Krylov subspace of the row space of J.

    With orthonormal V from the Golub-Kahan process, J V = U B, the result is V times the direction of the
    small Jacobian B, exact once the subspace holds the row space. It starts on the row side:

    * from the cotangent g, so that the subspace is that of Jᵀg, JᵀJ Jᵀg, …, the best for its size;
    * without one, from the image J x of the incoming gradient. Starting from x itself would be as good where
      x is Jᵀg, but a part of x outside the row space is an eigenvector of JᵀJ to the eigenvalue 0, and
      what the subspace makes of it is magnified by (small)^(κ-1): with a tenth of x outside (geometric
      spectrum 1 to 1e-1.5, κ=-1/2, 60 products) the direction was 9.5e4 times too long. The image drops that
      part at once, for more products: with 20 the cosine to the exact direction was 0.73 instead of 0.97.
      What makes less than some 10 ε of the image (σ² counts there, so σ below some 1e-3 σ₁ in float32) is
      lost in its rounding, and does not come back: the rank is lower then.

    The error is that of `half_inverse_direction`, with the c of ``"svd"``, once all of the row space that
    counts is in the subspace.

    Args:
        J: (m, n), of which products alone are taken, in the dtype of `gradient`.
        gradient: As in `half_inverse_direction`.
        cotangent: As in `half_inverse_direction`.
        num_matvecs: Dimension k of the subspace: as many products with J, and with Jᵀ.
        exponent: κ.
        rtol: Relative cut of the Ritz values, the singular values of B.
        atol: Absolute cut.
        damping: λ, in the unit of J squared.
        max_rank: Largest number of kept Ritz values.
        solver: What decomposes B.
        relative_damping: Added to `damping` in units of the mean square of the Ritz values.
        row_blocks: As in `half_inverse_direction`.

    Returns:
        As `half_inverse_direction`, with Ritz values for singular values. `gradient_kept` counts what the
        subspace has of the gradient; `unsettled` is told by the direction after half the products.
    """
    x = gradient if cotangent is None else cotangent
    x = x / unit_of(x)[0]
    start = J.matvec(x) if cotangent is None else x
    B, V = krylov.bidiagonalise(
        J.matvec,
        J.rmatvec,
        start,
        num_matvecs=num_matvecs,
        columns=gradient.size,
        # An incoming gradient is projected on V, and what a skew V makes of its large components lands in
        # the small ones: on the quantum dipole in float32 the direction was 400 times too long.
        orthogonal_columns=cotangent is None,
    )

    if relative_damping is not None:
        unit = unit_of(B)[0]
        mean_square = jnp.sum(jnp.square(B / unit)) / num_matvecs * jnp.square(unit)
        damping = jnp.asarray(damping, B.dtype) + relative_damping * mean_square

    # The gradient and the cotangent in the coordinates of V and U: g is along the first column of U.
    if cotangent is None:
        small_gradient, small_cotangent = dot(V, gradient), None
    else:
        small_cotangent = jnp.zeros(num_matvecs + 1, B.dtype).at[0].set(norm(cotangent))
        small_gradient = dot(small_cotangent, B)

    def on_first(count: int, exponent: Scalar = exponent, damping: Scalar = damping) -> Direction:
        """The direction in the subspace of the first `count` products."""
        columns = jnp.arange(num_matvecs) < count
        return half_inverse_direction(
            jnp.where(columns[None] & (jnp.arange(num_matvecs + 1)[:, None] <= count), B, 0),
            jnp.where(columns, small_gradient, 0),
            small_cotangent,
            exponent=exponent,
            rtol=rtol,
            atol=atol,
            damping=damping,
            max_rank=max_rank,
            solver=solver,
        )

    small, half = on_first(num_matvecs), on_first(num_matvecs // 2)
    gradient_kept, gradient_cosine, incoming = small.gradient_kept, None, norm(gradient)
    if cotangent is None:
        inside = jnp.square(norm(small_gradient) / jnp.where(incoming > 0, incoming, 1))
        gradient_kept = jnp.where(incoming > 0, jnp.minimum(gradient_kept * inside, 1), 1)
    else:
        # The first column vector is Jᵀg, normalised.
        gradient_cosine = cosine(gradient / unit_of(gradient)[0], V[0])
    shares = {}
    if row_blocks:
        # κ = 0 without damping is the vector V Σ⁻¹ Vᵀx, whose image is U Vᵀx.
        flat = on_first(num_matvecs, exponent=0.0, damping=0.0).direction
        shares = shares_of(J.matvec(dot(flat / unit_of(flat)[0], V)), row_blocks)
    return small._replace(
        block_shares=shares,
        direction=dot(small.direction, V),
        gradient_kept=gradient_kept,
        gradient_cosine=gradient_cosine,
        unsettled=jax.lax.stop_gradient(
            _still_to_gain(B, small_gradient, small_cotangent, half.direction, small.direction)
        ),
        is_finite=small.is_finite & jnp.isfinite(incoming) & jnp.all(jnp.isfinite(start)),
    )


def _still_to_gain(
    B: Float[Array, "k+1 k"],
    gradient: Float[Array, " k"],
    cotangent: Float[Array, " k+1"] | None,
    half: Float[Array, " k"],
    whole: Float[Array, " k"],
) -> Float[Array, ""]:
    """See `hig_optax.Spectrum.unsettled`; all vectors in the coordinates of the subspace.

    At its best length a direction d promises a decrease in proportion to (xᵀd)² / ‖Jd‖², of ½‖g‖² the share
    cos²(g, Jd). What the second half of the products has brought, the next ones may bring again, up to all
    of the loss.

    Args:
        B: J there.
        gradient: x.
        cotangent: g, if it is known.
        half: The direction after half of the products.
        whole: The direction.
    """
    x, J = in_unit(gradient)[0], in_unit(B)[0]

    def promised(d: Array) -> Array:
        d = in_unit(d)[0]
        return ratio(jnp.square(dot(x, d)), jnp.sum(jnp.square(dot(J, d))))

    both = promised(whole)
    share = jnp.clip(ratio(both - promised(half), both), 0, 1)
    if cotangent is not None:
        image = dot(J, in_unit(whole)[0])
        share = jnp.minimum(share, 1 - jnp.square(cosine(cotangent, image)))
    is_exhausted = B[-1, -1] == 0
    return jnp.where(is_exhausted, 0, share)


def krylov_step(
    J: Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"],
    scaling: Scaling,
    **settings: Any,
) -> Direction:
    """A step of its own length by `krylov_direction`: t·d + p, with p = μ·previous and d for g - h J p.

    So d is what is to be done beside p. Taking the rows' own part out of p instead, as
    `half_inverse_direction` does, is not for a subspace: what it leaves there moves the rows, and nothing
    makes up for that. The loss of Poisson's equation then stayed far above that without momentum.

    Args:
        J: As in `krylov_direction`.
        gradient: As in `krylov_direction`.
        cotangent: As in `krylov_direction`.
        scaling: As in `half_inverse_direction`.
        **settings: The others of `krylov_direction`.

    Returns:
        As `krylov_direction`, with slope and curvature; `gradient_kept` is of d alone.
    """
    h = jnp.where(scaling.curvature > 0, scaling.curvature, 0)
    p, Jp, ahead = jnp.zeros_like(gradient), jnp.zeros_like(cotangent), cotangent
    if scaling.previous is not None:
        assert scaling.image is not None
        p, Jp = scaling.momentum * scaling.previous, scaling.momentum * scaling.image
        ahead = cotangent - h * Jp
    found = krylov_direction(
        J, gradient, ahead, relative_damping=scaling.relative_damping, **settings
    )
    d = found.direction / unit_of(found.direction)[0]
    Jd = J.matvec(d)
    t = ratio(dot(ahead, Jd), h * jnp.sum(jnp.square(Jd)))
    change, gradient_cosine = t * Jd + Jp, found.gradient_cosine
    if scaling.previous is not None:  # the first vector of the subspace is not the gradient then
        x, of_rows = gradient, J.rmatvec(cotangent)
        gradient_cosine = cosine(x / unit_of(x)[0], of_rows / unit_of(of_rows)[0])
    return found._replace(
        direction=t * d + p,
        gradient_cosine=gradient_cosine,
        slope=dot(cotangent, change),
        curvature=h * jnp.sum(jnp.square(change)),
    )
