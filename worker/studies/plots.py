"""Parameter importance and plots of a study as JSON files, so that the API and the page need no Optuna.

A study ends with its importance. Its plots take seconds and are drawn after its end: a study that has ended without
them, since drawing failed or was killed, gets them by a hint of the sweep.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from uuid import UUID

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from pydantic import ValidationError
from sqlalchemy.orm import Session, sessionmaker

from atft.checksums import sha256_of, write_atomic
from atft.spec.study import HpoSpec
from jobs.db.session import transaction
from jobs.db.tables import Json
from jobs.record import catalog, queries
from jobs.settings import Settings
from worker.attempt.artifacts import Output
from worker.studies.samplers import open_study, without_experimental_warnings

logger = logging.getLogger(__name__)


def draw_missing(
    sessions: sessionmaker[Session], open_storage: Callable[[], BaseStorage], settings: Settings, job_id: UUID
) -> None:
    """Draw the plots of a study that has ended without them, and add them to its artifacts."""
    with transaction(sessions) as session:
        job = next(iter(queries.studies_without_plots(session, 1, job_id)), None)
    if job is None:
        return
    try:
        spec = HpoSpec.from_stored(job.spec)
        outputs = _draw(settings, open_study(open_storage(), job_id, spec), job_id)
    except (OSError, ValidationError) as error:
        logger.warning("study %s: its plots cannot be drawn: %s", job_id, error)
        return
    with transaction(sessions) as session:
        for output in outputs:
            catalog.add_late_artifact(session, job_id, job.attempt, **asdict(output))


def _draw(settings: Settings, study: optuna.Study, job_id: UUID) -> list[Output]:
    """Write those plots that can be drawn."""
    import optuna.visualization as show  # noqa: PLC0415 - plotly is needed after the end of a study only

    trials = study.get_trials(deepcopy=False)
    plots: dict[str, Callable[[optuna.Study], object]] = {"timeline": show.plot_timeline}
    if any(trial.intermediate_values for trial in trials):
        plots["intermediate_values"] = show.plot_intermediate_values
    if any(trial.state is TrialState.COMPLETE for trial in trials):
        plots["history"] = show.plot_optimization_history
        plots["parallel_coordinate"] = show.plot_parallel_coordinate
        plots["slice"] = show.plot_slice
    bodies: dict[str, Json] = {}
    for name, plot in plots.items():
        try:
            with without_experimental_warnings():
                bodies[name] = json.loads(plot(study).to_json())  # type: ignore[attr-defined]  # plotly is untyped
        except Exception:  # one failing plot must not prevent the others
            logger.exception("study %s: no plot %s", job_id, name)
    return [_write(settings, job_id, f"{name}.json", body) for name, body in bodies.items()]


def write_importance(settings: Settings, study: optuna.Study, spec: HpoSpec, job_id: UUID) -> Output:
    """Write a study's parameter importance under its job's folder. Raises OSError."""
    return _write(settings, job_id, "importance.json", importance(study, spec))


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


def _write(settings: Settings, job_id: UUID, name: str, body: Json) -> Output:
    folder = (settings.jobs_root / str(job_id) / "1").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    write_atomic(path, json.dumps(body, indent=1, allow_nan=False).encode())
    place = str(path.relative_to(settings.run_root.resolve()))
    size, sha256 = path.stat().st_size, sha256_of(path)
    return Output(name=name, path=place, size_bytes=size, sha256=sha256, media_type="application/json")
