"""The README is short, its Python prints what it shows, and its figures are those of the pages."""

import contextlib
import importlib.metadata
import re
from pathlib import Path

import jax
import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FLOAT = re.compile(r"\d+\.?\d*e[+-]\d+|\d+")


def test_it_is_short_and_begins_with_a_picture():
    lines = README.splitlines()
    assert len(lines) <= 110
    (picture,) = re.findall(r"!\[[^]]{20,}\]\(([^)]+)\)", README)
    assert README.index(picture) < 800
    assert (ROOT / picture).stat().st_size < 100_000


def test_snippets_run_and_print_what_is_shown(capsys):
    ((code, shown),) = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL
    )
    with jax.numpy_dtype_promotion("standard"):  # as a reader's program has it
        exec(compile(code, "README.md", "exec"), {})
    printed = capsys.readouterr().out
    assert FLOAT.sub("", printed) == FLOAT.sub("", shown)
    loss, rank, condition = (float(x) for x in FLOAT.findall(printed))
    told = [float(x) for x in FLOAT.findall(shown)]
    # Another machine rounds otherwise, and 200 steps make a decade or two of it at a loss of 1e-10.
    assert loss < 1e-7
    assert rank == pytest.approx(told[1], abs=6)
    assert condition == pytest.approx(told[2], rel=9)


def test_loop_is_three_lines_from_adam():
    (loop,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    marked = re.findall(r"^(.*\S)  # (\d)", loop, flags=re.MULTILINE)
    assert [number for _, number in marked] == ["1", "2", "3"]
    ours = [line for line in loop.splitlines() if "hig_optax" in line or "batch=batch" in line]
    assert len(ours) == 3
    assert all(line in [f"{code}  # {n}" for code, n in marked] or "# 2" in line for line in ours)


@pytest.mark.parametrize(
    "row", re.findall(r"^\| \[.*\]\(notebooks/.*\) \|.*$", README, flags=re.MULTILINE)
)
def test_the_figures_are_those_of_the_pages(row):
    name, *values = (cell.strip() for cell in row.strip("|").split("|"))
    page = (ROOT / re.search(r"\((.*)\)", name)[1]).read_text()
    for value in values:
        assert value.strip("*") in page
    assert sum(value.startswith("**") for value in values) == 1
    assert min(values, key=lambda x: float(x.strip("*"))).startswith("**")


def test_links_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_tested_releases_install_on_the_oldest_interpreter():
    """Python 3.11 of Debian 12 is 3.11.2, and some releases want a later one."""
    pins = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pins) > 50
    oldest = re.search(r'requires-python = ">=([\d.]+)"', (ROOT / "pyproject.toml").read_text())[1]
    for name, version in pins:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.distribution(name)
            wanted = found.metadata.get("Requires-Python") or ""
            if found.version == version:
                assert SpecifierSet(wanted).contains(f"{oldest}.0"), (name, version, wanted)
