import argparse

import pytest

import hig_optax
from hig_optax.experiments import __main__ as command
from hig_optax.experiments import arguments, compare, doctor, results, study, sweep
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
        (("swing", "--methods", ""), "expected one name or several, as in A,B, got ''"),
        (("swing", "--seeds", "one"), "argument --seeds: expected whole numbers, got 'one'"),
        (("swing", "--seeds", ","), "argument --seeds: expected one name or several"),
        (("swing", "--seconds", "nan"), "expected a positive number of seconds, got 'nan'"),
        (("swing", "--set", "hig.learning_rate=abc"), "hig.learning_rate must be a finite number"),
        (
            ("swing", "--set", "adam.learning_rate=abc"),
            "adam.learning_rate must be a finite number",
        ),
        (("swing", "--set", "hig.batch_size=0"), "hig.batch_size must be a positive whole number"),
        (("swing", "--set", "hig.max_rank=1.5"), "hig: max_rank must be a Python int"),
        (("swing", "--set", "hig.solver=fast"), "solver must be one of"),
        (("swing", "--set", "problem.width=wide"), "swing.width must be a finite number"),
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


def refused(*words):
    with pytest.raises(SystemExit) as stop:
        command.main([*words])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "words", [("compare", "swing"), ("contest", "swing"), ("sweep", "swing", "sgd")]
)
def test_results_cannot_go_into_a_file(swing, tmp_path, capsys, words):
    file = tmp_path / "file"
    file.write_text("kept")
    words += ("--vary", "batch_size=4") if words[0] == "sweep" else ()
    for out in (file, file / "below"):
        refused(*words, "--cores", "0", "--out", str(out))
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.endswith(f"--out must be a folder, got {out}: {file} is a file.")
    assert file.read_text() == "kept"


def test_what_cannot_be_written_is_one_line(swing, capsys):
    refused("compare", "swing", "--steps", "1", "--cores", "0", "--out", "/proc/here")
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


PLACES = ("<!-- contest: swing -->", "<!-- end of contest: swing -->")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "page that is there, got {page}, which is missing"),
        ("folder", "page that is there, got {page}, which is a folder"),
        (b"\xff\xfe\x00", "which is no text"),
        (b"Nothing here.", "{page} must hold the lines"),
        ("\n".join(reversed(PLACES)).encode(), "in this order"),
    ],
    ids=["missing", "folder", "no text", "no place", "swapped"],
)
@pytest.mark.parametrize("name", ["contest", "sweep"])
def test_a_page_that_cannot_take_the_table_is_refused_before_any_run(
    swing, tmp_path, capsys, name, text, message
):
    page = tmp_path / "page.md"
    if text == "folder":
        page.mkdir()
    elif text is not None:
        page.write_bytes(
            text.replace(b"contest: swing", b"sweep: swing") if name == "sweep" else text
        )
    words = {
        "contest": ("contest", "swing", "--methods", "sgd", "--times", "0.1"),
        "sweep": (
            "sweep",
            "swing",
            "sgd",
            "--vary",
            "batch_size=4",
            "--steps",
            "2",
            "--name",
            "swing",
        ),
    }[name]
    refused(*words, "--cores", "0", "--out", str(tmp_path / "out"), "--into", str(page))
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message.format(page=page) in line
    assert not (tmp_path / "out").exists()


def test_a_value_that_cannot_be_swept_is_refused_before_any_run(swing, tmp_path, capsys):
    words = ("sweep", "swing", "sgd", "--vary", "learning_rate=0.1,fast", "--steps", "2")
    refused(*words, "--cores", "0", "--out", str(tmp_path / "out"))
    assert "sgd.learning_rate must be a finite number, got 'fast'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_sweep_says_what_it_varies(run, tmp_path):
    words = ("sweep", "swing", "sgd", "--vary", "batch_size=4,8", "--steps", "2", "--cores", "0")
    _, text = run(*words, "--singly", "--out", str(tmp_path))
    for line in ("swing, unchanged: sgd, seed 100: ", "swing, batch_size 8: sgd, seed 100: "):
        assert any(printed.startswith(line) for printed in text.splitlines())


def options_of(parser):
    """Every option of a parser and of its commands: (command, action)."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from ((f"{name} {o}", a) for o, a in options_of(below))
        else:
            yield "/".join(action.option_strings) or action.dest, action


def test_every_option_says_what_it_does_and_what_it_is_otherwise():
    for name, action in options_of(arguments.parser(command.COMMANDS)):
        assert action.help, name
        is_choice = action.nargs == 0 or action.required or not action.option_strings
        is_empty = action.default in (None, [])
        if not is_choice and not is_empty:
            assert "(default: " in action.help, name


def test_version_and_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"hig_optax {hig_optax.__version__}\n"
    for words in (["--help"], ["compare", "--help"]):
        with pytest.raises(SystemExit):
            command.main(words)
        assert "\nexamples:\n  python -m hig_optax.experiments " in capsys.readouterr().out


EXAMPLES = [
    line.split()[3:] for line in arguments.EXAMPLES.splitlines() if line.startswith("  python")
]


@pytest.mark.parametrize("words", EXAMPLES, ids=" ".join)
def test_every_example_is_understood(words):
    options = arguments.parser(command.COMMANDS).parse_args(words)
    assert options.command is command.COMMANDS[words[0]]
    if words[0] == "compare":
        problem, overrides = command._problem_and_overrides(options.problem, options)
        sweep.check(problem, options.methods, overrides)


def test_the_doctor_writes_its_page(run, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "BROKEN", doctor.BROKEN[:1])
    page = tmp_path / "doctor.md"
    assert run("doctor", "--to", str(page))[0] == 0
    assert page.read_text().startswith(doctor.HEAD)
    refused("doctor", "--to", str(tmp_path))
