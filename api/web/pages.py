"""The web pages: templates without data, and ES modules that call the API. Nothing is loaded from another origin.

The pages have no data of their own, so that access is decided in one place, the API.
"""

import mimetypes
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from jinja2 import Environment, FileSystemLoader
from starlette.exceptions import HTTPException

from api.web.metrics import PAGE_METRICS
from atft.spec.kinds import KINDS, JobKind, Kind

router = APIRouter(include_in_schema=False)
_HERE: Final = Path(__file__).parent
_templates: Final = Environment(
    loader=FileSystemLoader(_HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_DOCS_CSP: Final = (
    "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
)
_IMPORT: Final = re.compile(r'^(?:import|\}) .*from "\./(.+)";$', re.MULTILINE)
_SWAGGER: Final = ("swagger-ui-bundle.js", "swagger-ui.css")


def _static_files() -> dict[str, Path]:
    """Name to file: a closed list, so that no path can escape it. Swagger UI's files come from a package."""
    files = {path.name: path for path in (_HERE / "static").iterdir() if path.is_file()}
    package = find_spec("fastapi_offline")
    if package is not None and package.submodule_search_locations:
        folder = Path(package.submodule_search_locations[0]) / "static"
        files |= {name: folder / name for name in _SWAGGER if (folder / name).is_file()}
    return files


_FILES: Final = _static_files()


def _imports(name: str) -> list[str]:
    """The modules that a script imports, transitively: preloaded by the page, so that they load in parallel."""
    found = [name]
    for one in found:
        found += [inner for inner in _IMPORT.findall(_FILES[one].read_text()) if inner not in found]
    return found[1:]


_templates.globals["imports"] = {
    name: _imports(name) for name in _FILES if name.endswith(".js") and name not in _SWAGGER
}


_FORMS: Final = {name.value: kind.form for name, kind in KINDS.items() if kind.form is not None}


def _kind_for_page(kind: Kind) -> dict[str, object]:
    """What page-kinds.js needs of a kind; `form` is the kind whose form can hold its spec."""
    form = next((name for name in _FORMS if KINDS[JobKind(name)].spec is kind.spec), None)
    return {"view": kind.view, "part": kind.part, "spec": kind.spec.__name__, "nested": kind.nested, "form": form}


# What the server's tables say, written as JSON into each page that imports the script of the same name.
_templates.globals["page_data"] = {
    "page-kinds": {name.value: _kind_for_page(kind) for name, kind in KINDS.items()},
    "page-metrics": PAGE_METRICS,
}
_templates.globals["metrics"] = PAGE_METRICS


def _page(template: str, **values: object) -> HTMLResponse:
    return HTMLResponse(_templates.get_template(template).render(values))


@router.get("/")
async def list_page() -> Response:
    return _page("jobs.html", title="Jobs", kinds=tuple(KINDS))


@router.get("/ui/jobs/{job_id}")
async def job_page(job_id: str) -> Response:
    return _page("job.html", title="Job", job_id=job_id)


@router.get("/ui/submit")
async def submit_page() -> Response:
    return _page("submit.html", title="Submit", forms=_FORMS)


@router.get("/ui/workers")
async def workers_page() -> Response:
    return _page("workers.html", title="Workers")


@router.get("/ui/keys")
async def keys_page() -> Response:
    return _page("keys.html", title="Keys")


@router.get("/ui/datasets")
async def datasets_page() -> Response:
    return _page("datasets.html", title="Datasets")


@router.get("/ui/datasets/{ref}")
async def dataset_page(ref: str) -> Response:
    return _page("dataset.html", title="Dataset", ref=ref)


@router.get("/ui/compare")
async def compare_page() -> Response:
    return _page("compare.html", title="Compare")


@router.get("/docs")
async def docs_page() -> Response:
    page = _page("docs.html", title="API")
    page.headers["Content-Security-Policy"] = _DOCS_CSP
    return page


@router.get("/static/{name}")
async def static_file(name: str, request: Request) -> Response:
    path = _FILES.get(name)
    if path is None:
        raise HTTPException(404)
    response = FileResponse(
        path, media_type=mimetypes.guess_type(name)[0], headers={"Cache-Control": "no-cache"}, stat_result=path.stat()
    )
    if response.headers["etag"] in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers={"ETag": response.headers["etag"], "Cache-Control": "no-cache"})
    return response


@router.get("/favicon.ico")
async def favicon() -> Response:
    return FileResponse(_FILES["icon.svg"], media_type="image/svg+xml", headers={"Cache-Control": "max-age=86400"})


def install(app: FastAPI) -> None:
    app.include_router(router)
