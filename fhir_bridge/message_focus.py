"""What a message is about: the Communication of its Bundle, able to stand alone.

Pure. The Communication is taken out of its Bundle: what it refers to there becomes contained in it,
a Binary becomes the data of the attachment that names it, and a reference to something that is not
there stays one to where it came from, never to something of ours that happens to have that id.

Standards:
    FHIR    R4 bundle.html 2.36.4.1 (resolving references in Bundles), references.html 2.3.0.2
            (contained resources), messageheader.html (event, focus)
"""

from __future__ import annotations

import copy
import re
from typing import Any, Final

from certs.errors import Reason
from fhir_bridge.message_bundle import Entry, Message
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.terms import JSON, MID, Terms

__all__ = ["EVENT", "whole_communication"]

EVENT: Final = "send-direct"
CONTAINED_MAX: Final = 200
# One Binary may be named many times; each is an attachment, and base64 is a third larger.
DATA_CHARACTERS_MAX: Final = 54 * 1024 * 1024
_RELATIVE: Final = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
# What is retracted or held back is not sent, whoever asks.
_SENT_FROM: Final = frozenset({"preparation", "in-progress", "completed"})


def whole_communication(message: Message, *, base_url: str, terms: Terms) -> JSON:
    """Return the Communication that `message` is about, able to stand alone, as one to be sent.

    Raises:
        FhirError: RESOURCE_UNSUPPORTED; its event or focus is not what is served here, or it
            refers to a Binary without data.
    """
    header = message.header
    coding = header.get("eventCoding", {})
    if (coding.get("system"), coding.get("code")) != (terms.system("message-event"), EVENT):
        text = f"The event served here is {terms.system('message-event')}|{EVENT}."
        raise _unsupported("not-supported", text, "MessageHeader.event")
    if "response" in header:
        text = "This is an answer, and nothing was asked from here."
        raise _unsupported("not-supported", text, "MessageHeader.response")
    resolver = _Resolver(message.entries, base_url)
    first = message.entries[0]
    focus = [resolver.find(item.get("reference", ""), first) for item in header.get("focus", ())]
    if len(focus) != 1 or focus[0] is None or focus[0].resource["resourceType"] != "Communication":
        text = "The focus is one Communication, which is an entry of the message."
        raise _unsupported("invalid", text, "MessageHeader.focus")
    if str(focus[0].resource.get("status")) not in _SENT_FROM:
        text = "A message of this status is not sent."
        raise _unsupported("business-rule", text, "Communication.status")
    return {**_Whole(resolver, focus[0]).communication(), "status": "in-progress"}


class _Resolver:
    """Finds what references mean within the Bundle."""

    def __init__(self, entries: tuple[Entry, ...], base_url: str) -> None:
        self._base_url = base_url
        self._found = {entry.url: entry for entry in entries}
        for entry in entries:
            # Of a resource that has no server, people write the type and the id all the same.
            if entry.base is None and isinstance(identity := entry.resource.get("id"), str):
                self._found.setdefault(f"{entry.resource['resourceType']}/{identity}", entry)

    def find(self, reference: str, of: Entry) -> Entry | None:
        """Return the entry that `reference` means, which stands in the entry `of`."""
        return self._found.get(self.url(reference, of))

    def url(self, reference: str, of: Entry) -> str:
        """Return `reference` in full."""
        plain = reference.partition("/_history/")[0]
        if of.base is not None and _RELATIVE.fullmatch(plain):
            return f"{of.base}/{plain}"
        return plain

    def outside(self, reference: str, of: Entry) -> str:
        """Return what to write for a reference that leads out of the Bundle."""
        return self.url(reference, of).removeprefix(f"{self._base_url}/")


class _Whole:
    """Makes one Communication whole."""

    def __init__(self, resolver: _Resolver, focus: Entry) -> None:
        self._resolver = resolver
        self._focus = focus
        self._names: dict[str, str] = {}  # of entries that are contained, by their url
        self._contained: list[JSON] = []
        self._waiting: list[tuple[JSON, Entry, dict[str, str]]] = []
        self._issues: list[Issue] = []
        self._number = 0
        self._characters = 0
        own = focus.resource.get("contained")
        self._taken = {str(item.get("id")) for item in _dicts(own)}

    def communication(self) -> JSON:
        resource: JSON = copy.deepcopy(self._focus.resource)
        self._attach_binaries(resource)
        self._rewrite(resource, self._focus, {})
        while self._waiting:
            self._rewrite(*self._waiting.pop())
        if self._issues:
            raise FhirError(Reason.RESOURCE_UNSUPPORTED, self._issues)
        if self._contained:
            own = resource.get("contained")
            resource["contained"] = [*(own if isinstance(own, list) else ()), *self._contained]
        return resource

    def _attach_binaries(self, resource: JSON) -> None:
        """Make each contentReference to a Binary of the Bundle an attachment."""
        for payload in _dicts(resource.get("payload")):
            reference = payload.get("contentReference")
            if not isinstance(reference, dict):
                continue
            literal = reference.get("reference")
            found = self._resolver.find(literal, self._focus) if isinstance(literal, str) else None
            if found is not None and found.resource["resourceType"] == "Binary":
                del payload["contentReference"]
                title = {"title": reference["display"]} if "display" in reference else {}
                payload["contentAttachment"] = {"url": found.url, **title}

    def _rewrite(self, value: Any, entry: Entry, local: dict[str, str]) -> None:
        """Rewrite what stands in `value`, of `entry`; `local` has the new names of its own."""
        if isinstance(value, list):
            for item in value:
                self._rewrite(item, entry, local)
        elif isinstance(value, dict):
            if isinstance(literal := value.get("reference"), str):
                self._refer(value, literal, entry, local)
            if isinstance(url := value.get("url"), str):
                self._fetch(value, url, entry)
            for item in value.values():
                self._rewrite(item, entry, local)

    def _refer(self, element: JSON, literal: str, entry: Entry, local: dict[str, str]) -> None:
        if literal.startswith("#"):
            element["reference"] = local.get(literal, literal)
            return
        found = self._resolver.find(literal, entry)
        if found is None:
            element["reference"] = self._resolver.outside(literal, entry)
        elif found.url == self._focus.url:
            element["reference"] = "#"
        elif found.resource["resourceType"] == "Communication" and (mid := _mid_of(found)):
            # Another message is known by its Message-ID, and is no part of this one.
            del element["reference"]
            element.update(type="Communication", identifier=mid)
        elif found.resource["resourceType"] == "Binary":
            text = "A Binary of a message is named by an attachment, or by contentReference."
            self._issues.append(Issue("not-supported", text, "Bundle.entry"))
        else:
            element["reference"] = f"#{self._place(found)}"

    def _fetch(self, element: JSON, url: str, entry: Entry) -> None:
        """Give an attachment the data of the Binary that it names."""
        found = self._resolver.find(url, entry)
        if found is None or found.resource["resourceType"] != "Binary":
            if _RELATIVE.fullmatch(url):
                element["url"] = self._resolver.url(url, entry)
            return
        data, kind = found.resource.get("data"), found.resource.get("contentType")
        if not isinstance(data, str):
            issue = Issue("required", "A Binary of a message has its data.", "Binary.data")
            self._issues.append(issue)
            return
        self._characters += len(data)
        if self._characters > DATA_CHARACTERS_MAX:
            raise _unsupported("too-long", "The attachments are too large.", "Bundle.entry")
        del element["url"]
        element["data"] = data
        element.setdefault("contentType", kind)

    def _place(self, entry: Entry) -> str:
        """Return the name that the resource of `entry` has among the contained ones."""
        if entry.url in self._names:
            return self._names[entry.url]
        name = self._names[entry.url] = self._new_name()
        item = {k: v for k, v in entry.resource.items() if k not in ("meta", "text", "contained")}
        inner = _dicts(entry.resource.get("contained"))
        # Nothing is contained in what is contained: it moves up, under a name of its own.
        names = [self._new_name() for _ in inner]
        local = {f"#{each.get('id')}": f"#{new}" for each, new in zip(inner, names, strict=True)}
        local["#"] = f"#{name}"
        for resource, new in zip([item, *inner], [name, *names], strict=True):
            placed = copy.deepcopy({**resource, "id": new})
            self._contained.append(placed)
            self._waiting.append((placed, entry, local))
        return name

    def _new_name(self) -> str:
        if self._number == CONTAINED_MAX:
            text = f"A message is about at most {CONTAINED_MAX} resources beside it."
            raise _unsupported("too-costly", text, "Bundle.entry")
        self._number += 1
        name = f"entry-{self._number}"
        return name if name not in self._taken else self._new_name()


def _mid_of(entry: Entry) -> JSON | None:
    """Return the identifier by which a message is known: its Message-ID."""
    for identifier in _dicts(entry.resource.get("identifier")):
        value = identifier.get("value")
        if isinstance(value, str) and value.startswith(MID):
            return identifier
    return None


def _dicts(value: Any) -> list[JSON]:
    """Return the objects in a list; what else stands there is judged when it is whole."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _unsupported(code: str, text: str, expression: str) -> FhirError:
    return FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue(code, text, expression)])
