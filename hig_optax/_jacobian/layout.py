"""How J of a batch is to be had, before anything is computed: decided here, and nowhere else."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from hig_optax._jacobian.choices import choose_jacobian, may_be_held
from hig_optax._jacobian.differentiate import Differentiator
from hig_optax._jacobian.rows import Residual
from hig_optax._jacobian.taps import find_taps
from hig_optax._types import JacobianMode


class Layout(NamedTuple):
    """How J is to be had."""

    residual: Residual
    columns: tuple[Array, ...]
    ways: tuple[Differentiator, ...]
    """Of each block of rows."""
    kept: tuple[int, ...]
    """Column parts that stay in factors."""
    plain: tuple[int, ...]
    """All others."""
    chunk_size: int | None
    dtype: Any
    is_condensed: bool
    """Whether J is wanted for its Gram matrix alone."""

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), with the rows of all devices."""
        return self.residual.size, sum(part.size for part in self.columns)

    @property
    def by_rows(self) -> bool:
        """Whether J has no more rows than columns."""
        m, n = self.shape
        return m <= n

    @property
    def number(self) -> int:
        """What `chunk_size` counts: samples, or rows or columns of J where there is one block without."""
        samples = [block.samples.size for block in self.residual.blocks]
        if samples == [None]:
            return self.shape[self.ways[0].mode == "forward"]
        return max(size or 1 for size in samples)

    @property
    def is_held(self) -> bool:
        """Whether what stays in no factors is formed once."""
        size = sum(self.columns[i].size for i in self.plain)
        is_whole = self.chunk_size is None or self.chunk_size >= self.number
        return not self.is_condensed or is_whole or may_be_held(self.shape, columns=size)

    def columns_of(self, parts: Sequence[int]) -> np.ndarray:
        """Numbers of the columns of some parts."""
        return columns_of(self.columns, parts)


def columns_of(columns: tuple[Array, ...], parts: Sequence[int]) -> np.ndarray:
    """Numbers of the columns of some parts."""
    ends = np.cumsum([part.size for part in columns])
    spans = [np.arange(ends[i] - columns[i].size, ends[i]) for i in parts]
    return np.concatenate(spans).astype(np.int32)


def lay_out(
    residual: Residual,
    columns: tuple[Array, ...],
    *,
    jacobian: JacobianMode,
    chunk_size: int | None,
    dtype: Any,
    is_condensed: bool,
) -> Layout:
    """Choose how each block is differentiated, and which parts stay in factors.

    Args:
        residual: The rows.
        columns: Real parts of the parameters, n numbers.
        jacobian: What the user asked for.
        chunk_size: As in `scale_by_hig`.
        dtype: Dtype of J.
        is_condensed: Whether J is wanted for its Gram matrix alone.
    """
    n = sum(part.size for part in columns)
    ways = []
    for block in residual.blocks:
        r = block.rows.view.size
        mode = choose_jacobian(
            jacobian,
            rows=r,
            columns=n,
            has_custom_vjp=block.rows.has_custom_vjp,
            is_forward_only=block.rows.is_forward_only,
        )
        tapped = None
        if mode == "reverse" and block.samples.size is not None:
            tapped = find_taps(block.rows.evaluate, columns, block.samples.example)
        ways.append(Differentiator(block, columns, mode, dtype, tapped))
    kept: set[int] = set()
    if is_condensed and residual.size <= n:
        kept = set.intersection(*({*_may_be_kept(way)} for way in ways))
    ways = [dataclasses.replace(way, kept=frozenset(kept)) for way in ways]
    plain = tuple(i for i in range(len(columns)) if i not in kept)
    return Layout(
        residual,
        columns,
        tuple(ways),
        kept=tuple(sorted(kept)),
        plain=plain,
        chunk_size=chunk_size,
        dtype=dtype,
        is_condensed=is_condensed,
    )


def _may_be_kept(way: Differentiator) -> list[int]:
    tapped = way.tapped
    if tapped is None:
        return []
    return [i for i in tapped.matrices if tapped.may_stay_factored(i, way.columns[i].shape)]
