"""What a step costs that decomposes J, beside one by products with J alone."""

import jax

from hig_optax._jacobian.choices import DEFAULT_MATVECS, LARGE
from hig_optax._jacobian.layout import Layout
from hig_optax._planning.cost import cost_of

# Operations of a derivative along one tangent, or of one pullback, over those of the rows.
DERIVATIVE = 2

# What a turn of a loop takes, in operations that a core does meanwhile: with 384 turns the rows of the dipole
# take 20 products each way 125 ms, 8 µs a turn, and J, which goes through the loop once for all rows, 64.
TURN = 1e5

# Operations of eigenvectors over the cube of the side of their matrix, and of a Cholesky factor.
EIGEN, CHOLESKY = 10, 1 / 3


def price_of(layout: Layout) -> float | None:
    """Operations of a step by J, or by a sketch of it, over those by `DEFAULT_MATVECS` products each way.

    They are counted as if every row were pulled back alone; that layers share in it makes J cheaper yet.

    Args:
        layout: With the rows that a sketch leaves, if there is one. None is returned where a function takes
            the whole batch: it is the same at every step, most likely, and products are no match there. So it
            is where J has a side below 256: then all of it takes a few milliseconds.
    """
    blocks, (m, n) = layout.residual.blocks, layout.shape
    side = min(m, n)
    if side < LARGE or any(block.total is None for block in blocks):
        return None
    passes, products = 0.0, 0.0
    for block in blocks:
        # Of all samples at once: what they share is counted once, as it is computed.
        rows = jax.make_jaxpr(lambda columns, block=block: block.evaluate(columns, None))
        devices = (block.total or 1) / (block.samples.size or 1)
        cost = cost_of(rows(layout.columns))
        one, waiting = DERIVATIVE * cost.flops * devices, DERIVATIVE * TURN * cost.turns
        # A sketch takes a tangent and a pullback for each row that is left.
        passes += (2 if block.is_sketch else 1) * (block.rows.view.size * one + waiting)
        products += 2 * DEFAULT_MATVECS * (one + waiting)
    is_large = min(side, layout.residual.num_parts) >= LARGE
    cube = CHOLESKY if is_large else EIGEN
    return (passes + m * n * side + cube * side**3) / max(products, 1)
