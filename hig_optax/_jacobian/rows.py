"""The rows of a batch, in one block or in several, each with a function and samples of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from hig_optax._devices.devices import Devices
from hig_optax._inputs.batch import Samples, split_batch
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.residual import Rows, explained, trace_rows
from hig_optax._inputs.settings import Settings
from hig_optax._jacobian.shared import Spread
from hig_optax._types import ResidualFn, Tree


class Block(NamedTuple):
    """Rows of one function on a batch of its own."""

    name: str | None
    """None where the residual is one function."""

    rows: Rows
    """Of one sample, or of the whole batch."""

    samples: Samples
    """On this device."""

    total: int | None
    """Samples on all devices; None where the function takes the whole batch."""

    is_sketch: bool = False
    """Whether its rows stand for others, of which there are more."""

    @property
    def size(self) -> int:
        """Rows of all samples."""
        return self.rows.view.size * (self.total or 1)

    @property
    def own_size(self) -> int:
        """Rows of this device's samples."""
        return self.rows.view.size * (self.samples.size or 1)

    def evaluate(self, parts: tuple[Array, ...], chunk_size: int | None) -> Float[Array, " r"]:
        """The rows of this device, sample after sample, `chunk_size` samples at once: one forward pass."""
        if self.samples.size is None:
            return self.rows.evaluate(parts, ())
        y = mapped(
            lambda entries: self.rows.evaluate(parts, entries),
            self.samples.mapped,
            self.samples.size,
            chunk_size,
        )
        return y.reshape(-1)

    def without(self, is_kept: Bool[Array, " b"], samples: Samples) -> "Block":
        """With zero rows, also for derivatives, in place of those that are not kept.

        Args:
            is_kept: Which of this device's samples are; which rows, where there are no samples.
            samples: With copies of others in place of those that are not kept. So no NaN of theirs is met in
                any derivative: times the zero that is pulled back through their rows it would be NaN.
        """
        evaluate = self.rows.evaluate
        if samples.size is None:

            def masked(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
                return jnp.where(is_kept, evaluate(columns, entries), 0)
        else:
            samples = dataclasses.replace(samples, mapped=(*samples.mapped, is_kept))

            def masked(columns: tuple[Array, ...], entries: tuple[Any, ...]) -> Array:
                return jnp.where(entries[-1], evaluate(columns, entries[:-1]), 0)

        return self._replace(rows=dataclasses.replace(self.rows, evaluate=masked), samples=samples)

    def unravel(self, y: Float[Array, " r"]) -> Tree:
        """The rows as the function returns them, with a leading axis of samples where it takes one."""
        unravel = self.rows.view.unravel
        if self.total is None:
            return unravel(y)
        return jax.vmap(unravel)(y.reshape(self.total, -1))


@dataclasses.dataclass(frozen=True)
class Residual:
    """All rows as a function of the parameters, block after block and sample after sample."""

    blocks: tuple[Block, ...]

    spread: Spread | None = None
    """How they lie over devices that share them."""

    num_dropped: Int[Array, ""] | None = None
    """How many samples of all devices (rows, of a whole batch) were not finite and have rows of zero; None
    where all are as they come."""

    is_kept: Bool[Array, " m"] | None = None
    """Which rows are not among these."""

    @classmethod
    def of(cls, blocks: tuple[Block, ...], devices: Devices | None) -> "Residual":
        """The rows of these blocks, of which each device has those of its own samples."""
        if devices is None:
            return cls(blocks)
        sizes = tuple(b.own_size for b in blocks), tuple(b.size for b in blocks)
        return cls(blocks, Spread(devices, *sizes))

    @property
    def size(self) -> int:
        """m, with the rows of all devices."""
        return sum(block.size for block in self.blocks)

    @property
    def num_averaged(self) -> int | Array:
        """Over how many samples of all devices a loss is averaged.

        1 for several blocks, or where the residual takes the whole batch.
        """
        total = self.blocks[0].total if len(self.blocks) == 1 else None
        if total is None or self.num_dropped is None:
            return total or 1
        return jnp.maximum(total - self.num_dropped, 1)

    @property
    def num_parts(self) -> int:
        """Samples of all blocks on all devices, and rows of those that take the whole batch."""
        return sum(block.size if block.total is None else block.total for block in self.blocks)

    @property
    def sizes(self) -> tuple[tuple[str, int], ...]:
        """Names and numbers of rows of named blocks."""
        return tuple((b.name, b.size) for b in self.blocks if b.name is not None)

    @property
    def dtype(self) -> Any:
        """Dtype of the rows: the most precise of all blocks."""
        return max((b.rows.view.highest_dtype for b in self.blocks), key=_bits)

    @property
    def lowest_dtype(self) -> Any:
        """The least precise dtype among the rows."""
        return min((b.rows.view.lowest_dtype for b in self.blocks), key=_bits)

    @property
    def has_custom_vjp(self) -> bool:
        """Whether a block holds a function with a reverse rule only."""
        return any(b.rows.has_custom_vjp for b in self.blocks)

    @property
    def is_forward_only(self) -> bool:
        """Whether a block holds something with a forward rule only."""
        return any(b.rows.is_forward_only for b in self.blocks)

    def own(self, parts: tuple[Array, ...], chunk_size: int | None) -> Float[Array, " r"]:
        """The rows of this device's samples."""
        pieces = [b.evaluate(parts, chunk_size).astype(self.dtype) for b in self.blocks]
        return jnp.concatenate(pieces)

    def evaluate(self, parts: tuple[Array, ...], chunk_size: int | None) -> Float[Array, " m"]:
        """The rows of all devices."""
        return self.gathered(self.own(parts, chunk_size))

    def gathered(self, own: Array) -> Array:
        """A vector of the row side, (m,), from what each device has of it."""
        return own if self.spread is None else self.spread.gather(own)

    def split(self, w: Float[Array, " m"]) -> list[Float[Array, " r"]]:
        """What this device has of a vector of the row side, block by block."""
        own = w if self.spread is None else self.spread.take(w)
        ends = np.cumsum([block.own_size for block in self.blocks])[:-1]
        return jnp.split(own, ends)

    def unravel(self, y: Float[Array, " m"]) -> Tree:
        """The rows as a loss gets them: a tree, or one for each named block."""
        found, start = {}, 0
        for block in self.blocks:
            found[block.name] = block.unravel(y[start : start + block.size])
            start += block.size
        return found.get(None, found)


def residual_of(
    settings: Settings, columns: Columns, batch: Tree, devices: Devices | None = None
) -> Residual:
    """Look at the residual on a batch, of several devices on this one's part; only shapes and dtypes matter.

    Raises:
        TypeError: Rows that are not floating-point numbers.
        ValueError: `batch` or the rows do not fit.
    """
    fun, blocks = settings.residual_fn, []
    for name, samples in split_batch(settings.blocks, batch, settings.batch_axis).items():
        function = fun[str(name)] if isinstance(fun, Mapping) else fun
        rows = _trace(function, columns, samples, name)
        total = samples.size if devices is None else devices.samples_of(name)
        blocks.append(Block(name, rows, samples, total))
    return Residual.of(tuple(blocks), devices)


def mapped(fun: Any, xs: Any, size: int | None, chunk_size: int | None) -> Any:
    """`fun` of every sample, `chunk_size` at once."""
    if chunk_size is None or size is None or chunk_size >= size:
        return jax.vmap(fun)(xs)
    return jax.lax.map(fun, xs, batch_size=chunk_size)


def _trace(residual_fn: ResidualFn, columns: Columns, samples: Samples, name: str | None) -> Rows:
    def residual(parts: tuple[jax.Array, ...], entries: tuple[Any, ...]) -> Tree:
        params, sample = columns.rebuild(parts), samples.assemble(entries)
        with explained(sample, is_whole=samples.size is None, is_one_vector=columns.is_one_vector):
            return residual_fn(params, sample)

    try:
        has_frozen = not all(columns.is_optimized) or columns.all_params is not None
        return trace_rows(residual, columns.parts, samples.example, has_frozen=has_frozen)
    except Exception as error:
        if name is not None:
            error.add_note(f"This is residual_fn[{name!r}].")
        raise


def _bits(dtype: Any) -> int:
    return jnp.finfo(dtype).bits
