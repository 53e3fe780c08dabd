"""Run on the test node: dump CT argv[1] with plain criu, by the options of its record, and restore it."""

import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "..", "..", "src"))

from vz import net  # noqa: E402
from vz.checkpoint.options import criu_program, dump_options, restore_options  # noqa: E402
from vz.config.nodeconfig import load_node  # noqa: E402
from vz.container.ct import load  # noqa: E402
from vz.kernel.process import starttime  # noqa: E402
from vz.resources import cgroups, tree  # noqa: E402


def criu(options: list[str], images: str, log: str) -> None:
    env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    done = subprocess.run([criu_program(), *options], stdin=subprocess.DEVNULL, capture_output=True, env=env)
    if done.returncode:
        with open(f"{images}/{log}", errors="replace") as file:
            errors = [line for line in file if "Error" in line]
        sys.exit(f"criu {options[0]}: {done.returncode}\n{''.join(errors[-8:])}{done.stderr.decode()}")


ct = load(int(sys.argv[1]), load_node())
record = ct.record()
assert record is not None and record.is_alive()
images = f"/vz/dump/test.{ct.ctid}"
shutil.rmtree(images, ignore_errors=True)
os.chmod("/vz/dump", 0o700)  # images hold secrets; criu opens them from inside the user namespace, by a descriptor
os.mkdir(images, 0o755)
criu(dump_options(record, images), images, "dump.log")
for outside, _ in record.netifs:  # the kernel takes a dead namespace down at its leisure
    subprocess.run(["ip", "link", "del", outside], stderr=subprocess.DEVNULL)
saved = tree.save(ct)
cgroups.remove(ct)
cgroups.create(ct)
tree.recreate(ct, saved)
criu(restore_options(record, images, f"{images}/pid"), images, "restore.log")
with open(f"{images}/pid") as file:
    record.init_pid = int(file.read())
record.init_start = starttime(record.init_pid)
record.save()
net.restore_host_side(ct, record)
shutil.rmtree(images)
