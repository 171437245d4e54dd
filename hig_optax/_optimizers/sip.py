"""Scale-invariant physics: a gradient that inverts the physics alone, for any first-order optimizer."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from hig_optax._inputs.batch import Samples, take_apart
from hig_optax._inputs.residual import RealView, Rows, trace_rows
from hig_optax._inputs.settings import check_function
from hig_optax._jacobian.choices import choose_jacobian, exact_solver
from hig_optax._solvers.direction import half_inverse_direction
from hig_optax._types import Scalar, Tree

ControlFn = Callable[[Tree, Tree], Tree]
"""``(params, sample) -> u``: what the network says for one sample."""

PhysicsFn = Callable[[Tree, Tree], Tree]
"""``(u, sample) -> y``: the physics' answer to a control, for one sample."""

SampleLossFn = Callable[[Tree, Tree], jax.Array]
"""``(y, sample) -> scalar``: the loss of one sample."""

InverseFn = Callable[[Tree, Tree, Tree, Tree], Tree]
"""``(u, y, cotangent, sample) -> ũ``: a corrected control, like u."""


def sip_value_and_grad(
    control_fn: ControlFn,
    physics_fn: PhysicsFn,
    sample_loss_fn: SampleLossFn,
    *,
    rtol: Scalar = 1e-5,
    inverse_fn: InverseFn | None = None,
    batch_axis: Tree = 0,
) -> Callable[[Tree, Tree], tuple[jax.Array, Tree]]:
    """Scale-invariant physics: a drop-in for ``jax.value_and_grad`` that inverts the physics.

    For every sample, with the control u = u(θ) of the network, the physics y(u), the sample's loss L(y),
    and A = ∂y/∂u,

        ũ = u - pinv(A) ∂L/∂y      over the singular values of A above rtol times its largest,

    and the network is fitted to the corrected controls by regression: the gradient is that of the

        proxy loss      mean over the batch of ‖u(θ) - ũ‖²,      ũ held fixed,

    with respect to θ. The value is not the proxy but the true loss, the mean over the batch of L, so that
    curves compare. How strongly the physics scales a control then has no say in how fast it is learned;
    what lies between parameters and control is left to the optimizer behind, Adam in the book's comparison.

    The correction is linear in L: for L = ½‖y - t‖² and a linear physics ũ solves y(ũ) = t, by least squares
    where nothing solves it; without the ½ it goes twice as far. An optimizer that is blind to the scale of
    the gradient, as Adam is, does not notice.

    Args:
        control_fn: ``(params, sample) -> u``, any tree of real or complex floating-point arrays.
        physics_fn: ``(u, sample) -> y``, any tree of real or complex floating-point arrays. It may return
            the state or the residual y - t, whichever `sample_loss_fn` takes: their derivatives are one.
        sample_loss_fn: ``(y, sample) -> scalar``: the loss of one sample, real.
        rtol: Relative cut in [0, 1); may be traced. Not used with `inverse_fn`.
        inverse_fn: ``(u, y, cotangent, sample) -> ũ``: your own inverse solver for one sample, in place of
            the pseudo-inverse; the physics is then not differentiated. The cotangent is a tree like y that
            points uphill, ∂L/∂y, for complex y ∂L/∂Re y + i ∂L/∂Im y: for L = ½‖y - t‖² the state to reach
            is y - cotangent. ũ has the tree and shapes of u. It need not be differentiable.
        batch_axis: As in `hig_optax.scale_by_hig`, but not None: the physics is inverted sample by sample.

    Returns:
        ``fun(params, batch) -> (value, grads)``: a real scalar, and a tree like `params` in their dtypes, by
        the conventions of ``jax.value_and_grad``. If anything is NaN or inf in a sample, so are both. It can
        be batched and compiled, and be the body of a scan.

    Raises:
        TypeError: An argument is not a function of its arguments; parameters, control or physics' answer are
            not floating-point numbers.
        ValueError: `rtol` out of range; `batch_axis` does not fit; nothing to control or no rows; a control
            that ignores the parameters or a physics that ignores the control; a loss that is no real
            scalar; an ũ unlike u.

    Notes:
        A is formed per sample, by reverse mode unless y is longer than u. Its pseudo-inverse is computed in
        float64 where the backend has it, so that in a float32 program the rounding of A itself, about
        ε·σ₁, is what limits the directions near the cut. Controls in less than float32 are raised to float32
        before `physics_fn` sees them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from hig_optax import baselines
        >>> scale = jnp.array([1.0, 1e-3])
        >>> value_and_grad = baselines.sip_value_and_grad(
        ...     lambda w, t: w,  # the control is the parameter itself
        ...     lambda u, t: scale * u,
        ...     lambda y, t: jnp.sum((y - t) ** 2) / 2,
        ... )
        >>> value, grads = value_and_grad(jnp.zeros(2), scale[None])
        >>> grads  # -2 times the way to the solution, (1, 1), although the physics shrinks one component
        Array([-2., -2.], dtype=float32)

        In an Optax loop::

            value_and_grad = baselines.sip_value_and_grad(
                problem.control, lambda u, s: problem.physics(u, s) - s.target, problem.sample_loss
            )
            value, grads = value_and_grad(params, batch)
            updates, state = adam.update(grads, state, params)

    References:
        Holl, Koltun and Thuerey, Scale-invariant Learning by Physics Inversion, NeurIPS 2022: the method.
        Thuerey et al., Physics-based Deep Learning, the notebook on half-inverse gradients: the truncated
        pseudo-inverse per sample as inverse solver.
    """
    check_function("control_fn", control_fn, ("params", "sample"))
    check_function("physics_fn", physics_fn, ("u", "sample"))
    check_function("sample_loss_fn", sample_loss_fn, ("y", "sample"))
    if inverse_fn is not None:
        check_function("inverse_fn", inverse_fn, ("u", "y", "cotangent", "sample"))
    if isinstance(rtol, (int, float)) and not 0 <= rtol < 1:
        raise ValueError(f"rtol must be in [0, 1), got {rtol}.")
    if batch_axis is None:
        raise ValueError(
            "batch_axis must be an int or a tree of ints and Nones, got None: the physics is inverted sample "
            "by sample. For a single sample add an axis of length 1."
        )

    def value_and_grad(params: Tree, batch: Tree) -> tuple[jax.Array, Tree]:
        samples = take_apart(batch, batch_axis)
        chain = _trace(control_fn, physics_fn, params, samples)

        def controls(params: Tree) -> Float[Array, "b k"]:
            leaves = tuple(jax.tree.leaves(params))
            return jax.vmap(lambda entries: chain.control.evaluate(leaves, entries))(samples.mapped)

        def correct(
            u: Float[Array, " k"], entries: tuple[Any, ...]
        ) -> tuple[Float[Array, ""], Float[Array, " k"]]:
            sample, as_tree = samples.assemble(entries), chain.physics.view.unravel

            def loss(y: Float[Array, " r"]) -> jax.Array:
                return _scalar(sample_loss_fn(as_tree(y), sample))

            if inverse_fn is None:
                y, A = _jacobian(chain.physics, u, entries)
                value, g = jax.value_and_grad(loss)(y)
                return value, u - _solve(A, g, rtol, chain.lowest_dtype).astype(u.dtype)
            y = chain.physics.evaluate((u,), entries)
            value, g = jax.value_and_grad(loss)(y)
            corrected = inverse_fn(chain.view.unravel(u), as_tree(y), as_tree(g), sample)
            return value, _ravel_like(chain.view, corrected).astype(u.dtype)

        # The pullback of the controls alone: whatever inverts the physics is never differentiated.
        u, pullback = jax.vjp(controls, params)
        values, corrected = jax.vmap(correct)(u, samples.mapped)
        (grads,) = pullback(2 * (u - corrected) / u.shape[0])
        return jnp.mean(values), grads

    return value_and_grad


class _Chain(NamedTuple):
    """Network and physics as functions of real vectors: θ -> u -> y, for one sample."""

    control: Rows
    """``((*leaves of params,), entries) -> u``, (k,)."""

    physics: Rows
    """``((u,), entries) -> y``, (r,)."""

    view: RealView
    """The tree that `physics_fn` takes for u, in at least float32."""

    @property
    def lowest_dtype(self) -> Any:
        """What y and u are precise to."""
        dtypes = (self.view.lowest_dtype, self.physics.view.lowest_dtype)
        return min(dtypes, key=lambda dtype: jnp.finfo(dtype).bits)


def _trace(control_fn: ControlFn, physics_fn: PhysicsFn, params: Tree, samples: Samples) -> _Chain:
    """Find out what u and y are, and check them, without computing anything."""
    _check_floating("params", params)
    leaves, treedef = jax.tree.flatten(jax.tree.map(jnp.asarray, params))

    def control_of(leaves: tuple[Array, ...], entries: tuple[Any, ...]) -> Tree:
        return control_fn(jax.tree.unflatten(treedef, leaves), samples.assemble(entries))

    control = _trace_rows("control_fn", "params", control_of, tuple(leaves), samples.example)
    dtypes = zip(control.view.dtypes, control.view.real_dtypes, strict=True)
    raised = tuple(d if jnp.issubdtype(d, jnp.complexfloating) else real for d, real in dtypes)
    view = dataclasses.replace(control.view, dtypes=raised)

    def answer_to(u: tuple[Array], entries: tuple[Any, ...]) -> Tree:
        return physics_fn(view.unravel(u[0]), samples.assemble(entries))

    u = jnp.zeros(view.size, view.highest_dtype)
    return _Chain(control, _trace_rows("physics_fn", "u", answer_to, (u,), samples.example), view)


def _trace_rows(
    name: str, argument: str, fun: Callable[..., Tree], columns: tuple, entries: tuple
) -> Rows:
    """`trace_rows` for a function of another name."""
    shapes = jax.eval_shape(fun, columns, entries)
    _check_floating(name, shapes)
    if RealView.of(shapes).size == 0:
        raise ValueError(f"{name} must return at least one number per sample, got {shapes}.")
    try:
        return trace_rows(fun, columns, entries)
    except ValueError as error:  # of what trace_rows checks, this is left
        raise ValueError(
            f"{name} ignores its first argument: nothing that it returns depends on {argument}, so that "
            f"there is nothing to learn. Compute it from {argument} as given, not from a closure."
        ) from error


def _jacobian(
    physics: Rows, u: Float[Array, " k"], entries: tuple[Any, ...]
) -> tuple[Array, Array]:
    """y, (r,), and ∂y/∂u, (r, k), of one sample."""

    def evaluate(u: Array) -> tuple[Array, Array]:
        y = physics.evaluate((u,), entries)
        return y, y

    mode = choose_jacobian(
        "auto",
        rows=physics.view.size,
        columns=u.size,
        has_custom_vjp=physics.has_custom_vjp,
        is_forward_only=physics.is_forward_only,
    )
    derivative = jax.jacrev if mode == "reverse" else jax.jacfwd
    A, y = derivative(evaluate, has_aux=True)(u)
    return y, A


def _solve(A: Float[Array, "r k"], g: Float[Array, " r"], rtol: Scalar, dtype: Any) -> Array:
    """pinv(A) g, (k,), in `dtype`; NaN where it is not finite."""
    found = half_inverse_direction(
        A.astype(dtype),
        jnp.zeros(A.shape[1], dtype),  # serves only a report that is not wanted here
        g.astype(dtype),
        exponent=-1.0,
        rtol=rtol,
        atol=0.0,
        damping=0.0,
        max_rank=None,
        solver=exact_solver(dtype=dtype, rtol=rtol),
    )
    return jnp.where(found.is_finite, found.direction, jnp.nan)


def _ravel_like(view: RealView, corrected: Tree) -> Float[Array, " k"]:
    """What `inverse_fn` returned as one real vector, if it is like the control."""
    corrected = jax.tree.map(jnp.asarray, corrected)
    found = RealView.of(corrected)
    is_complex = [
        tuple(jnp.issubdtype(dtype, jnp.complexfloating) for dtype in v.dtypes)
        for v in (view, found)
    ]
    if (found.treedef, found.shapes, is_complex[1]) != (view.treedef, view.shapes, is_complex[0]):
        raise ValueError(
            f"inverse_fn must return a control like u, got {jax.tree.map(jnp.shape, corrected)} (dtypes "
            f"{[str(d) for d in found.dtypes]}) for shapes {list(view.shapes)}, dtypes "
            f"{[str(d) for d in view.dtypes]} and structure {view.treedef}."
        )
    _check_floating("inverse_fn", corrected)
    return found.ravel(corrected, view.highest_dtype)


def _scalar(value: Any) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"sample_loss_fn must return a real scalar, got shape {value.shape} and dtype {value.dtype}. "
            "Reduce the rows of one sample to one number; the mean over the batch is taken for you."
        )
    return value


def _check_floating(name: str, tree: Tree) -> None:
    for path, leaf in jax.tree.leaves_with_path(tree):
        dtype = getattr(leaf, "dtype", None) or jnp.asarray(leaf).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            what = "hold" if name == "params" else "return"
            raise TypeError(
                f"{name} must {what} real or complex floating-point numbers, got {dtype} at "
                f"{jax.tree_util.keystr(path) or 'the root'}. Convert with .astype(jnp.float32)."
            )
