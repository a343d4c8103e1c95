"""Run one target under atheris: `python -m tests.fuzz TARGET FOLDER [libFuzzer options]`.

Starts from the seeds and from tests/fuzz/corpus/TARGET; what is found goes to FOLDER. Each input
has one second, instrumented two, and the process 512 MB, of which atheris itself takes most.
`run.sh` runs them all and keeps a small corpus.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import atheris  # type: ignore[import-not-found,import-untyped,unused-ignore]  # only `make fuzz`

from certs.errors import DirectError

SECONDS = 2.0  # of processor time; instrumented code takes twice as long
CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    name, found, *options = sys.argv[1:]
    include = ["certs", "fhir_bridge.hl7v2", "fhir_bridge.tnef", "gateway", "trust_bundles"]
    with atheris.instrument_imports(include=include):
        from tests.fuzz.targets import TARGETS
    target = TARGETS[name]

    def feed(data: bytes) -> None:
        before = time.process_time()
        with suppress(DirectError):
            target.feed(data)
        assert time.process_time() - before < SECONDS, "this input takes too long"

    seeds = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, seed in enumerate(target.seeds):
        (seeds / f"seed{number}").write_bytes(seed)
    (CORPUS / name).mkdir(parents=True, exist_ok=True)
    atheris.Setup(
        [
            sys.argv[0],
            "-timeout=20",
            "-rss_limit_mb=512",
            "-max_len=16384",
            found,
            *options,
            str(CORPUS / name),
            str(seeds),
        ],
        feed,
    )
    atheris.Fuzz()


main()
