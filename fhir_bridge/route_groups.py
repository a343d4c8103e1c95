"""Routes that are looked at together, or not at all.

Talks HTTP, as Starlette's router does. The operations are many routes, and most requests are none
of theirs: comparing each path with each of them cost more than reading a resource.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

__all__ = ["RouteGroup"]

_CHOSEN: Final = "fhir_bridge.route"


class RouteGroup(BaseRoute):
    """Routes whose paths all hold `mark`."""

    def __init__(self, mark: str, routes: Sequence[BaseRoute]) -> None:
        self._mark = mark
        self._routes = routes

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Return how the best of the routes matches."""
        if self._mark not in scope["path"]:
            return Match.NONE, {}
        partial: tuple[Match, Scope] = (Match.NONE, {})
        for route in self._routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                return match, {**child, _CHOSEN: route}
            if match is Match.PARTIAL and partial[0] is Match.NONE:
                partial = match, {**child, _CHOSEN: route}
        return partial

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve by the route that matched."""
        route: BaseRoute = scope[_CHOSEN]
        await route.handle(scope, receive, send)
