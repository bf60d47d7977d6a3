"""The commit of a result: that of this project's checkout, never that of a repository around an installed copy."""

import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from bench.core import provenance

ROOT = Path(provenance.__file__).parents[2]
FILES = ("bench/core/provenance.py", "methods/__init__.py")


def git(folder: Path, *arguments: str) -> str:
    settings = ("user.name=t", "user.email=t@t", "protocol.file.allow=always")
    words = ["git", "-C", str(folder), *(word for setting in settings for word in ("-c", setting)), *arguments]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def copy(root: Path, places: tuple[str, ...] = FILES) -> Path:
    """Copy the files that decide to ``places`` under ``root``."""
    for file, place in zip(FILES, places, strict=True):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, root / place)
    return root


def repository(root: Path) -> Path:
    """Make ``root`` a repository with everything in it committed."""
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-qm", "all", "--allow-empty")
    return root


def commit(root: Path, file: str = FILES[0]) -> str | None:
    """Return what the copy of the module at ``root / file`` takes for its commit."""
    spec = spec_from_file_location("copied_provenance", root / file)
    module = sys.modules["copied_provenance"] = module_from_spec(spec)  # dataclasses look it up
    spec.loader.exec_module(module)
    return module.commit()


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # its files would be changes of the copies


@pytest.fixture
def checkout(tmp_path) -> Path:
    return repository(copy(tmp_path / "checkout"))


@pytest.fixture
def other(tmp_path) -> Path:
    """Somebody's repository."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".gitignore").write_text(".venv\n")
    return repository(tmp_path / "other")


def test_commit_of_a_checkout(checkout, tmp_path):
    head = git(checkout, "rev-parse", "HEAD")
    assert commit(checkout) == head
    (tmp_path / "link").symlink_to(checkout)
    assert commit(tmp_path / "link") == head
    git(checkout, "worktree", "add", "-q", str(tmp_path / "tree"), "-b", "work")
    assert commit(tmp_path / "tree") == head


@pytest.mark.parametrize("file, dirty", [("methods/new.py", True), (FILES[0], True), ("notes.txt", False)])
def test_local_changes_of_the_code_are_dirty(checkout, file, dirty):
    git(checkout, "config", "status.showUntrackedFiles", "no")
    with (checkout / file).open("a") as content:
        content.write("# changed\n")
    assert commit(checkout) == git(checkout, "rev-parse", "HEAD") + ("-dirty" if dirty else "")


def test_commit_of_a_submodule_is_its_own(checkout, other):
    git(other, "submodule", "--quiet", "add", str(checkout), "part")
    git(other, "commit", "-qm", "submodule")
    assert commit(other / "part") == git(checkout, "rev-parse", "HEAD") != git(other, "rev-parse", "HEAD")


@pytest.mark.parametrize("folder", [".venv/lib/site-packages", "untracked"])
def test_installed_inside_another_repository(other, folder):
    assert commit(copy(other / folder)) is None


@pytest.mark.parametrize("folder, methods", [("vendored", "methods"), ("", "bench/methods")])
def test_committed_to_another_repository(tmp_path, folder, methods):
    root = tmp_path / "mine" / folder
    copy(root, (FILES[0], f"{methods}/__init__.py"))
    repository(tmp_path / "mine")
    assert commit(root) is None


def test_a_repository_in_the_environment_is_ignored(checkout, other, tmp_path, monkeypatch):
    head, alone = git(checkout, "rev-parse", "HEAD"), copy(tmp_path / "alone")
    repository(copy(tmp_path / "twin"))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"):
        for folder in (other, tmp_path / "twin"):
            place = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": folder / ".git" / "index"}.get(name, folder / ".git")
            with monkeypatch.context() as patch:
                patch.setenv(name, str(place))
                assert (commit(checkout), commit(alone)) == (head, None)


@pytest.mark.parametrize("script", ["", "#!/bin/sh\nexit 128\n", "#!/bin/sh\necho HEAD\n"])
def test_without_a_working_git_there_is_no_commit(checkout, tmp_path, monkeypatch, script):
    """Git is not installed, rejects the owner of the folder, or is another program."""
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    if script:
        program.write_text(script)
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent))
    assert commit(checkout) is None


def test_a_repository_without_commits_has_none(tmp_path):
    copy(tmp_path)
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None
    git(tmp_path, "add", "-A")
    assert commit(tmp_path) is None
