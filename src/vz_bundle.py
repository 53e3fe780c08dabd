"""All modules of an installed tree in one file, which an import reads by one pread(2).

The usual search costs a handful of system calls a module, and a command imports dozens: a fifth of the time of a
``vzctl start``.  ``python3 vz_bundle.py DIRECTORY`` writes DIRECTORY/vz.bundle from DIRECTORY/vz; the launcher calls
``use``.  Made by another Python, the file is passed over, and the modules are found in the usual way.
"""

from __future__ import annotations

import marshal
import posix
import sys
from _frozen_importlib import ModuleSpec
from _frozen_importlib_external import MAGIC_NUMBER

_HEADER = len(MAGIC_NUMBER) + 4


class Bundle:
    """A finder and loader for sys.meta_path; *index* is {module: (offset, length, is a package, path in the tree)}."""

    def __init__(self, folder: str, fd: int, index: dict[str, tuple[int, int, bool, str]]) -> None:
        self.folder = folder
        self.fd = fd
        self.index = index

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        entry = self.index.get(name)
        if entry is None:
            return None
        spec = ModuleSpec(name, self, origin=f"{self.folder}/{entry[3]}", is_package=entry[2])
        spec.has_location = True
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: object) -> None:
        offset, length, _, _ = self.index[module.__name__]  # type: ignore[attr-defined]
        exec(marshal.loads(posix.pread(self.fd, length, offset)), module.__dict__)


def use(folder: str) -> None:
    """Take modules from *folder*/vz.bundle from now on, where there is one that this Python can read."""
    try:
        fd = posix.open(f"{folder}/vz.bundle", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return
    head = posix.pread(fd, 1 << 14, 0)
    if head[: len(MAGIC_NUMBER)] != MAGIC_NUMBER:
        posix.close(fd)
        return
    length = int.from_bytes(head[len(MAGIC_NUMBER) : _HEADER], "little")
    while len(head) < _HEADER + length:
        head += posix.pread(fd, 1 << 16, len(head))
    sys.meta_path.insert(0, Bundle(folder, fd, marshal.loads(head[_HEADER : _HEADER + length])))


def write(folder: str, shown: str) -> None:
    """Make *folder*/vz.bundle; *shown* is the folder that tracebacks name (where the tree will be)."""
    import os

    codes: list[tuple[str, bool, str, bytes]] = []
    for place, _, names in sorted(os.walk(f"{folder}/vz")):
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            path = os.path.relpath(f"{place}/{name}", folder)
            module = path.removesuffix(".py").replace("/", ".")
            with open(f"{place}/{name}", "rb") as source:
                code = compile(source.read(), f"{shown}/{path}", "exec", dont_inherit=True)
            package = module.endswith(".__init__")
            codes.append((module.removesuffix(".__init__"), package, path, marshal.dumps(code)))
    index: dict[str, tuple[int, int, bool, str]] = {}
    length = 0
    head = b""
    while not head or len(head) != length:  # offsets are part of the index, and its own length is part of them
        length = len(head)
        offset = _HEADER + length
        for module, package, path, code in codes:
            index[module] = (offset, len(code), package, path)
            offset += len(code)
        head = marshal.dumps(index)
    body = b"".join(code for _, _, _, code in codes)
    temporary = f"{folder}/vz.bundle.tmp"
    with open(temporary, "wb") as out:
        out.write(MAGIC_NUMBER + len(head).to_bytes(4, "little") + head + body)
    os.chmod(temporary, 0o644)
    os.replace(temporary, f"{folder}/vz.bundle")


if __name__ == "__main__":
    write(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else sys.argv[1])
