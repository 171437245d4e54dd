"""Tables on a terminal: whatever its width, no number is cut."""

import io

import pytest
from rich.console import Console

from hig_optax.experiments.table import Table

COLUMNS = (
    "method",
    "batch",
    "rate",
    "test loss",
    "training loss",
    "steps",
    "ms per step",
    "first call, s",
)
ROWS = (
    ("adaptive-hig", "32", "1", "1.9e-11", "2.7e-11", "14633", "1.4", "6.7"),
    ("hig", "32", "1", "9.0e-10", "1.1e-09", "15927", "1.3", "3.8"),
    ("adam", "256", "0.001", "4.1e-06", "4.4e-06", "148703", "0.135", "1.5"),
    (
        "gauss-newton",
        "32",
        "1",
        "**1.9e-10** (1.1e-10 to 4.2e-10)",
        "2.2e-10",
        "16594",
        "1.2",
        "5.9",
    ),
)
NOTE = (
    "Losses are means over samples: of the test set, and of the mini-batches since the last look."
)


def shown(width, rows=ROWS):
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    Table("linear-oscillators: 20 s of training per run", COLUMNS, rows, NOTE).show(console)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [200, 100, 80, 70, 60, 40])
def test_no_word_is_cut(width):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    words = text.split()
    for cell in (*COLUMNS[1:], *(cell for row in ROWS for cell in row), NOTE):
        for word in cell.replace("**", "").split():
            assert word in words or f"{word}:" in words, word  # a list puts a colon after a name


def test_rows_stay_rows_on_a_terminal_of_80():
    assert any(line.split()[:3] == ["adaptive-hig", "32", "1"] for line in shown(80).splitlines())


def test_a_narrow_terminal_turns_the_table():
    assert any(line.split() == ["rate", "1", "1", "0.001", "1"] for line in shown(60).splitlines())


def test_a_narrower_one_gets_lists():
    lines = shown(40).splitlines()
    assert lines[lines.index("adam") + 1 :][:2] == ["  batch: 256", "  rate: 0.001"]
