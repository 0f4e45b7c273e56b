"""When the bytes of a dataset's cache and of an artifact were last read whole"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for table in ("datasets", "artifacts"):  # null for the files there are: nobody has read them yet
        op.add_column(
            table,
            sa.Column("verified_at", sa.DateTime(timezone=True), comment="when all bytes were last read and found whole; null: not since they were not"),
        )
        op.alter_column(table, "verified_at", server_default=sa.text("now()"))


def downgrade() -> None:
    for table in ("datasets", "artifacts"):
        op.drop_column(table, "verified_at")
