"""One configuration file as text: ``KEY="value"`` lines, read and rewritten without touching the others.

The syntax is vzctl's own (blanks before the key, ``#`` lines, quotes from the first to the last ``"`` of a line,
backslash escapes), close to what a shell reads: many programs source these files, so a value is always written
between double quotes, with what a shell would expand escaped.
"""

from __future__ import annotations

import os

from vz.errors import InvalidConfig

LIMIT_BYTES = 1 << 20
ALIASES = {"DCACHE": "DCACHESIZE", "IPTENTRIES": "NUMIPTENT", "IP_ADDRESS": "IP_ADDR"}
KEPT = frozenset(("IP_ADDRESS",))  # OpenVZ's own word, which other programs look for: where it stands it stays
_ESCAPED = frozenset('\\"$`')
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
# stored for a shell to expand: whoever sources the file has VEID set
_WITH_VEID = frozenset(("VE_ROOT", "VE_PRIVATE"))
_S_IFMT, _S_IFREG = 0o170000, 0o100000


class ConfFile:
    """The lines of a file; ``get`` and ``set`` by key.  Nothing set: ``dump`` gives the very bytes that were read."""

    __slots__ = ("_changed", "_lines", "_values", "path", "warnings")

    def __init__(self, path: str, data: bytes = b"") -> None:
        if b"\0" in data:
            raise InvalidConfig(f"{path}: not a text file")
        self.path = path
        self.warnings: list[str] = []
        # not splitlines(): that also splits at characters that may stand in a value
        self._lines = data.decode("utf-8", "surrogateescape").split("\n")
        self._values: dict[str, str] = {}
        self._changed = False
        for number, line in enumerate(self._lines, 1):
            text = line.strip()
            if text and text[0] != "#":
                self._read_line(number, text)

    @classmethod
    def read(cls, path: str) -> ConfFile:
        """Read *path*; OSError when it cannot be read, InvalidConfig (85) when it is binary, huge or no file."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hold us up
        try:
            if os.fstat(fd).st_mode & _S_IFMT != _S_IFREG:
                raise InvalidConfig(f"{path}: not a regular file")
            data = os.read(fd, 65536)
            chunk = data
            while chunk and len(data) <= LIMIT_BYTES:
                chunk = os.read(fd, 65536)
                data += chunk
        finally:
            os.close(fd)
        if len(data) > LIMIT_BYTES:
            raise InvalidConfig(f"{path}: larger than {LIMIT_BYTES} bytes")
        return cls(path, data)

    def _read_line(self, number: int, text: str) -> None:
        key, equals, value = text.partition("=")
        if not equals or not key or not _KEY_CHARACTERS.issuperset(key):
            self._warn(number, "not a KEY=VALUE line, skipped")
            return
        key = ALIASES.get(key, key)
        if not value.isprintable() and _has_control(value):
            self._warn(number, f"{key}: a control character in the value, skipped")
            return
        if key in self._values:
            self._warn(number, f"{key} is set again, the first value is used")
            return
        if value[:1] == '"':
            last = value.rfind('"')
            if last == 0:
                self._warn(number, f"{key}: the closing quote is missing, skipped")
                return
            value = value[1:last]
        self._values[key] = _unescape(value) if "\\" in value else value

    def _warn(self, number: int, what: str) -> None:
        self.warnings.append(f"Warning at {self.path}:{number}: {what}")

    def get(self, key: str) -> str | None:
        return self._values.get(key)

    def keys(self) -> list[str]:
        return list(self._values)

    def items(self) -> list[tuple[str, str]]:
        return list(self._values.items())

    def line_of(self, key: str) -> int:
        """Return the number of the line that *key* stands on, from 1; 0 when there is none."""
        index = self._find(key)
        return 0 if index is None else index + 1

    def would_run(self) -> list[str]:
        """Return the keys whose lines are more than constants to a shell that sources the file."""
        found = []
        for key in self._values:
            index = self._find(key)
            value = "" if index is None else self._lines[index].partition("=")[2].strip()
            if _would_run(value, key in _WITH_VEID):
                found.append(key)
        return found

    def set(self, key: str, value: str) -> None:
        """Give *key* the value *value*: its first line is replaced, or one is added at the end.

        Raises:
            ValueError: a control character, which no line can hold, or a key that is none.
        """
        if not key or not _KEY_CHARACTERS.issuperset(key):
            raise ValueError(f"{key!r} is not a key")
        if _has_control(value):
            raise ValueError(f"{key}: a control character in the value")
        if self._values.get(key) == value:
            return
        self._values[key] = value
        self._changed = True
        index = self._find(key)
        word = key if index is None else self._lines[index].partition("=")[0].strip()
        line = f'{word if word in KEPT else key}="{_escape(value, key in _WITH_VEID)}"'
        if index is not None:
            self._lines[index] = line
            if index == len(self._lines) - 1:
                self._lines.append("")  # the file's last line had no end
        elif self._lines[-1] == "":
            self._lines.insert(len(self._lines) - 1, line)
        else:
            self._lines += [line, ""]

    def unset(self, key: str) -> None:
        """Remove every line of *key*: a second one would count from then on."""
        while (index := self._find(key)) is not None:
            del self._lines[index]
            self._changed = True
        if not self._lines:
            self._lines = [""]
        self._values.pop(key, None)

    def _find(self, key: str) -> int | None:
        for index, line in enumerate(self._lines):
            if "=" in line:
                word = line.partition("=")[0].lstrip()
                if word == key or ALIASES.get(word) == key:
                    return index
        return None

    @property
    def changed(self) -> bool:
        """Whether ``set`` or ``unset`` changed anything since it was read or saved."""
        return self._changed

    def dump(self) -> bytes:
        """Return the file's bytes."""
        return "\n".join(self._lines).encode("utf-8", "surrogateescape")

    def copy(self, path: str) -> ConfFile:
        """Return the same contents to be saved as *path*."""
        other = ConfFile(path, self.dump())
        other.warnings = []
        other._changed = True
        return other

    def save(self, path: str | None = None) -> None:
        """Write the file in one step over the real path behind any link; its permissions stay.

        Raises:
            OSError: as open(2), write(2) and rename(2); the old file is then untouched.
        """
        from vz.kernel.files import write_atomically  # it costs more than all of this module

        target = os.path.realpath(path or self.path)
        try:
            mode = os.stat(target).st_mode & 0o777
        except FileNotFoundError:
            mode = 0o644
        write_atomically(target, self.dump(), mode)
        self._changed = False


def _has_control(text: str) -> bool:
    return any((char < " " and char != "\t") or char == "\x7f" for char in text)


def _would_run(value: str, with_veid: bool) -> bool:
    """Tell whether the right-hand side *value* of an assignment is more than a constant to a shell."""
    quoted = value[:1] == '"'
    if quoted:
        value = value[1 : value.rfind('"')]
    if with_veid:
        value = value.replace("${VEID}", "").replace("$VEID", "")
    special = frozenset('$`"' if quoted else "$`\"' \t;&|<>()*?[~#")
    escaped = False
    for char in value:
        if char in special and not escaped:
            return True
        escaped = char == "\\" and not escaped
    return False


def _escape(value: str, with_veid: bool) -> str:
    if _ESCAPED.isdisjoint(value):
        return value
    text = "".join("\\" + char if char in _ESCAPED else char for char in value)
    if with_veid:
        text = text.replace("\\$VEID", "$VEID").replace("\\${VEID}", "${VEID}")
    return text


def _unescape(text: str) -> str:
    out = []
    escaped = False
    for char in text:
        if char == "\\" and not escaped:
            escaped = True
            continue
        out.append(char)
        escaped = False
    return "".join(out)
