from collections.abc import Callable

import numpy as np

from atft.data.cache.reader import Cache
from atft.data.cache.windows import DayReader
from atft.linear.columns import Columns, Day
from atft.linear.filter_bank import filters
from atft.linear.whitened import whitened

from .conftest import WINDOW

ReaderOf = Callable[[Cache], DayReader]


def read(reader: DayReader, first: int, last: int) -> tuple[Columns, list[Day]]:
    columns = Columns(reader, lags=True)
    return columns, list(columns.days(np.arange(first, last + 1)))


def test_columns_are_those_of_the_panel(cache: Cache, reader_of: ReaderOf) -> None:
    columns, days = read(reader_of(cache), 100, 106)
    assert [day.number for day in days] == list(range(100, 107))
    for day in days:
        model = columns.risk.model(day.number)
        assert model is not None
        rows = cache.day_rows[cache.day_offsets[day.number] : cache.day_offsets[day.number + 1]]
        rows = rows[cache.valid[rows]]
        rows = rows[rows - cache.code_offsets[cache.code_index[rows]] >= WINDOW - 1]
        bank = np.stack(
            [(cache.features[r - WINDOW + 1 : r + 1].astype(float).T @ filters(WINDOW)).ravel() for r in rows]
        )
        ranked = cache.in_universe[rows]
        np.testing.assert_allclose(day.own, bank[ranked] - bank[ranked].mean(axis=0), atol=1e-12)
        signs = model.peers.toarray()[np.ix_(cache.code_index[rows], cache.code_index[rows])]
        peers = (signs @ bank)[ranked]
        np.testing.assert_allclose(day.peers, peers - peers.mean(axis=0), atol=1e-12)
        assert day.lags is not None
        lags = np.stack([cache.features[r - WINDOW + 1 : r + 1].ravel() for r in rows[ranked]]).astype(float)
        np.testing.assert_allclose(day.lags, lags - lags.mean(axis=0), atol=1e-12)
        joint = day.joint()
        assert joint.shape == (ranked.sum(), columns.num_parts * columns.num_own)
        gated = joint[:, columns.num_own : 2 * columns.num_own]
        np.testing.assert_allclose(gated, day.gates[0] * day.own, atol=1e-15)


def test_later_rows_change_nothing_earlier(
    cache: Cache, reader_of: ReaderOf, scrambled: Callable[[int], Cache]
) -> None:
    """Columns and gates of a day hold nothing that is known later only; labels do."""
    last = 140
    before, after = (read(reader_of(one), 40, 150) for one in (cache, scrambled(last)))
    changed = 0
    for day, other in zip(before[1], after[1], strict=True):
        if day.number <= last:
            np.testing.assert_array_equal(day.joint(), other.joint())
            np.testing.assert_array_equal(day.lags, other.lags)
            np.testing.assert_array_equal(before[0].risk.volatility[day.number], after[0].risk.volatility[day.number])
        else:
            changed += int((day.joint() != other.joint()).any())
    assert changed == 150 - last


def test_gates_are_bounded_and_move(cache: Cache, reader_of: ReaderOf) -> None:
    gates = Columns(reader_of(cache), lags=False).gates
    assert gates.shape == (len(cache.days), 1 + len(cache.market_names))
    assert np.abs(gates).max() <= 1.0
    assert (gates.std(axis=0) > 0.05).all()


def test_whitened_labels_have_mean_0_and_variance_1_and_less_correlation(cache: Cache, reader_of: ReaderOf) -> None:
    columns, days = read(reader_of(cache), 60, 150)
    raw: dict[int, dict[int, float]] = {}
    white: dict[int, dict[int, float]] = {}
    for day in days:
        x, y = whitened(day, columns.risk)
        known = day.known
        assert x.shape == (known.sum(), columns.num_parts * columns.num_own)
        np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-12)
        np.testing.assert_allclose(y.std(axis=0), 1.0, atol=1e-12)
        for table, values in ((raw, day.labels[known]), (white, y)):
            scaled = (values[:, 0] - values[:, 0].mean()) / values[:, 0].std()
            table[day.number] = dict(zip(day.codes[known].tolist(), scaled, strict=True))

    def pairs(table: dict[int, dict[int, float]]) -> float:
        """Mean squared correlation of pairs of stocks."""
        codes = range(len(cache.codes))
        values = np.array([[one.get(code, np.nan) for code in codes] for one in table.values()])
        values = np.where(np.isfinite(values), values, 0.0)
        correlation = np.corrcoef(values.T)
        return float((correlation[np.triu_indices(len(correlation), 1)] ** 2).mean())

    assert pairs(white) < pairs(raw)
