"""The parameters: params.yaml is valid, and every mistake in it is one line that names the key."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ecgforge.cli import app
from ecgforge.errors import EcgforgeError
from ecgforge.generators.common.registry import GENERATORS, generator_class
from ecgforge.params import Float, Params, Training, checked
from ecgforge.stages import parameters

ROOT = Path(__file__).parent.parent


def loaded(text: str) -> dict[str, Any]:
    return yaml.load(text, yaml.CSafeLoader)  # ten times as fast as the one in Python


TREE = loaded((ROOT / "params.yaml").read_text())


@pytest.fixture
def tree() -> dict[str, Any]:
    return copy.deepcopy(TREE)


def write(tree: dict[str, Any], folder: Path) -> Path:
    path = folder / "params.yaml"
    path.write_text(yaml.dump(tree, Dumper=yaml.CSafeDumper))
    return path


def test_every_profile_is_valid_as_a_whole() -> None:
    params = parameters.read(ROOT / "params.yaml")
    assert params.profile == "demo"
    assert set(params.profiles) == {"demo", "small", "sample", "paper", "paper_10000", "gpu"}


def test_large_profiles_search_sampling_parameters_alone_which_share_one_training() -> None:
    params = parameters.read(ROOT / "params.yaml").with_profile("paper")
    spaces = [params.generator(name).tuning.space for name in GENERATORS if name != "simulator"]
    assert all(key.startswith("sampling.") for space in spaces for key in space)
    assert all(spaces)
    gpu = params.with_profile("gpu")
    assert not any(gpu.generator(name).tuning.n_trials for name in GENERATORS)
    assert not gpu.classifier.tuning.n_trials


def test_equal_sizes_need_the_merged_dataset(tree: dict[str, Any], tmp_path: Path) -> None:
    tree |= {"datasets": ["ptbxl"], "folds": {}}
    tree["sweep_targets"] |= {"cross_dataset": [], "equal_size": ["ptbxl"]}
    with pytest.raises(EcgforgeError, match="equal_size: it needs the dataset 'merged'"):
        parameters.read(write(tree, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "profiles.demo.classifiers.resnet1d.training.learning_rate",
            5,
            "profiles.demo.classifiers.resnet1d.training.learning_rate = 5: .*less than or equal "
            "to 1",
        ),
        (
            "profiles.demo.classifiers.resnet1d.training.learning_rat",
            0.1,
            "profiles.demo.classifiers.resnet1d.training.learning_rat: unknown key",
        ),
        (
            "profiles.demo.classifiers.xresnet1d.network.depths",
            [1],
            "profiles.demo.classifiers.xresnet1d.network: .*as many values as widths",
        ),
        (
            "profiles.paper.generators.diffwave.network.chanels",
            8,
            "profiles.paper.generators.diffwave.network: chanels: unknown key",
        ),
        (
            "profiles.demo.generators.time_vqvae.sampling.guidance",
            -1,
            "profiles.demo.generators.time_vqvae.sampling: guidance = -1",
        ),
        (
            "profiles.sample.classifiers.resnet1d.backbone",
            "xresnet1d",
            "resnet1d.backbone: the key of an entry is its backbone",
        ),
        (
            "backbone",
            "vit",
            "profiles.demo.classifiers: 'vit' is listed in backbone but not defined here",
        ),
        (
            "sweep_targets.backbones",
            ["vit"],
            "profiles.demo.classifiers: 'vit' is listed in sweep_targets.backbones but not "
            "defined here",
        ),
        (
            "sweep_targets.backbones",
            ["transformer"] * 2,
            "sweep_targets.backbones = .*: transformer is there twice",
        ),
        (
            "sweep_targets.backbones",
            ["resnet1d"],
            "sweep_targets.backbones: resnet1d is the study's classifier",
        ),
        (
            "generators",
            ["diffwave", "gan"],
            "profiles.demo.generators: 'gan' is listed in generators but not defined here",
        ),
        (
            "datasets",
            ["ptbxl", "mitbih"],
            "datasets: 'mitbih' is not one of ptbxl, chapman, merged",
        ),
        ("merged", [], "datasets: 'merged' is not one of ptbxl, chapman"),
        ("merged", ["ptbxl", "mitbih"], "merged: 'mitbih' is not one of ptbxl, chapman"),
        (
            "sweep_targets.equal_size",
            ["mitbih"],
            "sweep_targets.equal_size: 'mitbih' is not one of ptbxl, chapman",
        ),
        ("merged", ["ptbxl"], r"merged = \['ptbxl'\]: name two sources or more, or none"),
        ("merged", [*"abcdefghi"], r"merged = .*: .*at most 8 items"),
        ("profile", "dmo", "profile: 'dmo' is not one of demo, sample, paper"),
        (
            "preprocessing.band",
            [0.5, 60],
            "band must rise, and must end below half the sampling rate, 50 Hz",
        ),
        (
            "profiles.demo.sources.ptbxl.kind",
            "internet",
            "profiles.demo.sources.ptbxl.*'simulated', 'physionet', 'folder'",
        ),
        (
            "profiles.demo.study.seeds",
            [1, 1],
            r"profiles.demo.study.seeds = \[1, 1\]: 1 is there twice",
        ),
        ("profiles.demo.sweeps.seeds", [0, 0], "profiles.demo.sweeps.seeds = .*: 0 is there twice"),
        (
            "profiles.sample.sweeps.mixture.percents",
            [10, 50, 10.0],
            "profiles.sample.sweeps.mixture: percents = .*: 10 is there twice",
        ),
        (
            "profiles.demo.sweeps.transfer.percents",
            [1, 1],
            "profiles.demo.sweeps.transfer: percents = .*: 1 is there twice",
        ),
        (
            "profiles.demo.sweeps.size.percents",
            [25, 25],
            "profiles.demo.sweeps.size: percents = .*: 25 is there twice",
        ),
        (
            "profiles.demo.sweeps.transfer.methods",
            ["full", "full"],
            "profiles.demo.sweeps.transfer: methods = .*: full is there twice",
        ),
        (
            "profiles.demo.sweeps.generator_seeds.seeds",
            [0, 0],
            "profiles.demo.sweeps.generator_seeds: seeds = .*: 0 is there twice",
        ),
        (
            "profiles.demo.sweeps.mixtur",
            {"percents": [3]},
            "profiles.demo.sweeps.mixtur: unknown key; known are seeds, ablation, ",
        ),
        (
            "profiles.demo.sweeps.size.percent",
            [25],
            "profiles.demo.sweeps.size: percent: unknown key",
        ),
        (
            "profiles.demo.generators.diffwave.ablations.guidance_3",
            {"sampling": {"guidance": 3.0}},
            "guidance_3 = .*: sampling: a change has a dotted key, such as sampling.guidance",
        ),
        (
            "profiles.demo.generators.diffwave.ablations.both",
            {"network.low": 1, "network.low.codes": 2},
            "ablations.both = .*: network.low.codes: low has a value of its own",
        ),
        (
            "profiles.demo.generators.diffwave.ablations.guidance 3",
            {"sampling.guidance": 3.0},
            "ablations.guidance 3 = 'guidance 3': a name starts with a lower-case letter",
        ),
        ("sources", ["ptbxl", "chapman", "ptbxl"], "sources = .*: ptbxl is there twice"),
        ("datasets", ["ptbxl", "ptbxl"], "datasets = .*: ptbxl is there twice"),
        ("generators", ["diffwave", "diffwave"], "generators = .*: diffwave is there twice"),
        (
            "profiles.demo.sweeps.transfer.training.steps",
            120,
            r"profiles\.demo\.sweeps\.transfer: training\.steps = 120: .*gradual unfreezing.* a "
            r"multiple of 90",
        ),
        (
            "sweep_targets.datasets",
            ["ptbxl", "ptbxl"],
            "sweep_targets.datasets = .*: ptbxl is there twice",
        ),
        (
            "sweep_targets.generators",
            ["diffwave", "diffwave"],
            "sweep_targets.generators = .*: diffwave is there twice",
        ),
        (
            "sweep_targets.generator_seeds",
            ["diffwave"] * 2,
            "sweep_targets.generator_seeds = .*: diffwave is there twice",
        ),
        (
            "sweep_targets.real_sweeps",
            ["transfer"],
            "sweep_targets.real_sweeps: 'transfer' is not one of balanced_sampling, self",
        ),
        (
            "sweep_targets.sweeps",
            ["size", "size"],
            "sweep_targets.sweeps = .*: size is there twice",
        ),
        (
            "sweep_targets.sweeps",
            ["sizes"],
            "sweep_targets.sweeps: 'sizes' is not one of .*mixture",
        ),
        (
            "sweep_targets.sweeps",
            ["ablation"],
            "sweep_targets.sweeps: 'ablation' is not one of .*mixture",
        ),
        (
            "sweep_targets.cross_dataset",
            [{"train": "ptbxl", "test": "chapman"}] * 2,
            "cross_dataset = .*: ptbxl to chapman is there twice",
        ),
        (
            "sweep_targets.cross_dataset",
            [{"train": "ptbxl", "test": "mitbih"}],
            "sweep_targets.cross_dataset: 'mitbih' is not one of",
        ),
        ("merged", ["ptbxl", "chapman", "ptbxl"], "merged = .*: ptbxl is there twice"),
        (
            "profiles.sample.study.synthetic_share",
            0.6,
            "profiles.sample.study.synthetic_share = 0.6: at most 0.5 with synthesis.train",
        ),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(
    tree: dict[str, Any], tmp_path: Path, key: str, value: Any, message: str
) -> None:
    *path, last = key.split(".")
    branch = tree
    for part in path:
        branch = branch[part]
    branch[last] = value
    with pytest.raises(EcgforgeError, match=message) as caught:
        parameters.read(write(tree, tmp_path))
    assert "\n" not in str(caught.value)


def test_the_backbone_is_the_studys_classifier(tree: dict[str, Any], tmp_path: Path) -> None:
    params = parameters.read(write(tree, tmp_path))
    assert (params.backbone, params.classifier.backbone) == ("resnet1d", "resnet1d")
    tree["backbone"], tree["sweep_targets"]["backbones"] = "transformer", ["resnet1d"]
    params = parameters.read(write(tree, tmp_path))
    assert params.classifier.backbone == "transformer"
    assert params.classifier.network == params.active.classifiers["transformer"].network


def test_an_unknown_backbone_in_a_profile_is_named_with_those_there_are(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    classifiers = tree["profiles"]["sample"]["classifiers"]
    classifiers["resnet2d"] = classifiers["resnet1d"]
    with pytest.raises(
        EcgforgeError,
        match="profiles.sample.classifiers.resnet2d: unknown backbone 'resnet2d': use one of "
        "resnet1d",
    ):
        parameters.read(write(tree, tmp_path))


def test_sweeps_may_be_nowhere_and_without_points(tree: dict[str, Any], tmp_path: Path) -> None:
    tree["sweep_targets"] = {key: [] for key in tree["sweep_targets"]}
    tree["profiles"]["demo"]["sweeps"] = {"seeds": [0]}
    tree["profiles"]["demo"]["study"]["synthetic_share"] = 0.6
    assert parameters.read(write(tree, tmp_path)).sweep_targets.datasets == []


def test_an_unknown_generator_in_a_profile_is_named_with_those_there_are(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["profiles"]["demo"]["generators"]["gan"] = tree["profiles"]["demo"]["generators"][
        "diffwave"
    ]
    with pytest.raises(
        EcgforgeError, match="unknown generator 'gan': use one of beat_diffusion, diffwave"
    ):
        parameters.read(write(tree, tmp_path))


def test_an_experiment_of_dvc_can_change_the_profile(tmp_path: Path) -> None:
    """`dvc exp run -S` writes the file again, in a style of its own, and reads it with another
    parser.
    """
    from dvc.utils.hydra import apply_overrides
    from dvc.utils.serialize import load_yaml

    path = tmp_path / "params.yaml"
    path.write_bytes((ROOT / "params.yaml").read_bytes())
    apply_overrides(
        str(path), ["profile=sample", "profiles.sample.sources.ptbxl.mirror=s3://bucket/ptb-xl"]
    )
    assert load_yaml(str(path))["profile"] == "sample"
    changed, before = Params.read(path), Params.read(ROOT / "params.yaml")
    assert changed.active.sources["ptbxl"].mirror == "s3://bucket/ptb-xl"
    assert changed.profiles["demo"] == before.profiles["demo"]


def test_no_values_of_the_file_share_an_anchor() -> None:
    """`dvc exp run -S` writes a change of one of them, and then the old value of the other."""
    tokens = yaml.scan((ROOT / "params.yaml").read_text())
    assert not [token for token in tokens if isinstance(token, yaml.AliasToken)]


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text() + "\nprofiles:\n  sample: {}\n")
    with pytest.raises(EcgforgeError, match='found duplicate key "profiles".*line'):
        Params.read(path)


@pytest.mark.parametrize("text", ["", "- demo\n"])
def test_a_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(EcgforgeError, match="has no keys: it is not a file of parameters"):
        Params.read(tmp_path / "params.yaml")


def test_a_missing_key_is_named(tree: dict[str, Any], tmp_path: Path) -> None:
    del tree["profiles"]["demo"]["synthesis"]["chunk"]
    with pytest.raises(EcgforgeError, match="profiles.demo.synthesis.chunk: missing"):
        Params.read(write(tree, tmp_path))


def test_a_profile_states_what_has_no_default_and_no_more(tree: dict[str, Any]) -> None:
    training = tree["profiles"]["demo"]["generators"]["diffwave"]["training"]["denoiser"]
    assert "gradient_clip" not in training
    assert "class_balance_power" not in training
    params = Params.model_validate(tree)
    found = params.generator("diffwave").training["denoiser"]
    assert (found.gradient_clip, found.class_balance_power, found.weight_decay, found.patience) == (
        1.0,
        0.5,
        0.0,
        None,
    )
    training |= {"gradient_clip": 0.3, "patience": 4}
    found = Params.model_validate(tree).generator("diffwave").training["denoiser"]
    assert (found.gradient_clip, found.patience) == (0.3, 4)
    assert params.classifier_settings("transformer").tuning.n_trials == 0, (
        "a classifier without `tuning` is not tuned"
    )


# Profiles that build on others


def based(tree: dict[str, Any], **profiles: Any) -> dict[str, Any]:
    return {**tree, "profiles": {"demo": tree["profiles"]["demo"], **profiles}}


def test_a_profile_states_what_differs_from_its_base(tree: dict[str, Any]) -> None:
    change = {
        "sources": {"ptbxl": {"records": 300}},
        "study": {"seeds": [5]},
        "sweeps": {"seeds": [5]},
        "generators": {
            "diffwave": {
                "ablations": {"guidance_2": None, "guidance_3": {"sampling.guidance": 3.0}}
            }
        },
    }
    other = {"base": "small", "quality": {"records": 30}}
    found = Params.model_validate(
        based(tree, other=other, small={"base": "demo", **change})
    ).profiles
    demo, small = found["demo"], found["small"]
    assert (small.sources["ptbxl"].records, small.sources["ptbxl"].seed) == (
        300,
        demo.sources["ptbxl"].seed,
    )
    assert small.sources["chapman"] == demo.sources["chapman"]
    assert (small.study.seeds, small.study.resamples) == ([5], demo.study.resamples), (
        "a list is replaced, not joined"
    )
    assert list(small.generators["diffwave"].ablations) == ["guidance_3"], "null removes a key"
    assert (found["other"].quality.records, found["other"].study) == (30, small.study), (
        "a base may have a base"
    )
    assert list(found) == ["demo", "small", "other"], "a base comes before what builds on it"


def test_null_brings_a_default_back(tree: dict[str, Any]) -> None:
    stated = {
        "base": "demo",
        "classifiers": {"resnet1d": {"training": {"patience": None, "ema_decay": None}}},
    }
    training = (
        Params.model_validate(based(tree, other=stated))
        .profiles["other"]
        .classifiers["resnet1d"]
        .training
    )
    assert (training.patience, training.ema_decay) == (None, 0.98)


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ({"a": {"base": "dmo"}}, "profiles.a.base: 'dmo' is not one of a, demo$"),
        ({"a": {"base": ["demo"]}}, r"profiles.a.base: \['demo'\] is not one of a, demo$"),
        ({"a": {"base": "a"}}, "profiles.a.base: profiles build on each other in a cycle: a -> a$"),
        (
            {"a": {"base": "b"}, "b": {"base": "a"}},
            "profiles.b.base: profiles build on each other in a cycle: a -> b -> a$",
        ),
    ],
)
def test_a_base_that_cannot_be_is_one_line(
    tree: dict[str, Any], tmp_path: Path, profiles: Any, message: str
) -> None:
    with pytest.raises(EcgforgeError, match=message) as caught:
        Params.read(write(based(tree, **profiles), tmp_path))
    assert "\n" not in str(caught.value)


def test_an_error_is_named_once_where_it_was_written(tree: dict[str, Any], tmp_path: Path) -> None:
    demo, other = tree["profiles"]["demo"], {"base": "demo", "quality": {"records": 3}}
    demo["study"]["seeds"] = [1, 1]
    demo["synthesis"]["chunks"] = 3
    with pytest.raises(EcgforgeError) as caught:
        Params.read(write(based(tree, other=other, third={"base": "other"}), tmp_path))
    keys = [
        part.split(" = ")[0].split(": unknown")[0].split(": ")[-1]
        for part in str(caught.value).split("; ")
    ]
    assert sorted(keys) == [
        "profiles.demo.study.seeds",
        "profiles.demo.synthesis.chunks",
        "profiles.other.quality.records",
    ]


def test_a_network_that_is_wrong_in_the_base_is_named_there(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    tree["profiles"]["demo"]["generators"]["diffwave"]["network"]["chanels"] = 3
    tree["profiles"] = {"other": {"base": "demo"}, **tree["profiles"]}
    with pytest.raises(
        EcgforgeError, match="profiles.demo.generators.diffwave.network: chanels: unknown key"
    ):
        parameters.read(write(tree, tmp_path))


def test_tuned_parameters_change_no_profile_based_on_the_active_one(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    path = write(based(tree, other={"base": "demo"}), tmp_path)
    (tmp_path / "c.yaml").write_text("classifiers: {resnet1d: {network: {dropout: 0.44}}}")
    params = parameters.read(path, [tmp_path / "c.yaml"])
    assert params.classifier.network["dropout"] == 0.44
    assert params.with_profile("other").classifier.network["dropout"] == 0.2


# The resolved parameters, which the stages depend on


def test_the_resolved_tree_is_what_stages_use() -> None:
    params = parameters.read(ROOT / "params.yaml")
    for name in params.profiles:
        used = params.with_profile(name)
        tree = parameters.resolved(used)
        for generator, settings in used.active.generators.items():
            kind, found = generator_class(generator), tree["generators"][generator]
            assert (
                kind.Network.model_validate(settings.network).model_dump(mode="json")
                == found["network"]
            )
            assert (
                kind.Sampling.model_validate(settings.sampling).model_dump(mode="json")
                == found["sampling"]
            )
            assert {
                phase: Training(**one) for phase, one in found["training"].items()
            } == settings.training
            assert found["tuning"]["n_trials"] == settings.tuning.n_trials
        for backbone, classifier in used.active.classifiers.items():
            assert tree["classifiers"][backbone]["training"] == classifier.training.model_dump(
                mode="json"
            )
            assert tree["classifiers"][backbone]["network"] == classifier.network
        assert tree["sources"].keys() == used.active.sources.keys()
        assert tree["selected"] == {"sources": params.sources, "generators": params.generators}
        for key in ("datasets", "merged", "backbone", "sweep_targets", "preprocessing"):
            assert tree[key] == params.model_dump(mode="json")[key]
        for key in ("preparation", "synthesis", "study", "sweeps", "quality", "compute"):
            assert tree[key] == used.active.model_dump(mode="json")[key]


def test_a_changed_default_changes_the_resolved_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    before = parameters.resolved(parameters.read(ROOT / "params.yaml"))
    kind = generator_class("diffwave")

    class Network(kind.Network):
        label_dropout: float = 0.2

    monkeypatch.setattr(kind, "Network", Network)
    after = parameters.resolved(parameters.read(ROOT / "params.yaml"))
    assert after["generators"]["diffwave"]["network"].pop("label_dropout") == 0.2
    assert before["generators"]["diffwave"]["network"].pop("label_dropout") == 0.1
    assert after == before


def test_the_command_prints_the_same_bytes_each_time() -> None:
    arguments = ["params", "--params", str(ROOT / "params.yaml"), "--profile", "sample"]
    printed = [CliRunner().invoke(app, arguments, catch_exceptions=False).stdout for _ in range(2)]
    assert printed[0] == printed[1]
    assert loaded(printed[0])["profile"] == "sample"


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_whatever_the_file_holds_the_error_is_one_of_ours(tree: Any) -> None:
    with pytest.raises(EcgforgeError):
        checked(Params, tree, "params.yaml")


def test_check_looks_at_all_profiles(tmp_path: Path) -> None:
    tree = copy.deepcopy(TREE)
    del tree["profiles"]["sample"]["sweeps"]["size"]
    file = write(tree, tmp_path)
    assert parameters.read(file).profile == "demo"
    with pytest.raises(EcgforgeError, match=r"profiles\.sample\.sweeps\.size: percents: missing"):
        parameters.read(file, profile="sample")
    found = CliRunner().invoke(app, ["check", "--params", str(file)])
    assert "profiles.sample.sweeps.size" in str(found.exception)


@pytest.mark.parametrize("bounds", [{"low": 1.0, "high": 1.0}, {"low": 2.0, "high": 1.0}])
def test_a_range_must_rise(bounds: dict[str, float]) -> None:
    with pytest.raises(EcgforgeError, match="low must be below high"):
        checked(Float, bounds | {"kind": "float"}, "space")


def test_a_value_outside_of_the_search_space_of_the_class_counts_only_with_trials(
    tree: dict[str, Any], tmp_path: Path
) -> None:
    resnet1d = tree["profiles"]["demo"]["classifiers"]["resnet1d"]
    resnet1d["training"]["weight_decay"] = 0.0
    found = parameters.read(write(tree, tmp_path))
    assert found.classifier.training.weight_decay == 0, "no trials, no space"
    resnet1d["tuning"]["n_trials"] = 3
    with pytest.raises(EcgforgeError, match=r"space\.training\.weight_decay: the value without"):
        parameters.read(write(tree, tmp_path))


@pytest.mark.parametrize("profile", ["demo", "sample", "paper"])
def test_tuning_needs_only_a_number_of_trials(
    tree: dict[str, Any], tmp_path: Path, profile: str
) -> None:
    tree["profile"] = profile
    own = tree["profiles"][profile]
    tuned = [own["generators"][name] for name in own["generators"] if name != "simulator"]
    for entry in (*tuned, *own["classifiers"].values()):
        entry.setdefault("tuning", {})["n_trials"] = 1
    found = parameters.read(write(tree, tmp_path)).active
    spaces = {name: one.tuning.space for name, one in found.generators.items()}
    assert [name for name, space in spaces.items() if not space] == ["simulator"]
    assert all(one.tuning.space for one in found.classifiers.values())
