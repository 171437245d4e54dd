"""Whether a state belongs to the optimizer that it is handed to."""

import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from hig_optax._types import Tree


def check_state(
    state: Tree, init_fn: Callable[[Tree], Tree], params: Tree, made_by: Mapping[str, str]
) -> None:
    """Refuse a state that an optimizer with other settings has made, part of which would be read in silence.

    Args:
        state: What ``update`` was given.
        init_fn: Makes the state of this optimizer; only structure and shapes of it are looked at.
        params: The parameters; None, which ``update`` refuses by itself, passes.
        made_by: Field, with dots for one within it -> the setting that decides what it holds.

    Raises:
        TypeError: It is the state of something else.
        ValueError: A field differs.
    """
    if params is None:
        return
    wanted = jax.eval_shape(lambda: init_fn(params))
    if not isinstance(state, type(wanted)):
        raise TypeError(
            f"state must be of type {type(wanted).__name__}, got {type(state).__name__}. Pass on what init "
            "or the last update has returned; where a chain or a wrapper is around, all of its state."
        )
    for field, setting in made_by.items():
        got, want = (_outline(operator.attrgetter(field)(x)) for x in (state, wanted))
        if got != want:
            raise ValueError(
                f"state must be one that an optimizer with the same settings has made, got {got} in "
                f"state.{field} for {want}: {setting} was another, or mask= or the parameters were. Begin "
                "anew with opt.init(params), or keep to the settings that the state was made with."
            )


def _outline(tree: Tree) -> Any:
    """Shapes, for comparison and to be shown; None for nothing.

    Of a momentum not the structure: flax.nnx wraps parameters in `init` that come bare to `update`.
    """
    if tree is None:
        return None
    if isinstance(tree, dict):
        return {name: _outline(tree[name]) for name in sorted(tree)}
    return [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
