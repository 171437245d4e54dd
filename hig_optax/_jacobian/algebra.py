"""What a Jacobian is to those who use it, and the plain ways to have one."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import Wide, dot, float64_island, power_of_two
from hig_optax._jacobian.strips import (
    Condensed,
    Strips,
    condensed_across,
    condensed_along,
    or_one,
    pulled_across,
    pulled_along,
)

# A strip of a matrix that is held: a quarter of its rows, within bounds. Below twice the lower one, and for
# short rows, whose products cost no more than putting them together, there is one strip.
_LEAST_ROWS, _MOST_ROWS, _SHORT = 128, 256, 128


class Jacobian(abc.ABC):
    """J, (m, n), float32 or float64, as far as solvers know it.

    With S = J where ``by_rows`` and S = Jᵀ elsewhere (S is to have no more rows than columns), the exact
    solvers need S Sᵀ, products of S with some vectors, and products with Sᵀ, all of it in float64; the
    others need products in the dtype of J.
    """

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, n), with the rows of all devices."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Dtype of the entries."""

    @property
    def devices(self) -> Devices | None:
        """Those that share J."""
        return None

    @abc.abstractmethod
    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """S Sᵀ, S X and their unit; of devices alike on all."""

    @abc.abstractmethod
    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, (n, k), in float64, for W (m, k)."""

    @abc.abstractmethod
    def matrix(self) -> Float[Array, "m n"]:
        """J written out; of devices this one's share of its long side."""

    @abc.abstractmethod
    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``, in the dtype of J."""

    @abc.abstractmethod
    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``, in the dtype of J."""


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


@dataclasses.dataclass(frozen=True)
class Beside(Jacobian):
    """J made of matrices that lie side by side, each of which stands for some of the columns."""

    parts: tuple[Jacobian, ...]

    columns: tuple[np.ndarray, ...]
    """Which columns each part is, in its order."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    @property
    def dtype(self) -> Any:
        """Dtype of all parts."""
        return self.parts[0].dtype

    @property
    def devices(self) -> Devices | None:
        """Those that share all parts."""
        return self.parts[0].devices

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """The sum of what the parts have, in the largest of their units; of columns, of all written out."""
        if not by_rows:
            return Dense(self.matrix()).condense(X, by_rows=False)
        each = [
            part.condense(X[columns], by_rows=True)
            for part, columns in zip(self.parts, self.columns, strict=True)
        ]
        return summed(each)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, part by part."""
        found = [part.pull(W).data for part in self.parts]
        return Wide(jnp.concatenate(found)[self._order()])

    def matrix(self) -> Float[Array, "m n"]:
        """The parts written out."""
        written = jnp.concatenate([part.matrix() for part in self.parts], axis=1)
        return written[:, self._order()]

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        each = [p.matvec(x[columns]) for p, columns in zip(self.parts, self.columns, strict=True)]
        return sum(each[1:], each[0])

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return jnp.concatenate([part.rmatvec(w) for part in self.parts])[self._order()]

    def _order(self) -> np.ndarray:
        return np.argsort(np.concatenate(self.columns)).astype(np.int32)


def summed(each: Sequence[Condensed]) -> Condensed:
    """The sum of what several matrices with the same rows have, in the largest of their units."""
    if len(each) == 1:
        return each[0]

    @float64_island
    def added(each: list[Any]) -> Condensed:
        units = jnp.stack([x.unit for x in each])
        # `max` may prefer the larger of a number and NaN on some backends.
        unit = jnp.where(jnp.all(jnp.isfinite(units)), or_one(jnp.max(units)), jnp.nan)
        ratios = or_one(units) / unit
        gram = sum(jnp.square(r) * x.gram for r, x in zip(ratios, each, strict=True))
        image = sum(r * x.image for r, x in zip(ratios, each, strict=True))
        return Condensed(Wide(gram), Wide(image), Wide(unit))

    return added(list(each))
