"""The direction of a step, from a Jacobian and a gradient: one pure function over the parts."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from hig_optax._float64 import dot, float64_island, power_of_two
from hig_optax._jacobian.blocks import Blocks, Dense
from hig_optax._jacobian.shares import ColumnShare, RowShare
from hig_optax._solvers import gram, svd
from hig_optax._solvers.filters import cut, gradient_weights
from hig_optax._solvers.gram import ColumnGram, RowGram
from hig_optax._types import Factors, Known, Scalar

Matrix = Blocks | ColumnShare | RowShare | RowGram | ColumnGram

RowBlocks = tuple[tuple[str, int], ...]
"""Names and numbers of rows of blocks, in the order of the rows."""


class Direction(NamedTuple):
    """A direction, uphill, and what was found on the way; see `Spectrum` for the fields."""

    direction: Float[Array, " n"]
    singular_values: Float[Array, " r"]
    rank: Int[Array, ""]
    cutoff: Float[Array, ""]
    condition: Float[Array, ""]
    captured: Float[Array, ""]
    agreement: Float[Array, ""] | None
    unsettled: Float[Array, ""]
    shares: dict[str, Float[Array, ""]]
    is_finite: Bool[Array, ""]
    slope: Float[Array, ""] | None = None
    """Only of a scaled step: how fast the loss falls along it, gᵀJ·step. Unit: loss."""
    curvature: Float[Array, ""] | None = None
    """Only of a scaled step: second derivative of the model of the loss along it. Unit: loss."""


class Scaling(NamedTuple):
    """What scales a direction to a step: a quadratic model of the loss, h/2·‖ρ - J·step‖² with ρ = g/h."""

    relative_damping: Float[Array, ""]
    """λ over the mean of σ²; added to the absolute damping."""
    curvature: Float[Array, ""]
    """h, second derivative of the loss in the rows: 1 for ½‖rows‖². Not positive: there is no model, and the
    step is zero but for what is kept of the previous one."""
    previous: Float[Array, " n"] | None
    """The last step, of which the rows' own part is replaced and `momentum` times the rest is kept."""
    momentum: Float[Array, ""]
    """Share in [0, 1) of it."""


def half_inverse_direction(
    J: Float[Array, "m n"] | Blocks | ColumnShare | RowShare,
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
) -> Direction:
    """Direction V f(Σ) Uᵀ g for the Jacobian J = U Σ Vᵀ, f(σ) = σ(σ²+λ)^((κ-1)/2) on kept σ.

    Without `cotangent` the incoming gradient x = Jᵀ g takes the place of g: V f(Σ)Σ⁻¹ Vᵀ x. In exact
    arithmetic both are one. In floating point x, computed as Jᵀ g by differentiation, carries a rounding of
    about ε·‖|J|ᵀ|g|‖ in every direction, which σ^(κ-1) magnifies most for the smallest kept σ. The result is
    at least σ₁^(κ-1)·sqrt(captured)·‖x‖ long for κ <= 0, so that relative to it

        error <= c · ε · (σ₁/σ_rank)^(1-κ) · (‖|J|ᵀ|g|‖ / ‖x‖) / sqrt(captured),     c ~ 1 to 10.

    The ratio in brackets says how far the rows cancel in the gradient: it is near one early in training and
    grows without bound at a minimum where the rows do not vanish. The bound covers the rounding of J too,
    unless a singular value lies so close to the cut that rounding decides whether it is kept.

    Args:
        J: (m, n), float32 or float64, whole or in blocks of columns. Unit: row per parameter.
        gradient: (n,), dtype of J: the incoming gradient. Unit: loss per parameter.
        cotangent: (m,), dtype of J: g = ∂loss/∂rows. Unit: loss per row.
        exponent: κ.
        rtol: Relative cut.
        atol: Absolute cut, in the unit of J.
        damping: λ, in the unit of J squared.
        max_rank: Largest number of kept singular values.
        solver: ``"svd"`` works in the dtype of J, ``"gram"`` in float64 wherever the backend has it.
        scaling: If given, the result is a step of its own length, t·V f(Σ) Uᵀ g + p: t minimises the model of
            the loss, and p is what is left of the previous step outside of the rows (see `_scaled`). Needs
            `cotangent`.
        row_blocks: Names and numbers of rows of the blocks that `Direction.shares` tells of.

    Returns:
        A `Direction`, real numbers in the dtype of J, `agreement` None without `cotangent`. If anything that
        went in or the decomposition was NaN or inf, the direction is unspecified and `is_finite` false; an
        overflow of the direction itself is left to the caller, who knows the dtype it must fit.

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022: the update
        built from the half-inverse of the stacked Jacobian.
    """
    J = Blocks((Dense(J),)) if isinstance(J, jax.Array) else J
    previous = None if scaling is None else scaling.previous
    known = tuple(x if x is None else Known(x) for x in (gradient, cotangent, previous))
    settings = tuple(jnp.asarray(x, J.dtype) for x in (exponent, rtol, atol, damping))
    data_eps = float(jnp.finfo(J.dtype).eps)

    def compute(J: Matrix, known: tuple, scaling: Scaling | None, settings: tuple) -> Direction:
        return decompose(
            J,
            known,
            scaling,
            settings,
            max_rank=max_rank,
            solver=solver,
            data_eps=data_eps,
            row_blocks=row_blocks,
        )

    if solver == "gram":
        compute = float64_island(compute)
    return carried_on(compute(J, known, scaling, settings), scaling)


def carried_on(found: Direction, scaling: Scaling | None) -> Direction:
    """A step with what it keeps of the previous one; see `decompose`."""
    if scaling is None or scaling.previous is None:
        return found
    return found._replace(direction=found.direction + scaling.momentum * scaling.previous)


def decompose(
    J: Matrix,
    known: tuple[Known, Known | None, Known | None],
    scaling: Scaling | None,
    settings: tuple[Array, Array, Array, Array],
    *,
    max_rank: int | None,
    solver: Literal["svd", "gram"],
    data_eps: float,
    row_blocks: RowBlocks = (),
) -> Direction:
    """`half_inverse_direction` in the dtype of its arguments, but for what a step keeps of the previous one.

    `known` holds the gradient, the cotangent and the previous step, `settings` exponent, rtol, atol and
    damping. Of a `RowGram` the direction is the vector of the row side from which Jᵀ makes it, and
    `agreement` is left to the caller, who has the products with Jᵀ.
    """
    gradient, cotangent, previous = known
    exponent, rtol, atol, damping = settings
    J, J_unit, J_finite = _in_own_unit(J)
    x_unit, x_finite = unit_of(gradient.vector)
    is_finite = J_finite & x_finite
    gradient = _divided(gradient, x_unit)
    if cotangent is not None:
        g_unit, g_finite = unit_of(cotangent.vector)
        cotangent = _divided(cotangent, g_unit)
        is_finite &= g_finite
    # A decomposition of NaN costs a full iteration, and what it returns depends on the backend.
    J = J.zero_unless(is_finite)
    if solver == "svd":
        assert not isinstance(J, (RowGram, ColumnGram)), "a Gram matrix is no matter for an SVD"
        factors = svd.factorise(J.written_out(), shape=J.shape, devices=J.devices)
    else:
        factors = gram.factorise(J, data_eps=data_eps)
    s = factors.s
    keep, cutoff = cut(s, rtol=rtol, atol=atol / J_unit, floor=factors.floor, max_rank=max_rank)

    if scaling is not None:
        damping += scaling.relative_damping * jnp.square(J_unit) * jnp.mean(jnp.square(s))

    # The weights (σ² + λ)^((κ-1)/2) in the larger of the units of σ and √λ, so that no square overflows.
    root_unit = unit_of(jnp.sqrt(damping))[0]
    h_unit = jnp.where(damping > 0, jnp.maximum(J_unit, root_unit), J_unit)
    weights = gradient_weights(
        s * (J_unit / h_unit),
        keep,
        exponent=exponent,
        damping=jnp.square(jnp.sqrt(damping) / h_unit),
    )

    # Coefficients Vᵀx of the gradient, and their unit in that of the weights.
    if cotangent is None:
        all_coefficients, unit = factors.column_coefficients(gradient), x_unit / h_unit
        total, agreement = jnp.sum(jnp.square(gradient.vector)), None
    else:
        of_rows = factors.row_coefficients(cotangent)
        all_coefficients, unit = s * of_rows, (J_unit / h_unit) * g_unit
        total, agreement = jnp.sum(jnp.square(all_coefficients)), None
        pulled = (
            cotangent.image if isinstance(J, (RowGram, ColumnGram)) else J.rmatvec(cotangent.vector)
        )
        if pulled is not None:
            agreement = cosine(gradient.vector, pulled)
    coefficients = jnp.where(keep, all_coefficients, 0)
    share = jnp.sum(jnp.square(coefficients)) / jnp.where(total > 0, total, 1)

    shares = {}
    if row_blocks:
        assert isinstance(J, Blocks), "a J in blocks of rows is held"
        inverse = jnp.where(keep, 1 / jnp.where(keep, s, 1), 0)
        shares = shares_of(J.matvec(factors.combine(inverse * coefficients)), row_blocks)

    rank = jnp.sum(keep, dtype=jnp.int32)
    smallest = s[jnp.maximum(rank - 1, 0)]
    slope = curvature = None
    if scaling is None:
        direction = factors.combine(weights * coefficients) * (h_unit**exponent * unit)
    else:
        assert cotangent is not None
        direction, slope, curvature = _scaled(
            factors,
            keep,
            weights,
            of_rows,
            previous,
            scaling,
            damping=damping / jnp.square(J_unit),
            J_unit=J_unit,
            g_unit=g_unit,
        )
    return Direction(
        direction=direction,
        singular_values=s * J_unit,
        rank=rank,
        cutoff=cutoff * J_unit,
        condition=jnp.where(rank > 0, s[0] / jnp.where(rank > 0, smallest, 1), jnp.inf),
        captured=jnp.where(total > 0, jnp.minimum(share, 1), 1),
        agreement=agreement,
        unsettled=jnp.zeros_like(cutoff),
        shares=shares,
        # A decomposition that fails on an accelerator returns NaN; so does a cut of NaN.
        is_finite=is_finite & jnp.all(jnp.isfinite(s)) & jnp.isfinite(cutoff),
        slope=slope,
        curvature=curvature,
    )


def _scaled(
    factors: Factors,
    keep: Array,
    weights: Array,
    e: Array,
    previous: Known | None,
    scaling: Scaling,
    *,
    damping: Array,
    J_unit: Array,
    g_unit: Array,
) -> tuple[Array, Array, Array]:
    """The step t·V q + p but for μ·previous, and slope and curvature of the model of the loss along it.

    In the coordinates of V, and in the units of J and g: q = f(σ) e with e = Uᵀg, its scale left to t, and
    p = μ (1 - σ²/(σ²+λ)) Vᵀprevious, where the bracket takes out what the rows decide anew. For κ = -1 and
    t = 1 this is the minimiser of ‖ρ - J·step‖² + λ‖step - μ·previous‖², the step of SPRING.
    """
    # What was cut is left alone by this step, but the previous one may move the rows there.
    is_known = factors.s > factors.floor * factors.s[0]
    s, h = jnp.where(is_known, factors.s, 0), scaling.curvature
    e = jnp.where(is_known, e, 0)
    q = weights * s * e
    if previous is None:
        p = replaced = jnp.zeros_like(q)
    else:
        coefficients = jnp.where(is_known, factors.column_coefficients(previous), 0)
        shrink = jnp.where(keep, jnp.square(s) / jnp.where(keep, jnp.square(s) + damping, 1), 0)
        replaced = scaling.momentum * shrink * coefficients
        p = scaling.momentum * coefficients - replaced
    has_model = h > 0
    length = jnp.sum(jnp.square(s * q))
    to_rows = g_unit / (J_unit * jnp.where(has_model, h, 1))
    against = to_rows * jnp.sum(s * e * q) - jnp.sum(jnp.square(s) * p * q)
    t = jnp.where(has_model, ratio(against, length), 0)
    step = factors.combine(t * q - replaced)
    change = s * (t * q + p)
    slope = J_unit * g_unit * jnp.sum(e * change)
    curvature = jnp.where(has_model, h, 0) * jnp.sum(jnp.square(J_unit * change))
    return step, slope, curvature


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


def _in_own_unit(J: Matrix) -> tuple[Matrix, Float[Array, ""], Bool[Array, ""]]:
    if isinstance(J, (RowGram, ColumnGram)):
        return J, J.unit, jnp.isfinite(J.unit)
    unit, is_finite = unit_of(J.largest())
    return J.divided(unit), unit, is_finite


def _divided(x: Known, unit: Array) -> Known:
    return jax.tree.map(lambda x: x / unit, x)


def unit_of(x: Array) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """As `power_of_two`, but 1 where that is no number to divide by."""
    unit, is_finite = power_of_two(x)
    return jnp.where(is_finite & (unit > 0), unit, 1), is_finite


def cosine(a: Float[Array, " n"], b: Float[Array, " n"]) -> Float[Array, ""]:
    """Cosine between two vectors: 1 if both are zero, 0 if one is."""
    norm_a, norm_b = jnp.linalg.norm(a), jnp.linalg.norm(b)
    product = norm_a * norm_b
    cosine = dot(a, b) / jnp.where(product > 0, product, 1)
    return jnp.where((norm_a == 0) & (norm_b == 0), 1, jnp.clip(cosine, -1, 1))
