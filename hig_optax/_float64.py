"""Full precision: products that no accelerator shortens, and an island of float64."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hig_optax._types import Tree

Out = TypeVar("Out")


def has_float64() -> bool:
    """Whether float64 is on in this program, as opposed to available in an island."""
    return jnp.dtype(jax.dtypes.canonicalize_dtype(jnp.float64)) == jnp.float64


def target_platform() -> str:
    """The platform for which the program is being traced, as far as JAX tells.

    That of the mesh in use, concrete or abstract, as within ``shard_map`` and ``jax.set_mesh``; else that of
    ``jax_default_device``; else the default backend. Neither the devices of the arguments of a ``jit`` nor
    the platforms of a ``jax.export`` are known while their function is traced: there the mesh must say it.

    Example:
        >>> device = jax.sharding.AbstractDevice("TPU v5e", num_cores=1, platform="tpu")
        >>> mesh = jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device)
        >>> with jax.sharding.use_abstract_mesh(mesh):
        ...     target_platform()
        'tpu'
    """
    # Early versions of JAX have a mesh without a device, or a device without a platform.
    device = getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)
    platform = getattr(device, "platform", None)
    if platform is None:
        default = jax.config.jax_default_device  # type: ignore[attr-defined]
        platform = default if isinstance(default, str) else getattr(default, "platform", None)
    return platform or jax.default_backend()


def target_has_float64() -> bool:
    """Whether `target_platform` computes in float64 at all; TPUs do so only in emulation."""
    return target_platform() in ("cpu", "gpu", "cuda", "rocm")


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Matrix product, as ``a @ b``, in the full precision of its dtype.

    By default accelerators multiply float32 in TF32 or bfloat16, which a factorisation does not survive.
    """
    return jnp.matmul(a, b, precision="highest")


def norm(x: Float[Array, " r"]) -> Float[Array, ""]:
    """The 2-norm, for entries whose squares overflow or vanish too."""
    largest = jnp.max(jnp.abs(x), initial=0)
    # Of a zero vector the square root would have no derivative.
    squared = jnp.sum(jnp.square(x / jnp.where(largest == 0, 1, largest)))
    return largest * jnp.sqrt(jnp.where(largest == 0, 1, squared))


def power_of_two(x: jax.Array) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The power of two of the size of the largest entry, 0 if there is none; and whether all are finite.

    In such units squares neither overflow nor vanish, and dividing by a power of two does not round.
    """
    largest = jnp.max(jnp.abs(x), initial=0)
    # Keep sign and exponent, which are the bits that infinity has, and clear the rest.
    integer = np.uint32 if largest.dtype == jnp.float32 else np.uint64
    exponent_bits = np.array(np.inf, largest.dtype).view(integer)
    bits = jax.lax.bitcast_convert_type(largest, integer) & exponent_bits
    return jax.lax.bitcast_convert_type(bits, largest.dtype), jnp.isfinite(largest)


class Wide(NamedTuple):
    """A float64 array on its way from one island to another, without loss even in a float32 program."""

    data: Array
    """The array itself in a float64 program, else its bits: uint32, with an axis of two at the end."""

    @classmethod
    def zeros(cls, shape: tuple[int, ...]) -> "Wide":
        """An array of zeros."""
        return cls(jnp.zeros(shape) if has_float64() else jnp.zeros((*shape, 2), jnp.uint32))

    @classmethod
    def of(cls, x: Array) -> "Wide":
        """An array raised to float64."""
        return float64_island(lambda x: cls(x))(x)

    def narrowed(self, dtype: Any) -> Array:
        """The array rounded to a dtype."""
        return float64_island(lambda x, _: x)(self, jnp.zeros((), dtype))


def float64_island(fun: Callable[..., Out]) -> Callable[..., Out]:
    """Evaluate `fun` in float64, whatever the dtype of its arguments and of the program.

    Floating arguments are raised to float64; floating results come back in the lowest precision among
    the floating arguments. No global setting is touched. The backend must have float64.

    Arguments of type `Wide` reach `fun` as the float64 arrays that they stand for, and results that `fun`
    marks as `Wide` keep all their digits. Where all arguments are `Wide`, all floating results must be.

    The island can be batched by `jax.vmap` in any nesting with ``jit``, ``scan``, ``cond`` and
    ``checkpoint``. In a float32 program it cannot be differentiated.

    Args:
        fun: Trees of arrays in, tree of arrays out; pure, and it closes over no traced array.

    Returns:
        A function of the same arguments.

    Raises:
        TypeError: (of the returned function) when it is differentiated in a float32 program.

    Example:
        >>> difference = float64_island(lambda x: (1 + x) - 1)
        >>> difference(jnp.float32(2.0**-40)) == 2.0**-40  # in float32 it would be 0
        Array(True, dtype=bool)
    """

    def raised(*args: Tree, in_bits: bool) -> Tree:
        leaves = jax.tree.leaves(args, is_leaf=_is_wide)
        floats = [x.dtype for x in leaves if _is_float(x)]
        widest = jnp.dtype(jnp.float64)
        out_dtype = min(floats, key=lambda dtype: jnp.finfo(dtype).bits, default=widest)
        return _lowered(fun(*_raised(args, in_bits)), out_dtype, in_bits)

    # The batching rules of the primitives inside run after `enable_x64` has been left and would mix
    # dtypes. So the island has a leading batch axis of its own, and a rule that extends it.
    @jax.custom_batching.custom_vmap
    def island(args: tuple) -> Tree:
        with jax.enable_x64(True):
            return jax.vmap(lambda args: raised(*args, in_bits=True))(args)

    @island.def_vmap
    def _(axis_size: int, in_batched: list, args: tuple) -> tuple[Tree, Tree]:
        def merge(x: jax.Array, is_batched: bool) -> jax.Array:
            x = x if is_batched else jnp.broadcast_to(x, (axis_size, *x.shape))
            return x.reshape((axis_size * x.shape[1], *x.shape[2:]))

        out = island(jax.tree.map(merge, args, in_batched[0]))
        split = jax.tree.map(
            lambda x: x.reshape((axis_size, x.shape[0] // max(axis_size, 1), *x.shape[1:])), out
        )
        return split, jax.tree.map(lambda _: True, split)

    @jax.custom_jvp
    def guarded(args: tuple) -> Tree:
        return jax.tree.map(lambda x: x[0], island(jax.tree.map(lambda x: x[None], args)))

    @guarded.defjvp
    def _(_primals: tuple, _tangents: tuple) -> tuple[Tree, Tree]:
        msg = (
            "The half-inverse direction cannot be differentiated in a float32 program: its algebra runs in "
            "float64, which the program's derivatives could not follow. Switch float64 on for the whole "
            'program (jax.config.update("jax_enable_x64", True)), or use solver="svd", or put '
            "jax.lax.stop_gradient on the params and the gradient that go into the update (on the updates "
            "that come out it would be too late)."
        )
        raise TypeError(msg)

    return lambda *args: raised(*args, in_bits=False) if has_float64() else guarded(args)


def _raised(tree: Tree, in_bits: bool) -> Tree:
    def raised(x: Any) -> Array:
        if isinstance(x, Wide):
            return jax.lax.bitcast_convert_type(x.data, jnp.float64) if in_bits else x.data
        return x.astype(jnp.float64) if _is_float(x) else x

    return jax.tree.map(raised, tree, is_leaf=_is_wide)


def _lowered(tree: Tree, dtype: Any, in_bits: bool) -> Tree:
    def lowered(x: Any) -> Any:
        if isinstance(x, Wide):
            return Wide(jax.lax.bitcast_convert_type(x.data, jnp.uint32)) if in_bits else x
        return x.astype(dtype) if _is_float(x) else x

    return jax.tree.map(lowered, tree, is_leaf=_is_wide)


def _is_wide(x: Any) -> bool:
    return isinstance(x, Wide)


def _is_float(x: Any) -> bool:
    return not _is_wide(x) and jnp.issubdtype(x.dtype, jnp.floating)
