import dataclasses
import itertools

import numpy as np
import pytest
from fakes import fake_views, history

from hig_optax.experiments import figures
from hig_optax.experiments.figures import field, loss, oscillators, style
from hig_optax.experiments.history import History

OWN = {
    "toy": "toy",
    "toy-balanced": "toy",
    "linear-oscillators": "trajectory",
    "nonlinear-oscillators": "trajectory",
    "quantum-dipole": "density",
    "poisson": "fields",
    "burgers": "field",
    "kovasznay": "field",
}


@pytest.mark.parametrize("problem", OWN)
def test_every_problem_has_its_figures(problem, tmp_path):
    runs = [
        history(problem, method, (1.0, 0.5, 0.4, last), seed)
        for method, last in (("hig", 1e-3), ("adam", 0.1))
        for seed in (0, 1)
    ]
    written = figures.write(runs, tmp_path)
    assert {path.stem for path in written} == {"loss", "spectrum-hig", OWN[problem]}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_what_is_drawn_of_a_solution_is_its_relative_error():
    runs = [history("burgers", "hig", (1.0, 0.04)), history("burgers", "adam", (1.0, 0.25))]
    figure = loss.figure(runs)
    by_time, by_step = figure.axes
    assert by_time.get_ylabel() == "relative L2 error"
    assert [line.get_ydata()[-1] for line in by_time.lines] == pytest.approx([0.2, 0.5])
    assert loss.title(runs) == "hig ends lowest, at 2.0e-01"
    assert by_step.get_xscale() == "log"


def test_errors_of_a_network_that_blew_up_do_not_hide_the_others():
    views = fake_views("burgers")
    lost = {name: np.full_like(views[name], np.nan) for name in ("field", "error")}
    lost = {**views, **lost}
    runs = [
        history("burgers", "hig", (1.0, 0.04)),
        history("burgers", "adam", (1.0, 9.0), views=lost),
    ]
    good, bad = (axes for axes in field.figure(runs).axes if "error" in axes.get_title(loc="left"))
    low, high = good.images[0].get_clim()
    # The errors of the first are 0 and 0.1, the solution's largest value 1.
    assert (low, high) == pytest.approx((-3, 0))
    assert bad.get_title(loc="left") == "relative L2 error 3.0e+00"


def test_runs_that_diverged_are_named_and_do_not_stretch_the_figure():
    runs = [
        history("linear-oscillators", "hig", (1.0, 0.5, 0.4, 1e-3)),
        history("linear-oscillators", "sgd", (1.0, 1e20, np.inf)),
    ]
    axes = style.Figure().subplots()
    ends = loss.draw(axes, runs, "seconds")
    assert [text for _, text, _ in ends] == ["hig", "sgd\ndiverged"]
    assert axes.get_ylim()[1] <= 1000
    assert loss.title(runs) == "hig ends lowest, at 1.0e-03"
    assert loss.title(runs[1:]) == "test loss"


def test_the_first_method_and_the_lowest_others_are_shown():
    runs = [
        history("poisson", method, (1.0, last))
        for method, last in (
            ("hig", 0.9),
            ("sgd", np.inf),
            ("adam", 0.8),
            ("sip", 0.1),
            ("muon", 0.2),
        )
    ]
    shown = style.first_and_best(runs, 3)
    assert [run.method for run in shown] == ["hig", "sip", "muon"]
    assert [run.method for run in style.first_runs(runs, 2)] == ["hig", "adam"]
    assert style.first_runs(runs[1:2], 2) == [runs[1]]  # nothing finite is drawn all the same


@pytest.mark.parametrize("wanted", [[0.0] * 5, [1.0] * 5, [0.1, 0.11, 0.5, 0.97, 0.99], [0.3]])
def test_labels_keep_apart_and_inside(wanted):
    heights = [0.06] * len(wanted)
    places = style._apart(wanted, heights)
    assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(places))
    assert places[0] >= -0.1
    assert places[-1] <= 0.97 + 1e-9
    if wanted == [0.3]:
        assert places == pytest.approx([0.3])


def test_small_pictures_are_small(tmp_path):
    run = history("poisson", "hig", (1.0, 0.5, 0.4, 1e-3))
    path = style.save_small(loss.figure([run]), tmp_path / "x.png", max_bytes=12_000)
    assert path.stat().st_size <= 12_000


def test_a_run_read_back_says_how_close_it_ended():
    """Of a run whose path agrees with its target in all digits that are kept."""
    run = history("linear-oscillators", "hig", (1.0, 0.5, 0.4, 1e-3))
    path = np.array(run.views["trajectory"])
    path[1, -1] = run.views["target"]
    views = {**run.views, "trajectory": path, "miss": np.array([1.5, 3e-6])}
    run = History.from_json(dataclasses.replace(run, views=views).to_json())
    figure = oscillators.figure([run])
    assert "ends 5e+05 times closer to its target" in figure.get_suptitle()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[:2] == ["before training: misses by 1.5", "after training: misses by 3e-06"]
