"""The columns of the linear learners, day by day: a stock's own features through the filter bank, the same times the
state of the market, and the sums of its peers'.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, Int64

from atft.data.cache.batch import Batch
from atft.data.cache.labels import NEUTRAL
from atft.data.cache.reader import Cache
from atft.data.cache.splits import consecutive_runs
from atft.data.cache.windows import DayReader
from atft.linear.filter_bank import filtered, filters
from atft.linear.risk import TrailingRisk

CHUNK_DAYS: Final = 4  # read at once: their windows share rows
GATE_HALF_LIFE: Final = 10.0  # in days
GATE_CLIP: Final = 2.0
MAX_MARKET_GATES: Final = 2  # with more market columns, none is a gate: each one costs as many columns as there are own


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """The ranked samples of one day. `own` and `peers` are less their means over the samples; `labels` are the targets,
    or those of a neutral form.
    """

    number: int
    own: Float[np.ndarray, "stock own"]
    peers: Float[np.ndarray, "stock own"]
    gates: Float[np.ndarray, " gate"]
    lags: Float[np.ndarray, "stock lag"] | None
    labels: Float[np.ndarray, "stock horizon"]
    ranks: Float[np.ndarray, "stock horizon"]
    codes: Int[np.ndarray, " stock"]

    @property
    def known(self) -> Bool[np.ndarray, " stock"]:
        """The samples whose every label is known."""
        return np.asarray(np.isfinite(self.ranks).all(axis=1) & np.isfinite(self.labels).all(axis=1))

    def joint(self) -> Float[np.ndarray, "stock column"]:
        """Own, gated and peers' columns, in this order."""
        return np.concatenate([self.own, *(gate * self.own for gate in self.gates), self.peers], axis=1)


class Columns:
    """Reads the columns of days; with `lags`, the flattened windows too."""

    def __init__(self, reader: DayReader, *, lags: bool) -> None:
        self.reader, self.has_lags = reader, lags
        self.num_features = reader.num_stock_features
        self._filters = filters(reader.data.window)
        self.num_filters = self._filters.shape[1]
        self.num_own = self.num_features * self.num_filters
        self.num_lags = self.num_features * reader.data.window
        self.risk = TrailingRisk(reader.cache)
        self.gates = _gates(reader.cache, self.risk)
        self.num_parts = 2 + self.gates.shape[1]  # of the joint columns

    def days(self, numbers: Int64[np.ndarray, " day"]) -> Iterator[Day]:
        """The days that have samples, in order."""
        for stretch in consecutive_runs(numbers):
            for start in range(0, len(stretch), CHUNK_DAYS):
                few = stretch[start : start + CHUNK_DAYS]
                if any(self.reader.num_stocks(int(day)) for day in few):
                    yield from self._days(self.reader.batch(few))

    def _days(self, batch: Batch) -> Iterator[Day]:
        cache, data = self.reader.cache, self.reader.data
        x = batch.x[:, : self.num_features].cpu().numpy().astype(np.float64)
        windows, ranked = batch.windows.cpu().numpy(), batch.ranked.cpu().numpy()
        own = filtered(x, windows, self._filters)
        labels = (batch.labels if data.target in NEUTRAL else batch.targets).cpu().numpy().astype(np.float64)
        ranks = batch.ranks.cpu().numpy().astype(np.float64)
        codes = cache.code_index[batch.rows]
        bounds = np.searchsorted(batch.day.cpu().numpy(), np.arange(batch.num_days + 1))
        for i, number in enumerate(batch.day_numbers):
            part = slice(bounds[i], bounds[i + 1])
            keep = np.flatnonzero(ranked[part]) + bounds[i]
            if len(keep) == 0:
                continue
            yield Day(
                number=int(number),
                own=_centred(own[keep]),
                peers=self._peers(int(number), own[part], codes[part], ranked[part]),
                gates=self.gates[number],
                lags=_centred(x[windows[keep]].reshape(len(keep), -1)) if self.has_lags else None,
                labels=labels[keep],
                ranks=ranks[keep],
                codes=codes[keep],
            )

    def _peers(
        self,
        day: int,
        own: Float[np.ndarray, "stock own"],
        codes: Int[np.ndarray, " stock"],
        ranked: Bool[np.ndarray, " stock"],
    ) -> Float[np.ndarray, "stock own"]:
        model = self.risk.model(day)
        if model is None:
            return np.zeros((int(ranked.sum()), own.shape[1]))
        return _centred((model.peers[codes][:, codes] @ own)[ranked])


def _centred(values: Float[np.ndarray, "stock column"]) -> Float[np.ndarray, "stock column"]:
    return np.asarray(values - values.mean(axis=0))


def _gates(cache: Cache, risk: TrailingRisk) -> Float[np.ndarray, "day gate"]:
    """States of the market between -1 and 1, from days up to each: the smoothed squared market return against its mean
    so far, and the smoothed market columns of the dataset where there are few.
    """
    decay = 0.5 ** (1.0 / GATE_HALF_LIFE)
    steps = np.arange(1, len(cache.days) + 1)
    squares = _smoothed(risk.market**2, decay)
    floor = np.finfo(np.float64).tiny
    ratio = np.maximum(squares, floor) / np.maximum(np.cumsum(squares) / steps, floor)
    found = [np.tanh(np.log(ratio))]
    if cache.market.shape[1] <= MAX_MARKET_GATES:
        for column in cache.market.T.astype(np.float64):
            smooth = _smoothed(np.nan_to_num(column), decay)
            scale = np.maximum(np.sqrt(np.cumsum(smooth**2) / steps), floor)
            found.append(np.tanh(GATE_CLIP * np.clip(smooth / scale, -GATE_CLIP, GATE_CLIP)))
    return np.stack(found, axis=1)


def _smoothed(values: Float[np.ndarray, " day"], decay: float) -> Float[np.ndarray, " day"]:
    """Exponentially weighted means, with the weights of the days so far."""
    total = weight = 0.0
    found = np.empty_like(values)
    for i, value in enumerate(values):
        total, weight = decay * total + value, decay * weight + 1.0
        found[i] = total / weight
    return found
