"""The direction of a step, from a Jacobian and a gradient: one pure function over the parts."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax import _gram, _svd
from hig_optax._filters import cut, gradient_weights
from hig_optax._float64 import dot, float64_island
from hig_optax._types import Scalar


class Direction(NamedTuple):
    """A direction, uphill, and what was found on the way; see `Spectrum` for the fields."""

    direction: Float[Array, " n"]
    singular_values: Float[Array, " r"]
    rank: Int[Array, ""]
    cutoff: Float[Array, ""]
    condition: Float[Array, ""]
    captured: Float[Array, ""]
    agreement: Float[Array, ""]
    is_finite: Bool[Array, ""]


def half_inverse_direction(
    J: Float[Array, "m n"],
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    *,
    exponent: Scalar,
    rtol: Scalar,
    atol: Scalar,
    damping: Scalar,
    max_rank: int | None,
    solver: Literal["svd", "gram"],
) -> Direction:
    """Direction V f(Σ) Uᵀ g for the Jacobian J = U Σ Vᵀ, f(σ) = σ(σ²+λ)^((κ-1)/2) on kept σ.

    Without `cotangent` the incoming gradient x = Jᵀ g takes the place of g: V f(Σ)Σ⁻¹ Vᵀ x. In exact
    arithmetic both are one. In floating point x carries a rounding of about ε‖x‖ into every direction,
    which σ^(κ-1) magnifies for the smallest kept σ, so that relative to the result

        error <= c · ε · (σ₁/σ_rank)^(1-κ) / sqrt(captured),     c ~ 1 to 10,

    since ‖result‖ >= σ₁^(κ-1)·sqrt(captured)·‖x‖ for κ <= 1 and the error is at most σ_rank^(κ-1) times that
    of x. The same bound covers the rounding of J itself.

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

    Returns:
        A `Direction`, real numbers in the dtype of J. If anything was NaN or inf the direction holds
        unspecified numbers and `is_finite` is false.

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022: the update
        built from the half-inverse of the stacked Jacobian.
    """
    arrays = (J, gradient, cotangent)
    settings = tuple(jnp.asarray(x, J.dtype) for x in (exponent, rtol, atol, damping))
    data_eps = float(jnp.finfo(J.dtype).eps)

    def compute(arrays: tuple, settings: tuple) -> Direction:
        return _compute(*arrays, *settings, max_rank=max_rank, solver=solver, data_eps=data_eps)

    if solver == "gram":
        compute = float64_island(compute)
    return compute(arrays, settings)


def _compute(
    J: Array,
    gradient: Array,
    cotangent: Array | None,
    exponent: Array,
    rtol: Array,
    atol: Array,
    damping: Array,
    *,
    max_rank: int | None,
    solver: Literal["svd", "gram"],
    data_eps: float,
) -> Direction:
    largest = jnp.max(jnp.abs(J))
    is_finite = jnp.isfinite(largest) & jnp.all(jnp.isfinite(gradient))
    if cotangent is not None:
        is_finite &= jnp.all(jnp.isfinite(cotangent))
    # A decomposition of NaN costs a full iteration, and what it returns depends on the backend.
    J = jnp.where(is_finite, J, 0)

    # Squares of the entries must neither overflow nor vanish. A power of two scales without rounding.
    power_of_two = jnp.ldexp(jnp.ones_like(largest), jnp.frexp(largest)[1] - 1)
    unit = jnp.where(is_finite & (largest > 0), power_of_two, 1)
    J, gradient = J / unit, gradient / unit

    factors = _svd.factorise(J) if solver == "svd" else _gram.factorise(J, data_eps=data_eps)
    s = factors.s
    keep, cutoff = cut(s, rtol=rtol, atol=atol / unit, floor=factors.floor, max_rank=max_rank)
    weights = gradient_weights(
        s, keep, exponent=exponent, damping=jnp.square(jnp.sqrt(damping) / unit)
    )

    agreement = jnp.full((), jnp.nan, J.dtype)
    if cotangent is None:
        coefficients = jnp.where(keep, factors.column_coefficients(gradient), 0)
        total = jnp.sum(jnp.square(gradient))
    else:
        from_rows = dot(cotangent, J)
        all_coefficients = s * factors.row_coefficients(cotangent)
        coefficients = jnp.where(keep, all_coefficients, 0)
        total = jnp.sum(jnp.square(all_coefficients))
        agreement = _cosine(gradient, from_rows)

    direction = factors.combine(weights * coefficients) * unit**exponent
    rank = jnp.sum(keep, dtype=jnp.int32)
    smallest = s[jnp.maximum(rank - 1, 0)]
    share = jnp.sum(jnp.square(coefficients)) / jnp.where(total > 0, total, 1)
    return Direction(
        direction=direction,
        singular_values=s * unit,
        rank=rank,
        cutoff=cutoff * unit,
        condition=jnp.where(rank > 0, s[0] / jnp.where(rank > 0, smallest, 1), jnp.inf),
        captured=jnp.where(total > 0, jnp.minimum(share, 1), 1),
        agreement=agreement,
        is_finite=is_finite,
    )


def _cosine(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    norm_a, norm_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    product = norm_a * norm_b
    cosine = dot(a, b) / jnp.where(product > 0, product, 1)
    return jnp.where((norm_a == 0) & (norm_b == 0), 1, cosine)
