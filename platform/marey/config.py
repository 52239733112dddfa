"""Typed settings: one dotted path names a setting on the command line, in YAML, in a search and in MLflow.

A configuration is a frozen pydantic model (`Config`), nested as deep as it likes. Words change it:

    override(training, ["recipe.mask_ratio=0.75", "engine.zero=2", "@more.yaml"])

A word is ``path=value`` with the value read as YAML, or ``@file.yaml`` for many at once. A path that does not exist
or a value of the wrong type is a `ConfigError` that names the path, what is allowed and the nearest valid path.
"""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from marey.errors import ConfigError

C = typing.TypeVar("C", bound="Config")


class Config(BaseModel):
    """Base of every settings class: frozen, closed to unknown keys, with each field's meaning in its description."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # name=7 is a name
        protected_namespaces=(),
    )

    def replace(self, **changes: Any) -> Self:
        """A copy with fields changed and everything validated again; ``ConfigError`` if it does not fit."""
        return validate(type(self), {**to_tree(self), **changes})


def validate(kind: type[Config], tree: Mapping[str, Any]) -> Any:
    """Build ``kind`` from nested mappings; every mistake in it becomes one line of a `ConfigError`."""
    try:
        return kind.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_explain(kind, dict(problem)) for problem in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def to_tree(config: Config) -> dict[str, Any]:
    """Nested plain data (str, int, float, bool, None, list, dict), fit for JSON and YAML."""
    return config.model_dump(mode="json")


def to_yaml(config: Config) -> str:
    """The whole configuration as YAML, in the order in which its fields are declared."""
    return yaml.safe_dump(to_tree(config), sort_keys=False, allow_unicode=True, width=110)


def flatten(config: Config | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"recipe.mask_ratio": 0.9, ...}``: one entry for each leaf; lists stay whole."""
    tree = to_tree(config) if isinstance(config, Config) else config
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, path + ".")
        else:
            flat[path] = value
    return flat


def with_defaults(tree: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """``tree``, written before ``config`` had some of its fields, completed with the defaults of these."""
    full = dict(tree)
    for name, field in type(config).model_fields.items():
        value, old = getattr(config, name), full.get(name)
        if isinstance(old, Mapping) and isinstance(value, Config):
            full[name] = with_defaults(old, value)
        elif name not in full and not field.is_required():
            full[name] = to_jsonable_python(field.get_default(call_default_factory=True))
    return full


def read_yaml(path: Path | str) -> dict[str, Any]:
    """One mapping from a YAML file; dotted keys and nested ones mean the same."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except OSError as error:
        raise ConfigError(f"@{path}: cannot be read ({error.strerror}); give the path of a YAML file") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"@{path}: is not YAML: {error}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(f"@{path}: holds a {type(tree).__name__}, expected a mapping of settings to values")
    return tree


def parse_words(words: Iterable[str]) -> list[tuple[str, Any]]:
    """Command-line words as (path, value) pairs, in order; later ones win over earlier ones."""
    pairs: list[tuple[str, Any]] = []
    for word in words:
        if word.startswith("@"):
            pairs += flatten(read_yaml(word[1:])).items()
            continue
        path, equals, text = word.partition("=")
        if not equals or not path.strip():
            raise ConfigError(f"{word!r}: not a setting; write path=value (e.g. engine.zero=2) or @file.yaml")
        pairs.append((path.strip(), Word(text)))
    return pairs


class Word(str):
    """The text behind ``path=``, not yet read: what it means depends on the setting it is for."""

    def read(self, kind: str) -> Any:
        """The value for a setting of ``kind`` (see `type_words`): text, paths and choices are taken as typed."""
        if self in kind.split(" | ") and not self.isdigit():
            return str(self)
        if kind.split(" ")[0] in ("text", "path"):
            return None if self in ("none", "null", "~") and kind.endswith("none") else str(self)
        return parse_value(self)


def parse_value(text: str) -> Any:
    """A value as YAML reads it, but text is taken as it was typed, ``1e-3`` is a number and ``none`` is none.

    Only what begins with a bracket is a list or a mapping: a path may hold ``: `` and `` #``.
    """
    if text == "none":
        return None
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str):
        return _number(text)
    if value is None:
        return None if text.strip() in ("", "~", "null") else text  # " # ..." is text here, not a comment
    if isinstance(value, (list, dict)):
        return value if text.lstrip()[:1] in ("[", "{") else text
    # Dates and the like are a quirk of YAML, never meant in a setting.
    return value if isinstance(value, (bool, int, float)) else text


def _number(text: str) -> float | str:
    """YAML takes ``1e-3`` for text, because it lacks a point."""
    try:
        return float(text) if any(character.isdigit() for character in text) else text
    except ValueError:
        return text


def override(config: C, words: Iterable[str]) -> C:
    """``config`` changed by command-line words; see the module's text. Raises `ConfigError`.

    A group that has a ``name`` (``backbone``) starts anew from the name it is given, wherever among the words that
    stands: ``backbone.depth=2 backbone=videomae_v2_tiny_pretrain`` is that model with two blocks. So does a group of
    which there are several kinds (``recipe``) from another ``kind``, with that kind's defaults.
    """
    return override_pairs(config, parse_words(words))


def override_pairs(config: C, pairs: Sequence[tuple[str, Any]]) -> C:
    """``config`` changed by (path, value) pairs, as `override` says; values are a `Word` or already read."""
    naming = [pair for pair in pairs if _names_group(type(config), pair[0])]
    for some in (naming, [pair for pair in pairs if pair not in naming]):
        tree = to_tree(config)
        kinds = {line.path: line.type for line in settings(type(config), config)}
        for path, value in some:
            check_path(type(config), path, config)
            given = value.read(kinds.get(path, "")) if isinstance(value, Word) else value
            _assign(tree, path.split("."), given, renews=some is naming)
        config = validate(type(config), tree) if some else config
    return config


def _names_group(kind: type[Config], path: str) -> bool:
    """Whether ``path`` is a group, or its key, that says which values or which class the group's fields start from.

    The key is a ``name``, or a ``kind`` that the declared class leaves open and each class of the group fixes.
    """
    group, _, last = path.partition(".")
    field = kind.model_fields.get(group)
    found = _config_class(field.annotation) if field is not None else None
    if found is None:
        return False
    fields = found.model_fields
    keys = [key for key in ("name", "kind") if key in fields and (key == "name" or fields[key].annotation is str)]
    return bool(keys) and last in ("", *keys)


def _assign(tree: dict[str, Any], keys: list[str], value: Any, renews: bool = False) -> None:
    """Set a leaf; where it ``renews`` its group, what the group held before goes."""
    for key in keys[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    if renews and len(keys) > 1 and (keys[-1] != "kind" or tree.get("kind") != value):
        tree.clear()
    tree[keys[-1]] = value


def check_path(kind: type[Config], path: str, config: Config | None = None) -> None:
    """Raise `ConfigError`, naming the nearest valid path, unless ``path`` names a setting or a group of ``kind``."""
    valid = [line.path for line in settings(kind, config)]
    groups = {one.rsplit(".", depth)[0] for one in valid for depth in range(1, one.count(".") + 1)}
    if path in valid or path in groups:
        return
    if any(path.startswith(one + ".") and _is_open(kind, one) for one in valid):
        return
    raise ConfigError(f"{path}: no such setting{suggestion(path, valid)}")


def suggestion(word: str, valid: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or where nothing is near, a pointer to the whole list."""
    names = list(valid)
    if told := did_you_mean(word, names):
        return told
    last = word.rsplit(".", 1)[-1]
    ends = {name.rsplit(".", 1)[-1]: name for name in reversed(names)}
    near = [ends[end] for end in difflib.get_close_matches(last, list(ends), n=1, cutoff=0.75)]
    return f"; did you mean {near[0]!r}?" if near else "; --help lists every setting"


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """``"; did you mean 'x'?"``, or nothing where no name is near."""
    near = difflib.get_close_matches(word, list(names), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


class Setting(typing.NamedTuple):
    """One leaf of a configuration, as ``--help`` shows it."""

    path: str
    type: str
    default: Any
    meaning: str


def settings(kind: type[Config], config: Config | None = None, prefix: str = "") -> list[Setting]:
    """Every leaf setting of ``kind``; defaults, and the class of open fields, are those of ``config`` if given."""
    lines: list[Setting] = []
    for name, field in kind.model_fields.items():
        value = getattr(config, name) if config is not None else field.get_default(call_default_factory=True)
        nested = type(value) if isinstance(value, Config) else _config_class(field.annotation)
        if nested is not None:
            lines += settings(nested, value if isinstance(value, Config) else None, f"{prefix}{name}.")
        else:
            shown = None if repr(value) == "PydanticUndefined" else value
            lines.append(Setting(prefix + name, type_words(field), shown, field.description or ""))
    return lines


def _config_class(annotation: Any) -> type[Config] | None:
    """The settings class that an annotation holds, through ``X | None`` and ``Annotated``."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    for part in get_args(annotation):
        if (found := _config_class(part)) is not None:
            return found
    return None


def _is_open(kind: type[Config], path: str) -> bool:
    """Whether the setting at ``path`` is a free mapping, into which a dotted path may reach."""
    current: Any = kind
    for key in path.split("."):
        field = current.model_fields.get(key) if isinstance(current, type) and issubclass(current, Config) else None
        if field is None:
            return False
        current = _config_class(field.annotation) or field.annotation
    return get_origin(current) is dict


def type_words(field: FieldInfo) -> str:
    """A type as a user reads it: ``"fp32 | bf16"``, ``"int"``, ``"path or none"``, with its bounds."""
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if getattr(rule, name, None) is not None
    ]
    return " ".join([_words(field.annotation), *bounds])


def _words(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(part) for part in parts)
    if origin is typing.Annotated:
        return _words(parts[0])
    if origin in (tuple, list):
        return f"list of {_words(parts[0])}" if parts else "list"
    if annotation is type(None):
        return "none"
    return {str: "text", Path: "path"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _explain(kind: type[Config], problem: dict[str, Any]) -> str:
    """One validation problem in words: path, what is wrong, the value, what is allowed."""
    path = ".".join(str(part) for part in problem["loc"]) or kind.__name__
    if problem["type"] == "extra_forbidden":
        valid = [line.path for line in settings(kind)]
        return f"{path}: no such setting{suggestion(path, valid)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "missing":
        return f"{path}: must be given"
    if not problem["loc"] or problem["type"] == "value_error":
        return message if message.startswith(path) or not problem["loc"] else f"{path}: {message}"
    if problem["type"] in ("tuple_type", "list_type") and str(problem["input"]).startswith("["):
        message += "; in a list put quotes around a text that holds a question mark or a comma"
    return f"{path}={problem['input']!r}: {message[0].lower()}{message[1:]}"
