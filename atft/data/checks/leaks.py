"""Detection of leaked features: columns named like a target, or that rank future returns too well."""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from jaxtyping import Bool, Float, Float32, Int
from scipy import stats

from atft.data.schema import TARGET_LIKE

RANK_IC_LIMIT = 0.2  # mean daily |RankIC| with a target; RankIC .08 on a real market is at the top of the literature
NEXT_RETURN_LIMIT = 0.35  # with the next day's return, which no target contains: bid-ask bounce alone reaches -.2
NEXT_RETURN = "next_return"
STANDARD_ERRORS = 3.0  # the mean must also be this far from 0: small panels reach ±.2 by chance
MAX_DAYS, MAX_CELLS, MIN_STOCKS = 100, 100_000_000, 5
MIN_RETURN_CORRELATION, MIN_PAIRS = 0.9, 30  # rank correlation above which a user's target counts as the return


def named_like_targets(names: Sequence[str]) -> list[str]:
    """The names that contain target, label, forward, future, next return, …"""
    return [n for n in names if TARGET_LIKE.search(n)]


def daily_rank_ic(
    features: Float32[np.ndarray, "row feature"], targets: Float32[np.ndarray, " row"]
) -> Float[np.ndarray, " feature"]:
    """Spearman correlation of each feature with the target on one day, average ranks; NaN where either is constant or
    fewer than 5 targets are known.
    """
    return np.asarray(daily_rank_ics(features, targets[:, None])[0])


def daily_rank_ics(
    features: Float32[np.ndarray, "row feature"], targets: Float32[np.ndarray, "row target"]
) -> Float[np.ndarray, "target feature"]:
    """`daily_rank_ic` with several targets; those with the same missing rows share the features' ranks."""
    known = np.isfinite(targets)
    result = np.full((targets.shape[1], features.shape[1]), np.nan)
    alike: dict[bytes, list[int]] = {}
    for k in range(targets.shape[1]):
        alike.setdefault(known[:, k].tobytes(), []).append(k)
    for same in alike.values():
        rows = known[:, same[0]]
        if rows.sum() < MIN_STOCKS:
            continue
        ranks = _centred_ranks(np.ascontiguousarray(features[rows].T))
        y = _centred_ranks(np.ascontiguousarray(targets[rows][:, same].T))
        scale = np.sqrt((y**2).sum(axis=1)[:, None] * np.einsum("fr,fr->f", ranks, ranks))
        product = np.einsum("kr,fr->kf", y, ranks)  # not BLAS, whose threads would compete with ours
        result[same] = np.divide(product, scale, out=np.full(scale.shape, np.nan), where=scale > 0)
    return result


def _centred_ranks(x: Float32[np.ndarray, "column row"]) -> Float[np.ndarray, "column row"]:
    """Average ranks of each column less their mean. Several times as fast as scipy's rankdata, which ranks the columns
    one by one: 64-bit keys are sorted that hold an order-preserving integer of the value above its row number.
    """
    width = x.shape[1]
    bits = (x + np.float32(0)).view(np.int32)  # -0 is 0
    keys = np.bitwise_xor(bits, (bits >> 31) & np.int32(0x7FFFFFFF)).astype(np.int64)
    keys <<= 32
    keys |= np.arange(width)
    keys.sort(axis=1)
    order = keys & 0xFFFFFFFF
    order += np.arange(0, x.size, width)[:, None]
    keys >>= 32
    ordered = keys.reshape(-1)
    equal_to_next = ordered[1:] == ordered[:-1]
    equal_to_next[width - 1 :: width] = False
    edges = np.flatnonzero(np.diff(equal_to_next, prepend=False, append=False))
    start, end = edges[::2], edges[1::2] + 1  # of each run of equal values
    lengths = end - start
    tied = np.repeat(end - np.cumsum(lengths), lengths) + np.arange(lengths.sum())
    rank_of_position = np.empty(x.shape)
    rank_of_position[:] = np.arange(0.5 - width / 2, width / 2)
    first = start // width * width + width / 2
    rank_of_position.reshape(-1)[tied] = np.repeat((start + end) / 2 - first, lengths)
    ranks = np.empty(x.shape)
    ranks.reshape(-1)[order.reshape(-1)] = rank_of_position.reshape(-1)
    return ranks


@dataclass(frozen=True, kw_only=True, slots=True)
class FutureReturn:
    """Future returns that no feature of the same row may predict too well. `horizon`: their length in days, by which
    those of successive days overlap.
    """

    name: str
    horizon: int
    limit: float
    values: Float32[np.ndarray, " row"]


def future_returns(
    targets: Float32[np.ndarray, "row horizon"],
    returns: Float[np.ndarray, " row"],
    code_index: Int[np.ndarray, " row"],
    horizons: Sequence[int],
) -> list[FutureReturn]:
    """The targets, and the next day's return, which with an entry lag of 1 is part of no target."""
    later = np.full(len(returns), np.nan, np.float32)
    same = code_index[1:] == code_index[:-1]
    later[:-1][same] = returns[1:][same]
    return [
        *(
            FutureReturn(name=f"target_{h}d", horizon=h, limit=RANK_IC_LIMIT, values=targets[:, k])
            for k, h in enumerate(horizons)
        ),
        FutureReturn(name=NEXT_RETURN, horizon=1, limit=NEXT_RETURN_LIMIT, values=later),
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class DaySample:
    """The ranked stocks on sampled days, `step` apart; the features of the first days, up to MAX_CELLS, are copied."""

    features: Float32[np.ndarray, "row feature"]
    step: int
    rows: list[npt.NDArray[np.int64]]  # of each day
    copied: list[npt.NDArray[np.float32]]  # [row, feature] of the first days

    def of_day(self, n: int) -> Float32[np.ndarray, "stock feature"]:
        """The features of the `n`-th sampled day."""
        return self.copied[n] if n < len(self.copied) else np.take(self.features, self.rows[n], axis=0)


def sample_days(
    features: Float32[np.ndarray, "row feature"],
    ranked: Bool[np.ndarray, " row"],
    day_offsets: Int[np.ndarray, " day1"],
    day_rows: Int[np.ndarray, " row"],
) -> DaySample:
    """A sample of about 100 days spread over the panel, 30 if they are large."""
    num_days = len(day_offsets) - 1
    per_day = max(1, len(day_rows) // max(1, num_days) * max(1, features.shape[1]))
    wanted = int(np.clip(MAX_CELLS // per_day, 30, MAX_DAYS))
    step = max(1, num_days // wanted)
    rows = [day_rows[day_offsets[day] : day_offsets[day + 1]] for day in range(0, num_days, step)]
    rows = [own[ranked[own]] for own in rows]
    cells = np.cumsum([len(own) * features.shape[1] for own in rows])
    fitting = rows[: int(np.searchsorted(cells, MAX_CELLS, side="right"))]
    with ThreadPoolExecutor(pl.thread_pool_size()) as pool:
        copied = list(pool.map(lambda own: np.take(features, own, axis=0), fitting))
    return DaySample(features=features, step=step, rows=rows, copied=copied)


def screen_rank_ics(sampled: DaySample, future: Sequence[FutureReturn], names: Sequence[str]) -> dict[str, object]:
    """The leak report by values: features whose mean daily RankIC with a future return is above its limit.

    The standard error allows for overlapping labels: std·√(h / number of days), days being `step` apart.
    """
    days, step = len(sampled.rows), sampled.step
    ic = np.full((days, len(future), len(names)), np.nan)

    def correlate_day(n: int) -> None:
        known = np.stack([returns.values[sampled.rows[n]] for returns in future], axis=1)
        ic[n] = daily_rank_ics(sampled.of_day(n), known)

    with ThreadPoolExecutor(max(1, pl.thread_pool_size() - 1)) as pool:  # a core is left to hash the panel
        deque(pool.map(correlate_day, range(days)), maxlen=0)  # re-raises a day's error
    count = np.isfinite(ic).sum(axis=0)
    mean = np.divide(np.nansum(ic, axis=0), count, out=np.full(count.shape, np.nan), where=count > 0)
    square = np.divide(
        np.nansum((ic - mean) ** 2, axis=0), count - 1, out=np.full(count.shape, np.inf), where=count > 1
    )
    overlap = np.maximum(1.0, np.array([returns.horizon for returns in future], dtype=np.float64) / step)[:, None]
    error = np.sqrt(square * overlap / np.maximum(count, 1))
    limit = np.array([returns.limit for returns in future])[:, None]
    suspected = (np.abs(mean) > limit) & (np.abs(mean) > STANDARD_ERRORS * error)
    strength = np.nan_to_num(np.abs(mean), nan=-1.0)
    worst = strength.argmax(axis=0)
    order = np.argsort(-strength.max(axis=0), kind="stable").tolist()

    def entry(k: int, j: int) -> dict[str, object]:
        return {
            "feature": names[j],
            "against": future[k].name,
            "horizon": future[k].horizon if future[k].name != NEXT_RETURN else None,
            "rank_ic": round(float(mean[k, j]), 6) if np.isfinite(mean[k, j]) else None,
        }

    target_first = np.array([[2.0 if returns.name != NEXT_RETURN else 0.0] for returns in future])
    flagged = np.where(suspected, strength + target_first, -1.0).argmax(axis=0)
    return {
        "limit": RANK_IC_LIMIT,
        "next_return_limit": NEXT_RETURN_LIMIT,
        "num_days": days,
        "suspected": [entry(int(flagged[j]), j) for j in order if suspected[:, j].any()],
        "strongest": [entry(int(worst[j]), j) for j in order[:10]],
    }


def label_lag(
    target: Float[np.ndarray, " row"],
    returns: Float[np.ndarray, " row"],
    code_index: Int[np.ndarray, " row"],
    horizon: int,
) -> int | None:
    """The entry lag of a user's target: the shift s for which it is the return close(t+s) → close(t+s+h), 1 (right), 0
    (entry at a close that the features already know) or -h (the past). None if it is none of these, or the returns are
    too few.
    """
    known = np.isfinite(returns) & (returns > -1)
    level = np.concatenate([[0.0], np.cumsum(np.log1p(np.where(known, returns, 0.0), dtype=np.float64))])
    missing = np.concatenate([[0], np.cumsum(~known)])
    by_shift: dict[int, float] = {}
    for shift in (1, 0, -horizon):
        start = np.arange(len(target)) + shift + 1  # of the first return that the label would hold
        inside = (start >= 0) & (start + horizon <= len(target))
        a, b = start[inside], start[inside] + horizon
        row = np.flatnonzero(inside)
        whole = (code_index[b - 1] == code_index[row]) & (code_index[a] == code_index[row])
        whole &= (missing[b] == missing[a]) & np.isfinite(target[row])
        x, y = np.expm1(level[b] - level[a])[whole], target[row][whole].astype(np.float64)
        if len(x) >= MIN_PAIRS and x.std() > 0 and y.std() > 0:
            order = stats.rankdata(x), stats.rankdata(y)
            by_shift[shift] = float(np.corrcoef(*order)[0, 1])
    best = max(by_shift, key=lambda shift: by_shift[shift], default=None)
    return best if best is not None and by_shift[best] > MIN_RETURN_CORRELATION else None
