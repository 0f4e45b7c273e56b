"""Atomic downloads and the progress of uploads."""

import io
from pathlib import Path

import pytest

from client.sdk.files import CountingReader, UploadProgress, atomic_write


def test_a_file_is_replaced_on_success_and_unchanged_on_an_error(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"old")

    def fail_halfway() -> None:
        with atomic_write(file) as out:
            out.write(b"half")
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        fail_halfway()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("weights", b"old")]
    with atomic_write(file) as out:
        out.write(b"new")
        assert file.read_bytes() == b"old"
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("weights", b"new")]


def test_progress_adds_up_over_the_files_of_a_request() -> None:
    reported: list[tuple[int, int]] = []
    progress = UploadProgress(5, lambda sent, total: reported.append((sent, total)))
    first, second = CountingReader(io.BytesIO(b"abc"), progress), CountingReader(io.BytesIO(b"de"), progress)
    assert (first.read(2), first.read(), second.read()) == (b"ab", b"c", b"de")
    assert reported == [(2, 5), (3, 5), (5, 5)]
    assert CountingReader(io.BytesIO(b"abc"), UploadProgress(3, None)).read() == b"abc"
