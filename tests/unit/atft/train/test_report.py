"""Splitting of long events into protocol lines."""

from atft.events import MAX_LINE_BYTES, DailySeries, Event, Metrics
from atft.train.report import Reporter


def test_long_daily_series_are_split_over_several_lines() -> None:
    days = [
        f"{year}-{month:02d}-{day:02d}" for year in range(2000, 2015) for month in range(1, 13) for day in range(1, 28)
    ]
    series = [
        DailySeries(name=name, split="test", horizon=horizon, days=days, values=[0.12345678901234567] * len(days))
        for name in ("ic", "rank_ic", "long_short")
        for horizon in range(1, 21)
    ]
    events: list[Event] = []
    Reporter(events.append, epochs=1).metrics(Metrics(step=3, values={"test/ic": 0.5}, daily=series, best=True))
    parts = [one for one in events if isinstance(one, Metrics)]
    assert len(parts) > 1
    assert [one for part in parts for one in part.daily] == series
    assert [(one.values, one.best) for one in parts] == [({"test/ic": 0.5}, True)] + [({}, False)] * (len(parts) - 1)
    assert all(len(one.model_dump_json()) < MAX_LINE_BYTES / 2 for one in parts)
