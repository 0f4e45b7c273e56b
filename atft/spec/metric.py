"""The table of metrics: names, meaning, direction, and where each may be used. A metric's name stands here only.

Stored names are `{scope}/{metric}`, the mean over horizons, and `{scope}/{metric}@{h}d`; with several folds `val.2/…`
belongs to the second. What an epoch is chosen on and what a page shows is read from this table.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Final, Literal

Scope = Literal["train", "val", "test", "step", "time", "system"]
Unit = Literal["number", "days", "share", "seconds", "bytes"]
TRAIN: Final = "train"
VAL: Final = "val"
TEST: Final = "test"
STEP: Final = "step"  # one value an update; all others are of epochs
TIME: Final = "time"
SYSTEM: Final = "system"

LOSS: Final = "loss"
LR: Final = "lr"
SKIPPED_DAYS: Final = "skipped_days"
IC: Final = "ic"
RANK_IC: Final = "rank_ic"
ICIR: Final = "icir"
RANK_ICIR: Final = "rank_icir"
IC_T: Final = "ic_t"
RANK_IC_T: Final = "rank_ic_t"
HIT_RATE: Final = "hit_rate"
SHARPE_DAILY: Final = "sharpe_daily"
SHARPE_ANN: Final = "sharpe_ann"
SHARPE_NET_ANN: Final = "sharpe_net_ann"
TURNOVER: Final = "turnover"
MAX_DRAWDOWN: Final = "max_drawdown"
SPREAD: Final = "spread"
PSI: Final = "psi"
PRED_STD_RATIO: Final = "pred_std_ratio"
NUM_DAYS: Final = "num_days"
NUM_UNDEFINED_DAYS: Final = "num_undefined_days"
ORACLE_SHARE: Final = "oracle_share_ratio"
LONG_SHORT: Final = "long_short"
GRAD_NORM: Final = "grad_norm"
SAMPLES_PER_SECOND: Final = "samples_per_second"
RSS_BYTES: Final = "rss_bytes"
GPU_MEMORY_BYTES: Final = "gpu_memory_bytes"
CPU_UTILIZATION: Final = "cpu_utilization_ratio"
GPU_UTILIZATION: Final = "gpu_utilization_ratio"
OS_THREADS_PEAK: Final = "os_threads_peak"
EPOCH_PARTS: Final = ("data", "graph", "forward", "backward", "optimizer", "validation")


def part_seconds(part: str) -> str:
    """Name of the seconds that a part of an epoch took."""
    return f"{part}_seconds"


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    `scopes`: where its values are reported; none for daily values only, whose mean is the metric `mean`. `objective`,
    `compared`, `shown`: its place, from 1, among the metrics that an epoch may be chosen on, those kept day by day and
    so compared, and those that a job's page lists; 0: not among them.
    """

    name: str
    doc: str
    _: KW_ONLY
    scopes: tuple[Scope, ...] = (VAL, TEST)
    unit: Unit = "number"
    better: Literal["higher", "lower"] | None = None
    by_horizon: bool = True
    each_epoch: bool = True
    objective: int = 0
    compared: int = 0
    shown: int = 0
    mean: str | None = None


def _of_run(name: str, doc: str, *scopes: Scope, unit: Unit = "number") -> Metric:
    return Metric(name, doc, scopes=scopes, unit=unit, by_horizon=False)


METRICS: Final = (
    Metric(
        LOSS,
        "the training objective, and `loss_…` each of its terms",
        scopes=(TRAIN, VAL, TEST, STEP),
        better="lower",
        by_horizon=False,
        objective=1,
        shown=13,
    ),
    _of_run(LR, "learning rate", TRAIN, STEP),
    _of_run(SKIPPED_DAYS, "training days of an epoch on which no loss is defined", TRAIN, unit="days"),
    Metric(
        IC,
        "mean over days of the Pearson correlation of score and forward return",
        better="higher",
        objective=2,
        compared=2,
        shown=3,
    ),
    Metric(
        RANK_IC,
        "mean over days of Spearman's rank correlation",
        better="higher",
        objective=3,
        compared=1,
        shown=1,
    ),
    Metric(ICIR, "mean / standard deviation (ddof 1) of the daily IC", better="higher", objective=4, shown=5),
    Metric(RANK_ICIR, "mean / standard deviation (ddof 1) of the daily RankIC", better="higher", objective=5, shown=4),
    Metric(
        IC_T,
        "Newey–West t of the daily IC, lag at least h - 1; for information only, verdicts use the cosine estimator. "
        "In a comparison it is the t of the compared metric",
        better="higher",
        shown=6,
    ),
    Metric(RANK_IC_T, "Newey–West t of the daily RankIC", better="higher", shown=2),
    Metric(HIT_RATE, "share of days on which RankIC is above 0", better="higher", objective=9, shown=7),
    Metric(
        SHARPE_DAILY,
        "mean / standard deviation of the daily long–short return (top and bottom 20 % by score, equal weight)",
        better="higher",
        objective=6,
    ),
    Metric(
        SHARPE_ANN,
        "annualised Sharpe ratio: mean / std · √(252 / h) on non-overlapping days",
        better="higher",
        objective=7,
        shown=8,
    ),
    Metric(
        SHARPE_NET_ANN,
        "the same, net of costs: turnover · cost in basis points",
        better="higher",
        objective=8,
        shown=9,
    ),
    Metric(TURNOVER, "mean over rebalancings of ½ Σ|w_d - w_{d-1}|", shown=10),
    Metric(MAX_DRAWDOWN, "maximum drawdown of the compounded long–short return, ≤ 0", better="higher", shown=11),
    Metric(SPREAD, "mean return of the top less the bottom quantile", better="higher", objective=10, shown=12),
    Metric(
        PSI,
        "population stability index of the scores, a measure of drift; above .25 gives a warning",
        better="lower",
    ),
    Metric(
        PRED_STD_RATIO,
        "standard deviation of the scores over that of the targets; near 0 the scores have collapsed",
        shown=14,
    ),
    Metric(NUM_DAYS, "days on which RankIC is defined", unit="days", better="higher", shown=16),
    Metric(NUM_UNDEFINED_DAYS, "days on which RankIC is undefined", unit="days", better="lower"),
    Metric(
        ORACLE_SHARE,
        "planted panels only: the model's RankIC divided by the observed-history oracle's on the same days",
        better="higher",
        each_epoch=False,
        shown=15,
    ),
    Metric(
        LONG_SHORT,
        "in comparisons: the daily long–short return behind Sharpe ratio, spread and drawdown",
        scopes=(),
        better="higher",
        compared=3,
        mean=SPREAD,
    ),
    _of_run(GRAD_NORM, "norm of an update's gradient before clipping", STEP),
    *(_of_run(part_seconds(part), f"seconds of an epoch: {part}", TIME, unit="seconds") for part in EPOCH_PARTS),
    _of_run(SAMPLES_PER_SECOND, "(stock, day) samples trained a second", TIME),
    _of_run(RSS_BYTES, "resident memory of the process", SYSTEM, unit="bytes"),
    _of_run(GPU_MEMORY_BYTES, "used memory of the GPU", SYSTEM, unit="bytes"),
    _of_run(CPU_UTILIZATION, "processor seconds per second and allowed thread", SYSTEM, unit="share"),
    _of_run(GPU_UTILIZATION, "busy share of the GPU", SYSTEM, unit="share"),
    _of_run(OS_THREADS_PEAK, "most threads of the process", SYSTEM),
)


def full_name(scope: str, metric: str, horizon: int | None = None) -> str:
    """`val/rank_ic`, or `val/rank_ic@5d`."""
    return f"{scope}/{metric if horizon is None else with_horizon(metric, horizon)}"


def with_horizon(metric: str, horizon: int) -> str:
    """`rank_ic@5d`."""
    return f"{metric}@{horizon}d"


def _in_order(place: Callable[[Metric], int]) -> tuple[Metric, ...]:
    return tuple(sorted((metric for metric in METRICS if place(metric)), key=place))


OBJECTIVES: Final = _in_order(lambda metric: metric.objective)
COMPARED: Final = _in_order(lambda metric: metric.compared)
SHOWN: Final = _in_order(lambda metric: metric.shown)
_MINIMIZED: Final = {metric.name for metric in OBJECTIVES if metric.better == "lower"}
LEADING: Final = full_name(VAL, RANK_IC)  # the default objective
LISTED: Final = (LEADING, full_name(TEST, RANK_IC))  # of a job in a list of jobs
VAL_LOSS: Final = full_name(VAL, LOSS)

_HORIZON: Final = "(@[0-9]+d)?"
_CHOSEN: Final = "|".join(metric.name if metric.by_horizon else f"{metric.name}$" for metric in OBJECTIVES)
OBJECTIVE_PATTERN: Final = f"^{VAL}/({_CHOSEN}){_HORIZON}$"
STUDY_PATTERN: Final = f"^{VAL}/[a-z_]+{_HORIZON}$"


def _stop_pattern() -> str:
    """Every metric of an epoch; the loss's terms are named after it."""
    loss = f"{LOSS}(_[a-z_]+)?"
    trained = [metric.name for metric in METRICS if TRAIN in metric.scopes and metric.name != LOSS]
    validated = [metric.name for metric in METRICS if VAL in metric.scopes and metric.by_horizon and metric.each_epoch]
    return f"^({TRAIN}/({'|'.join([loss, *trained])})|{VAL}/{loss}|{VAL}/({'|'.join(validated)}){_HORIZON})$"


STOP_METRIC_PATTERN: Final = _stop_pattern()


def lower_is_better(objective: str) -> bool:
    """Whether an epoch is better the lower its objective, given by its full name."""
    return objective.partition("/")[2].partition("@")[0] in _MINIMIZED
