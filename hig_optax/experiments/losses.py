"""The training loss of a batch, as a problem reduces it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hig_optax.problems import (
    Batch,
    LinearOscillators,
    NoisyField,
    NonlinearOscillators,
    Params,
    Poisson,
    Problem,
    QuantumDipole,
    Toy,
)

_ROWS_ARE_ERRORS = (Toy, LinearOscillators, NonlinearOscillators, Poisson, NoisyField)


def loss_of_rows(problem: Problem) -> Callable[[Any, Batch], jax.Array]:
    """The scalar training loss of a batch from its rows: ``(rows, batch) -> loss``."""
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[problem.reduction]
    return lambda rows, batch: reduce(jax.vmap(problem.sample_loss)(rows, batch))


def batch_loss(problem: Problem) -> Callable[[Params, Batch], jax.Array]:
    """The scalar training loss of a batch, reduced as the problem says: ``(params, batch) -> loss``."""
    of_rows = loss_of_rows(problem)

    def loss(params: Params, batch: Batch) -> jax.Array:
        return of_rows(jax.vmap(problem.residual, in_axes=(None, 0))(params, batch), batch)

    return loss


def rows_of_answer(problem: Problem, y: jax.Array, sample: Batch) -> jax.Array:
    """The rows of one sample from the physics' answer: its error, or else the answer itself."""
    return y - sample.target if isinstance(problem, _ROWS_ARE_ERRORS) else y


def error_rows(problem: Problem) -> Callable[[Params, Batch], jax.Array] | None:
    """Rows of one sample whose sum of squares is the loss, up to a factor: ``(params, sample) -> rows``.

    The quantum dipole's rows are states y of norm 1. What is left of one outside its target t,
    e = y - ⟨t, y⟩ t, has ‖e‖² = 1 - |⟨t, y⟩|², which is the loss.

    Returns:
        The rows; None where neither the problem's own nor anything known here is an error.
    """
    if isinstance(problem, _ROWS_ARE_ERRORS):
        return problem.residual
    if isinstance(problem, QuantumDipole):

        def residual(params: Params, sample: Batch) -> jax.Array:
            y = problem.residual(params, sample)
            return y - jnp.vdot(sample.target, y, precision="highest") * sample.target

        return residual
    return None


def measured_loss(problem: Problem) -> Callable[[Params, Batch], jax.Array]:
    """The loss of one sample without the rounding that training puts up with: ``(params, sample) -> loss``.

    It is the problem's own, but for the quantum dipole, where 1 - |⟨t, y⟩|² is the difference of two numbers
    near 1 once the network has learned: in float32 it ends at 1e-7, and comes out negative. For states of
    norm 1 the squares of `error_rows` have the same sum, and no such floor.
    """
    rows_of_error = error_rows(problem)
    if isinstance(problem, QuantumDipole) and rows_of_error is not None:
        return lambda params, sample: jnp.sum(jnp.abs(rows_of_error(params, sample)) ** 2)
    return lambda params, sample: problem.sample_loss(problem.residual(params, sample), sample)
