"""What of a resource may go to another server, and what of another server's may be taken here.

Pure. What is named under our own canonical base is the gateway's to state, so that it neither
goes out nor comes in; a relative reference means something on its own server only.

Standards:
    FHIR    R4 references.html 2.3.0.1 (literal references), json.html (null beside extensions),
            domainresource.html (narrative, contained), extensibility.html (ext-1)
    fhir.md section 3.4 ("minimum necessary: SSN never")
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fhir_bridge.terms import JSON, Terms, extension_value

__all__ = ["Border", "arriving", "leaving"]

_RELATIVE: Final = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(?:/_history/[^/]+)?")
_CONDITIONAL: Final = re.compile(r"[A-Z][A-Za-z]+\?\S+")
_SCHEME: Final = re.compile(r"([a-z][a-z0-9+.-]*):", re.IGNORECASE)
_REFERRED: Final = frozenset({"http", "https", "urn"})
_LINKED: Final = _REFERRED | {"mailto", "tel"}
_LINKS: Final = frozenset({"url", "uri", "valueUri", "valueUrl"})
_EXTENSIONS: Final = frozenset({"extension", "modifierExtension"})
_SSN: Final = frozenset(
    {"http://hl7.org/fhir/sid/us-ssn", "urn:oid:2.16.840.1.113883.4.1"}  # FHIR, C-CDA
)


@dataclass(frozen=True, slots=True)
class Border:
    """What may pass. `link` returns what to write for a link, None where it is left out.

    It is told whether the link is a `Reference.reference`. `hidden` says which objects stay back.
    """

    link: Callable[[str, bool], str | None]
    hidden: Callable[[JSON], bool]

    def passed(self, value: Any, name: str = "") -> Any | None:
        """Return what of the element `name` passes; None where nothing does."""
        if isinstance(value, list):
            return self._list(name, value)
        return self._object(value) if isinstance(value, dict) else value

    def contained(self, resource: Mapping[str, Any], elements: JSON) -> JSON:
        """Return `elements`, which have passed, with what of `resource.contained` they refer to."""
        pool = {}
        for item in resource.get("contained", ()):
            passed = self.passed(item)
            if isinstance(passed, dict) and "id" in passed:
                pool[f"#{passed['id']}"] = passed
        names = {"#", *pool}
        whole = Border(
            lambda text, _: text if text[:1] != "#" or text in names else None, lambda _: False
        )
        found: dict[str, Any] = {}
        kept = {name: whole.passed(item, name) for name, item in elements.items()}
        pending = [*_anchors(kept)]
        while pending:
            name = pending.pop()
            if name in pool and name not in found:
                found[name] = whole.passed(pool[name])
                pending += _anchors(found[name])
        resources = [found[name] for name in pool if name in found]
        said = {name: item for name, item in kept.items() if item is not None}
        return {**said, "contained": resources} if resources else said

    def _object(self, element: JSON) -> JSON | None:
        if self.hidden(element):
            return None
        found: JSON = {}
        for name, item in element.items():
            # Narrative repeats what is left out here; meta is of the server that it is on.
            if isinstance(item, dict) and (name == "text" or name == "meta"):
                continue
            if isinstance(item, str):
                passed: Any = self._text(name, item)
            else:
                passed = self.passed(item, name)
            if passed is not None:
                found[name] = passed
        return found or None

    def _text(self, name: str, text: str) -> str | None:
        forms = (_RELATIVE.fullmatch, _CONDITIONAL.fullmatch, _SCHEME.match)
        if name == "reference" or (name in _LINKS and any(form(text) for form in forms)):
            return self.link(text, name == "reference")
        return text

    def _list(self, name: str, items: list[Any]) -> list[Any] | None:
        passed = [self.passed(item) for item in items]
        if name in _EXTENSIONS:
            # ext-1: one that has lost what it says says nothing.
            passed = [e for e in passed if isinstance(e, dict) and _says(e)]
        elif None not in items and not name.startswith("_"):
            passed = [item for item in passed if item is not None]
        return passed if any(item is not None for item in passed) else None


def leaving(base_url: str, terms: Terms) -> Border:
    """Return what may leave the server at `base_url`.

    Its own relative references become absolute. Social security numbers stay, what bears our
    extension `internal`, and what is ours.
    """
    internal = terms.extension("internal")

    def link(text: str, _: bool) -> str | None:
        if _RELATIVE.fullmatch(text):
            return f"{base_url}/{text}"
        return text if text.startswith("#") or _SCHEME.match(text) else None

    def hidden(element: JSON) -> bool:
        private = extension_value(element, internal) is True
        return private or _is_ours(element, terms) or _is_ssn(element)

    return Border(link, hidden)


def arriving(base_url: str, terms: Terms) -> Border:
    """Return what may come to the server at `base_url` ("": not known) from another one.

    Nothing that names a resource of this server, whatever the other one says; nothing of ours.
    """
    own = f"{base_url}/".lower()

    def link(text: str, is_reference: bool) -> str | None:
        if text.startswith("#"):
            return text
        scheme = _SCHEME.match(text)
        allowed = _REFERRED if is_reference else _LINKED
        here = bool(base_url) and f"{text}/".lower().startswith(own)
        return text if scheme and scheme[1].lower() in allowed and not here else None

    return Border(link, lambda element: _is_ours(element, terms))


def _is_ours(element: Mapping[str, Any], terms: Terms) -> bool:
    ours = f"{terms.canonical}/"
    return any(str(element.get(name, "")).startswith(ours) for name in ("url", "system"))


def _is_ssn(element: Mapping[str, Any]) -> bool:
    kind = element.get("type")
    codings = kind.get("coding", ()) if isinstance(kind, dict) else ()
    return element.get("system") in _SSN or any(coding.get("code") == "SS" for coding in codings)


def _says(extension: Mapping[str, Any]) -> bool:
    return any(name == "extension" or name.lstrip("_").startswith("value") for name in extension)


def _anchors(value: Any) -> Iterator[str]:
    """Yield the references to contained resources."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            reference = item.get("reference")
            if isinstance(reference, str) and reference.startswith("#"):
                yield reference
            pending += item.values()
        elif isinstance(item, list):
            pending += item
