"""Every failure we can name, with the vzctl(8) exit status it ends a command with.

The numbers are those of OpenVZ's ``vzerror.h``; scripts of fourteen years test for them.  A layer that
knows what a failure means raises one of these ``from`` the OSError below it; ``cli/main.py`` is the only
place that turns it into a line on stderr and a status.
"""

from __future__ import annotations


class ExitCode:
    """Exit statuses by their names in ``vzerror.h`` (the leading ``VZ_`` is left out)."""

    OK = 0
    SETUBC_ERROR = 1
    SETFSHD_ERROR = 2
    SYSTEM_ERROR = 3
    BAD_KERNEL = 5
    RESOURCE_ERROR = 6
    ENVCREATE_ERROR = 7
    COMMAND_EXECUTION_ERROR = 8
    LOCKED = 9
    NOCONFIG = 10
    NOSCRIPT = 11
    NO_ACCES = 12
    SET_CAP = 13
    NOVECONFIG = 14
    EXEC_TIMEOUT = 15
    CHKPNT_ERROR = 16
    RESTORE_ERROR = 17
    SETLUID_ERROR = 18
    INVALID_PARAMETER_SYNTAX = 20
    INVALID_PARAMETER_VALUE = 21
    VE_ROOT_NOTSET = 22
    VE_PRIVATE_NOTSET = 23
    VE_TMPL_NOTSET = 24
    NOTENOUGHPARAMS = 27
    NOTENOUGHUBCPARAMS = 28
    VE_OSTEMPLATE_NOTSET = 29
    VE_NOT_RUNNING = 31
    VE_RUNNING = 32
    STOP_ERROR = 33
    CANT_ADDIP = 34
    VALIDATE_ERROR = 35
    OVERCOMMIT_ERROR = 36
    FS_NOT_MOUNTED = 40
    FS_MOUNTED = 41
    FS_NOPRVT = 43
    FS_PRVT_AREA_EXIST = 44
    FS_NO_DISK_SPACE = 46
    FS_BAD_TMPL = 47
    FS_NEW_VE_PRVT = 48
    FS_MPOINTCREATE = 49
    FS_CANTMOUNT = 50
    FS_CANTUMOUNT = 51
    FS_DEL_PRVT = 52
    UNK_MOUNT_TYPE = 53
    CANT_CREATE_DIR = 54
    NOTENOUGH_QUOTA_LIMITS = 55
    DQ_ON = 60
    DQ_INIT = 61
    DQ_SET = 62
    DISKSPACE_NOT_SET = 63
    DISKINODES_NOT_SET = 64
    ERROR_SET_USER_QUOTA = 65
    DQ_OFF = 66
    DQ_UGID_NOTINITIALIZED = 67
    GET_QUOTA_USAGE = 68
    BADHOSTNAME = 70
    BADIP = 71
    BADDNSSRV = 72
    BADDNSSEARCH = 73
    CHANGEPASS = 74
    VE_LCKDIR_NOTSET = 77
    IP_INUSE = 78
    ACTIONSCRIPT_ERROR = 79
    CP_CONFIG = 82
    INVALID_CONFIG = 85
    SET_DEVICES = 86
    INSTALL_APPS_ERROR = 87
    IP_NA = 89
    OSTEMPLATE_NOT_FOUND = 91
    PLOOP_UNSUP = 99
    GET_IP_ERROR = 100
    NETDEV_ERROR = 104
    VE_START_DISABLED = 105
    SET_IPTABLES = 106
    NO_DISTR_CONF = 107
    NO_DISTR_ACTION_SCRIPT = 108
    APPLY_CONFIG_ERROR = 109
    CUSTOM_REINSTALL_ERROR = 128
    SET_MEMINFO_ERROR = 129
    VETH_ERROR = 130
    SET_NAME_ERROR = 131
    WAIT_FAILED = 133
    CONFIG_SAVE_ERROR = 139
    SET_OSRELEASE = 144
    SET_IO = 148
    CREATE_IMAGE_ERROR = 151
    MOUNT_IMAGE_ERROR = 152
    UMOUNT_IMAGE_ERROR = 153
    RESIZE_IMAGE_ERROR = 154
    CONVERT_IMAGE_ERROR = 155
    CREATE_SNAPSHOT_ERROR = 156
    MERGE_SNAPSHOT_ERROR = 157
    DELETE_SNAPSHOT_ERROR = 158
    SWITCH_SNAPSHOT_ERROR = 159
    MOUNT_SNAPSHOT_ERROR = 160
    UMOUNT_SNAPSHOT_ERROR = 161
    COMPACT_IMAGE_ERROR = 166
    LIST_SNAPSHOT_ERROR = 167


class VzError(Exception):
    """A failure with a text for the person at the keyboard and an exit status for the script.

    *code* is the class's own unless the caller has a better one (one meaning, several statuses: a step of
    ``set`` fails with that step's status).  The text is one line: what, and where it helps, what to do.
    """

    code = ExitCode.SYSTEM_ERROR

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class BadSyntax(VzError):
    """Wrong words on the command line: unknown option, missing or stray argument."""

    code = ExitCode.INVALID_PARAMETER_SYNTAX


class BadValue(VzError):
    """A word is in the right place but its value cannot be."""

    code = ExitCode.INVALID_PARAMETER_VALUE


class BadKernel(VzError):
    """The kernel, or this host's set-up, lacks something that the command needs."""

    code = ExitCode.BAD_KERNEL


class Locked(VzError):
    """Another live process holds the CT's lock."""

    code = ExitCode.LOCKED


class NoGlobalConfig(VzError):
    """``/etc/vz/vz.conf`` is not there."""

    code = ExitCode.NOCONFIG


class NoContainerConfig(VzError):
    """``/etc/vz/conf/CTID.conf`` is not there."""

    code = ExitCode.NOVECONFIG


class InvalidConfig(VzError):
    """A configuration file that cannot be used at all: unreadable, binary, huge."""

    code = ExitCode.INVALID_CONFIG


class NotRunning(VzError):
    code = ExitCode.VE_NOT_RUNNING

    def __init__(self, message: str = "Container is not running") -> None:
        super().__init__(message)


class AlreadyRunning(VzError):
    code = ExitCode.VE_RUNNING

    def __init__(self, message: str = "Container is already running") -> None:
        super().__init__(message)


class ScriptFailed(VzError):
    """An action script ended with a status other than 0."""

    code = ExitCode.ACTIONSCRIPT_ERROR


class Interrupted(VzError):
    """SIGINT or SIGTERM asked us to stop; what was done is being undone."""

    code = ExitCode.SYSTEM_ERROR

    def __init__(self) -> None:
        super().__init__("Cancelled")


def exit_code(exc: BaseException) -> int:
    """Return the exit status for *exc*: the only place where the two meet."""
    return exc.code if isinstance(exc, VzError) else ExitCode.SYSTEM_ERROR
