import pytest

from hig_optax.experiments import __main__ as command
from hig_optax.experiments import page as pages
from hig_optax.experiments.table import Table


def test_runs_are_read_at_every_time_and_put_into_the_page(swing, tmp_path, capsys):
    page = tmp_path / "page.md"
    start, end = pages.marks("contest: swing")
    page.write_text(f"Before.\n\n{start}\nold\n{end}\n\nAfter.\n")
    words = ["contest", "swing", "--methods", "sgd,adam-cosine", "--seeds", "0,1"]
    words += ["--times", "0.2,0.1", "--cores", "0", "--out", str(tmp_path), "--into", str(page)]
    words += ["--set", "sgd.batch_size=4"]
    assert command.main(words) == 0
    text = page.read_text()
    assert text.startswith("Before.")
    assert text.endswith("After.\n")
    assert "old" not in text
    assert "| method | batch | rate | ms per step | 0.1 s | 0.2 s |" in text
    assert text.count("**") == 4  # one winner at each time
    assert "seeds 0, 1" in text
    assert "| sgd | 4 |" in text
    # One run of a constant rate serves both times; a rate that decays to the budget takes a run for each.
    runs = sorted(path.name.split("-seed")[0] for path in tmp_path.rglob("runs/*.json"))
    assert runs == 4 * ["adam-cosine"] + 2 * ["sgd"]
    capsys.readouterr()
    assert command.main(words) == 0
    assert page.read_text() == text


def test_a_page_without_a_place_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("Nothing here.")
    with pytest.raises(ValueError, match="must hold the lines '<!-- contest: swing -->'"):
        pages.write_into(page, {"contest: swing": Table("swing", ("a",), ())})
