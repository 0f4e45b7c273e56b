"""Output files of a run, each renamed into place when complete."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np

from atft.checksums import sync, write_atomic
from atft.events import Artifact, DailySeries
from atft.evidence.models import TrainingEvidence
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.evaluate import ScoredSamples
from atft.train.report import RunError
from atft.train.setup import TrainingSetup

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

PARQUET = "application/vnd.apache.parquet"
Series = list[tuple[str, DailySeries]]  # source ("" for the model itself) and series


class PredictionWriter:
    """Writes a Parquet file of scores table by table and renames it into place when complete."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._writer: ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def add(self, table: "pa.Table") -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - not needed before the end

        if self._writer is None:
            self._writer = pq.ParquetWriter(self._partial, table.schema, compression="zstd")
        self._writer.write_table(table)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is None:
            return
        self._writer.close()
        if kind is not None:
            self._partial.unlink()
            return
        sync(self._partial)
        self._partial.replace(self._path)
        sync(self._path.parent)


def write_outputs(setup: TrainingSetup, out: Path, series: Series | None, evidence: TrainingEvidence) -> list[Artifact]:
    """Write config, evidence and daily series, and return all artifacts; weights and predictions must already exist.
    `series` is None for pretraining, which has neither series nor predictions. Raises RunError when a file is missing.
    """
    config = {
        "requested": setup.requested.model_dump(mode="json"),
        "resolved": setup.resolved().model_dump(mode="json"),
        "features": list(setup.reader.feature_names),
        "fingerprint": setup.cache.fingerprint,
        **({"lineage": setup.initial_weights.lineage} if setup.initial_weights is not None else {}),
    }
    _write_json(out / "config.json", config)
    _write_json(out / "evidence.json", evidence.to_json())
    weights = [checkpoint.best_name(fold, len(setup.splits)) for fold in range(len(setup.splits))]
    artifacts = [
        *(Artifact(name=name, path=name) for name in weights),
        Artifact(name="config.json", path="config.json", media_type="application/json"),
        Artifact(name="evidence.json", path="evidence.json", media_type="application/json"),
    ]
    if series is not None:
        artifacts.append(write_daily(out, series))
        artifacts.append(Artifact(name="predictions.parquet", path="predictions.parquet", media_type=PARQUET))
    verify_artifacts(out, artifacts)
    return artifacts


def write_daily(out: Path, series: Series) -> Artifact:
    """Write the daily series as daily.parquet."""
    _write_parquet(out / "daily.parquet", _daily_table(series))
    return Artifact(name="daily.parquet", path="daily.parquet", media_type=PARQUET)


def verify_artifacts(out: Path, artifacts: list[Artifact]) -> None:
    """Raise RunError naming each declared output that is missing or empty."""
    missing = [a.name for a in artifacts if not (out / a.path).is_file() or (out / a.path).stat().st_size == 0]
    if missing:
        raise RunError(
            Reason.INTERNAL, f"declared outputs are missing or empty: {', '.join(missing)}; start the run again"
        )


def _write_json(path: Path, body: object) -> None:
    write_atomic(path, json.dumps(body, indent=1, allow_nan=False).encode())


def _write_parquet(path: Path, table: "pa.Table") -> None:
    import pyarrow as pa  # noqa: PLC0415 - not needed before the end
    import pyarrow.parquet as pq  # noqa: PLC0415

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def _daily_table(series: Series) -> "pa.Table":
    import pyarrow as pa  # noqa: PLC0415

    lengths = [len(one.days) for _, one in series]
    return pa.table(
        {
            "date": pa.array(np.concatenate([np.asarray(one.days, dtype="datetime64[D]") for _, one in series])),
            "source": pa.array(np.repeat([source for source, _ in series], lengths)).dictionary_encode(),
            "split": pa.array(np.repeat([one.split for _, one in series], lengths)).dictionary_encode(),
            "metric": pa.array(np.repeat([one.name for _, one in series], lengths)).dictionary_encode(),
            "horizon": pa.array(np.repeat(np.asarray([one.horizon for _, one in series], dtype=np.int32), lengths)),
            "value": pa.array([value for _, one in series for value in one.values], type=pa.float64()),
        }
    )


def prediction_table(setup: TrainingSetup, scored: dict[str, ScoredSamples]) -> "pa.Table":
    """One row a ranked sample of a fold's or an ensemble's validation and test days: date, code, split, score_{h}d.

    With several folds also `fold`, from 1; each fold is written when scored, so that only one is in memory.
    """
    import pyarrow as pa  # noqa: PLC0415

    cache = setup.cache
    rows = np.concatenate([s.rows for s in scored.values()])
    scores = np.concatenate([s.scores for s in scored.values()])
    columns = {
        "date": pa.array(cache.days[cache.day_index[rows]]),
        "code": pa.DictionaryArray.from_arrays(pa.array(cache.code_index[rows]), pa.array(list(cache.codes))),
        "split": pa.array(np.repeat(list(scored), [len(s.rows) for s in scored.values()])).dictionary_encode(),
    }
    if len(setup.splits) > 1 and setup.ensemble is None:
        columns["fold"] = pa.array(np.full(len(rows), setup.fold + 1, dtype=np.int16))
    return pa.table(
        columns
        | {f"score_{h}d": pa.array(np.ascontiguousarray(scores[:, i])) for i, h in enumerate(setup.spec.data.horizons)}
    )
