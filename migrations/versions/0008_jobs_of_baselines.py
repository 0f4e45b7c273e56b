"""An index of the jobs of kind baselines, by what they compute"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_jobs_baselines",
        "jobs",
        ["dataset_fingerprint", "spec_digest"],
        postgresql_where=sa.text("kind = 'baselines'"),
    )


def downgrade() -> None:
    op.drop_index("ix_jobs_baselines", table_name="jobs")
