"""vzlist and vzpid on real CTs: what the kernel says of them, who may ask, and how long it takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from conftest import SOAK, Vz
from testnode import TREE

# what the default list may load beyond the interpreter's own start
ALLOWED = {
    "__future__",
    "types",
    "_ctypes",
    "_struct",
    "array",
    "ctypes",
    "ctypes._endian",
    "fcntl",
    "select",
    "struct",
    "errno",
    "gc",  # built in: no file is read
}


def fields(vz: Vz, ctid: int, columns: str) -> list[str]:
    done = vz.run("vzlist", "-Ho", columns, ctid)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


def test_a_life_as_vzlist_sees_it(vz: Vz, ctid: int, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--hostname", "one.example.com", "--name", "one", "--description", "a b", start=False)
    assert fields(vz, ct, "ctid,numproc,status,ip,hostname") == [str(ct), "-", "stopped", "-", "one.example.com"]
    assert str(ct) not in vz.run("vzlist", "-H1").stdout.split()
    assert str(ct) in vz.run("vzlist", "-S1").stdout.split()
    vz.ok("mount", ct)
    assert fields(vz, ct, "status") == ["mounted"]
    vz.ok("start", ct)
    assert fields(vz, ct, "status,smart_name,layout") == ["running", "one", "overlay"]
    assert str(ct) in vz.run("vzlist", "-1").stdout.split()
    assert str(ct) not in vz.run("vzlist", "-S1").stdout.split()
    assert (
        int(fields(vz, ct, "numproc")[0]) == len(vz.sh(ct, "ls -d /proc/[0-9]*").split()) - 1
    )  # less the one that looks
    vz.ok("stop", ct, "--fast")
    assert fields(vz, ct, "status") == ["stopped"]
    vz.ok("destroy", ct)
    assert vz.run("vzlist", ct).returncode == 1
    assert vz.run("vzlist", "one").stderr == "CT ID one is invalid.\n"


def test_addresses_of_a_running_ct_have_no_mask_and_come_last_first(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--ipadd", "192.0.2.71/24", "--ipadd", "192.0.2.72/24")
    assert fields(vz, ct, "ip") == ["192.0.2.72", "192.0.2.71"]
    vz.ok("set", ct, "--ipdel", "192.0.2.72", "--ipadd", "192.0.2.73")  # not saved: the kernel knows
    assert fields(vz, ct, "ip") == ["192.0.2.73", "192.0.2.71"]
    vz.ok("stop", ct, "--fast")
    assert fields(vz, ct, "ip") == ["192.0.2.71/24", "192.0.2.72/24"]


def test_limits_of_a_running_ct_are_the_kernels(vz: Vz, new_ct: Callable[..., int]) -> None:
    ct = new_ct("--cpulimit", "50", "--cpuunits", "2000", "--numproc", "100:100", "--ram", "64M", "--swap", "0")
    assert fields(vz, ct, "cpulimit,cpuunits,numproc.l,physpages.l,vswap") == ["50", "2000", "100", "16384", "yes"]
    vz.ok("set", ct, "--cpulimit", "25", "--numproc", "90")
    assert fields(vz, ct, "cpulimit,numproc.b,numproc.l") == ["25", "90", "90"]
    (listed,) = json.loads(vz.run("vzlist", "-j", ct).stdout)
    assert listed["numproc"]["limit"] == 90
    assert 0 < listed["numproc"]["held"] <= listed["numproc"]["maxheld"]
    assert 0 < listed["physpages"]["held"] < 16384
    assert 0 < listed["uptime"] < 60
    assert listed["cpulimit"] == 25
    plain = new_ct()
    assert fields(vz, plain, "cpulimit,cpuunits")[0] == "0"


def test_only_root_may_list(vz: Vz, ct: int) -> None:
    def nobody(*argv: str) -> tuple[int, str, str]:
        done = vz.run("setpriv", "--reuid", "65534", "--clear-groups", *argv)
        return done.returncode, done.stdout, done.stderr

    status, out, err = nobody("vzlist", "-a")
    assert (status, out, err.count("\n")) == (1, "", 1)
    status, out, err = nobody("vzlist", "-L")
    assert (status, out.count("\n"), err) == (0, 16 + 21 * 5 + 2 * 3 + 17, "")
    assert nobody("vzlist", "--help")[0] == 0


def test_vzpid_knows_whose_a_process_is(vz: Vz, ct: int) -> None:
    init = vz.node.path(f"/run/vz/{ct}/record").read_text().partition("init_pid=")[2].split()[0]
    own = vz.node.holder.pid  # type: ignore[union-attr]
    done = vz.run("vzpid", init, own)
    assert done.stdout == f"Pid\tCTID\tName\n{init}\t{ct}\tinit\n{own}\t0\tsleep\n"
    assert vz.run("vzpid", "-p", "-", stdin=f"{init}\n").stdout == f"Pid\tCT/Pid\tCTID\tName\n{init}\t1\t{ct}\tinit\n"
    # an exec'ed process too
    vz.sh(ct, "sleep 77 </dev/null >/dev/null 2>&1 &")
    pids = [pid for pid in vz.run("pgrep", "-x", "sleep").stdout.split() if pid != str(own)]
    assert str(ct) in {line.split("\t")[1] for line in vz.run("vzpid", *pids).stdout.splitlines()[1:]}


def test_the_default_list_loads_little(vz: Vz, ct: int) -> None:
    def loaded(*argv: str) -> set[str]:
        done = vz.run("/usr/bin/python3", "-IS", "-X", "importtime", *argv)
        assert done.returncode == 0
        lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
        return {line.rpartition("|")[2].strip() for line in lines}

    extra = loaded(str(TREE / "bin/vzlist")) - loaded("-c", "import os, sys")
    assert {name for name in extra if not name.startswith("vz")} <= ALLOWED
    assert "vz.config.options" not in extra


def test_hundreds_of_cts_are_listed_at_once(vz: Vz, new_ct: Callable[..., int]) -> None:
    """200 running ones within 150 ms, interpreter included (make soak); ten here, for the same code."""
    made = [new_ct() for _ in range(200 if SOAK else 10)]
    times = []
    for _ in range(10):
        start = time.monotonic()
        done = vz.run("vzlist", "-H")
        times.append(time.monotonic() - start)
        assert {str(ct) for ct in made} <= {line.split()[0] for line in done.stdout.splitlines()}
    assert min(times) < 0.150
