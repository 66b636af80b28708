import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ecgforge import files
from ecgforge.files import atomic_write, md5, read_csv


def test_atomic_write_replaces_only_on_success(tmp_path):
    target = tmp_path / "out" / "table.csv"
    with atomic_write(target) as scratch:
        scratch.write_text("first")
        assert not target.exists()
    assert target.read_text() == "first"
    with pytest.raises(RuntimeError), atomic_write(target) as scratch:  # noqa: PT012
        scratch.write_text("second")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["table.csv"]


def test_a_digest_is_computed_again_only_after_a_change(tmp_path, monkeypatch):
    folder, calls = tmp_path / "set", []
    folder.mkdir()
    (folder / "signals").write_text("one")
    monkeypatch.setattr(files, "md5", lambda path: calls.append(path) or md5(path))
    first = files.cached_md5(folder)
    assert first == files.cached_md5(folder) == md5(folder)
    assert calls.count(folder) == 1
    time = (folder / "signals").stat().st_mtime_ns
    (folder / "signals").write_text("two")  # of the same size
    os.utime(folder / "signals", ns=(time, time + 1))
    assert files.cached_md5(folder) == md5(folder) != first
    (folder / "signals").rename(folder / "labels")
    assert files.cached_md5(folder) == md5(folder)


def test_atomic_write_leaves_nothing_of_a_failed_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "set") as scratch:  # noqa: PT012
        scratch.mkdir()
        (scratch / "half").write_text("written")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_removes_the_files_of_a_killed_process(tmp_path):
    with atomic_write(tmp_path / "set") as scratch:
        scratch.mkdir()
    left = tmp_path / ".set.partial"
    left.mkdir()
    (left / "stale").write_text("from before")
    with atomic_write(tmp_path / "set") as scratch:
        assert not scratch.exists()
        scratch.mkdir()
        (scratch / "fresh").write_text("now")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["fresh"]


def test_atomic_write_replaces_a_file_in_one_step(tmp_path, monkeypatch):
    """A kill at any file operation leaves the old file or the new one, never none."""
    target = tmp_path / "table.csv"
    target.write_text("old")
    seen = []
    for name in ("replace", "rename", "unlink"):
        real = getattr(Path, name)

        def watched(self, *arguments, real=real, **options):
            seen.append(target.read_text())
            found = real(self, *arguments, **options)
            seen.append(target.read_text())
            return found

        monkeypatch.setattr(Path, name, watched)
    with atomic_write(target) as scratch:
        scratch.write_text("new")
    assert set(seen) == {"old", "new"}


def test_atomic_write_restores_the_folder_of_a_process_killed_between_its_renames(
    tmp_path, monkeypatch
):
    target = tmp_path / "set"
    target.mkdir()
    (target / "kept").write_text("old")

    def killed(self, other):
        real(self, other)
        raise SystemExit  # nothing after the first rename happens

    real = Path.rename
    with monkeypatch.context() as patch, pytest.raises(SystemExit), atomic_write(target) as scratch:  # noqa: PT012
        scratch.mkdir()
        patch.setattr(Path, "rename", killed)
    assert not target.exists()
    with pytest.raises(RuntimeError), atomic_write(target) as scratch:
        raise RuntimeError
    assert (target / "kept").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_atomic_write_moves_nothing_if_nothing_was_written(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "kept").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "kept").read_text() == "old"


def test_atomic_write_writes_no_file_over_a_folder(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path / "set") as scratch:
        scratch.write_text("a file")
    assert (tmp_path / "set").is_dir()


def test_md5_is_the_digest_that_dvc_records(tmp_path):
    (tmp_path / "table.csv").write_bytes(b"id,rhythm\r\n1,SR\r\n")
    folder = tmp_path / "set"
    # "a.txt" sorts before "a/b" as text and after it as path parts; DVC sorts text.
    for name in ("a/b", "a.txt", "empty", "größe µV", "a/c/d"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"" if name == "empty" else name.encode() * 3)
    for command in (["init", "--no-scm", "-q"], ["add", "-q", "table.csv", "set"]):
        subprocess.run(
            [sys.executable, "-m", "dvc", *command],
            cwd=tmp_path,
            check=True,
            env={"PATH": "", "DVC_NO_ANALYTICS": "1"},
        )
    for name in ("table.csv", "set"):
        recorded = yaml.safe_load((tmp_path / f"{name}.dvc").read_text())["outs"][0]["md5"]
        assert md5(tmp_path / name) == recorded


def test_numbers_of_a_table_are_those_that_were_written(tmp_path):
    file = tmp_path / "table.csv"
    # the default parser of pandas crashes on the first
    file.write_text("digest,number\n1e3147483648,0.30000000000000004\n")
    table = read_csv(file, dtype={"digest": str})
    assert table["digest"].tolist() == ["1e3147483648"]
    assert table["number"].tolist() == [0.30000000000000004]
    assert read_csv(file)["digest"].tolist() != []
