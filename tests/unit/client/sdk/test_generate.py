"""The synchronous client is the asynchronous one without `async` and `await`."""

from pathlib import Path

from client.sdk import generate


def test_the_check_passes_for_the_generated_file_only(tmp_path: Path) -> None:
    assert generate.main(check=True) == 0
    changed = tmp_path / "sync.py"
    changed.write_text(generate.TARGET.read_text().replace("POLL_SECONDS = 0.3", "POLL_SECONDS = 3"))
    before = changed.read_text()
    assert (generate.main(check=True, target=changed), changed.read_text()) == (1, before)
    assert generate.main(check=False, target=changed) == 0
    assert changed.read_text() == generate.TARGET.read_text()
