"""Rows and Jacobian of a batch, as they were laid out."""

from typing import Any

from jaxtyping import Array, Float

from hig_optax._jacobian.algebra import Jacobian
from hig_optax._jacobian.choices import refuse_custom_vjp, refuse_forward_only
from hig_optax._jacobian.chunks import chunked
from hig_optax._jacobian.differentiate import products
from hig_optax._jacobian.layout import Layout
from hig_optax._jacobian.over_devices import form_over_devices
from hig_optax._jacobian.parts import Parts, beside, dense, derivatives, outers
from hig_optax._jacobian.rows import Residual
from hig_optax._jacobian.shared import SharedRows


def form(layout: Layout) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows and J, for a solver that decomposes it: held, in factors, or in chunks."""
    if layout.residual.spread is not None:
        return form_over_devices(layout)
    if layout.is_held:
        y, found = derivatives(layout, layout.kept + layout.plain)
        return y, beside(outers(found, layout) + dense(found, layout))
    parts: Parts = []
    if layout.kept:
        y, found = derivatives(layout, layout.kept)
        parts += outers(found, layout)
    else:
        y = layout.residual.own(layout.columns, layout.chunk_size)
    if layout.plain:
        parts.append((chunked(layout), layout.columns_of(layout.plain)))
    return y, beside(parts)


def form_products(
    residual: Residual, columns: tuple[Array, ...], *, chunk_size: int | None, dtype: Any
) -> tuple[Float[Array, " m"], Jacobian]:
    """Rows, and the products with J, of which nothing is formed."""
    if residual.has_custom_vjp:
        refuse_custom_vjp()
    if residual.is_forward_only:
        refuse_forward_only()
    y, J = products(residual, columns, chunk_size=chunk_size, dtype=dtype)
    if residual.spread is None:
        return y, J
    return residual.spread.gather(y), SharedRows(J, residual.spread)
