"""Which singular directions a step keeps, and how strongly it weighs each."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._types import Count, Scalar


def cut(
    s: Float[Array, " r"],
    *,
    rtol: Scalar,
    atol: Scalar,
    floor: float,
    max_rank: Count | None = None,
) -> tuple[Bool[Array, " r"], Float[Array, ""]]:
    """Choose the singular values that a step acts on.

    Args:
        s: Singular values, (r,), descending. Unit: row per parameter.
        rtol: Cut relative to the largest, in [0, 1), dimensionless.
        atol: Cut in the unit of ``s``.
        floor: Share of the largest below which singular values are rounding noise. It is applied
            whatever the other settings are: with dependent rows and ``rtol=0`` the noise would
            otherwise be inverted.
        max_rank: Keep at most so many, the largest; may be traced.

    Returns:
        ``keep``, (r,), true where s > cutoff (strictly, so that an all-zero spectrum keeps nothing),
        and ``cutoff`` = max(rtol·s[0], atol, floor·s[0]).

    Example:
        >>> keep, cutoff = cut(jnp.array([4.0, 1.0, 0.1]), rtol=0.1, atol=0.0, floor=1e-7)
        >>> keep
        Array([ True,  True, False], dtype=bool)
        >>> float(cutoff)
        0.4000000059604645

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022: small
        singular values are set to zero below a threshold; the authors' code takes it relative to s[0].
    """
    largest = jnp.max(s, initial=0)
    rtol, atol = jnp.asarray(rtol, s.dtype), jnp.asarray(atol, s.dtype)
    cutoff = jnp.maximum(jnp.maximum(rtol, floor) * largest, atol)
    keep = s > cutoff
    if max_rank is not None:
        keep &= jnp.arange(s.size) < jnp.asarray(max_rank, int)
    return keep, cutoff


def gradient_weights(
    s: Float[Array, " r"], keep: Bool[Array, " r"], *, exponent: Scalar, damping: Scalar
) -> Float[Array, " r"]:
    """Weights f(σ)/σ = (σ² + λ)^((κ-1)/2) by which a step multiplies the gradient's coefficients.

    With λ = 0 that is σ^(κ-1): the gradient's coefficients hold one σ already, σ·Uᵀg, so the direction
    V f(Σ) Uᵀ g has f(σ) = σ^κ.

    Args:
        s: Singular values, (r,). Unit: row per parameter.
        keep: Which of them count, (r,).
        exponent: κ, dimensionless: 1 leaves the gradient, -1/2 is the half-inverse, -1 Gauss-Newton.
        damping: λ >= 0 in the unit of ``s`` squared; with κ = -1 this is Levenberg-Marquardt.

    Returns:
        Weights, (r,), dtype of ``s``; 0 where ``keep`` is false.

    Example:
        >>> s = jnp.array([4.0, 1.0, 0.0])
        >>> s * gradient_weights(s, s > 0, exponent=-0.5, damping=0.0)
        Array([0.5, 1. , 0. ], dtype=float32)
    """
    exponent, damping = jnp.asarray(exponent, s.dtype), jnp.asarray(damping, s.dtype)
    # Dropped values become 1 before the power: 0 ** -1.5 is inf, and its derivative would leak NaN
    # through the mask.
    squared = jnp.where(keep, jnp.square(s) + damping, 1)
    return jnp.where(keep, squared ** ((exponent - 1) / 2), 0)
