"""Real processes that end in every way there is: each line arrives once, the reason is true, and nothing is left."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.executors import process as process_module
from services.executors import supervised
from services.executors.base import TRAINING_NICENESS, Detached
from services.executors.process import ProcessExecutor
from tests.services.executors.task import (
    PATIENCE_S,
    TASK_ID,
    Task,
    command_run,
    left_of,
    python,
    supervisor_of,
    wait_until_dead,
)
from trainer.errors import TrainingFailed, TrainingStopped

Start = Callable[..., Task]

COUNT = """
    import itertools, sys, time
    for number in itertools.count():
        print(number)
        time.sleep(0.001)
"""
IGNORE_SIGTERM = """
    import signal, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print("ready", flush=True)
    time.sleep(600)
"""

KILL_IN_GROUP = """import os, sys; open("../memory.events", "w").write("oom 5\\noom_kill 3\\n");"""
"""What the kernel notes of a process that it kills in a control group."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start Python code, or a command; what is left at the end of the test is killed, and the test has failed."""
    tasks: list[Task] = []

    def begin(command: str | list[str], executor: ProcessExecutor | None = None, **fields: Any) -> Task:
        folder = tmp_path / str(len(tasks))
        folder.mkdir()
        run = command_run(folder, python(command) if isinstance(command, str) else command, **fields)
        tasks.append(Task(executor or ProcessExecutor(), run))
        return tasks[-1]

    yield begin
    left = [process for task in tasks for process in left_of(task.current)]
    for process in left:
        process.kill()
    assert not left


def failure(task: Task) -> tuple[str, str]:
    raised = task.end()
    assert isinstance(raised, TrainingFailed), raised
    return raised.reason, str(raised)


def supervisor(task: Task) -> psutil.Process:
    found = supervisor_of(task.current)
    assert found is not None
    return found


def whole_numbers(messages: list[str]) -> list[int]:
    numbers = [int(message) for message in messages]
    assert numbers == list(range(len(numbers)))
    return numbers


class TestEnds:
    def test_a_command_completes_with_its_lines_from_both_streams(self, start: Start) -> None:
        task = start("import sys; print('one'); print('WARNING: two', file=sys.stderr); print('100%s', end='')")
        assert task.end() is None
        assert task.messages == ["one", "WARNING: two", "100%s"]
        assert [record.levelname for record in task.records] == ["INFO", "WARNING", "INFO"]
        assert task.position == len("one\nWARNING: two\n100%s")

    def test_an_exit_status_is_the_reason(self, start: Start) -> None:
        task = start("print('no such column'); print(); raise SystemExit(3)")
        assert failure(task) == (
            "exit_code_3",
            "The trainer ended with exit status 3. Its last line: no such column",
        )

    def test_an_exception_is_named_though_its_message_goes_on_below(self, start: Start) -> None:
        _, message = failure(start("raise ValueError('bad batch:\\n  expected 3 channels\\n  got 1')"))
        assert message == "The trainer ended with exit status 1. It raised ValueError: bad batch:"

    @pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
    def test_a_trainer_that_is_killed_says_by_which_signal(self, start: Start, signum: signal.Signals) -> None:
        reason, message = failure(start(f"import os; print('step 7', flush=True); os.kill(os.getpid(), {signum})"))
        assert reason == f"killed_by_signal_{signum}"
        assert message == f"The trainer was killed by signal {signum} ({signum.name}). Its last line: step 7"

    @pytest.mark.parametrize(
        "code",
        [
            "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)); bytearray(2**30)",
            "import sys; sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB')",
            "import os; print('what(): std::bad_alloc', flush=True); os.abort()",
        ],
    )
    def test_out_of_memory_is_the_reason_where_the_output_proves_it(self, start: Start, code: str) -> None:
        assert failure(start(code))[0] == "out_of_memory"

    @pytest.mark.parametrize(
        ("code", "reason"),
        [
            (f"{KILL_IN_GROUP} os.kill(os.getpid(), 9)", "out_of_memory"),
            (f"{KILL_IN_GROUP} sys.exit(137)", "out_of_memory"),
            (f"{KILL_IN_GROUP} os.kill(os.getpid(), 11)", "killed_by_signal_11"),
            ("import os; os.kill(os.getpid(), 9)", "killed_by_signal_9"),
        ],
        ids=["killed", "a shell says so", "another signal", "no count"],
    )
    def test_a_kill_is_for_want_of_memory_where_the_kernel_counted_one(
        self, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
    ) -> None:
        counter = tmp_path / "memory.events"
        counter.write_text("oom 4\noom_kill 2\n")
        monkeypatch.setattr(supervised, "kill_counter", lambda cgroups: counter)
        task = start(code)
        why, message = failure(task)
        assert why == reason
        assert ("no memory left" in message) == (reason == "out_of_memory")

    def test_out_of_memory_that_was_overcome_is_no_failure(self, start: Start) -> None:
        assert start("print('MemoryError: trying a smaller batch')").end() is None

    @pytest.mark.parametrize(
        ("command", "why"),
        [
            (["no-such-program"], "No such file or directory: 'no-such-program'"),
            (["/etc/passwd"], "Permission denied: '/etc/passwd'"),
            (["./text"], "Exec format error: './text'"),
            ([sys.executable, "\ud800"], "surrogates not allowed"),
        ],
    )
    def test_a_command_that_cannot_start_says_why(
        self, tmp_path: Path, start: Start, command: list[str], why: str
    ) -> None:
        (tmp_path / "0").mkdir()
        (tmp_path / "0/text").write_text("no program")
        (tmp_path / "0/text").chmod(0o755)
        (tmp_path / "0").rename(tmp_path / "here")
        run = command_run(tmp_path / "here", ["x"])
        request = run.request.model_copy(update={"command": command})
        reason, message = failure(Task(ProcessExecutor(), replace(run, request=request)))
        assert reason == "start_failed"
        assert why in message

    def test_a_working_directory_that_is_gone_is_named(self, start: Start) -> None:
        reason, message = failure(start("", working_dir="/nowhere"))
        assert reason == "start_failed"
        assert "'/nowhere'" in message

    def test_a_supervisor_that_does_not_start_is_a_failure_of_the_task(self, tmp_path: Path) -> None:
        run = command_run(tmp_path, ["true"])
        run.run_dir.mkdir(parents=True)
        (run.run_dir / "output.log").mkdir()
        reason, message = failure(Task(ProcessExecutor(), run))
        assert reason == "start_failed"
        assert (
            message == f"The trainer was not started: {run.run_dir}/output.log could not be written (Is a directory)."
        )

    def test_a_supervisor_whose_disk_is_full_names_the_file(
        self, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        limited = tmp_path / "python"
        limited.write_text(f'#!/bin/sh\nulimit -f 0\nexec {sys.executable} "$@"\n')
        limited.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(limited))
        task = start(["true"])
        record = task.current.run_dir / "supervisor.json"
        assert failure(task) == (
            "start_failed",
            f"The trainer was not started: {record} could not be written (File too large).",
        )


class TestLeftovers:
    def test_a_grandchild_that_holds_the_output_and_ignores_sigterm_does_not_hold_the_task(self, start: Start) -> None:
        task = start(f"""
            import subprocess, sys
            stubborn = {python(IGNORE_SIGTERM)!r}
            child = subprocess.Popen(stubborn, start_new_session=True, stdout=subprocess.PIPE)
            child.stdout.readline()
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            print("done")
        """)
        assert task.end() is None
        assert task.messages == ["done"]
        assert left_of(task.current) == []

    def test_a_daemon_ends_with_its_trainer_and_says_its_last_words(self, start: Start) -> None:
        task = start("""
            import os, signal, sys, time
            reader, writer = os.pipe()
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    def end(*_):
                        print("daemon ends", flush=True)
                        os._exit(0)
                    signal.signal(signal.SIGTERM, end)
                    os.write(writer, b"1")
                    time.sleep(600)
                os._exit(0)
            os.read(reader, 1)
            print("trainer ends", flush=True)
        """)
        assert task.end() is None
        assert task.messages == ["trainer ends", "daemon ends"]
        assert left_of(task.current) == []


class TestStop:
    def test_a_trainer_may_end_in_its_own_way(self, start: Start) -> None:
        task = start("""
            import signal, sys
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(print("saved", flush=True)))
            print("ready", flush=True)
            signal.pause()
        """)
        task.wait_for_line("ready")
        assert isinstance(task.stop(), TrainingStopped)
        assert task.messages == ["ready", "saved"]

    def test_a_tree_that_ignores_sigterm_is_killed_after_the_grace(self, start: Start) -> None:
        code = f"import subprocess; subprocess.Popen({python(IGNORE_SIGTERM)!r}, start_new_session=True)"
        task = start(
            [*python(code + "\n" + re.sub("^    ", "", IGNORE_SIGTERM, flags=re.MULTILINE))],
            ProcessExecutor(stop_grace_s=0.3),
        )
        task.wait_for(lambda messages: messages == ["ready", "ready"])
        assert isinstance(task.stop(), TrainingStopped)
        assert left_of(task.current) == []
        assert task.messages[2:] == ["The trainer did not end within 0.3 s of SIGTERM and was killed."]
        assert task.records[-1].levelname == "WARNING"

    def test_what_a_trainer_starts_to_save_its_work_has_the_grace_too(self, start: Start) -> None:
        task = start(
            "import signal, subprocess, sys, time\n"
            "def save(*_):\n"
            "    print(subprocess.run([sys.executable, '-c', 'import time; time.sleep(1)']).returncode, flush=True)\n"
            "    sys.exit()\n"
            "signal.signal(signal.SIGTERM, save)\n"
            "print('ready', flush=True)\n"
            "time.sleep(300)",
        )
        task.wait_for_line("ready")
        assert isinstance(task.stop(), TrainingStopped)
        assert task.messages[-1] == "0"

    def test_infinite_output_is_stopped_with_every_line_so_far_whole(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervised, "MAX_AHEAD", 2**20)
        monkeypatch.setattr(process_module, "READ_AFTER_STOP_S", 0.0)
        task = start("i = 0\nwhile True:\n    print(i)\n    i += 1")
        task.wait_for_line("1000")
        assert isinstance(task.stop(), TrainingStopped)
        *numbers, last = task.messages
        shown = len("\n".join(numbers)) + 1
        whole_numbers(numbers)
        size = (task.current.run_dir / "output.log").stat().st_size
        assert re.fullmatch(rf"Stopped: the last {size - shown} bytes of output are not shown\. See /.*", last)
        assert size - shown <= 2**20 + 2 * 2**20, "what is ahead, and two pipes full"

    def test_a_stop_before_the_start_starts_nothing(self, tmp_path: Path) -> None:
        run = command_run(tmp_path, ["true"])
        with pytest.raises(TrainingStopped):
            ProcessExecutor().run(run, Task.__new__(Task), lambda: True)  # type: ignore[arg-type]
        assert not run.run_dir.exists()

    def test_a_stop_that_the_service_did_not_ask_for_is_no_cancellation(self, start: Start) -> None:
        task = start(COUNT)
        task.wait_for_line("5")
        supervisor(task).terminate()
        assert failure(task)[0] == "interrupted"


class TestRestart:
    def test_the_next_service_goes_on_with_a_trainer_that_runs(self, start: Start) -> None:
        first = start(COUNT)
        first.wait_for_line("50")
        assert isinstance(first.detach(), Detached)
        assert first.position == len("\n".join(first.messages)) + 1

        second = Task(ProcessExecutor(), first.resumed())
        second.wait_for_line(str(len(first.messages) + 50))
        assert isinstance(second.stop(), TrainingStopped)
        numbers = [line for line in first.messages + second.messages if line.isdigit()]
        whole_numbers(numbers)

    def test_an_executor_that_has_let_go_starts_nothing(self, tmp_path: Path) -> None:
        executor, run = ProcessExecutor(), command_run(tmp_path, ["true"])
        executor.detach()
        assert isinstance(Task(executor, run).end(), Detached)
        assert not run.run_dir.exists()

    def test_a_trainer_that_ended_while_no_service_ran_is_told_with_all_its_lines(self, start: Start) -> None:
        first = start(["sh", "-c", "mkfifo go; echo before; cat go; echo after; exit 4"])
        first.wait_for_line("before")
        assert isinstance(first.detach(), Detached)
        its_supervisor = supervisor(first)
        (first.current.output_dir / "go").write_text("")
        wait_until_dead(its_supervisor)

        second = Task(ProcessExecutor(), first.resumed())
        assert failure(second) == ("exit_code_4", "The trainer ended with exit status 4. Its last line: after")
        assert second.messages == ["after"]

    def test_a_service_that_is_killed_loses_and_repeats_nothing(self, tmp_path: Path, start: Start) -> None:
        command = python("for i in range(3000): print(i)\nimport time; time.sleep(0.5); print(3000)")
        run = command_run(tmp_path, command)
        service = f"""
            import sys, logging, os
            sys.path[:0] = {sys.path!r}
            from pathlib import Path
            from services.executors.base import Run
            from services.executors.process import ProcessExecutor
            from tests.services.executors.task import command_run
            class Store(logging.Handler):
                def emit(self, record):
                    os.write(1, b"%s %d\\n" % (record.getMessage().encode(), record.position))
                    if record.getMessage() == "1500":
                        os.kill(os.getpid(), 9)
            logger = logging.Logger("x")
            logger.addHandler(Store())
            ProcessExecutor().run(command_run(Path({str(tmp_path)!r}), {command!r}), logger, bool)
        """
        killed = subprocess.run(python(service), stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
        assert killed.returncode == -signal.SIGKILL
        stored = [line.split() for line in killed.stdout.splitlines()]

        task = Task(ProcessExecutor(), replace(run, position=int(stored[-1][1])))
        assert task.end() is None
        assert whole_numbers([line for line, _ in stored] + task.messages)[-1] == 3000
        assert left_of(run) == []

    def test_a_trainer_whose_supervisor_is_killed_is_ended_and_told(self, start: Start) -> None:
        task = start(f"""
            import os, subprocess, time
            child = subprocess.Popen({python(IGNORE_SIGTERM)!r}, env={{}}, stdout=subprocess.PIPE)
            child.stdout.readline()
            print(child.pid, flush=True)
            while True:
                time.sleep(1)
        """)
        task.wait_for(bool)
        unmarked = psutil.Process(int(task.messages[0]))
        supervisor(task).kill()
        assert failure(task)[0] == "supervisor_lost"
        assert left_of(task.current) == []
        assert not unmarked.is_running() or unmarked.status() == psutil.STATUS_ZOMBIE

    @pytest.mark.parametrize("lost", ["", "output.log"], ids=["run_folder", "output"])
    @pytest.mark.parametrize("has_printed", [True, False])
    def test_a_trainer_that_cannot_be_followed_any_more_is_ended_and_not_begun_again(
        self, start: Start, lost: str, has_printed: bool
    ) -> None:
        first = start(["sh", "-c", "echo x >> started; echo up; exec sleep 600"])
        first.wait_for_line("up")
        first.detach()
        its_supervisor = supervisor(first)
        subprocess.run(["rm", "-r", str(first.current.run_dir / lost)], check=True)
        resumed = first.resumed()
        second = Task(ProcessExecutor(), resumed if has_printed else replace(resumed, position=0))
        assert failure(second)[0] == "run_folder_lost"
        wait_until_dead(its_supervisor)
        assert left_of(first.current) == []
        assert (first.current.output_dir / "started").read_text() == "x\n"

    def test_a_trainer_of_which_nothing_is_left_is_not_begun_again(self, start: Start) -> None:
        first = start(["sh", "-c", "echo x >> started; echo up"])
        assert first.end() is None
        shutil.rmtree(first.current.run_dir)
        assert failure(Task(ProcessExecutor(), first.resumed()))[0] == "run_folder_lost"
        assert (first.current.output_dir / "started").read_text() == "x\n"

    def test_an_exit_status_is_told_without_the_output_too(self, start: Start) -> None:
        task = start(["sh", "-c", "echo up; while [ ! -e go ]; do sleep 0.01; done; exit 3"])
        task.wait_for_line("up")
        (task.current.run_dir / "output.log").unlink()
        (task.current.output_dir / "go").touch()
        assert failure(task)[0] == "exit_code_3"

    def test_another_task_of_the_same_name_is_left_alone(self, start: Start) -> None:
        task, namesake = start(COUNT), start(COUNT)
        for each in (task, namesake):
            each.wait_for_line("5")
        supervisor(task).kill()
        assert failure(task)[0] == "supervisor_lost"
        namesake.wait_for_line(str(len(namesake.messages) + 50))
        assert isinstance(namesake.stop(), TrainingStopped)

    def test_after_a_restart_of_the_machine_the_trainer_is_gone(self, start: Start) -> None:
        first = start(COUNT)
        first.wait_for_line("5")
        first.detach()
        record = first.current.run_dir / "supervisor.json"
        its_supervisor = supervisor(first)
        record.write_text(json.dumps(json.loads(record.read_bytes()) | {"boot": "an earlier one"}))
        second = Task(ProcessExecutor(), first.resumed())
        assert failure(second)[0] == "interrupted"
        assert its_supervisor.is_running(), "that pid is another process's by now"
        its_supervisor.terminate()
        wait_until_dead(its_supervisor)

    def test_two_services_at_once_start_one_trainer(self, tmp_path: Path, start: Start) -> None:
        run = command_run(tmp_path, ["sh", "-c", "echo x >> started; echo line"])
        tasks = [Task(ProcessExecutor(), run) for _ in range(4)]
        assert [task.end() for task in tasks] == [None] * 4
        assert [task.messages for task in tasks] == [["line"]] * 4
        assert (tmp_path / "started").read_text() == "x\n"


class TestOutput:
    def test_the_trainer_waits_for_a_service_that_is_far_behind(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(supervised, "MAX_AHEAD", 2**16)
        first = start("import os\nfor i in range(200_000): print(i)\nos.write(1, b'end\\n')")
        first.wait_for_line("10")
        first.detach()
        seen = first.position
        output = first.current.run_dir / "output.log"
        its_supervisor = supervisor(first)
        _wait_until_quiet(output)
        assert output.stat().st_size < seen + 3 * 2**20
        assert its_supervisor.is_running()

        second = Task(ProcessExecutor(), first.resumed())
        assert second.end() is None
        whole_numbers((first.messages + second.messages)[:-1])

    def test_a_disk_that_refuses_makes_the_trainer_wait(self, start: Start) -> None:
        task = start(["sh", "-c", "mkfifo go; echo ready; cat go; seq 0 99999"])
        task.wait_for_line("ready")
        its_supervisor = supervisor(task).pid
        limits = resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE)
        resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE, (10_001, limits[1]))
        (task.current.output_dir / "go").write_text("")
        output = task.current.run_dir / "output.log"
        waits = f"{output} cannot be written: the trainer waits until its disk has room again."
        task.wait_for_line(waits)
        assert output.stat().st_size == 10_001
        resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE, limits)
        assert task.end() is None
        told = [waits, "There is room on the disk again: the trainer goes on."]
        assert [line for line in task.messages if line in told] == told
        assert whole_numbers([line for line in task.messages[1:] if line not in told])[-1] == 99999

    def test_an_end_that_the_disk_refuses_is_told_when_it_takes_it(self, start: Start) -> None:
        task = start(["sh", "-c", "mkfifo go; echo ready; cat go; exit 3"])
        task.wait_for_line("ready")
        its_supervisor = supervisor(task).pid
        limits = resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE)
        resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE, (0, limits[1]))
        (task.current.output_dir / "go").write_text("")
        task.wait_for(lambda messages: messages[-1].endswith("until its disk has room again."))
        resource.prlimit(its_supervisor, resource.RLIMIT_FSIZE, limits)
        assert failure(task)[0] == "exit_code_3"

    def test_a_line_of_100_megabytes_is_one_line(self, start: Start) -> None:
        task = start("import sys\nfor _ in range(100): sys.stdout.write('x' * 10**6)\nprint(); print('next')")
        assert task.end() is None
        long, following = task.messages
        assert re.fullmatch(r"x+ \[cut: 999\d{5} more bytes\]", long)
        assert following == "next"
        assert task.position == 10**8 + 1 + 5

    def test_binary_garbage_arrives_as_text(self, start: Start) -> None:
        task = start("import os; os.write(1, bytes(range(256)) * 100)")
        assert task.end() is None
        assert "\\xff" in task.messages[-1]
        assert all(message.encode() for message in task.messages)

    def test_a_signal_for_everybody_does_not_end_the_supervisor(self, start: Start) -> None:
        task = start("""
            import os, signal
            for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGQUIT):
                assert signal.getsignal(signum) != signal.SIG_IGN or signum == signal.SIGPIPE
                os.kill(os.getppid(), signum)
            print("still here")
        """)
        assert task.end() is None
        assert task.messages == ["still here"]


class TestSurroundings:
    def test_a_command_gets_the_services_environment_without_its_secrets(
        self, start: Start, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("API_TOKENS", "hunter2")
        monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@host/db")
        monkeypatch.setenv("FROM_THE_SERVICE", "kept")
        monkeypatch.setenv("CHANGED", "before")
        task = start(
            "import json, os; print(json.dumps(dict(os.environ)))", env={"CHANGED": "after", "TRAINING_TASK_ID": "x"}
        )
        assert task.end() is None
        environment = json.loads(task.messages[0])
        assert environment.keys().isdisjoint({"API_TOKENS", "DATABASE_URL"})
        assert environment["FROM_THE_SERVICE"] == "kept"
        assert environment["CHANGED"] == "after"
        assert environment["TRAINING_TASK_ID"] == TASK_ID, "by which it is found again"
        assert environment["PYTHONUNBUFFERED"] == "1"
        assert not any("hunter2" in path.read_text() for path in task.current.run_dir.iterdir())

    @pytest.mark.parametrize(
        ("device", "of_the_service", "visible"),
        [("cpu", None, ""), ("cuda:1", None, "1"), ("cuda:1", "5, 7", "7"), ("cuda:0", "GPU-8b2f", "GPU-8b2f")],
    )
    def test_a_command_sees_the_device_that_was_chosen_for_it(
        self, start: Start, monkeypatch: pytest.MonkeyPatch, device: str, of_the_service: str | None, visible: str
    ) -> None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if of_the_service is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", of_the_service)
        task = start(["sh", "-c", 'echo "$CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"'], device=device)
        assert task.end() is None
        assert task.messages == [f"{visible} PCI_BUS_ID"]

    def test_a_command_runs_in_its_folder_with_nothing_to_read_and_nicer_than_the_service(self, start: Start) -> None:
        task = start("import os, sys; print(os.getcwd()); print(repr(sys.stdin.read())); print(os.nice(0))")
        assert task.end() is None
        niceness = max(os.nice(0), TRAINING_NICENESS)
        assert task.messages == [str(task.current.output_dir), "''", str(niceness)]

    def test_many_at_once_from_a_service_of_many_threads(self, start: Start) -> None:
        busy = threading.Event()
        with ThreadPoolExecutor(4) as threads:
            for _ in range(4):
                threads.submit(lambda: [json.dumps(list(range(100))) for _ in iter(busy.is_set, True)])
            executor = ProcessExecutor()
            tasks = [start(f"for i in range(200): print({number}, i)", executor) for number in range(8)]
            assert [task.end() for task in tasks] == [None] * 8
            busy.set()
        for number, task in enumerate(tasks):
            assert task.messages == [f"{number} {i}" for i in range(200)]

    def test_no_child_is_left_to_the_service(self, start: Start) -> None:
        before = psutil.Process().children()
        assert start(["true"]).end() is None
        assert psutil.Process().children() == before


def _wait_until_quiet(output: Path) -> None:
    """Until nothing has been added for a second: what does not happen has no event to wait for."""
    pause, size = threading.Event(), -1
    while output.stat().st_size != size:
        size = output.stat().st_size
        pause.wait(1.0)
