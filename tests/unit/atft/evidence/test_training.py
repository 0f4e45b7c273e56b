"""Evidence compared with the spec: each difference is reported with its path."""

import os
import runpy
from pathlib import Path

import pytest

from atft.evidence.training import GivenTraining, GivenWeights, differences
from atft.spec.base import digest
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec

Json = dict[str, object]
honest_evidence = runpy.run_path(str(Path(__file__).parents[3] / "programs" / "honest_evidence.py"))["honest_evidence"]


def check(spec: RunSpec, evidence: Json, weights: GivenWeights | None = None) -> list[str]:
    given = GivenTraining(
        fingerprint="f00d", threads=spec.resources.threads, environment=dict(os.environ), weights=weights
    )
    return differences(spec, evidence, given)


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


def test_a_child_may_not_replace_an_explicit_choice() -> None:
    spec = TrainSpec.model_validate(
        {"dataset": "d", "resources": {"device": "cuda", "queue": "gpu"}, "trainer": {"precision": "bfloat16"}}
    )
    found = " ".join(check(spec, honest_evidence(spec.model_dump(mode="json"), "f00d")))
    assert "resolved.resources.device" in found
    assert "resolved.trainer.precision" in found


def test_adabelief_is_the_package_on_a_processor_and_our_own_on_a_gpu() -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "optimizer": {"name": "adabelief"}})
    honest = honest_evidence(spec.model_dump(mode="json"), "f00d")
    on_gpu = altered(honest, "device", "cuda")
    assert any("ForeachAdaBelief" in one for one in check(spec, on_gpu))
    own = altered(altered(on_gpu, "resolved/resources/device", "cuda"), "optimizer/module", "atft.train.adabelief")
    own = altered(own, "optimizer/class", "atft.train.adabelief.ForeachAdaBelief")
    assert check(spec, own | {"resolved_digest": digest(own["resolved"])}) == []


def test_phases_are_checked_against_their_own_rates_and_modules() -> None:
    phases = [{"name": "heads", "epochs": 3, "lr": 0.02, "modules": ["heads"]}, {"name": "all", "epochs": 7}]
    spec = TrainSpec.model_validate(
        {"dataset": "d", "trainer": {"phases": phases}, "scheduler": {"name": "cosine", "eta_min": 0.0}}
    )
    cosine = "torch.optim.lr_scheduler.CosineAnnealingLR"

    def run(rates: list[float], lr: float) -> Json:
        evidence = honest_evidence(spec.model_dump(mode="json"), "f00d", epochs=len(rates))
        evidence["scheduler"] = {"class": cosine, "sequence": [cosine], "lr_by_epoch": rates}
        return altered(altered(evidence, "optimizer/param_groups/lr", lr), "modules/graph/grad_norm_first_step", None)

    rates = [0.02, 0.015, 0.005]
    assert check(spec, run(rates, 0.005)) == []  # the run ended before the phase that trains the graph
    went_on = check(spec, run([*rates, spec.optimizer.lr], spec.scheduler.learning_rate(spec.optimizer.lr, 1, 7)))
    assert went_on == ["modules.graph.grad_norm_first_step: asked for 'above 0', found None"]
    assert [one for one in check(spec, run([5e-4], 0.015)) if one.startswith("scheduler.lr_by_epoch, epoch 1:")]


def test_days_out_of_order_are_a_difference() -> None:
    spec = TrainSpec.model_validate({"dataset": "d"})
    evidence = honest_evidence(spec.model_dump(mode="json"), "f00d")
    data = evidence["data"]
    data["val_days"], data["test_days"] = data["test_days"], data["val_days"]
    assert [one.partition(":")[0] for one in check(spec, evidence)] == ["data.val_days", "data.test_days"]


def test_a_fold_that_ended_early_says_why() -> None:
    rule = {"metric": "val/rank_ic", "below": 0.0}
    body = {"dataset": "d", "split": {"folds": 2}, "trainer": {"stop_rules": [rule]}}
    evidence = honest_evidence(body, "f00d")
    norms = dict.fromkeys(evidence["modules"], 0.1)
    ended = {"seed": 0, "lr_by_epoch": [5e-4], "batches_by_epoch": [3], "samples_by_epoch": [90], "best_epoch": 1}
    ended |= {"grad_norm_first_step": norms, "ending": "val/rank_ic = -0.1 is below 0"}
    found = check(TrainSpec.model_validate(body), evidence | {"folds": [ended, ended | {"ending": None}]})
    assert [one.partition(":")[0] for one in found if "ending" in one] == ["folds.1.ending"]


SOURCE = "019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21"
FILES = {"best.safetensors": "ab12"}
SIZES = TrainSpec.model_validate({"dataset": "d"}).parameter_sizes(5)
TENSORS = [f"{module}.{n}" for module, own in SIZES.items() for n in range(len(own))]
ENCODER = [name for name in TENSORS if not name.startswith("heads.")]
INHERITED = {
    "job_id": SOURCE,
    "task": "masked",
    "files": FILES,
    "loaded": ENCODER,
    "left": TENSORS[len(ENCODER) :],
}


@pytest.mark.parametrize(
    ("requested", "found", "named"),
    [
        (SOURCE, INHERITED, None),
        (SOURCE, None, "init_from: asked for"),
        (None, INHERITED, "init_from: asked for"),
        (SOURCE, INHERITED | {"files": {"best.safetensors": "cd34"}}, "init_from.files: asked for"),
        (
            SOURCE,
            INHERITED | {"loaded": [name for name in ENCODER if "temporal" not in name]},
            "init_from.loaded: asked for 'module temporal'",
        ),
    ],
)
def test_the_initial_weights_of_a_run_are_those_on_record(
    requested: str | None, found: Json | None, named: str | None
) -> None:
    spec = TrainSpec.model_validate({"dataset": "d", "init_from": requested})
    evidence = honest_evidence(spec.model_dump(mode="json"), "f00d") | {"init_from": found}
    differing = check(spec, evidence, GivenWeights(task="masked", sha256=FILES) if requested else None)
    assert (differing == []) if named is None else any(named in one for one in differing), differing


def test_a_pretraining_is_checked_against_its_own_network() -> None:
    spec = PretrainSpec.model_validate({"dataset": "d", "mask_ratio": 0.3})
    plain = honest_evidence(TrainSpec.model_validate({"dataset": "d"}).model_dump(mode="json"), "f00d")
    body, resolved = spec.model_dump(mode="json"), plain["resolved"]
    sizes = spec.parameter_sizes(len(resolved["data"]["features"]))
    resolved = body | {part: resolved[part] for part in ("data", "split", "optimizer", "resources")}
    resolved["trainer"] = plain["resolved"]["trainer"] | {"objective": "val/loss"}
    evidence = plain | {
        "requested": body,
        "requested_digest": spec.digest(),
        "resolved": resolved,
        "resolved_digest": digest(resolved),
        "parameters": sum(map(sum, sizes.values())),
        "modules": {name: {"parameters": sum(own), "grad_norm_first_step": 0.1} for name, own in sizes.items()},
    }
    evidence = altered(evidence, "optimizer/param_groups/parameters", sum(map(len, sizes.values())))
    assert check(spec, evidence) == []
    assert any("mask_ratio" in one for one in check(spec, altered(evidence, "resolved/mask_ratio", 0.15)))
    assert any("parameters" in one for one in check(spec, evidence | {"parameters": plain["parameters"]}))
