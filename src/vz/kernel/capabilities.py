"""Capabilities: their numbers and the bounding set; see capabilities(7)."""

from __future__ import annotations

from .libc import prctl
from .process import PR_CAPBSET_DROP, PR_CAPBSET_READ

# in the order of <linux/capability.h>: the index is the number
NAMES = (
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control "
    "setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()


def number(name: str) -> int:
    """Return the number of capability *name* (lower case, without ``cap_``); ValueError when there is none."""
    return NAMES.index(name)


def is_in_bounding_set(number: int) -> bool:
    """Tell whether this process's programs can have capability *number*; see prctl(2), PR_CAPBSET_READ."""
    try:
        return prctl(PR_CAPBSET_READ, number) == 1
    except OSError:  # EINVAL: newer than this kernel
        return False


def drop_from_bounding_set(numbers: frozenset[int]) -> None:
    """Take *numbers* out of the bounding set for good; one that the kernel does not know is passed over."""
    for capability in sorted(numbers):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as exc:
            if exc.errno != 22:  # EINVAL: newer than this kernel
                raise
