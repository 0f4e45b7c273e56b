from collections.abc import Callable

import numpy as np
import pytest

from atft.data.cache.reader import Cache
from atft.linear import risk
from atft.linear.risk import MAX_PEERS, REFRESH_DAYS, TrailingRisk


def covariance(model: risk.RiskModel, codes: np.ndarray) -> np.ndarray:
    if isinstance(model.covariance, risk.Correlated):
        return model.covariance.covariance[np.ix_(codes, codes)]
    loadings = model.covariance.loadings[codes]
    return loadings @ loadings.T + np.diag(model.covariance.idiosyncratic[codes])


@pytest.mark.parametrize("dense", [True, False])
def test_whitened_values_have_the_identity_as_covariance(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, *, dense: bool
) -> None:
    monkeypatch.setattr(risk, "MAX_DENSE_CODES", 1000 if dense else 10)
    model = TrailingRisk(cache).model(150)
    assert model is not None
    codes = np.array([3, 1, 30, 17, 9])
    whitener = model.covariance.whitener(codes)
    matrix = whitener(np.eye(5))
    np.testing.assert_allclose(matrix @ covariance(model, codes) @ matrix.T, np.eye(5), atol=1e-9)
    values = np.random.default_rng(0).normal(size=(5, 3))
    np.testing.assert_allclose(whitener(values), matrix @ values, atol=1e-12)


def test_later_returns_change_nothing_earlier(cache: Cache, scrambled: Callable[[int], Cache]) -> None:
    day = 6 * REFRESH_DAYS + 7
    before, after = TrailingRisk(cache), TrailingRisk(scrambled(day))
    np.testing.assert_array_equal(before.volatility[: day + 1], after.volatility[: day + 1])
    assert (before.volatility[day + 2 :] != after.volatility[day + 2 :]).any()
    codes = np.arange(len(cache.codes))
    for model, other in ((before.model(d), after.model(d)) for d in (REFRESH_DAYS, 60, day)):
        if model is None:
            assert other is None
            continue
        assert other is not None
        np.testing.assert_array_equal(model.peers.toarray(), other.peers.toarray())
        np.testing.assert_array_equal(covariance(model, codes), covariance(other, codes))
    last, other = before.model(199), after.model(199)
    assert last is not None
    assert other is not None
    assert (covariance(last, codes) != covariance(other, codes)).any()


def test_there_is_no_model_before_the_thirtieth_day(cache: Cache) -> None:
    found = TrailingRisk(cache)
    assert found.model(REFRESH_DAYS) is None
    assert found.model(2 * REFRESH_DAYS) is not None


def test_peers_are_those_of_the_planted_groups(cache: Cache) -> None:
    """Stocks of one group share a return; of two that do not, hardly any pair passes the limit."""
    model = TrailingRisk(cache).model(199)
    assert model is not None
    peers = model.peers.toarray()
    assert (np.abs(peers) <= 1).all()
    assert (np.diag(peers) == 0).all()
    counts = np.abs(peers).sum(axis=1)
    assert counts.max() <= MAX_PEERS
    assert counts.mean() > 1


def test_a_stock_has_only_its_strongest_peers() -> None:
    rng = np.random.default_rng(0)
    correlation = rng.uniform(0.3, 1.0, (60, 60)) * rng.choice([-1.0, 1.0], (60, 60))
    np.fill_diagonal(correlation, 0.0)
    peers = risk._strongest(correlation).toarray()
    for row, signs in zip(correlation, peers, strict=True):
        kept = np.flatnonzero(signs)
        assert len(kept) == MAX_PEERS
        assert np.abs(row[kept]).min() >= np.delete(np.abs(row), kept).max()
        np.testing.assert_array_equal(signs[kept], np.sign(row[kept]))
