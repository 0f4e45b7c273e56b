"""Schemas of a dataset: the cache's manifest, and the role (date, code, close, …) of each column of a user's file.

A role is guessed from a column's name only, never from its content; two columns that match one role by the same alias
are an error.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from pydantic import BaseModel, ConfigDict

from atft.spec.data import DatasetSpec
from atft.spec.reason import Reason

FORMAT_VERSION = 1

Days = Shaped[np.ndarray, "..."]  # datetime64[D], whose unit beartype cannot check


class DataError(Exception):
    """The data cannot be used as requested; the message names rows or columns and says what to do."""

    def __init__(self, message: str, reason: Reason = Reason.INVALID_PARAMS) -> None:
        super().__init__(message)
        self.reason = reason


class FileEntry(BaseModel):
    """SHA-256 and size of one file of a cache."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size_bytes: int


class Calendar(BaseModel):
    """The trading days of a cache: the days on which the source has at least one row."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = "source_days"
    first_day: str
    last_day: str
    num_days: int


class Manifest(BaseModel):
    """Content of `manifest.json`; without `files` also the JSON under key `atft` of every Arrow file's schema."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int
    feature_names: tuple[str, ...]
    market_names: tuple[str, ...]
    horizons: tuple[int, ...]
    source_sha256: str
    build_spec: dict[str, object]
    fingerprint: str
    num_days: int
    num_codes: int
    num_rows: int
    calendar: Calendar
    normalisation: dict[str, str]
    feature_formulas: dict[str, str]
    files: dict[str, FileEntry] = {}


# Compared by `normalized_name`; earlier aliases win.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "date": ("date", "day", "tradedate", "tradingday", "datetime", "timestamp", "time"),
    "code": (
        "code",
        "ticker",
        "symbol",
        "instrument",
        "localcode",
        "secid",
        "security",
        "isin",
        "ric",
        "permno",
        "stock",
        "asset",
    ),
    "sector": ("sector", "sectorname", "gicssector", "industry", "sector33code", "sector17code"),
    "open": ("adjopen", "adjustedopen", "adjustmentopen", "open", "openprice"),
    "high": ("adjhigh", "adjustedhigh", "adjustmenthigh", "high", "highprice"),
    "low": ("adjlow", "adjustedlow", "adjustmentlow", "low", "lowprice"),
    "close": ("adjclose", "adjustedclose", "adjustmentclose", "close", "closeprice", "price", "last", "pxlast"),
    "volume": ("adjvolume", "adjustedvolume", "adjustmentvolume", "volume", "vol"),
    "in_universe": ("inuniverse",),
}
PRICES = ("open", "high", "low", "close")
TARGET_COLUMN = re.compile(r"^target_([1-9][0-9]*)d$")
TARGET_LIKE = re.compile(
    r"(^|[_\W])(target|label|fwd|forward|future|lookahead)s?([_\W\d]|$)|(^|[_\W])(next|lead)[_\W]?(\d+[_\W]?)?(d|day|days)?[_\W]?(ret|return|close|price)",
    re.IGNORECASE,
)


def normalized_name(name: str) -> str:
    """`name` in lower case, without spaces and punctuation."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """The role of each column. `raw_close` is the unadjusted close beside an adjusted one; open, high and low are
    scaled by their ratio.
    """

    kind: str  # prices | features
    columns: dict[str, str]  # role -> column, for date, code, sector, prices, volume, in_universe
    targets: dict[int, str]  # kind features: horizon -> column
    return_1d: str | None  # kind features
    requested_features: tuple[str, ...] | None  # the features that the spec lists
    unassigned: tuple[str, ...]  # columns without a role: candidates for features
    raw_close: str | None = None

    @property
    def used(self) -> list[str]:
        """The columns that have a role, each once."""
        hint = [c for c in (self.return_1d, self.raw_close) if c is not None]
        return list(dict.fromkeys([*self.columns.values(), *self.targets.values(), *hint]))


def find_roles(names: Sequence[str], spec: DatasetSpec) -> Roles:
    """The roles of the columns `names`, mapped by `spec` or guessed. Raises DataError listing the columns, and all that
    are missing.
    """
    columns = {
        role: column
        for role, column in spec.columns.items()
        if isinstance(column, str) and role not in ("features", "targets")
    }
    unknown = [f"columns.{role} names {column!r}" for role, column in columns.items() if column not in names]
    for role in ALIASES:
        if (
            role not in columns
            and (found := _guess_column(role, [n for n in names if n not in columns.values()], strict=not unknown))
            is not None
        ):
            columns[role] = found
    targets = {} if unknown and "targets" in spec.columns else _targets(names, spec)
    kind = spec.kind
    if kind == "auto":
        kind = "features" if targets or "targets" in spec.columns else "prices"
    needed = ("date", "code", "close") if kind == "prices" else ("date", "code")
    problems = _missing_roles([role for role in needed if role not in columns], unknown, names)
    if kind == "prices":
        if problems:
            raise DataError("; ".join(problems))
        return _price_roles(names, spec, columns)
    if not unknown and (missing := [h for h in spec.horizons if h not in targets]):
        problems.append(
            f"missing target columns {[f'target_{h}d' for h in missing]} for horizons {missing}; "
            f"the file has {format_names(names)}"
        )
    requested = _requested_features(spec)
    if absent := [n for n in requested or () if n not in names]:
        problems.append(f"missing features {absent}: the file has {format_names(names)}")
    if problems:
        raise DataError("; ".join(problems))
    roles = {role: column for role, column in columns.items() if role in ("date", "code", "sector", "in_universe")}
    return_1d = "return_1d" if "return_1d" in names else None
    assigned = {*roles.values(), *targets.values(), return_1d}
    unassigned = tuple(n for n in names if n not in assigned and not TARGET_COLUMN.match(n))
    return Roles(
        kind="features",
        columns=roles,
        targets={h: targets[h] for h in spec.horizons},
        return_1d=return_1d,
        requested_features=requested,
        unassigned=unassigned,
    )


def _missing_roles(missing: Sequence[str], unknown: Sequence[str], names: Sequence[str]) -> list[str]:
    """What is wrong with roles without a column, and with mapped columns that the file does not have."""
    parts = [f"{', '.join(unknown)}, but the file has {format_names(names)}"] if unknown else []
    if missing:
        them = "it" if len(missing) == 1 else "them"
        advice = f"name {them} {', '.join(map(repr, missing))}, or map {them} with "
        advice += ", ".join(f"columns.{role}" for role in missing)
        if "close" in missing:
            advice += ", or bring features with target_{h}d columns"
        if "code" in missing:
            advice += " (a table with one column per stock is read if its other columns are closes, or price and stock)"
        parts.append(f"{', '.join(f'no {role} column' for role in missing)} among {format_names(names)}: {advice}")
    return parts


def _price_roles(names: Sequence[str], spec: DatasetSpec, columns: dict[str, str]) -> Roles:
    raw = None
    if normalized_name(columns["close"]).startswith("adj") and "close" not in spec.columns:
        raw = next((n for n in names if normalized_name(n) in ("close", "closeprice")), None)
    unassigned = tuple(n for n in names if n not in columns.values() and n != raw)
    return Roles(
        kind="prices",
        columns=columns,
        targets={},
        return_1d=None,
        requested_features=_requested_features(spec),
        unassigned=unassigned,
        raw_close=raw,
    )


def _guess_column(role: str, names: Iterable[str], *, strict: bool) -> str | None:
    """The column whose name stands for the role; None if no column does. Raises DataError if two do and `strict`."""
    by_normalized: dict[str, list[str]] = {}
    for name in names:
        by_normalized.setdefault(normalized_name(name), []).append(name)
    for alias in ALIASES[role]:
        found = by_normalized.get(alias, [])
        if len(found) > 1 and strict:
            raise DataError(
                f"columns {found} could each be the {role}: map one with columns.{role}, or drop the others"
            )
        if found:
            return found[0]
    return None


def _targets(names: Sequence[str], spec: DatasetSpec) -> dict[int, str]:
    mapped = spec.columns.get("targets")
    if mapped is None:
        return {int(match.group(1)): name for name in names if (match := TARGET_COLUMN.match(name))}
    columns = (mapped,) if isinstance(mapped, str) else mapped
    if len(columns) != len(spec.horizons):
        raise DataError(
            f"columns.targets lists {len(columns)} columns for {len(spec.horizons)} horizons "
            f"{list(spec.horizons)}: give one each, in order"
        )
    unknown = [c for c in columns if c not in names]
    if unknown:
        raise DataError(f"columns.targets names {unknown}, but the file has {format_names(names)}")
    return dict(zip(spec.horizons, columns, strict=True))


def _requested_features(spec: DatasetSpec) -> tuple[str, ...] | None:
    mapped = spec.columns.get("features")
    if mapped is not None and spec.features is not None:
        raise DataError("give features or columns.features, not both")
    requested_features = spec.features if mapped is None else (mapped,) if isinstance(mapped, str) else mapped
    if requested_features is None:
        return None
    if not requested_features or len(set(requested_features)) != len(requested_features):
        raise DataError("features must list at least one column, each once")
    return tuple(requested_features)


def format_names(names: Sequence[str], limit: int = 12) -> str:
    """A list of names for an error message, cut after `limit`."""
    format_rows = ", ".join(repr(n) for n in names[:limit])
    return f"[{format_rows}{f', … {len(names) - limit} more' if len(names) > limit else ''}]"
