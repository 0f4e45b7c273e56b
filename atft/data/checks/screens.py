"""The ten kinds of leaks and the screens for those that are visible in a dataset, applied when it is registered.

The others are properties of the code, each checked by the test `test_leak_NN_…` of its number. A suspected column
passes only if the user lists it in `allow_leaks`, which is stored in the manifest and in the evidence of every run.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from atft.data.checks import leaks
from atft.data.panel.calendar_grid import CalendarGrid
from atft.data.panel.source import Source
from atft.data.schema import DataError, Days, format_names
from atft.spec.data import DatasetSpec
from atft.spec.reason import Reason

UNIVERSE = "in_universe"
MIN_YEAR_DAYS = 100  # trading days a stock needs in a year for its traded value to count
LOOK_AHEAD_MARGIN = 0.02  # of a list's overlap with its own year's traded values over the year before's
LEAKS = {
    1: ("a window holds another stock's or a later day's rows", "tests"),
    2: ("predictions of a day depend on labels of that day or later", "tests"),
    3: ("labels enter before the next day's close", "registration"),
    4: ("features change when only later rows change", "tests"),
    5: ("the metric rewards something else than the ranking", "tests"),
    6: ("a feature knows a target or the next return, by name or by value", "registration"),
    7: ("a validation RankIC that is too good", "training"),
    8: ("the universe of a day was chosen with later data", "registration"),
    9: ("graph edges from later returns", "tests"),
    10: ("a normaliser fitted outside of the training days", "tests"),
}


def leak_report(
    source: Source,
    grid: CalendarGrid,
    spec: DatasetSpec,
    *,
    names: Sequence[str],
    user_columns: Sequence[str],
    sample: leaks.DaySample,
    targets: Float[np.ndarray, "row horizon"],
) -> dict[str, object]:
    """The leak report as JSON: the result of `leaks.screen_rank_ics`, names like targets, and the ten screens.

    `user_columns`: columns of the file; `sample`: of the ranked rows.

    Raises DataError(leak_suspected) for suspected columns that are not in `allow_leaks`; planted panels, whose signals
    are strong on purpose, get a report only (except mode `leak`).
    """
    unknown = [n for n in spec.allow_leaks if n not in names and n not in user_columns and n != UNIVERSE]
    if unknown:
        raise DataError(
            f"allow_leaks names {unknown}, which are not features of this dataset; they are {format_names(names, 40)}"
        )
    future = leaks.future_returns(targets, grid.returns, grid.code_index, spec.horizons)
    report = leaks.screen_rank_ics(sample, future, names)
    suspected: list[dict[str, object]] = report["suspected"]  # type: ignore[assignment]  # a list
    suspected += _screen_universe(grid, future)
    named = leaks.named_like_targets(user_columns)
    lags, lag_warning = _label_lags(source, grid, targets, spec.horizons)
    look_ahead = _look_ahead_warnings(grid)
    # A built feature only looks back, so that a strong one is no leak: wrong prices that are corrected the next day
    # make it strong, and so does chance among a hundred features of a short panel.
    built = [s for s in suspected if s["feature"] not in (*user_columns, UNIVERSE)]
    strong = [s for s in suspected if s not in built and s["feature"] not in spec.allow_leaks]
    report |= {
        "named_like_targets": named,
        "allowed": list(spec.allow_leaks),
        "label_lags": lags,
        "warnings": [*lag_warning, *look_ahead, *_built_warnings(built)],
        "screens": _screen_states({3: bool(lag_warning), 6: bool(suspected or named), 8: bool(look_ahead)}),
    }
    if spec.planted is not None and spec.planted.mode != "leak":
        return report
    refused = [f"{n!r} is named like a target" for n in named if n not in spec.allow_leaks]
    refused += [
        f"{s['feature']!r} has a mean daily RankIC of {s['rank_ic']:+.3f} with {_describe_target(s)}" for s in strong
    ]
    if refused:
        raise DataError(
            f"features that seem to know the future: {'; '.join(refused)} "
            f"(limit {leaks.RANK_IC_LIMIT}, {leaks.NEXT_RETURN_LIMIT} for the next day's return). "
            "Remove them, or list those you vouch for in allow_leaks",
            Reason.LEAK_SUSPECTED,
        )
    return report


def _describe_target(suspect: dict[str, object]) -> str:
    horizon = suspect["horizon"]
    return "the next day's return" if horizon is None else f"the {horizon}-day target"


def _built_warnings(built: Sequence[dict[str, object]]) -> list[str]:
    def warning(found: list[dict[str, object]], do: str, why: str) -> list[str]:
        return [
            f"{len(found)} built features{do}, {found[0]['feature']!r} with a RankIC of "
            f"{found[0]['rank_ic']:+.2f}: {why}"
        ] if found else []  # fmt: skip

    bounce = [s for s in built if s["horizon"] is None]
    others = [s for s in built if s["horizon"] is not None]
    return [
        *warning(bounce, " rank the next day's return", "prices that jump and come back? Targets start a day later"),
        *warning(
            others,
            ", which look back only, rank a target",
            "a panel too short to tell, or prices that know the future?",
        ),
    ]


def _screen_states(flagged: dict[int, bool]) -> list[dict[str, object]]:
    return [
        {
            "number": number,
            "leak": leak,
            "checked": where,
            "state": ("look" if flagged[number] else "ok") if where == "registration" else None,
        }
        for number, (leak, where) in LEAKS.items()
    ]


def _screen_universe(grid: CalendarGrid, future: Sequence[leaks.FutureReturn]) -> list[dict[str, object]]:
    """Screen universe membership like a feature of all valid stocks."""
    if grid.in_universe.all():
        return []
    member = leaks.sample_days(
        grid.in_universe.astype(np.float32)[:, None], grid.valid, grid.day_offsets, grid.day_rows
    )
    found: list[dict[str, object]] = leaks.screen_rank_ics(member, future, [UNIVERSE])["suspected"]  # type: ignore[assignment]
    return found


def _label_lags(
    source: Source, grid: CalendarGrid, targets: Float[np.ndarray, "row horizon"], horizons: Sequence[int]
) -> tuple[dict[str, int | None], list[str]]:
    """The entry lag of each of the user's targets, None if unknown, and warnings. Raises DataError for a lag but 1."""
    if source.kind != "features":
        return {f"target_{h}d": 1 for h in horizons}, []  # computed by us
    if source.roles.return_1d is None:
        return dict.fromkeys((f"target_{h}d" for h in horizons), None), [
            "the entry lag of the targets cannot be checked: bring the daily return as column return_1d"
        ]
    lags = {
        f"target_{h}d": leaks.label_lag(targets[:, k], grid.returns, grid.code_index, h) for k, h in enumerate(horizons)
    }
    wrong = {name: lag for name, lag in lags.items() if lag not in (1, None)}
    if wrong:
        found = ", ".join(
            f"{n!r} {'starts at close(t)' if lag == 0 else 'is the past return'}" for n, lag in wrong.items()
        )
        raise DataError(
            f"targets must be returns from close(t+1) to close(t+1+h), but by return_1d {found}: "
            "shift the targets and submit again",
            Reason.LEAK_SUSPECTED,
        )
    unclear = [name for name, lag in lags.items() if lag is None]
    return lags, [f"{unclear} are not returns of return_1d: their entry lag cannot be checked"] if unclear else []


def _look_ahead_warnings(grid: CalendarGrid) -> list[str]:
    """Warnings about look-ahead bias: signs that the universe was chosen with later data."""
    if grid.in_universe.all():
        return []
    found = []
    ever = np.zeros(len(grid.codes), np.bool_)
    ever[grid.code_index[grid.in_universe]] = True
    if len(grid.days) > 250 and grid.in_universe[ever[grid.code_index]].all():
        found.append(
            "the universe has the same names from the first day to the last: was it chosen at the end? "
            "Bring the members of each day"
        )
    if "volume" in grid.frame.columns:
        money = (grid.frame["close"] * grid.frame["volume"]).fill_null(0.0).to_numpy()
        overlap = membership_overlap(grid.days, grid.day_index, grid.code_index, grid.valid, grid.in_universe, money)
        if overlap is not None and overlap[1] > overlap[0] + LOOK_AHEAD_MARGIN:
            found.append(
                f"the universe's lists hold {overlap[1]:.1%} of the largest names by the same year's traded value, but "
                f"{overlap[0]:.1%} by that of the year before: were they chosen with later data?"
            )
    return found


def membership_overlap(
    days: Days,
    day_index: Int[np.ndarray, " row"],
    code_index: Int[np.ndarray, " row"],
    valid: Bool[np.ndarray, " row"],
    member: Bool[np.ndarray, " row"],
    money: Float[np.ndarray, " row"],
) -> tuple[float, float] | None:
    """Mean share of each year's first members that are among as many stocks with the largest median traded value, by
    that of (the year before, the same year). Only stocks traded in both years count. None without two years.
    """
    year = days.astype("datetime64[Y]").astype(np.int64)
    table = (
        pl.DataFrame({"year": year[day_index], "code": code_index, "money": money, "valid": valid})
        .filter("valid")
        .group_by("year", "code")
        .agg(pl.col("money").median(), pl.len().alias("days"))
        .filter(pl.col("days") >= MIN_YEAR_DAYS)
    )
    first_day = np.flatnonzero(np.concatenate([[True], year[1:] != year[:-1]]))
    overlaps = []
    for day in first_day[1:]:
        before, same = (table.filter(pl.col("year") == year[day] - k) for k in (1, 0))
        both = before.join(same, on="code", suffix="_later")
        listed = pl.Series(code_index[(day_index == day) & member]).cast(both["code"].dtype)
        chosen = both["code"].is_in(listed.implode())
        count = int(chosen.sum())
        if 0 < count < both.height:
            overlaps.append(
                [
                    both.with_columns(chosen=chosen).top_k(count, by=column)["chosen"].mean()
                    for column in ("money", "money_later")
                ]
            )
    if not overlaps:
        return None
    past, later = np.mean(np.array(overlaps, dtype=np.float64), axis=0)
    return float(past), float(later)
