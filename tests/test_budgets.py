"""Budgets that keep the code small and its parts apart: lines a file, docstrings, directions of imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "burnish").rglob("*.py"))
MOST_LINES = 400
# Files that may be longer, and why.
LONGER: dict[str, tuple[int, str]] = {}


def test_files_are_small() -> None:
    lines = {str(file.relative_to(ROOT)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    long = {name: count for name, count in lines.items() if count > LONGER.get(name, (MOST_LINES, ""))[0]}
    assert not long, "split these by what their parts are for"


def public(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Public functions and classes of a module, and public methods of public classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node, f"{node.name}.")


def is_plain(node: ast.AST) -> bool:
    """A property, an overload, or a method of at most three lines, whose name and types say it all."""
    if not isinstance(node, ast.FunctionDef):
        return False
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    return bool(decorators & {"property", "cached_property", "overload"}) or len(node.body) <= 3


def test_what_is_public_has_a_docstring() -> None:
    missing = []
    for file in FILES:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        name = str(file.relative_to(ROOT))
        if not ast.get_docstring(tree):
            missing.append(name)
        for found, node in public(tree):
            if not ast.get_docstring(node) and not ("." in found and is_plain(node)):  # type: ignore[arg-type]
                missing.append(f"{name}: {found}")
    assert not missing


def test_imports_point_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([str(linter), "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_runtime_starts_without_the_compiler_and_transformers() -> None:
    code = (
        "import sys, burnish.runtime.model\n"
        "rooms = ('transformers', 'onnx', 'networkx', 'burnish.passes', 'burnish.frontend', 'burnish.codegen')\n"
        "print([name for name in sys.modules if name.startswith(rooms) and not name.startswith('onnxruntime')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_pickle_and_no_evaluation_of_text() -> None:
    """Artifacts are data: nothing that reads them may run what is in them."""
    banned = {"pickle", "dill", "marshal", "shelve"}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                names = ["pickle"]
            assert not banned & {name.split(".")[0] for name in names}, f"{file}: line {node.lineno}"  # type: ignore[attr-defined]
