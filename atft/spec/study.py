"""Spec of a study (search space, sampler, pruner), and the TrainSpec that a trial's parameters give."""

import math
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, ValidationInfo, model_validator

from atft.spec.base import STORED, Spec, is_stored, refuse
from atft.spec.job import TrainSpec
from atft.spec.loss import TERMS
from atft.spec.metric import LEADING, STUDY_PATTERN, VAL_LOSS, lower_is_better
from atft.spec.space import CategoricalDimension, Dimension, FloatDimension, IntDimension, Scalar
from atft.spec.training import StopRule

DEFAULT_SPACE: dict[str, Dimension] = {
    "optimizer.lr": FloatDimension(low=1e-5, high=1e-3, log=True),
    "trainer.batch_size": CategoricalDimension(choices=(2048, 4096, 8192)),
    "model.hidden_size": CategoricalDimension(choices=(256, 384, 512)),
    "model.gat_dropout": FloatDimension(low=0.1, high=0.4),
    "model.gat_layers": IntDimension(low=2, high=4),
}


class SearchObjective(Spec):
    metric: str = Field(LEADING, pattern=STUDY_PATTERN)
    direction: Literal["maximize", "minimize"] = "maximize"


class SamplerSpec(Spec):
    name: Literal["tpe", "random", "grid", "qmc"] = "tpe"
    seed: int = Field(0, ge=0, le=2**31 - 1)


class PrunerSpec(Spec):
    """Pruner of trials, in epochs: a trial is never pruned before `warmup_epochs`."""

    name: Literal["none", "median", "hyperband", "successive_halving", "wilcoxon", "patient"] = "median"
    startup_trials: int = Field(5, ge=0)
    warmup_epochs: int = Field(2, ge=0)

    @model_validator(mode="after")
    def _folds(self) -> Self:
        if self.name == "wilcoxon":
            refuse("/name", "the wilcoxon pruner compares folds, which are not available yet; use median")
        return self


class HpoSpec(Spec):
    """A study: up to `n_trials` trainings, each `base` with parameters drawn from `space`; it ends early at `goal`."""

    base: TrainSpec
    space: dict[str, Dimension] = Field(DEFAULT_SPACE, min_length=1, max_length=50)
    objective: SearchObjective = SearchObjective()
    sampler: SamplerSpec = SamplerSpec()
    pruner: PrunerSpec = PrunerSpec()
    n_trials: int = Field(20, ge=1, le=10_000)
    parallelism: int = Field(1, ge=1, le=256)
    timeout_seconds: float | None = Field(None, gt=0.0)
    max_failed_trials: int = Field(5, ge=0)
    goal: float | None = None
    enqueue: tuple[dict[str, Scalar], ...] = Field((), max_length=1000)
    stop_rules: tuple[StopRule, ...] = Field((), max_length=20)

    @model_validator(mode="after")
    def _objective_is_selected_on(self) -> Self:
        """A trial's value is that of its best epoch, so the metric must be one that can select the best epoch."""
        metric, direction = self.objective.metric, self.objective.direction
        fits = "minimize" if lower_is_better(metric) else "maximize"
        if direction != fits:
            refuse("/objective/direction", f"{metric} is to {fits}: each trial keeps its best epoch that way")
        try:
            self.trial_spec({})
        except ValidationError as wrong:
            refuse("/objective/metric", f"{metric} cannot be a trial's objective: {wrong.errors()[0]['msg']}")
        return self

    @model_validator(mode="after")
    def _space_is_valid(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        for key, dimension in self.space.items():
            pointer = f"/space/{key}"
            measured = self.objective.metric == VAL_LOSS and key.startswith(("loss.", "data.target"))
            if measured or key in UNSEARCHABLE or key.split(".")[0] in UNSEARCHABLE:
                refuse(pointer, f"{key} cannot be searched: it would change what the trials are compared on")
            if key in RUNTIME_FIELDS:
                refuse(pointer, f"{key} cannot be searched: it changes nothing that a trial learns")
            for value in _tried(dimension):
                try:
                    with_value(self.base, key, value)
                except KeyError as missing:
                    refuse(pointer, f"{key} names no field of a training job: {missing.args[0]}")
                except ValidationError as wrong:
                    problem = wrong.errors()[0]
                    if any(other != key for other in self.space) and not _own_field(problem, key):
                        continue  # another dimension may make it valid: the preflight of both extremes decides
                    refuse(pointer, f"{key} = {value!r} is not a valid value: {problem['msg']}")
            digests = [trial_digest(self.base, key, value) for value in _probe(dimension)]
            if len(set(digests)) == 1 and len(digests) > 1:
                refuse(pointer, f"{key}: every value of this dimension resolves to the same training job")
            if len(set(digests)) < len(digests):
                refuse(pointer, f"{key}: two of the values resolve to the same training job: list it once")
            if len(_probe(dimension)) == 1:
                refuse(pointer, f"{key} has a single value: put it into base instead")
            inert = no_effect_reason(self.base, self.space, key)
            if inert is not None:
                refuse(pointer, f"{key} has no effect: {inert}")
        return self

    @model_validator(mode="after")
    def _grid_is_finite(self) -> Self:
        if self.sampler.name == "grid" and any(
            isinstance(d, FloatDimension) and d.step is None for d in self.space.values()
        ):
            refuse("/sampler/name", "the grid sampler needs a step for every float dimension")
        return self

    @model_validator(mode="after")
    def _enqueued_points_are_in_the_space(self, info: ValidationInfo) -> Self:
        if is_stored(info):
            return self
        if len(self.enqueue) > self.n_trials:
            refuse("/enqueue", f"{len(self.enqueue)} points are enqueued for n_trials = {self.n_trials}")
        for number, point in enumerate(self.enqueue):
            unknown = sorted(set(point) - set(self.space))
            if unknown:
                refuse(f"/enqueue/{number}", f"{unknown} are not in the space")
            for key, value in point.items():
                try:
                    self.space[key].canonical(value)
                except ValueError as outside:
                    refuse(f"/enqueue/{number}/{key}", f"{key} is outside the space: {outside}")
        points = self.enqueued_points
        for number, whole in enumerate(points):
            if len(whole) == len(self.space) and whole in points[:number]:
                refuse(f"/enqueue/{number}", f"this point is enqueued before, as number {points.index(whole)}")
        return self

    @classmethod
    def from_stored(cls, body: Mapping[str, object]) -> Self:
        """The spec of a study that was accepted, maybe by an earlier version with fewer rules for the space: it is to
        end as it began. Raises ValidationError.
        """
        return cls.model_validate(body, context=STORED)

    @property
    def enqueued_points(self) -> list[dict[str, Scalar]]:
        """The enqueued points with the values as their dimensions have them."""
        return [{key: _canonical(self.space[key], value) for key, value in point.items()} for point in self.enqueue]

    @property
    def grid_size(self) -> int:
        """Points of the grid; a continuous dimension counts as 1."""
        return math.prod(dimension.num_levels or 1 for dimension in self.space.values())

    @property
    def num_trials(self) -> int:
        """`n_trials`; for the grid sampler at most the points of the grid, which include all enqueued ones."""
        return min(self.n_trials, self.grid_size) if self.sampler.name == "grid" else self.n_trials

    def extreme(self, end: Literal["low", "high"]) -> dict[str, Scalar]:
        """The lowest or the highest value of every dimension."""
        return {key: d.extremes()[0 if end == "low" else -1] for key, d in self.space.items()}

    def trial_spec(self, params: Mapping[str, Scalar]) -> TrainSpec:
        """The training job of one trial: `base` with `params`, the study's stop rules and objective, without baselines.

        Raises ValidationError.
        """
        return TrainSpec.model_validate(self.trial_body(params))

    def trial_body(self, params: Mapping[str, Scalar]) -> dict[str, Any]:
        """JSON of `trial_spec(params)`, not validated."""
        body = with_params(self.base, params)
        body["trainer"]["objective"] = self.objective.metric
        body["trainer"]["stop_rules"] += [rule.model_dump(mode="json") for rule in self.stop_rules]
        body["baselines"] = False
        return body


class PreflightSpec(Spec):
    """The first steps of trainings that are not run: `base` at each point of a space, by name."""

    base: TrainSpec
    points: dict[Literal["low", "high"], dict[str, Scalar]]


UNSEARCHABLE = frozenset(
    {
        "dataset", "name", "tags", "seed", "split", "resources", "baselines", "evaluation", "init_from",
        "data.min_names", "trainer.objective",
    }
)  # fmt: skip
RUNTIME_FIELDS = frozenset({"trainer.checkpoint_every_seconds", "trainer.timeout_seconds"})


def apply(base: TrainSpec, params: Mapping[str, object]) -> TrainSpec:
    """`base` with the fields of `params` (dotted names) replaced. Raises KeyError (unknown field), ValidationError."""
    return TrainSpec.model_validate(with_params(base, params))


def with_params(base: TrainSpec, params: Mapping[str, object]) -> dict[str, Any]:
    """JSON of `base` with the fields of `params` (dotted names) replaced, not validated. Raises KeyError."""
    body: dict[str, Any] = base.model_dump(mode="json")
    for key, value in params.items():
        *folders, leaf = key.split(".")
        inner: Any = body
        for folder in folders:
            if not isinstance(inner, dict) or folder not in inner:
                raise KeyError(f"there is no {folder!r} in it")
            inner = inner[folder]
        if not isinstance(inner, dict) or leaf not in inner:
            raise KeyError(f"there is no {leaf!r} in it")
        inner[leaf] = value
    return body


def with_value(base: TrainSpec, key: str, value: Scalar) -> TrainSpec:
    return apply(base, {key: value})


def trial_digest(base: TrainSpec, key: str, value: Scalar) -> str:
    """Digest of `base` with one field replaced, to compare values; invalid values get distinct strings."""
    try:
        return with_value(base, key, value).digest()
    except ValidationError:
        return f"invalid:{value!r}"


def no_effect_reason(base: TrainSpec, space: Mapping[str, Dimension], key: str) -> str | None:  # noqa: PLR0911 - a table
    """Why no value of `key` has an effect, given the settings of `base` that are not in the space; else None."""

    def fixed(name: str, value: Scalar) -> bool:
        return name not in space and field_value(base, name) == value

    if fixed("model.use_gat", value=False) and (
        key.startswith(("graph.", "model.gat_")) or key in ("model.learn_temperature", "model.stochastic_depth")
    ):
        return "model.use_gat is false"
    if fixed("model.use_fan", value=False) and key == "model.fan_top_k":
        return "model.use_fan is false"
    if fixed("graph.sector_edges", value=False) and key == "graph.sector_weight":
        return "graph.sector_edges is false"
    for part, terms in TERMS.items():
        users = [name for name, term in terms.items() if key.removeprefix("loss.") in term.settings]
        if (users or key == f"loss.{part}") and fixed(f"loss.{part}_weight", 0.0):
            return f"loss.{part}_weight is 0"
        if users and not any(fixed(f"loss.{part}", name) for name in users) and f"loss.{part}" not in space:
            return f"loss.{part} is {field_value(base, f'loss.{part}')}, which has no {key.removeprefix('loss.')}"
    phases = base.trainer.phases
    if phases and key == "optimizer.lr" and all(phase.lr is not None for phase in phases):
        return "each phase has its own lr"
    if phases and key.startswith("loss.") and all(phase.loss is not None for phase in phases):
        return "each phase has its own loss"
    name = base.scheduler.name
    restarts = ("scheduler.t_0", "scheduler.t_mult")
    used = {"cosine": ("scheduler.eta_min",), "cosine_restarts": (*restarts, "scheduler.eta_min")}.get(name, ())
    if "scheduler.name" not in space and key in (*restarts, "scheduler.eta_min") and key not in used:
        return f"scheduler.name is {name}"
    return None


def field_value(base: TrainSpec, key: str) -> object:
    """The field of `base` with this dotted name."""
    value: object = base
    for part in key.split("."):
        value = getattr(value, part)
    return value


def _canonical(dimension: Dimension, value: Scalar) -> Scalar:
    try:
        return dimension.canonical(value)
    except ValueError:
        return value  # of a stored spec: earlier versions did not compare with the steps of a float


def _probe(dimension: FloatDimension | IntDimension | CategoricalDimension) -> tuple[Scalar, ...]:
    return dimension.choices if isinstance(dimension, CategoricalDimension) else dimension.extremes()


def _tried(dimension: FloatDimension | IntDimension | CategoricalDimension) -> tuple[Scalar, ...]:
    """The values that must be valid: those of a probe, and one within a range of floats: a field may take integers."""
    if not isinstance(dimension, FloatDimension):
        return _probe(dimension)
    within = dimension.low + (dimension.high - dimension.low) / math.pi
    if dimension.num_levels is not None:
        within = dimension.level(min(1, dimension.num_levels - 1))
    return (*dimension.extremes(), within)


def _own_field(problem: Mapping[str, Any], key: str) -> bool:
    """Whether a validation error is about the field `key` itself, not a combination of fields."""
    return ".".join(str(p) for p in problem["loc"]) == key
