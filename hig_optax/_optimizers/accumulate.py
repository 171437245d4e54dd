"""Several micro-batches as one batch."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from hig_optax._eager import cond
from hig_optax._inputs.batch import check_array, sample_axes
from hig_optax._inputs.checks import check_choice, check_count
from hig_optax._inputs.settings import NOT_PASSED, check_passed
from hig_optax._inputs.updates import as_numbers, no_update
from hig_optax._shown import named
from hig_optax._types import Tree


class AccumulateState(NamedTuple):
    """State of `accumulate`."""

    num_waiting: Int[Array, ""]
    """How many micro-batches are waiting, int32."""

    gradient: Tree
    """Sum of their gradients, in at least float32."""

    batches: Tree
    """The micro-batches themselves: a new first axis, (every, ...) per leaf."""

    inner_state: Any
    """State of the optimizer inside, which steps once in `every` calls."""

    def __repr__(self) -> str:
        return named(self)


def accumulate(
    optimizer: optax.GradientTransformation,
    every: int,
    example_batch: Tree,
    *,
    batch_axis: Tree = 0,
    reduction: Literal["mean", "sum"] = "mean",
) -> optax.GradientTransformationExtraArgs:
    """Take `every` micro-batches and then the step of all their samples at once.

    Where ``optax.MultiSteps`` would average gradients and lose the rows of all micro-batches but the last,
    this keeps the micro-batches. Updates are zero until the last one is in; then `optimizer` is called once,
    with the gradient of all and the batch of all, so that the step is that of the concatenated batch by
    construction. All settings, chains and schedules inside count steps, not calls.

    Memory for the whole batch is that of its data alone, if `optimizer` takes ``chunk_size=`` (the size of a
    micro-batch, say) and so never differentiates more samples at once. Under `jax.vmap` both branches of the
    `jax.lax.cond` that this is are computed at every call.

    Args:
        optimizer: `hig`, `scale_by_hig`, `adaptive_hig`, a chain with one of them: whatever takes ``batch=``.
            What changes the parameters at every call (weight decay, say) belongs inside. Leaves that its
            ``mask=`` freezes may be anything; the gradient of what is no number counts as zero.
        every: Number of micro-batches to a step.
        example_batch: A micro-batch, of which only shapes and dtypes matter: the state must have them before
            it sees the first one. ``jax.ShapeDtypeStruct`` will do for all but random keys.
        batch_axis: As in `scale_by_hig`, and the same; not None. A leaf that all samples share must be the
            same in all micro-batches of a step.
        reduction: Whether the loss that is differentiated outside is the mean over its samples or their sum.
            ``"mean"`` averages the gradients of the micro-batches alike, so that it must be a mean over equal
            numbers. Where one is padded with samples of weight 0, differentiate the weighted sum over a
            constant, and say ``"sum"``: means over unequal weights do not add up to that of the whole.

    Returns:
        An ``optax.GradientTransformationExtraArgs``; ``update(grads, state, params, batch=micro_batch)``. If
        a micro-batch brings another value in a shared leaf, the step is refused like one with a gradient of
        NaN: zero updates, and ``is_finite`` is false.

    Raises:
        TypeError: `every` is no int; a leaf of a batch is no array.
        ValueError: `every` < 1; ``batch_axis=None``; a micro-batch unlike `example_batch`.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp, optax
        >>> residual_fn = lambda w, x: x * w - 1.0
        >>> loss_fn = lambda w, batch: jnp.mean(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2)
        >>> batch, w = jnp.array([1.0, 2.0, 3.0, 4.0]), jnp.array(0.0)
        >>> inside = hig_optax.hig(1.0, residual_fn, chunk_size=2)
        >>> opt = hig_optax.accumulate(inside, 2, batch[:2])
        >>> state = opt.init(w)
        >>> for micro_batch in (batch[:2], batch[2:]):
        ...     grads = jax.grad(loss_fn)(w, micro_batch)
        ...     updates, state = opt.update(grads, state, w, batch=micro_batch)
        ...     print(f"{updates:.4f}")
        0.0000
        0.3901
        >>> whole, _ = inside.update(jax.grad(loss_fn)(w, batch), inside.init(w), w, batch=batch)
        >>> print(f"{whole:.4f}")
        0.3901
    """
    check_count("every", every)
    check_choice("reduction", reduction, ("mean", "sum"))
    if batch_axis is None:
        raise ValueError(
            "accumulate cannot join the batches of a residual that takes the whole batch, got batch_axis="
            "None. Give the axis along which micro-batches are to be joined."
        )
    inner = optax.with_extra_args_support(optimizer)
    axes = _axes(batch_axis, example_batch)
    _check_arrays("example_batch", example_batch)
    wanted = jax.tree.map(_shape, example_batch)

    def init_fn(params: Tree) -> AccumulateState:
        return AccumulateState(
            num_waiting=jnp.zeros((), jnp.int32),
            gradient=jax.tree.map(lambda x: _wide(no_update(x)), params),
            batches=jax.tree.map(lambda x: _repeated(x, every), example_batch),
            inner_state=inner.init(params),
        )

    def update_fn(
        updates: Tree,
        state: AccumulateState,
        params: Tree | None = None,
        *,
        batch: Tree = NOT_PASSED,
        **extra_args: Any,
    ) -> tuple[Tree, AccumulateState]:
        check_passed(params, batch)
        _check_like(batch, wanted)
        updates = as_numbers(updates, params)
        gradient = jax.tree.map(lambda total, x: total + _wide(x), state.gradient, updates)
        batches = jax.tree.map(
            lambda all_, x: jax.lax.dynamic_update_index_in_dim(
                all_, jnp.asarray(x), state.num_waiting, 0
            ),
            state.batches,
            batch,
        )

        def step() -> tuple[Tree, AccumulateState]:
            joined, agrees = _joined(batches, axes)
            factor = 1 / every if reduction == "mean" else 1

            def of_all(total: Array, x: Any) -> Array:
                if not jnp.issubdtype(total.dtype, jnp.inexact):  # of a frozen leaf
                    return total
                return jnp.where(agrees, factor * total, jnp.nan).astype(x.dtype)

            whole = jax.tree.map(of_all, gradient, updates)
            new, inner_state = inner.update(
                whole, state.inner_state, params, batch=joined, **extra_args
            )
            new = jax.tree.map(lambda x, u: x.astype(u.dtype), new, updates)
            none = jax.tree.map(jnp.zeros_like, gradient)
            return new, AccumulateState(jnp.zeros((), jnp.int32), none, batches, inner_state)

        def wait() -> tuple[Tree, AccumulateState]:
            waiting = AccumulateState(state.num_waiting + 1, gradient, batches, state.inner_state)
            return jax.tree.map(jnp.zeros_like, updates), waiting

        return cond(state.num_waiting == every - 1, step, wait)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _axes(batch_axis: Tree, batch: Tree) -> list[int | None]:
    leaves = jax.tree.leaves(batch, is_leaf=lambda x: x is None)
    marked = zip(leaves, sample_axes(batch_axis, batch), strict=True)
    return [axis for leaf, axis in marked if leaf is not None]


def _wide(x: Any) -> Array:
    """At least float32: a sum of many gradients in less would lose the later ones."""
    x = jnp.asarray(x)
    is_low = jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
    return x.astype(jnp.float32) if is_low else x


def _check_arrays(name: str, batch: Tree) -> None:
    for path, leaf in jax.tree.leaves_with_path(batch):
        check_array(f"{name}{jax.tree_util.keystr(path)}", leaf)


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    x = x if hasattr(x, "dtype") else jnp.asarray(x)
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _repeated(x: Any, every: int) -> Array:
    if not isinstance(x, jax.ShapeDtypeStruct):
        return jnp.stack([jnp.asarray(x)] * every)
    return jnp.zeros((every, *x.shape), x.dtype)


def _check_like(batch: Tree, wanted: Tree) -> None:
    _check_arrays("batch", batch)
    got = jax.tree.map(_shape, batch)
    if got != wanted:
        raise ValueError(
            f"batch must have the structure, shapes and dtypes of example_batch, {wanted}, got {got}. Give a "
            "micro-batch of the usual size as example_batch; drop a smaller last one, or pad it with samples "
            "of weight 0 (hig_optax.weighted_residual) under reduction='sum' and a loss that is a sum."
        )


def _joined(batches: Tree, axes: list[int | None]) -> tuple[Tree, Array]:
    """The micro-batches as one batch, and whether they agree in what all samples share."""
    leaves, treedef = jax.tree.flatten(batches)
    joined, agrees = [], jnp.ones((), bool)
    for x, axis in zip(leaves, axes, strict=True):
        if axis is None:
            is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            data = jax.random.key_data(x) if is_key else x
            agrees &= jnp.all(data == data[0])
            joined.append(x[0])
        else:
            place = axis % (x.ndim - 1)
            moved = jnp.moveaxis(x, 0, place)
            shape = (*x.shape[1 : place + 1], -1, *x.shape[place + 2 :])
            joined.append(moved.reshape(shape))
    # So that no sample is left to step on, where the gradient is NaN for another reason as well.
    joined = [
        jnp.where(agrees, x, jnp.nan).astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.inexact) else x
        for x in joined
    ]
    return jax.tree.unflatten(treedef, joined), agrees
