"""Consistency checks of rows and files after a chaos run: one sentence for each broken guarantee, [] if none."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from tests.chaos.workload import Viewer

Json = dict[str, Any]
# Each query finds violations; its key is the guarantee.
QUERIES: dict[str, str] = {
    "G1 every job is terminal": """
        SELECT id, state, wanted, reason, message FROM jobs
        WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'pruned')""",
    "G1 a job that did not succeed has a reason": """
        SELECT id, state FROM jobs WHERE state <> 'succeeded' AND reason IS NULL""",
    "G2 one key is one job": """
        SELECT key, count(*) FROM idempotency GROUP BY principal, key HAVING count(*) > 1""",
    "G5 seq is dense from 1": """
        SELECT j.id, j.last_seq, count(e.seq), min(e.seq), max(e.seq) FROM jobs j LEFT JOIN events e ON e.job_id = j.id
        GROUP BY j.id HAVING NOT (count(e.seq) = j.last_seq AND min(e.seq) = 1 AND max(e.seq) = j.last_seq)""",
    "G5 terminal is final": """
        SELECT e.job_id, e.seq FROM events e JOIN events later ON later.job_id = e.job_id AND later.seq > e.seq
        WHERE e.kind = 'state' AND e.body->>'state' IN ('succeeded', 'failed', 'cancelled', 'pruned')""",
    "G5 the last state event is the job's state": """
        SELECT j.id, j.state FROM jobs j WHERE j.state <> (
            SELECT body->>'state' FROM events e WHERE e.job_id = j.id AND kind = 'state' ORDER BY seq DESC LIMIT 1)""",
    "G10 no child event twice": """
        SELECT job_id, attempt, child_seq, count(*) FROM events WHERE child_seq IS NOT NULL
        GROUP BY job_id, attempt, child_seq HAVING count(*) > 1""",
    "G3 child events of one attempt are in order": """
        SELECT a.job_id, a.seq FROM events a JOIN events b ON b.job_id = a.job_id AND b.attempt = a.attempt
        WHERE b.seq > a.seq AND a.child_seq > b.child_seq""",
    "G3 an attempt writes nothing after a later one has started": """
        SELECT a.job_id, a.seq, a.attempt FROM events a JOIN events b ON b.job_id = a.job_id AND b.seq < a.seq
        WHERE b.attempt > a.attempt""",
    "G3 no metric is of a later attempt than the job's": """
        SELECT j.id, m.name FROM jobs j JOIN metrics m ON m.job_id = j.id WHERE m.attempt > j.attempt""",
    "G4 no epoch lacks its metrics": """
        SELECT j.id, count(*), max(m.step) FROM jobs j JOIN metrics m ON m.job_id = j.id
        WHERE j.state = 'succeeded' AND j.kind IN ('train', 'trial') AND m.name = 'val/rank_ic'
        GROUP BY j.id, j.spec HAVING NOT (count(*) = max(m.step)
            AND max(m.step) = (j.spec->'trainer'->>'max_epochs')::int)""",
    "G8 attempts are bounded": "SELECT id, failures, max_attempts FROM jobs WHERE failures > max_attempts",
    "every attempt has an end": """
        SELECT job_id, attempt FROM attempts WHERE outcome IS NULL OR ended_at IS NULL""",
    "attempts are dense from 1": """
        SELECT j.id FROM jobs j LEFT JOIN attempts a ON a.job_id = j.id
        GROUP BY j.id HAVING count(a.attempt) <> j.attempt OR coalesce(max(a.attempt), 0) <> j.attempt""",
    "a training that succeeded has evidence and its weights": """
        SELECT id FROM jobs j WHERE state = 'succeeded' AND kind = 'train' AND (evidence IS NULL OR NOT EXISTS (
            SELECT FROM artifacts a WHERE a.job_id = j.id AND a.name = 'best.safetensors'))""",
    "a dataset job that succeeded has registered its dataset": """
        SELECT id FROM jobs j WHERE state = 'succeeded' AND kind = 'dataset'
        AND NOT EXISTS (SELECT FROM datasets d WHERE d.name = j.dataset AND d.fingerprint = j.dataset_fingerprint)""",
    "in a study that succeeded every successful trial has a value": """
        SELECT p.id FROM jobs p JOIN jobs t ON t.parent_id = p.id AND t.kind = 'trial'
        WHERE p.state = 'succeeded' AND t.state = 'succeeded' AND t.best IS NULL""",
    "no lease is held": "SELECT id FROM jobs WHERE lease_until IS NOT NULL",
}
_NUMBERS = """
    SELECT j.id, j.spec_digest, m.name, m.step, m.value FROM jobs j JOIN metrics m ON m.job_id = j.id
    WHERE j.state = 'succeeded' AND j.kind = 'train' AND m.name NOT LIKE 'system/%' AND m.name NOT LIKE 'time/%'"""


def check(database_url: str, runs: Path, accepted: dict[str, str], viewers: list[Viewer]) -> list[str]:
    """One message for each violated guarantee."""
    broken: list[str] = []
    with psycopg.connect(database_url, row_factory=dict_row) as session:
        for promise, query in QUERIES.items():
            rows = session.execute(query).fetchmany(5)
            broken += [f"{promise}: {row}" for row in rows]
        ours = {str(row["id"]) for row in session.execute("SELECT id FROM jobs WHERE parent_id IS NULL")}
        broken += [f"G1 an accepted job is there: {job_id} is not" for job_id in set(accepted) - ours]
        broken += [f"G2 a job is there once: no client has received the id {job_id}" for job_id in ours - set(accepted)]
        broken += _same_numbers(list(session.execute(_NUMBERS)))
        broken += _files(list(session.execute("SELECT job_id, name, path, size_bytes, sha256 FROM artifacts")), runs)
        lengths = {str(row["id"]): row["last_seq"] for row in session.execute("SELECT id, last_seq FROM jobs")}
    for viewer in viewers:
        expected = list(range(1, lengths.get(viewer.job_id, 0) + 1))
        if viewer.seqs != expected:
            odd = [(at, seq) for at, seq in enumerate(viewer.seqs, 1) if at != seq][:3]
            received = f"received {len(viewer.seqs)} of {len(expected)} events, out of order at {odd}"
            broken.append(f"G9 each event once, in order: a viewer of {viewer.job_id} {received}")
    caches = runs / "caches"
    left = [*caches.glob(".*"), *caches.glob("*.partial"), *runs.rglob("unsent.jsonl")]
    return broken + [f"no temporary file is left: {path}" for path in left]


def _same_numbers(rows: list[Json]) -> list[str]:
    """G4: jobs of one spec have bit-identical metrics, whatever faults they had."""
    jobs: dict[tuple[str, str], dict[tuple[str, int], float | None]] = defaultdict(dict)
    for row in rows:
        jobs[row["spec_digest"], str(row["id"])][row["name"], row["step"]] = row["value"]
    first: dict[str, tuple[str, dict[tuple[str, int], float | None]]] = {}
    broken = []
    for (digest, job_id), numbers in sorted(jobs.items()):
        reference_id, reference = first.setdefault(digest, (job_id, numbers))
        if numbers != reference:
            differing = sorted(
                key for key in numbers.keys() | reference.keys() if numbers.get(key) != reference.get(key)
            )
            broken.append(f"G4 one spec, one result: {job_id} and {reference_id} differ in {differing[:3]}")
    return broken


def _files(rows: list[Json], runs: Path) -> list[str]:
    """G11: every listed artifact exists with its size and hash."""
    broken = []
    for row in rows:
        path = runs / row["path"]
        if not path.is_file() or path.stat().st_size != row["size_bytes"]:
            broken.append(f"G11 a file is listed when whole: {row['path']} is missing or truncated")
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            broken.append(f"G11 a file is listed when whole: {row['path']} has another hash")
    return broken


def own_faults(database_url: str, reasons: Sequence[str]) -> list[str]:
    """One message for each job that failed for one of these reasons."""
    query = "SELECT id, kind, reason, message FROM jobs WHERE state = 'failed' AND reason::text = ANY(%s) ORDER BY id"
    with psycopg.connect(database_url, row_factory=dict_row) as session:
        rows = session.execute(query, [list(reasons)])
        return [f"{row['kind']} {row['id']} failed by {row['reason']}: {row['message']}" for row in rows]


def outcomes(database_url: str) -> list[Json]:
    """Numbers of jobs and attempts by kind, state and reason."""
    query = """
        SELECT kind, state, reason, count(*) AS jobs, sum(attempt) AS attempts FROM jobs
        GROUP BY kind, state, reason ORDER BY kind, state, reason"""
    with psycopg.connect(database_url, row_factory=dict_row) as session:
        return [row | {"attempts": int(row["attempts"])} for row in session.execute(query)]
