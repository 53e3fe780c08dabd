"""Passwords: ``user:password`` into the CT's /etc/shadow, from inside its root."""

from __future__ import annotations

import os
import time

from vz.guest import files

ALPHABET = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def set_password(user: str, password: str) -> None:
    """Give *user* the *password* as a SHA-512 crypt(5) hash.

    Raises:
        LookupError: the CT has no such user, or keeps no passwords.
    """
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import crypt
    passwd = files.read("/etc/passwd") or ""
    if not any(line.split(":")[0] == user for line in passwd.splitlines()):
        raise LookupError(f"the container has no user {user}")
    salt = "".join(ALPHABET[byte & 63] for byte in os.urandom(16))
    hashed = crypt.crypt(password, f"$6${salt}$")
    if not hashed:
        raise LookupError("this system's crypt(3) cannot make SHA-512 hashes")
    shadow = files.read("/etc/shadow")
    if shadow is None:
        text = _replaced(passwd, user, hashed, None)
        files.write("/etc/passwd", text)
        return
    days = str(int(time.time()) // 86400)
    if not any(line.split(":")[0] == user for line in shadow.splitlines()):
        shadow += f"{user}:*:{days}:0:99999:7:::\n"
    files.write("/etc/shadow", _replaced(shadow, user, hashed, days), 0o640)


def _replaced(text: str, user: str, hashed: str, days: str | None) -> str:
    lines = []
    for line in text.splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) > 1:
            fields[1] = hashed
            if days is not None and len(fields) > 2:
                fields[2] = days
        lines.append(":".join(fields))
    return "\n".join(lines) + "\n"
