import numpy as np
import pytest
from fakes import fake_views, history

from hig_optax.experiments import claims, criteria, study


def runs_of(problem, **last):
    """Three seeds of each method, which end at the losses given."""
    return {
        name.replace("_", "-"): [
            history(problem, name.replace("_", "-"), (1.0, 0.5, 0.4, loss * f), seed)
            for seed, f in enumerate((0.5, 1.0, 2.0))
        ]
        for name, loss in last.items()
    }


def test_the_lowest_median_decides():
    check = claims.lower_than("adam", "sip")
    won = check(runs_of("linear-oscillators", hig=1e-6, adam=1e-5, sip=1e-4))
    assert won.holds
    assert won.measured == "hig 1.0e-06, adam 1.0e-05, sip 1.0e-04"
    assert "hig took 30 steps, adam 30, sip 30" in won.why
    lost = check(runs_of("linear-oscillators", hig=1e-6, adam=1e-5, sip=1e-7))
    assert not lost.holds
    assert lost.why.endswith(
        "The steps of sip that fit into the time of one of hig lower the loss more."
    )


def test_most_runs_that_blow_up_make_the_median_infinite():
    runs = [history("toy", "adam", (1.0, loss)) for loss in (np.nan, np.inf, 1e-9)]
    assert claims.median_loss(runs) == np.inf
    assert claims.median_loss(runs[1:]) == np.inf
    assert claims.median_loss(runs[2:]) == 1e-9


def test_explosion_is_an_end_above_the_start():
    runs = runs_of("nonlinear-oscillators", hig=1e-6, gauss_newton=30.0)
    verdict = claims.explodes(runs)
    assert verdict.holds
    assert "3 of 3 seeds" in verdict.measured
    assert verdict.why == "With the same batch size, rate and cut hig ends at 1.0e-06."
    assert not claims.explodes(runs_of("nonlinear-oscillators", hig=1.0, gauss_newton=0.1)).holds


def toys(hig, adam, gauss_newton, std):
    runs = runs_of("toy", hig=hig, adam=adam, gauss_newton=gauss_newton)
    for run in runs["gauss-newton"]:
        run.views["neuron_std"][:] = std
    return runs


@pytest.mark.parametrize(
    ("last", "alone", "together"),
    [
        ((1e-3, 0.3, 0.5, 0.1), True, False),
        ((1e-3, 0.3, 0.5, 0.5), False, False),  # stalled, but alive
        ((1e-3, 1e-3, 1e-3, 0.5), False, True),
        ((0.3, 0.3, 0.5, 0.1), False, False),
    ],
)
def test_the_toys_claims_depend_on_losses_and_neurons(last, alone, together):
    assert claims.converges_alone(toys(*last)).holds is alone
    assert claims.all_converge(toys(*last)).holds is together


def test_explanations_name_what_failed():
    verdict = claims.all_converge(toys(1e-3, 0.3, 0.5, 0.1))
    assert verdict.why.startswith(
        "Above 0.01: adam, gauss-newton. Neurons saturated: gauss-newton."
    )
    # The fake fit is exact in the first component and zero in the second.
    assert (
        "100% of adam's squared error lies in the second"
        in claims.converges_alone(toys(1e-3, 0.3, 0.5, 0.1)).why
    )


@pytest.mark.parametrize("chosen", [study.full(), study.quick()], ids=["full", "quick"])
def test_a_study_has_what_every_claim_needs(chosen):
    for claim in claims.CLAIMS:
        experiment = chosen[claim.experiment]
        runs = {
            m: [history(experiment.problem, m, (1.0, 0.5, 0.4, 0.3))] for m in experiment.methods
        }
        assert claim.check(runs).measured


def test_the_criteria_are_met_or_not():
    good, bad = toys(1e-3, 0.3, 0.5, 0.1), toys(1e-2, 0.1, 0.5, 0.3)
    for run in bad["hig"]:
        run.views.update(fake_views("toy", neuron_std=0.1))
    balanced = toys(1e-5, 0.3, 0.5, 0.1)
    table = criteria.table({"toy": good, "toy-balanced": balanced})
    assert [row[-1] for row in table.rows] == ["yes"] * 5
    assert table.rows[0][1] == "1.0e-03 (5.0e-04, 1.0e-03, 2.0e-03)"
    assert table.note == "Median, and each of seeds 0, 1, 2; 30 steps of 128 points, float32."
    table = criteria.table({"toy": bad, "toy-balanced": bad})
    assert [row[-1] for row in table.rows] == ["**no**"] * 5
