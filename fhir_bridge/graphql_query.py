"""GraphQL over resources: a query is parsed, bounded, and answered from their JSON.

Pure, but for what it asks its `Source`. There is no schema to introspect: a field is an element's
name, and one that is not there is null. Only queries are taken: lists, single resources, and what
their references lead to.

Standards:
    FHIR    R4 graphql.html: `XList`, `X(id:)`, `resource` on a Reference; "_" stands for "-"
    GRAPHQL October 2021, sections 2 (language), 6.3 (field collection)
    fhir.md section 2 row 14
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

from graphql import GraphQLError, parse
from graphql.language import (
    DocumentNode,
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    InlineFragmentNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    ValueNode,
    VariableNode,
)
from graphql.utilities import value_from_ast_untyped

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON

__all__ = ["Source", "answer"]

QUERY_CHARACTERS_MAX: Final = 64 * 1024
TOKENS_MAX: Final = 4000
DEPTH_MAX: Final = 15
FIELDS_MAX: Final = 50_000  # of the answer
SEARCHES_MAX: Final = 60  # a page of threads asks for one each
RESOLVED_MAX: Final = 500


class Source(Protocol):
    """Where resources come from; each raises FhirError for what may not be seen."""

    def listed(self, kind: str, parameters: Sequence[tuple[str, str]]) -> Sequence[JSON]:
        """Return a page of what a search finds."""
        ...

    def one(self, kind: str, identity: str) -> JSON | None:
        """Return a resource."""
        ...


def answer(query: str, variables: Mapping[str, Any], name: str | None, source: Source) -> JSON:
    """Return the `data` of the operation `name` in `query`, or of the only one.

    Raises:
        FhirError: RESOURCE_INVALID; no query, one that asks for what there is not, or too much.
            What the source raises.
    """
    if len(query) > QUERY_CHARACTERS_MAX:
        raise _bad("too-costly", "The query is too long.")
    try:
        document = parse(query, no_location=True, max_tokens=TOKENS_MAX)
    except (GraphQLError, RecursionError):
        raise _bad("structure", "This is not a GraphQL query, or it has too many tokens.") from None
    operation = _operation(document, name)
    return _Run(document, _defaults(operation, variables), source).run(operation)


def _operation(document: DocumentNode, name: str | None) -> OperationDefinitionNode:
    found = [d for d in document.definitions if isinstance(d, OperationDefinitionNode)]
    named = [d for d in found if name is None or (d.name and d.name.value == name)]
    if len(named) != 1:
        raise _bad("not-found", "Name one operation of the query.")
    if named[0].operation is not OperationType.QUERY:
        raise _bad("not-supported", "Only queries are answered.")
    return named[0]


def _defaults(operation: OperationDefinitionNode, given: Mapping[str, Any]) -> dict[str, Any]:
    values = {
        d.variable.name.value: value_from_ast_untyped(d.default_value)
        for d in operation.variable_definitions or ()
        if d.default_value is not None
    }
    return {**values, **given}


class _Run:
    """One execution, with its budgets."""

    def __init__(
        self, document: DocumentNode, variables: Mapping[str, Any], source: Source
    ) -> None:
        self.variables = variables
        self.source = source
        self.fields = self.searches = self.resolved = 0
        self.fragments = {
            d.name.value: d for d in document.definitions if isinstance(d, FragmentDefinitionNode)
        }

    def run(self, operation: OperationDefinitionNode) -> JSON:
        return {
            key: self.root(nodes)
            for key, nodes in self.collected([operation.selection_set], {}, 1).items()
        }

    def root(self, nodes: Sequence[FieldNode]) -> Any:
        name, arguments = nodes[0].name.value, self.arguments(nodes[0])
        if name == "__typename":
            return "Query"
        self.searches += 1
        if self.searches > SEARCHES_MAX:
            raise _bad("too-costly", f"A query asks for at most {SEARCHES_MAX} lists.")
        if name.endswith("List"):
            pairs = [(_hyphened(key), value) for key, value in arguments.items()]
            found = self.source.listed(name.removesuffix("List"), pairs)
            return [self.item(resource, nodes, 2) for resource in found]
        if set(arguments) != {"id"}:
            raise _bad("not-supported", "The root has XList with search arguments, and X(id:).")
        one = self.source.one(name, arguments["id"])
        return None if one is None else self.item(one, nodes, 2)

    def item(self, item: Mapping[str, Any], nodes: Sequence[FieldNode], depth: int) -> JSON:
        """Return what `nodes` select of one object."""
        if depth > DEPTH_MAX:
            raise _bad("too-costly", "The query is too deep.")
        sets = [node.selection_set for node in nodes if node.selection_set is not None]
        if not sets:
            raise _bad("required", f"Say which fields of {nodes[0].name.value} you want.")
        return {
            key: self.field(item, found, depth)
            for key, found in self.collected(sets, item, depth).items()
        }

    def field(self, item: Mapping[str, Any], nodes: Sequence[FieldNode], depth: int) -> Any:
        self.fields += 1
        if self.fields > FIELDS_MAX:
            raise _bad("too-costly", "The answer would be too large.")
        name = nodes[0].name.value
        if name == "__typename":
            return item.get("resourceType")
        if name.startswith("__"):
            raise _bad("not-supported", "There is no introspection here.")
        if name == "resource" and isinstance(item.get("reference"), str):
            target = self.referred(item["reference"], self.arguments(nodes[0]))
            return None if target is None else self.item(target, nodes, depth + 1)
        value = item.get(name)
        if isinstance(value, list):
            kept = _filtered(value, self.arguments(nodes[0]))
            return [self.value(one, nodes, depth) for one in kept]
        return self.value(value, nodes, depth)

    def value(self, value: Any, nodes: Sequence[FieldNode], depth: int) -> Any:
        if isinstance(value, dict):
            return self.item(value, nodes, depth + 1)
        if value is not None and nodes[0].selection_set is not None:
            raise _bad("structure", f"{nodes[0].name.value} has no fields.")
        return value

    def referred(self, literal: str, arguments: Mapping[str, str]) -> JSON | None:
        """Return what a reference leads to; None where it is not here, or of another type."""
        kind, _, identity = literal.partition("/")
        if not identity or arguments.get("type", kind) != kind:
            return None
        self.resolved += 1
        if self.resolved > RESOLVED_MAX:
            raise _bad("too-costly", "The query follows too many references.")
        return self.source.one(kind, identity)

    def collected(
        self, sets: Sequence[SelectionSetNode], item: Mapping[str, Any], depth: int
    ) -> dict[str, list[FieldNode]]:
        """Return the fields selected, by the key of each in the answer (GRAPHQL 6.3.2)."""
        found: dict[str, list[FieldNode]] = {}
        for selection in sets:
            for node in self.selected(selection, item, depth):
                key = node.alias.value if node.alias else node.name.value
                found.setdefault(key, []).append(node)
        return found

    def selected(
        self, selection: SelectionSetNode, item: Mapping[str, Any], depth: int
    ) -> Iterator[FieldNode]:
        if depth > DEPTH_MAX:
            raise _bad("too-costly", "The query is too deep, or its fragments go in circles.")
        for node in selection.selections:
            self.fields += 1
            if self.fields > FIELDS_MAX:
                raise _bad("too-costly", "The query is too large.")
            if not self.wanted(node):
                continue
            if isinstance(node, FieldNode):
                yield node
                continue
            fragment: Any = node
            if isinstance(node, FragmentSpreadNode):
                fragment = self.fragments.get(node.name.value)
                if fragment is None:
                    raise _bad("not-found", "The query names a fragment that it does not have.")
            if _applies(fragment, item):
                yield from self.selected(fragment.selection_set, item, depth + 1)

    def wanted(self, node: Any) -> bool:
        """Say whether `@include` and `@skip` let a selection in; no other directive is known."""
        for directive in node.directives or ():
            given = {a.name.value: self.plain(a.value) for a in directive.arguments or ()}
            if directive.name.value not in ("include", "skip"):
                raise _bad("not-supported", "The directives are include and skip.")
            if bool(given.get("if")) is (directive.name.value == "skip"):
                return False
        return True

    def arguments(self, node: FieldNode) -> dict[str, str]:
        """Return the arguments of a field as text; those that are null are not there."""
        given = {a.name.value: self.plain(a.value) for a in node.arguments or ()}
        return {name: _text(value) for name, value in given.items() if value is not None}

    def plain(self, value: ValueNode) -> Any:
        if isinstance(value, VariableNode):
            return self.variables.get(value.name.value)
        return value_from_ast_untyped(value, dict(self.variables))


def _applies(
    fragment: InlineFragmentNode | FragmentDefinitionNode, item: Mapping[str, Any]
) -> bool:
    condition = fragment.type_condition
    kind = item.get("resourceType")
    return condition is None or kind is None or condition.name.value in (kind, "Resource")


def _filtered(values: list[Any], arguments: Mapping[str, str]) -> list[Any]:
    """Return those of a list whose elements are as the arguments say."""
    for name, wanted in arguments.items():
        values = [v for v in values if isinstance(v, dict) and _text(v.get(name)) == wanted]
    return values


def _hyphened(name: str) -> str:
    # FHIR graphql.html: a search parameter's "-" is "_" in GraphQL.
    return name if name.startswith("_") else name.replace("_", "-")


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return ",".join(map(_text, value))
    return json.dumps(value, default=str)


def _bad(code: str, text: str) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text)])
