"""Plots and parameter importance of a finished study as JSON files, so that the API and the page need no Optuna."""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import optuna
from optuna.trial import TrialState

from atft.checksums import sha256_of, write_atomic
from atft.spec.study import HpoSpec
from jobs.db.tables import Json
from jobs.settings import Settings
from worker.attempt.artifacts import Output
from worker.studies.samplers import open_study, without_experimental_warnings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plots:
    """The files that were written, and the error that prevented others."""

    outputs: tuple[Output, ...] = ()
    error: str | None = None


def draw_plots(settings: Settings, storage: optuna.storages.BaseStorage, job_id: UUID, spec: HpoSpec) -> Plots:
    """Write the plots of an ended study under its job's folder. A full disk must not keep the study from ending."""
    import optuna.visualization as show  # noqa: PLC0415 - plotly is needed at the end of a study only

    study = open_study(storage, job_id, spec)
    trials = study.get_trials(deepcopy=False)
    plots: dict[str, Callable[[optuna.Study], object]] = {"timeline": show.plot_timeline}
    if any(trial.intermediate_values for trial in trials):
        plots["intermediate_values"] = show.plot_intermediate_values
    if any(trial.state is TrialState.COMPLETE for trial in trials):
        plots["history"] = show.plot_optimization_history
        plots["parallel_coordinate"] = show.plot_parallel_coordinate
        plots["slice"] = show.plot_slice
    bodies: dict[str, Json] = {"importance.json": importance(study, spec)}
    for name, plot in plots.items():
        try:
            with without_experimental_warnings():
                bodies[f"{name}.json"] = json.loads(plot(study).to_json())  # type: ignore[attr-defined]  # plotly is untyped
        except Exception:  # a failing plot must not keep the study from ending
            logger.exception("study %s: no plot %s", job_id, name)
    folder = (settings.jobs_root / str(job_id) / "1").resolve()
    outputs: list[Output] = []
    try:
        for name, body in bodies.items():
            outputs.append(_write(settings, folder, name, body))
    except OSError as error:
        logger.warning("study %s: its plots cannot be written: %s", job_id, error)
        return Plots(tuple(outputs), f"{len(outputs)} of {len(bodies)} plots were written: {error}")
    return Plots(tuple(outputs))


def importance(study: optuna.Study, spec: HpoSpec) -> Json:
    """`{importance: {parameter: share} | null, num_trials, why}`: shares of 1, null with a reason when undefined."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    varied = [key for key in spec.space if len({repr(trial.params.get(key)) for trial in complete}) > 1]
    body: Json = {"importance": None, "num_trials": len(complete), "why": None}
    if len(complete) < 2:
        return body | {"why": f"{len(complete)} trials ended with a value: at least two are needed"}
    if not varied or len({trial.value for trial in complete}) == 1:
        return body | {"why": "every trial has the same value or the same parameters"}
    try:
        with without_experimental_warnings():
            shares = optuna.importance.get_param_importances(study, params=varied)
    except (ValueError, RuntimeError) as error:
        return body | {"why": str(error)}
    return body | {"importance": {key: float(share) for key, share in shares.items()}}


def _write(settings: Settings, folder: Path, name: str, body: Json) -> Output:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write_atomic(path, json.dumps(body, indent=1, allow_nan=False).encode())
    place = str(path.relative_to(settings.run_root.resolve()))
    size, sha256 = path.stat().st_size, sha256_of(path)
    return Output(name=name, path=place, size_bytes=size, sha256=sha256, media_type="application/json")
