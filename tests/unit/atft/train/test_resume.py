"""A run stopped at any point and resumed gives bit-equal results."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from atft.checksums import sha256_of
from atft.data.cache.reader import Cache
from atft.events import Checkpointed, Event, Evidence, Failed, Finished, Stopped
from atft.spec.job import TrainSpec
from atft.train.loop import train

Make = Callable[..., TrainSpec]
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {"trainer.max_epochs": 3},
    "everything": {
        "optimizer.name": "adabelief",
        "scheduler.name": "cosine_restarts",
        "scheduler.t_0": 1,
        "scheduler.warmup_epochs": 1,
        "trainer.ema_decay": 0.9,
        "trainer.accumulate": 2,
        "model.freq_dropout": 0.2,
        "model.stochastic_depth": 0.3,
        "trainer.stop_rules": [{"metric": "val/loss", "falling": 99}],
    },
    "phases": {
        "optimizer.name": "adabelief",
        "loss.regime": "volatility_correlation",
        "trainer.max_epochs": 3,
        "trainer.phases": [
            {"name": "heads", "epochs": 1, "modules": ["heads", "graph"], "lr": 0.01},
            {"name": "all", "epochs": 2, "loss": {"base": "mse"}},
        ],
    },
    "one_cycle": {"scheduler.name": "one_cycle", "trainer.early_stopping": {"patience": 1}, "trainer.max_epochs": 3},
}


class StopAfter:
    """Returns True from the n-th check on."""

    def __init__(self, checks: int) -> None:
        self.left = checks

    def __call__(self) -> bool:
        self.left -= 1
        return self.left < 0


class Killed(BaseException):
    pass


class KillAt(StopAfter):
    """Raises where `StopAfter` returns True."""

    def __call__(self) -> bool:
        if super().__call__():
            raise Killed
        return False


def last_weights(*attempts: Any) -> bytes:
    """The weights in the last checkpoint that any of the attempts announced."""
    path = [attempt.out / event.path for attempt in attempts for event in attempt.of(Checkpointed)][-1]
    return (path / "model.safetensors").read_bytes()


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_a_run_resumed_at_any_point_is_bit_for_bit_the_same(variant: str, make_spec: Make, run: Any) -> None:
    spec = make_spec(**VARIANTS[variant])
    checks = StopAfter(10**9)
    whole = run(spec, "whole", stop=checks)
    assert isinstance(whole.last, Finished)
    stop_checks = 10**9 - checks.left
    points = sorted(random.Random(variant).sample(range(stop_checks), 2))
    for point in points:
        rows: dict[object, object] = {}
        parts: list[Any] = []
        resume, attempt, limit = None, 0, point
        while True:
            part = run(spec, f"{point}-{attempt}", stop=StopAfter(limit), resume=resume)
            rows |= part.rows
            parts.append(part)
            if isinstance(part.last, Finished):
                break
            assert isinstance(part.last, Stopped)
            assert part.last.checkpoint is not None
            resume, attempt, limit = part.out / part.last.checkpoint, attempt + 1, max(1, stop_checks // 2)
        assert rows == whole.rows
        assert (part.out / "best.safetensors").read_bytes() == (whole.out / "best.safetensors").read_bytes()
        assert last_weights(*parts) == last_weights(whole)
        for name in ("daily.parquet", "predictions.parquet", "config.json"):
            assert (part.out / name).read_bytes() == (whole.out / name).read_bytes()
        assert part.last.result == whole.last.result
        keys = ("scheduler", "modules", "batches_per_epoch", "samples_per_epoch", "updates", "micro_batch_days")
        assert {k: part.evidence[k] for k in keys} == {k: whole.evidence[k] for k in keys}


def test_a_killed_run_resumes_from_its_last_checkpoint_bit_for_bit(make_spec: Make, run: Any) -> None:
    """A kill loses what came after the last checkpoint; the rows it had sent are sent again, equal."""

    spec = make_spec()
    whole = run(spec, "whole")
    for point in (0, 5, 12):
        with pytest.raises(Killed):
            run(spec, f"killed-{point}", stop=KillAt(point))
        kept = sorted((whole.out.parent / f"killed-{point}" / "checkpoints").iterdir())[-1]
        rest = run(spec, f"rest-{point}", resume=kept)
        assert set(rest.rows.items()) <= set(whole.rows.items())
        assert (rest.out / "best.safetensors").read_bytes() == (whole.out / "best.safetensors").read_bytes()
        assert last_weights(rest) == last_weights(whole)


def test_a_checkpoint_of_another_spec_or_panel_is_refused(make_spec: Make, run: Any) -> None:
    first = run(make_spec(), "first", stop=StopAfter(3))
    path = first.out / first.last.checkpoint
    other = run(make_spec(**{"optimizer.lr": 0.5}), "other", resume=path)
    assert other.last.reason == "invalid_params"
    assert "spec" in other.last.message
    same = run(make_spec(name="renamed", tags={"a": "b"}, **{"resources.priority": 0}), "same", resume=path)
    assert isinstance(same.last, Finished)


def test_a_damaged_checkpoint_is_refused(make_spec: Make, run: Any) -> None:
    first = run(make_spec(), "first", stop=StopAfter(3))
    path = first.out / first.last.checkpoint
    (path / "state.pt").write_bytes(b"")
    assert "state.pt" in run(make_spec(), "other", resume=path).last.message


def test_altered_best_weights_are_neither_scored_nor_kept(
    make_spec: Make, run: Any, cache: Cache, tmp_path: Path
) -> None:
    """One byte changes while the run goes on from its last checkpoint, which is to be scored, or the one before."""
    first = run(make_spec(), "first")
    for kept in (first.out / "checkpoints").iterdir():
        best = tmp_path / kept.name / "best.safetensors"

        def alter(event: Event, best: Path = best) -> None:
            if isinstance(event, Evidence):  # the first follows the files of the checkpoint
                content = best.read_bytes()
                best.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

        last = train(make_spec(), cache, best.parent, alter, lambda: True, kept)
        assert isinstance(last, Failed)
        assert (last.reason, last.message.split(":")[0]) == (
            "data_changed", "best.safetensors has other bytes than this run wrote",
        )  # fmt: skip


def test_pain_36_a_second_run_does_not_change_the_files_of_the_first(make_spec: Make, run: Any) -> None:
    first = run(make_spec(), "first")
    before = {p: sha256_of(p) for p in first.out.rglob("*") if p.is_file()}
    run(make_spec(seed=1), "second")
    assert {p: sha256_of(p) for p in first.out.rglob("*") if p.is_file()} == before
