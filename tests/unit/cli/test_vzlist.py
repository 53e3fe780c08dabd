"""vzlist: rows, columns, filters and JSON, held to golden outputs in tests/compat/vzlist; the node is made of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import vz.cli.vzlist as vzlist
import vz.cli.vzlist_columns as columns
import vz.config.ctconfig as ctconfig
import vz.config.nodeconfig as nodeconfig
import vz.container.ct as ctmodule
import vz.container.record as record
from vz.cli.main import Globals
from vz.kernel.process import starttime
from vz.resources import beancounters, ubfile, usage

GOLDEN = Path(__file__).resolve().parents[2] / "compat/vzlist"
SRC = Path(vzlist.__file__).parents[2]
CONFS = {
    # 101 runs, 103 is mounted, 104 suspended, 102 and 106 stopped; 105 has no private area
    101: 'HOSTNAME="web.example.com"\nNAME="web"\nIP_ADDR="192.0.2.9/24"\nONBOOT="yes"\nNUMPROC="100:120"\n'
    'CPUUNITS="1000"\nPHYSPAGES="0:65536"\nSWAPPAGES="0:0"\nFEATURES="ppp:on nfs:off"\nOSTEMPLATE="debian-12-x86_64"\n',
    102: 'HOSTNAME="a-very-long-host-name.of-a-department.example.com"\nIP_ADDR="192.0.2.102/24 2001:db8::102/64"\n'
    'NAMESERVER="192.0.2.53 2001:db8::53"\nSEARCHDOMAIN="example.com example.org"\nONBOOT="no"\nBOOTORDER="7"\n'
    'DESCRIPTION="the \\"old\\" one"\nNUMPROC="240:240"\nKMEMSIZE="14372700:14790164"\nDISKSPACE="2G:2.2G"\n'
    'CPULIMIT="25"\nCPUUNITS="500"\nCPUS="2"\nDISABLED="yes"\nVE_LAYOUT="ploop"\nORIGIN_SAMPLE="vswap-1g"\n'
    'CAPABILITY="SYS_TIME:off NET_ADMIN:on"\nNETFILTER="stateless"\n',
    103: 'VE_ROOT="@/private/$VEID"\nNAME="a name longer than ten"\nHOSTNAME="db.example.com"\n',
    104: "",
    105: 'HOSTNAME="gone.example.com"\n',
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of files below *tmp_path*; this very process is the init of CT 101."""
    for name in ("conf", "names", "run/101", "private", "root", "dump", "state/veip"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "vz.conf").write_text(
        f"VE_ROOT={tmp_path}/root/$VEID\nVE_PRIVATE={tmp_path}/private/$VEID\nDUMPDIR={tmp_path}/dump\nVE_LAYOUT=overlay\n"
    )
    for ctid, text in CONFS.items():
        (tmp_path / f"conf/{ctid}.conf").write_text(text.replace("@", str(tmp_path)))
        if ctid != 105:
            (tmp_path / f"private/{ctid}").mkdir()
    (tmp_path / "conf/106.conf").write_bytes(b"\0\1\2binary")
    (tmp_path / "private/106").mkdir()
    for name in ("0.conf", "ve-basic.conf-sample", "107.conf.destroyed", "1_08.conf", "x.conf", "00109.conf"):
        (tmp_path / f"conf/{name}").write_text("")
    (tmp_path / "names/web").symlink_to(tmp_path / "conf/101.conf")
    (tmp_path / "dump/Dump.104").mkdir()
    (tmp_path / "state/veip/101").write_text("192.0.2.101\n2001:db8::101\n")
    (tmp_path / "run/101/record").write_text(f"init_pid={os.getpid()}\ninit_start={starttime(os.getpid())}\n")
    for module, name, value in (
        (vzlist, "CONF_DIR", "conf"),
        (vzlist, "RUN", "run"),
        (columns, "STATE", "state"),
        (ctconfig, "CONF_DIR", "conf"),
        (nodeconfig, "VZ_CONF", "vz.conf"),
        (ctmodule, "CONF_DIR", "conf"),
        (ctmodule, "NAMES_DIR", "names"),
        (ctmodule, "RUN", "run"),
        (record, "RUN", "run"),
        (ubfile, "RUN", "run"),
    ):
        monkeypatch.setattr(module, name, str(tmp_path / value))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(usage, "counter", lambda ct, name: (12, 34, 5) if name == "numproc" else (0, 0, 0))
    monkeypatch.setattr(beancounters.Reading, "_now", lambda reading, name: usage.counter(reading.ct, name))
    monkeypatch.setattr(usage, "numproc_limit", lambda ct: 120)
    monkeypatch.setattr(usage, "cpu", lambda ct: (0, 1000))
    monkeypatch.setattr(columns.Row, "_uptime", lambda row: 93784.5 if row.running else 0.0)
    return tmp_path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(node: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: str) -> tuple[int, str, str]:
        status = vzlist.run(list(argv), Globals("vzlist"))
        done = capfd.readouterr()
        return status, done.out.replace(str(node), "@"), done.err

    return call


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("default", []),
        ("all", ["-a"]),
        ("stopped", ["-S"]),
        ("by-name", ["-a", "-n"]),
        ("no-trim", ["-a", "-t"]),
        ("ids", ["-a", "-1"]),
        ("strings", ["-a", "-o", "name,hostname,description,ostemplate,ctid"]),
        ("lists", ["-a", "-o", "ctid,nameserver,searchdomain,ip,nameserver"]),
        (
            "counters",
            ["-a", "-o", "ctid,numproc,numproc.m,numproc.b,numproc.l,numproc.f,kmemsize,kmemsize.b,kmemsize.l"],
        ),
        ("cpu", ["-a", "-o", "ctid,cpulimit,cpuunits,cpus,ioprio,iolimit,iopslimit,laverage,uptime"]),
        ("switches", ["-a", "-o", "ctid,onboot,bootorder,vswap,disabled,vm_overcommit,netfilter,features,capability"]),
        (
            "disk",
            ["-a", "-o", "ctid,layout,diskspace,diskspace.s,diskspace.h,diskinodes.h,mount_opts,origin_sample,status"],
        ),
        ("sorted-by-hostname", ["-a", "-s", "hostname", "-o", "ctid,hostname"]),
        ("sorted-backwards", ["-a", "-s", "-bootorder", "-o", "ctid,bootorder"]),
        ("columns", ["-L"]),
        ("json-running", ["-j"]),
        ("json-stopped", ["-j", "102"]),
        ("json-some", ["-a", "-jo", "ctid,smart_name,name,ip,status,uptime,laverage"]),
    ],
)
def test_output_is_the_golden_one(run: Run, name: str, argv: list[str]) -> None:
    status, out, err = run(*argv)
    path = GOLDEN / f"{name}.txt"
    if "VZ_WRITE_GOLDEN" in os.environ:
        path.write_text(out)
    assert (status, err) == (0, "")
    assert out == path.read_text()


def test_the_header_and_a_row_are_what_scripts_cut(run: Run) -> None:
    lines = run("-a")[1].splitlines()
    assert lines[0] == "      CTID      NPROC STATUS    IP_ADDR         HOSTNAME"
    assert lines[1] == "%10d %10s %-9s %-15s %s" % (101, "12", "running", "2001:db8::101", "web.example.com")
    assert run("-aHo", "ctid")[1].splitlines()[0] == "       101"  # opennode: exactly ten characters


@pytest.mark.parametrize(
    ("cluster", "plain"),
    [
        (["-a1j"], ["-a", "-1", "-j"]),
        (["-1a"], ["-a", "-1"]),
        (["-ajo", "ctid,ip"], ["-a", "-j", "-o", "ctid,ip"]),
        (["-Hatoctid,status"], ["-H", "-a", "-t", "-o", "ctid,status"]),
        (["--all", "--no-header", "--output", "ctid"], ["-aHo", "ctid"]),
        (["--all", "--output=ctid", "--no-trim", "--json"], ["-ajto", "ctid"]),
        (["-a", "-o", "ip", "-1"], ["-a1"]),  # the last one decides
        (["-a", "-1", "-o", "status"], ["-aHo", "status"]),  # and -1 takes the header wherever it stands
        (["101", "-j", "-o", "ctid"], ["-jo", "ctid", "--", "101"]),
        (["-S", "--sort", "-ctid", "-H"], ["-SHs-ctid"]),
    ],
)
def test_clusters_and_long_options_are_the_same(run: Run, cluster: list[str], plain: list[str]) -> None:
    result = run(*cluster)
    assert result[0] == 0
    assert result[1]
    assert result == run(*plain)


def test_one_and_json_have_the_key_veid(run: Run) -> None:
    assert json.loads(run("-a1j")[1]) == [{"veid": n} for n in (101, 102, 103, 104, 106)]
    assert run("-1j", "101")[1] == '[\n  {\n    "veid": 101\n  }\n]\n'


def test_every_field_is_in_the_default_json_and_has_its_type(run: Run) -> None:
    status, out, _ = run("-a", "-j")
    assert status == 0
    for ct in json.loads(out):
        assert list(ct) == [name for name, _, _ in columns.BASE]
        assert ct["ctid"] == ct["veid"] == ct["vpsid"]
        for name in ("ip", "nameserver", "searchdomain"):
            assert isinstance(ct[name], list)
        for name, _ in columns.UBC:
            assert set(ct[name]) == {"held", "maxheld", "barrier", "limit", "failcnt"}
            assert all(type(value) is int for value in ct[name].values())
        for name in ("cpus", "ioprio", "iolimit", "iopslimit", "vm_overcommit", "uptime"):
            assert isinstance(ct[name], (int, float))
        for name in ("vswap", "disabled"):
            assert isinstance(ct[name], bool)
        assert ct["onboot"] in (True, False, None)


def test_ids_and_names(run: Run) -> None:
    assert run("-Ho", "ctid", "102", "web", "101")[1] == "       101\n       102\n"
    for word in ("nobody", "0", "-", "1_01", "../x", "١٠١", "9" * 40, "", "10 1"):
        assert run("--", word) == (1, "", f"CT ID {word} is invalid.\n")
    assert run("10\x1b[31m1") == (1, "", "CT ID 10\\x1b[31m1 is invalid.\n")


def test_nothing_found(run: Run, node: Path) -> None:
    assert run("199") == (1, "", "Container(s) not found\n")
    assert run("105") == (1, "", "Container(s) not found\n")  # no private area: hidden, by id too
    assert run("-j", "199") == (1, "", "Container(s) not found\n")
    assert run("-h", "nobody*") == (0, "", "Container(s) not found\n")
    assert run("-j", "-h", "nobody*") == (0, "[]\n", "")
    assert run("-Ho", "ctid", "199", "102") == (0, "       102\n", "")


def test_mounted_wins_over_suspended(run: Run, node: Path) -> None:
    (node / "dump/Dump.103").mkdir()
    assert run("-Ho", "status", "103")[1] == "mounted\n"


def test_filters(run: Run) -> None:
    assert run("-aHo", "ctid", "-h", "*.example.com")[1].split() == ["101", "102", "103"]
    assert run("-aHo", "ctid", "-h", "*")[1].split() == ["101", "102", "103"]  # unset matches nothing
    assert run("-aHo", "ctid", "-N", "w?b")[1].split() == ["101"]
    assert run("-aHo", "ctid", "-d", "*old*")[1].split() == ["102"]
    assert run("-aHo", "ctid", "--name_filter", "WEB")[1] == ""
    assert run("-Ho", "ctid", "-N", "a*")[1] == ""  # running ones only, unless asked


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-o", "ctid,nonsense"], "Unknown field: nonsense"),
        (["-o", ""], "Unknown field: "),
        (["-o", "ctid,,ip"], "Unknown field: "),
        (["-o", "ctid.m"], "Unknown field: ctid.m"),
        (["-o", "numproc.x"], "Unknown field: numproc.x"),
        (["-o", "diskspace.b"], "Unknown field: diskspace.b"),
        (["-s", "nonsense"], "Unknown field: nonsense"),
        (["-s", "--ctid"], "Unknown field: -ctid"),
        (["-jo", "kmemsize.l"], "Unknown field: kmemsize.l"),
        (["-o"], "vzlist: option requires an argument -- 'o'"),
        (["--sort"], "vzlist: option '--sort' requires an argument"),
        (["-x"], "vzlist: invalid option -- 'x'"),
        (["-i"], "vzlist: invalid option -- 'i'"),
        (["-O"], "vzlist: invalid option -- 'O'"),
        (["--nonsense"], "vzlist: unrecognized option '--nonsense'"),
        (["--all=yes"], "vzlist: option '--all' doesn't allow an argument"),
        (["-o", "\x1b[2J"], "Unknown field: \\x1b[2J"),
    ],
)
def test_wrong_words_are_one_line_and_status_1(run: Run, argv: list[str], text: str) -> None:
    assert run(*argv) == (1, "", text + "\n")


def test_only_root_may_list_but_anybody_may_ask_for_help(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert run("-a")[0] == 1
    assert run("-L")[0] == run("--list")[0] == 0
    status, out, _ = run("--help")
    assert status == 0
    assert out.startswith("Usage: vzlist")


def test_a_running_ct_without_conf_or_private_area_is_listed(run: Run, node: Path) -> None:
    (node / "conf/101.conf").unlink()
    (node / "private/101").rmdir()
    assert run("-Ho", "ctid,status,hostname")[1] == "       101 running   -\n"


def test_a_dead_or_reused_init_is_not_running(run: Run, node: Path) -> None:
    path = node / "run/101/record"
    path.write_text(f"init_pid={os.getpid()}\ninit_start=1\n")
    assert run("-Ho", "ctid")[0:2] == (0, "")
    assert run("-Ho", "status,ip", "101")[1] == "stopped   192.0.2.9/24\n"
    for text in ("", "init_pid=x\n", "nonsense"):
        path.write_text(text)
        assert run("-Ho", "status", "101")[1] == "stopped\n"


@pytest.mark.parametrize("kind", ["directory", "fifo", "huge", "dangling"])
def test_a_conf_that_cannot_be_used_hides_no_other_ct(run: Run, node: Path, kind: str) -> None:
    path = node / "conf/104.conf"
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "huge":
        path.write_text("#" * (2 << 20))
    else:
        path.symlink_to("nowhere")
    status, out, err = run("-aHo", "ctid")
    assert (status, err) == (0, "")
    assert out.split() == [str(n) for n in (101, 102, 103, 104, 106) if n != 104 or kind != "dangling"]


def test_what_a_ct_controls_is_escaped(run: Run, node: Path) -> None:
    (node / "conf/102.conf").write_bytes(
        'HOSTNAME="x\u202ey\u009bz"\nDESCRIPTION="q\\"b\\\\s \U000e0001"\nIP_ADDR="192.0.2.1\u2028"\n'.encode()
        + b'OSTEMPLATE="l\xe9"\n'
    )
    status, out, _ = run("-o", "description,ip,ostemplate,hostname", "102")
    assert status == 0
    row = out.splitlines()[1]
    assert row.isprintable()
    assert "x\\x202ey" in row
    text = run("-jo", "description,hostname,ostemplate,ip", "102")[1]
    assert all(char.isprintable() or char == "\n" for char in text)
    assert json.loads(text)[0]["description"] == 'q"b\\s \U000e0001'
    assert json.loads(text)[0]["ostemplate"] == "l\ufffd"


def test_default_list_reads_no_more_than_it_must() -> None:
    """No json, re, argparse or option table for the default columns: 200 CTs are listed within 150 ms."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import vz.cli.vzlist, vz.resources.usage\n"
        "print(*sorted(sys.modules))"
    )
    out = subprocess.run(
        [sys.executable, "-IS", "-c", code, str(SRC)], capture_output=True, text=True, check=True
    ).stdout
    heavy = "re json argparse dataclasses typing pathlib subprocess logging socket inspect enum vz.config.options"
    assert not set(heavy.split()) & set(out.split())
