"""Overrides of an attempt"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "jobs",
        sa.Column("overrides", JSONB(), server_default=sa.text("'{}'"), nullable=False, comment="{micro_batch_days}: how the next attempt differs from the spec without changing what it computes"),
    )
    op.add_column("attempts", sa.Column("overrides", JSONB(), server_default=sa.text("'{}'"), nullable=False))
    op.create_index("ix_jobs_source_job_id", "jobs", ["source_job_id"])
