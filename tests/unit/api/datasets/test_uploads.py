"""Uploads in pieces of any size, and what is refused; nothing stays on disk unless it is kept."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from fastapi import Request

from api.datasets import uploads
from api.datasets.uploads import receive
from api.http.errors import Refused

BOUNDARY = "x1y2"


def form(*parts: tuple[str, str | None, bytes], end: bool = True) -> bytes:
    body = b""
    for name, file_name, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{file_name}"' if file_name is not None else "")
        body += f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + content + b"\r\n"
    return body + (f"--{BOUNDARY}--\r\n".encode() if end else b"")


def upload(
    body: bytes, root: Path, *, keep: bool = False, piece: int = 7, max_spec: int = 1000
) -> dict[str, tuple[str, int, bytes]]:
    pieces = [body[i : i + piece] for i in range(0, len(body), piece)]

    async def incoming() -> dict[str, object]:
        return {"type": "http.request", "body": pieces.pop(0) if pieces else b"", "more_body": bool(pieces)}

    async def run() -> dict[str, tuple[str, int, bytes]]:
        headers = [(b"content-type", f"multipart/form-data; boundary={BOUNDARY}".encode())]
        request = Request(
            {"type": "http", "method": "POST", "path": "/datasets", "headers": headers, "query_string": b""}, incoming
        )
        async with receive(request, root, max_spec) as found:
            if keep:
                found.kept = True
            return {
                name: (part.sha256, part.size_bytes, part.path.read_bytes() if part.path else bytes(part.text))
                for name, part in found.parts.items()
            }

    return asyncio.run(run())


@pytest.mark.parametrize("piece", [1, 3, 64, 10**6])
def test_parts_are_complete_whatever_the_chunk_size(tmp_path: Path, piece: int) -> None:
    content = bytes(range(256)) * 5 + b"\r\n--x1y\r\n"
    parts = upload(form(("spec", None, b"{}"), ("file", "p.parquet", content)), tmp_path, piece=piece)
    assert parts["file"] == (hashlib.sha256(content).hexdigest(), len(content), content)
    assert parts["spec"][2] == b"{}"
    assert list(tmp_path.iterdir()) == []


def test_a_kept_upload_has_a_generated_file_name(tmp_path: Path) -> None:
    upload(form(("file", "../../etc/passwd.CSV", b"a,b")), tmp_path, keep=True)
    [folder] = tmp_path.iterdir()
    assert [file.name for file in folder.iterdir()] == ["file.csv"]


@pytest.mark.parametrize("name", ["p.csv.gz", "P.CSV.ZST", "a.b.tsv"])
def test_the_whole_suffix_is_kept(tmp_path: Path, name: str) -> None:
    upload(form(("file", name, b"x")), tmp_path, keep=True)
    [folder] = tmp_path.iterdir()
    assert [file.name for file in folder.iterdir()] == [f"file.{name.lower().split('.', 1)[1].removeprefix('b.')}"]


def test_an_upload_that_would_fill_the_disk_is_507(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "KEEP_FREE_BYTES", 1 << 60)
    with pytest.raises(Refused) as error:
        upload(form(("file", "p.csv", b"x")), tmp_path)
    assert error.value.status_code == 507
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (form(("file", "p.parquet", b"x"), end=False), 400, "malformed_multipart"),
        (form(("file", "p.parquet", b"x"))[:-20], 400, "malformed_multipart"),
        (b"not a form", 400, "malformed_multipart"),
        (b"", 400, "malformed_multipart"),
        (form(("../x", "p.parquet", b"x")), 400, "malformed_multipart"),
        (form(("file", "p.csv", b"x"), ("file", "p.csv", b"x")), 400, "malformed_multipart"),
        (form(*((f"f{i}", "p.csv", b"x") for i in range(5))), 400, "malformed_multipart"),
        (form(("file", "p.pickle", b"x")), 422, "unsupported_file"),
        (form(("file", "p.gz", b"x")), 422, "unsupported_file"),
        (form(("file", None, b"x")), 422, "unknown_part"),
        (form(("spec", None, b"x" * 1001)), 413, "body_too_large"),
    ],
)
def test_refused_uploads_leave_nothing(tmp_path: Path, body: bytes, status: int, code: str) -> None:
    with pytest.raises(Refused) as error:
        upload(body, tmp_path, keep=True)
    assert (error.value.status_code, error.value.code) == (status, code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("piece", [1, 10**6])
def test_a_refused_part_is_reported_whatever_the_chunk_size(tmp_path: Path, piece: int) -> None:
    with pytest.raises(Refused) as refused:
        upload(form(("a b", "p.csv", b"x" * 100)), tmp_path, piece=piece)
    assert refused.value.status_code == 400
