"""Checks of `init_from`: the source has the same encoder and inputs, and was trained on earlier days only.

Shared by the API, which refuses the request, and the child, which refuses the run.
"""

from collections.abc import Sequence

from atft.spec.base import Spec, refuse
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.split_plan import DayRanges, Fold, plan_split

SHAPE_FIELDS = ("hidden_size", "attention_heads", "use_fan", "use_gat")
FAN_SHAPE_FIELDS = ("fan_top_k",)
GRAPH_SHAPE_FIELDS = ("gat_layers", "gat_heads", "learn_temperature")


def check_member(spec: RunSpec, source: Spec) -> None:
    """Refuse an ensemble without a member's number, and a number that is no member's, with pointer `/init_from`."""
    job, member = f"job {spec.source_job}", spec.source_member
    count = len(source.seeds) if isinstance(source, EnsembleSpec) else 0
    if count and (member is None or member > count):
        refuse(
            "/init_from",
            f"{job} is an ensemble, and each of its {count} members has weights: name one, {spec.source_job}#1 to "
            f"#{count}",
        )
    if member is not None and not count:
        refuse("/init_from", f"{job} is no ensemble, and has no member {member}: give its id alone")


def check_encoder_shape(spec: RunSpec, source: RunSpec) -> None:
    """Refuse an encoder of another shape, with pointer `/init_from`; the caller compares the number of features."""
    own, earlier = spec.model, source.model
    names = SHAPE_FIELDS + FAN_SHAPE_FIELDS * own.use_fan + GRAPH_SHAPE_FIELDS * own.use_gat
    pairs = {f"model.{name}": (getattr(earlier, name), getattr(own, name)) for name in names}
    pairs["data.window"] = (source.data.window, spec.data.window)
    differ = [f"{name} was {before} and is {now}" for name, (before, now) in pairs.items() if before != now]
    if differ:
        refuse("/init_from", f"the encoder of job {spec.source_job} has another shape: {'; '.join(differ)}")
    folds = source.split.num_splits
    if folds not in (1, spec.split.num_splits):
        refuse(
            "/init_from",
            f"job {spec.source_job} has weights of {folds} folds, this training has {spec.split.num_splits}: begin "
            "with a job of one fold, or of the same folds",
        )


def same_heads(spec: RunSpec, source: RunSpec) -> bool:
    """Whether the source's output heads have the same horizons and quantiles as this training's."""
    return (
        source.scored and source.data.horizons == spec.data.horizons and source.model.quantiles == spec.model.quantiles
    )


def source_fold(source: RunSpec, fold: int) -> int:
    """The source's fold whose weights `fold` starts from, both counted from 0."""
    return fold if source.split.num_splits > 1 else 0


def check_no_lookahead(spec: RunSpec, num_days: int, ancestors: Sequence[RunSpec]) -> None:
    """Refuse weights trained or selected on this training's evaluation days, with pointer `/init_from`.

    `ancestors` are the source, the run that the source started from, and so on, all on the same `num_days` trading
    days. The training days of every ancestor end a gap before each validation and test day and, in k-fold and CPCV,
    begin a gap after it. The validation days of an ancestor, which selected its weights, keep the same distance from
    test days. The gap is the longer one of the two runs.
    """
    later = plan_split(num_days, spec.data.window, max(spec.data.horizons), spec.split)
    plans = [plan_split(num_days, run.data.window, max(run.data.horizons), run.split) for run in ancestors]
    for number, fold in enumerate(later.folds):
        ancestor_fold = number
        for run, plan in zip(ancestors, plans, strict=True):
            ancestor_fold = source_fold(run, ancestor_fold)
            gap = max(spec.split.embargo_days, run.split.embargo_days)
            _check_fold(spec, fold, plan.folds[ancestor_fold], gap, number)


def _check_fold(spec: RunSpec, later: Fold, earlier: Fold, gap: int, number: int) -> None:
    both_ways = spec.split.kind != "walk_forward"
    for seen, use in ((earlier.train, "trained"), (earlier.val, "was chosen")):
        for evaluated, role in ((later.val, "validation"), (later.test, "test")):
            if use == "was chosen" and role == "validation":
                continue  # both runs may choose by the same days
            day = _first_day_too_close(seen, evaluated, gap, both_ways=both_ways)
            if day is not None:
                where = f" of fold {number + 1}" if spec.split.num_splits > 1 else ""
                refuse(
                    "/init_from",
                    f"the weights of job {spec.source_job} {use} on day {day} of the panel, which is less than {gap} "
                    f"days before{' or after' if both_ways else ', or after,'} a {role} day{where} of this training: "
                    "use the same split in both, or an earlier one in the first",
                )


def _first_day_too_close(seen: DayRanges, evaluated: DayRanges, gap: int, *, both_ways: bool) -> int | None:
    """A seen day closer than `gap` to an evaluated one, or (unless `both_ways`) after it; None if there is none."""
    for part in evaluated:
        for days in seen:
            if days.stop > part.start - gap and (not both_ways or days.start < part.stop + gap):
                return max(days.start, min(days.stop - 1, part.start))
    return None
