"""Which scopes a search needs: those of every type it looks into, not only of what it returns.

Pure.

Standards:
    SMART   App Launch 2.2.0, scopes: "s" opens searching
    FHIR    R4 search.html 3.1.1.5.3 (chaining), 3.1.1.5.4 (_has), 3.1.1.5.5 (_include)
"""

from __future__ import annotations

from collections.abc import Iterator

from fhir_bridge.clients import Client
from fhir_bridge.search import Chain, Condition, Has, Query

__all__ = ["require_searchable"]


def require_searchable(query: Query, client: Client) -> None:
    """Return where the client's scopes open all that `query` looks into.

    What `_include` adds is not asked for here: it is left out where it is not open.

    Raises:
        FhirError: ACCESS_FORBIDDEN (403).
    """
    client.require(query.kind.name, "s")
    for condition in query.criteria:
        for kind in _within(condition):
            client.require(kind, "s")


def _within(condition: Condition) -> Iterator[str]:
    while isinstance(condition, Chain | Has):
        yield condition.kind.name
        condition = condition.inner
