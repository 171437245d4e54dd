"""How each method's optimizer is built from its settings."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import GradientTransformationExtraArgs as Optimizer

from hig_optax.experiments.losses import (
    batch_loss,
    error_rows,
    loss_of_rows,
    wanted_error_rows,
)
from hig_optax.problems import Problem

Settings = dict[str, Any]
Build = Callable[[Problem, Settings], Optimizer]

_OF_THE_LOOP = ("batch_size", "schedule")


def spectral(make: Callable[..., Optimizer]) -> Build:
    """Half-inverse gradients or a relative, by its factory."""

    def build(problem: Problem, settings: Settings) -> Optimizer:
        own = _without(settings, *_OF_THE_LOOP, "learning_rate", "exact_cotangent")
        loss_fn = loss_of_rows(problem) if settings["exact_cotangent"] else None
        return make(settings["learning_rate"], problem.residual, loss_fn=loss_fn, **own)

    return build


def adaptive(make: Callable[..., Optimizer]) -> Build:
    """Half-inverse gradients that scale their own steps, or a relative, by its factory.

    Such a method minimises the sum of squares of the rows, whatever the factor before it; where the rows of
    a problem are not errors, it is given the loss.
    """

    def build(problem: Problem, settings: Settings) -> Optimizer:
        own, rows = _without(settings, *_OF_THE_LOOP), error_rows(problem)
        if rows is None:
            return make(problem.residual, loss_fn=loss_of_rows(problem), **own)
        return make(rows, **own)

    return build


def damped(make: Callable[..., Optimizer]) -> Build:
    """A method for sums of squares that takes its learning rate first, by its factory."""

    def build(problem: Problem, settings: Settings) -> Optimizer:
        own = _without(settings, *_OF_THE_LOOP, "learning_rate")
        rows = wanted_error_rows(problem, make.__name__)
        return make(settings["learning_rate"], rows, **own)

    return build


def from_optax(make: Callable[..., Any], *not_its_own: str) -> Build:
    """An optimizer of Optax's, by its factory; the settings named are for others."""

    def build(problem: Problem, settings: Settings) -> Optimizer:
        del problem
        return _relaxed(make(**_without(settings, *_OF_THE_LOOP, *not_its_own)))

    return build


def lbfgs(problem: Problem, settings: Settings) -> Optimizer:
    """Limited-memory BFGS; where the learning rate is None, a line search finds each step.

    The search evaluates loss and gradient of the batch at hand several times a step.
    """
    search, rate = None, settings["learning_rate"]
    if rate is None:
        search = optax.scale_by_zoom_linesearch(settings["max_linesearch_steps"])
    inner = _relaxed(optax.lbfgs(rate, settings["memory_size"], linesearch=search))
    loss = batch_loss(problem)

    def update(
        grads: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        *,
        value: jax.Array,
        batch: Any,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        del extra  # the search hands on to `value_fn` whatever it is given
        return inner.update(
            grads, state, params, value=value, grad=grads, value_fn=loss, batch=batch
        )

    return Optimizer(inner.init, update)


def decay_to_zero() -> Optimizer:
    """Scale updates by half a cosine of the run's `progress`: 1 at its start, 0 at its end.

    The horizon is the budget itself, of time or of steps, not a number of steps guessed before the
    run: the training loop says how far it is, and one compiled loop serves any budget.

    Example:
        >>> opt = decay_to_zero()
        >>> updates, _ = opt.update(jnp.ones(2), opt.init(None), progress=jnp.asarray(0.5))
        >>> updates.round(6)
        Array([0.5, 0.5], dtype=float32)
    """

    def update(
        updates: optax.Updates,
        state: optax.EmptyState,
        params: optax.Params | None = None,
        *,
        progress: jax.Array,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.EmptyState]:
        del params, extra
        factor = 0.5 * (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0)))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return Optimizer(optax.init_empty_state, update)


def _without(settings: Mapping[str, Any], *names: str) -> Settings:
    return {name: value for name, value in settings.items() if name not in names}


def _relaxed(optimizer: optax.GradientTransformation) -> Optimizer:
    """`optimizer` under JAX's usual type promotion.

    Optax raises floats to integer powers, which a program with strict promotion forbids.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(*arguments: Any, **extra: Any) -> tuple[optax.Updates, optax.OptState]:
        with jax.numpy_dtype_promotion("standard"):
            return optimizer.update(*arguments, **extra)

    return Optimizer(optimizer.init, update)
