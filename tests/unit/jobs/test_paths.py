"""Resolution of untrusted paths under a root."""

from pathlib import Path
from uuid import UUID

import pytest

from jobs import paths
from jobs.paths import InvalidPath, NotFound, OutsideRoot, checkpoint_folder, resolve_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "parts").mkdir(parents=True)
    (folder / "parts" / "a.parquet").touch()
    (folder / "prices.csv").touch()
    (tmp_path / "secret.csv").touch()
    return folder


def test_files_and_folders_under_the_root_are_resolved(root: Path) -> None:
    assert resolve_inside(root, "parts/../prices.csv") == root.resolve() / "prices.csv"
    assert resolve_inside(root, "parts", folders=True) == root.resolve() / "parts"
    with pytest.raises(NotFound):
        resolve_inside(root, "parts")


@pytest.mark.parametrize("path", ["../secret.csv", "/etc/passwd", ".", "..", "parts/../../missing"])
def test_paths_out_of_the_root_are_refused_whether_they_exist_or_not(root: Path, path: str) -> None:
    with pytest.raises(OutsideRoot):
        resolve_inside(root, path, folders=True)


def test_links_are_followed_before_the_check(root: Path) -> None:
    (root / "inside").symlink_to(root / "prices.csv")
    (root / "outside").symlink_to(root.parent / "secret.csv")
    (root / "loop").symlink_to(root / "loop")
    assert resolve_inside(root, "inside") == root.resolve() / "prices.csv"
    with pytest.raises(OutsideRoot):
        resolve_inside(root, "outside")
    with pytest.raises(NotFound):
        resolve_inside(root, "loop")


def test_a_folder_with_a_link_without_files_or_with_too_many_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(NotFound, match="no files"):
        resolve_inside(root, "empty", folders=True)
    monkeypatch.setattr(paths, "MAX_FILES", 0)
    with pytest.raises(NotFound, match="more than 0"):
        resolve_inside(root, "parts", folders=True)
    (root / "parts" / "link").symlink_to(root / "prices.csv")
    with pytest.raises(OutsideRoot):
        resolve_inside(root, "parts", folders=True)


@pytest.mark.parametrize("path", ["a\0b", "x" * 5000])
def test_a_string_that_is_no_path_is_refused(root: Path, path: str) -> None:
    with pytest.raises(InvalidPath):
        resolve_inside(root, path)


def test_a_retrys_checkpoint_lies_in_its_sources_folder(tmp_path: Path) -> None:
    job, source = UUID(int=1), UUID(int=2)
    assert (
        checkpoint_folder(tmp_path, job, "1/checkpoints/0001") == tmp_path.resolve() / str(job) / "1/checkpoints/0001"
    )
    assert checkpoint_folder(tmp_path, job, f"../{source}/2/last") == tmp_path.resolve() / str(source) / "2/last"
