"""`embedded.json`: the ports and the password of the embedded servers, and where their data lie.

The file ends with the SHA-256 of the rest, and `embedded.copy.json` beside it is the same: a damaged one is replaced by
the other. `folder` is the state folder that it was written for, so that one that was moved or copied is noticed.
"""

import hashlib
import json
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from atft.checksums import write_atomic
from jobs.embedded.binaries import STATE_ROOT, EmbeddedError

RECORD: Final = "embedded.json"
COPY: Final = "embedded.copy.json"
SERVERS: Final = "servers"


class Record(BaseModel):
    """What the servers of one state folder need to start again. Records of before have no `folder`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    postgres_port: int
    valkey_port: int
    password: str
    home: str
    folder: str | None = None

    def text(self) -> str:
        """The record as it is stored."""
        body = self.model_dump()
        digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        return json.dumps(body | {"sha256": digest}, indent=1)


def read(var: Path) -> Record | None:
    """The record of a state folder; null for a new one. Raises EmbeddedError when neither of its files is whole."""
    found = [(name, var / name) for name in (RECORD, COPY) if (var / name).exists()]
    for _, path in found:
        if path.is_dir():
            raise EmbeddedError(f"{path} is a folder, where a file should be: move it away")
        if (record := _parse(path.read_bytes())) is not None:
            return record
    if found or (var / SERVERS / "postgres").exists():
        state = "damaged, or of another version," if found else "missing"
        raise EmbeddedError(
            f"{var / RECORD} is {state} and without the password in it the databases under {var} cannot be opened. "
            f"Restore the file, or start with another --var and restore a backup there (atft restore)"
        )
    return None


def _parse(text: bytes) -> Record | None:
    """The record, if these are the bytes that were written for it; one of before has no SHA-256."""
    try:
        body = json.loads(text)
        signed = "sha256" in body
        record = Record.model_validate({key: body[key] for key in body if key != "sha256"})
    except (ValueError, TypeError, RecursionError):  # of pydantic too
        return None
    if not signed:
        return record if record.folder is None and text.decode() == _text_of_before(body) else None
    return record if text.decode() == record.text() else None


def _text_of_before(body: dict[str, object]) -> str:
    return json.dumps(body, indent=1)


def write(var: Path, record: Record) -> None:
    """Write both files, durably."""
    for name in (COPY, RECORD):
        write_atomic(var / name, record.text().encode(), mode=0o600)


def servers_folder(var: Path, record: Record | None, new_outside: bool) -> Path:
    """The folder of the servers' data: under the state folder, or with `new_outside` under `STATE_ROOT`. Never that of
    another state folder. Raises EmbeddedError when this one was copied or moved without its data.
    """
    outside = STATE_ROOT / hashlib.sha256(str(var).encode()).hexdigest()[:16]
    if record is None:
        return outside if new_outside else var / SERVERS
    home = Path(record.home)
    if home.parent != STATE_ROOT:
        if not (var / SERVERS / "postgres").exists() and home != var / SERVERS:
            raise EmbeddedError(
                f"{var} was copied or moved from {home.parent} without its databases (the folder {SERVERS}): copy that "
                f"too, while nothing runs there, or start with another --var"
            )
        return var / SERVERS
    moved = record.folder not in (None, str(var)) and not (Path(str(record.folder)) / RECORD).exists()
    if home == outside or moved:
        return home
    origin = "another folder" if record.folder is None else record.folder
    raise EmbeddedError(
        f"{var} is a copy of {origin}, whose databases lie in {home} and are not copied with it: move data with "
        f"`atft backup` there and `atft restore` here, with another --var"
    )
