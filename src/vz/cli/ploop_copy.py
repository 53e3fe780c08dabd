"""ploop copy: an image file as a stream of pieces, {marker, size, position} and the bytes; a size of 0 ends it."""

from __future__ import annotations

import errno
import os
from _struct import Struct

from vz.cli.ploop import Given, wrong
from vz.disk.ploopimage import CLUSTER, MAX_SIZE, BadImage, PloopCode, load, open_regular
from vz.disk.ploopstack import Folder, replace_file
from vz.errors import VzError

MARKER = 0x4CC0AC3D
HEADER = Struct("<2IQ")
MOST = 64 << 20  # of one piece


def copy(given: Given, rest: list[str]) -> int:
    if rest:
        raise wrong("ploop copy: a stray word")
    values = given.values
    if "s" in values:
        if "i" in values or ("d" in values and "o" in values):
            raise wrong("ploop copy -s: one of -d FILE and -o FD is expected")
        return send(values["s"], values.get("d"), number(values.get("o"), 1))
    if "d" not in values or "o" in values:
        raise wrong("ploop copy: -s IMAGE, or -d FILE to receive, is expected")
    return receive(values["d"], number(values.get("i"), 0))


def number(word: str | None, default: int) -> int:
    if word is None:
        return default
    if not (word.isascii() and word.isdigit() and len(word) < 6):
        raise wrong(f"A file descriptor is a number, not {word[:60]!r}")
    return int(word)


def send(path: str, target: str | None, out: int) -> int:
    """Send the image file *path*, holes left out, to the descriptor *out* or into the file *target*."""
    from vz.kernel import loop

    if target is None and os.isatty(out):
        raise wrong("ploop copy: the stream is not for a terminal")
    fd = open_regular(path)
    try:
        if devices := loop.find(path):
            raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)
        if problems := load(fd, path).problems():
            raise BadImage(f"{path}: {problems[0]}")
        if target is not None:
            _into(target, lambda other: _pieces(fd, lambda at, data: write_at(other, data, at)))
            return 0
        _pieces(fd, lambda at, data: write(out, HEADER.pack(MARKER, len(data), at) + data))
        write(out, HEADER.pack(MARKER, 0, 0))
    finally:
        os.close(fd)
    return 0


def _pieces(fd: int, put) -> None:  # type: ignore[no-untyped-def]
    """Call *put* (position, bytes) for what is no hole, and for the last byte: the length is part of an image."""
    end = os.fstat(fd).st_size
    at = 0
    while at < end:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError as exc:
            if exc.errno != errno.ENXIO:
                raise
            put(end - 1, b"\0")
            return
        data = os.pread(fd, min(CLUSTER, end - at), at)
        if not data:
            raise VzError("The image became shorter while it was sent", PloopCode.READ)
        put(at, data)
        at += len(data)


def receive(path: str, source: int) -> int:
    """Receive an image file into *path*, which appears, or is replaced, when all of it is there and sound."""

    def fill(fd: int) -> None:
        while True:
            marker, length, at = HEADER.unpack(read(source, HEADER.size))
            if marker != MARKER or length > MOST or at > MAX_SIZE:
                raise VzError("What is received is no stream of ploop copy", PloopCode.PROTOCOL)
            if not length:
                break
            left = length
            while left:
                data = read(source, min(left, CLUSTER))
                write_at(fd, data, at)
                left, at = left - len(data), at + len(data)

    _into(path, fill)
    return 0


def _into(path: str, fill) -> None:  # type: ignore[no-untyped-def]
    from vz.kernel import loop

    folder = Folder(os.path.dirname(os.path.abspath(path)), write=True)
    try:
        if os.path.lexists(path):
            os.close(open_regular(path))
            if devices := loop.find(path):
                raise VzError(f"{path} is in use as {devices[0]}", PloopCode.IN_USE)

        def checked(fd: int) -> None:
            fill(fd)
            if problems := load(fd, path).problems():
                raise BadImage(f"{path}: {problems[0]}")

        replace_file(os.path.abspath(path), checked)
    finally:
        folder.close()


def read(fd: int, length: int) -> bytes:
    data = b""
    while len(data) < length:
        more = os.read(fd, length - len(data))
        if not more:
            raise VzError("The stream ended before the image did", PloopCode.PROTOCOL)
        data += more
    return data


def write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_at(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


VERBS = {"copy": copy}
