"""J spread over devices, each of which holds a share: some columns, or the rows of its own samples.

Vectors of either side are whole, and alike on all devices.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import Wide, float64_island
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.outer import Factors, Outer, bound
from hig_optax._jacobian.strips import Condensed, or_one


@dataclasses.dataclass(frozen=True)
class Spread:
    """How the rows of blocks of samples lie over devices: each has those of its own samples.

    Where the samples of a block do not divide evenly, the last rows of the last devices are padding.
    """

    over: Devices

    own: tuple[int, ...]
    """Rows that a device has, block by block."""

    total: tuple[int, ...]
    """Rows of all devices without padding, block by block."""

    def take(self, w: Array) -> Array:
        """This device's rows of a vector or matrix, zero where they are padding."""
        pieces, start = [], 0
        for own, total in zip(self.own, self.total, strict=True):
            pieces.append(self.over.own(w[start : start + total], length=own))
            start += total
        return jnp.concatenate(pieces)

    def gather(self, own: Array) -> Array:
        """The rows of all devices from those of each."""
        pieces, start = [], 0
        for size, total in zip(self.own, self.total, strict=True):
            pieces.append(self.over.whole(own[start : start + size], size=total))
            start += size
        return jnp.concatenate(pieces)


@dataclasses.dataclass(frozen=True)
class SharedRows(Jacobian):
    """J of which each device has the rows of its own samples; it is condensed where m > n."""

    own: Jacobian
    """Zero where they are padding."""

    spread: Spread

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return sum(self.spread.total), self.own.shape[1]

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.own.dtype

    @property
    def devices(self) -> Devices:
        """Those that share J."""
        return self.spread.over

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """Summed over the devices."""
        assert not by_rows, "rows are shared where J has more rows than columns"
        return reduced(self.own.condense(self.spread.take(X), by_rows=False), self.devices)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, summed over the devices."""
        return added_up(self.own.pull(Wide(self.spread.take(W.data))), self.devices)

    def matrix(self) -> Float[Array, "r n"]:
        """This device's rows."""
        return self.own.matrix()

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return self.spread.gather(self.own.matvec(x))

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return self.devices.sum(self.own.rmatvec(self.spread.take(w)))


@dataclasses.dataclass(frozen=True)
class SharedColumns(Jacobian):
    """J with m <= n of which each device has some columns, for the rows of all samples."""

    own: Jacobian
    """Zero past the last column."""

    over: Devices

    number: int
    """n, columns of all devices."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.own.shape[0], self.number

    @property
    def dtype(self) -> Any:
        """Dtype of the entries."""
        return self.own.dtype

    @property
    def devices(self) -> Devices:
        """Those that share J."""
        return self.over

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """Summed over the devices."""
        assert by_rows, "columns are shared where J has no more rows than columns"
        return reduced(self.own.condense(self._take(X), by_rows=True), self.over)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, a share by each device."""
        return Wide(self.over.whole(self.own.pull(W).data, size=self.number))

    def matrix(self) -> Float[Array, "m w"]:
        """This device's columns."""
        return self.own.matrix()

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return self.over.sum(self.own.matvec(self._take(x)))

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return self.over.whole(self.own.rmatvec(w), size=self.number)

    def _take(self, x: Array) -> Array:
        return self.over.own(x, length=self.own.shape[1])


@dataclasses.dataclass(frozen=True)
class SharedOuter(SharedRows):
    """J of a dense layer with m <= n, of which each device has the factors of its own samples."""

    own: Outer

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """Each device's rows of it, after it has heard of the others' factors."""
        assert by_rows, "factors pay where J has no more rows than columns"
        devices, spread = self.devices, self.spread
        everyone = self._everyone()

        @float64_island
        def condensed(own: tuple[Factors, ...], every: tuple[Factors, ...], X: Array) -> Condensed:
            unit = or_one(bound(every))
            scaled, others = (
                [f._replace(delta=f.delta / unit) for f in blocks] for blocks in (own, every)
            )
            gram, image = [], []
            for f, total in zip(scaled, spread.total, strict=True):
                rows = jnp.concatenate(
                    [f.times(g)[:, :t] for g, t in zip(others, spread.total, strict=True)], axis=1
                )
                gram.append(devices.placed(rows, size=total))
                image.append(devices.placed(jax.vmap(f.matvec, 1, 1)(X), size=total))
            sums = devices.sum((jnp.concatenate(gram), jnp.concatenate(image)))
            return Condensed(Wide(sums[0]), Wide(sums[1]), Wide(unit))

        return condensed(self.own.blocks, everyone, X)

    def _everyone(self) -> tuple[Factors, ...]:
        whole: Sequence[Factors] = [
            Factors(*(self.devices.whole(x, size=self.devices.number * x.shape[0]) for x in f))
            for f in self.own.blocks
        ]
        return tuple(whole)


def reduced(own: Condensed, devices: Devices) -> Condensed:
    """The sum over devices, in the largest of their units."""

    @float64_island
    def added(own: Any) -> Condensed:
        unit = devices.largest(own.unit)
        ratio = or_one(own.unit) / unit
        gram, image = devices.sum((jnp.square(ratio) * own.gram, ratio * own.image))
        return Condensed(Wide(gram), Wide(image), Wide(unit))

    return added(own)


def added_up(x: Wide, devices: Devices) -> Wide:
    """The sum over devices in float64."""
    return float64_island(lambda x: Wide(devices.sum(x)))(x)
