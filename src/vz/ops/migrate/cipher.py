"""The order in which ssh's ciphers are offered: the one that the processor does itself comes first.

OpenSSH prefers ChaCha20-Poly1305 everywhere, which it computes in C.  A processor with AES instructions does AES-GCM
with a fraction of the time, and a live migration waits for a whole container's memory to be encrypted while it is
frozen.  Nothing is offered that the admin's configuration does not offer, and a choice of the admin's own stands
(ssh_config(5), Ciphers).
"""

from __future__ import annotations

import os

from vz.kernel.process import TOOL_PATH, spawn

DEFAULT_FIRST = "chacha20-poly1305@openssh.com"
BY_HARDWARE = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com")
TIMEOUT_S = 10.0  # a Match exec in ssh_config may run anything


def reordered(configuration: str) -> str:
    """Return the ciphers of *configuration*, the output of ``ssh -G``, AES-GCM first; "" where they are to stay."""
    for line in configuration.splitlines():
        name, _, value = line.partition(" ")
        if name == "ciphers":
            ciphers = value.strip().split(",")
            ours = [cipher for cipher in BY_HARDWARE if cipher in ciphers]
            if not ours or ciphers[0] != DEFAULT_FIRST:
                return ""
            return ",".join(ours + [cipher for cipher in ciphers if cipher not in ours])
    return ""


def cipher_options(ssh: list[str], host: str, flags: list[str]) -> list[str]:
    """Return the options to append to the command *ssh* for *host*, for a processor that has *flags*.

    They come after the admin's own: of two settings ssh(1) takes the first.
    """
    if not {"aes", "pclmulqdq"} <= set(flags) and not {"aes", "pmull"} <= set(flags):
        return []
    found = spawn([*ssh, "-G", "--", host], env={"PATH": TOOL_PATH, **os.environ}, timeout_s=TIMEOUT_S)
    order = reordered(found.stdout.decode("utf-8", "replace")) if found.status == 0 else ""
    return ["-o", f"Ciphers={order}"] if order else []
