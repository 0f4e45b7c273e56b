import errno
import hashlib
from pathlib import Path

import pytest

from atft.events import Artifact
from jobs.settings import Settings
from jobs.states import JobState, Reason
from worker.attempt.artifacts import MissingOutput, collect_outputs, install_cache
from worker.attempt.settlement import outcome_of_output_error


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(run_root=tmp_path / "runs")


@pytest.fixture
def folder(settings: Settings) -> Path:
    folder = (settings.jobs_root / "j" / "1").resolve()
    folder.mkdir(parents=True)
    return folder


def test_a_declared_file_is_hashed(settings: Settings, folder: Path) -> None:
    (folder / "out").mkdir()
    (folder / "out" / "model.bin").write_bytes(b"weights")
    (output,) = collect_outputs(settings, folder, [Artifact(name="model", path="out/model.bin")])
    assert output.path == "jobs/j/1/out/model.bin"
    assert (output.size_bytes, output.sha256) == (7, hashlib.sha256(b"weights").hexdigest())


@pytest.mark.parametrize("path", ["nothing.bin", "../../../secret", "link", ".", "/etc/hostname"])
def test_pain_42_a_file_that_is_missing_or_outside_its_folder_is_refused(
    settings: Settings, folder: Path, path: str
) -> None:
    (settings.run_root.parent / "secret").write_text("s")
    (folder / "link").symlink_to(settings.run_root.parent / "secret")
    with pytest.raises(MissingOutput, match="'a'"):
        collect_outputs(settings, folder, [Artifact(name="a", path=path)])


def test_a_cache_is_moved_and_its_files_replace_those_of_a_damaged_one(settings: Settings, folder: Path) -> None:
    for _ in range(2):
        built = folder / "cache"
        built.mkdir()
        (built / "panel.arrow").write_bytes(b"12345")
        assert install_cache(settings, built, "f00d") == settings.caches_root.resolve() / "f00d"
        assert not built.exists()
        (settings.caches_root / "f00d" / "graphs").mkdir(exist_ok=True)
        whole = (settings.caches_root / "f00d" / "panel.arrow").read_bytes()
        (settings.caches_root / "f00d" / "panel.arrow").write_bytes(b"12x45")
    assert whole == b"12345"
    assert (settings.caches_root / "f00d" / "graphs").is_dir()
    (settings.caches_root / "f00d" / "panel.arrow").write_bytes(whole)
    assert (settings.caches_root / "f00d" / "panel.arrow").read_bytes() == b"12345"
    found_not_built = install_cache(settings, folder / "cache", "f00d")
    assert found_not_built == settings.caches_root.resolve() / "f00d"


@pytest.mark.parametrize("fingerprint", ["", ".", "..", "a/b", "../jobs"])
def test_a_fingerprint_is_a_plain_name(settings: Settings, folder: Path, fingerprint: str) -> None:
    (folder / "cache").mkdir()
    with pytest.raises(MissingOutput):
        install_cache(settings, folder / "cache", fingerprint)
    assert (folder / "cache").exists()


def test_pain_41_a_full_disk_has_its_reason() -> None:
    outcome = outcome_of_output_error(OSError(errno.ENOSPC, "No space left on device"))
    assert (outcome.to, outcome.reason) == (JobState.FAILED, Reason.DISK_FULL)
    with pytest.raises(PermissionError):
        outcome_of_output_error(PermissionError(errno.EPERM, "no"))
