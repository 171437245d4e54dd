import pytest

from hig_optax.experiments import __main__ as command
from hig_optax.experiments import compare


@pytest.fixture
def run(swing, tmp_path, capsys):
    def call(*words):
        status = command.main([*words])
        return status, capsys.readouterr().out

    return call


def test_list_names_problems_methods_and_settings(run):
    status, text = run("list")
    assert status == 0
    assert "  swing: Angle and speed of a pendulum" in text
    assert "  gauss-newton: truncated pseudo-inverse" in text
    assert "      adam: batch_size=16, learning_rate=0.01" in text


def test_compare_prints_the_table_and_the_files(run, tmp_path):
    words = ("compare", "swing", "--cores", "0", "--methods", "adam", "--out", str(tmp_path))
    status, text = run(*words, "--steps", "5", "--set", "problem.width=4")
    assert status == 0
    assert "### swing: 5 steps per run" in text
    assert str(tmp_path / "swing-width=4-5steps" / "loss.png") in text
    assert len(text.splitlines()) < 15  # no bar where nobody watches


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("nowhere",), "nowhere"),
        (("swing", "--methods", "adam,hug"), "No method 'hug'"),
        (("swing", "--set", "problem.depth=3"), "swing has no setting depth"),
        (("swing", "--set", "adam"), "expected METHOD.NAME=VALUE"),
        (("swing", "--steps", "0"), "positive number"),
        (("swing", "--steps", "5", "--seconds", "1"), "not allowed with"),
    ],
)
def test_wrong_words_are_one_line_and_status_2(swing, tmp_path, capsys, words, message):
    with pytest.raises(SystemExit) as stop:
        command.main(["compare", *words, "--cores", "0", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_interruption_ends_with_a_word(run, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "compare", interrupt)
    status, text = run("compare", "swing", "--cores", "0")
    assert status == 130
    assert "Finished runs are kept" in text
