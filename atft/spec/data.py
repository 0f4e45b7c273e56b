"""Specs of a dataset, a planted panel, a run's data, and its split into training, validation and test days."""

import math
import re
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from atft.spec.base import NAME_PATTERN, Horizons, Spec, refuse

PlantedMode = Literal["full", "theory", "null", "leak", "graph_only", "cycle_only"]
Target = Literal["raw", "zscore", "rank_gauss", "sector_neutral", "beta_neutral"]
OnBadCell = Literal["refuse", "drop"]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
DatasetRef = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(@[A-Za-z0-9]{1,64})?$")]
MAX_SPLITS = 128  # a run trains a new model on each, one after another
COLUMN_ROLES = frozenset(
    {"date", "code", "sector", "open", "high", "low", "close", "volume", "in_universe", "features", "targets"}
)


class PlantedSpec(Spec):
    """Synthetic panel with a known Bayes-optimal score; `signal` is κ, the predictable share of a day's volatility."""

    num_codes: int = Field(500, ge=10, le=5000)
    num_days: int = Field(1000, ge=60, le=10000)
    num_features: int = Field(16, ge=4, le=512)
    signal: float = Field(0.05, ge=0.0, le=1.0)
    mode: PlantedMode = "full"
    seed: int = Field(0, ge=0, le=2**31 - 1)


class TableFile(Spec):
    """Which table of a file is read, and how its text is written. Without settings: ISO dates and plain numbers."""

    sheet: str | None = Field(None, min_length=1, max_length=100, description="of a workbook with several sheets")
    table: str | None = Field(
        None, min_length=1, max_length=200, description="of a SQLite or DuckDB file with several tables"
    )

    date_format: str | None = Field(
        None,
        max_length=40,
        description="of dates in text, such as %d.%m.%Y; null: 2024-01-31, 2024/01/31 or 20240131",
        examples=["%d.%m.%Y"],
    )
    decimal: Literal[".", ","] = Field(".", description="decimal mark of numbers in text")
    thousands: Literal[",", ".", " ", "'", "_"] | None = Field(
        None, description="mark between groups of digits of numbers in text"
    )

    @field_validator("date_format")
    @classmethod
    def _tells_the_day(cls, value: str | None) -> str | None:
        if value is not None:
            day = datetime(2013, 11, 24)  # noqa: DTZ001 - a day has no time zone
            try:
                same = datetime.strptime(day.strftime(value), value) == day  # noqa: DTZ007
            except (ValueError, re.error):  # the second for a directive that is given twice
                same = False
            if not same or "%" in re.sub("%[dmYybBjHMS]", "", value):
                raise ValueError(
                    "give year, month and day, such as %d.%m.%Y, of %Y %y %m %b %B %d %j, and of %H %M %S for a time"
                )
        return value

    @model_validator(mode="after")
    def _distinct_marks(self) -> Self:
        if self.thousands == self.decimal:
            refuse("/thousands", "decimal and thousands are the same mark: give one of them another")
        return self


class SideFile(TableFile):
    """A second file (universe or market): a path below the server's data root, or the name of an upload's part."""

    file: str = Field(min_length=1, max_length=500)
    columns: dict[str, str] = Field({})


class DatasetSpec(TableFile):
    """A dataset to build: from a file below the data root (`path`), an upload (neither), or a `planted` panel."""

    name: Name
    path: str | None = Field(None, min_length=1, max_length=500)
    columns: dict[str, str | tuple[str, ...]] = Field(
        {}, description="role (date, code, close, …) to the file's column name; `features` and `targets` take lists"
    )
    kind: Literal["auto", "prices", "features"] = "auto"
    build_features: bool = True
    features: tuple[str, ...] | None = None
    horizons: Horizons = (1, 5, 10, 20)
    universe: SideFile | None = None
    market: SideFile | None = None
    allow_leaks: tuple[str, ...] = ()
    planted: PlantedSpec | None = None
    on_bad_cell: OnBadCell = Field(
        "refuse",
        description="refuse: a cell that cannot be read refuses the file; drop: its row is left out and counted",
    )

    @field_validator("columns")
    @classmethod
    def _known_roles(cls, value: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        unknown = sorted(set(value) - COLUMN_ROLES)
        if unknown:
            raise ValueError(f"unknown roles {unknown}; the roles are {sorted(COLUMN_ROLES)}")
        return value

    @field_validator("path")
    @classmethod
    def _no_parent(cls, value: str | None) -> str | None:
        if value is not None and (".." in PurePosixPath(value).parts or "\x00" in value):
            raise ValueError("a path must not leave the data root")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.path is not None and self.planted is not None:
            refuse("/planted", "give either path or planted, not both")
        return self


class DataSpec(Spec):
    """Data of a run: `window` days of history per sample, horizons in trading days, the target's transformation.

    Days with fewer than `min_names` known samples are skipped.
    """

    window: int = Field(60, ge=2, le=512)
    horizons: Horizons = (1, 5, 10, 20)
    features: tuple[str, ...] | None = None
    target: Target = "rank_gauss"
    min_names: int = Field(30, ge=3, le=100000)

    @field_validator("features")
    @classmethod
    def _distinct(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is not None and (not value or len(set(value)) != len(value)):
            raise ValueError("list each feature once, and at least one (or null for all)")
        return value


class SplitSpec(Spec):
    """Split into training, validation and test days, separated by `embargo_days` unused days, which include the purge.

    `walk_forward`: the last `folds` blocks of `test_days` days, each after its own validation and training days
    (all available ones, or the last `train_days`). `purged_kfold`: `folds` blocks of all usable days, each tested once.
    `cpcv` (combinatorial purged cross-validation): each choice of `test_folds` of the `folds` blocks is one split. A
    run trains a new model on every split.
    """

    kind: Literal["walk_forward", "purged_kfold", "cpcv"] = "walk_forward"
    train_days: int | None = Field(None, ge=2)
    val_days: int = Field(250, ge=2)
    test_days: int = Field(250, ge=2)
    embargo_days: int = Field(21, ge=1)
    folds: int = Field(1, ge=1, le=50)
    test_folds: int = Field(1, ge=1, le=10)

    @property
    def num_splits(self) -> int:
        """Number of models that a run trains: C(folds, test_folds) for cpcv, else `folds`."""
        return math.comb(self.folds, self.test_folds) if self.kind == "cpcv" else self.folds

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind != "cpcv" and self.test_folds != 1:
            refuse("/test_folds", f"test_folds belongs to cpcv; {self.kind} tests one block a fold: leave it out")
        if self.kind == "walk_forward":
            return self
        if self.folds < 2:
            refuse("/folds", f"{self.kind} cuts the days into folds: give at least 2")
        if self.train_days is not None:
            refuse("/train_days", f"{self.kind} trains on all days outside test and gaps: leave train_days out")
        if self.test_days != type(self).model_fields["test_days"].default:
            refuse("/test_days", f"the folds of {self.kind} are its test days: leave test_days out, choose folds")
        if self.test_folds >= self.folds:
            refuse("/test_folds", f"of {self.folds} folds at most {self.folds - 1} can be test days")
        if self.num_splits > MAX_SPLITS:
            refuse(
                "/test_folds",
                f"{self.test_folds} of {self.folds} folds are {self.num_splits} splits, each a whole training: at most "
                f"{MAX_SPLITS}, so choose fewer folds",
            )
        return self
