"""Owns what the Python peers share: token ids, memory, and the command line of a case.

    PEER.py sequence MODEL [--prompt N] [--new N] [--repeat N]
    PEER.py batch    MODEL [--prompt N] [--new N] [--sequences N] [--repeat N]
    PEER.py open     MODEL [--prompt N]
    PEER.py logits   MODEL [--prompt N]

One case a process, one line of JSON: the same names as `blyan-peer` gives.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

WARM_UP_TOKENS = 512
MASK = (1 << 64) - 1


def tokens(sequence: int, count: int, vocab_size: int) -> list[int]:
    """Token ids of a sequence: splitmix64, as in the runner's lib.rs."""
    ids = []
    for index in range(count):
        z = ((sequence << 32) + index + 1) * 0x9E3779B97F4A7C15 & MASK
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
        z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
        ids.append((z ^ z >> 31) % vocab_size)
    return ids


def memory() -> dict:
    """Bytes that this process holds at most and now; empty where the system is not Linux."""
    fields = {}
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            fields[name] = value
    names = dict(peak_bytes="VmHWM", anonymous_bytes="RssAnon", file_bytes="RssFile")
    return {key: int(fields[name].split()[0]) * 1024 for key, name in names.items() if name in fields}


def median(values: list[float]) -> float:
    """The middle of some values, the upper one of two."""
    return sorted(values)[len(values) // 2]


def cores_ns() -> float | None:
    """How far the cores are from each other, as the runner's lib.rs says; None if nobody named the probe."""
    if "BLYAN_PROBE" not in os.environ:
        return None
    done = subprocess.run([os.environ["BLYAN_PROBE"], "--cores"], capture_output=True, check=True)
    return json.loads(done.stdout)["cores_ns"]


class Parts:
    """Rates of decoding, a few steps at a time, each with `cores_ns` before and after it; as in the runner's lib.rs."""

    STEPS = 8

    def __init__(self):
        self.parts = []

    def run(self, steps: int, tokens: int, step) -> None:
        before = cores_ns()
        for first in range(0, steps, self.STEPS):
            count = min(self.STEPS, steps - first)
            clock = Clock()
            for _ in range(count):
                step()
            rate = count * tokens / clock.seconds()
            after = cores_ns()
            self.parts.append([rate, before, after])
            before = after

    def median(self) -> float:
        return median([rate for rate, _, _ in self.parts])


class Clock:
    """Seconds since it was made."""

    def __init__(self):
        self.begun = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self.begun


def arguments(**flags) -> argparse.Namespace:
    """The command line; `flags` are those of one peer alone, with their defaults."""
    parser = argparse.ArgumentParser()
    parser.add_argument("case", choices=("sequence", "batch", "open", "logits"))
    parser.add_argument("model")
    numbers = dict(prompt=16, new=64, repeat=3, sequences=16, threads=1)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in flags.items():
        kind = dict(action="store_true") if default is False else dict(type=type(default), default=default)
        parser.add_argument(f"--{name}", **kind)
    return parser.parse_args()


def measure_sequence(a: argparse.Namespace, vocab_size: int, prefill, decode, warm_up: int) -> dict:
    """`prefill(tokens)` starts a new sequence, `decode(token)` continues it; both give the greedy next token."""
    prefill(tokens(1000, warm_up, vocab_size))
    prefill_rates, decoded, best = [], Parts(), float("inf")
    for repeat in range(a.repeat):
        clock = Clock()
        token = prefill(tokens(repeat, a.prompt, vocab_size))
        prefill_rates.append(a.prompt / clock.seconds())

        def step() -> None:
            nonlocal token, best
            clock = Clock()
            token = decode(token)
            best = min(best, clock.seconds())

        decoded.run(a.new, 1, step)
    return dict(
        prefill_tokens_per_s=median(prefill_rates),
        decode_tokens_per_s=decoded.median(),
        decode_parts=decoded.parts,
        best_decode_tokens_per_s=1 / best,
    )


def main(run) -> None:
    """A refusal is a result: the report has a line for it."""
    try:
        result = run()
        result["memory"] = memory()
    except Exception as error:
        result = dict(error=f"{type(error).__name__}: {error}"[:300])
    print(json.dumps(result))
    sys.stdout.flush()
