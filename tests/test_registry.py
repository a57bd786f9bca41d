"""Things by name, and objects of the caller's own told apart by all that makes them different."""

import dataclasses
import functools
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from timm_diffsens import UsageError, registry


class Blur:
    def __init__(self, radius=1, kernel=None):
        self.radius, self._kernel = radius, kernel

    def __call__(self, images, generator=None):
        return images

    def go(self, images, generator=None):
        return images


@dataclasses.dataclass
class Slots:
    __slots__ = ("size",)
    size: int

    def __call__(self, images, generator=None):
        return images


def shifted(by, images, generator=None):
    return images


def turned(images, generator=None, angle=0.0):
    return images


def scaled_by(factor):
    def scaled(images, generator=None):
        return images * factor

    return scaled


def keyword_only(size):
    def shrunk(images, generator=None, *, size=size):
        return images

    return shrunk


def of(thing):
    return registry.of_object("deformations", thing)


def test_equal_objects_are_recorded_alike_and_others_are_not():
    kernel = torch.eye(3)
    same = [Blur(2, kernel), Blur(2, kernel.clone())]
    others = [Blur(3, kernel), Blur(2, kernel + 1), Blur(2), scaled_by(2), scaled_by(3), turned]
    others += [lambda i, g=None: i.roll(1, -1), lambda i, g=None: i.flip(1, -1)]
    others += [functools.partial(shifted, 1), functools.partial(shifted, 2), Slots(1), Slots(5)]
    others += [Blur(1).go, Blur(5).go, Blur(2, functools.partial(turned, angle=2.0)), Blur(2, Blur(1).go)]
    others += [functools.partial(turned, angle=torch.arange(2000) + k) for k in (0, 1)]
    others += [functools.partial(turned, angle=1.0), keyword_only(1), keyword_only(2)]
    assert len({of(thing).recorded for thing in same}) == 1
    assert len({of(thing).recorded for thing in [*same, *others]}) == 1 + len(others)


def test_the_parameters_are_the_public_attributes():
    assert of(Blur(2)).spec == "Blur:radius=2"
    assert of(functools.partial(turned, angle=0.5)).spec == "turned:angle=0.5"
    assert of(functools.partial(turned, angle=0.5)).recorded.startswith("turned:angle=0.5@")


def test_what_has_no_known_state_is_refused():
    with pytest.raises(UsageError, match="Blur cannot be recorded: it holds a Generator"):
        of(Blur(1, torch.Generator()))
    with pytest.raises(UsageError, match="the deformation Blur is a class: give an instance"):
        of(Blur)


def test_circles_end_and_sets_have_no_order():
    one, two = Blur(1, {"a", "b", "c"}), Blur(1, {"c", "a", "b"})
    assert of(one).recorded == of(two).recorded
    one._kernel = one
    assert of(one).recorded != of(two).recorded


def write(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return f"{path}:same"


def test_files_beside_a_file_are_its_own_and_part_of_its_hash(tmp_path):
    code = "from helper import K\n\ndef same(images, generator=None):\n    return images * K\n"
    found = []
    for folder, size in (("a", 1), ("b", 5), ("a", 1), ("a", 9)):
        spec = write(tmp_path / folder / "mine.py", code)
        write(tmp_path / folder / "helper.py", f"K = {size}\n")
        entry = registry.find("deformations", spec)
        assert (entry.name, entry.build()(1)) == ("mine.py:same", size)
        found.append(entry.sha256)
    assert found[0] == found[2]
    assert len(set(found)) == 3


def test_a_file_imported_inside_a_function_is_part_of_the_hash_before_it_is_called(tmp_path):
    code = "def same(images, generator=None):\n    from first import K\n    return images * K\n"
    spec, hashes = write(tmp_path / "mine.py", code), []
    for size in (1, 5, 1):
        write(tmp_path / "first.py", "from second import K\n")
        write(tmp_path / "second.py", f"K = {size}\n")
        write(tmp_path / "unused.py", f"K = {size * 7 + len(hashes)}\n")
        entry = registry.find("deformations", spec)
        with registry.beside(entry.module):
            assert entry.build()(1) == size
        assert registry.find("deformations", spec).sha256 == entry.sha256 == entry.source()
        hashes.append(entry.sha256)
    assert hashes[0] == hashes[2] != hashes[1]


def test_what_runs_is_what_is_hashed_however_soon_a_file_is_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    hashes = []
    for size in (1, 5, 7):
        code = f"from helper import K\n\ndef same(images, generator=None):\n    return {size}, K\n"
        spec = write(tmp_path / "mine.py", code)
        write(tmp_path / "helper.py", f"K = {size}\n")
        entry = registry.find("deformations", spec)
        assert entry.thing(0) == (size, size)
        assert f"return {size}, K" in inspect.getsource(entry.thing)
        hashes.append(entry.sha256)
    assert len(set(hashes)) == 3
    assert sys.dont_write_bytecode is False


def test_code_of_several_files_runs_at_once_and_leaves_no_trace(tmp_path):
    """Two of one folder, one of another with a file of the same name; and one of them once more inside."""
    code = "def same(images, generator=None):\n    import part\n    part.calls += 1\n    return part\n"
    specs = [
        write(tmp_path / folder / name, code)
        for folder, name in (("a", "x.py"), ("a", "y.py"), ("b", "x.py"))
    ]
    for folder in ("a", "b"):
        write(tmp_path / folder / "part.py", f"calls, home = 0, {folder!r}\n")
    one, two, other = (registry.find("deformations", spec) for spec in specs)
    path, modules = list(sys.path), dict(sys.modules)
    with registry.beside(one.module, two.module):
        part = one.thing(1)
        with registry.beside(one.module):
            assert two.thing(1) is part
        with registry.beside(other.module):
            assert (other.thing(1).home, other.thing(1).calls) == ("b", 2)
        assert (one.thing(1), part.calls, part.home) == (part, 3, "a")
    assert sys.path == path
    assert "part" not in sys.modules
    assert {**sys.modules, **modules} == modules | sys.modules


def test_a_file_is_run_once_as_long_as_it_is_the_same(tmp_path):
    spec = write(tmp_path / "mine.py", "runs = []\n\ndef same(images, generator=None):\n    return images\n")
    assert registry.find("deformations", spec).thing is registry.find("deformations", spec).thing


def test_a_thing_defined_elsewhere_has_the_hash_of_where_it_is_defined(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path / "toy_package" / "__init__.py", "from toy_package.shift import same\n")
    hashes = []
    for factor in (1, 12):
        code = f"def same(images, generator=None):\n    return images * {factor}\n"
        write(tmp_path / "toy_package" / "shift.py", code)
        for name in ("toy_package", "toy_package.shift"):
            sys.modules.pop(name, None)
        hashes.append(registry.find("deformations", "toy_package:same").sha256)
    assert hashes[0] != hashes[1]


def test_what_is_not_there_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "mine.py", "def turned(images, generator=None): return images\n")
    with pytest.raises(UsageError, match=r"unknown deformation in .*mine\.py 'turnd'; did you mean turned\?"):
        registry.find("deformations", f"{tmp_path / 'mine.py'}:turnd")
    with pytest.raises(UsageError, match=r"mine.py is a file: name what is meant in it, mine.py:ATTR"):
        registry.find("deformations", "mine.py")
    with pytest.raises(UsageError, match=r"unknown deformation 'difeo'; did you mean diffeo\?"):
        registry.find("deformations", "difeo")
    with pytest.raises(UsageError, match="argument of the deformation diffeo 'dleta'; did you mean delta"):
        registry.find("deformations", "diffeo:dleta=2").build()
    with pytest.raises(UsageError, match="expected arguments as diffeo:key=value"):
        registry.find("deformations", "diffeo:delta=2,3")


def test_arguments_are_numbers_words_or_text():
    name, found = registry.split_arguments("a.py:b:i=1,x=0.5,flag=true,none=none,word=same")
    assert name == "a.py:b"
    assert found == {"i": 1, "x": 0.5, "flag": True, "none": None, "word": "same"}


@pytest.mark.parametrize("file", ["a=1,b=2.npz", "x=1/y.npy", "C:\\data\\a=1.npz", "file:1.npz", "1e5"])
def test_a_file_is_taken_as_it_is(file):
    for spec in (f"fields:{file}", f"fields:file={file}"):
        assert registry.split_arguments(spec) == ("fields", {"file": file})
        assert registry.find("deformations", spec).parameters == {"file": file}
        assert registry.absolute(spec) == f"fields:{Path(file).absolute()}"


def test_an_object_of_a_file_takes_no_arguments(tmp_path):
    code = "class A:\n    def __call__(self, images, generator=None, delta=1): ...\n\nsame = A()\n"
    entry = registry.find("deformations", write(tmp_path / "mine.py", code) + ":delta=2")
    assert not entry.takes("delta")
    with pytest.raises(UsageError, match=r"unknown argument of the deformation mine\.py:same 'delta'"):
        entry.build()


def test_what_this_package_passes_itself_is_no_argument():
    with pytest.raises(UsageError, match="unknown argument of the noise gaussian 'clean'"):
        registry.find("noises", "gaussian:clean=3").build()
    with pytest.raises(UsageError, match="finite"):
        registry.find("deformations", "diffeo:delta=nan")


def test_nobody_takes_the_name_of_a_built_in(tmp_path):
    register = "from timm_diffsens.registry import register\n\n@register('deformations', 'diffeo')\n"
    spec = write(tmp_path / "over.py", register + "def same(images): ...\n")
    assert registry.find("deformations", spec).sha256 is not None
    assert registry.find("deformations", "diffeo").build().delta == 1.0


def test_how_a_thing_is_drawn_is_checked():
    with pytest.raises(UsageError, match="#RRGGBB, got 'green'"):
        registry.Look("green")


def test_everything_built_in_is_found_and_measures_without_optional_packages(tmp_path, warm):
    """As after a plain `pip install`: numba, llvmlite and Triton are not there."""
    code = f"""
import sys
sys.modules.update(dict.fromkeys(("numba", "llvmlite", "triton")))
from timm_diffsens import bench, registry
found = {{kind: len(registry.built_ins(kind)) for kind in registry.KINDS}}
assert found["deformations"] > 5, found
options = {{"images": 4, "layers": "stages", "variants": "all", "components": True, "corruption": 0.1}}
record = bench("net/lenet", pretrained=False, out={str(tmp_path)!r}, **options)
print(record.output.r > 0)
"""
    run = subprocess.run([*warm, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True"]
