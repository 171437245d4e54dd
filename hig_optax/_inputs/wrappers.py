"""What Optax's own wrappers do to those they wrap, where that has to be noticed."""

import functools
import inspect

import optax

from hig_optax._types import Tree


def refuse_multi_steps() -> None:
    """An update within ``optax.MultiSteps`` would be wrong, and nothing that it is handed says so.

    MultiSteps passes on an averaged gradient and the last micro-batch, as if they were those of one step. Its
    call is on the stack, though, while the step is traced, under ``jit`` and ``lax.cond`` as well.
    """
    frame = inspect.currentframe()
    while frame is not None and not isinstance(frame.f_locals.get("self"), optax.MultiSteps):
        frame = frame.f_back
    if frame is not None:
        raise ValueError(
            "scale_by_hig cannot work inside optax.MultiSteps, which averages the gradients of several "
            "micro-batches but passes on the last one alone, on which the Jacobian would be taken. Use "
            "hig_optax.accumulate(optimizer, every, example_batch), which takes the step of all of them, or "
            "pass one large batch with chunk_size=."
        )


@functools.cache
def placeholder_type() -> type:
    """What ``optax.tree.map_params`` hands to `init` in place of parameters, to see where they go."""
    seen: list[type] = []

    def init(params: Tree) -> tuple:
        seen.append(type(params))
        return ()

    optax.tree.map_params(init, lambda x: x, ())
    return seen[0]
