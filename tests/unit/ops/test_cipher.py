"""Which cipher a migration's ssh is asked to prefer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vz.ops.migrate.cipher import cipher_options, reordered

DEFAULT = "chacha20-poly1305@openssh.com,aes128-ctr,aes128-gcm@openssh.com,aes256-gcm@openssh.com"
FAST = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr"


@pytest.mark.parametrize(
    ("ciphers", "order"),
    [
        (DEFAULT, FAST),
        ("chacha20-poly1305@openssh.com", ""),  # the admin allows nothing else
        ("aes256-gcm@openssh.com,chacha20-poly1305@openssh.com", ""),  # a choice of the admin's own
        (
            "chacha20-poly1305@openssh.com,aes256-gcm@openssh.com",
            "aes256-gcm@openssh.com,chacha20-poly1305@openssh.com",
        ),
    ],
)
def test_order(ciphers: str, order: str) -> None:
    assert reordered(f"host 192.0.2.1\nciphers {ciphers}\nport 22\n") == order


def test_an_answer_without_ciphers() -> None:
    assert reordered("host 192.0.2.1\n") == ""


@pytest.fixture
def ssh(tmp_path: Path) -> list[str]:
    """Return a program in ssh's place, which answers -G and notes its words."""
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/words\necho ciphers {DEFAULT}\n')
    os.chmod(program, 0o755)
    return [str(program), "-p", "2222"]


def test_a_processor_with_aes(ssh: list[str], tmp_path: Path) -> None:
    assert cipher_options(ssh, "root@192.0.2.1", ["fpu", "aes", "pclmulqdq"]) == ["-o", f"Ciphers={FAST}"]
    assert (tmp_path / "words").read_text() == "-p 2222 -G -- root@192.0.2.1\n"


def test_a_processor_without(ssh: list[str], tmp_path: Path) -> None:
    assert cipher_options(ssh, "root@192.0.2.1", ["fpu"]) == []
    assert not (tmp_path / "words").exists()
