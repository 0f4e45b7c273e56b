"""Scores from a finished run's best weights equal those of its evaluation bit for bit; none where there is
none.
"""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.events import Event, Evidence, Failed, Finished, Progress, Stopped
from atft.spec.data import DatasetSpec
from atft.spec.job import TrainSpec
from atft.spec.prediction import PredictSpec
from atft.spec.reason import Reason
from atft.train.loop import train
from atft.train.prediction import predict
from tests.unit.atft.train.conftest import DATASET, Result

Table = dict[tuple[date, str], tuple[float | None, ...]]


@pytest.fixture(scope="module")
def model(cache: Cache, tmp_path_factory: pytest.TempPathFactory, make_spec: Callable[..., TrainSpec]) -> Path:
    """Two folds; micro-batches of one day, so that an evaluation is of several pieces."""
    spec = make_spec(**{"trainer.max_epochs": 1, "split.folds": 2, "split.train_days": 15})
    out = tmp_path_factory.mktemp("model")
    assert isinstance(train(spec, cache, out, lambda _: None, lambda: False, max_days=1), Finished)
    return out


def predict_spec(first: np.datetime64, last: np.datetime64, **changes: Any) -> PredictSpec:
    body = {"model": "m", "dataset": "tiny", "from_day": str(first), "to_day": str(last), "fold": 2, **changes}
    return PredictSpec.model_validate({"resources": {"device": "cpu"}} | body)


@pytest.fixture
def go(model: Path, cache: Cache, tmp_path: Path) -> Callable[..., Result]:
    def go(spec: PredictSpec, on: Cache = cache, stop: Callable[[], bool] = lambda: False, **options: Any) -> Result:
        events: list[Event] = []
        return Result(tmp_path, predict(spec, model, on, tmp_path, events.append, stop, **options), events)

    return go


def table(path: Path, **only: object) -> Table:
    found = pq.read_table(path)
    for name, value in only.items():
        found = found.filter(pc.equal(found[name], value))
    horizons = [name for name in found.column_names if name.startswith("score_")]
    columns = [found["date"].to_pylist(), found["code"].to_pylist(), *(found[name].to_pylist() for name in horizons)]
    return {(day, code): tuple(scores) for day, code, *scores in zip(*columns, strict=True)}


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (-40, 0), (3, -2), (5, -6)])
def test_any_range_has_the_bits_of_the_evaluation(
    start: int, stop: int, go: Callable[..., Result], model: Path, cache: Cache
) -> None:
    """All test days; far more; parts that begin and end inside a piece."""
    expected = table(model / "predictions.parquet", split="test", fold=2)
    tested = np.array(sorted({day for day, _ in expected}), dtype="datetime64[D]")
    number = np.searchsorted(cache.days, tested)
    first, last = cache.days[number[0] + start], cache.days[number[-1] + stop]
    done = go(predict_spec(first, last))
    assert isinstance(done.last, Finished), done.last
    found = table(done.out / "predictions.parquet")
    inside = {key: scores for key, scores in expected.items() if first <= np.datetime64(key[0]) <= last}
    assert {key: found[key] for key in inside} == inside
    assert {day for day, _ in found} == {day.item() for day in cache.days if first <= day <= last}
    assert done.evidence["data"]["num_learned_days"] == {-40: 39}.get(start, 0)  # a label of 5 + 1 days reaches so far
    ratios = [event.ratio for event in done.of(Progress)]
    assert ratios == sorted(ratios)


def test_each_fold_has_its_own_weights(go: Callable[..., Result], model: Path) -> None:
    for fold in (1, 2):
        expected = table(model / "predictions.parquet", split="val", fold=fold)
        days = sorted({np.datetime64(day) for day, _ in expected})
        done = go(predict_spec(days[0], days[-1], fold=fold))
        found = table(done.out / "predictions.parquet")
        assert {key: found[key] for key in expected} == expected
        assert done.evidence["model"]["weights"] == f"best.{fold}.safetensors"
        assert done.evidence["data"]["num_learned_days"] == len(days)
    for fold, message in ((None, "2 folds"), (3, "a model that has 2")):
        refused = go(predict_spec(days[0], days[-1], fold=fold)).last
        assert isinstance(refused, Failed)
        assert refused.reason is Reason.INVALID_PARAMS
        assert message in refused.message


def test_too_short_a_history_is_null(go: Callable[..., Result], cache: Cache) -> None:
    done = go(predict_spec(cache.days[0], cache.days[9]))
    found = table(done.out / "predictions.parquet")
    first = {code: cache.day_index[cache.code_offsets[i]] for i, code in enumerate(cache.codes)}
    number = {day.item(): i for i, day in enumerate(cache.days)}
    for (day, code), scores in found.items():
        assert (scores == (None, None)) == (number[day] - first[code] < 5), (day, code)
    rows = np.isin(cache.day_index, np.arange(10)) & cache.valid & cache.in_universe
    assert len(found) == int(rows.sum())
    counts = done.last.result["predictions"]  # type: ignore[union-attr]
    assert counts == {
        "num_days": 10,
        "num_rows": len(found),
        "num_scored": sum(s[0] is not None for s in found.values()),
    }
    assert 0 < counts["num_scored"] < counts["num_rows"]


def test_another_dataset_needs_the_same_features(go: Callable[..., Result], cache: Cache, tmp_path: Path) -> None:
    body = DATASET | {"planted": DATASET["planted"] | {"seed": 2}}
    build(DatasetSpec.model_validate(body), tmp_path / "later", lambda _: None, lambda: False)
    later = Cache.open(tmp_path / "later")
    done = go(predict_spec(later.days[-1], later.days[-1]), on=later)  # whose labels nobody knows yet
    assert isinstance(done.last, Finished)
    assert all(None not in scores for scores in table(done.out / "predictions.parquet").values())
    assert done.evidence["data"]["fingerprint"] == later.fingerprint != done.evidence["model"]["fingerprint"]
    for names, message in (
        (("other", *cache.feature_names[1:]), "besides"),
        (cache.feature_names[::-1], "another order"),
    ):
        later.feature_names = names
        refused = go(predict_spec(later.days[20], later.days[30]), on=later).last
        assert isinstance(refused, Failed)
        assert refused.reason is Reason.INVALID_PARAMS
        assert message in refused.message


def test_a_refused_prediction_leaves_no_file(go: Callable[..., Result], cache: Cache, model: Path) -> None:
    days = predict_spec(cache.days[50], cache.days[60])
    for refused, message in (
        (go(predict_spec(np.datetime64("1999-01-01"), np.datetime64("1999-02-01"))), "no trading day"),
        (go(days, weights_sha256="0" * 64), "have changed"),
    ):
        assert isinstance(refused.last, Failed)
        assert message in refused.last.message
        assert list(refused.out.iterdir()) == []
    answers = iter([False, True])
    stopped = go(days, stop=lambda: next(answers))
    assert stopped.last.model_dump(include={"checkpoint", "step"}) == Stopped().model_dump(
        include={"checkpoint", "step"}
    )
    assert isinstance(stopped.last, Stopped)
    assert list(stopped.out.iterdir()) == []
    assert stopped.of(Evidence)[0].body == {"micro_batch_days": 1}
