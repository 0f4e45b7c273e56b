"""A finished run, read from its output folder: spec, data and best weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from atft.checksums import sha256_of
from atft.model.network import Network
from atft.spec.base import digest
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.report import RunError


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedRun:
    """One fold of a finished run. `fold` counts from 0; `features` are in the order of the weights.

    `last_day` is the fold's last training or validation day, `micro_batch_days` the micro-batch size of its evaluation.
    """

    spec: TrainSpec
    spec_digest: str
    fold: int
    weights: Path
    sha256: str
    features: tuple[str, ...]
    fingerprint: str
    last_day: np.datetime64
    micro_batch_days: int

    @classmethod
    def read(cls, folder: Path, fold: int | None) -> "SavedRun":
        """Read fold `fold` (from 1). Raises RunError when `folder` holds no finished run or lacks the fold."""
        try:
            config = json.loads((folder / "config.json").read_bytes())
            seen = json.loads((folder / "evidence.json").read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(
                Reason.INVALID_PARAMS, f"{folder.name} holds no finished run: {type(error).__name__}"
            ) from error
        spec = TrainSpec.model_validate(config["requested"])
        number = resolve_fold(fold, spec.split.num_splits)
        weights = folder / checkpoint.best_name(number, spec.split.num_splits)
        if not weights.is_file():
            raise RunError(Reason.INVALID_PARAMS, f"the weights {weights.name} are gone: train the model again")
        return cls(
            spec=spec,
            spec_digest=digest(config["requested"]),  # as stored: a newer TrainSpec may have more fields
            fold=number,
            weights=weights,
            sha256=sha256_of(weights),
            features=tuple(config["features"]),
            fingerprint=config["fingerprint"],
            last_day=np.datetime64(_last_day(seen["data"], number)),
            micro_batch_days=int(seen["micro_batch_days"]),
        )

    def network(self) -> Network:
        """The network with its weights, on the CPU, in evaluation mode. Raises RunError when the weights do not fit."""
        network = Network(
            num_features=len(self.features),
            num_horizons=len(self.spec.data.horizons),
            window=self.spec.data.window,
            model=self.spec.model,
        )
        try:
            network.load_state_dict(checkpoint.load_weights(self.weights))
        except RuntimeError as error:
            raise RunError(Reason.DATA_CHANGED, f"{self.weights.name} is not of this model: {error}") from error
        return network.eval()


def resolve_fold(fold: int | None, folds: int) -> int:
    """The fold's number from 0. Raises RunError when there are several folds and none is named."""
    if fold is None and folds > 1:
        raise RunError(Reason.INVALID_PARAMS, f"the model has {folds} folds, each with its own weights: give fold")
    if fold is not None and fold > folds:
        raise RunError(Reason.INVALID_PARAMS, f"fold {fold} of a model that has {folds}")
    return 0 if fold is None else fold - 1


def _last_day(data: dict[str, Any], fold: int) -> str:
    if "folds" in data:
        return max(str(part["last"]) for role in ("train", "val") for part in data["folds"][fold][role])
    return max(str(day) for role in ("train_days", "val_days") for day in data[role])
