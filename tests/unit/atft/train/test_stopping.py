from atft.spec.reason import Reason
from atft.spec.training import EarlyStopping, StopRule, TrainerSpec
from atft.train.stopping import StoppingState, check_rule, decide_stop, improves


def test_improves_uses_the_metrics_direction() -> None:
    assert improves("val/rank_ic@5d", 0.1, None)
    assert improves("val/rank_ic@5d", 0.2, 0.1)
    assert not improves("val/rank_ic", 0.1, 0.1)
    assert improves("val/loss", 0.1, 0.2)
    assert not improves("val/loss", 0.2, 0.1)
    assert not improves("val/rank_ic", 0.105, 0.1, min_delta=0.01)


def test_bounds_count_from_their_epoch() -> None:
    rule = StopRule(metric="val/rank_ic", at_epoch=2, below=0.0)
    assert check_rule(rule, StoppingState(), 1, -0.1) is None
    assert "below" in str(check_rule(rule, StoppingState(), 2, -0.1))
    assert check_rule(rule, StoppingState(), 2, 0.0) is None
    assert "above" in str(check_rule(StopRule(metric="val/loss", above=2.0), StoppingState(), 1, 3.0))


def test_falling_counts_epochs_in_a_row_and_skips_undefined_ones() -> None:
    rule, state = StopRule(metric="val/rank_ic", falling=2), StoppingState()
    stops = [
        check_rule(rule, state, epoch + 1, value) for epoch, value in enumerate([0.3, 0.2, None, 0.25, 0.2, None, 0.1])
    ]
    assert [s is not None for s in stops] == [False, False, False, False, False, False, True]


def test_a_rule_comes_before_early_stopping() -> None:
    trainer = TrainerSpec(
        early_stopping=EarlyStopping(patience=1), stop_rules=(StopRule(metric="val/loss", above=1.0),)
    )
    rule = decide_stop(trainer, [StoppingState()], epoch=1, bad_epochs=1, values={"val/loss": 2.0})
    assert rule is not None
    assert rule.reason is Reason.STOP_RULE
    early = decide_stop(trainer, [StoppingState()], epoch=1, bad_epochs=1, values={"val/loss": None})
    assert early is not None
    assert early.reason is Reason.EARLY_STOPPED
    assert decide_stop(trainer, [StoppingState()], epoch=1, bad_epochs=0, values={}) is None
    never = TrainerSpec(early_stopping=None)
    assert decide_stop(never, [], epoch=1, bad_epochs=999, values={}) is None
