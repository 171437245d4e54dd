"""Names and settings that have left the package, and where to find what they stood for."""

import functools
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_MOVED = {
    "hig_optax.apply_gradients": "is a recipe now: copy apply_gradients from recipes/flax_linen.py, or call "
    "opt.update(grads, state, params, batch=batch)",
    "hig_optax.baselines.sip_value_and_grad": "is hig_optax.experiments.sip.sip_value_and_grad now, which "
    "runs from a clone of the repository and is not in the wheel",
}


def refuse_moved(module: str) -> Callable[[str], NoReturn]:
    """The ``__getattr__`` of a module, which Python asks for the names that are not there."""

    def refuse(name: str) -> NoReturn:
        full = f"{module}.{name}"
        if full in _MOVED:
            raise AttributeError(f"{full} has left the package: it {_MOVED[full]}.")
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return refuse


_CUT = "the damping takes the place of a cut, and what is noise is never kept. hig and scale_by_hig have it"
_OF_ADAPTIVE_STEPS = {
    "rtol": _CUT,
    "atol": _CUT,
    "max_rank": _CUT,
    "jacobian": "reverse or forward mode is chosen by what the residual has rules for. hig and scale_by_hig "
    "have it",
    "min_relative_damping": "the least damping follows from rows and parameters, and from how noisy batches "
    "are",
    "init_relative_damping": "the state has the damping of the next step, "
    "opt.init(params)._replace(damping=jnp.float32(0.1))",
}


def without_old_settings(factory: Callable[P, T]) -> Callable[P, T]:
    """An optimizer of adaptive steps that says what has become of settings that it had."""

    @functools.wraps(factory)
    def checked(*args: P.args, **settings: P.kwargs) -> T:
        for name in settings:
            if name in _OF_ADAPTIVE_STEPS:
                now = _OF_ADAPTIVE_STEPS[name]
                raise TypeError(f"{factory.__name__} has no setting {name} any more: {now}.")
        return factory(*args, **settings)

    return checked
