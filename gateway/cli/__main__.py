"""The console script: every noun and verb in one place.

Talks to the terminal.
"""

from __future__ import annotations

import gc
from importlib.metadata import version
from typing import Annotated, Final

import typer

from gateway.cli.completion import PROGRAM, prepare_completion
from gateway.cli.lazy import LazyGroup, Place

__all__ = ["app", "call", "main"]

# Objects made before Python looks for garbage among them; its default is 700.
_COLLECT_AFTER: Final = 50_000

_LIFE: Final = "gateway.cli.cert_life"
_PLACES: Final = {
    "init": Place("gateway.cli.site", "init", "Set up an installation."),
    "serve": Place("gateway.cli.site", "serve", "Run the gateway."),
    "check": Place("gateway.cli.site", "check", "Check configuration, keys and trust."),
    "domain": Place(
        "gateway.cli.domain",
        "names",
        "Health domain names served here.",
        {"check": Place("gateway.cli.domain_check", "names", "Compare it with what others see.")},
    ),
    "address": Place("gateway.cli.address", "addresses", "Direct addresses served here."),
    "user": Place("gateway.cli.user", "users", "Mail users of the edge (SMTP AUTH)."),
    "client": Place("gateway.cli.client", "clients", "Programs that call the FHIR API."),
    "cert": Place(
        "gateway.cli.cert",
        "certs",
        "Our own keys and certificates.",
        {
            "rollover": Place(_LIFE, "certs", "Let a certificate take over, at dates."),
            "retire": Place(_LIFE, "certs", "Sign with it and publish it no more."),
            "remove": Place(_LIFE, "certs", "Forget a certificate with its key."),
            "rewrap": Place(_LIFE, "certs", "Seal the keys anew."),
            "publish": Place("gateway.cli.publish", "certs", "Print its DNS records, or push."),
            "cache": Place("gateway.cli.cert_cache", "certs", "What is remembered of others'."),
        },
    ),
    "anchor": Place("gateway.cli.anchor", "anchors", "Trust anchors, by domain or address."),
    "bundle": Place(
        "gateway.cli.bundle",
        "bundles",
        "Trust bundles: published collections of anchors.",
        {
            "show": Place("gateway.cli.bundle_versions", "contents", "What a bundle holds."),
            "diff": Place("gateway.cli.bundle_versions", "contents", "What would change."),
            "approve": Place("gateway.cli.bundle_versions", "contents", "Put a version in force."),
            "history": Place("gateway.cli.bundle_versions", "contents", "Every version there was."),
            "export": Place("gateway.cli.bundle_versions", "contents", "Write it to a file."),
        },
    ),
    "trust": Place("gateway.cli.trust", "trust", "Why somebody is trusted; policies; replay."),
    "message": Place("gateway.cli.message", "messages", "Messages and what became of them."),
    "queue": Place("gateway.cli.queue", "queue", "Work that waits."),
    "audit": Place("gateway.cli.audit", "audit", "What was done, by whom."),
    "apply": Place("gateway.cli.declare", "apply", "Make the site as a file declares it."),
    "export": Place("gateway.cli.declare", "export", "Write the site as such a file."),
    "batch": Place("gateway.cli.batch", "batch", "Run verbs, one a line."),
    "completion": Place("gateway.cli.completion", "completion", "Let the shell complete verbs."),
    "lookup": Place("gateway.cli.lookup", "lookup", "Find a recipient's certificate."),
    "inspect": Place("gateway.cli.inspect", "inspect", "Judge a stored message."),
    "selftest": Place("gateway.cli.selftest", "selftest", "Conformance cases, run here."),
    "sandbox": Place("gateway.cli.sandbox", "sandbox", "Two HISPs on this machine."),
    "bench": Place("gateway.cli.bench", "bench", "Measure this machine."),
}


class _Commands(LazyGroup):
    PLACES = _PLACES


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"direct-gateway {version('direct-gateway')}")
        raise typer.Exit


@app.callback()
def commands(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """A HISP in one command: Direct secure messaging with a FHIR R4 API.

    Exit status: 0 done, or the answer is yes; 1 the answer is no; 2 wrong usage, or it failed.
    """


def main() -> None:
    """Run the command line."""
    # Looking for garbage among freshly loaded modules, and once more at the end, takes a third
    # of a short verb's time.
    gc.set_threshold(_COLLECT_AFTER)
    prepare_completion()
    try:
        app(prog_name=PROGRAM)
    finally:
        gc.freeze()


def call(words: list[str]) -> int:
    """Run one verb within this process and return its exit status."""
    try:
        app(words, prog_name=PROGRAM)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    return 0


if __name__ == "__main__":
    main()
