import re
import sys
from pathlib import Path

import pytest

from hig_optax.experiments import __main__ as command
from hig_optax.experiments import programs, watchdog


def watch(code, **options):
    return watchdog.watch("fake", [sys.executable, "-c", code], **options)


def test_a_run_that_sleeps_is_said_to_hang():
    found, told = watch("import time; time.sleep(60)", repeat=2, limit=0.3)
    assert (found.finished, found.hung, found.failed) == (0, 2, 0)
    assert told == ""
    (row,) = watchdog.table([found], 0.3).rows
    assert row == ("fake", "0 of 2", "none", "2")


def test_a_run_that_ends_and_one_that_fails():
    found, _ = watch("pass", repeat=2, limit=60.0)
    assert (found.finished, found.hung, found.failed) == (2, 0, 0)
    assert 0 < found.longest < 60
    found, told = watch("raise OSError('no more')", repeat=1, limit=60.0)
    assert found.failed == 1
    assert "no more" in told


def test_the_page_is_that_of_the_command():
    page = (Path(__file__).parents[2] / "notebooks" / "WATCHDOG.md").read_text()
    options = re.search(r"experiments watchdog( .*)\n", page)[1]
    assert page.startswith(watchdog.HEAD.format(options=options))
    assert re.findall(r"^\| ([^|]+) \| (\d) of \2 \|", page, flags=re.MULTILINE) == [
        (name, "2") for name in programs.PROGRAMS
    ]


def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(watchdog, "PROGRAMS", {"two threads": None})
    commands = []

    def fake(name, command, *, repeat, limit):
        commands.append(command)
        return watchdog.Watched(name, repeat, 0, 0, 1.25), ""

    monkeypatch.setattr(watchdog, "watch", fake)
    page = tmp_path / "page.md"
    assert command.main(["watchdog", "--repeat", "2", "--to", str(page)]) == 0
    assert page.read_text().startswith(watchdog.HEAD.format(options=" --repeat 2 --limit 60"))
    assert "| two threads | 2 of 2 | 1.2 | 0 |" in page.read_text()
    assert commands[0][1:] == ["-m", "hig_optax.experiments.programs", "two threads"]
    monkeypatch.setattr(
        watchdog, "watch", lambda name, *_, **__: (watchdog.Watched(name, 0, 0, 1, 0.0), "broken")
    )
    with pytest.raises(RuntimeError, match="two threads failed:\nbroken"):
        list(watchdog.page(repeat=1, limit=1.0, report=lambda _: None))


def test_programs_compute_what_they_say(monkeypatch, capsys):
    for name, value in {"ROWS": 4, "PARAMETERS": 6, "MEMBERS": 2, "STEPS": 1}.items():
        monkeypatch.setattr(programs, name, value)
    assert programs.ensemble(programs.hig("gram")).shape == (2, 6)
    assert len(programs.threads()) == 2
    programs.main("ensemble, krylov, Fourier transforms")
    assert float(capsys.readouterr().out) > 0
