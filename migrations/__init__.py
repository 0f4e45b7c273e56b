"""The schema's history. `python -m jobs.admin migrate` brings a database to its head, and
`python -m jobs.admin migration TEXT` drafts the next step.
"""
