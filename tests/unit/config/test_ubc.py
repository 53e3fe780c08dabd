"""What a configuration's beancounters come to: VSwap's derived values, and sets that cannot be meant."""

from __future__ import annotations

import pytest

from vz.config import ubc
from vz.config.conffile import ConfFile
from vz.config.ctconfig import CTConfig
from vz.config.units import UNLIMITED
from vz.errors import VzError


def conf(text: str) -> CTConfig:
    file = ConfFile("101.conf", text.encode())
    return CTConfig(dict(file.items()), file)


def test_nothing_said_is_unlimited() -> None:
    assert set(ubc.effective(conf("")).values()) == {(UNLIMITED, UNLIMITED)}


def test_vswap_derives_what_is_not_set() -> None:
    found = ubc.effective(conf('PHYSPAGES="0:1000"\nSWAPPAGES="0:500"\nVM_OVERCOMMIT="2"\nVMGUARPAGES="7"\n'))
    assert found["lockedpages"] == (1000, 1000)
    assert found["oomguarpages"] == (1000, UNLIMITED)
    assert found["vmguarpages"] == (7, 7)
    assert found["privvmpages"] == (3000, 3000)
    assert found["numproc"] == found["kmemsize"] == (UNLIMITED, UNLIMITED)
    found = ubc.effective(conf('PHYSPAGES="0:1000"\nSWAPPAGES="0:unlimited"\n'))
    assert found["vmguarpages"] == (UNLIMITED, UNLIMITED)
    assert found["privvmpages"] == (UNLIMITED, UNLIMITED)


def test_a_value_set_for_now_counts_before_that_of_the_file() -> None:
    config = conf('PHYSPAGES="0:1000"\nSWAPPAGES="0:500"\n')
    config.lockedpages = (3, 4)
    assert ubc.effective(config)["lockedpages"] == (3, 4)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'NUMPROC="9"\nNUMPTY="3"\n',
        'PHYSPAGES="0:1"\nSWAPPAGES="0"\n',
        'PHYSPAGES="0:1"\nSWAPPAGES="0"\nKMEMSIZE="1M"\n',
        'PHYSPAGES="0:unlimited"\n',
        "".join(f'{name.upper()}="99"\n' for name in ubc.NEEDED),
    ],
)
def test_sets_that_can_be_started(text: str) -> None:
    ubc.check_complete(conf(text))


@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('PHYSPAGES="0:1"\n', "swap"),
        ('KMEMSIZE="1M"\n', "lockedpages"),
        ('PHYSPAGES="0:unlimited"\nNUMFILE="9"\n', "kmemsize"),
        ("".join(f'{name.upper()}="99"\n' for name in ubc.NEEDED if name != "numiptent"), "numiptent"),
    ],
)
def test_sets_that_are_incomplete_are_28(text: str, missing: str) -> None:
    with pytest.raises(VzError, match=f"required UB parameter {missing} not set") as caught:
        ubc.check_complete(conf(text))
    assert caught.value.code == 28


def test_the_order_of_the_rows() -> None:
    assert len(ubc.PROC_ROWS) == 25 and ubc.PROC_ROWS.count("dummy") == 4
    assert ubc.PROC_ROWS[0] == "kmemsize" and ubc.PROC_ROWS[-1] == "swappages"
