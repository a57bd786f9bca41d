"""Objects of the caller's own are told apart by all that makes them different."""

import functools

import pytest
import torch

from timm_diffsens import UsageError, registry


class Blur:
    def __init__(self, radius=1, kernel=None):
        self.radius, self._kernel = radius, kernel

    def __call__(self, images, generator=None):
        return images


def turned(images, generator=None, angle=0.0):
    return images


def scaled_by(factor):
    def scaled(images, generator=None):
        return images * factor

    return scaled


def of(thing):
    return registry.of_object("deformations", thing)


def test_equal_objects_are_recorded_alike_and_others_are_not():
    kernel = torch.eye(3)
    same = [Blur(2, kernel), Blur(2, kernel.clone())]
    others = [Blur(3, kernel), Blur(2, kernel + 1), Blur(2), scaled_by(2), scaled_by(3), turned]
    others += [lambda images, generator=None: images, lambda images, generator=None: -images]
    assert len({of(thing).recorded for thing in same}) == 1
    assert len({of(thing).recorded for thing in [*same, *others]}) == 1 + len(others)


def test_the_parameters_are_the_public_attributes():
    assert of(Blur(2)).spec == "Blur:radius=2"
    assert of(functools.partial(turned, angle=0.5)).spec == "turned:angle=0.5"
    assert of(functools.partial(turned, angle=0.5)).recorded.startswith("turned:angle=0.5@")


def test_a_file_is_found_with_what_lies_beside_it(tmp_path):
    (tmp_path / "parts.py").write_text("width = 4\n")
    (tmp_path / "mine.py").write_text(
        "from parts import width\n\n\ndef wide(images, generator=None):\n    return images\n"
    )
    entry = registry.find("deformations", f"{tmp_path / 'mine.py'}:wide")
    assert entry.name == "mine.py:wide"


def test_what_is_not_there_is_named_with_the_nearest(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("def turned(images, generator=None): return images\n")
    with pytest.raises(UsageError, match=r"unknown deformation in .*mine\.py 'turnd'; did you mean turned\?"):
        registry.find("deformations", f"{path}:turnd")
    with pytest.raises(UsageError, match=r"unknown deformation 'difeo'; did you mean diffeo\?"):
        registry.find("deformations", "difeo")
    with pytest.raises(
        UsageError, match="unknown argument of the deformation diffeo 'dleta'; did you mean delta"
    ):
        registry.find("deformations", "diffeo:dleta=2").build()
    with pytest.raises(UsageError, match="expected arguments as diffeo:key=value"):
        registry.find("deformations", "diffeo:delta=2,3")


def test_arguments_are_numbers_words_or_text():
    name, found = registry.split_arguments("a.py:b:i=1,x=0.5,flag=true,none=none,word=same")
    assert name == "a.py:b"
    assert found == {"i": 1, "x": 0.5, "flag": True, "none": None, "word": "same"}
