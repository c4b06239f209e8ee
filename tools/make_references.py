#!/usr/bin/env python3
"""Compute what Hugging Face transformers makes of checkpoint folders, in float32 arithmetic.

    pip install torch transformers safetensors
    make_references.py FOLDER...

Each folder has a `reference.safetensors` whose `prompt` is used again; its `logits` and `greedy` are
written anew from the model as `from_pretrained` loads it, and `greedy_f16` from the same model with keys
and values rounded to float16 before their use, as an f16 KV cache does.  Loading matters: a module that was cast with
`.to(torch.bfloat16)` and back has rounded not only its weights but also the frequencies of its rotary
embedding, which are no weights and which no loaded model rounds.
"""
import os, sys
import torch, transformers as T
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for folder in sys.argv[1:]:
    path = f"{folder}/reference.safetensors"
    old = load_file(path)
    model = T.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    prompt = old["prompt"].long()[None]
    new_tokens = len(old["greedy"]) - len(old["prompt"])
    with torch.no_grad():
        logits = model(input_ids=prompt).logits[0].float().contiguous()
        options = dict(max_new_tokens=new_tokens, do_sample=False, eos_token_id=None, pad_token_id=0, use_cache=False)
        greedy = model.generate(prompt, **options)[0]
        module = sys.modules[type(model).__module__]
        exact = module.eager_attention_forward
        module.eager_attention_forward = lambda layer, q, k, v, *a, **kw: exact(
            layer, q, k.half().float(), v.half().float(), *a, **kw)
        greedy_f16 = model.generate(prompt, **options)[0]
        module.eager_attention_forward = exact
        steps = model(input_ids=greedy[None]).logits[0, len(old["prompt"]) - 1 : -1]
    best = steps.topk(2).values
    save_file({"prompt": old["prompt"], "logits": logits, "greedy": greedy.int().contiguous(),
               "greedy_f16": greedy_f16.int().contiguous()}, path)
    gap = (best[:, 0] - best[:, 1]).min().item()
    change = ((logits - old["logits"]).abs().max() / old["logits"].abs().max()).item()
    print(f"{os.path.basename(folder):<24} changed by {change:.2e}, smallest gap of the two best logits {gap:.4f}")
