"""Writes sampling.json: what transformers' own logits processors leave of a row of logits.

    pip install torch transformers && python make_sampling.py

Logits are multiples of 1/64, exact in binary32. Cases whose outcome hangs on the rounding of a sum
are left out: the set must be the same when top_p or min_p moves by 1e-4.
"""

import json
import random

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

random.seed(20260301)


def processors(options, nudge=0.0):
    chain = LogitsProcessorList()
    if options["repetition_penalty"] not in (None, 1.0):
        chain.append(RepetitionPenaltyLogitsProcessor(options["repetition_penalty"]))
    if options["temperature"] not in (0.0, 1.0):
        chain.append(TemperatureLogitsWarper(options["temperature"]))
    if options["top_k"] is not None:
        chain.append(TopKLogitsWarper(options["top_k"]))
    if options["top_p"] is not None and options["top_p"] < 1.0:
        chain.append(TopPLogitsWarper(min(max(options["top_p"] + nudge, 0.0), 1.0)))
    if options["min_p"] is not None:
        chain.append(MinPLogitsWarper(min(max(options["min_p"] + nudge, 0.0), 1.0)))
    return chain


def probabilities(options, logits, history, nudge=0.0):
    scores = torch.tensor([logits], dtype=torch.float32)
    scores = processors(options, nudge)(torch.tensor([history]), scores)
    return [
        [token, p] for token, (p, s) in enumerate(zip(scores.double().softmax(-1)[0].tolist(), scores[0].tolist()))
        if s != float("-inf")
    ]


def row(length, ties):
    values = [value / 64 for value in random.sample(range(-400, 400), length)]
    if ties:
        values = [round(value * 2) / 2 for value in values]
    return values


choices = {
    "temperature": [0.25, 0.5, 0.7, 1.0, 1.5],
    "top_k": [None, None, 1, 3, 10, 1000],
    "top_p": [None, None, 0.0, 0.3, 0.9, 0.99, 1.0],
    "min_p": [None, None, 0.0, 0.05, 0.3, 1.0],
    "repetition_penalty": [None, 1.0, 0.8, 1.1, 1.5],
}
cases = []
while len(cases) < 120:
    options = {name: random.choice(values) for name, values in choices.items()}
    # Which of equal tokens top-p drops is not defined by torch's sort.
    logits = row(random.choice([3, 20, 60]), ties=options["top_p"] in (None, 1.0))
    history = [random.randrange(len(logits)) for _ in range(random.randint(1, 12))]
    scores = processors(options | {"top_k": None, "top_p": None, "min_p": None})(
        torch.tensor([history]), torch.tensor([logits])
    )
    if options["top_p"] not in (None, 1.0) and len(set(scores[0].tolist())) < len(logits):
        continue
    kept = [probabilities(options, logits, history, nudge) for nudge in (0.0, 1e-4, -1e-4)]
    if len({tuple(token for token, _ in k) for k in kept}) > 1:
        continue
    options["seed"] = 0
    cases.append({"options": options, "logits": logits, "history": history, "probabilities": kept[0]})

greedy = []
for penalty in [None, 0.7, 1.2, 2.0] * 4:
    logits = row(40, ties=False)
    history = sorted(range(40), key=lambda token: -logits[token])[:5]
    chain = processors({"temperature": 0.0, "top_k": None, "top_p": None, "min_p": None, "repetition_penalty": penalty})
    scores = chain(torch.tensor([history]), torch.tensor([logits]))
    greedy.append({"repetition_penalty": penalty, "logits": logits, "history": history, "token": scores.argmax().item()})

logprobs = []
for _ in range(5):
    logits = row(30, ties=False)
    logprobs.append({"logits": logits, "logprobs": torch.tensor(logits).log_softmax(-1).tolist()})

with open("sampling.json", "w") as file:
    json.dump({"cases": cases, "greedy": greedy, "logprobs": logprobs}, file, separators=(",", ":"))
    file.write("\n")
