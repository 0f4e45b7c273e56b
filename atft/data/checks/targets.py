"""Refuses horizons whose targets say nothing, and tells of last days without targets."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float

from atft.data.panel.calendar_grid import CalendarGrid
from atft.data.schema import DataError


def check_targets(
    grid: CalendarGrid, targets: Float[np.ndarray, "row horizon"], horizons: tuple[int, ...], columns: Mapping[int, str]
) -> list[str]:
    """Warnings on horizons whose targets end early. `columns`: the file's own target columns by horizon.

    Raises DataError naming the horizons whose targets are never known, or never differ between the stocks of a day.
    """
    says, unlabelled = [], []
    for k, horizon in enumerate(horizons):
        name = f"the targets of {horizon} days" + (f" (column {columns[horizon]!r})" if horizon in columns else "")
        last = next((day for day in reversed(range(len(grid.days))) if len(_labels(grid, targets[:, k], day))), None)
        if last is None:
            says.append(f"{name} are known for no stock on any day")
        elif not any(len(np.unique(_labels(grid, targets[:, k], day))) > 1 for day in range(last + 1)):
            says.append(f"{name} are the same for all stocks on every day")
        elif len(grid.days) - 1 - last > horizon + 1:
            unlabelled.append(
                f"{name} are known for no stock after {grid.days[last]}: the last {len(grid.days) - 1 - last} days "
                "cannot be trained on or tested"
            )
    if says:
        raise DataError(f"{'; '.join(says)}: correct them, or leave such horizons out of `horizons`")
    return unlabelled


def _labels(grid: CalendarGrid, target: Float[np.ndarray, " row"], day: int) -> Float[np.ndarray, " known"]:
    """The known targets of the stocks that trade on a day, in the universe or not: it may have one stock."""
    rows = grid.day_rows[grid.day_offsets[day] : grid.day_offsets[day + 1]]
    values = target[rows[grid.valid[rows]]]
    return np.asarray(values[np.isfinite(values)])
