"""One configuration file as text: ``KEY="value"`` lines, read and rewritten without touching the others.

The syntax is vzctl's own (blanks before the key, ``#`` lines, quotes from the first to the last ``"`` of a line,
backslash escapes), a subset of what a shell would read: many programs source these files, so a value is always
written between double quotes with what a shell would expand escaped.
"""

from __future__ import annotations

import os

from vz.errors import InvalidConfig
from vz.kernel.files import read_bytes, write_atomically

LIMIT = 1 << 20
_ESCAPED = '\\"$`'
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")


class ConfFile:
    """The lines of a file; ``get`` and ``set`` by key.  Nothing set: ``dump`` gives the very bytes that were read."""

    __slots__ = ("path", "warnings", "_lines", "_values", "_changed")

    def __init__(self, path: str, data: bytes = b"") -> None:
        if b"\0" in data:
            raise InvalidConfig(f"{path}: not a text file")
        self.path = path
        self.warnings: list[str] = []
        self._lines = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
        self._values: dict[str, str] = {}
        self._changed = False
        for number, line in enumerate(self._lines, 1):
            self._read_line(number, line)

    @classmethod
    def read(cls, path: str) -> ConfFile:
        """Read *path*; OSError when it cannot be read, InvalidConfig (85) when it is binary or huge."""
        try:
            return cls(path, read_bytes(path, LIMIT))
        except OSError as exc:
            if exc.errno in (27, 21):  # EFBIG, EISDIR
                raise InvalidConfig(f"{path}: {exc.strerror}") from exc
            raise

    def _read_line(self, number: int, line: str) -> None:
        text = line.strip()
        if not text or text.startswith("#"):
            return
        key, equals, value = text.partition("=")
        if not equals or not key or not set(key) <= _KEY_CHARACTERS:
            self.warnings.append(f"{self.path}:{number}: not a KEY=VALUE line, passed over")
            return
        if key in self._values:
            self.warnings.append(f"{self.path}:{number}: {key} stands here again; the first one counts")
            return
        first = value.find('"')
        if first == 0:
            last = value.rfind('"')
            if last == 0:
                self.warnings.append(f"{self.path}:{number}: {key}: the closing quote is missing")
                return
            value = value[1:last]
        self._values[key] = _unescape(value) if "\\" in value else value

    def get(self, key: str) -> str | None:
        return self._values.get(key)

    def keys(self) -> list[str]:
        return list(self._values)

    def items(self) -> list[tuple[str, str]]:
        return list(self._values.items())

    def set(self, key: str, value: str) -> None:
        """Give *key* the value *value*: its first line is replaced, or one is added at the end.

        Raises:
            ValueError: a control character, which no line can hold.
        """
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise ValueError(f"{key}: a control character in the value")
        if self._values.get(key) == value:
            return
        self._values[key] = value
        self._changed = True
        escaped = "".join("\\" + char if char in _ESCAPED else char for char in value)
        index = self._find(key)
        if index is None:
            if self._lines and not self._lines[-1].endswith(("\n", "\r")):
                self._lines[-1] += "\n"
            self._lines.append(f'{key}="{escaped}"\n')
            return
        ending = "\r\n" if self._lines[index].endswith("\r\n") else "\n"
        self._lines[index] = f'{key}="{escaped}"{ending}'

    def unset(self, key: str) -> None:
        """Remove the line of *key*."""
        index = self._find(key)
        if index is not None:
            del self._lines[index]
            self._changed = True
        self._values.pop(key, None)

    def _find(self, key: str) -> int | None:
        for index, line in enumerate(self._lines):
            if line.lstrip().startswith(key + "="):
                return index
        return None

    @property
    def changed(self) -> bool:
        return self._changed

    def dump(self) -> bytes:
        """Return the file's bytes."""
        return "".join(self._lines).encode("utf-8", "surrogateescape")

    def copy(self, path: str) -> ConfFile:
        """Return the same contents to be saved as *path*."""
        other = ConfFile(path, self.dump())
        other.warnings = []
        other._changed = True
        return other

    def save(self, path: str | None = None) -> None:
        """Write the file in one step over the real path behind any link; OSError as open(2) and rename(2)."""
        target = os.path.realpath(path or self.path)
        write_atomically(target, self.dump(), 0o644)
        self._changed = False


def _unescape(text: str) -> str:
    out = []
    skip = False
    for index, char in enumerate(text):
        if char == "\\" and not skip and index + 1 < len(text):
            skip = True
            continue
        out.append(char)
        skip = False
    return "".join(out)
