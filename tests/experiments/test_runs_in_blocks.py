"""Experiments on problems whose rows come in blocks, and whose solution is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from hig_optax import problems
from hig_optax.experiments import __main__ as command
from hig_optax.experiments import contest, methods, train
from hig_optax.experiments import page as pages
from hig_optax.experiments.history import History
from hig_optax.experiments.losses import batch_loss, batch_rows, loss_of_rows, num_rows

SMALL = problems.Kovasznay(num_interior=9, num_boundary=7, hidden=(5,))
OPTIONS = ["num_interior=20", "num_boundary=12", "hidden=(4,)"]


@pytest.mark.parametrize("fixed", [True, False])
def test_rows_and_loss_of_blocks(fixed):
    problem = problems.Kovasznay(num_interior=9, num_boundary=7, hidden=(5,), fixed_points=fixed)
    with jax.enable_x64(True):
        params = problem.init(jax.random.key(0))
        points, _ = problem.data(jax.random.key(1))
        rows = batch_rows(problem.residual, params, points)
        assert {name: x.shape for name, x in rows.items()} == {
            "interior": (9, 3),
            "boundary": (7, 2),
        }
        assert num_rows(problem, params, points) == 9 * 3 + 7 * 2
        expected = problem.loss(params, points)
        np.testing.assert_allclose(batch_loss(problem)(params, points), expected, rtol=1e-12)
        np.testing.assert_allclose(loss_of_rows(problem)(rows, points), expected, rtol=1e-12)


@pytest.mark.parametrize("name", [n for n in methods.METHODS if n not in ("sip", "gauss-newton")])
def test_every_method_but_sip_trains_on_blocks(name):
    problem = problems.Poisson2D(num_interior=12, num_boundary=8, hidden=(6,))
    own = {} if methods.get(name).defaults["learning_rate"] is None else {"learning_rate": 1e-2}
    history = train.train(problem, name, 0, steps=30, settings=own)
    assert history.losses[-1] < history.losses[0]
    assert history.num_rows == 20
    assert history.request["settings"]["batch_size"] == 20


def test_sip_is_refused():
    with pytest.raises(
        ValueError, match=r"sip corrects controls by the physics.*kovasznay says none"
    ):
        train.Trainer(SMALL, "sip")


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_run_is_of_the_precision_that_the_problem_asks_for(precision):
    problem = problems.Kovasznay(num_interior=9, num_boundary=7, hidden=(5,), precision=precision)
    history = train.train(problem, "adam", 0, steps=3)
    assert {leaf.dtype for leaf in jax.tree.leaves(history.params)} == {np.dtype(precision)}
    assert history.request["environment"]["float"] == precision
    assert jnp.ones(()).dtype == np.float32  # as before
    last = history.points[-1]
    with jax.enable_x64(precision == "float64"):
        _, test = problem.data(jax.random.split(jax.random.key(0), 3)[1])
        assert last.relative_error == pytest.approx(
            float(problem.relative_error(history.params, test)), rel=1e-5
        )
        assert last.test_loss == pytest.approx(
            float(problem.loss(history.params, test.points)), rel=1e-5
        )
    assert history.measure == "relative L2 error"
    assert history.last_measured == last.relative_error
    again = History.from_json(history.to_json())
    assert again.points[-1].measured == pytest.approx(last.relative_error, rel=1e-6)


def test_fresh_points_make_losses_that_differ_at_the_same_parameters():
    def losses(fixed):
        problem = problems.Heat(num_interior=9, num_boundary=6, hidden=(5,), fixed_points=fixed)
        return train.train(problem, "sgd", 0, steps=4, settings={"learning_rate": 0.0}).losses

    assert len(set(losses(True))) == 1
    assert len(set(losses(False))) == 4


def test_a_batch_size_of_its_own_is_refused(capsys, tmp_path):
    words = ["compare", "heat-1d", "--methods", "adam", "--steps", "1", "--cores", "0"]
    words += ["--set", "adam.batch_size=8", "--out", str(tmp_path)]
    with pytest.raises(SystemExit):
        command.main(words)
    assert "heat-1d takes all its 990 points at every step" in capsys.readouterr().err


def test_a_table_tells_error_and_loss_and_figures_are_drawn(tmp_path, capsys):
    words = ["compare", "heat-1d", "--methods", "adam,lbfgs", "--steps", "3", "--cores", "0"]
    words += ["--out", str(tmp_path)]
    for option in OPTIONS:
        words += ["--set", f"problem.{option}"]
    assert command.main(words) == 0
    said = capsys.readouterr().out
    assert "| method | batch | rate | relative L2 error | test loss | training loss |" in said
    assert "| lbfgs | 32 | search |" in said
    assert "float64; python" in said
    (folder,) = tmp_path.iterdir()
    assert folder.name.endswith("3steps-float64")
    assert {path.name for path in folder.glob("*.png")} == {"loss.png", "field.png"}


def test_a_contest_is_named_after_what_is_not_as_usual(tmp_path):
    page = tmp_path / "page.md"
    name = "contest: heat-1d, hidden (4,), num_interior 20, num_boundary 12, fixed_points False"
    page.write_text("\n".join(pages.marks(name)))
    words = ["contest", "heat-1d", "--methods", "adam", "--seeds", "0", "--times", "0.1"]
    words += ["--cores", "0", "--out", str(tmp_path), "--into", str(page)]
    for option in (*OPTIONS, "fixed_points=False"):
        words += ["--set", f"problem.{option}"]
    assert command.main(words) == 0
    assert "Relative L2 error, seed 0. " in page.read_text()
    assert contest.title(problems.Heat()) == "heat-1d"


def test_what_is_not_finite_is_never_the_lowest():
    told = contest.best_in_bold([["nan"], ["inf (inf to inf)"], ["2.0 (1.0 to 3.0)"]])
    assert told == [["nan"], ["inf (inf to inf)"], ["**2.0** (1.0 to 3.0)"]]
