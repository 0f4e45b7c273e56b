import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from atft.checksums import is_on_local_disk
from jobs.db.tables import ArtifactRow
from jobs.settings import Settings
from worker.attempt.inputs import Inputs


def weights(sha256: str) -> ArtifactRow:
    return ArtifactRow(job_id=UUID(int=1), name="weights", path="weights", sha256=sha256)


@pytest.fixture(params=[None, "/dev/shm"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder; of a file system, too, whose inode numbers are not relied on."""
    with tempfile.TemporaryDirectory(dir=request.param or tmp_path) as folder:
        yield Path(folder)


def test_a_new_inode_tells_of_a_replaced_file_where_inodes_last_and_a_new_row_anywhere(root: Path) -> None:
    settings, file = Settings(run_root=root), root / "weights"
    file.write_bytes(b"weights")
    inputs = Inputs(rows=(weights("ab"),)).with_files(settings)
    file.touch()
    assert inputs.replaced(settings) is None
    assert replace(inputs, rows=(weights("cd"),)).replaced(settings) is not None
    shutil.copy(file, root / "copy")
    (root / "copy").replace(file)
    assert (inputs.replaced(settings) is not None) == is_on_local_disk(root)
    file.unlink()
    assert inputs.replaced(settings) is None  # it is missing, which is for another check to say
