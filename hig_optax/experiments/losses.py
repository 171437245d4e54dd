"""The training loss of a batch, as a problem reduces it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from hig_optax.problems import (
    Batch,
    HamiltonianNetwork,
    KSControl,
    LinearOscillators,
    NeuralODE,
    NoisyField,
    NoisyLikelihood,
    NonlinearOscillators,
    OperatorNetwork,
    Params,
    PhysicsInformed,
    Poisson,
    Problem,
    QuantumDipole,
    SampleProblem,
    Toy,
)

_ROWS_ARE_ERRORS = (
    Toy,
    LinearOscillators,
    NonlinearOscillators,
    Poisson,
    NoisyField,
    KSControl,
    NeuralODE,
    HamiltonianNetwork,
    OperatorNetwork,
    PhysicsInformed,
)


def loss_of_rows(problem: Problem) -> Callable[[Any, Batch], jax.Array]:
    """The scalar training loss of a batch from its rows: ``(rows, batch) -> loss``."""
    if not isinstance(problem, SampleProblem):  # blocks of rows, scaled for their sum of squares
        return lambda rows, _: sum_of_squares(rows)
    reduce = {"mean": jnp.mean, "sum": jnp.sum}[problem.reduction]
    return lambda rows, batch: reduce(jax.vmap(problem.sample_loss)(rows, batch))


def batch_loss(problem: Problem) -> Callable[[Params, Batch], jax.Array]:
    """The scalar training loss of a batch, reduced as the problem says: ``(params, batch) -> loss``."""
    of_rows = loss_of_rows(problem)
    return lambda params, batch: of_rows(batch_rows(problem.residual, params, batch), batch)


def batch_rows(residual: Any, params: Params, batch: Batch) -> Any:
    """Rows of all samples of a batch, with a leading sample axis; those of blocks as a dict.

    Args:
        residual: ``(params, sample) -> rows``, or a dict of such functions.
        params: Network parameters.
        batch: The batch; a dict of batches where `residual` is one.
    """
    if isinstance(residual, dict):
        return {name: batch_rows(block, params, batch[name]) for name, block in residual.items()}
    return jax.vmap(residual, in_axes=(None, 0))(params, batch)


def num_rows(problem: Problem, params: Params, batch: Batch) -> int:
    """Rows of a batch; a complex one counts twice."""
    rows = jax.eval_shape(
        lambda *arguments: batch_rows(problem.residual, *arguments), params, batch
    )
    return sum(
        leaf.size * (2 if jnp.issubdtype(leaf.dtype, jnp.complexfloating) else 1)
        for leaf in jax.tree.leaves(rows)
    )


def sum_of_squares(rows: Any) -> jax.Array:
    """Sum of the squares of a tree of real rows."""
    return jax.tree.reduce_associative(jnp.add, jax.tree.map(lambda x: jnp.sum(x**2), rows))


def rows_of_answer(problem: Problem, y: jax.Array, sample: Batch) -> jax.Array:
    """The rows of one sample from the physics' answer: its error, or else the answer itself."""
    return y - sample.target if isinstance(problem, _ROWS_ARE_ERRORS) else y


def error_rows(problem: Problem) -> Any:
    """Rows of one sample whose sum of squares is the loss, up to a factor: ``(params, sample) -> rows``.

    The quantum dipole's rows are states y of norm 1. What is left of one outside its target t,
    e = y - ⟨t, y⟩ t, has ‖e‖² = 1 - |⟨t, y⟩|², which is the loss.

    Returns:
        The rows, or a dict of such functions; None where neither the problem's own nor anything known here
        is an error.
    """
    if isinstance(problem, _ROWS_ARE_ERRORS):
        return problem.residual
    if isinstance(problem, QuantumDipole):

        def residual(params: Params, sample: Batch) -> jax.Array:
            y = problem.residual(params, sample)
            return y - jnp.vdot(sample.target, y, precision="highest") * sample.target

        return residual
    return None


def wanted_error_rows(problem: Problem, method: str) -> Any:
    """The same for a method that minimises nothing but a sum of squares.

    Raises:
        ValueError: There are no such rows.
    """
    rows = error_rows(problem)
    if rows is None:
        raise ValueError(
            f"{method} minimises a sum of squares, and the rows of {problem.name} are no errors."
        )
    return rows


def measured_loss(problem: SampleProblem) -> Callable[[Params, Batch], jax.Array]:
    """The loss of one sample without what training puts up with: ``(params, sample) -> loss``.

    It is the problem's own, but for two. Of the quantum dipole 1 - |⟨t, y⟩|² is the difference of two numbers
    near 1 once the network has learned: in float32 it ends at 1e-7, and comes out negative. For states of
    norm 1 the squares of `error_rows` have the same sum, and no such floor. A likelihood of readings falls
    to what the noise leaves of it, wherever that is; its divergence tells how much is left to learn.
    """
    if isinstance(problem, NoisyLikelihood):
        return lambda params, sample: problem.divergence(problem.residual(params, sample), sample)
    rows_of_error = error_rows(problem)
    if isinstance(problem, QuantumDipole) and rows_of_error is not None:
        return lambda params, sample: jnp.sum(jnp.abs(rows_of_error(params, sample)) ** 2)
    return lambda params, sample: problem.sample_loss(problem.residual(params, sample), sample)
