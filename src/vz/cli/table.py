"""Which module answers to which command; the commands of later versions with what to say of them."""

from __future__ import annotations

PROGRAMS = {
    "vzctl": "main",
    "vzlist": "vzlist",
    "vzpid": "vzpid",
    "vztmpl": "vztmpl",
    "vztmpl-dl": "vztmpl_dl",
    "vzcfgvalidate": "vzcfgvalidate",
    "vzifup-post": "vzifup_post",
    "vznetcfg": "vznetcfg",
    "vznetaddbr": "vznetaddbr",
    "vzubc": "vzubc",
    "vzcalc": "vzcalc",
    "vzmemcheck": "vzmemcheck",
    "vzoversell": "vzoversell",
    "vzcpucheck": "vzcpucheck",
    "vzsplit": "vzsplit",
    "arpsend": "arpsend",
    "ndsend": "ndsend",
    "vzmigrate": "vzmigrate",
    "vzeventd": "vzeventd",
    "ploop": "ploop",
    "vzquota": "vzquota",
}

VERBS = {
    "create": "create",
    "destroy": "destroy",
    "delete": "destroy",
    "mount": "mount",
    "umount": "umount",
    "start": "start",
    "stop": "stop",
    "restart": "restart",
    "status": "status",
    "set": "set",
    "exec": "exec",
    "exec2": "exec2",
    "exec3": "exec3",
    "enter": "enter",
    "runscript": "runscript",
    "console": "console",
    "chkpnt": "chkpnt",
    "suspend": "chkpnt",
    "restore": "restore",
    "resume": "restore",
    "check": "check",
    "why": "why",
    "quotaon": "quotaon",
    "quotaoff": "quotaoff",
    "quotainit": "quotainit",
    "compact": "compact",
    "snapshot": "snapshot",
    "snapshot-switch": "snapshot_switch",
    "snapshot-delete": "snapshot_delete",
    "snapshot-mount": "snapshot_mount",
    "snapshot-umount": "snapshot_umount",
    "snapshot-list": "snapshot_list",
}

# verbs that start an init: the node daemon runs them where there is one, to be its parent
STARTING = frozenset(("start", "restart", "restore", "resume"))

_PLOOP = "conversion to the ploop layout comes with a later one"
LATER = {
    "convert": _PLOOP,
}
