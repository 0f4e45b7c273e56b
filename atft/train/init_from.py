"""Initial weights from an earlier run (`init_from`), checked before they are loaded.

The earlier run's folder has its spec in `config.json` and its weights in `best.safetensors`, or a file for each fold or
member. `lineage` in the new run's own `config.json` lists the source and the runs that the source started from.
"""

import json
from pathlib import Path
from typing import Any, Final

import pydantic
import safetensors.torch
from pydantic_core import PydanticCustomError
from torch import nn

from atft.checksums import sha256_of
from atft.data.cache.reader import Cache
from atft.spec.ensemble import EnsembleSpec
from atft.spec.init_from import check_encoder_shape, check_member, check_no_lookahead, same_heads, source_fold
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.report import RunError

HEADS = "heads."
_Requested = TrainSpec | PretrainSpec | EnsembleSpec
_REQUESTED: Final = pydantic.TypeAdapter[_Requested](_Requested)
CONFIG = "config.json"


class InitialWeights:
    """Weights of the run in `folder` for a training. Raises RunError (invalid_params, data_changed)."""

    def __init__(self, spec: TrainSpec, cache: Cache, features: tuple[str, ...], folder: Path | None) -> None:
        if folder is None or spec.init_from is None:
            message = "init_from names a job and no folder of it" if folder is None else "a source was given to a spec"
            raise RunError(Reason.INVALID_PARAMS, f"{message}: give --init-from DIR with a spec that has init_from")
        self.spec, self.folder = spec, folder
        try:
            self._config: dict[str, Any] = json.loads((folder / CONFIG).read_bytes())
            requested = parse_requested(self._config["requested"])
            ancestors = [parse_requested(one["requested"]).run for one in self._config.get("lineage", [])]
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
        self.source: RunSpec = requested.run
        try:
            check_member(spec, requested)
            check_encoder_shape(spec, self.source)
            check_no_lookahead(spec, len(cache.days), [self.source, *ancestors])
        except PydanticCustomError as error:
            raise RunError(Reason.INVALID_PARAMS, error.message()) from error
        if isinstance(requested, EnsembleSpec) and spec.source_member is not None:
            names = [checkpoint.member_names(requested)[spec.source_member - 1]]
        else:
            folds = self.source.split.num_splits
            names = [checkpoint.best_name(number, folds) for number in range(folds)]
        self._paths = [folder / name for name in names]
        self._loaded: list[str] = []
        self._not_loaded: list[str] = []

    @property
    def lineage(self) -> list[dict[str, object]]:
        """The source first, then the runs that it started from."""
        own = {"job_id": self.spec.source_job, "requested": self._config["requested"]}
        return [own, *self._config.get("lineage", [])]

    def load_into(self, network: nn.Module, fold: int) -> None:
        """Load the source's weights into `network`, for the fold numbered from 0: the encoder, and the heads where both
        runs have the same outputs.
        """
        try:
            weights = checkpoint.load_weights(self._paths[source_fold(self.source, fold)])
        except (OSError, safetensors.SafetensorError) as error:
            raise RunError(
                Reason.DATA_CHANGED, f"the weights of job {self.spec.init_from} cannot be read any more: {error}"
            ) from error
        own = network.state_dict()
        heads = same_heads(self.spec, self.source)
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
        """The files with their SHA-256, the tensors loaded from them, and those initialised at random."""
        return {
            "job_id": self.spec.source_job,
            "task": self.source.task if isinstance(self.source, PretrainSpec) else "train",
            "files": {path.name: sha256_of(path) for path in self._paths},
            "loaded": self._loaded,
            "left": self._not_loaded,
        }


def parse_requested(body: dict[str, Any]) -> _Requested:
    """The spec of a stored request: only one of the closed classes has all of its fields. Raises
    pydantic.ValidationError.
    """
    return _REQUESTED.validate_python(body)
