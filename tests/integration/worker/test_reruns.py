"""Retry and rerun: the HTTP requests that are accepted, and the attempts that follow, with real children."""

import asyncio
import json
import os
import signal
from uuid import UUID

import httpx
import pytest
from sqlalchemy.orm import Session, sessionmaker

from api.jobs.evidence_schemas import Drift
from jobs.db.session import transaction
from jobs.db.tables import Dataset, Job
from jobs.errors import IllegalTransition
from jobs.record import history
from jobs.record.reruns import RerunKind, submit_rerun
from jobs.settings import Settings
from jobs.states import JobState, Reason, Wanted
from tests.integration.api.application import Sessions, problem, run, submit
from tests.integration.worker.supervisor_harness import HONEST_PROGRAM, SupervisorHarness, program


@pytest.fixture
def harness(settings: Settings, sessions: sessionmaker[Session]) -> SupervisorHarness:
    return SupervisorHarness(settings, sessions)


def create_rerun(harness: SupervisorHarness, job_id: UUID, kind: RerunKind) -> Job:
    with transaction(harness.sessions) as session:
        return submit_rerun(session, job_id, kind, by="test").job


def log_messages(harness: SupervisorHarness, job_id: UUID) -> list[str]:
    with transaction(harness.sessions) as session:
        return [event.body["message"] for event in history.read_after(session, job_id, 0) if event.kind == "log"]


@pytest.mark.anyio
class TestRequests:
    @pytest.mark.parametrize(("state", "action"), [(JobState.CANCELLED, "retry"), (JobState.SUCCEEDED, "rerun")])
    async def test_a_new_job_of_the_same_spec(
        self, client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions, state: JobState, action: str
    ) -> None:
        source = await submit(client)
        run(sessions, UUID(source["id"]), state)
        response = await client.post(f"/jobs/{source['id']}/{action}")
        assert response.status_code == 202, response.text
        made = response.json()
        assert response.headers["location"] == f"/jobs/{made['id']}"
        assert made["id"] != source["id"]
        assert (made["source_job_id"], made["state"], made["attempt"]) == (source["id"], "queued", 0)
        same = (
            "kind",
            "spec",
            "spec_digest",
            "name",
            "tags",
            "queue",
            "dataset",
            "dataset_fingerprint",
            "max_attempts",
        )
        assert {name: made[name] for name in same} == {name: source[name] for name in same}
        other = {"retry": "rerun", "rerun": "retry"}[action]
        problem(await client.post(f"/jobs/{source['id']}/{other}"), 409, "illegal_move")

    async def test_g2_one_key_is_one_new_job(
        self, client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions
    ) -> None:
        source = await submit(client)
        run(sessions, UUID(source["id"]))
        url, headers = f"/jobs/{source['id']}/rerun", {"Idempotency-Key": "k"}
        responses = await asyncio.gather(*(client.post(url, headers=headers) for _ in range(20)))
        assert len({response.json()["id"] for response in responses}) == 1
        assert (await client.post(url)).json()["id"] != responses[0].json()["id"]
        other = await submit(client)
        run(sessions, UUID(other["id"]))
        problem(await client.post(f"/jobs/{other['id']}/rerun", headers=headers), 422, "idempotency_mismatch")

    async def test_if_match_and_states(self, client: httpx.AsyncClient, dataset: Dataset, sessions: Sessions) -> None:
        source = await submit(client)
        url = f"/jobs/{source['id']}"
        problem(await client.post(f"{url}/retry"), 409, "illegal_move")
        run(sessions, UUID(source["id"]), JobState.FAILED)
        problem(await client.post(f"{url}/retry", headers={"If-Match": '"1"'}), 412, "precondition_failed")
        now = (await client.get(url)).headers["etag"]
        headers = {"If-Match": now, "Idempotency-Key": "k"}
        made = await client.post(f"{url}/retry", headers=headers)
        assert made.status_code == 202
        with transaction(sessions) as session:
            history.add_event(session, UUID(source["id"]), "log", {"level": "info", "message": "changed since"}, 1)
        problem(await client.post(f"{url}/retry", headers={"If-Match": now}), 412, "precondition_failed")
        assert (await client.post(f"{url}/retry", headers=headers)).json()["id"] == made.json()["id"]
        problem(await client.post("/jobs/019aa6a2-7f3e-7d54-9c1b-3f8a5d0e6b21/retry"), 404, "job_not_found")


class TestRetry:
    def test_a_retry_resumes_from_the_last_checkpoint_with_the_points_before_it(
        self, harness: SupervisorHarness
    ) -> None:
        argv = (*HONEST_PROGRAM, "--epochs", "4", "--epoch-seconds", "0.4")
        source = harness.submit(max_attempts=1)
        running = harness.start(*argv)
        harness.wait_until(lambda: (harness.job(source).checkpoint or {}).get("epoch", 0) >= 2)
        os.kill(harness.child_of(source), signal.SIGKILL)
        assert running.result() is JobState.FAILED
        before = harness.job(source)
        assert before.checkpoint is not None
        retried = create_rerun(harness, source, RerunKind.RETRY)
        moved = retried.checkpoint, retried.checkpoint["previous"]
        assert [part["path"] for part in moved] == [
            f"../{source}/{part['path']}" for part in (before.checkpoint, before.checkpoint["previous"])
        ]
        assert retried.checkpoint | {"path": "", "previous": {}} == before.checkpoint | {"path": "", "previous": {}}
        assert harness.points(retried.id) == [
            point for point in harness.points(source) if point[1] <= retried.checkpoint["epoch"]
        ]
        assert retried.metrics["train/loss"] == 0.5 ** retried.checkpoint["epoch"]
        between = create_rerun(harness, source, RerunKind.RETRY).id
        harness.want(between, Wanted.CANCEL)  # before it has a checkpoint of its own
        third = create_rerun(harness, between, RerunKind.RETRY)
        assert third.checkpoint == retried.checkpoint
        harness.want(third.id, Wanted.CANCEL)
        assert harness.run(retried.id, *argv) is JobState.SUCCEEDED
        resumed = harness.attempt(retried.id, 1).resumed_from
        assert resumed is not None
        assert resumed["epoch"] >= 2
        assert "training from epoch 0" not in (harness.folder(retried.id) / "log.txt").read_text()
        assert [value for name, _, value in harness.points(retried.id) if name == "train/loss"] == [
            0.5,
            0.25,
            0.125,
            0.0625,
        ]
        assert harness.job(source).state is JobState.FAILED
        assert log_messages(harness, retried.id)[0].startswith(f"retry of job {source}, from its checkpoint of epoch")

    def test_a_cancelled_job_without_a_checkpoint_starts_over(self, harness: SupervisorHarness) -> None:
        source = harness.submit()
        harness.want(source, Wanted.CANCEL)
        retried = create_rerun(harness, source, RerunKind.RETRY)
        assert harness.run(retried.id, *HONEST_PROGRAM) is JobState.SUCCEEDED

    def test_pain_08_a_spent_time_budget_is_not_retried(self, harness: SupervisorHarness) -> None:
        source = harness.submit(timeout_seconds=0.3)
        assert harness.run(source, *program("obedient", "--epoch-seconds", "60")) is JobState.FAILED
        assert harness.job(source).reason is Reason.TIMEOUT_EXEC
        with pytest.raises(IllegalTransition, match="timeout_seconds"):
            create_rerun(harness, source, RerunKind.RETRY)


class TestRerun:
    def test_a_rerun_with_equal_results_reports_no_drift(self, harness: SupervisorHarness) -> None:
        source = harness.submit()
        assert harness.run(source, *HONEST_PROGRAM) is JobState.SUCCEEDED
        rerun = create_rerun(harness, source, RerunKind.RERUN)
        assert rerun.checkpoint is None
        assert harness.points(rerun.id) == []
        assert harness.run(rerun.id, *HONEST_PROGRAM) is JobState.SUCCEEDED
        job = harness.job(rerun.id)
        assert job.evidence is not None
        assert job.evidence["drift"]["equal"]
        assert job.evidence["drift"]["points"] == 9
        assert "no drift, 9 of 9 points" in (job.message or "")

    def test_drift_is_reported_with_its_metric_and_size(self, harness: SupervisorHarness) -> None:
        source = harness.submit()
        assert harness.run(source, *HONEST_PROGRAM) is JobState.SUCCEEDED
        rerun = create_rerun(harness, source, RerunKind.RERUN)
        lie = json.dumps({"versions": {"torch": "0.0"}})
        assert (
            harness.run(rerun.id, *HONEST_PROGRAM, "--drift", "0.25", "--evidence-override", lie) is JobState.SUCCEEDED
        )
        job = harness.job(rerun.id)
        assert job.evidence is not None
        found = job.evidence["drift"]
        assert not found["equal"]
        assert (found["different_metrics"], found["different_points"], found["points"]) == (1, 3, 9)
        [metric] = found["metrics"]
        assert metric | {"source": 0, "rerun": 0} == {
            "name": "train/loss", "points": 3, "different_points": 3, "first_step": 1, "largest_difference": 0.25,
            "source": 0, "rerun": 0,
        }  # fmt: skip
        assert found["environment"] == {"version of torch": [None, "0.0"]}
        Drift.model_validate(found)
        assert "train/loss most, by 0.25" in (job.message or "")
        with transaction(harness.sessions) as session:
            last = history.read_after(session, rerun.id, 0)[-1]
        assert (last.kind, last.body["message"]) == ("state", job.message)
