"""What ``update`` and ``init`` take from the parameters they are handed."""

from typing import Any

import jax.numpy as jnp

from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings, check_passed
from hig_optax._inputs.wrappers import placeholder_type, refuse_multi_steps
from hig_optax._types import Tree


def optimized_columns(settings: Settings, params: Tree, batch: Tree, all_params: Tree) -> Columns:
    """The parameters as columns, once it is clear that ``update`` was called with what it needs.

    Raises:
        TypeError: As `Columns.of`.
        ValueError: As `Columns.of`; `params` or `batch` was not passed; a call within ``optax.MultiSteps``.
    """
    refuse_multi_steps()
    check_passed(params, batch)
    return Columns.of(params, settings.mask, all_params)


def state_dtype(settings: Settings, params: Tree) -> Any:
    """The dtype of a state's numbers, from the parameters that `init` is handed.

    Raises:
        TypeError: As `Columns.of`.
        ValueError: As `Columns.of`.
    """
    if isinstance(params, placeholder_type()):
        return jnp.dtype(jnp.float32)
    return Columns.of(params, settings.mask).view.highest_dtype


def zero_momentum(settings: Settings, params: Tree) -> Tree:
    """No step yet, as a tree like the parameters, so that ``optax.tree.map_params`` finds it."""
    return (
        params
        if isinstance(params, placeholder_type())
        else Columns.of(params, settings.mask).momentum()
    )
