"""The direction from the eigenvectors of the Gram matrix of J, on its shorter side, in float64."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._decompositions import eigh
from hig_optax._float64 import Wide, dot, float64_island
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.strips import Condensed
from hig_optax._solvers.formula import (
    Coordinates,
    Direction,
    Numbers,
    RowBlocks,
    Scaling,
    Solved,
    cosine,
    in_unit,
    inverse,
    shares_of,
    solve,
    told,
)

# An eigenvalue of the Gram matrix carries an error of about ε·σ₁², so a singular value below sqrt(ε)·σ₁
# is noise. Rank-deficient float64 matrices from 8x20 to 600x600 left at most 3.2 sqrt(ε)·σ₁ (see
# test_factorisations.py); 8 leaves room for other summation orders. In float64 that is 1.2e-7.
FLOOR_IN_SQRT_EPS = 8

# A float32 J decomposed in float64 has only its own rounding: dependent rows left 0.2 ε·σ₁ there, and
# differentiation through physics a few times that.
DATA_FLOOR_IN_EPS = 4


class Eigen(NamedTuple):
    """Of S Sᵀ = Q Σ² Qᵀ, where S is J or Jᵀ, whichever has fewer rows."""

    s: Float[Array, " r"]
    """Square roots of the eigenvalues, descending, over the unit of J."""

    Q: Float[Array, "r r"]
    """Eigenvectors, in columns: U where S is J, else V."""

    unit: Float[Array, ""]
    """Unit of J."""

    is_finite: Bool[Array, ""]
    """Whether J is finite."""


def condense(
    J: Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    previous: Float[Array, " n"] | None,
) -> Condensed:
    """The Gram matrix of J, and the images of those vectors of a step that belong to its long side."""
    by_rows = J.shape[0] <= J.shape[1]
    long = [gradient if cotangent is None else None, previous] if by_rows else [cotangent]
    asked = [x.astype(J.dtype) for x in long if x is not None]
    side = J.shape[1] if by_rows else J.shape[0]
    X = jnp.stack(asked, axis=1) if asked else jnp.zeros((side, 0), J.dtype)
    return J.condense(X, by_rows=by_rows)


def direction(
    J: Jacobian,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"] | None,
    numbers: Numbers,
    *,
    scaling: Scaling | None = None,
    row_blocks: RowBlocks = (),
    condensed: Condensed | None = None,
) -> Direction:
    """The direction V f(Σ) Uᵀ g, see `hig_optax._solvers.direction`; of a J that was condensed, from that.

    The long side's vectors are never formed: Vᵀx = Σ⁻¹ Uᵀ J x and V c = Jᵀ U Σ⁻¹ c where J has no more rows
    than columns.
    """
    by_rows = J.shape[0] <= J.shape[1]
    previous = None if scaling is None else scaling.previous
    condensed = condense(J, gradient, cotangent, previous) if condensed is None else condensed
    eps = float(jnp.finfo(J.dtype).eps)

    def compute(
        gram: Array, image: Array, unit: Array, given: tuple, numbers: Numbers
    ) -> tuple[Solved, Wide, Array | None, Array, tuple[Wide, Wide, Wide] | None]:
        gradient, cotangent, scaling = given
        at = eigen(gram, unit)
        images = iter(image.T)

        def coefficients(
            x: Array | None, *, is_long: bool, unit: Array | float = 1
        ) -> Array | None:
            """Of a vector in the singular basis; of one of the long side the image is known."""
            if x is None:
                return None
            if is_long:
                return inverse(at.s) * dot(next(images) / unit, at.Q)
            return dot(x / unit, at.Q)

        _, x_unit, x_finite = in_unit(gradient)
        if cotangent is None:
            vector_unit, is_finite = x_unit, x_finite
        else:
            _, vector_unit, g_finite = in_unit(cotangent)
            is_finite = x_finite & g_finite
        gradient_cosine = None
        if cotangent is not None and not by_rows:
            gradient_cosine = cosine(gradient, image[:, 0])
        counted = gradient if cotangent is None else None
        coordinates = Coordinates(
            s=at.s,
            floor=floor(gram.dtype, eps),
            unit=at.unit,
            gradient=coefficients(counted, is_long=by_rows, unit=x_unit),
            cotangent=coefficients(cotangent, is_long=not by_rows, unit=vector_unit),
            vector_unit=vector_unit,
            total=jnp.sum(jnp.square(gradient / x_unit)),
            previous=coefficients(None if scaling is None else scaling.previous, is_long=by_rows),
            is_finite=at.is_finite & is_finite,
        )
        solved = solve(coordinates, numbers, scaling)
        # By rows the vector of the row side from which Jᵀ makes the direction, and beside it the one that
        # makes what the gradient is compared with.
        vectors = [back(at, solved.coefficients * solved.size, by_rows=by_rows)]
        if by_rows and cotangent is not None:
            vectors.append(cotangent)
        keep_u = solved.kept if by_rows else inverse(at.s) * solved.kept
        again = None
        if solved.damping is not None:
            again = Wide(at.Q), Wide(1 / (jnp.square(at.s) + solved.damping)), Wide(at.unit)
        return solved, Wide(jnp.stack(vectors, axis=1)), gradient_cosine, dot(at.Q, keep_u), again

    given = (gradient, cotangent, scaling)
    solved, W, gradient_cosine, kept, again = float64_island(compute)(*condensed, given, numbers)

    def finish(W: Array, gradient: Array) -> tuple[Array, Array | None]:
        return W[:, 0], cosine(gradient, W[:, 1]) if W.shape[1] > 1 else None

    found, of_rows = float64_island(finish)(J.pull(W) if by_rows else W, gradient)
    shares = shares_of(kept if by_rows else J.matvec(kept), row_blocks) if row_blocks else {}
    step = told(solved, found, of_rows if by_rows else gradient_cosine, shares, scaling)
    if again is None:
        return step
    Q, weights, unit = again
    by_eigenvectors = lambda b, Q, weights: dot(Q, weights * dot(b, Q))  # noqa: E731
    return step._replace(inverse=damped_inverse(J, unit, by_eigenvectors, Q, weights))


def damped_inverse(
    J: Jacobian, unit: Wide, solve: Callable[..., Array], *factors: Wide
) -> Callable[[Float[Array, " m"]], Float[Array, " n"]]:
    """``r -> V Σ(Σ²+λ)⁻¹ Uᵀ r``: Jᵀ(JJᵀ+λ)⁻¹ r or (JᵀJ+λ)⁻¹ Jᵀr, by a factorisation at hand.

    Nothing is cut: no singular value is divided by alone, so that those in the noise of the Gram matrix do
    what the damping lets them.

    Args:
        J: The Jacobian, whose shorter side is solved on.
        unit: Of the Gram matrix that was factorised.
        solve: ``(b, *factors) -> (S Sᵀ + λ)⁻¹ b``, over the square of the unit.
        factors: What that needs.
    """
    by_rows = J.shape[0] <= J.shape[1]

    @float64_island
    def solved(b: Array, unit: Array, *factors: Array) -> Wide:
        return Wide((solve(b[:, 0] / unit, *factors) / unit)[:, None])

    def inverse(r: Float[Array, " m"]) -> Float[Array, " n"]:
        b = Wide.of(r[:, None])
        # Jᵀ in float64 on either side: the factors magnify the rounding of what they are given.
        found = J.pull(solved(b, unit, *factors)) if by_rows else solved(J.pull(b), unit, *factors)
        return found.narrowed(r.dtype)[:, 0]

    return inverse


def eigen(gram: Float[Array, "r r"], unit: Float[Array, ""]) -> Eigen:
    """Decompose a Gram matrix; of one that is not finite, that of zeros.

    A decomposition of NaN costs a full iteration, and what it returns depends on the backend.
    """
    is_finite = jnp.isfinite(unit)
    gram = jnp.where(is_finite, gram, 0)
    eigenvalues, vectors = eigh(gram)
    # The smallest eigenvalues of a semidefinite matrix come out on either side of zero.
    s = jnp.sqrt(jnp.maximum(eigenvalues[::-1], 0))
    return Eigen(s, vectors[:, ::-1], jnp.where(is_finite, unit, 1), is_finite)


def floor(dtype: jnp.dtype, data_eps: float) -> float:
    """Share of σ₁ that is noise: of a Gram matrix in `dtype`, of a J with rounding `data_eps`."""
    eps = float(jnp.finfo(dtype).eps)
    return max(FLOOR_IN_SQRT_EPS * eps**0.5, DATA_FLOOR_IN_EPS * data_eps)


def back(at: Eigen, c: Array, *, by_rows: bool) -> Array:
    """V c, or the w with Jᵀw = V c."""
    return dot(at.Q, inverse(at.s) * c) / at.unit if by_rows else dot(at.Q, c)
