"""Imports go one way, and the package loads keras and numpy only."""

import ast
import os
import pathlib
import subprocess
import sys

import keras
import pytest

import keras_convnextv2  # noqa: F401  its classes register themselves

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "keras_convnextv2"
# A room may import from those before it.
ORDER = [
    "sizes",
    "whole",
    "memory",
    "kernels",
    "preprocessing",
    "layers",
    "weights",
    "backbone",
    "fcmae",
    "exports",
    "visualize",
    "convert",
    "__init__",
]


def imports_of(file, everywhere):
    tree = ast.parse(file.read_text())
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            top = node.module == "keras_convnextv2"
            yield from (f"{node.module}.{alias.name}" if top else node.module for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_before_it(file):
    assert room(file) in ORDER, "a new room needs a place in the order"
    for name in imports_of(file, everywhere=True):
        top, *rest = name.split(".")
        if top == "keras_convnextv2" and rest:
            assert ORDER.index(rest[0]) <= ORDER.index(room(file)), f"{room(file)} imports {rest[0]}"


def test_only_rooms_that_meet_a_library_name_it():
    for file in PACKAGE.rglob("*.py"):
        top_level = {name.split(".")[0] for name in imports_of(file, everywhere=False)}
        assert not top_level & {"tensorflow", "jax", "torch", "safetensors", "matplotlib", "PIL"}, file
        named = {name.split(".")[0] for name in imports_of(file, everywhere=True)} & {"tensorflow", "jax", "torch"}
        assert not named or room(file) in ("kernels", "weights", "exports", "convert"), f"{file} imports {named}"


def test_the_package_never_imports_training():
    for file in PACKAGE.rglob("*.py"):
        assert "training" not in {name.split(".")[0] for name in imports_of(file, everywhere=True)}, file


def test_importing_the_package_loads_nothing_that_keras_does_not():
    program = "import sys, {0}; print(' '.join(sorted({{m.split('.')[0] for m in sys.modules}})))"
    loaded = []
    for module in ("keras, numpy", "keras_convnextv2"):
        command = [sys.executable, "-c", program.format(module)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ)
        loaded.append(set(done.stdout.split()))
    assert loaded[1] - loaded[0] == {"keras_convnextv2"}


def test_every_class_is_registered_once():
    names = [name for name in keras.saving.get_custom_objects() if name.startswith("keras_convnextv2>")]
    classes = [
        node.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.decorator_list
    ]
    assert len(set(classes)) == len(classes)
    ours = [cls for base in (keras.Layer, keras.Initializer) for cls in subclasses(base)]
    served = {cls.__name__ for cls in ours if cls.__module__.startswith("keras_convnextv2.")} - {"Composite"}
    assert len(served) == 16 and {name.split(">")[1] for name in names} >= served


def subclasses(base):
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)
