"""A finished run, read from its output folder: spec, data and best weights."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pydantic

from atft.checksums import sha256_of
from atft.model.network import Network
from atft.spec.base import digest
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import TrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.report import RunError

_REQUESTED: Final = pydantic.TypeAdapter[TrainSpec | EnsembleSpec](TrainSpec | EnsembleSpec)


@dataclass(frozen=True, kw_only=True, slots=True)
class SavedRun:
    """One fold of a finished run, or an ensemble. `fold` counts from 0; `features` are in the order of the weights.

    `weights` are the file of the fold, or those of the members; `sha256` is theirs, joined by ", ". `last_day` is the
    fold's last training or validation day, `micro_batch_days` the micro-batch size of its evaluation.
    """

    spec: TrainSpec
    spec_digest: str
    fold: int
    weights: tuple[Path, ...]
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
        requested = _REQUESTED.validate_python(config["requested"])
        spec = requested.run
        number = resolve_fold(fold, spec.split.num_splits)
        if isinstance(requested, EnsembleSpec):
            weights = tuple(folder / name for name in checkpoint.member_names(requested))
        else:
            weights = (folder / checkpoint.best_name(number, spec.split.num_splits),)
        gone = ", ".join(path.name for path in weights if not path.is_file())
        if gone:
            raise RunError(Reason.INVALID_PARAMS, f"the weights {gone} are gone: train the model again")
        return cls(
            spec=spec,
            spec_digest=digest(config["requested"]),  # as stored: a newer TrainSpec may have more fields
            fold=number,
            weights=weights,
            sha256=", ".join(sha256_of(path) for path in weights),
            features=tuple(config["features"]),
            fingerprint=config["fingerprint"],
            last_day=np.datetime64(_last_day(seen["data"], number)),
            micro_batch_days=int(seen["micro_batch_days"]),
        )

    @property
    def weights_name(self) -> str:
        """The names of the files, joined by ", "."""
        return ", ".join(path.name for path in self.weights)

    def networks(self) -> list[Network]:
        """A network of each file, on the CPU, in evaluation mode. Raises RunError when the weights do not fit."""
        return [self._network(weights) for weights in self.weights]

    def _network(self, weights: Path) -> Network:
        network = Network(
            num_features=len(self.features),
            num_horizons=len(self.spec.data.horizons),
            window=self.spec.data.window,
            model=self.spec.model,
        )
        try:
            network.load_state_dict(checkpoint.load_weights(weights))
        except RuntimeError as error:
            raise RunError(Reason.DATA_CHANGED, f"{weights.name} is not of this model: {error}") from error
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
