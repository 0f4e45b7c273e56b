"""Scores for any range of days from a finished run's best weights, bit-equal to those of the run's own evaluation.

Days are computed in the same batches as in the evaluation, whatever range is requested: on a CPU the last bits of a
matrix product depend on its number of rows.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int64

from atft.data.cache.graph import day_graph
from atft.data.cache.reader import Cache
from atft.data.cache.splits import consecutive_runs, make_splits
from atft.data.cache.windows import DayReader
from atft.events import Artifact, Event, Failed, Finished, Stopped
from atft.evidence.models import EarlyEvidence, PredictionEvidence
from atft.metrics.rank import mean_of_ranks
from atft.model.network import Network
from atft.spec.prediction import PredictSpec
from atft.spec.reason import Reason
from atft.train.evaluate import CHUNK_FACTOR, chunks, read_batch
from atft.train.evidence import git_state, runtime_environment
from atft.train.outputs import PARQUET, PredictionWriter, verify_artifacts
from atft.train.report import Reporter, RunError, StopRequested
from atft.train.saved_run import SavedRun
from atft.train.seed import limit_threads
from atft.train.setup import choose_device, features_sha256
from atft.train.system_metrics import SystemSampler

NAME = "predictions.parquet"
Days = npt.NDArray[np.int64]


def predict(
    spec: PredictSpec,
    model: Path,
    cache: Cache,
    out: Path,
    emit: Callable[[Event], None],
    stop: Callable[[], bool],
    *,
    weights_sha256: str | None = None,
    max_days: int | None = None,
) -> Finished | Stopped | Failed:
    """Write `out/predictions.parquet`: date, code and score_{h}d of every valid row of the universe, by day and code;
    null where the stock has too few days behind it.

    `model` is the folder of a finished run. `max_days` limits a micro-batch: less memory, other last bits. When
    stopped it leaves no file. The returned event has not been emitted.
    """
    reporter = Reporter(emit, epochs=0)
    try:
        reporter.progress("build")
        saved_run = SavedRun.read(model, spec.fold)
        if weights_sha256 is not None and saved_run.sha256 != weights_sha256:
            raise RunError(
                Reason.DATA_CHANGED,
                f"{saved_run.weights_name} has SHA-256 {saved_run.sha256}, not {weights_sha256}: the weights have "
                "changed since the prediction was requested",
            )
        with SystemSampler(torch.device("cpu"), spec.resources.threads) as sampler:
            return _Prediction(spec, saved_run, cache, reporter, stop, sampler, max_days).write(out)
    except StopRequested:
        return Stopped()
    except RunError as error:
        return Failed(reason=error.reason, message=str(error))


class _Prediction:
    """A prediction in progress: the saved run, the requested days, and their reader."""

    def __init__(
        self,
        spec: PredictSpec,
        saved_run: SavedRun,
        cache: Cache,
        reporter: Reporter,
        stop: Callable[[], bool],
        sampler: SystemSampler,
        max_days: int | None,
    ) -> None:
        limit_threads(spec.resources.threads)
        self.spec, self.saved_run, self.cache = spec, saved_run, cache
        self.reporter, self.stop, self.sampler = reporter, stop, sampler
        self.days = requested_days(cache, spec)
        self.device = choose_device(spec.resources.device)
        graph = day_graph(cache, saved_run.spec.graph, reporter.emit) if saved_run.spec.model.use_gat else None
        self.reader = DayReader(cache, saved_run.spec.data, graph, self.device)
        if self.reader.feature_names != saved_run.features:
            raise RunError(Reason.INVALID_PARAMS, _other_features(saved_run.features, self.reader.feature_names))
        self.micro_batch_days = min(saved_run.micro_batch_days, max_days or saved_run.micro_batch_days)
        self.num_rows = self.num_scored = 0

    def write(self, out: Path) -> Finished:
        networks = [network.to(self.device) for network in self.saved_run.networks()]
        self.reporter.evidence(EarlyEvidence(micro_batch_days=self.micro_batch_days))
        size = CHUNK_FACTOR * self.micro_batch_days
        own = self.cache.fingerprint == self.saved_run.fingerprint
        pieces = [piece for piece in self._pieces(size, own=own) if len(np.intersect1d(piece, self.days))]
        with PredictionWriter(out / NAME) as file:
            for piece in pieces:
                if self.stop():
                    raise StopRequested
                rows, scores = self._score(networks, piece)
                requested = np.isin(self.cache.day_index[rows], self.days)
                file.add(self._table(rows[requested], scores[requested]))
                done = int(np.searchsorted(self.days, piece[-1], side="right"))
                self.reporter.progress("predict", step=done, steps=len(self.days))
        artifacts = [Artifact(name=NAME, path=NAME, media_type=PARQUET)]
        verify_artifacts(out, artifacts)
        self.reporter.evidence(self._evidence())
        counts = {"num_days": len(self.days), "num_rows": self.num_rows, "num_scored": self.num_scored}
        return Finished(artifacts=artifacts, result={"predictions": counts})

    def _pieces(self, size: int, *, own: bool) -> Iterator[Days]:
        """All days of the panel, in order, in runs of at most `size`; on the data that the model was trained on, those
        of its validation and test days are the batches of its evaluation.
        """
        cuts: set[int] = set()
        if own:
            split = make_splits(self.cache, self.saved_run.spec.data, self.saved_run.spec.split)[self.saved_run.fold]
            cuts = {
                end
                for part in (split.val, split.test)
                for run in consecutive_runs(part)
                for end in (run[0], run[-1] + 1)
            }
        for part in np.split(np.arange(len(self.cache.days)), sorted(cuts)):
            if len(part):
                yield from (piece for _, piece in chunks(part, size))

    def _score(
        self, networks: list[Network], days: Days
    ) -> tuple[Int64[np.ndarray, " row"], Float[np.ndarray, "row horizon"]]:
        """The panel rows of consecutive days that are ranked, by day, and their scores, NaN without a whole window."""
        several = len(networks) > 1
        cache = self.cache
        rows = cache.day_rows[cache.day_offsets[days[0]] : cache.day_offsets[days[-1] + 1]]
        rows = rows[cache.valid[rows] & cache.in_universe[rows]]
        scores = np.full(
            (len(rows), len(self.saved_run.spec.data.horizons)), np.nan, np.float64 if several else np.float32
        )
        batch = read_batch(self.reader, days)
        if batch is None:
            return rows, scores
        with torch.no_grad():
            each = [network(batch).scores[batch.ranked].float().cpu().numpy() for network in networks]
        broken = ~np.isfinite(np.concatenate(each, axis=1)).all(axis=1)
        ranked = batch.rows[batch.ranked.cpu().numpy()]
        if broken.any():
            first = cache.days[cache.day_index[ranked[broken]].min()]
            raise RunError(Reason.NAN_LOSS, f"{int(broken.sum())} scores are not finite, first on {first}")
        scored: Bool[np.ndarray, " row"] = np.isin(rows, ranked)
        found = mean_of_ranks(each, batch.day[batch.ranked].cpu().numpy()) if several else each[0]
        scores[scored] = found  # both are in the order of the days' rows
        return rows, scores

    def _table(self, rows: Int64[np.ndarray, " row"], scores: Float[np.ndarray, "row horizon"]) -> pa.Table:
        cache = self.cache
        self.num_rows += len(rows)
        self.num_scored += int(np.isfinite(scores[:, 0]).sum())
        columns = {
            "date": pa.array(cache.days[cache.day_index[rows]]),
            "code": pa.DictionaryArray.from_arrays(pa.array(cache.code_index[rows]), pa.array(list(cache.codes))),
        }
        return pa.table(
            columns
            | {
                f"score_{h}d": pa.array(np.ascontiguousarray(scores[:, i]), from_pandas=True)  # NaN is null
                for i, h in enumerate(self.saved_run.spec.data.horizons)
            }
        )

    def _evidence(self) -> PredictionEvidence:
        spec, saved_run, cache = self.spec, self.saved_run, self.cache
        resources = {"device": self.device.type, "threads": torch.get_num_threads()}
        resolved = spec.model_copy(
            update={"fold": saved_run.fold + 1, "resources": spec.resources.model_copy(update=resources)}
        )
        self.sampler.look()
        body = {
            "requested": spec.model_dump(mode="json"),
            "requested_digest": spec.digest(),
            "resolved": resolved.model_dump(mode="json"),
            "resolved_digest": resolved.digest(),
            "model": {
                "spec_digest": saved_run.spec_digest,
                "fingerprint": saved_run.fingerprint,
                "weights": saved_run.weights_name,
                "sha256": saved_run.sha256,
                "last_day": str(saved_run.last_day),
            },
            "data": {
                "fingerprint": cache.fingerprint,
                "num_rows": len(cache.day_index),
                "num_features": self.reader.num_features,
                "features_sha256": features_sha256(self.reader.feature_names),
                "horizons": list(saved_run.spec.data.horizons),
                "days": [str(day) for day in cache.days[self.days]],
                "num_learned_days": num_learned_days(cache, self.days, saved_run),
            },
            "rows": self.num_rows,
            "rows_scored": self.num_scored,
            **runtime_environment(self.device, spec.resources.threads, self.sampler.peak_threads),
            "precision": "float32",
            "micro_batch_days": self.micro_batch_days,
            "git": git_state(),
        }
        return PredictionEvidence.model_validate(body)


def requested_days(cache: Cache, spec: PredictSpec) -> Days:
    """The numbers of the trading days from `from_day` to `to_day`. Raises RunError when there is none."""
    first, last = np.datetime64(spec.from_day), np.datetime64(spec.to_day)
    days = np.flatnonzero((cache.days >= first) & (cache.days <= last))
    if not len(days):
        raise RunError(
            Reason.INVALID_PARAMS,
            f"the dataset has no trading day from {first} to {last}: its days are {cache.days[0]} to {cache.days[-1]}",
        )
    return days


def num_learned_days(cache: Cache, days: Days, saved_run: SavedRun) -> int:
    """How many of `days` are no later than the last label used for training or validation: in-sample scores."""
    last = int(np.searchsorted(cache.days, saved_run.last_day, side="right")) - 1
    return int((days <= last + 1 + max(saved_run.spec.data.horizons)).sum())


def _other_features(wanted: tuple[str, ...], found: tuple[str, ...]) -> str:
    missing, more = [n for n in wanted if n not in found], [n for n in found if n not in wanted]
    if not missing and not more:
        return "the dataset has the model's features in another order: build it as the model's own was built"
    return (
        f"the dataset's features are not the model's: it lacks {missing[:10]} and has {more[:10]} besides; use a "
        "dataset with the same features, or train a model that lists its features"
    )
