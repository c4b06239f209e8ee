"""What quantizing costs: KL divergence and perplexity against the unquantized model, beside llama.cpp's.

    target/peers/venv/bin/python benches/peers/quality.py

Needs what run.py installs and builds (`blyan-peer`, llama-cpp-python, gguf, transformers). The models are the
quickstart's and SmolLM2, the text is text/kjv.txt: the end of the King James Bible (public domain), which the
quickstart's model was not trained on. Each model is compared with itself: blyan's dtypes with blyan's bf16, llama.cpp's
types with its F16, so that what differs between the two libraries is not counted.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from transformers import AutoTokenizer

import models

ROOT = Path(__file__).parents[2]
MODELS = {"tiny-kjv-moe": ROOT / "models/tiny-kjv-moe", "SmolLM2-135M": ROOT / "target/smollm2/models/dense"}
# Tokens of a window, each read from its own start.
WINDOW = 256
WINDOWS = 8


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def blyan_logits(tool: Path, chain: Path, windows: list[list[int]], scratch: Path) -> np.ndarray:
    """(windows, tokens, vocabulary) log probabilities."""
    rows = []
    for window in windows:
        ids, out = scratch / "ids", scratch / "logits"
        ids.write_text(" ".join(map(str, window)))
        subprocess.run([tool, "logits", chain, "--tokens", ids, "--out", out], check=True, stdout=subprocess.DEVNULL)
        rows.append(np.fromfile(out, "<f4").reshape(len(window), -1).astype(np.float64))
    return log_softmax(np.stack(rows))


def llama_logits(path: Path, windows: list[list[int]]) -> np.ndarray:
    from llama_cpp import Llama

    model = Llama(str(path), n_ctx=WINDOW, n_batch=WINDOW, logits_all=True, verbose=False)
    rows = []
    for window in windows:
        model.reset()
        model.eval(window)
        rows.append(np.array(model.scores[: len(window)], dtype=np.float64))
    return log_softmax(np.stack(rows))


def row(name: str, logits: np.ndarray, exact: np.ndarray, windows: list[list[int]], size: int) -> str:
    divergence = (np.exp(exact) * (exact - logits)).sum(axis=-1).mean()
    targets = np.array(windows)[:, 1:, None]
    loss = [-np.take_along_axis(x[:, :-1], targets, axis=-1).mean() for x in (logits, exact)]
    change = np.exp(loss[0] - loss[1]) - 1
    return f"| {name} | {size / 1e6:.1f} MB | {divergence:.5f} | {np.exp(loss[0]):.3f} | {100 * change:+.2f} % |"


def weight_bytes(tool: Path, chain: Path) -> int:
    return sum(file.stat().st_size for file in chain.glob("payloads/*/*"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tool", type=Path, default=ROOT / "target/peers/build/release/blyan-peer")
    options = parser.parse_args()
    text = (Path(__file__).parent / "text/kjv.txt").read_text()
    print("| model | files | mean KL divergence | perplexity | change |\n|---|---:|---:|---:|---:|")
    for model, folder in MODELS.items():
        if not folder.exists():
            print(f"| {model} | | not there: `cargo xtask smollm2` makes it | | |")
            continue
        ids = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
        windows = [ids[start : start + WINDOW] for start in range(0, WINDOW * WINDOWS, WINDOW)]
        windows = [window for window in windows if len(window) == WINDOW]
        with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(2) as pool:
            scratch = Path(scratch)
            exact = None
            for dtype in ("bf16", "int8", "fp8", "int4"):
                chain = scratch / dtype
                made = subprocess.run([options.tool, "import", folder, chain, dtype], capture_output=True, text=True)
                if made.returncode or '"error"' in made.stdout:
                    print(f"| {model} blyan {dtype} | | {made.stdout.strip()[:80]} | | |")
                    continue
                logits = blyan_logits(options.tool, chain, windows, scratch)
                exact = logits if exact is None else exact
                size = weight_bytes(options.tool, chain)
                print(row(f"{model} blyan {dtype}", logits, exact, windows, size), flush=True)
            exact = None
            for kind in ("F16", "Q8_0", "Q4_0"):
                path = scratch / f"{kind}.gguf"
                models.convert(folder, kind, path, pool)
                logits = llama_logits(path, windows)
                exact = logits if exact is None else exact
                print(row(f"{model} llama.cpp {kind}", logits, exact, windows, path.stat().st_size), flush=True)


if __name__ == "__main__":
    sys.exit(main())
