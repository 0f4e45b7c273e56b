"""The weights that a run begins with instead of random ones: those of an earlier run, looked at before they are taken.

An earlier run's folder says all of itself: `config.json` what it was, `best.safetensors` what it learned. `lineage` in
the new run's own `config.json` goes on with the source and the runs that it began with itself.
"""

import json
from pathlib import Path
from typing import Any

import pydantic
import safetensors.torch
from pydantic_core import PydanticCustomError
from torch import nn

from atft.data.cache.reader import Cache
from atft.data.files import sha256_of
from atft.spec.init_from import check_encoder_shape, check_no_lookahead, keeps_heads, source_fold
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.report import RunError

HEADS = "heads."
CONFIG = "config.json"


class InitialWeights:
    """From the run in `folder` to a training. Raises RunError (invalid_params, data_changed) where they do not fit."""

    def __init__(self, spec: TrainSpec, cache: Cache, features: tuple[str, ...], folder: Path | None) -> None:
        if folder is None or spec.init_from is None:
            message = "init_from names a job and no folder of it" if folder is None else "a source was given to a spec"
            raise RunError(Reason.INVALID_PARAMS, f"{message}: give --init-from DIR with a spec that has init_from")
        self.spec, self.folder = spec, folder
        try:
            self._config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
            self.source = parse_run_spec(self._config["requested"])
            ancestors = [parse_run_spec(one["requested"]) for one in self._config.get("lineage", [])]
        except (OSError, ValueError, KeyError, pydantic.ValidationError) as error:
            raise RunError(
                Reason.DATA_CHANGED, f"the files of job {spec.init_from} cannot be read any more: {error}"
            ) from error
        if self._config["fingerprint"] != cache.fingerprint:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"job {spec.init_from} learned from data {self._config['fingerprint']}, and these are "
                f"{cache.fingerprint}: begin with a job on the same version of the dataset",
            )
        if tuple(self._config["features"]) != features:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"job {spec.init_from} learned from other features, or in another order: give the same data.features",
            )
        try:
            check_encoder_shape(spec, self.source)
            check_no_lookahead(spec, len(cache.days), [self.source, *ancestors])
        except PydanticCustomError as error:
            raise RunError(Reason.INVALID_PARAMS, error.message()) from error
        folds = self.source.split.num_splits
        self._paths = [folder / checkpoint.best_name(number, folds) for number in range(folds)]
        self._loaded: list[str] = []
        self._not_loaded: list[str] = []

    @property
    def lineage(self) -> list[dict[str, object]]:
        """The source first, then what it began with."""
        own = {"job_id": self.spec.init_from, "requested": self._config["requested"]}
        return [own, *self._config.get("lineage", [])]

    def load_into(self, network: nn.Module, fold: int) -> None:
        """Put the source's weights into `network`, for the fold numbered from 0: the encoder, and the heads where they
        score the same.
        """
        try:
            weights = checkpoint.load_weights(self._paths[source_fold(self.source, fold)])
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                Reason.DATA_CHANGED, f"the weights of job {self.spec.init_from} cannot be read any more: {error}"
            ) from error
        own = network.state_dict()
        heads = keeps_heads(self.spec, self.source)
        expected = {name for name in own if heads or not name.startswith(HEADS)}
        taken = {name: tensor for name, tensor in weights.items() if heads or not name.startswith(HEADS)}
        mismatched = sorted(expected ^ taken.keys()) or sorted(n for n in expected if own[n].shape != taken[n].shape)
        if mismatched:
            raise RunError(
                Reason.INVALID_PARAMS,
                f"the weights of job {self.spec.init_from} are not those of this model: "
                f"{', '.join(mismatched[:5])} differ",
            )
        network.load_state_dict(own | taken)
        self._loaded, self._not_loaded = sorted(taken), sorted(own.keys() - taken.keys())

    def evidence(self) -> dict[str, object]:
        """The files with their SHA-256, which tensors came from them, and which were left to the seed."""
        return {
            "job_id": self.spec.init_from,
            "task": self.source.task if isinstance(self.source, PretrainSpec) else "train",
            "files": {path.name: sha256_of(path) for path in self._paths},
            "loaded": self._loaded,
            "left": self._not_loaded,
        }


def parse_run_spec(body: dict[str, Any]) -> RunSpec:
    """Raises pydantic.ValidationError."""
    return (PretrainSpec if "task" in body else TrainSpec).model_validate(body)
