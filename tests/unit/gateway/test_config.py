from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from certs.cms.algorithms import ContentEncryption, KeyTransport
from certs.errors import DirectError, Reason
from certs.policy import Profile
from gateway.config import Config, load, read_password
from gateway.config_sample import describe
from gateway.host_port import HostPort, parse_host_port
from gateway.tls_policy import Demand


@pytest.fixture(autouse=True)
def environment() -> Iterator[dict[str, str]]:
    """The process's environment, as a test changes it; restored after the test."""
    before = dict(os.environ)
    yield os.environ  # type: ignore[misc]  # which is a mapping like a dict
    os.environ.clear()
    os.environ.update(before)


def written(folder: Path, text: str = "") -> Path:
    path = folder / "direct-gateway.toml"
    path.write_text(text, encoding="utf-8")
    return path


def wrong(path: Path) -> str:
    with pytest.raises(DirectError) as caught:
        load(path)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    return caught.value.detail


def test_empty_file_is_the_defaults(tmp_path: Path) -> None:
    config = load(written(tmp_path))
    assert config.tracking.window_s == 3600.0  # DN-017
    assert config.windows.delay == timedelta(minutes=30)
    assert config.trust.profile is Profile.AS_1_3
    assert (config.backbone.listen, config.edge.listen, config.fhir.listen) == (None, None, None)


def test_values_of_every_kind(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            [gateway]
            hostname = "gw.hillside.example"
            [backbone]
            listen = "[::1]:25"
            [routes]
            "Direct.Lakeview.example" = "127.0.0.1:2525"
            "*" = "smart.example:25"
            [tls]
            "direct.lakeview.example" = "verify"
            [peers."Old.Example"]
            key_transport = "rsa-pkcs1v15"
            content_encryption = "aes128-cbc"
            size_octets = 20000000
            [windows_s]
            "Direct.Hillside.example" = 600

            [mailboxes."Dr.Rivera@direct.hillside.example"]
            server = "127.0.0.1:24"
            lmtp = true
            """,
        )
    )
    assert config.backbone.listen == HostPort(host="::1", port=25)
    assert str(config.backbone.listen) == "[::1]:25"
    assert {name: str(to) for name, to in config.routes.items()} == {
        "direct.lakeview.example": "127.0.0.1:2525",
        "*": "smart.example:25",
    }
    assert config.tls == {"direct.lakeview.example": Demand.VERIFY}
    assert config.windows.of("direct.hillside.example") == timedelta(minutes=10)
    assert config.windows.of("other.example") == timedelta(hours=1)
    assert config.mailboxes["dr.rivera@direct.hillside.example"].lmtp
    options = config.known_peers.options_for("old.example", [])
    assert options.key_transport is KeyTransport.RSA_PKCS1
    assert options.content_encryption is ContentEncryption.AES128_CBC
    assert config.known_peers.size_octets("old.example") == 20_000_000
    assert config.known_peers.size_octets("other.example") == config.backbone.size_octets


def test_relative_paths_count_from_the_folder_of_the_file(tmp_path: Path) -> None:
    config = load(
        written(
            tmp_path,
            """
            [gateway]
            data = "there"
            [edge]
            tls_certificate = "tls/chain.pem"
            tls_key = "/etc/key.pem"
            [mailboxes."direct.hillside.example"]
            server = "127.0.0.1:24"
            password_file = "secret"
            """,
        )
    )
    assert config.gateway.data == tmp_path / "there"
    assert config.edge.tls_certificate == tmp_path / "tls" / "chain.pem"
    assert config.edge.tls_key == Path("/etc/key.pem")
    assert config.backbone.tls_certificate is None
    assert config.mailboxes["direct.hillside.example"].password_file == tmp_path / "secret"
    assert config.database_url == f"sqlite:///{tmp_path}/there/gateway.sqlite3"
    assert config.on_sqlite


def test_database_of_ones_own(tmp_path: Path) -> None:
    config = load(written(tmp_path, '[gateway]\ndatabase = "postgresql://db/gateway"'))
    assert config.database_url == "postgresql://db/gateway"
    assert not config.on_sqlite


def test_environment_wins_over_the_file(tmp_path: Path, environment: dict[str, str]) -> None:
    environment["DIRECT_GATEWAY_GATEWAY__HOSTNAME"] = "other.example"
    environment["DIRECT_GATEWAY_EDGE__LISTEN"] = "127.0.0.1:587"
    path = written(tmp_path, '[gateway]\nhostname = "gw.example"\nworkers = 3\n')
    config = load(path)
    assert (config.gateway.hostname, config.gateway.workers) == ("other.example", 3)
    assert config.edge.listen == HostPort(host="127.0.0.1", port=587)


def test_wrong_value_in_the_environment_is_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["DIRECT_GATEWAY_GATEWAY__WORKERS"] = "many"
    assert "gateway.workers" in wrong(written(tmp_path))


def test_environment_that_does_not_parse_is_named(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    environment["DIRECT_GATEWAY_ROUTES"] = "not json"
    assert "routes" in wrong(written(tmp_path))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param("[gateway]\nworkers = 0", "gateway.workers", id="too-small"),
        pytest.param("[gateway]\nworker = 1", "gateway.worker", id="unknown-name"),
        pytest.param("[gatway]\nworkers = 1", "gatway", id="unknown-section"),
        pytest.param("gateway = 1", "gateway", id="not-a-section"),
        pytest.param('[edge]\nlisten = "587"', "edge.listen", id="no-port"),
        pytest.param('[edge]\nlisten = "a:99999"', "edge.listen", id="port-too-big"),
        pytest.param('[edge]\nlisten = "a:\u00b2"', "edge.listen", id="port-no-number"),
        pytest.param('[trust]\nprofile = "as-9"', "trust.profile", id="unknown-profile"),
        pytest.param('[routes]\n"a b.example" = "x:25"', "a b.example", id="route-no-domain"),
        pytest.param('[routes]\n"a.example" = ""', "routes", id="route-to-nowhere"),
        pytest.param("routes = 1", "routes", id="routes-no-table"),
        pytest.param('[peers."x.example"]\ndigest = "sha1"', "peers.x.example.digest", id="sha1"),
        pytest.param('[peers."nodot"]\npss = true', "nodot", id="peer-no-domain"),
        pytest.param("mailboxes = 1", "mailboxes", id="mailboxes-no-table"),
        pytest.param('[tls]\n"nodot" = "verify"', "nodot", id="tls-no-domain"),
        pytest.param('[windows_s]\n"nodot" = 60', "nodot", id="window-of-no-domain"),
        pytest.param('[windows_s]\n"a.example" = 0', "windows_s", id="window-of-nothing"),
        pytest.param(
            '[mailboxes."a b@x.example"]\nserver = "x:24"', "a b@x.example", id="mailbox-no-address"
        ),
        pytest.param('[gateway]\nhostname = "a\\r\\nb"', "gateway.hostname", id="hostname-lines"),
        pytest.param('[gateway]\nhostname = "g\u00e4"', "gateway.hostname", id="hostname-odd"),
        pytest.param("[gateway", "direct-gateway.toml", id="not-toml"),
    ],
)
def test_wrong_value_is_named(tmp_path: Path, text: str, named: str) -> None:
    assert named in wrong(written(tmp_path, text))


def test_every_wrong_value_is_named_and_none_is_quoted(tmp_path: Path) -> None:
    text = '[gateway]\nworkers = "secret-one"\n[tracking]\nwindow_s = "secret-two"\n'
    detail = wrong(written(tmp_path, text))
    assert "gateway.workers" in detail
    assert "tracking.window_s" in detail
    assert "secret" not in detail


def test_missing_file_and_file_in_another_encoding(tmp_path: Path) -> None:
    assert "none.toml" in wrong(tmp_path / "none.toml")
    path = tmp_path / "latin.toml"
    path.write_bytes(b'[gateway]\nhostname = "\xe4"\n')
    assert "latin.toml" in wrong(path)


def test_description_is_a_file_with_every_default(tmp_path: Path) -> None:
    said = describe()
    uncommented = "\n".join(
        line.removeprefix("# ") if " = " in line else line for line in said.splitlines()
    )
    defaults = load(written(tmp_path))
    assert load(written(tmp_path, uncommented)) == defaults
    assert load(written(tmp_path, said)) == defaults
    for name in Config.model_fields:
        assert f"[{name}]" in said


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("127.0.0.1:53", ("127.0.0.1", 53)), ("[::1]:53", ("::1", 53)), ("dns:0", ("dns", 0))],
)
def test_host_and_port(text: str, parsed: tuple[str, int]) -> None:
    assert parse_host_port(text) == parsed


@pytest.mark.parametrize("text", ["", "53", "host", "host:", "host:x", "host:70000", "host:\u00b2"])
def test_neither_host_nor_port(text: str) -> None:
    with pytest.raises(DirectError) as caught:
        parse_host_port(text)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID


def test_password_is_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_bytes(b"secret\r\nnot this\n")
    assert read_password(path) == "secret"


def test_password_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DirectError) as caught:
        read_password(tmp_path / "none")
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
