"""J as blocks of columns, some of them written out and some as outer products."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hig_optax._float64 import dot


class Dense(NamedTuple):
    """Columns of J as they are."""

    J: Float[Array, "m n"]

    @property
    def size(self) -> int:
        """Number of columns."""
        return self.J.shape[1]

    def largest(self) -> Float[Array, ""]:
        """The largest absolute entry."""
        return jnp.max(jnp.abs(self.J), initial=0)

    def divided(self, unit: Array) -> "Dense":
        """The block in another unit."""
        return Dense(self.J / unit)

    def gram(self) -> Float[Array, "m m"]:
        """J Jᵀ."""
        return symmetric_product(self.J)

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return dot(self.J, x)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return dot(w, self.J)

    def written_out(self) -> Float[Array, "m n"]:
        """J itself."""
        return self.J


class Outer(NamedTuple):
    """Columns that belong to a matrix W of a dense layer: row i of sample s is Σ_t a[s,t] ⊗ δ[i,t].

    With the parameters' derivative in factors, a Gram matrix costs m²·out + b²·in products a position
    instead of m²·in·out, and nothing of size m·in·out is held: the inner product of two rows is
    Σ_tu (δ[i,t]·δ[j,u]) (a[s,t]·a[s',u]).
    """

    a: Float[Array, "b t i"]
    """What each sample puts into the layer, at each of t positions."""

    delta: Float[Array, "b r t o"]
    """Derivatives of the r rows of each sample by what comes out, position by position."""

    @property
    def size(self) -> int:
        """Number of columns, those of W, row by row."""
        return self.a.shape[2] * self.delta.shape[3]

    def largest(self) -> Float[Array, ""]:
        """A bound of the largest absolute entry."""
        positions = self.a.shape[1]
        bounds = [jnp.max(jnp.abs(x), initial=0) for x in self]
        return positions * bounds[0] * bounds[1]

    def divided(self, unit: Array) -> "Outer":
        """The block in another unit."""
        return Outer(self.a, self.delta / unit)

    def gram(self) -> Float[Array, "m m"]:
        """J Jᵀ."""
        b, r, positions, _ = self.delta.shape
        total = jnp.zeros((b, r, b, r), self.delta.dtype)
        for t in range(positions):
            for u in range(t + 1):
                of_a = dot(self.a[:, t], self.a[:, u].T)[:, None, :, None]
                left, right = (self.delta[:, :, p].reshape(b * r, -1) for p in (t, u))
                if t == u:
                    total += of_a * symmetric_product(left).reshape(b, r, b, r)
                else:
                    term = of_a * dot(left, right.T).reshape(b, r, b, r)
                    total += term + term.transpose(2, 3, 0, 1)
        return total.reshape(b * r, b * r)

    def gram_with(self, other: "Outer") -> Float[Array, "m M"]:
        """J times the transpose of the same columns' J on other samples."""
        b, r, positions, _ = self.delta.shape
        rows = other.delta.shape[0] * r
        total = jnp.zeros((b, r, rows // r, r), self.delta.dtype)
        for t in range(positions):
            for u in range(positions):
                of_a = dot(self.a[:, t], other.a[:, u].T)[:, None, :, None]
                left = self.delta[:, :, t].reshape(b * r, -1)
                right = other.delta[:, :, u].reshape(rows, -1)
                total += of_a * dot(left, right.T).reshape(total.shape)
        return total.reshape(b * r, rows)

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        out = dot(self.a, x.reshape(self.a.shape[2], -1))
        return jnp.einsum("brto,bto->br", self.delta, out, precision="highest").reshape(-1)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        b, r = self.delta.shape[:2]
        out = jnp.einsum("brto,br->bto", self.delta, w.reshape(b, r), precision="highest")
        return jnp.einsum("bti,bto->io", self.a, out, precision="highest").reshape(-1)

    def written_out(self) -> Float[Array, "m n"]:
        """J itself."""
        J = jnp.einsum("bti,brto->brio", self.a, self.delta, precision="highest")
        return J.reshape(-1, self.size)


class Blocks(NamedTuple):
    """J, block of columns by block of columns, in the order of the parameters."""

    blocks: tuple[Dense | Outer, ...]

    @property
    def devices(self) -> None:
        """J is not shared."""
        return

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        block = self.blocks[0]
        rows = block.J.shape[0] if isinstance(block, Dense) else math.prod(block.delta.shape[:2])
        return rows, sum(block.size for block in self.blocks)

    @property
    def dtype(self) -> Any:
        """Dtype of all blocks."""
        return self.blocks[0][0].dtype

    def largest(self) -> Float[Array, ""]:
        """The largest absolute entry, or a bound a little above it; NaN or inf if there is any."""
        return jnp.max(jnp.stack([block.largest() for block in self.blocks]))

    def divided(self, unit: Array) -> "Blocks":
        """J in another unit."""
        return Blocks(tuple(block.divided(unit) for block in self.blocks))

    def zero_unless(self, condition: Bool[Array, ""]) -> "Blocks":
        """J, or zeros."""
        return Blocks(tuple(type(b)(*(jnp.where(condition, x, 0) for x in b)) for b in self.blocks))

    def gram(self) -> Float[Array, "m m"]:
        """J Jᵀ."""
        first, *rest = (block.gram() for block in self.blocks)
        return sum(rest, first)

    def column_gram(self) -> Float[Array, "n n"]:
        """JᵀJ."""
        return symmetric_product(self.written_out().T)

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        ends = np.cumsum([block.size for block in self.blocks])[:-1]
        pieces = jnp.split(x, ends)
        first, *rest = (b.matvec(piece) for b, piece in zip(self.blocks, pieces, strict=True))
        return sum(rest, first)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return jnp.concatenate([block.rmatvec(w) for block in self.blocks])

    def written_out(self) -> Float[Array, "m n"]:
        """J itself."""
        return jnp.concatenate([block.written_out() for block in self.blocks], axis=1)


# A block of rows of a symmetric product: a quarter of them, within bounds. Below twice the lower one, and for
# short rows, whose products cost no more than putting them together, there is one block.
_LEAST_ROWS, _MOST_ROWS, _SHORT = 128, 256, 128


def symmetric_product(A: Float[Array, "m k"]) -> Float[Array, "m m"]:
    """A Aᵀ with little more than half of the products: each pair of blocks of rows is multiplied once.

    In a loop over the pairs, so that only two blocks are copied at a time: halving A again and again took as
    long, and XLA held the halves of all levels (446 MiB beside an A of 148 MiB; here 79). On one core
    1024×18944 takes 665 ms instead of 1006, 512×2956 28 instead of 33.
    """
    m, k = A.shape
    if m < 2 * _LEAST_ROWS or k < _SHORT:
        return dot(A, A.T)
    number = -(-m // min(max(m // 4, _LEAST_ROWS), _MOST_ROWS))
    height = -(-m // number)
    padded = jnp.pad(A, ((0, number * height - m), (0, 0)))

    def multiplied(pair: Int[Array, " 2"]) -> Array:
        one, other = (
            jax.lax.dynamic_slice_in_dim(padded, pair[i] * height, height) for i in range(2)
        )
        return dot(one, other.T)

    blocks = jax.lax.map(multiplied, jnp.asarray(block_pairs(number)))
    return from_pairs(blocks, number)[:m, :m]


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
