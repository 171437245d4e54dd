"""Random points in a box and on its faces."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Box:
    """A box, and those of its faces where a solution is given.

    Attributes:
        low: Lower end of each axis.
        high: Upper end of each axis.
        faces: (axis, value) of each face; one that stands there twice gets twice as many points.

    Example:
        >>> box = Box((0.0, -1.0), (1.0, 1.0), ((0, 0.0), (1, 1.0)))
        >>> box.on_faces(jax.random.key(0), 4).shape
        (4, 2)
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    faces: tuple[tuple[int, float], ...]

    @classmethod
    def with_all_faces(cls, low: tuple[float, ...], high: tuple[float, ...]) -> "Box":
        """The box with the solution given all around."""
        ends = enumerate(zip(low, high, strict=True))
        return cls(low, high, tuple((axis, value) for axis, pair in ends for value in pair))

    @property
    def dimension(self) -> int:
        """Number of axes."""
        return len(self.low)

    def inside(self, key: jax.Array, count: int) -> Float[Array, "count d"]:
        """Uniform random points inside, in JAX's default float dtype."""
        return jax.random.uniform(
            key,
            (count, self.dimension),
            minval=jnp.asarray(self.low, float),
            maxval=jnp.asarray(self.high, float),
        )

    def on_faces(self, key: jax.Array, count: int) -> Float[Array, "count d"]:
        """Uniform random points on the faces in turn, so that each gets its share exactly."""
        x = self.inside(key, count)
        for i, (axis, value) in enumerate(self.faces):
            x = x.at[i :: len(self.faces), axis].set(value)
        return x

    def grid(self, *counts: int) -> Float[Array, "count d"]:
        """So many evenly spaced points along each axis, ends included; the last axis runs fastest."""
        axes = [np.linspace(*ends) for ends in zip(self.low, self.high, counts, strict=True)]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
        return jnp.asarray(points.reshape(-1, self.dimension), float)
