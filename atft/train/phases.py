"""Phases of a run: the loss, the learning rate and the modules that an epoch trains with."""

from collections.abc import Mapping

from atft.train.scheduler import make_scheduler
from atft.train.setup import AnyObjective, TrainingSetup, objective_of


def enter(setup: TrainingSetup, epoch: int) -> None:
    """Set modules, loss and learning rate to the phase of 0-based `epoch`, and restart the scheduler.

    Parameters of frozen modules get no gradient, so that the optimizer skips them, weight decay included.
    """
    spec = setup.spec
    phase, _ = spec.trainer.phase_of(epoch)
    for name, child in setup.network.named_children():
        child.requires_grad_(phase.modules is None or name in phase.modules)
    setup.objective = objective_of(spec, setup.cache, setup.split.train, phase.loss)
    for group in setup.optimizer.param_groups:
        group["lr"] = phase.lr if phase.lr is not None else spec.optimizer.lr
        group.pop("initial_lr", None)  # else the new schedule would start from the old one's rate
    setup.scheduler = make_scheduler(spec.scheduler, setup.optimizer, max_epochs=phase.epochs)


def begins(setup: TrainingSetup, epoch: int) -> bool:
    """Whether 0-based `epoch` is the first of a phase."""
    return setup.spec.trainer.phase_of(epoch)[1] == epoch


def objectives(setup: TrainingSetup) -> list[AnyObjective]:
    """One objective for each different loss of the run."""
    spec = setup.spec
    own = dict.fromkeys(phase.loss for phase in spec.trainer.phases) or {None: None}  # in the order in which they run
    return [objective_of(spec, setup.cache, setup.split.train, loss) for loss in own]


def lacks_gradient_norms(setup: TrainingSetup, norms: Mapping[str, float]) -> bool:
    """Whether a module that trains in this phase has no gradient norm in `norms` yet."""
    return any(
        name not in norms and any(p.requires_grad for p in child.parameters())
        for name, child in setup.network.named_children()
    )
