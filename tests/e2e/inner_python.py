"""A Python for CTs whose template has none: the node's own interpreter with the modules that the tests' programs use."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile

TYPE_CHECKING = False
if TYPE_CHECKING:
    from conftest import Vz

HOME = "/opt/inner"
PYTHON = f"env LD_LIBRARY_PATH={HOME}/so PYTHONHOME={HOME} {HOME}/bin/python3 -B -s"
MODULES = (
    "os sys signal socket select struct mmap fcntl ctypes threading time errno array traceback encodings.idna json "
    "random hashlib resource termios zlib pty tempfile"
)
LIBC = ("libc.so", "libm.so", "ld-linux", "libpthread", "libdl")
ASK = f"""
import sys, sysconfig, json
for name in {MODULES.split()!r}: __import__(name)
files = [m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None) and m.__name__ != '__main__']
print(json.dumps([sys.executable, sysconfig.get_path('stdlib'), sorted(set(files))]))
"""
_tars: dict[str, bytes] = {}


def install(vz: Vz, ctid: int, *, with_libc: bool = False) -> None:
    """Put the interpreter into the running CT, which needs tar, and without *with_libc* a libc no older than the node's."""
    kind = "tar with libc" if with_libc else "tar"
    if kind not in _tars:
        _tars[kind] = make_tar(with_libc)
    done = vz("exec", ctid, "tar xf - -C /", stdin=_tars[kind])
    assert done.returncode == 0, done.stderr
    shown = vz("exec", ctid, f"{PYTHON} -c 'import socket, ctypes; print(1)'")
    assert shown.stdout == "1\n", shown.stderr


def make_tar(with_libc: bool = False) -> bytes:
    shown = subprocess.run(
        ["/usr/bin/python3", "-I", "-S", "-B", "-c", ASK], capture_output=True, text=True, check=True
    )
    program, library, files = json.loads(shown.stdout)
    program = os.path.realpath(program)
    version = os.path.basename(library)
    wanted = {program: "bin/python3", **{path: f"lib/{version}/{os.path.relpath(path, library)}" for path in files}}
    for path in [program, *(path for path in files if path.endswith(".so"))]:
        for line in subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout.splitlines():
            words = line.split()
            if "=>" in words and (with_libc or not words[0].startswith(LIBC)):
                wanted[words[2]] = f"so/{words[0]}"
            elif with_libc and words[0].startswith("/"):
                wanted[words[0]] = f"../..{words[0]}"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for source, name in wanted.items():
            info = tar.gettarinfo(os.path.realpath(source), os.path.normpath(f"{HOME}/{name}")[1:])
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            with open(source, "rb") as file:
                tar.addfile(info, file)
    return out.getvalue()
