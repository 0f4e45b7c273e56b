"""Backup to one file and restore: `backup` reads all tables in one snapshot, `restore` fills an empty database.

The file is a ZIP: `manifest.json`, each table in Postgres's COPY text format under `tables/`, and the files of the run
root under `files/`. Login sessions are not included: users log in again.
"""

import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

import psycopg
from psycopg import sql
from pydantic import BaseModel, ConfigDict

from atft.checksums import sync
from jobs.db.migrate import VERSION_TABLE, migrate
from jobs.record import store_identity
from jobs.settings import Settings

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
_SCHEMAS: Final = ("public", "optuna")
# Rows and files restored together are a store of their own: no worker may take one for the other.
_STORE, _MARK = "public.store", f"files/{store_identity.MARK}"
_EXCLUDED: Final = {"public.sessions", f"public.{VERSION_TABLE}"}
_TABLES: Final = """
    SELECT table_schema || '.' || table_name, array_agg(column_name::text ORDER BY ordinal_position)
    FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
    WHERE table_schema = ANY(%s) AND table_type = 'BASE TABLE' AND is_generated = 'NEVER' GROUP BY 1"""
_REFERENCES: Final = """
    SELECT a.relnamespace::regnamespace || '.' || a.relname, b.relnamespace::regnamespace || '.' || b.relname
    FROM pg_constraint c JOIN pg_class a ON a.oid = c.conrelid JOIN pg_class b ON b.oid = c.confrelid
    WHERE c.contype = 'f' AND c.conrelid <> c.confrelid"""
_SEQUENCES: Final = """
    SELECT table_schema, table_name, column_name,
           pg_get_serial_sequence(quote_ident(table_schema) || '.' || quote_ident(table_name), column_name)
    FROM information_schema.columns
    WHERE table_schema = ANY(%s)
      AND (is_identity = 'YES' OR column_default LIKE 'nextval(%%')"""


class BackupError(Exception):
    """The file is not a readable backup, or the target is not empty. No row was changed."""


class TableEntry(BaseModel):
    """The columns and the number of rows of one table in a backup."""

    model_config = ConfigDict(extra="forbid")

    columns: list[str]
    rows: int


class Manifest(BaseModel):
    """The contents of a backup. `revision` is the database's migration; a table comes after those it references."""

    model_config = ConfigDict(extra="forbid")

    format_version: int
    created_at: datetime
    revision: str
    files: bool
    tables: dict[str, TableEntry]


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """The numbers of rows and files written, and of files that vanished while they were read."""

    rows: int
    files: int
    skipped: int


def _connect(settings: Settings) -> psycopg.Connection[tuple[Any, ...]]:
    url = settings.sync_database_url.replace("postgresql+psycopg://", "postgresql://", 1)
    return psycopg.connect(url, connect_timeout=5, application_name="atft-backup")


def _identifier(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split(".", 1))


def _tables_in_order(connection: psycopg.Connection[tuple[Any, ...]]) -> dict[str, list[str]]:
    """The columns by table, ordered so that a table comes after those it references."""
    columns = {name: found for name, found in connection.execute(_TABLES, [list(_SCHEMAS)]) if name not in _EXCLUDED}
    needs: dict[str, set[str]] = {name: set() for name in sorted(columns)}
    for child, parent in connection.execute(_REFERENCES):
        if child in needs and parent in needs:
            needs[child].add(parent)
    ordered: dict[str, list[str]] = {}
    while len(ordered) < len(needs):
        ready = [name for name, parents in needs.items() if name not in ordered and parents <= ordered.keys()]
        if not ready:
            raise BackupError("the tables refer to each other in a circle")
        ordered |= {name: columns[name] for name in ready}
    return ordered


def backup(settings: Settings, target: Path, *, files: bool = True) -> Counts:
    """Write the database, and with `files` the files of the run root, to `target`, which appears only when complete.
    The service may keep running: the rows are one snapshot, and the files are at least as new. Raises BackupError.
    """
    if target.exists():
        raise BackupError(f"{target} exists: name a new file")
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with (
            os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw,
            zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            rows = _write_tables(settings, archive, files)
            taken, skipped = _write_files(settings, archive, partial) if files else (0, 0)
        sync(partial)
        partial.rename(target)
        sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)
    return Counts(rows=rows, files=taken, skipped=skipped)


def _write_tables(settings: Settings, archive: zipfile.ZipFile, files: bool) -> int:
    entries: dict[str, TableEntry] = {}
    with _connect(settings) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        found = connection.execute(sql.SQL("SELECT version_num FROM {}").format(_identifier(f"public.{VERSION_TABLE}")))
        revision = next(iter(found))[0]
        for table, columns in _tables_in_order(connection).items():
            statement = sql.SQL("COPY (SELECT {} FROM {} ORDER BY 1) TO STDOUT").format(
                _column_list(columns), _identifier(table)
            )
            with archive.open(f"tables/{table}", "w", force_zip64=True) as out, connection.cursor() as cursor:
                with cursor.copy(statement) as copy:
                    for block in copy:
                        out.write(block)
                entries[table] = TableEntry(columns=columns, rows=cursor.rowcount)
    manifest = Manifest(
        format_version=FORMAT_VERSION, created_at=datetime.now(UTC), revision=revision, files=files, tables=entries
    )
    archive.writestr(MANIFEST, manifest.model_dump_json(indent=1))
    return sum(entry.rows for entry in entries.values())


def _column_list(columns: Sequence[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, columns))


def _write_files(settings: Settings, archive: zipfile.ZipFile, partial: Path) -> tuple[int, int]:
    """The numbers of files written and of files that vanished meanwhile, as checkpoints replaced by newer ones."""
    taken = skipped = 0
    for path in sorted(_files(settings.run_root, partial)):
        info = zipfile.ZipInfo(f"files/{path.relative_to(settings.run_root).as_posix()}")
        info.external_attr = 0o600 << 16
        try:
            with path.open("rb") as source, archive.open(info, "w", force_zip64=True) as out:
                shutil.copyfileobj(source, out, 1 << 20)
            taken += 1
        except FileNotFoundError:
            skipped += 1
    return taken, skipped


def _files(root: Path, excluded: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]  # incomplete, or about to be removed
        for name in names:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink() and not path.samefile(excluded):
                yield path


def restore(settings: Settings, source: Path) -> Counts:
    """Restore a backup into an empty database and an empty run root, then upgrade to the newest migration.

    The rows become visible in one commit, after the files. Raises BackupError.
    """
    try:
        with zipfile.ZipFile(source) as archive:
            manifest = _read_manifest(archive)
            names = [name for name in archive.namelist() if name.startswith("files/") and name != _MARK]
            _check_files(settings.run_root, names)
            migrate(settings, manifest.revision)
            with _connect(settings) as connection:
                _check_empty(connection)
                for name in names:
                    _restore_file(archive, name, settings.run_root / name.removeprefix("files/"))
                _restore_tables(connection, archive, manifest)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        raise BackupError(f"{source} is not a whole backup: {error}") from error
    migrate(settings)
    rows = sum(entry.rows for entry in manifest.tables.values())
    return Counts(rows=rows, files=len(names), skipped=0)


def _read_manifest(archive: zipfile.ZipFile) -> Manifest:
    try:
        body: Mapping[str, Any] = json.loads(archive.read(MANIFEST))
        if body.get("format_version") != FORMAT_VERSION:
            raise BackupError(
                f"the backup has format {body.get('format_version')}, this program reads {FORMAT_VERSION}"
            )
        return Manifest.model_validate(body)
    except (ValueError, AttributeError) as error:
        raise BackupError(f"the backup's manifest cannot be read: {error}") from error


def _check_files(root: Path, names: Sequence[str]) -> None:
    for name in names:
        path = PurePosixPath(name.removeprefix("files/"))
        if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
            raise BackupError(f"{name!r} would lie outside of the run root")
    if names and root.exists() and any(path.is_file() for path in root.rglob("*")):
        raise BackupError(f"{root} has files: restore into an empty run root (ATFT_RUN_ROOT)")


def _check_empty(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    for table in _tables_in_order(connection):
        if table.startswith("public."):
            found = connection.execute(sql.SQL("SELECT EXISTS (SELECT FROM {})").format(_identifier(table))).fetchone()
            if found is not None and found[0]:
                raise BackupError(f"table {table} has rows: restore into an empty database (ATFT_DATABASE_URL)")


def _restore_file(archive: zipfile.ZipFile, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(name) as source, target.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    sync(target)


def _restore_tables(
    connection: psycopg.Connection[tuple[Any, ...]], archive: zipfile.ZipFile, manifest: Manifest
) -> None:
    """Fill the tables in the caller's transaction, without the triggers, which only allow transitions of new jobs."""
    present = _tables_in_order(connection)
    for table in (name for name in present if name.startswith("optuna.")):  # the rows in which Optuna keeps its version
        connection.execute(sql.SQL("TRUNCATE {} CASCADE").format(_identifier(table)))
    for table, entry in manifest.tables.items():
        if manifest.files and table == _STORE:
            continue
        if missing := set(entry.columns) - set(present.get(table, [])):
            raise BackupError(
                f"table {table} has no column {', '.join(sorted(missing))}: another Optuna wrote the backup"
            )
        name = _identifier(table)
        connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(name))
        with connection.cursor() as cursor, archive.open(f"tables/{table}") as source:
            _copy_in(cursor, sql.SQL("COPY {} ({}) FROM STDIN").format(name, _column_list(entry.columns)), source)
            if cursor.rowcount != entry.rows:
                raise BackupError(f"table {table} has {cursor.rowcount} rows in the backup, not {entry.rows}")
        connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(name))
    for schema, table, column, sequence in connection.execute(_SEQUENCES, [list(_SCHEMAS)]).fetchall():
        highest = sql.SQL("SELECT setval({}, coalesce(max({}), 0) + 1, false) FROM {}")
        name, identifier = sql.Identifier(schema, table), sql.Identifier(column)
        connection.execute(highest.format(sql.Literal(sequence), identifier, name))


def _copy_in(cursor: psycopg.Cursor[tuple[Any, ...]], statement: sql.Composed, source: IO[bytes]) -> None:
    with cursor.copy(statement) as copy:
        while block := source.read(1 << 20):
            copy.write(block)
