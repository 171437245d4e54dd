"""The plain ways to have a Jacobian: held, in chunks, or by products alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._float64 import Wide, dot, float64_island, power_of_two
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.strips import (
    Condensed,
    Strips,
    condensed_across,
    condensed_along,
    pulled_across,
    pulled_along,
)

# A strip of a matrix that is held: a quarter of its rows, within bounds. Below twice the lower one, and for
# short rows, whose products cost no more than putting them together, there is one strip.
_LEAST_ROWS, _MOST_ROWS, _SHORT = 128, 256, 128


@dataclasses.dataclass(frozen=True)
class Dense(Jacobian):
    """J as it is."""

    J: Float[Array, "m n"]

    most_rows: int | None = None
    """Rows of a strip, at most, where memory is short."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        m, n = self.J.shape
        return m, n

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.J.dtype

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """In strips, so that no second J is held in float64."""
        return condensed_along(self._strips(by_rows=by_rows), X)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, as in `condense`."""
        if self.J.dtype == jnp.float64:
            return Wide(dot(W.data.T, self.J).T)
        strips = self._strips(by_rows=True)
        if strips.number > 1:
            return pulled_along(strips, W)
        return float64_island(lambda J, W: Wide(dot(W.T, J).T))(self.J, W)

    def matrix(self) -> Float[Array, "m n"]:
        """J itself."""
        return self.J

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return dot(self.J, x)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return dot(w, self.J)

    def _strips(self, *, by_rows: bool) -> Strips:
        axis = 0 if by_rows else 1
        p, q = self.J.shape[axis], self.J.shape[1 - axis]
        number = 1
        if p >= 2 * _LEAST_ROWS and q >= _SHORT:
            most = min(max(p // 4, _LEAST_ROWS), _MOST_ROWS)
            number = -(-p // (most if self.most_rows is None else min(most, self.most_rows)))
        height = -(-p // number)
        rest = number * height - p
        J = self.J
        if rest:
            J = jnp.pad(J, ((0, rest), (0, 0)) if by_rows else ((0, 0), (0, rest)))

        def take(i: Array) -> Array:
            strip = J if number == 1 else jax.lax.dynamic_slice_in_dim(J, i * height, height, axis)
            return strip if by_rows else strip.T

        unit = power_of_two(self.J)[0]
        return Strips.even(take, height=height, size=p, length=q, unit=unit)


@dataclasses.dataclass(frozen=True)
class Chunked(Jacobian):
    """J that is formed anew, some rows or some columns at a time, whenever it is asked for."""

    strips: Strips
    """Of J, or of Jᵀ."""

    are_rows: bool
    """Whether they are of J."""

    of: Any
    """Dtype of the entries."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        p, q = self.strips.size, self.strips.length
        return (p, q) if self.are_rows else (q, p)

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.of

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """From two strips at a time, or one where they lie across S."""
        along = self.are_rows == by_rows
        return (condensed_along if along else condensed_across)(self.strips, X)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, strip by strip.

        That is not left to one pullback of W in the dtype of J: a step by a Gram matrix is Jᵀw with a w that
        is large where singular values are small, and in Jᵀw those parts cancel.
        """
        return (pulled_along if self.are_rows else pulled_across)(self.strips, W)

    def matrix(self) -> Float[Array, "m n"]:
        """J written out."""
        S = jax.lax.map(self.strips.take, self.strips.indices)
        S = S.reshape(-1, S.shape[-1])[self.strips.places]
        return S if self.are_rows else S.T

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``, strip by strip."""
        product = (pulled_across if self.are_rows else pulled_along)(
            self.strips, Wide.of(x[:, None])
        )
        return product.narrowed(self.of)[:, 0]

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``, strip by strip."""
        return self.pull(Wide.of(w[:, None])).narrowed(self.of)[:, 0]


@dataclasses.dataclass(frozen=True)
class Products(Jacobian):
    """J of which nothing is formed: products with it are all there is."""

    push: Callable[[Float[Array, " n"]], Float[Array, " m"]]
    """``x -> J x``."""

    back: Callable[[Float[Array, " m"]], Float[Array, " n"]]
    """``w -> Jᵀ w``."""

    size: tuple[int, int]
    """(m, n)."""

    of: Any
    """Dtype of the vectors."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.size

    @property
    def dtype(self) -> Any:
        """Dtype of the vectors."""
        return self.of

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """As for J written out."""
        return Dense(self.matrix()).condense(X, by_rows=by_rows)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, vector by vector, no better than the dtype of J."""
        return Wide.of(jax.vmap(self.back)(W.narrowed(self.of).T).T)

    def matrix(self) -> Float[Array, "m n"]:
        """J, by as many products as its short side is long."""
        m, n = self.size
        if m <= n:
            return jax.vmap(self.back)(jnp.eye(m, dtype=self.of))
        return jax.vmap(self.push)(jnp.eye(n, dtype=self.of)).T

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return self.push(x)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return self.back(w)
