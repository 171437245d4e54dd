"""A step of flax.linen's TrainState with a batch for the optimizer."""

from typing import Any, TypeVar

from hig_optax._types import Tree

State = TypeVar("State")


def apply_gradients(train_state: State, *, grads: Tree, batch: Tree, **replaced: Any) -> State:
    """``train_state.apply_gradients(grads=grads)`` that passes `batch` on to the optimizer.

    The method itself takes what it is given beside the gradient for fields of the state. For this one step
    the batch is bound to the optimizer; all else, and what a subclass adds, is the method's.

    Args:
        train_state: A ``flax.training.train_state.TrainState``, or one of a subclass.
        grads: Gradient with respect to ``train_state.params``, the same tree and shapes. Unit: loss per
            parameter.
        batch: As in `hig_optax.scale_by_hig`: arrays of shape (b, ...).
        **replaced: Fields of the state to replace, as in the method.

    Returns:
        The state after the step, of the same type.

    Raises:
        TypeError: `train_state` is no such state.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp
        >>> from flax.training.train_state import TrainState
        >>> error = lambda params, x: params["w"] * x - 2 * x
        >>> opt = hig_optax.hig(1.0, error, exponent=-1.0)
        >>> state = TrainState.create(apply_fn=None, params={"w": jnp.float32(0.0)}, tx=opt)
        >>> batch = jnp.array([1.0, 3.0])
        >>> grads = jax.grad(lambda params: 0.5 * jnp.sum(error(params, batch) ** 2))(state.params)
        >>> hig_optax.apply_gradients(state, grads=grads, batch=batch).params
        {'w': Array(2., dtype=float32)}

    References:
        ``TrainState.apply_gradients`` of Flax, whose place it takes.
    """
    state: Any = train_state
    if not all(hasattr(state, name) for name in ("apply_gradients", "replace", "tx")):
        raise TypeError(
            "train_state must be a flax.training.train_state.TrainState, got "
            f"{type(state).__name__}. Elsewhere call opt.update(grads, state, params, batch=batch)."
        )
    tx = state.tx

    def update(updates: Tree, opt_state: Tree, params: Tree, **extra: Any) -> Any:
        return tx.update(updates, opt_state, params, batch=batch, **extra)

    bound = state.replace(tx=tx._replace(update=update))
    return bound.apply_gradients(grads=grads, **replaced).replace(tx=tx)
