"""A matrix that is never held, strip of rows by strip of rows, and the products of it that are summed up."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hig_optax._float64 import Wide, dot, float64_island, power_of_two

Unit = Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class Strips:
    """A matrix S, (p, q), of which a strip of rows can be had at a time."""

    take: Callable[[Int[Array, ""]], Float[Array, "c q"]]
    """``i -> strip i``; rows that belong to none of S are zero."""

    height: int
    """c, rows of a strip."""

    number: int
    """How many strips there are."""

    length: int
    """q."""

    places: np.ndarray
    """Where each of the p rows of S lies among the rows of all strips, (p,)."""

    unit: Unit | None = None
    """A power of two of the size of the largest entry, if it is known; else each strip has its own."""

    @classmethod
    def even(
        cls, take: Callable, *, height: int, size: int, length: int, unit: Unit | None = None
    ) -> "Strips":
        """Strips of a matrix of `size` rows, of which the last may be filled up with zeros."""
        return cls(take, height, -(-size // height), length, np.arange(size, dtype=np.int32), unit)

    @property
    def size(self) -> int:
        """p, rows of S."""
        return self.places.size

    @property
    def indices(self) -> Int[Array, " number"]:
        """What `take` takes."""
        return jnp.arange(self.number, dtype=jnp.int32)

    def padded(self, W: Array) -> Array:
        """The rows of W, (p, ...), strip by strip: (number, c, ...)."""
        rows = jnp.zeros((self.number * self.height, *W.shape[1:]), W.dtype)
        return rows.at[self.places].set(W).reshape(self.number, self.height, *W.shape[1:])

    def scaled(self, i: Int[Array, ""]) -> tuple[Array, Unit]:
        """Strip i in its unit, and the unit: 0 for a strip of zeros, NaN or inf where the strip is."""
        strip = self.take(i)
        unit = power_of_two(strip)[0] if self.unit is None else self.unit
        return strip / or_one(unit), unit


def stacked(strips: Sequence[Strips]) -> Strips:
    """Several matrices of equal length, one below the other; their strips must be of equal height."""
    first, *rest = strips
    if not rest:
        return first
    starts = np.cumsum([0, *(s.number for s in strips)])
    index_of = jnp.asarray(np.repeat(np.arange(len(strips)), np.diff(starts)), jnp.int32)

    def take(i: Array) -> Array:
        return jax.lax.switch(
            index_of[i],
            [
                lambda i, s=s, start=start: s.take(i - start)
                for s, start in zip(strips, starts[:-1].astype(np.int32), strict=True)
            ],
            i,
        )

    places = [s.places + k * first.height for s, k in zip(strips, starts[:-1], strict=True)]
    where = np.concatenate(places).astype(np.int32)
    return Strips(take, first.height, int(starts[-1]), first.length, where)


class Condensed(NamedTuple):
    """All that a step needs to know of a matrix S with p <= q but for products with Sᵀ: in float64."""

    gram: Wide
    """S Sᵀ over the square of the unit, (p, p)."""

    image: Wide
    """S X over the unit, of vectors X that were asked for: (p, k)."""

    unit: Wide
    """A power of two of the size of the largest entry of S; NaN or inf where there is any. ()."""


def condensed_along(S: Strips, X: Float[Array, "q k"]) -> Condensed:
    """S Sᵀ and S X, from two strips at a time.

    Every pair of strips is multiplied once, and S Sᵀ is symmetric, so that half of its products suffice. A
    strip is formed anew for every pair that it is in: for `number` strips (number + 1) / 2 times.
    """
    pairs = block_pairs(S.number)
    products = float64_island(lambda one, other, X: (Wide(dot(one, other.T)), Wide(dot(other, X))))

    def body(one: tuple, pair: Array) -> tuple[tuple, tuple]:
        other = S.scaled(pair[1])
        one = jax.tree.map(lambda new, old: jnp.where(pair[0] == pair[1], new, old), other, one)
        return one, (*products(one[0], other[0], X), other[1])

    if S.number == 1:
        (strip, unit), places = S.scaled(jnp.int32(0)), S.places

        @float64_island
        def whole(S: Array, X: Array, unit: Array) -> tuple[Wide, Wide, Wide]:
            S = S if S.shape[0] == places.size else S[places]
            return Wide(dot(S, S.T)), Wide(dot(S, X)), Wide(or_one(unit))

        return Condensed(*whole(strip, X, unit))
    start = (jnp.zeros((S.height, S.length), X.dtype), jnp.zeros((), X.dtype))
    _, (blocks, images, units) = jax.lax.scan(body, start, jnp.asarray(pairs))
    # What belongs to one strip alone is taken where it meets itself.
    alone = np.flatnonzero(pairs[:, 0] == pairs[:, 1])

    @float64_island
    def assembled(blocks: Array, images: Array, units: Array) -> tuple[Wide, Wide, Wide]:
        unit = or_one(jnp.max(units))
        ratios = or_one(units) / unit
        # Scaled block by block, as they are paired.
        scaled = blocks * jnp.prod(ratios[pairs], axis=1)[:, None, None]
        gram = from_pairs(scaled, S.number)
        image = (images * ratios[:, None, None]).reshape(gram.shape[0], -1)
        if S.size < gram.shape[0]:
            gram, image = gram[S.places][:, S.places], image[S.places]
        return Wide(gram), Wide(image), Wide(unit)

    return Condensed(*assembled(blocks, Wide(images.data[alone]), units[alone]))


def condensed_across(S: Strips, W: Float[Array, "p k"]) -> Condensed:
    """Sᵀ S and Sᵀ W, from one strip at a time: those of the transpose of S."""

    @float64_island
    def added(sums: Any, new: Array, unit: Array, W: Array) -> Condensed:
        gram, image, old = sums
        larger = jnp.where(unit > old, unit, old)
        larger = jnp.where(jnp.isfinite(unit), larger, unit)
        ratio, own = old / or_one(larger), or_one(unit) / or_one(larger)
        return Condensed(
            Wide(jnp.square(ratio) * gram + jnp.square(own) * dot(new.T, new)),
            Wide(ratio * image + own * dot(new.T, W)),
            Wide(larger),
        )

    def body(sums: Condensed, step: tuple[Array, Array]) -> tuple[Condensed, None]:
        index, rows = step
        return added(sums, *S.scaled(index), rows), None

    shapes = ((S.length, S.length), (S.length, W.shape[1]), ())
    start = Condensed(*(Wide.zeros(shape) for shape in shapes))
    sums, _ = jax.lax.scan(body, start, (S.indices, S.padded(W)))
    return sums._replace(unit=float64_island(lambda unit: Wide(or_one(unit)))(sums.unit))


def pulled_along(S: Strips, W: Wide) -> Wide:
    """Sᵀ W, (q, k), for W (p, k), from one strip at a time."""
    added = float64_island(lambda total, new, rows: Wide(total + dot(new.T, rows)))

    def body(total: Wide, step: tuple[Array, Array]) -> tuple[Wide, None]:
        index, rows = step
        return added(total, S.take(index), Wide(rows)), None

    start = Wide.zeros((S.length, W.data.shape[1]))
    return jax.lax.scan(body, start, (S.indices, S.padded(W.data)))[0]


def pulled_across(S: Strips, X: Wide) -> Wide:
    """S X, (p, k), for X (q, k), from one strip at a time."""
    times = float64_island(lambda new, X: Wide(dot(new, X)))
    images = jax.lax.map(lambda index: times(S.take(index), X), S.indices).data
    return Wide(images.reshape(-1, *images.shape[2:])[S.places])


def or_one(unit: Array) -> Array:
    """A number to divide by: 1 in place of 0."""
    return jnp.where(unit == 0, 1, unit)


def block_pairs(number: int) -> np.ndarray:
    """Every pair (i, j), j <= i, of as many blocks: i with itself, then with those before it.

    Example:
        >>> block_pairs(2).tolist()
        [[0, 0], [1, 1], [1, 0]]
    """
    return np.array([(i, j) for i in range(number) for j in (i, *range(i))], np.int32)


def from_pairs(blocks: Float[Array, "pairs c c"], number: int) -> Float[Array, "p p"]:
    """The symmetric matrix whose block (i, j) is that of the pair (i, j) of `block_pairs`."""
    row, column = np.indices((number, number))
    high, low = np.maximum(row, column), np.minimum(row, column)
    placed = blocks[high * (high + 1) // 2 + np.where(high == low, 0, low + 1)]
    turned = jnp.where((row < column)[:, :, None, None], placed.swapaxes(2, 3), placed)
    return turned.transpose(0, 2, 1, 3).reshape(number * blocks.shape[1], -1)
