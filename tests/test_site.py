"""The site builds without a warning; it has no raw TeX, no broken link, and nothing wider than its column."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def tool(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = tool("check")
formulas = tool("formulas")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("mkdocs")
    if "HIG_OPTAX_TEST_ONE_IN" in os.environ:
        pytest.skip("the site is built with the versions of constraints.txt alone")
    folder = tmp_path_factory.mktemp("site")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_no_raw_tex_no_broken_link_no_picture_without_words(site):
    assert check.faults(site) == []


def test_nothing_is_wider_than_its_column(site):
    if check.browser() is None:
        pytest.skip("no Chromium on the PATH")
    assert check.too_wide(site) == []


def test_formulas_and_examples_are_set(site):
    home = check.Page((site / "index.html").read_text())
    assert home.num_formulas >= 2
    for page in (site / "reference").rglob("index.html"):
        text = page.read_text()
        assert not re.search(r"<blockquote>\s*<blockquote>", text), page
        assert not re.search(r'<p class="admonition-title">(Example|References|Notes)', text), page
        assert "&gt;&gt;&gt;" in text or "command_line" in str(page), page
    for page in ("optimizers", "baselines"):  # whose docstrings have formulas
        text = (site / "reference" / page / "index.html").read_text()
        assert text.count('<div class="formula">') == 3
        assert not re.search(r"<code>[^&<]*[Σσ]", text)


@pytest.mark.parametrize(
    ("plain", "tex"),
    [
        ("V Σ⁻¹ Uᵀ g", r"V Σ^{-1} U^\top g"),
        ("σ (σ² + λ)^((κ-1)/2)", r"σ (σ^2 + λ)^{(κ-1)/2}"),
        ("σ_(k+1) <= rtol·σ₁", r"σ_{k+1} \le ~{\text{rtol}}\cdot σ_1"),
        ("a    b", r"a \qquad b"),
    ],
)
def test_plain_formulas_become_tex(plain, tex):
    assert " ".join(formulas.tex(plain).split()) == " ".join(tex.split())


def test_formulas_of_a_docstring_are_told_from_its_code():
    code = "    >>> σ = 1  # σ_k, or σ^(1/2)\n"
    text = f"It is\n\n    x = σ² y,\n\nwith σ_k, or\n\n{code}\nEnd"
    expected = f"It is\n\n$$\nx = σ^2 y,\n$$\n\nwith $σ_k$, or\n\n{code}\nEnd"
    assert formulas.formulas_set(text) == expected
    text = "As\n\n    a    one\n    b    two,\n         three\n\nEnd"
    assert formulas.formulas_set(text) == "As\n\n* **a**: one\n* **b**: two, three\n\nEnd"


def test_search_copy_buttons_and_dark_colours_are_there(site):
    assert (site / "search" / "search_index.json").is_file()
    text = (site / "index.html").read_text()
    assert "content.code.copy" in text
    assert 'data-md-color-scheme="slate"' in text


def test_there_is_a_page_for_each_recipe(site):
    for path in (ROOT / "recipes").glob("*.py"):
        text = (site / "recipes" / path.stem / "index.html").read_text()
        assert "hig_optax" in text


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (r"<p>with \(x\)</p>", "raw TeX"),
        (r"<p>with $$ x $$</p>", "raw TeX"),
        (r"<p>\Sigma</p>", "raw TeX"),
        ('<a href="nowhere/">x</a>', "no file"),
        ('<a href="#nothing">x</a>', "no anchor"),
        ('<img src="a.png" alt="">', "no description"),
        ('<script src="https://example.org/a.js"></script>', "fetched from elsewhere"),
    ],
)
def test_faults_are_found(text, fault, tmp_path):
    (tmp_path / "index.html").write_text(f"<html><body>{text}</body></html>")
    (tmp_path / "a.png").write_bytes(b"")
    found = check.faults(tmp_path)
    assert found
    assert all(fault in line for line in found)


def test_code_may_hold_what_looks_like_tex(tmp_path):
    (tmp_path / "index.html").write_text(
        "<pre><code>r'\\frac'</code></pre><p id='a'><a href='#a'>x</a>"
    )
    assert check.faults(tmp_path) == []


def test_what_is_too_wide_is_found(tmp_path):
    if check.browser() is None:
        pytest.skip("no Chromium on the PATH")
    column = '<html><body><div class="md-content__inner" style="width:200px">{}</div></body></html>'
    (tmp_path / "good.html").write_text(column.format('<div class="formula">x</div>'))
    bad = '<div class="formula" style="overflow:auto"><div style="width:800px">x</div></div>'
    (tmp_path / "bad.html").write_text(column.format(bad))
    found = check.too_wide(tmp_path)
    assert len(found) == len(check.WIDTHS)
    assert all(line.startswith("bad.html") for line in found)
