"""Settings: one dotted path, typed, with the nearest name for a wrong one."""

from pathlib import Path
from typing import Literal

import pytest
import yaml

from marey.config import Config, flatten, override, parse_value, settings, to_tree, to_yaml, validate
from marey.errors import ConfigError
from marey.experiment import Training
from marey.recipes.masked import MaskedConfig
from marey.recipes.supervised import SupervisedConfig


class Inner(Config):
    """Inner."""

    rate: float = 0.5
    """The rate."""
    kind: Literal["one", "two"] = "one"
    size: tuple[int, int] = (1, 2)
    limit: int | None = None


class Outer(Config):
    """Outer."""

    inner: Inner = Inner()
    name: str | None = None
    folder: Path | None = None


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("inner.rate=1e-3", "inner.rate", 1e-3),
        ("inner.rate=2", "inner.rate", 2.0),
        ("inner.kind=two", "inner.kind", "two"),
        ("inner.size=[3, 4]", "inner.size", [3, 4]),
        ("inner.limit=7", "inner.limit", 7),
        ("inner.limit=null", "inner.limit", None),
        ("name=2026-01-31", "name", "2026-01-31"),
        ("folder=/a b/c", "folder", "/a b/c"),
        ("name=a=b", "name", "a=b"),
    ],
)
def test_a_word_sets_the_setting_at_its_path(word, path, value):
    assert flatten(override(Outer(), [word]))[path] == value


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("inner.rte=1", "inner.rte: no such setting; did you mean 'inner.rate'"),
        ("inner.rate.x=1", "inner.rate.x: no such setting"),
        ("rate=1", "did you mean 'inner.rate'"),
        ("zzz=1", "--help lists every setting"),
        ("inner.rate=fast", "inner.rate='fast'"),
        ("inner.kind=three", "'one' or 'two'"),
        ("inner.size=[1]", "inner.size"),
        ("inner", "write path=value"),
        ("=3", "write path=value"),
    ],
)
def test_a_wrong_word_is_told_by_its_path(word, told):
    with pytest.raises(ConfigError) as error:
        override(Outer(), [word])
    assert told in str(error.value)


def test_later_words_win_and_files_are_words(tmp_path):
    path = tmp_path / "more.yaml"
    path.write_text("inner: {rate: 0.1, kind: two}\ninner.limit: 3\n")
    found = override(Outer(), ["inner.rate=0.9", f"@{path}", "inner.limit=4"])
    assert found.inner == Inner(rate=0.1, kind="two", limit=4)


@pytest.mark.parametrize(
    ("text", "told"), [("[1, 2]", "expected a mapping"), ("a: [", "is not YAML"), ("x: 1", "x: no such")]
)
def test_a_wrong_file_is_told_by_its_name_or_path(tmp_path, text, told):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told):
        override(Outer(), [f"@{path}"])


def test_settings_are_frozen_and_survive_yaml():
    found = Outer(inner=Inner(limit=3))
    with pytest.raises(Exception, match="frozen"):
        found.name = "other"
    assert validate(Outer, yaml.safe_load(to_yaml(found))) == found


def test_settings_are_listed_with_type_and_meaning():
    [rate] = [line for line in settings(Outer) if line.path == "inner.rate"]
    assert (rate.type, rate.default, rate.meaning) == ("float", 0.5, "The rate.")


@pytest.mark.parametrize(
    "words",
    [
        ["backbone=videomae_v2_small_pretrain", "backbone.depth=2"],
        ["backbone.depth=2", "backbone=videomae_v2_small_pretrain"],
        ["backbone.depth=2", "backbone.name=videomae_v2_small_pretrain"],
    ],
)
def test_a_backbone_starts_anew_from_its_name_wherever_that_stands(words):
    before = Training(backbone={"name": "videomae_v2_base_pretrain", "depth": 5, "embed": "visible"})
    found = override(before, words).backbone
    assert (found.name, found.width, found.depth, found.embed) == ("videomae_v2_small_pretrain", 384, 2, "all")


def test_a_training_survives_its_own_tree():
    training = override(Training(backbone="videomae_v2_giant_pretrain"), ["fleet.workers=2", "batch=8"])
    assert validate(Training, to_tree(training)) == training


@pytest.mark.parametrize("text", ["007", "1e5", "/a #b", "/a/b: c", "/a, b", "it's", "/a [1]", "/a&b", "*", "%x"])
def test_text_arrives_as_it_was_typed(text):
    assert override(Outer(), [f"name={text}"]).name == text


@pytest.mark.parametrize(
    "words",
    [
        ["recipe=supervised", "recipe.label_smoothing=0.2"],
        ["recipe.kind=supervised", "recipe.label_smoothing=0.2"],
        ["recipe.label_smoothing=0.2", "recipe.kind=supervised"],
    ],
)
def test_another_kind_of_recipe_starts_with_its_own_defaults(words):
    before = Training(backbone="videomae_v2_base_pretrain", recipe=MaskedConfig(mask_ratio=0.5))
    assert override(before, words).recipe == SupervisedConfig(label_smoothing=0.2)


def test_the_kind_that_a_recipe_already_is_of_changes_nothing_else():
    before = Training(backbone="videomae_v2_base_pretrain", recipe=MaskedConfig(mask_ratio=0.5))
    assert override(before, ["recipe.kind=masked"]).recipe == before.recipe


def test_a_kind_of_recipe_that_is_not_there_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="no such recipe; did you mean 'supervised'"):
        override(Training(backbone="videomae_v2_base_pretrain"), ["recipe=supervisd"])


def test_none_is_written_as_help_spells_it():
    [line] = [line for line in settings(Outer) if line.path == "inner.limit"]
    number, word = line.type.split(" or ")
    assert number == "int"
    assert override(Outer(inner=Inner(limit=3)), [f"inner.limit={word}"]).inner.limit is None


@pytest.mark.parametrize(
    "word",
    [
        "optim.betas=[0.9]", "augment.scale=[1, 0.5]", "augment.scale=[0.5, 2]", "epochs=.inf", "seed=-1",
        "engine.zero=7", "backbone.crop=100", "recipe.mask_ratio=1", "fleet.device=tpu", "checkpoint=5", "table=here",
    ],
)  # fmt: skip
def test_a_value_that_is_not_allowed_is_told_by_its_path(word):
    with pytest.raises(ConfigError) as error:
        override(Training(backbone="videomae_v2_base_pretrain"), [word])
    group, _, last = word.partition("=")[0].partition(".")
    assert str(error.value).startswith(group)
    assert last in str(error.value)


def test_nested_mappings_are_closed_to_unknown_keys():
    with pytest.raises(ConfigError, match=r"inner\.rte: no such setting; did you mean 'inner\.rate'"):
        validate(Outer, {"inner": {"rte": 1}})


@pytest.mark.parametrize(("text", "value"), [("1e-3", 0.001), ("5e2", 500.0), ("infinity", "infinity"), ("nan", "nan")])
def test_numbers_are_read_and_words_are_not_taken_for_numbers(text, value):
    assert parse_value(text) == value


def test_none_is_a_word_where_a_setting_has_it_as_a_choice():
    training = Training(backbone="videomae_v2_base_pretrain")
    assert override(training, ["checkpoint.keep_best=none"]).checkpoint.keep_best == "none"
