"""Response models of datasets: the summary of a version, and the origin of its files."""

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from api.datasets.views import dataset_summary, dataset_view, origin
from jobs.db.tables import Dataset, Job

NOW = datetime(2024, 1, 2, tzinfo=UTC)


def version(number: int = 1, **manifest: Any) -> Dataset:
    return Dataset(
        id=uuid4(), name="a b", version=number, fingerprint="f1", spec={}, manifest=manifest,
        profile={"warnings": ["few days"]}, leak_report={}, size_bytes=10, job_id=uuid4(), created_at=NOW,
    )  # fmt: skip


def job(params: dict[str, Any] | None) -> Job:
    return Job(params=params, created_by="ann", created_at=NOW, evidence={"versions": {"atft": "1.0"}})


def test_a_summary_counts_features_and_warnings_and_links_the_name() -> None:
    row = version(
        feature_names=["f1", "f2"], market_names=["vix"], calendar={"first_day": "2020-01-01", "last_day": "2020-02-01"}
    )
    summary = dataset_summary(row)
    assert (summary.num_features, summary.num_warnings, summary.num_rows) == (3, 1, None)
    assert summary.days == ("2020-01-01", "2020-02-01")
    assert summary.link == "/datasets/a%20b"
    assert dataset_summary(version()).days is None


@pytest.mark.parametrize(
    ("params", "kind", "files"),
    [
        (None, "planted", []),
        ({"files": {"panel": "data:prices.parquet"}}, "path", [("panel", "prices.parquet", None)]),
        (
            {
                "files": {"universe": "upload:u/universe.csv", "panel": "upload:u/file.csv"},
                "sources": {"panel": {"name": "mine.csv", "size_bytes": 7, "sha256": "aa"}},
            },
            "upload",
            [("panel", "mine.csv", 7), ("universe", None, None)],
        ),
    ],
)
def test_the_origin_names_the_files_that_were_sent(params: dict[str, Any], kind: str, files: list[Any]) -> None:
    found = origin(version(source_sha256="bb"), job(params))
    assert (found.kind, found.by, found.source_sha256) == (kind, "ann", "bb")
    assert [(file.role, file.name, file.size_bytes) for file in found.files] == files


def test_a_dataset_lists_its_versions_with_their_jobs() -> None:
    first, second = version(1), version(2)
    view = dataset_view(second, [(second, job(None)), (first, job(None))], {second.id: (3, 1), first.id: (0, 0)})
    assert [(one.version, one.num_jobs, one.num_unfinished_jobs) for one in view.versions] == [(2, 3, 1), (1, 0, 0)]
    assert view.versions[0].jobs == "/jobs?dataset=a%20b@2"
