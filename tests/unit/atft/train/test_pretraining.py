"""A pretraining is reproducible and reads no label and no test day; a training starts from its weights."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atft.checksums import sha256_of
from atft.data.cache.reader import Cache
from atft.events import Finished, Metrics, Stopped
from atft.spec.job import TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.train import checkpoint
from atft.train.report import Reporter
from atft.train.setup import make_setup
from tests.unit.atft.train.conftest import SPEC

Make = Callable[..., TrainSpec]
SOURCE = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"


def pretraining(**changes: Any) -> PretrainSpec:
    body = {name: value for name, value in SPEC.items() if name != "baselines"}
    return PretrainSpec.model_validate(json.loads(json.dumps(body)) | {"contrast_weight": 0.5} | changes)


@pytest.fixture(scope="module")
def source(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An uninterrupted pretraining."""
    from atft.train.loop import train
    from tests.unit.atft.train.conftest import Result

    events: list[Any] = []
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("source")
    last = train(pretraining(), cache, out, events.append, lambda: False)
    return Result(out, last, events)


def test_a_pretraining_reports_losses_and_no_score(source: Any) -> None:
    assert isinstance(source.last, Finished)
    names = {name for _, name, _ in source.rows}
    assert {f"{part}/loss{term}" for part in ("train", "val") for term in ("", "_masked", "_contrast")} <= names
    assert not any("ic" in name or name.startswith("test/") for name in names)
    assert all(value is not None for value in source.rows.values())
    assert source.last.result["test"] is None
    assert source.last.result["best"]["objective"] == "val/loss"
    assert source.last.result["best"]["value"] == min(v for (_, n, _), v in source.rows.items() if n == "val/loss")
    assert {one.name for one in source.last.artifacts} == {"best.safetensors", "config.json", "evidence.json"}
    assert sum(event.best for event in source.of(Metrics)) >= 1
    assert source.evidence["parameters"] == pretraining().num_parameters(source.evidence["data"]["num_features"])
    assert source.evidence["init_from"] is None
    assert all(module["grad_norm_first_step"] > 0 for module in source.evidence["modules"].values())


def test_labels_and_test_days_do_not_change_a_pretraining(source: Any, run: Any, cache: Cache) -> None:
    blind = copy.copy(cache)
    first = np.flatnonzero(cache.days == np.datetime64(source.evidence["data"]["test_days"][0]))[0]
    later = cache.day_index >= first
    blind.targets = np.full_like(cache.targets, np.nan)
    blind.features = np.where(later[:, None], np.float32(9.0), cache.features)
    blind.returns = np.where(later, np.float32(0.5), cache.returns)
    again = run(pretraining(), "again", on=blind)
    assert again.rows == source.rows
    assert (again.out / "best.safetensors").read_bytes() == (source.out / "best.safetensors").read_bytes()


@pytest.mark.parametrize("checks", [3, 9])
def test_a_stopped_pretraining_resumes_bit_for_bit(source: Any, run: Any, checks: int) -> None:
    remaining = iter(range(checks))
    part = run(pretraining(), "part", stop=lambda: next(remaining, None) is None)
    assert isinstance(part.last, Stopped)
    rest = run(pretraining(), "rest", resume=part.out / part.last.checkpoint)
    assert part.rows | rest.rows == source.rows
    assert (rest.out / "best.safetensors").read_bytes() == (source.out / "best.safetensors").read_bytes()


def initial_weights(spec: TrainSpec, cache: Cache, folder: Path) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Initial weights of the training, the weights of its source, and the evidence on both."""
    made = make_setup(spec, cache, Reporter(lambda _: None, epochs=1), folder)
    assert made.initial_weights is not None
    return (
        made.network.state_dict(),
        checkpoint.load_weights(folder / "best.safetensors"),
        made.initial_weights.evidence(),
    )


def test_a_training_begins_with_the_encoder(source: Any, cache: Cache, make_spec: Make) -> None:
    own, given, init_from = initial_weights(make_spec(init_from=SOURCE), cache, source.out)
    fresh = make_setup(make_spec(), cache, Reporter(lambda _: None, epochs=1)).network.state_dict()
    for name, tensor in own.items():
        assert torch.equal(tensor, fresh[name] if name.startswith("heads.") else given[name]), name
    assert init_from["job_id"] == SOURCE
    assert init_from["task"] == "masked"
    assert init_from["files"] == {"best.safetensors": sha256_of(source.out / "best.safetensors")}
    assert sorted([*init_from["loaded"], *init_from["left"]]) == sorted(own)
    assert {name.split(".")[0] for name in init_from["left"]} == {"heads"}


def test_a_training_begins_with_a_training_and_extends_its_lineage(
    source: Any, run: Any, cache: Cache, make_spec: Make
) -> None:
    one = {"trainer.max_epochs": 1, "trainer.max_steps_per_epoch": 1}
    first = run(make_spec(init_from=SOURCE, **one), "first", source=source.out, test=False)
    assert first.evidence["init_from"]["loaded"]
    own, given, init_from = initial_weights(make_spec(init_from=SOURCE), cache, first.out)
    assert init_from["left"] == []
    assert all(torch.equal(tensor, given[name]) for name, tensor in own.items())
    lineage = json.loads((first.out / "config.json").read_text())["lineage"]
    assert [(parent["job_id"], parent["requested"]["task"]) for parent in lineage] == [(SOURCE, "masked")]
    # The first training is a valid source, but not once the source of its own weights has seen later days.
    lineage[0]["requested"]["split"]["val_days"] = 2
    changed = json.loads((first.out / "config.json").read_text()) | {"lineage": lineage}
    (first.out / "config.json").write_text(json.dumps(changed))
    refused = run(make_spec(init_from=SOURCE), "refused", source=first.out)
    assert refused.last.reason == "invalid_params"
    assert "validation day" in refused.last.message


@pytest.mark.parametrize(
    ("change", "reason", "message"),
    [
        ({"data.features": ["cycle", "signal_1"]}, "invalid_params", "other features"),
        ({"model.hidden_size": 16}, "invalid_params", "hidden_size was 8"),
        ({"split.val_days": 20}, "invalid_params", "validation day"),
        ({"init_from": None}, "invalid_params", "a source was given"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    source: Any, run: Any, make_spec: Make, change: dict[str, Any], reason: str, message: str
) -> None:
    last = run(make_spec(**({"init_from": SOURCE} | change)), "refused", source=source.out).last
    assert last.type == "failed"
    assert last.reason == reason
    assert message in last.message


def test_missing_files_and_files_of_other_data_are_reported(
    source: Any, run: Any, make_spec: Make, tmp_path: Path
) -> None:
    spec = make_spec(init_from=SOURCE)
    assert "init_from names a job and no folder" in run(spec, "none").last.message
    shutil.copytree(source.out, tmp_path / "copy")
    (tmp_path / "copy" / "best.safetensors").write_bytes(b"cut")
    assert run(spec, "cut", source=tmp_path / "copy").last.reason == "data_changed"
    config = tmp_path / "copy" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"fingerprint": "other"}))
    assert "learned from data other" in run(spec, "other", source=tmp_path / "copy").last.message
    config.unlink()
    assert run(spec, "gone", source=tmp_path / "copy").last.reason == "data_changed"


def test_a_contrast_without_a_second_day_is_refused(run: Any) -> None:
    last = run(pretraining(trainer={"batch_size": 20}), "alone").last
    assert last.reason == "invalid_params"
    assert "batch_size" in last.message
