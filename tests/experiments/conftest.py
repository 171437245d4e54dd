import pytest
from swing import Swing

from hig_optax import problems


@pytest.fixture
def swing(monkeypatch):
    """A small problem, and its place in the registry."""
    monkeypatch.setitem(problems.PROBLEMS, "swing", Swing)
    return Swing()
