"""J made of matrices that lie side by side."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from hig_optax._devices.devices import Devices
from hig_optax._float64 import Wide, float64_island
from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.leaves import Dense
from hig_optax._jacobian.strips import Condensed, or_one


@dataclasses.dataclass(frozen=True)
class Beside(Jacobian):
    """J made of matrices that lie side by side, each of which stands for some of the columns."""

    parts: tuple[Jacobian, ...]

    columns: tuple[np.ndarray, ...]
    """Which columns each part is, in its order."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return self.parts[0].shape[0], sum(part.shape[1] for part in self.parts)

    @property
    def dtype(self) -> Any:
        """Dtype of all parts."""
        return self.parts[0].dtype

    @property
    def devices(self) -> Devices | None:
        """Those that share all parts."""
        return self.parts[0].devices

    def condense(self, X: Float[Array, "q k"], *, by_rows: bool) -> Condensed:
        """The sum of what the parts have, in the largest of their units; of columns, of all written out."""
        if not by_rows:
            return Dense(self.matrix()).condense(X, by_rows=False)
        each = [
            part.condense(X[columns], by_rows=True)
            for part, columns in zip(self.parts, self.columns, strict=True)
        ]
        return summed(each)

    def pull(self, W: Wide) -> Wide:
        """Jᵀ W, part by part."""
        found = [part.pull(W).data for part in self.parts]
        return Wide(jnp.concatenate(found)[self._order()])

    def matrix(self) -> Float[Array, "m n"]:
        """The parts written out."""
        written = jnp.concatenate([part.matrix() for part in self.parts], axis=1)
        return written[:, self._order()]

    def matvec(self, x: Float[Array, " n"]) -> Float[Array, " m"]:
        """``x -> J x``."""
        each = [p.matvec(x[columns]) for p, columns in zip(self.parts, self.columns, strict=True)]
        return sum(each[1:], each[0])

    def rmatvec(self, w: Float[Array, " m"]) -> Float[Array, " n"]:
        """``w -> Jᵀ w``."""
        return jnp.concatenate([part.rmatvec(w) for part in self.parts])[self._order()]

    def _order(self) -> np.ndarray:
        return np.argsort(np.concatenate(self.columns)).astype(np.int32)


def summed(each: Sequence[Condensed]) -> Condensed:
    """The sum of what several matrices with the same rows have, in the largest of their units."""
    if len(each) == 1:
        return each[0]

    @float64_island
    def added(each: list[Any]) -> Condensed:
        units = jnp.stack([x.unit for x in each])
        # `max` may prefer the larger of a number and NaN on some backends.
        unit = jnp.where(jnp.all(jnp.isfinite(units)), or_one(jnp.max(units)), jnp.nan)
        ratios = or_one(units) / unit
        gram = sum(jnp.square(r) * x.gram for r, x in zip(ratios, each, strict=True))
        image = sum(r * x.image for r, x in zip(ratios, each, strict=True))
        return Condensed(Wide(gram), Wide(image), Wide(unit))

    return added(list(each))
