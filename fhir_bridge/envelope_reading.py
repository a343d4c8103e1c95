"""What a received message's envelope adds to the Communication that the mail itself makes.

Pure. The signed mail is what counts: an envelope that does not say the same of the sender, the
recipients, the subject, the content and the Message-ID is no more than an attachment. It never
adds what only the gateway can state, and its references never name a resource of this server.

Standards:
    FHIR    R4 messaging.html, bundle.html (message)
    fhir.md section 3.4, row on `fhir_envelope`; section 3.6 rule 4
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO, Final

from fhir_bridge.binary_rows import clean
from fhir_bridge.delivery import address_of
from fhir_bridge.envelope import (
    CARRIED,
    ENVELOPE_OCTETS_MAX,
    EVENT,
    MARK,
    fits,
    other_identifiers,
)
from fhir_bridge.message_bundle import read_message
from fhir_bridge.mime import Index, Part, decoded
from fhir_bridge.mime_parts import mime_part_of
from fhir_bridge.outcome import FhirError
from fhir_bridge.portable import Border, arriving
from fhir_bridge.references import with_references
from fhir_bridge.resources import check, load, require_type
from fhir_bridge.terms import JSON, MAILTO, Terms, extension_value, message_id_of

__all__ = ["with_envelope"]

TOPIC_CHARACTERS_MAX: Final = 1000  # as of the Subject
# In base64, with its line ends.
_ENCODED_MAX: Final = ENVELOPE_OCTETS_MAX * 3 // 2
# What mail makes of a priority; the rest it cannot say.
_IN_MAIL: Final = {"stat": "asap", "routine": None}
# Names that the gateway gives to what it contains itself.
_OURS: Final = re.compile(r"sender|patient(?:-\d+)?")


def with_envelope(
    message: BinaryIO, found: Index, communication: JSON, base_url: str, terms: Terms
) -> JSON:
    """Return `communication`, which the mail made, with what its envelope adds.

    It is returned as it is where there is no envelope, or several, or one that does not agree.
    `base_url` is that of this server.
    """
    marked = [part for part in found.root.leaves() if _is_marked(part)]
    if len(marked) != 1 or found.partial:
        return communication
    said = _read(message, marked[0], terms)
    payload = next(
        (
            p
            for p in communication.get("payload", ())
            if mime_part_of(p, terms).get("path") == marked[0].path and "contentAttachment" in p
        ),
        None,
    )
    if said is None or payload is None:
        return communication
    rest = {**communication, "payload": [p for p in communication["payload"] if p is not payload]}
    url = payload["contentAttachment"]["url"]
    return _Agreement(rest, said, arriving(base_url, terms), terms).merged(url) or communication


def _is_marked(part: Part) -> bool:
    return (
        part.content_type == "application/fhir+json"
        and part.type_parameters.get(MARK[0]) == MARK[1]
        and part.disposition == "attachment"
        and part.length <= _ENCODED_MAX
    )


def _read(message: BinaryIO, part: Part, terms: Terms) -> JSON | None:
    """Return the Communication in the envelope, which is valid; None where it is no envelope."""
    octets = b""
    for block in decoded(message, part):
        octets += block
        if len(octets) > ENVELOPE_OCTETS_MAX:
            return None
    if not fits(octets):
        return None
    try:
        bundle = read_message(load(octets))
        header, *entries = bundle.entries
        event = header.resource.get("eventCoding", {})
        wanted = (terms.system("message-event"), EVENT)
        if len(entries) != 1 or (event.get("system"), event.get("code")) != wanted:
            return None
        [entry] = entries
        if header.resource.get("focus") != [{"reference": entry.url}]:
            return None
        require_type(entry.resource, "Communication")
        check(entry.resource)
    except FhirError:
        return None
    said = entry.resource
    source = f"{MAILTO}{address_of(said.get('sender', {}))}"
    return said if str(header.resource["source"].get("endpoint")).lower() == source else None


@dataclass(frozen=True, slots=True)
class _Agreement:
    """What the mail says (`mail`, without the envelope) and what the envelope says (`said`)."""

    mail: JSON
    said: JSON
    border: Border
    terms: Terms

    def merged(self, url: str) -> JSON | None:
        """Return the whole; `url` is the envelope's Binary. None where they do not agree."""
        payload = self.payload()
        if payload is None or not self.agrees():
            return None
        elements = {n: self.border.passed(self.said[n], n) for n in CARRIED if n in self.said}
        elements["identifier"] = self.border.passed(other_identifiers(self.said))
        elements["topic"] = self.border.passed(self.said.get("topic", {}))
        told = {name: item for name, item in elements.items() if item}
        added = self.renamed(self.border.contained(self.said, told))
        whole = {**self.mail, **added, "payload": payload}
        mark = {"url": self.terms.extension("envelope"), "valueReference": {"reference": url}}
        whole["extension"] = [*self.mail["extension"], mark, *added.get("extension", ())]
        for name in ("contained", "identifier"):
            whole[name] = [*self.mail.get(name, ()), *added.get(name, ())]
        whole["topic"] = {**added.get("topic", {}), **self.mail.get("topic", {})}
        if "priority" in self.said:
            whole["priority"] = self.said["priority"]
        whole = {name: item for name, item in whole.items() if item}
        try:
            check(whole)
        except FhirError:  # each is valid, and together they are not
            return None
        return whole

    def agrees(self) -> bool:
        """Say whether both say the same of what mail carries (fhir.md 3.3, class L)."""
        priority = self.said.get("priority")
        return (
            self.actor(self.said.get("sender")) == self.actor(self.mail.get("sender"))
            and "sender" in self.mail
            and self.recipients(self.said) == self.recipients(self.mail)
            and self.subject(self.said) == self.subject(self.mail)
            and message_id_of(self.said.get("identifier", ()))
            == message_id_of(self.mail["identifier"])
            and self.answered(self.said) == self.answered(self.mail)
            and _second(self.said.get("sent")) == _second(self.mail.get("sent"))
            and _IN_MAIL.get(str(priority), priority) == self.mail.get("priority")
        )

    def actor(self, reference: JSON | None) -> str | None:
        return address_of(reference) if reference is not None else None

    def recipients(self, resource: JSON) -> list[tuple[str, str | None]]:
        """Return those whom all may see."""
        url = self.terms.extension("recipient-role")
        listed = [
            (str(extension_value(each, url)), self.actor(each))
            for each in resource.get("recipient", ())
        ]
        # The mail's envelope may name this mailbox where the header does not.
        mail = resource is self.mail
        return [each for each in listed if not (mail and each[0] == "bcc")]

    def subject(self, resource: JSON) -> str:
        text = resource.get("topic", {}).get("text", "")
        return " ".join(clean(text).split())[:TOPIC_CHARACTERS_MAX].strip()

    def answered(self, resource: JSON) -> list[str | None]:
        listed = resource.get("inResponseTo", ())
        return [message_id_of([each.get("identifier", {})]) for each in listed]

    def payload(self) -> list[JSON] | None:
        """Return the payloads as the envelope orders them, with the content of the mail's."""
        shown = [(p, mime_part_of(p, self.terms)) for p in self.mail.get("payload", ())]
        derived = [p for p, part in shown if part.get("derived")]
        texts = [p for p, part in shown if "contentString" in p and not part.get("derived")]
        pool = [
            (p, part) for p, part in shown if "contentAttachment" in p and not part.get("derived")
        ]
        said = self.said.get("payload", ())
        strings = [_lines(p["contentString"]) for p in said if "contentString" in p]
        text = "\n\n".join(strings)
        if (text if text.strip() else "") != "".join(p["contentString"] for p in texts):
            return None
        found = []
        for each in said:
            if "contentString" in each:
                found += [self.dressed(each, texts[0], "contentString")] if texts else []
                continue
            match = self.match(each, pool)
            if match is None:
                return None
            pool.remove(match)
            found.append(self.dressed(each, match[0], "contentAttachment"))
        if pool:
            return None
        made = [p for p in derived if "contentString" in p]
        return [*made, *found, *(p for p in derived if "contentString" not in p)]

    def match(self, said: JSON, pool: Sequence[tuple[JSON, Any]]) -> tuple[JSON, Any] | None:
        """Return which of the mail's attachments is meant: by digest, and by title of several."""
        part = mime_part_of(said, self.terms)
        if "contentAttachment" not in said:
            return None
        if part.get("role") == "body-html":
            return next((each for each in pool if each[1].get("role") == "body-html"), None)
        sha256 = part.get("sha256")
        alike = [each for each in pool if sha256 and each[1].get("sha256") == sha256]
        title = said["contentAttachment"].get("title")
        named = [each for each in alike if each[0]["contentAttachment"].get("title") == title]
        return next(iter(named or alike), None)

    def dressed(self, said: JSON, shown: JSON, content: str) -> JSON:
        """Return the mail's payload with what the envelope says of it beside its content."""
        passed = self.border.passed(said) or {}
        whole = {**passed, **shown}
        whole["extension"] = [*shown["extension"], *passed.get("extension", ())]
        if content == "contentString":
            whole[content] = _lines(said[content])
        else:
            own = passed.get(content, {})
            kept = {k: v for k, v in own.items() if k not in ("url", "size", "hash", "data")}
            whole[content] = {**kept, **shown[content]}
        return whole

    def renamed(self, added: JSON) -> JSON:
        """Return `added` with names for what it contains that are not the gateway's own.

        But for the patient that the message is about: it has the name that the gateway gives it.
        """
        names = {item["id"] for item in added.get("contained", ())}
        subject = added.get("subject", {}).get("reference")
        places = {}
        for item in added.get("contained", ()):
            name = item["id"]
            if subject == f"#{name}" and item["resourceType"] == "Patient":
                places[f"#{name}"] = "#patient"
            elif _OURS.fullmatch(name):
                number = len(names)
                while f"envelope-{number}" in names:
                    number += 1
                names.add(f"envelope-{number}")
                places[f"#{name}"] = f"#envelope-{number}"
        whole: JSON = with_references(added, places)
        for item in whole.get("contained", ()):
            item["id"] = places.get(f"#{item['id']}", f"#{item['id']}")[1:]
        return whole


def _lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _second(sent: Any) -> datetime | Any:
    """Return the time to the second, as a Date header has it."""
    try:
        return datetime.fromisoformat(str(sent)).replace(microsecond=0)
    except ValueError:
        return sent
