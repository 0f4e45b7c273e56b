"""Evidence compared with the spec: each difference is reported with its path."""

import runpy
from pathlib import Path

import pytest

from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.scheduler import SchedulerSpec
from worker.attempt.evidence import differences

Json = dict[str, object]
honest_evidence = runpy.run_path(str(Path(__file__).parents[3] / "programs" / "honest_evidence.py"))["honest_evidence"]


def check(spec: RunSpec, evidence: Json, fingerprint: str = "f00d") -> list[str]:
    return differences(spec, evidence, fingerprint=fingerprint, threads=spec.resources.threads)


def altered(evidence: Json, path: str, value: object) -> Json:
    if isinstance(evidence, list):
        return [altered(item, path, value) for item in evidence]  # type: ignore[return-value]
    key, _, rest = path.partition("/")
    old = evidence[key]
    return {**evidence, key: altered(old, rest, value) if rest else value}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": {"name": "adabelief"}},
        {"model": {"use_gat": False, "gat_layers": 3}},
        {
            "split": {"train_days": 400},
            "resources": {"device": "cpu", "threads": 2},
            "trainer": {"precision": "float32"},
        },
        {"data": {"features": ["f1", "f3"]}},
    ],
)
def test_matching_evidence_has_no_difference(changes: Json) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", **changes})
    assert check(spec, honest_evidence(spec.model_dump(mode="json"), "f00d")) == []


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("requested/seed", 7, "seed"),
        ("requested/data/features", ["f1"], "data.features"),
        ("resolved/optimizer/lr", 0.1, "optimizer.lr"),
        ("resolved/loss/rank_weight", 0.0, "loss.rank_weight"),
        ("resolved/data/window", 30, "data.window"),
        ("resolved/model/gat_layers", 1, "model.gat_layers"),
        ("resolved/trainer/batch_size", 2048, "trainer.batch_size"),
        ("optimizer/class", "torch.optim.adam.Adam", "optimizer.name"),
        ("optimizer/state_keys", ["step"], "optimizer state"),
        ("optimizer/param_groups/betas", [0.8, 0.999], "optimizer.betas"),
        ("optimizer/param_groups/eps", 1e-6, "optimizer.eps"),
        ("optimizer/param_groups/weight_decay", 0.0, "optimizer.weight_decay"),
        ("scheduler/class", "torch.optim.lr_scheduler.ConstantLR", "scheduler.name"),
        ("scheduler/lr_by_epoch", [5e-4, 5e-4], "learning rate of epoch 2"),
        ("threads/limit", 64, "resources.threads"),
        ("threads/torch_num_threads", 128, "torch_num_threads"),
        ("threads/os_threads_peak", 128, "os_threads_peak"),
        ("compiled", True, "trainer.compile"),
        ("ema_decay", 0.9, "trainer.ema_decay"),
        ("data/fingerprint", "beef", "fingerprint"),
        ("data/horizons", [1, 5, 10], "data.horizons"),
        ("data/val_days", ["2001-06-01"], "split.val_days"),
        ("data/test_days", ["2003-06-01"], "split.test_days"),
        ("data/embargo_days", 5, "split.embargo_days"),
        ("data/num_features", 306, "parameters"),
        ("parameters", 1, "parameters"),
        ("modules", {"fan": {"grad_norm_first_step": 1.0}}, "model.use_gat"),
        ("modules/graph/grad_norm_first_step", 0.0, "gradient of module graph"),
        ("modules/graph/grad_norm_first_step", None, "gradient of module graph"),
        ("accumulate", 2, "trainer.accumulate"),
        ("seeds/seed", 1, "seed"),
        ("threads", {}, "evidence.threads.limit"),
        ("scheduler", None, "evidence.scheduler"),
    ],
)
def test_a_difference_is_named(path: str, value: object, named: str) -> None:
    spec = TrainSpec.model_validate({"dataset": "d"})
    found = check(spec, altered(honest_evidence(spec.model_dump(mode="json"), "f00d"), path, value))
    assert any(named in difference for difference in found), found


def test_a_child_may_not_replace_an_explicit_choice() -> None:
    spec = TrainSpec.model_validate(
        {"dataset": "d", "resources": {"device": "cuda", "queue": "gpu"}, "trainer": {"precision": "bfloat16"}}
    )
    found = " ".join(check(spec, honest_evidence(spec.model_dump(mode="json"), "f00d")))
    assert "resources.device" in found
    assert "trainer.precision" in found


def test_adabelief_is_the_package_on_a_processor_and_our_own_on_a_gpu() -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "optimizer": {"name": "adabelief"}})
    honest = honest_evidence(spec.model_dump(mode="json"), "f00d")
    on_gpu = altered(honest, "device", "cuda")
    assert any("ForeachAdaBelief" in one for one in check(spec, on_gpu))
    assert check(spec, altered(on_gpu, "optimizer/class", "atft.train.adabelief.ForeachAdaBelief")) == []


def test_phases_are_checked_against_their_own_rates_and_modules() -> None:
    phases = [{"name": "heads", "epochs": 3, "lr": 0.02, "modules": ["heads"]}, {"name": "all", "epochs": 7}]
    spec = TrainSpec.model_validate(
        {"dataset": "d", "trainer": {"phases": phases}, "scheduler": {"name": "cosine", "eta_min": 0.0}}
    )
    seen = altered(
        honest_evidence(spec.model_dump(mode="json"), "f00d"),
        "scheduler/class",
        "torch.optim.lr_scheduler.CosineAnnealingLR",
    )
    rates = [0.02, 0.015, 0.005]
    stopped = altered(altered(seen, "scheduler/lr_by_epoch", rates), "modules/graph/grad_norm_first_step", None)
    assert check(spec, stopped) == []  # the run ended before the phase that trains the graph
    went_on = altered(stopped, "scheduler/lr_by_epoch", [*rates, spec.optimizer.lr])
    assert [one for one in check(spec, went_on) if "module graph" in one]
    assert [one for one in check(spec, altered(stopped, "scheduler/lr_by_epoch", [5e-4])) if "rate of epoch 1" in one]


def test_days_out_of_order_are_a_difference() -> None:
    spec = TrainSpec.model_validate({"dataset": "d"})
    evidence = honest_evidence(spec.model_dump(mode="json"), "f00d")
    evidence["data"]["val_days"], evidence["data"]["test_days"] = (
        evidence["data"]["test_days"],
        evidence["data"]["val_days"],
    )
    assert any(difference.startswith("split:") for difference in check(spec, evidence))


@pytest.mark.parametrize(
    ("name", "warmup", "epochs"),
    [
        (name, warmup, epochs)
        for name in ("constant", "cosine", "cosine_restarts", "one_cycle")
        for warmup in (0, 2)
        for epochs in (1, 2, 3, 7, 10)
        if warmup < epochs and not (warmup and name == "one_cycle")
    ],
)
def test_the_expected_rates_are_torchs(name: str, warmup: int, epochs: int) -> None:
    torch = pytest.importorskip("torch")
    from atft.train.scheduler import make_scheduler

    spec = SchedulerSpec.model_validate({"name": name, "warmup_epochs": warmup, "t_0": 2, "t_mult": 2, "eta_min": 1e-5})
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    scheduler = make_scheduler(spec, optimizer, max_epochs=epochs)
    for epoch in range(epochs):
        rate = optimizer.param_groups[0]["lr"]
        assert spec.learning_rate(1e-3, epoch, epochs) == pytest.approx(rate, rel=1e-6), epoch
        optimizer.step()
        scheduler.step()


SOURCE = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
FILES = {"best.safetensors": "ab12"}
INHERITED = {
    "job_id": SOURCE,
    "files": FILES,
    "loaded": ["selection.a", "fan.b", "temporal.c", "graph.d"],
    "left": ["heads.e"],
}


@pytest.mark.parametrize(
    ("requested", "found", "named"),
    [
        (SOURCE, INHERITED, None),
        (SOURCE, None, "init_from: asked for"),
        (None, INHERITED, "init_from: asked for"),
        (SOURCE, INHERITED | {"files": {"best.safetensors": "cd34"}}, "weights of init_from"),
        (SOURCE, INHERITED | {"loaded": ["selection.a", "fan.b", "graph.d"]}, "module temporal of init_from"),
    ],
)
def test_the_initial_weights_of_a_run_are_those_on_record(
    requested: str | None, found: Json | None, named: str | None
) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "init_from": requested})
    evidence = honest_evidence(spec.model_dump(mode="json"), "f00d") | {"init_from": found}
    differing = differences(spec, evidence, fingerprint="f00d", threads=1, weights=FILES if requested else None)
    assert (differing == []) if named is None else any(named in one for one in differing), differing


def test_a_pretraining_is_checked_against_its_own_network() -> None:
    spec = PretrainSpec.model_validate({"dataset": "d", "mask_ratio": 0.3})
    plain = honest_evidence(TrainSpec.model_validate({"dataset": "d"}).model_dump(mode="json"), "f00d")
    body = spec.model_dump(mode="json")
    features = plain["resolved"]["data"]["features"]
    evidence = plain | {
        "requested": body,
        "resolved": body
        | {part: plain["resolved"][part] for part in ("data", "split", "optimizer", "resources")}
        | {"trainer": plain["resolved"]["trainer"] | {"objective": "val/loss"}},
        "parameters": spec.num_parameters(len(features)),
    }
    assert check(spec, evidence) == []
    assert any("mask_ratio" in one for one in check(spec, altered(evidence, "resolved/mask_ratio", 0.15)))
    assert any("parameters" in one for one in check(spec, evidence | {"parameters": plain["parameters"]}))
