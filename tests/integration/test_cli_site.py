"""A site in one file, many verbs in one process, shells, terminals and the trail in files."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from certs.errors import DirectError, Reason
from gateway.clock import utc_now
from gateway.site_file import read_site
from tests.helpers.console import SCRIPT, Installation, run
from tests.helpers.pki import pem
from tests.helpers.stranger import Stranger

pytestmark = pytest.mark.xdist_group("cli")

DOMAIN = "direct.hillside.example"
USER, DESK = f"dr.rivera@{DOMAIN}", f"desk@{DOMAIN}"


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    made = Installation.create(tmp_path_factory.mktemp("cli"), f"gw.{DOMAIN}")
    made.batch(
        ("domain", "add", DOMAIN),
        ("address", "add", USER),
        ("user", "add", "other", "--address", USER),
        ("client", "add", "app", "--mailbox", USER),
    )
    return made


@pytest.fixture
def fresh(tmp_path: Path) -> Installation:
    return Installation.create(tmp_path / "site", f"gw.{DOMAIN}")


def site(certificate: str, password: Path) -> str:
    return f"""
[domain."{DOMAIN}"]
profile = "as-1.2"
policy = '''
revocation = "hard-fail"
'''
[address."{USER}"]
[address."{DESK}"]
deliver = "server"
server = {{ server = "127.0.0.1:24", lmtp = true, tls = "none" }}
forward = ["{USER}"]
[user.ehr]
addresses = ["{USER}", "{DESK}"]
[user.given]
addresses = ["{USER}"]
password_file = "{password.name}"
enabled = false
[client.app]
mailboxes = ["{USER}"]
scopes = "system/Communication.rs"
[bundle.atab]
url = "https://bundles.example.org/atab.p7b"
every_s = 3600
approve = true
[bundle.atab.for]
"{DOMAIN}" = ["outgoing"]
[[anchor]]
for = "{DOMAIN}"
directions = ["incoming"]
ends = "2030-01-01T00:00:00Z"
certificate = '''
{certificate}'''
"""


def applied(here: Installation, *words: object, status: int = 0) -> Any:
    done = here.run("apply", *words, "--json", check=False)
    assert done.returncode == status, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_site_is_made_as_declared_once_and_written_back(
    fresh: Installation, tmp_path: Path
) -> None:
    certificate = pem(Stranger.create("Stranger Root", utc_now()).ca.certificate).decode()
    password = tmp_path / "password"
    password.write_text("chosen\n")
    password.chmod(0o600)
    file, back = tmp_path / "site.toml", tmp_path / "back.toml"
    file.write_text(site(certificate, password))

    planned = applied(fresh, file, "--dry-run", status=1)
    assert (planned["applied"], planned["made"]) == (False, [])
    assert {step["act"] for step in planned["steps"]} == {"add"}
    assert fresh.json("domain", "list") == []

    made = applied(fresh, file)
    assert [step["key"] for step in made["steps"]] == [step["key"] for step in planned["steps"]]
    assert {(one["kind"], one["name"]) for one in made["made"]} == {
        ("user", "ehr"),
        ("client", "app"),
    }
    again = applied(fresh, file)
    assert (again["steps"], again["made"]) == ([], [])
    fresh.run("export", "--out", back)
    assert applied(fresh, back, "--dry-run", "--prune")["steps"] == []
    for secret in (one["secret"] for one in made["made"]):
        assert secret not in back.read_text()

    events = fresh.json("audit", "list")
    assert {e["action"] for e in events} >= {"domain-added", "address-added", "bundle-added"}
    assert "BEGIN CERTIFICATE" not in json.dumps(events)

    # What is not declared goes only when it is said.
    file = tmp_path / "less.toml"
    kept = [f'[domain."{DOMAIN}"]', 'profile = "as-1.3"', f'[address."{USER}"]']
    file.write_text("\n".join([*kept, "[user.ehr]", f'addresses = ["{USER}"]', ""]))
    changed = applied(fresh, file)
    assert {(s["kind"], s["act"]) for s in changed["steps"]} == {
        ("domain", "change"),
        ("user", "change"),
    }
    assert changed["undeclared"] == 5
    unasked = fresh.run("apply", file, "--prune", check=False)
    assert (unasked.returncode, "--yes" in unasked.stderr) == (2, True)
    pruned = applied(fresh, file, "--prune", "--yes")
    assert {s["act"] for s in pruned["steps"]} == {"remove"}
    assert [d["address"] for d in fresh.json("address", "list")] == [USER]
    assert [u["user"] for u in fresh.json("user", "list")] == ["ehr"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        pytest.param("[domain", "site.toml", id="not-toml"),
        pytest.param("[colour.red]", "colour", id="unknown-kind"),
        pytest.param('[domain."x y"]', "domain x y", id="name"),
        pytest.param('[domain."d.example"]\nprofil = "as-1.3"', "profil: unknown", id="unknown"),
        pytest.param('[domain."d.example"]\nprofile = "as-9"', "as-1.2, as-1.3", id="value"),
        pytest.param('[domain."d.example"]\nenabled = "yes"', "not true or false", id="type"),
        pytest.param('[address."a@d.example"]\ndeliver = "pigeon"', "default, fhir", id="deliver"),
        pytest.param('[client.app]\nscopes = "everything"', "client app", id="scopes"),
        pytest.param('[[anchor]]\nfor = "d.example"', "certificate", id="anchor"),
        pytest.param('[user.a]\n[user."a"]', "site.toml", id="twice"),
        pytest.param('[address."a@d.example"]\n[address."A@D.example"]', "twice", id="case"),
    ],
)
def test_declaration_that_is_wrong_is_refused_with_its_place(text: str, place: str) -> None:

    with pytest.raises(DirectError) as caught:
        read_site(text)
    assert caught.value.reason is Reason.CONFIGURATION_INVALID
    assert place in f"site.toml: {caught.value.detail}"


def test_site_is_applied_as_a_whole_or_not_at_all(here: Installation, tmp_path: Path) -> None:
    file = tmp_path / "half.toml"
    file.write_text('[domain."half.example"]\n[user.half]\naddresses = ["nobody@half.example"]\n')
    done = here.run("apply", file, check=False)
    assert (done.returncode, "user half: no address" in done.stderr) == (2, True)
    assert [d["domain"] for d in here.json("domain", "list")] == [DOMAIN]


def test_batch_stops_at_the_first_line_that_fails(here: Installation, tmp_path: Path) -> None:
    lines = tmp_path / "lines.txt"
    config = f"--config '{here.config}'"
    lines.write_text(
        f"# a clinic\ndomain list {config}\n\ndomain enable gone.example {config}\n"
        f"domain add never.example {config}\n"
    )
    done = run("batch", lines, check=False)
    assert done.returncode == 2
    assert "line 4: exit status 2" in done.stderr
    assert DOMAIN in done.stdout
    assert [d["domain"] for d in here.json("domain", "list")] == [DOMAIN]
    lines.write_text("domain 'list\n")
    assert run("batch", lines, check=False).returncode == 2


def test_trail_in_a_file_is_verified_without_the_database(
    here: Installation, tmp_path: Path
) -> None:
    text = here.run("audit", "export").stdout
    lines = text.splitlines()
    last = json.loads(lines[-1])
    head = f"{last['number']}:{last['digest']}"
    edited = [lines[0].replace("cli:", "cli:x"), *lines[1:]]
    trails = {
        "whole": lines,
        "later": lines[3:],
        "without one": lines[:2] + lines[3:],
        "edited": edited,
        "without the newest": lines[:-1],
    }
    for name, kept in trails.items():
        (tmp_path / name).write_text("\n".join(kept))
    said = here.batch(
        *(("audit", "verify", tmp_path / name) for name in trails),
        ("audit", "verify", tmp_path / "whole", "--known", head),
        ("audit", "verify", tmp_path / "without the newest", "--known", head),
        ("audit", "verify", "--known", "x"),
    )
    # Without its newest events the trail is whole by itself, and not beside what was kept.
    sound = [one.output["sound"] for one in said[:-1]]
    assert sound == [True, True, False, False, True, True, False]
    assert [one.status for one in said] == [0, 0, 1, 1, 0, 0, 1, 2]
    assert said[0].output["head"] == head


@pytest.mark.parametrize(
    ("shell", "ask"),
    [
        (
            "bash",
            "source {script}; COMP_WORDS=(direct-gateway cert ro); COMP_CWORD=2; "
            "_direct_gateway_completion {program}; echo ${{COMPREPLY[@]}}",
        ),
        ("fish", "source {script}; complete -C 'direct-gateway cert ro'"),
    ],
)
def test_shell_completes_verbs(shell: str, ask: str, tmp_path: Path) -> None:
    script = tmp_path / "completion"
    script.write_text(run("completion", shell).stdout)
    command = ask.format(script=script, program=SCRIPT)
    path = f"{SCRIPT.parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path, "HOME": str(tmp_path)},
    )
    assert done.stdout.split()[0] == "rollover"


def test_zsh_takes_its_script(tmp_path: Path) -> None:
    script = tmp_path / "_direct-gateway"
    script.write_text(run("completion", "zsh").stdout)
    subprocess.run(["zsh", "-n", str(script)], check=True)
    words = {"_TYPER_COMPLETE_ARGS": "direct-gateway cert ro"}
    answer = subprocess.run(
        [SCRIPT],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **words, "_DIRECT_GATEWAY_COMPLETE": "complete_zsh"},
    )
    assert "rollover" in answer.stdout


def on_terminal(
    here: Installation, *words: str, answers: Sequence[tuple[str, str]] = (), **more: str
) -> tuple[int, str]:
    """Run the script at a terminal; return its exit status and all that the terminal showed.

    Each answer is typed once its prompt is there.
    """
    environment = {k: v for k, v in os.environ.items() if k != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", **more}
    arguments = [str(SCRIPT), *words, "--config", str(here.config)]
    child, terminal = pty.fork()
    if child == 0:
        os.execve(SCRIPT, arguments, environment)
    shown, waiting = "", list(answers)
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the terminal is gone with its last user
            break
        if not piece:
            break
        shown += piece.decode()
        if waiting and shown.endswith(waiting[0][0]):
            os.write(terminal, waiting.pop(0)[1].encode())
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown


def test_colours_are_for_terminals_and_not_where_they_are_unwanted(here: Installation) -> None:
    call = ("domain", "enable", "gone.example")
    red = "\x1b[31m"
    assert red in on_terminal(here, *call)[1]
    assert red not in on_terminal(here, *call, NO_COLOR="1")[1]
    assert "\x1b" not in here.run(*call, check=False).stderr


def test_people_are_asked_and_no_means_no(here: Installation) -> None:
    here.run("user", "add", "ehr", "--address", USER)
    status, shown = on_terminal(here, "user", "remove", "ehr", answers=[("[y/N]: ", "n\n")])
    assert (status, "Remove the user ehr?" in shown) == (1, True)
    status, _ = on_terminal(here, "user", "remove", "ehr", answers=[("[y/N]: ", "y\n")])
    assert status == 0
    assert "ehr" not in [u["user"] for u in here.json("user", "list")]


def test_password_is_typed_unseen(here: Installation) -> None:
    typed = [("Password: ", "unseen-word\n"), ("confirmation: ", "unseen-word\n")]
    status, shown = on_terminal(
        here, "user", "add", "typed", "--address", USER, "--ask", answers=typed
    )
    assert (status, "unseen-word" in shown) == (0, False)
    assert "typed" in [u["user"] for u in here.json("user", "list")]


def test_nothing_secret_is_open_to_other_users(here: Installation) -> None:
    data = here.folder / "data"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    for name in ("kek", "tls.key"):
        assert stat.S_IMODE((data / name).stat().st_mode) == 0o600, name


def test_long_work_shows_people_how_far_it_is(here: Installation) -> None:
    words = ("trust", "replay", "--with", "no-anchor:" + "0" * 64, "--for", USER.partition("@")[2])
    _, shown = on_terminal(here, *words)
    assert "Replaying" in shown
    assert "Replaying" not in here.run(*words, check=False).stderr
