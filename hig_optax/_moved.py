"""Names that have left the package, and where to find what they stood for."""

from collections.abc import Callable
from typing import NoReturn

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
