"""Indexes that lists of jobs are filtered by"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_NEWEST_FIRST = (sa.text("created_at DESC"), sa.text("id DESC"))
_FILTERS = ("dataset", "kind", "state")


def upgrade() -> None:
    op.drop_index("ix_jobs_created", "jobs")
    op.create_index("ix_jobs_created", "jobs", [*_NEWEST_FIRST], postgresql_include=["name", "kind", "dataset"])
    for column in _FILTERS:
        op.create_index(f"ix_jobs_{column}_created", "jobs", [column, *_NEWEST_FIRST])


def downgrade() -> None:
    for column in _FILTERS:
        op.drop_index(f"ix_jobs_{column}_created", "jobs")
    op.drop_index("ix_jobs_created", "jobs")
    op.create_index("ix_jobs_created", "jobs", [*_NEWEST_FIRST])
