"""The scripted session of blyan-core/examples/session.rs in Python: the same JSON, byte for byte.

    python python/tests/session.py MODEL_DIR EMPTY_DIR
"""

from __future__ import annotations

import json
import sys
from typing import Any

import blyan

PROMPT = "In the beginning"
SLOT, TENSOR = "layer0.expert1", "gate_proj.weight"


def session(folder: str, directory: str) -> dict[str, Any]:
    with blyan.Chain(directory) as chain:
        meta = blyan.import_checkpoint(chain, folder)
        report = meta.report
        assert report is not None
        verified = chain.verify(full=True)
        model = blyan.MoEModelManager(chain)
        greedy = model.generate(PROMPT, max_tokens=24, temperature=0)
        seeded = model.generate(
            PROMPT,
            max_tokens=24,
            temperature=0.8,
            top_k=40,
            top_p=0.95,
            min_p=0.05,
            repetition_penalty=1.1,
            seed=7,
        )
        return {
            "import": {
                "model": meta.hash,
                "spec": report.spec,
                "blocks": report.blocks_new + report.blocks_known,
                "new_blocks": report.blocks_new,
            },
            "verify": {
                "ok": verified.ok,
                "blocks": verified.blocks,
                "payload_bytes": verified.payload_bytes,
                "bad": [{"block": block, "reason": reason} for block, reason in verified.bad],
            },
            "blocks": [describe(block) for lane in ("A", "B", "D") for block in chain.blocks(lane=lane)],
            "tensor": tensor(chain),
            "greedy": generation(greedy),
            "seeded": generation(seeded),
            "replay": {
                "greedy": blyan.replay(chain, greedy.receipt),
                "seeded": blyan.replay(chain, seeded.receipt),
            },
            "usage": [
                {"slot": expert.slot, "block": expert.block, "tokens": expert.tokens}
                for expert in model.usage.top(5)
            ],
            "error": not_found(chain),
        }


def describe(block: blyan.Block) -> dict[str, Any]:
    return {
        "hash": block.hash,
        "lane": block.lane,
        "kind": block.kind,
        "name": block.name,
        "height": block.height,
        "payload": block.payload_hash,
        "payload_bytes": block.payload_bytes,
        "parents": len(block.parents),
    }


def tensor(chain: blyan.Chain) -> dict[str, Any]:
    block = chain.heads(SLOT)[0]
    view = block.tensors[TENSOR]
    data = memoryview(view).cast("B")
    return {
        "block": block.hash,
        "name": view.name,
        "dtype": view.dtype,
        "shape": list(view.shape),
        "nbytes": view.nbytes,
        "first": data[:16].hex(),
        "sum": sum(data),
    }


def generation(generation: blyan.Generation) -> dict[str, Any]:
    return {
        "prompt": PROMPT,
        "tokens": generation.tokens,
        "text": generation.text,
        "finish_reason": generation.finish_reason,
        "receipt": generation.receipt.hash,
        "logits": generation.receipt.logits,
    }


def not_found(chain: blyan.Chain) -> dict[str, Any]:
    try:
        chain.block("0" * 64)
    except blyan.exceptions.BlockNotFoundError as error:
        return {"code": error.code, "block": error.block}
    raise AssertionError("a block hashes to zero")


def main() -> int:
    if len(sys.argv) != 3:
        print("session.py MODEL_DIR EMPTY_DIR", file=sys.stderr)
        return 2
    document = json.dumps(session(*sys.argv[1:]), indent=2, ensure_ascii=False)
    sys.stdout.buffer.write(document.encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
