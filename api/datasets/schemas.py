"""Response models of datasets, their versions and the origin of each version."""

from typing import Final, Literal
from uuid import UUID

from pydantic import Field, JsonValue

from api.http import examples
from api.http.schemas import Page, Time, View, example


class DatasetPlan(View):
    """The plan of a dataset: the report of `python -m atft inspect`. Nothing is stored."""

    model_config = example(examples.DATASET_PLAN)

    spec: dict[str, JsonValue]
    spec_digest: str
    warnings: list[str]
    inspection: dict[str, JsonValue] = Field(description="guessed schema, profile and what would be built")
    registered: list[str] = Field([], description="existing versions (`name@version`) with the same content")


class DatasetSummary(View):
    """One version of a dataset; in lists the newest."""

    model_config = example(examples.DATASET_SUMMARY)

    name: str
    version: int
    fingerprint: str = Field(description="digest of the content: the same input and spec give the same fingerprint")
    num_days: int | None
    num_codes: int | None
    num_rows: int | None
    num_features: int = Field(description="per-stock and market-wide features together")
    num_warnings: int = Field(description="warnings of the profile")
    days: tuple[str, str] | None = Field(description="first and last trading day")
    horizons: list[int]
    size_bytes: int
    job_id: UUID = Field(description="the job that built it")
    created_at: Time
    link: str
    page: str


class OriginFile(View):
    """One file that a version was made from."""

    model_config = example(examples.ORIGIN_FILE)

    role: Literal["panel", "universe", "market"]
    name: str | None = Field(description="file name of the upload, or path under the data root")
    size_bytes: int | None = Field(description="size of an upload")
    sha256: str | None = Field(description="digest of an upload as it was received")


class Origin(View):
    """Where a version comes from."""

    model_config = example(examples.ORIGIN)

    kind: Literal["upload", "path", "planted"]
    files: list[OriginFile]
    source_sha256: str | None = Field(description="digest of all bytes that the build read")
    by: str = Field(description="principal that registered it")
    asked_at: Time
    versions: dict[str, JsonValue] = Field(description="versions of the programs that built it")


class DatasetVersion(View):
    """One version: where it comes from, and how many jobs were submitted on it."""

    model_config = example(examples.DATASET_VERSION)

    version: int
    fingerprint: str
    size_bytes: int
    job_id: UUID
    created_at: Time
    num_jobs: int = Field(description="jobs submitted on this version; `jobs` lists them")
    num_unfinished_jobs: int = Field(description="the version cannot be deleted while there are any")
    origin: Origin
    link: str
    jobs: str


class DatasetView(DatasetSummary):
    """One dataset with its columns, profile, leak report and versions."""

    model_config = example(examples.DATASET)

    columns: list[str] = Field(description="feature names in the order in which the network reads them")
    market_columns: list[str]
    formulas: dict[str, str] = Field(description="formula of each feature")
    normalisation: dict[str, str]
    spec: dict[str, JsonValue]
    profile: dict[str, JsonValue]
    leak_report: dict[str, JsonValue]
    versions: list[DatasetVersion]


class DatasetPage(Page[DatasetSummary]):
    """All datasets by name."""

    model_config = example({"items": [examples.DATASET_SUMMARY], "next_cursor": None})


DATASET_MODELS: Final = (
    DatasetPlan,
    DatasetSummary,
    OriginFile,
    Origin,
    DatasetVersion,
    DatasetView,
    DatasetPage,
)
