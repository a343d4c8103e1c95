"""`cert` through the real console script: its keys in the database, and in a real SoftHSM2."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from certs.pkcs12 import load_pkcs12
from gateway.clock import utc_now
from tests.helpers.console import Installation
from tests.helpers.pki import pem, pkcs12_of, private_key_of
from tests.helpers.softhsm import MODULE, PIN, softhsm
from tests.helpers.stranger import Stranger

pytestmark = pytest.mark.xdist_group("cli")

DOMAIN = "direct.hillside.example"
USER = f"dr.rivera@{DOMAIN}"


@pytest.fixture
def here(tmp_path: Path) -> Installation:
    return Installation.create(tmp_path / "site", f"gw.{DOMAIN}")


@pytest.fixture(scope="module")
def stranger() -> Stranger:
    return Stranger.create("Stranger Root", utc_now())


def secret(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(0o600)
    return path


def test_key_is_made_taken_over_from_retired_and_removed(here: Installation) -> None:
    old, new = here.batch(
        ("cert", "new", "--for", DOMAIN, "--days", "20"),
        ("cert", "new", "--for", DOMAIN, "--kind", "p256"),
    )
    first, second = old.output["sha256"], new.output["sha256"]
    refused, planned, listed, in_use, _, kept, removed, gone, soon, audited = here.batch(
        ("cert", "rollover", second[:12], "--switch", "+3d", "--retire", "+1d"),
        ("cert", "rollover", second[:12], "--publish", "+1d"),
        ("cert", "list"),
        ("cert", "remove", first, "--yes"),
        ("cert", "retire", first, "--yes"),
        ("cert", "remove", first, "--yes"),
        ("cert", "remove", first, "--lose-mail", "--yes"),
        ("cert", "retire", first, "--yes"),
        ("cert", "list", "--for", DOMAIN, "--within", "365"),
        ("audit", "list"),
    )
    assert (refused.status, "in this order" in refused.error) == (2, True)
    assert planned.output["takes_over_from"] == [first]
    states = {row["sha256"]: (row["state"], row["warning"]) for row in listed.output}
    assert states == {first: ("signs, published", 30), second: ("waits", None)}
    assert (in_use.status, "still opens mail" in in_use.error) == (2, True)
    assert (kept.status, "still opens mail" in kept.error) == (2, True)
    assert removed.output == {"for": DOMAIN, "removed": first}
    assert gone.status == 2
    assert soon.output == []
    done = [(e["action"], e["old"], e["new"]) for e in audited.output if e["outcome"] == "done"]
    assert ("certificate-rollover", first, second) in done
    assert ("certificate-removed", first, None) in done


def test_request_goes_to_a_ca_and_its_answer_is_imported(
    here: Installation, tmp_path: Path
) -> None:
    csr, certificate, ca = tmp_path / "d.csr", tmp_path / "d.pem", tmp_path / "ca.pem"
    made, waiting, issued, early, imported, again, none_waits, _ = here.batch(
        ("cert", "csr", "--for", DOMAIN, "--kind", "p384", "--out", csr),
        ("cert", "pending"),
        ("cert", "issue", csr, "--days", "90", "--out", certificate),
        ("cert", "import", certificate, "--for", USER),
        ("cert", "import", certificate, "--for", DOMAIN),
        ("cert", "import", certificate, "--for", DOMAIN),
        ("cert", "pending"),
        ("cert", "ca", "--out", ca),
    )
    [row] = waiting.output
    assert (row["for"], row["public_key"]) == (DOMAIN, made.output["public_key"])
    assert early.status == 2
    assert imported.output["sha256"] == issued.output["sha256"]
    assert (again.status, none_waits.output) == (2, [])
    check = ["openssl", "verify", "-CAfile", str(ca), str(certificate)]
    assert subprocess.run(check, capture_output=True, check=False).returncode == 0
    asked = ["openssl", "req", "-in", str(csr), "-verify", "-noout", "-text"]
    shown = subprocess.run(asked, capture_output=True, check=True, text=True)
    assert f"DNS:{DOMAIN}" in shown.stdout
    not_one = here.run("cert", "issue", certificate, check=False)
    assert (not_one.returncode, "certificate request" in not_one.stderr) == (2, True)


def test_keys_come_and_go_as_pkcs12_and_pem(
    here: Installation, tmp_path: Path, stranger: Stranger
) -> None:
    user, domain = stranger.identity(USER), stranger.identity(domain=DOMAIN)
    right, wrong = secret(tmp_path / "right", "correct\n"), secret(tmp_path / "wrong", "x\n")
    p12 = secret(tmp_path / "user.p12", pkcs12_of(user, password="correct"))
    key = secret(tmp_path / "domain.key", pem(private_key_of(domain)))
    certificate = secret(tmp_path / "domain.pem", pem(domain.certificate))
    out, public = tmp_path / "out.p12", tmp_path / "out.pem"
    unasked, refused, imported, other = here.batch(
        ("cert", "import", p12, "--for", USER),
        ("cert", "import", p12, "--for", USER, "--password-file", wrong),
        ("cert", "import", p12, "--for", USER, "--password-file", right),
        ("cert", "import", certificate, "--key", key, "--for", DOMAIN, "--use", "encrypt"),
    )
    assert [unasked.status, refused.status, imported.status, other.status] == [2, 2, 0, 0]
    sha256 = imported.output["sha256"]
    unsaid, nowhere, exported, again, _, listed = here.batch(
        ("cert", "export", sha256, "--p12", "--out", out, "--password-file", right),
        ("cert", "export", sha256, "--p12", "--yes", "--password-file", right),
        ("cert", "export", sha256, "--p12", "--yes", "--password-file", right, "--out", out),
        ("cert", "export", sha256, "--p12", "--yes", "--password-file", right, "--out", out),
        ("cert", "export", sha256, "--out", public),
        ("cert", "list"),
    )
    assert [unsaid.status, nowhere.status, exported.status, again.status] == [2, 2, 0, 2]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    bundle = load_pkcs12(out.read_bytes(), "correct")
    assert bundle.certificate == user.certificate
    assert bundle.key.public_key() == user.certificate.public_key()
    assert x509.load_pem_x509_certificate(public.read_bytes()) == user.certificate
    uses = {row["for"]: row["uses"] for row in listed.output}
    assert uses == {USER: "encrypt sign", DOMAIN: "encrypt"}


def test_keys_are_sealed_anew_by_rotation_and_by_moving_to_a_credential(
    here: Installation, tmp_path: Path
) -> None:
    kek = here.folder / "data" / "kek"
    before = kek.read_bytes()
    _, rotated, still = here.batch(
        ("cert", "new", "--for", DOMAIN, "--kind", "p256"),
        ("cert", "rewrap", "--rotate"),
        ("cert", "new", "--for", USER, "--kind", "p256"),
    )
    assert (rotated.output, still.status) == ({"keys": 2, "rotated": True}, 0)
    assert kek.read_bytes() != before
    assert not kek.with_name("kek.new").exists()
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    secret(credentials / "gateway-kek", "5a" * 32)
    new, former = 'kek = "credential:gateway-kek"\n', 'former_kek = "file:kek"\n'
    moved = f"[keys]\n{new}{former}{here.config.read_text()}"
    here.config.write_text(moved)
    out = tmp_path / "key.p12"
    password = secret(tmp_path / "password", "secret\n")
    environment = {"CREDENTIALS_DIRECTORY": str(credentials)}
    rewrapped, listed = here.batch(("cert", "rewrap"), ("cert", "list"), environment=environment)
    assert rewrapped.output == {"keys": 3, "rotated": False}
    here.config.write_text(moved.replace(former, ""))
    kek.unlink()
    sha256 = listed.output[0]["sha256"]
    exported, rotate = here.batch(
        ("cert", "export", sha256, "--p12", "--yes", "--password-file", password, "--out", out),
        ("cert", "rewrap", "--rotate"),
        environment=environment,
    )
    assert exported.status == 0
    assert (rotate.status, "another credential" in rotate.error) == (2, True)
    [unset] = here.batch(("cert", "new", "--for", DOMAIN))
    assert (unset.status, "LoadCredential" in unset.error) == (2, True)


@pytest.fixture
def in_token(tmp_path: Path) -> Iterator[Installation]:
    """An installation with a PKCS#11 token, which also seals the key-encryption key."""
    with softhsm(tmp_path / "softhsm") as hsm:
        pin = secret(tmp_path / "pin", f"{PIN}\n")
        keys = (
            f'[keys]\nkek = "token:gateway"\npkcs11_module = "{MODULE}"\n'
            f'pkcs11_token = "{hsm.label}"\npkcs11_pin = "file:{pin}"\n'
        )
        yield Installation.create(tmp_path / "site", f"gw.{DOMAIN}", keys)


def test_keys_are_made_in_the_token_and_never_leave_it(
    in_token: Installation, tmp_path: Path
) -> None:
    csr, certificate = tmp_path / "d.csr", tmp_path / "d.pem"
    made, asked, _, imported, beside, listed = in_token.batch(
        ("cert", "new", "--for", USER, "--in-token"),
        ("cert", "csr", "--for", DOMAIN, "--in-token", "--kind", "p256", "--out", csr),
        ("cert", "issue", csr, "--out", certificate),
        ("cert", "import", certificate, "--for", DOMAIN),
        ("cert", "new", "--for", USER, "--kind", "p256"),
        ("cert", "list"),
    )
    assert [made.status, asked.status, imported.status, beside.status] == [0] * 4
    request = x509.load_pem_x509_csr(csr.read_bytes())
    assert request.is_signature_valid
    where = {row["sha256"]: row["key"] for row in listed.output}
    assert where == {
        made.output["sha256"]: "token",
        imported.output["sha256"]: "token",
        beside.output["sha256"]: "database",
    }
    sealed = in_token.folder / "data" / "kek.gateway"
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    before = sealed.read_bytes()
    password = secret(tmp_path / "password", "secret\n")
    sha256, out = made.output["sha256"], tmp_path / "out.p12"
    export, rotated, retired, removed = in_token.batch(
        ("cert", "export", sha256, "--p12", "--yes", "--password-file", password, "--out", out),
        ("cert", "rewrap", "--rotate"),
        ("cert", "retire", sha256, "--yes"),
        ("cert", "remove", sha256, "--yes", "--lose-mail"),
    )
    assert (export.status, "stays there" in export.error, out.exists()) == (2, True, False)
    assert rotated.output["keys"] == 2
    assert sealed.read_bytes() != before
    assert (retired.status, removed.status) == (0, 0)
