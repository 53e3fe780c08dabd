"""create, step by step as the contract numbers them: order, status, texts, what is written, and what is undone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, Vz, leftovers
from testnode import TREE, Node

FAILED = "Creation of container private area failed: "


@pytest.fixture
def node_conf(node: Node) -> Iterator[Path]:
    path = node.path("/etc/vz/vz.conf")
    old = path.read_text()
    yield path
    path.write_text(old)


@pytest.fixture
def own(vz: Vz, ctid: int) -> Iterator[int]:
    """The id of a CT that the test may make; whatever is there of it goes."""
    yield ctid
    vz.remove(ctid)
    vz.run("sh", "-c", f"rm -rf /etc/vz/conf/{ctid}.* /vz/private/{ctid} /vz/private/{ctid}.tmp")


def refused(vz: Vz, ctid: int, status: int, *words: str) -> str:
    """create ends with *status* and one line, and nothing is there of the CT."""
    done = vz("create", ctid, *words)
    assert (done.returncode, done.stdout) == (status, ""), done
    assert done.stderr.startswith(FAILED) and done.stderr.count("\n") == 1, done.stderr
    assert vz.ok("status", ctid).endswith(" unmounted down\n")
    return done.stderr.removeprefix(FAILED).rstrip("\n")


def conf_of(node: Node, ctid: int) -> dict[str, str]:
    text = node.path(f"/etc/vz/conf/{ctid}.conf").read_text()
    lines = [line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#")]
    return {key: value for key, value in lines}


def test_everything_in_its_place(vz: Vz, node: Node, own: int) -> None:
    for suffix in ("conf", "mount", "umount", "premount", "postumount", "start", "stop"):
        node.path(f"/etc/vz/conf/{own}.{suffix}.destroyed").write_text("")
    done = vz(
        *("create", own, "--ostemplate", BUSYBOX, "--config", "vswap-256m", "--layout", "simfs"),
        *("--ipadd", "192.0.2.31/24", "--ipadd", "2001:db8::31/64", "--hostname", "web.example.com"),
        *(
            "--name",
            "web 31",
            "--description",
            "two\nlines",
            "--private",
            "/vz/private/$VEID",
            "--root",
            "/vz/root/$VEID",
        ),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        f"Creating container private area ({BUSYBOX})\n"
        "Performing postcreate actions\n"
        f"CT configuration saved to /etc/vz/conf/{own}.conf\n"
        "Container private area was created\n"
    )
    conf = conf_of(node, own)
    uid = conf.pop("LOCAL_UID")
    assert conf.pop("LOCAL_GID") == uid
    assert conf == {
        "PHYSPAGES": '"0:256M"',
        "SWAPPAGES": '"0:512M"',
        "DISKSPACE": '"2G:2.2G"',
        "DISKINODES": '"131072:144179"',
        "QUOTATIME": '"0"',
        "CPUUNITS": '"1000"',
        "NETFILTER": '"full"',
        "ORIGIN_SAMPLE": '"vswap-256m"',
        "OSTEMPLATE": f'"{BUSYBOX}"',
        "VE_LAYOUT": '"simfs"',
        "VE_ROOT": '"/vz/root/$VEID"',
        "VE_PRIVATE": '"/vz/private/$VEID"',
        "IP_ADDR": '"192.0.2.31/24 2001:db8::31/64"',
        "HOSTNAME": '"web.example.com"',
        "NAME": '"web 31"',
        "DESCRIPTION": '"two lines"',
    }
    assert os.readlink(node.path("/etc/vz/names/web 31")) == f"/etc/vz/conf/{own}.conf"
    assert [path.name for path in node.path("/etc/vz/conf").glob(f"{own}.*")] == [f"{own}.conf"]
    assert node.path(f"/vz/private/{own}/bin/busybox").exists()
    assert not node.path(f"/vz/private/{own}.tmp").exists()
    vz.ok("set", "web 31", "--name", "", "--save")


def test_1_a_named_sample(vz: Vz, node: Node, own: int) -> None:
    assert "no-such" in refused(vz, own, 82, "--config", "no-such", "--ostemplate", BUSYBOX)
    path = node.path(f"/etc/vz/conf/{own}.conf")
    path.write_text("# mine\n")
    assert "already exists" in refused(vz, own, 82, "--config", "basic", "--ostemplate", BUSYBOX)
    assert path.read_text() == "# mine\n"


def test_1b_the_nodes_sample_unless_there_is_a_conf(vz: Vz, node: Node, own: int, node_conf: Path) -> None:
    node_conf.write_text("CONFIGFILE=basic\n" + node_conf.read_text())
    vz.ok("create", own, "--ostemplate", BUSYBOX)
    assert conf_of(node, own)["NUMPROC"] == '"240:240"' and conf_of(node, own)["ORIGIN_SAMPLE"] == '"basic"'
    vz.ok("destroy", own)
    path = node.path(f"/etc/vz/conf/{own}.conf")
    path.write_text('# mine\nCPUS="1"\n')
    done = vz("create", own, "--ostemplate", BUSYBOX, "--hostname", "a")
    assert done.returncode == 0
    assert done.stderr == f"WARNING: /etc/vz/conf/{own}.conf exists: its values are kept, no sample is applied\n"
    assert path.read_text().startswith('# mine\nCPUS="1"\n') and "NUMPROC" not in path.read_text()
    assert conf_of(node, own)["HOSTNAME"] == '"a"'


def test_2_paths_in_their_order(vz: Vz, own: int, node_conf: Path) -> None:
    old = node_conf.read_text()
    for lines, status in (
        ("TEMPLATE=\nVE_PRIVATE=\nVE_ROOT=\n", 24),
        ("VE_PRIVATE=\nVE_ROOT=\n", 23),
        ("VE_ROOT=\n", 22),
    ):
        node_conf.write_text(lines + old)
        refused(vz, own, status, "--ostemplate", "no-such-template", "--layout", "ploop")


def test_3_to_6_in_their_order(vz: Vz, node: Node, own: int, node_conf: Path) -> None:
    other = node.path("/etc/vz/conf/99999.conf")
    other.write_text("NAME=taken\n")
    node.path("/etc/vz/names/taken").symlink_to("/etc/vz/conf/99999.conf")
    try:
        node.path(f"/vz/private/{own}/x").mkdir(parents=True)
        everything = ["--layout", "ploop", "--name", "taken"]
        assert refused(vz, own, 44, *everything) == f"Private area already exists in /vz/private/{own}"
        node.path(f"/vz/private/{own}/x").rmdir()
        assert "ploop" in refused(vz, own, 99, "--layout", "ploop:expanded", "--name", "taken")
        assert "DISKSPACE" in refused(vz, own, 63, *everything)
        assert refused(vz, own, 131, "--name", "taken") == "Conflict: name taken already used by container 99999"
        refused(vz, own, 29)
        assert node.path(f"/vz/private/{own}").is_dir(), "an empty directory is no private area"
        vz.ok("create", own, "--ostemplate", BUSYBOX)
    finally:
        other.unlink()
        node.path("/etc/vz/names/taken").unlink()


def test_6_the_default_template(vz: Vz, node: Node, own: int, node_conf: Path) -> None:
    node_conf.write_text(f"DEF_OSTEMPLATE={BUSYBOX}\n" + node_conf.read_text())
    assert f"({BUSYBOX})" in vz.ok("create", own)
    assert conf_of(node, own)["OSTEMPLATE"] == f'"{BUSYBOX}"'


@pytest.fixture
def mirror(node: Node, node_conf: Path) -> Iterator[Path]:
    """A template area without templates, and a mirror that has one."""
    source = Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates")) / f"cache/{BUSYBOX}.tar.zst"
    if not source.exists():
        pytest.skip(f"needs template {BUSYBOX}: make templates builds it")
    conf = node.path("/etc/vz/download.conf")
    old = conf.read_text() if conf.exists() else None
    node_conf.write_text("TEMPLATE=/vz/templates-of-create\n" + node_conf.read_text())
    node.path("/vz/templates-of-create/cache").mkdir(parents=True)
    place = node.path("/vz/mirror")
    place.mkdir()
    (place / "remote.tar.zst").write_bytes(source.read_bytes())
    conf.write_text("TMPL_REPO_PREFIX=/vz/mirror\nCHECK_TEMPLATE_SIG=no\n")
    yield place
    node.run("rm", "-rf", "/vz/templates-of-create", "/vz/mirror")
    conf.write_text(old) if old is not None else conf.unlink()


def test_8_a_template_is_downloaded(vz: Vz, node: Node, own: int, mirror: Path) -> None:
    lines = vz.ok("create", own, "--ostemplate", "remote").splitlines()
    assert lines[0] == "OS template remote is not in /vz/templates-of-create/cache: trying to download it"
    assert lines[1] == "Creating container private area (remote)"
    assert node.path("/vz/templates-of-create/cache/remote.tar.zst").exists()
    vz.remove(own)


def test_8_what_no_mirror_has_is_91(vz: Vz, node: Node, own: int, mirror: Path) -> None:
    done = vz("create", own, "--ostemplate", "absent")
    assert done.returncode == 91
    assert done.stderr.splitlines()[0] == "Template absent could not be fetched from /vz/mirror"
    assert done.stderr.splitlines()[1].startswith(f"{FAILED}OS template absent is not in ")
    node.path("/etc/vz/download.conf").write_text("")
    assert refused(vz, own, 91, "--ostemplate", "absent").startswith("OS template absent is not in ")


def test_8_and_9_template_before_mount_point(vz: Vz, node: Node, own: int) -> None:
    node.path(f"/vz/private/{own}").mkdir()
    assert vz.run("mount", "-t", "tmpfs", "tmpfs", f"/vz/private/{own}").returncode == 0
    try:
        refused(vz, own, 91, "--ostemplate", "no-such-template")
        text = refused(vz, own, 48, "--ostemplate", BUSYBOX)
        assert text == f"Private area /vz/private/{own} is a mount point: use --private /vz/private/{own}/private"
        vz.ok("create", own, "--ostemplate", BUSYBOX, "--private", f"/vz/private/{own}/private")
        assert conf_of(node, own)["VE_PRIVATE"] == f'"/vz/private/{own}/private"'
        vz.ok("destroy", own)
        for _ in range(100):
            if vz.run("umount", f"/vz/private/{own}").returncode == 0:
                break
            vz.run("sleep", "0.05")
    finally:
        vz.run("umount", f"/vz/private/{own}")


def test_vzosname_gives_the_full_name(vz: Vz, node: Node, own: int) -> None:
    """/usr/bin is the host's: the program is laid over it in a mount namespace of its own."""
    folder = node.path("/vz/osname")
    folder.mkdir()
    program = folder / "vzosname"
    over = "mount -t overlay overlay -o lowerdir=/vz/osname:/usr/bin /usr/bin && exec vzctl"

    def create(script: str, *words: str) -> subprocess.CompletedProcess[str]:
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return vz.run("unshare", "-m", "sh", "-c", f'{over} "$@"', "sh", "create", own, *words)

    try:
        done = create('test "$1" = short && echo noise && echo ' + BUSYBOX, "--ostemplate", "short")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"Creating container private area ({BUSYBOX})\n")
        assert conf_of(node, own)["OSTEMPLATE"] == f'"{BUSYBOX}"'
        vz.ok("destroy", own)
        for script in ("exit 1", "true", "echo '../../x'", "echo '$(id)'"):
            done = create(script, "--ostemplate", BUSYBOX)
            assert done.returncode == 0, done.stderr
            assert done.stderr.startswith(f"WARNING: /usr/bin/vzosname has no full name for {BUSYBOX} (")
            assert done.stderr.count("\n") == 1
            vz.ok("destroy", own)
    finally:
        vz.run("rm", "-r", "/vz/osname")


@pytest.mark.parametrize("kept", [False, True])
def test_14_all_is_rolled_back(vz: Vz, node: Node, own: int, kept: bool) -> None:
    conf, script = node.path(f"/etc/vz/conf/{own}.conf"), node.path("/etc/vz/conf/vps.create")
    script.write_text('#!/bin/sh\n. "$VE_CONFFILE"\necho "$VEID $NAME $VE_LAYOUT"\nexit 9\n')
    script.chmod(0o755)
    if kept:
        conf.write_text("# an own conf\n")
    try:
        done = vz("create", own, "--ostemplate", BUSYBOX, "--name", "rolled")
    finally:
        script.unlink()
    assert done.returncode == 79
    assert f"{own} rolled overlay\n" in done.stdout
    assert done.stderr.splitlines()[-1] == f"{FAILED}Action script /etc/vz/conf/vps.create failed with status 9"
    assert not os.path.lexists(node.path("/etc/vz/names/rolled"))
    assert conf.exists() == kept
    if kept:
        assert conf.read_text() == "# an own conf\n"
        conf.unlink()
    for _ in range(100):
        left = leftovers(node, own)
        if not left:
            break
        vz.run("sleep", "0.05")
    assert left == []


def test_blanks_and_equals_signs(vz: Vz, node: Node, own: int) -> None:
    done = vz.run("sh", "-c", f"vzctl   create  {own}   --ostemplate={BUSYBOX}   --ve_layout  simfs    ")
    assert done.returncode == 0, done.stderr
    assert conf_of(node, own)["VE_LAYOUT"] == '"simfs"'


def test_ids_of_its_own(vz: Vz, node: Node, own: int) -> None:
    vz.ok("create", own, "--ostemplate", BUSYBOX, "--local_uid", "3000041472", "--local_gid", "3000041472")
    assert conf_of(node, own)["LOCAL_UID"] == conf_of(node, own)["LOCAL_GID"] == '"3000041472"'
