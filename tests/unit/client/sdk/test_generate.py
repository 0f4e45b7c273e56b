"""The synchronous client is the asynchronous one without `async` and `await`."""

from pathlib import Path

from client.sdk import generate


def test_a_stale_file_fails_the_check_and_the_written_one_is_that_of_the_repository(tmp_path: Path) -> None:
    file = tmp_path / "sync.py"
    stale = generate.TARGET.read_text().replace("POLL_SECONDS = 0.3", "POLL_SECONDS = 3")
    file.write_text(stale)
    assert (generate.main(check=True, target=file), file.read_text()) == (1, stale)
    assert generate.main(check=False, target=file) == 0
    assert file.read_text() == generate.TARGET.read_text()
