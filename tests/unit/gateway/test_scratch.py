from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.scratch import MEMORY_OCTETS, scratch


def open_files() -> set[str]:
    return {os.readlink(path) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}


@pytest.mark.parametrize("size", [0, 10, MEMORY_OCTETS, MEMORY_OCTETS + 1])
def test_what_is_written_can_be_read_again(size: int) -> None:
    with scratch() as file:
        file.write(b"x" * size)
        file.seek(0)
        assert len(file.read()) == size


def test_large_content_is_in_a_file_without_a_name() -> None:
    before = open_files()
    with scratch() as file:
        file.write(b"x" * (MEMORY_OCTETS + 1))
        [opened] = {name for name in open_files() - before if name.startswith("/tmp/")}
        assert opened.endswith("(deleted)")
    assert file.closed
