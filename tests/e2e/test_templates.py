"""vztmpl and vztmpl-dl on a template area of their own."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, TREE, Vz, template

AREA = "/vz/templates-of-test"
MIRROR = "/vz/mirror-of-test"


class Templates:
    """``vztmpl`` and ``vztmpl-dl`` on the node, where TEMPLATE is an empty directory."""

    def __init__(self, vz: Vz) -> None:
        self.vz = vz
        self.area = vz.node.path(AREA)
        self.mirror = vz.node.path(MIRROR)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.vz.run("vztmpl", *words)

    def dl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.vz.run("vztmpl-dl", *words)

    def refused(self, status: int, *words: str) -> str:
        """The command ends with *status* and one line, and leaves the area as it was."""
        before = self.files()
        done = self.vz.run(*words)
        assert done.returncode == status, done.stdout + done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert self.files() == before
        return done.stderr

    def files(self) -> list[str]:
        return sorted(str(path.relative_to(self.area)) for path in self.area.glob("*/*") if path.name != ".lock")

    def config(self, text: str) -> None:
        self.vz.node.path("/etc/vz/download.conf").write_text(text)


@pytest.fixture
def tmpl(vz: Vz) -> Iterator[Templates]:
    made = Templates(vz)
    conf = vz.node.path("/etc/vz/vz.conf")
    old = conf.read_text()
    conf.write_text(old.replace("TEMPLATE=/vz/template\n", f"TEMPLATE={AREA}\n"))
    made.mirror.mkdir()
    (made.area / "cache").mkdir(parents=True)
    yield made
    conf.write_text(old)
    vz.run("rm", "-rf", AREA, MIRROR, "/etc/vz/download.conf", "/etc/vz/download.gpg")


def archive(path: Path, *files: tuple[str, bytes]) -> None:
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            tar.addfile(info, io.BytesIO(data))


def busybox() -> Path:
    template("busybox")
    return Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates")) / f"cache/{BUSYBOX}.tar.zst"


def test_import_list_create_remove(tmpl: Templates, vz: Vz, ctid: int) -> None:
    (tmpl.mirror / "b.tar.zst").write_bytes(busybox().read_bytes())
    done = tmpl("import", f"{MIRROR}/b.tar.zst", "mine-1")
    assert done.returncode == 0 and done.stdout.startswith("Template mine-1: busybox, init busybox, digest "), (
        done.stderr
    )
    digest = done.stdout.split()[-1]
    assert tmpl.area.joinpath("unpacked").stat().st_mode & 0o777 == 0o700
    (line,) = tmpl("list", "-H").stdout.splitlines()
    assert line.split()[:3] == ["mine-1", "busybox", "busybox"] and line.split()[4] == digest
    assert tmpl("list").stdout.split()[:6] == ["NAME", "DISTRIBUTION", "INIT", "SIZE", "DIGEST", "DATE"]
    tmpl.refused(21, "vztmpl", "import", f"{MIRROR}/b.tar.zst", "mine-1")
    vz.ok("create", ctid, "--ostemplate", "mine-1")
    try:
        assert f"container {ctid}" in tmpl.refused(41, "vztmpl", "remove", "mine-1")
    finally:
        vz.ok("destroy", ctid)
    assert tmpl("remove", "mine-1").returncode == 0
    assert tmpl.files() == []
    tmpl.refused(91, "vztmpl", "remove", "mine-1")
    tmpl.refused(91, "vzctl", "create", str(ctid), "--ostemplate", "mine-1")


def test_a_second_create_does_not_read_the_archive(tmpl: Templates, vz: Vz, ctid: int) -> None:
    (tmpl.mirror / "b.tar.zst").write_bytes(busybox().read_bytes())
    assert tmpl("import", f"{MIRROR}/b.tar.zst", "mine").returncode == 0
    tarball = tmpl.area / "cache/mine.tar.zst"
    before = tarball.stat()
    os.utime(tarball, ns=(1, before.st_mtime_ns))  # relatime: the first read from here on moves it
    vz.ok("create", ctid, "--ostemplate", "mine")
    vz.ok("destroy", ctid)
    assert tarball.stat().st_atime_ns == 1


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a b", "$(id)", "x\ny", "--x", "١"])
def test_names_of_templates(tmpl: Templates, name: str) -> None:
    archive(tmpl.mirror / "a.tar", ("f", b"x"))
    tmpl.refused(21, "vztmpl", "import", f"{MIRROR}/a.tar", name)


def test_a_bad_archive_leaves_nothing(tmpl: Templates) -> None:
    archive(tmpl.mirror / "up.tar", ("../up", b"x"))
    archive(tmpl.mirror / "conflict.tar", ("a", b"x"), ("a/b", b"x"))
    (tmpl.mirror / "cut.tar.zst").write_bytes(busybox().read_bytes()[:5000])
    (tmpl.mirror / "x.zip").write_bytes(b"PK")
    assert tmpl.files() == []
    for name in ("up.tar", "conflict.tar", "cut.tar.zst", "x.zip"):
        assert tmpl("import", f"{MIRROR}/{name}", "bad").returncode == 48
        assert tmpl.files() == [], name
    tmpl.refused(91, "vztmpl", "import", f"{MIRROR}/absent.tar", "bad")
    tmpl.refused(91, "vztmpl", "import", MIRROR, "bad")


def test_a_killed_import_leaves_nothing_that_counts(tmpl: Templates) -> None:
    (tmpl.mirror / "b.tar.zst").write_bytes(busybox().read_bytes())
    for delay_s in (0.05, 0.1, 0.15, 0.2, 0.3):
        process = tmpl.vz.node.popen("vztmpl", "import", f"{MIRROR}/b.tar.zst", "mine", stdout=subprocess.DEVNULL)
        time.sleep(delay_s)
        process.kill()
        process.wait()
        if tmpl("list", "-H").stdout:
            assert tmpl("verify", "mine").stdout == "mine: ok\n"
            assert tmpl("remove", "mine").returncode == 0
        done = tmpl("import", f"{MIRROR}/b.tar.zst", "mine")
        assert done.returncode == 0, done.stderr
        assert tmpl("verify", "mine").stdout == "mine: ok\n"
        assert tmpl("remove", "mine").returncode == 0
        assert tmpl.files() == []


def test_verify_finds_every_change(tmpl: Templates) -> None:
    (tmpl.mirror / "b.tar.zst").write_bytes(busybox().read_bytes())
    assert tmpl("import", f"{MIRROR}/b.tar.zst", "mine").returncode == 0
    assert tmpl("verify").stdout == "mine: ok\n"
    (tree,) = tmpl.area.glob("unpacked/*/fs")
    passwd = tree / "etc/passwd"
    good = passwd.read_bytes()

    def verdict() -> str:
        done = tmpl("verify", "mine")
        assert (done.returncode == 0) == (done.stdout == "mine: ok\n")
        return done.stdout

    passwd.write_bytes(good.replace(b"root", b"toor", 1))  # the size is the same
    assert "etc/passwd was changed" in verdict()
    passwd.write_bytes(good)
    os.chown(passwd, 1, 0)
    assert "etc/passwd was changed" in verdict()
    os.chown(passwd, 0, 0)
    (tree / "bin/sh").unlink()
    assert "bin/sh is missing" in verdict()
    (tree / "bin/sh").symlink_to("evil")
    assert "bin/sh was changed" in verdict()
    (tree / "bin/sh").unlink()
    (tree / "bin/sh").symlink_to("busybox")
    (tree / "bin/evil").write_text("x")
    assert "bin/evil was added" in verdict()
    (tree / "bin/evil").unlink()
    assert verdict() == "mine: ok\n"
    archive(tmpl.mirror / "other.tar", ("f", b"x"))
    subprocess.run(
        ["zstd", "-qf", str(tmpl.mirror / "other.tar"), "-o", str(tmpl.area / "cache/mine.tar.zst")], check=True
    )
    assert "not what was recorded" in verdict()


@pytest.mark.parametrize("name", ["debian-12", "debian-13", "debian-12-sysvinit"])
def test_what_was_built_verifies_and_holds_nothing_of_one_ct(vz: Vz, name: str) -> None:
    full = template(name)
    assert vz.run("vztmpl", "verify", full).stdout == f"{full}: ok\n"
    cache = Path(os.environ.get("VZ_TEST_TEMPLATES", TREE / ".cache/templates"))
    lines = (cache / f"cache/{full}.manifest").read_text().splitlines()
    packages = [line.split() for line in lines if line.startswith("package ")]
    assert len(packages) > 100
    unknown = [words[1] for words in packages if len(words) != 6 or len(words[5]) != 64]
    assert unknown == [], "where they came from is not recorded"
    (digest,) = [
        line[7:] for line in (cache / f"cache/{full}.info").read_text().splitlines() if line.startswith("digest=")
    ]
    tree = cache / "unpacked" / digest / "fs"
    assert list(tree.glob("etc/ssh/ssh_host_*")) == []
    assert not (tree / "etc/resolv.conf").exists() and not (tree / "etc/hostname").exists()
    machine_id = tree / "etc/machine-id"
    assert not machine_id.exists() or machine_id.read_text() == ""
    assert list(tree.glob("var/lib/apt/lists/*_*")) == []


# vztmpl-dl


def test_dl_from_a_directory(tmpl: Templates) -> None:
    tmpl.config(f'TMPL_REPO_PREFIX="file://{MIRROR}"\nTEMPLATE_REPOS=". more"\nCHECK_TEMPLATE_SIG="no"\n')
    (tmpl.mirror / "more").mkdir()
    archive(tmpl.mirror / "one.tar.gz", ("f", b"1"))
    archive(tmpl.mirror / "more/two.tar", ("f", b"2"))
    archive(tmpl.area / "cache/own.tar", ("f", b"3"))
    assert tmpl.dl("--list-remote").stdout == "one\ntwo\n"
    assert tmpl.dl("--list-local").stdout == "own\n"
    assert tmpl.dl("--list-all").stdout == "one\nown\ntwo\n"
    assert tmpl.dl("--list-orphans").stdout == "own\n"
    done = tmpl.dl("one", "two")
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("Template ") == 2
    assert tmpl("verify").stdout == "one: ok\nown: ok\ntwo: ok\n"
    assert "here already" in tmpl.refused(2, "vztmpl-dl", "one")
    assert "up to date" in tmpl.dl("--update", "one").stdout
    archive(tmpl.mirror / "one.tar.gz", ("f", b"newer"))
    done = tmpl.dl("--update-all", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(list(tmpl.area.glob("unpacked/*/fs"))) == 3, "the older copy stays for whoever stands on it"
    assert tmpl("verify", "one").stdout == "one: ok\n"


def test_dl_statuses(tmpl: Templates) -> None:
    assert "not set" in tmpl.refused(1, "vztmpl-dl", "one")
    tmpl.config(f'TMPL_REPO_PREFIX="{MIRROR}"\nCHECK_TEMPLATE_SIG="no"\n')
    archive(tmpl.mirror / "good.tar", ("f", b"1"))
    archive(tmpl.mirror / "bad.tar", ("../f", b"1"))
    tmpl.refused(1, "vztmpl-dl", "absent")
    tmpl.refused(3, "vztmpl-dl")
    for word in ("--what", "../x", "$(id)", "x\ny", ""):
        tmpl.refused(3, "vztmpl-dl", word)
    tmpl.refused(3, "vztmpl-dl", "--config")
    tmpl.refused(3, "vztmpl-dl", "--config", "/absent", "good")
    done = tmpl.dl("bad")
    assert done.returncode == 1 and "leads outside" in done.stderr
    assert tmpl.files() == []
    done = tmpl.dl("--ignore-errors", "absent", "good")
    assert done.returncode == 1 and "Template good: " in done.stdout
    tmpl.config('TMPL_REPO_PREFIX="gopher://x"\n')
    tmpl.refused(1, "vztmpl-dl", "one")
    tmpl.config(f'TMPL_REPO_PREFIX="{MIRROR}"\nTEMPLATE_REPOS="../etc"\n')
    tmpl.refused(1, "vztmpl-dl", "one")
    assert tmpl.dl("--help").returncode == 0


def test_dl_verifies_signatures(tmpl: Templates, tmp_path: Path) -> None:
    home = tmp_path / "gpg"
    home.mkdir(mode=0o700)

    def gpg(*words: str) -> None:
        subprocess.run(
            ["gpg", "--homedir", str(home), "--batch", "--quiet", "--yes", *words], check=True, capture_output=True
        )

    tmpl.config(f'TMPL_REPO_PREFIX="{MIRROR}"\n')
    archive(tmpl.mirror / "one.tar", ("f", b"1"))
    assert "no signature" in tmpl.refused(5, "vztmpl-dl", "one")
    try:
        gpg("--passphrase", "", "--quick-generate-key", "Mirror <mirror@example.com>", "ed25519", "sign", "never")
        gpg("--armor", "--detach-sign", str(tmpl.mirror / "one.tar"))
        assert "No keyring" in tmpl.refused(5, "vztmpl-dl", "one")
        gpg("--output", str(tmpl.vz.node.path("/etc/vz/download.gpg")), "--export")
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], capture_output=True)
    assert tmpl.dl("one").returncode == 0
    assert tmpl("remove", "one").returncode == 0
    archive(tmpl.mirror / "one.tar", ("f", b"forged"))
    assert "not good" in tmpl.refused(5, "vztmpl-dl", "one")
    assert tmpl.dl("--no-gpg-check", "one").returncode == 0


def test_dl_over_http(tmpl: Templates) -> None:
    archive(tmpl.mirror / "one.tar.gz", ("f", b"1"))
    archive(tmpl.mirror / "unlisted.tar.gz", ("f", b"2"))
    server = tmpl.vz.node.popen(
        "/usr/bin/python3",
        "-u",
        "-m",
        "http.server",
        "-b",
        "192.0.2.1",
        "-d",
        MIRROR,
        "8099",
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert server.stdout is not None and b"8099" in server.stdout.readline()
        tmpl.config('TMPL_REPO_PREFIX="http://192.0.2.1:8099"\nCHECK_TEMPLATE_SIG="no"\n')
        tmpl.refused(1, "vztmpl-dl", "--list-remote")
        done = tmpl.dl("unlisted")  # without a list its name is tried
        assert done.returncode == 0, done.stderr
        (tmpl.mirror / ".listing").write_text("one.tar.gz\nREADME\n../evil.tar.gz\nab\x1b[2J.tar.gz\n")
        assert tmpl.dl("--list-remote").stdout == "one\n"
        assert tmpl.dl("one").returncode == 0
        tmpl.refused(1, "vztmpl-dl", "absent")
        assert tmpl("verify").stdout == "one: ok\nunlisted: ok\n"
    finally:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()
