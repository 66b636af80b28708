"""dvc.lock: written whole, torn ones found and restored."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, TextIO

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ecgforge.dvc import internals, lock, unchanged
from ecgforge.errors import EcgforgeError

NAMES = [f"stage{i}@{data}" for i in range(4) for data in ("a", "b")]


def text(names: list[str], digest: str = "0") -> str:
    def entry(name: str) -> dict[str, object]:
        return {
            "cmd": f"make {name}",
            "deps": [{"path": "src", "hash": "md5", "md5": "f" * 32}],
            "params": {"params.yaml": {"seed": 1, "rate": 0.5}},
            "outs": [
                {"path": f"{name}.{k}", "hash": "md5", "md5": digest * 32, "size": 7}
                for k in (1, 2)
            ],
        }

    tree = {"schema": "2.0", "stages": {name: entry(name) for name in names}}
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    (tmp_path / lock.LOCK).write_text(text(NAMES))
    lock.keep(tmp_path)
    return tmp_path


def found(root: Path) -> dict[str, object]:
    return yaml.safe_load((root / lock.LOCK).read_text())["stages"]


@pytest.mark.slow
def test_a_lock_that_is_cut_anywhere_gets_all_its_stages_back(root: Path) -> None:
    content, stages = (root / lock.LOCK).read_text(), found(root)
    for end in range(0, content.rindex("md5:") + 20, 13):
        (root / lock.LOCK).write_text(content[:end])
        assert lock.mend(root).startswith("dvc.lock was damaged"), content[:end][-150:]
        assert found(root) == stages, f"cut at {end}"
        assert lock.mend(root) == ""


def test_a_cut_newer_lock_keeps_its_complete_newer_entries(root: Path) -> None:
    newer = text(NAMES, "1")
    (root / lock.LOCK).write_text(newer[: newer.index("stage2@b:") + 40])
    assert "restored from the copy of the last finished stage" in lock.mend(root)
    digests = {name: entry["outs"][0]["md5"][0] for name, entry in found(root).items()}
    assert list(digests) == NAMES
    assert "".join(digests.values()) == "11111000"


def test_without_a_copy_the_last_commit_is_restored(root: Path) -> None:
    (root / lock.KEPT).unlink()
    for command in (
        ["config", "user.name", "Ada"],
        ["config", "user.email", "a@example.org"],
        ["add", "-f", lock.LOCK],
        ["commit", "-qm", "x"],
    ):
        subprocess.run(["git", *command], cwd=root, check=True)
    (root / lock.LOCK).write_text("sche")
    assert "restored from the last commit" in lock.mend(root)
    assert list(found(root)) == NAMES
    assert (root / lock.DAMAGED).read_text() == "sche", "nothing is thrown away"


def test_without_any_copy_a_torn_lock_is_refused_in_one_line(root: Path) -> None:
    (root / lock.KEPT).unlink()
    (root / lock.LOCK).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(
        EcgforgeError, match=r"^dvc.lock is damaged and there is no copy of it: move it away.*$"
    ):
        lock.mend(root)


def test_a_committed_lock_with_fewer_stages_is_left_alone(root: Path) -> None:
    (root / lock.LOCK).write_text(text(NAMES[:3]))
    subprocess.run(
        ["git", "hash-object", "-w", lock.LOCK], cwd=root, check=True, capture_output=True
    )
    assert lock.mend(root) == ""
    assert list(found(root)) == NAMES[:3]


def test_other_stages_in_another_order_are_no_cut(root: Path) -> None:
    for names in (NAMES[1:], NAMES[::-1], [*NAMES, "more"]):
        (root / lock.LOCK).write_text(text(names))
        assert lock.mend(root) == ""
        assert list(found(root)) == names


@pytest.mark.parametrize("kept", [True, False])
def test_a_merge_conflict_is_named_as_one(root: Path, kept: bool) -> None:
    content = text(NAMES).replace("  stage1@a", "<<<<<<< HEAD\n  stage1@a", 1)
    (root / lock.LOCK).write_text(content)
    if not kept:
        (root / lock.KEPT).unlink()
    with pytest.raises(EcgforgeError, match=r"dvc.lock has a merge conflict: resolve it"):
        lock.mend(root)
    assert (root / lock.LOCK).read_text() == content


def test_a_folder_in_the_place_of_the_lock_is_named(root: Path) -> None:
    (root / lock.LOCK).unlink()
    (root / lock.LOCK).mkdir()
    with pytest.raises(EcgforgeError, match=r"dvc.lock is a folder: move it away"):
        lock.mend(root)


def test_a_restored_lock_keeps_values_that_other_parsers_misread(root: Path) -> None:
    """A small number, and texts that are a boolean or a time in YAML 1.1."""
    values = {"rate": 5e-05, "text": "no", "other": "1:30"}
    tree = lock.load(text(NAMES))
    tree["stages"][NAMES[0]]["params"] = {"resolved/params.json": values}
    written = io.StringIO()
    lock.dump(tree, written)
    (root / lock.LOCK).write_text(written.getvalue())
    lock.keep(root)
    newer = written.getvalue().replace("1:30", "2:30")
    (root / lock.LOCK).write_text(newer[: newer.rindex("  ") - 40])
    assert lock.mend(root)
    restored = lock.load((root / lock.LOCK).read_text())["stages"][NAMES[0]]["params"]
    assert restored == {"resolved/params.json": values | {"other": "2:30"}}


def test_a_torn_lock_is_not_kept(root: Path) -> None:
    (root / lock.LOCK).write_text(text(NAMES)[:900])
    lock.keep(root)
    assert (root / lock.KEPT).read_text() == text(NAMES)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    stages = {name: {"cmd": f"echo {name} > {name}", "outs": [name]} for name in ("one", "two")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    for command in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(command, cwd=tmp_path, check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_kill_while_dvc_writes_its_lock_leaves_the_former_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.repo import Repo

    with internals.atomic_writes(), Repo() as repo:
        repo.reproduce(["one"])
    before = (project / lock.LOCK).read_text()
    assert (project / lock.KEPT).read_text() == before
    real = lock.dump

    def killed(_: object, stream: TextIO) -> None:
        real({"half": 1}, stream)
        raise KeyboardInterrupt

    monkeypatch.setattr(lock, "dump", killed)
    with internals.atomic_writes(), Repo() as repo, pytest.raises(KeyboardInterrupt):
        repo.reproduce(["two"])
    assert (project / lock.LOCK).read_text() == before


STAGE: dict[str, Any] = {
    "cmd": "train",
    "params": {"params.yaml": {"rate": 5e-05, "text": "5e-05"}},
}


@settings(deadline=None)
@given(
    values=st.dictionaries(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1),
        st.one_of(
            st.none(),
            st.booleans(),
            st.integers(),
            st.floats(allow_nan=False),
            st.text(max_size=200),
            st.sampled_from(
                ["no", "on", "0o14", "012", "1:30", "5e-05", "2001-01-01", "~", "", "="]
            ),
        ),
    )
)
def test_dvc_reads_the_same_from_a_lock_that_the_fast_writer_wrote(values: dict[str, Any]) -> None:
    from dvc.utils.serialize import parse_yaml

    params = STAGE["params"] | {"other.yaml": values}
    tree = {"schema": "2.0", "stages": {"b": STAGE, "a": {**STAGE, "params": params}}}
    text = io.StringIO()
    lock.dump(tree, text)
    assert parse_yaml(text.getvalue(), lock.LOCK) == tree
    assert list(parse_yaml(text.getvalue(), lock.LOCK)["stages"]) == ["b", "a"]


def test_the_fast_writer_has_the_layout_of_dvc() -> None:
    from dvc.utils.serialize import dumps_yaml

    deps, outs = ([{"path": name, "md5": "0" * 32, "size": 5}] for name in ("src", "data"))
    tree = {"schema": "2.0", "stages": OrderedDict(one={**STAGE, "deps": deps, "outs": outs})}
    text = io.StringIO()
    lock.dump(tree, text)
    assert text.getvalue() == dumps_yaml(tree)


def test_the_private_names_that_are_changed_are_those_that_dvc_uses() -> None:
    from dvc.dependency import param
    from dvc.output import Output
    from dvc.utils.serialize import _common, _yaml

    assert "_dump_data(" in inspect.getsource(_common._modify_data), (
        "all changes of dvc.lock go through it"
    )
    assert "_dump_data(" in inspect.getsource(_yaml.dump_yaml)
    assert list(inspect.signature(_common._dump_data).parameters) == [
        "path",
        "data",
        "dumper",
        "fs",
        "dumper_args",
    ]
    assert "load_path(" in inspect.getsource(param)
    assert "dpath.get(" in inspect.getsource(param)
    assert "self.get_hash()" in inspect.getsource(Output)


def test_a_folder_is_read_again_only_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dvc.output import Output
    from dvc.repo import Repo

    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "--quiet"], check=True)
    Repo.init().close()
    stage = {"cmd": "exit 1", "outs": [{"raw": {"persist": True}}]}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": {"acquire": stage}}))
    Path("raw/inner").mkdir(parents=True)
    files = [Path(name) for name in ("raw/a", "raw/inner/b")]
    for file in files:
        file.write_text("one")
    with Repo() as repo:
        repo.commit(force=True)
    read: list[str] = []
    build = Output._build

    def counted(output: Output, *arguments: Any, **options: Any) -> Any:
        read.append(str(output))
        return build(output, *arguments, **options)

    monkeypatch.setattr(Output, "_build", counted)

    def status() -> tuple[bool, int]:
        """Return whether the folder has changed, and how often it was read."""
        read.clear()
        with internals.each_file_once(), Repo() as repo:
            return bool(repo.status()), len(read)

    assert [status(), status()] == [(False, 1), (False, 0)]
    for file in files:
        file.write_text("two")
        assert [status(), status()] == [(True, 1), (True, 0)]
        file.write_text("one")
        assert [status(), status()] == [(False, 1), (False, 0)]
    files[1].rename("raw/inner/c")
    assert [status(), status()] == [(True, 1), (True, 0)]
    Path("raw/inner/c").rename(files[1])
    assert status() == (False, 1)
    Path(".dvcignore").write_text("b\n")  # it decides which files count
    assert [status(), status()] == [(True, 1), (True, 0)]
    Path(".dvcignore").write_text("")
    assert status() == (False, 1)
    for damaged in ("", "[]", '{"raw": 1}', '{"raw": ["", {}'):
        unchanged.KEPT.write_text(damaged)
        assert [status(), status()] == [(False, 1), (False, 0)]
