import json

import numpy as np

from hig_optax.experiments.history import MAX_STORED_LOSSES, History, Point


def make_history(losses: np.ndarray) -> History:
    points = (
        Point(step=0, seconds=0.0, test_loss=1.0),
        Point(
            step=losses.size,
            seconds=0.5,
            test_loss=0.25,
            train_loss=0.5,
            rank=2,
            singular_values=(2.0, 1.0),
        ),
    )
    return History({"method": "hig", "seed": 3}, points, losses, 1.5, num_params=5, num_rows=2)


def test_a_history_survives_json():
    history = make_history(np.array([1.0, 0.5]))
    again = History.from_json(json.loads(json.dumps(history.to_json())))
    np.testing.assert_array_equal(again.losses, history.losses)
    assert again.points == history.points
    assert (again.method, again.seed, again.steps, again.seconds) == ("hig", 3, 2, 0.5)


def test_long_runs_are_stored_as_means():
    losses = np.arange(2.0 * MAX_STORED_LOSSES + 2)
    stored = make_history(losses).to_json()
    assert stored["losses_every"] == 3
    assert len(stored["losses"]) <= MAX_STORED_LOSSES
    assert stored["losses"][:2] == [1.0, 4.0]
    assert stored["losses"][-1] == 2001.0  # the one that is left over
    again = History.from_json(stored)
    assert again.to_json() == stored
