"""The state of a working copy, also of one that would have the service run its programs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from services.provenance import git
from services.provenance.git import NoState, working_copy

IDENTITY = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")


def run_git(folder: Path, *arguments: str) -> str:
    command = ["git", *IDENTITY, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One commit of one file."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / "code"
    folder.mkdir()
    run_git(folder, "init", "-q")
    (folder / "train.py").write_text("lr = 1\n", encoding="utf-8")
    run_git(folder, "add", "-A")
    run_git(folder, "commit", "-q", "-m", "first")
    return folder


def state_of(folder: Path) -> dict[str, Any]:
    state = working_copy(str(folder))
    assert state is not None
    return state


def test_commit_branch_and_what_differs(repository: Path) -> None:
    clean = state_of(repository)
    assert clean == {
        "root": str(repository),
        "branch": "main",
        "commit": run_git(repository, "rev-parse", "HEAD"),
        "diff": "",
        "untracked": [],
    }
    (repository / "train.py").write_text("lr = 2\n", encoding="utf-8")
    (repository / "sub").mkdir()
    (repository / "sub" / "新.py").write_text("", encoding="utf-8")
    changed = state_of(repository / "sub")  # from below, all of it is told
    assert changed["diff"].endswith("@@ -1 +1 @@\n-lr = 1\n+lr = 2\n")
    assert changed["untracked"] == ["sub/新.py"]
    assert changed["commit"] == clean["commit"]


def test_before_the_first_commit_there_are_only_files(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("", encoding="utf-8")
    assert state_of(tmp_path) == {"root": str(tmp_path), "branch": "main", "untracked": ["a"]}


def test_no_repository_has_no_state(tmp_path: Path) -> None:
    assert working_copy(str(tmp_path)) is None


def test_a_bare_repository_is_refused_or_has_no_state(tmp_path: Path) -> None:
    run_git(tmp_path, "init", "-q", "--bare")
    try:
        assert working_copy(str(tmp_path)) is None
    except NoState as problem:
        assert "bare" in str(problem)  # noqa: PT017 - git decides by its release


def test_looking_changes_nothing_in_the_repository(repository: Path) -> None:
    os.utime(repository / "train.py", (1, 1))  # git would like to write down that the file is the same
    before = (repository / ".git" / "index").read_bytes()
    assert state_of(repository)["diff"] == ""
    assert (repository / ".git" / "index").read_bytes() == before


def test_a_long_diff_is_cut(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "MAX_DIFF", 500)
    (repository / "train.py").write_text("x = 1\n" * 1000, encoding="utf-8")
    state = state_of(repository)
    assert len(state["diff"]) == 500
    assert state["diff_is_cut"] is True


def test_many_untracked_files_are_not_all_named(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "MAX_UNTRACKED", 2)
    for name in "abc":
        (repository / name).write_text("", encoding="utf-8")
    state = state_of(repository)
    assert (state["untracked"], state["untracked_is_cut"]) == (["a", "b"], True)


def test_credentials_of_the_origin_are_not_kept(repository: Path) -> None:
    run_git(repository, "remote", "add", "origin", "https://me:s3cret@example.org/me/code.git")
    assert state_of(repository)["remote"] == "https://***@example.org/me/code.git"


HOSTILE = {
    "core.fsmonitor": "touch {marker}",
    "core.hooksPath": "{hooks}",
    "core.pager": "touch {marker}",
    "core.sshCommand": "touch {marker}",
    "core.alternateRefsCommand": "touch {marker}",
    "diff.external": "touch {marker}",
    "diff.evil.command": "touch {marker}",
    "diff.evil.textconv": "touch {marker}",
    "filter.evil.clean": "touch {marker}; cat",
    "filter.evil.smudge": "touch {marker}; cat",
    "filter.evil.required": "true",
    "filter.long.name=x.process": "touch {marker}",
    "filter.long.name=x.required": "true",
    "log.showSignature": "true",
    "gpg.program": "touch {marker}",
}


@pytest.fixture
def hostile(repository: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A repository that would run a program at each chance, and the file that tells that it did."""
    marker, hooks = tmp_path / "ran", tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-index-change", "fsmonitor-watchman", "query-watchman"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {marker}\n", encoding="utf-8")
        (hooks / name).chmod(0o755)
    (repository / "other.txt").write_text("1\n", encoding="utf-8")
    (repository / ".gitattributes").write_text("*.py filter=evil diff=evil\n*.txt filter=long.name=x\n", "utf-8")
    run_git(repository, "add", "-A")
    run_git(repository, "commit", "-q", "-m", "second")
    for key, value in HOSTILE.items():
        run_git(repository, "config", key, value.format(marker=marker, hooks=hooks))
    (repository / "train.py").write_text("lr = 2\n", encoding="utf-8")
    (repository / "other.txt").write_text("2\n", encoding="utf-8")
    return repository, marker


def test_nothing_of_a_hostile_repository_runs(hostile: tuple[Path, Path]) -> None:
    repository, marker = hostile
    diff = state_of(repository)["diff"]
    assert not marker.exists()
    assert "-lr = 1\n+lr = 2\n" in diff
    assert "-1\n+2\n" in diff


def test_plain_git_runs_it(hostile: tuple[Path, Path]) -> None:
    """So the test above can fail."""
    repository, marker = hostile
    subprocess.run(["git", "diff", "HEAD"], cwd=repository, capture_output=True, check=False)
    assert marker.exists()


def test_a_submodule_is_not_looked_into(hostile: tuple[Path, Path], tmp_path: Path) -> None:
    inner, marker = hostile
    outer = tmp_path / "outer"
    outer.mkdir()
    run_git(outer, "init", "-q")
    run_git(inner, "config", "--remove-section", "filter.long.name=x")
    clone = ("clone", "-q", "--no-checkout", str(inner), str(outer / "sub"))
    run_git(tmp_path, *clone)
    run_git(outer / "sub", "config", "core.fsmonitor", f"touch {marker}")
    run_git(outer, "-c", "advice.addEmbeddedRepo=false", "add", "sub")
    run_git(outer, "commit", "-q", "-m", "with a submodule")
    marker.unlink(missing_ok=True)
    assert state_of(outer)["diff"] == ""
    assert not marker.exists()


def fake_git(folder: Path, script: str) -> str:
    (folder / "bin").mkdir()
    program = folder / "bin" / "git"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    return str(program.parent)


def test_git_that_hangs_is_given_up_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "left"
    path = fake_git(tmp_path, f"(sleep 1; touch {left}) & sleep 60")
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    began = time.monotonic()
    with pytest.raises(NoState, match="did not answer within"):
        working_copy(str(tmp_path), limit_s=0.3)
    assert time.monotonic() - began < 30
    deadline = time.monotonic() + 1.5
    while time.monotonic() < deadline:
        assert not left.exists()
        time.sleep(0.05)


def test_git_that_prints_without_end_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_git(tmp_path, 'case "$1" in rev-parse) echo true;; *) exec yes;; esac')
    monkeypatch.setenv("PATH", f"{path}:{os.environ['PATH']}")
    state = state_of(tmp_path)
    assert state["diff_is_cut"] is True
    assert len(state["diff"]) == git.MAX_DIFF


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoState, match="not installed"):
        working_copy(str(tmp_path))


def test_a_repository_that_git_does_not_trust(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{fake_git(repository.parent, 'echo fatal: detected dubious ownership >&2; exit 128')}")
    with pytest.raises(NoState, match="dubious ownership"):
        working_copy(str(repository))


def test_the_environment_of_the_service_does_not_lead_git_astray(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", f"touch {tmp_path / 'ran'}")
    (repository / "train.py").write_text("lr = 2\n", encoding="utf-8")
    assert "+lr = 2" in state_of(repository)["diff"]
    assert not (tmp_path / "ran").exists()
