"""Synthetic panels with a known Bayes-optimal score, to test the model, the leak detectors and the comparison on.

Log return of stock i on day t+2, driven by what is known at the close of day t (an entry at close(t+1) earns it first):

    r[i,t+2] = β_i f + s_sector + p_peers + σ_i ν_t [ κ (Σ_k a_k(z_t) S^k[i,t] + b C[i,t] + g G[i,t]) + ε ]

S^k AR(1) signals seen through noisy features; z a two-state regime seen through the noisy market column `regime_hint`;
C a cycle of 20 days whose feature shows the value of 3 days before, a quarter period off the middle of the next 5 days,
so that one snapshot says nothing about them; G the sum of signed peers' shocks, the peers being those whose returns
share the factor p; ε Student-t(4) of variance 1; f, s, p, ν of mean 0, 0, 0, 1. Modes: `theory` has β = s = p = b = g =
0, σ = ν = 1 and one regime (in units of 1 % a day); `null` has κ = 0; `leak` adds a feature made of the future;
`graph_only` and `cycle_only` keep G or C alone. All but `theory` have halts, listings, and delistings with a terminal
-30 %.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from atft.data.schema import Days
from atft.spec.data import PlantedSpec

PLANTED_VERSION = 1
PERSISTENCE = (0.97, 0.8, 0.0)  # ρ_k of the signals
SIGNAL_NOISE, CYCLE_NOISE, SHOCK_NOISE = 1.0, 0.5, 0.5
PERIOD, CYCLE_DELAY = 20, 3
SHOCK_PERSISTENCE = 0.8
PEERS, PEER_LOADING = 5, 0.9
REGIME_STAY, HINT_NOISE = 0.98, 1.0
VOL_PERSISTENCE, VOL_SPREAD = 0.98, 0.3  # of log ν
DAILY, SIGMA_SPREAD = 0.015, 0.3  # median σ_i and the standard deviation of its log
MARKET_STD, SECTOR_STD = 0.008, 0.004
THEORY_DAILY = 0.01
DECOY_PERSISTENCE = (0.0, 0.5, 0.9, 0.97, 0.99)
LEAK_NAME = "quality_score"

Matrix = npt.NDArray[np.float64]  # [days, codes]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlantedPanel:
    """N observed rows sorted by (code, date), T days, C codes; `oracle` scores are expected log forward returns for
    every (day, code).
    """

    days: Days
    codes: tuple[str, ...]
    sectors: tuple[str, ...]  # of each code
    day_index: npt.NDArray[np.int64]  # [N]
    code_index: npt.NDArray[np.int64]  # [N]
    close: npt.NDArray[np.float64]  # [N]
    features: npt.NDArray[np.float64]  # [N, F]
    feature_names: tuple[str, ...]
    market: dict[str, npt.NDArray[np.float64]]  # [T] each
    oracle: dict[str, npt.NDArray[np.float32]]  # true, observed: [T, C, H]
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class PanelParameters:
    """The data-generating parameters of one panel of K signals and C codes."""

    kappa: float
    rho: npt.NDArray[np.float64]  # [K]
    loadings: npt.NDArray[np.float64]  # [2, K]: a_k of both regimes
    b: float
    g: float
    sigma: npt.NDArray[np.float64]  # [C]
    mean_sigma: float
    group: npt.NDArray[np.int64]  # [C]
    sign: npt.NDArray[np.float64]  # [C]
    regimes: bool
    volatile: bool


def generate(spec: PlantedSpec, horizons: Sequence[int]) -> PlantedPanel:
    """The panel of `spec`, bit for bit the same for equal specs, with both oracles for `horizons`."""
    rng = _generator(spec)
    T, C = spec.num_days, spec.num_codes
    parameters = _draw_parameters(spec, rng)
    total = T + 2  # states start two days early: index t+2 is day t, and the return of day t is driven by index t
    signals = (
        np.stack([ar1(rng, r, total, C) for r in parameters.rho]) if len(parameters.rho) else np.zeros((0, total, C))
    )
    phase = rng.uniform(0, 2 * np.pi, C)
    shocks = ar1(rng, SHOCK_PERSISTENCE, total, C)
    regime = _regimes(rng, total) if parameters.regimes else np.zeros(total, np.int64)
    log_vol = VOL_SPREAD * ar1(rng, VOL_PERSISTENCE, total, 1)[:, 0] if parameters.volatile else np.zeros(total)
    nu = np.exp(log_vol - (VOL_SPREAD**2 / 2 if parameters.volatile else 0.0))
    angle = 2 * np.pi / PERIOD * (np.arange(total)[:, None] - 2) + phase
    cycle = np.sqrt(2) * np.cos(angle)
    neighbours = peer_sum(shocks, parameters.group, parameters.sign)
    mix = (
        np.einsum("tk,ktc->tc", parameters.loadings[regime], signals) + parameters.b * cycle + parameters.g * neighbours
    )
    noise = rng.standard_t(4, (T, C)) / np.sqrt(2)
    log_returns = parameters.sigma * nu[:T, None] * (parameters.kappa * mix[:T] + noise) + _common(
        spec, parameters, rng
    )
    seen = signals[:, 2:] + SIGNAL_NOISE * rng.standard_normal((len(parameters.rho), T, C))
    seen_cycle = np.sqrt(2) * np.cos(angle[2:] - 2 * np.pi / PERIOD * CYCLE_DELAY) + CYCLE_NOISE * rng.standard_normal(
        (T, C)
    )
    seen_shock = shocks[2:] + SHOCK_NOISE * rng.standard_normal((T, C))
    hint = 2.0 * regime[2:] - 1 + HINT_NOISE * rng.standard_normal(T)
    first, last, halted = _listings(spec, rng)
    if spec.mode != "theory":
        ends = np.flatnonzero(last < T - 1)
        log_returns[last[ends], ends] += np.log(0.7)
    observed = (np.arange(T)[:, None] >= first) & (np.arange(T)[:, None] <= last) & ~halted
    true = _forward(
        horizons,
        parameters,
        signals[:, 2:],
        angle[2:],
        np.ones(1),
        neighbours[2:],
        regime[2:].astype(np.float64),
        log_vol[2:],
        parameters.sigma,
    )
    estimate = [kalman(seen[k], observed, parameters.rho[k], SIGNAL_NOISE**2) for k in range(len(parameters.rho))]
    cosine, sine = kalman_cycle(seen_cycle, observed) if parameters.b else (np.zeros((T, C)), np.zeros((T, C)))
    peers = (
        peer_sum(kalman(seen_shock, observed, SHOCK_PERSISTENCE, SHOCK_NOISE**2), parameters.group, parameters.sign)
        if parameters.g
        else np.zeros((T, C))
    )
    belief = filter_regime(hint) if parameters.regimes else np.zeros(T)
    amplitude = np.hypot(cosine, sine) / np.sqrt(2)
    seen_score = _forward(
        horizons,
        parameters,
        np.stack(estimate) if estimate else np.zeros((0, T, C)),
        np.arctan2(sine, cosine),
        amplitude,
        peers,
        belief,
        None,
        np.full(C, parameters.mean_sigma),
    )
    names, columns = _features(spec, parameters, rng, seen, seen_cycle, seen_shock, log_returns)
    code_index, day_index = np.nonzero(observed.T)
    close = np.exp(np.log(rng.uniform(10, 200, C)) + np.cumsum(log_returns, axis=0))
    num_sectors = int(np.clip(C // 10, 2, 11))
    digits = len(str(C - 1))
    return PlantedPanel(
        days=np.busday_offset(np.datetime64("2010-01-04"), np.arange(T)).astype("datetime64[D]"),
        codes=tuple(f"P{i:0{digits}d}" for i in range(C)),
        sectors=tuple(f"S{i % num_sectors:02d}" for i in range(C)),
        day_index=day_index,
        code_index=code_index,
        close=close[day_index, code_index],
        features=np.stack([c[day_index, code_index] for c in columns], axis=1),
        feature_names=names,
        market={"regime_hint": hint} if parameters.regimes else {},
        oracle={"true": true, "observed": seen_score},
        sha256=planted_sha256(spec),
    )


def planted_sha256(spec: PlantedSpec) -> str:
    """SHA-256 of the generator's version and `spec`, which determine the panel."""
    return hashlib.sha256(f"planted {PLANTED_VERSION} {spec.model_dump_json()}".encode()).hexdigest()


def panel_parameters(spec: PlantedSpec) -> PanelParameters:
    """The parameters with which `generate(spec, …)` makes its panel."""
    return _draw_parameters(spec, _generator(spec))


def _generator(spec: PlantedSpec) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence([spec.seed, PLANTED_VERSION]))


def ar1(rng: np.random.Generator, rho: float, days: int, codes: int) -> Matrix:
    """Stationary AR(1) of variance 1, [days, codes]."""
    out = rng.standard_normal((days, codes))
    for t in range(1, days):
        out[t] = rho * out[t - 1] + np.sqrt(1 - rho**2) * out[t]
    return out


def peer_sum(
    values: Float[np.ndarray, "day code"], group: npt.NDArray[np.int64], sign: npt.NDArray[np.float64]
) -> Float[np.ndarray, "day code"]:
    """G_i = Σ_{j in i's group, j ≠ i} l_i l_j u_j / √(group size - 1); 0 for a stock alone."""
    signed = values * sign
    sums = np.zeros((len(values), int(group.max()) + 1))
    np.add.at(sums.T, group, signed.T)
    others = np.bincount(group)[group] - 1
    return sign * (sums[:, group] - signed) / np.sqrt(np.maximum(others, 1))


def kalman(
    seen: Float[np.ndarray, "day code"], observed: npt.NDArray[np.bool_], rho: float, noise: float
) -> Float[np.ndarray, "day code"]:
    """E[S_t | observations up to t] of a stationary unit-variance AR(1) seen with noise variance `noise`; days not
    observed only predict.
    """
    mean, variance = np.zeros(seen.shape[1]), np.ones(seen.shape[1])
    out = np.empty(seen.shape)
    for t in range(len(seen)):
        mean, variance = rho * mean, rho**2 * variance + 1 - rho**2
        gain = np.where(observed[t], variance / (variance + noise), 0.0)
        mean = mean + gain * (seen[t] - mean)
        variance = (1 - gain) * variance
        out[t] = mean
    return out


def kalman_cycle(seen: Float[np.ndarray, "day code"], observed: npt.NDArray[np.bool_]) -> tuple[Matrix, Matrix]:
    """Best linear estimate of (√2 cos θ_t, √2 sin θ_t) from √2 cos(θ_s - delay) + noise at s ≤ t: recursive least
    squares with a unit prior.
    """
    days, codes = seen.shape
    omega = 2 * np.pi / PERIOD
    precision = np.broadcast_to(np.eye(2), (codes, 2, 2)).copy()
    cosine, sine = np.empty((days, codes)), np.empty((days, codes))
    moment = np.zeros((codes, 2))  # the state (√2 cos φ, √2 sin φ) is constant in time
    for t in range(days):
        past = omega * (t - CYCLE_DELAY)
        row = np.array([np.cos(past), -np.sin(past)])  # √2 cos(past + φ) = row · state
        weight = observed[t] / CYCLE_NOISE**2
        precision += weight[:, None, None] * np.outer(row, row)
        moment += (weight * seen[t])[:, None] * row
        state = np.linalg.solve(precision, moment[:, :, None])[:, :, 0]
        now = omega * t
        cosine[t] = np.cos(now) * state[:, 0] - np.sin(now) * state[:, 1]
        sine[t] = np.sin(now) * state[:, 0] + np.cos(now) * state[:, 1]
    return cosine, sine


def filter_regime(hint: Float[np.ndarray, " day"]) -> Float[np.ndarray, " day"]:
    """P(z_t = 1 | hints up to t), by the forward filter of the two-state chain."""
    belief = 0.5
    out = np.empty(len(hint))
    for t, value in enumerate(hint):
        prior = belief * REGIME_STAY + (1 - belief) * (1 - REGIME_STAY)
        ratio = np.exp(2 * value / HINT_NOISE**2)  # N(y; 1, s²) / N(y; -1, s²)
        belief = prior * ratio / (prior * ratio + 1 - prior)
        out[t] = belief
    return out


def _forward(
    horizons: Sequence[int],
    parameters: PanelParameters,
    signals: npt.NDArray[np.float64],
    angle: Matrix,
    amplitude: npt.NDArray[np.float64],
    peers: Matrix,
    belief: npt.NDArray[np.float64],
    log_vol: npt.NDArray[np.float64] | None,
    sigma: npt.NDArray[np.float64],
) -> npt.NDArray[np.float32]:
    """Expected log return from close(t+1) to close(t+1+h) given the state (or its estimate) at t, [T, C, H].

    `log_vol` null: ν is independent of the features and enters with its mean, 1.
    """
    T, C = angle.shape
    out = np.empty((T, C, len(horizons)), np.float32)
    total = np.zeros((T, C))
    for j in range(max(horizons)):
        later = 0.5 + (belief - 0.5) * (2 * REGIME_STAY - 1) ** j if parameters.regimes else belief
        loadings = (1 - later)[:, None] * parameters.loadings[0] + later[:, None] * parameters.loadings[1]
        step = np.einsum("tk,ktc->tc", loadings * parameters.rho**j, signals)
        if parameters.b:
            step += parameters.b * np.sqrt(2) * amplitude * np.cos(angle + 2 * np.pi / PERIOD * j)
        if parameters.g:
            step += parameters.g * SHOCK_PERSISTENCE**j * peers
        if log_vol is not None and parameters.volatile:
            fade = VOL_PERSISTENCE**j
            step *= np.exp(fade * log_vol - VOL_SPREAD**2 * fade**2 / 2)[:, None]
        total += step
        if j + 1 in horizons:
            score = np.where(np.abs(total) < 1e-9, 0.0, total)  # a full cycle sums to 0: rounding must not rank stocks
            out[:, :, list(horizons).index(j + 1)] = parameters.kappa * sigma * score
    return out


def _draw_parameters(spec: PlantedSpec, rng: np.random.Generator) -> PanelParameters:
    C, mode = spec.num_codes, spec.mode
    mixed = mode in ("full", "null", "leak")
    taken = (2 if mixed else 0) + (mode == "leak")
    num_signals = min(len(PERSISTENCE), spec.num_features - taken) if mixed or mode == "theory" else 0
    share = np.sqrt(0.6 if mixed else 1.0)
    shapes = np.array(
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]] if mode == "theory" else [[0.8, 0.5, 0.33], [0.33, -0.5, 0.8]]
    )[:, :num_signals]
    loadings = share * shapes / np.linalg.norm(shapes, axis=1, keepdims=True) if num_signals else shapes
    spread = 0.0 if mode == "theory" else SIGMA_SPREAD
    daily = THEORY_DAILY if mode == "theory" else DAILY
    b = {"cycle_only": 1.0}.get(mode, np.sqrt(0.2) if mixed else 0.0)
    g = {"graph_only": 1.0}.get(mode, np.sqrt(0.2) if mixed else 0.0)
    return PanelParameters(
        kappa=0.0 if mode == "null" else spec.signal,
        rho=np.array(PERSISTENCE[:num_signals]),
        loadings=loadings,
        b=float(b),
        g=float(g),
        sigma=daily * np.exp(spread * rng.standard_normal(C)),
        mean_sigma=float(daily * np.exp(spread**2 / 2)),
        group=rng.permutation(C) // PEERS,
        sign=rng.choice([-1.0, 1.0], C),
        regimes=mixed,
        volatile=mode != "theory",
    )


def _common(spec: PlantedSpec, parameters: PanelParameters, rng: np.random.Generator) -> Matrix:
    """Market, sector and peer-group parts of the log returns, [T, C]; 0 in mode `theory`."""
    T, C = spec.num_days, spec.num_codes
    if spec.mode == "theory":
        return np.zeros((T, C))
    beta = np.clip(1 + 0.3 * rng.standard_normal(C), 0.2, 2.0)
    num_sectors = int(np.clip(C // 10, 2, 11))
    market = beta * MARKET_STD * rng.standard_normal((T, 1))
    sector = SECTOR_STD * rng.standard_normal((T, num_sectors))[:, np.arange(C) % num_sectors]
    peers = (
        PEER_LOADING
        * parameters.sigma
        * parameters.sign
        * rng.standard_normal((T, int(parameters.group.max()) + 1))[:, parameters.group]
    )
    return np.asarray(market + sector + (peers if parameters.g else 0.0), dtype=np.float64)


def _regimes(rng: np.random.Generator, days: int) -> npt.NDArray[np.int64]:
    switches = rng.random(days) > REGIME_STAY
    return np.asarray((np.cumsum(switches) + rng.integers(2)) % 2, dtype=np.int64)


def _listings(
    spec: PlantedSpec, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """First and last listed day of each code, and which days are halted (never the first or last)."""
    T, C = spec.num_days, spec.num_codes
    first, last, halted = np.zeros(C, np.int64), np.full(C, T - 1), np.zeros((T, C), np.bool_)
    if spec.mode == "theory":
        return first, last, halted
    late, gone = rng.random(C) < 0.1, rng.random(C) < 0.05
    first = np.where(late, rng.integers(1, T // 2, C), 0)
    last = np.where(gone, rng.integers(T // 2 + 1, T - 1, C), T - 1)
    begins = rng.random((T, C)) < 0.0015
    halted = begins.copy()
    halted[1:] |= begins[:-1]
    halted[first, np.arange(C)] = halted[last, np.arange(C)] = False
    return first, last, halted


def _features(
    spec: PlantedSpec,
    parameters: PanelParameters,
    rng: np.random.Generator,
    seen: npt.NDArray[np.float64],
    seen_cycle: Matrix,
    seen_shock: Matrix,
    log_returns: Matrix,
) -> tuple[tuple[str, ...], list[Matrix]]:
    columns = {f"signal_{k + 1}": seen[k] for k in range(len(parameters.rho))}
    if parameters.b:
        columns["cycle"] = seen_cycle
    if parameters.g:
        columns["shock"] = seen_shock
    if spec.mode == "leak":
        columns[LEAK_NAME] = _leak(log_returns, rng)
    for n in range(spec.num_features - len(columns)):
        columns[f"decoy_{n + 1:02d}"] = ar1(
            rng, DECOY_PERSISTENCE[n % len(DECOY_PERSISTENCE)], spec.num_days, spec.num_codes
        )
    return tuple(columns), list(columns.values())


def _leak(log_returns: Matrix, rng: np.random.Generator) -> Matrix:
    """The return of the next five entry-lagged days plus noise of the same variance; only noise on the last days, which
    have no future.
    """
    T = len(log_returns)
    path = np.concatenate([np.zeros((1, log_returns.shape[1])), np.cumsum(log_returns, axis=0)])
    future = np.zeros_like(log_returns)
    future[: T - 6] = path[7:] - path[2 : T - 4]
    return np.asarray(future / future.std() + rng.standard_normal(future.shape), dtype=np.float64)
