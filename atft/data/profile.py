"""What a panel looks like, for people to judge before they trust a number from it. Counts and shares only; it changes
nothing.
"""

import numpy as np
import polars as pl

from atft.data.schema import PRICES
from atft.data.source import Source

GAP_DAYS = 7  # calendar days between trading days that are worth a look
JUMP = 0.5
THIN_SHARE = 0.2  # a day with fewer than this share of the median number of names is suspicious
WARN_NULL_SHARE = 0.5
STALE_SHARE = 0.5


def profile(source: Source) -> dict[str, object]:
    """Rows, names, days, nulls, gaps, jumps, …, and `warnings` in words. JSON-ready; an undefined share is null."""
    frame = source.frame
    per_day = frame.group_by("@date").len().sort("@date")
    counts = per_day["len"].to_numpy()
    days = per_day["@date"].to_numpy().astype("datetime64[D]")
    gaps = np.diff(days).astype(np.int64)
    warnings = list(source.warnings)
    nulls = {
        c.removeprefix("@"): share
        for c, share in zip(frame.columns, (frame.null_count() / frame.height).row(0), strict=True)
    } | {c: about.null_share for c, about in source.extra.items()}
    numeric = [c for c in (*(f"@{p}" for p in PRICES), "@volume") if c in frame.columns]
    spread = frame.select(pl.col(c).min().alias(f"{c}<") for c in numeric).hstack(
        frame.select(pl.col(c).max().alias(f"{c}>") for c in numeric)
    )
    constant = [
        c.removeprefix("@")
        for c in numeric
        if spread[f"{c}<"][0] is not None and spread[f"{c}<"][0] == spread[f"{c}>"][0]
    ] + [c for c, about in source.extra.items() if about.constant]
    thin = per_day.filter(pl.col("len") < THIN_SHARE * float(np.median(counts)))
    result: dict[str, object] = {
        "num_rows": frame.height,
        "num_codes": frame["@code"].n_unique(),
        "num_days": len(days),
        "first_day": str(days[0]),
        "last_day": str(days[-1]),
        "names_per_day": {"min": int(counts.min()), "median": float(np.median(counts)), "max": int(counts.max())},
        "null_share": nulls,
        "num_duplicates": 0,
        "constant_columns": constant,
        "ignored_columns": list(source.ignored),
        "calendar_gaps": [
            {"after": str(days[i]), "calendar_days": int(gaps[i])} for i in np.flatnonzero(gaps > GAP_DAYS)
        ][:20],
        "thin_days": [str(d) for d in thin["@date"].head(20)],
    }
    if source.has("close"):
        result |= _prices(frame, warnings)
    if source.has("sector"):
        result["num_sectors"] = frame["@sector"].drop_nulls().n_unique()
        result["codes_without_sector"] = int(
            frame.group_by("@code").agg(pl.col("@sector").is_null().all())["@sector"].sum()
        )
    empty = [n for n, share in nulls.items() if share > WARN_NULL_SHARE and n not in ("sector",)]
    warnings += [f"column {n!r} is {nulls[n]:.0%} empty" for n in empty]
    warnings += [f"columns {constant} never change"] if constant else []
    warnings += (
        [
            f"{thin.height} days have fewer than {THIN_SHARE:.0%} of the usual number of names, "
            f"such as {thin['@date'][0]}"
        ]
        if thin.height
        else []
    )
    warnings += (
        [f"no trading for {gaps.max()} calendar days after {days[int(gaps.argmax())]}"]
        if len(gaps) and gaps.max() > 2 * GAP_DAYS
        else []
    )
    result["warnings"] = warnings
    return result


def _prices(frame: pl.DataFrame, warnings: list[str]) -> dict[str, object]:
    moved = frame.filter(pl.col("@close").is_not_null()).with_columns(
        r=(pl.col("@close") / pl.col("@close").shift(1).over("@code") - 1)
    )
    jumps = moved.filter(pl.col("r").abs() > JUMP)
    worst = jumps.sort(pl.col("r").abs(), descending=True).head(5)
    same = moved.select((pl.col("r") == 0).mean())["r"][0]
    result: dict[str, object] = {
        "num_jumps": jumps.height,
        "largest_jumps": [
            {"date": str(d), "code": c, "return": round(r, 4)} for d, c, r in worst.select("@date", "@code", "r").rows()
        ],
        "unchanged_close_share": same,
    }
    if jumps.height:
        first = worst.row(0, named=True)
        warnings.append(
            f"{jumps.height} daily returns are beyond ±{JUMP:.0%}, the largest {first['r']:+.0%} "
            f"of {first['@code']} on {first['@date']}: missed splits?"
        )
    if same is not None and same > STALE_SHARE:
        warnings.append(f"{same:.0%} of closes equal the day before: stale prices?")
    if "@volume" in frame.columns:
        result["zero_volume_share"] = frame.select((pl.col("@volume") == 0).mean())["@volume"][0]
    if {"@open", "@high", "@low"} <= set(frame.columns):
        slack = 1.0001  # vendors round adjusted prices
        outside = frame.filter(
            (pl.col("@high") * slack < pl.max_horizontal("@open", "@close", "@low"))
            | (pl.col("@low") > slack * pl.min_horizontal("@open", "@close"))
        ).height
        result["num_outside_range"] = outside
        warnings += [f"{outside} rows have open or close outside of low … high"] if outside else []
    return result
