"""What the Python side costs: tokens/s of one generation through Python against the same in Rust.

    cargo build --release --example quickstart
    python python/tools/bench_overhead.py [--rounds 9] [--tokens 200]

Both run the quickstart's model greedily on one thread and on all; rounds alternate, so that a machine that
slows down slows both, and the ratio is that of the medians. Python is measured as `generate` and as a
`stream` whose pieces are read one by one.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import blyan

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-kjv-moe"
QUICKSTART = ROOT / "target" / "release" / "examples" / "quickstart"
PROMPT = "And God said"


def rust(tokens: int, threads: int) -> float:
    """Tokens/s of decoding, as the quickstart prints them."""
    options = ["--max-tokens", str(tokens), "--temperature", "0", "--ignore-eos", "--threads", str(threads)]
    done = subprocess.run([QUICKSTART, *options, "--prompt", PROMPT], capture_output=True, text=True, check=True)
    found = re.search(r"then (\d+) tokens/s", done.stdout)
    assert found is not None, done.stdout
    return float(found[1])


def generate(model: blyan.MoEModelManager, tokens: int) -> float:
    """Tokens/s of `generate`, its first token subtracted as in the Rust figure."""
    start = time.perf_counter()
    model.generate(PROMPT, max_tokens=1, ignore_eos=True)
    first = time.perf_counter() - start
    start = time.perf_counter()
    model.generate(PROMPT, max_tokens=tokens, ignore_eos=True)
    return (tokens - 1) / (time.perf_counter() - start - first)


def stream(model: blyan.MoEModelManager, tokens: int) -> float:
    stream = model.stream(PROMPT, max_tokens=tokens, ignore_eos=True)
    next(stream)
    start = time.perf_counter()
    count = sum(1 for _ in stream)
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place, blyan.Chain(place) as chain:
        blyan.import_checkpoint(chain, MODEL)
        for threads in (1, None):
            model = blyan.MoEModelManager(chain, threads=threads, persist_usage=False)
            model.generate(PROMPT, max_tokens=options.tokens, ignore_eos=True)
            figures: dict[str, list[float]] = {"rust": [], "generate": [], "stream": []}
            for _ in range(options.rounds):
                figures["rust"].append(rust(options.tokens, model.threads))
                figures["generate"].append(generate(model, options.tokens))
                figures["stream"].append(stream(model, options.tokens))
            median = {name: statistics.median(values) for name, values in figures.items()}
            for name, value in median.items():
                print(f"{model.threads} threads  {name:9} {value:7.0f} tokens/s  {value / median['rust']:.3f} of Rust")


if __name__ == "__main__":
    main()
