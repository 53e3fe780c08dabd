"""Every option of set that has a key, given once: the line that it leaves in the conf, as 4.11 wrote it."""

from __future__ import annotations

import os

from conftest import Vz
from testnode import Node

# words of the command line, the line of the conf, what vzlist shows of it (column, text) where it has one
FORMS: list[tuple[list[str], str, tuple[str, str] | None]] = [
    (["--onboot", "yes"], 'ONBOOT="yes"', ("onboot", "yes")),
    (["--bootorder", "10"], 'BOOTORDER="10"', ("bootorder", "10")),
    (["--disabled", "no"], 'DISABLED="no"', ("disabled", "no")),
    (["--stop-timeout", "60"], 'STOP_TIMEOUT="60"', None),
    (["--name", "stored form"], 'NAME="stored form"', ("name", "stored form")),
    (["--description", 'a "b" $c `d` \\e'], 'DESCRIPTION="a \\"b\\" \\$c \\`d\\` \\\\e"', ("description", 'a "b" $c `d` \\e')),
    (["--ostemplate", "centos-6-x86"], 'OSTEMPLATE="centos-6-x86"', ("ostemplate", "centos-6-x86")),
    (["--root", "/vz/root/$VEID"], 'VE_ROOT="/vz/root/$VEID"', None),
    (["--private", "/vz/private/${VEID}"], 'VE_PRIVATE="/vz/private/${VEID}"', None),
    (["--mount_opts", "noatime,ro"], 'MOUNT_OPTS="noatime,ro"', ("mount_opts", "noatime,ro")),
    (["--ipadd", "192.0.2.5/255.255.255.0 2001:DB8:0:0::5/64"], 'IP_ADDR="192.0.2.5/24 2001:db8::5/64"', ("ip", "192.0.2.5/24 2001:db8::5/64")),
    (["--hostname", "Web.Example.com"], 'HOSTNAME="Web.Example.com"', ("hostname", "Web.Example.com")),
    (["--nameserver", "inherit"], 'NAMESERVER="inherit"', ("nameserver", "inherit")),
    (["--searchdomain", "a.example", "--searchdomain", "b.example"], 'SEARCHDOMAIN="a.example b.example"', ("searchdomain", "a.example b.example")),
    (
        ["--netif_add", "eth0,00:18:51:aa:bb:cc,h0,00:18:51:dd:ee:ff,br0"],
        'NETIF="ifname=eth0,bridge=br0,mac=00:18:51:AA:BB:CC,host_ifname=h0,host_mac=00:18:51:DD:EE:FF,mac_filter=on"',
        None,
    ),
    (["--netdev_add", "eth7", "--netdev_add", "eth8"], 'NETDEV="eth7 eth8"', None),
    (["--netfilter", "stateful"], 'NETFILTER="stateful"', ("netfilter", "stateful")),
    (["--cpuunits", "1500"], 'CPUUNITS="1500"', ("cpuunits", "1500")),
    (["--cpulimit", "50%"], f'CPULIMIT="{50 * (os.cpu_count() or 1)}"', ("cpulimit", str(50 * (os.cpu_count() or 1)))),
    (["--cpus", "2"], 'CPUS="2"', ("cpus", "2")),
    (["--cpumask", "0-1,3", "--nodemask", "0"], 'CPUMASK="0-1,3"', None),
    (["--numproc", "100:200"], 'NUMPROC="100:200"', ("numproc.l", "200")),
    (["--ram", "1.5G"], f'PHYSPAGES="0:{3 * (1 << 29) // os.sysconf("SC_PAGE_SIZE")}"', ("vswap", "yes")),
    (["--swap", "unlimited"], 'SWAPPAGES="0:unlimited"', ("swappages.l", "9223372036854775807")),
    (["--kmemsize", "14372700:14M"], f'KMEMSIZE="14372700:{14 << 20}"', ("kmemsize.l", str(14 << 20))),
    (["-l", "256"], 'LOCKEDPAGES="256"', ("lockedpages.b", "256")),
    (["--privvmpages", "1G:unlimited"], f'PRIVVMPAGES="{(1 << 30) // os.sysconf("SC_PAGE_SIZE")}:unlimited"', ("privvmpages.b", str((1 << 30) // os.sysconf("SC_PAGE_SIZE")))),
    (["--shmpages", "10P:20P"], 'SHMPAGES="10:20"', ("shmpages.l", "20")),
    (["--vmguarpages", "33792:unlimited"], 'VMGUARPAGES="33792:unlimited"', ("vmguarpages.b", "33792")),
    (["--oomguarpages", "26112:9223372036854775807"], 'OOMGUARPAGES="26112:unlimited"', ("oomguarpages.b", "26112")),
    (["--numtcpsock", "360:360"], 'NUMTCPSOCK="360"', ("numtcpsock.l", "360")),
    (["-f", "188:206"], 'NUMFLOCK="188:206"', ("numflock.l", "206")),
    (["--numpty", "16"], 'NUMPTY="16"', ("numpty.b", "16")),
    (["--numsiginfo", "256"], 'NUMSIGINFO="256"', ("numsiginfo.b", "256")),
    (["--tcpsndbuf", "1.5m:2703360"], 'TCPSNDBUF="1572864:2703360"', ("tcpsndbuf.l", "2703360")),
    (["-b1720320:2703360"], 'TCPRCVBUF="1720320:2703360"', ("tcprcvbuf.l", "2703360")),
    (["--othersockbuf", "1126080:2M"], 'OTHERSOCKBUF="1126080:2097152"', ("othersockbuf.l", "2097152")),
    (["--dgramrcvbuf", "256K"], 'DGRAMRCVBUF="262144"', ("dgramrcvbuf.l", "262144")),
    (["--numothersock", "360"], 'NUMOTHERSOCK="360"', ("numothersock.l", "360")),
    (["--dcachesize", "3624960:3843072B"], 'DCACHESIZE="3624960:3843072"', ("dcachesize.l", "3843072")),
    (["--numfile", "9312"], 'NUMFILE="9312"', ("numfile.l", "9312")),
    (["--avnumproc", "180"], 'AVNUMPROC="180"', None),
    (["--numiptent", "128"], 'NUMIPTENT="128"', ("numiptent.l", "128")),
    (["--vm_overcommit", "1.50"], 'VM_OVERCOMMIT="1.5"', ("vm_overcommit", "1.5")),
    (["--diskspace", "1G:2G"], 'DISKSPACE="1048576:2097152"', ("diskspace.h", "2097152")),
    (["--diskinodes", "1000:2000"], 'DISKINODES="1000:2000"', ("diskinodes.h", "2000")),
    (["--quotatime", "600"], 'QUOTATIME="600"', None),
    (["--diskquota", "no"], 'DISK_QUOTA="no"', None),
    (["--ioprio", "7"], 'IOPRIO="7"', ("ioprio", "7")),
    (["--iolimit", "10"], 'IOLIMIT="10485760"', ("iolimit", "10485760")),
    (["--iopslimit", "100"], 'IOPSLIMIT="100"', ("iopslimit", "100")),
    (["--capability", "CAP_CHOWN:off,sys_Nice:on"], 'CAPABILITY="CHOWN:off SYS_NICE:on"', ("capability", "chown:off,sys_nice:on")),
    (["--features", "PPP:on,sit:off"], 'FEATURES="ppp:on sit:off"', ("features", "ppp:on,sit:off")),
    (["--devices", "c:10:200:wr b:8:all:none"], 'DEVICES="c:10:200:rw b:8:all:none"', None),
    (["--devnodes", "/dev/net/tun:rw fuse:none"], 'DEVNODES="net/tun:rw fuse:none"', None),
]  # fmt: skip


def test_each_option_once(vz: Vz, node: Node, ctid: int) -> None:
    path = node.path(f"/etc/vz/conf/{ctid}.conf")
    path.write_text("# kept\nX_OWN=1\n")
    node.path(f"/vz/private/{ctid}").mkdir()
    try:
        words = [word for option, _, _ in FORMS for word in option]
        vz.ok("set", ctid, *words, "--save")
        lines = path.read_text().splitlines()
        assert lines[:2] == ["# kept", "X_OWN=1"]
        assert sorted(lines[2:]) == sorted([line for _, line, _ in FORMS] + ['NODEMASK="0"', 'VE_LAYOUT="simfs"'])
        # what was written reads back as the same: the same command changes nothing
        before = path.read_bytes()
        values = [word for option, _, _ in FORMS for word in option if option[0] not in ("--netif_add",)]
        done = vz("set", ctid, *values, "--save")
        assert (done.returncode, done.stdout) == (0, "No changes in CT configuration, not saving\n")
        assert path.read_bytes() == before
        for _, line, column in FORMS:
            if column:
                assert vz.run("vzlist", "-Hto", column[0], ctid).stdout.strip() == column[1], line
        shown = vz.run(
            "sh", "-c", f'VEID={ctid}; . /etc/vz/conf/{ctid}.conf; printf "%s|" "$VE_ROOT" "$VE_PRIVATE" "$DESCRIPTION"'
        )
        assert shown.stdout == f'/vz/root/{ctid}|/vz/private/{ctid}|a "b" $c `d` \\e|'
        done = vz.run("vzcfgvalidate", f"/etc/vz/conf/{ctid}.conf")
        assert "Error" not in done.stderr.replace("physpages.lim is more", ""), done.stderr
    finally:
        vz("set", ctid, "--name", "", "--save")
        path.unlink()
        node.path(f"/vz/private/{ctid}").rmdir()


def test_every_option_of_set_is_in_the_table() -> None:
    from vz.cli.options_cli import SET
    from vz.config.options import OPTIONS

    given = {word for option, _, _ in FORMS for word in option if word.startswith("--")} | {"--iptables"}
    given |= {"--lockedpages", "--numflock", "--tcprcvbuf"}  # in their short forms
    given |= {"--physpages", "--swappages"}  # by --ram and --swap, which are theirs
    wanted = [o for o in OPTIONS if o.attr in SET and o.flags and not o.later]
    assert {o.flags[0] for o in wanted} - given == set()
