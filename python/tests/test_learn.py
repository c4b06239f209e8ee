"""Training from Python: candidates that are better, the same bits after a resume, errors with their fields."""

from __future__ import annotations

import copy as copies
import math
import pickle
import threading
from typing import Any

import numpy as np
import pytest

import blyan
from blyan import evolve, learn
from blyan.exceptions import BusyError, InternalError, OptionError, RunCheckpointError, TrainingError

TEXT = "In the beginning God created the heaven and the earth. And the earth was without form, and void. "
EXPERT = "layer1.expert2"
OPTIONS: dict[str, Any] = {"steps": 4, "batch": 2, "sequence": 16, "learning_rate": 1e-3, "threads": 2}


@pytest.fixture(scope="module")
def tokens(model: blyan.MoEModelManager) -> list[int]:
    return model.tokenize(TEXT * 4)


def trainer(chain: blyan.Chain, tokens: list[int], **options: Any) -> learn.Trainer:
    return learn.Trainer(chain, chain.snapshot(), tokens, [EXPERT], **{**OPTIONS, **options})


@pytest.mark.parametrize("form", [{}, {"form": "low_rank", "rank": 4}, {"form": "int8"}])
def test_a_candidate_is_better_and_is_what_learnt(
    copy: blyan.Chain, tokens: list[int], form: dict[str, Any]
) -> None:
    before = copy.snapshot()
    run = trainer(copy, tokens, steps=12, learning_rate=3e-3, **form)
    reports: list[learn.StepReport] = []
    assert run.run(progress=reports.append)
    assert [report.step for report in reports] == list(range(12)) and run.steps_done == 12
    assert all(report.steps == 12 and report.tokens == 32 and report.learning_rate > 0 for report in reports)
    assert pickle.loads(pickle.dumps(reports)) == reports
    [trained] = run.append_candidates(copy)
    assert trained.slot == EXPERT and trained.base == before.slots[EXPERT].block
    assert (trained.delta is None) == (not form)
    if trained.delta is not None:
        assert copy.block(trained.delta).kind == "delta"
    block = copy.block(trained.block)
    assert block.version == "1.0.1" and (trained.base, "predecessor") in [tuple(p) for p in block.parents]
    after = before.with_block(trained.block)
    losses = [evolve.evaluate(copy, snapshot, tokens, window=16).loss for snapshot in (before, after)]
    assert losses[1] < losses[0]
    # Its own loss is a guide: that of the core, up to the rounding of the weights to their type.
    assert math.isclose(run.loss(tokens), losses[1], rel_tol=0.02)


def test_logits_are_the_models(chain: blyan.Chain, model: blyan.MoEModelManager, tokens: list[int]) -> None:
    run = trainer(chain, tokens)
    ours, theirs = run.logits(tokens[:12]), model.logits(tokens[:12])
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=2e-2)


def test_gradients_are_slopes(chain: blyan.Chain, tokens: list[int]) -> None:
    run = trainer(chain, tokens, form="low_rank", rank=2)
    loss, gradients = run.gradients(tokens[:16])
    assert set(slot for slot, _ in gradients) == {EXPERT}
    # A delta begins as nothing: one factor of each matrix is zero, and so is the other one's gradient.
    for (_, name), values in gradients.items():
        assert values.dtype == np.float32
        assert (np.abs(values).max() > 0) == name.endswith("lora_B.weight"), name
    assert run.steps_done == 0 and run.gradients(tokens[:16])[0] == loss


def test_a_resumed_run_gives_the_same_bits(copy: blyan.Chain, tokens: list[int]) -> None:
    whole = trainer(copy, tokens)
    assert whole.run(progress=False)
    [expected] = whole.append_candidates(copy)

    first, token = trainer(copy, tokens), blyan.CancelToken()
    # The last of many reports comes after many steps: cancel in the first.
    assert not first.run(progress=lambda _: token.cancel(), cancel=token) or first.steps_done == 4
    saved = trainer(copy, tokens)
    saved.step()
    state = saved.checkpoint()
    again = trainer(copy, tokens)
    again.resume(state)
    assert again.steps_done == 1 and again.run(progress=False)
    assert again.append_candidates(copy) == [expected]

    for damaged in (b"", state[:-1], state[:100], bytes([state[0] ^ 1]) + state[1:]):
        with pytest.raises(RunCheckpointError) as error:
            again.resume(damaged)
        assert error.value.code == "checkpoint" and isinstance(error.value, ValueError)
    with pytest.raises(RunCheckpointError) as other:
        trainer(copy, tokens, seed=1).resume(state)
    assert (other.value.code, other.value.field, other.value.found, other.value.expected) == (
        "other_run", "seed", "0", "1",
    )
    assert again.steps_done == 4


def test_cancelled_before_it_begins(chain: blyan.Chain, tokens: list[int]) -> None:
    run, token = trainer(chain, tokens), blyan.CancelToken()
    token.cancel()
    assert run.run(cancel=token) is False and run.steps_done == 0
    assert run.run() is True


def test_a_callback_that_raises_ends_the_run(chain: blyan.Chain, tokens: list[int]) -> None:
    run = trainer(chain, tokens, steps=1000)

    def refuse(report: learn.StepReport) -> None:
        raise ZeroDivisionError(report.step)

    with pytest.raises(ZeroDivisionError):
        run.run(progress=refuse)
    assert 0 < run.steps_done < 1000


def test_one_call_at_a_time(chain: blyan.Chain, tokens: list[int]) -> None:
    run = trainer(chain, tokens, steps=1000)
    said: list[str] = []
    token = blyan.CancelToken()

    def ask(_: learn.StepReport) -> None:
        if said:
            return  # a report of a step before it heard of the token; it may have ended since
        with pytest.raises(BusyError):
            run.loss(tokens)
        said.append(repr(run))
        token.cancel()

    thread = threading.Thread(target=lambda: run.run(progress=ask, cancel=token))
    thread.start()
    thread.join()
    assert said and said[0].endswith("in use>")
    assert repr(run).endswith("steps done>")


def test_a_model_from_nothing(empty: blyan.Chain, chain: blyan.Chain, tokens: list[int]) -> None:
    spec = chain.snapshot().spec
    turned = dict(reversed(list(spec.items())))
    run = learn.Trainer.from_nothing(turned, tokens, **{**OPTIONS, "steps": 1})
    assert run.run(progress=False)
    slot = "tokenizer"
    tokenizer = bytes(chain.block(chain.snapshot().slots[slot].block).payload)
    block = run.append_model(empty, "f32", {slot: tokenizer})
    model = blyan.MoEModelManager(empty, block)
    assert model.tokenize("the") and model.snapshot.spec == spec
    np.testing.assert_allclose(model.logits(tokens[:4]), run.logits(tokens[:4]), atol=2e-2)
    with pytest.raises(OptionError) as quantized:
        run.append_model(empty, "int8")
    assert quantized.value.code == "whole_model"
    with pytest.raises(OptionError) as no_base:
        run.append_candidates(empty)
    assert no_base.value.code == "no_base"
    wrong = copies.deepcopy(spec)
    wrong["vocab_size"] = 0
    with pytest.raises(blyan.BlyanError):
        learn.Trainer.from_nothing(wrong, tokens)
    with pytest.raises(OptionError):
        learn.Trainer.from_nothing({"vocab_size": 3}, tokens)
    large = copies.deepcopy(spec)
    large["vocab_size"] = large["hidden_size"] = 1 << 20
    for layer in large["layers"]:
        layer["feed_forward"]["moe_intermediate_size"] = 1 << 20
    with pytest.raises(InternalError) as memory:
        learn.Trainer.from_nothing(large, tokens, **OPTIONS)
    assert memory.value.code == "memory" and memory.value.len_bytes > 1 << 47


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"steps": -1}, "argument"),
        ({"batch": 0}, "option"),
        ({"sequence": 10**6}, "option"),
        ({"learning_rate": math.nan}, "option"),
        ({"learning_rate_floor": 2.0}, "option"),
        ({"betas": (1.0, 0.9)}, "option"),
        ({"eps": 0.0}, "option"),
        ({"clip": -1.0}, "option"),
        ({"balance": math.inf}, "option"),
        ({"threads": 0}, "option"),
        ({"form": "half"}, "argument"),
        ({"form": "low_rank"}, "argument"),
        ({"form": "low_rank", "rank": 0}, "option"),
        ({"rank": 3}, "argument"),
    ],
)
def test_options_that_cannot_be(
    chain: blyan.Chain, tokens: list[int], change: dict[str, Any], code: str
) -> None:
    with pytest.raises(OptionError) as error:
        trainer(chain, tokens, **change)
    assert error.value.code == code and isinstance(error.value, ValueError)


def test_wrong_arguments(chain: blyan.Chain, tokens: list[int]) -> None:
    snapshot = chain.snapshot()
    with pytest.raises(TypeError, match="unexpected keyword argument 'learningrate'"):
        trainer(chain, tokens, learningrate=1.0)
    with pytest.raises(TypeError, match="argument 'clip'"):
        trainer(chain, tokens, clip="much")
    for slots, given, code in [
        ([], tokens, "no_slots"),
        (["layer9.expert9"], tokens, "unknown_slot"),
        ([EXPERT], tokens[:16], "too_few_tokens"),
        ([EXPERT], [*tokens, 10**6], "unknown_token"),
    ]:
        with pytest.raises(OptionError) as error:
            learn.Trainer(chain, snapshot, given, slots, **OPTIONS)
        assert error.value.code == code
    assert error.value.index == len(tokens) and error.value.token == 10**6
    run = trainer(chain, tokens)
    with pytest.raises(OptionError):
        run.loss([1])
    with pytest.raises(blyan.exceptions.ReadOnlyError):
        run.append_candidates(chain)


def test_a_run_that_diverges(chain: blyan.Chain, tokens: list[int]) -> None:
    run = trainer(chain, tokens, learning_rate=1e30, clip=None, steps=100)
    with pytest.raises(TrainingError) as error:
        run.run(progress=False)
    assert error.value.code == "diverged" and error.value.step == run.steps_done
