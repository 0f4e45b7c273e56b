"""State of a run that a checkpoint stores besides tensors, as plain JSON, for a bit-equal resume."""

from dataclasses import asdict, dataclass, field
from typing import Self

from pydantic import TypeAdapter

from atft.spec.reason import Reason
from atft.train.stopping import StoppingState


@dataclass(kw_only=True, slots=True)
class FoldState:
    """State of the training on one fold."""

    seed: int | None = None  # of its steps
    epoch: int = 0  # epochs complete
    position: int = 0  # steps done in the current epoch
    trained: bool = False  # the epoch's steps are done and the scheduler has stepped; validation is not done
    loss_sum: float = 0.0  # of the current epoch, over counted days
    loss_days: int = 0
    skipped_days: int = 0
    part_sums: dict[str, float] = field(default_factory=dict)
    lr_by_epoch: list[float] = field(default_factory=list)
    batches_by_epoch: list[int] = field(default_factory=list)
    samples_by_epoch: list[int] = field(default_factory=list)
    gradient_norms: dict[str, float] = field(default_factory=dict)  # of the first update
    best_epoch: int = 0  # 1-based; 0: none yet
    best_value: float | None = None
    best_sha256: str | None = None  # of the file of its weights
    best_metrics: dict[str, float | None] = field(default_factory=dict)
    reference: float | None = None  # the value early stopping measures from
    bad_epochs: int = 0
    rules: list[StoppingState] = field(default_factory=list)
    end_reason: Reason | None = None  # no further epoch: early stopping or a stop rule
    end_message: str = ""

    def begin_epoch(self) -> None:
        self.position, self.trained = 0, False
        self.loss_sum, self.loss_days, self.skipped_days = 0.0, 0, 0
        self.part_sums = {}


@dataclass(kw_only=True, slots=True)
class RunState:
    """State of the whole run; the last of `folds` is the current one, those before it are done."""

    folds: list[FoldState]
    updates: int = 0  # optimizer steps in all
    saves: int = 0
    micro_batch_days: int = 0
    elapsed_seconds: float = 0.0  # over all attempts

    @property
    def fold(self) -> FoldState:
        return self.folds[-1]

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, body: dict[str, object]) -> Self:
        """Raises pydantic.ValidationError."""
        return TypeAdapter(cls).validate_python(body)
