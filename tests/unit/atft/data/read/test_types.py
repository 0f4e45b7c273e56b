"""Every Arrow type in every role of every format is read, passed over or refused in words; never an error of native
code.
"""

import datetime as dt
from collections.abc import Callable
from decimal import Decimal
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from atft.data.panel.sidefiles import read_market
from atft.data.panel.survey import may_be_number, survey
from atft.data.progress import ProgressReporter
from atft.data.read.columns import ColumnReader
from atft.data.read.csv import DelimitedFile
from atft.data.read.opening import open_file
from atft.data.read.tables import Table
from atft.data.read.types import content_of
from atft.data.schema import DataError
from atft.spec.data import SideFile

CODES, DAYS = 3, 24
NUM = CODES * DAYS
WEEKDAYS = [d.item() for d in np.busday_offset(np.datetime64("2024-01-01"), np.arange(DAYS))]
ROW_DAYS = [d for d in WEEKDAYS for _ in range(CODES)]
CLOSE = [round(100 + 7 * np.sin(i * 1.7), 2) for i in range(NUM)]
WHOLE = [100 + i * i % 7 for i in range(NUM)]


def numbers(kind: pa.DataType) -> pa.Array:
    return pa.array(WHOLE, pa.int64()).cast(kind)


def decimals(kind: pa.DataType) -> pa.Array:
    return pa.array([Decimal(f"{x:.2f}") for x in CLOSE], kind)


def instants(kind: pa.DataType) -> pa.Array:
    return pa.array(ROW_DAYS, pa.date32()).cast(pa.timestamp("us")).cast(pa.timestamp(kind.unit)).cast(kind)


def texts(kind: pa.DataType) -> pa.Array:
    return pa.array([str(x) for x in CLOSE], pa.string()).cast(kind)


def bytes_of(kind: pa.DataType) -> pa.Array:
    return texts(pa.string()).cast(pa.binary()).cast(kind)


def extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


COLUMNS: dict[str, Callable[[], pa.Array]] = {
    **{str(k): partial(numbers, k) for k in (pa.int8(), pa.int16(), pa.int32(), pa.int64())},
    **{str(k): partial(numbers, k) for k in (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64())},
    "float16": lambda: pa.array(np.array(WHOLE, np.float16)),
    "float32": lambda: numbers(pa.float32()),
    "float64": lambda: pa.array(CLOSE),
    **{
        str(k): partial(decimals, k)
        for k in (pa.decimal32(9, 2), pa.decimal64(18, 2), pa.decimal128(20, 2), pa.decimal256(50, 6))
    },
    "bool": lambda: pa.array([i % 2 == 0 for i in range(NUM)]),
    "null": lambda: pa.nulls(NUM),
    **{str(k): partial(texts, k) for k in (pa.string(), pa.large_string(), pa.string_view())},
    **{str(k): partial(bytes_of, k) for k in (pa.binary(), pa.large_binary())},
    "binary_view": lambda: texts(pa.string()).cast(pa.binary()).cast(pa.binary_view()),
    "fixed_size_binary": lambda: pa.array([b"abcd"] * NUM, pa.binary(4)),
    "date32": lambda: pa.array(ROW_DAYS, pa.date32()),
    "date64": lambda: pa.array(ROW_DAYS, pa.date32()).cast(pa.date64()),
    **{f"timestamp {u}": partial(instants, pa.timestamp(u)) for u in ("s", "ms", "us", "ns")},
    "timestamp UTC": lambda: instants(pa.timestamp("us", "UTC")),
    "timestamp +00:30": lambda: instants(pa.timestamp("us", "+00:30")),
    "timestamp Mars": lambda: instants(pa.timestamp("us")).view(pa.timestamp("us", "Mars/Olympus")),
    "time32": lambda: pa.array([dt.time(9)] * NUM, pa.time32("s")),
    "time64": lambda: pa.array([dt.time(9)] * NUM, pa.time64("us")),
    "duration": lambda: pa.array([1] * NUM, pa.duration("s")),
    "interval": lambda: pa.array([(1, 2, 3)] * NUM, pa.month_day_nano_interval()),
    "list": lambda: pa.array([[x] for x in CLOSE]),
    "struct": lambda: pa.array([{"a": x} for x in CLOSE]),
    "map": lambda: pa.array([[("a", x)] for x in CLOSE], pa.map_(pa.string(), pa.float64())),
    "union": lambda: pa.UnionArray.from_sparse(pa.array([0] * NUM, pa.int8()), [pa.array(CLOSE)]),
    "dictionary of text": lambda: texts(pa.string()).dictionary_encode(),
    "dictionary of numbers": lambda: pa.array(CLOSE).dictionary_encode(),
    "dictionary of bytes": lambda: texts(pa.string()).cast(pa.binary()).dictionary_encode(),
    "dictionary of wide decimals": lambda: pa.DictionaryArray.from_arrays(
        pa.array([i % 2 for i in range(NUM)]), pa.array([Decimal("1.5"), Decimal("2.5")], pa.decimal256(50, 2))
    ),
    "runs": lambda: pa.RunEndEncodedArray.from_arrays(pa.array(range(1, NUM + 1), pa.int32()), pa.array(CLOSE)),
    "bool8": lambda: extension(pa.bool8(), pa.array([1, 0] * (NUM // 2), pa.int8())),
    "uuid": lambda: extension(pa.uuid(), pa.array([b"a" * 16] * NUM, pa.binary(16))),
    "json": lambda: extension(pa.json_(), texts(pa.string())),
}
ROLES: dict[str, Callable[[ColumnReader], pl.Series]] = {
    "date": lambda reader: reader.dates("x"),
    "code": lambda reader: reader.codes("x"),
    "sector": lambda reader: reader.sectors("x"),
    "close": lambda reader: reader.prices("x"),
    "in_universe": lambda reader: reader.flags("x"),
    "target_1d": lambda reader: reader.returns("x"),
}
FORMATS = ("parquet", "arrow", "csv")
REFUSED = ("time32", "time64", "duration", "interval", "list", "struct", "map", "union", "fixed_size_binary", "uuid")
NUMERIC = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64",
           "decimal32(9, 2)", "decimal64(18, 2)", "decimal128(20, 2)", "decimal256(50, 6)", "string", "large_string",
           "string_view", "binary", "large_binary", "binary_view", "dictionary of text", "dictionary of numbers",
           "dictionary of bytes", "dictionary of wide decimals", "runs", "bool8", "json")  # fmt: skip
DATED = ("date32", "date64", "timestamp s", "timestamp ms", "timestamp us", "timestamp ns", "timestamp UTC",
         "timestamp +00:30")  # fmt: skip


def write(table: pa.Table, path: Path) -> bool:
    """Whether the format can hold the table."""
    try:
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        elif path.suffix == ".arrow":
            with pa.ipc.new_file(str(path), table.schema) as writer:
                writer.write_table(table)
        else:
            pyarrow.csv.write_csv(table, path)
    except (pa.ArrowException, OSError):
        return False
    return True


def in_role(table: Table, role: str) -> str:
    """read, or the words of the refusal."""
    try:
        reader = ColumnReader(table, ["x"])
        ROLES[role](reader)
        reader.settle("refuse")
    except DataError as error:
        return str(error)
    return "read"


def as_feature(table: Table) -> str:
    columns = ["x"] if may_be_number(table.schema.field("x").type) else []
    found, _ = survey(table, columns, np.repeat(np.arange(DAYS), CODES), DAYS, ProgressReporter())
    return "read" if found else "passed over"


def as_market(path: Path) -> str:
    return "read" if "x" in read_market(SideFile(file=str(path)), "refuse").value else "passed over"


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", list(COLUMNS))
def test_a_type_in_every_role_is_read_passed_over_or_refused_in_words(kind: str, form: str, tmp_path: Path) -> None:
    path = tmp_path / f"p.{form}"
    column = COLUMNS[kind]()
    days = pa.array([dt.date(2000, 1, 1) + dt.timedelta(days=i) for i in range(NUM)])
    if not write(pa.table({"date": days, "x": column, "vix": pa.array(CLOSE)}), path):
        return  # the format has no such type
    found = open_file(path)
    table = found.table(["x"]) if isinstance(found, DelimitedFile) else found
    answers = {role: in_role(table, role) for role in ROLES}
    answers |= {"feature": as_feature(table), "market": as_market(path)}
    assert not [words for words in answers.values() if str(tmp_path) in words]
    if form == "csv":
        return  # a text file has no types: that nothing but DataError is raised is all there is
    if kind in REFUSED:
        assert {role for role in ROLES if "column 'x' holds" in answers[role]} == ROLES.keys()
        assert [answers["feature"], answers["market"]] == ["passed over"] * 2
    if kind in NUMERIC:
        assert [answers["market"], answers["close"], answers["target_1d"]] == ["read"] * 3 or kind == "bool8"
        assert "holds" not in answers["code"]
    if kind in DATED:
        assert answers["date"] == "read"
        assert "not a number" in answers["close"]
        assert "not a code" in answers["code"]
    if kind == "timestamp Mars":
        assert "'Mars/Olympus', which is unknown: write dates" in answers["date"]
    if kind == "bool":
        assert answers["in_universe"] == "read"
        assert "not a number" in answers["close"]


def test_the_table_of_types_is_complete() -> None:
    assert len(COLUMNS) >= 25
    assert {content_of(make().type) for make in COLUMNS.values()} == set(type(content_of(pa.int8())))
