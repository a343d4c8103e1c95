"""Fixtures that every test may name; each is documented in its helper."""

from __future__ import annotations

from tests.helpers.database import database, database_url, postgresql_server, sqlite_database

__all__ = ["database", "database_url", "postgresql_server", "sqlite_database"]
