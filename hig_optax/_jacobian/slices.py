"""J in slices that are never held together, and what a direction needs of it, summed up over them."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from hig_optax._float64 import Wide, dot, float64_island, power_of_two
from hig_optax._jacobian.blocks import block_pairs, from_pairs, symmetric_product


@dataclasses.dataclass(frozen=True)
class Slices:
    """A matrix S, (p, q), that is J cut by rows, or Jᵀ, which is J cut by columns."""

    take: Callable[[Int[Array, ""]], Float[Array, "c q"]]
    """``i -> slice i``; rows beyond the end of S are zero."""

    height: int
    """c, rows of a slice."""

    size: int
    """p, rows of S."""

    length: int
    """q."""

    @property
    def number(self) -> int:
        """How many slices there are."""
        return -(-self.size // self.height)

    @property
    def indices(self) -> Int[Array, " number"]:
        """What `take` takes."""
        return jnp.arange(self.number, dtype=jnp.int32)

    def padded(self, W: Array) -> Array:
        """The rows of W, (p, ...), slice by slice: (number, c, ...)."""
        rest = self.number * self.height - self.size
        rows = jnp.pad(W, ((0, rest), *((0, 0) for _ in W.shape[1:])))
        return rows.reshape(self.number, self.height, *W.shape[1:])


class Sums(NamedTuple):
    """A Gram matrix of S, not assembled yet, and the image of some vectors."""

    gram: Wide
    """Of S Sᵀ the blocks on and below the diagonal, (pairs, c, c); of SᵀS all, (q, q)."""

    image: Wide
    """S X, (number, c, k), or Sᵀ W, (q, k)."""

    units: Wide
    """Powers of two by which S was divided: for S Sᵀ one a slice, (number,), for SᵀS one, (). NaN or inf
    where S is."""


def sums_along(S: Slices, X: Float[Array, "q k"]) -> Sums:
    """S Sᵀ and S X, from two slices at a time.

    Every pair of slices is multiplied once, and S Sᵀ is symmetric, so that half of its products suffice. A
    slice is formed anew for every pair that it is in: for `number` slices (number + 1) / 2 times.

    Args:
        S: The matrix.
        X: Vectors; k may be 0.

    Returns:
        The sums, for `assemble_along`.
    """
    pairs = block_pairs(S.number)

    @float64_island
    def products(one: Array, other: Array, X: Array) -> tuple[Wide, Wide, Wide]:
        (one, _), (other, unit) = _in_own_unit(one), _in_own_unit(other)
        return Wide(dot(one, other.T)), Wide(dot(other, X)), Wide(unit)

    def body(one: Array, pair: Array) -> tuple[Array, tuple[Wide, Wide, Wide]]:
        other = S.take(pair[1])
        one = jnp.where(pair[0] == pair[1], other, one)
        return one, products(one, other, X)

    start = jnp.zeros((S.height, S.length), X.dtype)
    _, (blocks, images, units) = jax.lax.scan(body, start, jnp.asarray(pairs))
    # What belongs to one slice alone is taken where it meets itself.
    alone = np.flatnonzero(pairs[:, 0] == pairs[:, 1])
    return Sums(blocks, Wide(images.data[alone]), Wide(units.data[alone]))


def assemble_along(
    blocks: Float[Array, "pairs c c"],
    images: Float[Array, "number c k"],
    units: Float[Array, " number"],
    *,
    size: int,
) -> tuple[Float[Array, "p p"], Float[Array, "p k"], Float[Array, ""]]:
    """S Sᵀ, S X and the unit of S in them, from `Sums` that were handed to an island; S has `size` rows."""
    number, height = images.shape[:2]
    unit = _or_one(jnp.max(units))
    ratios = jnp.where(units > 0, units, 1) / unit
    # Scaled block by block, as they are paired.
    scaled = blocks * jnp.prod(ratios[block_pairs(number)], axis=1)[:, None, None]
    gram = from_pairs(scaled, number)[:size, :size]
    image = (images * ratios[:, None, None]).reshape(number * height, -1)[:size]
    return gram, image, unit


def sums_across(S: Slices, W: Float[Array, "p k"]) -> Sums:
    """SᵀS and Sᵀ W, from one slice at a time.

    Args:
        S: The matrix.
        W: Vectors; k may be 0.

    Returns:
        The sums, for `assemble_across`.
    """

    @float64_island
    def added(sums: tuple[Array, Array, Array], new: Array, W: Array) -> tuple[Wide, Wide, Wide]:
        gram, image, unit = sums
        larger = jnp.maximum(unit, power_of_two(new)[0])
        ratio = unit / _or_one(larger)
        new = new / _or_one(larger)
        return (
            Wide(jnp.square(ratio) * gram + symmetric_product(new.T)),
            Wide(ratio * image + dot(new.T, W)),
            Wide(larger),
        )

    def body(sums: Sums, step: tuple[Array, Array]) -> tuple[Sums, None]:
        index, rows = step
        return Sums(*added(tuple(sums), S.take(index), rows)), None

    shapes = ((S.length, S.length), (S.length, W.shape[1]), ())
    start = Sums(*(Wide.zeros(shape) for shape in shapes))
    sums, _ = jax.lax.scan(body, start, (S.indices, S.padded(W)))
    return sums


def assemble_across(
    gram: Float[Array, "q q"], image: Float[Array, "q k"], unit: Float[Array, ""]
) -> tuple[Float[Array, "q q"], Float[Array, "q k"], Float[Array, ""]]:
    """SᵀS, Sᵀ W and the unit of S in them, from `Sums` that were handed to an island."""
    return gram, image, _or_one(unit)


def transposed_product(S: Slices, W: Wide) -> Wide:
    """Sᵀ W, (q, k), for W (p, k), from one slice at a time."""

    @float64_island
    def added(total: Array, new: Array, rows: Array) -> Wide:
        return Wide(total + dot(new.T, rows))

    def body(total: Wide, step: tuple[Array, Array]) -> tuple[Wide, None]:
        index, rows = step
        return added(total, S.take(index), Wide(rows)), None

    start = Wide.zeros((S.length, W.data.shape[1]))
    return jax.lax.scan(body, start, (S.indices, S.padded(W.data)))[0]


def product(S: Slices, X: Wide) -> Wide:
    """S X, (p, k), for X (q, k), from one slice at a time."""
    times = float64_island(lambda new, X: Wide(dot(new, X)))
    images = jax.lax.map(lambda index: times(S.take(index), X), S.indices).data
    return Wide(images.reshape(-1, *images.shape[2:])[: S.size])


def _in_own_unit(A: Array) -> tuple[Array, Array]:
    unit, _ = power_of_two(A)
    return A / _or_one(unit), unit


def _or_one(unit: Array) -> Array:
    return jnp.where(unit == 0, 1, unit)
