"""What ``update`` does around a step, alike for all optimizers here."""

from collections.abc import Callable, Mapping
from typing import Any

import optax

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments, updated_on_devices
from hig_optax._inputs.call import optimized_columns
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import NOT_PASSED, Settings
from hig_optax._inputs.states import check_state
from hig_optax._types import Tree

Step = Callable[[Devices | None, Arguments, Columns], tuple[Tree, Tree]]
"""``(devices, arguments, parameters as columns) -> (updates, state)``, pure."""


def transformation(
    settings: Settings,
    init_fn: Callable[[Tree], Tree],
    numbers_of: Callable[[Tree], dict[str, Any]],
    step: Step,
    made_by: Mapping[str, str] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """An Optax transformation whose ``update`` takes a batch, on one device or on those of a mesh.

    Args:
        settings: Checked already.
        init_fn: ``params -> state``.
        numbers_of: ``state -> numbers``: the settings that may be traced, which have to reach the devices.
        step: What the optimizer is.
        made_by: As in `check_state`; None if the next step needs nothing of the state.
    """

    def update_fn(
        updates: Tree | None,
        state: Tree,
        params: Tree | None = None,
        *,
        batch: Tree = NOT_PASSED,
        all_params: Tree | None = None,
        **extra_args: Any,
    ) -> tuple[Tree, Tree]:
        del extra_args
        if made_by is not None:
            check_state(state, init_fn, params, made_by)
        arguments = Arguments(numbers_of(state), updates, state, params, all_params, batch)
        return updated_on_devices(update, settings, arguments)

    def update(devices: Devices | None, given: Arguments) -> tuple[Tree, Tree]:
        columns = optimized_columns(settings, given.params, given.batch, given.all_params)
        return step(devices, given, columns)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
