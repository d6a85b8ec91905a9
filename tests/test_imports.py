"""Imports go one way, and the package loads keras and numpy only."""

import ast
import graphlib
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
    "portable",
    "kernels",
    "preprocessing",
    "pictures",
    "layers",
    "weights",
    "backbone",
    "fcmae",
    "segmentation",
    "detection",
    "adapters",
    "exports",
    "visualize",
    "convert",
    "__init__",
]


# A folder of the checkout may import from itself and from these.
BELOW = {
    "keras_convnextv2": set(),
    "training": {"keras_convnextv2"},
    "benchmarks": {"keras_convnextv2", "training"},
    "tools": {"keras_convnextv2", "training"},
}


def module(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(file): file for folder in BELOW for file in sorted((ROOT / folder).rglob("*.py"))}


def imports_of(file, everywhere=True):
    """The modules that a file imports, inside functions too, or only where it is imported itself."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file} has a relative import"
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in full)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: str(f.relative_to(PACKAGE)))
def test_a_room_imports_only_rooms_before_it(file):
    assert room(file) in ORDER, "a new room needs a place in the order"
    for name in imports_of(file):
        top, *rest = name.split(".")
        if top == "keras_convnextv2":
            there = rest[0] if rest else "__init__"
            assert ORDER.index(there) <= ORDER.index(room(file)), f"{room(file)} imports {there}"


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_those_below_it(folder):
    for name, file in MODULES.items():
        if name.split(".")[0] == folder:
            others = {other.split(".")[0] for other in imports_of(file)} & {*BELOW, "tests"}
            assert others <= {folder, *BELOW[folder]}, f"{name} imports {others}"


def test_no_files_import_each_other_in_a_circle():
    graph = {name: {other for other in imports_of(file) if other in MODULES} for name, file in MODULES.items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises and names a circle


def test_only_rooms_that_meet_a_library_name_it():
    for file in PACKAGE.rglob("*.py"):
        top_level = {name.split(".")[0] for name in imports_of(file, everywhere=False)}
        assert not top_level & {"tensorflow", "jax", "torch", "safetensors", "matplotlib", "PIL"}, file
        named = {name.split(".")[0] for name in imports_of(file)} & {"tensorflow", "jax", "torch"}
        assert not named or room(file) in ("kernels", "weights", "exports", "convert"), f"{file} imports {named}"


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
        registered_name(node)
        for file in PACKAGE.rglob("*.py")
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.ClassDef) and node.decorator_list
    ]
    assert len(set(classes)) == len(classes)
    ours = [cls for base in (keras.Layer, keras.Initializer) for cls in subclasses(base)]
    rooms = {cls: cls.__module__.split(".") for cls in ours}  # an adapter is imported by its own test alone
    served = {
        cls.__name__ for cls, (top, *rest) in rooms.items() if top == "keras_convnextv2" and "adapters" not in rest
    }
    served -= {"Composite", "_Head"}
    assert len(served) == 29 and {name.split(">")[1] for name in names} >= served


def registered_name(node):
    """The name a decorator gives a class in files, which is the class's own where it gives none."""
    calls = [decorator for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
    given = [keyword.value.value for call in calls for keyword in call.keywords if keyword.arg == "name"]
    return given[0] if given else node.name


def subclasses(base):
    for cls in base.__subclasses__():
        yield cls
        yield from subclasses(cls)
