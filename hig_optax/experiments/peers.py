"""Other people's optimizers, of packages that come with the extra ``peers``."""

import importlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from optax import GradientTransformationExtraArgs as Optimizer

from hig_optax.experiments.losses import (
    batch_loss,
    batch_rows,
    sum_of_squares,
    wanted_error_rows,
)
from hig_optax.problems import Batch, Params, PhysicsInformed, Problem

Settings = dict[str, Any]


def ssbroyden(problem: Problem, settings: Settings) -> Optimizer:
    """Self-scaled Broyden steps of jinns, with Optax's line search on the batch.

    It keeps the inverse Hessian, n × n. Where a step comes out as no number, as it does once the loss is down
    to rounding, nothing moves any more.

    Raises:
        ValueError: jinns is not installed.
    """
    jinns = _package("jinns.optimizers")
    search = optax.scale_by_zoom_linesearch(
        settings["max_linesearch_steps"], initial_guess_strategy="one"
    )
    inner = jinns.scale_by_SSBroyden_family(linesearch=search)
    loss = batch_loss(problem)
    # Its line search calls both with what else `update` was given.
    value_fn = lambda params, *, batch: loss(params, batch)  # noqa: E731
    grad_fn = lambda params, *, batch: jax.grad(loss)(params, batch)  # noqa: E731

    def init(params: Params) -> Any:
        return inner.init(params)

    def update(
        grads: optax.Updates,
        state: Any,
        params: Params | None = None,
        *,
        value: jax.Array,
        batch: Batch,
        **extra: Any,
    ) -> tuple[optax.Updates, Any]:
        del extra
        with jax.numpy_dtype_promotion("standard"):
            updates, new = inner.update(
                grads, state, params, value, grads, value_fn, grad_fn, batch=batch
            )
        fine = jnp.all(jnp.isfinite(sum_of_squares(updates))) & jnp.all(jnp.isfinite(new.hk))
        updates = jax.tree.map(lambda u: jnp.where(fine, u, 0), updates)
        return updates, jax.tree.map(lambda a, b: jnp.where(fine, a, b), new, state)

    return Optimizer(init, update)


class DampedState(NamedTuple):
    """State of `geodesic_lm`."""

    solver: Any


def geodesic_lm(problem: Problem, settings: Settings) -> Optimizer:
    """Levenberg-Marquardt with geodesic acceleration, of nlls-gram.

    The rows of the batch are one residual to it, and its Jacobian takes one pass through all of them for each
    row or each parameter; by ``solver="gram-cg"`` it takes products instead. A step that is refused keeps its
    Jacobian where the batch stays.

    Raises:
        ValueError: nlls-gram is not installed, or the rows of the problem are no errors.
    """
    residual = wanted_error_rows(problem, "geodesic-lm")
    package = _package("nlls_gram")
    solvers = {
        "cholesky": package.Cholesky,
        "gram-cg": lambda: package.GramCG(
            package.IdentityPreconditioner(), maxiter=settings["num_matvecs"]
        ),
    }
    if settings["solver"] not in solvers:
        raise ValueError(f"solver must be one of {sorted(solvers)}, got {settings['solver']!r}.")
    same_batch = isinstance(problem, PhysicsInformed) and problem.fixed_points
    inner = package.LevenbergMarquardt(
        lambda params, batch: ravel_pytree(batch_rows(residual, params, batch))[0],
        init_damping=settings["init_damping"],
        linear_solver=solvers[settings["solver"]](),
        cache_jacobian=same_batch,
    )

    def init(params: Params) -> DampedState:
        with jax.numpy_dtype_promotion("standard"):
            return DampedState(inner.init(params, _blank_batch(problem, settings["batch_size"])))

    def update(
        grads: optax.Updates,
        state: DampedState,
        params: Params | None = None,
        *,
        batch: Batch,
        **extra: Any,
    ) -> tuple[optax.Updates, DampedState]:
        del grads, extra
        with jax.numpy_dtype_promotion("standard"):
            new, solver, _ = inner.update(params, state.solver, batch)
        return jax.tree.map(jnp.subtract, new, params), DampedState(solver)

    return Optimizer(init, update)


def _blank_batch(problem: Problem, batch_size: int) -> Batch:
    """Zeros in the shape of a batch: all that a state is sized by."""

    def drawn(key: jax.Array) -> Batch:
        return problem.draw(key, jnp.int32(0), problem.data(key)[0], batch_size)

    shapes = jax.eval_shape(drawn, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _package(name: str) -> Any:
    """A module of one of the packages.

    Raises:
        ValueError: It is not installed.
    """
    root = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != root:
            raise
        raise ValueError(f"{root} is not installed: pip install 'hig-optax[peers]'.") from None
