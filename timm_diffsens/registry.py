"""Every open kind of thing by name: a built-in, `file.py:attr`, `package.module:attr` or an entry point.

A built-in is one file in the package of its kind, which says with `register` all that the command line, the
record, the board and the charts need to know of it. Nothing else lists them. Somebody else's thing is found
in a file, in a module, or under the entry points `timm_diffsens.deformations`, `.noises`, `.variants`,
`.datasets`, `.models` and `.executors` of an installed package, and is then like any other. Arguments follow
the name: `mode:i=1,j=2`, `my.py:Wobble:amplitude=2`.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from timm_diffsens.errors import DiffsensError, UsageError, unknown

_Thing = TypeVar("_Thing")
_ARGUMENTS = re.compile(r"[A-Za-z_]\w*=[^=]*")
_WORDS = {"true": True, "false": False, "none": None}
HASH_DIGITS = 12


@dataclass(frozen=True)
class Kind:
    """An open kind.

    Attributes:
        word: what one of them is called.
        package: whose files are the built-ins.
        called: whether a function is the thing itself; else it is called to make the thing.
    """

    word: str
    package: str
    called: bool


KINDS = {
    "deformations": Kind("deformation", "timm_diffsens.perturb", called=True),
    "noises": Kind("noise", "timm_diffsens.perturb", called=True),
    "variants": Kind("variant", "timm_diffsens.models.variants", called=True),
    "datasets": Kind("data set", "timm_diffsens.data.sets", called=False),
    "models": Kind("model", "timm_diffsens.models.libraries", called=False),
    "executors": Kind("executor", "timm_diffsens.sweep.executors", called=False),
}


@dataclass(frozen=True)
class Look:
    """How a thing is drawn, in every figure: a colour, a dash pattern, and one of Vega's point shapes."""

    colour: str
    dash: tuple[int, ...] = (1, 0)
    point: str = "circle"


@dataclass(frozen=True)
class Entry:
    """A thing, and what is known of it without using it.

    Attributes:
        kind: a key of `KINDS`. name: in tables and records; without the folders of a file.
        thing: class, function or object. parameters: given with the name. values: of all that is known.
        help: one line on what it is. look: of its line in charts, None for a colour that is free.
        order: built-ins come first, in this order.
        known_as: what records call it, where that is not its spec.
        sha256: of the source it is from; None for a built-in, which the package's version tells.
    """

    kind: str
    name: str
    thing: Any
    help: str = ""
    look: Look | None = None
    order: int = 0
    known_as: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None

    @property
    def spec(self) -> str:
        """The name with its arguments."""
        given = ",".join(f"{name}={_text(value)}" for name, value in self.parameters.items())
        return f"{self.name}:{given}" if given else self.name

    @property
    def recorded(self) -> str:
        """The spec, of what is no built-in with the hash of its source: equal texts mean equal things."""
        if self.known_as:
            return self.known_as
        return self.spec if self.sha256 is None else f"{self.spec}@{self.sha256[:HASH_DIGITS]}"

    def with_values(self, **values: Any) -> "Entry":
        """With parameters that have these values unless they were given with the name."""
        return replace(self, values={**values, **self.parameters})

    def takes(self, name: str) -> bool:
        """Whether it has a parameter of that name."""
        return _takes(self.thing, name)

    def build(self, **offered: Any) -> Any:
        """The thing, ready for use.

        A class is instantiated and, where functions are not the thing itself, a function called: with the
        parameters given, and with those of `offered` that it takes.

        Raises:
            UsageError: it does not take a parameter, or fails; other errors of this package as they are.
        """
        word = KINDS[self.kind].word
        for name in self.parameters:
            if not self.takes(name):
                raise unknown(f"argument of the {word} {self.name}", name, parameters(self.thing))
        given = {name: value for name, value in offered.items() if self.takes(name)} | dict(self.parameters)
        if inspect.isclass(self.thing) or (inspect.isroutine(self.thing) and not KINDS[self.kind].called):
            try:
                return self.thing(**given)
            except DiffsensError:
                raise
            except Exception as error:
                raise UsageError(
                    f"the {word} {self.spec} cannot be made: {type(error).__name__}: {error}"
                ) from error
        if not inspect.isroutine(self.thing):
            return self.thing
        return functools.partial(self.thing, **given) if given else self.thing


_registered: dict[str, dict[str, Entry]] = {kind: {} for kind in KINDS}


def register(
    kind: str, name: str, *, help: str = "", look: Look | None = None, order: int = 0, known_as: str = ""
) -> Callable[[_Thing], _Thing]:
    """Make a class, function or object known under a name; used as a decorator.

    Args:
        kind: a key of `KINDS`.
        name: under which it is found, and stands in records.
        help: one line on what it is.
        look: how it is drawn.
        order: of the built-ins in lists.
        known_as: what records call it, if they began before it had this name.

    Raises:
        UsageError: no such kind.
    """
    if kind not in KINDS:
        raise unknown("kind", kind, KINDS)

    def add(thing: _Thing) -> _Thing:
        _registered[kind][name] = Entry(kind, name, thing, help, look, order, known_as)
        return thing

    return add


def built_ins(kind: str) -> list[Entry]:
    """Those of a kind that are part of this package, in their order; the same on every machine."""
    return sorted(_built_in(kind).values(), key=lambda entry: (entry.order, entry.name))


def entries(kind: str) -> list[Entry]:
    """The built-ins of a kind in their order, then those of installed packages by name."""
    return built_ins(kind) + [_from_entry_point(kind, point) for point in _entry_points(kind).values()]


def names(kind: str) -> list[str]:
    """What `entries` are called; nothing of other packages is imported."""
    return [entry.name for entry in built_ins(kind)] + list(_entry_points(kind))


def find(kind: str, spec: str) -> Entry:
    """The thing that a spec names; the code of a file or a module is run, as importing it would.

    Args:
        kind: a key of `KINDS`.
        spec: `name`, `file.py:attr` or `package.module:attr`, each with `:key=value,...` behind it or not.

    Raises:
        UsageError: nothing of that name (the nearest names are given), or its code cannot be imported.
    """
    name, parameters = split_arguments(spec)
    built_in = _built_in(kind)
    if name in built_in:
        return replace(built_in[name], parameters=parameters)
    points = _entry_points(kind)
    if name in points:
        return replace(_from_entry_point(kind, points[name]), parameters=parameters)
    if ":" not in name:
        hint = f"`diffsens ls {kind}` lists them; your own: file.py:attr or package.module:attr"
        raise unknown(KINDS[kind].word, name, names(kind), hint)
    where, _, attribute = name.rpartition(":")
    file = Path(where) if where.endswith(".py") else None
    module = import_file(file, KINDS[kind].word) if file else _import_module(where)
    if not hasattr(module, attribute):
        word = KINDS[kind].word
        raise unknown(f"{word} in {where}", attribute, [n for n in vars(module) if not n.startswith("_")])
    shown = f"{file.name}:{attribute}" if file else name
    return replace(_described(kind, shown, getattr(module, attribute), module), parameters=parameters)


def of_object(kind: str, thing: Any) -> Entry:
    """The entry of an object of the caller's own, named by its class or function.

    Its parameters are its public attributes that are plain values (of a `functools.partial`, its keywords);
    the hash is over all of its state, too.
    """
    if isinstance(thing, functools.partial) and not thing.args:
        found = of_object(kind, thing.func)
        return replace(found, thing=thing, parameters=thing.keywords, values=thing.keywords)
    named = thing if hasattr(thing, "__name__") else type(thing)
    values = {} if inspect.isroutine(thing) or inspect.isclass(thing) else _attributes(thing)
    for entry in _built_in(kind).values():
        if entry.thing is named or entry.thing is thing:
            return replace(entry, parameters=values, values=values)
    entry = _described(kind, str(named.__name__), named, sys.modules.get(named.__module__))
    sha256 = hashlib.sha256(f"{entry.sha256} {_state(thing)}".encode()).hexdigest()
    return replace(entry, thing=thing, parameters=values, values=values, sha256=sha256)


def split_arguments(spec: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,...` -> the name and its arguments: numbers, true, false, none, or text.

    Raises:
        UsageError: an argument without a value.

    Example:
        >>> split_arguments("mode:i=1,j=2"), split_arguments("my.py:Wobble")
        (('mode', {'i': 1, 'j': 2}), ('my.py:Wobble', {}))
    """
    name, colon, text = spec.rpartition(":")
    if not colon or "=" not in text:
        return spec, {}
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not _ARGUMENTS.fullmatch(part):
            raise UsageError(f"{spec!r}: expected arguments as {name}:key=value,..., got {part!r}")
    pairs = (part.partition("=") for part in parts)
    return name, {key: _value(value.strip()) for key, _, value in pairs}


def absolute(spec: str) -> str:
    """The spec with the path of its file made absolute: for another process, with another working folder."""
    name, _ = split_arguments(spec)
    where, _, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        return spec
    return f"{Path(where).expanduser().absolute()}:{attribute}{spec[len(name) :]}"


def accepted(thing: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Those of the offered keyword arguments that a callable takes."""
    return {name: value for name, value in offered.items() if _takes(thing, name)}


def _built_in(kind: str) -> dict[str, Entry]:
    _load(KINDS[kind].package)
    own = f"{KINDS[kind].package}."
    return {n: e for n, e in _registered[kind].items() if getattr(e.thing, "__module__", own).startswith(own)}


@functools.cache
def _load(package: str) -> None:
    """Import every file of a package, each of which registers what is in it."""
    home = importlib.import_module(package)
    for module in pkgutil.iter_modules(home.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package}.{module.name}")


def _entry_points(kind: str) -> dict[str, importlib.metadata.EntryPoint]:
    points = importlib.metadata.entry_points(group=f"timm_diffsens.{kind}")
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def _from_entry_point(kind: str, point: importlib.metadata.EntryPoint) -> Entry:
    try:
        thing = point.load()
    except Exception as error:
        raise UsageError(
            f"the {KINDS[kind].word} {point.name} cannot be imported from {point.value}: "
            f"{type(error).__name__}: {error}"
        ) from error
    return _described(kind, point.name, thing, sys.modules.get(point.module))


def _described(kind: str, name: str, thing: Any, module: Any) -> Entry:
    """The entry of somebody else's thing, with what it said of itself by `register`."""
    said = next((e for e in _registered[kind].values() if e.thing is thing), Entry(kind, name, thing))
    help = said.help or next(iter((inspect.getdoc(thing) or "").splitlines()), "")
    return replace(said, name=name, help=help, order=0, known_as="", sha256=_source_sha256(thing, module))


def _source_sha256(thing: Any, module: Any) -> str:
    """Of the file that a thing is from; of its own source where that is all there is, else of its name."""
    file = getattr(module, "__file__", None)
    if file and Path(file).is_file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()
    try:
        text = inspect.getsource(thing)
    except (OSError, TypeError):  # typed at a prompt
        text = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}"
    return hashlib.sha256(text.encode()).hexdigest()


def _state(value: Any) -> str:
    """What tells an object from others of its class, or a function from others in its file, as text."""
    if isinstance(value, bool | int | float | str | bytes | None):
        return repr(value)
    if isinstance(value, list | tuple | set | frozenset):
        return f"[{', '.join(map(_state, value))}]"
    if inspect.isroutine(value):
        held = [cell.cell_contents for cell in getattr(value, "__closure__", None) or ()]
        code = getattr(value, "__code__", None)
        place = [code.co_firstlineno, code.co_code, code.co_consts] if code else []
        return f"{value.__qualname__} {_state([*place, *held, getattr(value, '__defaults__', None)])}"
    if hasattr(value, "tolist"):  # an array or a tensor
        return f"{getattr(value, 'dtype', '')} {value.tolist()}"
    inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return f"{type(value).__qualname__} {sorted(f'{name}: {_state(part)}' for name, part in inside.items())}"


def import_file(path: Path, word: str = "Python") -> Any:
    """Run a Python file as a module; files beside it can be imported by it, as by `python file.py`.

    Raises:
        UsageError: there is no such file, or its code fails.
    """
    path = path.expanduser()
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown(f"{word} file", str(path), near)
    name = f"_diffsens_{path.stem}"  # never that of an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        with _on_the_path(path.absolute().parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"cannot import {str(path)!r}: {type(error).__name__}: {error}") from error
    return module


@contextmanager
def _on_the_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(
            f"cannot import {name!r}: {type(error).__name__}: {error}; "
            "expected file.py:attr or package.module:attr"
        ) from error


def parameters(thing: Any) -> list[str]:
    """Names of what a callable takes by keyword; none where it does not say."""
    try:
        found = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return []
    return [p.name for p in found if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _takes(thing: Any, name: str) -> bool:
    try:
        kinds = {p.kind for p in inspect.signature(thing).parameters.values()}
    except (TypeError, ValueError):
        return False
    return name in parameters(thing) or inspect.Parameter.VAR_KEYWORD in kinds


def _attributes(thing: Any) -> dict[str, Any]:
    values = getattr(thing, "__dict__", {})
    plain = (bool, int, float, str, type(None))
    return {name: v for name, v in sorted(values.items()) if name[0] != "_" and isinstance(v, plain)}


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)
