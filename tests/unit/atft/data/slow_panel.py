"""A slow reference implementation of the build: plain loops over one stock's rows, written from the documented formulas
only. An unknown value is NaN.
"""

import datetime
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import polars as pl

Row = dict[str, float]
NAN = float("nan")


class Stock:
    """One stock's listed span, a row a trading day; a day without a close repeats the last one with volume 0."""

    def __init__(self, rows: dict[int, dict[str, object]]) -> None:
        first, last = min(rows), max(rows)
        self.first = first
        self.valid: list[bool] = []
        self.sector: list[str | None] = []
        self.o, self.h, self.l, self.c, self.v = ([] for _ in range(5))  # type: ignore[var-annotated]
        for day in range(first, last + 1):
            row = rows.get(day)
            self.valid.append(row is not None)
            if row is None:
                close = self.c[-1]
                row = {"open": close, "high": close, "low": close, "close": close, "volume": 0.0}
            for name, values in zip(("open", "high", "low", "close", "volume"), self.columns(), strict=True):
                value = row.get(name)
                values.append(NAN if value is None else float(value))  # type: ignore[arg-type]
        self.r = [NAN] + [b / a - 1 for a, b in zip(self.c[:-1], self.c[1:], strict=True)]
        self.market: list[float] = []  # of the stock's own days, filled in by the panel
        self.beta: list[float] = []

    def columns(self) -> tuple[list[float], ...]:
        return self.o, self.h, self.l, self.c, self.v

    def derived(self, name: str) -> list[float]:
        """A series over the whole span, by name."""
        n = range(len(self.c))
        return {
            "log c": lambda: [np.log(x) for x in self.c],
            "day": lambda: [float(i) for i in n],
            "log v": lambda: [np.log(x + 1) for x in self.v],
            "change of log v": lambda: [NAN] + [np.log(self.v[i] + 1) - np.log(self.v[i - 1] + 1) for i in n[1:]],
            "r[1]": lambda: [NAN, *self.r[:-1]],
            "residual": lambda: [self.r[i] - self.beta[i] * self.market[i] for i in n],
            "money": lambda: [self.c[i] * self.v[i] for i in n],
            "gap": lambda: [NAN] + [self.o[i] / self.c[i - 1] - 1 for i in n[1:]],
            "log range²": lambda: [np.log(self.h[i] / self.l[i]) ** 2 for i in n],
            "range/c": lambda: [(self.h[i] - self.l[i]) / self.c[i] for i in n],
            "|r| v": lambda: [abs(self.r[i]) * self.v[i] for i in n],
            "|r|": lambda: [abs(x) for x in self.r],
            "gain": lambda: [x if x > 0 else 0.0 * x for x in self.r],
            "loss²": lambda: [x**2 if x < 0 else 0.0 * x for x in self.r],
            "up": lambda: [NAN if np.isnan(x) else float(x > 0) for x in self.r],
            "up volume": lambda: [self.v[i] if self.r[i] > 0 else 0.0 for i in n],
            "illiquid": lambda: [abs(self.r[i]) / (self.c[i] * self.v[i]) if self.v[i] > 0 else NAN for i in n],
            "rise": lambda: [NAN] + [max(self.c[i] - self.c[i - 1], 0.0) for i in n[1:]],
            "fall": lambda: [NAN] + [max(self.c[i - 1] - self.c[i], 0.0) for i in n[1:]],
            "macd": lambda: [ewm(self.c, i, 2 / 13, 12) - ewm(self.c, i, 2 / 27, 26) for i in n],
        }[name]()


def last(x: Sequence[float], i: int, d: int, min_known: int | None = None) -> np.ndarray | None:
    """The known ones of the last d values up to i, or None when fewer than half of d (or `min_known`) are known."""
    values = np.array([x[k] for k in range(max(0, i - d + 1), i + 1) if not np.isnan(x[k])])
    return values if len(values) >= (max(1, d // 2) if min_known is None else min_known) else None


def pairs(x: Sequence[float], y: Sequence[float], i: int, d: int) -> tuple[np.ndarray, np.ndarray] | None:
    both = [(x[k], y[k]) for k in range(max(0, i - d + 1), i + 1) if not np.isnan(x[k]) and not np.isnan(y[k])]
    return (np.array([a for a, _ in both]), np.array([b for _, b in both])) if len(both) >= max(1, d // 2) else None


def mean(x: Sequence[float], i: int, d: int) -> float:
    w = last(x, i, d)
    return NAN if w is None else float(w.mean())


def std(x: Sequence[float], i: int, d: int) -> float:
    w = last(x, i, d, max(2, d // 2))
    return NAN if w is None else 0.0 if w.max() == w.min() else float(w.std(ddof=1))


def largest(x: Sequence[float], i: int, d: int) -> float:
    w = last(x, i, d)
    return NAN if w is None else float(w.max())


def smallest(x: Sequence[float], i: int, d: int) -> float:
    w = last(x, i, d)
    return NAN if w is None else float(w.min())


def corr(x: Sequence[float], y: Sequence[float], i: int, d: int) -> float:
    both = pairs(x, y, i, d)
    if both is None or np.ptp(both[0]) == 0 or np.ptp(both[1]) == 0:
        return NAN
    return float(np.corrcoef(*both)[0, 1])


def ewm(x: Sequence[float], i: int, alpha: float, min_known: int) -> float:
    known = [(value, (1 - alpha) ** (i - k)) for k, value in enumerate(x[: i + 1]) if not np.isnan(value)]
    if len(known) < min_known:
        return NAN
    return float(sum(v * w for v, w in known) / sum(w for _, w in known))


def line(s: Stock, i: int, d: int) -> tuple[float, float]:
    """(slope, residual of today) of the least-squares line through log c."""
    both = pairs(series(s, "day"), series(s, "log c"), i, d)
    if both is None or np.ptp(both[0]) == 0:
        return NAN, NAN
    slope, level = np.polyfit(both[0] - i, both[1], 1)
    return float(slope), float(both[1][-1] - level)


def skew(s: Stock, i: int, d: int) -> float:
    w = last(s.r, i, d)
    return NAN if w is None or np.ptp(w) == 0 else float(((w - w.mean()) ** 3).mean() / w.var() ** 1.5)


def ratio(a: float, b: float) -> float:
    return a / b if b != 0 and not np.isnan(b) else NAN


@cache
def series(s: Stock, name: str) -> list[float]:
    return s.derived(name)


@cache
def macd_signal(s: Stock, i: int) -> float:
    return ewm(series(s, "macd"), i, 2 / 10, 9)


def ago(x: Sequence[float], i: int, d: int) -> float:
    return x[i - d] if i >= d else NAN


def rsi(s: Stock, i: int) -> float:
    up, down = ewm(series(s, "rise"), i, 1 / 14, 14), ewm(series(s, "fall"), i, 1 / 14, 14)
    return 100 * ratio(up, up + down)


Formula = Callable[[Stock, int], float]
FORMULAS: dict[str, Formula] = {
    **{f"return_{d}": lambda s, i, d=d: s.c[i] / ago(s.c, i, d) - 1 for d in (1, 2, 3, 5, 10, 20, 40, 60, 120)},
    "momentum_120_20": lambda s, i: ago(s.c, i, 20) / ago(s.c, i, 120) - 1,
    **{f"mean_{d}": lambda s, i, d=d: mean(s.c, i, d) / s.c[i] for d in (5, 10, 20, 60)},
    **{f"volatility_{d}": lambda s, i, d=d: std(s.r, i, d) for d in (5, 10, 20, 60)},
    "volatility_ratio": lambda s, i: ratio(std(s.r, i, 5), std(s.r, i, 60)),
    "downside_20": lambda s, i: np.sqrt(mean(series(s, "loss²"), i, 20)),
    **{f"slope_{d}": lambda s, i, d=d: line(s, i, d)[0] for d in (20, 60)},
    **{f"trend_{d}": lambda s, i, d=d: corr(series(s, "log c"), series(s, "day"), i, d) for d in (20, 60)},
    **{f"residual_{d}": lambda s, i, d=d: line(s, i, d)[1] for d in (20, 60)},
    **{
        f"position_{d}": lambda s, i, d=d: ratio(s.c[i] - smallest(s.c, i, d), largest(s.c, i, d) - smallest(s.c, i, d))
        for d in (10, 20, 60)
    },
    **{f"drawdown_{d}": lambda s, i, d=d: s.c[i] / largest(s.c, i, d) - 1 for d in (20, 120)},
    "year_high": lambda s, i: s.c[i] / largest(s.c, i, 252) - 1,
    "year_low": lambda s, i: s.c[i] / smallest(s.c, i, 252) - 1,
    **{f"up_share_{d}": lambda s, i, d=d: mean(series(s, "up"), i, d) for d in (10, 20, 60)},
    **{
        f"strength_{d}": lambda s, i, d=d: ratio(mean(series(s, "gain"), i, d), mean(series(s, "|r|"), i, d))
        for d in (10, 20)
    },
    **{f"skew_{d}": lambda s, i, d=d: skew(s, i, d) for d in (20, 60)},
    "largest_20": lambda s, i: largest(s.r, i, 20),
    "smallest_20": lambda s, i: smallest(s.r, i, 20),
    "reversal_corr_20": lambda s, i: corr(s.r, series(s, "r[1]"), i, 20),
    "beta": lambda s, i: s.beta[i],
    "idiosyncratic_60": lambda s, i: std(series(s, "residual"), i, 60),
    **{f"residual_return_{d}": lambda s, i, d=d: mean(series(s, "residual"), i, d) for d in (5, 20)},
    "market_corr_60": lambda s, i: corr(s.r, s.market, i, 60),
    **{f"ema_gap_{n}": lambda s, i, n=n: s.c[i] / ewm(s.c, i, 2 / (n + 1), n) - 1 for n in (12, 26, 50)},
    "macd": lambda s, i: series(s, "macd")[i] / s.c[i],
    "macd_signal": lambda s, i: macd_signal(s, i) / s.c[i],
    "macd_histogram": lambda s, i: (series(s, "macd")[i] - macd_signal(s, i)) / s.c[i],
    "rsi_14": rsi,
    "body": lambda s, i: (s.c[i] - s.o[i]) / s.o[i],
    "range": lambda s, i: (s.h[i] - s.l[i]) / s.o[i],
    "body_share": lambda s, i: ratio(s.c[i] - s.o[i], s.h[i] - s.l[i]),
    "upper_shadow": lambda s, i: (s.h[i] - np.nanmax([s.o[i], s.c[i]])) / s.o[i],
    "lower_shadow": lambda s, i: (np.nanmin([s.o[i], s.c[i]]) - s.l[i]) / s.o[i],
    "shift": lambda s, i: ratio(2 * s.c[i] - s.h[i] - s.l[i], s.h[i] - s.l[i]),
    "gap": lambda s, i: series(s, "gap")[i],
    "gap_20": lambda s, i: mean(series(s, "gap"), i, 20),
    "parkinson_20": lambda s, i: np.sqrt(mean(series(s, "log range²"), i, 20) / (4 * np.log(2))),
    "range_20": lambda s, i: mean(series(s, "range/c"), i, 20),
    **{f"high_{d}": lambda s, i, d=d: largest(s.h, i, d) / s.c[i] for d in (20, 60)},
    **{f"low_{d}": lambda s, i, d=d: smallest(s.l, i, d) / s.c[i] for d in (20, 60)},
    **{f"volume_{d}": lambda s, i, d=d: np.log((s.v[i] + 1) / (mean(s.v, i, d) + 1)) for d in (5, 20, 60)},
    "volume_std_20": lambda s, i: std(s.v, i, 20) / (mean(s.v, i, 20) + 1),
    "volume_trend": lambda s, i: np.log((mean(s.v, i, 5) + 1) / (mean(s.v, i, 60) + 1)),
    "money_20": lambda s, i: np.log(mean(series(s, "money"), i, 20) + 1),
    "illiquidity_20": lambda s, i: np.log(m) if (m := mean(series(s, "illiquid"), i, 20)) > 0 else NAN,
    **{f"price_volume_{d}": lambda s, i, d=d: corr(series(s, "log c"), series(s, "log v"), i, d) for d in (10, 20, 60)},
    **{f"return_volume_{d}": lambda s, i, d=d: corr(s.r, series(s, "change of log v"), i, d) for d in (10, 20)},
    "weighted_move_20": lambda s, i: ratio(std(series(s, "|r| v"), i, 20), mean(series(s, "|r| v"), i, 20)),
    "up_volume_20": lambda s, i: mean(series(s, "up volume"), i, 20) / (mean(s.v, i, 20) + 1),
}


class SlowPanel:
    """Days, stocks by code, and the values of any feature for all stocks of a day."""

    def __init__(self, frame: pl.DataFrame) -> None:
        rows = [row for row in frame.iter_rows(named=True) if row["close"] is not None]
        self.days: list[datetime.date] = sorted({row["date"] for row in rows})
        number = {day: n for n, day in enumerate(self.days)}
        by_code: dict[str, dict[int, dict[str, object]]] = defaultdict(dict)
        for row in rows:
            by_code[row["code"]][number[row["date"]]] = row
        self.stocks = {code: Stock(by_code[code]) for code in sorted(by_code)}
        for code, stock in self.stocks.items():
            sector = None
            known = {row["date"]: row.get("sector") for row in frame.filter(pl.col("code") == code).to_dicts()}
            for i in range(len(stock.c)):
                if stock.valid[i]:
                    sector = known[self.days[stock.first + i]]
                stock.sector.append(sector)
        self.market = [self._market(day) for day in range(len(self.days))]
        for stock in self.stocks.values():
            stock.market = self.market[stock.first : stock.first + len(stock.c)]
            stock.beta = [self._beta(stock, i) for i in range(len(stock.c))]

    def at(self, code: str, day: int) -> int | None:
        """The number of `day` in the stock's own span, None outside of it."""
        stock = self.stocks[code]
        return day - stock.first if 0 <= day - stock.first < len(stock.c) else None

    def present(self, day: int) -> list[tuple[Stock, int]]:
        return [(self.stocks[code], i) for code in self.stocks if (i := self.at(code, day)) is not None]

    def _market(self, day: int) -> float:
        known = [np.clip(s.r[i], -0.5, 0.5) for s, i in self.present(day) if s.valid[i] and not np.isnan(s.r[i])]
        return float(np.mean(known)) if known else 0.0

    def _beta(self, stock: Stock, i: int) -> float:
        known = [k for k in range(max(0, i - 119), i + 1) if not np.isnan(stock.r[k])]
        if len(known) < 20:
            return 1.0
        r, m = np.array([stock.r[k] for k in known]), np.array([stock.market[k] for k in known])
        return float(np.clip(((r - r.mean()) * (m - m.mean())).mean() / m.var(), -5, 5)) if m.var() > 1e-12 else 1.0

    def raw(self, name: str, day: int) -> dict[int, float]:
        """The feature of each stock present on `day`, by the stock's index in `stocks`."""
        present = [
            (n, self.stocks[code], i) for n, code in enumerate(self.stocks) if (i := self.at(code, day)) is not None
        ]
        if name.startswith("rank_"):
            base = {n: FORMULAS[name.removeprefix("rank_")](s, i) for n, s, i in present}
            known = [base[n] for n, s, i in present if s.valid[i] and np.isfinite(base[n])]
            return {n: rank(base[n], known) if s.valid[i] else NAN for n, s, i in present}
        if name.startswith("sector_return_"):
            base = {n: FORMULAS[name.removeprefix("sector_")](s, i) for n, s, i in present}
            return {n: base[n] - self._peers(base, present, s.sector[i]) for n, s, i in present}
        return {n: FORMULAS[name](s, i) for n, s, i in present}

    @staticmethod
    def _peers(base: dict[int, float], present: list[tuple[int, Stock, int]], sector: str | None) -> float:
        valid = [(n, s.sector[i]) for n, s, i in present if s.valid[i] and np.isfinite(base[n])]
        same = [np.clip(base[n], -0.5, 0.5) for n, own in valid if own == sector and sector is not None]
        everyone = [np.clip(base[n], -0.5, 0.5) for n, _ in valid]
        return float(np.mean(same)) if len(same) >= 5 else float(np.mean(everyone)) if everyone else NAN

    def normalised(self, name: str, day: int) -> dict[int, float]:
        """The robust z-score of the day, clipped; a missing value is 0."""
        raw = self.raw(name, day)
        codes = list(self.stocks)
        used = []
        for n, value in raw.items():
            i = self.at(codes[n], day)
            if i is not None and self.stocks[codes[n]].valid[i] and np.isfinite(value):
                used.append(value)
        if not used:
            return dict.fromkeys(raw, 0.0)
        centre = float(np.median(used))
        scale = 1.4826 * float(np.median([abs(x - centre) for x in used]))
        if scale <= 1e-12:
            scale = float(np.std(used))
        if scale <= 1e-12:
            return dict.fromkeys(raw, 0.0)
        return {n: float(np.clip((x - centre) / scale, -5, 5)) if np.isfinite(x) else 0.0 for n, x in raw.items()}

    def target(self, code: str, day: int, horizon: int) -> float:
        stock, i = self.stocks[code], self.at(code, day)
        if i is None or i + 1 + horizon >= len(stock.c) or not stock.valid[i + 1]:
            return NAN
        return stock.c[i + 1 + horizon] / stock.c[i + 1] - 1


def rank(value: float, known: list[float]) -> float:
    if not np.isfinite(value):
        return NAN
    below, equal = sum(x < value for x in known), sum(x == value for x in known)
    return (below + (equal + 1) / 2 - 0.5) / len(known)
