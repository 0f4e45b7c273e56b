import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch

from atft.data.cache.reader import Cache
from atft.events import Checkpointed, Failed, Finished, Metrics, Stopped
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.spec.study import PreflightSpec
from atft.train.loop import preflight_points

Make = Callable[..., TrainSpec]
METRICS = (
    "loss",
    "ic",
    "rank_ic",
    "icir",
    "rank_icir",
    "ic_t",
    "hit_rate",
    "sharpe_daily",
    "sharpe_ann",
    "sharpe_net_ann",
    "turnover",
)
METRICS += ("max_drawdown", "spread", "psi", "pred_std_ratio", "num_days", "num_undefined_days")


def broken(cache: Cache) -> Cache:
    """The same files in a private memory map: writes to it are not seen elsewhere."""
    return Cache.open(cache.path)


def days_of(cache: Cache, result: Any, split: str) -> list[int]:
    wanted = set(result.evidence["data"][f"{split}_days"])
    return [i for i, day in enumerate(cache.days) if str(day) in wanted]


def test_a_run_ends_with_metrics_of_every_epoch_and_the_test_days_once(run: Any, make_spec: Make) -> None:
    result = run()
    assert isinstance(result.last, Finished)
    rows = result.rows
    for metric in METRICS:
        for epoch in (1, 2):
            assert (None, f"val/{metric}", epoch) in rows
        if metric != "loss":
            assert (None, f"val/{metric}@5d", 2) in rows
    assert {step for (_, name, step) in rows if name.startswith("test/")} == {result.last.result["best"]["epoch"]}
    best = max((value, -step) for (_, name, step), value in rows.items() if name == "val/rank_ic")
    assert result.last.result["best"]["epoch"] == -best[1]
    assert [m.best for m in result.of(Metrics) if "val/loss" in m.values].count(True) >= 1
    steps = [step for (_, name, step) in rows if name == "step/loss"]
    assert steps == list(range(1, result.evidence["updates"] + 1))
    assert all(math.isfinite(value) for (_, name, _), value in rows.items() if name.startswith("step/"))
    loss = [rows[(None, "train/loss", epoch)] for epoch in (1, 2)]
    assert loss[-1] < loss[0]


def test_the_same_spec_gives_the_same_bits_and_another_seed_does_not(run: Any, make_spec: Make) -> None:
    first, second, other = run(name="a"), run(name="b"), run(make_spec(seed=1), "c")
    assert first.rows == second.rows
    assert (first.out / "best.safetensors").read_bytes() == (second.out / "best.safetensors").read_bytes()
    assert first.rows != other.rows


def test_artifacts_are_declared_whole_and_readable(run: Any, cache: Cache) -> None:
    result = run()
    names = {artifact.name for artifact in result.last.artifacts}
    assert names == {"best.safetensors", "config.json", "evidence.json", "daily.parquet", "predictions.parquet"}
    assert all((result.out / artifact.path).stat().st_size for artifact in result.last.artifacts)
    daily = pq.read_table(result.out / "daily.parquet")
    assert daily.column_names == ["date", "source", "split", "metric", "horizon", "value"]
    assert set(daily["split"].to_pylist()) == {"val", "test"}
    scores = pq.read_table(result.out / "predictions.parquet")
    assert scores.column_names == ["date", "code", "split", "score_1d", "score_5d"]
    assert set(map(str, scores["date"].to_pylist())) == {
        *result.evidence["data"]["val_days"],
        *result.evidence["data"]["test_days"],
    }
    weights = safetensors.torch.load_file(result.out / "best.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())


def test_checkpoints_are_reported_after_they_are_written_and_two_are_kept(
    cache: Cache, tmp_path: Path, make_spec: Make
) -> None:
    from atft.train.loop import train

    def emit(event: object) -> None:
        if isinstance(event, Checkpointed):
            assert (tmp_path / event.path / "manifest.json").is_file()

    train(make_spec(), cache, tmp_path, emit, lambda: False)
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def test_planted_panels_report_the_oracle_and_the_share_reached(run: Any) -> None:
    rows = run().rows
    best = next(step for (_, name, step) in rows if name == "test/rank_ic")
    for split in ("val", "test"):
        for h in (1, 5):
            ours, oracle = (
                rows[(None, f"{split}/rank_ic@{h}d", best)],
                rows[("oracle_observed", f"{split}/rank_ic@{h}d", best)],
            )
            assert rows[(None, f"{split}/oracle_share_ratio@{h}d", best)] == pytest.approx(ours / oracle)


def test_without_test_the_test_days_are_never_read(run: Any, make_spec: Make, cache: Cache) -> None:
    whole = run(make_spec(baselines=True), "whole", test=False)
    assert isinstance(whole.last, Finished)
    assert whole.last.result["test"] is None
    assert not [name for (_, name, _) in whole.rows if name.startswith("test/")]
    assert not [source for (source, _, _) in whole.rows if source == "ridge"]
    own = broken(cache)
    own.targets[np.isin(own.day_index, days_of(cache, whole, "test"))] = np.nan
    assert run(make_spec(baselines=True), "blind", test=False, on=own).rows == whole.rows


def test_preflight_only_trains_nothing(run: Any) -> None:
    result = run(preflight_only=True)
    assert isinstance(result.last, Finished)
    assert result.last.result["preflight"]["parameters"] > 0
    assert not result.of(Metrics)
    assert not result.out.exists()


def test_preflight_at_points_names_the_one_that_cannot_run(cache: Cache, make_spec: Make, tmp_path: Path) -> None:
    def last(low: dict[str, float], high: dict[str, float]) -> Any:
        spec = PreflightSpec(base=make_spec(), points={"low": low, "high": high})
        return preflight_points(spec, cache, tmp_path, lambda _: None, lambda: False)

    reports = last({"model.gat_layers": 1}, {"model.gat_layers": 2}).result["preflight"]
    assert reports["low"]["parameters"] < reports["high"]["parameters"]
    message = last({"loss.base_weight": 1.0}, {"loss.base_weight": 1e39}).message
    assert message.startswith('the high extreme of the space, {"loss.base_weight": 1e+39}, cannot run: the loss of ')


def test_pain_24_a_nan_ends_the_run_and_names_its_day(run: Any, cache: Cache, make_spec: Make) -> None:
    clean = run()
    day = days_of(cache, clean, "train")[2]
    own = broken(cache)
    own.features[own.day_index == day] = np.nan
    result = run(name="nan", on=own)
    assert isinstance(result.last, Failed)
    assert result.last.reason is Reason.NAN_LOSS
    assert str(cache.days[day])[:7] in result.last.message
    assert not result.of(Metrics) or all(
        v is None or math.isfinite(v) for m in result.of(Metrics) for v in m.values.values()
    )


def test_an_objective_that_is_never_defined_is_a_failure(run: Any, cache: Cache) -> None:
    clean = run()
    own = broken(cache)
    own.targets[np.isin(own.day_index, days_of(cache, clean, "val"))] = np.nan
    result = run(name="blind", on=own)
    assert isinstance(result.last, Failed)
    assert result.last.reason is Reason.OBJECTIVE_MISSING
    assert result.rows[(None, "val/rank_ic", 1)] is None
    assert result.rows[(None, "val/loss", 1)] is None


def test_collapsed_scores_end_the_run(run: Any, make_spec: Make) -> None:
    spec = make_spec(
        **{
            "optimizer.name": "adabelief",
            "optimizer.lr": 10.0,
            "optimizer.weight_decay": 0.1,
            "optimizer.clip_norm": 1e-12,
            "scheduler.name": "constant",
        }
    )
    result = run(spec)
    assert isinstance(result.last, Failed)
    assert result.last.reason is Reason.DEGENERATE


def test_early_stopping_and_stop_rules_finish_with_their_reason(run: Any, make_spec: Make) -> None:
    patient = make_spec(**{"trainer.max_epochs": 9, "trainer.early_stopping": {"patience": 1, "min_delta": 10.0}})
    result = run(patient, "patient")
    assert isinstance(result.last, Finished)
    assert result.last.reason is Reason.EARLY_STOPPED
    assert result.evidence["scheduler"]["lr_by_epoch"].__len__() == 2
    ruled = make_spec(**{"trainer.stop_rules": [{"metric": "train/loss", "above": -1.0, "at_epoch": 2}]})
    result = run(ruled, "ruled")
    assert result.last.reason is Reason.STOP_RULE
    assert "epoch 2" in result.last.result["ending"]
    assert result.evidence["scheduler"]["lr_by_epoch"].__len__() == 2


def test_a_time_budget_is_a_failure_with_its_reason(run: Any, make_spec: Make) -> None:
    result = run(make_spec(**{"trainer.timeout_seconds": 1e-6}))
    assert isinstance(result.last, Failed)
    assert result.last.reason is Reason.TIMEOUT_EXEC


def test_min_names_that_no_day_has_fails_before_training(run: Any, make_spec: Make) -> None:
    result = run(make_spec(**{"data.min_names": 100}))
    assert isinstance(result.last, Failed)
    assert result.last.reason is Reason.PREFLIGHT_FAILED
    assert "min_names" in result.last.message


def test_cuda_without_a_gpu_is_refused(run: Any, make_spec: Make) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = run(make_spec(**{"resources.device": "cuda"}))
    assert result.last.reason is Reason.INVALID_PARAMS


def test_a_stop_before_the_first_update_saves_a_checkpoint(run: Any) -> None:
    result = run(stop=lambda: True)
    assert isinstance(result.last, Stopped)
    assert result.last.step == 0
    assert (result.out / str(result.last.checkpoint) / "manifest.json").is_file()


def test_a_full_disk_is_an_error_not_a_result(cache: Cache, tmp_path: Path, make_spec: Make) -> None:
    from atft.train.loop import train

    target = tmp_path / "file"
    target.write_bytes(b"")
    with pytest.raises(OSError, match=r"File exists|Not a directory"):
        train(make_spec(), cache, target, lambda _: None, lambda: False)
