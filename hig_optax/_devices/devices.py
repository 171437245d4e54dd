"""Many devices, one update: how samples are spread over them, and what they tell each other."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._inputs.batch import by_block, sample_axes
from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices that share a batch, as one of them sees them: its own samples in order of the devices.

    Everything that is not said to be a device's own is the same on all of them.
    """

    axes: tuple[str, ...]
    """Names of the mesh axes that the samples are spread over; they are bound (within ``shard_map``)."""

    samples: tuple[tuple[str | None, int], ...]
    """Samples of all devices together, of each block of rows by its name, None for a residual without. Where
    they do not divide evenly, the last devices repeat the last sample."""

    def samples_of(self, name: str | None) -> int:
        """Samples of a block on all devices."""
        return dict(self.samples)[name]

    @property
    def number(self) -> int:
        """How many devices there are."""
        return jax.lax.axis_size(self.axes)

    def sum(self, x: Tree) -> Tree:
        """The sum of what each device has."""
        return jax.lax.psum(x, self.axes)

    def largest(self, x: Array) -> Array:
        """The largest of what each device has, entry by entry; inf where any is NaN."""
        # A maximum between devices may pass over a NaN. It has no derivative, and is used for units alone.
        x = jax.lax.stop_gradient(jnp.where(jnp.isnan(x), jnp.inf, x))
        return jax.lax.pmax(x, self.axes)

    def whole(self, own: Array, *, size: int, axis: int = 0) -> Array:
        """All pieces of an array, one after the other along an axis, and of that the first `size` entries."""
        if own.shape[axis] == 0:
            return own
        gathered = jax.lax.all_gather(own, self.axes, axis=axis, tiled=True)
        return jax.lax.slice_in_dim(gathered, 0, size, axis=axis)

    def own(self, x: Array, *, length: int) -> Array:
        """This device's piece of the first axis, `length` entries, zero past its end: `whole` undoes it."""
        rest = self.number * length - x.shape[0]
        padded = jnp.pad(x, ((0, rest), *((0, 0) for _ in x.shape[1:])))
        return jax.lax.dynamic_slice_in_dim(padded, self._index() * length, length)

    def placed(self, own: Array, *, size: int) -> Array:
        """This device's piece of an array where it belongs along the first axis, and zeros elsewhere."""
        zeros = jnp.zeros((self.number * own.shape[0], *own.shape[1:]), own.dtype)
        start = self._index() * own.shape[0]
        return jax.lax.dynamic_update_slice_in_dim(zeros, own, start, 0)[:size]

    def exchanged(self, own: Float[Array, "r n"]) -> Float[Array, "R w"]:
        """The rows of all devices, and a share of the columns: as many on each, zero past the last.

        Every device sends each other one a block: a device's traffic is its own rows once.
        """
        if own.shape[1] == 0:
            return jnp.zeros((self.number * own.shape[0], 0), own.dtype)
        short = -own.shape[1] % self.number
        padded = jnp.pad(own, ((0, 0), (0, short)))
        return jax.lax.all_to_all(padded, self.axes, 1, 0, tiled=True)

    def is_padding(self, own: int, total: int) -> Array:
        """Which of this device's samples of a block repeat the last one."""
        first = self._index() * own
        return first + jnp.arange(own, dtype=first.dtype) >= total

    def whole_batch(self, batch: Tree, batch_axis: Tree) -> Tree:
        """The samples of all devices."""
        found = {
            name: self._whole(part, axes, self.samples_of(name))
            for name, part, axes in by_block([name for name, _ in self.samples], batch, batch_axis)
        }
        return found.get(None, found)

    def one_of(self, own: Array, is_offered: Array) -> Array:
        """What the first of the devices has that offer theirs; the first one's where none does."""
        chosen = jnp.argmax(self.whole(is_offered[None], size=self.number))
        return self._whole_leaf(own[None], 0, self.number)[chosen]

    def _whole(self, batch: Tree, batch_axis: Tree, size: int) -> Tree:
        leaves, treedef = jax.tree.flatten(batch, is_leaf=lambda x: x is None)
        axes = sample_axes(batch_axis, batch)
        return jax.tree.unflatten(
            treedef,
            [
                x if axis is None else self._whole_leaf(x, axis, size)
                for x, axis in zip(leaves, axes, strict=True)
            ],
        )

    def _whole_leaf(self, x: Any, axis: int, size: int) -> Array:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            data = self._whole_leaf(jax.random.key_data(x), axis % x.ndim, size)
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
        return self.whole(x, size=size, axis=axis % x.ndim)

    def _index(self) -> Array:
        return jax.lax.axis_index(self.axes)

    def stages(self) -> list[tuple[int, int]]:
        """Rounds in which groups of devices meet until each has met all: (members, distance of members)."""
        found, rest, stride, prime = [], self.number, 1, 2
        while rest > 1:
            while rest % prime == 0:
                found.append((prime, stride))
                rest, stride = rest // prime, stride * prime
            prime += 1
        return found

    def of_group(self, own: Float[Array, "k r"], members: int, stride: int) -> Float[Array, "K r"]:
        """What the members of a round's group have, one after the other, alike on all members."""
        place = self._index() // stride % members
        stacked = jnp.zeros((members, *own.shape), own.dtype).at[place].set(own)
        for step in range(1, members):
            # Device `i` hears of the member `step` places further in its group.
            pairs = []
            for i in range(self.number):
                member = i // stride % members
                pairs.append((i + ((member + step) % members - member) * stride, i))
            heard = jax.lax.ppermute(own, self.axes, pairs)
            stacked = stacked.at[(place + step) % members].set(heard)
        return stacked.reshape(-1, own.shape[-1])

    def block_of_group(
        self, Q: Float[Array, "K r"], members: int, stride: int
    ) -> Float[Array, "k r"]:
        """The rows of this device among those of `of_group`."""
        rows = Q.shape[0] // members
        return jax.lax.dynamic_slice_in_dim(Q, self._index() // stride % members * rows, rows)
