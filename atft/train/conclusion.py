"""The end of a run:

the best epoch's weights judged on validation and test days, beside the oracle and the baselines, and written down.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from atft.events import Artifact, DailySeries, Finished, Metrics
from atft.model.network import Network
from atft.spec.reason import Reason
from atft.train import checkpoint
from atft.train.evaluate import Judged, Scored, judge, oracle_scores, oracle_share, predict
from atft.train.report import Reporter, RunError
from atft.train.setup import Assembly
from atft.train.state import LoopState

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET = "application/vnd.apache.parquet"
Series = list[tuple[str, DailySeries]]  # source ("" for the model itself) and series


def conclude(
    assembly: Assembly,
    out: Path,
    reporter: Reporter,
    state: LoopState,
    *,
    check: Callable[[], None],
    evidence: Callable[[], dict[str, object]],
    test: bool,
) -> Finished:
    """`check` is called between pieces of work and may raise. With `test` the test days are scored, once, and the
    baselines with them.

    Raises RunError; OSError when the disk is full.
    """
    network = Network(
        num_features=assembly.reader.num_features,
        num_horizons=len(assembly.spec.data.horizons),
        window=assembly.spec.data.window,
        model=assembly.spec.model,
    ).to(assembly.device)
    network.load_state_dict(checkpoint.load_weights(out / "best.safetensors"))
    days = {"val": assembly.split.val, **({"test": assembly.split.test} if test else {})}
    scored: dict[str, Scored] = {}
    judged: dict[str, Judged] = {}
    series: Series = []
    for split, numbers in days.items():

        def beat(done: int, split: str = split, total: int = len(numbers)) -> None:
            reporter.progress("test" if split == "test" else "validate", epoch=state.epoch, step=done, steps=total)
            check()

        scored[split], loss = predict(
            network,
            assembly.reader,
            assembly.objective,
            numbers,
            micro_batch_days=state.micro_batch_days,
            heartbeat=beat,
        )
        judged[split] = judge(scored[split], assembly.cache, assembly.spec, split)
        if split == "test":
            judged[split].values["test/loss"] = loss
        for warning in judged[split].warnings:
            reporter.log(f"{split}: {warning}", level="warning")
    shares = _oracle(assembly, reporter, state, scored, judged, series)
    for split, outcome in judged.items():
        own = {name: value for name, value in shares.items() if name.startswith(f"{split}/")}
        values = {**(outcome.values if split == "test" else {}), **own}
        reporter.metrics(Metrics(step=state.best_epoch, values=values, daily=outcome.daily))
        series += [("", one) for one in outcome.daily]
    if test and assembly.spec.baselines:
        from atft.train.baselines import baselines  # noqa: PLC0415 - LightGBM is loaded only where it is asked for

        for name, baseline in baselines(assembly, scored, reporter, check).items():
            reporter.metrics(Metrics(step=state.best_epoch, values=baseline.values, daily=baseline.daily, source=name))
            series += [(name, one) for one in baseline.daily]
    artifacts = _write(assembly, out, series, scored, evidence())
    best = {
        "epoch": state.best_epoch,
        "objective": assembly.spec.trainer.objective,
        "value": state.best_value,
        "metrics": state.best_metrics,
    }
    result = {"best": best, "test": judged["test"].values if test else None, "ending": state.end_message or None}
    return Finished(artifacts=artifacts, result=result, reason=state.end_reason)


def _oracle(
    assembly: Assembly,
    reporter: Reporter,
    state: LoopState,
    scored: dict[str, Scored],
    judged: dict[str, Judged],
    series: Series,
) -> dict[str, float | None]:
    """Judge the planted oracles as baselines are judged; the model's share of the observed-history one."""
    shares: dict[str, float | None] = {}
    for split, samples in scored.items():
        for name, best in oracle_scores(assembly.cache, assembly.spec, samples).items():
            oracle = judge(best, assembly.cache, assembly.spec, split)
            reporter.metrics(Metrics(step=state.best_epoch, values=oracle.values, daily=oracle.daily, source=name))
            series += [(name, one) for one in oracle.daily]
            if name == "oracle_observed":
                shares |= oracle_share(judged[split].values, oracle.values, split, assembly.spec.data.horizons)
    return shares


def _write(
    assembly: Assembly, out: Path, series: Series, scored: dict[str, Scored], evidence: dict[str, object]
) -> list[Artifact]:
    """Every file whole before it is named. Raises RunError when one of them is not there after all."""
    config = {
        "requested": assembly.spec.model_dump(mode="json"),
        "resolved": assembly.resolved().model_dump(mode="json"),
        "features": list(assembly.reader.feature_names),
        "fingerprint": assembly.cache.fingerprint,
    }
    _write_json(out / "config.json", config)
    _write_json(out / "evidence.json", evidence)
    _write_parquet(out / "daily.parquet", _daily_table(series))
    _write_parquet(out / "predictions.parquet", _prediction_table(assembly, scored))
    artifacts = [
        Artifact(name="best.safetensors", path="best.safetensors"),
        Artifact(name="config.json", path="config.json", media_type="application/json"),
        Artifact(name="evidence.json", path="evidence.json", media_type="application/json"),
        Artifact(name="daily.parquet", path="daily.parquet", media_type=PARQUET),
        Artifact(name="predictions.parquet", path="predictions.parquet", media_type=PARQUET),
    ]
    verify_artifacts(out, artifacts)
    return artifacts


def verify_artifacts(out: Path, artifacts: list[Artifact]) -> None:
    """Raises RunError naming each declared output that is absent or empty: such a run has not succeeded."""
    missing = [a.name for a in artifacts if not (out / a.path).is_file() or (out / a.path).stat().st_size == 0]
    if missing:
        raise RunError(
            Reason.INTERNAL, f"declared outputs are missing or empty: {', '.join(missing)}; start the run again"
        )


def _write_json(path: Path, body: object) -> None:
    checkpoint.write_atomic(path, json.dumps(body, indent=1, allow_nan=False).encode())


def _write_parquet(path: Path, table: "pa.Table") -> None:
    import pyarrow as pa  # noqa: PLC0415 - not needed before the end
    import pyarrow.parquet as pq  # noqa: PLC0415

    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    checkpoint.write_atomic(path, sink.getvalue().to_pybytes())


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


def _prediction_table(assembly: Assembly, scored: dict[str, Scored]) -> "pa.Table":
    """One row a ranked sample of the validation and test days: date, code, split, score_{h}d."""
    import pyarrow as pa  # noqa: PLC0415

    cache = assembly.cache
    rows = np.concatenate([s.rows for s in scored.values()])
    scores = np.concatenate([s.scores for s in scored.values()])
    columns = {
        "date": pa.array(cache.days[cache.day_index[rows]]),
        "code": pa.DictionaryArray.from_arrays(pa.array(cache.code_index[rows]), pa.array(list(cache.codes))),
        "split": pa.array(np.repeat(list(scored), [len(s.rows) for s in scored.values()])).dictionary_encode(),
    }
    return pa.table(
        columns
        | {
            f"score_{h}d": pa.array(np.ascontiguousarray(scores[:, i]))
            for i, h in enumerate(assembly.spec.data.horizons)
        }
    )
