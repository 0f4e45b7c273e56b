import os
import time
from pathlib import Path

import pytest

from atft import checksums
from atft.checksums import Checksums, is_on_local_disk, is_sealed, seal, sha256_of, write_atomic


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Checksums:
    """Trusts any file system, at once: the tests do not wait for file times to settle."""
    monkeypatch.setattr(checksums, "SETTLED_NS", -1)
    return Checksums(on_local_disk=lambda _: True)


def test_a_file_is_read_once_and_again_when_it_has_changed(memory: Checksums, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    assert memory.sha256(path) == memory.sha256(path) == sha256_of(path)
    assert memory.num_read == 1
    times = path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and mtime: ctime tells
    assert memory.sha256(path) == sha256_of(path)
    assert memory.num_read == 2
    copy = tmp_path / "copy"
    copy.write_bytes(b"two")
    copy.replace(path)
    memory.sha256(path)
    memory.sha256(path, reread=True)
    assert memory.num_read == 4


def test_a_file_that_changed_just_now_or_lies_on_no_local_disk_is_not_remembered(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"one")
    just_now, elsewhere = Checksums(on_local_disk=lambda _: True), Checksums(on_local_disk=lambda _: False)
    os.utime(path, ns=(0, 0))  # an old mtime is easily made, an old ctime is not
    for memory in (just_now, elsewhere):
        memory.sha256(path)
        memory.sha256(path)
        assert memory.num_read == 2
    assert time.time_ns() - path.stat().st_ctime_ns < checksums.SETTLED_NS


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no tmpfs here")
def test_memory_is_no_local_disk() -> None:
    assert not is_on_local_disk(Path("/dev/shm"))
    assert not is_on_local_disk(Path("/proc"))


def test_write_atomic_leaves_only_the_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "x", b"one")
    write_atomic(tmp_path / "x", b"two", mode=0o600)
    assert [(path.name, path.stat().st_mode & 0o777) for path in tmp_path.iterdir()] == [("x", 0o600)]
    assert (tmp_path / "x").read_bytes() == b"two"


def test_a_seal_holds_for_these_bytes_only(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert not is_sealed(path)
    path.write_bytes(b"one")
    assert not is_sealed(path)
    seal(path)
    assert is_sealed(path)
    path.write_bytes(b"onf")
    assert not is_sealed(path)
