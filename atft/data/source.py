"""Reads a user's files into one strict table. Every refusal names the rows or columns and says what to do; nothing is
repaired silently.

In `Source.frame` the role columns are called "@date", "@code", "@close", …, so that no feature's name can collide with
them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.files import sha256_of
from atft.data.planted import generate, planted_sha256
from atft.data.schema import PRICES, DataError, Days, Roles, find_roles, listing, plain
from atft.data.tables import MISSING_WORDS, flags, numbers, numbers_from_text, parse_dates, read_table, rows_of, shown
from atft.spec.data import DatasetSpec, PlantedSpec, SideFile

MAX_RETURN = 1000.0  # +100,000 % in a day is a unit error or a missed split, not a price


@dataclass(kw_only=True, slots=True)
class Source:
    """A panel sorted by (code, date), no duplicates; prices positive, missing values null, extra columns Float64."""

    frame: pl.DataFrame
    kind: str
    roles: Roles
    extra: tuple[str, ...]  # numeric columns beside the roles: candidates for features
    ignored: tuple[str, ...] = ()  # columns without a role that are not numeric
    sha256: str
    universe: pl.DataFrame | None = None  # {year | date, code}
    market: dict[str, tuple[Days, npt.NDArray[np.float64]]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    oracle: dict[str, npt.NDArray[np.float32]] | None = None  # planted: [days, codes, horizons] by day and sorted code
    planted_days: Days | None = None

    def has(self, role: str) -> bool:
        return f"@{role}" in self.frame.columns


def load(spec: DatasetSpec) -> Source:
    """Read and check the files of `spec`. Raises DataError."""
    if spec.planted is not None:
        return _planted(spec, spec.planted)
    if spec.path is None:
        raise DataError("the dataset has neither a file nor a planted panel: give one")
    path = Path(spec.path)
    frame = read_table(path)
    roles = find_roles(frame.columns, spec)
    source = _strict(frame, roles, path.name)
    if spec.universe is not None:
        if source.has("in_universe"):
            raise DataError(f"{path.name} has a column in_universe and there is a universe file: give one of them")
        source.universe = _universe(spec.universe)
    if spec.market is not None:
        source.market = _market(spec.market)
    source.sha256 = source_sha256(spec)
    return source


def source_sha256(spec: DatasetSpec) -> str:
    """Of all the bytes that `load` reads, or of what a planted panel is made from. Raises DataError."""
    if spec.planted is not None:
        return planted_sha256(spec.planted)
    files = [spec.path, *(side.file for side in (spec.universe, spec.market) if side is not None)]
    try:
        hashes = [sha256_of(Path(file)) for file in files if file is not None]
    except OSError as error:
        raise DataError(f"{Path(str(error.filename)).name} cannot be read ({error.strerror})") from error
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _planted(spec: DatasetSpec, planted: PlantedSpec) -> Source:
    """A generated panel takes the same road as a file, so that what is tested on it is what users run."""
    panel = generate(planted, spec.horizons)
    frame = pl.DataFrame(
        {
            "@date": pl.Series(panel.days[panel.day_index]).cast(pl.Date),
            "@code": pl.Series(np.asarray(panel.codes)[panel.code_index], dtype=pl.String),
            "@sector": pl.Series(np.asarray(panel.sectors)[panel.code_index], dtype=pl.String),
            "@close": panel.close,
            **{name: panel.features[:, j] for j, name in enumerate(panel.feature_names)},
            **{name: values[panel.day_index] for name, values in panel.market.items()},
        }
    )
    roles = Roles(
        kind="prices",
        columns={"date": "@date", "code": "@code", "sector": "@sector", "close": "@close"},
        targets={},
        return_1d=None,
        listed=None,
        spare=(*panel.feature_names, *panel.market),
    )
    source = Source(
        frame=frame, kind="planted", roles=roles, extra=(*panel.feature_names, *panel.market), sha256=panel.sha256
    )
    source.oracle, source.planted_days = panel.oracle, panel.days
    return source


def _strict(frame: pl.DataFrame, roles: Roles, name: str) -> Source:
    columns = roles.columns
    table = frame.select(
        parse_dates(frame[columns["date"]], name).alias("@date"),
        frame[columns["code"]].cast(pl.String).str.strip_chars().alias("@code"),
    )
    if bad := rows_of(table["@code"].is_null() | (table["@code"] == "")):
        raise DataError(f"{name}: column {columns['code']!r} is empty in row {bad}: every row needs a code")
    numeric = [r for r in (*PRICES, "volume") if r in columns]
    for role in numeric:
        table = table.with_columns(numbers(frame[columns[role]], table, name).alias(f"@{role}"))
    if roles.raw_close is not None:
        table = _adjusted(table, numbers(frame[roles.raw_close], table, name), columns)
    if "sector" in columns:
        sector = frame[columns["sector"]].cast(pl.String)
        table = table.with_columns(
            pl.when(sector.str.to_lowercase().is_in(MISSING_WORDS)).then(None).otherwise(sector).alias("@sector")
        )
    if "in_universe" in columns:
        table = table.with_columns(flags(frame[columns["in_universe"]], table, name).alias("@in_universe"))
    for h, column in roles.targets.items():
        table = table.with_columns(numbers(frame[column], table, name).alias(f"@target_{h}d"))
    if roles.return_1d is not None:
        table = table.with_columns(numbers(frame[roles.return_1d], table, name).alias("@return_1d"))
    table, extra, ignored = _extra(table, frame, roles, name)
    table = table.sort("@code", "@date", maintain_order=True)
    duplicated = table.select("@date", "@code").is_duplicated()
    if duplicated.any():
        raise DataError(
            f"{name}: {duplicated.sum()} rows repeat a (date, code), such as {shown(table, duplicated)}: "
            "keep one row for each"
        )
    _check_prices(table, name, columns)
    return Source(frame=table, kind=roles.kind, roles=roles, extra=extra, ignored=ignored, sha256="")


def _extra(
    table: pl.DataFrame, frame: pl.DataFrame, roles: Roles, name: str
) -> tuple[pl.DataFrame, tuple[str, ...], tuple[str, ...]]:
    """Add the numeric columns without a role; a listed feature that is not numeric is an error."""
    wanted = roles.spare if roles.listed is None or roles.kind == "prices" else roles.listed
    extra: list[str] = []
    ignored: list[str] = []
    for column in wanted:
        series = frame[column]
        if series.dtype == pl.String:
            values, failed = numbers_from_text(series)
            if failed.any() and roles.listed is not None and column in roles.listed:
                raise DataError(
                    f"{name}: feature {column!r} is not a number in row {rows_of(failed)}: "
                    "correct the column or leave it out of features"
                )
            numeric = not failed.any()
        else:
            numeric = series.dtype.is_numeric() or series.dtype == pl.Boolean
            values = series.cast(pl.Float64) if numeric else series
        if numeric:
            table = table.with_columns(pl.when(values.is_finite()).then(values).alias(column))
            extra.append(column)
        elif roles.listed is not None and column in roles.listed:
            raise DataError(
                f"{name}: feature {column!r} is of type {series.dtype}, not a number: "
                "correct it or leave it out of features"
            )
        else:
            ignored.append(column)
    return table, tuple(extra), tuple(ignored)


def _adjusted(table: pl.DataFrame, raw: pl.Series, columns: dict[str, str]) -> pl.DataFrame:
    """Open, high and low on the scale of the adjusted close, where they are given unadjusted."""
    factor = table["@close"] / raw.set(raw <= 0, None)
    unadjusted = [r for r in ("open", "high", "low") if r in columns and not plain(columns[r]).startswith("adj")]
    return table.with_columns((pl.col(f"@{role}") * factor).alias(f"@{role}") for role in unadjusted)


def _check_prices(table: pl.DataFrame, name: str, columns: dict[str, str]) -> None:
    for role in (*PRICES, "volume"):
        column = f"@{role}"
        if column not in table.columns:
            continue
        bad = ((table[column] < 0) if role == "volume" else (table[column] <= 0)).fill_null(value=False)
        if bad.any():
            what = "negative" if role == "volume" else "zero or negative"
            raise DataError(
                f"{name}: {bad.sum()} values of {columns[role]!r} are {what}, such as {shown(table, bad, column)}: "
                "correct or remove these rows"
            )
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
            f"{shown(table, extreme)} with {jump[row]:+.0%}: "
            "a missed split, a unit error or two stocks under one code; correct or remove these rows"
        )


def _universe(side: SideFile) -> pl.DataFrame:
    """{year, code} or {date, code} of the universe file; other columns (rank, …) are not needed."""
    path = Path(side.file)
    frame = read_table(path)
    found = _side_columns(
        frame.columns,
        side,
        {"code": ("code", "ticker", "symbol"), "year": ("year",), "date": ("date", "day")},
        path.name,
    )
    if "code" not in found or not {"year", "date"} & set(found):
        raise DataError(
            f"universe file {path.name} has {listing(frame.columns)}: it needs code and either year or date "
            "(map them with universe.columns)"
        )
    code = frame[found["code"]].cast(pl.String).str.strip_chars().alias("code")
    if "date" in found:
        return pl.DataFrame([parse_dates(frame[found["date"]], path.name).alias("date"), code])
    year = (
        frame[found["year"]].cast(pl.String).cast(pl.Float64, strict=False).cast(pl.Int32, strict=False).alias("year")
    )
    if bad := rows_of(year.is_null()):
        raise DataError(f"universe file {path.name}: column {found['year']!r} is not a year in row {bad}")
    return pl.DataFrame([year, code])


def _market(side: SideFile) -> dict[str, tuple[Days, npt.NDArray[np.float64]]]:
    """Series by name: the closes of a long file {date, name, close}, or each numeric column of a wide one {date, …}."""
    path = Path(side.file)
    frame = read_table(path)
    found = _side_columns(
        frame.columns,
        side,
        {"date": ("date", "day"), "name": ("name", "code", "ticker", "symbol"), "close": ("close", "value", "price")},
        path.name,
    )
    if "date" not in found:
        raise DataError(
            f"market file {path.name} has {listing(frame.columns)}: it needs a date column (map it with market.columns)"
        )
    days = parse_dates(frame[found["date"]], path.name).alias("@date")
    rows = pl.DataFrame([days])
    wide: dict[str, tuple[pl.DataFrame, str]] = {}
    if "name" in found and "close" in found:
        table = rows.with_columns(frame[found["name"]].cast(pl.String).alias("@code"))
        table = table.with_columns(numbers(frame[found["close"]], table, path.name).alias("@close"))
        for (series_name,), part in table.group_by(["@code"], maintain_order=True):
            wide[str(series_name)] = (part, "@close")
    else:
        for column in frame.columns:
            if (
                column != found["date"]
                and frame[column].dtype != pl.Boolean
                and (frame[column].dtype.is_numeric() or not numbers_from_text(frame[column])[1].any())
            ):
                wide[column] = (rows.with_columns(numbers(frame[column], rows, path.name).alias(column)), column)
    if not wide:
        raise DataError(f"market file {path.name} has no numeric column beside the date")
    result = {}
    for series_name, (table, column) in sorted(wide.items()):
        part = table.drop_nulls(column).sort("@date")
        if part["@date"].is_duplicated().any():
            raise DataError(f"market file {path.name} repeats a date for {series_name!r}: keep one row for each date")
        result[series_name] = (part["@date"].to_numpy().astype("datetime64[D]"), part[column].to_numpy())
    return result


def _side_columns(
    names: Sequence[str], side: SideFile, aliases: dict[str, tuple[str, ...]], file: str
) -> dict[str, str]:
    unknown = sorted(set(side.columns) - set(aliases))
    if unknown:
        raise DataError(f"{file}: unknown roles {unknown}; the roles are {sorted(aliases)}")
    missing = [c for c in side.columns.values() if c not in names]
    if missing:
        raise DataError(f"{file} has no columns {missing}; it has {listing(names)}")
    guessed = {
        role: next((n for a in options for n in names if plain(n) == a), None) for role, options in aliases.items()
    }
    return {**{role: column for role, column in guessed.items() if column is not None}, **side.columns}
