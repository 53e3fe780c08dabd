"""make install and uninstall: from any clone, over nothing of the admin's, and what is installed works.

Everything happens on a node of its own whose /usr/local, /etc/vz and /etc/sysctl.d are empty file systems.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import BUSYBOX, template
from testnode import TREE, Node
from vz.cli.main import VERSION
from vz.cli.table import PROGRAMS
from vz.ops.hostcheck import NEEDED

PARTS = (
    "bin",
    "completion",
    "docs",
    "etc",
    "src",
    "tools",
    "Makefile",
    "pyproject.toml",
    "tests/testnode.py",
    "tests/hostsettings.py",
)
ENV = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"]
NOBODY = 65534


class Host:
    """A node with nothing of ours installed, and a clone at an awkward place: blanks, quotes, another owner, umask 077."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.clone = f'{node.home}/some clones/it\'s "vz" $HOME'

    def run(self, *words: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        return self.node.run(*ENV, *words, timeout=timeout)

    def ok(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout

    def make(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run make in the clone as root with the umask of a careful admin."""
        return self.run("sh", "-c", 'umask 077; cd "$1" && shift && exec make "$@"', "sh", self.clone, *words)

    def install(self, *words: str) -> str:
        done = self.make("install", *words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def path(self, name: str) -> Path:
        return self.node.path(name)


@pytest.fixture
def host() -> Iterator[Host]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with Node() as node:
        for name in ("/usr/local", "/etc/vz", "/etc/sysctl.d", "/etc/init.d"):
            done = node.run("mount", "-t", "tmpfs", "-o", "mode=755", "vz-install", name)
            assert done.returncode == 0, done.stderr
        made = Host(node)
        os.makedirs(made.clone)
        for part in PARTS:
            here = TREE / part
            if here.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(here, f"{made.clone}/{part}", symlinks=True, ignore=ignored)
            else:
                os.makedirs(os.path.dirname(f"{made.clone}/{part}"), exist_ok=True)
                shutil.copy(here, f"{made.clone}/{part}")
        for folder, folders, files in os.walk(made.clone):
            for name in [*folders, *files]:
                path = f"{folder}/{name}"
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
                if not os.path.islink(path):
                    os.chmod(path, os.stat(path).st_mode & 0o700)
        yield made


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    """Return what is below *top*: relative path → mode, owner and contents.  Compiled files count by their name."""
    found: dict[str, tuple[object, ...]] = {}
    for folder, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = Path(folder, name)
            status = path.lstat()
            what: object = ""
            if path.is_symlink():
                what = os.readlink(path)
            elif stat.S_ISREG(status.st_mode) and path.suffix != ".pyc":
                what = path.read_bytes()
            found[str(path.relative_to(top))] = (oct(status.st_mode), status.st_uid, status.st_gid, what)
    return found


def adopt(host: Host) -> None:
    """Do what the admin of this node would: the id pool and the cgroup of vz.conf are not the shipped ones."""
    conf = host.path("/etc/vz/vz.conf")
    text = conf.read_text().replace('LOCAL_UID="100000"', 'LOCAL_UID="1310720000"')
    conf.write_text(text.replace('# CGROUP_PARENT="vz"', f'CGROUP_PARENT="{host.node.cgroup_parent}"'))


def test_a_ct_lives_its_life_with_the_installed_commands(host: Host) -> None:
    template("busybox")
    host.install()
    shutil.rmtree(os.path.dirname(host.clone))  # what is installed needs no clone
    adopt(host)
    assert host.ok("vzctl", "--version") == f"vzctl version {VERSION}\n"
    host.ok("vzctl", "create", "101", "--ostemplate", BUSYBOX, "--hostname", "first")
    host.ok("vzctl", "set", "101", "--ipadd", "192.0.2.101/24", "--save")
    host.ok("vzctl", "start", "101")
    assert host.ok("vzctl", "exec", "101", "hostname") == "first\n"
    assert "192.0.2.101" in host.ok("vzlist", "-H", "-o", "ip")
    host.ok("ping", "-c", "1", "-W", "2", "192.0.2.101")
    host.ok("vzctl", "stop", "101")
    host.ok("vzctl", "destroy", "101")
    assert host.ok("vzctl", "status", "101") == "CTID 101 deleted unmounted down\n"


def test_what_is_installed_belongs_to_root_and_can_be_read_by_all(host: Host) -> None:
    host.install()
    for top in ("/usr/local", "/etc/vz", "/etc/sysctl.d", "/etc/init.d"):
        found = snapshot(host.path(top))
        assert found
        for name, (mode, uid, gid, _) in found.items():
            number = int(str(mode), 8)
            wanted = 0o555 if stat.S_ISDIR(number) or "/sbin/" in f"/{name}" else 0o444
            assert (uid, gid) == (0, 0), f"{top}/{name}"
            assert stat.S_ISLNK(number) or (number & wanted == wanted and not number & 0o022), f"{top}/{name}: {mode}"
    assert "status" in host.ok("setpriv", f"--reuid={NOBODY}", "--clear-groups", "vzlist", "-L")


def test_programs_and_data_of_the_package_come_along(host: Host) -> None:
    for name, mode in (("hook", 0o700), ("table", 0o600)):
        path = Path(host.clone, f"src/vz/checkpoint/{name}")
        path.write_text("#!/bin/sh\n")
        path.chmod(mode)
    host.install()
    installed = host.path("/usr/local/lib/vz/vz/checkpoint")
    assert [stat.S_IMODE((installed / name).stat().st_mode) for name in ("hook", "table")] == [0o755, 0o644]


def test_commands_manual_and_completion_are_where_they_are_looked_for(host: Host) -> None:
    host.install()
    commands = {name for name, module in PROGRAMS.items() if (TREE / f"src/vz/cli/{module}.py").exists()}
    assert commands >= {"vzctl", "vzlist", "vzpid", "vztmpl", "vztmpl-dl", "vzcfgvalidate"}
    assert set(os.listdir(host.path("/usr/local/sbin"))) == {*commands, "vz-launcher"}
    for name in commands:
        assert host.ok("sh", "-c", f"command -v {name}") == f"/usr/local/sbin/{name}\n"
        done = host.run(name, "--no-such-option")
        assert done.stdout or done.stderr, name
        assert "Traceback" not in done.stderr, name
    if shutil.which("man"):
        for page in ("vzctl", "vzlist", "vztmpl", "ctid.conf", "vz.conf"):
            assert host.ok("man", "-w", page).startswith("/usr/local/share/man/"), page
    if os.path.exists("/usr/share/bash-completion/bash_completion"):
        for name, words in (("vzctl", "vzctl stat"), ("vzlist", "vzlist --js"), ("vztmpl", "vztmpl ver")):
            # XDG_DATA_DIRS has /usr/local/share by default
            script = (
                f". /usr/share/bash-completion/bash_completion; "
                f"if declare -F _comp_load >/dev/null; then _comp_load {name}; else __load_completion {name}; fi; "
                f"COMP_WORDS=({words}); COMP_CWORD=1; _{name}; echo ${{COMPREPLY[@]}}"
            )
            assert host.ok("bash", "-c", script).strip() in ("status", "--json", "verify"), name


def test_a_second_install_changes_nothing(host: Host) -> None:
    host.install()
    before = {top: snapshot(host.path(top)) for top in ("/usr/local", "/etc/vz", "/etc/sysctl.d", "/etc/init.d")}
    assert "kept" not in host.install()
    assert {top: snapshot(host.path(top)) for top in before} == before


def test_files_of_the_admin_stay_as_they_are(host: Host) -> None:
    host.install()
    etc = host.path("/etc/vz")
    own = {
        "vz.conf": "VERBOSE=1\n",
        "conf/ve-basic.conf-sample": "# mine\n",
        "dists/debian.conf": "FAMILY=other\n",
        "download.conf": "",
    }
    for name, text in own.items():
        (etc / name).write_text(text)
    (etc / "vz.conf").chmod(0o600)
    (etc / "conf/ve-light.conf-sample").unlink()
    (etc / "conf/ve-light.conf-sample").symlink_to("/nowhere")
    (etc / "conf/101.conf").write_text("ONBOOT=yes\n")
    host.path("/etc/sysctl.d/vz.conf").write_text("kernel.pid_max = 65536\n")
    before = {top: snapshot(host.path(top)) for top in ("/etc/vz", "/etc/sysctl.d")}
    printed = host.install()
    assert {top: snapshot(host.path(top)) for top in before} == before
    for name in own:
        assert f"/etc/vz/{name}" in printed
    assert host.make("uninstall").returncode == 0
    assert {top: snapshot(host.path(top)) for top in before} == before


def test_uninstall_leaves_what_was_there_before(host: Host) -> None:
    local = host.path("/usr/local")
    for name in ("sbin/own", "share/man/man8/own.8", "lib/python3.11/own.py"):
        (local / name).parent.mkdir(parents=True)
        (local / name).write_text("own\n")
    (local / "share/bash-completion").mkdir()
    before = snapshot(local)
    host.install()
    assert len(snapshot(local)) > len(before) + 100
    assert (local / "lib/vz/vz/cli/main.py").exists()
    for _ in range(2):
        done = host.make("uninstall")
        assert done.returncode == 0, done.stderr
        assert snapshot(local) == before


def test_uninstall_leaves_containers_running(host: Host) -> None:
    template("busybox")
    host.install()
    adopt(host)
    host.ok("vzctl", "create", "101", "--ostemplate", BUSYBOX)
    host.ok("vzctl", "start", "101")
    assert host.make("uninstall").returncode == 0
    assert host.run("vzctl", "status", "101").returncode == 127
    host.install()
    assert host.ok("vzctl", "status", "101") == "CTID 101 exist mounted running\n"
    host.ok("vzctl", "stop", "101", "--fast")
    host.ok("vzctl", "destroy", "101")


def test_a_running_daemon_becomes_the_new_version(host: Host) -> None:
    """As the same process, which its containers have for a parent; by itself, at the next thing that happens."""
    template("busybox")
    host.install()
    adopt(host)
    host.ok("vzctl", "create", "101", "--ostemplate", BUSYBOX)
    conf = host.path("/etc/vz/vz.conf")
    conf.write_text(conf.read_text().replace("/var/log/vzctl.log", "/var/lib/vzctl/vzctl.log"))
    host.ok("vzeventd")
    pid = host.path("/run/vz/eventd.pid").read_text().strip()
    host.ok("vzctl", "start", "101")
    table = Path(host.clone, "src/vz/node/daemon.py")
    table.write_text(table.read_text().replace('"Watching ', '"The new one: watching '))
    host.install()
    host.ok("vzctl", "restart", "101", "--fast")
    assert (
        "The new one: watching 1 running container(s), 1 of them own children"
        in host.path("/var/lib/vzctl/vzctl.log").read_text()
    )
    assert host.path("/run/vz/eventd.pid").read_text().strip() == pid
    init = host.path("/var/lib/vzctl/vepid/101").read_text().strip()
    assert f"\nPPid:\t{pid}\n" in Path(f"/proc/{init}/status").read_text()
    assert host.make("uninstall").returncode == 0
    os.kill(int(pid), signal.SIGHUP)  # it has nothing to become
    host.install()
    assert host.ok("vzctl", "status", "101") == "CTID 101 exist mounted running\n"
    host.ok("vzctl", "restart", "101", "--fast")
    assert host.path("/run/vz/eventd.pid").read_text().strip() == pid
    os.kill(int(pid), signal.SIGTERM)
    host.ok("vzctl", "stop", "101", "--fast")
    host.ok("vzctl", "destroy", "101")


@pytest.mark.parametrize("prefix", ["/usr/local", "/usr/local/one two"])
def test_units_name_the_installed_program(host: Host, prefix: str) -> None:
    host.install(f"PREFIX={prefix}")
    units = [host.path(f"{prefix}/lib/systemd/system/{name}") for name in ("vz.service", "vzeventd.service")]
    for unit in units:
        assert "@PREFIX@" not in unit.read_text()
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    done = host.run(
        "systemd-analyze", "verify", "--man=no", *(f"{prefix}/lib/systemd/system/{unit.name}" for unit in units)
    )
    assert [line for line in done.stderr.splitlines() if "vz" in line] == []


@pytest.mark.parametrize("name", ["sbin/vzlist", "share/man/man8/vzctl.8", "lib/vz/vz/theirs.py"])
def test_a_file_that_is_not_ours_is_never_written_over(host: Host, name: str) -> None:
    local = host.path("/usr/local")
    (local / name).parent.mkdir(parents=True)
    (local / name).write_text("theirs\n")
    before = snapshot(local)
    done = host.make("install")
    assert done.returncode != 0
    assert "/usr/local/" + name.replace("/theirs.py", "") in done.stderr and "Traceback" not in done.stderr
    assert snapshot(local) == before
    assert not os.listdir(host.path("/etc/vz"))


def test_a_command_that_the_admin_replaced_stays(host: Host) -> None:
    host.install()
    vzlist = host.path("/usr/local/sbin/vzlist")
    vzlist.unlink()
    vzlist.write_text("#!/bin/sh\n")
    assert host.make("install").returncode != 0
    done = host.make("uninstall")
    assert done.returncode == 0 and "/usr/local/sbin/vzlist" in done.stdout
    assert vzlist.read_text() == "#!/bin/sh\n"
    assert [name for name in snapshot(host.path("/usr/local")) if "vz" in name] == ["sbin/vzlist"]


def test_an_upgrade_takes_away_what_the_new_version_lacks(host: Host) -> None:
    os.symlink("vz-launcher", f"{host.clone}/bin/vzold")
    Path(host.clone, "src/vz/cli/vzold.py").write_text('"""Old."""\n')
    table = Path(host.clone, "src/vz/cli/table.py")
    text = table.read_text()
    table.write_text(text + 'PROGRAMS["vzold"] = "vzold"\n')
    Path(host.clone, "docs/man/vzold.8").write_text(".TH VZOLD 8\n")
    host.install()
    names = ("sbin/vzold", "lib/vz/vz/cli/vzold.py", "share/man/man8/vzold.8")
    assert all(os.path.lexists(host.path(f"/usr/local/{name}")) for name in names)
    table.write_text(text)
    for name in ("bin/vzold", "src/vz/cli/vzold.py", "docs/man/vzold.8"):
        os.unlink(f"{host.clone}/{name}")
    host.install()
    assert not any(os.path.lexists(host.path(f"/usr/local/{name}")) for name in names)


def test_commands_work_while_a_new_version_comes(host: Host) -> None:
    host.install()
    script = "for i in $(seq 400); do vzctl --version || echo failed; done; echo end"
    looping = host.node.popen(*ENV, "sh", "-c", script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    installs = 0
    while looping.poll() is None and installs < 40:
        host.install()
        installs += 1
    printed = looping.communicate()[0].decode()
    assert installs > 2
    assert set(printed.splitlines()) == {f"vzctl version {VERSION}", "end"}


def test_criu_comes_along_once_where_the_tree_has_one(host: Host) -> None:
    """By a stand-in for the installer, which would fetch it."""
    os.makedirs(f"{host.clone}/.prefix/criu")
    installer = Path(host.clone, "tools/install-criu")
    local = host.path("/usr/local")
    installer.write_text("#!/bin/sh\necho no archive >&2\nexit 1\n")
    done = host.make("install")
    assert done.returncode == 0 and "criu was not installed" in done.stderr
    installer.write_text('#!/bin/sh\nmkdir -p "$2/sbin" && echo "$2" >>"$2/sbin/criu"\n')
    for _ in range(2):
        host.install()
    assert (local / "libexec/vz/criu/sbin/criu").read_text() == "/usr/local/libexec/vz/criu\n"
    assert host.make("uninstall").returncode == 0
    assert os.listdir(local) == []


def test_a_full_disk_is_one_line_and_can_be_mended(host: Host) -> None:
    host.ok("sh", "-c", "mkdir /usr/local/small && mount -t tmpfs -o size=600k vz-install /usr/local/small")
    done = host.make("install", "DESTDIR=/usr/local/small")
    assert done.returncode != 0
    assert "No space left" in done.stderr and "Traceback" not in done.stderr
    assert host.make("uninstall", "DESTDIR=/usr/local/small").returncode == 0
    left = [name for name in snapshot(host.path("/usr/local/small")) if not name.startswith("etc")]
    assert left == []
    host.ok("mount", "-o", "remount,size=20m", "/usr/local/small")
    host.install("DESTDIR=/usr/local/small")


def test_a_killed_install_is_finished_by_the_next_and_can_be_removed(host: Host) -> None:
    argv = host.node.argv(*ENV, f"{host.clone}/tools/install")
    host.install("DESTDIR=/usr/local/whole")
    whole = snapshot(host.path("/usr/local/whole"))
    began = time.monotonic()
    host.install("DESTDIR=/usr/local/killed")
    length = time.monotonic() - began
    killed = 0
    for step in range(12):
        host.ok("rm", "-rf", "/usr/local/killed")
        process = subprocess.Popen([*argv, "/usr/local/killed", "/usr/local"], stdout=subprocess.DEVNULL)
        time.sleep(length * step / 12)
        process.kill()
        killed += process.wait() != 0
        if step % 2:
            assert host.make("uninstall", "DESTDIR=/usr/local/killed").returncode == 0
            left = [name for name in snapshot(host.path("/usr/local/killed")) if "vz" in name and "etc" not in name]
            assert left == []
        else:
            host.install("DESTDIR=/usr/local/killed")
            assert snapshot(host.path("/usr/local/killed")) == whole
    assert killed > 2, "nothing was interrupted"


def test_a_package_can_be_built_without_root(host: Host) -> None:
    host.ok("sh", "-c", f"mkdir -m 777 /usr/local/stage; chmod 755 '{host.node.home}/some clones'")
    as_nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    script = 'cd "$1" && exec make install DESTDIR=/usr/local/stage/root PREFIX=/usr'
    host.ok(*as_nobody, "sh", "-c", script, "sh", host.clone)
    assert host.path("/usr/local/stage/root/usr/sbin/vzctl").is_symlink()
    assert "/usr/local" not in host.path("/usr/local/stage/root/usr/lib/vz/installed").read_text()
    done = host.run(*as_nobody, "sh", "-c", 'cd "$1" && exec make install', "sh", host.clone)
    assert done.returncode != 0
    assert "root is needed" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("prefix", ["relative", "/with\ttab", ""])
def test_a_prefix_that_cannot_be_is_refused(host: Host, prefix: str) -> None:
    done = host.make("install", f"PREFIX={prefix}", "DESTDIR=/usr/local/stage")
    assert done.returncode != 0 and "absolute path" in done.stderr
    assert not os.listdir(host.path("/usr/local"))


def test_a_prefix_may_have_blanks_and_quotes(host: Host) -> None:
    host.install("PREFIX=/usr/local/o'ne two")
    assert host.ok("/usr/local/o'ne two/sbin/vzctl", "--version") == f"vzctl version {VERSION}\n"
    assert host.make("uninstall", "PREFIX=/usr/local/o'ne two").returncode == 0
    assert os.listdir(host.path("/usr/local")) == []


def test_a_clone_in_the_prefix_is_not_taken_for_the_package(host: Host) -> None:
    """/usr/local/src/vz is where people clone."""
    host.install()
    foreign = host.path("/usr/local/src/vz")
    (foreign / "cli").mkdir(parents=True)
    (foreign / "cli/main.py").write_text("def main(program):\n    print('not the installed one')\n")
    assert host.ok("vzctl", "--version") == f"vzctl version {VERSION}\n"


def test_the_shipped_default_template_is_one_of_this_machine(host: Host) -> None:
    host.install()
    names = host.ok("vztmpl", "build", "--list").split()
    line = [text for text in host.path("/etc/vz/vz.conf").read_text().splitlines() if "DEF_OSTEMPLATE" in text]
    assert line == [f'DEF_OSTEMPLATE="debian-12-{os.uname().machine}"']
    assert line[0].split('"')[1] in names


def test_templates_are_built_from_a_clone_with_blanks_in_its_path(host: Host) -> None:
    """Only busybox: it needs no network."""
    done = host.run("sh", "-c", 'umask 077; exec "$1/tools/templates" "$2"', "sh", host.clone, BUSYBOX)
    assert done.returncode == 0, done.stdout + done.stderr
    archive = Path(host.clone, f".cache/templates/cache/{BUSYBOX}.tar.zst")
    assert archive.stat().st_size > 100000
    assert stat.S_IMODE(archive.stat().st_mode) == 0o644


def test_a_test_node_comes_up_from_a_clone_with_blanks_in_its_path(host: Host) -> None:
    argv = [f"{host.clone}/tools/testnode", "run", "vztmpl", "list"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("NAME")


@pytest.mark.parametrize(("path", "refused"), [("it's a clone", False), ("two:parts", True), ("a $clone", True)])
def test_criu_can_be_put_below_a_path_with_blanks(tmp_path: Path, path: str, refused: bool) -> None:
    """What comes after the look at the path, the keyring, is made to fail: nothing is fetched here."""
    argv = [TREE / "tools/install-criu", "-k", tmp_path / "no keyring", tmp_path / path]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 1
    assert ("prefix may not hold" in done.stderr) is refused
    assert ("no keyring" in done.stderr) is not refused
    assert list(tmp_path.iterdir()) == []


def test_sysctl_settings_are_there_and_enough(host: Host) -> None:
    host.install()
    settings = {}
    for line in host.path("/etc/sysctl.d/vz.conf").read_text().splitlines():
        if line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            assert equals
            settings[key.strip().replace(".", "/")] = int(value)
    for key in settings:
        assert os.path.exists(f"/proc/sys/{key}"), key
    for key, least in NEEDED:
        assert settings[key] >= least, key


def test_the_session_of_the_readme(host: Host) -> None:
    """Its lines as they stand, after make install."""
    template("debian-12")
    text = (TREE / "README.md").read_text()
    session = text[text.index("vztmpl build debian-12") :].partition("```")[0].strip().splitlines()
    assert len(session) > 8
    host.install()
    adopt(host)
    printed = {}
    for line in session:
        words = line.replace("debian-12-x86_64", f"debian-12-{os.uname().machine}").split()
        done = host.node.run(*ENV, *words, stdin="id -u\nexit\n" if words[1] == "enter" else "")
        assert done.returncode == 0, f"{line}: {done.returncode}\n{done.stdout}{done.stderr}"
        printed[" ".join(words[:2])] = done.stdout
    assert "init" in printed["vzctl exec"]
    assert "root@web:~# " in printed["vzctl enter"]
    assert printed["vzlist -o"].split()[-4:] == ["101", "running", "192.0.2.101", "web"]
    assert host.ok("vzctl", "status", "101") == "CTID 101 deleted unmounted down\n"
