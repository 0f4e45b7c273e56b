"""Reads and validates a user's panel files. Every error names the rows or columns and says what to do; nothing is
repaired silently.

In `Source.frame` the columns with a role are named "@date", "@code", "@close", …, so that no feature's name can collide
with them. Only they are in memory; other columns stay in the file.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.checksums import sha256_of
from atft.data.panel.planted import generate, planted_sha256
from atft.data.panel.sidefiles import read_market, read_universe
from atft.data.panel.survey import ColumnSurvey, may_be_number, survey
from atft.data.progress import ProgressReporter, background
from atft.data.read.cells import INDEX_NAME, UNNAMED, factorize, format_rows, group_argsort, numbers_from_text
from atft.data.read.columns import MAX_RETURN, ColumnReader, DroppedRows
from atft.data.read.csv import DelimitedFile
from atft.data.read.opening import open_file
from atft.data.read.tables import Table, files_under, folder_sha256, native_errors, table_from_frame
from atft.data.read.wide import find_layout, long_table
from atft.data.schema import PRICES, DataError, Days, Roles, find_roles, normalized_name
from atft.spec.data import DatasetSpec, OnBadCell, PlantedSpec

MOSTLY_NUMBERS = 0.5  # of a column's cells: the others are then likely typing errors


@dataclass(kw_only=True, slots=True)
class Source:
    """A validated panel: its role columns sorted by (code, date), without duplicates, prices positive, missing values
    null. The `extra` columns are read from `table` when they are needed.
    """

    frame: pl.DataFrame
    table: Table
    order: npt.NDArray[np.int64] | None  # table row of each row of `frame`; None: the same
    days: Days  # of all rows, sorted
    kind: str
    roles: Roles
    extra: dict[str, ColumnSurvey]  # numeric columns beside the roles: candidates for features
    ignored: tuple[str, ...] = ()  # non-numeric columns without a role
    sha256_future: Future[str] = field(default_factory=Future)  # of the content, computed while it is read
    check_unchanged: Callable[[], None] = lambda: None  # raises DataError if the files changed since they were opened
    universe: pl.DataFrame | None = None  # {year | date, code}
    market: dict[str, tuple[Days, npt.NDArray[np.float64]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    dropped: list[DroppedRows] = field(default_factory=list)  # rows with bad cells, by file
    later_rules: list[str] = field(default_factory=list)  # where rules of later releases read another content
    num_unordered: int = 0  # rows dated before the row above of the same code
    oracle: dict[str, npt.NDArray[np.float32]] | None = None  # planted: [days, codes, horizons] by day and sorted code
    planted_days: Days | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the content; waits for it. Raises DataError if the files changed while they were read."""
        return self.sha256_future.result()

    def has(self, role: str) -> bool:
        """Whether a column has this role."""
        return f"@{role}" in self.frame.columns

    def day_numbers(self) -> npt.NDArray[np.int64]:
        """The index in `days` of each row's date."""
        days = self.days.astype(np.int64)
        number = np.zeros(days[-1] - days[0] + 1, np.int64)
        number[days - days[0]] = np.arange(len(days))
        return np.asarray(number[self.frame["@date"].to_physical().to_numpy() - days[0]], np.int64)

    def in_table_order(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """`values` of the rows of `frame`, reordered to the rows of `table`."""
        if self.order is None:
            return values
        result = np.empty_like(values)
        result[self.order] = values
        return result


def load(spec: DatasetSpec, scratch: Path | None = None) -> Source:
    """Read a source and find its feature columns: `read`, then `find_features`. Raises DataError."""
    progress = ProgressReporter()
    source = read(spec, scratch, progress)
    find_features(source, progress)
    return source


def read(spec: DatasetSpec, scratch: Path | None, progress: ProgressReporter) -> Source:
    """Read and validate the role columns of the files of `spec`. Text files are parsed into folder `scratch`, without
    one into memory. Raises DataError, BuildStopped.
    """
    if spec.planted is not None:
        return _planted(spec, spec.planted, progress)
    if spec.path is None:
        raise DataError("the dataset has neither a file nor a planted panel: give one")
    path = Path(spec.path)
    progress.start_stage("reading", 0.1)
    sides = [Path(side.file) for side in (spec.universe, spec.market) if side is not None]
    before = {file: _file_state(file) for file in (path, *sides)}

    def check_unchanged() -> None:
        for file, state in before.items():
            if _file_state(file) != state:
                raise DataError(f"{file.name} has changed while it was read: submit again when nobody writes to it")

    def content_sha256() -> str:
        found = source_sha256(spec)
        check_unchanged()
        return found

    hashing = background(content_sha256)
    with native_errors(path.name):
        table, roles, shape = _open(path, spec, scratch, progress)
        try:
            source = progress.run(lambda: _read_roles(table, roles, spec.on_bad_cell))
        except DataError as error:
            if shape is None:
                raise
            raise DataError(f"{error} ({shape})", error.reason) from error
    source.warnings += [shape] if shape else []
    source.sha256_future, source.check_unchanged = hashing, check_unchanged
    if spec.universe is not None:
        if source.has("in_universe"):
            raise DataError(f"{path.name} has a column in_universe and there is a universe file: give one of them")
        with native_errors(Path(spec.universe.file).name):
            universe = read_universe(spec.universe, spec.on_bad_cell)
        source.universe = universe.value
        source.later_rules += universe.later_rules
        _note(source, universe.warnings, universe.dropped)
    if spec.market is not None:
        with native_errors(Path(spec.market.file).name):
            market = read_market(spec.market, spec.on_bad_cell)
        source.market = market.value
        source.later_rules += market.later_rules
        _note(source, market.warnings, market.dropped)
    return source


def _note(source: Source, warnings: Sequence[str], dropped: DroppedRows | None) -> None:
    """Add what the reading of one file has found."""
    source.warnings += warnings
    if dropped is not None:
        source.dropped.append(dropped)
        source.warnings.append(
            f"{dropped.file}: on_bad_cell: drop leaves out {dropped.num_rows:,} rows, for {dropped.message}"
        )


def find_features(source: Source, progress: ProgressReporter) -> None:
    """Fill `source.extra` and `source.ignored`: numeric and other columns without a role. Raises DataError for a listed
    feature that is not numeric, BuildStopped.
    """
    progress.start_stage("looking at columns", 0.2, source.table.num_rows)
    roles, table = source.roles, source.table
    requested = roles.requested_features or ()
    wanted = (
        roles.unassigned if roles.requested_features is None or roles.kind == "prices" else roles.requested_features
    )
    if numbers := [c for c in wanted if c and c not in requested and UNNAMED.match(c)]:
        source.warnings.append(f"columns {numbers} are no features: by their names they are row numbers")
    wanted = tuple(c for c in wanted if c in requested or not UNNAMED.match(c))
    candidates = [c for c in wanted if c in table.schema.names and may_be_number(table.schema.field(c).type)]
    with native_errors(table.name):
        day = source.in_table_order(source.day_numbers())
        source.extra, text = survey(table, candidates, day, len(source.days), progress)
    for column in source.extra:
        source.extra[column].named_row_number = column not in requested and bool(INDEX_NAME.match(column))
    text |= table.not_numbers
    for column in requested:
        if column in text:
            raise DataError(
                f"{table.name}: feature {column!r} is not a number in row {text[column]}: "
                "correct the column or leave it out of features"
            )
        if column in wanted and column not in source.extra:
            raise DataError(
                f"{table.name}: feature {column!r} is of type {table.schema.field(column).type}, not a number: "
                "correct it or leave it out of features"
            )
    source.ignored = tuple(c for c in wanted if c not in source.extra)
    written = [column for column in text if column in table.schema.names]
    for column, share in progress.run(lambda: _shares_of_numbers(table, written)).items():
        if share > MOSTLY_NUMBERS:
            source.warnings.append(
                f"column {column!r} is not a feature: {share:.1%} of its cells are numbers, but not those of row "
                f"{text[column]}"
            )
    source.check_unchanged()


def _shares_of_numbers(table: Table, columns: Sequence[str]) -> dict[str, float]:
    """Share of numbers among the non-missing cells of each column."""
    good, bad = Counter[str](), Counter[str]()
    for batch in table.batches(columns) if columns else ():
        for column in columns:
            values, failed = numbers_from_text(pl.Series(batch.column(column)), table.written)
            good[column] += len(values) - values.null_count()
            bad[column] += int(failed.sum())
    return {column: good[column] / max(1, good[column] + bad[column]) for column in columns}


def source_sha256(spec: DatasetSpec) -> str:
    """SHA-256 of all the bytes that `load` reads, or of a planted panel's settings. Raises DataError."""
    if spec.planted is not None:
        return planted_sha256(spec.planted)
    files = [spec.path, *(side.file for side in (spec.universe, spec.market) if side is not None)]
    paths = [Path(file) for file in files if file is not None]
    try:
        hashes = [folder_sha256(path) if path.is_dir() else sha256_of(path) for path in paths]
    except OSError as error:
        raise DataError(f"{Path(str(error.filename)).name} cannot be read ({error.strerror})") from error
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _file_state(path: Path) -> list[tuple[str, int, int]]:
    """Names, modification times and sizes of a file or of the files of a folder."""
    files = files_under(path) if path.is_dir() else [path]
    try:
        return [(str(f), (at := f.stat()).st_mtime_ns, at.st_size) for f in files]
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror})") from error


def _open(
    path: Path, spec: DatasetSpec, scratch: Path | None, progress: ProgressReporter
) -> tuple[Table, Roles, str | None]:
    """The table of the panel, its roles, and how it is read if it has a column for each stock."""
    found = progress.run(lambda: open_file(path, spec))
    shape: str | None = None
    names = found.names if isinstance(found, DelimitedFile) else found.schema.names
    layout = find_layout(names, spec.columns) if spec.kind != "features" else None
    if layout is not None:
        wide = found.table(names, scratch, progress) if isinstance(found, DelimitedFile) else found
        if (long := long_table(wide, layout)) is not None:
            found, shape = long, layout.describe(path.name)
            names = long.schema.names
    try:
        roles = find_roles(names, spec)
    except DataError as error:
        raise DataError(f"{path.name}: {error}" + (f" ({shape})" if shape else ""), error.reason) from error
    table = found.table(roles.used, scratch, progress) if isinstance(found, DelimitedFile) else found
    return table, roles, shape


def _planted(spec: DatasetSpec, planted: PlantedSpec, progress: ProgressReporter) -> Source:
    """The source of a generated panel. It goes through the same code as a file, so that tests on it hold for users."""
    progress.start_stage("planting", 0.1)
    panel = progress.run(lambda: generate(planted, spec.horizons))
    frame = pl.DataFrame(
        {
            "@date": pl.Series(panel.days[panel.day_index]).cast(pl.Date),
            "@code": pl.Series(np.asarray(panel.codes)[panel.code_index], dtype=pl.String),
            "@sector": pl.Series(np.asarray(panel.sectors)[panel.code_index], dtype=pl.String),
            "@close": panel.close,
        }
    )
    extra = pl.DataFrame(
        {
            **{name: panel.features[:, j] for j, name in enumerate(panel.feature_names)},
            **{name: values[panel.day_index] for name, values in panel.market.items()},
        }
    )
    roles = Roles(
        kind="prices",
        columns={"date": "@date", "code": "@code", "sector": "@sector", "close": "@close"},
        targets={},
        return_1d=None,
        requested_features=None,
        unassigned=tuple(extra.columns),
    )
    source = Source(
        frame=frame,
        table=table_from_frame(extra, "planted"),
        order=None,
        days=_days(frame),
        kind="planted",
        roles=roles,
        extra={},
    )
    source.oracle, source.planted_days = panel.oracle, panel.days
    source.sha256_future.set_result(panel.sha256)
    return source


def _read_roles(whole: Table, roles: Roles, on_bad_cell: OnBadCell) -> Source:
    columns = roles.columns
    reader = ColumnReader(whole, roles.used)
    table = pl.DataFrame([reader.dates(columns["date"]).alias("@date"), reader.codes(columns["code"]).alias("@code")])
    for role in (r for r in (*PRICES, "volume") if r in columns):
        values = (reader.volumes if role == "volume" else reader.prices)(columns[role])
        table = table.with_columns(values.alias(f"@{role}"))
    if roles.raw_close is not None:
        table = _scale_to_adjusted(table, reader.numbers(roles.raw_close), columns)
    if "sector" in columns:
        table = table.with_columns(reader.sectors(columns["sector"]).alias("@sector"))
    if "in_universe" in columns:
        table = table.with_columns(reader.flags(columns["in_universe"]).alias("@in_universe"))
    for h, column in roles.targets.items():
        table = table.with_columns(reader.returns(column).alias(f"@target_{h}d"))
    if roles.return_1d is not None:
        table = table.with_columns(reader.returns(roles.return_1d).alias("@return_1d"))
    keep, dropped = reader.settle(on_bad_cell)
    if keep is not None:
        table, whole = table.filter(keep), whole.keeping(keep)
    warnings = reader.warnings
    cut = {c for c in reader.whole_numbers if c != columns["code"] or not reader.frame[c].dtype.is_float()}
    del reader
    table, order, num_unordered = _sort_rows(table, whole.name)
    _check_prices(table, whole.name, columns)
    source = Source(frame=table, table=whole, order=order, days=_days(table), kind=roles.kind, roles=roles, extra={})
    source.num_unordered = num_unordered
    source.later_rules = [f"{name}: whole numbers" for name in sorted(cut)]  # codes in floats always were
    _note(source, warnings, dropped)
    return source


def _days(table: pl.DataFrame) -> Days:
    return table["@date"].unique().sort().to_numpy().astype("datetime64[D]")


def _sort_rows(table: pl.DataFrame, name: str) -> tuple[pl.DataFrame, npt.NDArray[np.int64] | None, int]:
    """The table sorted by (code, date), its order (None if sorted already), and the number of rows dated before the row
    above of the same code. Raises DataError for a repeated (date, code).
    """
    codes, code = factorize(table["@code"])
    date = table["@date"].to_physical().to_numpy().astype(np.int64)
    key = code * (date.max() - date.min() + 1) + (date - date.min())
    order, num_unordered = None, 0
    if (key[1:] < key[:-1]).any():
        order = group_argsort(code, len(codes))
        if (date[1:] < date[:-1]).any():  # a file sorted by date is in order within each code
            num_unordered = int(((np.diff(date[order]) < 0) & (np.diff(code[order]) == 0)).sum())
            order = np.argsort(key, kind="stable")
        table, key = table[order], key[order]
    if len(repeats := np.flatnonzero(np.diff(key) == 0)):
        duplicated = np.zeros(len(key), np.bool_)
        duplicated[repeats] = duplicated[repeats + 1] = True
        raise DataError(
            f"{name}: {duplicated.sum()} rows repeat a (date, code), such as "
            f"{format_rows(table, pl.Series(duplicated))}: keep one row for each"
        )
    return table, order, num_unordered


def _scale_to_adjusted(table: pl.DataFrame, raw: pl.Series, columns: dict[str, str]) -> pl.DataFrame:
    """Scale unadjusted open, high, low and volume to the adjusted close: close · volume is then the traded value, which
    no later split alters.
    """
    factor = table["@close"] / raw.set(raw <= 0, None)
    unadjusted = [
        r
        for r in ("open", "high", "low", "volume")
        if r in columns and not normalized_name(columns[r]).startswith("adj")
    ]
    return table.with_columns(
        (pl.col(f"@{role}") / factor if role == "volume" else pl.col(f"@{role}") * factor).alias(f"@{role}")
        for role in unadjusted
    )


def _check_prices(table: pl.DataFrame, name: str, columns: dict[str, str]) -> None:
    if "@close" not in table.columns:
        return
    if table["@close"].is_null().all():
        raise DataError(f"{name}: column {columns['close']!r} has no value at all")
    jump = table.select((pl.col("@close") / pl.col("@close").forward_fill().shift(1).over("@code") - 1).alias("r"))["r"]
    extreme = (jump > MAX_RETURN).fill_null(value=False)
    if extreme.any():
        row = extreme.arg_true()[0]
        raise DataError(
            f"{name}: {extreme.sum()} daily returns are above +{MAX_RETURN:.0%}, such as "
            f"{format_rows(table, extreme)} with {jump[row]:+.0%}: "
            "a missed split, a unit error or two stocks under one code; correct or remove these rows"
        )
