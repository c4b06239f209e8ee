#!/usr/bin/env python3
"""Puts the speed of training beside PyTorch's: the quickstart's model from nothing, float32, tokens a second.

    cargo build --release -p blyan-learn --example pretrain
    target/peers/venv/bin/python benches/peers/learn_peers.py [--rounds 3] [--steps 20] [--batch 8]

Both take the same steps of AdamW (clipped gradients, load-balancing loss) over sequences of 256 tokens on the same
threads, in turns. blyan is `blyan-learn`'s example `pretrain`; PyTorch runs transformers' Mixtral, of whose
implementations of the experts the faster of two counts. Needs torch and transformers, as run.py installs them.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "tiny-kjv-moe"
PRETRAIN = ROOT / "target" / "release" / "examples" / "pretrain"
SEQUENCE = 256
# `batched_mm` copies the experts of every token: 23 steps did not end within three minutes.
EXPERTS = ("grouped_mm", "eager")
# The first steps allocate, and do not count.
WARM_UP = 3


def with_blyan(batch: int, steps: int) -> float:
    with tempfile.TemporaryDirectory() as out:
        command = [PRETRAIN, "--out", out, "--batch", str(batch), "--steps", "4000", "--stop-after", str(steps + 1)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.findall(r"(\d+) tokens/s", done.stdout)
    if not found:
        raise SystemExit(f"pretrain told no speed: it tells one every 20 steps\n{done.stdout}")
    return float(found[-1])


def with_torch(batch: int, steps: int, threads: int, experts: str) -> float:
    """In a process of its own, so that each begins alike; see `torch_main`."""
    command = [sys.executable, __file__, "--torch", experts, "--batch", str(batch), "--steps", str(steps)]
    done = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1][:200])
    return json.loads(done.stdout.splitlines()[-1])["tokens_per_s"]


def torch_main(batch: int, steps: int, threads: int, experts: str) -> None:
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(MODEL)
    config.dtype, config.output_router_logits, config.use_cache = torch.float32, True, False
    model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation=experts).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times = []
    for _ in range(WARM_UP + steps):
        ids = torch.randint(0, config.vocab_size, (batch, SEQUENCE))
        begun = time.perf_counter()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - begun)
    rate = batch * SEQUENCE * steps / sum(times[WARM_UP:])
    print(json.dumps(dict(tokens_per_s=rate, loss=loss.item())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="a multiple of 20: pretrain tells its speed so often")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--torch", help=argparse.SUPPRESS)
    o = parser.parse_args()
    if o.torch:
        torch_main(o.batch, o.steps, o.threads, o.torch)
        return
    ours: list[float] = []
    theirs: dict[str, list[float]] = {experts: [] for experts in EXPERTS}
    for number in range(o.rounds):
        ours.append(with_blyan(o.batch, o.steps))
        for experts in list(theirs):
            try:
                theirs[experts].append(with_torch(o.batch, o.steps, o.threads, experts))
            except RuntimeError as error:
                print(f"PyTorch, {experts}: {error}")
                del theirs[experts]
        print(f"round {number + 1}: blyan {ours[-1]:.0f}, " + ", ".join(f"{e} {r[-1]:.0f}" for e, r in theirs.items()), flush=True)
    best = max(theirs, key=lambda experts: statistics.median(theirs[experts]))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs[best]))
    print(
        f"median tokens/s: blyan {statistics.median(ours):.0f}, PyTorch ({best}) {statistics.median(theirs[best]):.0f}; "
        f"median ratio {ratio:.2f}"
    )


if __name__ == "__main__":
    main()
