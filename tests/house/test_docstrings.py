"""A docstring that names something in back-ticks names something that is there: a rename reaches the words too."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from pathlib import Path

from snaprotd.commands.cli import cli

ROOT = Path(__file__).parents[2]
TREES = {path: ast.parse(path.read_text()) for path in sorted((ROOT / "snaprotd").rglob("*.py"))}

ALLOWED = {
    "connection": "a request that failed, in place of an HTTP status",
    "unreadable": "the same",
    "default": "where the value of a policy's key comes from",
    "policies.nightly": "the same",
    "no": "a text that YAML 1.1 takes for false",
    "restart": "a word of the provider's API",
    "uuid_key": "a kind of id in the simulator",
}
"""Words that name nothing of ours, with what they are."""


def names_of(node: ast.Module | ast.ClassDef) -> Iterator[str]:
    """What a module or a class defines for others to see."""
    for part in node.body:
        match part:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
                sets = (one for one in ast.walk(part) if isinstance(one, ast.Attribute))
                yield from (one.attr for one in sets if isinstance(one.ctx, ast.Store))
            case ast.ClassDef(name=name):
                yield from (name, *names_of(part))
            case ast.Assign() | ast.AnnAssign():
                yield from names_within(part)


def names_within(node: ast.AST) -> Iterator[str]:
    """Its parameters, and every name that is set somewhere in it."""
    for each in ast.walk(node):
        match each:
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()):
                yield name


MODULES = {part for path in TREES for part in (path.stem, path.parent.name)}
ANYWHERE = {*MODULES, *dir(builtins), *(name for tree in TREES.values() for name in names_of(tree))}
FILES = {path.name for folder in ("snaprotd", "docs", "tests") for path in (ROOT / folder).rglob("*.*")}


def words_of(tree: ast.Module) -> Iterator[str]:
    """What only this file may mean: what it imports, and the words that it reads and writes."""
    for each in ast.walk(tree):
        if isinstance(each, ast.alias | ast.Constant):
            yield str(each.value) if isinstance(each, ast.Constant) else (each.asname or each.name).partition(".")[0]


def spans(node: ast.AST, own: frozenset[str] = frozenset()) -> Iterator[tuple[str, frozenset[str]]]:
    """Each text in back-ticks, with the names that only the functions and classes around it know."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Expr(value=ast.Constant(value=str(text))):
                yield from ((span, own) for span in re.findall(r"`([^`\n]+)`", text))
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield from spans(child, own | frozenset(names_within(child)))
            case _:
                yield from spans(child, own)


def unknown(tree: ast.Module) -> list[str]:
    here = {*ANYWHERE, *words_of(tree)}
    return [span for span, own in spans(tree) if span not in ALLOWED and not is_known(span, here | own)]


def is_known(span: str, names: set[str]) -> bool:
    """Whether it is there, or is no name at all."""
    if command := re.fullmatch(r"snaprotd ([a-z]\w*).*", span):
        return command[1] in cli.commands
    if re.fullmatch(r"[\w/.-]+\.(py|js|md|html|css)", span):
        return Path(span).name in FILES
    name = re.fullmatch(r"([A-Za-z_][\w.]*)(\(\))?", span)
    return name is None or all(part in names for part in name[1].split("."))


def test_what_a_docstring_names_is_there() -> None:
    found = {str(path.relative_to(ROOT)): unknown(tree) for path, tree in TREES.items()}
    assert {path: spans for path, spans in found.items() if spans} == {}


def test_what_is_nowhere_is_found() -> None:
    there = "`mine`, `Rotation.label`, `re`, `steps.py`, `snaprotd plan`, `30 3 * * *`, `str()`"
    gone = ["mime", "Rotation.lable", "advanced", "advanced()", "stepps.py", "snaprotd plane"]
    source = "import re\ndef f(mine):\n    '{}'\n"
    assert unknown(ast.parse(source.format(there))) == []
    assert unknown(ast.parse(source.format(", ".join(f"`{one}`" for one in gone)))) == gone
