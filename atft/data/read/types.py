"""Arrow's column types: what a column of each may hold, and its cells in a type that polars takes."""

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from atft.data.schema import DataError

FIXED_OFFSET = re.compile(r"^(?:UTC|GMT)?([+-])(\d{1,2})(?::?([0-5]\d))?$", re.IGNORECASE)
UTC_NAMES = frozenset({"utc", "z", "zulu", "gmt", "etc/utc", "etc/gmt", "uct", "universal", "utc0", "gmt0"})
MAX_DECIMAL_DIGITS = 38  # of the decimals that polars reads


class Content(StrEnum):
    """What the cells of a column are."""

    TEXT = "text"
    NUMBER = "a number"
    FLAG = "true or false"
    DATE = "a date"
    INSTANT = "an instant"
    EMPTY = "nothing"
    OTHER = "another type"  # times of day, durations, lists, structs: read in no role


ROLE_CONTENTS: Final[Mapping[str, tuple[Content, ...]]] = {
    "date": (Content.DATE, Content.INSTANT, Content.TEXT, Content.NUMBER, Content.EMPTY),
    "code": (Content.TEXT, Content.NUMBER, Content.EMPTY),
    "sector": (Content.TEXT, Content.NUMBER, Content.FLAG, Content.EMPTY),
    "number": (Content.NUMBER, Content.TEXT, Content.EMPTY),
    "flag": (Content.FLAG, Content.TEXT, Content.NUMBER, Content.EMPTY),
}
ROLE_NOUNS: Final = {"date": "a date", "code": "a code", "sector": "a sector", "number": "a number",
                     "flag": "true or false"}  # fmt: skip


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values without extension, dictionary and run-end encoding."""
    while True:
        if isinstance(kind, pa.BaseExtensionType):
            kind = kind.storage_type
        elif pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
            kind = kind.value_type
        else:
            return kind


def content_of(kind: pa.DataType) -> Content:
    """What the cells of an Arrow type are."""
    kind, types = plain_type(kind), pa.types
    if is_text(kind) or is_bytes(kind):
        return Content.TEXT
    if types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind):
        return Content.NUMBER
    if types.is_boolean(kind):
        return Content.FLAG
    if types.is_date(kind):
        return Content.DATE
    if types.is_timestamp(kind):
        return Content.INSTANT
    return Content.EMPTY if types.is_null(kind) else Content.OTHER


def check_type(file: str, column: str, kind: pa.DataType, role: str) -> None:
    """Raises DataError if a column of this type cannot have the role (a key of ROLE_CONTENTS)."""
    if content_of(kind) not in ROLE_CONTENTS[role]:
        nested = pa.types.is_nested(plain_type(kind))
        advice = "give one plain value a row" if nested else "convert it, or map another column"
        raise DataError(f"{file}: column {column!r} holds {str(kind)[:100]}, not {ROLE_NOUNS[role]}: {advice}")
    if role == "date" and plain_type(kind) in (pa.float16(), pa.float32()):
        raise DataError(
            f"{file}: column {column!r} holds {kind}, which cannot tell 20240115 from 20240116: write dates as dates"
        )


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of bytes may be text, as some writers store it."""
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def plain_column(file: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type that polars reads: without extensions, run-end encoding and 256-bit decimals; bytes as
    text, text dictionaries kept; instants of a fixed offset or of a zone as the local time of that zone, without one.

    Raises DataError for an unknown time zone, ArrowInvalid for bytes that are not text.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], kind.storage_type)
    elif pa.types.is_run_end_encoded(kind):
        column = pa.chunked_array([pc.run_end_decode(chunk) for chunk in column.chunks], kind.value_type)
    elif pa.types.is_dictionary(kind) and not is_text(kind.value_type):
        chunks = [chunk.dictionary.take(chunk.indices) for chunk in column.chunks]
        column = pa.chunked_array(chunks, kind.value_type)
    else:
        return _plain(file, name, column)
    return plain_column(file, name, column)


def _plain(file: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if is_bytes(kind):  # some writers store text as binary
        return column.cast(pa.large_binary()).cast(pa.large_string())
    if pa.types.is_decimal256(kind):
        return _narrow_decimal(column)
    if pa.types.is_date64(kind):
        return column.cast(pa.date32(), safe=False)
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        return _local_time(file, name, column)
    return column


def _narrow_decimal(column: pa.ChunkedArray) -> pa.ChunkedArray:
    try:
        return column.cast(pa.decimal128(MAX_DECIMAL_DIGITS, min(column.type.scale, MAX_DECIMAL_DIGITS)))
    except pa.ArrowInvalid:  # more digits than that: the nearest float
        return column.cast(pa.float64())


def _local_time(file: str, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    zone, unit = column.type.tz, column.type.unit
    naive = column.cast(pa.timestamp(unit))  # drops the zone, keeps UTC
    if zone.lower() in UTC_NAMES:
        return naive
    if match := FIXED_OFFSET.match(zone):
        sign, hours, minutes = match.groups()
        seconds = (int(hours) * 3600 + int(minutes or 0) * 60) * (-1 if sign == "-" else 1)
        ticks = seconds * {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        return pc.add(naive.cast(pa.int64()), ticks).cast(pa.timestamp(unit))
    try:
        local = pl.Series(naive).dt.replace_time_zone("UTC").dt.convert_time_zone(zone).dt.replace_time_zone(None)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{file}: column {name!r} has the time zone {zone!r}, which is unknown: write dates, or instants "
            "with a zone such as 'Asia/Kolkata' or '+05:30'"
        ) from error
    return pa.chunked_array([local.to_arrow()])
