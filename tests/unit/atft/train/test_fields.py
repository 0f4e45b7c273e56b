"""Pain 10: a field that can be set and changes nothing.

Every field of a TrainSpec must show in what ran, not only in the request.
"""

import json
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from atft.data.cache.reader import Cache
from atft.spec.job import TrainSpec
from atft.train.setup import has_bfloat16_lstm

Make = Callable[..., TrainSpec]
Changes = dict[str, Any]
BASE: Changes = {"trainer.max_epochs": 1, "trainer.max_steps_per_epoch": 3}
FOUR: Changes = {"trainer.max_epochs": 4, "trainer.max_steps_per_epoch": 1, "scheduler.t_0": 1, "scheduler.t_mult": 1}
CASES: dict[str, tuple[Any, Changes]] = {
    "seed": (1, {}),
    "data.window": (7, {}),
    "data.horizons": ([1], {}),
    "data.features": (["signal_1", "cycle"], {}),
    "data.target": ("raw", {}),
    "data.min_names": (24, {}),
    "split.train_days": (20, {"trainer.max_steps_per_epoch": None}),
    "split.val_days": (10, {}),
    "split.test_days": (10, {}),
    "split.embargo_days": (8, {}),
    "model.hidden_size": (4, {}),
    "model.gat_layers": (3, {}),
    "model.gat_heads": (4, {}),
    "model.gat_dropout": (0.5, {}),
    "model.dropout": (0.5, {}),
    "model.attention_heads": (4, {}),
    "model.fan_top_k": (1, {}),
    "model.freq_dropout": (0.5, {}),
    "model.stochastic_depth": (0.9, {"model.gat_layers": 3}),
    "model.learn_temperature": (False, {}),
    "model.use_fan": (False, {}),
    "model.use_gat": (False, {}),
    "model.quantiles": ([0.2, 0.8], {"loss.base": "pinball", "model.quantiles": [0.1, 0.5, 0.9]}),
    "graph.correlation_window": (30, {}),
    "graph.half_life": (3, {}),
    "graph.shrinkage": (0.9, {}),
    "graph.neighbours": (8, {}),
    "graph.neighbours_by": ("residual_correlation", {}),
    "graph.threshold": (0.6, {}),
    "graph.refresh_days": (3, {}),
    "graph.sector_edges": (False, {}),
    "graph.sector_weight": (0.9, {}),
    "loss.base": ("mse", {}),
    "loss.base_weight": (0.2, {}),
    "loss.rank_weight": (0.9, {}),
    "loss.rank": ("pairwise_sigmoid", {}),
    "loss.rank_tau": (1.0, {"loss.rank": "pairwise_sigmoid"}),
    "loss.horizon_weights": ([1.0, 0.1], {}),
    "loss.regime": ("volatility_correlation", {}),
    "optimizer.name": ("adabelief", {}),
    "optimizer.lr": (0.01, {}),
    "optimizer.betas": ([0.5, 0.9], {}),
    "optimizer.eps": (1e-2, {}),
    "optimizer.weight_decay": (0.5, {}),
    "optimizer.clip_norm": (1e-6, {"optimizer.eps": 1e-3}),
    "scheduler.name": ("constant", FOUR),
    "scheduler.t_0": (3, FOUR),
    "scheduler.t_mult": (2, FOUR),
    "scheduler.eta_min": (1e-3, {**FOUR, "scheduler.t_0": 4}),
    "scheduler.warmup_epochs": (2, FOUR),
    "trainer.max_epochs": (2, {}),
    "trainer.max_steps_per_epoch": (2, {}),
    "trainer.batch_size": (48, {}),
    "trainer.accumulate": (3, {}),
    "trainer.precision": ("bfloat16", {}),
    "trainer.ema_decay": (0.5, {}),
    "trainer.phases": ([{"name": "a", "epochs": 1, "lr": 0.02}], {}),
    "trainer.objective": ("val/loss", FOUR),
    "evaluation.cost_bps": (50.0, {}),
    "evaluation.quantile": (0.4, {}),
}
ELSEWHERE = {
    "dataset": "the supervisor opens the cache it names",
    "name": "a label",
    "tags": "labels",
    "init_from": "test_pretraining",
    "split.kind": "test_folds",
    "split.folds": "test_folds",
    "split.test_folds": "test_folds",
    "trainer.compile": "test_setup, by the evidence: compiling takes minutes",
    "trainer.early_stopping": "test_loop",
    "trainer.stop_rules": "test_loop",
    "trainer.checkpoint_every_seconds": "test_program",
    "trainer.timeout_seconds": "test_loop",
    "resources.queue": "the service's",
    "resources.device": "test_loop",
    "resources.threads": "test_evidence",
    "resources.priority": "the service's",
    "resources.max_attempts": "the service's",
    "resources.queue_timeout_seconds": "the service's",
    "baselines": "test_baselines",
}
UNSEEN = (
    "memory", "requested", "requested_digest", "resolved", "resolved_digest", "threads", "host", "git", "versions",
)  # fmt: skip


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    names: set[str] = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, BaseModel)
        names |= leaves(inner, f"{prefix}{name}.") if nested else {f"{prefix}{name}"}  # type: ignore[arg-type]
    return names


def test_every_field_is_in_the_table() -> None:
    assert leaves(TrainSpec) == set(CASES) | set(ELSEWHERE)


@pytest.fixture(scope="module")
def seen() -> dict[str, str]:
    return {}


def test_two_identical_runs_compare_equal(run: Any, make_spec: Make) -> None:
    first, second = (run(make_spec(**BASE), name, test=False) for name in ("a", "b"))
    assert first.rows == second.rows
    assert {k: first.evidence[k] for k in first.evidence if k not in UNSEEN} == {
        k: second.evidence[k] for k in first.evidence if k not in UNSEEN
    }


@pytest.mark.parametrize("field", list(CASES))
def test_pain_10_a_changed_field_changes_what_ran(
    field: str, run: Any, make_spec: Make, cache: Cache, seen: dict[str, str]
) -> None:
    value, base = CASES[field]
    if value == "bfloat16" and not has_bfloat16_lstm():
        pytest.skip("this processor has no LSTM in bfloat16")

    def trace(changes: Changes) -> str:
        spec = make_spec(**changes)
        result = run(spec, f"r{len(seen)}", test=False)
        assert result.last.type == "finished", result.last
        rows = sorted((str(key), v) for key, v in result.rows.items())
        return json.dumps(
            [
                rows,
                result.last.result["best"]["objective"],
                {k: v for k, v in result.evidence.items() if k not in UNSEEN},
            ],
            sort_keys=True,
        )

    before = {**BASE, **base}
    key = json.dumps(before, sort_keys=True)
    if key not in seen:
        seen[key] = trace(before)
    assert trace({**before, field: value}) != seen[key]
