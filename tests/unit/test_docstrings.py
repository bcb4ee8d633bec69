"""Docstrings name what exists: arguments are parameters or fields, exceptions are those of the package or of Python.

Sources are parsed, not run. What is checked has this form:

    Args:
        name: One argument.
        first, second: Two of them.
    Raises:
        SomeError: when.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from textwrap import dedent

import pytest

from tests.unit.test_layers import SOURCES

Function = ast.FunctionDef | ast.AsyncFunctionDef
Classes = dict[str, ast.ClassDef]

TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}
FOREIGN_EXCEPTIONS = {"pydantic.ValidationError"}
ENTRY = re.compile(r"(\*{0,2}[\w.]+(?:, \*{0,2}[\w.]+)*):( |$)")


@dataclass(frozen=True)
class Documented:
    """A function or class with a docstring.

    Args:
        arguments: Names that its docstring may list as arguments.
    """

    name: str
    line: int
    docstring: str
    arguments: set[str]

    def faults(self, exceptions: set[str]) -> Iterator[str]:
        """What the docstring lists that does not exist."""
        for title, known in (("Args", self.arguments), ("Raises", exceptions)):
            for entry in entries(self.docstring, title):
                where = f"line {self.line}, {self.name}, {title}"
                names = names_in(entry)
                if not names:
                    yield f"{where}: {entry!r} does not begin with `name: ` or `name, name: `"
                for name in sorted(set(names) - known):
                    yield f"{where}: there is no {name!r}; similar names: {get_close_matches(name, known)}"


def entries(docstring: str, title: str) -> list[str]:
    """First lines of the entries in a section of a docstring; lines that continue an entry are indented."""
    found = re.search(rf"^( *){title}:\n((?:\1 +.*\n|\n)*)", docstring + "\n", re.MULTILINE)
    lines = dedent(found[2]).splitlines() if found else []
    return [line for line in lines if line and not line.startswith(" ")]


def names_in(entry: str) -> list[str]:
    """The names that an entry begins with; none if it has another form."""
    match = ENTRY.match(entry)
    return [name.lstrip("*") for name in match[1].split(", ")] if match else []


def documented(tree: ast.Module, classes: Classes) -> Iterator[Documented]:
    """Everything with a docstring in a module, except the module."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef) and (docstring := ast.get_docstring(node)):
            arguments = fields_of(node, classes) if isinstance(node, ast.ClassDef) else parameters_of(node)
            yield Documented(node.name, node.lineno, docstring, arguments)


def parameters_of(function: Function) -> set[str]:
    """Names of all parameters, except self and cls."""
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    variable = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return {each.arg for each in (*named, *variable)} - {"self", "cls"}


def fields_of(cls: ast.ClassDef, classes: Classes) -> set[str]:
    """Annotated names in the body of a class, parameters of its `__init__`, and those of its bases in the package."""
    fields: set[str] = set()
    for statement in cls.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            fields.add(statement.target.id)
        if isinstance(statement, Function) and statement.name in ("__init__", "__new__"):
            fields |= parameters_of(statement)
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in cls.bases]
    known = [classes[base.id] for base in bases if isinstance(base, ast.Name) and base.id in classes]
    return fields.union(*(fields_of(base, classes) for base in known))


def classes_of(trees: dict[str, ast.Module]) -> Classes:
    """All classes by name."""
    return {node.name: node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def exceptions_of(classes: Classes) -> set[str]:
    """Names of Python's own exceptions, and of the classes that are derived from one of them."""
    known = {
        name for name, each in vars(builtins).items() if isinstance(each, type) and issubclass(each, BaseException)
    }
    bases = {name: {ast.unparse(base) for base in cls.bases} for name, cls in classes.items()}
    while more := {name for name in bases.keys() - known if bases[name] & known}:
        known |= more
    return known


CLASSES = classes_of(TREES)
EXCEPTIONS = exceptions_of(CLASSES) | FOREIGN_EXCEPTIONS


@pytest.mark.parametrize("module", TREES)
def test_docstrings_name_what_exists(module: str) -> None:
    found = [fault for each in documented(TREES[module], CLASSES) for fault in each.faults(EXCEPTIONS)]
    assert not found, "\n".join([str(SOURCES[module]), *found])


FUNCTION = "def f(a, *b, **c): ...\n"
CLASS = "class Base:\n    b: int\nclass A(Base):\n    def __init__(self, a): ...\n"
ERROR = "class OwnError(ValueError): ...\n"


@pytest.mark.parametrize(
    ("source", "section", "faults"),
    [
        (FUNCTION, "Args:\n    a, b: Some of\n        d: goes on.\n    *b, **c: Others.", []),
        (FUNCTION, "Args:\n    a: One.\n    d: Another.", ["no 'd'"]),
        (FUNCTION, "Args:\n    a, d: Two.\nReturns:\n    e: f.", ["no 'd'"]),
        (FUNCTION, "Args:\n    What this is.", ["does not begin with"]),
        (CLASS, "Args:\n    a, b: Two.\n    c: Another.", ["no 'c'"]),
        (ERROR + FUNCTION, "Raises:\n    ValueError: one.\n    OwnError: two.\n    f: three.", ["no 'f'"]),
        (ERROR + FUNCTION, "Args:\n    d: one.\nRaises:\n    OtherError: two.", ["no 'd'", "no 'OtherError'"]),
    ],
)
def test_what_does_not_exist_is_found(source: str, section: str, faults: list[str]) -> None:
    tree = ast.parse(source)
    classes = classes_of({"m": tree})
    node = tree.body[-1]
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    node.body.insert(0, ast.Expr(ast.Constant(f"Summary.\n\n{section}\n")))
    (each,) = documented(tree, classes)
    found = list(each.faults(exceptions_of(classes)))
    assert len(found) == len(faults), found
    assert all(words in fault for words, fault in zip(faults, found, strict=True)), found
