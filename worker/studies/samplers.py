"""Optuna objects of a study's spec: storage, samplers, pruners, and the parameters of a trial."""

import math
import random
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from uuid import UUID

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from atft.spec.space import CategoricalDimension, Dimension, FloatDimension, Scalar
from atft.spec.study import HpoSpec
from jobs.settings import Settings

optuna.logging.set_verbosity(optuna.logging.WARNING)
_LARGEST_RANGE = 2**62
_REDRAWS = 100  # of a point that was enqueued; a small space may have no other


@contextmanager
def without_experimental_warnings() -> Iterator[None]:
    """Suppress Optuna's ExperimentalWarning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def open_storage(settings: Settings) -> BaseStorage:
    """Optuna's tables, in the schema that `python -m jobs.admin migrate` makes. Finished trials are read once."""
    storage = optuna.storages.RDBStorage(
        settings.studies_database_url,
        engine_kwargs={
            "pool_size": 2,
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": 5, "tcp_user_timeout": 15_000, "application_name": "atft studies"},
        },
        skip_table_creation=True,
    )
    return optuna.storages.get_storage(storage)


def open_study(storage: BaseStorage, job_id: UUID, spec: HpoSpec) -> optuna.Study:
    """The study of a job, named by its id (Hyperband's brackets depend on the name), made on first use."""
    return optuna.create_study(
        study_name=str(job_id),
        storage=storage,
        sampler=NonAdaptiveSampler(spec),
        pruner=pruner(spec),
        direction=spec.objective.direction,
        load_if_exists=True,
    )


def suggest_parameters(study: optuna.Study, trial: optuna.trial.Trial, spec: HpoSpec) -> dict[str, Scalar]:
    """The trial's parameters; those suggested before a crash are kept."""
    study.sampler = sampler(spec, trial.number)
    return {key: _suggest(trial, key, dimension) for key, dimension in spec.space.items()}


def _suggest(trial: optuna.trial.Trial, key: str, d: Dimension) -> Scalar:
    if isinstance(d, CategoricalDimension):
        return trial.suggest_categorical(key, d.choices)
    if isinstance(d, FloatDimension):
        return trial.suggest_float(key, d.low, _largest_value(d), log=d.log, step=d.step)
    return trial.suggest_int(key, d.low, int(_largest_value(d)), log=d.log, step=d.step)


def _largest_value(d: Dimension) -> float:
    """The largest value that the dimension's steps reach."""
    top = d.extremes()[-1]
    assert isinstance(top, int | float)  # noqa: S101 - of a dimension of numbers
    return top


def value_at(d: Dimension, u: float) -> Scalar:
    """The value at position `u` in [0, 1) of a dimension, on its linear or log scale."""
    count = d.num_levels
    if not isinstance(d, CategoricalDimension) and d.log:
        margin = 0.0 if count is None else 0.5  # every integer gets its share of the scale
        low, high = math.log(d.low - margin), math.log(d.high + margin)
        value = min(max(math.exp(low + u * (high - low)), d.low), d.high)
        return value if count is None else round(value)
    if count is not None:
        return d.level(min(int(u * count), count - 1))
    assert isinstance(d, FloatDimension)  # noqa: S101 - all others have levels
    return min(d.low + u * (d.high - d.low), d.high)


def sampler(spec: HpoSpec, number: int) -> BaseSampler:
    """The sampler of one trial. TPE is seeded from (study seed, trial number): rebuilt with one seed, it would propose
    one point again and again.
    """
    if spec.sampler.name != "tpe":
        return NonAdaptiveSampler(spec)
    seed = int(np.random.SeedSequence((spec.sampler.seed, number)).generate_state(1)[0])
    return _TpeSampler(spec, seed)


class _TpeSampler(optuna.samplers.TPESampler):
    """TPE that does not ask again for a whole point that was enqueued, where the space has others."""

    def __init__(self, spec: HpoSpec, seed: int) -> None:
        super().__init__(seed=seed, n_startup_trials=min(10, max(1, spec.n_trials // 2)))
        self._space, self._enqueued = spec.space, _whole_points(spec)
        self._redraws = np.random.default_rng(seed)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Scalar:
        value: Scalar = super().sample_independent(study, trial, param_name, param_distribution)
        for _ in range(_REDRAWS):
            if not self._used_up({**trial.params, param_name: value}):
                break
            value = value_at(self._space[param_name], float(self._redraws.random()))
        return value

    def _used_up(self, start: dict[str, Scalar]) -> bool:
        """Whether all points that begin with these parameters were enqueued."""
        others = [d.num_levels for key, d in self._space.items() if key not in start]
        enqueued = sum(start.items() <= whole.items() for whole in self._enqueued)
        return enqueued >= math.prod(count or math.inf for count in others)


def _whole_points(spec: HpoSpec) -> list[dict[str, Scalar]]:
    """The enqueued points that leave nothing to a sampler."""
    return [point for point in spec.enqueued_points if len(point) == len(spec.space)]


class NonAdaptiveSampler(BaseSampler):
    """Random, quasi-random and grid sampling: a trial's parameters depend on its number alone."""

    def __init__(self, spec: HpoSpec) -> None:
        self._point = cache(partial(non_adaptive_point, spec))  # it is asked for once a parameter

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:  # noqa: ARG002
        return {}

    def sample_relative(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,  # noqa: ARG002
        search_space: dict[str, BaseDistribution],  # noqa: ARG002
    ) -> dict[str, Scalar]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,  # noqa: ARG002
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,  # noqa: ARG002
    ) -> Scalar:
        return self._point(trial.number)[param_name]


def non_adaptive_point(spec: HpoSpec, number: int) -> dict[str, Scalar]:
    """The point of trial `number` of a random, quasi-random or grid search; one that was enqueued is drawn again."""
    if spec.sampler.name == "grid":
        return _grid_point(spec, number)
    if spec.sampler.name == "qmc":
        from scipy.stats.qmc import Sobol  # noqa: PLC0415 - half a second

        sequence = Sobol(len(spec.space), scramble=True, rng=spec.sampler.seed)
        point = _point_at(spec, sequence.fast_forward(number).random(1)[0] if number else sequence.random(1)[0])
    else:
        point = _point_at(spec, np.random.default_rng((spec.sampler.seed, number)).random(len(spec.space)))
    enqueued = _whole_points(spec)
    for again in range(_REDRAWS):
        if point not in enqueued:
            break
        point = _point_at(spec, np.random.default_rng((spec.sampler.seed, number, again)).random(len(spec.space)))
    return point


def _point_at(spec: HpoSpec, unit: Iterable[float]) -> dict[str, Scalar]:
    return {key: value_at(d, float(u)) for (key, d), u in zip(spec.space.items(), unit, strict=True)}


def _grid_point(spec: HpoSpec, number: int) -> dict[str, Scalar]:
    """Each grid point once, in an order shuffled by the seed, so that a study that ends early has covered the space.
    The enqueued points come first: a whole one is itself, one of some parameters the first of the order that has them.
    """
    size = min(spec.grid_size, _LARGEST_RANGE)
    order = random.Random(spec.sampler.seed).sample(range(size), min(spec.n_trials, size))  # noqa: S311 - no secret
    if not spec.enqueue:
        return _level_point(spec, order[number % len(order)])
    whole = {tuple(point[key] for key in spec.space) for point in _whole_points(spec)}
    rest = [point for point in (_level_point(spec, index) for index in order) if tuple(point.values()) not in whole]
    for position, enqueued in enumerate(spec.enqueued_points):
        found = enqueued
        if len(enqueued) < len(spec.space):
            having = (point for point in rest if enqueued.items() <= point.items())
            found = next(having, {**_level_point(spec, order[position]), **enqueued})
            rest = [point for point in rest if point != found]
        if position == number:
            return found
    return rest[(number - len(spec.enqueue)) % len(rest)]


def _level_point(spec: HpoSpec, index: int) -> dict[str, Scalar]:
    """Point `index` of the grid, of which the first parameter changes fastest."""
    point: dict[str, Scalar] = {}
    for key, d in spec.space.items():
        index, level = divmod(index, d.num_levels or 1)
        point[key] = d.level(level)
    return point


def pruner(spec: HpoSpec) -> BasePruner:
    """Optuna's pruner for the spec. Steps are 1-based epochs; the first `warmup_epochs` never prune."""
    epochs = spec.base.trainer.max_epochs
    if "trainer.max_epochs" in spec.space:
        epochs = int(_largest_value(spec.space["trainer.max_epochs"]))
    first = min(spec.pruner.warmup_epochs + 1, epochs)
    median = optuna.pruners.MedianPruner(spec.pruner.startup_trials, n_warmup_steps=spec.pruner.warmup_epochs + 1)
    with without_experimental_warnings():
        match spec.pruner.name:
            case "median":
                return median
            case "patient":
                return optuna.pruners.PatientPruner(median, patience=max(1, spec.pruner.warmup_epochs))
            case "hyperband":
                return optuna.pruners.HyperbandPruner(min_resource=first, max_resource=epochs)
            case "successive_halving":
                return optuna.pruners.SuccessiveHalvingPruner(min_resource=first)
            case _:
                return optuna.pruners.NopPruner()
