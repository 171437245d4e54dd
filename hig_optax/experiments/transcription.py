"""The method as its formula reads, and the parts of a step alone: what `bench` measures against."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from hig_optax.experiments.losses import loss_of_rows
from hig_optax.problems import Batch, Params, Problem


def half_inverse_step(problem: Problem, *, rtol: float) -> Callable[[Params, Batch], Params]:
    """One step ``θ - V Σ^(-1/2) Uᵀ g`` at learning rate 1, as it is written from the paper.

    1. The rows of all samples are stacked to one vector y(θ) of length m, parameters to one θ.
    2. J = ``jax.jacrev(y)(θ)``: m cotangents, each pulled back through the whole batch, although a
       row depends on one sample only. For b samples that is b times the work of `jacobian`.
    3. J = U Σ Vᵀ by ``jnp.linalg.svd`` in the precision of the parameters.
    4. The half-inverse V Σ^(-1/2) Uᵀ, an n × m matrix, is formed, then multiplied with g = ∂L/∂y.

    Nothing is arranged for speed in these four lines. The physics and the network are the problem's
    own, though, and they are: with a state held as one vector instead of four scalars, step 2 takes
    about three times as long on the linear oscillators.
    """
    of_rows = loss_of_rows(problem)

    def step(params: Params, batch: Batch) -> Params:
        theta, unravel = ravel_pytree(params)

        def residual(theta: jax.Array) -> jax.Array:
            return _real(jax.vmap(problem.residual, in_axes=(None, 0))(unravel(theta), batch))

        y = jax.vmap(problem.residual, in_axes=(None, 0))(params, batch)
        g = jax.grad(lambda flat: of_rows(_like(flat, y), batch))(_real(y))
        J = jax.jacrev(residual)(theta)
        U, s, Vh = jnp.linalg.svd(J, full_matrices=False)
        keep = s > rtol * s[0]
        weights = jnp.where(keep, jnp.where(keep, s, 1.0) ** -0.5, 0.0)
        half_inverse = (Vh.T * weights) @ U.T
        return unravel(theta - half_inverse @ g)

    return step


def jacobian(problem: Problem) -> Callable[[Params, Batch], jax.Array]:
    """The Jacobian of a batch, (rows, parameters), sample by sample in reverse mode, blocks stacked."""

    def build(params: Params, batch: Batch) -> jax.Array:
        theta, unravel = ravel_pytree(params)

        def of_block(residual: Callable[..., jax.Array], samples: Batch) -> jax.Array:
            one = jax.jacrev(lambda theta, sample: _real(residual(unravel(theta), sample)))
            return jax.vmap(one, in_axes=(None, 0))(theta, samples).reshape(-1, theta.size)

        residual = problem.residual
        if not isinstance(residual, dict):
            return of_block(residual, batch)
        return jnp.concatenate([of_block(rows, batch[name]) for name, rows in residual.items()])

    return build


def gram(J: jax.Array) -> jax.Array:
    """The float64 Gram matrix on the short side of `J`; call it in a float64 context."""
    J = J.astype(jnp.float64)
    return J @ J.T if J.shape[0] <= J.shape[1] else J.T @ J


def in_float64(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, jitted and called in a float64 context."""
    jitted = jax.jit(function)

    def call(*arguments: Any) -> Any:
        with jax.enable_x64(True):
            return jitted(*arguments)

    return call


def _real(rows: jax.Array) -> jax.Array:
    """Rows as one real vector: the real parts, then the imaginary ones."""
    if jnp.iscomplexobj(rows):
        return jnp.concatenate([rows.real.ravel(), rows.imag.ravel()])
    return rows.ravel()


def _like(flat: jax.Array, rows: jax.Array) -> jax.Array:
    """The inverse of `_real`, in the shape of `rows`."""
    if jnp.iscomplexobj(rows):
        real, imaginary = jnp.split(flat, 2)
        return jax.lax.complex(real, imaginary).reshape(rows.shape)
    return flat.reshape(rows.shape)
