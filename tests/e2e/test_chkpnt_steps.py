"""Options and single steps of chkpnt and restore, what they refuse, and that a dump is never used twice."""

from __future__ import annotations

import json
import socket
import time

import pytest
from chkpnt_rig import cycle

from conftest import BUSYBOX, Vz
from netns import Netns
from testnode import Node

ADDRESS = "192.0.2.78"
RUNNING, SUSPENDED, DOWN = "exist mounted running", "exist unmounted down suspended", "exist unmounted down"
COUNTER = "(while :; do n=$((n+1)); echo $n > /run/count; sleep 0.02; done) </dev/null >/dev/null 2>&1 &"


def status(vz: Vz, ctid: int) -> str:
    return vz("status", ctid).stdout.strip().removeprefix(f"CTID {ctid} ")


def count(vz: Vz, ctid: int) -> int:
    return int(vz.ok("exec", ctid, "cat /run/count") or 0)


@pytest.fixture
def counting(vz: Vz, new_ct) -> int:  # type: ignore[no-untyped-def]
    """A CT whose program counts: a restored one goes on, a booted one has no /run/count."""
    ctid: int = new_ct("--ipadd", ADDRESS)
    vz.sh(ctid, COUNTER)
    return ctid


def test_a_full_cycle_says_what_the_manual_says(vz: Vz, counting: int) -> None:
    done = vz("chkpnt", counting)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Setting up checkpoint...",
        "\tsuspend...",
        "\tdump...",
        "\tkill...",
        "Container is unmounted",
        "Checkpointing completed successfully",
    ]
    assert status(vz, counting) == SUSPENDED
    row = json.loads(vz.run("vzlist", "-aj", counting).stdout)[0]
    assert row["status"] == "suspended"
    assert vz.run("stat", "-c", "%a %u", f"/vz/dump/Dump.{counting}").stdout == "700 0\n"
    done = vz("restore", counting)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Restoring container ...",
        "Container is mounted",
        "\tundump...",
        "\tresume...",
        "Restoring completed successfully",
    ]
    assert status(vz, counting) == RUNNING
    assert count(vz, counting) > 0
    assert vz("restore", counting).returncode == 32
    vz.ok("stop", counting)
    assert status(vz, counting) == DOWN, "the dump was used up"
    assert vz("chkpnt", counting).returncode == 31
    done = vz("restore", counting)
    assert done.returncode == 17
    assert f"there is no dump at /vz/dump/Dump.{counting}" in done.stderr


def test_suspend_and_resume_alone_freeze_and_thaw(vz: Vz, counting: int) -> None:
    pid = vz.run("cat", f"/var/lib/vzctl/vepid/{counting}").stdout.strip()
    counter = f"/proc/{pid}/root/run/count"
    vz.ok("suspend", counting, "--suspend")
    assert status(vz, counting) == RUNNING
    before = vz.run("cat", counter).stdout
    time.sleep(0.2)
    assert vz.run("cat", counter).stdout == before
    vz.ok("chkpnt", counting, "--resume")
    time.sleep(0.2)
    assert int(vz.run("cat", counter).stdout or 0) > int(before)
    assert vz("chkpnt", counting, "--kill").returncode == 16, "only a frozen CT is killed"
    assert vz("chkpnt", counting, "--dump", "--dumpfile", "/vz/dump/x").returncode == 16
    assert vz.run("test", "-e", "/vz/dump/x").returncode


def test_start_goes_on_from_the_dump(vz: Vz, counting: int) -> None:
    vz.ok("suspend", counting)
    vz.ok("start", counting)
    assert count(vz, counting) > 0
    assert vz.run("test", "-e", f"/vz/dump/Dump.{counting}").returncode


def test_start_says_so_where_it_cannot_and_boots(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting)
    dump = f"/vz/dump/Dump.{counting}"
    vz.run("sh", "-c", f"rm {dump}/images/core-1.img")
    done = vz("restore", counting)
    assert done.returncode == 17
    assert "for another try" in done.stderr and f"{dump}/restore.log" in done.stderr
    assert status(vz, counting) == SUSPENDED
    done = vz("start", counting)
    assert done.returncode == 0
    assert f"the container boots anew; the dump is kept in {dump}.fail" in done.stderr
    assert vz("exec", counting, "test ! -e /run/count").returncode == 0
    assert vz.run("test", "-e", f"{dump}.fail/info").returncode == 0
    assert vz.run("test", "-e", dump).returncode


def test_a_dump_that_is_restored_is_tried_again(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting)
    image = f"/vz/dump/Dump.{counting}/images/core-1.img"
    vz.run("mv", image, "/vz/aside")
    assert vz("restore", counting).returncode == 17
    vz.run("mv", "/vz/aside", image)
    vz.ok("restore", counting)
    assert count(vz, counting) > 0


def test_a_failed_dump_leaves_all_as_it_was(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting, "--keep-running")
    dump = f"/vz/dump/Dump.{counting}"
    serial = vz.run("grep", "serial", f"{dump}/info").stdout
    assert serial
    vz.run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", "/mnt")
    try:
        done = vz("chkpnt", counting, "--dumpfile", "/mnt/x")
    finally:
        vz.run("umount", "/mnt")
    assert done.returncode == 16, done
    assert status(vz, counting) == RUNNING
    assert vz.run("grep", "serial", f"{dump}/info").stdout == serial
    before = count(vz, counting)
    vz.sh(counting, "sleep 0.1")
    assert count(vz, counting) > before
    assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0


def test_keep_running(vz: Vz, counting: int) -> None:
    vz.sh(counting, "sleep 0.3")
    dumped = count(vz, counting)
    assert dumped > 0
    vz.ok("chkpnt", counting, "--keep-running")
    assert status(vz, counting) == RUNNING
    kept = count(vz, counting)
    vz.sh(counting, "sleep 0.3")
    assert count(vz, counting) > kept
    assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0
    vz.ok("stop", counting, "--fast")
    assert status(vz, counting) == DOWN, "it has gone on since: nothing to go on from by itself"
    vz.ok("start", counting)
    assert vz("exec", counting, "test ! -e /run/count").returncode == 0
    vz.ok("stop", counting, "--fast")
    vz.ok("restore", counting)
    assert count(vz, counting) >= dumped  # what it had counted before the dump: since then it has gone on


def test_steps_one_by_one(vz: Vz, counting: int) -> None:
    dump = "/vz/dump/steps"
    vz.ok("chkpnt", counting, "--suspend")
    vz.ok("chkpnt", counting, "--dump", "--dumpfile", dump)
    assert status(vz, counting) == RUNNING
    assert vz.run("ping", "-c1", "-W1", ADDRESS).returncode, "its network is shut"
    vz.ok("chkpnt", counting, "--resume")
    assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0
    kept = count(vz, counting)
    vz.ok("chkpnt", counting, "--suspend")
    vz.ok("chkpnt", counting, "--dump", "--dumpfile", dump)
    vz.ok("chkpnt", counting, "--kill")
    assert status(vz, counting) == DOWN
    vz.ok("restore", counting, "--undump", "--dumpfile", dump, "--skip_arpdetect")
    assert status(vz, counting) == RUNNING
    vz.ok("restore", counting, "--kill")
    assert status(vz, counting) == DOWN
    vz.ok("restore", counting, "--undump", "--dumpfile", dump)
    vz.ok("restore", counting, "--resume")
    assert count(vz, counting) >= kept
    assert vz("restore", counting, "--kill").returncode == 17, "it runs"
    vz.run("rm", "-r", dump)


def test_steps_with_the_default_dump(vz: Vz, counting: int) -> None:
    dump = f"/vz/dump/Dump.{counting}"
    vz.ok("chkpnt", counting, "--suspend")
    vz.ok("chkpnt", counting, "--dump", "--dumpfile", dump)
    vz.ok("chkpnt", counting, "--kill")
    assert status(vz, counting) == SUSPENDED
    vz.ok("restore", counting, "--undump", "--dumpfile", dump)
    vz.ok("restore", counting, "--resume")
    vz.ok("stop", counting, "--fast")
    assert status(vz, counting) == DOWN, "the dump was used up"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("chkpnt", "--suspend", "--kill"), 20),
        (("chkpnt", "--dump"), 20),
        (("chkpnt", "--dumpfile"), 21),
        (("chkpnt", "--undump"), 20),
        (("chkpnt", "more"), 20),
        (("chkpnt", "--flags", "x y"), 21),
        (("chkpnt", "--keep-running", "--suspend"), 20),
        (("restore", "--undump"), 20),
        (("restore", "--undump", "--resume"), 20),
        (("restore", "--dump"), 20),
        (("restore", "--keep-running"), 20),
        (("check", "--all"), 20),
    ],
)
def test_bad_words(vz: Vz, ct: int, words: tuple[str, ...], code: int) -> None:
    done = vz(words[0], ct, *words[1:])
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (code, "", 1), done


def test_words_of_the_old_kernel_are_taken_and_named(vz: Vz, ct: int) -> None:
    done = vz("chkpnt", ct, "--suspend", "--flags", "3", "--context=0x11", "--skip_arpdetect")
    assert done.returncode == 0
    assert [line.split(" has ")[0] for line in done.stderr.splitlines()] == ["WARNING: --flags", "WARNING: --context"]
    vz.ok("chkpnt", ct, "--resume")


def test_nothing_but_a_dump_is_written_over(vz: Vz, counting: int) -> None:
    vz.run("mkdir", "/vz/precious")
    done = vz("chkpnt", counting, "--dumpfile", "/vz/precious")
    assert done.returncode == 16 and "/vz/precious is there and is no dump" in done.stderr
    assert vz.run("rmdir", "/vz/precious").returncode == 0
    assert status(vz, counting) == RUNNING


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ("s/^ctid=.*/ctid=4/", "it is a dump of container 4"),
        ("s/^machine=.*/machine=vax/", "it was made on vax"),
        ("s/^criu=.*/criu=99.1/", "install 99.1 or newer"),
        ("s/^layout=.*/layout=simfs/", "the container's layout was simfs then"),
        ("s/^digest=.*/digest=0/", "stands on another template"),
        ("s/^format=.*/format=77/", "is of format 77"),
    ],
)
def test_what_cannot_be_restored_here_is_refused_first(vz: Vz, counting: int, edit: str, words: str) -> None:
    vz.ok("chkpnt", counting)
    vz.run("sed", "-i.kept", edit, f"/vz/dump/Dump.{counting}/info")
    done = vz("restore", counting)
    assert done.returncode == 17 and words in done.stderr, done
    assert status(vz, counting) == SUSPENDED
    vz.run("mv", f"/vz/dump/Dump.{counting}/info.kept", f"/vz/dump/Dump.{counting}/info")


def test_damaged_cgroups_of_a_dump_are_one_line(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting)
    vz.run("sed", "-i.kept", "1s/.*/. 0 70000/", f"/vz/dump/Dump.{counting}/cgroups")
    done = vz("restore", counting)
    assert done.returncode == 17 and done.stderr.startswith("Restoring failed: /vz/dump/"), done
    assert done.stderr.count("\n") == 1 and "70000: no id of the container" in done.stderr, done
    assert status(vz, counting) == SUSPENDED
    vz.run("mv", f"/vz/dump/Dump.{counting}/cgroups.kept", f"/vz/dump/Dump.{counting}/cgroups")
    vz.ok("restore", counting)


def test_another_kernel_is_named(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting)
    vz.run("sed", "-i", "s/^kernel=.*/kernel=6.1.0/", f"/vz/dump/Dump.{counting}/info")
    done = vz("restore", counting)
    assert done.returncode == 0
    assert "the dump was made under Linux 6.1.0" in done.stderr


def test_a_dump_of_the_old_kernel_does_not_stop_a_start(vz: Vz, new_ct, node: Node) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    node.path("/vz/dump").mkdir(exist_ok=True)
    node.path(f"/vz/dump/Dump.{ctid}").write_bytes(b"\0" * 100)
    assert status(vz, ctid) == SUSPENDED
    done = vz("start", ctid)
    assert done.returncode == 0 and "a dump of OpenVZ's own kernel" in done.stderr
    assert node.path(f"/vz/dump/Dump.{ctid}.fail").read_bytes() == b"\0" * 100
    node.path(f"/vz/dump/Dump.{ctid}.fail").unlink()


def test_limits_are_those_of_the_conf_again(vz: Vz, counting: int) -> None:
    vz.ok("set", counting, "--shmpages", "4096", "--numproc", "77", "--save")
    before = vz.ok("exec", counting, "cat /proc/sys/kernel/shmall")
    cycle(vz, counting)
    assert vz.ok("exec", counting, "cat /proc/sys/kernel/shmall") == before == "4096\n"
    assert vz.run("vzlist", "-H", "-o", "shmpages.l,numproc.l", str(counting)).stdout.split() == ["4096", "77"]


def test_another_range_of_ids(vz: Vz, counting: int, node: Node) -> None:
    vz.sh(counting, "echo x > /root/mine; chown 33:34 /root/mine; mkdir -p /run/d; chown 33 /run/d")
    vz.ok("chkpnt", counting)
    conf = node.path(f"/etc/vz/conf/{counting}.conf")
    old = conf.read_text()
    base = next(line.split('"')[1] for line in old.splitlines() if line.startswith("LOCAL_UID="))
    kept = node.path(f"/var/lib/vzctl/ids/{int(base) // 65536}")
    kept.write_text(f"{base} 65536 99999\n")
    try:
        done = vz("restore", counting)
        assert done.returncode == 0, done
        assert f"Host ids from {base} on are another container's now" in done.stderr
        assert base not in conf.read_text()
        assert vz.ok("exec", counting, "stat -c %u:%g /root/mine /run/d /proc/1").split() == ["33:34", "33:0", "0:0"]
        assert count(vz, counting) > 0
        cycle(vz, counting)
        assert count(vz, counting) > 0
    finally:
        kept.unlink()


def test_an_address_that_another_has_got(vz: Vz, counting: int, new_ct) -> None:  # type: ignore[no-untyped-def]
    vz.ok("chkpnt", counting)
    other = new_ct("--ipadd", ADDRESS)
    done = vz("restore", counting)
    assert done.returncode == 78 and f"Address {ADDRESS} is in use by container {other}" in done.stderr
    assert status(vz, counting) == SUSPENDED
    assert vz("start", counting).returncode == 78
    assert vz.run("ping", "-c1", "-W2", ADDRESS).returncode == 0
    vz.ok("stop", other, "--fast")
    vz.ok("start", counting)
    assert count(vz, counting) > 0


def test_addresses_set_live_stay_and_saved_ones_come(vz: Vz, counting: int) -> None:
    def reached(address: str) -> bool:
        return vz.run("ping", "-c1", "-W1", address).returncode == 0

    vz.ok("set", counting, "--ipadd", "192.0.2.178")
    vz.ok("set", counting, "--ipadd", "2001:db8::178")
    cycle(vz, counting)
    assert [reached(a) for a in (ADDRESS, "192.0.2.178", "2001:db8::178")] == [True] * 3
    vz.ok("chkpnt", counting)
    vz.ok("set", counting, "--ipdel", ADDRESS, "--ipadd", "192.0.2.179", "--save")
    vz.ok("restore", counting)
    assert reached("192.0.2.179") and not reached(ADDRESS)
    assert ADDRESS not in vz.ok("exec", counting, "ip addr")
    assert count(vz, counting) > 0


def test_destroy_takes_the_dump_along(vz: Vz, counting: int) -> None:
    vz.ok("chkpnt", counting)
    vz.run("cp", "-a", f"/vz/dump/Dump.{counting}", f"/vz/dump/Dump.{counting}.fail")
    vz.ok("destroy", counting)
    assert vz.run("sh", "-c", f"ls -d /vz/dump/Dump.{counting}*").returncode
    vz.ok("create", counting, "--ostemplate", BUSYBOX)


@pytest.mark.parametrize("way", ["full", "keep-running", "steps"])
def test_a_connection_goes_on(vz: Vz, counting: int, inside: Netns, way: str) -> None:
    vz.sh(counting, "nc -l -p 7 -e cat </dev/null >/dev/null 2>&1 &")
    with inside.entered():
        client = socket.socket()
    client.settimeout(20)
    deadline = time.monotonic() + 10
    while client.connect_ex((ADDRESS, 7)):
        assert time.monotonic() < deadline
        time.sleep(0.05)

    def ask(text: bytes) -> bytes:
        client.sendall(text)
        return client.recv(100, socket.MSG_WAITALL if len(text) == 100 else 0)

    assert ask(b"before") == b"before"
    if way == "full":
        vz.ok("chkpnt", counting)
        client.sendall(b"while it was away")  # the kernel sends it again until somebody takes it
        vz.ok("restore", counting)
        assert client.recv(100) == b"while it was away"
    elif way == "keep-running":
        vz.ok("chkpnt", counting, "--keep-running")
    else:
        vz.ok("chkpnt", counting, "--suspend")
        client.sendall(b"to a frozen one")
        vz.ok("chkpnt", counting, "--dump", "--dumpfile", "/vz/dump/steps")
        vz.ok("chkpnt", counting, "--kill")
        vz.ok("restore", counting, "--undump", "--dumpfile", "/vz/dump/steps")
        vz.ok("restore", counting, "--resume")
        assert client.recv(100) == b"to a frozen one"
    assert ask(b"after") == b"after"
    client.close()
