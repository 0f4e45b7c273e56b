"""Validation of a study's spec, and its dimensions."""

from typing import Any

import pytest
from pydantic import ValidationError

from atft.spec.study import CategoricalDimension, FloatDimension, HpoSpec, IntDimension, with_params

BASE = {"dataset": "d"}


def study(**fields: Any) -> HpoSpec:
    return HpoSpec.model_validate({"base": BASE, **fields})


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"objective": {"metric": "val/loss"}}, "/objective/direction"),
        ({"objective": {"metric": "val/rank_ic", "direction": "minimize"}}, "/objective/direction"),
        ({"objective": {"metric": "val/turnover"}}, "/objective/metric"),
        ({"objective": {"metric": "val/rank_ic@3d"}}, "/objective/metric"),
        ({"enqueue": [{"model.gat_layers": 5}]}, "/enqueue/0/model.gat_layers"),
        ({"enqueue": [{}, {"model.gat_layers": 2.0}]}, "/enqueue/1/model.gat_layers"),
        ({"enqueue": [{"trainer.batch_size": 100}]}, "/enqueue/0/trainer.batch_size"),
        ({"enqueue": [{"model.dropout": 0.1}]}, "/enqueue/0"),
        ({"enqueue": [{}, {}], "n_trials": 1}, "/enqueue"),
        ({"space": {"seed": {"kind": "int", "low": 0, "high": 9}}}, "/space/seed"),
        ({"space": {"data.min_names": {"kind": "int", "low": 5, "high": 9}}}, "/space/data.min_names"),
        (
            {"space": {"trainer.objective": {"kind": "categorical", "choices": ["val/ic", "val/rank_ic"]}}},
            "/space/trainer.objective",
        ),
        (
            {"space": {"trainer.checkpoint_every_seconds": {"kind": "int", "low": 5, "high": 9}}},
            "/space/trainer.checkpoint_every_seconds",
        ),
        (
            {
                "objective": {"metric": "val/loss", "direction": "minimize"},
                "space": {"loss.base_weight": {"kind": "float", "low": 0.1, "high": 1.0}},
            },
            "/space/loss.base_weight",
        ),
        (
            {
                "base": BASE | {"trainer": {"phases": [{"name": "a", "epochs": 10, "lr": 0.001}]}},
                "space": {"optimizer.lr": {"kind": "float", "low": 0.1, "high": 1.0}},
            },
            "/space/optimizer.lr",
        ),
    ],
)
def test_pain_37_values_that_no_trial_could_have_are_refused(fields: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ValidationError) as refused:
        study(**fields)
    assert [error["ctx"]["pointer"] for error in refused.value.errors()] == [pointer]


def test_a_trial_is_the_base_with_its_parameters_and_the_study_s_rules() -> None:
    rule = {"metric": "val/rank_ic", "at_epoch": 2, "below": 0.0}
    spec = study(objective={"metric": "val/ic"}, stop_rules=[rule])
    trial = spec.trial_spec({"model.gat_layers": 3})
    assert (trial.model.gat_layers, trial.trainer.objective, trial.baselines) == (3, "val/ic", False)
    assert len(trial.trainer.stop_rules) == 1
    assert spec.base.trainer.stop_rules == ()
    assert spec.trial_body({"model.gat_layers": 99})["model"]["gat_layers"] == 99
    assert with_params(spec.base, {"name": "x"})["name"] == "x"


def test_extremes_lie_on_the_steps() -> None:
    assert FloatDimension(low=0.1, high=0.75, step=0.2).extremes() == (0.1, 0.7)
    assert IntDimension(low=1, high=6, step=2).extremes() == (1, 5)
    assert CategoricalDimension(choices=(64, 16, 32)).extremes() == (16, 64)
    assert CategoricalDimension(choices=("adamw", "adabelief")).extremes() == ("adamw", "adabelief")
    ends = study().extreme("low"), study().extreme("high")
    assert [end["model.gat_layers"] for end in ends] == [2, 4]
    assert [end["trainer.batch_size"] for end in ends] == [2048, 8192]


def test_a_grid_counts_its_points() -> None:
    space = {
        "model.gat_layers": {"kind": "int", "low": 1, "high": 4, "step": 2},
        "model.gat_dropout": {"kind": "float", "low": 0.0, "high": 0.3, "step": 0.1},
    }
    assert study(space=space, sampler={"name": "grid"}, n_trials=100).num_trials == 8
    assert study(space=space, sampler={"name": "grid"}, n_trials=3).num_trials == 3
    assert study(space=space, sampler={"name": "grid"}, n_trials=100, enqueue=[{}]).num_trials == 9
    assert study(space=space, n_trials=100).num_trials == 100


@pytest.mark.parametrize(("high", "step"), [(1.0, 1e-30), (1e308, 0.5), (0.5, 5e-324)])
def test_a_range_of_too_many_steps_is_refused(high: float, step: float) -> None:
    with pytest.raises(ValidationError) as refused:
        FloatDimension(low=0.0, high=high, step=step)
    assert [error["ctx"]["pointer"] for error in refused.value.errors()] == ["/step"]
