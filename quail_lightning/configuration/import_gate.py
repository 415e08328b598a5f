"""What a config may name: classes of installed packages, of the type that the field expects, and nothing else.

jsonargparse imports whatever a config names and hands functions on to whoever calls them, so a YAML could run any
program. Here every name passes one gate first. It stands in the place of two functions of jsonargparse, which has
no hook for it (a list of forbidden names is all it offers): hence the narrow bound on its version.
"""

from __future__ import annotations

import inspect
import sys
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import yaml

# private: the places where jsonargparse imports what a config names; it has no switch
from jsonargparse import Namespace, _actions, _loaders_dumpers, _typehints, _util, set_loader, set_parsing_settings

from quail_lightning.configuration.allowed_code import code_refused, is_code_allowed
from quail_lightning.configuration.bounded_yaml import check_yaml
from quail_lightning.errors import InputError

PACKAGE = Path(__file__).parents[1]
_import_object, _adapt, _load = _util.import_object, _typehints.adapt_typehints, _loaders_dumpers.yaml_load

refusals: list[InputError] = []
"""Of this process. jsonargparse tries a value as one type after another and words its own error in the end."""


class CodeRefusedError(InputError, ImportError):
    """Of both kinds: jsonargparse reports an ImportError as one of the option it stands at."""


def import_class(path: str) -> Any:
    """The class that a config names; with ``--allow-code`` any object.

    Raises:
        CodeRefusedError: it lies in no installed package, or is no class. What lies outside is not imported.
        ImportError, AttributeError, ValueError: there is nothing of this name.
    """
    if is_code_allowed():
        return _import_object(path, check_path=False)
    if isinstance(path, str):
        _check_installed(path, path)
    found = _import_object(path, check_path=False)
    if not inspect.isclass(found):
        raise _refused("a config may name classes, and this is none", path)
    # modules hold what they import: os.system also goes by the name of any package that imports os
    _check_installed(f"{found.__module__}.{found.__qualname__}", path)
    return found


def class_in(file: Path, class_path: object) -> type:
    """The class that the ``class_path`` of a file of its own names.

    Raises:
        InputError: it may not be named.
        TypeError: there is none of that name.
    """
    try:
        found = import_class(str(class_path))
    except CodeRefusedError as refusal:
        fact = f"class_path of {file}: {refusal.fact}"
        raise InputError(fact, given=refusal.given, remedy=refusal.remedy) from None
    except (AttributeError, ImportError, ValueError) as error:
        raise TypeError(f"{class_path!r} is no class ({error})") from error
    if not inspect.isclass(found):
        raise TypeError(f"{class_path!r} is no class")
    return found


def close_gate() -> None:
    """Let every parser of this process look at what is named before it is imported."""
    # else a class_path is built wherever any value is accepted; addresses are read only from files
    set_parsing_settings(instantiate_subclass_spec_in_any=False, config_read_mode_fsspec_enabled=False)
    for module in (_typehints, _actions):
        setattr(module, "import_object", import_class)  # noqa: B010 (they do not export it)
    _typehints.adapt_typehints = _adapt_expected
    _loaders_dumpers.yaml_load = _load_bounded  # of single values; the loader is of files
    set_loader("yaml", _load_bounded, (yaml.YAMLError,))


def _load_bounded(text: str) -> Any:
    check_yaml(text)
    try:
        return _load(text)  # type: ignore[no-untyped-call]  # PyYAML's, by way of jsonargparse
    except ValueError as error:  # a number of 5,000 digits
        raise yaml.YAMLError(str(error)) from error


def _adapt_expected(val: Any, typehint: Any, serialize: bool = False, *args: Any, **kwargs: Any) -> Any:
    """jsonargparse's check of a value, which lets none name what is to be called."""
    if not serialize and not is_code_allowed():
        origin = _typehints.get_typehint_origin(typehint) or typehint
        expected = getattr(typehint, "__args__", None) or (Any,)
        # a default, which code gave, is an object and no name
        if origin in _typehints.callable_origin_types and not callable(val) and not _is_class(expected[-1]):
            raise _refused("a config cannot name what is to be called here", _named(val))
        if origin is type and not isinstance(val, type) and not _is_class(expected[0]):
            raise _refused("a config cannot name any class here", _named(val))
        if origin is ModuleType and not isinstance(val, ModuleType):
            raise _refused("a config cannot name a module here", _named(val))
    return _adapt(val, typehint, serialize, *args, **kwargs)  # type: ignore[no-untyped-call]  # jsonargparse


def _is_class(expected: Any) -> bool:
    """Whether a type says which classes may stand in its place."""
    return expected is not object and _typehints.get_subclass_types(expected) is not None


def _named(value: Any) -> Any:
    return value.get("class_path", value) if isinstance(value, (dict, Namespace)) else value


def _check_installed(path: str, given: str) -> None:
    """See, without importing anything, that a name leads into an installed package."""
    names = path.split(".")
    if any(name.startswith("__") for name in names):
        raise _refused("a config cannot name a package's own main program or inner parts", given)
    try:
        spec = find_spec(names[0]) if names[0] else None
    except ValueError:  # of a program's own main module, for one
        raise _refused(f"{names[0]!r} is no installed package", given) from None
    for number in range(2, len(names) + 1):
        if spec is None:
            return  # the import says so better
        if not _is_installed(spec):
            raise _refused(f"{spec.name!r} is not a package that is installed (site-packages)", given)
        places = spec.submodule_search_locations
        spec = None if places is None else PathFinder.find_spec(".".join(names[:number]), places)


def _is_installed(spec: ModuleSpec) -> bool:
    roots = [PACKAGE, *(path for path in map(Path, sys.path) if path.name in ("site-packages", "dist-packages"))]
    # a package without __init__.py may be spread over several folders
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return bool(places) and all(any(Path(place).is_relative_to(root) for root in roots) for place in places)


def _refused(fact: str, given: Any) -> CodeRefusedError:
    refusal = code_refused(fact, given)
    found = CodeRefusedError(refusal.fact, given=refusal.given, remedy=refusal.remedy)
    refusals.append(found)
    return found
