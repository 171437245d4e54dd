"""Columns of J that belong to the matrix of a dense layer, kept as outer products."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._float64 import Wide, dot, float64_island, power_of_two
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.leaves import Dense
from hig_optax._jacobian.strips import Condensed, or_one


class Factors(NamedTuple):
    """Row i of sample s is Σ_t a[s,t] ⊗ δ[s,i,t], where t counts all that goes through the layer.

    Those are the points that a sample puts through it, the derivatives of each of them that the residual asks
    for, and the places where it is used.
    """

    a: Float[Array, "b t i"]
    """What each sample puts into the layer."""

    delta: Float[Array, "b r t o"]
    """Derivatives of the r rows of each sample by what comes out."""

    @property
    def rows(self) -> int:
        """Rows of all samples."""
        return self.delta.shape[0] * self.delta.shape[1]

    def times(self, other: "Factors") -> Float[Array, "m M"]:
        """J times the transpose of the same columns' J on other samples."""
        (b, r), positions = self.delta.shape[:2], self.a.shape[1]
        (c, q), others = other.delta.shape[:2], other.a.shape[1]
        total = jnp.zeros((b, r, c, q), self.delta.dtype)
        for t in range(positions):
            for u in range(others):
                of_a = dot(self.a[:, t], other.a[:, u].T)[:, None, :, None]
                left = self.delta[:, :, t].reshape(b * r, -1)
                right = other.delta[:, :, u].reshape(c * q, -1)
                total += of_a * dot(left, right.T).reshape(total.shape)
        return total.reshape(b * r, c * q)

    def gram(self) -> Float[Array, "m m"]:
        """J Jᵀ, with the products of every pair of positions once."""
        b, r, positions, _ = self.delta.shape
        total = jnp.zeros((b, r, b, r), self.delta.dtype)
        for t in range(positions):
            for u in range(t + 1):
                of_a = dot(self.a[:, t], self.a[:, u].T)[:, None, :, None]
                left, right = (self.delta[:, :, p].reshape(b * r, -1) for p in (t, u))
                if t == u:
                    total += of_a * _symmetric(left).reshape(b, r, b, r)
                else:
                    term = of_a * dot(left, right.T).reshape(b, r, b, r)
                    total += term + term.transpose(2, 3, 0, 1)
        return total.reshape(b * r, b * r)

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        out = dot(self.a, x.reshape(self.a.shape[2], -1))
        return jnp.einsum("brto,bto->br", self.delta, out, precision="highest").reshape(-1)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        b, r = self.delta.shape[:2]
        out = jnp.einsum("brto,br->bto", self.delta, w.reshape(b, r), precision="highest")
        return jnp.einsum("bti,bto->io", self.a, out, precision="highest").reshape(-1)

    def matrix(self) -> Float[Array, "m n"]:
        """J written out."""
        J = jnp.einsum("brto,bti->brio", self.delta, self.a, precision="highest")
        return J.reshape(self.rows, -1)


@dataclasses.dataclass(frozen=True)
class Outer(Jacobian):
    """J of the matrix W of a dense layer, row by row of W, where it has no more rows than columns.

    With the derivative in factors, a Gram matrix costs m²·out + b²·in products for a pair of positions
    instead of m²·in·out, and nothing of size m·in·out is held: the inner product of two rows is
    Σ_tu (δ[i,t]·δ[j,u]) (a[s,t]·a[s',u]).
    """

    blocks: tuple[Factors, ...]
    """Of each block of rows, one below the other."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        a, delta = self.blocks[0]
        return sum(block.rows for block in self.blocks), a.shape[2] * delta.shape[3]

    @property
    def dtype(self) -> Any:
        """Dtype of the factors."""
        return self.blocks[0].delta.dtype

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """From the factors."""
        assert by_rows, "factors pay where J has no more rows than columns"

        @float64_island
        def condensed(blocks: tuple[Factors, ...], X: Array) -> Condensed:
            unit = bound(blocks)
            scaled = [f._replace(delta=f.delta / or_one(unit)) for f in blocks]
            below = [[*map(f.times, scaled[:i]), f.gram()] for i, f in enumerate(scaled)]
            whole = [
                [below[i][j] if j <= i else below[j][i].T for j in range(len(scaled))]
                for i in range(len(scaled))
            ]
            images = [jax.vmap(f.matvec, 1, 1)(X) for f in scaled]
            image = jnp.concatenate(images)
            return Condensed(Wide(jnp.block(whole)), Wide(image), Wide(or_one(unit)))

        return condensed(self.blocks, X)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, from the factors."""

        @float64_island
        def pulled(blocks: tuple[Factors, ...], W: Array) -> Wide:
            return Wide(jnp.stack([_rmatvec(blocks, w) for w in W.T], axis=1))

        return pulled(self.blocks, W)

    def matrix(self) -> Float[Array, "m n"]:
        """J written out."""
        return jnp.concatenate([block.matrix() for block in self.blocks])

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return jnp.concatenate([block.matvec(x) for block in self.blocks])

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return _rmatvec(self.blocks, w)


def _symmetric(A: Float[Array, "m k"]) -> Float[Array, "m m"]:
    """A Aᵀ in float64, within an island, with every product once where A is large."""
    found = Dense(A).condense(jnp.zeros((A.shape[1], 0), A.dtype), by_rows=True)
    return found.gram.data * jnp.square(found.unit.data)


def bound(blocks: tuple[Factors, ...]) -> Float[Array, ""]:
    """A power of two of about the largest entry of J at most; NaN or inf where a factor is."""
    bounds = []
    for f in blocks:
        a, delta = (jnp.max(jnp.abs(x), initial=0) for x in f)
        bounds.append(f.a.shape[1] * a * delta)
    return power_of_two(jnp.stack(bounds))[0]


def _rmatvec(blocks: tuple[Factors, ...], w: Array) -> Array:
    ends = np.cumsum([block.rows for block in blocks])[:-1]
    pieces = jnp.split(w, ends)
    each = [block.rmatvec(piece) for block, piece in zip(blocks, pieces, strict=True)]
    return sum(each[1:], each[0])
