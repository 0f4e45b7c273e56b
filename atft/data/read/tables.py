"""Readers of Parquet and Arrow files and of folders of Parquet files: chosen columns in small batches, so that no file
is ever in memory as a whole.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from atft.checksums import sha256_of
from atft.data.read.cells import PLAIN
from atft.data.read.types import Content, content_of, is_text, plain_column
from atft.data.schema import DataError, format_names
from atft.spec.data import TableFile

BATCH_ROWS, BATCH_BYTES = 1 << 17, 1 << 26  # larger batches allocate anew each time, smaller ones cost more calls
GROUP_ROWS = 1 << 14  # smaller row groups are read several at a time
MAX_COLUMNS, MAX_NAME = 20_000, 1_000
MAX_EXPANSION, FREE_BYTES = 100, 256 << 20  # real panels compress 3 to 20 times
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
POLARS_ERRORS = (pl.exceptions.PolarsError, pl.exceptions.PanicException)  # the second is no Exception
Batches = Iterator[pa.RecordBatch]
Reader = Callable[[list[str]], Batches]


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Columns on disk. `not_numbers`: columns of a text file that are not numeric, with the first rows that show it.

    `size_bytes`: the file's, which bounds how much may be unpacked from it; None if its parts are bounded already.
    `read_dictionary` reads text as dictionaries: several times as fast for columns of few distinct values.
    """

    name: str
    form: str
    schema: pa.Schema
    num_rows: int
    read: Reader
    read_dictionary: Reader | None = None
    size_bytes: int | None = None
    not_numbers: dict[str, list[int]] = field(default_factory=dict)
    written: TableFile = PLAIN  # how the file's text is

    def batches(self, columns: Sequence[str], read: Reader | None = None) -> Batches:
        """Record batches of `columns`, in this order, in the file's row order. Raises DataError."""
        rows = 0
        try:
            for batch in (read or self.read)(list(columns)):
                batch.validate(full=True)  # else false lengths and offsets would be read beyond the buffer
                rows += batch.num_rows
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    yield batch.slice(start, BATCH_ROWS).select(columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise unreadable_error(self.name, self.form, error) from error
        if rows != self.num_rows:
            raise DataError(f"{self.name} says that it has {self.num_rows:,} rows, but has {rows:,}: write it again")

    def keeping(self, mask: pl.Series) -> "Table":
        """The table of the rows where `mask` is true."""
        kept = mask.to_arrow()

        def read(columns: list[str]) -> Batches:
            start = 0
            for batch in self.batches(columns):
                yield batch.filter(kept.slice(start, batch.num_rows))
                start += batch.num_rows

        return replace(self, num_rows=int(mask.sum()), read=read, read_dictionary=None)

    def frame(self, columns: Sequence[str]) -> pl.DataFrame:
        """These columns in memory, for the few with a role, in types that polars reads; text may be categorical, and a
        type that no role can have is null. Raises DataError, also for a file that unpacks to far more than its size.
        """
        kinds = {c: self.schema.field(c).type for c in columns}
        unread = [c for c in columns if content_of(kinds[c]) is Content.OTHER]
        texts = [c for c in columns if self.read_dictionary and is_text(kinds[c])]
        others = [c for c in columns if c not in texts and c not in unread]
        frames, held = [], 0
        for names, read in ((others, self.read), (texts, self.read_dictionary)):
            if names and read is not None:
                batches, held = self._bounded(names, read, held)
                frames.append(self._frame(batches))
        frames.append(pl.DataFrame({c: pl.repeat(None, self.num_rows, eager=True) for c in unread}))
        return pl.concat(frames, how="horizontal").select(columns)

    def _frame(self, batches: list[pa.RecordBatch]) -> pl.DataFrame:
        table = pa.Table.from_batches(batches)
        try:
            columns = [plain_column(self.name, name, table[name]) for name in table.column_names]
            frame = pl.from_arrow(pa.table(columns, names=table.column_names), rechunk=False)
        except (pa.ArrowException, *POLARS_ERRORS) as error:
            raise unreadable_error(self.name, self.form, error) from error
        assert isinstance(frame, pl.DataFrame)  # noqa: S101 - polars' own type is wider
        frame.columns = table.column_names  # some releases of polars rename a column whose name is empty
        return frame

    def _bounded(self, columns: Sequence[str], read: Reader, held: int) -> tuple[list[pa.RecordBatch], int]:
        """The batches, and the bytes held so far. A row counts as at least eight bytes (a column of nulls takes none),
        a row of dictionary columns as eight per column, which they take once they are decoded.
        """
        batches = []
        for batch in self.batches(columns, read):
            per_row = batch.num_columns if read is self.read_dictionary else 1
            held += max(batch.nbytes, 8 * per_row * batch.num_rows)
            if self.size_bytes is not None and held > max(FREE_BYTES, MAX_EXPANSION * self.size_bytes):
                raise DataError(
                    f"{self.name} unpacks to more than {MAX_EXPANSION} times its {self.size_bytes:,} bytes: "
                    "if that is right, write it without compression and dictionaries"
                )
            batches.append(batch)
        return batches, held


def check_column_names(file: str, names: Sequence[str]) -> None:
    """Raises DataError for column names that are repeated, too long or too many, or contain NUL."""
    if len(names) > MAX_COLUMNS:
        raise DataError(
            f"{file} has {len(names):,} columns, and {MAX_COLUMNS:,} are the most: leave out what is not needed; "
            "stocks and days must be rows"
        )
    if odd := [n for n in names if len(n) > MAX_NAME or "\0" in n]:
        raise DataError(
            f"{file} has column names that are longer than {MAX_NAME:,} letters or have NUL in them, such as "
            f"{odd[0][:40]!r}: rename them"
        )
    if twice := sorted(n for n, count in Counter(names).items() if count > 1):
        raise DataError(f"{file} has more than one column named {format_names(twice)}: rename or remove all but one")


def unreadable_error(name: str, form: str, error: Exception) -> DataError:
    """The DataError for a file that is corrupt or of another format."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return DataError(f"{name} cannot be read as {form}: {reason}. Is it cut short, or of another format?")


@contextmanager
def native_errors(file: str) -> Iterator[None]:
    """Turns errors of polars and Arrow, panics too, into DataError: none of them is a fault of the service."""
    try:
        yield
    except (pa.ArrowException, *POLARS_ERRORS) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise DataError(f"{file} has cells that cannot be read: {reason}. Write them as plain values") from error


def open_binary(path: Path, head: bytes) -> Table | None:
    """The table in a Parquet or Arrow file that begins with `head`; None for another format. Raises DataError."""
    form, opened = (
        ("Parquet", _parquet)
        if head[:4] == b"PAR1"
        else ("Arrow IPC", _arrow_file)
        if head[:6] == b"ARROW1"
        else ("Arrow stream", _arrow_stream)
        if head[:4] == b"\xff\xff\xff\xff"
        else ("", None)
    )
    if opened is None:
        return None
    try:
        schema, rows, read = opened(path)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable_error(path.name, form, error) from error
    table = Table(
        name=path.name,
        form=form,
        schema=schema,
        num_rows=rows,
        read=read,
        read_dictionary=(lambda columns: _parquet(path, columns)[2](columns)) if form == "Parquet" else None,
        size_bytes=path.stat().st_size,
    )
    return checked(table)


def table_from_frame(frame: pl.DataFrame, name: str) -> Table:
    """A data frame in memory as a table."""
    table = frame.to_arrow()
    return Table(
        name=name,
        form="frame",
        schema=table.schema,
        num_rows=frame.height,
        read=lambda columns: iter(table.select(columns).to_batches(max_chunksize=BATCH_ROWS)),
    )


def checked(table: Table) -> Table:
    """The table, if its names and rows are sound. Raises DataError."""
    names = table.schema.names
    check_column_names(table.name, names)
    if table.num_rows <= 0:
        raise DataError(f"{table.name} has columns {format_names(names)} but no rows")
    return table


def _parquet(path: Path, dictionary: Sequence[str] = ()) -> tuple[pa.Schema, int, Reader]:
    # Memory-mapped: the compressed bytes stay in the page cache, only decoded ones take memory.
    file = pq.ParquetFile(path, memory_map=True, read_dictionary=list(dictionary))
    groups = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
    widths = {f.name: f.type.bit_width / 8 for f in file.schema_arrow if pa.types.is_primitive(f.type)}

    def read(columns: list[str]) -> Batches:
        rows = int(BATCH_BYTES / max(1.0, sum(widths.get(c, 8.0) for c in columns))) or 1
        right_size = min(groups[:-1], default=GROUP_ROWS) >= GROUP_ROWS and max(groups, default=0) <= rows
        if right_size and widths.keys() >= set(columns):  # text has no fixed width
            for number in range(len(groups)):  # a third less work than iter_batches, which cuts across groups
                yield from file.read_row_group(number, columns, use_threads=True).to_batches()
        else:
            yield from file.iter_batches(batch_size=min(BATCH_ROWS // 2, rows), columns=columns, use_threads=True)

    return file.schema_arrow, file.metadata.num_rows, read


def _arrow_file(path: Path) -> tuple[pa.Schema, int, Reader]:
    def opened(fields: list[int]) -> pa.ipc.RecordBatchFileReader:
        return pa.ipc.open_file(pa.memory_map(str(path)), options=pa.ipc.IpcReadOptions(included_fields=fields))

    schema = pa.ipc.open_file(pa.memory_map(str(path))).schema

    def read(columns: list[str]) -> Batches:
        reader = opened([schema.get_field_index(c) for c in columns])
        for i in range(reader.num_record_batches):
            yield reader.get_batch(i)

    return schema, _count(schema, read), read


def _arrow_stream(path: Path) -> tuple[pa.Schema, int, Reader]:
    schema = pa.ipc.open_stream(pa.memory_map(str(path))).schema

    def read(columns: list[str]) -> Batches:
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(c) for c in columns])
        yield from pa.ipc.open_stream(pa.memory_map(str(path)), options=options)

    return schema, _count(schema, read), read


def _count(schema: pa.Schema, read: Reader) -> int:
    first = [n for n, count in Counter(schema.names).items() if count == 1][:1]
    return sum(batch.num_rows for batch in read(first)) if first else 0


def files_under(folder: Path) -> list[Path]:
    """The data files of a folder, sorted by relative path, without names that start with `.` or `_`. Raises DataError
    for links that lead out of it.
    """
    found = []
    for root, folders, files in os.walk(folder):
        folders[:] = [f for f in folders if not f.startswith((".", "_"))]
        found += [Path(root, f) for f in files if not f.startswith((".", "_"))]
    inside = folder.resolve()
    if strange := [f.name for f in found if not f.resolve().is_relative_to(inside)]:
        raise DataError(
            f"folder {folder.name} has links that lead out of it ({format_names(strange, 3)}): copy the files in"
        )
    return sorted(found, key=lambda f: f.relative_to(folder).as_posix())


def folder_sha256(folder: Path) -> str:
    """SHA-256 of the relative names and contents of `files_under`."""
    lines = [f"{f.relative_to(folder).as_posix()}\0{sha256_of(f)}\n" for f in files_under(folder)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def open_folder(folder: Path) -> Table:
    """A folder of Parquet files as one table; Hive partitions such as `year=2015` become columns. Raises DataError."""
    files = files_under(folder)
    if not files:
        raise DataError(f"folder {folder.name} has no data files: put Parquet files into it")
    parts: list[tuple[Table, dict[str, str | None]]] = []
    for file in files:
        relative = file.relative_to(folder)
        with file.open("rb") as opened:
            head = opened.read(8)
        if head[:4] != b"PAR1":
            raise DataError(
                f"folder {folder.name}: {relative} is not a Parquet file: a folder holds Parquet files only"
            )
        schema, rows, read = _part(file, relative.as_posix())
        keys = dict(part.split("=", 1) for part in relative.parent.parts if "=" in part)
        values = {k: None if v == NO_PARTITION else unquote(v) for k, v in keys.items()}
        parts.append((Table(name=relative.as_posix(), form="Parquet", schema=schema, num_rows=rows, read=read), values))
    first, keys = parts[0][0], {k: _key_type([v.get(k) for _, v in parts]) for k in parts[0][1]}
    for table, values in parts:
        if set(table.schema.names) != set(first.schema.names) or set(values) != set(keys):
            odd = sorted({*table.schema.names, *values} ^ {*first.schema.names, *keys})
            raise DataError(
                f"folder {folder.name}: {table.name} and {first.name} do not have the same columns "
                f"(they differ in {format_names(odd)}): make them equal"
            )
    schema = pa.schema([_common_field(folder.name, name, [t for t, _ in parts]) for name in first.schema.names])
    for key, kind in keys.items():
        schema = schema.append(pa.field(key, kind))
    whole = Table(
        name=folder.name,
        form="Parquet",
        schema=schema,
        num_rows=sum(table.num_rows for table, _ in parts),
        size_bytes=sum(file.stat().st_size for file in files),
        read=lambda columns: _folder_batches(parts, schema, columns),
    )
    return checked(whole)


def _part(file: Path, name: str) -> tuple[pa.Schema, int, Reader]:
    try:
        return _parquet(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise unreadable_error(name, "Parquet", error) from error


def _common_field(folder: str, name: str, parts: Sequence[Table]) -> pa.Field:
    """The field of a type that holds the column of every part. Raises DataError naming two files that do not mix."""
    first = parts[0].schema.field(name)
    common = first.with_nullable(True)
    for part in parts[1:]:
        field = part.schema.field(name)
        if field.type == common.type:
            continue
        kinds = {content_of(common.type), content_of(field.type)} - {Content.EMPTY}
        try:
            common = pa.unify_schemas(
                [pa.schema([common]), pa.schema([field.with_nullable(True)])], promote_options="permissive"
            ).field(0)
        except pa.ArrowException as error:
            if kinds == {Content.TEXT}:
                common = common.with_type(pa.large_string())
            elif kinds == {Content.DATE, Content.INSTANT} and not (_zone(common.type) or _zone(field.type)):
                common = common.with_type(pa.timestamp("us"))
            else:
                other = next(p for p in parts if p.schema.field(name).type != field.type)
                raise DataError(
                    f"folder {folder}: column {name!r} is {str(field.type)[:100]} in {part.name} and "
                    f"{str(other.schema.field(name).type)[:100]} in {other.name}, which do not mix: make them equal"
                ) from error
    return common


def _zone(kind: pa.DataType) -> str | None:
    return kind.tz if pa.types.is_timestamp(kind) else None


def _key_type(values: Sequence[str | None]) -> pa.DataType:
    """int64 if every value is written as a plain integer, else string: 000001 is a code."""
    plain = all(v is None or (v.isdecimal() and str(int(v)) == v) for v in values)
    return pa.int64() if plain else pa.string()


def _folder_batches(parts: list[tuple[Table, dict[str, str | None]]], schema: pa.Schema, columns: list[str]) -> Batches:
    wanted = pa.schema([schema.field(c) for c in columns])
    for table, keys in parts:
        own = [c for c in columns if c not in keys]
        for batch in table.batches(own or table.schema.names[:1]):
            arrays = []
            for column in wanted:
                if column.name in keys:
                    value = keys[column.name]
                    value = pa.scalar(value, pa.string()).cast(column.type)
                    arrays.append(pa.repeat(value, batch.num_rows))
                else:
                    cells = batch.column(column.name)
                    if cells.type != column.type and content_of(column.type) is Content.TEXT:
                        cells = plain_column(table.name, column.name, pa.chunked_array([cells])).combine_chunks()
                    arrays.append(cells.cast(column.type))
            yield pa.RecordBatch.from_arrays(arrays, schema=wanted)
