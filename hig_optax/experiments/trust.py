"""The page on how far directions are from the exact ones."""

from collections.abc import Iterator, Sequence

import numpy as np

from hig_optax.experiments import machine, planted
from hig_optax.experiments.accuracy import (
    COMPLEX_SHAPE,
    DTYPES,
    FACTORS,
    PRODUCTS,
    REACH,
    SHAPES,
    SOLVERS,
    Case,
    Found,
    measure,
)
from hig_optax.experiments.table import Table

NUMBER = 3000

HEAD = r"""# Trust: directions of matrices whose factors are known

    python -m hig_optax.experiments trust{number}

Random matrices J = U Σ Vᵀ are made from their factors in extended precision, rounded to the dtype, and
handed over as the derivatives of a linear residual. The direction V f(Σ) Uᵀ g that
`hig_optax.scale_by_hig` finds is compared with the formula. κ is one of {exponents}; the cut lies at random
between two singular values; a quarter is damped. {wanted} matrices and a few more for each solver and dtype,
of the shapes {shapes}.

The bound is that of the notes of [`scale_by_hig`](../reference/optimizers.md): with the smallest kept
singular value $\sigma_k$, the largest that is cut $\sigma_{{k+1}}$ (or 0), and ε of the dtype of J,

$$\text{{error}} \le c\, \varepsilon\, \frac{{\sigma_1 f(\sigma_k)}}{{\sigma_k - \sigma_{{k+1}}}}\, \|g\|,
\qquad c = {svd:g} \text{{ for svd and krylov, }} {gram:g} \text{{ for gram,}}$$

times $1 + (2^{{-52}}/\varepsilon)\, \sigma_1/\sigma_k$ where a Gram matrix is decomposed: by gram,
and by krylov for a float32 J. A cell tells the median and the worst of error / bound: up to 1 it holds.
"Rows": with `loss_fn`, from the derivatives of the loss in the rows; "gradient": from the incoming gradient
alone. "Beyond": how many directions exceed the bound or report another rank than the exact one.

`krylov` takes {products} products more than the shorter side has rows. "Out of reach" are directions of which
it does not promise to see everything: a kept part makes less than {reach} ε of what the subspace starts from,
which is g with `loss_fn` and J Jᵀg without (where squares of σ count), or two kept singular values are nearer
than {reach} ε σ₁ and count as one. They are left out of the other columns; in brackets, how many of them
exceed the bound or are of another rank.

**In all: {total} directions within reach, {failures} beyond.** {where}
"""


def page(number: int = NUMBER) -> Iterator[str]:
    """The page, piece by piece.

    Args:
        number: Of matrices for each solver and dtype, at least.

    Raises:
        ValueError: `number` is not positive.
    """
    if number < 1:
        raise ValueError(f"number must be positive, got {number}.")
    found = {}
    for case in (Case(s, d, c) for c in (False, True) for s in SOLVERS for d in DTYPES):
        found[case] = measure(case, -(-number // (len(case.kinds) * len(case.shapes))))
    yield HEAD.format(
        number="" if number == NUMBER else f" --number {number}",
        exponents=", ".join(f"{x:g}" for x in planted.EXPONENTS),
        shapes=", ".join(f"{m} × {n}" for m, n in SHAPES),
        wanted=number,
        svd=FACTORS["svd"],
        gram=FACTORS["gram"],
        products=PRODUCTS,
        reach=REACH,
        total=sum(int(r.sum()) for f in found.values() for r in f.reached.values()),
        failures=sum(len(f.failures()) for f in found.values()),
        where=machine.describe(machine.environment() | {"float": "float32 and float64"}),
    )
    for solver, is_complex in dict.fromkeys((case.solver, case.is_complex) for case in found):
        yield "\n" + table([(c, found[c]) for c in found if c[::2] == (solver, is_complex)])


def table(found: Sequence[tuple[Case, Found]]) -> str:
    """Median and worst of error / bound by kind of spectrum, of one solver in every dtype, as Markdown."""
    case = found[0][0]
    ways = [(c, f, name) for c, f in found for name in f.ratios]
    heads = [f"{c.dtype.__name__}, {'rows' if w == 'loss_fn' else w}" for c, _, w in ways]
    rows = []
    for kind in case.kinds:
        cells, num_beyond, num_out, num_bad_out = [], 0, 0, 0
        for _, f, name in ways:
            is_kind, is_bad = np.array(f.kind) == kind, f.is_bad(name)
            inside, outside = is_kind & f.reached[name], is_kind & ~f.reached[name]
            ratios = f.ratios[name][inside]
            cells.append(f"{np.median(ratios):.1g}, {ratios.max():.1g}" if ratios.size else "none")
            num_beyond += int((is_bad & inside).sum())
            num_out += int(outside.sum())
            num_bad_out += int((is_bad & outside).sum())
        number = str(found[0][1].kind.count(kind))
        out = (f"{num_out} ({num_bad_out})",) if case.solver == "krylov" else ()
        rows.append((kind, number, *cells, str(num_beyond), *out))
    reach = ("out of reach",) if case.solver == "krylov" else ()
    m, n = COMPLEX_SHAPE
    told = f"{m // 2} complex rows, {n} real parameters, `max_rank=1`, damped."
    return Table(
        f"{case.solver}, complex rows" if case.is_complex else case.solver,
        ("spectrum", "matrices", *heads, "beyond", *reach),
        tuple(rows),
        note=told if case.is_complex else "",
    ).markdown(level=2)
