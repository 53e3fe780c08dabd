"""How much of the node its CTs use and were promised: the sums of vzcalc(8) and vzmemcheck(8).

Memory is counted as OpenVZ did: kernel memory and socket buffers, resident pages, pages with swap, address space.  On
64-bit kernels all RAM is low memory.  A VSwap configuration promises its RAM, and RAM with swap at most: its kernel
memory and buffers are part of that.
"""

from __future__ import annotations

from vz.config.units import PAGE, UNLIMITED
from vz.resources.proctext import Row

SOCKET_BUFFERS = ("tcpsndbuf", "tcprcvbuf", "othersockbuf", "dgramrcvbuf")
HELD, BARRIER, LIMIT = 0, 2, 3
COLUMNS = "low_use low_promise ram_use swap_use swap_promise alloc_use alloc_promise alloc_limit".split()


class Node:
    """Totals of the node, in bytes."""

    __slots__ = ("ram", "swap", "tasks")

    def __init__(self, ram: int, swap: int, tasks: int = 0) -> None:
        self.ram = ram
        self.swap = swap
        self.tasks = tasks

    @property
    def total(self) -> int:
        return self.ram + self.swap


class Share:
    """Bytes in use and promised, by COLUMNS: of one CT, or of all."""

    __slots__ = ("values",)

    def __init__(self, values: list[int]) -> None:
        self.values = values


def share(rows: dict[str, Row], node: Node) -> Share:
    """Return what the CT with the beancounters *rows* uses and was promised; without limit is the whole node."""

    def kernel(part: int) -> int | None:
        return _sum([rows["kmemsize"][part], *(rows[name][part] for name in SOCKET_BUFFERS)])

    def pages(name: str, part: int) -> int | None:
        value = rows[name][part]
        return None if value >= UNLIMITED else value * PAGE

    in_kernel = kernel(HELD)
    ram, swap = pages("physpages", LIMIT), pages("swappages", LIMIT)
    if ram is not None:  # VSwap; its kernel memory is within physpages
        most = _sum_of(ram, swap)
        use = pages("physpages", HELD)
        both = _sum_of(use, pages("swappages", HELD))
        values = [in_kernel, ram, use, both, most, pages("privvmpages", HELD), most, most]
    else:
        limit = kernel(LIMIT)
        values = [
            in_kernel,
            limit,
            _sum_of(pages("physpages", HELD), in_kernel),
            _sum_of(pages("oomguarpages", HELD), in_kernel),
            _sum_of(pages("oomguarpages", BARRIER), limit),
            _sum_of(pages("privvmpages", HELD), in_kernel),
            _sum_of(pages("vmguarpages", BARRIER), limit),
            _sum_of(pages("privvmpages", LIMIT), limit),
        ]
    return Share([whole if value is None else value for value, whole in zip(values, capacity(node))])


def total(shares: list[Share]) -> Share:
    """Return the sum of *shares*."""
    return Share([sum(item.values[column] for item in shares) for column in range(len(COLUMNS))])


def capacity(node: Node) -> list[int]:
    """Return of what each of COLUMNS is a part, in bytes."""
    return [node.ram, node.ram, node.ram, node.total, node.total, node.total, node.total, node.total]


def percent(value: int, whole: int) -> float:
    return value * 100 / whole if whole else 0.0


def _sum(values: list[int]) -> int | None:
    return None if any(value >= UNLIMITED for value in values) else sum(values)


def _sum_of(first: int | None, second: int | None) -> int | None:
    return None if first is None or second is None else first + second
