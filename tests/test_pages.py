"""The Python of the pages runs and prints what stands below it; the settings they tell are the code's."""

import re
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest

from hig_optax._optimizers.recipe import DECIDED, OPEN, STEADY

DOCS = Path(__file__).parents[1] / "docs"
FOLDERS = ("tutorials", "howto", "explanation")
BLOCK = re.compile(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
NUMBER = re.compile(r"[-+]?\d[\d.,]*(?:e[+-]?\d+)?")
PAGES = [
    path
    for folder in FOLDERS
    for path in sorted((DOCS / folder).glob("*.md"))
    if BLOCK.search(path.read_text())
]
# A loss that fell by decades depends on the rounding of the machine, by a decade or two.
DECADES = 2


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_the_code_of_a_page_runs_and_prints_what_is_shown(path, capsys, monkeypatch):
    loggers = {name: mock.MagicMock() for name in ("wandb", "tensorboardX")}
    if path.stem == "logging":  # whose packages are not ours
        for name, module in loggers.items():
            monkeypatch.setitem(sys.modules, name, module)
    names = {}
    x64 = jax.config.jax_enable_x64
    try:
        with jax.numpy_dtype_promotion("standard"):  # as a reader's program has it
            for code, shown in BLOCK.findall(path.read_text()):
                exec(compile(code, path.name, "exec"), names)
                printed = capsys.readouterr().out
                assert NUMBER.sub("", printed).split() == NUMBER.sub("", shown).split()
                for number, told in zip(*map(NUMBER.findall, (printed, shown)), strict=True):
                    compare(number, told)
    finally:
        jax.config.update("jax_enable_x64", x64)
    if path.stem == "logging":
        writer = loggers["tensorboardX"].SummaryWriter.return_value
        assert {call.args[0] for call in writer.add_scalar.call_args_list} >= {"loss", "rank"}


def compare(number, told):
    number, told = (float(x.replace(",", "").rstrip(".")) for x in (number, told))
    if 0 < abs(told) < 1e-2:
        assert told / 10**DECADES < number < told * 10**DECADES
    else:
        assert number == pytest.approx(told, rel=0.2, abs=1)


def test_there_are_pages():
    assert {p.stem for p in PAGES} >= {"first_network", "pinn", "noise", "blocks", "logging"}


def test_the_settings_that_auto_stands_for_are_those_of_the_code():
    table = (DOCS / "howto" / "settings.md").read_text().split('## What "auto" means')[1]
    found = re.findall(r"^\| `?(\w[\w ]*?)`? \| (.*) \|$", table, flags=re.MULTILINE)
    rows = {name.replace(" ", "_"): cells for name, cells in found}
    recipes = (OPEN, DECIDED, STEADY)
    assert set(rows) == set(OPEN._fields)
    for name, cells in rows.items():
        told = [cell.replace(" batches", "").split(";")[0].strip() for cell in cells.split("|")]
        for cell, recipe in zip(told, recipes, strict=True):
            value = getattr(recipe, name)
            assert cell == "none" if value is None else eval(cell) == value
