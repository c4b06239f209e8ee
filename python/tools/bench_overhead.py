"""What the Python side costs: tokens/s of generations through Python against the same without leaving Rust.

    cargo build --release -p blyan-capi --example bench
    python python/tools/bench_overhead.py [--rounds 20]

Both run the quickstart's model greedily and print nothing meanwhile: 200 tokens by one, then as many by the other, in
turns that are short beside what a shared machine's speed takes to change. Ten such pairs are a round, whose chains
and models are made anew, as their speed depends on where in memory they come to lie. On one thread and on all; as
`generate`, and as a stream whose pieces are read one by one. Each ratio is that of two neighbours.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import blyan

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-kjv-moe"
RUST = ROOT / "target" / "release" / "examples" / "bench"
# As in blyan-capi/examples/bench.rs.
PROMPT, TOKENS = "In the beginning", 200
PAIRS = 10


def generate(model: blyan.MoEModelManager) -> int:
    return len(model.generate(PROMPT, max_tokens=TOKENS, ignore_eos=True).text)


def stream(model: blyan.MoEModelManager) -> int:
    return sum(len(piece.text) for piece in model.stream(PROMPT, max_tokens=TOKENS, ignore_eos=True))


def pairs(run: Callable[[blyan.MoEModelManager], int], threads: int) -> list[tuple[float, float]]:
    """Tokens/s of Rust and of Python, by turns."""
    with (
        blyan.Chain.in_memory() as chain,
        subprocess.Popen(
            [RUST, MODEL, run.__name__, str(threads), "turns"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as rust,
    ):
        blyan.import_checkpoint(chain, MODEL)
        with blyan.MoEModelManager(chain, threads=threads) as model:

            def in_rust() -> float:
                assert rust.stdin and rust.stdout
                print(file=rust.stdin, flush=True)
                return float(rust.stdout.readline())

            def in_python() -> float:
                start = time.perf_counter()
                assert run(model)
                return TOKENS / (time.perf_counter() - start)

            in_python(), in_rust()
            found = []
            for number in range(PAIRS):
                # Each goes first every other time.
                if number % 2:
                    python = in_python()
                    found.append((in_rust(), python))
                else:
                    found.append((in_rust(), in_python()))
            return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, MODEL)
        cores = blyan.MoEModelManager(chain).threads
    for threads in sorted({1, cores}):
        for run in (generate, stream):
            found = [pair for _ in range(options.rounds) for pair in pairs(run, threads)]
            rust, python = (statistics.median(side) for side in zip(*found))
            ratios = [python / rust for rust, python in found]
            low, middle, high = statistics.quantiles(ratios, n=4)
            print(
                f"{threads} threads  {run.__name__:9} Rust {rust:6.0f}  Python {python:6.0f} tokens/s  "
                f"ratio {middle:.3f} (half of them {low:.2f} to {high:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main()
