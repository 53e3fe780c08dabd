"""ConfFile: OpenVZ's syntax, rewriting that touches one line, and files that a shell can source."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

import pytest

from vz.config.conffile import LIMIT_BYTES, ConfFile
from vz.errors import ExitCode, InvalidConfig


def conf(text: str | bytes) -> ConfFile:
    return ConfFile("x.conf", text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ('KEY="value"', "value"),
        ("  \tKEY=value  ", "value"),
        ('KEY="a b"   # after the quotes', "a b"),
        ('KEY="a" b"', 'a" b'),  # from the first to the last quote
        ("KEY=value # not a comment", "value # not a comment"),
        ('KEY=""', ""),
        ("KEY=", ""),
        (r'KEY="a\"b\\c\$d\`"', 'a"b\\c$d`'),
        (r"KEY=a\b", "ab"),
        ('KEY="v"\r', "v"),
        ('KEY="a\u2028b\x85c"', "a\u2028b\x85c"),  # line ends to Python, not to a shell
        ("KEY=a=b", "a=b"),
    ],
)
def test_a_value_is_read_as_openvz_reads_it(line: str, value: str) -> None:
    file = conf(f"{line}\n")
    assert file.get("KEY") == value
    assert file.warnings == []


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("KEY\n", "not a KEY=VALUE line"),
        ("a b=c\n", "not a KEY=VALUE line"),
        ("=x\n", "not a KEY=VALUE line"),
        ("export KEY=x\n", "not a KEY=VALUE line"),
        ('KEY="open\n', "closing quote"),
        ('KEY="a\x07b"\n', "control character"),
    ],
)
def test_a_bad_line_is_skipped_with_a_warning_that_says_where(text: str, what: str) -> None:
    file = conf("# first\n" + text + 'OTHER="1"\n')
    assert file.get("KEY") is None
    assert file.get("OTHER") == "1"
    assert len(file.warnings) == 1
    assert file.warnings[0].startswith("Warning at x.conf:2: ")
    assert what in file.warnings[0]


def test_the_first_of_two_lines_counts() -> None:
    file = conf('A="1"\nA="2"\n')
    assert file.get("A") == "1"
    assert "x.conf:2" in file.warnings[0]


def test_old_names_of_keys_are_the_same_keys() -> None:
    file = conf('DCACHE="1:2"\nIPTENTRIES="128"\n')
    assert file.get("DCACHESIZE") == "1:2"
    file.set("DCACHESIZE", "3:4")
    assert file.dump() == b'DCACHESIZE="3:4"\nIPTENTRIES="128"\n'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"A=1",
        b'A="1"\r\nB="2"\r\n',
        b'# \xff\xfe not UTF-8\nDESCRIPTION="caf\xe9"\n',
        b"garbage\nA=\n\n\n#end",
        "A=\u2028\x0b\x0c\n".encode(),
    ],
)
def test_nothing_set_gives_the_same_bytes(data: bytes) -> None:
    assert conf(data).dump() == data


def test_setting_replaces_the_first_line_and_leaves_the_rest() -> None:
    file = conf('# top\n  HOSTNAME=old # x\nFOO="1"\nHOSTNAME="second"\n')
    file.set("HOSTNAME", "new.example")
    file.set("CPUS", "2")
    assert file.dump() == b'# top\nHOSTNAME="new.example"\nFOO="1"\nHOSTNAME="second"\nCPUS="2"\n'
    assert file.changed


def test_setting_the_same_value_changes_nothing() -> None:
    file = conf("A=1 ")
    file.set("A", "1")
    assert not file.changed
    assert file.dump() == b"A=1 "


def test_a_file_without_a_last_line_end_gets_one() -> None:
    file = conf("A=1")
    file.set("B", "2")
    assert file.dump() == b'A=1\nB="2"\n'
    file = conf("A=1")
    file.set("A", "2")
    assert file.dump() == b'A="2"\n'


def test_setting_repairs_a_line_that_was_skipped() -> None:
    file = conf('A="open\nA="2"\n')
    file.set("A", "3")
    assert conf(file.dump()).get("A") == "3"


def test_unset_takes_every_line_of_the_key() -> None:
    file = conf('A="1"\nB="2"\nA="3"\n')
    file.unset("A")
    assert file.dump() == b'B="2"\n'
    assert file.get("A") is None


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\x1b[2J", "x\x7f"])
def test_a_value_with_a_control_character_cannot_be_set(value: str) -> None:
    file = conf("A=1\n")
    with pytest.raises(ValueError, match="control character"):
        file.set("A", value)
    assert file.dump() == b"A=1\n"


@pytest.mark.parametrize("key", ["", "A B", "A=", "$(x)", "Ä"])
def test_a_key_that_is_none_cannot_be_set(key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        conf("").set(key, "x")


HOSTILE = [
    "plain",
    "",
    "two words",
    '"',
    'a"b"c',
    "it's",
    "$(touch PWNED)",
    "`touch PWNED`",
    "${PATH}",
    "$HOME",
    "\\",
    "\\\\",
    "a\\",
    '\\"$(touch PWNED)',
    "!history!",
    "; touch PWNED",
    "| touch PWNED &",
    "#no comment",
    "*",
    "~root",
    "tab\there",
    " leading and trailing ",
    "ünïcödé \u2028 line",
    "$VEID",
    "a=b",
]


@pytest.mark.parametrize("shell", [["sh"], ["busybox", "sh"], ["bash", "--posix"], ["bash"]])
def test_a_shell_that_sources_the_file_sees_the_same_values_and_runs_nothing(tmp_path: Path, shell: list[str]) -> None:
    values = {f"KEY{number}": value for number, value in enumerate(HOSTILE)}
    check_in_shell(tmp_path, shell, values)


def test_random_values_survive_file_and_shell(tmp_path: Path) -> None:
    dice = random.Random(4)
    alphabet = "ab \"'\\$`(){}|;&<>*?[]~#!=\tä€"
    values = {f"K{n}": "".join(dice.choices(alphabet, k=dice.randrange(1, 12))) for n in range(300)}
    check_in_shell(tmp_path, ["sh"], values)


def check_in_shell(tmp_path: Path, shell: list[str], values: dict[str, str]) -> None:
    """Write *values* to a file, read it back, source it with *shell*, and compare what each has."""
    path = tmp_path / "101.conf"
    file = ConfFile(str(path))
    for key, value in values.items():
        file.set(key, value)
    file.save()
    again = ConfFile.read(str(path))
    assert {key: again.get(key) for key in values} == values
    assert again.would_run() == []
    script = f". {path}\n" + "".join(f'printf "%s\\0" "${key}"\n' for key in values)
    result = subprocess.run(
        [*shell, "-c", script], capture_output=True, cwd=tmp_path, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert result.stderr == b""
    assert result.stdout.decode().split("\0")[:-1] == list(values.values())
    assert not (tmp_path / "PWNED").exists()


def test_veid_in_the_paths_is_left_for_the_shell(tmp_path: Path) -> None:
    path = tmp_path / "101.conf"
    file = ConfFile(str(path))
    file.set("VE_ROOT", "/vz/root/$VEID")
    file.set("VE_PRIVATE", "/vz/$(touch PWNED)/${VEID}")
    file.save()
    assert b'VE_ROOT="/vz/root/$VEID"\n' in path.read_bytes()
    assert ConfFile.read(str(path)).get("VE_PRIVATE") == "/vz/$(touch PWNED)/${VEID}"
    out = subprocess.check_output(
        ["sh", "-c", f'VEID=101; . {path}; echo "$VE_ROOT $VE_PRIVATE"'], cwd=tmp_path, text=True
    )
    assert out == "/vz/root/101 /vz/$(touch PWNED)/101\n"


def test_lines_that_a_shell_would_run_are_found() -> None:
    file = conf('A="$(rm x)"\nB=`x`\nC="fine"\nD=\\$HOME\nVE_ROOT="/vz/root/$VEID"\nE=a b\nF="a \\$x"\nG="$HOME"\n')
    assert file.would_run() == ["A", "B", "E", "G"]


def test_save_follows_a_link_and_keeps_the_permissions(tmp_path: Path) -> None:
    target = tmp_path / "real.conf"
    target.write_text("A=1\n")
    target.chmod(0o600)
    link = tmp_path / "link.conf"
    link.symlink_to(target)
    file = ConfFile.read(str(link))
    file.set("A", "2")
    file.save()
    assert link.is_symlink()
    assert target.read_text() == 'A="2"\n'
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(os.listdir(tmp_path)) == ["link.conf", "real.conf"]


def test_a_new_file_can_be_read_by_all_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        ConfFile("").save(str(tmp_path / "new"))
    finally:
        os.umask(old)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("kind", ["binary", "huge", "directory", "fifo", "device"])
def test_a_file_that_cannot_be_a_configuration_is_status_85(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "bad.conf"
    if kind == "binary":
        path.write_bytes(b"A=1\n\0\1\2")
    elif kind == "huge":
        path.write_bytes(b"A=1\n" * (LIMIT_BYTES // 4 + 1))
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(InvalidConfig) as caught:
        ConfFile.read("/dev/zero" if kind == "device" else str(path))
    assert caught.value.code == ExitCode.INVALID_CONFIG


def test_the_largest_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "large.conf"
    data = b"# x\n" * ((LIMIT_BYTES - 8) // 4) + b"A=last\n\n"
    path.write_bytes(data)
    file = ConfFile.read(str(path))
    assert file.get("A") == "last"
    assert file.dump() == data


def test_random_bytes_never_raise_anything_but_status_85() -> None:
    dice = random.Random(7)
    for _ in range(400):
        data = bytes(dice.choices(b'AB="\\\n\r#$` \t\x00\x01\xff\xc3', k=dice.randrange(0, 80)))
        try:
            file = ConfFile("x", data)
        except InvalidConfig:
            assert b"\0" in data
            continue
        assert file.dump() == data
        file.set("NEW", 'x"y')
        assert ConfFile("x", file.dump()).get("NEW") == 'x"y'


def test_the_word_of_openvz_for_addresses_is_read_and_stays() -> None:
    conf = ConfFile("101.conf", b'IP_ADDRESS="192.0.2.1 192.0.2.2"\nDCACHE="1:1"\n')
    assert conf.get("IP_ADDR") == "192.0.2.1 192.0.2.2" and conf.warnings == []
    conf.set("IP_ADDR", "192.0.2.3")
    conf.set("DCACHESIZE", "2:2")
    assert conf.dump() == b'IP_ADDRESS="192.0.2.3"\nDCACHESIZE="2:2"\n'
    conf.unset("IP_ADDR")
    assert conf.dump() == b'DCACHESIZE="2:2"\n'
