"""inotify: what a directory's watch tells of names that come, and of an end of the watch."""

from __future__ import annotations

import errno
import os
import select
from pathlib import Path

import pytest

from vz.kernel import inotify


def test_names_that_come_are_told_once(tmp_path: Path) -> None:
    fd = inotify.inotify_init()
    watch = inotify.inotify_add_watch(fd, str(tmp_path), inotify.IN_CREATE | inotify.IN_MOVED_TO)
    assert inotify.read_events(fd) == []
    (tmp_path / "a name").write_text("x")
    os.rename(tmp_path / "a name", tmp_path / "ümlaut")
    assert select.select([fd], [], [], 1)[0] == [fd]
    assert inotify.read_events(fd) == [(watch, inotify.IN_CREATE, "a name"), (watch, inotify.IN_MOVED_TO, "ümlaut")]
    assert inotify.read_events(fd) == []
    os.close(fd)


def test_a_directory_that_goes_ends_its_watch(tmp_path: Path) -> None:
    fd = inotify.inotify_init()
    (tmp_path / "d").mkdir()
    watch = inotify.inotify_add_watch(fd, str(tmp_path / "d"), inotify.IN_CREATE | inotify.IN_ONLYDIR)
    (tmp_path / "d").rmdir()
    assert inotify.read_events(fd) == [(watch, inotify.IN_IGNORED, "")]
    os.close(fd)


def test_what_cannot_be_watched_is_said(tmp_path: Path) -> None:
    fd = inotify.inotify_init()
    (tmp_path / "file").write_text("")
    for name, number in (("none", errno.ENOENT), ("file", errno.ENOTDIR)):
        with pytest.raises(OSError) as caught:
            inotify.inotify_add_watch(fd, str(tmp_path / name), inotify.IN_CREATE | inotify.IN_ONLYDIR)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / name))
    os.close(fd)
