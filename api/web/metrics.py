"""What the pages draw of a run's metrics: written into their HTML as JSON, so that no script has names of its own."""

from dataclasses import asdict, dataclass
from typing import Final

from atft.spec.metric import (
    COMPARED,
    CPU_UTILIZATION,
    EPOCH_PARTS,
    GPU_MEMORY_BYTES,
    GPU_UTILIZATION,
    GRAD_NORM,
    IC_T,
    LEADING,
    LOSS,
    LR,
    METRICS,
    RANK_IC,
    RANK_IC_T,
    RSS_BYTES,
    SAMPLES_PER_SECOND,
    SHOWN,
    STEP,
    SYSTEM,
    TEST,
    TIME,
    TRAIN,
    VAL_LOSS,
    Unit,
    full_name,
    part_seconds,
)

_UNITS: Final = {metric.name: metric.unit for metric in METRICS}


@dataclass(frozen=True, kw_only=True, slots=True)
class _Figure:
    """One figure: label by metric; `colour` is the number of the first line's."""

    title: str
    lines: dict[str, str]
    x: str = "epoch"
    from_zero: bool = True
    colour: int = 0

    @property
    def unit(self) -> Unit:
        return _UNITS[next(iter(self.lines)).partition("/")[2]]


_FIGURES: Final = (
    _Figure(title="Loss", lines={full_name(TRAIN, LOSS): "training", VAL_LOSS: "validation"}, from_zero=False),
    _Figure(title="Learning rate", lines={full_name(STEP, LR): "learning rate"}, x=STEP),
    _Figure(title="Gradient norm", lines={full_name(STEP, GRAD_NORM): "before clipping"}, x=STEP, colour=3),
    _Figure(title="Seconds per epoch", lines={full_name(TIME, part_seconds(part)): part for part in EPOCH_PARTS}),
    _Figure(title="Samples per second", lines={full_name(TIME, SAMPLES_PER_SECOND): "training"}, colour=2),
    _Figure(
        title="Memory",
        lines={full_name(SYSTEM, RSS_BYTES): "process", full_name(SYSTEM, GPU_MEMORY_BYTES): "device"},
    ),
    _Figure(
        title="Device utilization",
        lines={
            full_name(SYSTEM, CPU_UTILIZATION): "processor, of its threads",
            full_name(SYSTEM, GPU_UTILIZATION): "GPU",
        },
    ),
)
PAGE_METRICS: Final = {
    "leading": {"name": LEADING, "metric": RANK_IC, "t": RANK_IC_T, "label": "RankIC"},
    "rows": [{"name": metric.name, "digits": 0 if metric.unit == "days" else 4} for metric in SHOWN],
    "figures": [asdict(figure) | {"unit": figure.unit} for figure in _FIGURES],
    "comparison_t": IC_T,
    "suggested": [
        *(full_name(TEST, RANK_IC, horizon) for horizon in (None, 1, 5, 10, 20)),
        *(full_name(TEST, metric.name) for metric in COMPARED if metric.name != RANK_IC),
        LEADING,
    ],
}
