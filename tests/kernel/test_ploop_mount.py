"""ploop mount and umount: a raw image to write, any stack to read, by loop devices that leave nothing behind."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from conftest import needs

PLOOP = Path(__file__).parents[2] / "bin" / "ploop"
SCRIPT = """
mkdir raw out target
P init -s 24M -f raw raw/root.hdd
D=raw/DiskDescriptor.xml
P mount -m target $D | sed 's/loop[0-9]*/loopN/'
echo one > target/file; mkdir target/sub; echo two > target/sub/file
mknod target/null c 1 3; ! (: > target/null) 2>/dev/null        # nodev
d=$(P info -d $D | cut -f3)
[ "$(P list -a)" = "$d\t$PWD/raw/root.hdd\t$PWD/target" ]
P stat -d $d | grep -q '^writes:.[1-9]'
for words in "snapshot $D" "resize -s 48M $D" "check $D" "convert -f expanded $D" "mount -m out $D" \
        "convert -f expanded -o out/root.hdd $D" "copy -s raw/root.hdd -d out/x"; do
    set +e; P $words 2>said; [ $? = 37 ] && grep -q 'in use as /dev/loop' said || { echo "$words:"; cat said; }; set -e
done
(cd target && set +e; P umount -m ../target 2>said; [ $? = 22 ] && cat said)
P umount $D
set +e; P umount $D; [ $? = 40 ]; set -e
P convert -f expanded $D
P snapshot -u {00000000-0000-4000-8000-000000000001} $D >/dev/null
P resize -s 32M $D
for snapshot in {00000000-0000-4000-8000-000000000001} {5fbaabe3-6958-40ff-92a7-860e329aab41} base; do
    P mount -r -F -u $snapshot -m target $D >/dev/null
    cat target/file target/sub/file
    ! (: > target/new) 2>/dev/null
    df -k --output=size target | tail -1
    ls -A raw
    P umount -m target
done
set +e; P mount -m target $D; echo $?; set -e
P mount -r -m target raw/root.hdd raw/root.hdd.* >/dev/null
cat target/file; P umount raw/root.hdd
# home to the layout of containers and back
P convert -f raw -p -o out/fs $D
e2fsck -fp out/fs >/dev/null; mount -o loop out/fs target; cat target/sub/file; umount target
mkdir back; P convert -f expanded -p -o back/root.hdd out/fs
P mount -r -m target back/DiskDescriptor.xml >/dev/null; cat target/sub/file; P umount back/DiskDescriptor.xml
"""
SAID = """\
Mounted /dev/loopN at target fstype=ext4
Cannot unmount TOP/target: it is in use
Unmounted TOP/target
raw/DiskDescriptor.xml: is not mounted by ploop
one
two
SMALL
one
two
LARGE
one
two
SMALL
Only a raw image without snapshots can be mounted for writing: mount -r, or ploop convert -f raw first
38
one
two
two
"""


def test_a_disk_is_mounted_written_and_read_back(tmp_path: Path) -> None:
    needs("loop devices", lambda: os.close(os.open("/dev/loop-control", os.O_RDWR)))
    assert shutil.which("mkfs.ext4")
    script = f'P() {{ {PLOOP} "$@"; }}; cd {tmp_path}; {SCRIPT}'
    argv = ["unshare", "--mount", "--propagation", "private", "bash", "-eu", "-c", script]
    argv[-1] = argv[-1].replace('"$d\\t', '"$d"$\'\\t\'"').replace("root.hdd\\t$PWD", "root.hdd\"$'\\t'\"$PWD")
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in done.stdout.replace(str(tmp_path), "TOP").splitlines():
        if line.strip().isdigit() and len(line.strip()) == 5:
            line = "SMALL" if int(line) < 23000 else "LARGE"
        if line.startswith(("DiskDescriptor.xml", "root.hdd")) or (
            line.startswith("Unmounted") and "Unmounted TOP/target" in lines
        ):
            continue  # raw/ has these and no other files
        lines.append(line)
    assert done.returncode == 0, done.stdout
    assert "\n".join(lines) + "\n" == SAID
    files = {path.name.partition(".{")[0] for path in (tmp_path / "raw").iterdir()}
    assert files == {"DiskDescriptor.xml", "root.hdd"}
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        assert str(tmp_path) not in backing.read_text()
