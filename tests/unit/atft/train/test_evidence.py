import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch

from atft.data.cache.reader import Cache
from atft.events import Evidence
from atft.spec.job import TrainSpec
from atft.train.scheduler import make_scheduler

Make = Callable[..., TrainSpec]
KEYS = {
    "requested", "resolved", "optimizer", "scheduler", "threads", "device", "precision", "compiled", "data", "modules",
    "batches_per_epoch", "samples_per_epoch", "days_per_step", "micro_batch_days", "seeds", "versions", "git", "host",
}  # fmt: skip
STATE = {"adamw": ["exp_avg", "exp_avg_sq", "step"], "adabelief": ["exp_avg", "exp_avg_var", "step"]}


@pytest.mark.parametrize("name", ["adamw", "adabelief"])
def test_evidence_is_complete_and_measured(name: str, run: Any, make_spec: Make, cache: Cache) -> None:
    spec = make_spec(**{"optimizer.name": name, "trainer.max_epochs": 3})
    result = run(spec)
    before, first, *_ = (event.body for event in result.of(Evidence))
    last = result.evidence
    assert set(before) == {"micro_batch_days", "memory"}  # for whoever must judge a run that dies in its first step
    assert before["memory"]["fits"]
    assert before["memory"]["needed_bytes"] < before["memory"]["free_bytes"]
    assert last["memory"]["rss_peak_bytes"] > 1_000_000
    assert set(last) >= KEYS
    for body in (first, last):
        assert body["optimizer"]["state_keys"] == STATE[name]
        assert body["requested"] == spec.model_dump(mode="json")
        assert body["requested_digest"] == spec.digest()
    assert first["optimizer"]["param_groups"][0]["lr"] == spec.optimizer.lr
    assert last["resolved"]["optimizer"]["eps"] == {"adamw": 1e-8, "adabelief": 1e-16}[name]
    assert last["resolved"]["data"]["features"] == [*cache.feature_names, *cache.market_names]
    assert last["resolved"]["trainer"]["precision"] == last["precision"] == "float32"
    assert last["threads"]["torch_num_threads"] == last["threads"]["limit"] == 1
    assert last["threads"]["os_threads_peak"] >= 1
    assert last["device"] == "cpu"
    assert last["compiled"] is False
    modules = last["modules"]
    assert set(modules) == {"selection", "fan", "temporal", "graph", "heads"}
    assert all(part["grad_norm_first_step"] > 0 and part["parameters"] > 0 for part in modules.values())
    assert sum(part["parameters"] for part in modules.values()) == last["parameters"]
    assert len(last["batches_by_epoch"]) == len(last["samples_by_epoch"]) == 3
    assert last["updates"] == sum(last["batches_by_epoch"])
    assert json.loads((result.out / "evidence.json").read_text()) == json.loads(json.dumps(last))
    assert json.loads((result.out / "config.json").read_text())["resolved"] == last["resolved"]


def test_lr_by_epoch_is_torchs_own_schedule(run: Any, make_spec: Make) -> None:
    spec = make_spec(
        **{"trainer.max_epochs": 5, "trainer.max_steps_per_epoch": 1, "scheduler.t_0": 2, "scheduler.warmup_epochs": 1}
    )
    parameter = torch.nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    optimizer = torch.optim.SGD([parameter], lr=spec.optimizer.lr)
    scheduler = make_scheduler(spec.scheduler, optimizer, max_epochs=5)
    expected = []
    for _ in range(5):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    result = run(spec, test=False)
    assert result.evidence["scheduler"]["lr_by_epoch"] == expected
    assert [result.rows[(None, "train/lr", epoch)] for epoch in range(1, 6)] == expected


def test_days_are_listed_and_kept_apart(run: Any, make_spec: Make, cache: Cache) -> None:
    data = run(make_spec(**{"trainer.max_epochs": 1}), test=False).evidence["data"]
    order = {str(day): i for i, day in enumerate(cache.days)}
    parts = [[order[day] for day in data[f"{name}_days"]] for name in ("train", "val", "test")]
    assert [len(part) for part in parts] == [24, 12, 12]
    for early, late in pairwise(parts):
        assert late[0] - early[-1] - 1 == data["embargo_days"] == 7
    assert {order[day] for day in data["purged_days"]}.isdisjoint({day for part in parts for day in part})
    assert len(data["purged_days"]) == 14
    assert data["fingerprint"] == cache.fingerprint
    assert (data["reader"], data["reader_dtype"]) == ("mapped", "float32")  # on the CPU the map is the panel
    assert data["num_features"] == len(cache.feature_names) + len(cache.market_names)


def test_requested_threads_are_the_threads_in_use(run: Any, make_spec: Make) -> None:
    body = run(
        make_spec(**{"resources.threads": 2, "trainer.max_epochs": 1, "trainer.max_steps_per_epoch": 1}), test=False
    ).evidence
    assert (
        body["threads"]["torch_num_threads"]
        == body["threads"]["limit"]
        == body["resolved"]["resources"]["threads"]
        == 2
    )
