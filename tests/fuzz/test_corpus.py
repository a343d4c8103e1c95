"""What fuzzing found, fed again: a value or a DirectError, in a second and 64 MB."""

from __future__ import annotations

import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from certs.errors import DirectError
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
SECONDS = 1.0
OCTETS = 64 * 1024 * 1024


@pytest.mark.parametrize("name", TARGETS)
def test_corpus(name: str) -> None:
    target = TARGETS[name]
    kept = [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]
    assert kept, f"no corpus for {name}"
    for data in [*target.seeds, *kept, b""]:
        tracemalloc.start()
        before = time.process_time()
        with suppress(DirectError):
            target.feed(data)
        took, peak = time.process_time() - before, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert took < SECONDS
        assert peak < OCTETS


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_cut_and_flipped(name: str) -> None:
    target = TARGETS[name]
    for seed in target.seeds:
        for at in range(0, len(seed), 1 + len(seed) // 150):
            for data in (seed[:at], seed[:at] + bytes((seed[at] ^ 0x80,)) + seed[at + 1 :]):
                try:
                    target.feed(data)
                except DirectError:
                    continue
