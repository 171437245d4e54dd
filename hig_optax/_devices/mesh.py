"""Where an update is called, and over which devices its samples are spread then."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array

from hig_optax._devices.devices import Devices
from hig_optax._inputs.batch import by_block, sample_axes, split_batch
from hig_optax._inputs.settings import Settings, check_passed
from hig_optax._types import Tree

ALIKE = PartitionSpec()
"""The same on all devices of a mesh."""


class Arguments(NamedTuple):
    """What an update is made of; all but the batch is alike on all devices."""

    numbers: dict[str, Any]
    """Settings that may be traced."""
    updates: Tree
    state: Tree
    params: Tree
    all_params: Tree
    batch: Tree
    """Spread, where it has a sample axis."""


Update = Callable[[Devices | None, Arguments], Tree]


def on_devices(update: Update, settings: Settings, arguments: Arguments) -> Tree:
    """Evaluate an update with the samples spread over devices, wherever it is called.

    Within ``shard_map`` or ``pmap`` each device has its own samples already. Elsewhere the mesh is that of
    ``jax.set_mesh`` or else of the arguments, and the samples are spread over all of its axes, or those in
    `Settings.axis_name`. Without a mesh, and where a residual, or one of its blocks, takes the whole batch,
    the update is written for one device; on a mesh the compiler then partitions it as it likes.

    Args:
        update: A function of `devices`, a `Devices` or None where there is nobody to share with, and the
            arguments. What it returns is alike on all devices.
        settings: Names the axes of the samples.
        arguments: What `update` takes.

    Returns:
        What `update` returns.

    Raises:
        ValueError: `params` or `batch` was not passed; a call within ``shard_map`` or ``pmap`` without
            `axis_name`; `axis_name` is no axis of the mesh; a residual of the whole batch where each device
            has a part of it.
    """
    check_passed(arguments.params, arguments.batch)
    name = settings.axis_name
    names = (name,) if isinstance(name, str) else name
    samples = {
        k: x.size
        for k, x in split_batch(settings.blocks, arguments.batch, settings.batch_axis).items()
    }
    has_samples = None not in samples.values()
    around = jax.sharding.get_abstract_mesh()
    if around.manual_axes:
        names = _bound(names, around.manual_axes, has_samples)
        number = jax.lax.axis_size(names)
        total = tuple((name, number * (size or 1)) for name, size in samples.items())
        return update(Devices(names, total), _laid(arguments, around))
    mesh = _mesh_of(arguments)
    if names is None:
        names = () if mesh is None else mesh.axis_names
    elif names and (mesh is None or not set(names) <= set(mesh.axis_names)):
        raise ValueError(
            f"axis_name must name axes of a mesh, got {name!r} where there is "
            f"{'no mesh' if mesh is None else f'a mesh of {mesh.axis_names}'}. Shard the batch over such an "
            "axis by jax.device_put, or leave axis_name out."
        )
    if mesh is None:
        return update(None, arguments)
    if has_samples and math.prod(mesh.shape[name] for name in names) > 1:
        return _spread(update, mesh, names, settings, arguments)
    if not _is_explicit(mesh):
        return update(None, arguments)
    leaves, treedef = jax.tree.flatten(arguments)
    return _with_arrays(
        lambda leaves: update(None, jax.tree.unflatten(treedef, leaves)),
        leaves,
        lambda fun: jax.sharding.auto_axes(fun, out_sharding=NamedSharding(mesh, ALIKE)),
    )


def updated_on_devices(
    update: Update, settings: Settings, arguments: Arguments
) -> tuple[Tree, Tree]:
    """`on_devices` for an update that returns updates and a state.

    The updates have the shardings of the parameters, which for Auto axes the compiler alone knows.
    """
    updates, state = on_devices(update, settings, arguments)
    return jax.tree.map(_sharded_as, updates, arguments.params), state


def _bound(
    names: tuple[str, ...] | None, manual: tuple[str, ...], has_samples: bool
) -> tuple[str, ...]:
    """The names of the axes of the samples, where each device has its own."""
    if not names:
        raise ValueError(
            f"update was called inside shard_map or pmap over {manual}, where each device would take the "
            "Jacobian of its own samples only and step along a direction of its own. Call it outside, in a "
            "jitted step with a sharded batch: jax.jit splits the work itself. Or say over which of these "
            "axes the samples are spread, by axis_name=."
        )
    if not set(names) <= set(manual):
        raise ValueError(
            f"axis_name must name axes of the shard_map or pmap that update is called in, got {names} "
            f"inside one over {manual}."
        )
    if not has_samples:
        raise ValueError(
            "residual_fn, or a block of it, takes the whole batch (batch_axis=None), but update was called "
            f"inside shard_map or pmap over {manual}, where a device has a part of the batch. Call it "
            "outside, in a jitted step."
        )
    if _is_checked(names):
        raise ValueError(
            "update was called inside a shard_map that checks what varies over its axes, which would sum the "
            "rows of all devices in every derivative. Pass check_vma=False to jax.shard_map."
        )
    return names


def _spread(
    update: Update,
    mesh: AbstractMesh,
    names: tuple[str, ...],
    settings: Settings,
    arguments: Arguments,
) -> Tree:
    """The update within a ``shard_map`` of its own."""
    number = math.prod(mesh.shape[name] for name in names)
    sizes = split_batch(settings.blocks, arguments.batch, settings.batch_axis)
    batch = arguments.batch
    if settings.blocks:  # in their order, whatever the kind of mapping
        batch = {name: batch[name] for name in settings.blocks}
    samples, treedef = jax.tree.flatten(batch, is_leaf=lambda x: x is None)
    specs = [ALIKE] * len(samples)
    axes = [
        axis
        for _, own, of_block in by_block(sizes, arguments.batch, settings.batch_axis)
        for axis in sample_axes(of_block, own)
    ]
    for i, axis in enumerate(axes):
        if axis is not None:
            x = jnp.asarray(samples[i])
            axis %= x.ndim
            samples[i] = _padded(x, -x.shape[axis] % number, axis, mesh)
            specs[i] = PartitionSpec(*[None] * axis, names)
    batch = jax.tree.unflatten(treedef, samples)
    specs = [spec for x, spec in zip(samples, specs, strict=True) if x is not None]
    leaves, treedef = jax.tree.flatten(arguments._replace(batch=batch))
    specs = [ALIKE] * (len(leaves) - len(specs)) + specs  # the batch comes last
    leaves = [_laid(x, mesh, spec) for x, spec in zip(leaves, specs, strict=True)]
    devices = Devices(names, tuple((name, x.size or 1) for name, x in sizes.items()))
    return _with_arrays(
        lambda leaves: update(devices, jax.tree.unflatten(treedef, leaves)),
        leaves,
        lambda fun: jax.shard_map(
            fun,
            mesh=mesh,
            in_specs=tuple(spec for x, spec in zip(leaves, specs, strict=True) if _is_array(x)),
            out_specs=ALIKE,
            axis_names=set(names),
            # Collectives leave their results alike on all devices, which not all of their types say.
            check_vma=False,
        ),
    )


def _with_arrays(
    fun: Callable[[Sequence[Any]], Tree], leaves: Sequence[Any], transform: Callable
) -> Tree:
    """Evaluate a function under a transformation through which only arrays go.

    What is no array (a function in a frozen leaf, say) is handed to the function beside it, and comes out
    beside it.
    """
    outside: list[Any] = []

    def of_arrays(*arrays: Array) -> list[Array]:
        remaining = iter(arrays)
        out = fun([next(remaining) if _is_array(x) else x for x in leaves])
        found, treedef = jax.tree.flatten(out)
        outside[:] = [None if _is_array(x) else x for x in found], treedef
        return [x for x in found if _is_array(x)]

    arrays = [x for x in leaves if _is_array(x)]
    transformed = transform(of_arrays)
    if not any(isinstance(x, jax.core.Tracer) for x in arrays):
        transformed = jax.jit(transformed)
    found = iter(transformed(*arrays))
    kept, treedef = outside
    return jax.tree.unflatten(treedef, [next(found) if x is None else x for x in kept])


def _mesh_of(arguments: Arguments) -> AbstractMesh | None:
    """The mesh of the context, or else of the first array that has one."""
    mesh = jax.sharding.get_abstract_mesh()
    if not mesh.empty:
        return mesh
    for leaf in jax.tree.leaves((arguments.batch, arguments)):
        if isinstance(leaf, jax.Array):
            mesh = getattr(jax.typeof(leaf).sharding, "mesh", mesh)
            if not mesh.empty:
                return mesh
    return None


def _is_checked(names: tuple[str, ...]) -> bool:
    """Whether types say over which axes an array varies, as the index of a device does over its own."""
    kind = getattr(jax.typeof(jax.lax.axis_index(names)), "manual_axis_type", None)
    return bool(kind is not None and kind.varying)


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray)) and leaf.dtype != jax.dtypes.float0


def _is_explicit(mesh: AbstractMesh) -> bool:
    """Whether shardings are part of types, so that no compiler moves an array unasked."""
    return AxisType.Explicit in mesh.axis_types


def _laid(tree: Tree, mesh: AbstractMesh, spec: PartitionSpec = ALIKE) -> Tree:
    """Arrays in this place of a mesh; where that is not part of their types, the compiler moves them."""
    if not _is_explicit(mesh):
        return tree
    sharding = NamedSharding(mesh, spec)
    return jax.tree.map(lambda x: jax.sharding.reshard(x, sharding) if _is_array(x) else x, tree)


def _padded(x: Array, short: int, axis: int, mesh: AbstractMesh) -> Array:
    """The array with its last entry repeated."""
    if short == 0:
        return x
    x = _laid(x, mesh)
    last = jax.lax.slice_in_dim(x, x.shape[axis] - 1, x.shape[axis], axis=axis)
    return jnp.concatenate([x] + [last] * short, axis=axis)


def _sharded_as(x: Any, like: Any) -> Any:
    if not (_is_array(x) and isinstance(like, jax.Array) and x.shape == like.shape):
        return x
    sharding = jax.typeof(like).sharding
    if sharding.mesh.empty:
        return x
    if _is_explicit(sharding.mesh):
        return jax.sharding.reshard(x, sharding)
    if sharding.mesh.manual_axes:
        return x
    # The compiler shards the result of an elementwise operation as its operands are. Where a parameter is NaN
    # there is no update anyway.
    is_number = jnp.issubdtype(like.dtype, jnp.inexact)
    return jnp.where(jnp.isnan(like), jnp.zeros_like(x), x) if is_number else x
