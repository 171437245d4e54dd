"""The pictures of the README and of the gallery."""

from pathlib import Path

import pytest
from fakes import history

from hig_optax import problems
from hig_optax.experiments import compare, picture
from hig_optax.experiments.compare import Comparison

PICTURES = Path(__file__).parents[2] / "docs" / "pictures"


def test_the_picture_is_drawn_from_runs_of_its_own(tmp_path, monkeypatch):
    asked = []

    def fake(problem, methods, seeds, budget, *, out, report):
        asked.append((problem.name, methods, seeds, str(budget)))
        runs = [history(problem.name, m, (1.0, 0.5, 0.1), s) for m in methods for s in seeds]
        return Comparison(problem, budget, tuple(runs), out)

    monkeypatch.setattr(compare, "compare", fake)
    written = picture.draw(20.0, tmp_path / "x.png", out=tmp_path)
    assert written.read_bytes().startswith(b"\x89PNG")
    assert written.stat().st_size <= picture.MAX_BYTES
    assert [(name, len(seeds), budget) for name, _, seeds, budget in asked] == [
        ("toy", 1, "4s"),
        ("nonlinear-oscillators", 3, "20s"),
        ("quantum-dipole", 3, "20s"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "heat-1d",
        "linear-oscillators",
        "noisy-field",
        "noisy-likelihood",
        "poisson",
        "quantum-dipole",
        "toy",
    ],
)
def test_problems_have_pictures_of_their_data(name):
    (axes,) = picture.thumbnails.figure(problems.get(name)).axes
    assert axes.lines or axes.images or axes.collections


def test_the_gallery_has_a_small_picture_of_every_problem():
    pictures = {path.stem: path.stat().st_size for path in (PICTURES / "gallery").glob("*.png")}
    assert set(pictures) == set(problems.PROBLEMS)
    assert max(pictures.values()) <= picture.THUMBNAIL_BYTES
