"""What both checkouts are asked to compute: one planted dataset, eight training specs, one prediction, one study."""

from dataclasses import dataclass
from typing import Any, Final

Json = dict[str, Any]
DATASET: Final[Json] = {
    "name": "small",
    "horizons": [1, 5],
    "planted": {"num_codes": 24, "num_days": 240, "num_features": 5, "signal": 0.3, "mode": "full", "seed": 11},
}
SPLIT: Final[Json] = {"val_days": 20, "test_days": 20, "embargo_days": 8}
MODEL: Final[Json] = {"hidden_size": 8, "attention_heads": 2, "gat_heads": 2, "gat_layers": 1, "fan_top_k": 2}
BASE: Final[Json] = {
    "dataset": "small",
    "data": {"window": 8, "horizons": [1, 5], "min_names": 5},
    "split": SPLIT,
    "model": MODEL,
    "graph": {"correlation_window": 20, "half_life": 10, "neighbours": 3},
    "resources": {"device": "cpu", "threads": 1},
}
TRAINER: Final[Json] = {"max_epochs": 3, "batch_size": 160}
PRETRAINED: Final = "01890000-0000-7000-8000-000000000001"  # a job id that `init_from` can name; the folder is given


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `python -m atft COMMAND`; `source` names the earlier run whose folder it is given."""

    name: str
    command: str
    spec: Json
    source: str | None = None


def _train(**changes: Any) -> Json:
    """A TrainSpec: BASE without baselines, three epochs, and `changes` (a dict is merged into BASE's)."""
    body = BASE | {"trainer": TRAINER, "baselines": False}
    return body | {
        key: body.get(key, {}) | value if isinstance(value, dict) else value for key, value in changes.items()
    }


RUNS: Final = (
    Run(  # adamw, constant, huber with pearson_rank, walk_forward, all baselines
        name="adamw",
        command="run",
        spec=_train(seed=1, scheduler={"name": "constant"}, baselines=True),
    ),
    Run(  # adabelief, cosine with a warm-up, pairwise_sigmoid, walk_forward with two folds, EMA
        name="adabelief",
        command="run",
        spec=_train(
            seed=2,
            data={"target": "zscore"},
            split={"folds": 2},
            optimizer={"name": "adabelief", "lr": 1e-3},
            scheduler={"name": "cosine", "warmup_epochs": 1},
            loss={"rank": "pairwise_sigmoid", "rank_weight": 0.5},
            trainer={"ema_decay": 0.9},
        ),
    ),
    Run(  # quantiles with pinball, cosine_restarts, weighted horizons and regimes, accumulation
        name="quantiles",
        command="run",
        spec=_train(
            seed=3,
            model={"quantiles": [0.1, 0.5, 0.9]},
            scheduler={"name": "cosine_restarts", "t_0": 1, "t_mult": 2, "eta_min": 1e-5},
            loss={"base": "pinball", "horizon_weights": [1.0, 2.0], "regime": "volatility_correlation"},
            trainer={"accumulate": 2},
        ),
    ),
    Run(  # purged_kfold, one_cycle, mse, sector-neutral targets, edges by residual correlation, stochastic depth
        name="purged_kfold",
        command="run",
        spec=_train(
            seed=4,
            data={"target": "sector_neutral"},
            split={"kind": "purged_kfold", "folds": 2, "val_days": 20, "embargo_days": 8, "test_days": 250},
            model={"gat_layers": 2, "stochastic_depth": 0.2},
            graph={"neighbours_by": "residual_correlation"},
            scheduler={"name": "one_cycle"},
            loss={"base": "mse"},
            trainer={"max_epochs": 2},
        ),
    ),
    Run(  # phases with their own modules, rate and loss, cpcv, beta-neutral targets, no FAN, a stop rule
        name="phases",
        command="run",
        spec=_train(
            seed=5,
            data={"target": "beta_neutral"},
            split={"kind": "cpcv", "folds": 3, "test_folds": 2, "val_days": 15, "embargo_days": 8, "test_days": 250},
            model={"use_fan": False},
            trainer={
                "phases": [
                    {"name": "heads", "epochs": 1, "lr": 2e-3, "modules": ["heads", "graph"]},
                    {"name": "all", "epochs": 2, "loss": {"rank": "pairwise_sigmoid", "rank_weight": 1.0}},
                ],
                "early_stopping": {"patience": 1},
                "stop_rules": [{"metric": "val/rank_ic", "at_epoch": 2, "below": -0.9}],
            },
        ),
    ),
    Run(
        name="ensemble",
        command="ensemble",
        spec={"base": _train(model={"use_gat": False}, trainer={"max_epochs": 2}), "seeds": [6, 7]},
    ),
    Run(
        name="pretrain",
        command="pretrain",
        spec=BASE | {"seed": 8, "trainer": {"max_epochs": 2, "batch_size": 160}, "contrast_weight": 0.1},
    ),
    Run(
        name="init_from",
        command="run",
        spec=_train(seed=9, init_from=PRETRAINED, optimizer={"name": "adabelief"}, trainer={"max_epochs": 2}),
        source="pretrain",
    ),
    Run(
        name="predict",
        command="predict",
        spec={
            "model": PRETRAINED,
            "dataset": "small",
            "from_day": "2010-01-01",
            "to_day": "2030-12-31",
            "resources": {"device": "cpu", "threads": 1},
        },
        source="adamw",
    ),
)
STUDY: Final[Json] = {
    "base": _train(seed=10, trainer={"max_epochs": 2}),
    "space": {
        "optimizer.lr": {"kind": "float", "low": 1e-4, "high": 1e-2, "log": True},
        "optimizer.name": {"kind": "categorical", "choices": ["adamw", "adabelief"]},
        "model.gat_layers": {"kind": "int", "low": 1, "high": 2},
    },
    "sampler": {"name": "tpe", "seed": 5},
    "pruner": {"name": "none"},
    "n_trials": 4,
    "parallelism": 1,
}
