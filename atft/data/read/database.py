"""Readers of one table of a SQLite or DuckDB file, which is opened read-only and never changed."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa

from atft.data.read.tables import BATCH_ROWS, Batches, Table, check_column_names, checked, unreadable_error
from atft.data.schema import DataError, format_names
from atft.spec.data import TableFile

BATCH_CELLS = 1 << 20
COLUMNS_AT_ONCE = 400  # a statement of SQLite returns 2,000 values at most
STEPS, STEPS_PER_BYTE = 1 << 20, 20  # of SQLite's machine: about five a column, which takes a byte or more
SQLITE_MAGIC, DUCKDB_MAGIC = b"SQLite format 3\0", b"DUCK"


def open_database(path: Path, head: bytes, written: TableFile) -> Table | None:
    """Table `written.table` (None: the only one) of the SQLite or DuckDB file that begins with `head`; None for another
    format. Raises DataError.
    """
    is_sqlite = head.startswith(SQLITE_MAGIC)
    if not is_sqlite and head[8:12] != DUCKDB_MAGIC:
        return None
    for suffix in ("-wal", "-journal", ".wal"):
        log = path.with_name(path.name + suffix)
        if log.exists() and log.stat().st_size:
            raise DataError(
                f"{path.name} has changes that are only in {log.name} yet: close the program that writes to it"
            )
    return _open_sqlite(path, written) if is_sqlite else _open_duckdb(path, written.table)


def _chosen(path: Path, names: Sequence[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted in names and wanted is not None:
        return wanted
    problem = (
        f"has no table {wanted!r}" if wanted is not None else "has no table" if not names else "has several tables"
    )
    raise DataError(f"{path.name} {problem}: it has {format_names(names)}; name one with table (--table)")


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def _sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    # Immutable: neither locks nor logs are written beside the file, whose folder may be read-only.
    database = sqlite3.connect(f"file:{quote(str(path))}?mode=ro&immutable=1", uri=True, check_same_thread=False)
    try:
        database.execute("PRAGMA trusted_schema = OFF")
        # A damaged file's pages can refer to each other in a circle: then this ends with "interrupted".
        calls = iter(range((STEPS_PER_BYTE * path.stat().st_size) // STEPS + 10))
        database.set_progress_handler(lambda: next(calls, None) is None, STEPS)
        yield database
    except (sqlite3.Error, OverflowError) as error:
        raise unreadable_error(path.name, "SQLite", error) from error
    finally:
        database.close()


def _open_sqlite(path: Path, written: TableFile) -> Table:
    with _sqlite(path) as database:
        found = database.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        )
        table = _chosen(path, [str(name) for (name,) in found], written.table)
        columns = database.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
        names = [str(row[1]) for row in columns]
        (created,) = database.execute(
            "SELECT sql FROM sqlite_master WHERE name = ? AND type = 'table'", (table,)
        ).fetchone()
        # Columns are read in groups, whose rows must be in one order: that of an index would be another.
        source = f"{_quoted(table)} NOT INDEXED"
        if "WITHOUT" in str(created).upper():  # of a row number, perhaps: only the key tells the order then
            keys = [_quoted(str(row[1])) for row in columns if row[5]]
            source += f" ORDER BY {', '.join(keys)}" if keys else ""
        check_column_names(path.name, names)
        # Not count(*), which nothing can interrupt.
        (rows,) = database.execute(f"SELECT coalesce(sum(1), 0) FROM {_quoted(table)}").fetchone()
        schema = pa.schema(
            [(name, kind) for name, kind in zip(names, _sqlite_types(database, table, names), strict=True)]
        )
    opened = Table(
        name=path.name,
        form="SQLite",
        schema=schema,
        num_rows=rows,
        read=partial(_sqlite_batches, path, source, schema, written.decimal),
        size_bytes=path.stat().st_size,
    )
    return checked(opened)


def _sqlite_types(database: sqlite3.Connection, table: str, names: Sequence[str]) -> list[pa.DataType]:
    """The type of each column by what its cells hold: SQLite's columns have no types of their own."""
    types = {1: pa.string(), 6: pa.binary(), 11: pa.float64(), 16: pa.int64(), 24: pa.null(), None: pa.null()}
    found: list[pa.DataType] = []
    for start in range(0, len(names), COLUMNS_AT_ONCE):
        part = names[start : start + COLUMNS_AT_ONCE]
        tests = ", ".join(f"min(instr('text blob real integer null', typeof({_quoted(name)})))" for name in part)
        held = database.execute(f"SELECT {tests} FROM {_quoted(table)}").fetchone()
        found += [types[place] for place in held]
    return found


def _sqlite_batches(path: Path, source: str, schema: pa.Schema, decimal: str, columns: list[str]) -> Batches:
    chosen = pa.schema([schema.field(c) for c in columns])
    casts = [_as_text(_quoted(f.name), decimal) if pa.types.is_string(f.type) else _quoted(f.name) for f in chosen]
    with _sqlite(path) as database:
        cursor = database.execute(f"SELECT {', '.join(casts)} FROM {source}")
        while rows := cursor.fetchmany(min(BATCH_ROWS, BATCH_CELLS // len(columns) or 1)):
            arrays = [pa.array(cells, field.type) for cells, field in zip(zip(*rows, strict=True), chosen, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=chosen)


def _as_text(column: str, decimal: str) -> str:
    """SQL for the text of a column's cells, with the decimal mark of the text among them."""
    if decimal == ".":
        return f"CAST({column} AS TEXT)"
    real = (
        f"CASE {column} WHEN round({column}) THEN printf('%.0f', {column}) ELSE replace({column}, '.', '{decimal}') END"
    )
    return f"CASE typeof({column}) WHEN 'real' THEN {real} ELSE CAST({column} AS TEXT) END"


@contextmanager
def _duckdb(path: Path) -> Iterator[Any]:
    try:
        import duckdb  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise DataError(
            f"{path.name} is a DuckDB file, and the server has no duckdb: install atft with the extra duckdb, or write "
            "the table as Parquet"
        ) from error
    try:
        with duckdb.connect(str(path), read_only=True) as database:
            database.execute("SET TimeZone = 'UTC'")  # else instants are told in the zone of this machine
            database.execute("SET enable_external_access = false")  # a view could read other files
            yield database
    except duckdb.Error as error:
        if "lock" in str(error):  # its text names paths and processes of this machine
            raise DataError(f"{path.name} is open in another program: close it there") from error
        reason = duckdb.Error(str(error).replace(str(path), path.name))  # never a folder of the server
        raise unreadable_error(path.name, "DuckDB", reason) from error


def _open_duckdb(path: Path, wanted: str | None) -> Table:
    with _duckdb(path) as database:
        found = database.execute(
            "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'main' AND NOT internal"
        ).fetchall()
        table = _chosen(path, [str(name) for (name,) in found], wanted)
        schema = database.sql(f"SELECT * FROM {_quoted(table)} LIMIT 0").to_arrow_table().schema
        (rows,) = database.execute(f"SELECT count(*) FROM {_quoted(table)}").fetchone()
    opened = Table(
        name=path.name,
        form="DuckDB",
        schema=schema,
        num_rows=rows,
        read=partial(_duckdb_batches, path, table),
        size_bytes=path.stat().st_size,
    )
    return checked(opened)


def _duckdb_batches(path: Path, table: str, columns: list[str]) -> Batches:
    with _duckdb(path) as database:
        chosen = ", ".join(map(_quoted, columns))
        yield from database.sql(f"SELECT {chosen} FROM {_quoted(table)}").to_arrow_reader(BATCH_ROWS)
