"""Ways out of the folders that a service may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks.conftest import SECRET, Target

READING = {
    "upwards": "data/../secret/secret.log",
    "upwards from nowhere": "data/train/none/../../../secret/secret.log",
    "through a link": "data/link/secret.log",
    "the other root": "secret/secret.log",
}
WRITING = {"upwards": "runs/../secret", "through a link": "runs/link", "below a link": "runs/link/deeper"}


def reads_the_secret(target: Target, path: str) -> bool:
    (target.folder / "data/train/none").mkdir(exist_ok=True)
    answer = target.post("training/import", json={"path": str(target.folder / path), "task_id": "attack"})
    return answer.status_code == 200 and SECRET in target.get("training/attack/logs").text


def writes_beside_the_secret(target: Target, save_path: str, name: str = "attack") -> bool:
    secret = target.folder / "secret"
    target.post("training/start", json=target.body(save_path=str(target.folder / save_path), name=name))
    return [path for path in secret.rglob("*") if path != secret / "secret.log"] != []


@pytest.mark.parametrize("path", READING.values(), ids=READING)
def test_a_file_outside_is_not_read(ours: Target, stock: Target, path: str) -> None:
    assert not reads_the_secret(ours, path)
    assert reads_the_secret(stock, path)


@pytest.mark.parametrize("save_path", WRITING.values(), ids=WRITING)
def test_a_folder_outside_is_not_written_to(ours: Target, stock: Target, save_path: str) -> None:
    assert not writes_beside_the_secret(ours, save_path)
    assert writes_beside_the_secret(stock, save_path)


@pytest.mark.parametrize("name", ["link", "../secret", ".."])
def test_a_name_leads_nowhere_else(ours: Target, stock: Target, name: str) -> None:
    def leads_out(target: Target) -> bool:
        before = everything_in(target.folder)
        target.post("training/start", json=target.body(name=name))
        return any(not str(path).startswith("runs/") for path in everything_in(target.folder) - before)

    assert not leads_out(ours)
    assert leads_out(stock)


def everything_in(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}
