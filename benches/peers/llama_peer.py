#!/usr/bin/env python3
"""Measures llama.cpp through the functions of its C API that llama-cpp-python declares. See peer.py for the use.

Own options: `--flash 0|1`, flash attention; `--repack 0|1`, whether weights may be copied into the order that
its kernels like best (its default).
"""

import ctypes
import os

import llama_cpp as llama
import numpy as np

from peer import Clock, Parts, WARM_UP_TOKENS, arguments, main, measure_sequence, tokens

UBATCH_TOKENS = 512


class Model:
    def __init__(self, a, context_tokens: int, sequences: int = 1):
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.use_extra_bufts = bool(a.repack)
        self.model = llama.llama_model_load_from_file(os.fsencode(a.model), params)
        if not self.model:
            raise RuntimeError("llama.cpp does not load the file")
        self.vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        params = llama.llama_context_default_params()
        # A context is a multiple of 256 for each sequence.
        params.n_ctx = -(-context_tokens // 256) * 256 * sequences
        params.n_batch = max(UBATCH_TOKENS, params.n_ctx)
        params.n_ubatch = UBATCH_TOKENS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = a.threads
        enabled, disabled = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED, llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.flash_attn_type = enabled if a.flash else disabled
        params.no_perf = True
        self.context = llama.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError("llama.cpp makes no context")
        self.batch = llama.llama_batch_init(params.n_batch, 0, sequences)
        self.next_positions = [0] * sequences

    def forget(self) -> None:
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        self.next_positions = [0] * len(self.next_positions)

    def decode(self, steps: list[tuple[int, list[int]]]) -> list[int]:
        """New tokens of some sequences; gives the greedy next token of each."""
        batch, index, wanted = self.batch, 0, []
        for sequence, ids in steps:
            for token in ids:
                batch.token[index] = token
                batch.pos[index] = self.next_positions[sequence]
                batch.n_seq_id[index] = 1
                batch.seq_id[index][0] = sequence
                batch.logits[index] = 0
                self.next_positions[sequence] += 1
                index += 1
            batch.logits[index - 1] = 1
            wanted.append(index - 1)
        batch.n_tokens = index
        if status := llama.llama_decode(self.context, batch):
            raise RuntimeError(f"llama_decode gave {status}")
        return [int(np.argmax(self.logits(place))) for place in wanted]

    def logits(self, place: int) -> np.ndarray:
        pointer = llama.llama_get_logits_ith(self.context, place)
        address = ctypes.addressof(pointer.contents)
        return np.ctypeslib.as_array((ctypes.c_float * self.vocab_size).from_address(address))


def sequence(a) -> dict:
    warm_up = WARM_UP_TOKENS
    context = max(a.prompt + a.new, warm_up) + 1
    model = Model(a, context)
    warm_up = min(warm_up, llama.llama_model_n_ctx_train(model.model) - 1)

    def prefill(ids: list[int]) -> int:
        model.forget()
        return model.decode([(0, ids)])[0]

    return measure_sequence(a, model.vocab_size, prefill, lambda token: model.decode([(0, [token])])[0], warm_up)


def batch(a) -> dict:
    model = Model(a, a.prompt + a.new + 1, a.sequences)
    parts = Parts()
    for _ in range(a.repeat):
        model.forget()
        # Each prompt goes alone: the speed of many prompts at once is not what is measured here.
        last = [
            model.decode([(i, tokens(100 + i, a.prompt, model.vocab_size))])[0] for i in range(a.sequences)
        ]

        def step() -> None:
            nonlocal last
            last = model.decode([(i, [token]) for i, token in enumerate(last)])

        parts.run(a.new, a.sequences, step)
    return dict(batch_tokens_per_s=parts.median(), batch_parts=parts.parts)


def open_to_first_token(a) -> dict:
    clock = Clock()
    model = Model(a, a.prompt + 2)
    opened = clock.seconds()
    model.decode([(0, tokens(7, a.prompt, model.vocab_size))])
    return dict(open_s=opened, first_token_s=clock.seconds())


def logits(a) -> dict:
    model = Model(a, a.prompt + 1)
    model.decode([(0, tokens(7, a.prompt, model.vocab_size))])
    return dict(logits=model.logits(a.prompt - 1).tolist())


def run() -> dict:
    quiet = llama.llama_log_callback(lambda *_: None)
    llama.llama_log_set(quiet, ctypes.c_void_p())
    # llama.cpp verifies nothing, so there is nothing to trust.
    a = arguments(flash=1, repack=1, trust=False)
    cases = dict(sequence=sequence, batch=batch, open=open_to_first_token, logits=logits)
    return cases[a.case](a)


if __name__ == "__main__":
    main(run)
