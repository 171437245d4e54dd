import dataclasses
import json
from contextlib import contextmanager

import chex
import jax
import numpy as np
import pytest

from hig_optax.experiments import checkpoint, store
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.compare import compare
from hig_optax.experiments.figures import loss
from hig_optax.experiments.report import Report


class Log(Report):
    """Remembers what ran, and can be told to interrupt a run."""

    def __init__(self, interrupt_at=None):
        super().__init__()
        self.ran, self.old, self.interrupt_at = [], [], interrupt_at

    @contextmanager
    def run(self, method, seed, budget):
        if len(self.ran) == self.interrupt_at:
            raise KeyboardInterrupt
        self.ran.append((method, seed))
        yield None

    def found(self, history):
        self.old.append((history.method, history.seed))


def test_a_comparison_writes_what_it_found(swing, tmp_path):
    log = Log()
    comparison = compare(swing, ["hig", "adam"], [0, 1], Budget(steps=12), out=tmp_path, report=log)
    written = {path.name for path in comparison.write()}
    assert written == {"history.json", "table.md", "loss.png", "spectrum-hig.png"}
    assert comparison.directory == tmp_path / "swing-12steps"
    assert log.ran == [("hig", 0), ("adam", 0), ("hig", 1), ("adam", 1)]

    kept = json.loads((comparison.directory / "history.json").read_text())
    assert [(r["request"]["method"], r["request"]["seed"]) for r in kept["runs"]] == [
        ("hig", 0),
        ("hig", 1),
        ("adam", 0),
        ("adam", 1),
    ]
    assert kept["environment"]["cores"] >= 1
    assert {"jax", "optax", "python"} <= set(kept["environment"]["versions"])
    table = (comparison.directory / "table.md").read_text()
    assert "| hig | 8 | 0.5 |" in table
    assert "Median (range) of 2 seeds" in table
    for name in ("loss.png", "spectrum-hig.png"):
        assert (comparison.directory / name).read_bytes().startswith(b"\x89PNG")

    again = Log()
    repeated = compare(swing, ["hig", "adam"], [0, 1], Budget(steps=12), out=tmp_path, report=again)
    assert (again.ran, len(again.old)) == ([], 4)
    assert (comparison.reused, repeated.reused) == (0, 4)
    assert [h.points for h in repeated.histories[2:]] == [
        h.points for h in map(_stored, comparison.histories[2:])
    ]


def _stored(history):
    return type(history).from_json(json.loads(json.dumps(history.to_json())))


def test_an_interrupted_comparison_goes_on_where_it_was(swing, tmp_path):
    ask = {"out": tmp_path, "overrides": {"sgd": {"momentum": 0.5}}}
    log = Log(interrupt_at=1)
    with pytest.raises(KeyboardInterrupt):
        compare(swing, ["sgd", "adam"], [0], Budget(steps=3), **ask, report=log)
    log = Log()
    comparison = compare(swing, ["sgd", "adam"], [0], Budget(steps=3), **ask, report=log)
    assert (log.old, log.ran) == ([("sgd", 0)], [("adam", 0)])
    assert comparison.directory.name == "swing-3steps-sgd.momentum=0.5"

    # A file that is not whole counts for nothing.
    runs = sorted((comparison.directory / "runs").iterdir())
    assert len(runs) == 2
    runs[0].write_text(runs[0].read_text()[:100])
    log = Log()
    compare(swing, ["sgd", "adam"], [0], Budget(steps=3), **ask, report=log)
    assert len(log.ran) == 1


class Interrupting(Log):
    """Interrupts a run at a look."""

    def __init__(self, at=None):
        super().__init__()
        self.at, self.steps = at, []

    @contextmanager
    def run(self, method, seed, budget):
        def watch(point, params):
            self.steps.append(point.step)
            if len(self.steps) == self.at:
                raise KeyboardInterrupt

        yield watch


def without_times(history):
    points = [dataclasses.replace(point, seconds=0.0) for point in history.points]
    return points, history.losses.tolist(), jax.tree.map(np.asarray, history.params)


def test_an_interrupted_run_goes_on_from_its_last_save(swing, tmp_path, monkeypatch):
    budget = Budget(steps=9)
    whole = compare(swing, ["adam-cosine"], [3], budget, out=tmp_path / "whole").histories[0]
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    log = Interrupting(at=6)
    with pytest.raises(KeyboardInterrupt):
        compare(swing, ["adam-cosine"], [3], budget, out=tmp_path, report=log)
    assert log.steps == [0, 1, 2, 3, 4, 5]
    log = Interrupting()
    comparison = compare(swing, ["adam-cosine"], [3], budget, out=tmp_path, report=log)
    assert log.steps == [4, 5, 6, 7, 8, 9]  # the look of the last save, then those after it
    (resumed,) = comparison.histories
    chex.assert_trees_all_equal(without_times(resumed), without_times(whole))
    assert (whole.resumed, resumed.resumed) == (0, 1)
    assert [path.suffix for path in (comparison.directory / "runs").iterdir()] == [".json"]


@pytest.mark.parametrize("change", ["program", "fresh"])
def test_a_run_of_another_program_is_not_gone_on_with(swing, tmp_path, monkeypatch, change):
    monkeypatch.setattr(checkpoint, "EVERY_SECONDS", 0.0)
    ask = {"budget": Budget(steps=9), "out": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        compare(swing, ["sgd"], [0], **ask, report=Interrupting(at=6))
    if change == "program":  # the same problem by name and settings, with other physics
        kick = type(swing).physics
        monkeypatch.setattr(type(swing), "physics", lambda self, u, s: 2 * kick(self, u, s))
    (run,) = compare(swing, ["sgd"], [0], **ask, fresh=change == "fresh").histories
    assert run.resumed == 0


def test_a_changed_setting_is_another_run(swing, tmp_path):
    for momentum in (0.5, 0.9):
        log = Log()
        overrides = {"sgd": {"momentum": momentum}}
        compare(swing, ["sgd"], [0], Budget(steps=3), out=tmp_path, overrides=overrides, report=log)
        assert log.ran == [("sgd", 0)]


def test_settings_of_a_method_that_does_not_take_part_are_an_error(swing, tmp_path):
    with pytest.raises(ValueError, match="hig, which is not compared"):
        compare(
            swing, ["sgd"], [0], Budget(steps=3), out=tmp_path, overrides={"hig": {"rtol": 0.1}}
        )


def test_a_diverged_run_is_drawn_and_tabled(swing, tmp_path):
    overrides = {"sgd": {"learning_rate": 1e30}}
    comparison = compare(
        swing, ["sgd"], [0, 1], Budget(steps=500), out=tmp_path, overrides=overrides
    )
    comparison.write()
    assert "| inf (inf to inf) |" in comparison.table().markdown()
    assert loss._divergence(comparison.histories) == "\ndiverged (2 of 2)"
    assert np.isnan(_stored(comparison.histories[0]).points[-1].test_loss)
    assert (
        store.read_json(comparison.directory / "history.json")["runs"][0]["stopped"] == "diverged"
    )
