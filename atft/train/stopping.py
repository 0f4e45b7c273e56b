"""Early stopping and stop rules, as pure functions on state that a checkpoint stores."""

from collections.abc import Mapping
from dataclasses import dataclass

from atft.spec.metric import lower_is_better
from atft.spec.reason import Reason
from atft.spec.training import StopRule, TrainerSpec


@dataclass(kw_only=True, slots=True)
class StoppingState:
    previous: float | None = None
    falling: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StopDecision:
    reason: Reason
    message: str


def improves(objective: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether `value` beats `best` by more than `min_delta`, in the direction of `objective`."""
    if best is None:
        return True
    gain = best - value if lower_is_better(objective) else value - best
    return gain > min_delta


def check_rule(rule: StopRule, state: StoppingState, epoch: int, value: float | None) -> str | None:
    """Update `state` with this epoch's value (epochs count from 1); the message when the rule stops the run, else None.

    An undefined value neither stops the run nor resets the count of falling epochs.
    """
    if value is None:
        return None
    state.falling = state.falling + 1 if state.previous is not None and value < state.previous else 0
    state.previous = value
    if epoch < rule.at_epoch:
        return None
    if rule.below is not None and value < rule.below:
        return f"{rule.metric} = {value:.6g} is below {rule.below:.6g} at epoch {epoch}"
    if rule.above is not None and value > rule.above:
        return f"{rule.metric} = {value:.6g} is above {rule.above:.6g} at epoch {epoch}"
    if rule.falling is not None and state.falling >= rule.falling:
        return f"{rule.metric} has fallen {state.falling} epochs running, to {value:.6g} at epoch {epoch}"
    return None


def decide_stop(
    trainer: TrainerSpec, rules: list[StoppingState], *, epoch: int, bad_epochs: int, values: Mapping[str, float | None]
) -> StopDecision | None:
    """Whether to stop after this epoch, by stop rules first, then early stopping; updates every rule's state."""
    fired = [
        message
        for rule, state in zip(trainer.stop_rules, rules, strict=True)
        if (message := check_rule(rule, state, epoch, values.get(rule.metric)))
    ]
    if fired:
        return StopDecision(reason=Reason.STOP_RULE, message="; ".join(fired))
    patience = trainer.early_stopping.patience if trainer.early_stopping is not None else None
    if patience is not None and bad_epochs >= patience:
        return StopDecision(
            reason=Reason.EARLY_STOPPED, message=f"{trainer.objective} has not improved for {bad_epochs} epochs"
        )
    return None
