"""Phases: the modules, learning rate and loss of each epoch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from atft.data.cache.reader import Cache
from atft.spec.job import TrainSpec
from atft.train import phases
from atft.train.report import Reporter
from atft.train.setup import TrainingSetup, make_setup
from atft.train.step import Stepper
from atft.train.system_metrics import Timers

Make = Callable[..., TrainSpec]
TWO = [{"name": "heads", "epochs": 1, "modules": ["heads"], "lr": 0.01}, {"name": "all", "epochs": 2}]
SHORT = {"trainer.max_epochs": 3, "trainer.max_steps_per_epoch": 2, "trainer.early_stopping": None}


def training_setup(spec: TrainSpec, cache: Cache) -> TrainingSetup:
    return make_setup(spec, cache, Reporter(lambda _: None, epochs=1))


def test_phase_of_an_epoch(make_spec: Make) -> None:
    trainer = make_spec(**SHORT, **{"trainer.phases": TWO}).trainer
    assert [(trainer.phase_of(epoch)[0].name, trainer.phase_of(epoch)[1]) for epoch in range(4)] == [
        ("heads", 0),
        ("all", 1),
        ("all", 1),
        ("all", 1),
    ]
    plain = make_spec(**SHORT).trainer
    assert {plain.phase_of(epoch)[1] for epoch in range(4)} == {0}


def test_a_run_in_phases_proves_its_rates_and_gradients(make_spec: Make, run: Any, cache: Cache) -> None:
    spec = make_spec(**SHORT, **{"trainer.phases": TWO, "optimizer.weight_decay": 0.5})
    result = run(spec, test=False)
    assert result.last.type == "finished", result.last
    rates = result.evidence["scheduler"]["lr_by_epoch"]
    assert rates[0] == 0.01
    assert rates[1] == spec.optimizer.lr  # the second phase starts its schedule anew, from the run's own rate


def test_a_frozen_module_is_not_changed_even_by_weight_decay(make_spec: Make, cache: Cache) -> None:
    spec = make_spec(**SHORT, **{"trainer.phases": TWO, "optimizer.weight_decay": 0.5})
    setup = training_setup(spec, cache)
    phases.enter(setup, 0)
    before = {k: v.clone() for k, v in setup.network.state_dict().items()}
    step = Stepper(setup, Timers(setup.device), micro_batch_days=4, heartbeat=lambda _: None)
    done = step([setup.split.train[:4]], epoch=0, position=0, first=True)
    assert set(done.module_norms) == {"heads"}
    assert phases.lacks_gradient_norms(setup, {})
    assert not phases.lacks_gradient_norms(setup, done.module_norms)
    assert moved(setup, before) == {"heads"}
    phases.enter(setup, 1)
    assert phases.lacks_gradient_norms(setup, done.module_norms)
    step([setup.split.train[:4]], epoch=1, position=0, first=False)
    assert moved(setup, before) == {"selection", "fan", "temporal", "graph", "heads"}


def moved(setup: TrainingSetup, before: dict[str, Any]) -> set[str]:
    now = setup.network.state_dict()
    return {name.split(".")[0] for name, value in now.items() if not value.equal(before[name])}


@pytest.mark.parametrize(
    "change",
    [{"epochs": 2}, {"lr": 0.02}, {"modules": ["heads", "temporal"]}, {"loss": {"base": "mse"}}],
    ids=lambda change: next(iter(change)),
)
def test_pain_10_every_field_of_a_phase_changes_what_ran(change: dict[str, Any], make_spec: Make, run: Any) -> None:
    other = [{**TWO[0], **change}, {**TWO[1], "epochs": 3 - change.get("epochs", 1)}]
    first = run(make_spec(**SHORT, **{"trainer.phases": TWO}), "a", test=False)
    second = run(make_spec(**SHORT, **{"trainer.phases": other}), "b", test=False)
    assert first.last.type == second.last.type == "finished"
    assert first.rows != second.rows


def test_one_phase_of_everything_is_the_plain_run(make_spec: Make, run: Any) -> None:
    plain = run(make_spec(**SHORT), "a", test=False)
    phased = run(make_spec(**SHORT, **{"trainer.phases": [{"name": "all", "epochs": 3}]}), "b", test=False)
    assert plain.rows == phased.rows


def test_a_phase_whose_loss_leaves_a_module_without_gradient_fails_in_preflight(make_spec: Make, run: Any) -> None:
    dead = {"base_weight": 0.0, "rank_weight": 1e-300}
    spec = make_spec(
        **SHORT, **{"trainer.phases": [{"name": "a", "epochs": 1}, {"name": "b", "epochs": 2, "loss": dead}]}
    )
    last = run(spec, test=False).last
    assert last.type == "failed"
    assert last.reason == "preflight_failed"


def test_regime_weights_change_training_days_only(make_spec: Make, cache: Cache) -> None:
    plain = training_setup(make_spec(), cache)
    weighted = training_setup(make_spec(**{"loss.regime": "volatility_correlation"}), cache)
    weights = weighted.objective.day_weights
    assert weights is not None
    heaviest = plain.split.train[np.argmax(weights[plain.split.train])]
    assert weights[heaviest] > 1
    for days, same in ((np.array([heaviest]), False), (plain.split.val[:3], True)):
        batch = plain.reader.batch(days)
        values = [float(a.objective(a.network.eval()(batch), batch).total.detach()) for a in (plain, weighted)]
        assert (values[0] == values[1]) is same


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_that_stochastic_depth_skips_at_first_is_measured_later(
    seed: int, make_spec: Make, run: Any, cache: Cache
) -> None:
    depth = {"model.gat_layers": 1, "model.stochastic_depth": 0.8, "trainer.max_epochs": 4, "seed": seed}
    spec = make_spec(**{**SHORT, "trainer.max_steps_per_epoch": None, "trainer.batch_size": 24, **depth})
    result = run(spec, test=False)
    assert result.last.type == "finished", result.last
    assert result.evidence["modules"]["graph"]["grad_norm_first_step"] > 0


def test_a_phase_of_the_graph_alone_survives_skipped_layers(make_spec: Make, run: Any) -> None:
    alone = [{"name": "all", "epochs": 1}, {"name": "graph", "epochs": 2, "modules": ["graph"]}]
    depth = {"model.gat_layers": 1, "model.stochastic_depth": 0.8, "trainer.phases": alone}
    assert run(make_spec(**SHORT, **depth), test=False).last.type == "finished"


def test_the_test_days_loss_is_that_of_the_best_epochs_phase(make_spec: Make, run: Any) -> None:
    """The second phase learns next to nothing, so that the first one's weights stay the best."""

    def phased(**second: Any) -> dict[str, Any]:
        return {
            "trainer.max_epochs": 2,
            "trainer.phases": [
                {"name": "a", "epochs": 1},
                {"name": "b", "epochs": 1, "lr": 1e-12, "modules": ["graph"], **second},
            ],
        }

    plain = run(make_spec(**{**SHORT, **phased()}), "a")
    other = run(make_spec(**{**SHORT, **phased(loss={"base_weight": 100.0})}), "b")
    losses = [one.last.result["test"]["test/loss"] for one in (plain, other)]
    assert [one.last.result["best"]["epoch"] for one in (plain, other)] == [1, 1]
    assert losses[0] == losses[1]


def test_early_stopping_waits_for_the_last_phase(make_spec: Make, run: Any) -> None:
    stuck = [{"name": "heads", "epochs": 4, "modules": ["heads"], "lr": 1e-12}, {"name": "all", "epochs": 3}]
    patience = {"trainer.early_stopping": {"patience": 1}, "trainer.max_epochs": 7, "trainer.phases": stuck}
    result = run(make_spec(**{**SHORT, **patience}), test=False)
    assert result.last.type == "finished", result.last
    assert len(result.evidence["scheduler"]["lr_by_epoch"]) > 4
    assert all(module["grad_norm_first_step"] > 0 for module in result.evidence["modules"].values())


def test_preflight_tries_the_losses_that_run(make_spec: Make, run: Any) -> None:
    huge, plain = {"base_weight": 1e39}, {"base_weight": 1.0}
    phase = {"name": "all", "epochs": 3}
    first = run(make_spec(**SHORT, **{"trainer.phases": [{**phase, "loss": huge}]}), "a", test=False).last
    assert (first.type, first.reason) == ("failed", "preflight_failed")
    unused = {"loss.base_weight": 1e39, "trainer.phases": [{**phase, "loss": plain}]}
    assert run(make_spec(**SHORT, **unused), "b", test=False).last.type == "finished"
