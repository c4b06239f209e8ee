"""The console script: the same command line as the Rust program, in the process of Python."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "blyan", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_import_generate_and_check_a_receipt(tmp_path: Path) -> None:
    chain = str(tmp_path / "chain")
    imported = run("--chain", chain, "--json", "import", "models/tiny-kjv-moe")
    assert imported.returncode == 0, imported.stderr
    json.loads(imported.stdout)
    receipt = str(tmp_path / "receipt")
    words = ["generate", "In the beginning", "-n", "8", "--receipt", receipt]
    generated = run("--chain", chain, *words)
    assert generated.returncode == 0, generated.stderr
    assert " of the law, and the word of" in generated.stdout
    assert run("--chain", chain, "receipt", "verify", receipt).returncode == 0


def test_exit_codes() -> None:
    assert run("--version").returncode == 0
    assert run("nonsense").returncode == 2
    assert run("--chain", "/nowhere/at/all", "verify").returncode == 1


def test_the_script_is_installed() -> None:
    script = Path(sys.executable).parent / "blyan"
    assert script.exists()
    assert subprocess.run([script, "--version"], capture_output=True).returncode == 0


def test_ctrl_c_keeps_the_receipt(tmp_path: Path) -> None:
    # A step of the model that took longer than a call waits once took the receipt with it.
    chain, receipt = str(tmp_path / "chain"), tmp_path / "receipt"
    assert run("--chain", chain, "import", "models/tiny-kjv-moe").returncode == 0
    prompt = "And God said unto them, " * 60
    words = ["--chain", chain, "generate", prompt, "--ignore-eos", "-t", "1", "--isa", "scalar"]
    script = f"""
import os, signal, sys, threading
from blyan.__main__ import main
# Who starts the tests in the background may have it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
sys.exit(main({[*words, "--receipt", str(receipt)]!r}))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 130, done.stderr
    assert json.loads(receipt.read_text())["claim"]["finish_reason"] == "cancelled"
