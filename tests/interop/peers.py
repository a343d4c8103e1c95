"""Other people's S/MIME agents, run for real: OpenSSL, gpgsm, NSS, Bouncy Castle, node-forge.

Each makes and reads bare CMS; the MIME around it is the tests'. What a peer cannot do is said in
`cannot`, by operation and algorithm, with the reason, and is shown to fail; all else it must do.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from certs.identity import Identity
from tests.helpers.pki import private_key_of

__all__ = ["PEERS", "BouncyCastle", "Encryption", "Forge", "Gpgsm", "Nss", "OpenSsl", "Peer",
           "Signing", "Workshop"]  # fmt: skip

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Signing:
    """A signature algorithm: the kind of the signer's key, digest and padding."""

    kind: str
    digest: str
    pss: bool = False

    @property
    def name(self) -> str:
        family = {"rsa2048": "RSA", "p256": "P-256", "p384": "P-384", "ed25519": "Ed25519"}
        return f"{family[self.kind]} {self.digest}" + (" PSS" if self.pss else "")


@dataclass(frozen=True)
class Encryption:
    """An envelope: the kind of the recipient's key, content encryption and key transport."""

    kind: str
    cipher: str
    transport: str

    @property
    def name(self) -> str:
        return f"{self.cipher} {self.transport}" + (
            "" if self.kind == "rsa2048" else f" {self.kind}"
        )


@dataclass(frozen=True)
class Workshop:
    """A folder with everybody's keys and certificates in it."""

    folder: Path
    root: bytes
    identities: Mapping[str, Identity]

    def file(self, name: str, content: bytes | None = None) -> str:
        path = self.folder / name
        if content is not None:
            path.write_bytes(content)
        return str(path)

    def certificate(self, kind: str) -> str:
        pem = self.identities[kind].certificate.public_bytes(Encoding.PEM)
        return self.file(f"{kind}.pem", pem)

    def key(self, kind: str) -> str:
        key = private_key_of(self.identities[kind])
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return self.file(f"{kind}.key", pem)

    def root_file(self) -> str:
        return self.file("root.pem", self.root)

    def pkcs12(self, kind: str, *, legacy: bool = False) -> str:
        key = private_key_of(self.identities[kind])
        assert not isinstance(key, x25519.X25519PrivateKey | ed25519.Ed25519PrivateKey)
        protection = PrivateFormat.PKCS12.encryption_builder()
        if legacy:
            # The form that gpgsm 2.2 reads.
            protection = protection.kdf_rounds(2048).key_cert_algorithm(
                pkcs12.PBES.PBESv1SHA1And3KeyTripleDESCBC
            )
            protection = protection.hmac_hash(hashes.SHA1())
        content = pkcs12.serialize_key_and_certificates(
            kind.encode(),
            key,
            self.identities[kind].certificate,
            None,
            protection.build(b"pw"),
        )
        return self.file(f"{kind}.p12", content)

    def out(self) -> Path:
        path = self.folder / "out"
        path.unlink(missing_ok=True)
        return path


class Peer(Protocol):
    """Makes and reads CMS; raises AssertionError where it fails."""

    name: ClassVar[str]
    cannot: ClassVar[Mapping[str, str]]

    def sign(self, content: bytes, how: Signing) -> bytes: ...
    def verify(self, signature: bytes, content: bytes, how: Signing) -> None: ...
    def encrypt(self, content: bytes, how: Encryption) -> bytes: ...
    def decrypt(self, cms: bytes, how: Encryption) -> bytes: ...
    def close(self) -> None: ...


def run(
    *words: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run(
        words,
        input=stdin,
        capture_output=True,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, (done.stderr or done.stdout).decode(errors="replace")
    return done


class OpenSsl:
    name: ClassVar[str] = "OpenSSL 3.0 cms"
    cannot: ClassVar[Mapping[str, str]] = {
        "sign Ed25519 sha512": "its CMS has no Ed25519",
        "verify Ed25519 sha512": "its CMS has no Ed25519",
        "encrypt aes256-cbc ecdh x25519": "its CMS has no X25519",
        "decrypt aes256-cbc ecdh x25519": "its CMS has no X25519",
    }

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def sign(self, content: bytes, how: Signing) -> bytes:
        pss = ("-keyopt", "rsa_padding_mode:pss", "-keyopt", "rsa_pss_saltlen:digest")
        return run(
            "openssl", "cms", "-sign", "-binary", "-outform", "DER", "-md", how.digest,
            "-signer", self._shop.certificate(how.kind), "-inkey", self._shop.key(how.kind),
            *(pss if how.pss else ()), stdin=content,
        ).stdout  # fmt: skip

    def verify(self, signature: bytes, content: bytes, how: Signing) -> None:
        run(
            "openssl", "cms", "-verify", "-binary", "-inform", "DER", "-no_check_time",
            "-content", self._shop.file("content", content), "-purpose", "smimesign",
            "-CAfile", self._shop.root_file(), stdin=signature,
        )  # fmt: skip

    def encrypt(self, content: bytes, how: Encryption) -> bytes:
        cipher = {"aes128-gcm": "aes-128-gcm", "aes256-gcm": "aes-256-gcm"}
        options: dict[str, tuple[str, ...]] = {
            "oaep-sha1": ("-keyopt", "rsa_padding_mode:oaep"),
            "oaep-sha256": (
                "-keyopt", "rsa_padding_mode:oaep", "-keyopt", "rsa_oaep_md:sha256",
            ),
            "ecdh": ("-keyopt", "ecdh_kdf_md:sha256"),
            "pkcs1v15 BER": ("-stream",),
            "pkcs1v15 SKI": ("-keyid",),
        }  # fmt: skip
        return run(
            "openssl", "cms", "-encrypt", "-binary", "-outform", "DER",
            "-" + cipher.get(how.cipher, how.cipher.removesuffix("-cbc")),
            "-recip", self._shop.certificate(how.kind), *options.get(how.transport, ()),
            stdin=content,
        ).stdout  # fmt: skip

    def decrypt(self, cms: bytes, how: Encryption) -> bytes:
        return run(
            "openssl", "cms", "-decrypt", "-binary", "-inform", "DER",
            "-recip", self._shop.certificate(how.kind), "-inkey", self._shop.key(how.kind),
            stdin=cms,
        ).stdout  # fmt: skip

    def close(self) -> None:
        return


_NO_OAEP = "it knows no RSA-OAEP"
_NO_AGREEMENT = "it knows no key agreement"
_NO_GCM = "it knows no AuthEnvelopedData"
_NO_EDDSA = "it knows no Ed25519 and no X25519"


class Gpgsm:
    name: ClassVar[str] = "gpgsm 2.2"
    cannot: ClassVar[Mapping[str, str]] = {
        "sign RSA sha256 PSS": "it has no switch for PSS",
        "sign P-256 sha256": "its import of EC keys crashes",
        "sign P-384 sha384": "its import of EC keys crashes",
        "sign Ed25519 sha512": _NO_EDDSA,
        "verify Ed25519 sha512": _NO_EDDSA,
        "encrypt aes256-cbc oaep-sha256": _NO_OAEP,
        "encrypt aes256-cbc oaep-sha1": _NO_OAEP,
        "decrypt aes256-cbc oaep-sha256": _NO_OAEP,
        "decrypt aes256-cbc oaep-sha1": _NO_OAEP,
        "encrypt aes128-gcm pkcs1v15": _NO_GCM,
        "encrypt aes256-gcm pkcs1v15": _NO_GCM,
        "decrypt aes128-gcm pkcs1v15": _NO_GCM,
        "decrypt aes256-gcm pkcs1v15": _NO_GCM,
        "encrypt aes256-cbc ecdh p256": _NO_AGREEMENT,
        "encrypt aes256-cbc ecdh p384": _NO_AGREEMENT,
        "decrypt aes256-cbc ecdh p256": "its import of EC keys crashes",
        "decrypt aes256-cbc ecdh p384": "its import of EC keys crashes",
        "encrypt aes256-cbc ecdh x25519": _NO_EDDSA,
        "decrypt aes256-cbc ecdh x25519": _NO_EDDSA,
        "encrypt aes256-cbc pkcs1v15 SKI": "it names recipients by issuer and serial only",
    }

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        home = shop.folder / "gnupg"
        home.mkdir(mode=0o700)
        self._environment = {"GNUPGHOME": str(home)}
        root = run("openssl", "x509", "-outform", "DER", stdin=shop.root).stdout
        hashing = hashes.Hash(hashes.SHA1())
        hashing.update(root)
        (home / "trustlist.txt").write_text(f"{hashing.finalize().hex()} S relax\n")
        (home / "gpgsm.conf").write_text("disable-crl-checks\ndisable-policy-checks\n")
        (home / "gpg-agent.conf").write_text("allow-loopback-pinentry\n")
        self._gpgsm("--import", shop.root_file())
        for kind in shop.identities:
            self._gpgsm("--import", shop.certificate(kind))
        self._import_key()

    def _import_key(self) -> None:
        # gpgsm 2.2.40 takes the right password for a wrong one with 94 of 5,837 salts (measured).
        for _ in range(5):
            with suppress(AssertionError):
                self._gpgsm("--import", self._shop.pkcs12("rsa2048", legacy=True))
                return
        self._gpgsm("--import", self._shop.pkcs12("rsa2048", legacy=True))

    def _gpgsm(self, *words: str) -> str:
        done = run(
            "gpgsm", "--batch", "--yes", "--pinentry-mode", "loopback", "--passphrase-fd", "0",
            *words, stdin=b"pw\n", environment=self._environment,
        )  # fmt: skip
        return done.stderr.decode(errors="replace")

    def sign(self, content: bytes, how: Signing) -> bytes:
        out = self._shop.out()
        self._gpgsm(
            "--digest-algo", how.digest, "-u", self._user(how.kind), "-o", str(out),
            "--detach-sign", self._shop.file("content", content),
        )  # fmt: skip
        return out.read_bytes()

    def verify(self, signature: bytes, content: bytes, how: Signing) -> None:
        said = self._gpgsm(
            "--verify", self._shop.file("signature", signature), self._shop.file("content", content)
        )
        assert "Good signature" in said, said

    def encrypt(self, content: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        cipher = {"aes128-cbc": "AES", "aes192-cbc": "AES192", "aes256-cbc": "AES256"}
        self._gpgsm(
            "--cipher-algo", cipher.get(how.cipher, how.cipher), "-r", self._user(how.kind),
            "-o", str(out), "-e", self._shop.file("content", content),
        )  # fmt: skip
        return out.read_bytes()

    def decrypt(self, cms: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        self._gpgsm("-o", str(out), "-d", self._shop.file("cms", cms))
        return out.read_bytes()

    def _user(self, kind: str) -> str:
        digest = self._shop.identities[kind].certificate.fingerprint(hashes.SHA1())
        return digest.hex().upper()

    def close(self) -> None:
        run("gpgconf", "--kill", "all", environment=self._environment)


class Nss:
    name: ClassVar[str] = "NSS 3.87 cmsutil"
    cannot: ClassVar[Mapping[str, str]] = {
        "sign RSA sha256 PSS": "cmsutil has no switch for PSS",
        "sign Ed25519 sha512": _NO_EDDSA,
        "verify Ed25519 sha512": _NO_EDDSA,
        "encrypt aes192-cbc pkcs1v15": "cmsutil takes the cipher of its own choice",
        "encrypt aes256-cbc pkcs1v15": "cmsutil takes the cipher of its own choice",
        "encrypt aes256-cbc oaep-sha256": _NO_OAEP,
        "encrypt aes256-cbc oaep-sha1": _NO_OAEP,
        "decrypt aes256-cbc oaep-sha256": _NO_OAEP,
        "decrypt aes256-cbc oaep-sha1": _NO_OAEP,
        "encrypt aes128-gcm pkcs1v15": _NO_GCM,
        "encrypt aes256-gcm pkcs1v15": _NO_GCM,
        "decrypt aes128-gcm pkcs1v15": _NO_GCM,
        "decrypt aes256-gcm pkcs1v15": _NO_GCM,
        "encrypt aes256-cbc ecdh p256": _NO_AGREEMENT,
        "encrypt aes256-cbc ecdh p384": _NO_AGREEMENT,
        "decrypt aes256-cbc ecdh p256": _NO_AGREEMENT,
        "decrypt aes256-cbc ecdh p384": _NO_AGREEMENT,
        "encrypt aes256-cbc ecdh x25519": _NO_EDDSA,
        "decrypt aes256-cbc ecdh x25519": _NO_EDDSA,
        "encrypt aes256-cbc pkcs1v15 SKI": "it names recipients by issuer and serial only",
        "encrypt aes256-cbc pkcs1v15 BER": "cmsutil takes the cipher of its own choice",
    }

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        (shop.folder / "nss").mkdir()
        self._database = "sql:" + str(shop.folder / "nss")
        run("certutil", "-N", "-d", self._database, "--empty-password")
        run(
            "certutil", "-A", "-d", self._database, "-n", "root", "-t", "CT,C,C",
            "-i", shop.root_file(),
        )  # fmt: skip
        for kind in ("rsa2048", "p256", "p384"):
            run("pk12util", "-i", shop.pkcs12(kind), "-d", self._database, "-W", "pw", "-K", "")

    def sign(self, content: bytes, how: Signing) -> bytes:
        out = self._shop.out()
        run(
            "cmsutil", "-S", "-d", self._database, "-N", how.kind, "-T", "-G", "-P",
            "-H", how.digest.upper(), "-i", self._shop.file("content", content), "-o", str(out),
        )  # fmt: skip
        return out.read_bytes()

    def verify(self, signature: bytes, content: bytes, how: Signing) -> None:
        said = run(
            "cmsutil", "-D", "-d", self._database, "-h", "1",
            "-c", self._shop.file("content", content),
            "-i", self._shop.file("signature", signature),
        ).stdout  # fmt: skip
        assert b"status=GoodSignature" in said, said.decode()

    def encrypt(self, content: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        run(
            "cmsutil", "-E", "-d", self._database, "-r", f"peer@{how.kind}.example",
            "-i", self._shop.file("content", content), "-o", str(out),
        )  # fmt: skip
        return out.read_bytes()

    def decrypt(self, cms: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        run(
            "cmsutil", "-D", "-d", self._database, "-i", self._shop.file("cms", cms),
            "-o", str(out),
        )  # fmt: skip
        return out.read_bytes()

    def close(self) -> None:
        return


class BouncyCastle:
    name: ClassVar[str] = "Bouncy Castle 1.72"
    cannot: ClassVar[Mapping[str, str]] = {
        "encrypt aes256-cbc ecdh x25519": "version 1.72 fails on X25519 recipients",
        "decrypt aes256-cbc ecdh x25519": "version 1.72 fails on X25519 recipients",
        "encrypt aes256-cbc pkcs1v15 SKI": "our tool names recipients by issuer and serial",
    }

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        jars = ":".join(f"/usr/share/java/{jar}.jar" for jar in ("bcprov", "bcpkix", "bcutil"))
        self._process = subprocess.Popen(
            ["java", "-cp", jars, str(HERE / "java" / "Peer.java")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def _ask(self, *words: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\t".join(words) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline().strip()
        assert answer == "ok", answer

    def sign(self, content: bytes, how: Signing) -> bytes:
        digest = how.digest.upper()
        algorithm = {
            "rsa2048": f"{digest}withRSA" + ("andMGF1" if how.pss else ""),
            "ed25519": "Ed25519",
        }.get(how.kind, f"{digest}withECDSA")
        out = self._shop.out()
        self._ask(
            "sign", self._shop.key(how.kind), self._shop.certificate(how.kind), algorithm,
            self._shop.file("content", content), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def verify(self, signature: bytes, content: bytes, how: Signing) -> None:
        self._ask(
            "verify", self._shop.file("signature", signature), self._shop.file("content", content)
        )

    def encrypt(self, content: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        transport, _, form = how.transport.partition(" ")
        self._ask(
            "encrypt", how.cipher, transport, form or "DER", self._shop.certificate(how.kind),
            self._shop.file("content", content), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def decrypt(self, cms: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        self._ask(
            "decrypt", self._shop.key(how.kind), self._shop.certificate(how.kind),
            self._shop.file("cms", cms), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def close(self) -> None:
        self._process.communicate()


_FORGE_SIGNS = "it signs with RSA PKCS#1 v1.5 only"
_FORGE_VERIFIES = "it has no verification of CMS"
_FORGE_ENCRYPTS = "it knows RSA PKCS#1 v1.5 with CBC only"


class Forge:
    name: ClassVar[str] = "node-forge 1.4"
    cannot: ClassVar[Mapping[str, str]] = {
        "sign RSA sha256 PSS": _FORGE_SIGNS,
        "sign P-256 sha256": _FORGE_SIGNS,
        "sign P-384 sha384": _FORGE_SIGNS,
        "sign Ed25519 sha512": _FORGE_SIGNS,
        "verify RSA sha256": _FORGE_VERIFIES,
        "verify RSA sha384": _FORGE_VERIFIES,
        "verify RSA sha512": _FORGE_VERIFIES,
        "verify RSA sha256 PSS": _FORGE_VERIFIES,
        "verify P-256 sha256": _FORGE_VERIFIES,
        "verify P-384 sha384": _FORGE_VERIFIES,
        "verify Ed25519 sha512": _FORGE_VERIFIES,
        **{
            f"{operation} {what}": _FORGE_ENCRYPTS
            for operation in ("encrypt", "decrypt")
            for what in (
                "aes256-cbc oaep-sha256",
                "aes256-cbc oaep-sha1",
                "aes128-gcm pkcs1v15",
                "aes256-gcm pkcs1v15",
                "aes256-cbc ecdh p256",
                "aes256-cbc ecdh p384",
                "aes256-cbc ecdh x25519",
            )
        },
        "encrypt aes256-cbc pkcs1v15 SKI": "it names recipients by issuer and serial only",
        "encrypt aes256-cbc pkcs1v15 BER": "it writes DER only",
    }

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop

    def _forge(self, *words: str) -> None:
        run("node", str(HERE / "forge.js"), *words)

    def sign(self, content: bytes, how: Signing) -> bytes:
        out = self._shop.out()
        self._forge(
            "sign", self._shop.key(how.kind), self._shop.certificate(how.kind), how.digest,
            self._shop.file("content", content), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def verify(self, signature: bytes, content: bytes, how: Signing) -> None:
        raise AssertionError(_FORGE_VERIFIES)

    def encrypt(self, content: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        self._forge(
            "encrypt", how.cipher.replace("cbc", "CBC"), self._shop.certificate(how.kind),
            self._shop.file("content", content), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def decrypt(self, cms: bytes, how: Encryption) -> bytes:
        out = self._shop.out()
        self._forge(
            "decrypt", self._shop.key(how.kind), self._shop.certificate(how.kind),
            self._shop.file("cms", cms), str(out),
        )  # fmt: skip
        return out.read_bytes()

    def close(self) -> None:
        return


PEERS: tuple[type[Peer], ...] = (OpenSsl, Gpgsm, Nss, BouncyCastle, Forge)
