"""The small process beside every trainer that outlives the service: it reaps, it keeps the output, it cleans up.

A service that has been restarted cannot wait for a trainer that it did not start, and only a parent learns
an exit status. So each trainer gets a parent that does nothing else: it writes what the trainer prints to a
file, and at its end ends what it left running and writes down how it ended. The service only reads files.

Run as `python -I -S supervisor.py RUN_DIR` (an absolute path) with the specification as JSON on stdin, so that
no secret of the environment gets to the disk: `command` (list), `cwd`, `env`, `stop_grace_s`, `niceness`,
`max_ahead` (bytes of output that may wait for the service), `memory_kills` (file with the kernel's count, or null).
Returns once the supervisor proper, a child, has recorded itself, so nobody has to reap it; where a file refuses
that, prints the number of the error and the file. Standard library only: it must start fast and stay small. In
RUN_DIR:

    supervisor.json  who supervises and, once it runs, who trains; appears once and for good
    output.log       what the trainer printed, stdout and stderr as they came
    read             written by the service: how many bytes of output.log it has read
    exit.json        how it ended; the last thing that is written
    supervisor.log   what went wrong with the supervisor itself

SIGTERM stops the trainer with all its descendants. While the disk refuses what is to be written, output.log is locked
(flock), which tells the service so without a byte: as long as it is, the trainer waits or its end is not written down.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

MEMORY_CHECK_S = 5.0
"""Between two looks at the kernel's count of processes that it has killed for want of memory."""
KILL_AFTER_S = 2.0
"""Between SIGTERM and SIGKILL for what a trainer that has ended left running."""
RECORD, OUTPUT, READ, EXIT = "supervisor.json", "output.log", "read", "exit.json"

_READY = "ready"
_PIPE_SIZE = 2**20
_RETRY_S = 0.5
"""Between two attempts to write to a disk that refuses, or to go on where the service is far behind."""
_SCAN_S = (0.02, 0.5)
"""First and longest pause between two looks at what is still running."""
_PR_SET_CHILD_SUBREAPER = 36


class Process(NamedTuple):
    """A process, for good: the kernel gives a pid again, but not with the same start time (proc_pid_stat(5))."""

    pid: int
    started: int


class Status(NamedTuple):
    process: Process
    parent: int
    session: int
    is_dead: bool


def read_status(pid: int) -> Status | None:
    """From /proc/PID/stat; `None` for a process that is gone, or another user's and hidden. A zombie is dead.

    Raises: OSError: nothing is known of it, as where this process has no descriptor left to ask with.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - half the cost of a Path, asked of every process
            fields = file.read().rpartition(b")")[2].split()
        return Status(Process(pid, int(fields[19])), int(fields[1]), int(fields[3]), fields[0] in (b"Z", b"X", b"x"))
    except (FileNotFoundError, ProcessLookupError, PermissionError, IndexError):
        return None


def is_alive(process: Process) -> bool:
    status = read_status(process.pid)
    return status is not None and status.process == process and not status.is_dead


def running() -> list[Status]:
    """Every process of this machine that is not dead."""
    statuses = (read_status(int(name)) for name in os.listdir("/proc") if name.isdigit())  # noqa: PTH208
    return [status for status in statuses if status is not None and not status.is_dead]


def below(roots: set[int], statuses: list[Status]) -> list[Process]:
    """The descendants of `roots`, without those themselves."""
    children: dict[int, list[Process]] = {}
    for status in statuses:
        children.setdefault(status.parent, []).append(status.process)
    found: list[Process] = []
    waiting = list(roots)
    while waiting:
        for child in children.pop(waiting.pop(), []):
            if child.pid not in roots:
                found.append(child)
                waiting.append(child.pid)
    return found


class Ending:
    """Ends processes: SIGTERM to each that is there when it is asked, once; SIGKILL to all at the deadline.

    What a process starts after it was asked, to save its work for example, has until the deadline.
    """

    def __init__(self, grace_s: float) -> None:
        self.deadline = time.monotonic() + grace_s
        self.killed: set[int] = set()
        self._is_asking = True
        self._asked: set[Process] = set()
        self._beyond_us: set[Process] = set()

    def step(self, found: list[Process]) -> bool:
        """Send what is due to the processes that are still there; whether there are any."""
        left = [process for process in found if process not in self._beyond_us]
        signum = signal.SIGTERM if time.monotonic() < self.deadline else signal.SIGKILL
        for process in left:
            if signum == signal.SIGKILL:
                self.killed.add(process.pid)
            if signum == signal.SIGKILL or (self._is_asking and process not in self._asked):
                self._asked.add(process)
                self._send(process, signum)
        self._is_asking = False
        return bool(left)

    def ask_again(self, grace_s: float) -> None:
        """Whoever was not asked is, and all have `grace_s` at most."""
        self.deadline = min(self.deadline, time.monotonic() + grace_s)
        self._is_asking = True

    def _send(self, process: Process, signum: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            try:
                os.kill(process.pid, signum)
            except PermissionError:  # it runs as somebody else
                self._beyond_us.add(process)


def read_json(path: Path) -> dict[str, Any] | None:
    """`None` where there is none yet: these files appear whole."""
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    return content


def write_json(path: Path, content: dict[str, Any], *, exclusive: bool = False, private: bool = False) -> None:
    """Durably, and all at once. `private`: no other user may read it, at no moment.

    Raises: FileExistsError: `exclusive`, and there is one.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    if exclusive:
        try:
            os.link(partial, path)
        finally:
            partial.unlink()
    else:
        partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def boot_id() -> str:
    """Start times count from the boot, so a process is known by this as well."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class MemoryKills:
    """Whether the kernel has killed something for want of memory just now, in the control group of all this.

    It counts them for the group, not for each process: one that was killed for a neighbour's hunger an hour ago
    proves nothing.

    Args:
        counter: the file with the count, a line `oom_kill N`; `None` where there is none.
    """

    def __init__(self, counter: str | None) -> None:
        self._counter = counter
        self._counts = (self._count(), self._count())
        self._counted = time.monotonic()

    def look(self) -> None:
        if time.monotonic() - self._counted >= MEMORY_CHECK_S:
            self._counts, self._counted = (self._counts[1], self._count()), time.monotonic()

    def have_risen(self) -> bool:
        """Since the look before the last one."""
        return self._count() > self._counts[0]

    def _count(self) -> int:
        if self._counter is not None:
            with suppress(OSError, ValueError), open(self._counter, encoding="ascii") as file:  # noqa: PTH123
                return sum(int(line.split()[1]) for line in file if line.startswith("oom_kill "))
        return 0


class Supervisor:
    """One trainer, from its start to its exit status."""

    def __init__(self, run_dir: Path, spec: dict[str, Any]) -> None:
        self._run_dir = run_dir
        self._spec = spec
        status = read_status(os.getpid())
        assert status is not None
        self._record: dict[str, Any] = {"boot": boot_id(), "supervisor": status.process}
        self._pipe: int | None = None
        self._written = self._read = 0
        self._unwritten = b""
        self._is_waiting = False
        self._trainer = 0
        self._returncode: int | None = None
        self._was_killed = self._lacked_memory = False
        self._stop_asked = self._stopped = False
        self._ending: Ending | None = None
        self._next_scan = 0.0
        self._scan_pause = _SCAN_S[0]
        self._memory_kills = MemoryKills(spec["memory_kills"])

        self._log = os.open(run_dir / OUTPUT, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._wakeup = self._listen()
        write_json(run_dir / RECORD, self._record, exclusive=True)

    def run(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
        try:
            self._start()
        except OSError as error:
            self._conclude({"start_error": f"{error.strerror}: {error.filename!r}" if error.filename else str(error)})
            return
        except ValueError as error:  # it cannot be encoded for the system
            self._conclude({"start_error": str(error)})
            return
        while not self._step():
            pass
        self._drain()
        self._conclude(
            {
                "returncode": self._returncode,
                "stopped": self._stopped,
                "killed_after_s": self._spec["stop_grace_s"] if self._was_killed else None,
                "lacked_memory": self._lacked_memory,
            }
        )

    def _listen(self) -> int:
        """Make signals wake the loop; returns what to poll. A handler, unlike SIG_IGN, is not inherited."""
        wakeup, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(signum, lambda *_: None)
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_stop_asked", True))
        return wakeup

    def _start(self) -> None:
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, 0, max(os.getpriority(os.PRIO_PROCESS, 0), self._spec["niceness"]))
        self._pipe, write_end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._pipe, False)
        with suppress(OSError):  # a user may have too many large pipes
            fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            trainer = subprocess.Popen(  # noqa: S603 - that is the task
                self._spec["command"],
                cwd=self._spec["cwd"],
                env=self._spec["env"],
                stdin=subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                start_new_session=True,
            )
        finally:
            os.close(write_end)
        self._trainer = trainer.pid
        trainer.returncode = 0  # it is reaped here, with everything else that ends
        with suppress(OSError):  # only needed if this process is killed
            status = read_status(trainer.pid)
            assert status is not None
            write_json(self._run_dir / RECORD, {**self._record, "trainer": status.process})

    def _step(self) -> bool:
        """Wait for something to do, and do it; whether everything has ended."""
        is_behind = self._is_behind()
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if self._pipe is not None and not self._unwritten and not is_behind:
            poll.register(self._pipe, select.POLLIN)
        pauses = [_RETRY_S if self._unwritten or is_behind else MEMORY_CHECK_S]
        if self._ending:
            pauses.append(max(0.0, self._next_scan - time.monotonic()))
        ready = {descriptor for descriptor, _ in poll.poll(1000 * min(pauses))}
        self._memory_kills.look()
        if self._wakeup in ready:
            os.read(self._wakeup, 4096)
            self._reap()
        if self._unwritten:
            self._write(self._unwritten)
        elif self._pipe in ready:
            self._pump(_PIPE_SIZE)
        return self._end_what_should()

    def _is_behind(self) -> bool:
        """Whether the service has so much left to read that the trainer must wait."""
        if self._written - self._read > self._spec["max_ahead"]:
            with suppress(OSError, ValueError):
                self._read = int((self._run_dir / READ).read_bytes())
        return bool(self._written - self._read > self._spec["max_ahead"])

    def _reap(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._trainer:
                    self._returncode = os.waitstatus_to_exitcode(ended[1])
                    was_sent = self._ending is not None and self._trainer in self._ending.killed
                    self._was_killed = was_sent and self._returncode == -signal.SIGKILL
                    self._lacked_memory = not self._was_killed and self._memory_kills.have_risen()
        self._next_scan = 0.0

    def _pump(self, size: int) -> None:
        assert self._pipe is not None
        try:
            data = os.read(self._pipe, size)
        except BlockingIOError:
            return
        if data:
            self._write(data)
        else:
            os.close(self._pipe)
            self._pipe = None

    def _write(self, data: bytes) -> None:
        """What the disk refuses is tried again later, and nothing is read until then."""
        self._unwritten = data
        with suppress(OSError):
            while self._unwritten:
                size = os.write(self._log, self._unwritten)
                self._written += size
                self._unwritten = self._unwritten[size:]
        self._tell_waiting(bool(self._unwritten))

    def _tell_waiting(self, is_waiting: bool) -> None:
        if is_waiting != self._is_waiting:
            with suppress(OSError):  # the service is just looking: next time
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB if is_waiting else fcntl.LOCK_UN)
                self._is_waiting = is_waiting

    def _end_what_should(self) -> bool:
        has_ended = self._returncode is not None
        if self._stop_asked and not self._stopped and not has_ended:
            self._stopped = True
            self._ending = Ending(self._spec["stop_grace_s"])
            self._next_scan = 0.0
        if has_ended and self._trainer:
            self._trainer = 0
            self._ending = self._ending or Ending(KILL_AFTER_S)
            self._ending.ask_again(KILL_AFTER_S)
            self._scan_pause, self._next_scan = _SCAN_S[0], 0.0
        if self._ending is None or time.monotonic() < self._next_scan:
            return False
        any_left = True
        with suppress(OSError):  # what runs cannot be found out now: next time
            any_left = self._ending.step(below({os.getpid()}, running()))
        self._next_scan = time.monotonic() + self._scan_pause
        self._scan_pause = min(2 * self._scan_pause, _SCAN_S[1])
        return has_ended and not any_left

    def _drain(self) -> None:
        """Keep what is in the pipe now. There may be no end to wait for: somebody else can hold it open."""
        while self._unwritten:
            time.sleep(_RETRY_S)
            self._write(self._unwritten)
        if self._pipe is None:
            return
        left = int.from_bytes(fcntl.ioctl(self._pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
        while left > 0 and self._pipe is not None:
            before = self._written
            self._pump(left)
            while self._unwritten:
                time.sleep(_RETRY_S)
                self._write(self._unwritten)
            left -= self._written - before

    def _conclude(self, how: dict[str, Any]) -> None:
        """Write down the end, after everything before it is on the disk, however long the disk takes."""
        with suppress(OSError):
            os.fsync(self._log)
        while self._run_dir.is_dir():
            try:
                write_json(self._run_dir / EXIT, how)
            except OSError:
                self._tell_waiting(True)
                time.sleep(_RETRY_S)
            else:
                return


def main() -> int:
    """Start the supervisor proper, and return once it has recorded itself or has failed to."""
    run_dir = Path(sys.argv[1])
    spec = json.load(sys.stdin)
    ready, report = os.pipe()
    if os.fork():
        os.close(report)
        said = os.read(ready, 4096).decode()
        print(said.removeprefix(_READY))
        return 0 if said.startswith(_READY) else 1
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # somebody waits for the end of it
    os.chdir("/")  # no folder is kept busy
    os.close(ready)
    try:
        supervisor = Supervisor(run_dir, spec)
    except FileExistsError:  # another one was first
        os.write(report, _READY.encode())
        return 0
    except OSError as error:
        path = error.filename or run_dir / RECORD  # no name where a write was refused, and only this is written
        os.write(report, f"{error.errno} {path}".encode())
        return 1
    os.write(report, _READY.encode())
    os.close(report)
    supervisor.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
