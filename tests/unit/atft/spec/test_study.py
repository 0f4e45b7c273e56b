"""Validation of a study's spec, and its dimensions."""

import math
from typing import Any

import pytest
from pydantic import ValidationError

from atft.spec.space import CategoricalDimension, FloatDimension, IntDimension
from atft.spec.study import HpoSpec, with_params

BASE = {"dataset": "d"}
GRID = {
    "model.gat_dropout": {"kind": "float", "low": 0.1, "high": 0.35, "step": 0.1},
    "model.hidden_size": {"kind": "categorical", "choices": [16, 32]},
}
POINT = {"model.gat_dropout": 0.1 + 0.2, "model.hidden_size": 16}


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
        ({"space": GRID, "enqueue": [{"model.gat_dropout": 0.15}]}, "/enqueue/0/model.gat_dropout"),
        ({"space": GRID, "enqueue": [{"model.gat_dropout": 0.35}]}, "/enqueue/0/model.gat_dropout"),
        ({"space": GRID, "enqueue": [{}, POINT, {}, POINT | {"model.hidden_size": 16.0}]}, "/enqueue/3"),
        ({"space": {"model.gat_layers": {"kind": "int", "low": 2, "high": 2, "log": True}}}, "/space/model.gat_layers"),
        ({"space": {"model.dropout": {"kind": "float", "low": 0.1, "high": 0.2, "step": 1}}}, "/space/model.dropout"),
        ({"space": {"model.dropout": {"kind": "categorical", "choices": [0.1, "0.1", 0]}}}, "/space/model.dropout"),
        ({"space": {"trainer.batch_size": {"kind": "float", "low": 64, "high": 128}}}, "/space/trainer.batch_size"),
        (
            {"space": {"trainer.batch_size": {"kind": "float", "low": 64, "high": 128, "step": 0.5}}},
            "/space/trainer.batch_size",
        ),
        ({"space": {"graph.threshold": {"kind": "float", "low": 0.1, "high": 1.0}}}, "/space/graph.threshold"),
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
    assert study(space=space, sampler={"name": "grid"}, n_trials=100, enqueue=[{}]).num_trials == 8
    assert study(space=space, n_trials=100).num_trials == 100


@pytest.mark.parametrize(
    ("dimension", "pointer"),
    [
        ({"kind": "float", "low": 1e-3, "high": math.nextafter(1e-3, 1), "log": True}, "high"),
        ({"kind": "float", "low": 1e-3, "high": 1e-3 + 1e-15}, "high"),
        ({"kind": "float", "low": -1e308, "high": 1e308}, "high"),
        ({"kind": "float", "low": 1e5, "high": 1e5 + 1e-7, "log": True}, "high"),
        ({"kind": "float", "low": 0.0, "high": 1.0, "log": True}, "low"),
        ({"kind": "float", "low": 1e16, "high": 1e16 + 10, "step": 0.1}, "high"),
        ({"kind": "float", "low": 1e9, "high": 1e9 + 10, "step": 0.1}, "step"),
        ({"kind": "float", "low": 0.0, "high": 1.0, "step": 1e-30}, "step"),
        ({"kind": "float", "low": 0.0, "high": 1e308, "step": 0.5}, "step"),
        ({"kind": "float", "low": 0.0, "high": 0.5, "step": 5e-324}, "step"),
        ({"kind": "int", "low": 2**53, "high": 2**53 + 1}, "low"),
        ({"kind": "int", "low": 0, "high": 10**400}, "high"),
        ({"kind": "int", "low": 10**11, "high": 10**11 + 3, "log": True}, "high"),
        ({"kind": "int", "low": 0, "high": 3, "log": True}, "low"),
        ({"kind": "categorical", "choices": [0, 0.0, 0.1]}, "choices"),
        ({"kind": "categorical", "choices": [True, 1]}, "choices"),
        ({"kind": "categorical", "choices": [-0.0, 0]}, "choices"),
    ],
)
def test_a_range_that_no_sampler_can_search_is_refused(dimension: dict[str, Any], pointer: str) -> None:
    with pytest.raises(ValidationError) as refused:
        study(space={"optimizer.lr": dimension})
    [error] = refused.value.errors()
    assert (error["loc"][:2], error["ctx"]["pointer"]) == (("space", "optimizer.lr"), f"/{pointer}")


def test_equal_numbers_are_one_value_of_a_dimension() -> None:
    choices = CategoricalDimension(choices=(0.0, 1, "a", None))
    assert [repr(choices.canonical(value)) for value in (0, 1.0, "a", None)] == ["0.0", "1", "'a'", "None"]
    with pytest.raises(ValueError, match="none of the choices"):
        choices.canonical(value=True)
    assert FloatDimension(low=0, high=1).canonical(1) == 1.0
    assert FloatDimension(low=0.1, high=0.35, step=0.1).canonical(0.1 + 0.2) == 0.3
    assert IntDimension(low=1, high=6, step=2).canonical(5) == 5
