"""What a panel looks like, for people to judge before they trust a number from it. It counts and changes nothing; what
is too odd is refused by the limits of `checks.py`.
"""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.checks import (
    FEW_NAMES,
    GAP_DAYS,
    JUMP,
    LAST_DAYS,
    LONG_ENOUGH,
    SLACK,
    THIN_SHARE,
    Finding,
    judge,
)
from atft.data.schema import PRICES, Days
from atft.data.source import Source

SHOWN = 5  # rows named for each check
MAX_POINTS, MAX_PERIODS, GROUPS = 200, 120, 10  # of what the page draws
DATE, CODE, CLOSE = pl.col("@date"), pl.col("@code"), pl.col("@close")


def profile(source: Source) -> dict[str, object]:
    """Rows, names, days, missing values, gaps, jumps, survivorship, coverage, every check with its limits, and
    `warnings` in words. JSON-ready; an undefined share is null. Raises DataError when a check refuses the panel.
    """
    frame = source.frame
    present = frame.filter(CLOSE.is_not_null()) if source.has("close") else frame
    per_day = present.group_by("@date").len().sort("@date")
    days, counts = per_day["@date"].to_numpy().astype("datetime64[D]"), per_day["len"].to_numpy()
    spans = _spans(present, days)
    columns = column_summaries(source)
    constant = [name for name, about in columns.items() if about["constant"]]
    findings = [
        *_calendar(days, counts),
        *_names(spans, days),
        *_columns(columns, constant),
        Finding(check="unordered_rows", value=float(source.num_unordered), count=source.num_unordered),
    ]
    if source.has("close"):
        prices, more = _prices(frame, source)
        findings += prices
    else:
        more = {}
    gaps = np.diff(days).astype(np.int64)
    thin = days[counts < THIN_SHARE * float(np.median(counts))]
    result: dict[str, object] = {
        "num_rows": frame.height,
        "num_codes": frame["@code"].n_unique(),
        "num_days": len(days),
        "first_day": str(days[0]),
        "last_day": str(days[-1]),
        "names_per_day": {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())},
        "names_series": _series(days, counts),
        "coverage": _coverage(present, days),
        "null_share": {name: about["null_share"] for name, about in columns.items()},
        "columns": columns,
        "num_duplicates": 0,  # a file that repeats a (date, code) is refused where it is read
        "constant_columns": constant,
        "ignored_columns": list(source.ignored),
        "calendar_gaps": [
            {"after": str(days[i]), "calendar_days": int(gaps[i])} for i in np.flatnonzero(gaps > GAP_DAYS)
        ][:20],
        "thin_days": [str(d) for d in thin[:20]],
        "num_listed_later": int((spans["first"] > 0).sum()),
        "num_gone": int((spans["last"] < len(days) - LAST_DAYS).sum()),
        "num_filled_rows": int((spans["last"] - spans["first"] + 1 - spans["rows"]).sum()),
    }
    result |= more
    if source.has("sector"):
        by_code = frame.group_by("@code").agg(pl.col("@sector").is_null().all())
        result |= {
            "num_sectors": frame["@sector"].drop_nulls().n_unique(),
            "codes_without_sector": int(by_code["@sector"].sum()),
        }
    result["checks"] = [f.told() for f in findings]
    result["warnings"] = [*source.warnings, *judge(findings)]
    return result


def column_summary(values: npt.NDArray[np.floating]) -> dict[str, object]:
    """Missing share, range and mean of one column, where NaN and infinite count as missing; null without any value."""
    known = values[np.isfinite(values)]
    share = 1.0 - len(known) / max(1, len(values))
    if not len(known):
        return {"null_share": share, "min": None, "max": None, "mean": None, "constant": False}
    low, high = float(known.min()), float(known.max())
    mean = float(known.mean(dtype=np.float64))
    return {"null_share": share, "min": low, "max": high, "mean": mean, "constant": low == high}


def column_summaries(source: Source) -> dict[str, dict[str, object]]:
    """Of every column with a role, and of the numeric ones without."""
    frame = source.frame
    found: dict[str, dict[str, object]] = {}
    for name in frame.columns:
        series = frame[name]
        if series.dtype.is_numeric():
            found[name.removeprefix("@")] = column_summary(series.cast(pl.Float64).fill_null(float("nan")).to_numpy())
        else:
            share = series.null_count() / len(series)
            found[name.removeprefix("@")] = {
                "null_share": share, "min": None, "max": None, "mean": None, "constant": False
            }  # fmt: skip
    for name, seen in source.extra.items():
        known = seen.missing < seen.num_rows
        low, high = (seen.low, seen.high) if known else (None, None)
        found[name] = {
            "null_share": seen.null_share, "min": low, "max": high, "mean": seen.mean, "constant": seen.constant
        }  # fmt: skip
    return found


def _spans(present: pl.DataFrame, days: Days) -> pl.DataFrame:
    """Of each code the numbers of its first and last day, and its rows."""
    spans = present.group_by("@code").agg(DATE.min().alias("a"), DATE.max().alias("b"), pl.len().alias("rows"))
    spans = spans.sort("@code")
    number = {"first": spans["a"], "last": spans["b"]}
    return spans.with_columns(
        pl.Series(name, np.searchsorted(days, dates.to_numpy().astype("datetime64[D]")))
        for name, dates in number.items()
    ).with_columns(pl.col("rows").cast(pl.Int64))


def _calendar(days: Days, counts: npt.NDArray[np.integer]) -> list[Finding]:
    gaps = np.diff(days).astype(np.int64)
    longest = [f"after {days[i]}" for i in np.argsort(-gaps, kind="stable")[:1]]
    thin = np.flatnonzero(counts < THIN_SHARE * float(np.median(counts)))
    return [
        Finding(check="calendar_gap", value=float(gaps.max()) if len(gaps) else None, rows=longest),
        Finding(check="thin_days", value=float(len(thin)), rows=[f"{days[i]} with {counts[i]}" for i in thin[:SHOWN]]),
        Finding(check="few_names", value=float((counts < FEW_NAMES).mean())),
    ]


def _names(spans: pl.DataFrame, days: Days) -> list[Finding]:
    filled = spans.with_columns(missing=pl.col("last") - pl.col("first") + 1 - pl.col("rows"))
    worst = filled.filter(pl.col("missing") > 0).sort("missing", descending=True).head(SHOWN)
    missing = int(filled["missing"].sum())
    alive = int((spans["last"] >= len(days) - LAST_DAYS).sum())
    return [
        Finding(
            check="filled_days",
            value=missing / (missing + int(filled["rows"].sum())),
            count=missing,
            rows=[f"{c} with {m} days" for c, m in worst.select("@code", "missing").rows()],
        ),
        Finding(check="survivors", value=alive / spans.height if len(days) > LONG_ENOUGH else None, count=alive),
    ]


def _columns(columns: Mapping[str, Mapping[str, object]], constant: list[str]) -> list[Finding]:
    shares = {
        name: share
        for name, about in columns.items()
        if name not in ("sector", "close") and isinstance(share := about["null_share"], float)
    }
    empty = sorted((n for n in shares if shares[n] > 0.5), key=lambda n: -shares[n])
    close = columns["close"]["null_share"] if "close" in columns else None
    return [
        Finding(check="empty_close", value=close if isinstance(close, float) else None),
        Finding(
            check="empty_columns",
            value=max(shares.values(), default=0.0),
            rows=[f"{n!r} {shares[n]:.0%} empty" for n in empty[:SHOWN]],
        ),
        Finding(check="constant_columns", value=float(len(constant)), rows=[repr(n) for n in constant[:SHOWN]]),
    ]


def _returns(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.lazy().select(
        DATE, CODE, r=CLOSE / CLOSE.forward_fill().shift(1).over("@code") - 1
    ).drop_nulls("r").collect()  # fmt: skip


def _prices(frame: pl.DataFrame, source: Source) -> tuple[list[Finding], dict[str, object]]:
    """The findings, and the counts that the profile has shown from the start."""
    moved = _returns(frame)
    jumps = moved.filter(pl.col("r").abs() > JUMP).sort(pl.col("r").abs(), descending=True)
    unchanged = moved.filter(pl.col("r") == 0).height
    worst = jumps.head(SHOWN).select("@date", "@code", "r").rows()
    found = [
        Finding(
            check="jumps",
            value=jumps.height / max(1, moved.height),
            count=jumps.height,
            rows=[f"{r:+.0%} of {code} on {date}" for date, code, r in worst],
        ),
        Finding(check="unchanged_close", value=unchanged / moved.height if moved.height else None, count=unchanged),
    ]
    about: dict[str, object] = {
        "num_jumps": jumps.height,
        "largest_jumps": [{"date": str(date), "code": code, "return": round(r, 4)} for date, code, r in worst],
        "unchanged_close_share": unchanged / moved.height if moved.height else None,
    }
    if source.has("volume"):
        zero = frame.filter(pl.col("@volume") == 0)
        about["zero_volume_share"] = zero.height / frame.height
        rows = [f"{d} {c}" for d, c in zero.select("@date", "@code").head(SHOWN).rows()]
        found.append(Finding(check="zero_volume", value=zero.height / frame.height, count=zero.height, rows=rows))
    if all(source.has(role) for role in PRICES):
        odd = (pl.col("@high") * SLACK < pl.max_horizontal("@open", "@close", "@low")) | (
            pl.col("@low") > SLACK * pl.min_horizontal("@open", "@close")
        )
        outside = frame.filter(odd).select("@date", "@code")
        rows = [f"{d} {c}" for d, c in outside.head(SHOWN).rows()]
        share = outside.height / frame.height
        about["num_outside_range"] = outside.height
        found.append(Finding(check="outside_range", value=share, count=outside.height, rows=rows))
    return found, about


def _series(days: Days, counts: npt.NDArray[np.integer]) -> dict[str, list[object]]:
    """Names per day in at most 200 stretches of days: their first day, fewest and most names."""
    edges = np.linspace(0, len(days), min(len(days), MAX_POINTS) + 1).astype(np.int64)
    parts = [counts[a:b] for a, b in pairwise(edges)]
    return {
        "day": [str(days[a]) for a in edges[:-1]],
        "min": [int(p.min()) for p in parts],
        "max": [int(p.max()) for p in parts],
    }


def _coverage(present: pl.DataFrame, days: Days) -> dict[str, object]:
    """Share of (code, trading day) that have a row, by tenths of the codes in order and by month, quarter or year."""
    unit = next((u for u in ("1mo", "1q") if _num_periods(days, u) <= MAX_PERIODS), "1y")
    calendar = pl.DataFrame({"@date": pl.Series(days).cast(pl.Date)}).with_columns(period=DATE.dt.truncate(unit))
    length = calendar.group_by("period").len("days").sort("period")
    codes = present["@code"].unique().sort()
    number = np.arange(len(codes)) * min(GROUPS, len(codes)) // len(codes)
    of_code = pl.DataFrame({"@code": codes, "group": number})
    rows = present.group_by("@code", DATE.dt.truncate(unit).alias("period")).len("rows").join(of_code, on="@code")
    matrix = np.zeros((int(number[-1]) + 1, length.height))
    sums = rows.group_by("group", "period").agg(pl.col("rows").sum())
    at = np.searchsorted(length["period"].to_numpy(), sums["period"].to_numpy())
    matrix[sums["group"].to_numpy(), at] = sums["rows"].to_numpy()
    matrix /= np.bincount(number)[:, None] * length["days"].to_numpy()
    first = [codes[int(np.flatnonzero(number == g)[0])] for g in range(len(matrix))]
    final = [codes[int(np.flatnonzero(number == g)[-1])] for g in range(len(matrix))]
    return {
        "period": [str(p) for p in length["period"]],
        "codes": [f"{a} … {b}" if a != b else a for a, b in zip(first, final, strict=True)],
        "share": [[round(float(x), 4) for x in row] for row in matrix],
    }


def _num_periods(days: Days, unit: str) -> int:
    months = int((days[-1].astype("datetime64[M]") - days[0].astype("datetime64[M]")).astype(np.int64)) + 1
    return months if unit == "1mo" else months // 3 + 1
