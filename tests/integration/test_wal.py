"""What is acknowledged was on the disk before: the order of the system calls, as strace sees it.

A power failure cannot be made here. What it spares is what was synced.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

ROUNDS, AT_A_TIME = 12, 5

PROGRAM = f"""
import asyncio, os, sys
from contextlib import suppress
import sqlalchemy as sa
from certs.errors import DirectError
from gateway.database import SqlDatabase

async def put(database, number):
    def work(connection):
        connection.exec_driver_sql("INSERT INTO t VALUES (?)", (f"row-{{number:04}};" * 50,))
    try:
        await database.write(work)
    except DirectError as error:
        os.write(1, f"refused-{{number:04}}; {{error.detail}}\\n".encode())
    else:
        os.write(1, f"acknowledged-{{number:04}};\\n".encode())

async def main():
    async with SqlDatabase.open("sqlite:///" + sys.argv[1]) as database:
        for _ in range(3):
            with suppress(DirectError):
                await database.write(
                    lambda c: c.exec_driver_sql("CREATE TABLE IF NOT EXISTS t (text)")
                )
        for first in range(0, {ROUNDS * AT_A_TIME}, {AT_A_TIME}):
            await asyncio.gather(*(put(database, first + n) for n in range({AT_A_TIME})))
        found = await database.read(lambda c: c.exec_driver_sql("SELECT text FROM t").all())
        os.write(1, f"found {{len(found)}}\\n".encode())

asyncio.run(main())
"""
_CALL = re.compile(r"(?P<thread>\d+) +(?:<\.\.\. )?(?P<name>\w+)(?:\(| resumed>)(?P<rest>.*)", re.S)


@dataclass
class Call:
    """One system call: the lines at which it begins and ends, and what is printed of it."""

    name: str
    text: str
    begins: int
    ends: int


def calls(trace: Path) -> list[Call]:
    """Return the calls of a trace; one that others interrupt has two lines."""
    found, open_ones = [], {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        match = _CALL.match(line)
        if match is None:
            continue
        thread, name = match["thread"], match["name"]
        if " resumed>" in line:
            call = open_ones.pop(thread)
            call.text, call.ends = call.text + line, number
        else:
            call = Call(name, line, number, number)
            found.append(call)
            if line.endswith("<unfinished ...>"):
                open_ones[thread] = call
    return found


def run(folder: Path, *options: str) -> tuple[list[str], list[Call]]:
    """Run the program under strace; return what it says, and what it did."""
    trace = folder / "trace"
    watched = ("-f", "-qq", "-y", "-s", "100000", "-e", "trace=pwrite64,fdatasync,ftruncate,write")
    program = (sys.executable, "-c", PROGRAM, str(folder / "gateway.db"))
    done = subprocess.run(
        ["strace", *watched, *options, "-o", str(trace), *program],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.splitlines(), calls(trace)


def of_the_log(found: Sequence[Call], name: str) -> Iterator[Call]:
    return (call for call in found if call.name == name and "-wal>" in call.text)


def test_a_work_is_acknowledged_after_a_sync_that_began_after_its_commit_was_written(
    tmp_path: Path,
) -> None:
    said, found = run(tmp_path)
    assert said[-1] == f"found {ROUNDS * AT_A_TIME}"
    syncs = list(of_the_log(found, "fdatasync"))
    for number in range(ROUNDS * AT_A_TIME):
        row, word = f"row-{number:04};", f"acknowledged-{number:04};"
        written = next(call for call in of_the_log(found, "pwrite64") if row in call.text)
        told = next(call for call in found if call.name == "write" and word in call.text)
        assert any(written.ends < sync.begins and sync.ends < told.begins for sync in syncs), word


@pytest.mark.parametrize("place", [3, 8])
def test_after_a_sync_that_failed_all_is_copied_before_anything_is_acknowledged(
    tmp_path: Path, place: int
) -> None:
    said, found = run(tmp_path, "-e", f"inject=fdatasync:error=EIO:when={place}")
    told = [call for call in found if call.name == "write" and "acknowledged-" in call.text]
    # Those of the very end are SQLite's own, as it closes: it keeps the log then.
    failed = [
        call
        for call in found
        if call.name == "fdatasync" and "(INJECTED)" in call.text and call.ends < told[-1].begins
    ]
    assert failed
    refused = [line for line in said if line.startswith("refused-")]
    assert all("rror" in line for line in refused)
    acknowledged = [line for line in said if line.startswith("acknowledged-")]
    assert len(refused) + len(acknowledged) == ROUNDS * AT_A_TIME
    # A refused work may be there all the same: it was committed, and never known to be durable.
    assert len(acknowledged) <= int(said[-1].removeprefix("found ")) <= ROUNDS * AT_A_TIME
    for failure in failed:
        after = next(call for call in told if call.begins > failure.ends)
        assert is_emptied(found, failure, after), failure.text


def test_a_process_empties_the_log_that_others_have_left_before_it_acknowledges(
    tmp_path: Path,
) -> None:
    # What they have failed to write, nobody who opens the file later is told of.
    path = tmp_path / "gateway.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode=WAL")
        other.execute("CREATE TABLE other (text)")
        _, found = run(tmp_path)
    told = [call for call in found if call.name == "write" and "acknowledged-" in call.text]
    assert is_emptied(found, Call("", "", -1, -1), told[0])


def is_emptied(found: Sequence[Call], since: Call, until: Call) -> bool:
    """Say whether the database was synced between these calls, and the log then cut to nothing."""
    between = [call for call in found if since.ends < call.begins and call.ends < until.begins]
    for cut in (c for c in between if c.name == "ftruncate" and ", 0) = 0" in c.text):
        synced = (c for c in between if c.name == "fdatasync" and "gateway.db>" in c.text)
        if "-wal>" in cut.text and any(c.ends < cut.begins and "= 0" in c.text for c in synced):
            return True
    return False
