"""Passwords: ``user:password`` into the CT's /etc/shadow, from inside its root."""

from __future__ import annotations

import os
import time

from vz.guest import files

ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def hash_password(password: str) -> str:
    """Return the SHA-512 crypt(5) hash of *password* with a random salt, made by crypt(3).

    To be called on the node's side: the CT's root has no library of ours to load.

    Raises:
        OSError: this system has no libcrypt, or it cannot make such hashes.
    """
    from vz.kernel import ffi

    salt = "".join(ALPHABET[byte & 63] for byte in os.urandom(16))
    library = ffi.CDLL("libcrypt.so.1")
    library.crypt.restype = ffi.c_char_p
    hashed = library.crypt(password.encode("utf-8", "surrogateescape"), f"$6${salt}$".encode())
    if not hashed or not hashed.startswith(b"$6$"):
        raise OSError(95, "crypt(3) cannot make SHA-512 hashes")
    return str(hashed.decode("ascii"))


def set_password(user: str, hashed: str) -> None:
    """Give *user* the password whose hash is *hashed*, in the root that this process is in.

    Raises:
        LookupError: the CT has no such user.
        OSError: a file is not what it must be, or there is no room.
    """
    passwd = files.read("/etc/passwd") or ""
    if not any(line.split(":")[0] == user for line in passwd.split("\n")):
        raise LookupError(f"the container has no user {user}")
    shadow = files.read("/etc/shadow")
    if shadow is None:
        text = _replaced(passwd, user, hashed, None)
        files.write("/etc/passwd", text)
        return
    days = str(int(time.time()) // 86400)
    if not any(line.split(":")[0] == user for line in shadow.split("\n")):
        shadow = shadow + ("\n" if shadow and not shadow.endswith("\n") else "")
        shadow += f"{user}:*:{days}:0:99999:7:::\n"
    files.write("/etc/shadow", _replaced(shadow, user, hashed, days), 0o640)


def _replaced(text: str, user: str, hashed: str, days: str | None) -> str:
    lines = []
    for line in text.split("\n"):
        fields = line.split(":")
        if fields[0] == user and len(fields) > 1:
            fields[1] = hashed
            if days is not None and len(fields) > 2:
                fields[2] = days
        lines.append(":".join(fields))
    return "\n".join(lines)
