"""A booted Debian: systemd as process 1 in a container, on layers of files that no test changes.

Each machine writes to a layer of its own in memory. It has a loopback of its own and no other network; a thread enters
it by `Machine.network`.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.host.image import UnavailableError
from tests.support.polling import until

WHEELS = "/srv/wheels"
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
CHROOT = f"""set -e
mount --rbind /dev "$1/dev"
mount -t proc proc "$1/proc"
mkdir -p "$1{WHEELS}"
mount --bind "$2" "$1{WHEELS}"
exec chroot "$1" sleep infinity
"""
LOGIN = {
    "HOME": "/root",
    "LOGNAME": "root",
    "USER": "root",
    "SHELL": "/bin/bash",
    # A terminal that can do nothing: no pager starts, and nothing is coloured.
    "TERM": "dumb",
    "LANG": "C.UTF-8",
    # The host has no network: pip takes the pinned wheels from a folder.
    "PIP_NO_INDEX": "1",
    "PIP_FIND_LINKS": WHEELS,
}
"""The environment of root's login."""
BOOT_SECONDS = 120


@contextmanager
def layer(folder: Path, below: Sequence[Path]) -> Iterator[tuple[Path, Path]]:
    """A folder tree over `below` (topmost first), and the folder that gets what is written to it.

    Both end with the block.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        # In memory: an overlay takes no other overlay for what it writes to, which /tmp may be.
        _mount(stack, "-t", "tmpfs", "-o", "mode=0755", "kmsd-test", str(folder))
        root, upper, work = (folder / name for name in ("root", "upper", "work"))
        for path in (root, upper, work):
            path.mkdir(mode=0o755)
        options = f"lowerdir={':'.join(map(str, below))},upperdir={upper},workdir={work}"
        with ExitStack() as mounted:
            _mount(mounted, "-t", "overlay", "-o", options, "kmsd-test", str(root))
            yield root, upper


def _mount(stack: ExitStack, *arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UnavailableError(f"mount {' '.join(arguments)}: {done.stderr.strip()}")
    # Lazily: the kernel may hold a file of a process that has just ended.
    stack.callback(subprocess.run, ["umount", "--lazy", arguments[-1]], check=True)


running: list[Machine] = []
"""Machines that tests have made and not ended yet."""


@dataclass
class Machine:
    """One host; `boot` and `power_off` as often as a test likes."""

    root: Path
    """Its files, as this process sees them."""
    upper: Path
    """What was written; a layer for others once the machine is off."""
    wheels: Path
    console: Path = field(init=False)
    _process: subprocess.Popen[bytes] | None = None
    _leader: int = 0

    def __post_init__(self) -> None:
        self.console = self.root.parent / "console"

    def boot(self) -> None:
        """Until sockets and basic services are there; others may still start.

        Raises UnavailableError with the reason if that never comes about.
        """
        command = self._command()
        if shutil.which(command[0]) is None:
            raise UnavailableError(f"{command[0]} is not installed")
        assert self._process is None
        with self.console.open("ab") as console:
            self._process = subprocess.Popen(
                # It ends with the tests, however they end.
                ["setpriv", "--pdeathsig", "KILL", *command],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                env={**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
            )
        try:
            until(self._up, BOOT_SECONDS)
        except AssertionError as error:
            said = self.console.read_text(errors="replace").strip().splitlines()[-5:]
            self.power_cut()
            raise UnavailableError(f"{command[0]} starts no Debian here: {' | '.join(said)}") from error

    def _command(self) -> list[str]:
        return [
            *("systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"),
            *(f"--machine=kmsd-test-{os.getpid()}", "--register=no", "--keep-unit", "--private-users=no"),
            *("--private-network", "--console=pipe", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
            f"--bind-ro={self.wheels}:{WHEELS}",
        ]

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"it ended with status {self._process.returncode}")
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        self._leader = int(children[0]) if children else 0
        return self._leader != 0 and self._answers()

    def _answers(self) -> bool:
        command = [*self.entered(), "systemctl", "is-active", "--quiet", "basic.target"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def started(self) -> bool:
        """True if systemd has done all that a boot is to do."""
        return self.run("systemctl is-system-running", check=False).stdout.strip() in {"running", "degraded"}

    def entered(self, folder: str = "/root") -> list[str]:
        """What precedes a command that is to run inside, as root."""
        return ["nsenter", f"--target={self._leader}", "--all", "--root", f"--wdns={folder}", "--"]

    def run(self, script: str, *, check: bool = True, folder: str = "/root") -> subprocess.CompletedProcess[str]:
        """A script in a login shell of root; standard error is among the output."""
        environment = [f"{name}={value}" for name, value in LOGIN.items()]
        done = subprocess.run(
            [*self.entered(folder), "env", "-i", *environment, "bash", "-l", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=300,
        )
        assert not check or done.returncode == 0, f"{script}: {done.returncode}\n{done.stdout}"
        return done

    @contextmanager
    def network(self) -> Iterator[None]:
        """Sockets that this thread makes belong to the machine: its 127.0.0.1 is this thread's."""
        with network_of(self._leader):
            yield

    def unit(self, name: str, setting: str) -> str:
        """One property of a unit, as `systemctl show` has it."""
        return self.run(f"systemctl show --property={setting} --value {name}").stdout.strip()

    def journal(self, lines: int = 80) -> str:
        """What the units have said since the boot, the end of it; empty if the machine is down."""
        if not self._leader:
            return ""
        command = [*self.entered(), "journalctl", "--no-pager", "--quiet", "--boot", f"--lines={lines}"]
        command += ["--unit=kmsd.service", "--unit=kmsd.socket"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout

    def power_off(self) -> None:
        """As an operator does; every service is stopped first."""
        self.run("systemctl poweroff")
        assert self._process is not None
        self._process.wait(120)
        self._leader, self._process = 0, None

    def reboot(self) -> None:
        """Stop every service, and boot the same files."""
        self.power_off()
        self.boot()

    def power_cut(self) -> None:
        """End every process at once."""
        if self._process is None:
            return
        if self._leader:
            os.kill(self._leader, signal.SIGKILL)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        self._leader, self._process = 0, None


@contextmanager
def network_of(process: int) -> Iterator[None]:
    """Sockets that this thread makes belong to the network of a process."""
    with open("/proc/thread-self/ns/net") as ours, open(f"/proc/{process}/ns/net") as theirs:  # noqa: PTH123
        _enter_network(theirs.fileno())
        try:
            yield
        finally:
            _enter_network(ours.fileno())


def _enter_network(descriptor: int) -> None:
    # os.setns is there from Python 3.12 on.
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


class Chroot(Machine):
    """The same files, and nothing but what is started in them: for machines that boot none."""

    def _command(self) -> list[str]:
        namespaces = ["unshare", "--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child"]
        return [*namespaces, "sh", "-c", CHROOT, "sh", str(self.root), str(self.wheels)]

    def _answers(self) -> bool:
        # It is in its place once its root is this one.
        if not Path(f"/proc/{self._leader}/root").samefile(self.root):
            return False
        with self.network(), socket.socket() as any_socket:
            fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP))
        return True

    def power_off(self) -> None:
        """End every process; there is nobody to tell them."""
        self.power_cut()


@contextmanager
def machine(folder: Path, below: Sequence[Path], wheels: Path, kind: type[Machine] = Machine) -> Iterator[Machine]:
    """A machine that is not booted yet, on these layers; it is gone with the block."""
    with layer(folder, below) as (root, upper):
        found = kind(root, upper, wheels)
        running.append(found)
        try:
            yield found
        finally:
            running.remove(found)
            found.power_cut()
