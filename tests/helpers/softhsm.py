"""A real PKCS#11 token in software: SoftHSM2, with a store of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MODULE", "PIN", "SoftHsm", "softhsm"]

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711"
LABEL = "hisp"


@dataclass(frozen=True)
class SoftHsm:
    """A token, and the environment in which a process finds it."""

    environment: dict[str, str]
    label: str = LABEL


@contextmanager
def softhsm(folder: Path) -> Iterator[SoftHsm]:
    """Make a token under `folder`, found by this process and by those it starts."""
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    configuration = folder / "softhsm2.conf"
    configuration.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\n")
    before = os.environ.get("SOFTHSM2_CONF")
    os.environ["SOFTHSM2_CONF"] = str(configuration)
    try:
        make = ("softhsm2-util", "--init-token", "--free", "--label", LABEL)
        pins = ("--pin", PIN, "--so-pin", PIN)
        subprocess.run([*make, *pins], check=True, capture_output=True)
        yield SoftHsm({"SOFTHSM2_CONF": str(configuration)})
    finally:
        if before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = before
