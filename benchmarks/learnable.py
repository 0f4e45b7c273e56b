"""Upper bounds on what can be learned from a planted panel's training days, by what the learner knows beforehand.

    python benchmarks/learnable.py                          # mode full, three seeds: two minutes of one core
    python benchmarks/learnable.py --mode graph_only --signal 0.3 --seeds 1

Ridge regressions on the training days of `benchmarks/ablation.py`, given more and more of the true structure: which
features carry a signal, the signed peers, the filtered regime. `taught` is the mean daily rank correlation with the
oracle's scores on the test days after fitting the ranks of the returns, with the best penalty on those same days: an
optimistic bound for a learner with the same knowledge. `form` is the same after fitting the oracle's own ranks: its
distance from 1 is what this functional form cannot express.
"""

import argparse
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np

from atft.data.panel.planted import filter_regime, generate, panel_parameters, peer_sum
from atft.metrics.rank import average_ranks
from atft.spec.data import PlantedMode, PlantedSpec, SplitSpec
from atft.spec.split_plan import plan_split

WINDOW, HORIZONS = 20, (1, 5, 10, 20)
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # times the mean eigenvalue
HALF_LIVES = (0.3, 1.0, 2.5, 6.0, 20.0)
CARRIERS = ("signal", "cycle", "shock")
SPLIT = SplitSpec(val_days=100, test_days=100)
Design = Callable[[int], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", choices=get_args(PlantedMode), default="full")
    parser.add_argument("--signal", type=float, default=0.1)
    parser.add_argument("--codes", type=int, default=300)
    parser.add_argument("--days", type=int, default=700)
    parser.add_argument("--features", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seeds):
        spec = PlantedSpec(
            num_codes=options.codes,
            num_days=options.days,
            num_features=options.features,
            signal=options.signal,
            mode=options.mode,
            seed=seed,
        )
        for name, taught, form in learned(spec):
            found.setdefault(name, []).append(np.concatenate([taught, form]))
    days = " | ".join(f"{h} d" for h in HORIZONS)
    print(f"| known beforehand | taught: {days} | form: {days} |")
    print("|---" * (1 + 2 * len(HORIZONS)) + "|")
    for name, shares in found.items():
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in np.mean(shares, axis=0)) + " |")


def learned(spec: PlantedSpec) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(design, `taught` by horizon, `form` by horizon) of each design on one panel."""
    panel = generate(spec, HORIZONS)
    parameters = panel_parameters(spec)
    log_close = np.full((spec.num_days, spec.num_codes), np.nan)
    log_close[panel.day_index, panel.code_index] = np.log(panel.close)
    features = np.zeros((spec.num_days, spec.num_codes, spec.num_features))
    features[panel.day_index, panel.code_index] = panel.features
    forward = np.full((*log_close.shape, len(HORIZONS)), np.nan)
    for k, horizon in enumerate(HORIZONS):
        forward[: -1 - horizon, :, k] = log_close[1 + horizon :] - log_close[1:-horizon]
    known = np.isfinite(forward).all(axis=2) & np.isfinite(log_close)
    oracle = panel.oracle["observed"].astype(np.float64)
    [fold] = plan_split(spec.num_days, WINDOW, max(HORIZONS), SPLIT).folds
    train, test = ([day for days in stretches for day in days] for stretches in (fold.train, fold.test))
    belief = filter_regime(panel.market["regime_hint"]) - 0.5 if parameters.regimes else None
    for name, design in designs(panel.feature_names, features, parameters.group, parameters.sign, belief):
        square, product, ideal = sums(design, train, known, forward, oracle)
        values, vectors = np.linalg.eigh(square)
        turned = vectors.T @ product
        paths = [vectors @ (turned / (values + penalty * values.mean())[:, None]) for penalty in PENALTIES]
        form = np.linalg.solve(square + 1e-4 * values.mean() * np.eye(len(square)), ideal)
        weights = np.concatenate([*paths, form], axis=1)
        shares = np.zeros((len(PENALTIES) + 1, len(HORIZONS)))
        for day in test:
            scores = standard(design(day)[known[day]] @ weights).reshape(-1, *shares.shape)
            shares += (scores * standard(oracle[day][known[day]])[:, None]).mean(axis=0) / len(test)
        yield f"{name} ({len(square)} columns)", shares[:-1].max(axis=0), shares[-1]


def designs(
    names: tuple[str, ...], features: np.ndarray, group: np.ndarray, sign: np.ndarray, belief: np.ndarray | None
) -> Iterator[tuple[str, Design]]:
    """Design matrices by prior knowledge: (name, day → [code, column])."""
    carriers = [j for j, name in enumerate(names) if name.startswith(CARRIERS)]
    age = np.arange(WINDOW)[::-1, None]
    turn = 2 * np.pi * age / WINDOW
    scales = np.concatenate([0.5 ** (age / np.array(HALF_LIVES)), np.cos(turn), np.sin(turn)], axis=1)
    scales /= np.linalg.norm(scales, axis=0)
    days = np.eye(WINDOW)

    def over(values: np.ndarray, basis: np.ndarray) -> Design:
        return lambda t: np.einsum("dcf,db->cfb", values[t - WINDOW + 1 : t + 1], basis).reshape(values.shape[1], -1)

    yield "the window, day by day", over(features, days)
    yield "and which features carry a signal", over(features[:, :, carriers], days)
    if "shock" in names:
        peers = np.stack([peer_sum(features[:, :, j], group, sign) for j in range(len(names))], axis=2)
        shock = peers[:, :, [names.index("shock")]]
        both = np.concatenate([features[:, :, carriers], shock], axis=2)
        yield "the window and that of the signed peers", over(np.concatenate([features, peers], axis=2), days)
        yield "the window and the peers' shocks", over(np.concatenate([features, shock], axis=2), days)
        yield (
            "the window and the peers' shocks, by seven time scales",
            over(np.concatenate([features, shock], axis=2), scales),
        )
        yield "carriers and the peers' shocks", over(both, days)
        if belief is not None:
            plain, regime = over(both, scales), belief
            yield (
                "the same by seven time scales, and the regime",
                lambda t: np.concatenate([plain(t), 2 * regime[t] * plain(t)], axis=1),
            )


def sums(
    design: Design, train: list[int], known: np.ndarray, forward: np.ndarray, oracle: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X'X, X'(ranks of the returns) and X'(ranks of the oracle's scores), each of within-day deviations."""
    total: list[np.ndarray] = []
    for day in train:
        x = design(day)[known[day]]
        x = x - x.mean(axis=0)
        parts = [x.T @ x, x.T @ standard(forward[day][known[day]]), x.T @ standard(oracle[day][known[day]])]
        total = [a + b for a, b in zip(total, parts, strict=True)] if total else parts
    square, product, ideal = total
    return square, product, ideal


def standard(values: np.ndarray) -> np.ndarray:
    """Each column's ranks within the day, of mean 0 and variance 1; 0 where constant."""
    day = np.zeros(len(values), np.int64)
    ranks = np.stack([average_ranks(column, day) for column in values.T], axis=1)
    ranks -= ranks.mean(axis=0)
    spread = ranks.std(axis=0)
    return ranks / np.where(spread > 0, spread, 1.0)


if __name__ == "__main__":
    main()
