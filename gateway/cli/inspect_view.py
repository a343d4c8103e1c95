"""`inspect` for people: the layers of a message as a tree.

Talks to nobody: it makes what `rich` prints. Nothing of the content is shown: of header fields
only who, when and which message; of parts their types and sizes. What comes from outside is cut,
and stripped of whatever could steer a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from rich.text import Text
from rich.tree import Tree

from certs.cms.anatomy import RecipientAnatomy
from fhir_bridge.mime import Part
from gateway.cli.common import grow, text
from gateway.header import Field
from gateway.layers import Inside, Layers, SignatureLayer, SignerLayer
from trust_bundles.decision import Decision, Verdict

__all__ = ["tree_of"]

SHOWN: Final = 50  # recipients, certificates and parts, each
_VALUE_CHARACTERS: Final = 200
_NAMED: Final = (
    "from",
    "sender",
    "to",
    "cc",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "disposition-notification-to",
    "disposition-notification-options",
)
_OUTSIDE: Final = (*_NAMED, "mime-version", "content-type", "content-transfer-encoding")


def tree_of(report: Mapping[str, Any], layers: Layers, decision: Decision | None) -> Tree:
    """Return the tree for the verdict in `report`, with the layers below it."""
    verdict = "accepted" if report["accepted"] else f"refused: {report['reason']}"
    tree = Tree(Text(verdict, style="bold"))
    if report["detail"]:
        grow(tree, "why", report["detail"])
    grow(tree, "as received", _received(layers))
    if layers.envelope is not None:
        envelope = layers.envelope
        value = {
            "kind": envelope.kind,
            "content encryption": envelope.content_encryption,
            "recipient": _some(map(_recipient, envelope.recipients), len(envelope.recipients)),
        }
        grow(tree, "envelope", value)
    if layers.compressed:
        grow(tree, "compressed", "yes, between encryption and signature")
    if layers.signature is not None:
        grow(tree, "signature", _signature(layers.signature))
    for verdict_ in decision.verdicts if decision else ():
        grow(tree, "signer's certificate", _verdict(verdict_))
    if layers.inside is not None:
        _inside(tree.add("message inside"), layers.inside)
    if layers.stopped is not None:
        grow(tree, "no further layer could be opened", layers.stopped)
    return tree


def _received(layers: Layers) -> dict[str, Any]:
    return {"size": _octets(layers.size), **_fields(layers.outer, _OUTSIDE)}


def _recipient(recipient: RecipientAnatomy) -> str:
    ours = " (our key)" if recipient.ours is not None else ""
    parts = (recipient.kind, recipient.algorithm, recipient.name)
    return _cut(", ".join(filter(None, parts))) + ours


def _signature(signature: SignatureLayer) -> dict[str, Any]:
    return {
        "form": signature.form,
        "micalg": _cut(signature.micalg) or None,
        "signer": [_signer(signer) for signer in signature.signers],
        "certificate enclosed": _some(
            (_cut(c.subject.rfc4514_string()) for c in signature.certificates),
            len(signature.certificates),
        ),
    }


def _signer(signer: SignerLayer) -> dict[str, Any]:
    says = signer.anatomy
    shown: dict[str, Any] = {}
    if says is not None:
        shown = {
            "named": _cut(says.name),
            "digest": says.digest,
            "signature algorithm": says.signature,
            "signing time": says.signing_time,
            "can decrypt (SMIMECapabilities)": ", ".join(says.capabilities) or None,
        }
    if signer.verified is None:
        return {**shown, "does not verify": signer.problem}
    return {**shown, "verifies with": _named(signer.verified.certificate)}


def _verdict(verdict: Verdict) -> dict[str, Any]:
    certificate = verdict.certificate
    revocation = verdict.revocation.value if verdict.revocation else None
    return {
        "subject": _named(certificate),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "valid": f"{text(certificate.not_valid_before_utc)} to "
        f"{text(certificate.not_valid_after_utc)}",
        "binding": verdict.binding.value if verdict.binding else "none to the author",
        "path": [_named(each) for each in verdict.path] or None,
        "anchor": _named(verdict.anchor) if verdict.anchor else "none reached",
        "revocation": revocation,
        "judged": "trusted" if verdict.reason is None else verdict.reason.code,
        "because": verdict.detail,
    }


def _inside(branch: Tree, inside: Inside) -> None:
    grow(branch, "wrapped", "yes, as message/rfc822" if inside.wrapped else "no")
    grow(branch, "header", _fields(inside.fields, _NAMED))
    others = [f.name for f in inside.fields if f.name not in _NAMED]
    grow(branch, "other fields", _cut(", ".join(dict.fromkeys(others))) or None)
    entities = list(islice(_entities(inside.parts.root, 0), SHOWN + 1))
    parts = branch.add("parts")
    stack = [parts]
    for part, depth in entities[:SHOWN]:
        del stack[depth + 1 :]
        stack.append(stack[-1].add(Text(text(_part(part)))))
    if len(entities) > SHOWN or inside.parts.partial:
        parts.add("there are more")


def _entities(part: Part, depth: int) -> Iterator[tuple[Part, int]]:
    yield part, depth
    for child in part.children:
        yield from _entities(child, depth + 1)


def _part(part: Part) -> str:
    kinds = (part.content_type, part.encoding, part.disposition, _octets(part.length))
    return ", ".join(_cut(kind) for kind in kinds if kind)


def _fields(fields: Iterable[Field], shown: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for field in fields:
        if field.name in shown:
            found.setdefault(field.name.title(), []).append(_cut(field.value))
    return found


def _some(items: Iterable[str], count: int) -> list[str]:
    more = [f"and {count - SHOWN} more"] if count > SHOWN else []
    return [*islice(items, SHOWN), *more]


def _named(certificate: x509.Certificate) -> str:
    return _cut(certificate.subject.rfc4514_string() or "(no name)")


def _cut(value: str) -> str:
    return value if len(value) <= _VALUE_CHARACTERS else value[: _VALUE_CHARACTERS - 1] + "…"


def _octets(size: int) -> str:
    return f"{size:,} octets"
