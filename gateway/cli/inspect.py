"""`inspect`: what would the gateway say of this stored message, and why?

Talks to the files it is given; to no database and no network. The JSON keys are a contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from cryptography.hazmat.primitives import hashes
from rich.tree import Tree

from certs.address import DirectAddress, parse_address
from certs.cert_files import certificates_in
from certs.errors import DirectError
from certs.identity import Identity, SoftwareKey
from certs.pkcs12 import load_pkcs12
from certs.policy import CertificatePolicy, Profile
from gateway.cli.common import Json, console, fail, read_file, write_json
from gateway.cli.inspect_view import tree_of
from gateway.clock import utc_now
from gateway.judgement import Opened, check_envelope, judge, open_message, signer_evidence
from gateway.layers import layers_of
from gateway.ports import Envelope
from gateway.scratch import scratch
from trust_bundles.anchors import Anchors
from trust_bundles.decision import Decision, Verdict
from trust_bundles.policy_file import read_policy

__all__ = ["examine", "inspect"]


def inspect(
    file: Annotated[Path, typer.Argument(help="The message, as received from the backbone.")],
    key: Annotated[Path, typer.Option("--key", help="PKCS#12 with the recipient's key.")],
    anchor: Annotated[list[Path], typer.Option("--anchor", help="Trust anchor, PEM or DER.")],
    recipient: Annotated[str, typer.Option("--recipient", help="Address it came for.")],
    key_password: Annotated[str, typer.Option(help="Password of the PKCS#12.")] = "",
    mail_from: Annotated[str, typer.Option(help="SMTP MAIL FROM; default: header From.")] = "",
    at: Annotated[str, typer.Option(help="Judge at this time, ISO 8601; default: now.")] = "",
    profile: Annotated[Profile, typer.Option(help="Edition that binds.")] = Profile.AS_1_3,
    policy_file: Annotated[
        Path | None, typer.Option("--policy", help="Policy file of the recipient's domain.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Judge a stored message as the incoming pipeline would.

    Example: direct-gateway inspect msg.eml --key b.p12 --anchor ca.pem --recipient b@d.example
    """
    try:
        bundle = load_pkcs12(read_file(key), key_password)
        anchors = Anchors(c for path in anchor for c in certificates_in(read_file(path)))
        address = parse_address(recipient)
        sender = parse_address(mail_from) if mail_from else None
        now = _time(at)
        policy = _policy(policy_file, CertificatePolicy(profile=profile))
    except DirectError as error:
        fail(error)
    identities = [Identity(bundle.certificate, bundle.chain, SoftwareKey(bundle.key))]
    try:
        with file.open("rb") as message:
            examined = _examined(
                message,
                identities=identities,
                anchors=anchors,
                recipient=address,
                sender=sender,
                now=now,
                policy=policy,
            )
            report = _report(examined)
            if as_json:
                write_json(report)
            else:
                console().print(_tree(message, report, examined, identities, policy))
    except OSError as error:
        fail(f"{file}: {error.strerror}")
    raise typer.Exit(0 if report["accepted"] else 1)


@dataclass(frozen=True, slots=True)
class _Examined:
    """How far the judgement came; `error` is what it ended with before a decision."""

    opened: Opened | None
    decision: Decision | None
    error: DirectError | None


def examine(
    message: BinaryIO,
    *,
    identity: Identity,
    anchors: Anchors,
    recipient: DirectAddress,
    sender: DirectAddress | None,
    now: datetime,
    policy: CertificatePolicy,
) -> dict[str, Any]:
    """Return the verdict on `message` with the keys that the contract names."""
    return _report(
        _examined(
            message,
            identities=[identity],
            anchors=anchors,
            recipient=recipient,
            sender=sender,
            now=now,
            policy=policy,
        )
    )


def _examined(
    message: BinaryIO,
    *,
    identities: Sequence[Identity],
    anchors: Anchors,
    recipient: DirectAddress,
    sender: DirectAddress | None,
    now: datetime,
    policy: CertificatePolicy,
) -> _Examined:
    opened: Opened | None = None
    decision: Decision | None = None
    error: DirectError | None = None
    try:
        with scratch() as inner:
            opened = open_message(message, inner, identities=identities, policy=policy)
        # The signer is judged in any case: people want to see all that is wrong.
        judgement = judge(
            signer_evidence(opened), {recipient: anchors}, now=now, policies={recipient: policy}
        )
        decision = judgement.decisions[recipient]
        envelope = Envelope(sender or opened.facts.author, (recipient,))
        check_envelope(opened.facts, envelope, policy.profile)
    except DirectError as caught:
        error = caught
    return _Examined(opened, decision, error)


def _report(examined: _Examined) -> dict[str, Any]:
    opened, decision, error = examined.opened, examined.decision, examined.error
    reason = error.reason if error else decision.reason if decision else None
    detail = error.detail if error else decision.detail if decision else None
    return {
        "accepted": reason is None,
        "reason": reason.code if reason else None,
        "detail": detail,
        "wrapped": opened.unsealed.wrapped if opened else False,
        "message": _message(opened) if opened else None,
        "signer": _signer(opened, None if error else decision) if opened else None,
        "algorithms": _algorithms(opened) if opened else None,
    }


def _message(opened: Opened) -> dict[str, Any]:
    facts = opened.facts
    return {
        "from": str(facts.author),
        "to": [str(address) for address in facts.to],
        "subject": facts.subject,
        "message_id": facts.message_id,
    }


def _signer(opened: Opened, decision: Decision | None) -> dict[str, Any]:
    certificate = opened.unsealed.signers[0].certificate
    binding = None
    verdict = _deciding(decision) if decision else None
    if verdict is not None:
        certificate = verdict.certificate
        binding = verdict.binding.value if verdict.binding else None
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": certificate.fingerprint(hashes.SHA256()).hex(),
        "binding": binding,
    }


def _deciding(decision: Decision) -> Verdict | None:
    """Return the verdict that decided: the first good one, else the first."""
    good = (verdict for verdict in decision.verdicts if verdict.reason is None)
    return next(good, next(iter(decision.verdicts), None))


def _algorithms(opened: Opened) -> dict[str, Any]:
    algorithms = opened.unsealed.algorithms
    return {
        "digest": algorithms.digest,
        "signature": algorithms.signature,
        "content_encryption": algorithms.content_encryption,
        "key_transport": algorithms.key_transport,
    }


def _tree(
    message: BinaryIO,
    report: Mapping[str, Any],
    examined: _Examined,
    identities: Sequence[Identity],
    policy: CertificatePolicy,
) -> Tree:
    with scratch() as plain, scratch() as inner:
        layers = layers_of(message, plain=plain, inner=inner, identities=identities, policy=policy)
    return tree_of(report, layers, examined.decision)


def _policy(file: Path | None, default: CertificatePolicy) -> CertificatePolicy:
    if file is None:
        return default
    return read_policy(read_file(file).decode("utf-8", "replace"), default)


def _time(text: str) -> datetime:
    if not text:
        return utc_now()
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        fail(f"--at: not ISO 8601: {text}")
    return time if time.tzinfo else time.replace(tzinfo=UTC)
