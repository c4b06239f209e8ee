"""What keys say by hand: statements of any kind, commitments, evaluations beside each other, lies, recorded use."""

from __future__ import annotations

import dataclasses
import json
import pickle

import blake3
import numpy as np
import pytest
from test_evolve import AUTHOR, OTHER, SECOND, SPLIT, STRANGER, VALIDATOR
from test_history import SLOT, changed

import blyan
from blyan import evolve, exceptions

KIND = 5000
BODY = {"text": "so it is", "count": 1}
# Made by Python's `cryptography` and `blake3`, from the secret of 32 times 1.
PAYLOAD = (
    '{"statement_version":1,"body":{"text":"so it is","count":1},"key":'
    '"8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c","signature":'
    '"2d2f419a4e7c291e844176617783620fb6646817d552139be4c7d77ff7412cb8'
    '1c6a47e1c017926c282ef5850086a57dd6f210146f1e2b6605b52ee01f4db503"}'
)


def derived(context: str, *parts: str | bytes) -> str:
    """What docs/format.md means by `derive_key`; hashes are text."""
    hasher = blake3.blake3(derive_key_context=context)
    for part in parts:
        hasher.update(bytes.fromhex(part) if isinstance(part, str) else part)
    return hasher.hexdigest()


def ids(tokens: list[int]) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in tokens)


@pytest.fixture
def rules(copy: blyan.Chain) -> blyan.Block:
    """The policy: a single validator's word is enough, for any improvement."""
    validators = [evolve.public_key(VALIDATOR), evolve.public_key(SECOND)]
    model = blyan.find_model(copy, "latest")
    policy = evolve.Policy(model, validators, required=1, threshold_ppm=1, voters=validators[:1], window=16)
    return evolve.append_policy(copy, policy)


@dataclasses.dataclass
class Shown:
    """A round from its opening to its reveal, with one candidate."""

    expert: blyan.Block
    round: blyan.Block
    claim: blyan.Block
    candidate: blyan.Block
    reveal: blyan.Block


@pytest.fixture
def shown(copy: blyan.Chain, rules: blyan.Block) -> Shown:
    expert = changed(copy, SLOT, 0.99)
    round = evolve.open_round(copy, VALIDATOR, rules, SPLIT)
    claim = evolve.claim(copy, AUTHOR, round, {SLOT: expert})
    evolve.close_round(copy, VALIDATOR, round)
    candidate = evolve.propose_candidate(copy, AUTHOR, claim, {SLOT: expert})
    return Shown(expert, round, claim, candidate, evolve.reveal(copy, VALIDATOR, round, SPLIT))


def test_an_application_s_own_kind() -> None:
    said = evolve.sign_statement(VALIDATOR, KIND, BODY)
    assert said.payload == PAYLOAD and said.signature == json.loads(PAYLOAD)["signature"]
    assert (said.kind, said.body, said.key) == ("kind5000", BODY, evolve.public_key(VALIDATOR))
    assert list(said.body) == list(BODY) and isinstance(said.key, evolve.PublicKey)
    for given in (PAYLOAD, PAYLOAD.encode(), memoryview(PAYLOAD.encode())):
        assert evolve.read_statement(KIND, given) == said
    assert evolve.read_statement("kind5000", PAYLOAD) == pickle.loads(pickle.dumps(said))
    for kind, payload, code in [
        (KIND, PAYLOAD.replace("so it", "it so"), "signature"),
        (KIND + 1, PAYLOAD, "signature"),
        (KIND, PAYLOAD.replace(",", ", "), "not_canonical"),
        (KIND, PAYLOAD[:-1], "json"),
        ("vote", PAYLOAD, "json"),
        ("policy", PAYLOAD, "foreign_kind"),
    ]:
        with pytest.raises(exceptions.EvidenceError) as wrong:
            evolve.read_statement(kind, payload)
        assert wrong.value.code == code
    turned = dict(reversed(BODY.items()))
    assert evolve.sign_statement(VALIDATOR, KIND, turned).signature != said.signature
    for body in (0.5, {"a": [1e3]}, 2**64):
        with pytest.raises(exceptions.EvidenceError):
            evolve.sign_statement(VALIDATOR, KIND, body)
    for number in (-(2**63), 2**64 - 1, None, []):
        assert evolve.sign_statement(VALIDATOR, KIND, number).body == number
    with pytest.raises(TypeError):
        evolve.sign_statement(VALIDATOR, KIND, {"a": b"bytes"})
    with pytest.raises(exceptions.OptionError):
        evolve.sign_statement(VALIDATOR, "nothing", {})


def test_a_chain_keeps_statements(empty: blyan.Chain) -> None:
    said = evolve.sign_statement(VALIDATOR, KIND, BODY)
    block = empty.append(blyan.Draft("D", KIND, "remark", said.payload.encode()))
    assert evolve.statement_of(empty, block) == said
    with pytest.raises(exceptions.EvidenceError) as foreign:
        evolve.append_statement(empty, said)
    assert foreign.value.code == "foreign_kind"
    forged = said.payload.replace('"count":1', '"count":2').encode()
    forgery = empty.append(blyan.Draft("D", KIND, "remark", forged))
    with pytest.raises(exceptions.EvidenceError) as wrong:
        evolve.statement_of(empty, forgery)
    assert (wrong.value.code, wrong.value.block) == ("signature", forgery.hash)
    with pytest.raises(TypeError):
        evolve.append_statement(empty, said.payload)  # type: ignore[arg-type]


def test_what_is_said_by_hand_is_what_calls_say(copy: blyan.Chain, rules: blyan.Block) -> None:
    text = "In the beginning God created the heaven and the earth. " * 3
    dataset = evolve.propose_dataset(
        copy, "genesis", text, license="CC0-1.0", source="King James Bible", snapshot=copy.snapshot()
    )
    tokens = evolve.tokenize(copy, copy.snapshot(), text)
    found = evolve.recompute_dataset_audit(copy, rules, dataset)
    assert bytes(copy.block(found.tokens).payload) == np.array(tokens, "<u4").tobytes() == ids(tokens)
    counted = found.findings
    assert counted.content_hash == blake3.blake3(ids(tokens)).hexdigest()
    assert (counted.num_tokens, counted.distinct_tokens) == (len(tokens), len(set(tokens)))
    assert counted.windows == len(tokens) // 16 and found.is_fit and found.text is not None
    with blyan.MoEModelManager(copy, "latest", persist_usage=False) as model:
        decoded = model.detokenize(tokens, skip_special_tokens=False)
    assert found.text.decoded_hash == blake3.blake3(decoded.encode()).hexdigest()
    assert pickle.loads(pickle.dumps(found)) == found
    audit = evolve.append_statement(copy, evolve.sign_statement(VALIDATOR, "audit", dataclasses.asdict(found)))
    assert audit == evolve.audit_dataset(copy, rules, dataset, VALIDATOR)
    assert evolve.statement_of(copy, audit).body == evolve.evidence_of(copy, audit)["body"]
    # In another order than the block has.
    body = {"approve": True, "audit": audit.hash, "dataset": dataset.hash, "policy": rules.hash}
    vote = evolve.sign_statement(VALIDATOR, "vote", body)
    assert list(vote.body) == ["policy", "dataset", "audit", "approve"] and vote.body == body
    by_hand = evolve.append_statement(copy, vote)
    assert by_hand == evolve.vote(copy, rules, dataset, VALIDATOR, approve=True)
    with pytest.raises(exceptions.RefusedBlockError) as refused:
        evolve.append_statement(copy, evolve.sign_statement(STRANGER, "vote", body))
    assert refused.value.reason == "not_a_voter"
    for wrong in ({}, {**body, "more": 1}, {**body, "approve": 1}):
        with pytest.raises(exceptions.EvidenceError) as none:
            evolve.sign_statement(VALIDATOR, "vote", wrong)
        assert none.value.code == "json"


def test_commitments_are_those_of_the_format(copy: blyan.Chain, shown: Shown) -> None:
    candidate = evolve.statement_of(copy, shown.candidate)
    base, salt = candidate.body["base"], candidate.body["salt"]
    parts = {slot: [len(slot).to_bytes(4, "little"), slot.encode(), shown.expert.hash] for slot in (SLOT, OTHER)}
    root = evolve.candidate_root(base, {SLOT: shown.expert})
    assert root == derived("blyan candidate 1", base, *parts[SLOT]) and isinstance(root, evolve.CandidateRoot)
    both = evolve.candidate_root(base, {SLOT: shown.expert.hash, OTHER: shown.expert})
    assert both == derived("blyan candidate 1", base, *(part for slot in sorted(parts) for part in parts[slot]))
    commitment = evolve.claim_commitment(salt, candidate.key, root)
    assert commitment == derived("blyan claim 1", salt, candidate.key, root)
    assert commitment == evolve.statement_of(copy, shown.claim).body["candidate"]
    assert isinstance(commitment, evolve.Commitment) and candidate.key == evolve.public_key(AUTHOR)
    reveal = evolve.statement_of(copy, shown.reveal).body
    tokens = copy.block(reveal["tokens"]).payload_hash
    split = evolve.split_commitment(reveal["salt"], tokens)
    assert split == derived("blyan split 1", reveal["salt"], tokens)
    assert split == evolve.statement_of(copy, shown.round).body["split"]
    assert split == evolve.split_commitment(bytes.fromhex(reveal["salt"]), tokens.digest)
    for wrong in ("00", "zz" * 32, b"1"):
        with pytest.raises(ValueError):
            evolve.split_commitment(wrong, tokens)
    with pytest.raises(TypeError):
        evolve.split_commitment(5, tokens)  # type: ignore[arg-type]


def test_evaluations_beside_each_other(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    others = [base.with_block(changed(copy, SLOT, 0.99)), base.with_block(changed(copy, OTHER, 3.0)), base]
    seen: list[evolve.EvaluateProgress] = []
    found, beside = evolve.evaluate_together(
        copy, base, others, SPLIT, window=8, pass_tokens=8, progress=seen.append
    )
    for together, snapshot in zip([found, *beside], [base, *others], strict=True):
        alone = evolve.evaluate(copy, snapshot, SPLIT, window=8)
        assert (together.loss_bits, together.model_root) == (alone.loss_bits, snapshot.root)
        assert (together.tokens, together.windows) == (alone.tokens, alone.windows)
    assert seen[-1].tokens == seen[-1].total_tokens == found.tokens and seen[-1].loss == found.loss
    assert evolve.evaluate_together(copy, base, [], SPLIT, window=8)[1] == []
    with blyan.MoEModelManager(copy, "latest", kv_cache="f16", persist_usage=False) as model:
        assert evolve.evaluate_model(model, SPLIT, window=8, pass_tokens=8).loss_bits == found.loss_bits
        with pytest.raises(exceptions.OptionError):
            evolve.evaluate_model(model, [1])
    with pytest.raises(exceptions.OptionError):
        evolve.evaluate_together(copy, base, others, [1])
    with pytest.raises(TypeError):
        evolve.evaluate_together(copy, base, ["latest"], SPLIT)  # type: ignore[list-item]


def test_a_lie_is_accused(copy: blyan.Chain, rules: blyan.Block, shown: Shown) -> None:
    (truth,) = evolve.attest(copy, VALIDATOR, shown.reveal)
    body = evolve.statement_of(copy, truth).body
    body["losses"][0]["candidate"] = "0" * 16
    said = evolve.append_statement(copy, evolve.sign_statement(SECOND, "attestation", body))
    (lie,) = evolve.audit(copy, rules).lies
    assert (lie.attestation, lie.key, lie.accusation) == (said.hash, evolve.public_key(SECOND), None)
    assert lie.attested[0].candidate.value == 0 < lie.recomputed[0].candidate.value
    accusation = evolve.accuse(copy, VALIDATOR, rules, lie)
    assert evolve.statement_of(copy, accusation).body["accused"] == lie.key
    (again,) = evolve.audit(copy, rules, VALIDATOR).lies
    assert again == dataclasses.replace(lie, accusation=accusation.hash)
    state = evolve.judge(copy, rules)
    (fault,) = state.faults
    assert (fault.kind, fault.key, fault.block) == ("lie", lie.key, said.hash)
    without = evolve.chosen_without(copy, rules, shown.round)
    assert (without.model, without.steps) == (state.rounds[shown.round.hash].base, [])
    with pytest.raises(exceptions.RefusedBlockError) as own:
        evolve.accuse(copy, SECOND, rules, lie)
    assert own.value.reason == "own_attestation"
    for nonsense in ("a lie", lie.attested[0]):
        with pytest.raises(TypeError):
            evolve.accuse(copy, VALIDATOR, rules, nonsense)  # type: ignore[arg-type]


def test_use_is_recorded(copy: blyan.Chain, rules: blyan.Block, shown: Shown, empty: blyan.Chain) -> None:
    with blyan.MoEModelManager(copy, "latest", persist_usage=False) as model:
        receipt = model.generate("In the beginning", max_tokens=3).receipt
        other = model.generate("In the beginning", max_tokens=3, stop=["never so many words"]).receipt
    block = evolve.append_receipt(copy, receipt)
    assert (block.kind, bytes(block.payload)) == ("receipt", bytes(receipt))
    assert [parent.hash for parent in block.parents] == [receipt.model]
    run = evolve.run_of(receipt)
    read = [*receipt.prompt_tokens, *receipt.output_tokens][:-1]
    assert run == derived("blyan run 1", receipt.snapshot, ids(read)) == evolve.run_of(other)
    assert receipt != other
    record = evolve.record_usage(copy, rules, shown.reveal, [block], VALIDATOR, threads=1)
    assert evolve.audit_usage(copy, record, isa="scalar") == []
    (use,) = evolve.recorded_uses(copy, rules)
    assert (use.receipt, use.run, use.tokens) == (block.hash, run, receipt.uses(copy, threads=1))
    assert max(use.tokens.values()) == len(read) and set(use.tokens) == set(receipt.blocks.values())
    assert receipt.uses(empty) == {}
