"""The source of a study's run: the folder where the command was started, as far as git knows it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from cifar_hpo.paths import PACKAGE
from cifar_hpo.tracking import _mlflow
from cifar_hpo.tracking.source import MAX_DIFF, is_dirty, source_tags, uncommitted_diff

SECRET = "only-for-me-123"


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
    shown = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True
    )
    return shown.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one commit of a file."""
    git(tmp_path, "init", "-q", "-b", "main")
    (tmp_path / "model.py").write_text("size = 1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def test_commit_branch_and_remote_are_those_of_the_folder(repository: Path) -> None:
    git(repository, "remote", "add", "origin", "https://me:secret@host/repository.git")
    inner = repository / "inner"
    inner.mkdir()
    tags = source_tags(inner)
    assert tags[_mlflow.GIT_COMMIT] == git(repository, "rev-parse", "HEAD")
    assert tags[_mlflow.GIT_BRANCH] == "main"
    assert tags[_mlflow.GIT_REMOTE] == "https://me:***@host/repository.git"
    assert tags["mlflow.user"]
    assert uncommitted_diff(inner) == ""


def test_a_diff_shows_what_is_not_committed_without_passwords(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    (repository / "model.py").write_text(f"size = 2\ntoken = '{SECRET}'\n")
    diff = uncommitted_diff(repository)
    assert "-size = 1\n+size = 2\n+token = '***'" in diff


def test_passwords_that_a_file_spells_out_are_masked_in_a_diff(repository: Path) -> None:
    (repository / "model.py").write_text(f"size = 2\nDB_PASSWORD = '{SECRET}'\n")
    settings = repository / "settings.yaml"
    settings.write_text(f"host: db\napi_key: {SECRET}\n")
    git(repository, "add", "-N", settings.name)
    diff = uncommitted_diff(repository)
    assert SECRET not in diff
    assert "+DB_PASSWORD = '***'" in diff
    assert "+host: db\n+api_key: ***\n" in diff


@pytest.mark.parametrize("name", ["staged.py", "removed.py"])
def test_what_is_staged_or_gone_is_part_of_it(repository: Path, name: str) -> None:
    if name == "staged.py":
        (repository / name).write_text("new\n")
        git(repository, "add", name)
        assert "+new" in uncommitted_diff(repository)
    else:
        (repository / "model.py").unlink()
        assert "-size = 1" in uncommitted_diff(repository)


def test_files_that_git_does_not_know_make_it_dirty_and_are_listed_by_name(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVICE_TOKEN", SECRET)
    for generated in ("mlruns/a/b", "mlflow.db", "multirun/x/y", "outputs/z", "__pycache__/m.pyc"):
        (repository / generated).parent.mkdir(parents=True, exist_ok=True)
        (repository / generated).touch()
    assert not is_dirty(repository)
    assert uncommitted_diff(repository) == ""
    (repository / "a ü.py").write_text("not shown\n")
    (repository / f"{SECRET}.txt").touch()
    (repository / "new").mkdir()
    (repository / "new" / "b.py").touch()
    assert is_dirty(repository)
    (repository / "model.py").write_text("size = 2\n")
    diff = uncommitted_diff(repository)
    assert diff.endswith("+size = 2\nuntracked: a ü.py\nuntracked: new/\nuntracked: ***.txt\n")
    (repository / ".gitignore").write_text("*\n")
    git(repository, "checkout", "-q", "model.py")
    assert not is_dirty(repository)


def test_a_change_makes_it_dirty(repository: Path) -> None:
    (repository / "model.py").write_text("size = 2\n")
    inner = repository / "inner"
    inner.mkdir()
    assert is_dirty(inner)


def test_a_detached_head_is_a_commit_without_a_branch(repository: Path) -> None:
    git(repository, "checkout", "-q", "--detach")
    tags = source_tags(repository)
    assert tags[_mlflow.GIT_COMMIT]
    assert _mlflow.GIT_BRANCH not in tags


def test_a_huge_or_binary_diff_is_cut_and_comes_soon(repository: Path) -> None:
    (repository / "model.py").write_text("a line of some length\n" * 20_000)
    (repository / "image.bin").write_bytes(bytes(range(256)) * 1000)
    git(repository, "add", "-N", "image.bin")
    started = time.monotonic()
    diff = uncommitted_diff(repository)
    assert time.monotonic() - started < 30
    assert len(diff) < MAX_DIFF + 100
    assert diff.endswith("\n… and more: cut at 200,000 bytes\n")
    assert "Binary files" in diff


def test_without_a_repository_a_commit_or_git_there_is_less_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for prepare in (lambda: None, lambda: git(tmp_path, "init", "-q")):
        prepare()
        tags = source_tags(tmp_path)
        assert _mlflow.GIT_COMMIT not in tags
        assert tags["mlflow.user"]
        assert uncommitted_diff(tmp_path) == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _mlflow.GIT_COMMIT not in source_tags(tmp_path)
    assert uncommitted_diff(tmp_path) == ""
    assert uncommitted_diff(tmp_path / "gone") == ""
    assert not is_dirty(tmp_path)


def test_git_runs_no_program_that_a_repository_names(repository: Path) -> None:
    seen = repository / "seen"
    program = f"touch {seen}; cat"
    (repository / ".gitattributes").write_text("*.py diff=mine\n")
    for key in ("diff.mine.textconv", "diff.external", "core.fsmonitor"):
        git(repository, "config", key, program)
    (repository / "model.py").write_text("size = 3\n")
    assert "+size = 3" in uncommitted_diff(repository)
    assert not seen.exists()


def test_git_that_does_not_answer_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "git"
    slow.write_text("#!/bin/sh\nexec sleep 100\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("cifar_hpo.tracking.source.GIT_TIMEOUT", 0.2)
    started = time.monotonic()
    assert uncommitted_diff(tmp_path) == ""
    assert time.monotonic() - started < 30


def test_the_program_is_the_app_s_file_or_the_folder_where_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = tmp_path / "app.py"
    monkeypatch.setattr(sys, "argv", [str(app)])
    assert source_tags(tmp_path)[_mlflow.SOURCE_NAME] == str(app)
    for ours in (str(PACKAGE / "__main__.py"), "/usr/bin/cifar-hpo"):
        monkeypatch.setattr(sys, "argv", [ours])
        assert source_tags(tmp_path)[_mlflow.SOURCE_NAME] == str(tmp_path)
