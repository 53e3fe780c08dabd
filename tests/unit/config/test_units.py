"""Values as people write them: what is taken, what is refused, what is stored."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from vz.config import units
from vz.config.units import PAGE, UNLIMITED

NOT_A_NUMBER = ["", "-1", "+1", "1_01", "١٠١", "0x10", "1e3", " 1", "1 ", "²", "1" * 40, "nan", "\n", "1\n"]


@pytest.mark.parametrize("text", NOT_A_NUMBER)
def test_only_ascii_digits_are_a_number(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_count(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("100", 100),
        ("1K", 1024),
        ("1k", 1024),
        ("2.2G", 2362232012),
        (".5M", 524288),
        ("1.M", 1 << 20),
        ("3P", 3 * PAGE),
        ("7B", 7),
        ("1T", 1 << 40),
        ("99999999T", UNLIMITED),
    ],
)
def test_sizes_have_suffixes_of_1024(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "K", ".", ".K", "1KB", "1.2.3", "-1K", "1 K", "٣K", "1e3", "0x1", "1" * 30, "inf", "$(x)"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_size(text)


@pytest.mark.parametrize(
    ("text", "kind", "value", "stored"),
    [
        ("240", "items", (240, 240), "240"),
        ("188:206", "items", (188, 206), "188:206"),
        ("unlimited", "items", (UNLIMITED, UNLIMITED), "unlimited"),
        ("1M:2M", "bytes", (1 << 20, 2 << 20), "1048576:2097152"),
        ("0:256M", "pages", (0, (256 << 20) // PAGE), f"0:{(256 << 20) // PAGE}"),
        ("10", "pages", (10, 10), "10"),
        ("1B", "pages", (1, 1), "1"),  # rounded up
        ("7p", "pages", (7, 7), "7"),
        ("0:Unlimited", "pages", (0, UNLIMITED), "0:unlimited"),
        ("9223372036854775807", "bytes", (UNLIMITED, UNLIMITED), "unlimited"),
        ("99999999999999999999", "bytes", (UNLIMITED, UNLIMITED), "unlimited"),
    ],
)
def test_beancounters(text: str, kind: str, value: tuple[int, int], stored: str) -> None:
    assert units.parse_ubc(text, kind) == value
    assert units.format_ubc(value) == stored
    assert units.parse_ubc(stored, kind) == value


@pytest.mark.parametrize(
    ("text", "kind"),
    [("1K", "items"), ("1:", "items"), (":1", "items"), ("1:2:3", "bytes"), ("", "pages"), ("-1", "items")],
)
def test_bad_beancounters(text: str, kind: str) -> None:
    with pytest.raises(ValueError):
        units.parse_ubc(text, kind)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("192.0.2.1/24", "192.0.2.1/24"),
        ("192.0.2.1/255.255.255.0", "192.0.2.1/24"),
        ("192.0.2.1/0.0.0.0", "192.0.2.1/0"),
        ("2001:DB8:0:0::1/64", "2001:db8::1/64"),
        ("2001:db8::192.0.2.1", "2001:db8::c000:201"),
    ],
)
def test_addresses_become_canonical(text: str, canonical: str) -> None:
    assert units.parse_address(text) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2",
        "192.0.2.256",
        "192.0.2.1/33",
        "192.0.2.1/",
        "192.0.2.1/-1",
        "192.0.2.1/255.0.255.0",
        "192.0.2.1/a.b",
    ]
    + [
        "2001:db8::1/129",
        "2001:db8::1%eth0",
        "fe80::1%1",
        "::g",
        "١٩٢.0.2.1",
        "192.0.2.1\n",
        "\udcff",
        "host",
        "1/24/2",
    ]
    + ["2001:db8::1/١", "192.000000.2.1"],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_address(text)


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "::1", "ff02::1", "192.0.2.1/0", "::ffff:192.0.2.1"],
)
def test_addresses_that_no_ct_can_own(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_own_address(text)


@pytest.mark.parametrize("text", ["00:18:51:aa:bb:cc", "02:00:00:00:00:01"])
def test_a_mac_is_stored_in_upper_case(text: str) -> None:
    assert units.parse_mac(text) == text.upper()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00:18:51:aa:bb",
        "00:18:51:aa:bb:cc:dd",
        "01:00:5e:00:00:01",
        "0018.51aa.bbcc",
        "00:18:51:aa:bb:gg",
        "00:00:00:00:00:00",
        "00:18:51:aa:bb:١٠",
    ],
)
def test_bad_macs(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_mac(text)


@pytest.mark.parametrize(
    "text",
    ["", "a" * 16, "eth 0", "a/b", ".", "..", "all", "eth0;", "$(x)", "-x", "eth%d", "é", "a,b", "a\n", 'a"', "a@b"],
)
def test_bad_interface_names(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_interface(text)


@pytest.mark.parametrize("text", ["eth0", "veth101.0", "br-lan", "enp0s3", "a_b", "x" * 15])
def test_interface_names(text: str) -> None:
    assert units.parse_interface(text) == text


@pytest.mark.parametrize("text", ["lo", "venet0", "tun0", "tap1"])
def test_devices_of_the_node_do_not_move(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_host_device(text)


@pytest.mark.parametrize("text", ["", "-a", ".a", "a b", "a" * 65, "ä", "$(reboot)", "a\nb", "a;b", "`a`", "a/b"])
def test_bad_hostnames(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_hostname(text)


@pytest.mark.parametrize("text", ["..", ".", "101", "a/b", "a\n", "ä", " a", "a ", "x" * 256, "$x", "a;b"])
def test_bad_names(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_name(text)


@pytest.mark.parametrize("text", ["", "web 1", "a.b-c_d+e", "101a"])
def test_names(text: str) -> None:
    assert units.parse_name(text) == text


def test_a_description_is_one_line() -> None:
    assert units.parse_text("one\ntwo\r\nthree\tfour") == "one two three four"
    with pytest.raises(ValueError):
        units.parse_text("bell\x07")


@pytest.mark.parametrize(
    "text", ["", "relative", "/a/../b", "/a/..", "/$(x)", "/a`b`", "/a\nb", "/$HOME", '/"', "/\x1b[2J"]
)
def test_bad_paths(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_path(text)


@pytest.mark.parametrize("text", ["/vz/root/$VEID", "/vz/private/${VEID}", "/a b/c", "/a..b/ü"])
def test_paths(text: str) -> None:
    assert units.parse_path(text) == text


@pytest.mark.parametrize("text", ["", "../x", "a/../b", ".hidden", "-x", "a b", "$(x)", "a;b", "a\n", "x/y"])
def test_bad_words(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_word(text)


def test_a_template_named_by_its_path_is_its_last_part() -> None:
    assert units.parse_template("cache/debian-12-x86_64") == "debian-12-x86_64"
    with pytest.raises(ValueError):
        units.parse_template("../..")


def test_parsers_fail_with_value_error_only() -> None:
    dice = random.Random(11)
    alphabet = "019.:/-xKMGP%aAfF, \t\n\0$(`\"'\\é١²\udcff[]"
    parsers: list[Callable[[str], object]] = [
        units.parse_count,
        units.parse_size,
        units.parse_address,
        units.parse_own_address,
        units.parse_mac,
        units.parse_interface,
        units.parse_hostname,
        units.parse_name,
        units.parse_path,
        units.parse_word,
        units.parse_text,
        units.parse_yes_no,
        lambda text: units.parse_ubc(text, "pages"),
    ]
    for _ in range(3000):
        text = "".join(dice.choices(alphabet, k=dice.randrange(0, 24)))
        for parse in parsers:
            try:
                parse(text)
            except ValueError:
                pass
