"""Response models of `GET /compare`. Every undefined number is null."""

from typing import Final
from uuid import UUID

from pydantic import ConfigDict, Field, JsonValue

from api.http import examples
from api.http.schemas import View
from api.jobs.schemas import Series
from jobs.states import JobState


class ComparedJob(View):
    """One job or baseline. Only a succeeded job has numbers; others have null."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.COMPARISON["jobs"][0]]})

    id: str = Field(description="the job's id; `baseline:NAME` for a stored baseline")
    name: str | None
    mean: float | None = Field(description="mean over the days on which the metric is defined")
    std: float | None = Field(description="standard deviation over days, ddof 1")
    ic_t: float | None = Field(description="Newey–West t of the mean; the verdicts do not use it")
    num_days: int = Field(description="days on which the metric is defined")
    state: JobState | None = Field(description="null for a baseline")


class ComparedPair(View):
    """`a` minus `b`, day by day, on the days on which both are defined."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.COMPARISON["pairs"][0]]})

    a: str
    b: str
    mean_difference: float | None
    t: float | None = Field(description="equal-weighted cosine estimator (Lazarus, Lewis, Stock, Watson 2018)")
    degrees_of_freedom: int | None
    p_value: float | None = Field(description="two-sided, not adjusted for the number of pairs")
    ci95: tuple[float, float] | None
    num_days: int = Field(description="days that were compared")
    num_dropped: int = Field(description="days of either side that were left out, since one side is undefined")
    verdict: str


class Comparison(View):
    """Compared jobs, their differing settings, and tests of their differences."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.COMPARISON]})

    metric: str
    jobs: list[ComparedJob] = Field(description="in the requested order, then the baselines")
    differences: dict[str, list[JsonValue]] = Field(
        description="dotted field of the spec: its value in each job; without `name` and `tags`"
    )
    fair: bool = Field(description="same data, days and seed, exactly one setting differs, and all succeeded")
    unfair_because: list[str]
    pairs: list[ComparedPair] = Field(description="every pair for up to 10 sides, else each side against the first")
    model_confidence_set: list[str] | None = Field(
        description="ids that are not significantly worse than the best at 95 %, by every HORIZON-th common day; null "
        "below 3 sides or 30 such days"
    )
    curves: dict[UUID, Series] = Field(description="the metric by epoch on validation days, of each job that has it")


COMPARISON_MODELS: Final = (ComparedJob, ComparedPair, Comparison)
