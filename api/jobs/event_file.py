"""Writes TensorBoard event files without TensorBoard: TFRecord frames around three protobuf messages whose fields have
not changed since 2015.

Event {1: double wall_time, 2: int64 step, 3: string file_version, 5: Summary}, Summary {1: repeated Value},
Value {1: string tag, 2: float simple_value}; a frame is length, its CRC, the message, its CRC (tensorflow/core/lib/io).
"""

import math
import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from jobs.record.history import Point


def _crc_table() -> tuple[int, ...]:
    """CRC-32C (Castagnoli, reflected), a byte at a time."""
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


_CRC_TABLE: Final = _crc_table()
MAX_FLOAT32: Final = float.fromhex("0x1.fffffep127")  # the largest finite float32


def _masked_crc(data: bytes) -> bytes:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def _length_delimited(tag: int, content: bytes) -> bytes:
    return bytes((tag,)) + _varint(len(content)) + content


def _frame(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _masked_crc(length) + message + _masked_crc(message)


def header(seconds: float) -> bytes:
    """The first record of a file; `seconds` since 1970."""
    return _frame(b"\x09" + struct.pack("<d", seconds) + _length_delimited(0x1A, b"brain.Event:2"))


def frames(points: Iterable[Point]) -> Iterator[bytes]:
    """One event for consecutive points with the same time and step. An undefined value is NaN."""
    for (time, step), group in groupby(points, key=lambda point: (point.time, point.step)):
        values = b""
        for point in group:
            value = float("nan") if point.value is None else point.value
            if abs(value) > MAX_FLOAT32:  # finite, but not as a float32
                value = math.copysign(math.inf, value)
            values += _length_delimited(
                0x0A, _length_delimited(0x0A, point.name.encode()) + b"\x15" + struct.pack("<f", value)
            )
        yield _frame(
            b"\x09" + struct.pack("<d", time.timestamp()) + b"\x10" + _varint(step) + _length_delimited(0x2A, values)
        )
