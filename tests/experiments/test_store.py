import math
from pathlib import Path

import pytest

from hig_optax.experiments import store


def test_numbers_that_are_not_finite_become_null(tmp_path):
    path = tmp_path / "deep" / "x.json"
    store.write_json(path, {"a": [1.5, math.nan, (math.inf,)], "b": "text"})
    assert store.read_json(path) == {"a": [1.5, None, [None]], "b": "text"}


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    store.write_json(path, [1])

    def interrupt(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.write_json(path, [2])
    assert store.read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", '{"runs": [1, 2'])
def test_what_is_not_json_reads_as_missing(tmp_path, text):
    path = tmp_path / "x.json"
    assert store.read_json(path) is None
    path.write_text(text)
    assert store.read_json(path) is None
