"""Attacks by a process that can write to the registry: versions that are refused, and champions
whose signature does not fit.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

import registry_project as project
from champions import PARAMS
from ecgforge.commands import classify_records, lineage
from ecgforge.commands import promote as stage
from ecgforge.errors import EcgforgeError
from ecgforge.files import md5
from ecgforge.model_versions import history, signing, versions
from ecgforge.model_versions.models import WEIGHTS
from ecgforge.model_versions.pyfunc_signature import DIGEST, FILES
from ecgforge.provenance import recorded
from ecgforge.provenance.dvc_store import DvcStore
from ecgforge.provenance.lineage import Node
from ecgforge.records.record_set import About, RecordSet
from ecgforge.registry import promotion, serving
from ecgforge.tracking import store
from registry_project import NAME

pytestmark = pytest.mark.slow
PREPROCESSING = {
    "sampling_rate": 100,
    "duration": project.SAMPLES / 100,
    "band": [0.5, 40],
    "max_amplitude": 20,
}
SERVICE = serving.service(
    About(
        100, project.SAMPLES, "mV", project.RHYTHMS, "simulated", {"preprocessing": PREPROCESSING}
    )
)
GOOD, BETTER, WORSE = "1", "2", "3"


def write_keys(folder: Path, name: str, key: Any = None) -> None:
    """Write a pair of keys, as `openssl` does."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    plain, pem = serialization.NoEncryption(), serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    (folder / f"{name}.pub").write_bytes(
        key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with three versions and keys in its folder; nobody is champion in before.db, and in
    signed.db BETTER is, after GOOD.
    """
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("project")
    patch.chdir(folder)
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    patch.setenv("DVC_STAGE", "")
    project.make(folder)
    with Path(".git/info/exclude").open("a") as file:
        file.write("*.db\nkeys\n")
    records = RecordSet.open(Path("data/prepared/ptbxl"))
    for seed, accuracy in enumerate((0.85, 0.97, 0.6), 1):
        project.register(records, accuracy, seed, service=SERVICE)
    project.record("classify_real@ptbxl", Path("models/classifiers/ptbxl/real"), [records.folder])
    Path("keys").mkdir()
    write_keys(Path("keys"), "ours")
    write_keys(Path("keys"), "theirs")
    write_keys(Path("keys"), "rsa", rsa.generate_private_key(65537, 2048))
    copy("mlflow.db", "before.db")
    name_keys("keys/ours.pem", "keys/ours.pub")
    for number in (GOOD, BETTER):
        promoted(number, DvcStore())
    copy("mlflow.db", "signed.db")
    yield folder
    patch.undo()


def copy(database: str, target: str) -> None:
    with closing(sqlite3.connect(database)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


@pytest.fixture
def content(registered: Path) -> Iterator[DvcStore]:
    """The project as it was registered, without keys."""
    assert Path.cwd() == registered
    copy("before.db", "mlflow.db")
    project.git("checkout", "-q", ".")
    yield DvcStore()
    project.git("checkout", "-q", ".")


@pytest.fixture
def keyed(content: DvcStore) -> DvcStore:
    """With keys, and two champions one after the other."""
    copy("signed.db", "mlflow.db")
    name_keys("keys/ours.pem", "keys/ours.pub")
    return content


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[None]:
    """Puts the files of GOOD back."""
    shutil.copytree(stored(GOOD), tmp_path / "kept")
    yield
    shutil.rmtree(stored(GOOD))
    shutil.copytree(tmp_path / "kept", stored(GOOD))


def name_keys(private: str | None, public: str | None) -> None:
    tree = yaml.load(Path("params.yaml").read_text(), yaml.CSafeLoader)
    tree["signing"] = {"private_key": private, "public_key": public}
    Path("params.yaml").write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper, sort_keys=False))


def promoted(number: str, content: DvcStore, force: bool = False) -> None:
    verdict = promotion.judge(PARAMS, versions.find(f"{NAME}/{number}"), content)
    promotion.promote(verdict, content, force, "a reason" if force else "")


# A version that is not ours


def stored(number: str) -> Path:
    """Where MLflow keeps the files of a version."""
    source = versions.find(f"{NAME}/{number}").source.removeprefix("models:/")
    return next(Path("mlruns").resolve().rglob(source)) / "artifacts"


def foreign_version(change: Callable[[Path], None], **tags: str) -> versions.Version:
    """Register the files of GOOD once more, changed, with its tags and a digest that fits, as who
    can write to the registry does.
    """
    registry, good, made = store.client(), versions.find(f"{NAME}/{GOOD}"), Path("keys/made")
    shutil.copytree(stored(GOOD), made, ignore=shutil.ignore_patterns(versions.version_note()))
    try:
        change(made)
        before = registry.get_logged_model(good.source.removeprefix("models:/"))
        model = registry.create_logged_model(before.experiment_id, NAME, good.run_id)
        registry.log_model_artifacts(model.model_id, str(made))
        registry.finalize_logged_model(model.model_id, "READY")
        all_tags = (
            good.tags
            | {DIGEST: md5(made), WEIGHTS: md5(made / FILES / "weights.safetensors")}
            | tags
        )
    finally:
        shutil.rmtree(made)
    version = registry.create_model_version(
        NAME, f"models:/{model.model_id}", good.run_id, all_tags, model_id=model.model_id
    )
    return versions.find(f"{NAME}/{version.version}")


def with_code(folder: Path) -> None:
    (folder / "code").mkdir()
    (folder / "code/evil.pyc").write_bytes(b"\xa7\r\r\n")
    tree = yaml.safe_load((folder / "MLmodel").read_text())
    tree["flavors"]["python_function"] |= {"loader_module": "evil", "code": "code"}
    (folder / "MLmodel").write_text(yaml.safe_dump(tree))


def with_loader(folder: Path) -> None:
    (folder / "MLmodel").write_text(
        (folder / "MLmodel").read_text().replace("ecgforge.registry.serving", "antigravity")
    )


@pytest.mark.parametrize(
    "change", [with_code, with_loader], ids=["a .pyc in code", "another loader"]
)
def test_a_foreign_version_is_refused_everywhere(
    content: DvcStore, change: Callable[[Path], None]
) -> None:
    version = foreign_version(change)
    with (
        pytest.raises(EcgforgeError, match=f"{version.label} holds .*it could execute"),
        versions.files(version),
    ):
        pass
    with pytest.raises(EcgforgeError, match="could execute"):
        promotion.judge(PARAMS, version, content)
    with pytest.raises(EcgforgeError, match=f"do not match .*{version.label}"):
        lineage.verify([version.label])


@pytest.mark.usefixtures("content", "kept")
def test_a_link_is_not_followed() -> None:
    file = stored(GOOD) / "extra_files/classifier.json"
    file.rename("keys/classifier.json")
    file.symlink_to(Path("keys/classifier.json").resolve())
    for look in (
        lambda: versions.files(versions.find(f"{NAME}/{GOOD}")),
        lambda: versions.fetched_at(stored(GOOD)),
    ):
        with (
            pytest.raises(
                EcgforgeError,
                match="holds (the link )?extra_files/classifier.json, .*could execute",
            ),
            look(),
        ):
            pass


@pytest.mark.usefixtures("content")
def test_files_in_another_place_are_refused() -> None:
    good = versions.find(f"{NAME}/{GOOD}")
    with pytest.raises(EcgforgeError, match="not an address that ecgforge uses"):
        versions.check(replace(good, source=str(stored(GOOD))), stored(GOOD))


def with_other_weights(folder: Path) -> None:
    shutil.copy(stored(BETTER) / "extra_files/weights.safetensors", folder / "extra_files")


def test_weights_that_no_record_has_are_not_promoted(content: DvcStore) -> None:
    """Of the right form, with the tags of a version that has a record."""
    Path("unheard").mkdir()
    new = project.Oracle(project.Oracle.Network(), project.RHYTHMS, __import__("torch").ones(8))
    new.accuracy += 0.99
    new.confidence += 0.98
    project.registry.save(new, "oracle", Path("unheard"))
    try:
        version = foreign_version(
            lambda folder: (
                shutil.copy("unheard/weights.safetensors", folder / "extra_files") and None
            )
        )
    finally:
        shutil.rmtree("unheard")
    with versions.files(version):
        pass
    with pytest.raises(EcgforgeError, match="failed provenance and was not made champion"):
        promoted(version.number, content)
    assert recorded.missing(version, content).startswith(
        "a record of stage classify_real@ptbxl with these weights and inputs, in dvc.lock of"
    )


@pytest.mark.parametrize(
    ("tags", "why"),
    [
        ({"dvc.stage": "classify_real@chapman"}, "a record of stage classify_real@chapman"),
        ({"dvc.stage": "prepare"}, "a record of stage prepare"),
        ({"input.other": "0" * 32 + ".dir"}, "with these weights and inputs"),
        ({"git.commit": ""}, "dvc.lock of commit (none)"),
        ({"git.commit": "0" * 40}, "dvc.lock of commit 00000000 or later"),
    ],
)
def test_what_the_tags_say_must_be_recorded(
    content: DvcStore, tags: dict[str, str], why: str
) -> None:
    assert recorded.missing(versions.find(f"{NAME}/{GOOD}"), content) == ""
    assert why in recorded.missing(foreign_version(lambda _: None, **tags), content)


@pytest.mark.usefixtures("content")
def test_weights_that_are_not_those_of_the_tag_are_refused() -> None:
    version = foreign_version(
        with_other_weights, **{WEIGHTS: versions.find(f"{NAME}/{GOOD}").tags[WEIGHTS]}
    )
    with (
        pytest.raises(EcgforgeError, match="are not those that were registered"),
        versions.files(version),
    ):
        pass


def test_a_record_counts_before_it_is_committed_and_not_on_another_branch(
    content: DvcStore,
) -> None:
    good = versions.find(f"{NAME}/{GOOD}")
    lock = Path("dvc.lock").read_text()
    before = project.git("branch", "--show-current")
    project.git("checkout", "-q", "--orphan", "another")
    try:
        project.git("commit", "-q", "-m", "a beginning")
        assert "a record of stage" not in recorded.missing(good, content), (
            "the commit that it names, and those after it, are still known"
        )
        version = foreign_version(
            lambda _: None, **{"git.commit": project.git("rev-parse", "HEAD")}
        )
        assert recorded.missing(version, content) == ""
        tree = yaml.safe_load(lock)
        del tree["stages"]["classify_real@ptbxl"]
        Path("dvc.lock").write_text(yaml.safe_dump(tree))
        project.git("commit", "-q", "-a", "--amend", "-m", "a beginning without a record")
        version = foreign_version(
            lambda _: None, **{"git.commit": project.git("rev-parse", "HEAD")}
        )
        assert recorded.missing(version, content) != ""
        Path("dvc.lock").write_text(lock)
        assert recorded.missing(version, DvcStore()) == "", "as after `dvc repro`"
    finally:
        project.git("checkout", "-q", "-f", before)
        project.git("branch", "-q", "-D", "another")


@pytest.mark.parametrize(
    "tags", [{"dataset": "chapman"}, {"kind": "generator"}, {"kind": ""}, {"dataset": "../ptbxl"}]
)
def test_tags_that_contradict_the_name_are_reported(
    content: DvcStore, tags: dict[str, str]
) -> None:
    with pytest.raises(EcgforgeError, match="does not fit its name"):
        promotion.judge(PARAMS, foreign_version(lambda _: None, **tags), content)


# Signatures


def looked_at(reference: str) -> dict[str, str]:
    """What each way to use a version says, empty where it is used."""
    messages = {}
    for way, use in (
        ("classify", lambda: classify_records.classify([Path("absent")], reference, None, None)),
        ("serve", lambda: mlflow.pyfunc.load_model(f"models:/{reference}")),
        ("verify", lambda: lineage.verify([reference])),
    ):
        try:
            use()
            messages[way] = ""
        except EcgforgeError as error:
            messages[way] = "" if "cannot classify the record" in str(error) else str(error)
    return messages


@pytest.mark.usefixtures("keyed")
def test_a_signed_champion_is_used_and_one_goes_back_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert set(looked_at(f"{NAME}@champion").values()) == {""}
    assert "in the registry, as registered and signed" in capsys.readouterr().out
    assert signing.fault(versions.find(f"{NAME}/{GOOD}")) == "", "it was champion"
    assert promotion.rollback(NAME, "") == (BETTER, GOOD)
    good = versions.find(f"{NAME}@champion")
    assert signing.fault(good) == ""
    assert history.faults(NAME) == []
    assert json.loads(good.tags[signing.SIGNATURE])["entry"] == list(history._texts(NAME))[-1]


def entry_key() -> str:
    return str(json.loads(versions.find(f"{NAME}/{GOOD}").tags[signing.SIGNATURE])["entry"])


def change_entry() -> None:
    text = store.client().get_registered_model(NAME).tags[entry_key()]
    store.client().set_registered_model_tag(
        NAME, entry_key(), text.replace('"promoted"', '"forced"')
    )


def change_card() -> None:
    card = store.client().get_model_version(NAME, GOOD).description
    store.client().update_model_version(
        NAME, GOOD, card.replace("Not a medical device", "A medical device")
    )


def change_files(change: Callable[[Path], Any]) -> Callable[[], None]:
    """Change files of the champion, and the tags that say which they are."""

    def apply() -> None:
        folder = stored(GOOD)
        change(folder)
        (folder / versions.version_note()).unlink(missing_ok=True)
        set_tag(DIGEST, md5(folder))
        set_tag(WEIGHTS, md5(folder / FILES / "weights.safetensors"))

    return apply


def set_tag(key: str, value: str) -> None:
    store.client().set_model_version_tag(NAME, GOOD, key, value)


def sign_by_another() -> None:
    before = Path("params.yaml").read_text()
    name_keys("keys/theirs.pem", None)
    signing.sign(versions.find(f"{NAME}/{GOOD}"), entry_key())
    Path("params.yaml").write_text(before)
    os.utime("params.yaml")


def copy_signature() -> None:
    """Of another champion, signed by the right key."""
    signing.sign(versions.find(f"{NAME}/{BETTER}"), entry_key())
    set_tag(signing.SIGNATURE, versions.find(f"{NAME}/{BETTER}").tags[signing.SIGNATURE])


def another_uuid(folder: Path) -> None:
    tree = yaml.safe_load((folder / "MLmodel").read_text())
    (folder / "MLmodel").write_text(yaml.safe_dump(tree | {"model_uuid": "0" * 32}))


TAMPERED: dict[str, tuple[Callable[[], Any], str]] = {
    "the entry": (change_entry, "changed since it was signed: entry"),
    "no entry": (
        lambda: store.client().delete_registered_model_tag(NAME, entry_key()),
        "changed since it was signed: entry",
    ),
    "the card": (change_card, "changed since it was signed: card"),
    "a tag": (lambda: set_tag("simulated", "false"), "changed since it was signed: provenance"),
    "the commit": (
        lambda: set_tag("git.commit", "0" * 40),
        "changed since it was signed: provenance",
    ),
    "a tag more": (
        lambda: set_tag("input.more", "0" * 32),
        "changed since it was signed: provenance",
    ),
    "the weights": (
        change_files(with_other_weights),
        "changed since it was signed: files/extra_files/weights.safetensors",
    ),
    "MLmodel": (change_files(another_uuid), "changed since it was signed: files/MLmodel"),
    "another key": (sign_by_another, "signed with another key, or damaged"),
    "another version's": (copy_signature, "changed since it was signed: "),
    "no signature": (
        lambda: store.client().delete_model_version_tag(NAME, GOOD, signing.SIGNATURE),
        "is not signed",
    ),
    "no JSON": (lambda: set_tag(signing.SIGNATURE, "{"), "is damaged"),
    "no bundle": (
        lambda: set_tag(signing.SIGNATURE, '{"entry": "a", "bundle": {}}'),
        "signed with another key, or damaged",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
@pytest.mark.usefixtures("keyed", "kept")
def test_one_that_was_tampered_with_has_no_good_signature(what: str) -> None:
    change, why = TAMPERED[what]
    change()
    fault = signing.fault(versions.find(f"{NAME}/{GOOD}"))
    assert why in fault
    assert "\n" not in fault
    assert history.champion(NAME) == BETTER
    with pytest.raises(EcgforgeError, match=f"{NAME}/{GOOD}"):
        promotion.rollback(NAME, "")
    assert history.champion(NAME) == BETTER


def test_a_champion_without_a_good_signature_is_used_nowhere(
    keyed: DvcStore, capsys: pytest.CaptureFixture[str]
) -> None:
    promotion.rollback(NAME, "")
    change_card()
    messages = looked_at(f"{NAME}@champion")
    assert "is not valid (changed since it was signed: card): refused" in messages["classify"]
    assert messages["serve"] == messages["classify"]
    assert re.search(f"1 of 4 do not match .*: {NAME}/{GOOD}", messages["verify"])
    assert f"LOST version {NAME}/{GOOD}" in capsys.readouterr().out
    verdict = promotion.judge(PARAMS, versions.find(f"{NAME}/{BETTER}"), keyed)
    assert verdict.against == f"{NAME}/{GOOD}, which has no valid signature"


def test_without_keys_nothing_is_signed_or_required(content: DvcStore) -> None:
    promoted(GOOD, content)
    assert signing.SIGNATURE not in versions.find(f"{NAME}/{GOOD}").tags
    change_card()
    assert signing.fault(versions.find(f"{NAME}@champion")) == ""


def test_a_champion_of_before_the_keys_is_signed_by_promoting_it_once_more(
    content: DvcStore,
) -> None:
    promoted(GOOD, content)
    promoted(BETTER, content)
    with pytest.raises(EcgforgeError, match="is champion already"):
        promotion.judge(PARAMS, versions.find(f"{NAME}/{BETTER}"), content)
    name_keys("keys/ours.pem", "keys/ours.pub")
    assert "is not signed" in signing.fault(versions.find(f"{NAME}@champion"))
    promoted(BETTER, content)
    assert signing.fault(versions.find(f"{NAME}@champion")) == ""
    assert history.faults(NAME) == []
    assert history.former(NAME) == GOOD
    with pytest.raises(EcgforgeError, match="is champion already"):
        promotion.judge(PARAMS, versions.find(f"{NAME}/{BETTER}"), content)


def test_a_former_champion_that_fails_when_it_is_judged_again_stays_signed(keyed: DvcStore) -> None:
    with pytest.raises(EcgforgeError, match="failed macro_f1"):
        promoted(GOOD, keyed)
    assert promotion.rollback(NAME, "") == (BETTER, GOOD)


def test_a_tampered_one_is_not_signed_by_judging_it_again(keyed: DvcStore) -> None:
    set_tag("simulated", "false")
    with pytest.raises(EcgforgeError, match="failed macro_f1"):
        promoted(GOOD, keyed)
    with pytest.raises(EcgforgeError, match="is not valid"):
        promotion.rollback(NAME, "")


@pytest.mark.parametrize(
    ("private", "public", "why"),
    [
        (None, "keys/ours.pub", "names signing.public_key but not signing.private_key"),
        ("keys/absent.pem", "keys/ours.pub", "the private key .*absent.pem"),
        ("keys/rsa.pem", None, "the private key .*rsa.pem"),
        ("keys/ours.pem", "keys/rsa.pub", "the public key .*rsa.pub"),
        ("keys/ours.pem", "params.yaml", "the public key .*params.yaml"),
        ("keys/theirs.pem", "keys/ours.pub", "are not a pair"),
    ],
)
def test_unusable_keys_are_reported_before_anything_is_written(
    keyed: DvcStore, private: str, public: str, why: str
) -> None:
    worse = versions.find(f"{NAME}/{WORSE}")
    verdict = promotion.Verdict(
        worse, BETTER, "", {}, [], pd.DataFrame(), Node("version", worse.label)
    )
    name_keys(private, public)
    for act in (
        lambda: promotion.promote(verdict, keyed, False, ""),
        lambda: promotion.rollback(NAME, ""),
    ):
        with pytest.raises(EcgforgeError, match=why) as refusal:
            act()
        assert "\n" not in str(refusal.value)
    assert versions.find(worse.label).tags == worse.tags
    assert len(history.entries(NAME)) == 2


@pytest.mark.usefixtures("keyed")
def test_a_copy_away_from_its_registry_has_no_signature(tmp_path: Path) -> None:
    away = shutil.copytree(
        stored(GOOD), tmp_path / "away", ignore=shutil.ignore_patterns(versions.version_note())
    )
    with pytest.raises(EcgforgeError, match="not a version of this registry"):
        mlflow.pyfunc.load_model(str(away))


# A champion that was set by hand


def test_a_champion_set_by_hand_is_reported_once_wherever_it_is_used(
    content: DvcStore, capsys: pytest.CaptureFixture[str]
) -> None:
    promoted(GOOD, content)
    store.client().set_registered_model_alias(NAME, "champion", WORSE)
    for use in (
        lambda: classify_records.classify([Path("absent")], f"{NAME}@champion", None, None),
        lambda: mlflow.pyfunc.load_model(f"models:/{NAME}@champion"),
        lambda: lineage.verify([]),
        lambda: lineage.verify([f"{NAME}@champion"]),
        lambda: stage.promote(PARAMS, NAME, BETTER, False, True, False, ""),
        lambda: stage.rollback(NAME, ""),
    ):
        capsys.readouterr()
        with suppress(EcgforgeError):  # that a record is absent
            use()
        messages = [
            line for line in capsys.readouterr().err.split("\n") if line.startswith("warning: ")
        ]
        assert len(messages) == 1
        assert messages[0].startswith(
            f"warning: version {WORSE} of {NAME} was made champion by other means than `ecgforge "
            "promote`"
        )
    assert history.champion(NAME) == GOOD
    capsys.readouterr()
    lineage.verify([])
    assert "warning" not in capsys.readouterr().err


def test_gates_report_a_champion_without_gates(content: DvcStore) -> None:
    store.client().set_registered_model_alias(NAME, "champion", WORSE)
    promoted(BETTER, content)
    words = (
        f"against {NAME}/{WORSE}, which was made champion by other means than `ecgforge promote`"
    )
    version = versions.find(f"{NAME}/{BETTER}")
    assert version.tags["verdict"].startswith(f"passed, {words}; run ")
    assert words in promotion.card_path(content.root, version).read_text()


def test_a_champion_set_by_hand_can_be_gated_afterwards(content: DvcStore) -> None:
    promoted(GOOD, content)
    store.client().set_registered_model_alias(NAME, "champion", WORSE)
    with pytest.raises(
        EcgforgeError, match=f"{NAME}/{WORSE} failed macro_f1, recall and was not made champion"
    ):
        promoted(WORSE, content)
    store.client().set_registered_model_alias(NAME, "champion", BETTER)
    promoted(BETTER, content)
    assert history.faults(NAME) == []
    assert history.former(NAME) == GOOD
    assert not history.ungated(NAME)
