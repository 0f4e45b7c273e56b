import json
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest

from atft.checksums import Checksums, sha256_of
from jobs.db.tables import ArtifactRow, Dataset, Json
from jobs.record.stored import MANIFEST, REPORT, agrees, checkpoint_is_whole, damaged

NUM_FLIPS = 200


@pytest.fixture
def cache(tmp_path: Path) -> Dataset:
    """A version whose cache has a file of random bytes."""
    folder = tmp_path / "caches" / "f00d"
    folder.mkdir(parents=True)
    (folder / "panel.arrow").write_bytes(random.Random(0).randbytes(5000))
    files = {"panel.arrow": {"sha256": sha256_of(folder / "panel.arrow"), "size_bytes": 5000}}
    manifest: Json = {"fingerprint": "f00d", "num_rows": 12, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))
    report: Json = {"profile": {"mean": 0.25, "names": ["é"]}, "leak_report": {"leaks": False}}
    (folder / REPORT).write_text(json.dumps(report))
    return Dataset(name="d", version=1, path="caches/f00d", manifest=manifest | {"added_later": None}, **report)


def test_every_flipped_bit_of_a_cache_is_found(cache: Dataset, tmp_path: Path) -> None:
    checksums = Checksums()
    assert damaged(tmp_path, cache, checksums) is None
    for name in ("panel.arrow", MANIFEST, REPORT):
        path = tmp_path / cache.path / name
        whole, source = path.read_bytes(), random.Random(2)
        for _ in range(NUM_FLIPS if name == "panel.arrow" else 60):
            at, bit = source.randrange(len(whole)), 1 << source.randrange(8)
            path.write_bytes(whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :])
            assert damaged(tmp_path, cache, checksums) == name, (name, at, bit)
        path.write_bytes(whole)
    assert damaged(tmp_path, cache, checksums) is None
    (tmp_path / cache.path / REPORT).unlink()  # caches of before it have none
    assert damaged(tmp_path, cache, checksums) is None
    (tmp_path / cache.path / "panel.arrow").unlink()
    assert damaged(tmp_path, cache, checksums) == "panel.arrow"


@pytest.mark.parametrize(
    "ruin",
    [
        "cut", "gone", "folder", "pipe", "link to nothing", "link to other bytes", "altered, old mtime",
        "altered by its other name", "swapped",
    ],
)  # fmt: skip
def test_every_way_of_not_being_the_recorded_bytes_is_found(
    ruin: str, cache: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atft.checksums.SETTLED_NS", -1)  # remembered at once
    memory = Checksums(on_local_disk=lambda _: True)
    path, beside = tmp_path / cache.path / "panel.arrow", tmp_path / "beside"
    if ruin == "altered by its other name":
        os.link(path, beside)
    cache.verified_at = datetime.now(UTC)
    assert damaged(tmp_path, cache, memory) is None
    assert damaged(tmp_path, cache, memory) is None
    assert memory.num_read == 1
    times = path.stat()
    match ruin:
        case "cut":
            os.truncate(path, 4999)
        case "gone" | "folder" | "pipe" | "link to nothing" | "link to other bytes":
            path.unlink()
            made = {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "gone": lambda: None}
            made.get(ruin, lambda: path.symlink_to(beside))()
            if ruin == "link to other bytes":
                beside.write_bytes(b"x" * 5000)
        case "swapped":
            beside.write_bytes(b"x" * 5000)
            os.utime(beside, ns=(times.st_atime_ns, times.st_mtime_ns))
            beside.replace(path)
        case _:
            with (beside if beside.exists() else path).open("r+b") as file:
                file.write(b"altered")
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert damaged(tmp_path, cache, memory) == "panel.arrow"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (1, True),
        (0.0, False),
        (2**53 + 1, 2**53),
        (3.5e38, 34 * 10**37),
        (10**400, 1e300),
        ([1.0, 2], [1]),
        ([True], [1]),
    ],
)
def test_only_equal_values_agree(found: object, expected: object) -> None:
    assert agrees({"max": [3.4e38, found]}, {"max": [34 * 10**37, found], "new": 1})  # as Postgres returns it
    assert not agrees(found, expected)
    assert not agrees(expected, found)


def test_a_row_without_hashes_promises_nothing(cache: Dataset, tmp_path: Path) -> None:
    cache.manifest = {"fingerprint": "f00d"}
    (tmp_path / cache.path / MANIFEST).write_text(json.dumps(cache.manifest))
    assert damaged(tmp_path, cache, Checksums()) == MANIFEST


def test_what_was_found_damaged_is_not_taken_from_memory(cache: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"weights")
    row = ArtifactRow(job_id=UUID(int=1), name="best.safetensors", path="weights", sha256=sha256_of(path))
    checksums = Checksums(on_local_disk=lambda _: True)
    for _ in range(2):
        assert damaged(tmp_path, row, checksums) is None  # verified_at is null
    assert checksums.num_read == 2
    row.sha256 = "0" * 64
    assert damaged(tmp_path, row, checksums) == "weights"


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"files": {"a": {}}}', '{"files": {"a": 1}}', '{"files": []}'])
def test_a_checkpoint_without_a_usable_manifest_is_not_whole(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    assert not checkpoint_is_whole(tmp_path, "0" * 64)
