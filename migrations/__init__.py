"""The Alembic migrations. `python -m jobs.admin migrate` upgrades a database to the newest one, and
`python -m jobs.admin migration TEXT` drafts the next one.
"""
