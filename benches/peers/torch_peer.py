#!/usr/bin/env python3
"""Measures transformers on torch, bf16. See peer.py for the use; MODEL is a config.json.

Weights are random, made in place: what they are does not change how fast they are multiplied. Own option:
`--experts NAME`, transformers' implementation of the routed experts.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers.initialization import no_init_weights

from peer import Parts, WARM_UP_TOKENS, arguments, main, measure_sequence, tokens
from shapes import STD

# Random numbers that are made once and copied into every weight.
POOL_VALUES = 1 << 26


def load(a):
    torch.set_num_threads(a.threads)
    config = json.loads(Path(a.model).read_text())
    config = transformers.AutoConfig.for_model(**config)
    config.dtype = torch.bfloat16
    torch.set_default_dtype(torch.bfloat16)
    with no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(config, experts_implementation=a.experts)
    pool = torch.randn(POOL_VALUES, dtype=torch.float32).mul_(STD).to(torch.bfloat16)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.fill_(1)
                continue
            flat = weight.data.view(-1)
            for start in range(0, flat.numel(), POOL_VALUES):
                part = flat[start : start + POOL_VALUES]
                part.copy_(pool[: part.numel()])
    return model.eval()


class Sequences:
    """Some sequences of equal length and their keys and values."""

    def __init__(self, model):
        self.model, self.cache = model, None

    def forget(self) -> None:
        self.cache = None

    def step(self, ids: list[list[int]]) -> list[int]:
        """New tokens of every sequence; gives the greedy next token of each."""
        with torch.inference_mode():
            output = self.model(
                input_ids=torch.tensor(ids), past_key_values=self.cache, use_cache=True, logits_to_keep=1
            )
        self.cache = output.past_key_values
        return output.logits[:, -1].argmax(-1).tolist()


def sequence(a) -> dict:
    state = Sequences(load(a))

    def prefill(ids: list[int]) -> int:
        state.forget()
        return state.step([ids])[0]

    vocab_size = state.model.config.vocab_size
    # Its weights are in memory already; more tokens than the case has would refuse `batched_mm` there.
    warm_up = min(a.prompt, WARM_UP_TOKENS)
    return measure_sequence(a, vocab_size, prefill, lambda token: state.step([[token]])[0], warm_up)


def batch(a) -> dict:
    state = Sequences(load(a))
    vocab_size = state.model.config.vocab_size
    parts = Parts()
    for _ in range(a.repeat):
        state.forget()
        last = state.step([tokens(100 + i, a.prompt, vocab_size) for i in range(a.sequences)])

        def step() -> None:
            nonlocal last
            last = state.step([[token] for token in last])

        parts.run(a.new, a.sequences, step)
    return dict(batch_tokens_per_s=parts.median(), batch_parts=parts.parts)


def run() -> dict:
    a = arguments(experts="grouped_mm")
    cases = dict(sequence=sequence, batch=batch)
    if a.case not in cases:
        raise ValueError(f"{a.case}: only measured where weights come from a file")
    return cases[a.case](a)


if __name__ == "__main__":
    main(run)
