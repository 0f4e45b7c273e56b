"""The route that compares jobs by a paired test."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Final
from uuid import UUID

from fastapi import APIRouter, Query
from sqlalchemy.orm import Session, defer

from api.comparisons.cache import CacheDep, Key
from api.comparisons.fairness import (
    DEFAULT_METRIC,
    EXAMPLE,
    METRICS,
    SPLITS,
    Daily,
    Measure,
    Side,
    invalid_query,
    listed,
    parse_measure,
)
from api.comparisons.schemas import Comparison
from api.comparisons.service import Baseline, compare, mean_by_day
from api.http import examples
from api.http.auth import Reader
from api.http.deps import ServiceDep, problems
from api.jobs.schemas import Series
from atft.spec.baselines import FITTED
from atft.spec.metric import COMPARED, TEST, VAL, full_name
from jobs.db.tables import Job
from jobs.record import baselines, history, queries
from jobs.record.actions import Action, refusal
from jobs.record.baselines import PENDING, READY
from jobs.states import JobState

router = APIRouter(tags=["results"])
MAX_JOBS: Final = 50
MAX_POINTS: Final = 1000
_WITHOUT_RESULTS: Final = [defer(column) for column in (Job.metrics, Job.baselines, Job.evidence)]
_Inputs = tuple[list[Side], dict[str, Baseline], dict[UUID, Series]]
JobIds = Annotated[
    list[UUID],
    Query(
        alias="job",
        min_length=1,
        max_length=MAX_JOBS,
        description="a training job, a trial or an ensemble; repeat it for each side",
        examples=[[examples.JOB_ID, examples.OTHER_JOB_ID]],
    ),
]
Baselines = Annotated[
    list[Annotated[str, Query(pattern=r"^[a-z][a-z0-9_]{0,49}$")]] | None,
    Query(alias="baseline", max_length=10, description="a stored baseline of these jobs as one more side; repeatable"),
]


@router.get("/compare", summary="Compare jobs", responses=problems(404))
async def compare_jobs(
    service: ServiceDep,
    cache: CacheDep,
    _: Reader,
    jobs: JobIds,
    metric: Annotated[
        str,
        Query(
            max_length=100,
            description=f"{listed(METRICS, 'or')} on {VAL}/ or {TEST}/; without @HORIZONd the mean over horizons",
            examples=[EXAMPLE],
        ),
    ] = DEFAULT_METRIC,
    baseline: Baselines = None,
) -> Comparison:
    """The differing settings of the jobs, whether the comparison is fair and if not why, and a test of each difference.

    The test is paired by day on the days on which both sides are defined, by the equal-weighted cosine estimator, whose
    size holds for overlapping labels. `verdict` is the result in words. With three or more sides, the model confidence
    set has those that are not significantly worse than the best, all comparisons at once.
    """
    measure, baseline_names = parse_measure(metric), list(baseline or ())
    for parameter, given in (("job", list(map(str, jobs))), ("baseline", baseline_names)):
        repeated = sorted({one for one in given if given.count(one) > 1})
        if repeated:
            raise invalid_query(parameter, f"give each once: {', '.join(repeated)} is there more than once")
    if len(jobs) + len(baseline_names) < 2:
        raise invalid_query("job", "a comparison needs two sides: give another job, or a baseline")
    key = await service.database.read(_cache_key, jobs, measure, baseline_names)
    found = cache.get(key)
    if found is None:
        inputs = await service.database.read(_load_inputs, jobs, measure, baseline_names)
        found = await asyncio.to_thread(_compare, inputs, measure)
        cache[key] = found
    return found


def _compare(inputs: _Inputs, measure: Measure) -> Comparison:
    return compare(inputs[0], inputs[1], measure, inputs[2])


def _owners(session: Session, jobs: Sequence[Job]) -> list[Job]:
    """The jobs, and those that compute their baselines."""
    return [*jobs, *baselines.jobs_of(session, jobs).values()]


def _cache_key(session: Session, job_ids: Sequence[UUID], measure: Measure, baseline_names: Sequence[str]) -> Key:
    """The cache key: the version of a job changes with every field that a comparison shows.

    Raises JobNotFound; Refused (422) for a job without daily values.
    """
    jobs = queries.get_all(session, job_ids, *_WITHOUT_RESULTS)
    for job in jobs:
        if (why := refusal(job, Action.COMPARE)) is not None:
            raise invalid_query("job", why)
    horizons = sorted({horizon for job in jobs for horizon in _horizons(job)})
    if measure.horizon is not None and measure.horizon not in horizons:
        raise invalid_query("metric", f"none of the jobs has the horizon {measure.horizon}; they have {horizons}")
    owners = _owners(session, jobs) if baseline_names else jobs
    return tuple((job.id, job.version) for job in owners), str(measure), tuple(baseline_names)


def _load_inputs(session: Session, job_ids: Sequence[UUID], measure: Measure, baseline_names: Sequence[str]) -> _Inputs:
    jobs = queries.get_all(session, job_ids, defer(Job.metrics))
    names = [job.name for job in jobs]
    daily = _daily(session, [job for job in jobs if job.state is JobState.SUCCEEDED], measure)
    sides = [_side(job, daily.get(job.id, {}), unique=names.count(job.name) == 1) for job in jobs]
    found: dict[str, Baseline] = {}
    owners = [job for job in _owners(session, jobs) if job.state is JobState.SUCCEEDED] if baseline_names else []
    for name in baseline_names:
        owner = next((job for job in owners if name in job.baselines), None)
        if owner is None:
            stored = sorted({stored for job in owners for stored in job.baselines})
            raise invalid_query(
                "baseline",
                "; ".join(
                    [
                        f"no succeeded job here has a baseline {name!r}",
                        f"they have {stored or 'none'}",
                        *_missing_baselines(session, jobs),
                    ]
                ),
            )
        found[name] = Baseline(_daily(session, [owner], measure, name)[owner.id], _saw_all_days(owner, name))
        if not found[name].daily:
            raise invalid_query("baseline", f"baseline {name!r} has no daily values of {measure}")
    return sides, found, _curves(session, jobs, measure)


def _saw_all_days(owner: Job, name: str) -> bool:
    """Whether a baseline was fitted on every training day of each fold, by its evidence, or is not fitted at all."""
    if name not in FITTED:
        return True
    folds = ((owner.evidence or {}).get("baselines") or {}).get(name) or []
    return bool(folds) and all(one.get("days_share") == 1.0 for one in folds)


def _missing_baselines(session: Session, jobs: Sequence[Job]) -> list[str]:
    """Of each job whose baselines another one computes, that this has not ended yet, or why it has none."""
    verdicts = [(job, baselines.verdict(session, job)) for job in jobs]
    return [
        f"job {found.baselines_job_id} still computes those of {job.id}"
        if found.text == PENDING
        else f"{job.id} has {found.text}"
        for job, found in verdicts
        if found.text not in (None, READY)
    ]


def _horizons(job: Job) -> tuple[int, ...]:
    return tuple(job.run.get("data", {}).get("horizons", ()))


def _side(job: Job, daily: Daily, *, unique: bool) -> Side:
    short = f"{job.kind} {str(job.id)[-8:]}"
    data = (job.evidence or {}).get("data", {})
    seeds = job.spec.get("seeds", [])
    days = {split: tuple(data[f"{split}_days"]) for split in SPLITS if f"{split}_days" in data}
    return Side(
        id=str(job.id),
        label=short if not job.name else job.name if unique else f"{job.name} ({short})",
        name=job.name,
        state=job.state,
        spec=job.spec if job.run is job.spec else job.run | {"seed": seeds, "members": len(seeds)},
        fingerprint=job.dataset_fingerprint,
        days=days or None,
        folds=data.get("folds", []),
        horizons=_horizons(job),
        daily=daily,
    )


def _daily(session: Session, jobs: Sequence[Job], measure: Measure, source: str = "") -> dict[UUID, Daily]:
    """The metric by day of each job; without a horizon, the mean over the job's own."""
    horizons = {job.id: _horizons(job) if measure.horizon is None else (measure.horizon,) for job in jobs}
    every = {horizon for own in horizons.values() for horizon in own}
    found = history.daily_series(session, horizons, measure.metric, measure.split, every, source)
    return {job_id: mean_by_day([found.get((job_id, h), {}) for h in own]) for job_id, own in horizons.items()}


def _curves(session: Session, jobs: Sequence[Job], measure: Measure) -> dict[UUID, Series]:
    """The metric by epoch on validation days of each job; of a metric with daily values only, its mean."""
    mean = next((metric.mean for metric in COMPARED if metric.name == measure.metric), None)
    by_epoch = full_name(VAL, mean or measure.metric, measure.horizon)
    curves: dict[UUID, Series] = {}
    for job in jobs:
        found = history.series(session, job.id, [by_epoch], 0, MAX_POINTS).get(by_epoch)
        if found is not None:
            curves[job.id] = Series.model_validate(found)
    return curves
