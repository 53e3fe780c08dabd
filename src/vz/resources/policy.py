"""What a process of a CT may ask of the kernel: its seccomp filter and its capability bounding set.

The same for init and for every exec'ed process (rules 6 and 7 of the isolation rules).  Two reasons for a
refusal: the call reaches beyond the CT, or its result cannot be checkpointed.  ``features nesting:on`` lifts
the part about nested namespaces and makes the CT impossible to checkpoint; ``compat32:on`` lets 32-bit programs
have sockets, of any family.
"""

from __future__ import annotations

import errno

from vz.kernel import capabilities, seccomp
from vz.kernel.namespaces import CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from vz.config.ctconfig import CTConfig

AF_VSOCK = 40
AF_INET, AF_INET6, IPPROTO_MPTCP = 2, 10, 262
I386_SOCKETCALL, SYS_SOCKET, SYS_SETSOCKOPT, SYS_GETSOCKOPT = 102, 1, 14, 15
TIOCSTI, TIOCLINUX = 0x5412, 0x541C
FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR = 0x40086602, 0x40046602, 0x401C5820
NESTED = CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER

# name: (errno, x86_64, i386, aarch64); None: the architecture has no such call
_REFUSED: dict[str, tuple[int, int | None, int | None, int | None]] = {
    "init_module": (errno.EPERM, 175, 128, 105),
    "delete_module": (errno.EPERM, 176, 129, 106),
    "finit_module": (errno.EPERM, 313, 350, 273),
    "kexec_load": (errno.EPERM, 246, 283, 104),
    "kexec_file_load": (errno.EPERM, 320, None, 294),
    "open_by_handle_at": (errno.EPERM, 304, 342, 265),
    "bpf": (errno.EPERM, 321, 357, 280),
    "perf_event_open": (errno.EPERM, 298, 336, 241),
    "add_key": (errno.ENOSYS, 248, 286, 217),
    "request_key": (errno.ENOSYS, 249, 287, 218),
    "keyctl": (errno.ENOSYS, 250, 288, 219),
    "userfaultfd": (errno.ENOSYS, 323, 374, 282),
    "io_uring_setup": (errno.ENOSYS, 425, 425, 425),
    "io_uring_enter": (errno.ENOSYS, 426, 426, 426),
    "io_uring_register": (errno.ENOSYS, 427, 427, 427),
    "fanotify_init": (errno.ENOSYS, 300, 338, 262),
    "settimeofday": (errno.EPERM, 164, 79, 170),
    "stime": (errno.EPERM, None, 25, None),
    "clock_settime": (errno.EPERM, 227, 264, 112),
    "clock_settime64": (errno.EPERM, None, 404, None),
    "clock_adjtime": (errno.EPERM, 305, 343, 266),
    "clock_adjtime64": (errno.EPERM, None, 405, None),
    "swapon": (errno.EPERM, 167, 87, 224),
    "swapoff": (errno.EPERM, 168, 115, 225),
    "acct": (errno.EPERM, 163, 51, 89),
    "syslog": (errno.EPERM, 103, 103, 116),
    "quotactl": (errno.ENOSYS, 179, 131, 60),
    "quotactl_fd": (errno.ENOSYS, 443, 443, 443),
    "file_setattr": (errno.ENOSYS, 469, 469, 469),
    "iopl": (errno.EPERM, 172, 110, None),
    "ioperm": (errno.EPERM, 173, 101, None),
    "uselib": (errno.ENOSYS, 134, 86, None),
    "_sysctl": (errno.ENOSYS, 156, 149, None),
    "nfsservctl": (errno.ENOSYS, 180, 169, 42),
    "lookup_dcookie": (errno.EPERM, 212, 253, 18),
}
_ARGUMENT_CALLS = {  # socket, ioctl, clone, unshare, clone3
    "x86_64": (41, 16, 56, 272, 435),
    "i386": (359, 54, 120, 310, 435),
    "aarch64": (198, 29, 220, 97, 435),
}
_NAMES_32BIT = frozenset(("x86", "i386", "i486", "i586", "i686"))
_SOCKET_OPTIONS = {"x86_64": (54, 55), "i386": (366, 365), "aarch64": (208, 209)}  # setsockopt, getsockopt
PIDFD_OPEN = 434  # on all of them
SO_PASSPIDFD, SO_PEERPIDFD = 76, 77
AF_NETLINK, NETLINK_NETFILTER = 16, 12
# the options by which iptables, ip6tables, arptables and ebtables of old speak to the kernel
SOL_SOCKET, SOL_IP, SOL_IPV6 = 1, 0, 41
IPT_OPTIONS, ARPT_OPTIONS, EBT_OPTIONS = (64, 65), (96, 97), (128, 129)
_COLUMN = {"x86_64": 1, "i386": 2, "aarch64": 3}

DROPPED_CAPABILITIES = frozenset(
    capabilities.number(name)
    for name in (
        "sys_module sys_rawio sys_time audit_control mac_override mac_admin syslog wake_alarm block_suspend "
        "perfmon bpf checkpoint_restore "
        # in a user namespace it can do one thing: raise the limits of that namespace, which are ours
        "sys_resource"
    ).split()
)


def seccomp_program(conf: CTConfig, *, pidfds: bool = True) -> bytes:
    """Return the filter for a CT with the FEATURES, NETFILTER and OSTEMPLATE of *conf*; with or without pidfds."""
    nesting = bool(conf.features and conf.features.get("nesting"))
    compat32 = (conf.features or {}).get("compat32", is_32bit(conf.ostemplate))
    rules = {arch: _rules(arch, nesting, compat32) for arch in seccomp.architectures()}
    for arch in rules:
        if conf.netfilter == "disabled":
            rules[arch] += _no_netfilter(arch)
        if not pidfds and not nesting:
            rules[arch] += _no_pidfds(arch)
    return seccomp.assemble(rules)


def is_32bit(ostemplate: str | None) -> bool:
    """Tell whether a template is one of 32-bit programs, from OpenVZ's way of naming them (``debian-8-x86``)."""
    return not _NAMES_32BIT.isdisjoint((ostemplate or "").lower().replace(".", "-").split("-"))


def dropped_capabilities(configured: dict[str, bool] | None) -> frozenset[int]:
    """Return the capabilities that a CT's processes can never have, from the CT's CAPABILITY key.

    A capability switched on here still reaches only what the CT's user namespace owns.
    """
    dropped = set(DROPPED_CAPABILITIES)
    for name, on in (configured or {}).items():
        if name not in capabilities.NAMES:
            continue  # ve_admin and other names of OpenVZ's kernel: start warns about them
        if on:
            dropped.discard(capabilities.number(name))
        else:
            dropped.add(capabilities.number(name))
    return frozenset(dropped)


def _no_netfilter(arch: str) -> list[seccomp.Rule]:
    """Return what keeps a CT from packet filters: the kernel then looks to it like one that has none.

    socketcall(2) hides its arguments from a filter, so it goes as a whole: 32-bit programs before glibc 2.22 get no
    sockets.
    """
    refused = [
        seccomp.Rule(
            _ARGUMENT_CALLS[arch][0],
            errno.EPROTONOSUPPORT,
            0,
            values=(AF_NETLINK,),
            also=(2, (NETLINK_NETFILTER,)),
        )
    ]
    for number in _SOCKET_OPTIONS[arch]:
        options = IPT_OPTIONS + ARPT_OPTIONS + EBT_OPTIONS
        refused.append(seccomp.Rule(number, errno.ENOPROTOOPT, 1, values=(SOL_IP,), also=(2, options)))
        refused.append(seccomp.Rule(number, errno.ENOPROTOOPT, 1, values=(SOL_IPV6,), also=(2, IPT_OPTIONS)))
    if arch == "i386":
        calls = (SYS_SOCKET, SYS_SETSOCKOPT, SYS_GETSOCKOPT)
        refused.append(seccomp.Rule(I386_SOCKETCALL, errno.EPROTONOSUPPORT, 0, values=calls))
    return refused


def _no_pidfds(arch: str) -> list[seccomp.Rule]:
    """Return what makes the kernel look like one that has no pidfds; that a clone(2) can return one is left alone."""
    rules = [seccomp.Rule(PIDFD_OPEN, errno.ENOSYS)]
    for number in _SOCKET_OPTIONS[arch]:
        options = (SO_PASSPIDFD, SO_PEERPIDFD)
        rules.append(seccomp.Rule(number, errno.ENOPROTOOPT, 1, values=(SOL_SOCKET,), also=(2, options)))
    return rules


def _rules(arch: str, nesting: bool, compat32: bool) -> list[seccomp.Rule]:
    column = _COLUMN[arch]
    rules = []
    for row in _REFUSED.values():
        number = row[column]
        if number is not None:
            rules.append(seccomp.Rule(number, row[0]))
    socket, ioctl, clone, unshare, clone3 = _ARGUMENT_CALLS[arch]
    rules.append(seccomp.Rule(socket, errno.EAFNOSUPPORT, 0, values=(AF_VSOCK,)))
    # criu knows no Multipath TCP; programs that ask for it (all of Go's since 1.24) fall back to TCP
    families = (AF_INET, AF_INET6)
    rules.append(seccomp.Rule(socket, errno.EPROTONOSUPPORT, 0, values=families, also=(2, (IPPROTO_MPTCP,))))
    rules.append(seccomp.Rule(ioctl, errno.EPERM, 1, values=(TIOCSTI, TIOCLINUX)))
    # overlayfs sets a file's attributes with the rights of the node's root: what a CT copies up from its template could
    # leave the CT's project, and with it the disk quota (docs/decisions/0023-project-quota.md)
    attributes = (FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS, FS_IOC_FSSETXATTR)
    rules.append(seccomp.Rule(ioctl, errno.EOPNOTSUPP, 1, values=attributes))
    if arch == "i386" and not compat32:
        # its arguments are in memory: whoever may make any socket by it can make one of AF_VSOCK.  The C library of
        # 32-bit programs makes all its sockets so.
        rules.append(seccomp.Rule(I386_SOCKETCALL, errno.EAFNOSUPPORT, 0, values=(SYS_SOCKET,)))
    if not nesting:
        # libc falls back from clone3, whose flags a filter cannot see, to clone
        rules.append(seccomp.Rule(clone3, errno.ENOSYS))
        rules.append(seccomp.Rule(clone, errno.EPERM, 0, mask=NESTED))
        rules.append(seccomp.Rule(unshare, errno.EPERM, 0, mask=NESTED | CLONE_NEWTIME))
    return rules
