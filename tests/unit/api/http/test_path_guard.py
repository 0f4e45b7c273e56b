"""Paths given by clients must lie inside the data root, after symbolic links are followed."""

from pathlib import Path

import pytest

from api.http.errors import Refused
from api.http.path_guard import existing_file, resolve_data_path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "data"
    (root / "folder").mkdir(parents=True)
    (root / "folder" / "panel.csv").write_text("x")
    (tmp_path / "secret.csv").write_text("x")
    (tmp_path / "data-beside").mkdir()
    (tmp_path / "data-beside" / "x.csv").write_text("x")
    (root / "link.csv").symlink_to(tmp_path / "secret.csv")
    (root / "inside.csv").symlink_to(root / "folder" / "panel.csv")
    (root / "up").symlink_to(tmp_path)
    (root / "loop").symlink_to(root / "loop")
    return root


def test_files_inside_are_named_relative_to_the_root(root: Path) -> None:
    assert resolve_data_path(root, "folder/panel.csv", "/path") == "folder/panel.csv"
    assert resolve_data_path(root, "inside.csv", "/path") == "folder/panel.csv"
    assert resolve_data_path(root, str(root / "folder" / "panel.csv"), "/path") == "folder/panel.csv"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/etc/passwd", "path_outside_data_root"),
        ("../secret.csv", "path_outside_data_root"),
        ("link.csv", "path_outside_data_root"),
        ("up/secret.csv", "path_outside_data_root"),
        ("../data-beside/x.csv", "path_outside_data_root"),
        ("..", "path_outside_data_root"),
        ("../no-such-file", "path_outside_data_root"),
        (".", "path_outside_data_root"),
        ("folder", "file_not_found"),
        ("missing.csv", "file_not_found"),
        ("a\x00b", "invalid_path"),
        ("x" * 400, "invalid_path"),
    ],
)
def test_other_paths_are_refused(root: Path, path: str, code: str) -> None:
    with pytest.raises(Refused) as error:
        resolve_data_path(root, path, "/path")
    assert (error.value.status_code, error.value.code) == (422, code)
    assert error.value.errors[0].pointer == "/path"


def test_loop_of_links_is_refused(root: Path) -> None:
    with pytest.raises(Refused):
        resolve_data_path(root, "loop", "/path")


def test_files_of_the_run_root_are_served_only_from_inside(root: Path) -> None:
    assert existing_file(root, "folder/panel.csv") == root.resolve() / "folder" / "panel.csv"
    assert existing_file(root, "link.csv") is None
    assert existing_file(root, "../secret.csv") is None
    assert existing_file(root, "gone.csv") is None
