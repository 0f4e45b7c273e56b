"""Events of a child, each recorded once: log lines, metrics, daily series, and what a resumed attempt keeps."""

import math
from datetime import date
from uuid import UUID

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session, sessionmaker

from atft.events import AnyEvent, Checkpointed, DailySeries, Evidence, Log, Metrics, Progress, Started
from jobs.db.session import transaction
from jobs.db.tables import Job
from jobs.errors import JobNotFound, StaleAttempt
from jobs.record import history, lifecycle, queries, submission
from jobs.states import JobKind, JobState, Reason

Sessions = sessionmaker[Session]
SPEC = {"trainer": {"objective": "val/rank_ic"}}


@pytest.fixture
def running(sessions: Sessions) -> UUID:
    with transaction(sessions) as session:
        job = submission.submit(
            session, submission.NewJob(kind=JobKind.TRAIN, spec=SPEC, spec_digest="d", queue="cpu")
        ).job
        lifecycle.claim(session, job.id, worker="w", host="h", device="cpu", lease_seconds=60)
    return job.id


def append(sessions: Sessions, job_id: UUID, *events: AnyEvent, attempt: int = 1) -> int:
    with transaction(sessions) as session:
        return history.append(session, job_id, attempt, events)


def get(sessions: Sessions, job_id: UUID) -> Job:
    with transaction(sessions) as session:
        return queries.get(session, job_id)


def next_attempt(sessions: Sessions, job_id: UUID) -> Job:
    with transaction(sessions) as session:
        attempt = queries.get(session, job_id).attempt
        lifecycle.requeue(
            session,
            job_id,
            attempt,
            lifecycle.AttemptEnd(reason=Reason.WORKER_LOST, message="m"),
            counts_as_failure=False,
        )
        job = lifecycle.claim(session, job_id, worker="w", host="h", device="cpu", lease_seconds=60)
        assert job is not None
        return job


def daily(
    session: Session, job_id: UUID, metric: str, split: str, horizon: int, source: str = ""
) -> list[tuple[date, float | None]]:
    found = history.daily_series(session, [job_id], metric, split, [horizon], source)
    return list(found.get((job_id, horizon), {}).items())


def test_each_kind_of_event_goes_to_its_table(sessions: Sessions, running: UUID) -> None:
    before = get(sessions, running)
    new = append(
        sessions,
        running,
        Started(child_seq=1, pid=7),
        Log(child_seq=2, message="hello", level="warning"),
        Progress(child_seq=3, phase="train", epoch=1, epochs=3, ratio=0.2),
        Evidence(child_seq=4, body={"device": "cpu"}),
        Metrics(child_seq=5, step=1, values={"val/rank_ic": 0.1, "val/icir": None}, best=True),
        Metrics(child_seq=6, step=1, values={"test/rank_ic": 0.02}, source="ridge"),
        Checkpointed(child_seq=7, path="1/checkpoints/last", step=10, epoch=1, sha256="s"),
    )
    job = get(sessions, running)
    assert new == 7
    assert job.metrics == {"val/rank_ic": 0.1, "val/icir": None}
    assert job.best == {
        "epoch": 1,
        "objective": "val/rank_ic",
        "value": 0.1,
        "metrics": {"val/rank_ic": 0.1, "val/icir": None},
    }
    assert job.baselines == {"ridge": {"test/rank_ic": 0.02}}
    assert job.evidence == {"device": "cpu"}
    assert job.checkpoint == {"path": "1/checkpoints/last", "step": 10, "fold": 1, "epoch": 1, "sha256": "s"}
    assert job.progress is not None
    assert (job.progress["phase"], job.progress["ratio"], job.progress["eta_seconds"]) == ("train", 0.2, None)
    assert job.version == before.version + 1
    with transaction(sessions) as session:
        events = history.read_after(session, running, before.last_seq)
        assert history.read_after(session, running, before.last_seq, limit=1) == events[:1]
    assert [(event.seq, event.kind, event.child_seq) for event in events] == [
        (3, "log", 2),
        (4, "metrics", 5),
        (5, "metrics", 6),
    ]
    assert events[0].body == {"level": "warning", "message": "hello"}
    assert events[1].body == {"step": 1, "values": {"val/rank_ic": 0.1, "val/icir": None}, "best": True, "source": None}


def test_an_event_of_the_supervisor_is_never_a_duplicate(sessions: Sessions, running: UUID) -> None:
    assert append(sessions, running, Log(message="stderr"), Log(message="stderr")) == 2
    assert append(sessions, running, Log(child_seq=4, message="child")) == 1
    assert append(sessions, running, Log(child_seq=4, message="child"), Log(message="late")) == 1
    with transaction(sessions) as session:
        assert [event.body["message"] for event in history.read_after(session, running, 2)] == [
            "stderr",
            "stderr",
            "child",
            "late",
        ]


def test_old_attempt_is_stale(sessions: Sessions, running: UUID) -> None:
    next_attempt(sessions, running)
    with pytest.raises(StaleAttempt):
        append(sessions, running, Log(child_seq=1, message="late"))
    assert append(sessions, running, Log(child_seq=1, message="new"), attempt=2) == 1


def test_a_long_series_is_thinned_without_losing_a_spike(sessions: Sessions, running: UUID) -> None:
    values: dict[int, float | None] = {step: 0.5 for step in range(1, 2001) if not 300 < step < 400}
    values |= {700: 9.0, 1200: -3.0, 1500: None}
    events = [Metrics(child_seq=step, step=step, values={"step/loss": value}) for step, value in values.items()]
    append(sessions, running, *events, Metrics(child_seq=3000, step=1, values={"step/lr": 0.1, "val/ic": None}))
    with transaction(sessions) as session:
        every = history.series(session, running, None, 0, len(values))
        assert every["step/loss"] == {"step": list(values), "value": list(values.values())}
        thinned = history.series(session, running, None, 0, 20)
        found = dict(zip(thinned["step/loss"]["step"], thinned["step/loss"]["value"], strict=True))
        assert len(found) <= 20
        assert {1, 700, 1200, 2000} <= set(found)
        assert all(values[step] == value for step, value in found.items())
        assert (thinned["step/lr"]["value"], thinned["val/ic"]["value"]) == ([0.1], [None])
        assert history.series(session, running, ["step/loss"], 1990, 20)["step/loss"]["step"] == list(range(1991, 2001))
        undefined = [Metrics(child_seq=4000 + n, step=n, values={"step/none": None}) for n in range(1, 60)]
    append(sessions, running, *undefined)
    with transaction(sessions) as session:
        gone = history.series(session, running, ["step/none"], 0, 10)["step/none"]
        assert set(gone["value"]) == {None}
        assert (gone["step"][0], gone["step"][-1]) == (1, 59)


def test_points_are_in_the_order_of_their_events(sessions: Sessions, running: UUID) -> None:
    append(sessions, running, *(Metrics(child_seq=n, step=n, values={"b": n / 8, "a": None}) for n in range(1, 6)))
    with transaction(sessions) as session:
        found: list[history.Point] = []
        while batch := history.points_after(session, running, found[-1] if found else None, 3):
            found += batch
    assert [(point.name, point.step) for point in found] == [(name, n) for n in range(1, 6) for name in ("a", "b")]


def test_resumed_attempt_finds_the_points_up_to_its_checkpoint(sessions: Sessions, running: UUID) -> None:
    series = DailySeries(name="rank_ic", split="val", horizon=5, days=["2020-01-01"], values=[0.1])
    append(
        sessions,
        running,
        Metrics(child_seq=1, step=1, values={"val/rank_ic": 0.3}, best=True),
        Metrics(child_seq=2, step=10, values={"step/loss": 1.0}),
        Checkpointed(child_seq=3, path="1/checkpoints/last", step=10, epoch=1, sha256="s"),
        Metrics(child_seq=4, step=11, values={"step/loss": 0.9}),
        Metrics(child_seq=5, step=2, values={"val/rank_ic": 0.4}, best=True, daily=[series]),
    )
    job = next_attempt(sessions, running)
    assert job.metrics == {"val/rank_ic": 0.3, "step/loss": 1.0}
    assert job.best is not None
    assert (job.best["epoch"], job.best["value"]) == (1, 0.3)
    assert job.progress is None
    with transaction(sessions) as session:
        assert history.series(session, running, None) == {
            "step/loss": {"step": [10], "value": [1.0]},
            "val/rank_ic": {"step": [1], "value": [0.3]},
        }
        assert daily(session, running, "rank_ic", "val", 5) == []
    append(sessions, running, Metrics(child_seq=1, step=2, values={"val/rank_ic": 0.5}, daily=[series]), attempt=2)
    with transaction(sessions) as session:
        assert history.series(session, running, ["val/"])["val/rank_ic"] == {"step": [1, 2], "value": [0.3, 0.5]}
        assert daily(session, running, "rank_ic", "val", 5) == [(date(2020, 1, 1), 0.1)]


def test_an_attempt_resumed_in_a_later_fold_keeps_the_folds_before_it(sessions: Sessions, running: UUID) -> None:
    """The first fold has more epochs than the second has run so far: its epochs are kept."""
    events = [
        Metrics(child_seq=1, step=3, values={"val.1/rank_ic": 0.1}),
        Metrics(child_seq=2, step=1, values={"val.2/rank_ic": 0.2}),
        Checkpointed(child_seq=3, path="1/c", step=9, fold=2, epoch=1, sha256="s"),
        Metrics(child_seq=4, step=2, values={"val.2/rank_ic": 0.3}),
        Metrics(child_seq=5, step=1, values={"val.3/rank_ic": 0.4}),
        Metrics(child_seq=6, step=10, values={"step/loss": 0.5}),
    ]
    append(sessions, running, *events)
    job = next_attempt(sessions, running)
    assert job.metrics == {"val.1/rank_ic": 0.1, "val.2/rank_ic": 0.2}
    with transaction(sessions) as session:
        assert set(history.series(session, running, None)) == {"val.1/rank_ic", "val.2/rank_ic"}


def test_pain_31_attempt_without_checkpoint_starts_with_no_numbers(sessions: Sessions, running: UUID) -> None:
    append(sessions, running, Metrics(child_seq=1, step=1, values={"val/rank_ic": 0.3}, best=True))
    job = next_attempt(sessions, running)
    assert (job.metrics, job.best, job.evidence) == ({}, None, None)
    with transaction(sessions) as session:
        assert history.series(session, running, None) == {}


def test_daily_series_by_source(sessions: Sessions, running: UUID) -> None:
    days = ["2020-01-02", "2020-01-01"]
    own = DailySeries(name="rank_ic", split="test", horizon=5, days=days, values=[0.2, None])
    ridge = DailySeries(name="rank_ic", split="test", horizon=5, days=days, values=[0.1, 0.0])
    append(
        sessions,
        running,
        Metrics(child_seq=1, step=1, values={}, daily=[own]),
        Metrics(child_seq=2, step=1, values={}, source="ridge", daily=[ridge]),
    )
    with transaction(sessions) as session:
        assert daily(session, running, "rank_ic", "test", 5) == [
            (date(2020, 1, 1), None),
            (date(2020, 1, 2), 0.2),
        ]
        assert [value for _, value in daily(session, running, "rank_ic", "test", 5, "ridge")] == [0.0, 0.1]
        assert daily(session, running, "rank_ic", "test", 1) == []


def test_series_prefixes_and_steps(sessions: Sessions, running: UUID) -> None:
    names = ("val/rank_ic", "val/rank_ic@5d", "val/loss", "val_x/loss", "train/loss")
    append(sessions, running, *(Metrics(child_seq=s, step=s, values=dict.fromkeys(names, None)) for s in (1, 2, 3)))
    with transaction(sessions) as session:
        assert set(history.series(session, running, ["val/rank_ic"])) == {"val/rank_ic", "val/rank_ic@5d"}
        assert set(history.series(session, running, ["val_", "train/"])) == {"val_x/loss", "train/loss"}
        assert history.series(session, running, []) == {}
        assert history.series(session, running, ["val/loss"], after_step=1) == {
            "val/loss": {"step": [2, 3], "value": [None, None]}
        }


def test_long_series_is_thinned_but_keeps_ends_and_spikes(sessions: Sessions, running: UUID) -> None:
    values = [math.sin(i / 50) for i in range(5000)]
    values[1234], values[4321] = 9.0, -9.0
    append(
        sessions,
        running,
        *(Metrics(child_seq=i + 1, step=i + 1, values={"step/loss": v}) for i, v in enumerate(values)),
    )
    with transaction(sessions) as session:
        for max_points in (4, 100, 999):
            thin = history.series(session, running, ["step/"], max_points=max_points)["step/loss"]
            assert len(thin["step"]) <= max_points
            assert (thin["step"][0], thin["step"][-1]) == (1, 5000)
            assert thin["step"] == sorted(thin["step"])
            assert {9.0, -9.0} <= set(thin["value"])
        whole = history.series(session, running, None, max_points=5000)["step/loss"]
    assert whole == {"step": list(range(1, 5001)), "value": values}


def test_a_thousand_points_take_three_statements(sessions: Sessions, running: UUID) -> None:
    """The hot path: the job's lock, all events and points of a batch at once, and the change of the job's row."""
    values = {f"step/metric_{i:03d}": float(i) for i in range(100)}
    statements: list[str] = []
    with transaction(sessions) as session:
        event.listen(session.connection(), "before_cursor_execute", lambda *args: statements.append(args[2]))
        history.append(session, running, 1, [Metrics(child_seq=s, step=s, values=values) for s in range(1, 11)])
        assert [statement.split()[0] for statement in statements] == ["SELECT", "WITH", "UPDATE"]
        assert len(history.series(session, running, ["step/metric_099"])["step/metric_099"]["step"]) == 10


def test_event_of_the_service_takes_the_next_seq(sessions: Sessions, running: UUID) -> None:
    with transaction(sessions) as session:
        assert history.add_event(session, running, "log", {"level": "info", "message": "swept"}, 1) == 3
        with pytest.raises(JobNotFound):
            history.add_event(session, UUID(int=0), "log", {}, 1)
    assert get(sessions, running).last_seq == 3


def test_terminal_job_takes_no_more_events(sessions: Sessions, running: UUID) -> None:
    with transaction(sessions) as session:
        lifecycle.settle(session, running, 1, JobState.SUCCEEDED)
    with pytest.raises(StaleAttempt):
        append(sessions, running, Log(child_seq=1, message="late"))


def test_nul_characters_in_messages_are_replaced(sessions: Sessions, running: UUID) -> None:
    append(sessions, running, Log(child_seq=1, message="a\0b"))
    with transaction(sessions) as session:
        lifecycle.settle(
            session,
            running,
            1,
            JobState.FAILED,
            lifecycle.AttemptEnd(reason=Reason.INTERNAL, message="c\0d", log_tail="e\0f"),
        )
        assert history.read_after(session, running, 2)[0].body["message"] == "a\ufffdb"
        assert queries.get(session, running).message == "c\ufffdd"
