"""Every open kind of thing by name: a built-in, `file.py:attr`, `package.module:attr` or an entry point.

A built-in is one file in the package of its kind, which says with `register` all that the command line, the
record, the board and the charts need to know of it. Nothing else lists them. Somebody else's thing is found
in a file, in a module, or under the entry points `timm_diffsens.deformations`, `.noises`, `.variants`,
`.datasets`, `.models` and `.executors` of an installed package, and is then like any other. Arguments follow
the name: `mode:i=1,j=2`, `my.py:Wobble:amplitude=2`. A built-in whose parameter is a file says in `suffixes`
how its name ends, and all up to there is the name: `fields:runs/a=1,b=2.npz`.
"""

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import linecache
import math
import pkgutil
import re
import sys
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any, TypeVar

from timm_diffsens.errors import DiffsensError, UsageError, said, unknown
from timm_diffsens.files import absolute as absolute_path
from timm_diffsens.fingerprint import LIBRARIES, object_sha256, source_sha256

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
        passed: parameters that this package passes itself, and nobody else.
    """

    word: str
    package: str
    called: bool
    passed: tuple[str, ...] = ()


KINDS = {
    "deformations": Kind("deformation", "timm_diffsens.perturb", True, ("images", "generator")),
    "noises": Kind("noise", "timm_diffsens.perturb", True, ("clean", "deformed", "generator")),
    "variants": Kind("variant", "timm_diffsens.models.variants", True, ("model", "generator", "factory")),
    "datasets": Kind("data set", "timm_diffsens.data.sets", False, ("request",)),
    "models": Kind("model", "timm_diffsens.models.libraries", False),
    "executors": Kind("executor", "timm_diffsens.sweep.executors", False),
}


@dataclass(frozen=True)
class Look:
    """How a thing is drawn, in every figure: a colour, a dash pattern, and one of Vega's point shapes."""

    colour: str
    dash: tuple[int, ...] = (1, 0)
    point: str = "circle"

    def __post_init__(self) -> None:
        if not re.fullmatch("#[0-9A-Fa-f]{6}", str(self.colour)):
            raise UsageError(f"a colour is written as #RRGGBB, got {self.colour!r}")
        if not all(isinstance(length, int) and length >= 0 for length in self.dash):
            raise UsageError(f"a dash pattern is of whole numbers, got {self.dash!r}")


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
        module: that it was found in; None for a built-in.
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
    module: Any = field(default=None, repr=False, compare=False)

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

    @property
    def _made(self) -> bool:
        """Whether arguments go into making the thing; an object that is there already takes none."""
        return inspect.isclass(self.thing) or inspect.isroutine(self.thing)

    def takes(self, name: str) -> bool:
        """Whether it has a parameter of that name that is for the user to give."""
        return self._made and name not in KINDS[self.kind].passed and _takes(self.thing, name)

    def source(self) -> str:
        """Hash of all source that the thing has used so far: code may import while it runs."""
        home = getattr(self.thing, "__module__", None) or ""
        same = home == getattr(self.module, "__name__", "")
        defined = self.module if same else sys.modules.get(home, self.module)
        files = {file for where in (self.module, defined) for file in _files(where)}
        return source_sha256(files) if files else object_sha256(self.thing)

    def build(self, **offered: Any) -> Any:
        """The thing, ready for use.

        A class is instantiated and, where functions are not the thing itself, a function called: with the
        parameters given, and with those of `offered` that it takes.

        Raises:
            UsageError: it does not take a parameter, or fails; other errors of this package as they are.
        """
        kind = KINDS[self.kind]
        for name in self.parameters:
            if not self.takes(name):
                known = [known for known in parameters(self.thing) if self.takes(known)]
                raise unknown(f"argument of the {kind.word} {self.name}", name, known)
            _check_number(self, name)
        given = accepted(self.thing, **offered) | dict(self.parameters)
        if inspect.isclass(self.thing) or (inspect.isroutine(self.thing) and not kind.called):
            with (
                _failing(f"the {kind.word} {self.spec} cannot be made", DiffsensError),
                beside(self.module),
            ):
                return self.thing(**given)
        return functools.partial(self.thing, **given) if given and self._made else self.thing


@contextmanager
def _failing(what: str, *as_they_are: type[Exception], hint: str = "") -> Iterator[None]:
    """Errors of other people's code inside say what failed; those of some types are raised as they are.

    A call of `sys.exit`, as argparse makes where it does not know our arguments, is such an error too.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise
    except as_they_are:
        raise
    except BaseException as error:  # `sys.exit` too
        raise UsageError(f"{what}: {type(error).__name__}: {said(error)}{hint}") from error


_registered: dict[str, dict[tuple[str, str], Entry]] = {kind: {} for kind in KINDS}  # by module and name


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
        _registered[kind][getattr(thing, "__module__", ""), name] = Entry(
            kind, name, thing, help, look, order, known_as
        )
        return thing

    return add


def built_ins(kind: str) -> list[Entry]:
    """Those of a kind that are part of this package, in their order; the same on every machine."""
    return sorted(_built_in(kind).values(), key=lambda entry: (entry.order, entry.name))


def entries(kind: str) -> list[Entry]:
    """The built-ins of a kind in their order, then those of installed packages by name."""
    found = built_ins(kind)
    for point in _entry_points(kind).values():
        try:
            found.append(_from_entry_point(kind, point))
        except UsageError as error:  # of one package; the others are as good as before
            found.append(Entry(kind, point.name, None, help=str(error)))
    return found


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
    head, _, rest = name.partition(":")
    if rest and not parameters and head in built_in:  # the first parameter, without its name
        name, parameters = head, dict(zip(_parameters_of(built_in[head]), [rest], strict=False))
    if name in built_in:
        return replace(built_in[name], parameters=parameters)
    points = _entry_points(kind)
    if name in points:
        return replace(_from_entry_point(kind, points[name]), parameters=parameters)
    if name.endswith(".py"):
        raise UsageError(f"{name} is a file: name what is meant in it, {name}:ATTR")
    if ":" not in name:
        hint = f"`diffsens ls {kind}` lists them; your own: file.py:attr or package.module:attr"
        raise unknown(KINDS[kind].word, name, names(kind), hint)
    where, _, attribute = name.rpartition(":")
    file = Path(where) if where.endswith(".py") else None
    if file:
        module = import_file(file, KINDS[kind].word)
    else:
        with _failing(f"cannot import {where!r}", hint="; expected file.py:attr or package.module:attr"):
            module = importlib.import_module(where)
    if not hasattr(module, attribute) or attribute.startswith("_diffsens"):
        word = KINDS[kind].word
        raise unknown(f"{word} in {where}", attribute, [n for n in vars(module) if not n.startswith("_")])
    shown = f"{file.name}:{attribute}" if file else name
    return replace(_described(kind, shown, getattr(module, attribute), module), parameters=parameters)


def of_object(kind: str, thing: Any) -> Entry:
    """The entry of an object of the caller's own, named by its class or function.

    Its parameters are its public attributes that are plain values (of a `functools.partial`, its keywords);
    the hash is over the source and over all of its state.

    Raises:
        UsageError: a class, or something that holds what is not known by its state.
    """
    if inspect.isclass(thing):
        raise UsageError(f"the {KINDS[kind].word} {thing.__name__} is a class: give an instance of it")
    named, _ = _origin(thing)
    values = thing.keywords if isinstance(thing, functools.partial) else getattr(thing, "__dict__", {})
    values = {name: value for name, value in sorted(values.items()) if name[0] != "_" and _is_plain(value)}
    for entry in _built_in(kind).values():
        if entry.thing is type(thing) or entry.thing is thing:
            named = {name: value for name, value in values.items() if value is not None}
            return replace(entry, parameters=named, values=values)
    entry = _described(kind, str(named.__name__), named, sys.modules.get(named.__module__))
    sha256 = hashlib.sha256(f"{entry.sha256} {object_sha256(thing)}".encode()).hexdigest()
    return replace(entry, thing=thing, parameters=values, values=values, sha256=sha256)


def name_of(thing: Any) -> str:
    """What a deformation or the like is called in errors: `file.py:attr`, or its function or class."""
    named, module = _origin(thing)
    own = hasattr(module, "_diffsens_beside")
    return f"{Path(str(module.__file__)).name}:{named.__name__}" if own else str(named.__name__)


def is_built_in(thing: Any) -> bool:
    """Whether the code of a deformation or the like is this package's."""
    return str(_origin(thing)[0].__module__).partition(".")[0] == __name__.partition(".")[0]


def _origin(thing: Any) -> tuple[Any, Any]:
    """The function or class that is called, and its module."""
    inner = inspect.unwrap(thing)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    named = inner if hasattr(inner, "__name__") else type(inner)
    return named, sys.modules.get(named.__module__ or "")


def split_arguments(spec: str) -> tuple[str, dict[str, Any]]:
    """`name:key=value,...` -> the name and its arguments: numbers, true, false, none, or text.

    Raises:
        UsageError: an argument without a value.

    Example:
        >>> split_arguments("mode:i=1,j=2"), split_arguments("my.py:Wobble")
        (('mode', {'i': 1, 'j': 2}), ('my.py:Wobble', {}))
        >>> split_arguments("fields:a=1,b=2.npz")
        ('fields', {'file': 'a=1,b=2.npz'})
    """
    head, _, file = spec.partition(":")
    if file and suffixes(head):
        return head, {"file": file.removeprefix("file=")}
    name, colon, text = spec.rpartition(":")
    if not colon or "=" not in text:
        return spec, {}
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not _ARGUMENTS.fullmatch(part):
            raise UsageError(f"{spec!r}: expected arguments as {name}:key=value,..., got {part!r}")
    pairs = (part.partition("=") for part in parts)
    return name, {key: _value(value.strip()) for key, _, value in pairs}


def absolute(spec: str, folder: Path = Path()) -> str:
    """The spec with the path of its file, seen from a folder, made absolute: for another process."""
    name, arguments = split_arguments(spec)
    if suffixes(name) and arguments:
        return f"{name}:{absolute_path(folder / arguments['file'])}"
    where, _, attribute = name.rpartition(":")
    if not where.endswith(".py"):
        return spec
    return f"{absolute_path(folder / where)}:{attribute}{spec[len(name) :]}"


def suffixes(name: str) -> tuple[str, ...]:
    """How the files end that a built-in thing reads, as the only parameter, `file`; empty for all others."""
    if not name.isidentifier():
        return ()
    things = [_built_in(kind)[name].thing for kind in KINDS if name in _built_in(kind)]
    return next((thing.suffixes for thing in things if hasattr(thing, "suffixes")), ())


def _parameters_of(entry: Entry) -> list[str]:
    return [name for name in parameters(entry.thing) if entry.takes(name)]


def accepted(thing: Callable[..., Any], **offered: Any) -> dict[str, Any]:
    """Those of the offered keyword arguments that a callable takes."""
    return {name: value for name, value in offered.items() if _takes(thing, name)}


def _built_in(kind: str) -> dict[str, Entry]:
    _load(KINDS[kind].package)
    own = f"{KINDS[kind].package}."
    return {name: entry for (home, name), entry in _registered[kind].items() if home.startswith(own)}


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
    with _failing(f"the {KINDS[kind].word} {point.name} cannot be imported from {point.value}"):
        thing = point.load()
    return _described(kind, point.name, thing, sys.modules.get(point.module))


def _described(kind: str, name: str, thing: Any, module: Any) -> Entry:
    """The entry of somebody else's thing, with what it said of itself by `register`."""
    said = next((e for e in _registered[kind].values() if e.thing is thing), Entry(kind, name, thing))
    help = said.help or next(iter((inspect.getdoc(thing) or "").splitlines()), "")
    entry = replace(said, name=name, help=help, order=0, known_as="", module=module)
    return replace(entry, sha256=entry.source())


def _files(module: Any) -> list[Path]:
    """What a module's code depends on: its file and the files beside it, or all of its package."""
    if hasattr(module, "_diffsens_beside"):
        found = {getattr(each, "__file__", None) for each in (module, *module._diffsens_beside.values())}
        found |= _named_in(Path(module.__file__))  # a function imports when it is called, after this is asked
        return sorted(Path(file) for file in found if file and file.endswith(".py"))
    name = str(getattr(module, "__name__", "")).partition(".")[0]
    if name in LIBRARIES:
        return []
    top = sys.modules.get(name)
    folders = [Path(folder) for folder in getattr(top, "__path__", ())]
    files = [file for folder in folders for file in folder.rglob("*.py")]
    own = getattr(module, "__file__", None)
    return files or ([Path(own)] if own and Path(own).is_file() else [])


def _named_in(file: Path) -> set[str | None]:
    """Files beside a file that it imports, wherever in its text, and those that they import."""
    finder = ModuleFinder([str(file.parent)])
    with suppress(Exception):  # code that cannot be read; running it will say why
        finder.run_script(str(file))
    return {getattr(found, "__file__", None) for found in finder.modules.values()}


_imported: dict[Path, Any] = {}  # modules by their file


def import_file(path: Path, word: str = "Python") -> Any:
    """Run a Python file as a module; files beside it can be imported by it, as by `python file.py`.

    Except for models, whose weights may be drawn while their file runs, it is run again only where it, or a
    file beside it that it imported, has changed.

    Raises:
        UsageError: there is no such file, or its code fails.
    """
    path = absolute_path(path)
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown(f"{word} file", str(path), near)
    if path in _imported and word != KINDS["models"].word:
        module = _imported[path]
        files = _files(module)
        if all(file.is_file() for file in files) and source_sha256(files) == module._diffsens_sha256:
            return module
    _imported[path] = _run_file(path)
    return _imported[path]


def _run_file(path: Path) -> Any:
    name = f"_diffsens_{path.stem}"  # never that of an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    module._diffsens_beside = {}
    linecache.cache.pop(str(path), None)  # what `inspect` shows of an older text
    try:
        with _failing(f"cannot import {str(path)!r}"), beside(module):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    sys.modules[name] = module  # not an older file's by that name: the source of classes is looked up there
    return module


_entered: list[Any] = []  # the modules of files whose code may run just now


@contextmanager
def beside(*modules: Any) -> Iterator[None]:
    """Inside, files' code finds the files beside it, as by `python file.py`, and no other folder's.

    Args:
        modules: that `import_file` gave; for any other nothing is done. Where the folders of several have
            files by the same name, an import inside of a function finds the last one's.
    """
    with ExitStack() as stack:
        for module in modules:
            if hasattr(module, "_diffsens_beside") and module not in _entered:
                stack.enter_context(_beside(module, module._diffsens_beside))
        yield


@contextmanager
def _beside(module: Any, own: dict[str, Any]) -> Iterator[None]:
    folder = Path(module.__file__).parent
    taken = {*_in_the_way(folder), *own, module.__name__}
    hidden = {name: sys.modules.pop(name) for name in taken if name in sys.modules}
    sys.modules |= {**own, module.__name__: module}  # dataclasses look their module up by its name
    known = set(sys.modules)
    importlib.invalidate_caches()  # a file may have been written just now
    sys.path.insert(0, str(folder))
    _entered.append(module)
    # compiled code is kept for a file of the same size and second, in which its text may have changed
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = writes
        _entered.remove(module)
        with suppress(ValueError):
            sys.path.remove(str(folder))
        new = {name: sys.modules[name] for name in set(sys.modules) - known}
        own |= {n: m for n, m in new.items() if _top(n) not in known and _home(n) == folder}
        module._diffsens_sha256 = source_sha256(_files(module))
        for name in own:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _home(name: str) -> Path | None:
    """The folder that a module, or the package it is in, was found in; None if it is from no file."""
    top = sys.modules.get(_top(name))
    file = getattr(top, "__file__", None)
    places = (
        [Path(file)] if file and not hasattr(top, "__path__") else map(Path, getattr(top, "__path__", ()))
    )
    return next((place.parent for place in places), None)


def _in_the_way(folder: Path) -> list[str]:
    """Modules of other folders by the names of files in this one; installed ones keep their names."""
    here = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    taken = here & {_top(name) for name in sys.modules} - sys.stdlib_module_names - LIBRARIES
    homes = {name: _home(name) for name in taken}
    installed = {"site-packages", "dist-packages"}
    foreign = {n for n, home in homes.items() if home not in (None, folder) and not installed & {*home.parts}}
    return [name for name in sys.modules if _top(name) in foreign]


def parameters(thing: Any) -> list[str]:
    """Names of what a callable takes by keyword; none where it does not say."""
    return [p.name for p in _signature(thing) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _takes(thing: Any, name: str) -> bool:
    return name in parameters(thing) or any(p.kind is p.VAR_KEYWORD for p in _signature(thing))


def _signature(thing: Any) -> list[inspect.Parameter]:
    try:
        return [*inspect.signature(thing).parameters.values()]
    except (TypeError, ValueError):
        return []


def _check_number(entry: Entry, name: str) -> None:
    """Raises: UsageError: an argument is a word where the annotation says that it is a number."""
    code = entry.thing.__init__ if inspect.isclass(entry.thing) else entry.thing
    try:
        hint = typing.get_type_hints(code).get(name)
    except Exception:  # an annotation that means nothing here
        return
    value, kinds = entry.parameters[name], set(typing.get_args(hint) or (hint,))
    if isinstance(value, str) and kinds <= {int, float, bool, type(None)}:
        raise UsageError(
            f"argument {name} of the {KINDS[entry.kind].word} {entry.name} must be a number, got {value!r}"
        )


def _is_plain(value: Any) -> bool:
    """Whether a record can hold it."""
    return isinstance(value, bool | int | str | None) or (isinstance(value, float) and math.isfinite(value))


def _value(text: str) -> Any:
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    for read in (int, float):
        try:
            value = read(text)
        except ValueError:
            continue
        if not math.isfinite(value):
            raise UsageError(f"arguments are finite numbers, got {text}")
        return value
    return text


def _text(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
