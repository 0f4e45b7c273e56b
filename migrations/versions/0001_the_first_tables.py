"""The first tables"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True)

# What no CHECK can enforce: the state transitions (jobs.states.NEXT as of this migration), and that events are append-only.
TRIGGERS = """
CREATE FUNCTION jobs_guard_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'queued' THEN
            RAISE EXCEPTION 'a job starts queued, not %', NEW.state USING ERRCODE = 'check_violation';
        END IF;
    ELSIF NOT (
        OLD.state = 'queued' AND NEW.state IN ('running', 'paused', 'cancelled', 'failed')
        OR OLD.state = 'running' AND NEW.state IN ('succeeded', 'failed', 'cancelled', 'pruned', 'queued', 'paused')
        OR OLD.state = 'paused' AND NEW.state IN ('queued', 'cancelled')
    ) THEN
        RAISE EXCEPTION 'job % is %: it cannot become %', OLD.id, OLD.state, NEW.state USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER jobs_start BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION jobs_guard_state();
CREATE TRIGGER jobs_move BEFORE UPDATE ON jobs FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION jobs_guard_state();

CREATE FUNCTION events_guard_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND NOT EXISTS (SELECT FROM jobs WHERE id = OLD.job_id) THEN
        RETURN OLD;  -- the job itself was deleted
    END IF;
    RAISE EXCEPTION 'event % of job % is history: it cannot be changed', OLD.seq, OLD.job_id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER events_append_only BEFORE UPDATE OR DELETE ON events FOR EACH ROW EXECUTE FUNCTION events_guard_history();
"""


def upgrade() -> None:
    op.create_table(
        "jobs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("source_job_id", sa.Uuid()),
        sa.Column("trial_number", sa.Integer()),
        sa.Column("params", JSONB()),
        sa.Column("name", sa.Text()),
        sa.Column("tags", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("state", sa.String(20), server_default="queued", nullable=False),
        sa.Column("wanted", sa.String(20), server_default="run", nullable=False),
        sa.Column("reason", sa.String(40)),
        sa.Column("message", sa.Text()),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False, comment="attempts that ended in a transient failure"),
        sa.Column("max_attempts", sa.Integer(), server_default="3", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="5", nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("dataset", sa.Text()),
        sa.Column("dataset_fingerprint", sa.Text()),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("spec_digest", sa.Text(), nullable=False),
        sa.Column("progress", JSONB()),
        sa.Column("metrics", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment="latest value by name"),
        sa.Column("best", JSONB()),
        sa.Column("baselines", JSONB(), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("evidence", JSONB()),
        sa.Column("checkpoint", JSONB(), comment="{path, step, epoch, sha256}: the last whole one, path under the job's folder"),
        sa.Column("last_seq", sa.BigInteger(), server_default="0", nullable=False, comment="seq of the newest event: dense from 1"),
        sa.Column("child_seq", sa.Integer(), server_default="0", nullable=False, comment="the newest child event recorded of this attempt: replays end here"),
        sa.Column("version", sa.BigInteger(), server_default="0", nullable=False, comment="the ETag: grows with every change a client may see"),
        sa.Column("lease_until", INSTANT),
        sa.Column("worker", sa.Text()),
        sa.Column("not_before", INSTANT),
        sa.Column("queue_deadline", INSTANT),
        sa.Column("created_by", sa.Text(), server_default="anonymous", nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("queued_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("started_at", INSTANT),
        sa.Column("finished_at", INSTANT),
        sa.CheckConstraint("(state IN ('succeeded','failed','cancelled','pruned')) = (finished_at IS NOT NULL)", name=op.f("ck_jobs_finished")),
        sa.CheckConstraint("kind IN ('dataset', 'train', 'hpo', 'trial', 'preflight', 'ablation', 'ensemble', 'pretrain', 'predict')", name=op.f("ck_jobs_kind")),
        sa.CheckConstraint("lease_until IS NULL OR state = 'running'", name=op.f("ck_jobs_lease")),
        sa.CheckConstraint(
            "reason IN ('user', 'pruned', 'early_stopped', 'timeout_exec', 'timeout_queue', 'oom_gpu', 'oom_host', 'nan_loss', 'degenerate', 'stalled', 'worker_lost', 'drained', 'invalid_params', 'data_changed', 'leak_suspected', 'evidence_mismatch', 'objective_missing', 'stop_rule', 'goal_reached', 'too_many_failed_trials', 'preflight_failed', 'parent_stopped', 'disk_full', 'internal')",
            name=op.f("ck_jobs_reason"),
        ),
        sa.CheckConstraint("state IN ('queued', 'running', 'paused', 'succeeded', 'failed', 'cancelled', 'pruned')", name=op.f("ck_jobs_state")),
        sa.CheckConstraint("wanted IN ('run', 'pause', 'cancel', 'prune')", name=op.f("ck_jobs_wanted")),
        sa.CheckConstraint("failures <= attempt", name=op.f("ck_jobs_failures")),
        sa.CheckConstraint("priority BETWEEN 0 AND 9", name=op.f("ck_jobs_priority")),
        sa.ForeignKeyConstraint(["parent_id"], ["jobs.id"], name="fk_jobs_parent_id_jobs"),
        sa.ForeignKeyConstraint(["source_job_id"], ["jobs.id"], name="fk_jobs_source_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_created", "jobs", [sa.literal_column("created_at DESC"), sa.literal_column("id DESC")], unique=False)
    op.create_index("ix_jobs_dataset_fingerprint", "jobs", ["dataset_fingerprint"], unique=False)
    op.create_index("ix_jobs_lease", "jobs", ["lease_until"], unique=False, postgresql_where=sa.text("state = 'running'"))
    op.create_index("ix_jobs_parent_id", "jobs", ["parent_id"], unique=False)
    op.create_index("ix_jobs_queue", "jobs", ["queue", "priority", "created_at"], unique=False, postgresql_where=sa.text("state = 'queued'"))
    op.create_index("ix_jobs_tags", "jobs", ["tags"], unique=False, postgresql_using="gin")
    op.create_index("uq_jobs_parent_trial", "jobs", ["parent_id", "trial_number"], unique=True, postgresql_where=sa.text("trial_number IS NOT NULL"))
    op.create_table(
        "keys",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("prefix", sa.Text(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("scopes", sa.ARRAY(sa.Text()), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", INSTANT),
        sa.Column("revoked_at", INSTANT),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("sha256", name="uq_keys_sha256"),
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("busy_with", sa.Uuid()),
        sa.Column("started_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("last_seen", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_workers"),
    )
    op.create_table(
        "artifacts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_artifacts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", name="pk_artifacts"),
    )
    op.create_table(
        "attempts",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("device", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer()),
        sa.Column("resumed_from", JSONB()),
        sa.Column("started_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", INSTANT),
        sa.Column("outcome", sa.Text(), comment="succeeded, failed, cancelled, pruned, paused, requeued, lost"),
        sa.Column("reason", sa.String(40)),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("signal", sa.Text()),
        sa.Column("log_tail", sa.Text()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_attempts_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "attempt", name="pk_attempts"),
    )
    op.create_table(
        "daily_metrics",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("split", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("horizon", sa.Integer(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_daily_metrics_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "source", "split", "name", "horizon", "day", name="pk_daily_metrics"),
    )
    op.create_table(
        "datasets",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("spec", JSONB(), nullable=False),
        sa.Column("manifest", JSONB(), nullable=False),
        sa.Column("profile", JSONB(), nullable=False),
        sa.Column("leak_report", JSONB(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False, comment="the cache folder, relative to the run root"),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("deleted_at", INSTANT),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_datasets_job_id_jobs"),
        sa.PrimaryKeyConstraint("id", name="pk_datasets"),
    )
    op.create_index("ix_datasets_fingerprint", "datasets", ["fingerprint"], unique=False)
    op.create_index("uq_datasets_content", "datasets", ["name", "fingerprint"], unique=True, postgresql_where=sa.text("deleted_at IS NULL"))
    op.create_index("uq_datasets_version", "datasets", ["name", "version"], unique=True)
    op.create_table(
        "events",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("child_seq", sa.Integer()),
        sa.Column("kind", sa.Text(), nullable=False, comment="state, metrics, log"),
        sa.Column("time", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.Column("body", JSONB(), nullable=False),
        sa.CheckConstraint("kind IN ('state','metrics','log')", name=op.f("ck_events_kind")),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_events_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "seq", name="pk_events"),
    )
    op.create_index("uq_events_child", "events", ["job_id", "attempt", "child_seq"], unique=True, postgresql_where=sa.text("child_seq IS NOT NULL"))
    op.create_table(
        "idempotency",
        sa.Column("principal", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_idempotency_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("principal", "key", name="pk_idempotency"),
    )
    op.create_table(
        "metrics",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("value", sa.Double()),
        sa.Column("time", INSTANT, server_default=sa.text("now()"), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name="fk_metrics_job_id_jobs", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", "name", "step", name="pk_metrics"),
    )
    op.execute(TRIGGERS)
