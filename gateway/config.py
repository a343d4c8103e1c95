"""The configuration: one TOML file, each value overridable by the environment.

Talks to the file it is told to read and to the environment; everything else gets frozen models.
A value `section.name` is overridden by `DIRECT_GATEWAY_SECTION__NAME`.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from certs.address import parse_address, parse_domain
from certs.errors import DirectError, Reason
from certs.policy import Profile, RevocationMode
from fhir_bridge.terms import InboundStatus
from gateway.host_port import HostPort, host_port
from gateway.mta_sts import Mode
from gateway.peers import Peer, Peers
from gateway.tls_policy import Demand
from gateway.tracking import Windows

__all__ = [
    "Config",
    "Discovery",
    "Fhir",
    "Gateway",
    "Keys",
    "Mailbox",
    "Smtp",
    "Tracking",
    "Trust",
    "load",
    "read_password",
]


_HOSTNAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


def _none_where_empty(value: object) -> object:
    return None if value == "" else value


class Gateway(_Section):
    """Who we are and where our data lies."""

    hostname: str = Field("localhost", description="our name in SMTP, Received and MDNs")
    data: Path = Field(Path("data"), description="folder of database, spool and key file")
    database: str = Field("", description="SQLAlchemy URL; empty: SQLite in the data folder")
    workers: int = Field(16, ge=1, le=256, description="jobs worked on at a time")
    lease_s: float = Field(
        60.0, ge=5, description="seconds after which others do the work of a process that died"
    )
    log_level: str = Field("info", description="debug, info, warning or error")
    metrics_to: tuple[IPv4Network | IPv6Network, ...] = Field(
        (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128")),
        description="networks that may read /metrics on the FHIR listener",
    )
    mta_sts: Mode = Field(
        Mode.NONE, description="policy served at /.well-known/mta-sts.txt: none, testing, enforce"
    )
    keep_content_days: int = Field(30, ge=1, description="days content is kept after its end")
    keep_record_days: int = Field(365, ge=7, description="days the record of a message is kept")
    processes: int = Field(
        1, ge=1, le=64, description="processes that serve on this machine, each with its workers"
    )

    @field_validator("hostname")
    @classmethod
    def _name(cls, value: str) -> str:
        # It becomes part of commands, headers and certificates.
        if not _HOSTNAME.fullmatch(value):
            raise ValueError("not a host name")
        return value


class Keys(_Section):
    """Where private keys are, and what protects them at rest."""

    kek: str = Field("file:kek", description="or credential:NAME, token:LABEL; see docs/cli.md")
    former_kek: str = Field("", description="what kek was, until `cert rewrap` has been run")
    pkcs11_module: Path | None = Field(None, description="library of the PKCS#11 token; none: none")
    pkcs11_token: str = Field("", description="label of the token")
    pkcs11_pin: str = Field("", description="file:PATH or credential:NAME that holds its PIN")
    old_keys_days: int = Field(3650, ge=1, description="days that a retired key still opens mail")

    _files = field_validator("pkcs11_module", mode="before")(_none_where_empty)


class Smtp(_Section):
    """One SMTP listener. An empty `listen` switches it off."""

    listen: HostPort | None = Field(None, description="host:port to listen on")
    tls_certificate: Path | None = Field(None, description="PEM chain; none: made at init")
    tls_key: Path | None = Field(None, description="PEM key of tls_certificate")
    size_octets: int = Field(
        50 * 1024 * 1024,
        ge=65536,
        description="largest message; at the edge, at most what fits sealed",
    )
    idle_s: float = Field(300.0, gt=0, description="seconds to wait for a client's next command")
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(
        (), description="networks whose connections begin with a PROXY protocol header"
    )

    _parse = field_validator("listen", mode="before")(host_port)
    _files = field_validator("tls_certificate", "tls_key", mode="before")(_none_where_empty)


class Fhir(_Section):
    """The FHIR API."""

    listen: HostPort | None = Field(None, description="host:port to listen on")
    base_url: str = Field("", description="public URL up to /fhir/R4; empty: from listen")
    tls_certificate: Path | None = Field(None, description="PEM chain; none: plain HTTP")
    tls_key: Path | None = Field(None, description="PEM key of tls_certificate")
    hook_hosts: tuple[str, ...] = Field(
        (),
        description="hosts, or host:port, that subscriptions may send to; http:// before: plain",
    )
    hook_private_addresses: bool = Field(
        False, description="may names in hook_hosts be on private nets"
    )
    origins: tuple[str, ...] = Field(
        (), description="web pages that may call from a browser (CORS), as https://app.example"
    )
    require_if_match: bool = Field(
        False, description="refuse (428) what changes a resource without naming its version"
    )
    inbound_status: InboundStatus = Field(
        InboundStatus.COMPLETED,
        description="status of what was received: completed, or in-progress until it is read",
    )
    fhir_envelope: bool = Field(
        False, description="carry what mail cannot in a part of the message; read that of others"
    )
    show_notices: bool = Field(False, description="are received MDN and DSN messages, too")
    requests_per_minute: int = Field(6000, ge=1, description="requests of one client a minute")
    decision_wait_s: float = Field(2.0, ge=0, le=30, description="seconds a send waits to decide")

    _parse = field_validator("listen", mode="before")(host_port)
    _files = field_validator("tls_certificate", "tls_key", mode="before")(_none_where_empty)


class Discovery(_Section):
    """How recipients' certificates are found."""

    resolver: HostPort | None = Field(None, description="host:port; none: the system's resolver")
    timeout_s: float = Field(8.0, gt=0, description="seconds for one DNS query")
    deadline_s: float = Field(30.0, gt=0, description="seconds for one recipient")
    cache: bool = Field(True, description="keep answers for their time to live")
    private_addresses: bool = Field(False, description="may LDAP, CRL and AIA be on private nets")
    dane: bool = Field(False, description="believe DANE; resolver validates, on this machine")

    _parse = field_validator("resolver", mode="before")(host_port)


class Trust(_Section):
    """What is demanded of certificates and messages."""

    profile: Profile = Field(Profile.AS_1_3, description="as-1.3 or as-1.2")
    revocation: RevocationMode = Field(RevocationMode.SOFT_FAIL, description="or hard-fail")
    accept_unwrapped: bool = Field(True, description="take messages that are not wrapped")


class Tracking(_Section):
    """When a sender is told that a message failed."""

    window_s: float = Field(3600.0, gt=0, description="seconds to wait for a notification")
    delay_s: float = Field(1800.0, gt=0, description="seconds until a DSN of delay, if asked for")
    relay_s: float = Field(2700.0, gt=0, description="seconds for our mail servers to take mail")


class Mailbox(_Section):
    """The mail server of one of our users, where opened messages go."""

    server: HostPort = Field(description="host:port")
    lmtp: bool = Field(False, description="speak LMTP instead of SMTP")
    tls: Demand = Field(Demand.VERIFY, description="none, opportunistic, encrypt or verify")
    user: str = Field("", description="user for AUTH PLAIN; empty: none")
    password_file: Path | None = Field(None, description="file with the user's password")

    _parse = field_validator("server", mode="before")(host_port)


class Config(BaseSettings):
    """The whole configuration."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix="DIRECT_GATEWAY_", env_nested_delimiter="__"
    )

    gateway: Gateway = Gateway()
    keys: Keys = Keys()
    backbone: Smtp = Smtp()
    edge: Smtp = Smtp()
    fhir: Fhir = Fhir()
    discovery: Discovery = Discovery()
    trust: Trust = Trust()
    tracking: Tracking = Tracking()
    windows_s: Mapping[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="domain of ours to its own tracking.window_s"
    )
    routes: Mapping[str, HostPort] = Field(
        default_factory=dict, description="domain to host:port in place of MX; * is a smart host"
    )
    tls: Mapping[str, Demand] = Field(
        default_factory=dict, description="domain to the TLS demanded; * is for all others"
    )
    peers: Mapping[str, Peer] = Field(
        default_factory=dict, description="domain to how it is sent to; * is for all others"
    )
    mailboxes: Mapping[str, Mailbox] = Field(
        default_factory=dict, description="address, domain or * to the mail server of its users"
    )

    @field_validator("routes", mode="before")
    @classmethod
    def _hosts(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {str(name).lower(): host_port(target) for name, target in value.items()}

    @field_validator("tls", "peers", "mailboxes", "windows_s", mode="before")
    @classmethod
    def _names(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        return {str(name).lower(): item for name, item in value.items()}

    @field_validator("routes", "tls", "peers", "windows_s")
    @classmethod
    def _domains(cls, value: Mapping[str, object]) -> Mapping[str, object]:
        for name in value:
            if name != "*":
                try:
                    parse_domain(name)
                except DirectError as error:
                    raise ValueError(f"{name}: {error.detail}") from None
        return value

    @field_validator("mailboxes")
    @classmethod
    def _addresses(cls, value: Mapping[str, Mailbox]) -> Mapping[str, Mailbox]:
        for name in value:
            if name != "*":
                try:
                    parse_address(name) if "@" in name else parse_domain(name)
                except DirectError as error:
                    raise ValueError(f"{name}: {error.detail}") from None
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, which comes in as constructor arguments."""
        return EnvSettingsSource(settings_cls), init_settings

    @property
    def database_url(self) -> str:
        """The database's SQLAlchemy URL."""
        default = f"sqlite:///{(self.gateway.data / 'gateway.sqlite3').absolute()}"
        return self.gateway.database or default

    @property
    def known_peers(self) -> Peers:
        """What is configured of peers; what none says of sizes is what our backbone takes."""
        return Peers(self.peers, size_octets=self.backbone.size_octets)

    @property
    def windows(self) -> Windows:
        """How long each of our domains waits for notifications."""
        by_domain = {name: timedelta(seconds=each) for name, each in self.windows_s.items()}
        return Windows(
            timedelta(seconds=self.tracking.window_s),
            by_domain,
            timedelta(seconds=self.tracking.delay_s),
        )

    @property
    def on_sqlite(self) -> bool:
        """Whether one process has the database for itself."""
        return self.database_url.startswith("sqlite:")


def load(path: Path) -> Config:
    """Return the configuration in `path`; relative paths in it count from its folder.

    Raises:
        DirectError: CONFIGURATION_INVALID; the file is missing, not TOML, or a value is wrong.
            The detail names each wrong value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _invalid(f"{path}: {error}") from None
    try:
        config = Config(**values)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
            for item in error.errors(include_url=False, include_input=False)
        )
        raise _invalid(f"{path}: {wrong}") from None
    except SettingsError as error:  # the environment, where it is to be JSON
        raise _invalid(str(error)) from None
    return _anchored(config, path.absolute().parent)


def _anchored(config: Config, folder: Path) -> Config:
    """Return the configuration with its relative paths made absolute."""
    changed: dict[str, object] = {
        "gateway": config.gateway.model_copy(update={"data": folder / config.gateway.data})
    }
    for name in ("backbone", "edge", "fhir"):
        section = getattr(config, name)
        paths = {
            key: folder / path
            for key in ("tls_certificate", "tls_key")
            if (path := getattr(section, key)) is not None
        }
        changed[name] = section.model_copy(update=paths)
    changed["mailboxes"] = {
        name: box.model_copy(
            update={"password_file": box.password_file and folder / box.password_file}
        )
        for name, box in config.mailboxes.items()
    }
    return config.model_copy(update=changed)


def read_password(path: Path) -> str:
    """Return the first line of a file that holds a password.

    Raises:
        DirectError: CONFIGURATION_INVALID; it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError):
        raise _invalid(f"{path}: the password cannot be read") from None


def _invalid(detail: str) -> DirectError:
    return DirectError(Reason.CONFIGURATION_INVALID, detail)
