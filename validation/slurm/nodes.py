"""A cluster of two nodes on one machine: SLURM's daemons in namespaces of their own.

A head and two nodes, each with its own network, host name, process numbers and mounts, joined by
virtual cables (veth) to a bridge. Only loopback and these networks have addresses: nothing of it is
seen from the machine itself, and nothing is left when the head's first process ends, however that
happens. All see the machine's files under the same paths, but for one directory, ``local``, which
is another one on each node, like the disk of a node.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

HEAD, ADDRESSES = "10.213.0.1", {"n1": "10.213.0.11", "n2": "10.213.0.12"}
CPUS = 8
"""What SLURM believes a node to have, so that several jobs run at once."""
SLURMD_TIMEOUT = 45
"""Seconds without an answer after which SLURM takes a node for lost (its default: 300)."""
REQUEUE = 30
"""Seconds that SLURM waits before it begins a job of a lost node again."""
KINDS = "abcdefg"
"""Generic resources of which each node has one."""
INTERFACE = "net0"
"""Of head and nodes."""

_SPACES = (
    "unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
)  # fmt: skip


def inside(command: Sequence[str]) -> int:
    """Run a command as the head: in namespaces of its own, where it is the first process.

    SIGINT and SIGTERM are handed on to it; if this process is killed, it dies too, and with it all
    the rest.

    Returns
    -------
    int
        Its exit status.
    """
    libc = ctypes.CDLL(None)
    process = subprocess.Popen(
        [*_SPACES, *command],
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(1, signal.SIGKILL),  # PR_SET_PDEATHSIG
    )

    def hand_on(number: int, _: object) -> None:
        with contextlib.suppress(OSError):
            first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            os.kill(int(first[0]), number) if first else process.kill()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, hand_on)
    return process.wait()


def _do(*command: object) -> None:
    subprocess.run([*map(str, command)], check=True, stdin=subprocess.DEVNULL)


class Node:
    """One node; `start` may follow `vanish`.

    Attributes
    ----------
    name : str
    disk : Path
        What the node has as ``local``.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder, self.disk = name, folder, folder / f"local-{name}"
        self.disk.mkdir()
        self._starts = 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._starts += 1
        script = (
            f"hostname {self.name}; ip link set lo up; "
            f"mount --bind {self.disk} {local(self.folder)}; read -r go; exec </dev/null; "
            f"slurmd -D -N {self.name} -f {self.folder}/slurm.conf & wait"
        )
        with open(self.folder / "log" / f"{self.name}.out", "a") as log:
            self._process = process = subprocess.Popen(
                [*_SPACES, "bash", "-c", script],
                stdin=subprocess.PIPE, stdout=log, stderr=log, text=True,
            )  # fmt: skip
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{process.pid}/ns/net") == ours:
            time.sleep(0.01)
        _do("ip", "link", "add", self._cable, "type", "veth",
            "peer", "name", INTERFACE, "netns", process.pid)  # fmt: skip
        _do("ip", "link", "set", self._cable, "master", INTERFACE, "up")
        there = ("nsenter", f"--net=/proc/{process.pid}/ns/net", "ip")
        _do(*there, "address", "add", f"{ADDRESSES[self.name]}/24", "dev", INTERFACE)
        _do(*there, "link", "set", INTERFACE, "up")
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.close()

    @property
    def network(self) -> Path:
        """The node's network, for ``nsenter --net=``."""
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/ns/net")

    @property
    def _cable(self) -> str:
        return f"to-{self.name}-{self._starts}"

    def cut(self) -> None:
        """The network of the node is gone; the node goes on."""
        _do("ip", "link", "set", self._cable, "down")

    def heal(self) -> None:
        _do("ip", "link", "set", self._cable, "up")

    def vanish(self) -> None:
        """Network gone, then slurmd and all processes of the node killed, as without power: nobody
        is told."""
        assert self._process is not None
        self.cut()
        self._process.kill()
        self._process.wait()


def local(folder: Path) -> Path:
    """The directory that is another one on each node."""
    return folder / "local"


class Cluster:
    """SLURM on head and nodes; only where `inside` has run this process.

    Parameters
    ----------
    folder : Path
        For configuration, state, logs, sockets, and the nodes' disks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("munge", "state", "run", "log", "local", "spool-n1", "spool-n2"):
            (folder / name).mkdir(mode=0o700 if name == "munge" else 0o755)
        self.nodes = {name: Node(name, folder) for name in ADDRESSES}
        self._daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Raises OSError if the nodes do not become idle."""
        folder = self.folder
        hosts = [f"{address} {name}" for name, address in ({"head": HEAD} | ADDRESSES).items()]
        (folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
        (folder / "slurm.conf").write_text(_configuration(folder))
        (folder / "gres.conf").write_text("".join(f"Name={kind} Count=1\n" for kind in KINDS))
        _do("hostname", "head")
        _do("mount", "--bind", folder / "hosts", "/etc/hosts")
        _do("ip", "link", "set", "lo", "up")
        _do("ip", "link", "add", INTERFACE, "type", "bridge")
        _do("ip", "address", "add", f"{HEAD}/24", "dev", INTERFACE)
        _do("ip", "link", "set", INTERFACE, "up")
        key = os.open(folder / "munge" / "key", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        os.write(key, os.urandom(1024))
        os.close(key)
        self._daemon("munged", "--foreground", f"--socket={folder}/run/munge.socket",
                     f"--key-file={folder}/munge/key", f"--pid-file={folder}/run/munged.pid",
                     f"--log-file={folder}/log/munged.log", f"--seed-file={folder}/munge/seed",
                     "--num-threads=2")  # fmt: skip
        _until(lambda: (folder / "run" / "munge.socket").exists(), 10, "munged")
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-f", folder / "slurm.conf")
        for node in self.nodes.values():
            node.start()
        self.until_idle()

    def until_idle(self) -> None:
        """Wait until both nodes take jobs."""
        _until(
            lambda: set(self.states().values()) <= {"idle", "mixed", "allocated"}, 60, "the nodes"
        )

    def states(self) -> dict[str, str]:
        """What SLURM says of the nodes."""
        done = subprocess.run(["sinfo", "-h", "-N", "-o", "%N %T"], capture_output=True, text=True)
        return dict(line.split() for line in done.stdout.splitlines()) or {"": "unknown"}

    def _daemon(self, *command: object) -> None:
        with open(self.folder / "log" / f"{command[0]}.out", "a") as log:
            self._daemons.append(
                subprocess.Popen(
                    [*map(str, command)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def stop(self) -> None:
        for node in self.nodes.values():
            with contextlib.suppress(AssertionError, subprocess.CalledProcessError):
                node.vanish()
        for daemon in self._daemons[::-1]:
            daemon.kill()
            daemon.wait()

    def log(self) -> str:
        """The ends of the daemons' logs."""
        parts = []
        for file in sorted((self.folder / "log").iterdir()):
            lines = file.read_text(errors="replace").splitlines()[-5:]
            parts += [f"{file.name}:", *lines]
        return "\n".join(parts)


def _until(condition: object, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        if time.monotonic() > end:
            raise OSError(f"{what}: not ready within {seconds:g} s")
        time.sleep(0.1)


def _configuration(folder: Path) -> str:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    nodes = "\n".join(
        f"NodeName={name} NodeHostname={name} NodeAddr={address} CPUs={CPUS} RealMemory={memory} "
        f"Gres={','.join(f'{kind}:1' for kind in KINDS)}"
        for name, address in ADDRESSES.items()
    )
    return f"""\
ClusterName=twonodes
SlurmctldHost=head({HEAD})
SlurmctldPort=6817
SlurmdPort=6818
AuthType=auth/munge
# How long a job waits that is sent again (default: 120 s).
AuthInfo=socket={folder}/run/munge.socket,cred_expire={REQUEUE}
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd-%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd-%n.log
# No cgroups: works in containers.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
# Short waits: this is for tests.
KillWait=5
InactiveLimit=0
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout={SLURMD_TIMEOUT}
DefMemPerCPU={memory // CPUS}
# One job of a kind on a node: so the jobs of a test are on both.
GresTypes={",".join(KINDS)}
{nodes}
# LLN: jobs go to the node that has least to do, so to both.
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP LLN=YES
"""
