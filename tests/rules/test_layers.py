"""The architecture, checked on the code itself (design 4.1, 3.2, 3.16)."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED: dict[str, set[str]] = {
    "certs": set(),
    "trust_bundles": {"certs"},
    "fhir_bridge": {"certs"},
    "gateway": {"certs", "trust_bundles", "fhir_bridge"},
}
MODULES = sorted(
    path
    for package in ALLOWED
    for path in (ROOT / package).rglob("*.py")
    if "migrations" not in path.parts
)


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _imported(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _is_pure(path: Path) -> bool:
    """Say whether the docstring's second paragraph begins with the word."""
    return "\n\nPure" in (ast.get_docstring(_tree(path)) or "")


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_imports_follow_the_arrows(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    ours = {name.split(".")[0] for name in _imported(_tree(path))} & set(ALLOWED)
    assert ours - {package} <= ALLOWED[package]


@pytest.mark.parametrize("path", [p for p in MODULES if p.name != "__init__.py"], ids=_id)
def test_module_says_what_it_is_and_what_it_exports(path: Path) -> None:
    tree = _tree(path)
    text = ast.get_docstring(tree) or ""
    says = ("\nPure", "\nTalks ", "\nStore functions")
    assert any(words in text for words in says), "docstring says neither Pure nor Talks to ..."
    exported = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets)
    ]
    assert exported, "__all__ is missing"
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    for node in tree.body:
        targets = (
            node.targets
            if isinstance(node, ast.Assign)
            else [node.target]
            if isinstance(node, ast.AnnAssign)
            else []
        )
        defined |= {t.id for t in targets if isinstance(t, ast.Name)}
    assert set(exported[0]) <= defined
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not _is_verb(node)
    }
    assert public <= set(exported[0]), "a public definition is missing from __all__"


def _is_verb(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    """Say whether this is a command-line verb, which is registered and not imported."""
    return any(
        isinstance(decorator, ast.Call)
        and isinstance(decorator.func, ast.Attribute)
        and decorator.func.attr in ("command", "callback")
        for decorator in node.decorator_list
    )


@pytest.mark.parametrize("path", [p for p in MODULES if p.name == "__init__.py"], ids=_id)
def test_package_init_holds_a_docstring_and_nothing_else(path: Path) -> None:
    body = _tree(path).body
    assert len(body) == 1
    assert ast.get_docstring(_tree(path))


@pytest.mark.parametrize("path", [p for p in MODULES if _is_pure(p)], ids=_id)
def test_pure_module_has_no_coroutine_socket_file_or_clock(path: Path) -> None:
    tree = _tree(path)
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncFunctionDef) and not _is_stub(node)
    ]
    forbidden = {"asyncio", "socket", "logging", "structlog", "httpx", "ldap3", "time", "pathlib"}
    assert not {name.split(".")[0] for name in _imported(tree)} & forbidden
    assert not [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open"
    ]


def _is_stub(node: ast.AsyncFunctionDef) -> bool:
    """Say whether this is a Protocol's declaration: a docstring and `...`."""
    return all(
        isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) for item in node.body
    )


@pytest.mark.parametrize("path", MODULES, ids=_id)
def test_module_and_its_functions_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long
