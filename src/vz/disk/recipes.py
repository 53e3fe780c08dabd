"""How the templates that we can build are made: Debian by mmdebstrap, a few megabytes of busybox by hand.

Everything comes from the Debian archive that this node's own apt is configured with, and its signatures are
verified by apt; the manifest beside the template names each package with version, origin and checksum.
"""

from __future__ import annotations

import os

from vz.errors import ExitCode, VzError
from vz.kernel.process import TOOL_ENV, spawn, which

COMMON = (
    "openssh-server,cron,iproute2,iputils-ping,sudo,ifupdown,procps,less,vim-tiny,netbase,ca-certificates,wget,"
    "psmisc,rsyslog,logrotate,kmod"
)
SYSTEMD = f"systemd-sysv,dbus,libpam-systemd,{COMMON}"
SYSVINIT = f"sysvinit-core,initscripts,{COMMON}"
SUITES = {"12": "bookworm", "13": "trixie"}
# a CT's own, made when it is created or started; and what the build left behind
PER_CT = "etc/hostname etc/resolv.conf etc/machine-id var/lib/dbus/machine-id var/lib/systemd/random-seed".split()

BUSYBOX_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
    "etc/shadow": "root:*:19000:0:99999:7:::\n",
    "etc/os-release": 'ID=busybox\nNAME="BusyBox"\n',
    "etc/inittab": "::sysinit:/etc/init.d/rcS\n::ctrlaltdel:/sbin/reboot\n",
    "etc/init.d/rcS": "#!/bin/sh\n[ -s /etc/hostname ] && hostname -F /etc/hostname\nexit 0\n",
    "etc/profile": "PS1='\\h:\\w# '\n",
}
BUSYBOX_DIRS = "bin sbin usr/bin usr/sbin proc sys dev run etc/init.d root tmp var/log var/tmp home mnt".split()
IN_SBIN = "init halt poweroff reboot ip ifconfig route".split()


class Recipe:
    """A template that can be built: its suite ("" for busybox) and packages."""

    __slots__ = ("name", "packages", "suite")

    def __init__(self, name: str, suite: str, packages: str) -> None:
        self.name = name
        self.suite = suite
        self.packages = packages


def known() -> dict[str, Recipe]:
    """Return the recipes for this machine's architecture by template name."""
    machine = os.uname().machine
    found = {}
    for release, suite in SUITES.items():
        found[f"debian-{release}-{machine}"] = Recipe(f"debian-{release}-{machine}", suite, SYSTEMD)
    name = f"debian-12-{machine}-sysvinit"
    found[name] = Recipe(name, SUITES["12"], SYSVINIT)
    found[f"busybox-{machine}"] = Recipe(f"busybox-{machine}", "", "")
    return found


def build(recipe: Recipe, archive: str, manifest: str, scratch: str) -> None:
    """Build the template into *archive* (.tar.zst) and its *manifest*, with *scratch* for what lies between.

    Raises:
        VzError: a tool is missing or failed (48), with its last line.
    """
    plain = f"{scratch}/root.tar"
    if recipe.suite:
        _build_debian(recipe, plain, f"{scratch}/manifest")
    else:
        _build_busybox(f"{scratch}/root", plain, f"{scratch}/manifest")
    _run(["zstd", "-q", "-T0", "-10", "-f", plain, "-o", f"{scratch}/root.tar.zst"])
    os.chmod(f"{scratch}/root.tar.zst", 0o644)
    os.replace(f"{scratch}/manifest", manifest)
    os.replace(f"{scratch}/root.tar.zst", archive)


def archive_uri() -> str:
    """Return the URI of the Debian archive that this node's apt reads; VzError (48) when it has none."""
    listed = _run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"]
    )
    for line in listed.splitlines():
        uri, release, component = (line.split() + ["", "", ""])[:3]
        if component == "main" and "-" not in release and "security" not in uri:
            return uri.rstrip("/")
    raise VzError("apt has no Debian 'main' source configured on this node", ExitCode.FS_NEW_VE_PRVT)


def _build_debian(recipe: Recipe, plain: str, manifest: str) -> None:
    uri = archive_uri()
    remove = " ".join(f'"$1/{path}"' for path in PER_CT)
    hooks = [
        # what must differ between containers is not in a template
        f'rm -f {remove} "$1"/etc/ssh/ssh_host_*_key*',
        '[ ! -d "$1/lib/systemd/system" ] || : > "$1/etc/machine-id"',
        'printf "127.0.0.1 localhost\\n::1 localhost ip6-localhost ip6-loopback\\n" > "$1/etc/hosts"',
        "chroot \"$1\" dpkg-query -W -f '${Package} ${Version} ${Architecture}\\n' > " + f"'{manifest}.packages'",
        f"cp \"$1\"/var/lib/apt/lists/*_InRelease '{manifest}.release' 2>/dev/null || true",
        f"cat \"$1\"/var/lib/apt/lists/*_Packages > '{manifest}.index' 2>/dev/null || true",
    ]
    argv = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        "--components=main",
        f"--include={recipe.packages}",
    ]
    for hook in hooks:
        argv.append(f"--customize-hook={hook}")
    argv.append("--skip=cleanup/apt/lists")
    argv.append('--customize-hook=rm -rf "$1"/var/lib/apt/lists/*')
    argv += ["--format=tar", recipe.suite, plain, f"deb {uri} {recipe.suite} main"]
    _run(argv)
    _write_manifest(recipe, manifest)


def _write_manifest(recipe: Recipe, manifest: str) -> None:
    """Join the installed packages with the verified index: where each came from."""
    import hashlib

    origin: dict[tuple[str, str], tuple[str, str]] = {}
    entry: dict[str, str] = {}
    with open(f"{manifest}.index", encoding="utf-8", errors="replace") as index:
        for line in index:
            if line.strip():
                key, _, value = line.partition(": ")
                if key in ("Package", "Version", "Filename", "SHA256"):
                    entry[key] = value.strip()
            elif entry:
                origin[(entry.get("Package", ""), entry.get("Version", ""))] = (
                    entry.get("Filename", ""),
                    entry.get("SHA256", ""),
                )
                entry = {}
    if entry:
        origin[(entry.get("Package", ""), entry.get("Version", ""))] = (
            entry.get("Filename", ""),
            entry.get("SHA256", ""),
        )
    release = ""
    if os.path.exists(f"{manifest}.release"):
        with open(f"{manifest}.release", "rb") as file:
            release = hashlib.sha256(file.read()).hexdigest()
    with open(f"{manifest}.packages", encoding="utf-8") as file:
        packages = [line.split() for line in file if line.strip()]
    with open(manifest, "w", encoding="utf-8") as out:
        out.write(f"template {recipe.name}\nsuite {recipe.suite}\nInRelease-sha256 {release}\n")
        for name, version, architecture in packages:
            filename, checksum = origin.get((name, version), ("unknown", "unknown"))
            out.write(f"package {name} {version} {architecture} {filename} {checksum}\n")
    for suffix in ("packages", "release", "index"):
        if os.path.exists(f"{manifest}.{suffix}"):
            os.unlink(f"{manifest}.{suffix}")


def _build_busybox(root: str, plain: str, manifest: str) -> None:
    import hashlib

    try:
        busybox = which("busybox")
    except FileNotFoundError:
        raise VzError("busybox is needed: install busybox-static", ExitCode.FS_NEW_VE_PRVT) from None
    with open(busybox, "rb") as file:
        program = file.read()
    if b"/ld-linux" in program[:4096]:
        raise VzError(f"{busybox} is not a static program: install busybox-static", ExitCode.FS_NEW_VE_PRVT)
    old = os.umask(0o022)
    try:
        for name in BUSYBOX_DIRS:
            os.makedirs(f"{root}/{name}", exist_ok=True)
        for name in ("tmp", "var/tmp"):
            os.chmod(f"{root}/{name}", 0o1777)
        os.chmod(f"{root}/root", 0o700)
        for name, text in BUSYBOX_FILES.items():
            with open(f"{root}/{name}", "w", encoding="ascii") as out:
                out.write(text)
        os.chmod(f"{root}/etc/shadow", 0o640)
        os.chmod(f"{root}/etc/init.d/rcS", 0o755)
        with open(f"{root}/bin/busybox", "wb") as binary:
            binary.write(program)
        os.chmod(f"{root}/bin/busybox", 0o755)
        for applet in _run([busybox, "--list"]).split():
            if applet not in ("busybox", *IN_SBIN):
                os.symlink("busybox", f"{root}/bin/{applet}")
        for applet in IN_SBIN:
            os.symlink("../bin/busybox", f"{root}/sbin/{applet}")
    finally:
        os.umask(old)
    _run(["tar", "-C", root, "--numeric-owner", "--owner=0", "--group=0", "--sort=name", "-cf", plain, "."])
    version = spawn(["dpkg-query", "-W", "-f", "${Version}", "busybox-static"]).stdout.decode() or "unknown"
    with open(manifest, "w", encoding="utf-8") as text_file:
        text_file.write(
            f"template busybox\nfile bin/busybox {hashlib.sha256(program).hexdigest()} busybox-static {version}\n"
        )


def _run(argv: list[str]) -> str:
    try:
        result = spawn(
            argv, env={**TOOL_ENV, "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": os.environ.get("TMPDIR", "/var/tmp")}
        )
    except FileNotFoundError:
        raise VzError(f"{argv[0]} is needed to build a template: install it", ExitCode.FS_NEW_VE_PRVT) from None
    if result.status:
        lines = result.stderr.decode("utf-8", "replace").strip().splitlines()
        wrong = (
            [line for line in lines if line.startswith(("E:", "error"))] or lines[-1:] or [f"status {result.status}"]
        )
        raise VzError(f"{argv[0]} failed: {wrong[0]}", ExitCode.FS_NEW_VE_PRVT)
    return result.stdout.decode("utf-8", "replace")
