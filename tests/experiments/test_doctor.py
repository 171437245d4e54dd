"""docs/doctor.md is what the doctor's table and the broken runs make."""

from pathlib import Path

import pytest

from hig_optax.experiments import broken, doctor

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def test_the_page_has_the_table():
    table = PAGE.split("## Symptoms")[1].split("## Eleven broken runs")[0]
    assert table.strip() == f"The most serious first.\n\n{doctor.symptoms()}".strip()
    assert PAGE.startswith(doctor.HEAD)


def told(name):
    """The lines of the page on one run: what is wrong, and symptoms by the three looks."""
    section = PAGE.split(f"### {name}\n\n")[1].split("\n### ")[0]
    what, looks = section.split("\n\n", 1)
    return what, [look.split("*: ") for look in looks.split("\n* **")]


@pytest.mark.parametrize("case", broken.BROKEN, ids=lambda case: case.name)
def test_what_is_said_of_each_broken_run(case):
    what, looks = told(case.name)
    assert what == case.what
    last, course, close = doctor.diagnoses(case.run())
    assert course.symptoms[0] == case.symptom
    assert close.symptoms[0] == case.closer
    pairs = list(zip((last, course, close), looks, strict=True))
    if case.run is broken.float32_floor:
        pairs = pairs[1:]  # whether the very last step is tried at all is chance there
    for diagnosis, shown in pairs:
        # The numbers differ from machine to machine in their last digits, the words do not.
        assert list(diagnosis.symptoms) == [words.rsplit("*", 1)[1] for words in shown[:-1]]


def test_there_are_eleven():
    assert len(broken.BROKEN) == 11
