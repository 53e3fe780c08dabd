"""The command lines of create and set: what is understood, and the status and text of everything that is not."""

from __future__ import annotations

import random

import pytest

from vz.cli.options_cli import parse_options
from vz.config.options import UBC
from vz.config.units import UNLIMITED
from vz.errors import VzError


def fails(argv: list[str], command: str = "set") -> tuple[int, str]:
    """Return status and text of the refusal of *argv*."""
    with pytest.raises(VzError) as caught:
        parse_options(argv, None, command)
    text = str(caught.value)
    assert text.isprintable(), "one line that a terminal can show"
    return caught.value.code, text


def test_options_with_the_value_in_the_next_word_or_after_an_equals_sign() -> None:
    values, flags, extras = parse_options(["--hostname", "a.example", "--cpuunits=500", "--save"], None, "set")
    assert (values, flags, extras) == ({"hostname": "a.example", "cpuunits": 500}, {"save"}, [])


def test_short_forms_of_beancounters() -> None:
    assert parse_options(["-p", "10:20"], None, "set")[0] == {"numproc": (10, 20)}
    assert parse_options(["-p10"], None, "set")[0] == {"numproc": (10, 10)}
    assert fails(["-q", "1"])[0] == 21


def test_a_scalar_given_twice_is_the_last_one_and_lists_add_up() -> None:
    values, _, _ = parse_options(
        ["--cpus", "1", "--cpus", "2", "--nameserver", "192.0.2.1", "--nameserver", "192.0.2.2 192.0.2.3"]
        + ["--capability", "chown:off,kill:on", "--capability", "chown:on", "--ipadd", "192.0.2.5", "--ip=192.0.2.6/24"]
        + ["--devices", "c:1:3:rw", "--devices", "c:1:5:r", "--devnodes", "net/tun:rw", "--devnodes", "sda:r"]
        + ["--netif_add", "eth0", "--netif_add", "eth1", "--netdev_add", "dummy0", "--netdev_add", "dummy1"],
        None,
        "set",
    )
    assert values["cpus"] == 2
    assert values["nameserver"] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]
    assert values["capability"] == {"chown": True, "kill": True}
    assert values["ipadd"] == ["192.0.2.5", "192.0.2.6/24"]
    assert values["devices"] == ["c:1:3:rw", "c:1:5:r"]
    assert values["devnodes"] == [("net/tun", "rw"), ("sda", "r")]
    assert values["netif_add"] == ["eth0", "eth1"]
    assert values["netdev_add"] == ["dummy0", "dummy1"]


def test_placeholder_addresses_are_left_out() -> None:
    values, _, _ = parse_options(["--ipadd", "0.0.0.0", "--ipadd", "::/0", "--ipadd", ":: 192.0.2.1"], None, "set")
    assert values["ipadd"] == ["192.0.2.1"]


def test_addresses_to_delete_lose_their_mask_and_all_swallows_the_rest() -> None:
    assert parse_options(["--ipdel", "192.0.2.1/24"], None, "set")[0]["ipdel"] == ["192.0.2.1"]
    assert parse_options(["--ipdel", "192.0.2.1", "--ipdel", "all"], None, "set")[0]["ipdel"] == ["all"]


def test_ram_and_swap_are_pages() -> None:
    values, _, _ = parse_options(["--ram", "256M", "--swap", "0"], None, "set")
    assert values == {"physpages": (0, 65536), "swappages": (0, 0)}
    assert fails(["--ram", "0"]) == (21, "Bad parameter for --ram: 0")


def test_interface_words_belong_to_the_ifname_before_them() -> None:
    argv = [
        "--ifname",
        "eth0",
        "--mac",
        "00:18:51:aa:bb:cc",
        "--mac_filter",
        "off",
        "--ifname",
        "eth1",
        "--bridge",
        "br0",
    ]
    assert parse_options(argv, None, "set")[0]["netif_edit"] == [
        {"ifname": "eth0", "mac": "00:18:51:AA:BB:CC", "mac_filter": False},
        {"ifname": "eth1", "bridge": "br0"},
    ]
    assert fails(["--bridge", "br0"])[0] == 20
    assert fails(["--ifname", "eth0"])[0] == 20


def test_iptables_is_an_old_word_for_netfilter() -> None:
    assert parse_options(["--iptables", "iptable_nat"], None, "set")[0] == {"netfilter": "full"}
    both = ["--iptables", "iptable_nat", "--netfilter", "disabled"]
    assert parse_options(both, None, "set")[0] == {"netfilter": "disabled"}
    assert parse_options(both[2:] + both[:2], None, "set")[0] == {"netfilter": "disabled"}


@pytest.mark.parametrize(
    ("flag", "value", "word"),
    [
        ("--netfilter", "stateless", "stateless"),
        ("--iptables", "iptable_filter ipt_REJECT", "stateless"),
        ("--iptables", "ip_conntrack ipt_state", "stateful"),
    ],
)
def test_a_part_of_netfilter_is_taken_as_old_scripts_give_it(flag: str, value: str, word: str) -> None:
    assert parse_options([flag, value], None, "set")[0] == {"netfilter": word}


@pytest.mark.parametrize("command", ["set", "create"])
def test_unknown_option_21_stray_word_20(command: str) -> None:
    assert fails(["--nonsense"], command) == (21, "Unknown option --nonsense")
    assert fails(["--nonsense=1"], command) == (21, "Unknown option --nonsense")
    assert fails(["word", "--", "-x"], command) == (20, "Invalid extra arguments: word -x")
    assert fails(["\x1b[2J"], command) == (20, "Invalid extra arguments: \\x1b[2J")
    assert fails(["-"], command)[0] == 20


def test_options_of_one_command_are_unknown_to_the_other() -> None:
    assert fails(["--config", "basic"], "set")[0] == 21
    assert fails(["--layout", "simfs"], "set")[0] == 21
    assert fails(["--save"], "create")[0] == 21
    assert fails(["--cpus", "1"], "create")[0] == 21


def test_create_takes_what_it_documents() -> None:
    argv = (
        "--ostemplate debian-12-x86_64 --config basic --layout simfs --private /vz/p/$VEID --root /vz/r/$VEID --ipadd"
    )
    argv += " 192.0.2.1 --hostname h --name n --description d --local_uid 65536 --local_gid 65536"
    values, flags, _ = parse_options(argv.split(), None, "create")
    assert flags == set()
    assert values == {
        "ostemplate": "debian-12-x86_64",
        "config": "basic",
        "ve_layout": "simfs",
        "ve_private": "/vz/p/$VEID",
        "ve_root": "/vz/r/$VEID",
        "ipadd": ["192.0.2.1"],
        "hostname": "h",
        "name": "n",
        "description": "d",
        "local_uid": 65536,
        "local_gid": 65536,
    }


def test_id_ranges_are_one_for_users_and_groups_and_not_the_nodes() -> None:
    assert parse_options(["--local_gid", "65536"], None, "create")[0] == {"local_gid": 65536, "local_uid": 65536}
    assert fails(["--local_gid", "65536", "--local_uid", "131072"], "create")[0] == 21
    assert fails(["--local_uid", "1000"], "create")[0] == 21
    assert parse_options(["--local_uid", "0"], None, "create")[0] == {"local_uid": 0}


BAD_VALUES = [
    ("--onboot", "maybe"),
    ("--bootorder", "1.5"),
    ("--disabled", "Yes"),
    ("--stop-timeout", "-1"),
    ("--ostemplate", "../../etc/passwd"),
    ("--applyconfig", "../x"),
    ("--applyconfig_map", "id"),
    ("--ipadd", "192.0.2.300"),
    ("--ipadd", "192.0.2.1 bad"),
    ("--ipadd", "127.0.0.1"),
    ("--ipadd", ""),
    ("--ipdel", "everything"),
    ("--hostname", "$(reboot)"),
    ("--hostname", ""),
    ("--nameserver", "192.0.2.1/24"),
    ("--searchdomain", "a b;"),
    ("--netif_add", "eth0,notamac"),
    ("--netif_add", "eth0,,,,,"),
    ("--netif_del", "a/b"),
    ("--netdev_add", "lo"),
    ("--netfilter", "some"),
    ("--cpuunits", "7"),
    ("--cpuunits", "500001"),
    ("--cpulimit", "101%"),
    ("--cpus", "-1"),
    ("--cpumask", "3-1"),
    ("--numproc", "1K"),
    ("--ram", "lots"),
    ("--swap", "-1"),
    ("--capability", "fly:on"),
    ("--features", "fly:on"),
    ("--devices", "c:1:3"),
    ("--devnodes", "../sda:rw"),
    ("--private", "relative"),
    ("--root", "/vz/$(id)"),
    ("--setmode", "later"),
    ("--description", "bell\x07"),
    ("--ifname", "eth 0"),
]


@pytest.mark.parametrize(("flag", "value"), BAD_VALUES)
def test_a_bad_value_is_21_with_vzctls_words(flag: str, value: str) -> None:
    status, text = fails([flag, value, "--save"])
    assert status == 21
    assert text.startswith(f"Bad parameter for {flag}: {value.replace(chr(7), chr(92) + 'x07')}")


def test_a_missing_value_is_21() -> None:
    assert fails(["--save", "--hostname"]) == (21, "Option --hostname requires a value")
    assert fails(["--save=yes"])[0] == 21


def test_a_refusal_with_a_reason_gives_it() -> None:
    assert fails(["--capability", "SYS_TIME:on"])[1].endswith("(no user namespace can give SYS_TIME)")
    assert "--devnodes" in fails(["--devices", "b:7:0:rw"])[1]


LATER = [f"--{word}" for word in ("meminfo cpuweight quotaugidlimit pci_add pci_del").split()]


@pytest.mark.parametrize("flag", LATER)
def test_what_is_not_there_yet_is_refused_with_one_line_that_names_it(flag: str) -> None:
    status, text = fails([flag, "1"])
    assert status == 21
    assert text.startswith(f"Option {flag} is not available")


def test_every_beancounter_is_taken_in_both_forms() -> None:
    for option in UBC:
        for flag in option.flags:
            values, _, _ = parse_options([flag, "17:18"], None, "set")
            assert values == {option.attr: (17, 18)}
            values, _, _ = parse_options([flag, "unlimited"], None, "set")
            assert values == {option.attr: (UNLIMITED, UNLIMITED)}
    assert parse_options(["--reset_ub"], None, "set")[1] == {"reset_ub"}
    assert fails(["--reset_ub", "--save"])[0] == 20
    assert fails(["--numiptent", "15"])[0] == 21
    assert fails(["--numproc", "1K"])[0] == 21


def test_words_that_do_not_go_together() -> None:
    assert fails(["--cpus", "1", "--force"])[0] == 20
    assert fails(["--setmode", "restart", "--capability", "chown:off"])[0] == 20
    assert fails(["--ostemplate", "x"])[0] == 20
    assert fails(["--stop-timeout", "5"])[0] == 20
    assert fails(["--cpumask", "auto"])[0] == 20
    assert fails(["--nodemask", "0"])[0] == 20
    assert fails(["--nameserver", "inherit", "--nameserver", "192.0.2.1"])[0] == 21
    assert fails(["--name", "x"])[0] == 131
    parse_options(["--cpumask", "auto", "--nodemask", "all"], None, "set")


@pytest.mark.parametrize("name", ["a/b", "..", "101", "a\nb", "ü", "$(x)"])
def test_a_bad_name_is_131(name: str) -> None:
    assert fails(["--name", name, "--save"])[0] == 131
    assert fails(["--name", name], "create")[0] == 131


def test_a_password_is_not_shown_when_it_is_refused() -> None:
    status, text = fails(["--userpasswd", "secret"])
    assert status == 21
    assert "secret" not in text
    assert parse_options(["--userpasswd", "root:s"], None, "set")[0] == {"userpasswd": ("root", "s")}


def test_random_command_lines_end_in_a_value_or_a_documented_status() -> None:
    dice = random.Random(3)
    words = [
        "--save",
        "--ipadd",
        "--name",
        "-p",
        "--",
        "--ram=1G",
        "--ifname",
        "--mac",
        "x",
        "",
        "\udcff",
        "--=",
        "-",
        "--ip=",
        "١",
    ]
    for _ in range(3000):
        argv = dice.choices(words, k=dice.randrange(0, 6))
        try:
            parse_options(argv, None, dice.choice(["set", "create"]))
        except VzError as exc:
            assert exc.code in (20, 21, 131)
            assert str(exc).isprintable()
