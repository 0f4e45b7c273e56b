"""Routes of datasets: register by upload, by server path or planted; list, get, delete."""

import asyncio
import json
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Request, Response
from pydantic import ValidationError
from sqlalchemy.orm import Session

from api.datasets.inspection import inspect
from api.datasets.schemas import DatasetPage, DatasetPlan, DatasetView
from api.datasets.uploads import Upload, receive
from api.datasets.views import dataset_summary, dataset_view
from api.http import examples
from api.http.auth import Audit, DatasetWriter, Reader
from api.http.deps import Cursor, DryRun, IdempotencyKey, Limit, ServiceDep, problems
from api.http.errors import Refused, from_pydantic, invalid
from api.http.path_guard import outside_data_root, resolve_data_path
from api.http.service import Service
from api.jobs.schemas import SubmittedView
from api.jobs.submission import (
    REFUSALS,
    RequestIdentity,
    SubmitRequest,
    answer,
    insert,
    plan_response,
    reject_nul,
    replay,
)
from api.training import admission
from atft.spec.data import DatasetRef, DatasetSpec
from jobs.access.audit import AuditEntry, record
from jobs.broker.queue import CPU
from jobs.db.tables import Dataset, Json
from jobs.record import catalog, queries
from jobs.record.caches import move_to_trash
from jobs.record.submission import NewJob
from jobs.states import JobKind

router = APIRouter(prefix="/datasets", tags=["datasets"])
Ref = Annotated[
    DatasetRef, Path(description="the dataset's name, or one version of it: name@version", examples=["us_2010_2017"])
]

_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"$ref": "#/components/schemas/DatasetSpec"},
                "examples": {
                    "path": {
                        "summary": "A file, or a folder of Parquet files, under the server's data root",
                        "value": examples.DATASET_PATH,
                    },
                    "planted": {"summary": "A synthetic panel with a known oracle", "value": examples.DATASET_PLANTED},
                },
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "spec"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "the panel: Parquet, Arrow IPC, CSV (.gz, .zst), Excel, SQLite or DuckDB",
                        },
                        "spec": {"$ref": "#/components/schemas/DatasetSpec"},
                    },
                    "additionalProperties": {
                        "type": "string",
                        "format": "binary",
                        "description": "named by universe.file or market.file",
                    },
                },
                "encoding": {"spec": {"contentType": "application/json"}},
            },
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=SubmittedView,
    openapi_extra=_BODY,
    summary="Register a dataset",
    response_description="The queued job that builds the dataset. `Location` is its URL.",
    responses={
        **problems(413, 415, 507),
        200: {"model": DatasetPlan, "description": "With `dry_run=true`: the plan. Nothing is stored."},
    },
)
async def create_dataset(
    request: Request,
    response: Response,
    service: ServiceDep,
    principal: DatasetWriter,
    entry: Audit,
    dry_run: DryRun = False,
    idempotency_key: IdempotencyKey = None,
) -> SubmittedView | Response:
    """Queue the build of a dataset's cache from a panel of stocks by day.

    The panel is an upload (multipart: `file`, the JSON `spec`, and the extra parts that `universe.file` and
    `market.file` name), a path under the server's data root, or planted: a synthetic panel whose best
    possible score is known.
    """
    submit_request = SubmitRequest(service, principal, entry, response, idempotency_key, dry_run)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "application/json":
        spec = _server_spec(_parse(await request.body()))
        identity = submit_request.identity(JobKind.DATASET, {"spec": spec.model_dump(mode="json")})
        try:
            return await _plan_or_insert(submit_request, identity, spec, _server_files(service, spec))
        except REFUSALS as refusal:
            return await replay(submit_request, identity, refusal)
    if media_type != "multipart/form-data":
        raise Refused(
            415,
            "unsupported_media_type",
            f"send application/json or multipart/form-data, not {media_type or 'a body without Content-Type'}",
        )
    await service.check_upload_quota(principal, request)
    async with receive(request, service.settings.uploads_root, service.settings.max_body_bytes) as upload:
        spec, files = _upload_spec(upload)
        content = {part.name: part.sha256 for part in upload.parts.values() if part.path is not None}
        body = {"spec": spec.model_dump(mode="json"), "content": content}
        identity = submit_request.identity(JobKind.DATASET, body)
        try:
            return await _plan_or_insert(submit_request, identity, spec, files, upload)
        except REFUSALS as refusal:
            return await replay(submit_request, identity, refusal)


def _parse(text: bytes | bytearray) -> Json:
    try:
        body = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed_json", f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid("", "send a JSON object")
    return body


def _validate(body: Json) -> DatasetSpec:
    try:
        spec = DatasetSpec.model_validate(body)
    except ValidationError as error:
        raise from_pydantic(error) from error
    reject_nul(spec.model_dump(mode="json"))
    return spec


def _server_spec(body: Json) -> DatasetSpec:
    """The validated spec of a dataset by server path or planted. Raises Refused (422)."""
    for pointer, path in (
        ("/path", body.get("path")),
        ("/universe/file", _side_file(body, "universe")),
        ("/market/file", _side_file(body, "market")),
    ):
        if isinstance(path, str) and ".." in path.split("/"):
            raise outside_data_root(pointer)
    spec = _validate(body)
    if spec.path is None and spec.planted is None:
        raise invalid(
            "/path", "give a path under the server's data root, planted, or upload the file as multipart/form-data"
        )
    return spec


def _server_files(service: Service, spec: DatasetSpec) -> Json:
    """`params.files` of a dataset by server path: role to `data:{path under the data root}`."""
    paths = {"panel": ("/path", spec.path)}
    paths |= {
        role: (f"/{role}/file", side.file)
        for role, side in (("universe", spec.universe), ("market", spec.market))
        if side is not None
    }
    return {
        role: f"data:{resolve_data_path(service.settings.data_root, path, pointer, folders=role == 'panel')}"
        for role, (pointer, path) in paths.items()
        if path is not None
    }


def _side_file(body: Json, role: str) -> object:
    side = body.get(role)
    return side.get("file") if isinstance(side, Mapping) else None


def _upload_spec(upload: Upload) -> tuple[DatasetSpec, Json]:
    """The spec of an upload and its `params.files`: role to `upload:{path}`. Raises Refused (422)."""
    if "spec" not in upload.parts:
        raise Refused(422, "missing_part", "the form needs a part `spec` with the JSON of the dataset")
    spec = _validate(_parse(upload.parts["spec"].text))
    if spec.path is not None or spec.planted is not None:
        raise invalid(
            "/path" if spec.path is not None else "/planted",
            "an upload brings its own file: leave path and planted out",
        )
    wanted = {"panel": "file"} | {
        role: side.file for role, side in (("universe", spec.universe), ("market", spec.market)) if side is not None
    }
    files = {}
    for role, name in wanted.items():
        part = upload.parts.get(name)
        if part is None or part.path is None:
            raise Refused(
                422,
                "missing_part",
                f"the form needs a file part {name!r}" + (f", which {role}.file names" if role != "panel" else ""),
            )
        if part.size_bytes == 0:
            raise Refused(422, "empty_file", f"the part {name!r} is empty")
        files[role] = upload.reference(part)
    unused = sorted(set(upload.parts) - {"spec", *wanted.values()})
    if unused:
        raise Refused(422, "unknown_part", f"the parts {unused} are named by neither universe.file nor market.file")
    return spec, files


async def _plan_or_insert(
    request: SubmitRequest,
    identity: RequestIdentity | None,
    spec: DatasetSpec,
    files: Json,
    upload: Upload | None = None,
) -> SubmittedView | Response:
    service = request.service
    warnings = admission.unwatched_queue_warnings(CPU, await service.database.read(queries.live_queues))
    if request.dry_run:
        inspection = await inspect(service.settings, _resolve_paths(service, spec, files))
        same = await service.database.read(catalog.versions_with_content, str(inspection.get("fingerprint")))
        plan = DatasetPlan(
            spec=spec.model_dump(mode="json"),
            spec_digest=spec.digest(),
            warnings=warnings,
            inspection=inspection,
            registered=[f"{row.name}@{row.version}" for row in same],
        )
        return plan_response(plan)
    new = NewJob(
        kind=JobKind.DATASET,
        spec=spec.model_dump(mode="json"),
        spec_digest=spec.digest(),
        queue=CPU,
        name=spec.name,
        dataset=spec.name,
        params={"files": files} if upload is None else {"files": files, "sources": upload.sources(files)},
    )
    with nullcontext() if upload is None else upload.kept_unless_refused():
        inserted = await insert(request, new, identity)
    if upload is not None:
        # A repeated request keeps the first upload, not this one.
        upload.kept = (inserted.job.params or {}).get("files") == files
    return await answer(request, inserted, warnings)


def _resolve_paths(service: Service, spec: DatasetSpec, files: Mapping[str, str]) -> Json:
    """The spec with absolute paths, as `atft inspect` reads it."""
    roots = {"data": service.settings.data_root, "upload": service.settings.uploads_root}
    paths = {}
    for role, reference in files.items():
        scheme, _, relative = reference.partition(":")
        paths[role] = str((roots[scheme] / relative).resolve())
    body = spec.model_dump(mode="json")
    if "panel" in paths:
        body["path"] = paths["panel"]
    for role in ("universe", "market"):
        if role in paths:
            body[role]["file"] = paths[role]
    return body


@router.get("", summary="List datasets", responses=problems())
async def list_datasets(
    service: ServiceDep, response: Response, _: Reader, cursor: Cursor = None, limit: Limit = 50
) -> DatasetPage:
    """The newest version of each dataset, newest first."""
    rows, next_cursor = await service.database.read(catalog.datasets, cursor=cursor, limit=limit)
    if next_cursor is not None:
        response.headers["Link"] = f'</datasets?limit={limit}&cursor={next_cursor}>; rel="next"'
    return DatasetPage(items=[dataset_summary(row) for row in rows], next_cursor=next_cursor)


@router.get("/{name}", summary="One dataset", responses=problems(404))
async def get_dataset(name: Ref, service: ServiceDep, _: Reader) -> DatasetView:
    """The newest version, or the one of `name@version`: its columns, days, profile and leak report, and the
    source of every version.
    """

    def read(session: Session) -> DatasetView:
        row = catalog.dataset(session, name)
        versions = catalog.dataset_versions(session, row.name)
        return dataset_view(row, versions, catalog.usage(session, [version for version, _ in versions]))

    return await service.database.read(read)


@router.delete(
    "/{name}", status_code=204, response_class=Response, summary="Delete a dataset", responses=problems(404, 409)
)
async def delete_dataset(name: Ref, service: ServiceDep, _: DatasetWriter, entry: Audit) -> Response:
    """Delete every version, or the one of `name@version`, and its cache. 409 while unfinished jobs need it; finished
    jobs keep their results.
    """
    for row in await service.database.write(_delete, name, entry):
        folder = service.settings.caches_root / row.fingerprint
        discarded = await service.database.write(move_to_trash, folder)
        if discarded is not None:
            await asyncio.to_thread(shutil.rmtree, discarded, ignore_errors=True)
    return Response(status_code=204)


def _delete(session: Session, ref: str, entry: AuditEntry) -> list[Dataset]:
    rows = catalog.delete_dataset(session, ref)
    record(session, entry)
    return rows
