"""What the Python side costs: tokens/s of generations through Python against the same without leaving Rust.

    cargo build --release -p blyan-capi --example bench
    python python/tools/bench_overhead.py [--rounds 9]

Both run the quickstart's model greedily, print nothing meanwhile, and give the median of nine generations of
200 tokens after one that does not count; on one thread and on all; as `generate`, and as a stream whose pieces are
read one by one. Rounds alternate, so that a machine that slows down slows both.
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
PROMPT, TOKENS, GENERATIONS = "In the beginning", 200, 9


def generate(model: blyan.MoEModelManager) -> int:
    return len(model.generate(PROMPT, max_tokens=TOKENS, ignore_eos=True).text)


def stream(model: blyan.MoEModelManager) -> int:
    return sum(len(piece.text) for piece in model.stream(PROMPT, max_tokens=TOKENS, ignore_eos=True))


def in_python(run: Callable[[blyan.MoEModelManager], int], threads: int) -> float:
    rates = []
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, MODEL)
        with blyan.MoEModelManager(chain, threads=threads) as model:
            for _ in range(GENERATIONS + 1):
                start = time.perf_counter()
                assert run(model)
                rates.append(TOKENS / (time.perf_counter() - start))
    return statistics.median(rates[1:])


def in_rust(how: str, threads: int) -> float:
    command = [RUST, MODEL, how, str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, MODEL)
        cores = blyan.MoEModelManager(chain).threads
    for threads in sorted({1, cores}):
        for run in (generate, stream):
            pairs = []
            for number in range(options.rounds):
                # Each goes first every other time.
                if number % 2:
                    python = in_python(run, threads)
                    pairs.append((in_rust(run.__name__, threads), python))
                else:
                    rust = in_rust(run.__name__, threads)
                    pairs.append((rust, in_python(run, threads)))
            rust, python = (statistics.median(side) for side in zip(*pairs))
            ratios = sorted(python / rust for rust, python in pairs)
            print(
                f"{threads} threads  {run.__name__:9} Rust {rust:6.0f}  Python {python:6.0f} tokens/s  "
                f"median ratio {statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            )


if __name__ == "__main__":
    main()
