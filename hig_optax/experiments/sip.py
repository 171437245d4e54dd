"""Scale-invariant physics: a gradient that inverts the physics alone, for any first-order optimizer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import hig_optax
from hig_optax.problems import Params

Tree = Any

ControlFn = Callable[[Params, Tree], Tree]
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
    rtol: float | jax.Array = 1e-5,
    inverse_fn: InverseFn | None = None,
    batch_axis: Tree = 0,
) -> Callable[[Params, Tree], tuple[jax.Array, Params]]:
    """Scale-invariant physics: a drop-in for ``jax.value_and_grad`` that inverts the physics.

    For every sample, with the control u = u(θ) of the network, the physics y(u), the sample's loss L(y),
    and A = ∂y/∂u,

        ũ = u - pinv(A) ∂L/∂y      over the singular values of A above rtol times its largest,

    and the network is fitted to the corrected controls by regression: the gradient is that of the

        proxy loss      mean over the batch of ‖u(θ) - ũ‖²,      ũ held fixed,

    with respect to θ. The value is not the proxy but the true loss, the mean over the batch of L, so that
    curves compare. How strongly the physics scales a control then has no say in how fast it is learned;
    what lies between parameters and control is left to the optimizer behind, Adam in the book's comparison.

    The correction is a Gauss-Newton step of the control, `hig_optax.scale_by_hig` with κ = -1. It is linear
    in L: for L = ½‖y - t‖² and a linear physics ũ solves y(ũ) = t, by least squares where nothing solves
    it; without the ½ it goes twice as far. An optimizer that is blind to the scale of the gradient, as Adam
    is, does not notice.

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
        batch_axis: As the `in_axes` of ``jax.vmap``: which axis of the leaves of a batch counts the samples.

    Returns:
        ``fun(params, batch) -> (value, grads)``: a real scalar, and a tree like `params` in their dtypes, by
        the conventions of ``jax.value_and_grad``. If a correction is NaN or inf, so are the gradients. It
        can be batched and compiled, and be the body of a scan.

    Raises:
        TypeError: As `hig_optax.scale_by_hig`, to which the physics is the residual and u the parameters.
        ValueError: As `hig_optax.scale_by_hig`; an ũ unlike u; sizes of samples that ``jax.vmap`` refuses.

    Notes:
        Controls in less than float32 are raised to float32 before `physics_fn` sees them.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from hig_optax.experiments.sip import sip_value_and_grad
        >>> scale = jnp.array([1.0, 1e-3])
        >>> value_and_grad = sip_value_and_grad(
        ...     lambda w, t: w,  # the control is the parameter itself
        ...     lambda u, t: scale * u,
        ...     lambda y, t: jnp.sum((y - t) ** 2) / 2,
        ... )
        >>> value, grads = value_and_grad(jnp.zeros(2), scale[None])
        >>> grads  # -2 times the way to the solution, (1, 1), although the physics shrinks one component
        Array([-2., -2.], dtype=float32)

    References:
        Holl, Koltun and Thuerey, Scale-invariant Learning by Physics Inversion, NeurIPS 2022: the method.
        Thuerey et al., Physics-based Deep Learning, the notebook on half-inverse gradients: the truncated
        pseudo-inverse per sample as inverse solver.
    """
    newton = hig_optax.scale_by_hig(
        physics_fn,
        loss_fn=sample_loss_fn,
        exponent=-1.0,
        rtol=rtol,
        batch_axis=None,  # the control is one sample's own: nothing is stacked
        spectrum_size=1,
    )

    def correction(u: Tree, sample: Tree) -> Tree:
        """How far to move the control, u - ũ, a tree like u; NaN where it is not finite."""
        if inverse_fn is None:
            # `newton` has loss_fn; the gradient would only be compared with that, which nobody reads here.
            way, state = newton.update(u, newton.init(u), u, batch=sample)
            return jax.tree.map(lambda x: jnp.where(state.spectrum.is_finite, x, jnp.nan), way)
        y = physics_fn(u, sample)
        cotangent = jax.tree.map(jnp.conj, jax.grad(sample_loss_fn)(y, sample))
        corrected = inverse_fn(u, y, cotangent, sample)
        _check_like(u, corrected)
        return jax.tree.map(jnp.subtract, u, corrected)

    def of_sample(u: Tree, sample: Tree) -> tuple[jax.Array, Tree]:
        return sample_loss_fn(physics_fn(u, sample), sample), correction(u, sample)

    def value_and_grad(params: Params, batch: Tree) -> tuple[jax.Array, Params]:
        def controls(params: Params) -> Tree:
            u = jax.vmap(control_fn, (None, batch_axis))(params, batch)
            return jax.tree.map(_at_least_float32, u)

        # The pullback of the controls alone: whatever inverts the physics is never differentiated.
        u, pullback = jax.vjp(controls, params)
        values, ways = jax.vmap(of_sample, (0, batch_axis))(u, batch)
        # conj: the gradient of |u - ũ|² by JAX's convention for complex numbers.
        (grads,) = pullback(jax.tree.map(lambda x: 2 / x.shape[0] * jnp.conj(x), ways))
        return jnp.mean(values), grads

    return value_and_grad


def _at_least_float32(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) if jnp.finfo(x.dtype).bits < 32 else x


def _check_like(u: Tree, corrected: Tree) -> None:
    wanted, got = (jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (u, corrected))
    if wanted != got:
        raise ValueError(
            f"inverse_fn must return a control like u, of (shape, dtype) {wanted}, got {got}."
        )
