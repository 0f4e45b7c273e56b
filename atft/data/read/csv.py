"""Streaming reader of CSV and TSV files, plain or compressed with gzip or zstd: numeric columns are parsed into a
scratch Arrow file, the columns with a role stay text.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from atft.data.progress import ProgressReporter
from atft.data.read.cells import numbers_from_text, row_numbers
from atft.data.read.tables import FREE_BYTES, MAX_EXPANSION, Reader, Table, check_column_names, unreadable_error
from atft.data.read.wide import two_level_header
from atft.data.schema import DataError, format_names
from atft.spec.data import TableFile

BLOCK_BYTES = 8 << 20  # of text read at once; no line may be longer
HEADER_BYTES = 1 << 20
COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
UNSUPPORTED_MAGIC = {
    b"PK\x03\x04": "a zip archive: unpack it",
    b"BZh": "packed with bzip2: unpack it, or pack it with gzip or zstd",
    b"\xfd7zXZ": "packed with xz: unpack it, or pack it with gzip or zstd",
}
NOT_TEXT = "is neither Parquet nor Arrow nor UTF-8 text: save it as one of them"
DATA_LIKE = re.compile(r"^(\d{4}[-/]\d{2}[-/]\d{2}|-?\d+\.\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class DelimitedFile:
    """A delimited text file whose header has been read."""

    path: Path
    compression: str | None
    separator: str
    names: list[str]
    written: TableFile
    header_lines: int = 1  # more than one for columns of two levels, whose names are then made of them

    def table(
        self, text: Sequence[str], scratch: Path | None = None, progress: ProgressReporter | None = None
    ) -> Table:
        """Read the whole file once. Columns in `text` stay text, others become Float64 or are listed in the table's
        `not_numbers`. The result is kept in folder `scratch`, without one in memory. Raises DataError.
        """
        schema = pa.schema([(n, pa.string() if n in text else pa.float64()) for n in self.names])
        not_numbers: dict[str, list[int]] = {}
        progress = progress or ProgressReporter()
        rows, read = (
            self._to_memory(schema, not_numbers, progress)
            if scratch is None
            else self._to_scratch(scratch / "table.arrow", schema, not_numbers, progress)
        )
        if rows == 0:
            raise DataError(f"{self.path.name} has columns {format_names(self.names)} but no rows")
        kept_schema = pa.schema([f for f in schema if f.name not in not_numbers])
        return Table(
            name=self.path.name,
            form="CSV",
            schema=kept_schema,
            num_rows=rows,
            read=read,
            not_numbers=not_numbers,
            written=self.written,
        )

    def _to_memory(
        self, schema: pa.Schema, not_numbers: dict[str, list[int]], progress: ProgressReporter
    ) -> tuple[int, Reader]:
        kept = list(self._typed_batches(schema, not_numbers, progress))
        return sum(batch.num_rows for batch in kept), lambda columns: (batch.select(columns) for batch in kept)

    def _to_scratch(
        self, path: Path, schema: pa.Schema, not_numbers: dict[str, list[int]], progress: ProgressReporter
    ) -> tuple[int, Reader]:
        rows = 0
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            for batch in self._typed_batches(schema, not_numbers, progress):
                writer.write_batch(batch)
                rows += batch.num_rows

        def read(columns: list[str]) -> Iterator[pa.RecordBatch]:
            fields = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(c) for c in columns])
            reader = pa.ipc.open_file(pa.memory_map(str(path)), options=fields)
            return (reader.get_batch(i) for i in range(reader.num_record_batches))

        return rows, read

    def _typed_batches(
        self, schema: pa.Schema, not_numbers: dict[str, list[int]], progress: ProgressReporter
    ) -> Iterator[pa.RecordBatch]:
        seen = 0
        for batch in self._text_batches(progress):
            arrays = []
            for column in schema:
                cells = batch.column(column.name)
                if column.type == pa.string():
                    arrays.append(cells)
                    continue
                if column.name not in not_numbers:
                    values, failed = numbers_from_text(pl.Series(cells), self.written)
                    if failed.any():
                        not_numbers[column.name] = [seen + row for row in row_numbers(failed)]
                arrays.append(pa.nulls(len(cells), pa.float64()) if column.name in not_numbers else values.to_arrow())
            seen += batch.num_rows
            yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _text_batches(self, progress: ProgressReporter) -> Iterator[pa.RecordBatch]:
        name = self.path.name
        with _BoundedStream(self.path, self.compression, progress) as stream:
            try:
                reader = pa_csv.open_csv(
                    stream,
                    pa_csv.ReadOptions(block_size=BLOCK_BYTES)
                    if self.header_lines == 1
                    else pa_csv.ReadOptions(
                        block_size=BLOCK_BYTES, skip_rows=self.header_lines, column_names=self.names
                    ),
                    pa_csv.ParseOptions(delimiter=self.separator, newlines_in_values=True),
                    pa_csv.ConvertOptions(column_types=dict.fromkeys(self.names, pa.string())),
                )
                if reader.schema.names != self.names:
                    raise DataError(
                        f"{name} has a first line that cannot be split into names: {format_names(self.names)}"
                    )
                yield from reader
            except (pa.ArrowException, OSError, EOFError) as error:
                if stream.refusal is not None:
                    raise stream.refusal from error
                if isinstance(error, OSError) and error.errno is not None:
                    raise
                text = str(error)
                if "invalid UTF8" in text:
                    raise DataError(f"{name} is not UTF-8 text ({text[:120]}): save it as UTF-8") from error
                if "straddl" in text:
                    raise DataError(
                        f"{name} has a line of more than {BLOCK_BYTES:,} bytes: is a quote not closed?"
                    ) from error
                raise unreadable_error(name, "CSV", error) from error


class _BoundedStream:
    """The decompressed bytes that pyarrow reads, limited in number and refused with NUL; `refusal` keeps the error."""

    def __init__(self, path: Path, compression: str | None, progress: ProgressReporter) -> None:
        self._file = path.open("rb")
        self._input = pa.input_stream(self._file, compression=compression)
        self._path, self._compression, self._progress = path, compression, progress
        self._size = path.stat().st_size
        self._count = 0
        self.refusal: Exception | None = None

    closed = False

    def __enter__(self) -> "_BoundedStream":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._input.read(BLOCK_BYTES if size < 0 else size)
        try:
            self._check(data)
        except Exception as error:  # pyarrow wraps the error, so keep the original for the caller
            self.refusal = error
            raise
        return data

    def _check(self, data: bytes) -> None:
        if (nul := data.find(b"\0")) >= 0:
            raise DataError(f"{self._path.name} {NOT_TEXT} (NUL at byte {self._count + nul})")
        self._count += len(data)
        if self._compression is not None and self._count > max(FREE_BYTES, MAX_EXPANSION * self._size):
            raise DataError(
                f"{self._path.name} unpacks to more than {MAX_EXPANSION} times its {self._size} bytes: "
                "if that is right, unpack it and give the plain file"
            )
        self._progress.update(self._file.tell() / max(1, self._size))


def open_delimited_file(path: Path, head: bytes, written: TableFile) -> DelimitedFile:
    """The delimited text file at `path`, which begins with `head`; reads its header only. Raises DataError."""
    for magic, what in UNSUPPORTED_MAGIC.items():
        if head.startswith(magic):
            raise DataError(f"{path.name} is {what}")
    compression = next((kind for magic, kind in COMPRESSION_MAGIC.items() if head.startswith(magic)), None)
    try:
        with path.open("rb") as file:
            start: bytes = pa.input_stream(file, compression=compression).read(HEADER_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise unreadable_error(path.name, f"CSV packed with {compression}", error) from error
    if compression is not None and (start[:4] == b"PAR1" or start[:6] == b"ARROW1"):
        raise DataError(f"{path.name} is a packed Parquet or Arrow file: unpack it, they are compressed inside")
    if len(start) == HEADER_BYTES and b"\n" not in start:
        raise DataError(f"{path.name} has a first line of more than {HEADER_BYTES:,} bytes: it must name the columns")
    line = start.split(b"\n", 1)[0].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} {NOT_TEXT}") from error
    if "\0" in text:
        raise DataError(f"{path.name} {NOT_TEXT}")
    separator = max(",;\t", key=text.count)
    opened = partial(DelimitedFile, path=path, compression=compression, separator=separator, written=written)
    more = [other.decode(errors="replace").rstrip("\r") for other in start.split(b"\n", 3)[1:3]]
    try:
        names = next(csv.reader([text], delimiter=separator), [])
    except csv.Error as error:
        raise unreadable_error(path.name, "CSV", error) from error
    try:
        levels = two_level_header([names, *csv.reader(more, delimiter=separator)])
    except csv.Error:  # a cell of data that no header would have
        levels = None
    if levels is not None:
        check_column_names(path.name, levels[0])
        return opened(names=levels[0], header_lines=levels[1])
    if data := [n for n in names if DATA_LIKE.match(n)]:
        raise DataError(
            f"{path.name} has {data[0][:40]!r} where a column's name belongs: its first line must name the columns, "
            "and days must be rows, not columns"
        )
    check_column_names(path.name, names)
    return opened(names=names)
