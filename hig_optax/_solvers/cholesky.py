"""Damped steps at κ = -1 from a Cholesky factor of the Gram matrix, without singular values."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from hig_optax._decompositions import cho_solve, cholesky
from hig_optax._float64 import Wide, float64_island
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.strips import Condensed
from hig_optax._solvers.formula import Direction, RowBlocks, cosine
from hig_optax._solvers.gram import damped_inverse

# From one damping that leaves the matrix indefinite in rounding to the next, and how often that is tried.
RAISED, TRIALS = 4.0, 8


class Damped(NamedTuple):
    """S Sᵀ + λ = L Lᵀ, where S is J or Jᵀ, whichever has fewer rows."""

    L: Wide
    """Over the unit of J."""
    unit: Wide
    """Of J; 1 where it is not finite."""
    is_finite: Bool[Array, ""]
    """Whether J is."""
    condition: Float[Array, ""]
    """A lower bound of that of J, damped: the largest entry of the diagonal of L over the smallest."""


def factorise(condensed: Condensed, relative_damping: Float[Array, ""]) -> Damped:
    """Factorise with λ a multiple of the mean of σ², raised where rounding leaves the sum indefinite."""

    @float64_island
    def factorised(gram: Array, unit: Array, relative: Array) -> Damped:
        is_finite = jnp.isfinite(unit)
        gram = jnp.where(is_finite, gram, 0)
        mean = jnp.trace(gram) / gram.shape[0]
        mean = jnp.where(mean > 0, mean, 1)

        def factor(damping: Array) -> Array:
            return cholesky(gram + damping * jnp.eye(gram.shape[0], dtype=gram.dtype))

        def is_wanted(carry: tuple[Array, Array, Array]) -> Array:
            number, _, L = carry
            return (number < TRIALS) & ~jnp.all(jnp.isfinite(L))

        def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            number, damping, _ = carry
            return number + 1, RAISED * damping, factor(RAISED * damping)

        first = relative * mean
        _, _, L = jax.lax.while_loop(is_wanted, again, (jnp.int32(0), first, factor(first)))
        diagonal = jnp.diagonal(L)
        condition = jnp.max(diagonal) / jnp.min(diagonal)
        return Damped(Wide(L), Wide(jnp.where(is_finite, unit, 1)), is_finite, condition)

    return factorised(condensed.gram, condensed.unit, relative_damping)


def inverse_of(J: Jacobian, damped: Damped) -> Callable[[Float[Array, " m"]], Float[Array, " n"]]:
    """The damped inverse of J, see `damped_inverse`."""

    def solve(b: Array, L: Array) -> Array:
        return cho_solve(L, b)

    return damped_inverse(J, damped.unit, solve, damped.L)


def told(
    J: Jacobian,
    damped: Damped,
    gradient: Float[Array, " n"],
    cotangent: Float[Array, " m"],
    row_blocks: RowBlocks,
) -> Direction:
    """What is known of J without its singular values; the step itself is told apart."""
    zero = jnp.zeros((), J.dtype)
    return Direction(
        direction=jnp.zeros_like(gradient),
        singular_values=jnp.zeros((min(J.shape),), J.dtype),
        rank=jnp.int32(-1),
        cutoff=zero,
        condition=damped.condition.astype(J.dtype),
        gradient_kept=jnp.ones((), J.dtype),
        gradient_cosine=cosine(gradient, J.rmatvec(cotangent)),
        unsettled=zero,
        block_shares={name: zero for name, _ in row_blocks},
        is_finite=damped.is_finite
        & jnp.all(jnp.isfinite(gradient))
        & jnp.all(jnp.isfinite(cotangent)),
    )
