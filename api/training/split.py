"""The training, validation and test days of each fold of a job, and a Plotly figure of them (plain JSON)."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
from pydantic import JsonValue, TypeAdapter

from api.http.service import Service
from atft.evidence.models import FoldDays, Stretch
from atft.spec.split_plan import DayRanges, SplitPlan
from jobs.db.tables import Dataset

ROLES: Final = {"train": "training", "val": "validation", "test": "test", "purged": "gap"}
_COLOURS: Final = {"train": "#4477aa", "val": "#ddaa33", "test": "#bb5566", "purged": "#dddddd"}
_ROW_PIXELS: Final = 22
_FOLDS: Final = TypeAdapter(list[FoldDays])


async def trading_days(service: Service, version: Dataset | None) -> list[date] | None:
    """The trading days of a dataset version, in order; None when their file is missing or altered."""
    path = None if version is None else await service.cache_file(version, "days.arrow")
    return None if path is None else await asyncio.to_thread(_read_days, path)


def _read_days(path: Path) -> list[date]:
    with pa.memory_map(str(path)) as source, pa.ipc.open_file(source) as file:
        days: list[date] = file.get_batch(0).column("date").to_pylist()
    return days


def planned_folds(plan: SplitPlan, days: Sequence[date]) -> list[FoldDays]:
    """The days of each fold of a plan; `days` are all trading days of the dataset."""

    def to_stretches(stretches: DayRanges) -> list[Stretch]:
        return [Stretch(first=days[part.start], last=days[part.stop - 1], num_days=len(part)) for part in stretches]

    return [
        FoldDays(
            train=to_stretches(fold.train),
            val=to_stretches(fold.val),
            test=to_stretches(fold.test),
            purged=to_stretches(fold.purged),
        )
        for fold in plan.folds
    ]


def observed_folds(data: Mapping[str, JsonValue]) -> list[FoldDays] | None:
    """The days of each fold by `data` of a job's evidence; None if that has no days.

    A run of one fold has plain lists of days: a day that follows a day of another role starts a new stretch.
    """
    if "folds" in data:
        return _FOLDS.validate_python(data["folds"])
    if any(f"{role}_days" not in data for role in ROLES):
        return None
    role_by_day = {day: role for role in ROLES for day in TypeAdapter(list[date]).validate_python(data[f"{role}_days"])}
    parts: dict[str, list[Stretch]] = {role: [] for role in ROLES}
    last_role: str | None = None
    for day in sorted(role_by_day):
        role = role_by_day[day]
        if role == last_role:
            stretch = parts[role].pop()
            parts[role].append(Stretch(first=stretch.first, last=day, num_days=stretch.num_days + 1))
        else:
            parts[role].append(Stretch(first=day, last=day, num_days=1))
        last_role = role
    return [FoldDays.model_validate(parts)]


def split_figure(folds: Sequence[FoldDays]) -> dict[str, Any]:
    """A Plotly figure: one row per fold, the first on top; one bar per stretch, up to the end of its last day."""
    names = [f"fold {number}" for number in range(1, len(folds) + 1)]
    traces = []
    for role, label in ROLES.items():
        bars = [(name, part) for name, fold in zip(names, folds, strict=True) for part in getattr(fold, role)]
        traces.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": label,
                "marker": {"color": _COLOURS[role]},
                "y": [name for name, _ in bars],
                "base": [part.first.isoformat() for _, part in bars],
                "x": [_milliseconds(part.last + timedelta(days=1)) - _milliseconds(part.first) for _, part in bars],
                "text": [f"{part.num_days} days" for _, part in bars],
                "customdata": [part.last.isoformat() for _, part in bars],
                "hovertemplate": "%{y}, " + label + ": %{base} to %{customdata}, %{text}<extra></extra>",
                "textposition": "none",
            }
        )
    layout = {
        "barmode": "overlay",
        "height": 120 + _ROW_PIXELS * len(folds),
        "xaxis": {"type": "date"},
        "yaxis": {"type": "category", "categoryorder": "array", "categoryarray": names[::-1]},
        "legend": {"orientation": "h"},
        "title": {"text": "Training, validation and test days"},
    }
    return {"data": traces, "layout": layout}


def _milliseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
