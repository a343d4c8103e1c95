"""The schema's history, run by Alembic (`gateway.schema`).

A new revision: change the tables, then write `versions/NNNN_<what>.py` by hand or from
`alembic.autogenerate`. Until the first release there is one revision, and
`python -m gateway.migrations.write` writes it anew from the tables.
"""
