"""Where requests may read and write, and who gets a folder that two ask for."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from services import paths
from services.errors import InvalidRequest, PathForbidden, ServiceError, TaskConflict
from services.paths import PathPolicy, claim_output_dir, find_unwritable


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a folder inside, and a secret beside it."""
    (tmp_path / "data/cats").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return tmp_path / "data"


class TestReading:
    def check(self, path: str | Path, *roots: Path) -> None:
        PathPolicy(data_roots=roots).check_data("train_path", str(path))

    @pytest.mark.parametrize("path", ["", "cats", "cats/../cats", "not/there/yet", "./."])
    def test_everything_under_a_root_is_allowed(self, root: Path, path: str) -> None:
        self.check(root / path, root)

    @pytest.mark.parametrize("path", ["..", "../secret", "cats/../../secret", "/", "/etc/passwd", "../data-of-another"])
    def test_everything_else_is_refused(self, root: Path, path: str) -> None:
        with pytest.raises(PathForbidden, match=r"^train_path: .* is outside .*DATA_ROOTS"):
            self.check(root / path, root)

    def test_a_link_out_of_the_root_is_refused(self, root: Path) -> None:
        (root / "link").symlink_to(root.parent / "secret")
        for path in (root / "link", root / "link/deeper", root / "cats/../link"):
            with pytest.raises(PathForbidden):
                self.check(path, root)

    def test_a_link_that_stays_under_the_root_is_allowed(self, root: Path) -> None:
        (root / "link").symlink_to("cats")
        self.check(root / "link", root)

    def test_a_root_may_be_a_link_itself(self, root: Path) -> None:
        (root.parent / "alias").symlink_to(root)
        self.check(root / "cats", root.parent / "alias")
        self.check(root.parent / "alias/cats", root)

    def test_a_loop_of_links_is_refused(self, root: Path) -> None:
        (root / "one").symlink_to(root / "two")
        (root / "two").symlink_to(root / "one")
        with pytest.raises(PathForbidden, match="cannot be resolved"):
            self.check(root / "one", root)

    def test_a_relative_path_is_seen_from_where_the_service_runs(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(root)
        self.check("cats", root)
        with pytest.raises(PathForbidden):
            self.check("../secret", root)

    def test_one_of_several_roots_is_enough(self, root: Path) -> None:
        self.check(root.parent / "secret", root, root.parent / "secret")

    def test_a_root_that_is_not_there_yet_is_one_already(self, tmp_path: Path) -> None:
        self.check(tmp_path / "later/cats", tmp_path / "later")
        with pytest.raises(PathForbidden):
            self.check(tmp_path / "later/../secret", tmp_path / "later")

    @pytest.mark.parametrize("name", ["DATA", "data ", "data.", "data\u200b", "ｄata"])
    def test_a_name_that_looks_like_the_roots_is_another(self, root: Path, name: str) -> None:
        with pytest.raises(PathForbidden):
            self.check(root.parent / name, root)

    @pytest.mark.parametrize("name", ["caf\u00e9", "cafe\u0301", "%2e%2e", "..\u200b", "\uff0e\uff0e", "..;"])
    def test_a_name_is_what_the_file_system_has_in_whatever_form(self, root: Path, name: str) -> None:
        self.check(root / name, root)

    @pytest.mark.parametrize("path", ["", "/", "//", "/.", "/cats/", "/cats//", "//cats/./"])
    def test_slashes_more_or_less_change_nothing(self, root: Path, path: str) -> None:
        self.check(f"{root}{path}", root)

    def test_a_path_is_judged_again_when_it_has_become_a_link(self, root: Path) -> None:
        self.check(root / "cats", root)
        (root / "cats").rmdir()
        (root / "cats").symlink_to(root.parent / "secret")
        with pytest.raises(PathForbidden):
            self.check(root / "cats", root)

    def test_without_roots_everything_is_allowed(self) -> None:
        self.check("/etc/../anything")


def test_what_may_be_read_may_not_therefore_be_written(root: Path) -> None:
    policy = PathPolicy(data_roots=[root], save_roots=[root.parent / "secret"])
    policy.check_data("train_path", str(root))
    policy.check_save("save_path", str(root.parent / "secret/runs"))
    with pytest.raises(PathForbidden, match=r"^save_path: .*SAVE_ROOTS"):
        policy.check_save("save_path", str(root))
    with pytest.raises(PathForbidden, match=r"^val_path: .*DATA_ROOTS"):
        policy.check_data("val_path", str(root.parent / "secret"))


class TestUnwritable:
    """What is said beforehand of a folder for a run."""

    @pytest.mark.parametrize("save_path", ["", "runs", "runs/deep/er", "alias/runs", "none/../runs"])
    def test_a_folder_that_could_be_made_is_not_made(self, tmp_path: Path, save_path: str) -> None:
        (tmp_path / "alias").symlink_to(tmp_path)
        before = set(tmp_path.iterdir())
        assert find_unwritable(str(tmp_path / save_path)) == []
        assert set(tmp_path.iterdir()) == before
        claim_output_dir(str(tmp_path / save_path), "first", "id")

    @pytest.mark.parametrize("save_path", ["file", "file/runs", "dangling", "dangling/runs", "loop", "n" * 300 + "/a"])
    def test_one_that_could_not_be_made_is_told_beforehand_too(self, tmp_path: Path, save_path: str) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        problems = find_unwritable(str(tmp_path / save_path))
        assert [(problem.field, problem.code) for problem in problems] == [("save_path", "save_path_unwritable")]
        with pytest.raises(InvalidRequest):
            claim_output_dir(str(tmp_path / save_path), "first", "id")

    def test_what_may_not_be_written_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
        assert [problem.code for problem in find_unwritable(str(tmp_path / "a/b"))] == ["save_path_unwritable"]

    def test_below_a_root_a_link_to_a_folder_that_is_to_come_is_a_place(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(tmp_path / "later")
        assert find_unwritable(str(tmp_path / "link"), [tmp_path]) == []
        with pytest.raises(PathForbidden):
            find_unwritable(str(tmp_path / "../secret"), [tmp_path])


class TestOutputFolder:
    def test_a_run_gets_a_folder_of_its_name(self, tmp_path: Path) -> None:
        assert claim_output_dir(str(tmp_path / "a/b"), "first", "id") == tmp_path / "a/b/first"
        assert (tmp_path / "a/b/first").is_dir()

    def test_a_run_without_a_name_gets_a_folder_of_its_id(self, tmp_path: Path) -> None:
        assert claim_output_dir(str(tmp_path), None, "id") == tmp_path / "id"

    def test_a_relative_save_path_is_pinned_down(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert claim_output_dir("runs", "first", "id") == tmp_path / "runs/first"

    @pytest.mark.parametrize(("name", "advice"), [("first", "another name"), (None, "another task_id")])
    def test_a_folder_that_is_there_is_never_used_again(self, tmp_path: Path, name: str | None, advice: str) -> None:
        folder = claim_output_dir(str(tmp_path), name, "id")
        (folder / "best.pt").write_text("precious")
        with pytest.raises(TaskConflict, match=advice) as refused:
            claim_output_dir(str(tmp_path), name, "id")
        assert refused.value.code == "name_in_use"
        assert (folder / "best.pt").read_text() == "precious"

    def test_neither_is_a_file_or_a_dangling_link_of_that_name(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "link").symlink_to(tmp_path / "nowhere")
        for name in ("file", "link"):
            with pytest.raises(TaskConflict):
                claim_output_dir(str(tmp_path), name, "id")
        assert not (tmp_path / "nowhere").exists()

    def test_a_save_path_that_is_a_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(InvalidRequest) as refused:
            claim_output_dir(str(tmp_path / "file"), "first", "id")
        assert [(problem.field, problem.code) for problem in refused.value.errors] == [
            ("save_path", "save_path_unwritable")
        ]

    def test_a_name_that_the_file_system_cannot_hold_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InvalidRequest, match="cannot be written to"):
            claim_output_dir(str(tmp_path), "长" * 120, "id")

    @pytest.mark.parametrize("inside", [True, False])
    def test_a_link_of_its_name_that_was_put_there_before_is_neither_used_nor_followed(
        self, tmp_path: Path, inside: bool
    ) -> None:
        root, target = tmp_path / "root", tmp_path / ("root/other" if inside else "secret")
        root.mkdir()
        target.mkdir()
        (root / "first").symlink_to(target)
        with pytest.raises(TaskConflict):
            claim_output_dir(str(root), "first", "id", [root])
        assert list(target.iterdir()) == []

    def test_it_is_made_below_a_root_whatever_leads_there(self, tmp_path: Path) -> None:
        root = tmp_path / "root"
        (tmp_path / "alias").symlink_to(root)  # the root itself is not there yet
        for name, save_path in {
            "one": "root/deep/er",
            "two": "alias/deep/er",
            "three": "root/deep/../deep/er/",
        }.items():
            claimed = claim_output_dir(str(tmp_path / save_path), name, "id", [tmp_path / "alias"])
            assert claimed == root / "deep/er" / name
            assert claimed.is_dir()
        with pytest.raises(PathForbidden):
            claim_output_dir(str(root / "../secret"), "first", "id", [root])
        assert not (tmp_path / "secret").exists()

    def test_a_folder_that_becomes_a_link_after_the_check_is_not_followed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root, secret = tmp_path / "root", tmp_path / "secret"
        (root / "mine").mkdir(parents=True)
        secret.mkdir()
        resolve = paths._resolve_below

        def resolve_and_swap(*arguments: Any) -> tuple[Path, Path]:
            found = resolve(*arguments)
            (root / "mine").rmdir()
            (root / "mine").symlink_to(secret)
            return found

        monkeypatch.setattr(paths, "_resolve_below", resolve_and_swap)
        with pytest.raises(InvalidRequest, match="cannot be written to"):
            claim_output_dir(str(root / "mine"), "first", "id", [root])
        assert list(secret.iterdir()) == []

    def test_no_file_stays_open(self, tmp_path: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for name in ("first", "first", "second"):
            with suppress(TaskConflict):
                claim_output_dir(str(tmp_path / "a/b/c"), name, "id", [tmp_path])
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    def test_of_many_that_want_one_name_exactly_one_gets_it(self, tmp_path: Path) -> None:
        outcomes: list[str] = []
        barrier = threading.Barrier(20)

        def claim() -> None:
            barrier.wait()
            try:
                claim_output_dir(str(tmp_path / "not/there/yet"), "first", "id", [tmp_path])
            except ServiceError as error:
                outcomes.append(error.code)
            else:
                outcomes.append("won")

        threads = [threading.Thread(target=claim) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["name_in_use"] * 19 + ["won"]
