"""Response models of datasets, from their rows and the jobs that built them."""

from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

from api.datasets.schemas import DatasetSummary, DatasetVersion, DatasetView, Origin, OriginFile
from jobs.db.tables import Dataset, Job

_ROLES: Final = ("panel", "universe", "market")


def _ref(row: Dataset) -> str:
    return f"{quote(row.name)}@{row.version}"


def _summary(row: Dataset) -> dict[str, Any]:
    manifest = row.manifest
    calendar = manifest.get("calendar") or {}
    return {
        "name": row.name,
        "version": row.version,
        "fingerprint": row.fingerprint,
        "size_bytes": row.size_bytes,
        "job_id": row.job_id,
        "created_at": row.created_at,
        "num_features": len(manifest.get("feature_names", [])) + len(manifest.get("market_names", [])),
        "num_warnings": len(row.profile.get("warnings", [])),
        "days": (calendar["first_day"], calendar["last_day"]) if "first_day" in calendar else None,
        "horizons": manifest.get("horizons", []),
        "link": f"/datasets/{quote(row.name)}",
        "page": f"/ui/datasets/{quote(row.name)}",
    } | {name: manifest.get(name) for name in ("num_days", "num_codes", "num_rows")}


def dataset_summary(row: Dataset) -> DatasetSummary:
    return DatasetSummary(**_summary(row))


def origin(row: Dataset, job: Job) -> Origin:
    """The source files of a version and the principal, from the job that built it."""
    params = job.params or {}
    references = params.get("files", {})
    sources = params.get("sources", {})
    files = []
    for role in _ROLES:
        if role in references:
            scheme, _, path = references[role].partition(":")
            source = sources.get(role) or ({"name": path} if scheme == "data" else {})
            files.append(OriginFile(role=role, **{name: source.get(name) for name in ("name", "size_bytes", "sha256")}))
    panel = references.get("panel", "")
    return Origin(
        kind="upload" if panel.startswith("upload:") else "path" if panel else "planted",
        files=files,
        source_sha256=row.manifest.get("source_sha256"),
        by=job.created_by,
        asked_at=job.created_at,
        versions=(job.evidence or {}).get("versions", {}),
    )


def dataset_view(
    row: Dataset, versions: Sequence[tuple[Dataset, Job]], uses: Mapping[UUID, tuple[int, int]]
) -> DatasetView:
    """One dataset; `versions` with the jobs that built them, `uses` by version id: (jobs, unfinished jobs) on it."""
    return DatasetView(
        **_summary(row),
        columns=row.manifest.get("feature_names", []),
        market_columns=row.manifest.get("market_names", []),
        formulas=row.manifest.get("feature_formulas", {}),
        normalisation=row.manifest.get("normalisation", {}),
        spec=row.spec,
        profile=row.profile,
        leak_report=row.leak_report,
        versions=[
            DatasetVersion(
                version=v.version,
                fingerprint=v.fingerprint,
                size_bytes=v.size_bytes,
                job_id=v.job_id,
                created_at=v.created_at,
                num_jobs=uses[v.id][0],
                num_unfinished_jobs=uses[v.id][1],
                origin=origin(v, job),
                link=f"/datasets/{_ref(v)}",
                jobs=f"/jobs?dataset={_ref(v)}",
            )
            for v, job in versions
        ],
    )
