import pytest

from hig_optax.experiments import __main__ as command
from hig_optax.experiments import compare, results, study
from hig_optax.experiments.budget import Budget


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
    burgers = text.index("  burgers: ")
    assert text.index("all 2200 points at every step, float64") > burgers


def test_compare_prints_the_table_and_the_files(run, tmp_path):
    words = ("compare", "swing", "--cores", "0", "--methods", "adam", "--out", str(tmp_path))
    status, text = run(*words, "--steps", "5", "--set", "problem.width=4")
    assert status == 0
    assert "### swing: 5 steps per run" in text
    assert str(tmp_path / "swing-width=4-5steps" / "loss.png") in text
    assert len(text.splitlines()) < 15  # no bar where nobody watches


def test_runs_that_are_found_done_are_said_to_be(run, tmp_path):
    words = ("compare", "swing", "--cores", "0", "--methods", "sgd", "--out", str(tmp_path))
    assert "done before" not in run(*words, "--steps", "3")[1]
    assert "1 of 1 runs were done before with the same settings" in run(*words, "--steps", "3")[1]
    assert "done before" not in run(*words, "--steps", "3", "--fresh")[1]


def test_results_predict_run_and_write(run, tmp_path, monkeypatch):
    tiny = {"swing": study.Experiment("swing", ("sgd",), (0,), Budget(steps=3))}
    monkeypatch.setattr(study, "quick", lambda: tiny)
    monkeypatch.setattr(results, "summary", lambda done: [])
    words = ("results", "--quick", "--cores", "0", "--out", str(tmp_path))
    status, text = run(*words)
    assert status == 0
    assert text.startswith("1 runs, 0 of them done before: about 0 minutes.")
    page = tmp_path / "quick" / "RESULTS.md"
    assert "\n## swing: 3 steps per run" in page.read_text()
    assert run(*words)[1].startswith("1 runs, 1 of them done before")


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
