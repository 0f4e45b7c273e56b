"""Specs forbid extra fields, are frozen and have digests; errors point at the field by a JSON pointer."""

import pytest
from pydantic import ValidationError

from atft.spec.data import SplitSpec
from atft.spec.job import TrainSpec
from atft.spec.split_plan import plan_split
from atft.spec.study import HpoSpec, apply

BASE = TrainSpec(dataset="prices")


def pointers(error: ValidationError) -> list[str]:
    return ["/".join(["", *(str(p) for p in e["loc"])]) + e.get("ctx", {}).get("pointer", "") for e in error.errors()]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"optimiser": {}}, "/optimiser"),
        ({"optimizer": {"learning_rate": 1}}, "/optimizer/learning_rate"),
        ({"model": {"gat_layers": 0}}, "/model/gat_layers"),
        ({"model": {"hidden_size": 20}}, "/model/hidden_size"),
        ({"split": {"embargo_days": 20}}, "/split/embargo_days"),
        ({"data": {"window": 4}, "model": {"fan_top_k": 4}}, "/model/fan_top_k"),
        ({"loss": {"horizon_weights": [1]}}, "/loss/horizon_weights"),
        ({"loss": {"horizon_weights": [1, 0, 1, 1]}}, "/loss/horizon_weights"),
        ({"trainer": {"stop_rules": [{"metric": "val/rank_icc", "below": 0}]}}, "/trainer/stop_rules/0/metric"),
        ({"trainer": {"stop_rules": [{"metric": "test/rank_ic", "below": 0}]}}, "/trainer/stop_rules/0/metric"),
        ({"trainer": {"stop_rules": [{"metric": "val/rank_ic@7d", "below": 0}]}}, "/trainer/stop_rules/0/metric"),
        ({"loss": {"base": "pinball"}}, "/model/quantiles"),
        ({"trainer": {"objective": "val/rank_ic@3d"}}, "/trainer/objective"),
        ({"trainer": {"objective": "test/rank_ic"}}, "/trainer/objective"),
        ({"trainer": {"objective": "val/loss@5d"}}, "/trainer/objective"),
        ({"optimizer": {"name": "adabelief", "betas": [0, 0.9]}}, "/optimizer/betas"),
        ({"trainer": {"phases": [{"name": "a", "epochs": 9}]}}, "/trainer/max_epochs"),
        ({"trainer": {"phases": [{"name": "a", "epochs": 5}] * 2}}, "/trainer/phases"),
        ({"trainer": {"phases": [{"name": "a", "epochs": 10, "warmup": 1}]}}, "/trainer/phases/0/warmup"),
        ({"trainer": {"phases": [{"name": "a", "epochs": 10, "modules": []}]}}, "/trainer/phases/0/modules"),
        ({"trainer": {"phases": [{"name": "a", "epochs": 10, "modules": ["heads"]}]}}, "/trainer/phases"),
        (
            {"trainer": {"phases": [{"name": "a", "epochs": 10, "modules": ["fan"]}]}, "model": {"use_fan": False}},
            "/trainer/phases/0/modules",
        ),
        (
            {"trainer": {"phases": [{"name": "a", "epochs": 10, "loss": {"base": "pinball"}}]}},
            "/model/quantiles",
        ),
        (
            {"trainer": {"phases": [{"name": "a", "epochs": 10, "loss": {"horizon_weights": [1]}}]}},
            "/trainer/phases/0/loss/horizon_weights",
        ),
        (
            {
                "trainer": {"phases": [{"name": "a", "epochs": 2}, {"name": "b", "epochs": 8}]},
                "scheduler": {"warmup_epochs": 2},
            },
            "/trainer/phases/0/epochs",
        ),
        (
            {"trainer": {"phases": [{"name": "a", "epochs": 10, "loss": {}}], "objective": "val/loss"}},
            "/trainer/objective",
        ),
        ({"scheduler": {"name": "one_cycle", "warmup_epochs": 1}}, "/scheduler/warmup_epochs"),
        ({"resources": {"device": "cuda", "queue": "cpu"}}, "/resources/queue"),
        ({"optimizer": {"lr": float("nan")}}, "/optimizer/lr"),
    ],
)
def test_a_wrong_field_is_named_by_its_pointer(body: dict[str, object], pointer: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TrainSpec.model_validate({"dataset": "prices", **body})
    assert pointers(caught.value) == [pointer]


def test_pain_12_a_mistyped_setting_is_refused_not_ignored() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        TrainSpec.model_validate({"dataset": "prices", "scheduler": {"scheduler_type": "cosine"}})


def test_equal_specs_have_equal_digests_and_every_difference_shows() -> None:
    assert BASE.digest() == TrainSpec.model_validate_json(BASE.model_dump_json()).digest()
    assert BASE.digest() != apply(BASE, {"optimizer.lr": 1e-3}).digest()


def test_a_window_longer_than_the_panel_says_so() -> None:
    with pytest.raises(ValueError, match="too few for a window of 300 days"):
        plan_split(200, 300, 20, SplitSpec())


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"model.depth": {"kind": "int", "low": 1, "high": 2}}, "names no field"),
        ({"model.gat_layers": {"kind": "int", "low": 0, "high": 2}}, "not a valid value"),
        ({"loss.rank_tau": {"kind": "float", "low": 0.1, "high": 0.2}}, "has no effect"),
        ({"optimizer.lr": {"kind": "float", "low": 1e-3, "high": 1e-3}}, "single value"),
        ({"split.val_days": {"kind": "int", "low": 10, "high": 20}}, "cannot be searched"),
    ],
)
def test_pain_37_an_inert_or_impossible_space_is_refused(space: dict[str, object], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        HpoSpec.model_validate({"base": {"dataset": "prices"}, "space": space})


def test_a_trial_is_the_base_with_its_parameters_and_nothing_else() -> None:
    study = HpoSpec(base=BASE)
    trial = study.trial_spec({"model.gat_layers": 3, "optimizer.lr": 2e-4})
    assert trial.model.gat_layers == 3
    assert trial.optimizer.lr == 2e-4
    assert not trial.baselines
    assert trial.model_copy(update={"model": BASE.model, "optimizer": BASE.optimizer, "baselines": True}) == BASE
