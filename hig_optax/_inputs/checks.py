"""Whether a setting is of the kind and in the range that it has to be."""

import inspect
import math
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hig_optax._types import Rate, Tree

STATIC_ARGS = (
    "residual_fn",
    "loss_fn",
    "batch_axis",
    "mask",
    "solver",
    "num_matvecs",
    "chunk_size",
    "spectrum_size",
    "axis_name",
    "bad_samples",
)
"""Names of the settings that are not numbers to be traced, for ``optax.inject_hyperparams``.

`hig`, `adaptive_hig` and what is built on them have all of these. A number for `rows_per_sample` of
`adaptive_hig` is one more: ``static_args=(*STATIC_ARGS, "rows_per_sample")``.

Example:
    >>> import hig_optax, jax.numpy as jnp, optax
    >>> opt = optax.inject_hyperparams(hig_optax.hig, static_args=hig_optax.STATIC_ARGS)(
    ...     learning_rate=1.0, residual_fn=lambda w, x: w * x, rtol=1e-4
    ... )
    >>> sorted(opt.init(jnp.ones(2)).hyperparams)
    ['atol', 'damping', 'exponent', 'learning_rate', 'rtol']
"""


def check_function(name: str, fun: Any, arguments: tuple[str, ...]) -> None:
    """Refuse what cannot be called with these arguments.

    Raises:
        TypeError: `fun` is no function, or takes other arguments.
    """
    wanted = f"{name} must be a function of ({', '.join(arguments)})"
    if not callable(fun):
        raise TypeError(f"{wanted}, got {shown(fun)}. {static_hint(name, fun)}")
    try:
        signature = inspect.signature(fun)
    except (TypeError, ValueError):  # some callables have none to look at
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise TypeError(f"{wanted}, got one of {signature}: {error}.") from None


def check_count(
    name: str, value: Any, *, optional: bool = False, may_be_traced: bool = False
) -> None:
    """Refuse what is no positive Python int, nor None or an array of one integer where that is allowed.

    Raises:
        TypeError: `value` is of another kind.
        ValueError: It is less than one.
    """
    if value is None and optional:
        return
    if may_be_traced and isinstance(value, jax.Array):
        if value.shape != () or not jnp.issubdtype(value.dtype, jnp.integer):
            raise TypeError(
                f"{name} must be a Python int, got {shown(value)}. An array must hold one integer."
            )
        return
    if isinstance(value, (jax.Array, bool)):
        raise TypeError(
            f"{name} must be a Python int, got {shown(value)}. {static_hint(name, value)}"
        )
    try:
        count = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a Python int, got {shown(value)}.") from None
    if count < 1:
        raise ValueError(f"{name} must be at least 1{' or None' if optional else ''}, got {count}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Refuse what is none of the choices.

    Raises:
        ValueError: It is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def checked_rate(learning_rate: Rate) -> Rate:
    """A learning rate, or a schedule that looks at what it returns.

    Raises:
        TypeError: Neither a number nor a function of the number of updates; (of the returned schedule) what
            it returns is not one real number.
        ValueError: A plain number that is not finite. That of a schedule gives zero updates and a flag.
    """
    if not callable(learning_rate):
        check_number("learning_rate", learning_rate, "a finite number", math.isfinite, RATE_HINT)
        return learning_rate
    schedule: Callable[[Any], Any] = learning_rate
    check_function("learning_rate", schedule, ("count",))

    def rate(count: Any) -> Any:
        value = schedule(count)
        _check_real("learning_rate(count)", value, RATE_HINT)
        return value

    return rate


SCHEDULE_HINT = (
    "For a schedule, wrap the factory in optax.inject_hyperparams with "
    "static_args=hig_optax.STATIC_ARGS."
)


RATE_HINT = "Give a number, or a schedule: a function of the number of updates that returns one."


def check_number(
    name: str, value: Any, wanted: str, is_valid: Any, hint: str = SCHEDULE_HINT
) -> None:
    """Range-check plain numbers; of an array, traced or not, check that it is one real number.

    Raises:
        TypeError: `value` is not one real number.
        ValueError: It is a plain number out of range.
    """
    _check_real(name, value, hint)
    if _is_plain(value) and not is_valid(value):
        raise ValueError(f"{name} must be {wanted}, got {value}.")


def are_finite(numbers: Tree) -> jax.Array:
    """Whether all numbers among some settings are finite: of traced ones only the value tells."""
    found = jnp.ones((), bool)
    for x in jax.tree.leaves(numbers):
        if not isinstance(x, str):
            found &= jnp.isfinite(x)
    return found


def is_zero(value: Any) -> bool:
    """Whether a setting is a plain 0: known while tracing, and to stay so."""
    return _is_plain(value) and value == 0


def _is_plain(value: Any) -> bool:
    is_number = isinstance(value, (int, float, np.floating, np.integer))
    return is_number and not isinstance(value, bool)


def _check_real(name: str, value: Any, hint: str) -> None:
    if _is_plain(value):
        return
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    if dtype is not None and jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} must be a real number, got {shown(value)}. optax.inject_hyperparams gives its numbers "
            "the dtype of the first parameter: pass it hyperparam_dtype=jnp.float32."
        )
    is_real = dtype is not None and (
        jnp.issubdtype(dtype, np.floating) or jnp.issubdtype(dtype, np.integer)
    )
    if not is_real or shape != ():
        raise TypeError(
            f"{name} must be a real number or a scalar array, got {shown(value)}. {hint}"
        )


def shown(value: Any) -> str:
    if isinstance(value, jax.Array):
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return f"{value!r} of type {type(value).__name__}"


def static_hint(name: str, value: Any) -> str:
    if not isinstance(value, jax.Array):
        return ""
    names = "hig_optax.STATIC_ARGS"
    if name not in STATIC_ARGS:
        names = f'(*{names}, "{name}")'
    return f"Under optax.inject_hyperparams, name it in static_args: use static_args={names}."
