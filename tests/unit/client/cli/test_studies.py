"""A study in the terminal, and the conclusion of the demo."""

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from atft.spec.study import HpoSpec
from client.cli import study_display
from client.cli.app import app
from client.demo.study import METRIC, ORACLE_SHARE, PLANTED, SPLIT, TRIALS, conclusion, study_passed, study_spec
from client.sdk import sync
from client.sdk.models import BestTrial, Comparison, Job, Metrics, Trial
from tests.unit.client.small_server import Handler, serving

PARAMS = {"optimizer.lr": 0.001, "model.hidden_size": 8}
SUCCEEDED = {"number": 0, "job_id": "t0", "params": PARAMS, "value": 0.08, "state": "succeeded", "reason": None,
             "message": None, "intermediate": {"1": 0.05, "2": 0.08}}  # fmt: skip
PRUNED = SUCCEEDED | {"number": 1, "value": None, "state": "pruned", "reason": "pruned", "intermediate": {"1": 0.01}}
FAILED = SUCCEEDED | {"number": 2, "value": None, "state": "failed", "reason": "nan_loss", "intermediate": {},
                      "message": "loss is NaN at step 3"}  # fmt: skip
STUDY = {"id": "s", "kind": "hpo", "state": "succeeded", "spec": {"objective": {"metric": "val/ic"}, "n_trials": 3},
         "progress": {"phase": "ending", "step": 3, "steps": 3}}  # fmt: skip


def on_request(request: Handler) -> None:
    match request.path:
        case "/jobs/s":
            request.respond(200, STUDY)
        case "/jobs/s/trials":
            request.respond(200, {"items": [SUCCEEDED, PRUNED, FAILED]})
        case "/jobs/s/best":
            request.respond(200, {"number": 0, "job_id": "t0", "params": PARAMS, "value": 0.08, "epoch": 2})
        case "/jobs/s/importance":
            request.respond(200, {"importance": None, "num_trials": 1, "why": "1 trial ended with a value"})
        case "/jobs/s/promote":
            request.respond(202, {"id": "p", "kind": "train", "state": "queued", "spec": json.loads(request.read())})
        case _:
            request.respond(404, {"title": "Not Found"})


@pytest.fixture
def service() -> Iterator[sync.Client]:
    with serving(on_request) as client:
        yield client


@pytest.mark.parametrize("terminal", [False, True])
def test_a_study_is_shown_trial_by_trial(service: sync.Client, terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, width=200, force_terminal=terminal, color_system=None)
    assert study_display.watch_study(service, "s", console).state == "succeeded"
    shown = text.getvalue()
    for words in ("0.0800", "pruned", "failed (nan_loss)", "3/3", "(trial 0)"):
        assert words in shown
    if not terminal:
        assert "\x1b" not in shown
        assert len(shown.splitlines()) == 3
        assert "loss is NaN at step 3" in shown


def test_a_trial_without_a_value_is_never_the_best() -> None:
    trials = [Trial.model_validate(one) for one in (FAILED, PRUNED, SUCCEEDED | {"number": 3, "value": -0.5})]
    best = study_display.best_of(Job.model_validate(STUDY), trials)
    assert best is not None
    assert best.number == 3
    assert study_display.best_of(Job.model_validate(STUDY), trials[:2]) is None


def test_study_commands_print_their_results(service: sync.Client) -> None:
    def atft(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["--url", service.url, *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert [trial["state"] for trial in json.loads(atft("trials", "s", "--json"))] == ["succeeded", "pruned", "failed"]
    assert "(0.0100)" in atft("trials", "s")
    assert "0.0800" in atft("best", "s")
    assert "1 trial ended with a value" in atft("importance", "s")
    assert json.loads(atft("watch", "s", "--json"))["id"] == "s"
    sent = json.loads(atft("promote", "s", "--set", "optimizer.lr=1e-3", "--set", "optimizer.name=adabelief", "--json"))
    assert sent["spec"] == {"as": "train", "optimizer.lr": 0.001, "optimizer.name": "adabelief"}
    assert CliRunner().invoke(app, ["--url", service.url, "promote", "s", "--set", "lr"]).exit_code == 2


def test_the_study_of_the_demo_is_a_valid_spec() -> None:
    spec = HpoSpec.model_validate(study_spec("planted", PLANTED, SPLIT, TRIALS, "cpu"))
    assert (spec.n_trials, spec.parallelism) == (20, 2)


def found(**pair: Any) -> Comparison:
    sides = [{"id": "a", "name": "adabelief", "mean": 0.06}, {"id": "b", "name": "adamw", "mean": 0.07}]
    body = {"a": "a", "b": "b", "mean_difference": -0.01, "ci95": [-0.03, 0.01], "verdict": "insufficient evidence"}
    return Comparison.model_validate({"metric": METRIC, "jobs": sides, "fair": True, "pairs": [body | pair]})


def test_the_conclusion_has_the_verdict_and_its_confidence_interval() -> None:
    best = BestTrial(number=0, job_id="t0", params={}, value=0.08)
    oracle = {"oracle_observed": {METRIC: 0.15}}
    metrics = Metrics(job_id="b", state="succeeded", latest={METRIC: 0.07}, baselines=oracle)
    text = conclusion(found(), {"adabelief": 0.4, "adamw": None}, best, {"adamw": metrics})
    interval = "insufficient evidence (95 % interval -0.0300 to +0.0100)"
    for words in (interval, "adabelief 40%", "adamw undefined", "0.15"):
        assert words in text


def test_the_demo_passes_only_when_every_trial_succeeded_with_finite_values() -> None:
    best = BestTrial(number=0, job_id="t0", params={}, value=0.08)
    good = [Trial.model_validate(SUCCEEDED), Trial.model_validate(PRUNED)]
    shares = {ORACLE_SHARE: -0.2}
    assert study_passed(good, 2, best, found(), shares)
    assert not study_passed(good, 3, best, found(), shares)
    assert not study_passed([*good, Trial.model_validate(FAILED)], 3, best, found(), shares)
    assert not study_passed(good, 2, best, found(), {ORACLE_SHARE: None})
    assert not study_passed(good, 2, best, found(mean_difference=None), shares)
