import pytest

from hig_optax.experiments import __main__ as command
from hig_optax.experiments import page as pages


def test_a_grid_is_read_at_every_time_and_put_into_the_page(swing, tmp_path, capsys):
    page = tmp_path / "page.md"
    start, end = pages.marks("sweep: here")
    page.write_text(f"{start}\nold\n{end}\n")
    words = ["sweep", "swing", "sgd", "--vary", "batch_size=4,8", "--vary", "momentum=None,0.9"]
    words += ["--times", "0.1,0.2", "--cores", "0", "--out", str(tmp_path)]
    words += ["--set", "sgd.learning_rate=0.003", "--into", str(page), "--name", "here"]
    assert command.main(words) == 0
    text = page.read_text()
    assert "old" not in text
    assert "| batch_size | momentum | ms per step | 0.1 s | 0.2 s |" in text
    for row in ("| 4 | None |", "| 4 | 0.9 |", "| 8 | None |", "| 8 | 0.9 |"):
        assert row in text
    assert text.count("**") == 4  # one winner at each time
    assert "but for learning_rate 0.003; seed 100." in text
    assert len(list(tmp_path.rglob("runs/*.json"))) == 4
    capsys.readouterr()
    assert command.main(words) == 0  # read, not run
    assert page.read_text() == text


def test_settings_are_changed_one_at_a_time(swing, tmp_path, capsys):
    words = [
        "sweep",
        "swing",
        "sgd",
        "--vary",
        "batch_size=4",
        "--vary",
        "momentum=0.9",
        "--singly",
    ]
    words += ["--steps", "3", "--seeds", "0,1", "--cores", "0", "--out", str(tmp_path)]
    assert command.main(words) == 0
    text = capsys.readouterr().out
    assert "| changed | ms per step | end |" in text
    for row in ("| nothing |", "| batch_size 4 |", "| momentum 0.9 |"):
        assert row in text
    assert "median (range), seeds 0, 1" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["sgd", "--vary", "speed=1"], "sgd has no setting speed"),
        (["adam-cosine", "--vary", "batch_size=4", "--times", "1,2"], "must be one number"),
        (["sgd", "--vary", "batch_size=4", "--set", "adam.batch_size=4"], "given for adam"),
        (["sgd", "--vary", "batch_size"], "expected NAME=V1,V2"),
    ],
)
def test_what_cannot_be_swept_is_said(swing, tmp_path, capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        command.main(["sweep", "swing", *words, "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
