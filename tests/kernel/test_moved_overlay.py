"""An overlay's upper layer on another copy of its template: what is visible stays so, hard links too."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vz.disk import changes, moved

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
OPTIONS = "index=on,nfs_export=on"


def template(top: Path) -> Path:
    (top / "etc/deep").mkdir(parents=True)
    (top / "lib").mkdir()
    (top / "etc/keep").write_text("kept\n")
    (top / "etc/gone").write_text("gone\n")
    (top / "etc/deep/file").write_text("deep\n")
    (top / "lib/one").write_text("linked\n")
    for name in ("lib/two", "etc/deep/three"):
        os.link(top / "lib/one", top / name)
    (top / "lib/solo").write_text("solo\n")
    os.link(top / "lib/solo", top / "lib/solo2")
    return top


class Area:
    """A private area over a template, mounted by plain mount(8)."""

    def __init__(self, top: Path, lower: Path) -> None:
        self.private = top
        self.lower = lower
        self.root = top / "root"
        for name in ("up", "wk", "root"):
            (top / name).mkdir(parents=True, exist_ok=True)
        self.mounted = False

    def mount(self) -> None:
        layers = f"lowerdir={self.lower},upperdir={self.private}/up,workdir={self.private}/wk"
        subprocess.run(["mount", "-t", "overlay", "vz-test", "-o", f"{layers},{OPTIONS}", self.root], check=True)
        self.mounted = True

    def umount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", self.root], check=True)
            self.mounted = False


@pytest.fixture(params=["same file system", "another file system"])
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """Return two directories for areas: the second may be on a file system of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    scratch = Path(os.environ.get("VZ_TEST_SCRATCH", "/var/tmp")) / f"vz-moved-{os.getpid()}"
    shutil.rmtree(scratch, ignore_errors=True)
    here, there = scratch / "here", scratch / "there"
    here.mkdir(parents=True)
    there.mkdir()
    other = request.param == "another file system"
    if other:
        with open(scratch / "disk", "wb") as disk:
            disk.truncate(64 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", scratch / "disk"], check=True)
        subprocess.run(["mount", "-o", "loop", scratch / "disk", there], check=True)
    yield here, there
    if other:
        subprocess.run(["umount", there], check=True)
    shutil.rmtree(scratch)


def listing(root: Path) -> dict[str, object]:
    """What somebody inside sees, hard links by the first name of each file."""
    first: dict[int, str] = {}
    seen: dict[str, object] = {}
    for folder, names, files in os.walk(root):
        names.sort()  # also the order in which they are entered
        for name in names + sorted(files):
            path = Path(folder) / name
            status = path.lstat()
            key = str(path.relative_to(root))
            if path.is_dir():
                seen[key] = oct(status.st_mode)
            else:
                seen[key] = (oct(status.st_mode), first.setdefault(status.st_ino, key), path.read_text())
    return seen


def change(area: Area) -> None:
    root = area.root
    (root / "lib/one").write_text("linked, changed\n")  # a name of three: the other two follow through the index
    (root / "lib/solo").write_text("changed\n")
    (root / "lib/solo").unlink()  # only the name that is left in the template still leads to the change
    (root / "etc/gone").unlink()
    (root / "etc/deep").chmod(0o700)
    (root / "etc/new").mkdir()
    (root / "etc/new/a").write_text("a\n")
    os.link(root / "etc/new/a", root / "etc/new/b")
    shutil.rmtree(root / "lib2", ignore_errors=True)


class FakeCT:
    def __init__(self, area: Area) -> None:
        self.private, self.root, self.node = str(area.private), str(area.root), None


def test_what_is_seen_is_the_same(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = places
    old = Area(here / "area", template(here / "template"))
    new = Area(there / "area", template(there / "template"))
    monkeypatch.setattr(moved.templates, "tree_of_digest", lambda node, digest: str(old.lower))
    monkeypatch.setattr(moved.overlay, "lower_digest", lambda private: "")
    old.mount()
    change(old)
    moved.materialize(FakeCT(old))  # type: ignore[arg-type]
    before = listing(old.root)
    old.umount()
    rules = [f"--filter=-x {name}" for name in moved.XATTRS_LEFT]
    subprocess.run(["rsync", "-aHAX", "--numeric-ids", *rules, f"{old.private}/up/", f"{new.private}/up/"], check=True)
    moved.adopt(str(new.private), str(new.lower))
    new.mount()
    after = listing(new.root)
    new.umount()
    assert after == before
    assert after["lib/two"][1:] == ("etc/deep/three", "linked, changed\n")  # type: ignore[index]
    assert after["lib/solo2"][2] == "changed\n"  # type: ignore[index]
    assert "etc/gone" not in after and "etc/keep" in after


def test_without_adoption_the_kernel_refuses_or_hides(places: tuple[Path, Path]) -> None:
    """What the module is for: should this ever fail, it can go."""
    here, there = places
    old = Area(here / "area", template(here / "template"))
    new = Area(there / "area", template(there / "template"))
    old.mount()
    change(old)
    old.umount()
    subprocess.run(["rsync", "-aHAX", f"{old.private}/up/", f"{new.private}/up/"], check=True)
    with pytest.raises(subprocess.CalledProcessError):
        new.mount()
    os.removexattr(new.private / "up", moved.ORIGIN)
    moved.fresh_work(str(new.private))
    new.mount()
    seen = listing(new.root)
    new.umount()
    assert "etc/keep" not in seen


def test_a_directory_that_was_copied_up_later(places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = places
    old = Area(here / "area", template(here / "template"))
    monkeypatch.setattr(moved.templates, "tree_of_digest", lambda node, digest: str(old.lower))
    monkeypatch.setattr(moved.overlay, "lower_digest", lambda private: "")
    new = Area(there / "area", template(there / "template"))
    old.mount()
    change(old)
    old.umount()
    rules = [f"--filter=-x {name}" for name in moved.XATTRS_LEFT]
    copy = ["rsync", "-aHAX", "--numeric-ids", "--delete", *rules, f"{old.private}/up/", f"{new.private}/up/"]
    subprocess.run(copy, check=True)
    moved.adopt(str(new.private), str(new.lower))
    with changes.Tree(str(old.private)) as tree:
        since = changes.now_ns()
        first = changes.look(f"{tree.path}/up")
    old.mount()
    moved.materialize(FakeCT(old))  # type: ignore[arg-type]
    shutil.rmtree(old.root / "etc/deep")
    (old.root / "etc/deep").mkdir()
    (old.root / "lib/later").write_text("later\n")
    (old.root / "etc/new/a").write_text("changed later\n")
    before = listing(old.root)
    old.umount()
    with changes.Tree(str(old.private)) as tree:
        gone, changed = changes.compare(first, changes.look(f"{tree.path}/up"), since)
    assert set(changed) >= {"etc/deep", "lib", "lib/later", "etc/new/a", "etc/new/b"}
    subprocess.run(copy, check=True)
    moved.adopt(str(new.private), str(new.lower), changed)
    new.mount()
    after = listing(new.root)
    new.umount()
    assert after == before
    assert not [path for path in gone if path in after]


def test_a_look_through_a_tree_follows_no_link(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    (tmp_path / "tree/dir").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_text("x")
    (tmp_path / "tree/link").symlink_to(tmp_path / "outside")
    with changes.Tree(str(tmp_path / "tree")) as tree:
        with pytest.raises(OSError) as refused:
            os.listdir(f"{tree.path}/link")
        assert refused.value.errno == 40
        assert set(changes.look(tree.path).entries) == {"", "dir", "link"}
        with pytest.raises(OSError):
            Path(f"{tree.path}/dir/file").write_text("x")
        out = subprocess.run(["cat", f"{tree.path}/link/secret"], pass_fds=[tree.fd], capture_output=True, text=True)
        assert out.returncode and ("loop" in out.stderr.lower() or "levels" in out.stderr.lower())


def test_what_compare_finds(tmp_path: Path) -> None:
    top = tmp_path / "tree"
    (top / "a/b").mkdir(parents=True)
    (top / "a/b/c").write_text("c")
    (top / "same").write_text("same")
    (top / "kind").write_text("file")
    (top / "moved").mkdir()
    (top / "moved/in").write_text("in")
    since = changes.now_ns() + 1_000_000_000  # as if nothing could be told by the clock
    first = changes.look(str(top))
    (top / "kind").unlink()
    (top / "kind").mkdir()
    shutil.rmtree(top / "a/b")
    os.rename(top / "moved", top / "renamed")
    os.link(top / "same", top / "other name")
    gone, changed = changes.compare(first, changes.look(str(top)), since)
    assert gone == ["a/b", "kind", "moved"]
    assert set(changed) >= {"a", "kind", "renamed", "renamed/in", "same", "other name", ""}
    again = changes.look(str(top))
    assert changes.compare(again, changes.look(str(top)), since) == ([], [])
    assert set(changes.compare(again, changes.look(str(top)), 0)[1]) == set(again.entries)
