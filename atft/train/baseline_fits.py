"""Fits the baselines on every training day of a fold: one pass over the days for the linear learners, one for trees."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from jaxtyping import Float, Int64

from atft.data.cache.splits import Split
from atft.data.cache.windows import DayReader
from atft.evidence.models import BaselineEvidence
from atft.linear.ard import fit_ard
from atft.linear.columns import Columns, Day
from atft.linear.ridge import fit_ridge
from atft.linear.sums import BlockSums, Sums
from atft.linear.whitened import whitened
from atft.spec.baselines import UNAVAILABLE, BaselinesSpec

MAX_LAGS: Final = 2048  # columns of the flattened window
MAX_JOINT: Final = 4096  # columns of linear_ard: each of its steps inverts a matrix of them for every horizon
Beat = Callable[[int, int], None]
Scores = Float[np.ndarray, "stock horizon"]
Scorer = Callable[[Day], Scores]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fits:
    """What scores a day, by baseline, and what each was fitted on, which says why one has no scorer."""

    columns: Columns
    scorers: dict[str, Scorer]
    evidence: dict[str, BaselineEvidence]

    def scores(self, days: Int64[np.ndarray, " day"], beat: Beat) -> dict[str, Float[np.ndarray, "sample horizon"]]:
        """Scores of the ranked samples of `days`, in order."""
        found: dict[str, list[Scores]] = {name: [] for name in self.scorers}
        for i, day in enumerate(self.columns.days(days)):
            for name, score in self.scorers.items():
                found[name].append(score(day).astype(np.float32))
            beat(i + 1, len(days))
        return {name: np.concatenate(parts) for name, parts in found.items()}


@dataclass(slots=True)
class _Training:
    """What one pass over the training days found; sums are None where there are no columns, or too many."""

    own: BlockSums | None
    lags: BlockSums | None
    joint: Sums | None
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    days: list[int] = field(default_factory=list)
    codes: list[Int64[np.ndarray, " sample"]] = field(default_factory=list)
    ranks: list[Float[np.ndarray, "sample horizon"]] = field(default_factory=list)
    num_days: int = 0
    num_rows: int = 0

    @contextmanager
    def clock(self, name: str) -> Iterator[None]:
        """Count the seconds of a `with` block."""
        began = time.perf_counter()
        yield
        self.seconds[name] += time.perf_counter() - began

    def evidence(self, name: str, columns: int, **fields: object) -> BaselineEvidence:
        """The evidence of a baseline that was fitted on these days."""
        used = sum(map(len, self.codes))
        return BaselineEvidence.model_validate(
            {
                "days_share": len(self.days) / self.num_days,
                "rows_share": used / self.num_rows,
                "columns": columns,
                "seconds": round(self.seconds["read"] + self.seconds[name], 3),
                **fields,
            }
        )


class _Fit:
    """Fits one baseline after the other."""

    def __init__(self, reader: DayReader, split: Split, spec: BaselinesSpec, beat: Beat) -> None:
        self.split, self.spec, self.beat = split, spec, beat
        self.horizons = spec.data.horizons
        with_lags = 0 < reader.num_stock_features * spec.data.window <= MAX_LAGS
        self.columns = Columns(reader, lags=with_lags)
        self.num_joint = self.columns.num_parts * self.columns.num_own
        self.training = self._read()
        self.scorers: dict[str, Scorer] = {}
        self.evidence: dict[str, BaselineEvidence] = {}
        self.missing: str | None = None
        if not reader.num_stock_features:
            self.missing = "data.features selects market columns only, which are equal for all stocks"
        elif not self.training.days:
            self.missing = "no training day has two samples with all targets known"

    def _read(self) -> _Training:
        columns, num_horizons, train = self.columns, len(self.horizons), self.split.train
        seam = max(self.horizons)
        found = _Training(
            own=BlockSums(train, seam, columns.num_own, num_horizons) if columns.num_own else None,
            lags=BlockSums(train, seam, columns.num_lags, num_horizons) if columns.has_lags else None,
            joint=Sums.empty(self.num_joint, num_horizons) if 0 < self.num_joint <= MAX_JOINT else None,
        )
        began = time.perf_counter()
        for i, day in enumerate(columns.days(train)):
            found.num_days += 1
            found.num_rows += len(day.ranks)
            known = day.known
            if known.sum() > 1:
                found.seconds["read"] += time.perf_counter() - began
                found.days.append(day.number)
                found.codes.append(day.codes[known].astype(np.int64))
                found.ranks.append(day.ranks[known])
                self._add(found, day, known)
                began = time.perf_counter()
            self.beat(i * 500 // len(train), 1000)
        return found

    def _add(self, found: _Training, day: Day, known: np.ndarray) -> None:
        for name, sums, x in (("ridge", found.own, day.own), ("ridge_lags", found.lags, day.lags)):
            if sums is not None and x is not None:
                with found.clock(name):
                    sums.add(day.number, x[known] - x[known].mean(axis=0), day.ranks[known])
        if found.joint is not None:
            with found.clock("linear_ard"):
                found.joint.add(*whitened(day, self.columns.risk))

    def ridge(self, name: str, sums: BlockSums | None, num_columns: int, columns_of: Callable[[Day], Scores]) -> None:
        if self.missing is not None or sums is None:
            reason = self.missing or f"{num_columns:,} columns are more than {MAX_LAGS:,}"
            self.evidence[name] = BaselineEvidence(columns=num_columns, missing=reason)
            return
        with self.training.clock(name):
            fit = fit_ridge(sums, lambda: self.beat(500, 1000))
        self.scorers[name] = lambda day: columns_of(day) @ fit.coefficients
        self.evidence[name] = self.training.evidence(
            name,
            num_columns,
            penalties=dict(zip(self.horizons, fit.penalties, strict=True)),
            no_signal=[h for h, none in zip(self.horizons, fit.no_signal, strict=True) if none],
        )

    def linear_ard(self) -> None:
        name, sums = "linear_ard", self.training.joint
        if self.missing is not None or sums is None:
            reason = self.missing or f"{self.num_joint:,} columns are more than {MAX_JOINT:,}"
            self.evidence[name] = BaselineEvidence(columns=self.num_joint, missing=reason)
            return
        with self.training.clock(name):
            fit = fit_ard(
                sums,
                self.columns.num_filters,
                self.horizons,
                lambda step, steps: self.beat(550 + 100 * step // steps, 1000),
            )
        self.scorers[name] = lambda day: day.joint() @ fit.coefficients
        self.evidence[name] = self.training.evidence(name, self.num_joint)

    def lightgbm(self) -> None:
        name, training = "lightgbm", self.training
        try:
            from atft.train.trees import TrainingRows, fit_trees  # noqa: PLC0415 - needs the system's libgomp

            unavailable = None
        except (ImportError, OSError) as error:
            unavailable = f"{UNAVAILABLE} ({error}); on Debian install libgomp1"
        reason = self.missing or unavailable
        if reason is not None:
            self.evidence[name] = BaselineEvidence(columns=self.columns.num_own, missing=reason)
            return
        rows = TrainingRows(
            day=np.repeat(training.days, [len(codes) for codes in training.codes]),
            code=np.concatenate(training.codes),
            ranks=np.concatenate(training.ranks),
        )
        with training.clock(name):
            trees = fit_trees(
                self.columns,
                rows,
                gap=max(self.horizons) + 1,
                min_names=self.spec.data.min_names,
                threads=self.spec.resources.threads,
                beat=lambda step, steps: self.beat(650 + 350 * step // steps, 1000),
            )
        if isinstance(trees, str):
            self.evidence[name] = BaselineEvidence(columns=self.columns.num_own, missing=trees)
            return
        self.scorers[name] = lambda day: trees.scores(day.own)
        self.evidence[name] = training.evidence(
            name,
            self.columns.num_own,
            trees=dict(zip(self.horizons, trees.num_trees, strict=True)),
            params=trees.params,
        )


def fit_baselines(reader: DayReader, split: Split, spec: BaselinesSpec, beat: Beat) -> Fits:
    """Fit ridge, ridge on lags, the linear model with one variance a group, and LightGBM. `beat` counts thousandths and
    may raise to stop.
    """
    fit = _Fit(reader, split, spec, beat)
    fit.ridge("ridge", fit.training.own, fit.columns.num_own, lambda day: day.own)
    fit.ridge("ridge_lags", fit.training.lags, fit.columns.num_lags, lambda day: np.asarray(day.lags))
    beat(550, 1000)
    fit.linear_ard()
    fit.lightgbm()
    return Fits(columns=fit.columns, scorers=fit.scorers, evidence=fit.evidence)
