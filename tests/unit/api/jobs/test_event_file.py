"""The event file against what TensorBoard 2.21's own RecordWriter and protobuf classes make of the same; `make outside`
lets the real TensorBoard read whole files.
"""

import math
import struct
from datetime import UTC, datetime

from api.jobs import event_file
from jobs.record.history import Point

HEADER = "1800000000000000a37f4b22090000000000448f401a0d627261696e2e4576656e743a32aba33345"
EVENT = (
    "39000000000000008b0737f10900000000004a8f4010ac022a2b0a120a0b76616c2f72616e6b5f6963150000003f"
    "0a150a0e76616c2f72616e6b5f6963403564150000c07fd233ccb2"
)


def test_bytes_are_those_of_tensorboards_own_writer() -> None:
    moment = datetime.fromtimestamp(1001.25, UTC)
    points = [Point(moment, "val/rank_ic", 300, 0.5), Point(moment, "val/rank_ic@5d", 300, None)]
    assert event_file.header(1000.5).hex() == HEADER
    assert [frame.hex() for frame in event_file.frames(points)] == [EVENT]


def test_another_step_is_another_event() -> None:
    moment = datetime.fromtimestamp(1001.25, UTC)
    points = [Point(moment, "step/lr", step, 0.5) for step in (1, 2, 200)]
    assert len(list(event_file.frames(points))) == 3


def test_a_number_beyond_32_bits_is_infinite() -> None:
    moment = datetime.fromtimestamp(1001.25, UTC)
    (frame,) = event_file.frames([Point(moment, "loss", 1, -1e300)])
    assert struct.pack("<f", -math.inf) in frame
