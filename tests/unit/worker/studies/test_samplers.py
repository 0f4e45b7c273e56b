"""Suggested parameters: they depend only on the seed of the study and the number of the trial."""

from typing import Any
from uuid import uuid4

import optuna
import pytest
from optuna.trial import Trial
from pydantic import ValidationError

from atft.spec.space import CategoricalDimension, FloatDimension, IntDimension, Scalar, merge_choices
from atft.spec.study import HpoSpec
from worker.studies.samplers import non_adaptive_point, open_study, pruner, suggest_parameters, value_at

SPACE = {
    "optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True},
    "model.hidden_size": {"kind": "categorical", "choices": [16, 32, 64]},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 4},
    "model.gat_dropout": {"kind": "float", "low": 0.1, "high": 0.4},
}
LEVELS = {
    "model.gat_dropout": {"kind": "float", "low": 0.1, "high": 0.35, "step": 0.1},
    "model.gat_layers": {"kind": "int", "low": 1, "high": 4, "step": 2},
    "model.hidden_size": {"kind": "categorical", "choices": [16, 32]},
}


def study_spec(name: str = "random", seed: int = 0, space: Any = SPACE, **more: Any) -> HpoSpec:
    return HpoSpec.model_validate(
        {"base": {"dataset": "d"}, "space": space, "sampler": {"name": name, "seed": seed}, **more}
    )


def ask(spec: HpoSpec, count: int, *, tell: bool = True) -> list[dict[str, Scalar]]:
    """Suggest points as an advance does: the study is rebuilt for every trial."""
    storage = optuna.storages.InMemoryStorage()
    job_id, points = uuid4(), []
    for number in range(count):
        study = open_study(storage, job_id, spec)
        trial = study.ask()
        points.append(suggest_parameters(study, trial, spec))
        if tell:
            study.tell(trial.number, 0.01 * number)
    return points


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_pain_37_designs_depend_on_the_number_only(name: str) -> None:
    spec = study_spec(name)
    points = ask(spec, 20)
    assert ask(spec, 20, tell=False) == points == [non_adaptive_point(spec, number) for number in range(20)]
    assert len({str(point) for point in points}) == 20
    assert non_adaptive_point(study_spec(name, seed=1), 3) != points[3]


def test_a_crash_during_ask_changes_no_parameter() -> None:
    spec = study_spec()
    storage = optuna.storages.InMemoryStorage()
    study = open_study(storage, uuid4(), spec)
    half = study.ask()
    study.sampler = open_study(storage, uuid4(), spec).sampler
    half.suggest_categorical("model.hidden_size", [16, 32, 64])
    found = suggest_parameters(study, Trial(study, half._trial_id), spec)
    assert found == non_adaptive_point(spec, 0)


def test_pain_37_tpe_does_not_propose_one_point_again_and_again() -> None:
    spec = study_spec("tpe", n_trials=8)
    points = ask(spec, 8)
    assert len({str(point) for point in points}) == 8
    assert ask(spec, 8) == points
    assert ask(study_spec("tpe", seed=1, n_trials=8), 8) != points


def test_values_lie_in_their_dimension_on_its_steps() -> None:
    wide = {"optimizer.lr": {"kind": "float", "low": 1e-5, "high": 1e-3, "log": True}, **LEVELS}
    spec = study_spec(space=wide)
    for number in range(200):
        for key, value in non_adaptive_point(spec, number).items():
            assert spec.space[key].canonical(value) == value, key
    assert {non_adaptive_point(spec, n)["model.gat_dropout"] for n in range(200)} == {0.1, 0.2, 0.3}
    assert {non_adaptive_point(spec, n)["model.gat_layers"] for n in range(200)} == {1, 3}


def test_levels_are_exact_numbers() -> None:
    d = FloatDimension(low=0.1, high=0.7, step=0.1)
    assert [d.level(i) for i in range(d.num_levels or 0)] == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]
    assert FloatDimension(low=0, high=1).num_levels is None
    assert IntDimension(low=2, high=9, step=3).num_levels == 3


def test_ends_of_a_scale_are_reached_and_never_passed() -> None:
    top = 1 - 1e-16
    log = IntDimension(low=1, high=1000, log=True)
    assert (value_at(log, 0.0), value_at(log, top)) == (1, 1000)
    assert value_at(FloatDimension(low=1e-5, high=1e-3, log=True), top) <= 1e-3
    assert value_at(CategoricalDimension(choices=("a", "b")), top) == "b"


def test_a_grid_is_exact_and_shuffled_by_the_seed() -> None:
    spec = study_spec("grid", space=LEVELS, n_trials=100)
    assert (spec.grid_size, spec.num_trials) == (12, 12)
    points = ask(spec, 12)
    assert len({str(point) for point in points}) == 12
    assert points != ask(study_spec("grid", seed=1, space=LEVELS, n_trials=100), 12)
    assert study_spec("grid", space=LEVELS, n_trials=5).num_trials == 5


@pytest.mark.parametrize("name", ["grid", "random", "qmc", "tpe"])
def test_an_enqueued_point_is_asked_once(name: str) -> None:
    """Eight of the twelve points are enqueued, 16 as 16.0, and one is left to the sampler."""
    grid = study_spec("grid", space=LEVELS, n_trials=12)
    whole = [non_adaptive_point(grid, n) for n in range(8)]
    shown: list[dict[str, Scalar]] = [
        {**point, "model.hidden_size": float(point["model.hidden_size"])} for point in whole
    ]  # type: ignore[arg-type]
    spec = study_spec(name, space=LEVELS, n_trials=12, enqueue=[{}, *shown])
    storage, job_id, points = optuna.storages.InMemoryStorage(), uuid4(), []
    for number in range(12):
        study = open_study(storage, job_id, spec)
        if number < 9:
            study.enqueue_trial(dict(spec.enqueue[number]))
        trial = study.ask()
        points.append(suggest_parameters(study, trial, spec))
        study.tell(trial.number, 0.01 * number)
    assert points[1:9] == whole
    assert [point for point in points[9:] if point in whole] == []
    assert name != "grid" or len({str(point) for point in points}) == spec.num_trials == 12


@pytest.mark.filterwarnings("ignore:Fixed parameter")
@pytest.mark.parametrize("name", ["grid", "random", "qmc", "tpe"])
def test_a_study_that_an_earlier_version_accepted_goes_on(name: str) -> None:
    """A point enqueued twice, one beside the steps of a float, and choices that no sampler tells apart."""
    point: dict[str, Scalar] = {"model.gat_dropout": 0.15, "model.gat_layers": 1, "model.hidden_size": 16}
    space = {**LEVELS, "model.hidden_size": {"kind": "categorical", "choices": [16, 16.0, 32]}}
    body = study_spec(name, space=LEVELS, n_trials=6).model_dump(mode="json")
    body |= {"space": space, "enqueue": [point, point]}
    with pytest.raises(ValidationError):
        HpoSpec.model_validate(body)
    spec = HpoSpec.from_stored(body)
    storage, job_id = optuna.storages.InMemoryStorage(), uuid4()
    for number in range(spec.num_trials):
        study = open_study(storage, job_id, spec)
        if number < 2:
            study.enqueue_trial(dict(spec.enqueue[number]))
        trial = study.ask()
        assert suggest_parameters(study, trial, spec) == point or number > 1
        study.tell(trial.number, 0.01 * number)


def test_optuna_stores_the_suggested_point_unchanged() -> None:
    for name, space in (("random", SPACE), ("tpe", LEVELS), ("grid", LEVELS), ("qmc", SPACE)):
        spec = study_spec(name, space=space, n_trials=4)
        study = open_study(optuna.storages.InMemoryStorage(), uuid4(), spec)
        for _ in range(4):
            trial = study.ask()
            assert suggest_parameters(study, trial, spec) == trial.params


@pytest.mark.parametrize("name", ["none", "median", "hyperband", "successive_halving", "patient"])
@pytest.mark.parametrize("warmup", [0, 2, 50])
def test_no_pruner_prunes_during_the_warm_up(name: str, warmup: int) -> None:
    spec = study_spec(
        pruner={"name": name, "startup_trials": 1, "warmup_epochs": warmup},
        base={"dataset": "d", "trainer": {"max_epochs": 9}},
    )
    study = optuna.create_study(direction="maximize", pruner=pruner(spec), study_name="s")
    for value in (1.0, 0.9, 0.8, 0.0):
        trial = study.ask()
        pruned = None
        for epoch in range(1, 10):
            trial.report(value, epoch)
            if pruned is None and trial.should_prune():
                pruned = epoch
        study.tell(trial, value)
        assert pruned is None or pruned > min(warmup, 8)
    assert name in ("none", "patient") or warmup == 50 or pruned is not None


def test_pain_37_equal_choices_are_merged() -> None:
    days = {2048: 4, 2100: 4, 4096: 8}
    merged, warnings = merge_choices(CategoricalDimension(choices=(2048, 2100, 4096)), days)
    assert merged.choices == (2048, 4096)
    assert warnings == ["2100 resolves to the same run as 2048: merged"]
