"""J spread over devices, each of which holds a share: some columns, or its own rows."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import dot
from hig_optax._jacobian.blocks import Outer, symmetric_product


@dataclasses.dataclass(frozen=True)
class ColumnShare:
    """J with m <= n: of what is written out some columns, of what is factored the factors of own samples.

    The interface of `Blocks`. Vectors of either side are whole, and alike on all devices.
    """

    columns: Float[Array, "M w"]
    """A share of the columns that are written out, for the rows of all samples, padding included."""

    outers: tuple[Outer, ...]
    """Of this device's own samples."""

    devices: Devices
    rows: int
    """m, without padding."""
    sizes: tuple[int, ...]
    """Columns of each block."""
    is_outer: tuple[bool, ...]
    """Which blocks are factored."""

    @classmethod
    def of_outers(cls, outers: Sequence[Outer], devices: Devices, *, rows: int) -> "ColumnShare":
        """A J of which all is factored."""
        b, r = outers[0].delta.shape[:2]
        columns = jnp.zeros((devices.number * b * r, 0), outers[0].a.dtype)
        sizes = tuple(outer.size for outer in outers)
        return cls(columns, tuple(outers), devices, rows, sizes, (True,) * len(sizes))

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.rows, sum(self.sizes)

    @property
    def dtype(self) -> Any:
        """Dtype of all parts."""
        return self.columns.dtype

    def largest(self) -> Float[Array, ""]:
        """The largest absolute entry, or a bound a little above it; NaN or inf if there is any."""
        own = [jnp.max(jnp.abs(self.columns), initial=0), *(x.largest() for x in self.outers)]
        return self.devices.largest(jnp.max(jnp.stack(own)))

    def divided(self, unit: Array) -> "ColumnShare":
        """J in another unit."""
        return self._replaced(self.columns / unit, [x.divided(unit) for x in self.outers])

    def zero_unless(self, condition: Bool[Array, ""]) -> "ColumnShare":
        """J, or zeros."""
        return self._replaced(
            jnp.where(condition, self.columns, 0),
            [Outer(*(jnp.where(condition, x, 0) for x in outer)) for outer in self.outers],
        )

    def gram(self) -> Float[Array, "m m"]:
        """J Jᵀ: one matrix summed over the devices, after each has heard of the others' factors."""
        m = self.rows
        own = symmetric_product(self.columns)[:m, :m]
        for outer in self.outers:
            own += self.devices.placed(self._rows_of_gram(outer), size=m)
        return self.devices.sum(own)

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        pieces = self._split(x)
        dense = jnp.concatenate(
            [p for p, outer in zip(pieces, self.is_outer, strict=True) if not outer] or [x[:0]]
        )
        width = self.columns.shape[1]
        own = dot(self.columns, self.devices.own(dense, length=width))[: self.rows]
        factored = [p for p, is_outer in zip(pieces, self.is_outer, strict=True) if is_outer]
        for outer, piece in zip(self.outers, factored, strict=True):
            own += self.devices.placed(outer.matvec(piece), size=self.rows)
        return self.devices.sum(own)

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        full = self.columns.shape[0]
        padded = jnp.pad(w, (0, full - w.size))
        width = sum(
            size for size, outer in zip(self.sizes, self.is_outer, strict=True) if not outer
        )
        dense = self.devices.whole(dot(padded, self.columns), size=width)
        own = self.devices.own(w, length=full // self.devices.number)
        factored = iter(self.devices.sum([outer.rmatvec(own) for outer in self.outers]))
        parts, start = [], 0
        for size, is_outer in zip(self.sizes, self.is_outer, strict=True):
            parts.append(next(factored) if is_outer else dense[start : start + size])
            start += 0 if is_outer else size
        return jnp.concatenate(parts)

    def written_out(self) -> Float[Array, "m w"]:
        """This device's columns, of a J that is not factored."""
        return self.columns[: self.rows]

    def _rows_of_gram(self, outer: Outer) -> Float[Array, "r m"]:
        """This device's rows of J Jᵀ, of one factored block."""
        b = self.devices.num_samples
        everyone = Outer(
            self.devices.whole(outer.a, size=b), self.devices.whole(outer.delta, size=b)
        )
        return outer.gram_with(everyone)

    def _split(self, x: Array) -> list[Array]:
        return jnp.split(x, np.cumsum(self.sizes)[:-1])

    def _replaced(self, columns: Array, outers: Sequence[Outer]) -> "ColumnShare":
        return dataclasses.replace(self, columns=columns, outers=tuple(outers))


@dataclasses.dataclass(frozen=True)
class RowShare:
    """J with m > n: the rows of this device's own samples, zero where they are padding.

    The interface of `Blocks`. Vectors of either side are whole, and alike on all devices.
    """

    own: Float[Array, "r n"]
    devices: Devices
    rows: int
    """m, without padding."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.rows, self.own.shape[1]

    @property
    def dtype(self) -> Any:
        """Dtype of J."""
        return self.own.dtype

    def largest(self) -> Float[Array, ""]:
        """The largest absolute entry; NaN or inf if there is any."""
        return self.devices.largest(jnp.max(jnp.abs(self.own), initial=0))

    def divided(self, unit: Array) -> "RowShare":
        """J in another unit."""
        return dataclasses.replace(self, own=self.own / unit)

    def zero_unless(self, condition: Bool[Array, ""]) -> "RowShare":
        """J, or zeros."""
        return dataclasses.replace(self, own=jnp.where(condition, self.own, 0))

    def column_gram(self) -> Float[Array, "n n"]:
        """JᵀJ."""
        return self.devices.sum(symmetric_product(self.own.T))

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return self.devices.sum(dot(self.devices.own(w, length=self.own.shape[0]), self.own))

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        return self.devices.whole(dot(self.own, x), size=self.rows)

    def written_out(self) -> Float[Array, "r n"]:
        """This device's rows."""
        return self.own


for _share, _data in ((ColumnShare, ["columns", "outers"]), (RowShare, ["own"])):
    _fields = [field.name for field in dataclasses.fields(_share)]
    jax.tree_util.register_dataclass(
        _share, data_fields=_data, meta_fields=[x for x in _fields if x not in _data]
    )
