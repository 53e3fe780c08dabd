"""set: live, saved, both, neither; what it prints and how it ends."""

from __future__ import annotations

from conftest import Vz
from testnode import Node

UNSAVED = "WARNING: Settings were not saved to config and will be lost after CT restart (use --save flag)\n"


def test_save_only_on_a_stopped_ct(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    done = vz("set", ctid, "--hostname", "web.example.com", "--onboot", "yes", "--save")
    assert (done.returncode, done.stdout) == (0, f"CT configuration saved to /etc/vz/conf/{ctid}.conf\n")
    text = node.path(f"/etc/vz/conf/{ctid}.conf").read_text()
    assert 'HOSTNAME="web.example.com"\n' in text and 'ONBOOT="yes"\n' in text
    done = vz("set", ctid, "--onboot", "yes", "--save")
    assert done.stdout == "No changes in CT configuration, not saving\n"
    assert vz("set", ctid, "--cpuunits", "500").returncode == 31


def test_live_limits(vz: Vz, node: Node, ct: int) -> None:
    done = vz("set", ct, "--cpuunits", "500", "--cpulimit", "50", "--numproc", "64", "--ram", "64M", "--swap", "32M")
    assert done.returncode == 0
    assert done.stdout == ("Setting CPU units: 500\nSetting CPU limit: 50\nUB limits were set successfully\n" + UNSAVED)
    cgroup = f"/sys/fs/cgroup/pids/{node.cgroup_parent}/{ct}/pids.max"
    v2 = f"/sys/fs/cgroup/{node.cgroup_parent}/{ct}/ct/pids.max"
    assert vz.run("sh", "-c", f"cat {cgroup} {v2} 2>/dev/null").stdout == "64\n"
    assert "can't fork" in vz.sh(
        ct, "i=0; while [ $i -lt 100 ]; do sleep 300 </dev/null >/dev/null 2>&1 & i=$((i+1)); done"
    )
    assert "its limit of processes (numproc) is reached" in vz.sh(ct, "true")


def test_memory_is_a_hard_ceiling(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct("--ram", "32M", "--swap", "8M")
    done = vz("exec2", ctid, "head -c 100000000 /dev/zero | tail | wc -c")
    assert "100000000" not in done.stdout
    assert vz("exec", ctid, "true").returncode == 0


def test_names(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    first, second = new_ct(start=False), new_ct(start=False)
    assert vz("set", first, "--name", "shop").returncode == 131
    done = vz("set", first, "--name", "shop", "--save")
    assert done.returncode == 0 and "Name shop assigned\n" in done.stdout
    assert vz("status", "shop").stdout.startswith(f"CTID {first} exist")
    done = vz("set", second, "--name", "shop", "--save")
    assert done.returncode == 131
    assert done.stderr == f"Conflict: name shop already used by container {first}\n"
    vz.ok("set", "shop", "--name", "", "--save")
    assert vz("status", "shop").returncode == 21


def test_hostname_and_dns_of_a_running_ct(vz: Vz, ct: int) -> None:
    vz.ok(
        "set",
        ct,
        "--hostname",
        "new.example.com",
        "--nameserver",
        "192.0.2.9",
        "--searchdomain",
        "example.com",
        "--save",
    )
    assert vz("exec", ct, "hostname").stdout == "new.example.com\n"
    assert vz("exec", ct, "cat /etc/resolv.conf").stdout == "search example.com\nnameserver 192.0.2.9\n"


def test_inherit_means_the_nodes_own_resolver(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    vz.ok("set", ctid, "--nameserver", "inherit", "--searchdomain", "inherit", "--save")
    node = "search old.example.com\nnameserver 127.0.0.53\nnameserver 192.0.2.99\nsearch a.example.com b.example.com\n"
    vz.node.path("/run/vz/resolv.conf").write_text(node)
    # for this one start: the file is the host's
    script = f"mount --bind /run/vz/resolv.conf /etc/resolv.conf && vzctl start {ctid}; umount /etc/resolv.conf"
    assert vz.run("sh", "-c", script).returncode == 0
    wanted = "search a.example.com b.example.com\nnameserver 192.0.2.99\n"
    assert vz("exec", ctid, "cat /etc/resolv.conf").stdout == wanted


def test_passwords(vz: Vz, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    vz.ok("set", ctid, "--userpasswd", "root:one:two")
    vz.ok("start", ctid)
    first = vz("exec", ctid, "head -1 /etc/shadow").stdout
    assert first.startswith("root:$6$")
    vz.ok("set", ctid, "--userpasswd", "root:three")
    assert vz("exec", ctid, "head -1 /etc/shadow").stdout != first
    done = vz("set", ctid, "--userpasswd", "nosuch:secret")
    assert done.returncode == 74 and "secret" not in done.stderr


def test_restart_only_parameters(vz: Vz, node: Node, ct: int) -> None:
    assert vz("set", ct, "--capability", "net_raw:off", "--save", "--setmode", "ignore").returncode == 32
    done = vz("set", ct, "--capability", "net_raw:off", "--save")
    assert done.returncode == 0 and "Unable to set capability on a running container\n" in done.stderr
    assert vz("set", ct, "--capability", "sys_time:on", "--save").returncode == 21
    vz.ok("set", ct, "--capability", "mknod:off", "--save", "--setmode", "restart", timeout=60)
    bounding = int(vz("exec", ct, "grep CapBnd /proc/1/status").stdout.split()[1], 16)
    assert not bounding & (1 << 13) and not bounding & (1 << 27)


def test_unknown_keys_and_comments_survive(vz: Vz, node: Node, new_ct) -> None:  # type: ignore[no-untyped-def]
    ctid = new_ct(start=False)
    conf = node.path(f"/etc/vz/conf/{ctid}.conf")
    conf.write_text("# mine\nMY_PANEL_KEY='x y'\n" + conf.read_text())
    vz.ok("set", ctid, "--description", "a $(touch /tmp/pwned) `id`", "--save")
    assert conf.read_text().startswith("# mine\nMY_PANEL_KEY='x y'\n")
    done = vz.run("sh", "-c", f'. /etc/vz/conf/{ctid}.conf; printf %s "$DESCRIPTION"')
    assert done.stdout == "a $(touch /tmp/pwned) `id`"


def test_bad_words(vz: Vz, ct: int) -> None:
    for words, status in (
        (["--nosuch", "1"], 21),
        (["--cpuunits", "many"], 21),
        (["--cpuunits", "٥٠٠"], 21),
        (["--ipadd", "192.0.2.300"], 21),
        (["stray"], 20),
        (["--hostname", "a\nb"], 21),
        (["--diskspace", "2G:1G"], 21),
        (["--ostemplate", "x"], 20),
        (["--force", "--hostname", "x"], 20),
    ):
        done = vz("set", ct, *words)
        assert done.returncode == status, (words, done)
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_bad_ids(vz: Vz) -> None:
    for word in ("0", "-1", "1_01", "١٠١", "../x", "a\nb", "1" * 40, "", " 101", "101 ", "0101"):
        for verb in ("start", "status", "destroy", "exec"):
            done = vz(verb, word, *(["true"] if verb == "exec" else []))
            assert done.returncode == 21, (verb, word, done)
            assert done.stderr.startswith("Bad CT ID ") and len(done.stderr.splitlines()) == 1
