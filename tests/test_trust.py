"""Directions of random matrices with known factors are within the documented bound, and the page says so."""

import re
from pathlib import Path

import numpy as np
import pytest
from matrices import direction

import hig_optax
from hig_optax.experiments import accuracy, planted, trust
from hig_optax.experiments.accuracy import Case

CASES = [Case(s, d) for s in accuracy.SOLVERS for d in accuracy.DTYPES]
COMPLEX = [Case(s, np.float32, is_complex=True) for s in accuracy.SOLVERS]
# One shape each, for time: every one of the page has its turn.
SHAPES = dict(zip(CASES, (accuracy.SHAPES * 2)[:6], strict=True))


@pytest.mark.parametrize("case", CASES + COMPLEX, ids=str)
def test_within_the_bound_and_of_the_right_rank(case, monkeypatch):
    monkeypatch.setattr(accuracy, "SHAPES", (SHAPES.get(case),))
    found = accuracy.measure(case, 8, seed=1)
    assert set(found.kind) == set(case.kinds)
    assert found.failures() == []
    for name, reached in found.reached.items():
        assert np.count_nonzero(reached) > len(reached) / 2
        # A bound that is far too wide would show nothing. Of the gram solver float32 J are all there is.
        assert found.ratios[name][reached].max() > 0.005


def test_what_is_less_exact_or_of_another_rank_is_found(monkeypatch):
    case = Case("svd", np.float64)
    at = planted.draw((6, 17), ("decay to 1e-2",), 9, dtype=np.float64, floor=case.floor)
    exact = planted.exact(at, floor=case.floor)
    fine = np.ones(9, bool)
    good = {"loss_fn": (exact.direction.astype(np.float64), exact.rank, fine)}
    assert accuracy.compared(case, at, good).failures() == []
    coarse = {"loss_fn": (exact.direction.astype(np.float32), exact.rank, fine)}
    assert len(accuracy.compared(case, at, coarse).failures()) == 9
    for other in ((exact.rank + 1, fine), (exact.rank, ~fine)):
        bad = {"loss_fn": (good["loss_fn"][0], *other)}
        assert accuracy.compared(case, at, bad).failures() == [("loss_fn", "decay to 1e-2")] * 9


@pytest.mark.parametrize("shape", accuracy.SHAPES)
def test_the_exact_directions_are_those_of_the_formula(shape):
    at = planted.draw(shape, list(planted.KINDS), 2, dtype=np.float64, floor=1e-9)
    exact = planted.exact(at, floor=1e-9)
    assert exact.rank.min() >= 1
    for i, J in enumerate(at.matrices):
        found = direction(
            J, at.g[i], at.exponent[i], rtol=at.rtol[i], damping=at.damping[i], floor=1e-9
        )
        # This oracle decomposes J in float64: the bound, without the room that is left in c.
        error = np.linalg.norm((found - exact.direction[i]).astype(float))
        assert error < 50 * planted.EPS64 * exact.scale[i], at.kind[i]
    for factor in (at.U, at.V):
        gram = factor.swapaxes(1, 2) @ factor
        # Once more than float64 has, where the machine has more.
        assert np.abs(gram - np.eye(gram.shape[1])).max() < 50 * np.finfo(np.longdouble).eps


def test_cuts_are_clear_of_rounding():
    kinds = list(planted.KINDS)
    at = planted.draw((9, 9), kinds, 20, dtype=np.float32, floor=1e-6, squared=planted.EPS64)
    exact = planted.exact(at, floor=1e-6)
    noise = np.finfo(np.float32).eps + planted.EPS64 * at.s[:, 0] / exact.smallest
    assert np.all(exact.gap >= 0.9 * planted.CLEAR * noise * at.s[:, 0])
    assert np.all(np.diff(at.s) <= 0)


def test_the_docstring_has_the_constants():
    notes = " ".join(hig_optax.scale_by_hig.__doc__.split())
    (svd, gram) = re.search(
        r'c is (\d+) for ``"svd"`` and ``"krylov"``, (\d+) for ``"gram"``', notes
    ).groups()
    assert {"svd": int(svd), "krylov": int(svd), "gram": int(gram)} == accuracy.FACTORS
    assert f"less than {accuracy.REACH} ε" in notes


def test_the_page(monkeypatch):
    text = (Path(__file__).parents[1] / "notebooks" / "TRUST.md").read_text()
    assert text.startswith(trust.HEAD.split("{number}")[0])
    assert re.search(r"\*\*In all: \d{5} directions within reach, 0 beyond\.\*\*", text)
    cells = [
        line.split(" | ") for line in text.splitlines() if re.match(r"\| [a-z0-9 G-]+ \| \d", line)
    ]
    assert {row[0].strip("| ") for row in cells} == set(planted.KINDS)

    def fake(case, count):
        names = tuple(kind for kind in case.kinds for _ in range(count))
        values = np.linspace(0.1, 0.5, len(names))
        values[0] = 2.0 if case.solver == "svd" else 0.1
        none, every = np.zeros(len(names), bool), np.ones(len(names), bool)
        ways = ("loss_fn", "gradient")
        return accuracy.Found(
            names,
            dict.fromkeys(ways, values),
            dict.fromkeys(ways, none),
            dict.fromkeys(ways, every),
        )

    monkeypatch.setattr(trust, "measure", fake)
    made = "".join(trust.page(100))
    assert "trust --number 100\n" in made
    assert made.count("\n## ") == 6
    # Of svd one matrix in two dtypes by two ways, with real and with complex rows.
    assert ", 8 beyond.**" in made
    assert re.search(r"\| decay to 1e-2 \| 2 \| [^\n]* 2 \| 4 \|", made)
    with pytest.raises(ValueError, match="number must be positive"):
        next(trust.page(0))
