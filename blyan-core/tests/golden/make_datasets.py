"""Writes datasets.json: the blocks of a dataset's whole life, made from docs/format.md alone.

Needs `pip install blake3 cryptography`. The model is the fixture `mixtral` as it is imported, whose block and
spec format-v1.json names.
"""

import json
import struct
from pathlib import Path

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HERE = Path(__file__).parent
LANE_A, LANE_D = 0, 2
DEPENDENCY = 0


def canonical(value):
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def text(value):
    return struct.pack("<I", len(value)) + value.encode()


class Key:
    def __init__(self, seed):
        self.secret = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public = self.secret.public_key().public_bytes_raw()


blocks = {}


def block(label, lane, kind, name, parents, payload, media_type="application/json"):
    header = struct.pack("<HBH", 1, lane, kind) + text(name) + text("1.0.0")
    parents = sorted(bytes.fromhex(parent) for parent in parents)
    header += struct.pack("<I", len(parents)) + b"".join(parent + bytes([DEPENDENCY]) for parent in parents)
    header += blake3(payload).digest() + struct.pack("<Q", len(payload)) + text(media_type)
    hash = blake3(header, derive_key_context="blyan block 1").hexdigest()
    shown = payload.hex() if kind == 64 else payload.decode()
    blocks[label] = {"hash": hash, "payload": shown}
    return hash


def statement(label, lane, kind, name, parents, body, key):
    message = struct.pack("<H", kind) + canonical(body) + key.public
    message = blake3(message, derive_key_context="blyan statement 1").digest()
    payload = {
        "statement_version": 1,
        "body": body,
        "key": key.public.hex(),
        "signature": key.secret.sign(message).hex(),
    }
    return block(label, lane, kind, name, parents, canonical(payload))


mixtral = json.loads((HERE / "format-v1.json").read_text())["mixtral/kept"]
model, spec = mixtral["model"], mixtral["spec"]

ids = [1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9]
payload = struct.pack(f"<{len(ids)}I", *ids)
content_hash = blake3(payload).hexdigest()
tokens = block("tokens", LANE_D, 64, "tokens", [], payload, "application/octet-stream")

policy = {
    "policy_version": 1,
    "model": model,
    "predecessor": None,
    "validators": sorted(Key(seed).public.hex() for seed in (1, 2)),
    "required": 1,
    "threshold_ppm": 10000,
    "tolerance_ppm": 1000,
    "datasets": [],
    "voters": sorted(Key(seed).public.hex() for seed in (11, 12, 13, 14, 15)),
    "quorum": 3,
    "approval_ppm": 500001,
    "window": 4,
    "tiers": ["gold", "silver"],
}
policy = block("policy", LANE_A, 5, "policy", [model], canonical(policy))

dataset = {
    "dataset_version": 1,
    "name": "numbers",
    "version": "1.0.0",
    "predecessor": None,
    "tokens": tokens,
    "content_hash": content_hash,
    "num_tokens": len(ids),
    "tokenizer": None,
    "vocab_size": 10,
    "text_hash": None,
    "tier": "silver",
    "license": "CC0-1.0",
    "source": "counted by hand",
}
dataset = block("dataset", LANE_D, 65, "numbers", [tokens], canonical(dataset))

audit = {
    "policy": policy,
    "model": model,
    "spec": spec,
    "dataset": dataset,
    "tokens": tokens,
    "findings": {
        "content_hash": content_hash,
        "num_tokens": 13,
        "out_of_vocabulary": 0,
        "distinct_tokens": 9,
        "windows": 3,
        "duplicate_windows": 1,
        "foreign_tokenizer": False,
    },
    "text": None,
}
audit = statement("audit", LANE_D, 66, "audit", [policy, model, spec, dataset, tokens], audit, Key(1))

votes = []
for seed, approve in ((11, True), (12, True), (13, False)):
    vote = {"policy": policy, "dataset": dataset, "audit": audit, "approve": approve}
    votes.append(statement(f"vote{seed}", LANE_D, 67, "vote", [policy, dataset, audit], vote, Key(seed)))

tally = {"tally_version": 1, "policy": policy, "dataset": dataset, "in_favour": 2, "against": 1}
tally = canonical(tally | {"votes": sorted(votes)})
tally = block("tally", LANE_D, 68, "tally", [policy, dataset, *votes], tally)

ruling = {"ruling_version": 1, "policy": policy, "dataset": dataset, "tally": tally, "accepted": True}
block("ruling", LANE_D, 69, "ruling", [policy, dataset, tally], canonical(ruling))

(HERE / "datasets.json").write_text(json.dumps(blocks, indent=2) + "\n")
