"""create runs one program of the template, its ssh-keygen: it must find itself in a CT, not on the node."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, TREE, Vz, template

KEYGEN = """#!/bin/sh
ip link > /network
echo $$ > /pid
hostname hijacked && echo renamed > /renamed
unshare -U true && echo yes > /nested
(sleep 31337 &)
while [ "$#" -gt 1 ]; do shift; done
echo key > "$1"
"""


@pytest.fixture
def hostile(vz: Vz, tmp_path: Path) -> Iterator[str]:
    template("busybox")
    source = TREE / f".cache/templates/cache/{BUSYBOX}.tar.zst"
    archive = vz.node.path("/vz/hostile.tar")
    data = subprocess.run(["zstd", "-dc", str(source)], capture_output=True, check=True).stdout
    archive.write_bytes(data)
    with tarfile.open(archive, "a") as tar:
        for name in ("./etc/ssh", "./usr/bin"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        script = tarfile.TarInfo("./usr/bin/ssh-keygen")
        script.size, script.mode = len(KEYGEN), 0o755
        tar.addfile(script, io.BytesIO(KEYGEN.encode()))
    name = f"busybox-hostile{os.getpid()}"
    done = vz.run("vztmpl", "import", "/vz/hostile.tar", name)
    assert done.returncode == 0, done.stdout + done.stderr
    yield name
    archive.unlink()
    vz.run("vztmpl", "remove", name)


def test_ssh_keygen_of_a_template_is_shut_in(vz: Vz, hostile: str, ctid: int) -> None:
    vz.ok("create", ctid, "--ostemplate", hostile)
    try:
        vz.ok("start", ctid)
        assert "key" in vz.sh(ctid, "cat /etc/ssh/ssh_host_ed25519_key"), "it did run"
        links = vz.sh(ctid, "cat /network")
        assert "lo:" in links and "up0" not in links, "the node's network"
        assert int(vz.sh(ctid, "cat /pid")) < 20, "the node's processes"
        assert vz.sh(ctid, "ls /nested 2>/dev/null") == "", "the filter was not on"
        assert vz.run("hostname").stdout.strip() == "node"
        running = [p for p in Path("/proc").glob("[0-9]*/cmdline") if b"31337" in _read(p)]
        assert running == [], "what it left behind runs on the node"
    finally:
        vz.remove(ctid)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
