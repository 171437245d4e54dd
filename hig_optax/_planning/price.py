"""What a step by a sketch of the rows costs, beside one by products with J alone."""

import jax

from hig_optax._jacobian.choices import DEFAULT_MATVECS
from hig_optax._jacobian.layout import Layout
from hig_optax._planning.cost import cost_of

# Operations of a derivative along one tangent, or of one pullback, over those of the rows.
DERIVATIVE = 2

# Operations of an eigendecomposition over the cube of its side.
EIGEN = 10


def sketch_price(layout: Layout) -> float | None:
    """Operations of a step by a sketch over those of a step by `DEFAULT_MATVECS` products each way.

    Args:
        layout: With the rows that a sketch leaves; None is returned if it leaves all.
    """
    if not any(block.is_sketch for block in layout.residual.blocks):
        return None
    passes, products = 0.0, 0.0
    for block in layout.residual.blocks:
        rows = jax.make_jaxpr(block.rows.evaluate)(layout.columns, block.samples.example)
        one = DERIVATIVE * cost_of(rows).flops * (block.total or 1)
        # A tangent and a pullback for each row that is left.
        passes += 2 * block.rows.view.size * one
        products += 2 * DEFAULT_MATVECS * one
    m, n = layout.shape
    side = min(m, n)
    return (passes + m * n * side + EIGEN * side**3) / products
