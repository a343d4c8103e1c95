"""Is there a valid certification path from this certificate to one of these anchors?

Pure: no I/O, no clock. The search is ours and bounded: whoever sends mail chooses the intermediate
certificates it carries, and unbounded builders take minutes over nine of them. What RFC5280 6.1
asks of the one path found (dates, constraints, names, policies) is judged by
`pyhanko_certvalidator.validate`, which passes all of PKITS. Revocation is judged in
`certs.revocation`.

Standards:
    AS      Applicability Statement for Secure Health Transport v1.3, section 4.2.3 (anchors)
    RFC5280 section 6.1 (path validation)
    RFC4158 sections 2.4.2 and 5 (path building: loops, ordering)
    RFC5937 (constraints carried by an anchor's certificate)
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from asn1crypto import x509 as asn1_x509  # type: ignore[import-untyped]  # ships no types
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from pyhanko_certvalidator import ValidationContext
from pyhanko_certvalidator.authority import CertTrustAnchor, TrustQualifiers
from pyhanko_certvalidator.errors import (
    ExpiredError,
    NotYetValidError,
    PathError,
    ValidationError,
)
from pyhanko_certvalidator.name_trees import process_general_subtrees
from pyhanko_certvalidator.path import ValidationPath
from pyhanko_certvalidator.policy_decl import (
    CertRevTrustPolicy,
    DisallowWeakAlgorithmsPolicy,
    PKIXValidationParams,
    RevocationCheckingPolicy,
    RevocationCheckingRule,
)
from pyhanko_certvalidator.validate import async_validate_path

from certs.errors import DirectError, Reason
from certs.issuers import IssuerIndex, readable, same_authority, signed_by
from certs.policy import CertificatePolicy
from certs.profile import extensions_of, known_where_critical, valid_at

__all__ = ["Attempt", "Initial", "Path", "attempts", "find_path"]

# What a search may cost at most, whatever a message carries (T-43, design decision 3).
CANDIDATES: Final = 20  # intermediates considered
DEPTH: Final = 8  # certificates below the anchor
SIGNATURES: Final = 100  # signatures verified
ATTEMPTS: Final = 8  # complete paths put to the validator
NAME_COMPARISONS: Final = 20_000  # of a name with a name constraint, on one path


@dataclass(frozen=True, slots=True)
class Initial:
    """The policy inputs of RFC5280 6.1.1 (c), (f), (e) and (g). `policies` None is any-policy."""

    policies: frozenset[str] | None = None
    explicit: bool = False
    inhibit_mapping: bool = False
    inhibit_any: bool = False


@dataclass(frozen=True, slots=True)
class Path:
    """A valid path: `certificates` from the leaf to the one below `anchor`."""

    certificates: tuple[x509.Certificate, ...]
    anchor: x509.Certificate


@dataclass(frozen=True, slots=True)
class Attempt:
    """A path that was put to the validator; `failure` None: it is valid."""

    path: Path
    failure: DirectError | None = None


def find_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate] | IssuerIndex,
    *,
    now: datetime,
    policy: CertificatePolicy,
    initial: Initial | None = None,
) -> Path:
    """Return the first valid path from `leaf` to one of `anchors`.

    Only the first 20 intermediates are considered. Certificates above an anchor do not matter,
    and no other store of trust is consulted (AS-080, AS-081). `initial` None takes the policies
    that the domain demands (AS-089).

    Raises:
        DirectError: CERTIFICATE_EXPIRED where the leaf is outside its dates, or every path has a
            CA that is; CERTIFICATE_UNFIT where the leaf does not parse; NOT_TRUSTED where there
            is no path, no valid one, or none within the bounds of the search.
    """
    valid_at(leaf, now)
    if not readable(leaf):
        raise DirectError(Reason.CERTIFICATE_UNFIT, "certificate does not parse")
    trusted = anchors if isinstance(anchors, IssuerIndex) else IssuerIndex(anchors)
    # AS-081: the administrator may make the end-entity certificate itself an anchor.
    if leaf in trusted:
        return Path((leaf,), leaf)

    failure = DirectError(Reason.NOT_TRUSTED, "no path to an anchor")
    for attempt in attempts(leaf, intermediates, trusted, now=now, policy=policy, initial=initial):
        if attempt.failure is None:
            return attempt.path
        failure = attempt.failure
    raise failure


def attempts(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: IssuerIndex,
    *,
    now: datetime,
    policy: CertificatePolicy,
    initial: Initial | None = None,
) -> Iterator[Attempt]:
    """Yield each path from `leaf` to an anchor, and whether it is valid, as `find_path` tries them.

    Only chains of true signatures are paths; no more than the bounds of the search allow.
    """
    demanded = initial or _initial(policy)
    search = _Search(anchors, IssuerIndex(intermediates[:CANDIDATES]))
    for path in islice(search.paths((leaf,)), ATTEMPTS):
        try:
            _validate(path, now, policy, demanded)
        except DirectError as error:
            yield Attempt(path, error)
        else:
            yield Attempt(path)


@dataclass(slots=True)
class _Search:
    """A depth-first search that spends from one budget of signature checks."""

    anchors: IssuerIndex
    intermediates: IssuerIndex
    signatures_left: int = SIGNATURES
    _checked: dict[tuple[x509.Certificate, x509.Certificate], bool] = field(default_factory=dict)

    def paths(self, below: tuple[x509.Certificate, ...]) -> Iterator[Path]:
        """Yield each path that continues `below`; one that ends in an anchor comes first."""
        last = below[-1]
        for anchor in self.anchors.issuers_of(last):
            if self._signed(last, anchor):
                yield Path(below, anchor)
        if len(below) == DEPTH:
            return
        for issuer in self.intermediates.issuers_of(last):
            # RFC4158 5.2: a path that meets the same name and key twice runs in a circle.
            circular = any(same_authority(issuer, cert) for cert in below)
            if not circular and self._signed(last, issuer):
                yield from self.paths((*below, issuer))

    def _signed(self, cert: x509.Certificate, issuer: x509.Certificate) -> bool:
        pair = (cert, issuer)
        if pair not in self._checked:
            if self.signatures_left == 0:
                return False
            self.signatures_left -= 1
            self._checked[pair] = signed_by(cert, issuer)
        return self._checked[pair]


def _validate(path: Path, now: datetime, policy: CertificatePolicy, initial: Initial) -> None:
    """Put one path to RFC5280 6.1.

    Raises:
        DirectError: CERTIFICATE_EXPIRED or NOT_TRUSTED, with the validator's words;
            CERTIFICATE_UNFIT where the anchor has an unknown critical extension.
    """
    _names_bounded(path)
    # RFC5280 6.1 takes only name and key from an anchor. Its administrator put in a certificate,
    # whose critical extensions are limits that nobody may pass over.
    known_where_critical(extensions_of(path.anchor))
    leaf, *above = [_converted(cert) for cert in path.certificates]
    anchor = _converted(path.anchor)
    try:
        trusted = CertTrustAnchor(anchor, _qualifiers(anchor))
        _finish(
            async_validate_path(
                _context(trusted, now, policy),
                ValidationPath(trusted, list(reversed(above)), leaf),
                _parameters(initial),
            )
        )
    except (ExpiredError, NotYetValidError) as error:
        raise DirectError(Reason.CERTIFICATE_EXPIRED, str(error)) from None
    except (ValidationError, PathError) as error:
        raise DirectError(Reason.NOT_TRUSTED, str(error)) from None
    except (ValueError, KeyError, TypeError, NotImplementedError) as error:
        # The validator lets these out on names and extensions it does not understand.
        raise DirectError(Reason.NOT_TRUSTED, f"path does not parse: {error!r}") from None


def _names_bounded(path: Path) -> None:
    # Every name is compared with every constraint: a thousand of each take ten seconds.
    names = constraints = 0
    for cert in (*path.certificates, path.anchor):
        for extension in extensions_of(cert):
            match extension.value:
                case x509.SubjectAlternativeName() as alternative:
                    names += len(list(alternative))
                case x509.NameConstraints(permitted_subtrees=some, excluded_subtrees=others):
                    constraints += len(some or ()) + len(others or ())
    if (names + len(path.certificates)) * constraints > NAME_COMPARISONS:
        raise DirectError(Reason.NOT_TRUSTED, "too many names and name constraints to compare")


def _converted(cert: x509.Certificate) -> asn1_x509.Certificate:
    return asn1_x509.Certificate.load(cert.public_bytes(Encoding.DER))


def _context(
    anchor: CertTrustAnchor, now: datetime, policy: CertificatePolicy
) -> ValidationContext:
    no_check = RevocationCheckingRule.NO_CHECK
    return ValidationContext(
        trust_roots=[anchor],
        moment=now,
        time_tolerance=_NO_TOLERANCE,
        allow_fetching=False,
        revinfo_policy=CertRevTrustPolicy(RevocationCheckingPolicy(no_check, no_check)),
        algorithm_usage_policy=DisallowWeakAlgorithmsPolicy(  # type: ignore[no-untyped-call]  # it has no annotations
            weak_hash_algos=_BROKEN if policy.allow_sha1 else _BROKEN | {"sha1"},
            rsa_key_size_threshold=policy.minimum_rsa_bits,
        ),
    )


def _qualifiers(anchor: asn1_x509.Certificate) -> TrustQualifiers:
    # RFC5937: the limits that an anchor's own certificate states hold below it; its policies are
    # not made a demand, since CAs of bundles assert theirs for other purposes.
    constraints = anchor.name_constraints_value
    parameters = None
    if constraints is not None:
        permitted, excluded = constraints["permitted_subtrees"], constraints["excluded_subtrees"]
        parameters = PKIXValidationParams(
            initial_permitted_subtrees=process_general_subtrees(permitted) if permitted else None,
            initial_excluded_subtrees=process_general_subtrees(excluded) if excluded else None,
        )
    return TrustQualifiers(
        standard_parameters=parameters,
        max_path_length=anchor.max_path_length,
        valid_from=anchor.not_valid_before,
        valid_until=anchor.not_valid_after,
    )


def _initial(policy: CertificatePolicy) -> Initial:
    # AS-089: where the domain demands policies, the path must be valid under one of them.
    demanded = policy.required_policies
    return Initial(policies=demanded or None, explicit=bool(demanded))


def _parameters(initial: Initial) -> PKIXValidationParams:
    return PKIXValidationParams(
        user_initial_policy_set=initial.policies or frozenset({"any_policy"}),
        initial_explicit_policy=initial.explicit,
        initial_policy_mapping_inhibit=initial.inhibit_mapping,
        initial_any_policy_inhibit=initial.inhibit_any,
    )


def _finish(validation: Coroutine[None, None, object]) -> None:
    # The validator is a coroutine because it may fetch; told not to, it never waits, so one step
    # runs it whole, inside an event loop or out of one.
    try:
        validation.send(None)
    except StopIteration:
        return
    validation.close()
    raise DirectError(Reason.INTERNAL, "path validation tried to wait")


_BROKEN: Final = frozenset({"md2", "md5"})
_NO_TOLERANCE: Final = timedelta(0)
