"""Seed ensembles: each member equals the single run of its seed, and the scores are mean ranks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import rankdata, spearmanr

from atft.checksums import sha256_of
from atft.data.cache.reader import Cache
from atft.events import Checkpointed, Failed, Finished, Metrics, Stopped
from atft.metrics.rank import uniform_ranks
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.prediction import predict
from atft.train.report import Reporter, RunError
from atft.train.setup import TrainingSetup, make_setup
from tests.unit.atft.train.conftest import Result
from tests.unit.atft.train.evidence_check import evidence_differences
from tests.unit.atft.train.test_resume import last_weights

Make = Callable[..., TrainSpec]
SEEDS = (7, 3)
SHORT = {"trainer.max_epochs": 2, "trainer.max_steps_per_epoch": 3, "model.dropout": 0.2}


@pytest.fixture
def spec(make_spec: Make) -> EnsembleSpec:
    return EnsembleSpec(base=make_spec(baselines=True, **SHORT), seeds=SEEDS)


@pytest.fixture(scope="module")
def kept() -> dict[str, Any]:
    return {}


@pytest.fixture
def whole(kept: dict[str, Any], run: Any, spec: EnsembleSpec) -> Any:
    """The uninterrupted run, computed once."""
    if not kept:
        kept["whole"] = run(spec, "whole")
    return kept["whole"]


def scores_of(out: Path) -> Any:
    table = pq.read_table(out / "predictions.parquet").to_pandas()
    return table.set_index(["split", "date", "code"]).sort_index()


def test_a_member_is_its_seeds_run_and_the_score_is_the_mean_of_ranks(
    whole: Any, run: Any, make_spec: Make, cache: Cache
) -> None:
    assert isinstance(whole.last, Finished), whole.last
    alone = [run(make_spec(seed=seed, **SHORT), f"alone {seed}") for seed in SEEDS]
    for number, one in enumerate(alone, 1):
        assert (whole.out / f"best.{number}.safetensors").read_bytes() == (one.out / "best.safetensors").read_bytes()
        for (source, name, step), value in one.rows.items():
            if source is None and not name.startswith("step/") and "oracle" not in name:
                assert whole.rows[(None, name.replace("/", f".{number}/", 1), step)] == value, name

    found, members = scores_of(whole.out), [scores_of(one.out) for one in alone]
    assert len(found) == len(members[0])
    for column in ("score_1d", "score_5d"):
        for key, day in found.groupby(["split", "date"]):
            each = [(rankdata(one.loc[key, column]) - 0.5) / len(day) for one in members]
            np.testing.assert_allclose(day[column], np.mean(each, axis=0), atol=1e-12)

    targets = np.asarray(cache.targets)[:, cache.horizons.index(5)]
    where = zip(cache.day_index, cache.code_index, strict=True)
    rows = {(cache.days[d], cache.codes[c]): number for number, (d, c) in enumerate(where)}
    daily = {
        (one.split, day): value
        for event in whole.of(Metrics)
        if event.source is None
        for one in event.daily
        if (one.name, one.horizon) == ("rank_ic", 5)
        for day, value in zip(one.days, one.values, strict=True)
    }
    assert {split for split, _ in daily} == {"val", "test"}
    for (split, date), day in found.groupby(["split", "date"]):
        truth = np.array([targets[rows[(np.datetime64(date), code)]] for code in day.index.get_level_values("code")])
        known = np.isfinite(truth)
        expected = spearmanr(day["score_5d"][known], truth[known]).statistic
        assert daily[(split, str(date))] == pytest.approx(expected, abs=1e-12)


def test_a_prediction_has_the_bits_of_the_ensembles_own_scores(
    whole: Any, spec: EnsembleSpec, cache: Cache, tmp_path: Path
) -> None:
    own = scores_of(whole.out).reset_index("split")
    days = sorted(set(own.index.get_level_values("date")))
    body = {"model": "m", "dataset": "tiny", "from_day": days[0], "to_day": days[-1], "resources": {"device": "cpu"}}
    digests = ", ".join(sha256_of(whole.out / f"best.{number}.safetensors") for number in (1, 2))
    events: list[Any] = []
    last = predict(
        PredictSpec.model_validate(body), whole.out, cache, tmp_path, events.append, lambda: False,
        weights_sha256=digests,
    )  # fmt: skip
    assert isinstance(last, Finished), last
    found = pq.read_table(tmp_path / "predictions.parquet").to_pandas().set_index(["date", "code"])
    for column in ("score_1d", "score_5d"):
        assert found.loc[own.index, column].tolist() == own[column].tolist()
    model = Result(tmp_path, last, events).evidence["model"]
    assert (model["weights"], model["sha256"]) == ("best.1.safetensors, best.2.safetensors", digests)
    assert model["spec_digest"] == spec.digest()


def test_a_training_begins_with_a_member(whole: Any, make_spec: Make, cache: Cache) -> None:
    job_id = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"

    def begin(source: str) -> TrainingSetup:
        return make_setup(make_spec(init_from=source), cache, Reporter(lambda _: None, epochs=1), whole.out)

    setup = begin(f"{job_id}#2")
    given = checkpoint.load_weights(whole.out / "best.2.safetensors")
    assert all(torch.equal(tensor, given[name]) for name, tensor in setup.network.state_dict().items())
    assert setup.initial_weights is not None
    evidence = setup.initial_weights.evidence()
    assert (evidence["job_id"], evidence["task"]) == (job_id, "train")
    assert evidence["files"] == {"best.2.safetensors": sha256_of(whole.out / "best.2.safetensors")}
    assert setup.initial_weights.lineage == [{"job_id": job_id, "requested": whole.evidence["requested"]}]
    for source in (job_id, f"{job_id}#3"):
        with pytest.raises(RunError, match=f"each of its 2 members has weights: name one, {job_id}#1 to #2"):
            begin(source)


def test_an_ensemble_reports_its_members_in_its_result_and_evidence(whole: Any, spec: EnsembleSpec) -> None:
    best, tested = whole.last.result["best"], whole.last.result["test"]
    latest = {name: value for (source, name, _), value in whole.rows.items() if source is None}
    assert best["value"] == best["metrics"]["val/rank_ic"] == latest["val/rank_ic"]
    assert [member["epoch"] for member in best["members"]] == [m["best_epoch"] for m in whole.evidence["members"]]
    assert tested["test/rank_ic@5d"] == latest["test/rank_ic@5d"]
    assert "val/loss" not in latest  # a mean of ranks has none
    (event,) = [event for event in whole.of(Metrics) if event.best]
    assert (event.step, event.values["val/rank_ic"]) == (best["epoch"], best["value"])
    assert {source for source, _, _ in whole.rows} >= {None, "ridge", "lightgbm", "oracle_observed"}
    assert [(event.fold, event.epoch) for event in whole.of(Checkpointed)] == [(1, 0), (1, 1), (1, 2), (2, 1), (2, 2)]
    assert {"best.1.safetensors", "best.2.safetensors"} <= {artifact.name for artifact in whole.last.artifacts}

    evidence = json.loads(json.dumps(whole.evidence))
    assert [member["seed"] for member in evidence["members"]] == [7, 3]
    wrong = json.loads(json.dumps(evidence))
    wrong["members"][1]["seed"] = 7
    wrong["members"][0]["lr_by_epoch"][1] = 1e-9
    found = [message.partition(":")[0] for message in evidence_differences(spec, wrong)]
    assert found == ["members.0.lr_by_epoch, epoch 2", "members.1.seed"]
    assert evidence_differences(spec, {**evidence, "members": evidence["members"][:1]})[0].startswith("members: ")
    assert "base" in evidence_differences(spec, {**evidence, "requested": evidence["requested"]["base"]})[0]


def test_an_ensemble_resumed_in_its_second_member_is_bit_for_bit_the_same(
    whole: Any, run: Any, spec: EnsembleSpec, tmp_path: Path
) -> None:
    trained, stop_checks = tmp_path / "part" / "checkpoints" / "000003", 0  # the first member's last

    def stop() -> bool:
        nonlocal stop_checks
        stop_checks += trained.exists()
        return stop_checks > 2

    part = run(spec, "part", stop=stop)
    assert isinstance(part.last, Stopped)
    resume = part.out / str(part.last.checkpoint)
    loop = json.loads((resume / "manifest.json").read_text())["loop"]
    assert [fold["seed"] for fold in loop["folds"]] == [7, 3]
    assert (loop["folds"][1]["epoch"], loop["folds"][1]["position"]) == (0, 2)
    rest = run(spec, "rest", resume=resume)
    assert part.rows | rest.rows == whole.rows
    for name in ("best.1.safetensors", "best.2.safetensors", "daily.parquet", "predictions.parquet", "config.json"):
        assert (rest.out / name).read_bytes() == (whole.out / name).read_bytes(), name
    assert last_weights(part, rest) == last_weights(whole)
    assert rest.last.result == whole.last.result
    assert rest.evidence["members"] == whole.evidence["members"]
    swapped = run(spec.model_copy(update={"seeds": (7, 4)}), "swapped", resume=resume)
    assert "belongs to another run" in swapped.last.message


def test_every_member_begins_with_the_weights_that_init_from_names(run: Any, make_spec: Make) -> None:
    source = run(make_spec(**SHORT), "source")
    begun = {**SHORT, "init_from": "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"}
    both = run(EnsembleSpec(base=make_spec(**begun), seeds=SEEDS), "both", source=source.out)
    second = run(make_spec(seed=3, **begun), "second", source=source.out)
    assert isinstance(both.last, Finished), both.last
    assert (both.out / "best.2.safetensors").read_bytes() == (second.out / "best.safetensors").read_bytes()
    assert both.evidence["init_from"] == second.evidence["init_from"]


def test_a_member_that_fails_makes_the_ensemble_fail(run: Any, make_spec: Make) -> None:
    """With its name, and before any number is event."""
    spec = EnsembleSpec(base=make_spec(**SHORT, **{"data.min_names": 24, "split.val_days": 2}), seeds=SEEDS)
    result = run(spec)
    assert isinstance(result.last, Failed)
    assert result.last.reason in (Reason.OBJECTIVE_MISSING, Reason.INVALID_PARAMS)
    assert "of member 1 (seed 7)" in result.last.message
    assert not [name for _, name, _ in result.rows if name.startswith(("val/", "test"))]
    assert not (result.out / "predictions.parquet").exists()


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"seeds": [1, 1]}, "/seeds"),
        ({"base": {"dataset": "d", "seed": 4}}, "/base/seed"),
        ({"base": {"dataset": "d", "split": {"folds": 2}}}, "/base/split/folds"),
    ],
)
def test_an_invalid_ensemble_is_refused_at_its_field(changes: Any, pointer: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        EnsembleSpec.model_validate({"base": {"dataset": "d"}, "seeds": [0, 1], **changes})
    assert refusal.value.errors()[0]["ctx"]["pointer"] == pointer


def test_ranks_are_even_within_each_day_and_ties_share() -> None:
    day = np.array([0, 1, 0, 1, 0, 2])
    values = np.array([[3.0, 1.0], [5.0, 2.0], [1.0, 1.0], [4.0, 2.0], [2.0, 0.0], [9.0, 9.0]])
    expected = np.array([[5 / 6, 4 / 6], [0.75, 0.5], [1 / 6, 4 / 6], [0.25, 0.5], [0.5, 1 / 6], [0.5, 0.5]])
    np.testing.assert_allclose(uniform_ranks(values, day), expected)
