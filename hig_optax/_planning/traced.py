"""A step traced from shapes alone: what J of it is like, and its jaxpr."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments, Update
from hig_optax._inputs.batch import is_array
from hig_optax._inputs.call import optimized_columns
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._planning.price import price_of
from hig_optax._solvers.step import layout_of
from hig_optax._types import Tree


class Seen(NamedTuple):
    """What decides which options there are; see `hig_optax._jacobian.layout.Layout`."""

    shape: tuple[int, int]
    dtype: Any
    mode: Literal["reverse", "forward"]
    number: int
    may_chunk_products: bool
    has_custom_vjp: bool
    devices: int
    is_sketch: bool
    price: float | None
    """Operations of a step by J, or a sketch of it, over those by products; None where nobody asks."""


class Call(NamedTuple):
    """A call of ``update``."""

    arguments: Arguments
    evaluate: Callable[[Update, Settings, Arguments], Any]
    """As `on_devices`."""


def look_at(settings: Settings, call: Call) -> Seen:
    """What J of a call would be like."""
    found = []

    def look(
        settings: Settings, columns: Columns, updates: Tree, batch: Tree, devices: Devices | None
    ) -> tuple:
        del updates
        at = layout_of(settings, columns, batch, devices)
        found.append(
            Seen(
                shape=at.shape,
                dtype=at.dtype,
                mode=at.ways[0].mode,
                number=at.number,
                may_chunk_products=any(way.block.samples.size for way in at.ways),
                has_custom_vjp=at.residual.has_custom_vjp or at.residual.is_forward_only,
                devices=1 if devices is None else devices.number,
                is_sketch=any(block.is_sketch for block in at.residual.blocks),
                price=price_of(at) if settings.is_damped else None,
            )
        )
        return ()

    traced_with(settings, call, look)
    return found[-1]


def traced_with(settings: Settings, call: Call, fun: Callable) -> Any:
    """The jaxpr of a function of settings, columns, updates, batch and devices."""
    leaves, treedef = jax.tree.flatten(call.arguments)
    are_arrays = [is_array(x) for x in leaves]
    arrays = [_as_struct(x) for x, yes in zip(leaves, are_arrays, strict=True) if yes]

    def evaluated(devices: Devices | None, given: Arguments) -> Any:
        columns = optimized_columns(settings, given.params, given.batch, given.all_params)
        return fun(settings, columns, given.updates, given.batch, devices)

    def traced(arrays: list[Any]) -> Any:
        remaining = iter(arrays)
        values = [next(remaining) if yes else x for x, yes in zip(leaves, are_arrays, strict=True)]
        return call.evaluate(evaluated, settings, jax.tree.unflatten(treedef, values))

    return jax.make_jaxpr(traced)(arrays)


def _as_struct(x: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array, and its place on a mesh if it has one."""
    # Within an update the mesh is known already.
    sharding = None if isinstance(x, jax.core.Tracer) else getattr(x, "sharding", None)
    is_on_mesh = isinstance(sharding, jax.sharding.NamedSharding)
    # As JAX takes it: NumPy's float64 is float32 in a program without x64.
    dtype = jax.dtypes.canonicalize_dtype(x.dtype) if isinstance(x, np.ndarray) else x.dtype
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding if is_on_mesh else None)
