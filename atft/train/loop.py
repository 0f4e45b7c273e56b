"""A run from its spec to its final event: preflight, training fold by fold, then the test days once.

Every fold starts with the same weights and stops on its own; test days are read when all folds are trained. Ensemble
members are trained like folds, each with its own seed.
"""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch

from atft.data.cache.reader import Cache
from atft.events import Event, Failed, Finished, Log, Stopped
from atft.spec.ensemble import EnsembleSpec
from atft.spec.job import RunSpec
from atft.spec.reason import Reason
from atft.spec.study import PreflightSpec, apply, field_value
from atft.train.finalize import finalize
from atft.train.fold import FoldTraining
from atft.train.preflight import preflight
from atft.train.report import Reporter, RunError, StopRequested
from atft.train.run import Run
from atft.train.setup import make_setup
from atft.train.system_metrics import SystemSampler


def train(
    spec: RunSpec | EnsembleSpec,
    cache: Cache,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    resume: Path | None = None,
    *,
    test: bool = True,
    only_stored_baselines: bool = False,
    preflight_only: bool = False,
    max_days: int | None = None,
    source: Path | None = None,
) -> Finished | Stopped | Failed:
    """Run `spec` on `cache`, writing under `out` only, and return its final event, which has not been
    emitted.

    `stop` is called between updates and during evaluation. `resume` is the folder of a checkpoint of this run or an
    earlier one.
    `max_days` bounds a micro-batch, whatever preflight or the checkpoint says: the same updates in smaller pieces.
    `source` is the folder of the run that `init_from` names, with its config.json and weights.
    Without `test` neither test days nor baselines are touched (trials); with `only_stored_baselines` none are computed;
    with `preflight_only` nothing is trained.
    """
    one = spec.run
    folds = sum(member.split.num_splits for member in spec.members)
    reporter = Reporter(emit, epochs=one.trainer.max_epochs, folds=folds)
    try:
        reporter.progress("build")
        setup = make_setup(spec, cache, reporter, source)
        report = preflight(setup, reporter)
        if preflight_only:
            return Finished(result={"preflight": asdict(report)})
        with SystemSampler(setup.device, one.resources.threads) as sampler:
            run = Run(setup, out, reporter, stop, sampler, report, resume=resume, max_days=max_days)
            return _run(run, test=test, only_stored_baselines=only_stored_baselines)
    except RunError as error:
        return Failed(reason=error.reason, message=str(error))


def preflight_points(
    spec: PreflightSpec,
    cache: Cache,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    source: Path | None = None,
) -> Finished | Stopped | Failed:
    """The preflight of each point's training, one after the other; the first that fails is named and ends it."""
    reports = {}
    for name, point in spec.points.items():
        if stop():
            return Stopped()
        training = apply(spec.base, point)
        values = {key: field_value(training, key) for key in point}  # a stored 1e39 comes back as a long integer
        shown = f"the {name} extreme of the space, {json.dumps(values)}"
        emit(Log(message=f"preflight of {shown}"))
        last = train(training, cache, out, emit, stop, preflight_only=True, source=source)
        if isinstance(last, Failed):
            return last.model_copy(update={"message": f"{shown}, cannot run: {last.message}"})
        if not isinstance(last, Finished):
            return last
        reports[name] = last.result["preflight"]
        torch.cuda.empty_cache()  # what the next one needs is compared with what is free
    return Finished(result={"preflight": reports})


def _run(run: Run, *, test: bool, only_stored_baselines: bool) -> Finished | Stopped:
    if run.state.micro_batch_days < run.setup.min_days:
        raise RunError(
            Reason.INVALID_PARAMS,
            "contrast_weight compares successive days, and a micro-batch holds only one: raise trainer.batch_size, or "
            "use contrast_weight 0",
        )
    try:
        if run.state.saves == 0:
            run.save()  # stores the micro-batch size, so that a restarted run gives the same numbers
        FoldTraining(run)()
        while len(run.state.folds) < run.num_folds:
            run.begin_fold()
            FoldTraining(run)()
        return finalize(run, test=test, only_stored_baselines=only_stored_baselines)
    except StopRequested:
        return Stopped(checkpoint=run.save(), step=run.state.updates)
