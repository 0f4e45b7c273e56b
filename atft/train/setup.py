"""Builds the objects of a run from its spec: device, days, graph, network, optimizer.

Settings that are `auto` or null are resolved here, once.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from atft.data.cache.graph import DayGraph, day_graph
from atft.data.cache.labels import undefined_targets
from atft.data.cache.reader import Cache
from atft.data.cache.splits import Split, make_splits
from atft.data.cache.windows import DayReader
from atft.loss.masking import MaskedObjective
from atft.loss.objective import Objective, make_objective
from atft.model.masking import MaskedNetwork
from atft.model.network import Network
from atft.spec.base import digest, mix
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec, TrainSpec
from atft.spec.loss import LossSpec
from atft.spec.model import WITHOUT_NEIGHBOURS, ModelSpec
from atft.spec.pretrain import PretrainSpec
from atft.spec.reason import Reason
from atft.train.allocator import keep_freed_memory
from atft.train.init_from import InitialWeights
from atft.train.optimizer import make_optimizer
from atft.train.report import Reporter, RunError
from atft.train.scheduler import make_scheduler
from atft.train.seed import limit_threads, seed_everything

AnyNetwork = Network | MaskedNetwork
AnyObjective = Objective | MaskedObjective


class TimedGraph(DayGraph):
    """A day graph that measures the seconds of its edge look-ups."""

    def __init__(self, graph: DayGraph) -> None:
        vars(self).update(vars(graph))
        self._seconds = 0.0

    def edges(
        self, day: int, codes: Int[np.ndarray, " stock"]
    ) -> tuple[Int[np.ndarray, "2 edge"], Float[np.ndarray, "edge 4"]]:
        start = time.perf_counter()
        found = super().edges(day, codes)
        self._seconds += time.perf_counter() - start
        return found

    def take_seconds(self) -> float:
        seconds, self._seconds = self._seconds, 0.0
        return seconds


@dataclass(kw_only=True, slots=True)
class TrainingSetup:
    """All objects of a run: spec, data, device, and the network, objective, optimizer and scheduler of one fold.

    `fold` counts from 0 and indexes `splits`. `initial_weights` are the weights that training starts from; None: random
    ones by the seed. In an `ensemble` each member is a fold: the splits are equal, and `spec` is the member's own.
    """

    spec: RunSpec
    ensemble: EnsembleSpec | None
    cache: Cache
    device: torch.device
    autocast: torch.dtype | None  # null: float32 throughout
    splits: tuple[Split, ...]
    fold: int
    graph: TimedGraph | None
    reader: DayReader
    network: AnyNetwork
    objective: AnyObjective
    optimizer: Optimizer
    scheduler: LRScheduler
    ema: AveragedModel | None
    days_per_step: int
    initial_weights: InitialWeights | None

    @property
    def split(self) -> Split:
        return self.splits[self.fold]

    @property
    def evaluation_network(self) -> AnyNetwork:
        """The network to evaluate: the exponential moving average of the weights where there is one."""
        if self.ema is None:
            return self.network
        module = self.ema.module
        assert isinstance(module, Network | MaskedNetwork)  # noqa: S101 - AveragedModel copies what it is given
        return module

    @property
    def precision(self) -> str:
        return "bfloat16" if self.autocast is torch.bfloat16 else "float32"

    @property
    def min_days(self) -> int:
        """Smallest micro-batch that has a loss: the contrastive loss compares two successive days."""
        return self.spec.min_days_per_step

    @property
    def train_spec(self) -> TrainSpec:
        """The spec as a TrainSpec; only for code that pretraining never reaches."""
        assert isinstance(self.spec, TrainSpec)  # noqa: S101
        return self.spec

    @property
    def requested(self) -> RunSpec | EnsembleSpec:
        return self.ensemble or self.spec

    def resolved(self) -> RunSpec | EnsembleSpec:
        """The request with every auto and null replaced by what is used; data features in the order of the input.

        With several folds `train_days` stays as requested, since null means another number in each fold.
        """
        spec = self.ensemble.base if self.ensemble is not None else self.spec
        train_days = len(self.split.train) if spec.split.num_splits == 1 else spec.split.train_days
        resolved = spec.model_copy(
            update={
                "data": spec.data.model_copy(update={"features": self.reader.feature_names}),
                "split": spec.split.model_copy(update={"train_days": train_days}),
                "optimizer": spec.optimizer.model_copy(update={"eps": float(self.optimizer.param_groups[0]["eps"])}),
                "trainer": spec.trainer.model_copy(update={"precision": self.precision}),
                "resources": spec.resources.model_copy(
                    update={"device": self.device.type, "threads": torch.get_num_threads()}
                ),
            }
        )
        return resolved if self.ensemble is None else self.ensemble.model_copy(update={"base": resolved})


def choose_device(requested: str) -> torch.device:
    """The device to use; `auto` is the visible GPU, if any. Raises RunError when cuda is requested and absent."""
    if requested == "cuda" and not torch.cuda.is_available():
        raise RunError(
            Reason.INVALID_PARAMS,
            "resources.device is cuda, but this process sees no CUDA device: use auto or cpu, or another queue",
        )
    return torch.device("cuda", 0) if requested != "cpu" and torch.cuda.is_available() else torch.device("cpu")


def choose_autocast(requested: str, device: torch.device) -> torch.dtype | None:
    """bfloat16, or None for float32; `auto` is bfloat16 on a GPU that computes in it. Raises RunError when bfloat16 is
    requested of a processor without it.
    """
    if requested == "bfloat16" and device.type == "cpu" and not has_bfloat16_lstm():
        raise RunError(
            Reason.INVALID_PARAMS,
            "trainer.precision is bfloat16, but this machine's processor has no LSTM in bfloat16: use float32 or auto",
        )
    half = requested == "bfloat16" or (requested == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported())
    return torch.bfloat16 if half else None


def has_bfloat16_lstm() -> bool:
    """Whether the CPU can run an LSTM in bfloat16; oneDNN has none for processors without AVX-512."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        try:
            torch.nn.LSTM(8, 8)(torch.zeros(2, 1, 8))
        except RuntimeError:
            return False
    return True


def _warn_of_undefined_targets(cache: Cache, spec: RunSpec, folds: Sequence[Split], reporter: Reporter) -> None:
    for number, fold in enumerate(folds, start=1):
        learnable = spec.data.model_copy(update={"min_names": 1})  # a loss needs fewer stocks than a metric
        for name, days, data, effect in (
            ("training", fold.train, learnable, "nothing is learned of them"),
            ("validation", fold.val, spec.data, "they have no metric there"),
            ("test", fold.test, spec.data, "they have no metric there"),
        ):
            for horizon, why in undefined_targets(cache, data, days).items():
                of_folds = f" of fold {number}" if len(folds) > 1 else ""
                reporter.log(
                    f"on all {len(days)} {name} days{of_folds} the targets of {horizon} days are {why}: {effect}",
                    level="warning",
                )


def make_setup(
    requested: RunSpec | EnsembleSpec, cache: Cache, reporter: Reporter, source: Path | None = None
) -> TrainingSetup:
    """Build all objects of a run, for its first fold or an ensemble's first member. `source` is the folder of the run
    that `init_from` names. Raises RunError, DataError.
    """
    ensemble = requested if isinstance(requested, EnsembleSpec) else None
    spec = requested.members[0]
    limit_threads(spec.resources.threads)
    keep_freed_memory()
    device = choose_device(spec.resources.device)
    folds = make_splits(cache, spec.data, spec.split)
    splits = folds * len(requested.members)
    graph = TimedGraph(day_graph(cache, spec.graph, reporter.emit)) if spec.model.use_gat else None
    if graph is not None and not all(graph.has_edges(fold.train) for fold in folds):
        of_folds = " of a fold" if len(folds) > 1 else ""
        reporter.log(
            f"graph: no two stocks are joined on any training day{of_folds}: {WITHOUT_NEIGHBOURS}", level="warning"
        )
    reader = DayReader(cache, spec.data, graph, device)
    if spec.scored:
        _warn_of_undefined_targets(cache, spec, folds, reporter)
    autocast = choose_autocast(spec.trainer.precision, device)
    used = [part for split in splits for part in (split.train, split.val, split.test)[: 3 if spec.scored else 2]]
    days = np.unique(np.concatenate(used))
    reader.make_resident(days, allow_bfloat16=autocast is not None, on_progress=lambda _: reporter.progress("build"))
    initial_weights = None
    if isinstance(spec, TrainSpec) and (source is not None or spec.init_from is not None):
        initial_weights = InitialWeights(spec, cache, reader.feature_names, source)
    learner = _learner(spec, reader, device, reporter, initial_weights, 0)
    return TrainingSetup(
        spec=spec,
        ensemble=ensemble,
        cache=cache,
        device=device,
        autocast=autocast,
        splits=splits,
        fold=0,
        graph=graph,
        reader=reader,
        network=learner.network,
        objective=objective_of(spec, cache, splits[0].train, spec.trainer.phase_of(0)[0].loss),
        optimizer=learner.optimizer,
        scheduler=learner.scheduler,
        ema=learner.ema,
        days_per_step=reader.days_per_step(spec.trainer.batch_size),
        initial_weights=initial_weights,
    )


def network_of(spec: RunSpec, num_features: int, model: ModelSpec | None = None) -> AnyNetwork:
    """The network that `spec` trains, on the CPU; `model` replaces the spec's model settings where given."""
    model, window = model or spec.model, spec.data.window
    if isinstance(spec, PretrainSpec):
        contrast = spec.contrast_weight > 0
        return MaskedNetwork(
            num_features=num_features, window=window, model=model, mask_ratio=spec.mask_ratio, contrast=contrast
        )
    return Network(num_features=num_features, num_horizons=len(spec.data.horizons), window=window, model=model)


def objective_of(
    spec: RunSpec, cache: Cache, train: Int[np.ndarray, " train"], loss: LossSpec | None = None
) -> AnyObjective:
    """The objective of a run that trains on the day numbers `train`; a phase's `loss` replaces the spec's."""
    if isinstance(spec, PretrainSpec):
        return MaskedObjective(spec, cache)
    assert isinstance(spec, TrainSpec)  # noqa: S101 - there is no third kind of run
    return make_objective(loss or spec.loss, spec.data, cache, train)


def reset_for_fold(setup: TrainingSetup, fold: int, reporter: Reporter) -> TrainingSetup:
    """The same data with a new network, optimizer and scheduler for fold (or ensemble member) `fold`."""
    spec = setup.ensemble.members[fold] if setup.ensemble is not None else setup.spec
    train = setup.splits[fold].train
    made = _learner(spec, setup.reader, setup.device, reporter, setup.initial_weights, fold)
    return replace(
        setup,
        spec=spec,
        fold=fold,
        network=made.network,
        objective=objective_of(spec, setup.cache, train, spec.trainer.phase_of(0)[0].loss),
        optimizer=made.optimizer,
        scheduler=made.scheduler,
        ema=made.ema,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Learner:
    network: AnyNetwork
    optimizer: Optimizer
    scheduler: LRScheduler
    ema: AveragedModel | None


def _learner(
    spec: RunSpec,
    reader: DayReader,
    device: torch.device,
    reporter: Reporter,
    initial_weights: InitialWeights | None,
    fold: int,
) -> _Learner:
    seed_everything(mix(spec.seed))
    network = network_of(spec, reader.num_features)
    if initial_weights is not None:
        initial_weights.load_into(network, fold)
    network = network.to(device)
    made = make_optimizer(spec.optimizer, network.parameters())
    if made.printed:
        reporter.log(f"optimizer: {made.printed}", level="debug")
    scheduler = make_scheduler(spec.scheduler, made.optimizer, max_epochs=spec.trainer.max_epochs)
    decay = spec.trainer.ema_decay
    average = get_ema_multi_avg_fn(decay) if decay is not None else None  # type: ignore[no-untyped-call] # torch's own
    ema = AveragedModel(network, multi_avg_fn=average) if average is not None else None
    if spec.trainer.compile:
        network.compile(dynamic=True)
    return _Learner(network=network, optimizer=made.optimizer, scheduler=scheduler, ema=ema)


def checkpoint_identity(setup: TrainingSetup) -> dict[str, object]:
    """Digests that a checkpoint must match to be resumed: of the spec fields that change numbers, the data, and the
    ordered features.
    """
    base = setup.ensemble.base if setup.ensemble is not None else setup.spec
    spec = base.model_dump(mode="json", exclude={"name", "tags", "resources", "dataset"})
    spec["trainer"] = {
        key: value
        for key, value in spec["trainer"].items()
        if key not in {"checkpoint_every_seconds", "timeout_seconds"}
    }
    if setup.ensemble is not None:
        spec["seeds"] = setup.ensemble.seeds
    return {
        "spec": digest(spec),
        "fingerprint": setup.cache.fingerprint,
        "features_sha256": features_sha256(setup.reader.feature_names),
    }


def features_sha256(names: tuple[str, ...]) -> str:
    return digest(list(names))
