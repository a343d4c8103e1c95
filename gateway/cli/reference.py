"""`docs/cli.md`: every noun, verb and option, as the program itself knows them.

Talks to standard output when it is run: `python -m gateway.cli.reference > docs/cli.md`.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, get_args

import typer

from gateway.cli.__main__ import app
from gateway.cli.completion import PROGRAM

__all__ = ["main", "reference"]

# Options that every verb takes, explained once.
COMMON: Final = ("--config", "--json", "--yes", "--help")

_HEAD: Final = """\
# The command line

Made from the program by `python -m gateway.cli.reference > docs/cli.md`; a test checks that it is
up to date. [verbs.md](verbs.md) says which verb does what other gateways' consoles do.

Common to all:

| option | meaning |
|---|---|
| `--config`, `-c` FILE | the configuration; `direct-gateway.toml`, or `$DIRECT_GATEWAY_CONFIG` |
| `--json` | JSON for programs; its keys do not change |
| `--yes`, `-y` | do not ask; without a terminal it must be said |
| `--help` | what a verb does, with an example |

Exit status: **0** done, or the answer is yes; **1** the answer is no; **2** wrong usage, or it
failed (the reason is on standard error). Colours and bars are for terminals only, and never where
`NO_COLOR` is set. Passwords are typed unseen or read from files, never arguments. Times are written
`now`, `+14d`, `+12h`, `+30m` or in ISO 8601. A change is in force in the running gateway at once.

Many verbs in one go: `direct-gateway batch`. A whole site in one file: `direct-gateway apply`.
"""

_KEYS: Final = """\
## Keys at rest

`[keys]` in the configuration says where the key-encryption key is, under which private keys lie in
the database.

| `keys.kek` | meaning |
|---|---|
| `file:kek` (default) | 32 octets in the data folder, made by `init`, readable by its owner only |
| `credential:NAME` | handed over by systemd: `LoadCredentialEncrypted=NAME:…` in the unit |
| `token:LABEL` | sealed by the PKCS#11 token's AES key of that label, made by `init` |

A PKCS#11 token (`pip install 'direct-gateway[pkcs11]'`) is named by `keys.pkcs11_module`,
`keys.pkcs11_token` and `keys.pkcs11_pin` (`file:…` or `credential:…`). With it `cert new` and
`cert csr` make keys that never leave it, where they are told `--in-token`. `cert rewrap --rotate`
makes a new key-encryption key while the gateway runs; to move it, see `cert rewrap`.
"""


def reference() -> str:
    """Return the reference in Markdown."""
    root: Any = typer.main.get_command(app)
    context = root.context_class(root, info_name=PROGRAM)
    parts = [_HEAD, _KEYS]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        parts += _described(command, [name])
    return "\n".join(parts)


def main() -> None:
    """Print the reference."""
    sys.stdout.write(reference())


def _described(command: Any, path: list[str]) -> Iterator[str]:
    verbs = command.list_commands(None) if hasattr(command, "list_commands") else []
    if verbs:
        heading = "##" if len(path) == 1 else "###"
        yield f"{heading} {' '.join(path)}\n\n{_text(command)[0]}\n"
        context = command.context_class(command, info_name=path[-1])
        for verb in verbs:
            yield from _described(command.get_command(context, verb), [*path, verb])
        return
    text, example = _text(command)
    heading = "##" if len(path) == 1 else "###"
    yield f"{heading} {' '.join(path)}\n\n{text}\n"
    if example:
        yield f"```sh\n{example}\n```\n"
    rows = [row for each in command.params if (row := _row(each)) is not None]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows]) + "\n"


def _text(command: Any) -> tuple[str, str]:
    """Return the help of a command, and the example at its end."""
    text, _, example = (command.help or "").partition("\nExample: ")
    return text.strip(), " ".join(example.split())


def _row(parameter: Any) -> str | None:
    names = [*parameter.opts, *parameter.secondary_opts]
    if any(name in COMMON for name in names):
        return None
    is_option = any(name.startswith("-") for name in names)
    shown = ", ".join(f"`{name}`" for name in names) if is_option else f"`{_metavar(parameter)}`"
    if is_option and not getattr(parameter, "is_flag", False):
        shown += f" {_value(parameter)}"
    notes = [parameter.help or ""]
    kind = _kind(parameter)
    if issubclass(kind, enum.Enum):
        notes.append(f"One of {', '.join(_plain(one) for one in kind)}.")
    if parameter.required and is_option:
        notes.append("Required.")
    if parameter.multiple:
        notes.append("May be repeated.")
    default = parameter.default
    if default not in (None, "", (), [], False) and not callable(default):
        notes.append(f"Default: {_plain(default)}.")
    return f"| {shown} | {' '.join(note for note in notes if note)} |".replace("\n", " ")


def _metavar(parameter: Any) -> str:
    name = str(parameter.metavar or parameter.name.upper())
    return name if parameter.required else f"[{name}]"


def _value(parameter: Any) -> str:
    if parameter.metavar:
        return str(parameter.metavar)
    kind = _kind(parameter)
    if issubclass(kind, enum.Enum):
        return "WORD"
    return {int: "N", float: "N", Path: "FILE"}.get(kind, "TEXT")


def _kind(parameter: Any) -> type:
    """Return the type of one value: that of the items where it is a list."""
    found = parameter.type_descriptor.annotation
    inner = [one for one in get_args(found) if one is not type(None)]
    kind = inner[0] if inner else found
    return kind if isinstance(kind, type) else str


def _plain(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return str(value.value)
    return value.name if isinstance(value, Path) and value.is_absolute() else str(value)


if __name__ == "__main__":
    main()
