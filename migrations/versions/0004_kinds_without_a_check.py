"""The kinds of job are those of the code: no CHECK lists them"""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_constraint(op.f("ck_jobs_kind"), "jobs", type_="check")


def downgrade() -> None:
    op.create_check_constraint(
        op.f("ck_jobs_kind"),
        "jobs",
        "kind IN ('dataset', 'train', 'hpo', 'trial', 'preflight', 'ablation', 'ensemble', 'pretrain', 'predict')",
    )
