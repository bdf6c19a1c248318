"""A file is whole or as it was before, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import contextmanager

import pytest

from preimage.errors import DiskError, PreimageError
from preimage.files import append_line, check_writable, make_folder, read_json, write_atomic
from tiny import fail_once

OLD, NEW = b"old content", b"new content " * 1000


@contextmanager
def largest_file(size):
    """No file may grow beyond `size` bytes: what is written before stays, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "kept" / "file.bin"
    write_atomic(path, OLD)
    return path


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    """As /dev/stdout may be one: a file in its place would be no use to who reads there."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        check_writable(pipe)
        write_atomic(pipe, OLD)
        assert os.read(reader, 100) == OLD and pipe.is_fifo() and list(tmp_path.iterdir()) == [pipe]
    finally:
        os.close(reader)


def untouched(file):
    return file.read_bytes() == OLD and list(file.parent.iterdir()) == [file]


def test_a_file_is_written_replaced_and_its_folder_made(file):
    assert untouched(file)
    write_atomic(file, NEW)
    assert file.read_bytes() == NEW
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize(
    ("call", "code", "wanted", "advice"),
    [
        ("fsync", errno.ENOSPC, "room on the disk", "free some space"),
        ("fsync", errno.EDQUOT, "room in the quota", "free some space"),
        ("replace", errno.EACCES, "permission to write", "--out"),
        ("replace", errno.EIO, "", "check the disk"),
    ],
)
def test_a_failed_write_leaves_what_was_there(file, monkeypatch, call, code, wanted, advice):
    fail_once(monkeypatch, call, 1, code)
    with pytest.raises(DiskError) as caught:
        write_atomic(file, NEW)
    assert untouched(file)
    text = str(caught.value)
    assert str(file) in text and os.strerror(code) in text and wanted in text and advice in text


def test_a_disk_that_fills_half_way_leaves_what_was_there(file):
    with largest_file(len(NEW) // 2), pytest.raises(DiskError, match="room for the file"):
        write_atomic(file, NEW)
    assert untouched(file)
    write_atomic(file, NEW)
    assert file.read_bytes() == NEW


@pytest.mark.parametrize("write", [write_atomic, append_line])
def test_a_path_that_cannot_be_a_file_is_told(file, write):
    content = NEW if write is write_atomic else "line"
    with pytest.raises(DiskError, match=r"file\.bin"):
        write(file / "below", content)
    with pytest.raises(DiskError, match="kept"):
        write(file.parent, content)
    assert untouched(file)


def test_a_folder_below_a_file_is_told(file):
    with pytest.raises(DiskError, match="expected a folder"):
        make_folder(file / "below")
    with pytest.raises(DiskError, match="expected a folder"):
        make_folder(file)


def test_lines_are_appended_and_a_full_disk_is_told(tmp_path):
    log = tmp_path / "log"
    append_line(log, "one")
    append_line(log, "zwei ü")
    assert log.read_bytes() == "one\nzwei ü\n".encode()
    with largest_file(log.stat().st_size + 3), pytest.raises(DiskError, match="room for the file"):
        append_line(log, "a long line")
    assert log.read_bytes().startswith("one\nzwei ü\n".encode())


@pytest.mark.parametrize("content", [None, b"", b'{"a": 1', b"\xff\xfe\x00", b"[1, 2]]"])
def test_missing_or_damaged_json_is_told(tmp_path, content):
    path = tmp_path / "file.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PreimageError, match=r"file\.json.*missing or damaged"):
        read_json(path)
