"""Decompositions of matrices: on a CPU those of a batch are taken one after the other."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.scipy.linalg
from jaxtyping import Array, Float

from hig_optax._float64 import target_platform
from hig_optax._types import Tree


def one_at_a_time(fun: Callable[..., Tree]) -> Callable[..., Tree]:
    """`fun` of one matrix, whose batches are mapped over on a CPU.

    jaxlib hands the matrices of a batch to the threads that programs run on, from one of these threads, and
    waits for them there (``ParallelBatchMap``, seen in 0.10.2). Where as many batches as there are threads
    are decomposed at once, all of them wait for ever. On two cores ensembles by `jax.vmap` did: those of
    `adaptive_hig`, where both branches of a ``cond`` are computed, one with `eigh`, one with `cholesky`; and
    those of ``solver="svd"``, by two QR. A single matrix is decomposed where it is asked for.

    Args:
        fun: Arrays to a tree of arrays; pure.

    Returns:
        The same function; where it is differentiated, batches are left to jaxlib.

    Example:
        >>> double = one_at_a_time(lambda x: 2 * x)
        >>> jax.vmap(double)(jnp.arange(3.0))
        Array([0., 2., 4.], dtype=float32)
    """

    @jax.custom_batching.custom_vmap
    def batched(*args: Array) -> Tree:
        return fun(*args)

    @batched.def_vmap
    def _(size: int, in_batched: list[bool], *args: Array) -> tuple[Tree, Tree]:
        axes = [0 if is_batched else None for is_batched in in_batched]
        if target_platform() != "cpu":
            out = jax.vmap(fun, axes, axis_size=size)(*args)
        elif size == 1:
            first = (
                x[0] if is_batched else x for x, is_batched in zip(args, in_batched, strict=True)
            )
            out = jax.tree.map(lambda x: x[None], batched(*first))
        else:
            moving = [x for x, is_batched in zip(args, in_batched, strict=True) if is_batched]

            def of_one(moving: list[Array]) -> Tree:
                these = iter(moving)
                return batched(
                    *(next(these) if b else x for x, b in zip(args, in_batched, strict=True))
                )

            out = jax.lax.map(of_one, moving)
        return out, jax.tree.map(lambda _: True, out)

    # What is mapped by a rule of its own has no reverse-mode derivative.
    @jax.custom_jvp
    def guarded(*args: Array) -> Tree:
        return batched(*args)

    @guarded.defjvp
    def _(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
        return jax.jvp(fun, primals, tangents)

    return functools.wraps(fun)(guarded)


@one_at_a_time
def eigh(A: Float[Array, "r r"]) -> tuple[Float[Array, " r"], Float[Array, "r r"]]:
    """Eigenvalues, ascending, and eigenvectors in columns, of the lower triangle."""
    eigenvalues, vectors = jnp.linalg.eigh(A, symmetrize_input=False)
    return eigenvalues, vectors


@one_at_a_time
def cholesky(A: Float[Array, "r r"]) -> Float[Array, "r r"]:
    """L of A = L Lᵀ, from the lower triangle; NaN where A is not positive definite."""
    return jnp.linalg.cholesky(A, symmetrize_input=False)


@one_at_a_time
def cho_solve(L: Float[Array, "r r"], b: Float[Array, " r"]) -> Float[Array, " r"]:
    """The x of L Lᵀ x = b."""
    return jax.scipy.linalg.cho_solve((L, True), b)


@one_at_a_time
def qr(A: Float[Array, "k r"]) -> tuple[Array, Array]:
    """Q and R, min(k, r) columns and rows."""
    Q, R = jnp.linalg.qr(A)
    return Q, R


@one_at_a_time
def svd(A: Float[Array, "r r"]) -> tuple[Array, Array, Array]:
    """U, s, Vᵀ of a square matrix."""
    U, s, Vt = jnp.linalg.svd(A)
    return U, s, Vt
