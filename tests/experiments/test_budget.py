import pytest

from hig_optax.experiments.budget import Budget, Pacer


@pytest.mark.parametrize("given", [{}, {"seconds": 1.0, "steps": 1}, {"steps": 0}])
def test_a_budget_is_one_positive_number(given):
    with pytest.raises(ValueError, match="positive number of seconds or of steps"):
        Budget(**given)


def test_segments_double_up_to_a_share_of_the_budget():
    pacer, counts = Pacer(Budget(steps=400)), []
    while count := pacer.next_count():
        counts.append(count)
        pacer.add(count, 1.0)
    assert counts[:6] == [1, 1, 2, 4, 8, 8]
    assert sum(counts) == 400
    assert pacer.progress == 1.0


def test_a_time_budget_is_filled_and_hardly_passed():
    pacer, counts = Pacer(Budget(seconds=2.0)), []
    while count := pacer.next_count():
        counts.append(count)
        pacer.add(count, 0.01 * count)
    assert counts[:8] == [1, 1, 2, 4, 8, 16, 30, 30]
    assert pacer.seconds == pytest.approx(2.0)


def test_steps_longer_than_a_segment_are_taken_one_by_one():
    pacer = Pacer(Budget(seconds=10.0))
    while count := pacer.next_count():
        assert count == 1
        pacer.add(count, 3.0)
    assert pacer.steps == 3
