"""Fewer rows in place of those of each sample, where they say much the same: a sketch of J.

The rows of one trajectory, or of one field that a few numbers control, depend on each other. With an
orthonormal basis C of what they can do, J is C Cᵀ J, and Cᵀ J has a row for each column of C.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from hig_optax._decompositions import qr
from hig_optax._inputs.batch import Samples
from hig_optax._inputs.real_view import RealView
from hig_optax._inputs.residual import Rows
from hig_optax._jacobian.rows import Block, Residual, mapped

# Rows that a sketch aims at, all samples together, and has of a sample at least. With 16 samples of 160 (the
# neural ODE) or 128 rows (the controlled front) losses after 5 s, seed 100, were 4.1e-8 and 1.5e-7 for an aim
# of 128, 1.3e-7 and 4.3e-7 for 192, 5.2e-7 and 1.3e-6 for 256: decompositions take the time.
AIM, LEAST = 128, 8

# How many times fewer the rows of a sample, and the shorter side of J, have to become for a sketch to pay.
FEWER_ROWS, SHORTER_SIDE = 2, 4


class Sketch(NamedTuple):
    """Cᵀ y in place of the rows y of each sample."""

    residual: Residual
    """Of the rows that are left."""

    full: Residual
    """Of all rows."""

    bases: tuple[Float[Array, "b r k"] | None, ...]
    """C of the samples of this device, block by block; None where all rows are left."""

    def of(self, w: Float[Array, " m"]) -> Float[Array, " k"]:
        """A vector of the row side, sample by sample Cᵀ w."""
        pieces = []
        for piece, C in zip(self.full.split(w), self.bases, strict=True):
            if C is not None:
                rows = piece.reshape(C.shape[:2])
                piece = jnp.einsum("brk,br->bk", C, rows, precision="highest").reshape(-1)
            pieces.append(piece.astype(w.dtype))
        return self.residual.gathered(jnp.concatenate(pieces))


def rows_left(residual: Residual, columns: int, wanted: int | str | None) -> tuple[int | None, ...]:
    """How many rows of each sample a sketch has, block by block; None where all of them stay.

    Args:
        residual: The rows.
        columns: n.
        wanted: A number, None for all, or "auto": some 128 rows for all samples together, 8 for each at
            least, where that is at most half of a sample's rows and a quarter of the shorter side of J.
    """
    blocks = residual.blocks
    if wanted is None or residual.is_forward_only:
        return (None,) * len(blocks)
    is_given = isinstance(wanted, int)
    left: list[int | None] = []
    for block in blocks:
        rows = block.rows.view.size
        number = wanted if isinstance(wanted, int) else max(LEAST, AIM // (block.total or 1))
        most = rows - 1 if is_given else rows // FEWER_ROWS
        left.append(number if block.total is not None and number <= most else None)
    kept = [b.size if k is None else k * (b.total or 1) for b, k in zip(blocks, left, strict=True)]
    if not is_given and SHORTER_SIDE * sum(kept) > min(residual.size, columns):
        return (None,) * len(blocks)
    return tuple(left)


def shortened(residual: Residual, left: tuple[int | None, ...]) -> Residual:
    """The residual of a sketch with these numbers of rows, where only its shapes matter."""
    bases: list[Array | None] = []
    for block, number in zip(residual.blocks, left, strict=True):
        samples, view = block.samples.size or 1, block.rows.view
        shape = (samples, view.size, number)
        bases.append(None if number is None else jnp.zeros(shape, view.highest_dtype))
    return _shortened(residual, bases)


def sketch(
    residual: Residual,
    columns: tuple[Array, ...],
    cotangent: Float[Array, " m"],
    left: tuple[int | None, ...],
    *,
    seed: Int[Array, ""] | int,
    chunk_size: int | None,
) -> Sketch:
    """The rows of each sample that a few random changes of the parameters move, and the cotangent among them.

    C spans J Ω for a Gaussian Ω, the same for all samples, which finds the range of J if that is smaller
    than C, and nearly the best basis of its size where singular values fall fast. The first vector is the
    cotangent g, so that the gradient Jᵀg is exact whatever C leaves out. Where the rows have no forward rule
    C spans g and random vectors instead.

    Args:
        residual: All rows.
        columns: Real parts of the parameters.
        cotangent: g = ∂loss/∂rows, of all devices.
        left: Columns of C, block by block; None where all rows stay.
        seed: Of Ω; another one in every step, and the same on all devices.
        chunk_size: Samples that are differentiated at once.

    References:
        Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 53 (2011) 217, algorithm
        4.1: the range of a matrix from its products with random vectors.
    """
    key, own = jax.random.fold_in(jax.random.key(0), seed), residual.split(cotangent)
    bases = [
        None
        if number is None
        else _bases(block, columns, g, number - 1, jax.random.fold_in(key, i), chunk_size)
        for i, (block, g, number) in enumerate(zip(residual.blocks, own, left, strict=True))
    ]
    return Sketch(_shortened(residual, bases), residual, tuple(bases))


def _bases(
    block: Block,
    columns: tuple[Array, ...],
    g: Float[Array, " r"],
    number: int,
    key: Array,
    chunk_size: int | None,
) -> Float[Array, "b r k"]:
    rows, samples = block.rows, block.samples
    r, dtype = rows.view.size, rows.view.highest_dtype
    keys = jax.random.split(key, len(columns))
    directions = tuple(
        jax.random.normal(k, (number, *part.shape), part.dtype)
        for k, part in zip(keys, columns, strict=True)
    )

    def basis(given: tuple[tuple[Any, ...], Array]) -> Array:
        entries, g = given
        if rows.has_custom_vjp:
            moved = jax.random.normal(key, (number, r), dtype)
        else:
            moved = jax.vmap(
                lambda t: jax.jvp(lambda p: rows.evaluate(p, entries), (columns,), (t,))[1]
            )(directions)
        vectors = jnp.concatenate([g[None].astype(dtype), moved])
        # In units of their own: the last ones would else be rounding of the first.
        size = jnp.max(jnp.abs(vectors), axis=1, keepdims=True)
        return qr((vectors / jnp.where(size > 0, size, 1)).T)[0]

    return mapped(basis, (samples.mapped, g.reshape(-1, r)), samples.size, chunk_size)


def _shortened(residual: Residual, bases: Sequence[Array | None]) -> Residual:
    blocks = tuple(
        block if C is None else _short_block(block, C)
        for block, C in zip(residual.blocks, bases, strict=True)
    )
    return Residual.of(blocks, None if residual.spread is None else residual.spread.over)


def _short_block(block: Block, C: Float[Array, "b r k"]) -> Block:
    rows, samples = block.rows, block.samples

    def evaluate(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
        *rest, own = entries
        return jnp.matmul(rows.evaluate(columns, tuple(rest)), own, precision="highest")

    view = RealView.of(jax.ShapeDtypeStruct(C.shape[2:], C.dtype))
    return Block(
        block.name,
        Rows(evaluate, view, rows.has_custom_vjp, rows.is_forward_only),
        Samples(samples.size, (*samples.mapped, C), samples.assemble),
        block.total,
        is_sketch=True,
    )
