"""Puts the docstrings of the compiled module into its stub, so that editors show them.

    python python/tools/stub_docs.py [--check]

rewrites python/blyan/_blyan.pyi, or with --check only says whether it would.
"""

from __future__ import annotations

import ast
import inspect
import sys
from pathlib import Path

STUB = Path(__file__).parent.parent / "blyan" / "_blyan.pyi"


def docstring(owner: object, name: str) -> str | None:
    """What the compiled module says; nothing for what `object` has too."""
    found = inspect.getattr_static(owner, name, None)
    if isinstance(found, staticmethod):
        # Of its own it only has the words of `staticmethod`.
        found = found.__func__
    doc = getattr(found, "__doc__", None)
    if not doc or (name.startswith("__") and name.endswith("__") and inspect.isclass(owner)):
        # Special methods have the interpreter's own words, except ours.
        if name not in {"__dlpack__", "__dlpack_device__"} or not doc:
            return None
    return inspect.cleandoc(doc)


def with_docs(text: str, module: object) -> str:
    """The stub with each docstring that it lacks or has otherwise."""
    lines = text.splitlines()
    edits: list[tuple[int, int, list[str]]] = []  # first line, last line (inclusive, 0-based), new lines

    def visit(node: ast.stmt, owner: object, indent: str) -> None:
        if isinstance(node, ast.ClassDef):
            found = getattr(module, node.name, None)
            if found is None:
                return
            doc = inspect.cleandoc(found.__doc__) if found.__doc__ else None
            first = node.body[0]
            has = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            if doc is not None:
                new = quoted(doc, indent + "    ")
                if has and isinstance(first.value, ast.Constant) and first.value.value is not Ellipsis:
                    edits.append((first.lineno - 1, (first.end_lineno or 0) - 1, new))
                else:
                    edits.append((first_line(first) - 1, first_line(first) - 2, new + [""]))
            for child in node.body:
                visit(child, found, indent + "    ")
        elif isinstance(node, ast.FunctionDef):
            if any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list):
                if node.name in seen_overloads.setdefault(id(owner), set()):
                    return
                seen_overloads[id(owner)].add(node.name)
            doc = docstring(owner, node.name)
            if doc is None:
                return
            body = node.body
            # `-> X: ...` on one line becomes a body of its own.
            line = (body[0].lineno or 0) - 1
            new = quoted(doc, indent + "    ")
            if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant) and isinstance(body[0].value.value, str):
                edits.append((line, (body[0].end_lineno or 0) - 1, new))
            else:
                head, dots, tail = lines[line].rpartition(" ...")
                assert dots, lines[line]
                edits.append((line, line, [head + tail, *new]))

    seen_overloads: dict[int, set[str]] = {}
    for node in ast.parse(text).body:
        visit(node, module, "")
    for first, last, new in sorted(edits, reverse=True):
        lines[first : last + 1] = new
    return "\n".join(lines) + "\n"


def first_line(node: ast.stmt) -> int:
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(decorator.lineno for decorator in decorators)])


def quoted(doc: str, indent: str) -> list[str]:
    doc = doc.replace("\\", "\\\\")
    assert '"""' not in doc
    if "\n" not in doc and not doc.endswith('"'):
        return [f'{indent}"""{doc}"""']
    body = [f"{indent}{line}".rstrip() for line in doc.splitlines()]
    return [f'{indent}"""{body[0].strip()}', *body[1:], f'{indent}"""']


def main() -> int:
    from blyan import _blyan

    text = STUB.read_text()
    wanted = with_docs(text, _blyan)
    if wanted == text:
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{STUB.name} has other docstrings than the compiled module: run python/tools/stub_docs.py")
        return 1
    STUB.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
