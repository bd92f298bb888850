"""Where the kernel's count of kills is, in both versions of control groups, and what it proves."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.executors import supervisor
from services.executors.memory import kill_counter
from services.executors.supervisor import MemoryKills

VERSION_1 = "9:name=systemd:/\n4:cpu,memory:/docker/1234\n0::/\n"
VERSION_2 = "0::/user.slice/user-1000.slice\n"


def counter(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("oom_kill 0\n")
    return path


@pytest.mark.parametrize(
    ("cgroups", "place"),
    [
        (VERSION_1, "memory/docker/1234/memory.oom_control"),
        (VERSION_1, "memory/memory.oom_control"),  # a container that sees its group as the root
        (VERSION_2, "user.slice/user-1000.slice/memory.events"),
        (VERSION_2, "memory.events"),
    ],
)
def test_the_count_of_the_own_group_is_found(tmp_path: Path, cgroups: str, place: str) -> None:
    expected = counter(tmp_path / "mount" / place)
    assert kill_counter(cgroups, tmp_path / "mount") == expected


@pytest.mark.parametrize("cgroups", [VERSION_1, VERSION_2, ""])
def test_a_machine_without_a_count_has_none(tmp_path: Path, cgroups: str) -> None:
    assert kill_counter(cgroups, tmp_path) is None


class TestMemoryKills:
    def test_a_kill_just_now_counts_and_one_of_long_ago_does_not(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = 0.0
        monkeypatch.setattr("services.executors.supervisor.time.monotonic", lambda: now)
        path = tmp_path / "memory.oom_control"
        path.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n")
        kills = MemoryKills(str(path))
        assert not kills.have_risen()
        path.write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 8\n")
        assert kills.have_risen()
        for _ in range(2):
            assert kills.have_risen(), "it may have taken the trainer a moment to die"
            now += supervisor.MEMORY_CHECK_S
            kills.look()
        assert not kills.have_risen()

    @pytest.mark.parametrize("content", [None, "", "oom_kill many\n"])
    def test_what_cannot_be_read_proves_nothing(self, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "memory.events"
        if content is not None:
            path.write_text(content)
        assert not MemoryKills(str(path)).have_risen()
