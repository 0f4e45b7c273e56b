"""Broken files: each is refused with an error that says what is wrong, where, and what to do, and leaves no files."""

import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from atft.data.builder.run import build
from atft.data.read import csv as csv_reader
from atft.data.read import tables
from atft.data.schema import DataError
from atft.spec.data import DatasetSpec
from atft.spec.reason import Reason

Write = Callable[[pl.DataFrame, Path], object]


def csv(frame: pl.DataFrame) -> bytes:
    return frame.write_csv().encode()


def put(frame: pl.DataFrame, column: str, value: object, rows: tuple[int, ...] = (17,)) -> pl.DataFrame:
    """`value` in these 0-based rows."""
    dtype = pl.String if isinstance(value, str) else frame[column].dtype
    new = pl.lit(value, dtype=dtype)
    return frame.with_columns(
        pl.when(pl.int_range(pl.len()).is_in(rows)).then(new).otherwise(pl.col(column).cast(dtype)).alias(column)
    )


def zipped(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("prices.csv", csv(frame))
    return buffer.getvalue()


def header_twice(frame: pl.DataFrame) -> bytes:
    return csv(frame).replace(b",open,", b",close,", 1)


def no_header(frame: pl.DataFrame) -> bytes:
    return frame.write_csv(include_header=False).encode()


def nested(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(close=pl.concat_list("open", "close"))


def ready(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.select("date", "code", a="open", target_1d=pl.lit(0.01))


def twice_in_parquet(frame: pl.DataFrame, path: Path) -> None:
    table = frame.to_arrow()
    pq.write_table(pa.Table.from_arrays([*table.columns, table["close"]], names=[*table.column_names, "close"]), path)


def parts(frame: pl.DataFrame, path: Path) -> None:
    """A folder of which one file has other columns."""
    for year, part in (("2020", frame), ("2021", frame.drop("sector"))):
        (path / f"year={year}").mkdir(parents=True)
        part.write_parquet(path / f"year={year}" / "part.parquet")


def mixed(frame: pl.DataFrame, path: Path) -> None:
    (path / "a").mkdir(parents=True)
    frame.write_parquet(path / "a" / "part.parquet")
    (path / "a" / "more.csv").write_bytes(csv(frame))


def spoiled_middle(frame: pl.DataFrame, path: Path) -> None:
    """Footer and magic are whole, the pages are not."""
    frame.write_parquet(path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[200 : len(data) // 2] = b"\xff" * (len(data) // 2 - 200)
    path.write_bytes(data)


def arrow(frame: pl.DataFrame, path: Path, **columns: pa.Array) -> None:
    """An Arrow file in which the given columns replace valid ones."""
    table = frame.select("date", "code", "close").to_arrow().combine_chunks()
    arrays = {name: table[name].chunk(0) for name in table.column_names} | columns
    batch = pa.record_batch(list(arrays.values()), names=list(arrays))
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def texts(offsets: npt.NDArray[np.int32], data: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(offsets) - 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def false_count(frame: pl.DataFrame, path: Path, which: int, number: bytes) -> None:
    """A Parquet file whose count 100 at index `which` of the footer (0: of the file, 4: of the last column) is replaced
    by `number`, in Thrift's compact encoding.
    """
    pq.write_table(frame.select("date", "code", "close", x="close").head(100).to_arrow(), path, store_schema=False)
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    count = b"\x16" + bytes([200 | 128, 1])  # zigzag 100, as i64
    parts = data[-8 - length : -8].split(count)
    assert len(parts) == 7  # of the file, of each column, of the row group
    footer = count.join(parts[: which + 1]) + b"\x16" + number + count.join(parts[which + 1 :])
    path.write_bytes(data[: -8 - length] + footer + struct.pack("<I", len(footer)) + data[-4:])


def equal_rows(frame: pl.DataFrame, path: Path) -> None:
    """Two million equal rows in a few thousand bytes."""
    one = {name: frame[name].to_arrow()[0] for name in ("date", "code", "close")}
    pq.write_table(pa.table({name: pa.repeat(value, 2_000_000) for name, value in one.items()}), path)


def endless(path: Path, column: pa.Array) -> None:
    empty = pl.DataFrame(schema={"date": pl.Date, "code": pl.String, "close": pl.Float64})
    arrow(empty, path, **dict.fromkeys(empty.columns, column))


def far_offsets(frame: pl.DataFrame, path: Path) -> None:
    offsets = np.arange(len(frame) + 1, dtype=np.int32)
    arrow(frame, path, code=texts(offsets, b"A" * len(frame)))
    far = np.where(offsets > 0, 2**31 - 1, 0).astype(np.int32)
    path.write_bytes(path.read_bytes().replace(offsets.tobytes(), far.tobytes()))


BROKEN: dict[str, tuple[str, Write, dict[str, object], str]] = {
    # name: file name, how it is made, settings, message
    "empty": ("p.csv", lambda _, p: p.touch(), {}, r"p\.csv is empty"),
    "missing": ("p.csv", lambda _, p: None, {}, r"p\.csv cannot be read \(No such file"),
    "header only": ("p.csv", lambda f, p: p.write_bytes(csv(f.head(0))), {}, r"has columns \['date'.* but no rows"),
    "cut Parquet": (
        "p.parquet",
        lambda f, p: (f.write_parquet(p), p.write_bytes(p.read_bytes()[:-300])),
        {},
        r"p\.parquet cannot be read as Parquet: .*Is it cut short",
    ),
    "spoiled Parquet": ("p.parquet", spoiled_middle, {}, r"p\.parquet cannot be read as Parquet"),
    "cut Arrow": (
        "p.arrow",
        lambda f, p: (f.write_ipc(p), p.write_bytes(p.read_bytes()[:-300])),
        {},
        r"p\.arrow cannot be read as Arrow IPC: .*Is it cut short",
    ),
    "cut Arrow stream": (
        "p.arrows",
        lambda f, p: (f.write_ipc_stream(p), p.write_bytes(p.read_bytes()[: p.stat().st_size // 2])),
        {},
        r"p\.arrows cannot be read as Arrow stream: .*Is it cut short",
    ),
    "wrong magic": (
        "p.parquet",
        lambda _, p: p.write_bytes(struct.pack("<40d", *np.linspace(1, 2, 40))),
        {},
        r"p\.parquet is neither Parquet nor Arrow nor UTF-8 text: save it as one of them",
    ),
    "zip": ("p.csv", lambda f, p: p.write_bytes(zipped(f)), {}, "zip archive: unpack it"),
    "bzip2": ("p.csv", lambda _, p: p.write_bytes(b"BZh91AY&SY"), {}, "packed with bzip2: unpack it"),
    "Latin-1": (
        "p.csv",
        lambda f, p: p.write_bytes(put(f, "sector", "Müll").write_csv().encode("latin-1")),
        {},
        r"p\.csv is not UTF-8 text \(.*save it as UTF-8",
    ),
    "NUL bytes": (
        "p.csv",
        lambda f, p: p.write_bytes(csv(f) + b"\0" * 50),
        {},
        r"UTF-8 text: save it as one of them \(NUL at byte \d+",
    ),
    "no header": ("p.csv", lambda f, p: p.write_bytes(no_header(f)), {}, r"has '2020-01-01' where a column's name"),
    "ragged": (
        "p.csv",
        lambda f, p: p.write_bytes(csv(f) + b"2020-06-01,B00,S0,1,1,1,1,1,extra\n"),
        {},
        "cannot be read as CSV: .*Expected 8 columns, got 9",
    ),
    "open quote": (
        "p.csv",
        lambda f, p: p.write_bytes(csv(f) + b'2020-06-01,"B00,S0,1,1,1,1,1\n' + b"x,y\n" * 50_000),
        {},
        "a line of more than 65,536 bytes: is a quote not closed",
    ),
    "column twice, CSV": (
        "p.csv",
        lambda f, p: p.write_bytes(header_twice(f)),
        {},
        r"more than one column named \['close'\]: rename or remove",
    ),
    "column twice, Parquet": ("p.parquet", twice_in_parquet, {}, r"more than one column named \['close'\]"),
    "role twice": (
        "p.csv",
        lambda f, p: f.with_columns(Close="close").write_csv(p),
        {},
        r"\['close', 'Close'\] could each be the close: map one with columns\.close",
    ),
    "no date": ("p.csv", lambda f, p: f.drop("date").write_csv(p), {}, r"no date column among .*columns\.date"),
    "no code": ("p.csv", lambda f, p: f.drop("code").write_csv(p), {}, r"no code column among .*columns\.code"),
    "bad date": ("p.csv", lambda f, p: put(f, "date", "soon").write_csv(p), {}, r"not a date in 1 rows.* 18 B.*'soon'"),
    "mixed dates": (
        "p.csv",
        lambda f, p: put(f, "date", "03/01/2020", (17, 30)).write_csv(p),
        {},
        r"not a date in 2 rows, such as row 18 B0\d: '03/01/2020'; row 31 B0\d: .*: write dates",
    ),
    "nameless row": ("p.csv", lambda f, p: put(f, "code", "").write_csv(p), {}, "'code' is empty in 1 rows.* row 18"),
    "text in close": (
        "p.csv",
        lambda f, p: put(f, "close", "1,234.5").write_csv(p),
        {},
        r"'close' is not a number in 1 rows, such as row 18 2020-01-02 B0\d: '1,234\.5'",
    ),
    "negative price": ("p.parquet", lambda f, p: put(f, "close", -3.0).write_parquet(p), {}, "zero or negative.*-3.0"),
    "zero price": ("p.parquet", lambda f, p: put(f, "low", 0.0).write_parquet(p), {}, "'low' is zero or negative"),
    "negative volume": ("p.csv", lambda f, p: put(f, "volume", -1.0).write_csv(p), {}, "'volume' is negative"),
    "infinite": (
        "p.parquet",
        lambda f, p: put(f, "open", float("inf")).write_parquet(p),
        {},
        "'open' is infinite in 1 rows, such as row 18 2020-01-02 B0.: inf: leave it empty instead",
    ),
    "rows twice": (
        "p.parquet",
        lambda f, p: pl.concat([f, f.slice(30, 3)]).write_parquet(p),
        {},
        r"6 rows repeat a \(date, code\), such as 2020-01-0",
    ),
    "no close at all": (
        "p.parquet",
        lambda f, p: f.with_columns(close=pl.lit(None, pl.Float64)).write_parquet(p),
        {},
        "'close' has no value at all",
    ),
    "one stock": ("p.csv", lambda f, p: f.filter(code="B00").write_csv(p), {}, "1 codes; ranking needs at least 2"),
    "few days": ("p.csv", lambda f, p: f.head(70).write_csv(p), {}, "trading days; horizons .* need at least 20"),
    "absurd return": (
        "p.csv",
        lambda f, p: put(f, "close", 5e7).write_csv(p),
        {},
        r"daily returns are above .*such as 2020-01-02 B0\d .*a missed split, a unit error",
    ),
    "nested": (
        "p.parquet",
        lambda f, p: nested(f).write_parquet(p),
        {},
        "'close' holds large_list.*one plain value a row",
    ),
    "targets missing": (
        "p.parquet",
        lambda f, p: ready(f).write_parquet(p),
        {},
        r"missing target columns \['target_5d'\] for horizons \[5\]",
    ),
    "text feature": (
        "p.parquet",
        lambda f, p: f.with_columns(
            mood=pl.when(pl.col("code") == "B01").then(pl.lit("?")).otherwise(pl.lit("1"))
        ).write_parquet(p),
        {"features": ("mood",)},
        r"feature 'mood' is not a number in row \[2, 15, .*correct the column or leave it out",
    ),
    "strange universe": (
        "p.parquet",
        lambda f, p: (f.write_parquet(p), p.with_name("u.csv").write_text("year,code\n1999,B00\n")),
        {"universe": {"file": "u.csv"}},
        "no row of the panel is in the universe",
    ),
    "cut gzip": (
        "p.csv.gz",
        lambda f, p: p.write_bytes(gzip.compress(csv(f) * 20)[:-2000]),
        {},
        r"p\.csv\.gz cannot be read as CSV: .*Is it cut short",
    ),
    "gzip bomb": (
        "p.csv.gz",
        lambda f, p: p.write_bytes(gzip.compress(csv(f) + b"2020-06-01,B00,S0,1,1,1,1,1\n" * 100_000)),
        {},
        "unpacks to more than 10 times its .* bytes: if that is right, unpack it and give the plain file",
    ),
    "packed Parquet": (
        "p.parquet.gz",
        lambda f, p: (f.write_parquet(p), p.write_bytes(gzip.compress(p.read_bytes()))),
        {},
        "is a packed Parquet or Arrow file: unpack it",
    ),
    "long header": ("p.csv", lambda _, p: p.write_bytes(b"a" * (2 << 20)), {}, "a first line of more than 1,048,576"),
    "endless name": (
        "p.csv",
        lambda _, p: p.write_bytes(b"date,code,close," + b"x" * 200_000 + b"\n1,2,3,4\n"),
        {},
        "cannot be read as CSV: field larger than field limit",
    ),
    "100,000 columns, CSV": (
        "p.csv",
        lambda _, p: p.write_text(",".join(f"f{i}" for i in range(100_000)) + "\n"),
        {},
        "has 100,000 columns, and 20,000 are the most",
    ),
    "30,000 columns, Arrow": (
        "p.arrow",
        lambda f, p: arrow(f, p, **{f"f{i}": pa.nulls(len(f)) for i in range(30_000)}),
        {},
        "has 30,003 columns, and 20,000 are the most",
    ),
    "NUL in a name": (
        "p.parquet",
        lambda f, p: f.rename({"volume": "a\0b"}).write_parquet(p),
        {},
        r"have NUL in them, such as 'a\\x00b': rename",
    ),
    "NUL in a code": ("p.parquet", lambda f, p: put(f, "code", "A\0").write_parquet(p), {}, "'code' has NUL in 1 rows"),
    "rows that are not there": (
        "p.parquet",
        lambda f, p: false_count(f, p, 0, b"\xfe\x7f"),
        {},
        "says that it has 8,191 rows, but has 100: write it again",
    ),
    "fewer values than none": (
        "p.parquet",
        lambda f, p: false_count(f, p, 4, b"\x09"),
        {},
        "says that it has 100 rows, but has 0: write it again",
    ),
    "Parquet bomb": ("p.parquet", equal_rows, {}, "unpacks to more than 10 times its .* bytes"),
    "endless nulls": (
        "p.arrow",
        lambda _, p: endless(p, pa.nulls(50_000_000)),
        {},
        "unpacks to more than 10 times its .* bytes",
    ),
    "endless run": (
        "p.arrow",
        lambda _, p: endless(p, pa.RunEndEncodedArray.from_arrays(pa.array([50_000_000]), pa.array([1.0]))),
        {},
        "unpacks to more than 10 times its .* bytes",
    ),
    "offsets past the end": ("p.arrow", far_offsets, {}, "cannot be read as Arrow IPC: .*offset"),
    "text that is none": (
        "p.arrow",
        lambda f, p: arrow(f, p, code=texts(np.arange(len(f) + 1, dtype=np.int32), b"\xff" * len(f))),
        {},
        "cannot be read as Arrow IPC: .*UTF8",
    ),
    "index past the dictionary": (
        "p.arrow",
        lambda f, p: arrow(
            f, p, code=pa.DictionaryArray.from_arrays(pa.array([7] * len(f), pa.int32()), pa.array(["A"]), safe=False)
        ),
        {},
        "cannot be read as Arrow IPC: .*out of bounds",
    ),
    "day past all calendars": (
        "p.arrow",
        lambda f, p: arrow(f, p, date=pa.array([2**31 - 1] * len(f), pa.int32()).cast(pa.date32())),
        {},
        r"'date' is not a date in 1,\d+ rows, such as row 1 B00: day 2147483647 since 1970",
    ),
    "empty folder": ("p", lambda _, p: p.mkdir(), {}, "folder p has no data files: put Parquet files into it"),
    "unequal folder": ("p", parts, {}, r"year=2021/part\.parquet and year=2020/part\.parquet do not .*\['sector'\]"),
    "mixed folder": ("p", mixed, {}, r"folder p: a/more\.csv is not a Parquet file"),
}


@pytest.mark.parametrize("kind", list(BROKEN))
def test_a_broken_file_is_refused_and_leaves_nothing(
    prices: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    name, write, settings, message = BROKEN[kind]
    for module in (csv_reader, tables):
        monkeypatch.setattr(module, "MAX_EXPANSION", 10)
        monkeypatch.setattr(module, "FREE_BYTES", 1 << 20)
    monkeypatch.setattr(csv_reader, "BLOCK_BYTES", 1 << 16)
    (tmp_path / "in").mkdir()
    write(prices, tmp_path / "in" / name)
    if "universe" in settings:
        settings = {"universe": {"file": str(tmp_path / "in" / "u.csv")}}
    spec = DatasetSpec.model_validate(
        {"name": "x", "path": str(tmp_path / "in" / name), "horizons": (1, 5), **settings}
    )
    with pytest.raises(DataError, match=f"(?s){message}") as caught:
        build(spec, tmp_path / "out" / "cache", lambda _: None, lambda: False)
    assert caught.value.reason == Reason.INVALID_PARAMS
    assert str(tmp_path) not in str(caught.value)
    assert not list((tmp_path / "out").iterdir())
