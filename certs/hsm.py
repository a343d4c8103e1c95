"""A PKCS#11 token, logged in to: an HSM, a smart card, or SoftHSM.

Talks to the token through its vendor's library, in one thread of its own: PKCS#11 sessions are
not to be shared, and the token does one thing at a time anyway.

Standards:
    PKCS11  OASIS PKCS #11 v2.40 (sessions, key generation, AES_GCM)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final, TypeVar

import pkcs11
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, GCMParams, KeyType, Mechanism, MechanismFlag, ObjectClass
from pkcs11 import exceptions as p11
from pkcs11.util.ec import encode_ec_public_key, encode_named_curve_parameters
from pkcs11.util.rsa import encode_rsa_public_key

from certs.errors import DirectError, Reason
from certs.hsm_key import TokenKey, TokenPublicKey, away
from certs.issue import KeyKind

__all__ = ["Token"]

T = TypeVar("T")

_NONCE_OCTETS: Final = 12
# The token is away or has forgotten us: nothing of it depends on what a peer sent.
_AWAY: Final = (
    p11.DeviceError,
    p11.DeviceMemory,
    p11.DeviceRemoved,
    p11.HostMemory,
    p11.KeyHandleInvalid,
    p11.NoSuchToken,
    p11.ObjectHandleInvalid,
    p11.SessionClosed,
    p11.SessionCount,
    p11.SessionHandleInvalid,
    p11.TokenNotPresent,
    p11.TokenNotRecognised,
    p11.UserNotLoggedIn,
)
_KEPT: Final = {Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
_BITS: Final = {KeyKind.RSA_2048: 2048, KeyKind.RSA_3072: 3072, KeyKind.RSA_4096: 4096}
_CURVES: Final = {KeyKind.P256: "secp256r1", KeyKind.P384: "secp384r1"}


class Token:
    """One token. Its methods may be called from any thread, also at once, and wait their turn.

    They raise DirectError: CONFIGURATION_INVALID where the token refuses; INTERNAL while it is
    away.
    """

    def __init__(self, *, module: str, label: str, pin: str) -> None:
        self._module = module
        self._label = label
        self._pin = pin
        self._pin_refused = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pkcs11")
        self._session: Any = None

    def key(self, label: str) -> TokenKey:
        """Return the private key of this label; its public key must lie beside it."""

        def work(session: Any) -> tuple[TokenPublicKey, bool]:
            _private(session, label)
            mechanisms = session.token.slot.get_mechanisms()
            return _public(session, label), Mechanism.RSA_X_509 in mechanisms

        public, raw = self._run(work)
        return TokenKey(lambda use: self._use(label, use), public, raw=raw)

    def generate(self, kind: KeyKind, label: str) -> TokenKey:
        """Make a key pair that cannot be taken out, under a label that is free."""

        def work(session: Any) -> None:
            if list(session.get_objects({Attribute.LABEL: label})):
                raise _invalid(f"the token has a key {label} already")
            _generate(session, kind, label)

        self._run(work)
        return self.key(label)

    def remove(self, label: str) -> None:
        """Destroy what lies under this label."""

        def work(session: Any) -> None:
            for each in list(session.get_objects({Attribute.LABEL: label})):
                each.destroy()

        self._run(work)

    def seal(self, plain: bytes, label: str) -> bytes:
        """Return `plain` under the AES key of this label, which is made where there is none."""

        def work(session: Any) -> bytes:
            wanted = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.LABEL: label}
            found = list(session.get_objects(wanted))
            key = found[0] if found else _generate_secret(session, label)
            nonce = os.urandom(_NONCE_OCTETS)
            sealed: bytes = key.encrypt(
                plain, mechanism=Mechanism.AES_GCM, mechanism_param=GCMParams(nonce)
            )
            return nonce + sealed

        return self._run(work)

    def unseal(self, sealed: bytes, label: str) -> bytes:
        """Return what `seal` was given."""

        def work(session: Any) -> bytes:
            key = session.get_key(object_class=ObjectClass.SECRET_KEY, label=label)
            plain: bytes = key.decrypt(
                sealed[_NONCE_OCTETS:],
                mechanism=Mechanism.AES_GCM,
                mechanism_param=GCMParams(sealed[:_NONCE_OCTETS]),
            )
            return plain

        return self._run(work)

    def close(self) -> None:
        """End the session, and the thread."""
        self._thread.submit(self._forget).result()
        self._thread.shutdown()

    def _use(self, label: str, work: Callable[[Any], bytes]) -> bytes:
        """Return what `work` makes with a private key; PKCS11Error where the token refuses it."""
        return self._thread.submit(self._attempt, lambda s: work(_private(s, label))).result()

    def _run(self, work: Callable[[Any], T]) -> T:
        try:
            return self._thread.submit(self._attempt, work).result()
        except p11.NoSuchKey:
            raise _invalid("the token has no such key") from None
        except p11.PKCS11Error as error:
            raise _invalid(f"the token refuses: {type(error).__name__}") from None

    def _attempt(self, work: Callable[[Any], T]) -> T:
        """Do the work; once more in a new session, where the one that was kept is gone."""
        if self._session is not None:
            with suppress(*_AWAY):
                return work(self._session)
            self._forget()
        self._session = self._log_in()
        try:
            return work(self._session)
        except _AWAY as error:
            self._forget()
            raise away(error) from None

    def _log_in(self) -> Any:
        if self._pin_refused:
            # A token locks itself after a few wrong PINs: the second try is the administrator's.
            raise _invalid("the token refused the PIN: correct it and start again")
        try:
            token = pkcs11.lib(self._module).get_token(token_label=self._label)
            return token.open(user_pin=self._pin, rw=True)
        except p11.UserAlreadyLoggedIn:  # the log-in is the process's
            return token.open(rw=True)
        except (p11.PinIncorrect, p11.PinInvalid, p11.PinLenRange, p11.PinLocked) as error:
            self._pin_refused = True
            raise _invalid(f"the token refused the PIN: {type(error).__name__}") from None
        except RuntimeError as error:  # PKCS11Error is one; so is a library that does not load
            raise away(error) from None

    def _forget(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(p11.PKCS11Error):
                session.close()


def _private(session: Any, label: str) -> Any:
    return session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=label)


def _public(session: Any, label: str) -> TokenPublicKey:
    key = session.get_key(object_class=ObjectClass.PUBLIC_KEY, label=label)
    if key.key_type is KeyType.RSA:
        public = load_der_public_key(encode_rsa_public_key(key))
    elif key.key_type is KeyType.EC:
        public = load_der_public_key(encode_ec_public_key(key))
    else:
        raise _invalid(f"the token's key {label} is neither RSA nor EC")
    if not isinstance(public, TokenPublicKey):
        raise _invalid(f"the token's key {label} is neither RSA nor EC")
    return public


def _generate(session: Any, kind: KeyKind, label: str) -> None:
    signs = MechanismFlag.SIGN | MechanismFlag.VERIFY
    if kind in _BITS:
        session.generate_keypair(
            KeyType.RSA,
            _BITS[kind],
            label=label,
            store=True,
            capabilities=signs | MechanismFlag.DECRYPT | MechanismFlag.ENCRYPT,
            private_template=_KEPT,
        )
    elif kind in _CURVES:
        curve = {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[kind])}
        session.create_domain_parameters(KeyType.EC, curve, local=True).generate_keypair(
            mechanism=Mechanism.EC_KEY_PAIR_GEN,
            label=label,
            store=True,
            capabilities=signs | MechanismFlag.DERIVE,
            private_template=_KEPT,
        )
    else:
        raise _invalid(f"no {kind.value} key is made in a token")


def _generate_secret(session: Any, label: str) -> Any:
    return session.generate_key(
        KeyType.AES,
        256,
        label=label,
        store=True,
        capabilities=MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT,
        template=_KEPT,
    )


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
