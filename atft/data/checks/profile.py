"""The profile of a panel: statistics and data-quality findings for people to read before they trust a result. It
changes nothing; `limits.py` decides which findings refuse the panel.
"""

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from atft.data.checks.limits import (
    GAP_DAYS,
    LAST_DAYS,
    MAX_DAILY_MOVE,
    MIN_STILL_NAMES,
    MIN_STOCKS,
    MIN_SURVIVOR_DAYS,
    PRICE_TOLERANCE,
    STILL_SHARE,
    THIN_SHARE,
    Finding,
    check_findings,
)
from atft.data.panel.source import Source
from atft.data.schema import PRICES, Days

MAX_EXAMPLES = 5  # rows named for each check
MAX_POINTS, MAX_PERIODS, GROUPS = 200, 120, 10  # sizes of the page's plots
Summary = dict[str, float | None]  # null_share, min, max, mean
DATE, CODE, CLOSE = pl.col("@date"), pl.col("@code"), pl.col("@close")


def profile(source: Source) -> dict[str, object]:
    """The profile as JSON: rows, stocks, days, missing values, gaps, jumps, survivorship, coverage, every check with
    its limits, and `warnings` as text; an undefined share is null. Raises DataError if a check refuses the panel.
    """
    frame, code = source.frame, source.frame["@code"].rle_id()
    present = frame.filter(CLOSE.is_not_null()) if source.has("close") else frame
    per_day = present.group_by("@date").len().sort("@date")
    days, counts = per_day["@date"].to_numpy().astype("datetime64[D]"), per_day["len"].to_numpy()
    spans = _spans(present, days)
    columns = column_summaries(source)
    constant = [
        name for name, summary in columns.items() if summary["min"] is not None and summary["min"] == summary["max"]
    ]
    findings = [
        *_calendar(days, counts),
        *_names(spans, days),
        *_columns(columns, constant),
        Finding(check="unordered_rows", value=float(source.num_unordered), rows=_out_of_order(source)),
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
        "num_codes": int(code[-1]) + 1,
        "num_days": len(days),
        "first_day": str(days[0]),
        "last_day": str(days[-1]),
        "names_per_day": {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())},
        "names_series": _series(days, counts),
        "coverage": _coverage(present, spans, days),
        "null_share": {name: summary["null_share"] for name, summary in columns.items()},
        "columns": columns,
        "num_duplicates": 0,  # a repeated (date, code) is refused while reading
        "constant_columns": constant,
        "ignored_columns": list(source.ignored),
        "dropped_rows": [dropped.to_json() for dropped in source.dropped],
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
        known = code.filter(frame["@sector"].is_not_null())
        result |= {
            "num_sectors": frame["@sector"].drop_nulls().n_unique(),
            "codes_without_sector": int(code[-1]) + 1 - known.n_unique(),
        }
    result["checks"] = [f.to_json() for f in findings]
    result["warnings"] = [*source.warnings, *check_findings(findings)]
    return result


def summaries(frame: pl.DataFrame) -> dict[str, Summary]:
    """Missing share, range and mean of each column; NaN and infinity are missing, text has only its missing share."""
    numeric = [n for n in frame.columns if frame[n].dtype.is_numeric()]
    found: dict[str, Summary] = {}
    for name in frame.columns:
        low = high = mean = None
        missing = frame[name].null_count()
        if name in numeric:
            x = pl.col(name).cast(pl.Float64)
            known = frame[name].to_frame().select(pl.when(x.is_finite()).then(x).alias(name))
            part = known.select(low=pl.col(name).min(), high=pl.col(name).max(), mean=pl.col(name).mean())
            missing, (low, high, mean) = known[name].null_count(), part.row(0)
        if mean is not None and not math.isfinite(mean):  # the sum overflows
            mean = None
        found[name.removeprefix("@")] = {
            "null_share": missing / max(1, frame.height), "min": low, "max": high, "mean": mean
        }  # fmt: skip
    return found


def column_summaries(source: Source) -> dict[str, Summary]:
    """Summaries of every column with a role and of every numeric column without one."""
    extra: dict[str, Summary] = {}
    for name, survey in source.extra.items():
        low, high = (survey.low, survey.high) if survey.missing < survey.num_rows else (None, None)
        extra[name] = {"null_share": survey.null_share, "min": low, "max": high, "mean": survey.mean}
    return summaries(source.frame) | extra


def _spans(present: pl.DataFrame, days: Days) -> pl.DataFrame:
    """First and last day number and number of rows of each code."""
    run = present["@code"].rle_id().to_numpy()
    edges = np.flatnonzero(np.diff(run, prepend=run[0] + 1, append=run[-1] + 1))  # unsigned: no -1
    day = _numbers(present, days, np.arange(len(days)))
    return pl.DataFrame(
        {
            "@code": present["@code"].gather(edges[:-1]),
            "first": day[edges[:-1]],
            "last": day[edges[1:] - 1],
            "rows": np.diff(edges),
        }
    )


def _numbers(present: pl.DataFrame, days: Days, number: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """`number`, which is by day, for the day of each row."""
    since = days.astype(np.int64) - days[0].astype(np.int64)
    table = np.zeros(since[-1] + 1, np.int64)
    table[since] = number
    return np.asarray(table[present["@date"].to_physical().to_numpy() - days[0].astype(np.int64)])


def _out_of_order(source: Source) -> list[str]:
    """The first rows that follow a later row of their code in the file, for a message."""
    if source.order is None or not source.num_unordered:
        return []
    same = (source.frame["@code"] == source.frame["@code"].shift(1)).fill_null(value=False).to_numpy()
    before = np.flatnonzero(same & (np.diff(source.order, prepend=source.order[:1]) < 0)) - 1
    return [f"{d} {c}" for d, c in source.frame.select("@date", "@code")[before[:MAX_EXAMPLES].tolist()].rows()]


def _calendar(days: Days, counts: npt.NDArray[np.integer]) -> list[Finding]:
    gaps = np.diff(days).astype(np.int64)
    longest = [f"after {days[i]}" for i in np.argsort(-gaps, kind="stable")[:1]]
    thin = np.flatnonzero(counts < THIN_SHARE * float(np.median(counts)))
    weekend = days[(days.astype(np.int64) + 3) % 7 >= 5]  # 1970-01-01 was a Thursday
    return [
        Finding(check="calendar_gap", value=float(gaps.max()) if len(gaps) else None, rows=longest),
        Finding(
            check="thin_days", value=float(len(thin)), rows=[f"{days[i]} with {counts[i]}" for i in thin[:MAX_EXAMPLES]]
        ),
        Finding(check="few_names", value=float((counts < MIN_STOCKS).mean())),
        Finding(check="weekend_days", value=float(len(weekend)), rows=[str(day) for day in weekend[:MAX_EXAMPLES]]),
    ]


def _names(spans: pl.DataFrame, days: Days) -> list[Finding]:
    filled = spans.with_columns(missing=pl.col("last") - pl.col("first") + 1 - pl.col("rows"))
    worst = filled.filter(pl.col("missing") > 0).sort("missing", descending=True).head(MAX_EXAMPLES)
    missing = int(filled["missing"].sum())
    alive = int((spans["last"] >= len(days) - LAST_DAYS).sum())
    return [
        Finding(
            check="filled_days",
            value=missing / (missing + int(filled["rows"].sum())),
            count=missing,
            rows=[f"{c} with {m} days" for c, m in worst.select("@code", "missing").rows()],
        ),
        Finding(check="survivors", value=alive / spans.height if len(days) > MIN_SURVIVOR_DAYS else None, count=alive),
    ]


def _columns(columns: Mapping[str, Summary], constant: list[str]) -> list[Finding]:
    shares = {
        name: summary["null_share"] or 0.0 for name, summary in columns.items() if name not in ("sector", "close")
    }
    empty = sorted((n for n in shares if shares[n] > 0.5), key=lambda n: -shares[n])
    close = columns["close"]["null_share"] if "close" in columns else None
    return [
        Finding(check="empty_close", value=close),
        Finding(
            check="empty_columns",
            value=max(shares.values(), default=0.0),
            rows=[f"{n!r} {shares[n]:.0%} empty" for n in empty[:MAX_EXAMPLES]],
        ),
        Finding(check="constant_columns", value=float(len(constant)), rows=[repr(n) for n in constant[:MAX_EXAMPLES]]),
    ]


def _returns(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.lazy().select(
        DATE, CODE, r=CLOSE / CLOSE.forward_fill().shift(1).over("@code") - 1
    ).drop_nulls("r").collect()  # fmt: skip


def _prices(frame: pl.DataFrame, source: Source) -> tuple[list[Finding], dict[str, object]]:
    """The findings on prices and volume, and the profile's entries about them."""
    moved = _returns(frame)
    jumps = moved.filter(pl.col("r").abs() > MAX_DAILY_MOVE).sort(pl.col("r").abs(), descending=True)
    unchanged = moved.filter(pl.col("r") == 0).height
    by_day = moved.group_by("@date").agg(names=pl.len(), still=(pl.col("r") == 0).mean())
    enough = (pl.col("names") >= MIN_STILL_NAMES) & (pl.col("still") >= STILL_SHARE)
    still = by_day.filter(enough)["@date"].sort()
    worst = jumps.head(MAX_EXAMPLES).select("@date", "@code", "r").rows()
    found = [
        Finding(
            check="jumps",
            value=jumps.height / max(1, moved.height),
            count=jumps.height,
            rows=[f"{r:+.0%} of {code} on {date}" for date, code, r in worst],
        ),
        Finding(check="unchanged_close", value=unchanged / moved.height if moved.height else None, count=unchanged),
        Finding(check="still_days", value=float(len(still)), rows=[str(day) for day in still.head(MAX_EXAMPLES)]),
    ]
    summary: dict[str, object] = {
        "num_jumps": jumps.height,
        "largest_jumps": [{"date": str(date), "code": code, "return": round(r, 4)} for date, code, r in worst],
        "unchanged_close_share": unchanged / moved.height if moved.height else None,
    }
    if source.has("volume"):
        zero = frame.filter(pl.col("@volume") == 0)
        summary["zero_volume_share"] = zero.height / frame.height
        rows = [f"{d} {c}" for d, c in zero.select("@date", "@code").head(MAX_EXAMPLES).rows()]
        found.append(Finding(check="zero_volume", value=zero.height / frame.height, count=zero.height, rows=rows))
    if all(source.has(role) for role in PRICES):
        odd = (pl.col("@high") * PRICE_TOLERANCE < pl.max_horizontal("@open", "@close", "@low")) | (
            pl.col("@low") > PRICE_TOLERANCE * pl.min_horizontal("@open", "@close")
        )
        outside = frame.filter(odd).select("@date", "@code")
        rows = [f"{d} {c}" for d, c in outside.head(MAX_EXAMPLES).rows()]
        share = outside.height / frame.height
        summary["num_outside_range"] = outside.height
        found.append(Finding(check="outside_range", value=share, count=outside.height, rows=rows))
    return found, summary


def _series(days: Days, counts: npt.NDArray[np.integer]) -> dict[str, list[object]]:
    """Stocks per day in at most 200 spans of days: first day, fewest and most stocks of each."""
    edges = np.linspace(0, len(days), min(len(days), MAX_POINTS) + 1).astype(np.int64)
    parts = [counts[a:b] for a, b in pairwise(edges)]
    return {
        "day": [str(days[a]) for a in edges[:-1]],
        "min": [int(p.min()) for p in parts],
        "max": [int(p.max()) for p in parts],
    }


def _coverage(present: pl.DataFrame, spans: pl.DataFrame, days: Days) -> dict[str, object]:
    """Share of (code, trading day) that have a row, by tenths of the codes in order and by month, quarter or year."""
    unit = next((u for u in ("1mo", "1q") if _num_periods(days, u) <= MAX_PERIODS), "1y")
    starts = pl.Series(days).cast(pl.Date).dt.truncate(unit)
    period = starts.rle_id().to_numpy().astype(np.int64)
    length, codes = np.bincount(period), spans["@code"]
    number = np.arange(len(codes)) * min(GROUPS, len(codes)) // len(codes)
    cell = np.repeat(number * len(length), spans["rows"].to_numpy()) + _numbers(present, days, period)
    sizes = np.bincount(number)
    rows = np.bincount(cell, minlength=len(sizes) * len(length)).reshape(len(sizes), -1)
    matrix = rows / (sizes[:, None] * length)
    first = [codes[int(np.flatnonzero(number == g)[0])] for g in range(len(matrix))]
    final = [codes[int(np.flatnonzero(number == g)[-1])] for g in range(len(matrix))]
    return {
        "period": [str(p) for p in starts.unique().sort()],
        "codes": [f"{a} … {b}" if a != b else a for a, b in zip(first, final, strict=True)],
        "share": [[round(float(x), 4) for x in row] for row in matrix],
    }


def _num_periods(days: Days, unit: str) -> int:
    months = int((days[-1].astype("datetime64[M]") - days[0].astype("datetime64[M]")).astype(np.int64)) + 1
    return months if unit == "1mo" else months // 3 + 1
