"""A real Slurm on one machine, to try things and for the tests: munged, slurmctld, slurmd "nodes" and, for sacct, MariaDB and
slurmdbd. It listens on loopback only, and everything it writes lies in one folder.

    python tests/slurm/throwaway.py up --dir /tmp/slurm --nodes 2 --gpus 2 --accounting
    export SLURM_CONF=/tmp/slurm/slurm.conf
    python tests/slurm/throwaway.py down --dir /tmp/slurm
"""

from __future__ import annotations

import argparse
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

PACKAGES = "slurmctld slurmd slurm-client munge"
ACCOUNTING_PACKAGES = "slurmdbd mariadb-server-core mariadb-client-core"
WAIT = 300.0  # seconds for a daemon to answer, on a busy machine
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty")  # slurmd wants a device behind a GPU
SBIN = ("/usr/sbin", "/sbin")  # where Debian has the daemons, often not on a user's path


def missing(accounting: bool = True) -> str:
    """How to get what is not installed; "" where nothing is missing."""
    needed = {"munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue"}
    needed |= {"slurmdbd", "mariadbd", "mariadb-install-db", "sacct", "sacctmgr"} if accounting else set()
    if all(shutil.which(name, path=_path()) for name in needed):
        return ""
    packages = f"{PACKAGES} {ACCOUNTING_PACKAGES}" if accounting else PACKAGES
    return f"apt-get install -y --no-install-recommends {packages}"


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), *SBIN])


class ThrowAwayCluster:
    """The cluster in ``folder``. Usable as a context; daemons are stopped by their pid files only.

    nodes: how many slurmd; they are called 127.0.0.1, 127.0.0.2, ... which resolve without any change to the machine.
    cpus, memory: of a node, in MB; may be more than there are. gpus: of a node, fake ones.
    down_after: seconds after which a silent node counts as down. remember: for how long the controller knows ended jobs.
    """

    def __init__(
        self,
        folder: Path,
        nodes: int = 1,
        cpus: int = 8,
        memory: int = 16000,
        gpus: int = 0,
        accounting: bool = False,
        down_after: int = 15,
        remember: int = 300,
    ):
        self.folder = Path(folder).absolute()
        self.names = [f"127.0.0.{i + 1}" for i in range(nodes)]
        self.cpus, self.memory, self.gpus, self.accounting = cpus, memory, gpus, accounting
        self.down_after, self.remember = down_after, remember
        self.user, self.host = getpass.getuser(), socket.gethostname().split(".")[0]
        self.conf = self.folder / "slurm.conf"
        self.environment = {"SLURM_CONF": str(self.conf), "PATH": _path()}

    def __enter__(self) -> ThrowAwayCluster:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    # -- up -------------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and wait until all nodes are up. Raises RuntimeError with the end of the logs if that fails."""
        for name in ("munge", "log", "state", "pid"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        try:
            self._start_munged()
            self.ports = _free_ports(2 + len(self.names))
            if self.accounting:
                self._start_accounting()
            self._write_configuration()
            self._run("slurmctld", "-f", str(self.conf))
            for name in self.names:
                self.start_node(name)
            self.wait_until(self._all_up, "nodes are not up")
        except Exception:
            self.stop()
            raise

    def start_node(self, name: str) -> None:
        """Start one node's slurmd."""
        (self.folder / f"spool-{name}").mkdir(exist_ok=True)
        self._run("slurmd", "-f", str(self.conf), "-N", name)

    def _all_up(self) -> bool:
        said = self.ask("sinfo", "-h", "-N", "-p", "main", "-o", "%t").split()
        return len(said) == len(self.names) and set(said) <= {"idle", "mix", "alloc", "comp"}

    def _start_munged(self) -> None:
        munge = self.folder / "munge"
        munge.chmod(0o755)
        if not (munge / "key").exists():
            (munge / "key").touch(0o600)
            (munge / "key").write_bytes(os.urandom(128))
        self._run(
            "munged",
            "--force",
            "--num-threads=4",
            f"--key-file={munge}/key",
            f"--seed-file={munge}/seed",
            f"--socket={munge}/socket",
            f"--pid-file={self._pid('munged')}",
            f"--log-file={self.folder}/log/munged.log",
        )

    def _start_accounting(self) -> None:
        data, db_socket = self.folder / "db", self.folder / "db.sock"
        options = ["--no-defaults", f"--datadir={data}", "--innodb-log-file-size=8M"] + ["--user=root"] * (self.user == "root")
        if not data.exists():
            self._run(
                "mariadb-install-db", *options, f"--auth-root-socket-user={self.user}", "--skip-test-db", "--skip-name-resolve"
            )
        command = [
            "mariadbd",
            *options,
            f"--socket={db_socket}",
            f"--pid-file={self._pid('mariadbd')}",
            "--skip-networking",
            "--innodb-buffer-pool-size=64M",
            "--innodb-flush-log-at-trx-commit=0",
        ]
        with open(self.folder / "log" / "mariadb.log", "ab") as log:
            subprocess.Popen(command, env=self._env(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
        self.wait_until(db_socket.exists, "mariadbd did not start")
        conf = self.folder / "slurmdbd.conf"
        conf.touch(0o600)
        conf.write_text(
            f"AuthType=auth/munge\nAuthInfo=socket={self.folder}/munge/socket\nCommunicationParameters=NoInAddrAny\n"
            f"DbdHost={self.host}\nDbdAddr=127.0.0.1\nDbdPort={self.ports[1]}\nSlurmUser={self.user}\n"
            f"StorageType=accounting_storage/mysql\nStorageHost=localhost\nStorageUser={self.user}\n"
            f"StorageLoc=slurm_acct_db\nPidFile={self._pid('slurmdbd')}\nLogFile={self.folder}/log/slurmdbd.log\n"
            "CommitDelay=0\n"
        )
        self._write_configuration()
        # libmariadb finds its socket in this variable.
        self._run("slurmdbd", extra={"MYSQL_UNIX_PORT": str(db_socket)})
        self.wait_until(lambda: self.ask("sacctmgr", "-n", "list", "cluster") is not None, "slurmdbd does not answer")
        self._run("sacctmgr", "-i", "add", "cluster", "throwaway")

    def _write_configuration(self) -> None:
        first = self.folder / "first-job-id"
        if not first.exists():  # ids from the clock: submitit would find an older cluster's results under the same ids
            first.write_text(str(int(time.time()) % 60_000_000 + 1000))
        lines = {
            "ClusterName": "throwaway",
            "FirstJobId": first.read_text(),
            "SlurmctldHost": f"{self.host}(127.0.0.1)",
            "SlurmctldPort": self.ports[0],
            "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            "AuthInfo": f"socket={self.folder}/munge/socket,cred_expire=5",  # a requeue waits so long
            "SlurmUser": self.user,
            "SlurmdUser": self.user,
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool-%n",
            "SlurmctldPidFile": self._pid("slurmctld"),
            "SlurmdPidFile": self._pid("slurmd-%n"),
            "SlurmctldLogFile": self.folder / "log/slurmctld.log",
            "SlurmdLogFile": self.folder / "log/slurmd-%n.log",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core_Memory",
            "DefMemPerCPU": self.memory // (2 * self.cpus),
            "SchedulerType": "sched/backfill",
            "PriorityType": "priority/basic",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=2",
            "JobAcctGatherType": "jobacct_gather/none",
            "JobCompType": "jobcomp/none",
            "MailProg": "/bin/true",
            "ReturnToService": 2,
            "EnforcePartLimits": "ALL",
            "JobRequeue": 1,
            "KillWait": 5,
            "InactiveLimit": 0,
            "SlurmctldTimeout": 60,
            "MinJobAge": self.remember,
            "SlurmdTimeout": self.down_after,
            "SlurmdParameters": "config_overrides",
            "PropagateResourceLimits": "NONE",
            "AccountingStorageType": "accounting_storage/none",
        }
        if self.accounting:
            lines |= {
                "AccountingStorageType": "accounting_storage/slurmdbd",
                "AccountingStorageHost": "127.0.0.1",
                "AccountingStoragePort": self.ports[1],
                "AccountingStoragePass": f"{self.folder}/munge/socket",
            }
        if self.gpus:
            lines["GresTypes"] = "gpu"
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        gres = f" Gres=gpu:{self.gpus}" if self.gpus else ""
        for name, port in zip(self.names, self.ports[2:], strict=True):
            text += (
                f"NodeName={name} NodeHostname={self.host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
                f"RealMemory={self.memory}{gres} State=UNKNOWN\n"
            )
        nodes = ",".join(self.names)
        for partition, default in (("main", "YES"), ("alt", "NO")):
            text += f"PartitionName={partition} Nodes={nodes} Default={default} MaxTime=INFINITE State=UP OverSubscribe=NO\n"
        self.conf.write_text(text)
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        fake = [f"NodeName={name} Name=gpu File={device}\n" for name in self.names for device in DEVICES[: self.gpus]]
        (self.folder / "gres.conf").write_text("AutoDetect=off\n" + "".join(fake))

    # -- down -----------------------------------------------------------------------------------------------------------------

    def stop(self, wipe: bool = False) -> None:
        """Cancel all jobs and stop all daemons; ``wipe``: and remove the folder."""
        if self._alive("slurmctld"):
            self.ask("scancel", "-u", self.user)
            self.wait_until(lambda: not self.ask("squeue", "-h"), "", seconds=20)
        for name in [*(f"slurmd-{name}" for name in self.names), "slurmctld", "slurmdbd", "mariadbd", "munged"]:
            self._kill(name)
        self._kill_steps("")
        if wipe:
            shutil.rmtree(self.folder, ignore_errors=True)

    def kill_node(self, name: str) -> None:
        """Lose a node: its daemon and all that runs on it, at once and silently."""
        self._kill(f"slurmd-{name}", signal.SIGKILL)
        self._kill_steps(name)

    def _kill(self, name: str, signum: int = signal.SIGTERM) -> None:
        pid = self._alive(name)
        if not pid:
            return
        os.kill(pid, signum)
        if not self.wait_until(lambda: not self._alive(name), "", seconds=15):
            os.kill(pid, signal.SIGKILL)
        self._pid(name).unlink(missing_ok=True)

    def _kill_steps(self, node: str) -> None:
        """Kill the step daemons of this cluster (of one node) and what they started: only those that carry our configuration."""
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                variables = (entry / "environ").read_bytes().split(b"\0")
                is_step = "slurmstepd" in os.readlink(entry / "exe")
            except OSError:
                continue
            own = f"SLURM_CONF={self.conf}".encode() in variables
            here = not node or f"SLURMD_NODENAME={node}".encode() in variables or (is_step and self._step_of(entry, node))
            if own and here and int(entry.name) != os.getpid() and (is_step or b"SLURM_JOB_ID=" in b"\0".join(variables)):
                try:
                    os.kill(int(entry.name), signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def _step_of(self, process: Path, node: str) -> bool:
        """Whether this step daemon belongs to ``node``: its spool folder is among its open files, or in its working directory."""
        try:
            files = [os.readlink(file) for file in (process / "fd").iterdir()] + [os.readlink(process / "cwd")]
        except OSError:
            return False
        return any(f"-{node}" in file for file in files)

    # -- helpers --------------------------------------------------------------------------------------------------------------

    def ask(self, *command: str) -> str | None:
        """What a Slurm command prints; None where it fails."""
        done = subprocess.run(command, env=self._env(), capture_output=True, text=True, timeout=300)
        return done.stdout if done.returncode == 0 else None

    def wait_until(self, condition: Callable[[], object], complaint: str, seconds: float = WAIT) -> bool:
        """Wait for ``condition``; False, or RuntimeError with a ``complaint``, where it does not come."""
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                if complaint:
                    raise RuntimeError(f"{complaint}\n{self.logs()}")
                return False
            time.sleep(0.1)
        return True

    def logs(self, lines: int = 15) -> str:
        """The ends of all daemons' logs."""
        return "\n".join(
            f"== {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
            for path in sorted((self.folder / "log").glob("*.log"))
        )

    def _env(self) -> dict[str, str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SLURM_JOB", "SLURM_STEP", "SLURMD_", "SBATCH_", "SRUN_"))
        }
        return inherited | self.environment

    def _run(self, *command: str, extra: dict[str, str] | None = None) -> None:
        done = subprocess.run(command, env=self._env() | (extra or {}), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()}\n{self.logs()}")

    def _pid(self, name: str) -> Path:
        return self.folder / "pid" / f"{name}.pid"

    def _alive(self, name: str) -> int:
        """The process of a pid file, if it runs and is what the file says; else 0."""
        try:
            pid = int(self._pid(name).read_text())
            said, state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[0::2]
        except (OSError, ValueError):
            return 0
        return pid if name.partition("-")[0] in said and state.split()[0] not in "ZX" else 0


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests/slurm/throwaway.py", description="A real Slurm on this machine, on loopback only.")
    parser.add_argument(
        "action", choices=("up", "down", "need"), help="start, stop, or say how to install what is missing for all of it"
    )
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where all its files go")
    parser.add_argument("--nodes", type=int, default=2, metavar="N")
    parser.add_argument("--cpus", type=int, default=8, metavar="N", help="of a node; may be more than there are")
    parser.add_argument("--gpus", type=int, default=0, metavar="N", help="of a node, fake ones, up to 6")
    parser.add_argument("--accounting", action="store_true", help="with sacct")
    arguments = parser.parse_args(argv)
    if arguments.action == "need":
        print(missing())
        return 0
    if arguments.dir is None:
        parser.error("--dir DIR is needed")
    if need := missing(arguments.accounting):
        print(f"error: Slurm is not installed: {need}", file=sys.stderr)
        return 2
    cluster = ThrowAwayCluster(arguments.dir, arguments.nodes, arguments.cpus, gpus=arguments.gpus, accounting=arguments.accounting)
    if arguments.action == "down":
        cluster.names = [
            path.name.removeprefix("slurmd-").removesuffix(".pid") for path in (cluster.folder / "pid").glob("slurmd-*.pid")
        ]
        cluster.stop()
        return 0
    if cluster._alive("slurmctld"):
        print(
            f"error: a cluster runs in {arguments.dir}; stop it: python tests/slurm/throwaway.py down --dir {arguments.dir}",
            file=sys.stderr,
        )
        return 2
    cluster.start()
    print(f"export SLURM_CONF={cluster.conf}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
