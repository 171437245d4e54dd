"""A batch that is always the same, for trainers that hand none on."""

from typing import Any

import optax

from hig_optax._types import Tree


def with_batch(
    optimizer: optax.GradientTransformation, batch: Tree
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that brings its batch along, for trainers that do not pass ``batch=`` to ``update``.

    ``jinns.solve``, ``optimistix.OptaxMinimiser``, ``optax.lookahead`` and many training loops call
    ``update(grads, state, params)`` and nothing more. Where all samples are used at every step, as the points
    of a small PINN are, the batch can be bound once. In a loop of your own over several batches, bind each
    inside the step: there is nothing in the state that depends on it.

    Args:
        optimizer: `hig`, `adaptive_hig`, `accumulate`, a chain with one of them: whatever takes ``batch=``.
        batch: As in `scale_by_hig`: a tree of arrays, (b, ...) per leaf, in units of the residual's own.

    Returns:
        An ``optax.GradientTransformationExtraArgs`` with the state of `optimizer`. A batch that ``update`` is
        passed takes the place of this one.

    Raises:
        TypeError: `optimizer` is no ``optax.GradientTransformation``.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp
        >>> residual_fn = lambda w, x: x * w - 1.0
        >>> loss_fn = lambda w, x: jnp.mean(jax.vmap(residual_fn, (None, 0))(w, x) ** 2)
        >>> x, w = jnp.array([1.0, 2.0]), jnp.array(0.0)
        >>> opt = hig_optax.with_batch(hig_optax.hig(1.0, residual_fn, exponent=-1.0), x)
        >>> updates, state = opt.update(jax.grad(loss_fn)(w, x), opt.init(w), w)
        >>> float(updates)
        0.6...

    References:
        Own; the arguments that it adds are those of ``optax.GradientTransformationExtraArgs``.
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax.GradientTransformation, got {type(optimizer).__name__}. Make it "
            "first: hig_optax.with_batch(hig_optax.adaptive_hig(residual_fn), batch)."
        )
    inner = optax.with_extra_args_support(optimizer)

    def update_fn(
        updates: Tree, state: Any, params: Tree | None = None, **extra_args: Any
    ) -> tuple[Tree, Any]:
        return inner.update(updates, state, params, **{"batch": batch, **extra_args})

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
