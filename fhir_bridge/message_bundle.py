"""A message Bundle: what it says of itself, and the Communication that it is about, made whole.

Pure. The Communication is taken out of its Bundle: what it refers to there becomes contained in it,
a Binary becomes the data of the attachment that names it, and a reference to something that is not
there stays one to where it came from, never to something of ours that happens to have that id.

Standards:
    FHIR    R4 messaging.html, bundle.html 2.36.4.1 (resolving references in Bundles),
            references.html 2.3.0.2 (contained resources)
"""

from __future__ import annotations

import copy
import hashlib
import re
from dataclasses import dataclass
from typing import Any, Final

import orjson

from certs.errors import Reason
from fhir_bridge.outcome import FhirError, Issue
from fhir_bridge.resources import check, decimal_text, require_type, require_well_formed
from fhir_bridge.terms import JSON, MID, Terms

__all__ = ["EVENT", "Message", "read_message", "whole_communication"]

EVENT: Final = "send-direct"
ENTRIES_MAX: Final = 1000
CONTAINED_MAX: Final = 200
# One Binary may be named many times; each is an attachment, and base64 is a third larger.
DATA_CHARACTERS_MAX: Final = 54 * 1024 * 1024
_RESTFUL: Final = re.compile(r"(https?://.+)/[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
_RELATIVE: Final = re.compile(r"[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}")
# What is retracted or held back is not sent, whoever asks.
_SENT_FROM: Final = frozenset({"preparation", "in-progress", "completed"})


@dataclass(frozen=True, slots=True)
class _Entry:
    """A resource of the Bundle; `base` is the server that its relative references are of."""

    url: str
    base: str | None
    resource: JSON


@dataclass(frozen=True, slots=True)
class Message:
    """A message. `id` is its MessageHeader's, `envelope` a digest of the Bundle's identifier.

    `digest` is of all that it says: that of the same message is the same, whatever envelope it
    comes in.
    """

    id: str
    envelope: str | None
    digest: str
    header: JSON
    entries: tuple[_Entry, ...]


def read_message(bundle: JSON) -> Message:
    """Return what `bundle` is.

    Raises:
        FhirError: RESOURCE_INVALID; it is no message that could be answered.
    """
    require_type(bundle, "Bundle")
    require_well_formed(bundle, "Bundle")
    if bundle.get("type") != "message":
        raise _invalid("value", "Only a Bundle of type message is taken here.", "Bundle.type")
    listed = bundle.get("entry")
    if not isinstance(listed, list) or len(listed) > ENTRIES_MAX:
        raise _invalid("structure", "A message has 1 to 1,000 entries.", "Bundle.entry")
    entries = tuple(_entry(item, position) for position, item in enumerate(listed))
    header = entries[0].resource
    if header["resourceType"] != "MessageHeader":
        text = "The first resource of a message is its MessageHeader."
        raise _invalid("structure", text, "Bundle.entry[0].resource")
    check(header)
    if "id" not in header:
        text = "A message is known by the id of its MessageHeader."
        raise _invalid("required", text, "MessageHeader.id")
    check({**bundle, "entry": [{"resource": header}]})
    identifier = bundle.get("identifier")
    return Message(
        id=header["id"],
        envelope=_digest(identifier) if identifier else None,
        digest=_digest([[entry.url, entry.resource] for entry in entries]),
        header=header,
        entries=entries,
    )


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

    def __init__(self, entries: tuple[_Entry, ...], base_url: str) -> None:
        self._base_url = base_url
        self._found = {entry.url: entry for entry in entries}
        for entry in entries:
            # Of a resource that has no server, people write the type and the id all the same.
            if entry.base is None and isinstance(identity := entry.resource.get("id"), str):
                self._found.setdefault(f"{entry.resource['resourceType']}/{identity}", entry)

    def find(self, reference: str, of: _Entry) -> _Entry | None:
        """Return the entry that `reference` means, which stands in the entry `of`."""
        return self._found.get(self.url(reference, of))

    def url(self, reference: str, of: _Entry) -> str:
        """Return `reference` in full."""
        plain = reference.partition("/_history/")[0]
        if of.base is not None and _RELATIVE.fullmatch(plain):
            return f"{of.base}/{plain}"
        return plain

    def outside(self, reference: str, of: _Entry) -> str:
        """Return what to write for a reference that leads out of the Bundle."""
        return self.url(reference, of).removeprefix(f"{self._base_url}/")


class _Whole:
    """Makes one Communication whole."""

    def __init__(self, resolver: _Resolver, focus: _Entry) -> None:
        self._resolver = resolver
        self._focus = focus
        self._names: dict[str, str] = {}  # of entries that are contained, by their url
        self._contained: list[JSON] = []
        self._waiting: list[tuple[JSON, _Entry, dict[str, str]]] = []
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

    def _rewrite(self, value: Any, entry: _Entry, local: dict[str, str]) -> None:
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

    def _refer(self, element: JSON, literal: str, entry: _Entry, local: dict[str, str]) -> None:
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
            self._issues.append(Issue("not-supported", text, f"Bundle.entry.{found.url}"))
        else:
            element["reference"] = f"#{self._place(found)}"

    def _fetch(self, element: JSON, url: str, entry: _Entry) -> None:
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

    def _place(self, entry: _Entry) -> str:
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


def _entry(item: Any, position: int) -> _Entry:
    at = f"Bundle.entry[{position}]"
    resource = item.get("resource") if isinstance(item, dict) else None
    if not isinstance(resource, dict) or not isinstance(resource.get("resourceType"), str):
        raise _invalid("structure", "An entry of a message has a resource.", f"{at}.resource")
    url = item.get("fullUrl")
    if not isinstance(url, str):
        # Without a URL it is known by its type and id, or not at all.
        return _Entry(f"{resource['resourceType']}/{resource.get('id')}", None, resource)
    restful = _RESTFUL.fullmatch(url)
    return _Entry(url, restful[1] if restful else None, resource)


def _mid_of(entry: _Entry) -> JSON | None:
    """Return the identifier by which a message is known: its Message-ID."""
    for identifier in _dicts(entry.resource.get("identifier")):
        value = identifier.get("value")
        if isinstance(value, str) and value.startswith(MID):
            return identifier
    return None


def _dicts(value: Any) -> list[JSON]:
    """Return the objects in a list; what else stands there is judged when it is whole."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _digest(value: Any) -> str:
    octets = orjson.dumps(value, default=decimal_text, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(octets).hexdigest()


def _invalid(code: str, text: str, expression: str) -> FhirError:
    return FhirError(Reason.RESOURCE_INVALID, [Issue(code, text, expression)])


def _unsupported(code: str, text: str, expression: str) -> FhirError:
    return FhirError(Reason.RESOURCE_UNSUPPORTED, [Issue(code, text, expression)])
