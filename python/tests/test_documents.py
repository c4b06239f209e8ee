"""What is written for people is true: docstrings, stubs, the README's example, the session, the notebook."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MODEL, ROOT

import blyan
from blyan import _blyan

PACKAGE = Path(blyan.__file__).parent


def docstrings() -> Iterator[tuple[str, str]]:
    """Every docstring of the package: of the modules' source, and of the compiled part's stub."""
    for file in sorted([*PACKAGE.glob("*.py"), *PACKAGE.glob("*.pyi")]):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                doc = ast.get_docstring(node)
                if doc and ">>>" in doc:
                    yield f"{file.name}:{getattr(node, 'name', 'module')}", doc


@pytest.mark.parametrize(("name", "doc"), [pytest.param(n, d, id=n) for n, d in docstrings()])
def test_docstring_examples(
    name: str, doc: str, chain: blyan.Chain, model: blyan.MoEModelManager, tmp_path: Path
) -> None:
    model.generate("In the beginning", max_tokens=2)  # so that there is some usage to look at
    names = {"blyan": blyan, "chain": chain, "model": model, "folder": MODEL}
    test = doctest.DocTestParser().get_doctest(doc, names, name, None, 0)
    assert test.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=said.append)
    assert runner.failures == 0, "".join(said)


def test_there_are_examples() -> None:
    assert len(list(docstrings())) >= 20


def test_stub_docstrings_are_the_compiled_ones() -> None:
    tool = ROOT / "python" / "tools" / "stub_docs.py"
    done = subprocess.run([sys.executable, str(tool), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # Static methods once had the docstring of `staticmethod`.
    assert "staticmethod(" not in (ROOT / "python" / "blyan" / "_blyan.pyi").read_text()


def test_stubs(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    allowlist = Path(__file__).parent / "stubtest_allowlist.txt"
    command = [sys.executable, "-m", "mypy.stubtest", "blyan", "--concise", "--ignore-unused-allowlist"]
    command += ["--allowlist", str(allowlist), "--mypy-config-file", str(ROOT / "pyproject.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "blyan"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    user = [sys.executable, "-m", "mypy", "--strict", str(Path(__file__).parent / "session.py")]
    done = subprocess.run(user, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_py_typed_is_there() -> None:
    assert (PACKAGE / "py.typed").exists() and (PACKAGE / "_blyan.pyi").exists()
    assert _blyan.__version__ == blyan.__version__


def test_the_readme_s_example(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.S)
    (tmp_path / "models").symlink_to(ROOT / "models")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "the" in done.stdout


def test_the_session_prints_what_the_others_print(tmp_path: Path) -> None:
    script = Path(__file__).parent / "session.py"
    command = [sys.executable, str(script), str(MODEL)]
    one = subprocess.run([*command, str(tmp_path / "one")], capture_output=True, check=True).stdout
    two = subprocess.run([*command, str(tmp_path / "two")], capture_output=True, check=True).stdout
    assert one == two
    expected = os.environ.get("BLYAN_SESSION")
    if expected is None:
        pytest.skip("BLYAN_SESSION names no output of the Rust session to compare with")
    assert one.decode() == Path(expected).read_text()


def test_the_notebook(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = importlib.import_module("nbclient")
    path = ROOT / "examples" / "notebook" / "blyan.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    committed = [cell.get("outputs", []) for cell in notebook.cells]
    assert any(
        "image/png" in output.get("data", {}) for outputs in committed for output in outputs
    ), "the notebook is committed with its outputs"
    resources = {"metadata": {"path": str(path.parent)}}
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()

    def text(outputs: list[dict]) -> str:  # type: ignore[type-arg]
        """What is the same on every machine: no pictures, no progress bars."""
        plain = [o for o in outputs if "image/png" not in o.get("data", {}) and o.get("name") != "stderr"]
        return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") for o in plain)

    assert [text(cell.get("outputs", [])) for cell in notebook.cells] == [text(o) for o in committed]
