"""The identity of the store, and why a worker takes no job"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "store",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("bound_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_store"),
    )
    op.create_index("uq_store_one", "store", [sa.text("(true)")], unique=True)
    op.add_column("workers", sa.Column("problem", sa.Text(), comment="why it takes no job"))


def downgrade() -> None:
    op.drop_column("workers", "problem")
    op.drop_table("store")
