from swing import Swing

from hig_optax.experiments import store, study
from hig_optax.experiments.budget import Budget
from hig_optax.experiments.plan import Plan


def test_the_full_study_fits_into_45_minutes(tmp_path):
    plans = {name: experiment.plan(tmp_path) for name, experiment in study.full().items()}
    assert 20 < study.predicted_seconds(plans.values()) / 60 < 45
    directories = [plan.directory for plan in plans.values()]
    assert len(set(directories)) == len(directories)
    toy = study.full()["toy"]
    assert (toy.seeds, toy.budget) == ((0, 1, 2, 3, 4), Budget(steps=5000))
    asked = plans[study.AS_IN_THE_PAPER].runs[0].trainer.settings
    assert asked["batch_size"] == 128
    assert not list(tmp_path.iterdir())


def test_only_missing_runs_are_predicted(tmp_path):
    plan = Plan.of(Swing(), ["sgd"], [0, 1], Budget(seconds=10.0), out=tmp_path)
    assert study.predicted_seconds([plan]) == 2 * (10 + study.OVERHEAD) + study.COMPILATION
    run = plan.runs[0]
    history = run.trainer.run(0, Budget(steps=2))
    run.path.parent.mkdir(parents=True)
    run.path.write_text("{")
    assert len(plan.missing()) == 2  # not whole
    store.write_json(run.path, history.to_json())
    assert plan.missing() == [plan.runs[1]]
    assert study.predicted_seconds([plan]) == 10 + study.OVERHEAD + study.COMPILATION
    assert study.predicted_seconds([plan], fresh=True) > 20
