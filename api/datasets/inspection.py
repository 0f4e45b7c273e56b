"""Dry run of a dataset by `python -m atft inspect`, in a subprocess with limited time and memory."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from api.http.errors import Refused
from jobs.db.tables import Json
from jobs.settings import Settings

LIMIT_SECONDS: Final = 120.0
LIMIT_BYTES: Final = 4 << 30  # of memory of its own; mapped files do not count
_SLOT_WAIT_SECONDS: Final = 30.0
_MAX_OUTPUT_BYTES: Final = 4_000_000
_slots = asyncio.Semaphore(2)


async def inspect(settings: Settings, spec: Json) -> Json:
    """The report of `atft inspect`; `spec` has absolute paths.

    Raises Refused: 422 with the program's message; 503 if other inspections are running or it times out.
    """
    async with _inspection_slot():
        with tempfile.TemporaryDirectory(prefix="atft-inspect-") as folder:
            file = Path(folder) / "spec.json"
            await asyncio.to_thread(file.write_text, json.dumps(spec), "utf-8")
            code, out, err = await _run(settings, [sys.executable, "-m", "atft", "inspect", str(file)])
    if code == 0:
        report: Json = json.loads(out)
        return report
    if code == -signal.SIGABRT or b"memory is full" in err:  # `atft.__main__.failure`
        detail = (
            f"this inspection needs more than {LIMIT_BYTES >> 20:,} MiB of memory; register it: a build may use more"
        )
        raise Refused(422, "inspection_too_large", detail)
    message = _last_line(err) or _last_line(out) or f"the inspection ended with code {code}"
    for root in (settings.data_root, settings.uploads_root):  # the server's folders are not disclosed
        message = message.replace(f"{root.resolve()}/", "")
    raise Refused(422, "cannot_build", message)


@contextlib.asynccontextmanager
async def _inspection_slot() -> AsyncIterator[None]:
    """Hold one of the inspection slots. Raises Refused (503) after a time-out."""
    try:
        async with asyncio.timeout(_SLOT_WAIT_SECONDS):
            await _slots.acquire()
    except TimeoutError as error:
        detail = "other inspections are running: try again in a moment"
        raise Refused(503, "inspection_busy", detail, headers={"Retry-After": "30"}) from error
    try:
        yield
    finally:
        _slots.release()


async def _run(settings: Settings, command: list[str]) -> tuple[int, bytes, bytes]:
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=settings.child_environment(1, None),
        start_new_session=True,
    )
    with contextlib.suppress(ProcessLookupError):
        resource.prlimit(process.pid, resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            out, err = await process.communicate()
    except TimeoutError as error:
        raise Refused(
            503,
            "inspection_timeout",
            f"the inspection took longer than {LIMIT_SECONDS:.0f} s",
            headers={"Retry-After": "60"},
        ) from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if len(out) > _MAX_OUTPUT_BYTES:
        raise Refused(422, "cannot_build", "the inspection's report is too long: the file has too many columns")
    return process.returncode or 0, out, err


def _last_line(text: bytes) -> str:
    """The last non-empty line of the output, so that a traceback is not sent to clients."""
    lines = [line for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:1000] if lines else ""
