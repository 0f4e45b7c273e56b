from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atft.events import AnyEvent, Log, Progress
from worker.attempt.event_buffer import EventBuffer


def log(seq: int) -> AnyEvent:
    return Log(child_seq=seq, message="m" * 50)


def drain(buffer: EventBuffer, max_events: int = 3) -> list[int]:
    seqs: list[int] = []
    while batch := buffer.oldest(max_events):
        seqs += [event.child_seq for event in batch]
        buffer.discard(batch)
    assert buffer.empty
    buffer.close()
    return seqs


@settings(deadline=None)
@given(steps=st.lists(st.integers(-4, 9), max_size=30), memory_bytes=st.sampled_from([0, 300, 10_000]))
def test_events_are_taken_in_order_and_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], memory_bytes: int
) -> None:
    """Positive numbers add that many events, negative numbers take that many."""
    folder = tmp_path_factory.mktemp("b")
    buffer = EventBuffer(folder / "unsent", memory_bytes=memory_bytes)
    put, out = 0, []
    for step in steps:
        for _ in range(max(0, step)):
            put += 1
            buffer.add(log(put))
        batch = buffer.oldest(-step) if step < 0 else []
        out += [event.child_seq for event in batch]
        buffer.discard(batch)
        assert buffer.empty is (len(out) == put)
    assert out + drain(buffer) == list(range(1, put + 1))
    assert not (folder / "unsent").exists()


def test_progress_replaces_progress_also_behind_the_file(tmp_path: Path) -> None:
    buffer = EventBuffer(tmp_path / "unsent", memory_bytes=0)
    for seq in (1, 2):
        buffer.add(log(seq))
    for seq in (3, 4, 5):
        buffer.add(Progress(child_seq=seq, phase="train", ratio=0.5))
    buffer.add(log(6))
    assert drain(buffer) == [1, 2, 5, 6]


def test_progress_that_comes_while_the_last_is_sent_is_kept(tmp_path: Path) -> None:
    buffer = EventBuffer(tmp_path / "unsent")
    buffer.add(Progress(child_seq=1, phase="train", ratio=0.5))
    batch = buffer.oldest(10)
    buffer.add(Progress(child_seq=2, phase="train", ratio=0.6))
    buffer.discard(batch)
    assert drain(buffer) == [2]


def test_g11_a_full_disk_pauses_reading_and_loses_no_event(tmp_path: Path) -> None:
    (tmp_path / "unsent").symlink_to("/dev/full")
    buffer = EventBuffer(tmp_path / "unsent", memory_bytes=150)
    for seq in range(1, 6):
        buffer.add(log(seq))
    assert buffer.full
    assert [event.child_seq for event in buffer.oldest(1)] == [1]
    assert drain(buffer, 1) == [1, 2, 3, 4, 5]
    assert not buffer.full


def test_it_is_full_at_its_bound_on_disk(tmp_path: Path) -> None:
    buffer = EventBuffer(tmp_path / "unsent", memory_bytes=0, disk_bytes=500)
    while not buffer.full:
        buffer.add(log(1))
    assert (tmp_path / "unsent").stat().st_size < 800
    drain(buffer)
    assert not buffer.full
