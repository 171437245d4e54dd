"""Which Jacobian and which solver `auto` means."""

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from hig_optax._float64 import target_has_float64, target_platform
from hig_optax._types import JacobianMode, Scalar, Solver

# Smallest rtol at which the Gram matrix of a float64 Jacobian is still used: its smallest kept eigenvalue
# then has a relative error of about ε/rtol² = 2e-4, and the direction was measured to be off by 4e-5.
GRAM64_RTOL = 1e-6

DEFAULT_MATVECS = 20

# Samples, and shorter side of J, from which on a batch counts as large: steady even where it changes, and its
# singular values not worth their price. The eigenvectors of 1000 rows take ten times as long as a Cholesky
# factor. With points drawn anew at every step, errors after 30 s fell from 3.0e-4 to 1.0e-4 (poisson-5d, one
# seed), from 0.33 to 7.1e-4 (helmholtz) and from 3.5e-2 to 1.9e-3 (burgers). Few samples of many rows are
# another matter: a step that fits 16 of them whole fits no others.
LARGE = 256

# A float32 J takes 20 bytes an entry while its Gram matrix is formed (itself, float64, and that in its own
# unit), the decomposition of a Gram matrix some 40 bytes an entry.
HELD_SIDES = 2


FORWARD_ONLY = (
    "it holds a loop whose number of turns depends on values (jax.lax.while_loop), which has a forward rule "
    "only"
)


def choose_jacobian(
    mode: JacobianMode,
    *,
    rows: int,
    columns: int,
    has_custom_vjp: bool,
    is_forward_only: bool = False,
) -> Literal["reverse", "forward"]:
    """Reverse mode costs a pullback per row of a sample, forward mode a tangent per parameter.

    Args:
        mode: What the user asked for.
        rows: Rows of one sample.
        columns: Number of parameters n.
        has_custom_vjp: Whether the residual has parts without a forward rule, as adjoint solvers do.
        is_forward_only: Whether it has parts without a reverse rule, as dynamic loops are.

    Raises:
        ValueError: A mode was asked for, for which the residual has no rule.

    Example:
        >>> choose_jacobian("auto", rows=4, columns=1444, has_custom_vjp=False)
        'reverse'
    """
    if mode == "forward" and has_custom_vjp:
        raise ValueError(
            'jacobian="forward" cannot pass through residual_fn: it holds a jax.custom_vjp function, as '
            'adjoint solvers do, which has a reverse rule only. Use jacobian="reverse" or "auto".'
        )
    if mode == "reverse" and is_forward_only:
        raise ValueError(
            f'jacobian="reverse" cannot pass through residual_fn: {FORWARD_ONLY}. Use jacobian="forward" or '
            '"auto", or write the loop as lax.scan, or with a fixed number of turns.'
        )
    if mode != "auto":
        return mode
    return "forward" if is_forward_only or (rows > columns and not has_custom_vjp) else "reverse"


def may_be_held(shape: tuple[int, int], *, columns: int) -> bool:
    """Whether some columns of J may be held although it is to be formed in chunks.

    They may where that takes no more than the decomposition of the Gram matrix, of side min(m, n), takes
    anyway. Otherwise slices of them are formed anew for every pair of chunks.

    Args:
        shape: (m, n) of J.
        columns: How many columns are in question.

    Example:
        >>> may_be_held((512, 2956), columns=2956), may_be_held((512, 2956), columns=1000)
        (False, True)
    """
    return shape[0] * columns <= HELD_SIDES * min(shape) ** 2


def refuse_custom_vjp() -> None:
    """A matrix-free solver pushes tangents forward through the residual as well as pulling back."""
    raise ValueError(
        'solver="krylov" cannot pass through residual_fn: it holds a jax.custom_vjp function, as adjoint '
        'solvers do, which has a reverse rule only. Use solver="gram" or "svd", with chunk_size= if memory '
        "is short, or give the function a forward rule (jax.custom_jvp)."
    )


def refuse_forward_only() -> None:
    """A matrix-free solver pulls back through the residual as well as pushing tangents forward."""
    raise ValueError(
        f'solver="krylov" cannot pass through residual_fn: {FORWARD_ONLY}. Use solver="gram" or "svd", or '
        "write the loop as lax.scan, or with a fixed number of turns."
    )


def choose_solver(
    solver: Solver, *, dtype: Any, rtol: Scalar, is_damped: bool = False
) -> Literal["svd", "gram", "krylov"]:
    """The solver that is right for a Jacobian, and the faster one where both are.

    On a CPU the Gram matrix was the faster way for all shapes tried (its side is the shorter side of J, and
    an eigenvalue iteration costs less than a singular value iteration), so the choice is one of precision:

    * a float32 J loses nothing by a Gram matrix in float64: what limits it is its own rounding;
    * a float64 J has no wider type to go to, and its Gram matrix squares the condition: it serves down to
      rtol = 1e-6 (`GRAM64_RTOL`), the SVD below. A traced rtol could become anything and counts as 0;
    * without float64 there is only the SVD: a float32 Gram matrix is wrong below rtol = 1e-2.

    Args:
        solver: What the user asked for.
        dtype: Dtype of J, float32 or float64.
        rtol: Relative cut; a number, or traced.
        is_damped: Whether steps are damped by more than the noise of a Gram matrix, so that small singular
            values are not divided by whatever rtol says.

    Raises:
        ValueError: ``"gram"`` was asked for on a platform without float64; see `target_platform`.

    Example:
        >>> choose_solver("auto", dtype=jnp.dtype(jnp.float64), rtol=1e-9)
        'svd'
    """
    if solver == "gram" and not target_has_float64():
        raise ValueError(
            f'solver="gram" needs float64, which the backend {target_platform()!r} lacks. '
            'Use solver="svd" or "auto".'
        )
    if solver != "auto":
        return solver
    return exact_solver(dtype=dtype, rtol=rtol, is_damped=is_damped)


def exact_solver(*, dtype: Any, rtol: Scalar, is_damped: bool = False) -> Literal["svd", "gram"]:
    """What `auto` means where a Jacobian is held and decomposed; see `choose_solver`."""
    if not target_has_float64():
        return "svd"
    if dtype == jnp.float32 or is_damped:
        return "gram"
    is_number = isinstance(rtol, (int, float, np.number))
    return "gram" if is_number and rtol >= GRAM64_RTOL else "svd"
