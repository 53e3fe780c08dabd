"""The table of options: consistent in itself, and every value stored reads back as the same value."""

from __future__ import annotations

import os

import pytest

from vz.config import actions, values
from vz.config.netif import Netif, format_netifs, make_mac, parse_netif_add, parse_netifs
from vz.config.options import BY_ATTR, BY_FLAG, BY_KEY, OPTIONS
from vz.config.units import Refused

# every key of CTID.conf that OpenVZ's manual has
KEYS = """
    KMEMSIZE LOCKEDPAGES PRIVVMPAGES SHMPAGES NUMPROC PHYSPAGES VMGUARPAGES OOMGUARPAGES NUMTCPSOCK NUMFLOCK NUMPTY
    NUMSIGINFO TCPSNDBUF TCPRCVBUF OTHERSOCKBUF DGRAMRCVBUF NUMOTHERSOCK DCACHESIZE NUMFILE NUMIPTENT AVNUMPROC
    SWAPPAGES VM_OVERCOMMIT MEMINFO CPUUNITS CPUUWEIGHT CPULIMIT CPUS CPUMASK NODEMASK DISK_QUOTA DISKSPACE DISKINODES
    QUOTATIME QUOTAUGIDLIMIT MOUNT_OPTS VE_LAYOUT IOPRIO IOLIMIT IOPSLIMIT IP_ADDR HOSTNAME NAMESERVER SEARCHDOMAIN
    NETDEV NETIF NAME DESCRIPTION OSTEMPLATE ORIGIN_SAMPLE VE_ROOT VE_PRIVATE ONBOOT BOOTORDER DISABLED STOP_TIMEOUT
    CAPABILITY FEATURES DEVICES DEVNODES NETFILTER IPTABLES LOCAL_UID LOCAL_GID
""".split()


def test_every_key_of_openvz_is_there() -> None:
    assert set(KEYS) <= set(BY_KEY)


def test_attributes_keys_and_flags_are_unique() -> None:
    everything = [*OPTIONS, *(option for _group, option in actions.ACTIONS)]
    flags = [flag for option in everything for flag in option.flags]
    assert len(flags) == len(set(flags))
    assert len({option.attr for option in everything}) == len(everything)
    assert len({option.key for option in OPTIONS}) == len(OPTIONS)
    assert all(
        option.help.endswith(".") and option.applies in ("live", "restart", "saved", "stopped", "create")
        for option in everything
    )


def test_short_flags_are_those_of_vzctl() -> None:
    short = {flag: option.attr for flag, option in BY_FLAG.items() if len(flag) == 2}
    assert short == {
        "-k": "kmemsize",
        "-l": "lockedpages",
        "-p": "numproc",
        "-f": "numflock",
        "-t": "numpty",
        "-i": "numsiginfo",
        "-b": "tcprcvbuf",
        "-x": "dcachesize",
        "-n": "numfile",
        "-e": "numiptent",
    }


SAMPLES = {
    "NAME": "web-1",
    "OSTEMPLATE": "debian-12-x86_64",
    "IP_ADDR": "192.0.2.1/24 2001:db8::1",
    "HOSTNAME": "a.example",
    "NAMESERVER": "192.0.2.53 2001:db8::53",
    "SEARCHDOMAIN": "example.com example.org",
    "NETDEV": "eth1 eth2",
    "NETIF": "ifname=eth0,bridge=vmbr0,mac=00:18:51:AA:BB:CC,host_ifname=veth101.0,"
    "host_mac=00:18:51:AA:BB:CD,mac_filter=off",
    "VE_ROOT": "/vz/root/$VEID",
    "VE_PRIVATE": "/vz/private/$VEID",
    "VE_LAYOUT": "ploop:expanded",
    "CAPABILITY": "NET_ADMIN:on SYS_TIME:on",
    "FEATURES": "nfs:on ppp:off",
    "DEVICES": "c:10:200:rw b:8:all:none",
    "DEVNODES": "net/tun:rw sda1:none",
    "NETFILTER": "stateful",
    "CPUMASK": "0-3,7",
    "NODEMASK": "all",
    "VM_OVERCOMMIT": "1.5",
    "MEMINFO": "privvmpages:2",
    "DISKSPACE": "2097152:2306867",
    "DISKINODES": "200000:220000",
    "IOPRIO": "4",
    "BOOTORDER": "-5",
    "CPUUNITS": "1000",
    "LOCAL_UID_COUNT": "131072",
}


@pytest.mark.parametrize("key", sorted(BY_KEY))
def test_the_stored_form_reads_back_as_the_same_value(key: str) -> None:
    option = BY_KEY[key]
    text = SAMPLES.get(key) or ("yes" if option.value == "yes|no" else "100")
    value = option.parse(text)
    stored = option.format(value)
    assert option.parse(stored) == value
    if key in SAMPLES:
        assert stored == text


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option.key)
@pytest.mark.parametrize("text", ["$(reboot)", "a\nb", "\x1b[2J", '"; reboot; "', "\udcff\x01", "٣", "1_0", "9" * 400])
def test_no_option_passes_a_line_end_or_breaks_on_nonsense(option: object, text: str) -> None:
    try:
        value = option.set(text)  # type: ignore[attr-defined]
    except ValueError:
        return
    stored = option.format(value)  # type: ignore[attr-defined]
    assert not any(ord(char) < 32 for char in stored)


@pytest.mark.parametrize("text", ["50%", "100%", "0%"])
def test_cpulimit_in_per_cent_of_the_node(text: str) -> None:
    assert values.parse_cpulimit(text) == int(text[:-1]) * (os.cpu_count() or 1)


@pytest.mark.parametrize("text", ["101%", "%", "-1", "5.5", "5%%", "1_0"])
def test_bad_cpulimit(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_cpulimit(text)


def test_diskspace_is_kib_unless_a_suffix_says_more() -> None:
    assert values.parse_diskspace("2G:2.2G") == (2097152, 2306867)
    assert values.parse_diskspace("1000") == (1000, 1000)
    with pytest.raises(ValueError):
        values.parse_diskspace("unlimited")


@pytest.mark.parametrize("parse", [values.set_diskspace, values.set_diskinodes])
def test_a_disk_limit_that_is_given_is_one(parse) -> None:  # type: ignore[no-untyped-def]
    assert parse("1000:2000") == (1000, 2000)
    for text in ("0", "0:10", "10:9", "-1", "", ":", "1:", "unlimited"):
        with pytest.raises(ValueError):
            parse(text)


def test_iolimit_is_bytes_in_a_file_and_megabytes_on_the_command_line() -> None:
    assert values.parse_iolimit("1048576") == 1048576
    assert values.set_iolimit("1") == 1048576
    assert values.set_iolimit("unlimited") == values.parse_iolimit("unlimited") == 0
    assert values.set_iolimit("512K") == 524288
    assert values.parse_iolimit("2G") == 2147483647
    with pytest.raises(ValueError):
        values.set_iolimit("2G")


def test_numiptent_is_16_at_least() -> None:
    with pytest.raises(ValueError):
        BY_ATTR["numiptent"].parse("15")


def test_capabilities_are_case_insensitive_and_separated_by_commas_or_blanks() -> None:
    assert values.parse_capability("Net_Admin:ON,chown:off CAP_MKNOD:on") == {
        "net_admin": True,
        "chown": False,
        "mknod": True,
    }


@pytest.mark.parametrize("text", ["net_admin", "net_admin:yes", "nothing:on", ":on", "net_admin:on:off"])
def test_bad_capabilities(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_capability(text)


@pytest.mark.parametrize("name", ["sys_time", "SYS_MODULE", "ve_admin", "sys_rawio", "syslog", "mknod"])
def test_a_capability_that_no_user_namespace_gives_loads_and_cannot_be_set(name: str) -> None:
    assert values.parse_capability(f"{name}:on") == {name.lower(): True}
    assert values.set_capability(f"{name}:off") == {name.lower(): False}
    with pytest.raises(Refused, match=name.upper()):
        values.set_capability(f"{name}:on")


def test_features_that_cannot_work_load_and_cannot_be_set() -> None:
    assert values.parse_features("nfs:on,ppp:on nesting:on userns:off")["nfs"]
    assert values.set_features("nfs:off,userns:on,nesting:on") == {"nfs": False, "userns": True, "nesting": True}
    for text in ("nfs:on", "nfsd:on", "userns:off"):
        with pytest.raises(Refused):
            values.set_features(f"nesting:on,{text}")


@pytest.mark.parametrize(
    "text",
    [
        "c:1:3",
        "x:1:3:rw",
        "c:1:3:",
        "c:1:3:rwx",
        "c:a:3:rw",
        "b:7:0:rw",
        "b:7:all:rw",
        "c:1:3:rr",
        "c:99999:1:r",
        "c:1:-1:r",
    ],
)
def test_bad_devices(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_device(text)


@pytest.mark.parametrize(
    "text",
    [
        "sda",
        "sda:",
        "../sda:rw",
        "/etc/passwd:rw",
        "a/../b:rw",
        "a//b:rw",
        "$(x):rw",
        "-x:rw",
        ":rw",
        "sda:rwx",
        "\x1b:rw",
    ],
)
def test_bad_devnodes(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_devnodes(text)


def test_a_devnode_may_be_named_with_dev_before_it() -> None:
    assert values.parse_devnodes("/dev/net/tun:wr") == [("net/tun", "rw")]


@pytest.mark.parametrize("text", ["", "1-", "-1", "3-1", "a", "0,,1", "0-9999", "0 1"])
def test_bad_cpumasks(text: str) -> None:
    with pytest.raises(ValueError):
        values.parse_cpumask(text)


def test_iptables_modules_become_a_netfilter_word() -> None:
    assert values.netfilter_of("") == "disabled"
    assert values.netfilter_of("iptable_filter ipt_REJECT") == "stateless"
    assert values.netfilter_of("iptable_filter ipt_state ip_conntrack") == "stateful"
    assert values.netfilter_of("iptable_nat ip_nat_ftp") == "full"


@pytest.mark.parametrize(
    "text", ["user", "user:", ":pw", "user:p\nw", "a b:pw", "-x:pw", "$(x):pw", "a/b:pw", "u" * 33 + ":pw"]
)
def test_bad_passwords_are_never_shown(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        values.parse_userpasswd(text)
    assert "pw" not in str(caught.value)


def test_a_password_may_hold_anything_printable() -> None:
    assert values.parse_userpasswd("root:a:b $(x)\"'") == ("root", "a:b $(x)\"'")


def test_netif_of_openvz_6() -> None:
    text = (
        "ifname=eth0,mac=00:18:51:7e:b1:ff,host_ifname=veth101.0,host_mac=00:18:51:be:4a:38;"
        "ifname=eth1,bridge=vzbr1,mac_filter=off;"
    )
    first, second = parse_netifs(text)
    assert (first.mac, first.host_ifname, first.mac_filter) == ("00:18:51:7E:B1:FF", "veth101.0", True)
    assert (second.bridge, second.mac_filter) == ("vzbr1", False)
    assert parse_netifs(format_netifs([first, second])) == [first, second]


@pytest.mark.parametrize(
    "text",
    [
        "eth0",
        "ifname=",
        "ifname=eth0,colour=red",
        "ifname=eth0,ifname=eth1",
        "ifname=eth0;ifname=eth0",
        "mac=00:18:51:00:00:01",
    ]
    + ["ifname=eth0,mac=1", "ifname=eth0,mac_filter=maybe", "ifname=a b", "ifname=eth0,bridge=$(x)"],
)
def test_bad_netif(text: str) -> None:
    with pytest.raises(ValueError):
        parse_netifs(text)


def test_netif_add_makes_up_what_is_missing() -> None:
    made = parse_netif_add("eth0", 101, 2)
    assert made.host_ifname == "veth101.2"
    assert made.mac.startswith("00:18:51:")
    assert made.host_mac.startswith("00:18:51:")
    assert made.mac != made.host_mac
    given = parse_netif_add("eth0,02:00:00:00:00:01,,,vmbr0", 101, 0)
    assert (given.mac, given.host_mac, given.bridge) == ("02:00:00:00:00:01", "02:00:00:00:00:01", "vmbr0")
    assert len(parse_netif_add("eth0", 2147483644, 12).host_ifname) <= 15
    assert make_mac() != make_mac()
    with pytest.raises(ValueError):
        parse_netif_add("a,b,c,d,e,f", 1, 0)


def test_netifs_compare_by_value() -> None:
    assert Netif("eth0") == Netif("eth0")
    assert Netif("eth0") != Netif("eth0", bridge="br0")
