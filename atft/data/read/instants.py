"""Decides whether instants that are not midnight stand for the day on which their clock shows them.

A daily bar stored as the UTC instant of its local midnight falls on the day before wherever the exchange lies east of
Greenwich: read as that day, a value would be known a day early.
"""

from collections.abc import Sequence

import polars as pl

from atft.data.read.types import UTC_NAMES
from atft.data.schema import DataError

LATE_HOUR = 11  # from here on an instant may be midnight of a zone east of UTC (New Zealand is UTC+13 in summer)
LAST_MINUTE = 23 * 60 + 59  # bars that are stamped with the last moment of their day
DAY_MINUTES = 24 * 60
MAX_CLOCKS = 3  # times of day named in a message
FEW_DAYS = 20  # with fewer, weekends are chance
ZONES = (  # example zones by their offsets in minutes, winter and summer
    ("Europe/London", {0, 60}),
    ("Europe/Berlin", {60, 120}),
    ("Europe/Athens", {120, 180}),
    ("Europe/Istanbul", {180}),
    ("Asia/Dubai", {240}),
    ("Asia/Karachi", {300}),
    ("Asia/Kolkata", {330}),
    ("Asia/Kathmandu", {345}),
    ("Asia/Bangkok", {420}),
    ("Asia/Shanghai", {480}),
    ("Asia/Tokyo", {540}),
    ("Australia/Adelaide", {570, 630}),
    ("Australia/Sydney", {600, 660}),
    ("Pacific/Auckland", {720, 780}),
    ("America/Sao_Paulo", {-180}),
    ("America/New_York", {-300, -240}),
    ("America/Chicago", {-360, -300}),
    ("America/Los_Angeles", {-480, -420}),
)


def check_instants(clock: pl.Series, zone: str | None, label: str) -> str | None:
    """A warning about instants that are not midnight, None if there are none. `clock`: the distinct local times of zone
    `zone` (None: not given). Raises DataError if they are, or may be, midnights of the next day in another zone.
    """
    minute = clock.dt.hour().cast(pl.Int32) * 60 + clock.dt.minute().cast(pl.Int32)
    midnight = clock.dt.truncate("1d") == clock
    odd, minutes = clock.filter(~midnight), minute.filter(~midnight)
    if odd.is_empty():
        return None
    clocks = minutes.value_counts(sort=True)[minutes.name].to_list()
    where = zone if zone is not None else "without a time zone"
    times = ", ".join(f"{m // 60:02d}:{m % 60:02d}" for m in sorted(clocks[:MAX_CLOCKS]))
    found = (
        f"{label} holds instants at {times}{' and other times' if len(clocks) > MAX_CLOCKS else ''} ({where}), not days"
    )
    likely = _likely_zone(clocks, zone, any_midnight=bool(midnight.any()))
    late = odd.filter((minutes >= LATE_HOUR * 60) & (minutes < LAST_MINUTE))
    if not late.is_empty():
        as_read, next_day = _weekend_share(late.dt.date()), _weekend_share(late.dt.date().dt.offset_by("1d"))
        unsure = as_read == next_day and (zone is None or is_utc(zone))
        if next_day < as_read or unsure:
            judged = "they may be" if unsure else "by their weekdays they are"
            raise DataError(
                f"{found}{likely}: {judged} midnights of the day after, which would be known a day early: write dates, "
                "or instants with the exchange's time zone"
            )
    return f"{found}{likely}; each counts as the day that its own clock shows: if that is wrong, write dates"


def is_utc(zone: str) -> bool:
    return zone.lower() in UTC_NAMES or zone in ("+00:00", "-00:00", "+00", "+0000")


def weekend_warning(days: pl.Series, label: str) -> str | None:
    """A warning if some of many distinct `days` are Saturdays or Sundays."""
    distinct = days.drop_nulls().unique().sort()
    weekend = distinct.filter(distinct.dt.weekday() >= 6)
    if len(distinct) < FEW_DAYS or weekend.is_empty():
        return None
    return (
        f"{label}: {len(weekend)} of {len(distinct)} days are Saturdays or Sundays, such as {weekend[0]}: "
        "are they the days of the exchange's own time zone?"
    )


def _weekend_share(days: pl.Series) -> float:
    distinct = days.unique()
    return float((distinct.dt.weekday() >= 6).sum()) / len(distinct)


def _likely_zone(minutes: Sequence[int], zone: str | None, *, any_midnight: bool) -> str:
    """The zone whose midnight falls on these minutes of a UTC day, for a message; empty if none does."""
    if len(minutes) > MAX_CLOCKS or not (zone is None or is_utc(zone)):
        return ""
    offsets = {DAY_MINUTES - m if m >= LATE_HOUR * 60 else -m for m in minutes} | ({0} if any_midnight else set())
    name = next((name for name, own in ZONES if offsets <= own), None)
    return f", in UTC the midnights of {name}" if name else ""
