"""A client's signed assertion of who it is: `private_key_jwt`.

Pure. Signatures are joserfc's; the algorithm must be one of ours, so that a client's key can be
used in no other way. Whether an assertion was used before is for the store to say.

Standards:
    SMART   App Launch 2.2.0, client-confidential-asymmetric: 5.2 (claims), 5.4 (keys)
    RFC7523 section 3; RFC7517 (JWKS); RFC7518 section 3
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from joserfc import jwk, jws
from joserfc.errors import JoseError

from certs.errors import DirectError, Reason

__all__ = ["ALGORITHMS", "Assertion", "claimed_client", "public_keys", "verify"]

# SMART 5.1 asks for the first two; clients in use also sign with the others.
ALGORITHMS: Final = ("RS384", "ES384", "ES256", "ES512", "RS512", "PS384")
LIFETIME_MAX: Final = timedelta(minutes=5)  # SMART 5.2: "no more than five minutes in the future"
SKEW: Final = timedelta(seconds=60)
ASSERTION_CHARACTERS_MAX: Final = 16 * 1024
JTI_CHARACTERS_MAX: Final = 255
KEYS_MAX: Final = 10
RSA_BITS_MIN: Final = 2048
_CURVES: Final = ("P-256", "P-384", "P-521")


@dataclass(frozen=True, slots=True)
class Assertion:
    """One that is genuine and in time: `jti` may be used once until `expires`."""

    jti: str
    expires: datetime


def public_keys(text: str) -> str:
    """Return the JWKS in `text` as it is kept: the public parts of its RSA and EC keys.

    Raises:
        DirectError: RESOURCE_INVALID; no JWKS, no key, too many, too short, or a symmetric one.
    """
    try:
        listed = json.loads(text).get("keys")
        keys = [jwk.import_key(item) for item in listed[: KEYS_MAX + 1]]
        kept = [{**_named(item), **key.as_dict(private=False)} for item, key in
                zip(listed, keys, strict=False)]  # fmt: skip
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, JoseError):
        raise _unusable("not a JSON Web Key Set") from None
    if not 0 < len(keys) <= KEYS_MAX:
        raise _unusable(f"1 to {KEYS_MAX} keys")
    if not all(_is_fit(key) for key in keys):
        raise _unusable(f"keys are RSA of {RSA_BITS_MIN} bits or EC on {', '.join(_CURVES)}")
    return json.dumps({"keys": kept})


def claimed_client(text: str) -> str:
    """Return who an assertion says it is from; nothing is verified yet.

    Raises:
        DirectError: AUTHENTICATION_FAILED; not a JWT with an issuer.
    """
    if len(text) > ASSERTION_CHARACTERS_MAX or not text.isascii():
        raise _refused("the assertion is too long")
    try:
        payload = jws.extract_compact(text.encode()).payload
        claims = json.loads(payload)
        issuer = claims["iss"] if isinstance(claims, dict) else None
    except (ValueError, TypeError, KeyError, RecursionError, JoseError):
        raise _refused("not a JWT with an issuer") from None
    if not isinstance(issuer, str):
        raise _refused("the issuer is no string")
    return issuer


def verify(
    text: str, *, jwks: str, client: str, audience: Collection[str], now: datetime
) -> Assertion:
    """Return the assertion of `client` where one of its keys signed it for us, for now.

    `audience` are the names of our token endpoint.

    Raises:
        DirectError: AUTHENTICATION_FAILED.
    """
    claims = _claims(text, jwks)
    if claims.get("iss") != client or claims.get("sub") != client:
        raise _refused("iss and sub are not the client")
    named = claims.get("aud")
    meant = named if isinstance(named, list) else [named]
    if not any(isinstance(one, str) and one in audience for one in meant):
        raise _refused("it is for another audience")
    expires = _time(claims, "exp")
    if expires is None or expires <= now or expires > now + LIFETIME_MAX + SKEW:
        raise _refused("exp is past, or more than five minutes away")
    for name in ("iat", "nbf"):
        moment = _time(claims, name)
        if (name in claims and moment is None) or (moment is not None and moment > now + SKEW):
            raise _refused(f"{name} is in the future")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= JTI_CHARACTERS_MAX:
        raise _refused("there is no jti")
    return Assertion(jti, expires)


def _claims(text: str, jwks: str) -> Mapping[str, Any]:
    """Return the claims that one of the keys signed."""
    try:
        headers = jws.extract_compact(text.encode()).headers()
        keys = jwk.KeySet.import_key_set(json.loads(jwks)).keys
    except (ValueError, TypeError, RecursionError, JoseError):
        raise _refused("not a signed JWT") from None
    wanted = headers.get("kid")
    for key in keys:
        if wanted is not None and key.kid != wanted:
            continue
        try:
            signed = jws.deserialize_compact(text, key, algorithms=list(ALGORITHMS))
            claims = json.loads(signed.payload)
        except (ValueError, TypeError, RecursionError, JoseError):
            continue
        if isinstance(claims, dict):
            return claims
    raise _refused("no key of the client signed it")


def _time(claims: Mapping[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _is_fit(key: jwk.Key) -> bool:
    if isinstance(key, jwk.RSAKey):
        return key.public_key.key_size >= RSA_BITS_MIN
    return isinstance(key, jwk.ECKey) and key.curve_name in _CURVES


def _named(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in ("kid", "alg", "use") if name in item}


def _refused(detail: str) -> DirectError:
    return DirectError(Reason.AUTHENTICATION_FAILED, f"assertion: {detail}")


def _unusable(detail: str) -> DirectError:
    return DirectError(Reason.RESOURCE_INVALID, f"JWKS: {detail}")
