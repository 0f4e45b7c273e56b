"""Chooses the columns of a cache: built features, the file's own features, market-wide columns."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from atft.data.features import compute, market
from atft.data.features.formulas import Feature
from atft.data.panel.calendar_grid import CalendarGrid
from atft.data.panel.source import Source
from atft.data.panel.survey import MAX_NULL_SHARE, ROW_NUMBER
from atft.data.schema import DataError, format_names
from atft.spec.data import DatasetSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The columns of a cache: built features, the file's own per-stock features, market-wide columns."""

    built: list[Feature]
    file_features: list[str]
    market_wide: list[str]  # market-wide columns of the file
    market: dict[str, npt.NDArray[np.float64]]
    formulas: dict[str, str]

    @property
    def names(self) -> list[str]:
        """The per-stock features in the order of the matrix."""
        return [*(f.name for f in self.built), *self.file_features]

    @property
    def user_columns(self) -> list[str]:
        """The panel file's own columns, per stock and market-wide."""
        return [*self.file_features, *self.market_wide]


def make_plan(source: Source, grid: CalendarGrid, spec: DatasetSpec) -> Plan:
    """The plan of a cache. Raises DataError for missing or clashing names; other findings are added to the warnings."""
    built = (
        compute.feature_set([r for r in ("open", "high", "low", "close", "volume", "sector") if source.has(r)])
        if source.kind == "prices" and spec.build_features
        else []
    )
    built_names = [f.name for f in built]
    clash = [n for n in source.extra if n in built_names]
    if clash:
        raise DataError(
            f"columns {clash} have the names of built features: rename them, or set build_features to false"
        )
    listed = source.roles.requested_features
    if listed is not None and (missing := [n for n in listed if n not in built_names and n not in source.extra]):
        raise DataError(f"missing features {missing}: there are {format_names([*built_names, *source.extra], 40)}")
    extra = [n for n in source.extra if listed is None or n in listed]
    useless = {n: why for n in extra if (why := source.extra[n].useless_reason)}
    if listed is not None and useless:
        raise DataError(
            f"features {sorted(useless)} are constant, row numbers or at least {MAX_NULL_SHARE:.0%} empty: "
            "leave them out"
        )
    source.warnings += [f"column {n!r} is not a feature: it is {why}" for n, why in useless.items()]
    source.later_rules += [f"{n}: row number" for n, why in useless.items() if why == ROW_NUMBER]
    extra = [n for n in extra if n not in useless]
    for name in extra:
        if odd := source.extra[name].nearly_market_wide:
            source.warnings.append(
                f"column {name!r} says the same of all stocks of a day, but not on "
                f"{format_names([str(source.days[day]) for day in odd])}: it is scored across stocks, where it says "
                "nothing on all other days; make these days equal, or bring it as a market file"
            )
    source.warnings += [
        f"column {n!r} has infinite values, which count as missing" for n in extra if source.extra[n].infinite
    ]
    market_wide = [n for n in extra if source.extra[n].market_wide]
    raw = (
        {}
        if source.kind == "planted" or not source.has("close")
        else market.derived_columns(grid.returns, grid.valid, grid.day_index, len(grid.days))
    )
    user_columns = market.user_columns(source.market, grid.days)
    if twice := sorted({*user_columns} & {*market_wide, *raw}):
        raise DataError(f"the market file's columns {twice} have the names of columns of the panel: rename them")
    raw |= {n: grid.day_values(source, n) for n in market_wide} | user_columns
    file_features = [n for n in extra if n not in market_wide]
    if listed is not None:
        built = [f for f in built if f.name in listed]
        file_features = [n for n in listed if n in file_features]
    doubled = [n for n in raw if n in file_features or n in built_names or (n in market.DERIVED and n in market_wide)]
    if doubled:
        raise DataError(f"market columns {doubled} have the names of other columns: rename them")
    if not built and not file_features:
        raise DataError("no feature is left: bring numeric columns, or set build_features to true on a price panel")
    formulas = (
        {f.name: f.formula for f in built}
        | dict.fromkeys((*file_features, *market_wide), "the file's own column")
        | {n: market.DERIVED[n] for n in raw if n in market.DERIVED}
    )
    values = {n: market.normalise_by_past(x) for n, x in raw.items()}
    return Plan(built=built, file_features=file_features, market_wide=market_wide, market=values, formulas=formulas)
