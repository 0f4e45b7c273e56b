"""Which upload folders dataset builds need."""

from jobs.db.tables import Job
from jobs.record.caches import needed_uploads, uploads_of
from jobs.states import JobState


def build(state: JobState, **files: str) -> Job:
    return Job(state=state, params={"files": files})


def test_the_folder_is_the_first_part_of_an_upload_path() -> None:
    job = build(JobState.QUEUED, prices="upload:u1/prices.csv", market="upload:u2/deep/m.csv", other="data/x.csv")
    assert uploads_of(job) == {"u1", "u2"}
    assert uploads_of(Job(params=None)) == set()


def test_a_build_that_succeeded_needs_its_upload_no_more() -> None:
    builds = [
        build(JobState.SUCCEEDED, prices="upload:done/p.csv"),
        build(JobState.FAILED, prices="upload:failed/p.csv"),
        build(JobState.RUNNING, prices="upload:running/p.csv"),
    ]
    assert needed_uploads(builds) == {"failed", "running"}
