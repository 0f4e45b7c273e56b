"""Upper bounds (ceilings) of the RankIC on a planted panel: theory, both oracles on built targets, and a regression
that tries to beat the observed-history oracle.

Days before `WARMUP` are not scored: an oracle without history is no ceiling.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from scipy import special

from atft.data.builder.run import build
from atft.data.cache.reader import Cache
from atft.data.panel.planted import (
    LEAK_NAME,
    PERSISTENCE,
    PlantedPanel,
    filter_regime,
    generate,
    panel_parameters,
    peer_sum,
)
from atft.metrics.inference import cosine_test
from atft.metrics.rank import daily_rank_ic
from atft.spec.data import DatasetSpec, PlantedSpec

WARMUP = 60
LAGS = 60  # days of history that the regression sees
FIT_PANELS, FIT_CODES, FIT_DAYS, FIT_SEED = 8, 100, 1000, 2**30  # many panels, since each has few regime changes
FIT_STEP = 3  # every third day, since persistent signals make adjacent days redundant
INFORMATIVE = ("signal_", "cycle", "shock")
MIN_NAMES = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Theory:
    """Theoretical IC and RankIC of the true-signal oracle in mode `theory`, at one horizon."""

    ic: float
    rank_ic: float  # science.md section 7: first order in the signal
    rank_ic_exact: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over days and its standard error by the cosine estimator; None where undefined."""

    mean: float | None
    error: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """The ceilings of one panel and horizon. `true`, `observed`: mean daily RankIC of the oracles on the built targets.

    `*_truth`: mean daily rank correlation with the true score itself, free of the returns' noise, of the
    observed-history oracle and of `history_regression`; `gain`: regression minus oracle, day by day.
    """

    horizon: int
    true: Estimate
    observed: Estimate
    observed_truth: Estimate
    regression_truth: Estimate
    gain: Estimate


def theory(kappa: float, horizon: int) -> Theory:
    """IC* = √(V_m / (V_m + V_g + h)) and two forms of RankIC*; e is the noise, h unit-variance Student-t(4) plus the
    Gaussian V_g, φ its characteristic function, that of one t being K₂(x)x²/2 at x = √2|u|.

    First order: (6/√π) √V_m ∫f_e² with ∫f_e² = (1/π) ∫φ² du (Parseval). Exact, for a Gaussian score s and r = s + e:
    Spearman is 3 E[sgn(s - s') sgn(r - r″)] = (6/π) ∫₀^∞ φ(u)² exp(-V_m u²) erfi(u√V_m / 2) / u du, by Fourier's
    integral for sgn; for small V_m erfi(x) = 2x/√π gives the first order.
    """
    rho = np.array(PERSISTENCE)
    weight = 1.0 / len(rho)
    v_m = kappa**2 * float(np.sum(weight * geometric(rho, horizon) ** 2))
    later = sum(geometric(rho, horizon - j) ** 2 for j in range(1, horizon))
    v_g = kappa**2 * float(np.sum(weight * (1 - rho**2) * later))
    u = np.linspace(1e-6, 30.0, 60_001)
    x = np.sqrt(2) * u
    square = (special.kv(2, x) * x**2 / 2) ** (2 * horizon) * np.exp(-v_g * u**2)
    first = 6 / np.sqrt(np.pi) * np.sqrt(v_m) * np.trapezoid(square, u) / np.pi
    # erfi alone overflows where the product is long 0: erfi(y) = 2/√π exp(y²) dawsn(y)
    y = u * np.sqrt(v_m) / 2
    sines = 2 / np.sqrt(np.pi) * special.dawsn(y) * np.exp(y**2 - v_m * u**2) / u
    exact = 6 / np.pi * np.trapezoid(square * sines, u)
    return Theory(ic=float(np.sqrt(v_m / (v_m + v_g + horizon))), rank_ic=float(first), rank_ic_exact=float(exact))


def geometric(rho: npt.NDArray[np.float64], horizon: int) -> npt.NDArray[np.float64]:
    """c(h) = Σ_{j<h} ρ^j."""
    return np.asarray(sum(rho**j for j in range(horizon)), dtype=np.float64)


def ceilings(
    spec: PlantedSpec, horizons: Sequence[int], folder: Path, progress: Callable[[str], None]
) -> list[Ceiling]:
    """The ceilings of `spec` by horizon, on the targets of a cache built in the new folder `folder`.

    Raises ValueError for a panel that is too short, DataError as `build` does.
    """
    if spec.num_days < 2 * WARMUP + max(horizons):
        raise ValueError(
            f"{spec.num_days} days are too few: {WARMUP} pass before the first judged day, and as many more and the "
            f"longest horizon are needed: at least {2 * WARMUP + max(horizons)}"
        )
    progress("build")
    cache = _build_cache(spec, horizons, folder)
    progress("oracles")
    assert cache.oracle is not None  # noqa: S101 - planted caches have one
    on_targets = {name: _rank_ics(cache, scores) for name, scores in cache.oracle.items()}
    progress("regression on the history")
    panel = generate(spec, horizons)
    true = panel.oracle["true"]
    regression = history_regression(spec, horizons) if true.any() else np.zeros(true.shape)  # mode null: nothing to fit
    of_truth = {
        "observed": _score_correlations(panel.oracle["observed"], true),
        "regression": _score_correlations(regression, true),
    }
    return [
        Ceiling(
            horizon=horizon,
            true=_estimate(on_targets["true"][k], horizon),
            observed=_estimate(on_targets["observed"][k], horizon),
            observed_truth=_estimate(of_truth["observed"][k], horizon),
            regression_truth=_estimate(of_truth["regression"][k], horizon),
            gain=_estimate(of_truth["regression"][k] - of_truth["observed"][k], horizon),
        )
        for k, horizon in enumerate(horizons)
    ]


def history_regression(spec: PlantedSpec, horizons: Sequence[int]) -> Float[np.ndarray, "day code horizon"]:
    """Scores of the least-squares rule on the last `LAGS` days of every informative feature, fitted to the *true*
    scores of `FIT_PANELS` other panels of the same kind: what a linear learner reaches with labels free of noise.

    It knows what the oracle knows: the signed peers (their shocks are summed) and, where there are regimes, the
    filtered belief, with which each lag may change its weight. Days without a row are 0; days before `LAGS` score 0.
    """
    moments: list[npt.NDArray[np.float64]] = []  # X'X and X'y
    for n in range(FIT_PANELS):
        other = spec.model_copy(
            update={"seed": FIT_SEED + n, "num_codes": min(FIT_CODES, spec.num_codes), "num_days": FIT_DAYS}
        )
        panel = generate(other, horizons)
        true = panel.oracle["true"].astype(np.float64)
        for t, x in _design_matrices(other, panel, range(LAGS, FIT_DAYS, FIT_STEP)):
            sums = [x.T @ x, x.T @ true[t]]
            moments = [a + b for a, b in zip(moments, sums, strict=True)] if moments else sums
    square, moment = moments
    width = len(square)
    weights = np.linalg.solve(square + 1e-6 * np.trace(square) / width * np.eye(width), moment)
    scores = np.zeros((spec.num_days, spec.num_codes, len(horizons)))
    for t, x in _design_matrices(spec, generate(spec, horizons), range(LAGS, spec.num_days)):
        scores[t] = x @ weights
    return scores


def _design_matrices(
    spec: PlantedSpec, panel: PlantedPanel, days: Sequence[int]
) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
    """(day, design matrix [code, channel × lag (× 2 with regimes)]) of each of `days`."""
    parameters, channels = panel_parameters(spec), []
    for j, name in enumerate(panel.feature_names):
        if name.startswith(INFORMATIVE):
            seen = np.zeros((spec.num_days, spec.num_codes))
            seen[panel.day_index, panel.code_index] = panel.features[:, j]
            channels.append(peer_sum(seen, parameters.group, parameters.sign) if name == "shock" else seen)
    history = np.stack(channels)
    belief = filter_regime(panel.market["regime_hint"]) if parameters.regimes else None
    for t in days:
        x = history[:, t - LAGS + 1 : t + 1].transpose(2, 0, 1).reshape(spec.num_codes, -1)
        yield t, x if belief is None else np.concatenate([x, (belief[t] - 0.5) * x], axis=1)


def _build_cache(spec: PlantedSpec, horizons: Sequence[int], folder: Path) -> Cache:
    leaks = (LEAK_NAME,) if spec.mode == "leak" else ()
    dataset = DatasetSpec(name="bench", horizons=tuple(horizons), planted=spec, allow_leaks=leaks)
    build(dataset, folder, lambda _: None, lambda: False)
    return Cache.open(folder)


def _rank_ics(cache: Cache, scores: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float64]]:
    """Daily RankIC on the built targets by horizon, from day WARMUP on."""
    ranked = cache.valid & cache.in_universe & (cache.day_index >= WARMUP)
    series = []
    for k in range(len(cache.horizons)):
        at = np.flatnonzero(ranked & np.isfinite(cache.targets[:, k]))
        series.append(
            daily_rank_ic(
                scores[at, k],
                cache.targets[at, k],
                cache.day_index[at].astype(np.int64) - WARMUP,
                num_days=len(cache.days) - WARMUP,
                min_names=min(MIN_NAMES, len(cache.codes)),
            )
        )
    return series


def _score_correlations(
    scores: npt.NDArray[np.floating], true: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.float64]]:
    """Daily rank correlation of two scores [T, C, H] from day WARMUP on, by horizon."""
    scores, true = scores[WARMUP:], true[WARMUP:]
    T, C, H = true.shape
    day = np.repeat(np.arange(T), C)
    return [
        daily_rank_ic(scores[..., k].reshape(-1), true[..., k].reshape(-1), day, num_days=T, min_names=2)
        for k in range(H)
    ]


def _estimate(daily: npt.NDArray[np.float64], horizon: int) -> Estimate:
    test = cosine_test(daily, horizon)
    if test.mean is None or not test.t:
        return Estimate(mean=test.mean, error=None)
    return Estimate(mean=test.mean, error=abs(test.mean / test.t))
