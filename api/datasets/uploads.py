"""Multipart uploads streamed to disk: each part into its own file, hashed on the way, deleted unless kept.

File parts are not held in memory, and a part's file name never becomes a path: only a known suffix is used.
"""

import asyncio
import contextlib
import errno
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from uuid import uuid4

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from api.http.errors import Refused, Unavailable
from jobs.errors import JobsError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

SUFFIXES: Final = (
    ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".csv", ".csv.gz", ".csv.zst", ".tsv", ".tsv.gz", ".txt",
    ".xlsx", ".xlsb", ".xls", ".ods", ".sqlite", ".sqlite3", ".db", ".duckdb"
)  # fmt: skip
KEEP_FREE_BYTES: Final = 256 << 20  # for the database, and for the job that builds from the upload
_DISK_CHECK_BYTES: Final = 32 << 20
_DRAIN_SECONDS: Final = 10.0
_PART_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MAX_PARTS: Final = 4  # spec, file, universe, market


def _malformed(message: str) -> Refused:
    return Refused(400, "malformed_multipart", message)


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text[:200])


@dataclass
class Part:
    """One part: a file at `path`, or the spec as `text`."""

    name: str
    file_name: str | None
    path: Path | None = None
    size_bytes: int = 0
    text: bytearray = field(default_factory=bytearray)
    sha256: str = ""


@dataclass
class Upload:
    """A received upload: `parts` by name. `receive` deletes the folder at its end unless it is `kept`."""

    folder: Path
    parts: dict[str, Part]
    kept: bool = False

    @contextlib.contextmanager
    def kept_unless_refused(self) -> Iterator[None]:
        """Wraps the commit of the job that reads the upload: keeps it unless the job is refused.

        A commit whose result is unknown may have happened: then the upload is kept, and `worker.upkeep.orphans` deletes
        it later if no job needs it.
        """
        self.kept = True
        try:
            yield
        except (Refused, JobsError) as refusal:
            self.kept = isinstance(refusal, Unavailable)
            raise

    def reference(self, part: Part) -> str:
        """The part's name in a job's `params.files`: `upload:{folder}/{file}`."""
        if part.path is None:
            raise ValueError(f"part {part.name!r} is not a file")
        return f"upload:{self.folder.name}/{part.path.name}"

    def sources(self, files: Mapping[str, str]) -> dict[str, dict[str, str | int | None]]:
        """The client's file name, size and SHA-256 for each role of a job's `params.files`."""
        sent = {self.reference(part): part for part in self.parts.values() if part.path is not None}
        return {
            role: {
                "name": _printable(sent[reference].file_name or ""),
                "size_bytes": sent[reference].size_bytes,
                "sha256": sent[reference].sha256,
            }
            for role, reference in files.items()
        }


class _Receiver:
    """Callbacks of the multipart parser, which write the parts to disk; runs in a worker thread."""

    def __init__(self, folder: Path, boundary: bytes, max_spec_bytes: int) -> None:
        self.folder = folder
        self.parts: dict[str, Part] = {}
        self._max_spec_bytes = max_spec_bytes
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value = b"", b""
        self._part: Part | None = None
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        self._parser = MultipartParser(boundary, callbacks)
        self.complete = False

    def write(self, chunk: bytes) -> None:
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(f"the multipart body is malformed: {error}") from error

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _on_part_begin(self) -> None:
        self._headers, self._name, self._value = {}, b"", b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not _PART_NAME.fullmatch(name):
            raise _malformed("each part needs a name of letters, digits, '.', '_' and '-'")
        if name in self.parts or len(self.parts) >= _MAX_PARTS:
            raise _malformed(f"part {name!r} is repeated, or there are more than {_MAX_PARTS} parts")
        file_name = options[b"filename"].decode("utf-8", "replace") if b"filename" in options else None
        part = Part(name=name, file_name=file_name)
        if name != "spec":
            if file_name is None:
                raise Refused(
                    422,
                    "unknown_part",
                    f"part {name!r} is not a file; there are spec, file, and what universe.file and market.file name",
                )
            suffix = max((s for s in SUFFIXES if file_name.lower().endswith(s)), key=len, default=None)
            if suffix is None:
                raise Refused(
                    422,
                    "unsupported_file",
                    f"part {name!r} is named {file_name[:100]!r}; files end in {', '.join(SUFFIXES)}",
                )
            stem = name if name in ("file", "universe", "market") else f"extra{len(self.parts)}"
            part.path = self.folder / f"{stem}{suffix}"
            self._file = part.path.open("xb")
        self._hash = hashlib.sha256()
        self._part = self.parts[name] = part

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            raise _malformed("data outside a part")
        piece = data[start:end]
        part.size_bytes += len(piece)
        self._hash.update(piece)
        if self._file is not None:
            if part.size_bytes // _DISK_CHECK_BYTES != (part.size_bytes - len(piece)) // _DISK_CHECK_BYTES:
                check_disk_space(self.folder)
            self._file.write(piece)
            return
        if part.size_bytes > self._max_spec_bytes:
            raise Refused(413, "body_too_large", f"part 'spec' is larger than {self._max_spec_bytes:,} bytes")
        part.text += piece

    def _on_part_end(self) -> None:
        if self._part is not None:
            self._part.sha256 = self._hash.hexdigest()
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
        self.close()

    def _on_end(self) -> None:
        self.complete = True


def check_disk_space(folder: Path, expected_bytes: int = 0) -> None:
    """Raises Refused (507) if less than KEEP_FREE_BYTES would be left on the disk."""
    if shutil.disk_usage(folder).free < expected_bytes + KEEP_FREE_BYTES:
        raise _disk_full()


def _disk_full() -> Refused:
    return Refused(507, "disk_full", "the server has no room for this upload; nothing was kept")


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read and discard the rest of the body for a limited time: closing at once would reset the connection before the
    client has read the response.
    """
    with contextlib.suppress(Refused, ClientDisconnect, TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in chunks:
                pass


@asynccontextmanager
async def receive(request: Request, root: Path, max_spec_bytes: int) -> AsyncIterator[Upload]:
    """Receive a whole upload to disk, synced; deleted at exit unless kept. Raises Refused (400, 413, 422, 507)."""
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise _malformed("the Content-Type names no boundary")
    upload = Upload(folder=root / uuid4().hex, parts={})
    try:
        await asyncio.to_thread(upload.folder.mkdir, parents=True)
        length = request.headers.get("content-length", "")
        await asyncio.to_thread(check_disk_space, root, int(length) if length.isascii() and length.isdigit() else 0)
        receiver = _Receiver(upload.folder, boundary, max_spec_bytes)
        chunks = request.stream()
        try:
            async for chunk in chunks:
                if chunk:
                    await asyncio.to_thread(receiver.write, chunk)
        except Refused:
            await _drain(chunks)
            raise
        finally:
            receiver.close()
        if not receiver.complete:
            raise _malformed("the multipart body ends in the middle")
        upload.parts = receiver.parts
        yield upload
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _disk_full() from error
        raise
    finally:
        if not upload.kept:
            await asyncio.to_thread(shutil.rmtree, upload.folder, ignore_errors=True)
