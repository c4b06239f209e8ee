"""Evidence: policies, datasets, evaluation, rounds, judgement, extraction, rewards."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
from conftest import MODEL
from test_history import SLOT, changed

import blyan
from blyan import evolve, exceptions

VALIDATOR, SECOND, AUTHOR, STRANGER = (bytes([number]) * 32 for number in range(1, 5))
SPLIT = list(range(3, 36))
OTHER = "layer0.expert2"


@pytest.fixture
def policy(copy: blyan.Chain) -> blyan.Block:
    """One validator, who also votes. Anything is good enough: what counts here is who says what."""
    return evolve.append_policy(
        copy,
        evolve.Policy(
            blyan.find_model(copy, "latest"),
            [evolve.public_key(VALIDATOR), evolve.public_key(SECOND)],
            required=1,
            threshold_ppm=1,
            voters=[evolve.public_key(VALIDATOR)],
            window=16,
        ),
    )


def test_a_policy(copy: blyan.Chain, policy: blyan.Block) -> None:
    read = evolve.policy_of(copy, policy)
    assert read.validators == tuple(sorted(map(evolve.public_key, (VALIDATOR, SECOND))))
    assert isinstance(read.validators[0], evolve.PublicKey) and isinstance(read.model, blyan.BlockHash)
    assert read == pickle.loads(pickle.dumps(read)) and evolve.append_policy(copy, read) == policy
    assert json.loads(bytes(policy.payload))["threshold_ppm"] == read.threshold_ppm == 1
    assert evolve.Policy(read.model, read.validators).required == 2
    with pytest.raises(exceptions.RefusedBlockError) as refused:
        evolve.append_policy(copy, evolve.Policy(read.model, read.validators, required=3))
    assert refused.value.reason == "policy_required"
    with pytest.raises(TypeError):
        evolve.append_policy(copy, evolve.Policy("no hash", read.validators))  # type: ignore[arg-type]
    with pytest.raises(exceptions.EvidenceError) as wrong:
        evolve.policy_of(copy, read.model)
    assert (wrong.value.code, wrong.value.block) == ("wrong_kind", read.model)


def test_the_public_key_is_that_of_signatures() -> None:
    record = blyan.SignatureRecord.sign(VALIDATOR, "00" * 32, time_ms=0)
    assert evolve.public_key(VALIDATOR).digest == record.public_key


def test_a_dataset_s_life(copy: blyan.Chain, policy: blyan.Block) -> None:
    words = {"license": "CC0-1.0", "source": "the King James Bible"}
    text = "In the beginning God created the heaven and the earth. " * 8
    block = evolve.propose_dataset(copy, "genesis", text, snapshot=copy.snapshot(), tier="gold", **words)

    def stage() -> str:
        return evolve.dataset_state(copy, policy, block).stage

    assert stage() == "pending"
    with pytest.raises(exceptions.StepError) as early:
        evolve.vote(copy, policy, block, VALIDATOR, approve=True)
    assert (early.value.code, early.value.dataset) == ("not_audited", block.hash)
    with pytest.raises(exceptions.EvidenceError) as stranger:
        evolve.audit_dataset(copy, policy, block, STRANGER)
    assert stranger.value.code == "not_a_validator" and stranger.value.key == evolve.public_key(STRANGER)
    audit = evolve.audit_dataset(copy, policy, block, VALIDATOR)
    evolve.check_dataset_audit(copy, audit)
    with blyan.MoEModelManager(copy, "latest", persist_usage=False) as model:
        tokens = model.tokenize(text, add_special_tokens=False)
    findings = evolve.evidence_of(copy, audit)["body"]["findings"]
    assert (findings["num_tokens"], findings["distinct_tokens"]) == (len(tokens), len(set(tokens)))
    assert stage() == "audited"
    vote = evolve.vote(copy, policy, block, VALIDATOR, approve=True)
    with pytest.raises(exceptions.StepError) as twice:
        evolve.vote(copy, policy, block, VALIDATOR, approve=False)
    assert twice.value.code == "already_voted" and twice.value.vote == vote.hash
    tally = evolve.tally(copy, policy, block)
    assert stage() == "voted"
    ruling = evolve.rule(copy, policy, block)
    (state,) = evolve.datasets(copy, policy)
    assert (state.stage, state.audits, state.votes) == ("accepted", [audit.hash], [vote.hash])
    assert (state.tally, state.ruling, state.twins) == (tally.hash, ruling.hash, [])
    assert (state.dataset.num_tokens, state.dataset.tier) == (len(tokens), "gold")
    payload = bytes(copy.block(state.dataset.tokens).payload)
    assert np.frombuffer(payload, "<u4").tolist() == tokens
    assert pickle.loads(pickle.dumps(state)) == state
    for arguments in [{}, {"vocab_size": 9, "tier": "best"}]:
        with pytest.raises(exceptions.OptionError):
            evolve.propose_dataset(copy, "ids", [1, 2], **words, **arguments)  # type: ignore[arg-type]
    with pytest.raises(exceptions.OptionError, match="snapshot"):
        evolve.propose_dataset(copy, "words", "text", **words)  # type: ignore[arg-type]
    with pytest.raises(ValueError):
        evolve.propose_dataset(copy, "ids", [1, 2], vocab_size=2, **words)  # type: ignore[arg-type]


def test_evaluation_is_the_mean_of_the_logits_losses(
    chain: blyan.Chain, model: blyan.MoEModelManager
) -> None:
    tokens = model.tokenize("And God said, Let there be light: and there was light.")
    seen: list[evolve.EvaluateProgress] = []
    result = evolve.evaluate(chain, model.snapshot, tokens, window=8, pass_tokens=8, progress=seen.append)
    losses = []
    for start in range(0, len(tokens) - 1, 8):
        window = tokens[start : start + 9]
        logits = model.logits(window[:-1]).astype(np.float64)
        largest = logits.max(axis=1)
        sums = np.log(np.exp(logits - largest[:, None]).sum(axis=1)) + largest
        losses += list(sums - logits[np.arange(len(window) - 1), window[1:]])
    # The model that is open keeps its keys and values in f16, an evaluation in f32.
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-3)
    assert (result.tokens, result.windows) == (len(losses), -(-len(losses) // 8))
    assert result.loss == struct.unpack(">d", bytes.fromhex(result.loss_bits))[0]
    assert result.perplexity == pytest.approx(np.exp(result.loss))
    assert result.model_root == model.snapshot.root and result.tokens_per_second > 0
    assert seen[-1].tokens == seen[-1].total_tokens == result.tokens
    again = evolve.evaluate(chain, model.snapshot, tokens, window=8, threads=1, isa="scalar")
    assert again.loss_bits == result.loss_bits
    with pytest.raises(exceptions.OptionError) as few:
        evolve.evaluate(chain, model.snapshot, [1])
    assert (few.value.code, few.value.tokens) == ("too_few_tokens", 1)
    cancel = blyan.CancelToken()
    cancel.cancel()
    with pytest.raises(exceptions.Cancelled):
        evolve.evaluate(chain, model.snapshot, tokens, cancel=cancel)


def test_a_round(copy: blyan.Chain, policy: blyan.Block) -> None:
    base = copy.snapshot()
    # The base made worse is the model that the candidate, its old expert, improves.
    expert, other = changed(copy, SLOT, 0.99), changed(copy, OTHER, 3.0)
    losses = [
        evolve.evaluate(copy, snapshot, SPLIT, window=16).loss
        for snapshot in (base, base.with_block(expert), base.with_block(other))
    ]
    round = evolve.open_round(copy, VALIDATOR, policy, SPLIT)
    with pytest.raises(exceptions.StepError) as empty:
        evolve.close_round(copy, VALIDATOR, round)
    assert (empty.value.code, empty.value.round) == ("no_claims", round.hash)
    claim = evolve.claim(copy, AUTHOR, round, {SLOT: expert})
    with pytest.raises(exceptions.StepError) as early:
        evolve.propose_candidate(copy, AUTHOR, claim, {SLOT: expert})
    assert early.value.code == "not_closed"
    planned = evolve.contribute(copy, STRANGER, round, {OTHER: other}, dry_run=True)
    assert planned.stage == "claimed" and planned.appended_bytes > 0
    assert planned.appended is None or planned.appended not in copy
    claimed = evolve.contribute(copy, STRANGER, round, {OTHER: other})
    assert claimed.appended == claimed.claim == planned.claim and claimed.candidate is None
    assert {(entry.block, entry.key) for entry in evolve.claims_of(copy, round)} == {
        (claim.hash, evolve.public_key(AUTHOR)),
        (claimed.claim, evolve.public_key(STRANGER)),
    }
    with pytest.raises(exceptions.RefusedBlockError):
        evolve.close_round(copy, SECOND, round)
    evolve.close_round(copy, VALIDATOR, round)
    candidate = evolve.propose_candidate(copy, AUTHOR, claim, {SLOT: expert})
    proposed = evolve.contribute(copy, STRANGER, round, {OTHER: other})
    assert proposed.stage == "proposed" and proposed.candidate == proposed.appended
    state = evolve.judge(copy, policy)
    assert state.candidates[candidate.hash].refused == evolve.Refusal(
        "not_revealed", "no split was revealed that judges it"
    )
    reveal = evolve.reveal(copy, VALIDATOR, round, SPLIT)
    assert evolve.snapshot_of(copy, [candidate]) == base.with_block(expert)
    attested = evolve.attest(copy, VALIDATOR, reveal)
    assert {block.kind for block in attested} == {"attestation"}
    assert evolve.attest(copy, VALIDATOR, reveal, [candidate])[0] in attested
    state = evolve.judge(copy, policy)
    verdicts = [state.candidates[block] for block in (candidate.hash, proposed.candidate or candidate.hash)]
    for verdict, loss in zip(verdicts, losses[1:]):
        assert verdict.accepted == (loss <= losses[0] * (1 - 1e-6)) == (verdict.refused is None)
        for measured in verdict.losses:
            assert (measured.base.value, measured.candidate.value) == (losses[0], loss)
    assert verdicts[0].author == evolve.public_key(AUTHOR) and verdicts[0].blocks == {SLOT: expert.hash}
    assert {verdict.refused.code for verdict in verdicts if verdict.refused} <= {"not_better", "worse"}
    assert state.rounds[round.hash].owner == evolve.public_key(VALIDATOR) and state.faults == []
    assert pickle.loads(pickle.dumps(state)) == state
    model = evolve.publish(copy, policy)
    assert (model.hash, copy.snapshot(model).root) == (state.chosen.model, state.chosen.root)
    release = evolve.publish_release(copy, policy, "tiny", "1.0.0")
    assert blyan.releases(copy)[0].block == release.hash and blyan.find_model(copy, "tiny") == model.hash
    # Everybody else comes to the same, and nobody lied.
    report = evolve.audit(copy, policy, SECOND)
    assert (report.checked, report.lies, report.other_numerics) == (len(attested), [], [])
    assert evolve.periods(copy, policy) >= 1
    assert sum(share.units for share in evolve.rewards(copy, policy, 0, 1000)) in (0, 1000)
    assert {credit.claim for credit in evolve.reward_credits(copy, policy, 0)} == {
        verdict.claim for verdict in verdicts if verdict.accepted
    }
    with pytest.raises(exceptions.StepError) as void:
        evolve.reveal(copy, VALIDATOR, round, SPLIT)
    assert void.value.code == "already_revealed" and void.value.reveal == reveal.hash


def test_weights_are_extracted(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    target = base.base or ""
    report = evolve.extract(copy, target, MODEL, [SLOT, evolve.Piece(SLOT, target=OTHER)])
    assert report.blocks[0].block == base.slots[SLOT].block and not report.blocks[0].new_block
    assert report.blocks[1].slot == OTHER and report.blocks[1].payload == base.slots[SLOT].payload
    assert report.blocks_new == 1 and report.blocks[1].block in copy
    length = len(copy)
    rows = list(reversed(range(base.spec["layers"][0]["feed_forward"]["moe_intermediate_size"])))
    turned = evolve.extract(copy, target, copy, [evolve.Piece(SLOT, rows)], model=target, dry_run=True)
    assert turned.blocks[0].new_block and len(copy) == length
    for arguments, code in [
        (([],), "nothing_to_extract"),
        (([SLOT, SLOT],), "slot_twice"),
        (([evolve.Piece("embedding", [0])],), "not_divisible"),
        (([evolve.Piece(SLOT, [10**6])],), "row"),
        ((["no slot"],), "slot_name"),
    ]:
        with pytest.raises(ValueError if code != "slot_name" else exceptions.ModelError) as refused:
            evolve.extract(copy, target, MODEL, *arguments)
        assert refused.value.code == code  # type: ignore[union-attr]
    with pytest.raises(exceptions.OptionError):
        evolve.extract(copy, target, copy, [SLOT])
    assert len(copy) == length


def test_use_is_recorded(copy: blyan.Chain, policy: blyan.Block) -> None:
    with pytest.raises(exceptions.BlyanError) as nothing:
        evolve.record_usage(copy, policy, policy, [], VALIDATOR)
    assert nothing.value.code == "wrong_kind"
    assert evolve.recorded_uses(copy, policy) == []


def test_everything_is_there_and_described() -> None:
    for name in evolve.__all__:
        assert getattr(evolve, name).__doc__, name
