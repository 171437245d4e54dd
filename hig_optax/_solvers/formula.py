"""The step in the singular basis of J, where it is a formula of numbers: V f(Σ) Uᵀ g, cut, damped, scaled."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax._float64 import dot, power_of_two
from hig_optax._solvers.filters import cut, gradient_weights

RowBlocks = tuple[tuple[str, int], ...]
"""Names and numbers of rows of blocks, in the order of the rows."""


class Numbers(NamedTuple):
    """Settings that may be traced; see `hig_optax.scale_by_hig`."""

    exponent: Array
    rtol: Array
    atol: Array
    damping: Array
    max_rank: Int[Array, ""] | None = None


class Scaling(NamedTuple):
    """What scales a direction to a step: a quadratic model of the loss, h/2·‖ρ - J·step‖² with ρ = g/h."""

    relative_damping: Float[Array, ""]
    """λ over the mean of σ²; added to the absolute damping."""
    curvature: Float[Array, ""]
    """h, second derivative of the loss in the rows: 1 for ½‖rows‖². Not positive: there is no model, and the
    step is zero but for what is kept of the previous one."""
    previous: Float[Array, " n"] | None
    """The last step, of which the rows' own part is replaced and `momentum` times the rest is kept."""
    image: Float[Array, " m"] | None
    """J times that."""
    momentum: Float[Array, ""]
    """Share in [0, 1) of it."""


class Coordinates(NamedTuple):
    """A Jacobian J = U Σ Vᵀ and the vectors of a step in its singular basis; r = min(m, n)."""

    s: Float[Array, " r"]
    """Singular values over the unit of J, descending."""
    floor: float
    """Share of ``s[0]`` below which they are rounding noise; entries of the others there have no meaning."""
    unit: Float[Array, ""]
    """The unit of J."""
    gradient: Float[Array, " r"] | None
    """Vᵀx of the incoming gradient, over its unit; None where the cotangent counts."""
    cotangent: Float[Array, " r"] | None
    """Uᵀg of the cotangent, over its unit."""
    vector_unit: Float[Array, ""]
    """That unit."""
    total: Float[Array, ""]
    """‖x‖² over the square of its unit, where the gradient counts."""
    previous: Float[Array, " r"] | None
    """Vᵀp of the previous step."""
    is_finite: Bool[Array, ""]
    """Whether J and the vectors are."""


class Solved(NamedTuple):
    """A step in the singular basis, and what was found on the way; see `Spectrum` for the fields."""

    coefficients: Float[Array, " r"]
    """c, where the step is V c·`size`, beside what it keeps of the previous one."""
    size: Float[Array, ""]
    kept: Float[Array, " r"]
    """Vᵀ of the captured gradient, in some unit."""
    singular_values: Float[Array, " r"]
    rank: Int[Array, ""]
    cutoff: Float[Array, ""]
    condition: Float[Array, ""]
    gradient_kept: Float[Array, ""]
    is_finite: Bool[Array, ""]
    slope: Float[Array, ""] | None = None
    curvature: Float[Array, ""] | None = None
    damping: Float[Array, ""] | None = None
    """Only of a scaled step: λ, over the square of the unit of J."""


class Direction(NamedTuple):
    """A direction, uphill, and what was found on the way; see `Spectrum` for the fields."""

    direction: Float[Array, " n"]
    singular_values: Float[Array, " r"]
    rank: Int[Array, ""]
    cutoff: Float[Array, ""]
    condition: Float[Array, ""]
    gradient_kept: Float[Array, ""]
    gradient_cosine: Float[Array, ""] | None
    unsettled: Float[Array, ""]
    block_shares: dict[str, Float[Array, ""]]
    is_finite: Bool[Array, ""]
    slope: Float[Array, ""] | None = None
    """Only of a scaled step: how fast the loss falls along it, gᵀJ·step. Unit: loss."""
    curvature: Float[Array, ""] | None = None
    """Only of a scaled step: second derivative of the model of the loss along it. Unit: loss."""
    inverse: Callable[[Float[Array, " m"]], Float[Array, " n"]] | None = None
    """Only of a scaled step from a Gram matrix: ``r -> V Σ(Σ²+λ)⁻¹ Uᵀ r`` by the same decomposition."""
    full_rank: Int[Array, ""] | None = None
    """Largest rank there could be, where that is not the number of singular values."""
    num_bad: Int[Array, ""] | None = None
    """How many samples are not finite, once they were counted."""


def solve(at: Coordinates, numbers: Numbers, scaling: Scaling | None) -> Solved:
    """The step V f(Σ) Uᵀ g, f(σ) = σ(σ²+λ)^((κ-1)/2) on kept σ, or with `scaling` one of its own length.

    Args:
        at: J and the vectors.
        numbers: κ, the cuts, and λ in the unit of J squared.
        scaling: If given, the result is t·V f(Σ) Uᵀ g + p: t minimises the model of the loss, and p is what
            is left of the previous step outside of the rows (see `_scaled`). Needs the cotangent.

    Returns:
        What the step is, but for ``momentum * previous``, which is not in the basis.
    """
    s = at.s
    keep, cutoff = cut(
        s,
        rtol=numbers.rtol,
        atol=numbers.atol / at.unit,
        floor=at.floor,
        max_rank=numbers.max_rank,
    )
    damping = numbers.damping
    if scaling is not None:
        damping += scaling.relative_damping * jnp.square(at.unit) * jnp.mean(jnp.square(s))
    # The weights (σ² + λ)^((κ-1)/2) in the larger of the units of σ and √λ, so that no square overflows.
    root_unit = unit_of(jnp.sqrt(damping))[0]
    h_unit = jnp.where(damping > 0, jnp.maximum(at.unit, root_unit), at.unit)
    weights = gradient_weights(
        s * (at.unit / h_unit),
        keep,
        exponent=numbers.exponent,
        damping=jnp.square(jnp.sqrt(damping) / h_unit),
    )
    # Coefficients Vᵀx of the gradient, and their unit in that of the weights.
    if at.cotangent is None:
        assert at.gradient is not None
        all_of_gradient, unit, total = at.gradient, at.vector_unit / h_unit, at.total
    else:
        all_of_gradient, unit = s * at.cotangent, (at.unit / h_unit) * at.vector_unit
        total = jnp.sum(jnp.square(all_of_gradient))
    kept = jnp.where(keep, all_of_gradient, 0)
    share = jnp.sum(jnp.square(kept)) / jnp.where(total > 0, total, 1)
    rank = jnp.sum(keep, dtype=jnp.int32)
    # Under jax_debug_infs an inf, of float32 too, would stop a step that is as it should be.
    is_searched = jax.config.jax_debug_infs  # type: ignore[attr-defined]
    unbounded = float(jnp.finfo(jnp.float32).max) if is_searched else jnp.inf
    smallest = s[jnp.maximum(rank - 1, 0)]
    step, size, slope, curvature = weights * kept, h_unit**numbers.exponent * unit, None, None
    if scaling is not None:
        step, slope, curvature = _scaled(at, keep, weights, scaling, damping / jnp.square(at.unit))
        size = jnp.ones_like(size)
    relative = None if scaling is None else damping / jnp.square(at.unit)
    return Solved(
        coefficients=step,
        size=size,
        kept=kept,
        singular_values=s * at.unit,
        rank=rank,
        cutoff=cutoff * at.unit,
        condition=jnp.where(rank > 0, s[0] / jnp.where(rank > 0, smallest, 1), unbounded),
        gradient_kept=jnp.where(total > 0, jnp.minimum(share, 1), 1),
        # A decomposition that fails on an accelerator returns NaN; so does a cut of NaN.
        is_finite=at.is_finite & jnp.all(jnp.isfinite(s)) & jnp.isfinite(cutoff),
        slope=slope,
        curvature=curvature,
        damping=relative,
    )


def _scaled(
    at: Coordinates, keep: Array, weights: Array, scaling: Scaling, damping: Array
) -> tuple[Array, Array, Array]:
    """The step t·V q + p but for μ·previous, and slope and curvature of the model of the loss along it.

    In the coordinates of V, and in the units of J and g: q = f(σ) e with e = Uᵀg, its scale left to t, and
    p = μ (1 - σ²/(σ²+λ)) Vᵀprevious, where the bracket removes what the rows of this batch determine. For
    κ = -1 and t = 1 this is the minimiser of ‖ρ - J·step‖² + λ‖step - μ·previous‖², the step of SPRING.
    """
    assert at.cotangent is not None
    # What was cut is left alone by this step, but the previous one may move the rows there.
    is_known = at.s > at.floor * at.s[0]
    s, h = jnp.where(is_known, at.s, 0), scaling.curvature
    e = jnp.where(is_known, at.cotangent, 0)
    q = weights * s * e
    if at.previous is None:
        p = replaced = jnp.zeros_like(q)
    else:
        previous = jnp.where(is_known, at.previous, 0)
        shrink = jnp.where(keep, jnp.square(s) / jnp.where(keep, jnp.square(s) + damping, 1), 0)
        replaced = scaling.momentum * shrink * previous
        p = scaling.momentum * previous - replaced
    has_model = h > 0
    length = jnp.sum(jnp.square(s * q))
    to_rows = at.vector_unit / (at.unit * jnp.where(has_model, h, 1))
    against = to_rows * jnp.sum(s * e * q) - jnp.sum(jnp.square(s) * p * q)
    t = jnp.where(has_model, ratio(against, length), 0)
    change = s * (t * q + p)
    slope = at.unit * at.vector_unit * jnp.sum(e * change)
    curvature = jnp.where(has_model, h, 0) * jnp.sum(jnp.square(at.unit * change))
    return t * q - replaced, slope, curvature


def told(
    solved: Solved,
    direction: Float[Array, " n"],
    gradient_cosine: Float[Array, ""] | None,
    shares: dict[str, Array],
    scaling: Scaling | None,
) -> Direction:
    """A step with what it keeps of the previous one."""
    if scaling is not None and scaling.previous is not None:
        direction = direction + scaling.momentum * scaling.previous
    return Direction(
        direction=direction,
        singular_values=solved.singular_values,
        rank=solved.rank,
        cutoff=solved.cutoff,
        condition=solved.condition,
        gradient_kept=solved.gradient_kept,
        gradient_cosine=gradient_cosine,
        unsettled=jnp.zeros_like(solved.cutoff),
        block_shares=shares,
        is_finite=solved.is_finite,
        slope=solved.slope,
        curvature=solved.curvature,
    )


def shares_of(image: Float[Array, " m"], row_blocks: RowBlocks) -> dict[str, Array]:
    """How the squared norm of a vector of the row side is made up of its blocks."""
    squared, start, sums = jnp.square(image), 0, {}
    for name, size in row_blocks:
        sums[name] = jnp.sum(squared[start : start + size])
        start += size
    total = sum(sums.values(), jnp.zeros((), image.dtype))
    return {name: x / jnp.where(total > 0, total, 1) for name, x in sums.items()}


def ratio(a: Array, b: Array) -> Array:
    """`a` / `b`, and 0 where `b` is not positive."""
    return jnp.where(b > 0, a / jnp.where(b > 0, b, 1), 0)


def unit_of(x: Array) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """As `power_of_two`, but 1 where that is no number to divide by; and whether x is finite."""
    unit, is_finite = power_of_two(x)
    return jnp.where(is_finite & (unit > 0), unit, 1), is_finite


def in_unit(x: Array) -> tuple[Array, Float[Array, ""], Bool[Array, ""]]:
    """A vector over its unit, the unit, and whether it is finite."""
    unit, is_finite = unit_of(x)
    return x / unit, unit, is_finite


def inverse(s: Float[Array, " r"]) -> Float[Array, " r"]:
    """1 / s, and 0 where s is not positive."""
    return jnp.where(s > 0, 1 / jnp.where(s > 0, s, 1), 0)


def cosine(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    """Cosine between two vectors: 1 if both are zero, 0 if one is."""
    a, b = in_unit(a)[0], in_unit(b)[0]
    norm_a, norm_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    product = norm_a * norm_b
    cosine = dot(a, b) / jnp.where(product > 0, product, 1)
    return jnp.where((norm_a == 0) & (norm_b == 0), 1, jnp.clip(cosine, -1, 1))
