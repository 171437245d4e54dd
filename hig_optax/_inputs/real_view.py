"""Trees of arrays as flat real vectors, and back.

Real and imaginary part of a complex number count as two real ones, so that everything behind this module is
real. Leaves in less than float32 are raised to float32.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._types import Tree


@dataclasses.dataclass(frozen=True)
class RealView:
    """A tree of real or complex arrays seen as a tuple of real arrays, or as one real vector.

    A complex leaf becomes two entries of the tuple, real part first. For an incoming gradient in Optax's
    convention, ``conj(jax.grad(loss))`` = ∂L/∂Re + i ∂L/∂Im, the two entries are the real derivatives.
    """

    treedef: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[Any, ...]

    @classmethod
    def of(cls, tree: Tree) -> "RealView":
        """The view of any tree like `tree`, whose leaves need only shape and dtype."""
        leaves, treedef = jax.tree.flatten(tree)
        return cls(
            treedef,
            tuple(x.shape for x in leaves),
            tuple(jax.dtypes.canonicalize_dtype(x.dtype) for x in leaves),
        )

    @property
    def size(self) -> int:
        """Number of real numbers in the tree."""
        return sum(
            math.prod(shape) * (1 + _is_complex(dtype))
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        )

    @property
    def real_dtypes(self) -> tuple[Any, ...]:
        """Dtype of the real parts of each leaf, at least float32."""
        return tuple(_real_dtype(dtype) for dtype in self.dtypes)

    @property
    def lowest_dtype(self) -> Any:
        """The least precise of `real_dtypes`: what is computed from all leaves is no better."""
        return min(self.real_dtypes, key=_bits)

    @property
    def highest_dtype(self) -> Any:
        """The most precise of `real_dtypes`."""
        return max(self.real_dtypes, key=_bits)

    def split(self, tree: Tree) -> tuple[Array, ...]:
        """The tree as real arrays."""
        parts: list[Array] = []
        for x, dtype in zip(jax.tree.leaves(tree), self.real_dtypes, strict=True):
            if _is_complex(x.dtype):
                parts += [jnp.real(x).astype(dtype), jnp.imag(x).astype(dtype)]
            else:
                parts.append(jnp.asarray(x, dtype))
        return tuple(parts)

    def merge(self, parts: Sequence[Array]) -> Tree:
        """The tree again, low-precision leaves still raised to float32."""
        remaining = iter(parts)
        leaves = [
            jax.lax.complex(next(remaining), next(remaining))
            if _is_complex(dtype)
            else next(remaining)
            for dtype in self.dtypes
        ]
        return jax.tree.unflatten(self.treedef, leaves)

    def ravel(self, tree: Tree, dtype: Any) -> Float[Array, " size"]:
        """The tree as one vector of length `size`."""
        return jnp.concatenate([x.ravel().astype(dtype) for x in self.split(tree)])

    def unravel(self, vector: Float[Array, " size"]) -> Tree:
        """The tree of a vector, with the leaves' own shapes and dtypes."""
        parts, start = [], 0
        for shape, dtype, real in zip(self.shapes, self.dtypes, self.real_dtypes, strict=True):
            for _ in range(1 + _is_complex(dtype)):
                stop = start + math.prod(shape)
                parts.append(vector[start:stop].reshape(shape).astype(real))
                start = stop
        leaves = jax.tree.leaves(self.merge(parts))
        leaves = [x.astype(dtype) for x, dtype in zip(leaves, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, leaves)


def _is_complex(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def _real_dtype(dtype: Any) -> Any:
    real = jnp.finfo(dtype).dtype
    return real if _bits(real) >= 32 else jnp.dtype(jnp.float32)


def _bits(dtype: Any) -> int:
    return jnp.finfo(dtype).bits
