"""vzsplit: a sample configuration that gives each of N CTs an equal part of the node."""

from __future__ import annotations

import os

from vz.cli.main import Globals
from vz.cli.vzcfgvalidate import host_memory
from vz.config.conffile import ConfFile
from vz.config.paths import CONF_DIR
from vz.config.units import PAGE, UNLIMITED, format_ubc, parse_word
from vz.config.validate import VSWAP_ONLY, check_file, repair
from vz.container.ct import printable

USAGE = """\
Usage: vzsplit [-n NUM] [-f NAME] [-s SWAP_KB] [-v yes|no]
  -n  for so many containers
  -f  write /etc/vz/conf/ve-NAME.conf-sample
  -s  so much swap of the node, in KiB, is for containers
  -v  VSwap (yes), or all beancounters (no)"""
HOST_KEEPS = 10  # per cent of memory and disk that stay with the node
MOST = 100000
ITEMS_PER_PROCESS = {"numtcpsock": 2, "numothersock": 2, "numsiginfo": 1, "numflock": 1, "numfile": 48}


def run(argv: list[str], options: Globals) -> int:
    """vzsplit [-n N] [-f NAME] [-s SWAP_KB] [-v yes|no]; 1 for anything wrong."""
    if argv == ["--help"]:
        os.write(1, (USAGE + "\n").encode())
        return 0
    try:
        asked = parse(argv)
        text = make(asked)
        if "-f" not in asked:
            os.write(1, text.encode())
            return 0
        path = f"{CONF_DIR}/ve-{asked['-f']}.conf-sample"
        write_new(path, text)
        os.write(1, f"Config {path} was created\n".encode())
        return 0
    except ValueError as exc:
        os.write(2, f"{printable(str(exc)) if str(exc) != USAGE else USAGE}\n".encode("utf-8", "surrogateescape"))
    except OSError as exc:
        os.write(2, f"vzsplit: {exc.filename}: {exc.strerror}\n".encode("utf-8", "surrogateescape"))
    return 1


def parse(argv: list[str]) -> dict[str, str]:
    """Return {option: value}; ValueError for what is wrong.  Without -n the number is asked for."""
    asked: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if word not in ("-n", "-f", "-s", "-v") or not words:
            raise ValueError(USAGE)
        asked[word] = words.pop(0)
    if asked.get("-v", "yes") not in ("yes", "no"):
        raise ValueError("vzsplit: -v is followed by yes or no")
    if "-f" in asked:
        parse_word(asked["-f"])
        if os.path.exists(f"{CONF_DIR}/ve-{asked['-f']}.conf-sample"):
            raise ValueError(f"vzsplit: sample {asked['-f']} exists already")
    if "-n" not in asked:
        asked["-n"] = ask()
    for option, low, high in (("-n", 1, MOST), ("-s", 0, 1 << 40)):
        word = asked.get(option, "1")
        if not (word.isascii() and word.isdigit() and len(word) < 14 and low <= int(word) <= high):
            raise ValueError(f"vzsplit: {option} is followed by a number from {low} to {high}")
    return asked


def ask() -> str:
    os.write(1, b"Enter the number of containers: ")
    answer = b""
    while not answer.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        answer += byte
    return answer.strip().decode("ascii", "replace")


def make(asked: dict[str, str]) -> str:
    """Return the text of the sample."""
    from vz.cli.vzcpucheck import power

    count = int(asked["-n"])
    ram, swap = host_memory()
    if "-s" in asked:
        swap = int(asked["-s"]) << 10
    ram_pages = ram * (100 - HOST_KEEPS) // 100 // count // PAGE
    if ram_pages < 1024:
        raise ValueError(f"vzsplit: {count} containers would have less than 4 MiB each")
    space_kb, inodes = free_disk()
    if asked.get("-v", "yes") == "yes":
        values = vswap_values(ram_pages)
    else:
        values = ubc_values(ram_pages, swap * (100 - HOST_KEEPS) // 100 // count // PAGE)
    lines = [f"# made by vzsplit for {count} containers", 'ONBOOT="no"', ""]
    lines += [f'{name.upper()}="{format_ubc(value)}"' for name, value in values.items()]
    hard, files = max(space_kb // count, 1), max(inodes // count, 1)
    lines += ["", f'DISKSPACE="{hard * 10 // 11}:{hard}"', f'DISKINODES="{files * 10 // 11}:{files}"', 'QUOTATIME="0"']
    units = min(max(power() // count, 8), 500000)
    text = "\n".join([*lines, "", f'CPUUNITS="{units}"']) + "\n"
    return text if asked.get("-v", "yes") == "yes" else repaired(text)


def vswap_values(ram_pages: int) -> dict[str, tuple[int, int]]:
    from vz.config.ubc import NAMES

    values = {name: (UNLIMITED, UNLIMITED) for name in NAMES if name not in VSWAP_ONLY}
    values["vmguarpages"] = values["oomguarpages"] = (0, UNLIMITED)
    return {"physpages": (0, ram_pages), "swappages": (0, 2 * ram_pages), **values}


def ubc_values(ram_pages: int, swap_pages: int) -> dict[str, tuple[int, int]]:
    """Return beancounters in the proportions of the sample ``basic``, for so much RAM and swap."""
    total = ram_pages + swap_pages
    ram_bytes = ram_pages * PAGE
    processes = max(min(ram_pages // 256, 16000), 20)  # a megabyte each
    values = {name: (per * processes,) * 2 for name, per in ITEMS_PER_PROCESS.items()}
    buffers = ram_bytes // 40
    values.update(
        numproc=(2 * processes,) * 2,
        avnumproc=(processes,) * 2,
        numpty=(max(min(processes // 4, 512), 16),) * 2,
        numiptent=(128, 128),
        kmemsize=(ram_bytes // 5, ram_bytes * 11 // 50),
        dcachesize=(ram_bytes // 20, ram_bytes * 11 // 200),
        lockedpages=(ram_pages // 32,) * 2,
        privvmpages=(total, total * 11 // 10),
        shmpages=(total // 5,) * 2,
        physpages=(0, UNLIMITED),
        vmguarpages=(total // 2, UNLIMITED),
        oomguarpages=(ram_pages // 2, UNLIMITED),
        tcpsndbuf=(buffers, 2 * buffers),
        tcprcvbuf=(buffers, 2 * buffers),
        othersockbuf=(buffers, 2 * buffers),
        dgramrcvbuf=(max(buffers // 4, 132096),) * 2,
    )
    return values


def repaired(text: str) -> str:
    """Return *text* with what vzcfgvalidate(8) would repair."""
    conf = ConfFile("sample", text.encode())
    left = repair(conf, lambda: check_file(conf, vswap=False), lambda finding, value: True)
    if left:
        raise ValueError(f"vzsplit: no sound configuration for so many containers: {left[0]}")
    return conf.dump().decode()


def free_disk() -> tuple[int, int]:
    """Return (KiB, inodes) that CTs can have of the file system of /vz, as a whole, less what stays with the node."""
    status = os.statvfs("/vz" if os.path.isdir("/vz") else "/")
    part = 100 - HOST_KEEPS
    files = status.f_files or (status.f_blocks * status.f_frsize >> 14)  # btrfs tells none: one for each 16 KiB
    return (status.f_blocks * status.f_frsize >> 10) * part // 100, files * part // 100


def write_new(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
