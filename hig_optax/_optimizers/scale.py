"""The half-inverse direction as an Optax transformation."""

import dataclasses
from typing import Any, NamedTuple

import optax

from hig_optax._devices.devices import Devices
from hig_optax._devices.mesh import Arguments
from hig_optax._inputs.call import state_dtype
from hig_optax._inputs.columns import Columns
from hig_optax._inputs.settings import Settings
from hig_optax._optimizers.report import blank, report
from hig_optax._optimizers.update import transformation
from hig_optax._planning.planning import settled
from hig_optax._shown import named
from hig_optax._solvers.step import find_direction
from hig_optax._types import (
    AxisName,
    BadSamples,
    Count,
    JacobianMode,
    LossFn,
    ResidualFns,
    Scalar,
    Solver,
    Spectrum,
    Tree,
)


class ScaleByHigState(NamedTuple):
    """State of `scale_by_hig`: a report on the last step, nothing that the next one needs.

    Example:
        >>> import hig_optax, jax.numpy as jnp
        >>> state = hig_optax.scale_by_hig(lambda w, x: w * x, spectrum_size=3).init(jnp.ones(2))
        >>> state.spectrum.singular_values
        Array([0., 0., 0.], dtype=float32)
    """

    spectrum: Spectrum
    """What the last step saw; zeros before the first."""

    def __repr__(self) -> str:
        return named(self)


def scale_by_hig(
    residual_fn: ResidualFns,
    *,
    loss_fn: LossFn | None = None,
    exponent: Scalar = -0.5,
    rtol: Scalar = 1e-6,
    atol: Scalar = 0.0,
    max_rank: Count | None = None,
    damping: Scalar = 0.0,
    batch_axis: Tree = 0,
    mask: Any = None,
    jacobian: JacobianMode = "auto",
    solver: Solver = "auto",
    num_matvecs: int | None = None,
    chunk_size: int | None = None,
    spectrum_size: int = 64,
    axis_name: AxisName = None,
    bad_samples: BadSamples = "refuse",
) -> optax.GradientTransformationExtraArgs:
    r"""Precondition gradients by a power of the singular values of the Jacobian of a residual.

    Let y(θ) collect the rows of all samples of the mini-batch, with J = ∂y/∂θ = U Σ Vᵀ, and let the incoming
    gradient be x = Jᵀ ∂L/∂y. Then ``update`` returns

        V h(Σ) Vᵀ x,    h(σ) = (σ² + λ)^((κ-1)/2)    where σ > max(rtol·σ₁, atol, noise), else 0,

    which for λ = 0 is V Σ^κ Uᵀ ∂L/∂y over the kept singular values: the plain gradient for κ = 1, the
    half-inverse gradient for κ = -1/2, Gauss-Newton for κ = -1. Not negated and without learning rate:
    chain it with ``optax.scale_by_learning_rate``, or use `hig`.

    The incoming gradient may come from any loss that reaches the parameters through y; what stands before
    in a chain is respected. The part of it outside the row space of J is dropped (weight decay put before,
    say): put such things after. The direction is linear in the gradient. Of complex parameters hand over
    ``conj(jax.grad(loss))``, as everywhere in Optax: the raw gradient leads uphill.

    ``optax.MultiSteps`` around this is refused: it averages gradients over micro-batches, but the Jacobian
    would be that of the last one alone. `accumulate` takes the step of all of them.

    Args:
        residual_fn: ``(params, sample) -> rows``, any tree of real or complex floating-point arrays: the
            rows of one sample. A complex row counts as two real ones. Or a dict ``{name: function}`` of
            blocks (interior, boundary, data) whose samples differ in kind and number: `batch` is then a dict
            of the same names, `loss_fn` gets one, the rows of all are stacked, and `Spectrum.block_shares`
            tells the blocks apart. Scale the rows of a block by `weighted_residual`.
        loss_fn: ``(rows, batch) -> scalar``, where `rows` is the stacked output of `residual_fn`, (b, ...)
            per leaf (the raw output where ``batch_axis=None``). If given, ∂L/∂y is taken from it and the
            incoming updates serve only the report `Spectrum.gradient_cosine`: what stands before in a chain
            then has no effect. It removes the rounding of the incoming gradient, see Notes. For complex rows
            the cotangent is ∂L/∂Re y and ∂L/∂Im y, as two real rows.
        exponent: κ, dimensionless; may be traced.
        rtol: Relative cut in [0, 1); may be traced.
        atol: Absolute cut >= 0 in the unit of σ, rows per parameter; may be traced.
        max_rank: Keep at most so many singular values, the largest; may be traced.
        damping: λ >= 0, absolute, in the unit of σ²; may be traced. κ = -1 gives Levenberg-Marquardt.
        batch_axis: Which axis of the leaves of `batch` counts the samples: an int, or a tree of ints and
            Nones that is a prefix of `batch`, as in ``jax.vmap`` (a None leaf is shared by all samples).
            None: `residual_fn` takes the whole batch, for residuals that couple samples. With blocks, one int
            for all, or a dict with what holds for each, None for one that takes its whole batch.
        mask: Tree of bools (a prefix of the parameters), or a function from parameters to one, as in
            ``optax.masked``: the True leaves are optimized, the updates of others pass through unchanged.
        jacobian: ``"reverse"``, ``"forward"``, or ``"auto"``: forward where a sample has more rows than
            there are parameters, and a forward rule.
        solver: ``"svd"`` in the dtype of J; ``"gram"``, short side of J, float64 even in a float32 program,
            weight matrices of dense layers never written out; ``"krylov"``, on a small subspace by products
            with J and Jᵀ alone, for a J too large to be held or decomposed; or ``"auto"``: ``"gram"`` or
            ``"svd"``, whichever is right, then whichever is faster.
        num_matvecs: Dimension of the subspace of ``"krylov"``: so many products with J, and with Jᵀ (None:
            20). `Spectrum.unsettled` says whether it is enough. Give `loss_fn` with it: the subspace then
            starts from ∂L/∂y and is the best for its size. From an incoming gradient, part of which may lie
            outside the row space of J, it has to start one product further away.
        chunk_size: How many samples are differentiated at once, to bound memory; how many rows (columns in
            forward mode) where ``batch_axis=None``. None: all. With ``"gram"`` the m×n Jacobian is then not
            held: memory is O(min(m, n)² + chunk_size·n), and for m <= n what is not kept as outer products is
            differentiated anew for every pair of chunks, (number of chunks + 1)/2 times. (A J that is small
            beside its Gram matrix is held and differentiated once.) With ``"svd"`` J is held whatever the
            chunks, and while it is decomposed three times over: 3·m·n numbers. With ``"krylov"`` the samples
            of a chunk are differentiated anew for every product. Of d devices each counts samples of its
            own, and holds m·n/d numbers of J throughout, differentiated once.
        spectrum_size: How many singular values the state keeps.
        axis_name: Mesh axes that the samples are spread over, one or a tuple. Needed where ``update`` is
            called within a ``shard_map`` (with ``check_vma=False``) or ``pmap`` whose devices are to step
            together, each with samples of its own: the incoming gradient is then that of the whole batch's
            loss, alike on all of them, and so are params, state and updates. Elsewhere None stands for all
            axes of the mesh of the arguments, and ``()`` for none: the compiler then partitions as it likes.
        bad_samples: What becomes of a batch in which a sample has rows or derivatives that are NaN or inf (a
            norm at zero, a degenerate eigenvalue, an input that is NaN). ``"refuse"``: zero updates, the
            default, since a NaN is a fault of the residual more often than not, and a step without those
            samples lowers another loss than the one that is written down. `Spectrum.num_bad_samples` says how
            many they are. ``"drop"``: their rows and derivatives count as zero. It needs `loss_fn`, whose
            gradient is taken without them; the incoming one is NaN then as a rule, and is not looked at
            (`Spectrum.gradient_cosine` is NaN too). `loss_fn` gets rows of zero for them, and in `batch` a
            copy of another sample: a mean over the samples still divides by all of them. To find them takes
            one derivative more of each sample. Where all samples of a block are bad, the step is zero. Of a
            residual that takes the whole batch rows are dropped, which in reverse mode does not help where a
            NaN has spread to the derivatives of all rows: write it per sample.

    Returns:
        An ``optax.GradientTransformationExtraArgs``. ``update(grads, state, params, batch=batch)`` needs
        `params` and `batch`. Within ``optax.masked`` or ``optax.partition``, which hide leaves from what
        they wrap, it needs those leaves too: ``update(grads, state, params, batch=batch,
        all_params=params)``; they enter the residual as constants, as with `mask`. Other extra arguments
        are ignored. Updates have the tree and dtypes of the
        parameters (those passed through keep their own). Rows, Jacobian, any gradient or update not finite:
        zero updates for all leaves, and ``state.spectrum.is_finite`` is false; nothing is raised inside
        ``jit``. To halt, look at the flag.

    Raises:
        TypeError: A setting of the wrong kind; parameters or rows that are not floating-point numbers.
        ValueError: A setting out of range; `params`, `batch` or hidden leaves not passed; trees or shapes
            that do not fit; a residual without rows, or one that ignores the parameters; a call within
            ``optax.MultiSteps``, or without `axis_name` within ``shard_map`` or ``pmap``.

    Notes:
        In floating point, with g = ∂L/∂y, f(σ) = σ h(σ), κ <= 0 and ε of the dtype of J, the direction is off
        by at most

            c ε σ₁ f(σ_k) ‖g‖ / (σ_k - σ_(k+1)),

        where σ_k is the smallest kept singular value and σ_(k+1) the largest that is cut, 0 if none is. Here
        c is 50 for ``"svd"`` and ``"krylov"``, 10 for ``"gram"``. Where a Gram matrix is decomposed (by
        ``"gram"``, and of a float32 J by ``"krylov"``), there is a factor 1 + (2⁻⁵²/ε) σ₁/σ_k: in a float64
        program the error grows with the square of the condition. ``notebooks/TRUST.md`` holds this against
        random matrices; most errors are a hundredth of it. Without `loss_fn` it holds as far as the incoming
        gradient is Jᵀg up to ε σ₁ ‖g‖, as differentiation leaves it unless the residual itself rounds more.

        Relative to the direction that is, for λ = 0 and all σ_(k+1) far below, c ε (σ₁/σ_k)^(1-κ) times the
        ratio of ‖g‖ to what of it lies along kept singular vectors: near one early in training, growing
        without bound at a minimum where the rows do not vanish. With κ = -1/2 and σ₁/σ_k = 1e3 it is 4e-2 for
        ``"gram"`` in float32.

        ``"krylov"`` without `loss_fn` starts from J Jᵀg and does not see what makes less than 100 ε of that:
        in float32 directions with σ below some 3e-3 σ₁, whatever `rtol`. The rank is lower then.

        J, gradient and cotangent are held in the least precise dtype among the rows and the optimized
        leaves, at least float32. Parameters in less are raised to float32 before `residual_fn` sees them;
        the leaves of `batch` are handed over as they are.

        Singular values below the noise of the arithmetic are never kept, whatever `rtol`: 8ε·σ₁ for
        ``"svd"``, 4ε·σ₁ (at least 1.2e-7·σ₁) for ``"gram"``, ε of the dtype of J; ``"krylov"`` takes the
        floor of whichever of the two decomposes its small matrix. `Spectrum.cutoff` shows the cut.

    Example:
        >>> import hig_optax, jax, jax.numpy as jnp
        >>> residual_fn = lambda w, sample: w * sample["x"] - sample["y"]
        >>> batch = {"x": jnp.array([[1.0, 2.0**-10]]), "y": jnp.array([[1.0, 2.0**-10]])}
        >>> w = jnp.zeros(2)
        >>> opt = hig_optax.scale_by_hig(residual_fn)
        >>> loss = lambda w: 0.5 * jnp.sum(jax.vmap(residual_fn, (None, 0))(w, batch) ** 2)
        >>> updates, state = opt.update(jax.grad(loss)(w), opt.init(w), w, batch=batch)
        >>> jax.grad(loss)(w)  # σ² times the error: the second weight would take a million steps
        Array([-1.000000e+00, -9.536743e-07], dtype=float32)
        >>> updates  # σ^(1/2) times the error
        Array([-1.     , -0.03125], dtype=float32)
        >>> int(state.spectrum.rank)
        2

    References:
        Schnell, Holl and Thuerey, Half-Inverse Gradients for Physical Deep Learning, ICLR 2022. The paper
        takes σ^(-1/2) by a truncated SVD of the Jacobian of all rows of the mini-batch, and the mean of the
        loss over the batch; the authors' code cuts relative to σ₁, as here.
    """
    settings = Settings(**locals())
    if bad_samples == "drop" and loss_fn is None:
        raise ValueError(
            'bad_samples="drop" needs loss_fn, got None: the incoming gradient is that of all samples, and '
            "NaN where one of them is. Give the loss as loss_fn=, a function of (rows, batch), or use "
            "adaptive_hig."
        )

    def init_fn(params: Tree) -> ScaleByHigState:
        dtype = state_dtype(settings, params)
        return ScaleByHigState(blank(settings.spectrum_size, dtype, settings.blocks))

    def take_step(
        devices: Devices | None, given: Arguments, columns: Columns
    ) -> tuple[Tree, ScaleByHigState]:
        chosen = settled(dataclasses.replace(settings, **given.numbers), given, devices)
        found = find_direction(chosen, columns, given.updates, given.batch, devices)
        new, is_finite = columns.replace(given.updates, found.direction, found.is_finite)
        dtype = columns.view.highest_dtype
        return new, ScaleByHigState(report(found, is_finite, spectrum_size, dtype))

    return transformation(settings, init_fn, lambda _: settings.numbers, take_step)
