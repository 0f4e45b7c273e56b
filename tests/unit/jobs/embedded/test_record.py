import json
import random
from pathlib import Path

import pytest

from jobs.embedded import record
from jobs.embedded.binaries import STATE_ROOT, EmbeddedError
from jobs.embedded.record import COPY, RECORD, Record, read, servers_folder

NUM_FLIPS = 200


def written(var: Path, **changes: str | None) -> Record:
    """A record on disk beside its databases."""
    values = {"postgres_port": 15001, "valkey_port": 15002, "password": "s3cret", "home": str(var / "servers")}
    made = Record(**(values | {"folder": str(var)} | changes))  # type: ignore[arg-type]
    (var / "servers" / "postgres").mkdir(parents=True, exist_ok=True)
    record.write(var, made)
    return made


def test_a_new_folder_has_no_record_and_a_written_one_is_read(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert read(tmp_path) != (made := written(tmp_path))
    assert read(tmp_path) == made
    assert (tmp_path / RECORD).stat().st_mode & 0o077 == 0


def test_every_flipped_bit_is_found_and_the_copy_is_used_instead(tmp_path: Path) -> None:
    made = written(tmp_path)
    whole, source = (tmp_path / RECORD).read_bytes(), random.Random(0)
    for _ in range(NUM_FLIPS):
        at, bit = source.randrange(len(whole)), 1 << source.randrange(8)
        altered = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
        assert record._parse(altered) is None, (at, bit)
    for content in (b"", whole[:50], b"[]"):
        (tmp_path / RECORD).write_bytes(content)
        assert read(tmp_path) == made
    (tmp_path / RECORD).unlink()
    assert read(tmp_path) == made


OF_ANOTHER_VERSION = b'{"postgres_port": 1, "valkey_port": 2, "password": "p", "home": "/s", "cluster": 3}'


@pytest.mark.parametrize(
    ("content", "state"),
    [
        (b"", "damaged"), (b'{"password"', "damaged"), (OF_ANOTHER_VERSION, "damaged, or of another version,"),
        (None, "missing"),
    ],
)  # fmt: skip
def test_a_folder_without_a_whole_record_is_refused_in_words(content: bytes | None, state: str, tmp_path: Path) -> None:
    written(tmp_path)
    for name in (RECORD, COPY):
        (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / RECORD).write_bytes(content)
    with pytest.raises(EmbeddedError, match=rf"is {state}.* and without the password .*atft restore"):
        read(tmp_path)
    for name in (RECORD, COPY):
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir()
        with pytest.raises(EmbeddedError, match=f"{name} is a folder"):
            read(tmp_path)
        (tmp_path / name).rmdir()


def test_a_record_of_before_is_read(tmp_path: Path) -> None:
    body = {"postgres_port": 1, "valkey_port": 2, "password": "p", "home": str(tmp_path / "servers")}
    (tmp_path / RECORD).write_text(json.dumps(body, indent=1))
    assert read(tmp_path) == Record(**body)  # type: ignore[arg-type]


def test_a_copied_or_moved_folder_uses_what_lies_in_it_only(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    original = written(here)
    (there / "servers" / "postgres").mkdir(parents=True)
    assert servers_folder(there, original, new_outside=False) == there / "servers"
    (there / "servers" / "postgres").rmdir()
    with pytest.raises(EmbeddedError, match="without its databases"):
        servers_folder(there, original, new_outside=False)
    outside = written(here, home=str(STATE_ROOT / "0123456789abcdef"))
    with pytest.raises(EmbeddedError, match=f"is a copy of {here}"):
        servers_folder(there, outside, new_outside=True)
    here.rename(tmp_path / "away")
    assert servers_folder(there, outside, new_outside=True) == STATE_ROOT / "0123456789abcdef"  # it was moved
    of_before = outside.model_copy(update={"folder": None})
    with pytest.raises(EmbeddedError, match="is a copy of another folder"):
        servers_folder(there, of_before, new_outside=True)
