"""Opening models, generating, sessions, streams, chats, logits, usage, receipts, snapshots."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import pickle
import platform
import shutil
import struct
import sys
import threading
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy
import pytest
from conftest import FIXTURES, MODEL
from safetensors.numpy import load_file

import blyan
from blyan import exceptions

PROMPT = "In the beginning"


def test_generate(chain: blyan.Chain, model: blyan.MoEModelManager) -> None:
    g = model.generate(PROMPT, max_tokens=24)
    assert len(g.tokens) == 24 and g.finish_reason == "max_tokens" and g.prompt_tokens == 4
    assert model.detokenize(g.tokens) in (g.text, g.text.strip())
    assert model.generate(model.tokenize(PROMPT), 24) == g
    assert model.generate(numpy.array(model.tokenize(PROMPT)), max_tokens=24) == g
    # By the logits alone.
    tokens = model.tokenize(PROMPT)
    for _ in range(6):
        tokens.append(int(model.logits(tokens)[-1].argmax()))
    assert tokens[4:] == g.tokens[:6]
    for isa in blyan.available_isas():
        other = blyan.MoEModelManager(chain, None, 1, "f16", isa=isa, prefill_chunk=1, persist_usage=False)
        assert other.isa == isa and other.threads == 1 and other.kv_cache == "f16"
        assert other.generate(PROMPT, max_tokens=24) == g
    exact = blyan.MoEModelManager(chain, kv_cache="f32", persist_usage=False)
    assert exact.kv_cache == "f32" and exact.generate(PROMPT, 8).receipt != g.receipt
    assert str(g) == g.text and "tokens" in g._repr_html_() and hash(g) == hash(model.generate(PROMPT, 24))


def test_every_option_reaches_the_receipt(model: blyan.MoEModelManager) -> None:
    options = {
        "temperature": 0.75,
        "top_k": 40,
        "top_p": 0.9375,
        "min_p": 0.0625,
        "repetition_penalty": 1.125,
        "seed": 2**64 - 1,
        "logprobs": 2,
    }
    g = model.generate(PROMPT, max_tokens=5, stop=["zzz", "yyy"], ignore_eos=True, **options)  # type: ignore[arg-type]
    claimed = g.receipt.options
    assert {name: claimed[name] for name in options} == options
    assert claimed["stop"] == ["zzz", "yyy"] and claimed["stop_token_ids"] == []
    assert claimed["max_tokens"] == 5 and claimed["kv_cache"] == "f16"
    assert len(g.logprobs) == 5
    for token, found in zip(g.tokens, g.logprobs):
        assert found.chosen.token == token and len(found.top) == 2
        assert found.top[0].logprob >= found.top[1].logprob
    assert model.generate(PROMPT, max_tokens=5, stop="zzz").receipt.options["stop"] == ["zzz"]


def test_logprobs_are_those_of_the_logits(model: blyan.MoEModelManager) -> None:
    g = model.generate(PROMPT, max_tokens=3, logprobs=3)
    tokens = model.tokenize(PROMPT) + g.tokens
    logits = model.logits(tokens).astype(numpy.float64)
    for index, found in enumerate(g.logprobs):
        row = logits[3 + index]
        expected = row - row.max() - numpy.log(numpy.exp(row - row.max()).sum())
        assert abs(found.chosen.logprob - expected[found.chosen.token]) < 1e-5
        assert [t.token for t in found.top] == list(numpy.argsort(-expected, kind="stable")[:3])


def test_stopping(model: blyan.MoEModelManager) -> None:
    whole = model.generate(PROMPT, max_tokens=24)
    word = whole.text.split()[5]
    stopped = model.generate(PROMPT, max_tokens=24, stop=word)
    assert stopped.finish_reason == "stop_string" and word not in stopped.text
    assert whole.text.startswith(stopped.text)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"temperature": float("nan")}, exceptions.OptionError),
        ({"temperature": float("inf")}, exceptions.OptionError),
        ({"temperature": 1e300}, exceptions.OptionError),
        ({"temperature": -1}, exceptions.OptionError),
        ({"temperature": 1e-38}, exceptions.OptionError),
        ({"temperature": 1e-60}, exceptions.OptionError),
        ({"temperature": "hot"}, TypeError),
        ({"temperature": None}, TypeError),
        ({"top_k": 0}, exceptions.OptionError),
        ({"top_k": -1}, exceptions.OptionError),
        ({"top_k": 1.5}, TypeError),
        ({"top_p": 1.5}, exceptions.OptionError),
        ({"min_p": -0.5}, exceptions.OptionError),
        ({"repetition_penalty": 0}, exceptions.OptionError),
        ({"seed": -1}, exceptions.OptionError),
        ({"seed": 2**64}, exceptions.OptionError),
        ({"max_tokens": 0}, exceptions.OptionError),
        ({"max_tokens": -5}, exceptions.OptionError),
        ({"max_tokens": 2**70}, exceptions.OptionError),
        ({"max_tokens": 10**9}, exceptions.ContextFullError),
        ({"max_tokens": "7"}, TypeError),
        ({"stop": ""}, exceptions.OptionError),
        ({"stop": [""]}, exceptions.OptionError),
        ({"stop": [1]}, TypeError),
        ({"stop": 1}, TypeError),
        ({"stop": "\ud800"}, ValueError),
        ({"stop": ["x"] * 100_000}, exceptions.OptionError),
        ({"logprobs": -1}, exceptions.OptionError),
        ({"cancel": True}, TypeError),
        ({"nonsense": 1}, TypeError),
    ],
)
def test_wrong_options(model: blyan.MoEModelManager, options: dict[str, Any], error: type[Exception]) -> None:
    given = {"max_tokens": 2, **options}
    for call in (model.generate, model.stream, model.session().generate):
        with pytest.raises(error) as raised:
            list(result) if hasattr(result := call(PROMPT, **given), "__next__") else None  # type: ignore[operator]
        if issubclass(error, exceptions.OptionError):
            assert isinstance(raised.value, ValueError)
    with pytest.raises(error):
        model.generate_batch([PROMPT], **given)


def test_a_refused_number_is_the_one_that_was_given(model: blyan.MoEModelManager) -> None:
    with pytest.raises(exceptions.OptionError, match=r"top_p = 1\.1 is") as raised:
        model.generate(PROMPT, max_tokens=2, top_p=1.1)
    assert raised.value.value == 1.1


def test_arguments_of_another_type(chain: blyan.Chain, model: blyan.MoEModelManager) -> None:
    with blyan.Chain.in_memory() as empty:
        for wrong in (3, None, "text"):
            with pytest.raises(TypeError, match="Draft"):
                empty.append(wrong)  # type: ignore[arg-type]
        with empty.writer() as writer, pytest.raises(TypeError, match="Draft"):
            writer.append(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Receipt"):
        blyan.replay(chain, None)  # type: ignore[arg-type]
    receipt = model.generate(PROMPT, max_tokens=2).receipt
    with pytest.raises(TypeError):
        blyan.replay(None, receipt)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("", exceptions.OptionError),
        ([], exceptions.OptionError),
        ([2048], exceptions.OptionError),
        ([-1], ValueError),
        ([2**32], ValueError),
        ([1.5], TypeError),
        (["a"], TypeError),
        (b"bytes", TypeError),
        (bytearray(b"x"), TypeError),
        (memoryview(b"x"), TypeError),
        (memoryview(bytearray(b"x")).cast("b"), TypeError),
        (None, TypeError),
        (5, TypeError),
        ({"a": 1}, TypeError),
        ("\ud800", UnicodeEncodeError),
        ("🙂 ü 漢\0", None),
        ([3] * 100_000, exceptions.ContextFullError),
        ("word " * 100_000, exceptions.ContextFullError),
    ],
)
def test_prompts(model: blyan.MoEModelManager, prompt: Any, error: type[Exception] | None) -> None:
    if error is None:
        assert len(model.generate(prompt, max_tokens=2, ignore_eos=True).tokens) == 2
        return
    with pytest.raises(error):
        model.generate(prompt, max_tokens=2)
    with pytest.raises(error):
        next(model.stream(prompt, max_tokens=2))


def test_the_error_of_a_prompt_names_what_is_wrong(model: blyan.MoEModelManager) -> None:
    # It once said that a list is no list.
    with pytest.raises(TypeError, match="float"):
        model.generate([1.5], max_tokens=1)  # type: ignore[list-item]
    with pytest.raises(TypeError, match="not dict"):
        model.generate({"a": 1}, max_tokens=1)  # type: ignore[arg-type]


def test_opening(chain: blyan.Chain, empty: blyan.Chain) -> None:
    meta = next(chain.blocks(kind="model"))
    for named in (meta, meta.hash, bytes(meta.hash), str(meta.hash), chain.snapshot()):
        opened = blyan.MoEModelManager(chain, model=named, threads=1, persist_usage=False)
        assert opened.model == meta.hash
    with pytest.raises(exceptions.NoModelError) as error:
        blyan.MoEModelManager(empty)
    assert isinstance(error.value, LookupError) and error.value.code == "no_model"
    spec = next(chain.blocks(kind="spec"))
    for options, wrong in [
        ({"model": spec}, exceptions.ModelError),
        ({"model": "0" * 64}, exceptions.BlockNotFoundError),
        ({"model": 7}, TypeError),
        ({"threads": 0}, exceptions.OptionError),
        ({"threads": -1}, exceptions.OptionError),
        ({"threads": 65537}, exceptions.OptionError),
        ({"kv_cache": "f8"}, exceptions.OptionError),
        ({"isa": "mmx"}, exceptions.OptionError),
        ({"prefill_chunk": 0}, exceptions.OptionError),
        ({"nonsense": 0}, TypeError),
    ]:
        with pytest.raises(wrong):
            blyan.MoEModelManager(chain, **options)  # type: ignore[arg-type]
    blyan.import_checkpoint(empty, FIXTURES / "olmoe")
    blyan.import_checkpoint(empty, FIXTURES / "olmoe", "int8")
    with pytest.raises(exceptions.NoModelError) as error:
        blyan.MoEModelManager(empty)
    assert error.value.code == "many_models" and len(error.value.models) == 2


def test_the_model_lives_without_its_chain(tmp_path: Path) -> None:
    with blyan.Chain(tmp_path / "c") as chain:
        blyan.import_checkpoint(chain, MODEL)
        model = blyan.MoEModelManager(chain)
        text = model.generate(PROMPT, max_tokens=8).text
    assert model.generate(PROMPT, max_tokens=8).text == text
    assert model.usage.top(1)[0].tokens > 0
    assert model.snapshot.root
    with model:
        pass
    for use in (lambda: model.generate("x"), lambda: model.usage, lambda: model.session(), lambda: model.isa):
        with pytest.raises(exceptions.ClosedError):
            use()
    assert "closed" in repr(model)
    # The counts were stored when it was closed.
    with blyan.Chain(tmp_path / "c", read_only=True) as chain:
        assert blyan.MoEModelManager(chain).usage.top(1)[0].tokens > 0


def test_a_model_keeps_no_chain_open(tmp_path: Path) -> None:
    # It once kept the lock of a chain that nobody had any more to close.
    def opened() -> blyan.MoEModelManager:
        chain = blyan.Chain(tmp_path / "c")
        blyan.import_checkpoint(chain, MODEL)
        return blyan.MoEModelManager(chain)

    model = opened()
    usage, snapshot = model.usage, model.snapshot
    with blyan.Chain(tmp_path / "c") as chain:
        assert model.generate(PROMPT, max_tokens=8).tokens and usage.top(1)
        assert snapshot == chain.snapshot() and list(snapshot.slots)
        with pytest.raises(exceptions.ClosedError):
            snapshot.with_block(model.model)
    assert pickle.loads(pickle.dumps(model)).snapshot == snapshot == pickle.loads(pickle.dumps(snapshot))


def test_logits(model: blyan.MoEModelManager, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = load_file(MODEL / "reference.safetensors")
    ours = model.logits(reference["prompt"])
    # transformers computes in another order, on weights of 8 bits of mantissa.
    assert numpy.abs(ours - reference["logits"]).max() < 0.1
    assert (ours.argmax(1) == reference["logits"].argmax(1)).mean() > 0.9
    logits = model.logits([3, 17, 99])
    assert logits.shape == (3, 2048) and logits.dtype == numpy.float32 and logits.flags.writeable
    assert (model.logits((3, 17))[:2] == logits[:2]).all()
    for wrong, error in [([], ValueError), ([9999], ValueError), ([-1], ValueError), ("text", TypeError)]:
        with pytest.raises(error):
            model.logits(wrong)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "numpy", None)
    view = model.logits([3, 17, 99])
    assert isinstance(view, memoryview) and view.shape == (3, 2048) and view.format == "f"
    assert view.tobytes() == logits.tobytes()


def test_tokens(model: blyan.MoEModelManager) -> None:
    text = "And God said, Let there be light"
    tokens = model.tokenize(text)
    assert model.detokenize(tokens) == text and model.count_tokens(text) == len(tokens)
    bare = model.tokenize(text, add_special_tokens=False)
    assert tokens[-len(bare) :] == bare and model.count_tokens(text, add_special_tokens=False) == len(bare)
    assert model.detokenize(tokens, skip_special_tokens=False).endswith(text) and model.vocab_size == 2048
    word = model.token_text(tokens[0])
    assert word is not None and model.token_id(word) == tokens[0]
    assert model.token_id("no such token") is None and model.token_text(10**6) is None
    with pytest.raises(ValueError):
        model.detokenize([10**6])
    with pytest.raises(UnicodeEncodeError):
        model.tokenize("\udc80")


def test_special_tokens(empty: blyan.Chain, tmp_path: Path) -> None:
    """A tokenizer that begins each text with a special token."""
    folder = tmp_path / "model"
    shutil.copytree(MODEL, folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    template = tokenizer["post_processor"]
    template["single"].insert(0, {"SpecialToken": {"id": "<s>", "type_id": 0}})
    template["special_tokens"] = {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    blyan.import_checkpoint(empty, folder)
    model = blyan.MoEModelManager(empty)
    bare = model.tokenize(PROMPT, add_special_tokens=False)
    whole = model.tokenize(PROMPT)
    assert bare and whole == [model.token_id("<s>"), *bare]
    assert model.count_tokens(PROMPT) == len(whole) == model.count_tokens(PROMPT, add_special_tokens=False) + 1
    assert model.detokenize(whole) == PROMPT == model.detokenize(bare, skip_special_tokens=False)
    assert model.detokenize(whole, skip_special_tokens=False) == "<s>" + PROMPT
    assert model.generate(PROMPT, max_tokens=2) == model.generate(whole, max_tokens=2)


def test_streams(model: blyan.MoEModelManager) -> None:
    whole = model.generate(PROMPT, max_tokens=12, temperature=1.0, seed=3)
    stream = model.stream(PROMPT, max_tokens=12, temperature=1.0, seed=3)
    pieces = list(stream)
    assert "".join(p.text for p in pieces) == whole.text and [p.token for p in pieces] == whole.tokens
    assert [p.finish_reason for p in pieces] == [None] * 11 + ["max_tokens"]
    assert stream.finish() == whole == stream.finish()
    with pytest.raises(StopIteration):
        next(stream)
    with model.stream(PROMPT, max_tokens=12, logprobs=1) as stream:
        assert next(stream).logprobs is not None
        stream.cancel()
        assert next(stream, None) is None
        assert stream.finish().finish_reason == "cancelled"
    with model.stream(PROMPT, max_tokens=12) as stream:
        next(stream)
    with pytest.raises(exceptions.ClosedError):
        stream.finish()
    assert next(stream, None) is None
    token = blyan.CancelToken()
    for index, _ in enumerate(model.stream(PROMPT, max_tokens=400, ignore_eos=True, cancel=token)):
        if index == 3:
            token.cancel()
    assert index == 3
    shared = blyan.CancelToken()
    with model.stream(PROMPT, max_tokens=5, cancel=shared) as stream:
        next(stream)
    assert not shared.cancelled and len(list(model.stream(PROMPT, max_tokens=5, cancel=shared))) == 5
    failing = model.stream([], max_tokens=5)
    with pytest.raises(exceptions.OptionError):
        next(failing)
    assert next(failing, None) is None
    with pytest.raises(exceptions.ModelError) as error:
        failing.finish()
    assert error.value.code == "stream_failed"


def test_sessions(model: blyan.MoEModelManager) -> None:
    whole = model.generate(PROMPT, max_tokens=12)
    session = model.session()
    assert len(session) == 0 and session and session.tokens == []
    first = session.generate(PROMPT, max_tokens=5)
    pieces = list(session.stream("", max_tokens=7))
    assert first.tokens + [p.token for p in pieces] == whole.tokens
    assert session.tokens == model.tokenize(PROMPT) + whole.tokens and session.cache_bytes > 0
    session.truncate(4)
    assert len(session) == 4 and session.generate("", max_tokens=12).tokens == whole.tokens
    stream = session.stream("", max_tokens=5)
    next(stream)
    with pytest.raises(exceptions.BusyError):
        session.generate("", max_tokens=1)
    with pytest.raises(exceptions.BusyError):
        session.tokens
    assert "in use" in repr(session)
    stream.finish()
    session.generate("", max_tokens=1)
    stream = session.stream("", max_tokens=2)
    for _ in stream:
        pass
    session.generate("", max_tokens=1)  # a stream that was read to its end holds nothing
    assert len(stream.finish().tokens) == 2
    stream = session.stream("", max_tokens=5)
    next(stream)
    del stream
    session.generate("", max_tokens=1)
    with pytest.raises(ValueError):
        session.truncate(-1)


def test_batches(model: blyan.MoEModelManager) -> None:
    prompts = [PROMPT, "And God said", [3, 17], "🙂"]
    alone = [model.generate(prompt, max_tokens=6, temperature=0.9, seed=5) for prompt in prompts]
    assert model.generate_batch(prompts, max_tokens=6, temperature=0.9, seed=5) == alone
    assert model.generate_batch([]) == []
    with pytest.raises(exceptions.OptionError):
        model.generate_batch([PROMPT, []], max_tokens=2)
    with pytest.raises(TypeError):
        model.generate_batch(5)  # type: ignore[arg-type]


TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if tools %}T{{ tools | tojson }}{% endif %}{% if documents %}D{% endif %}{{ mood }}"
    "{% if strftime_now is defined %}{{ strftime_now('%Y-%m-%d') }}{% endif %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def test_chat(tmp_path: Path, model: blyan.MoEModelManager) -> None:
    with pytest.raises(exceptions.ChatError) as error:
        model.chat([{"role": "user", "content": "Hello"}])
    assert error.value.code == "no_template" and model.chat_templates == []
    folder = tmp_path / "chat"
    folder.mkdir()
    for file in MODEL.iterdir():
        if file.name != "README.md":
            (folder / file.name).write_bytes(file.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, folder)
        chatty = blyan.MoEModelManager(chain)
        messages = [{"role": "user", "content": "Hi ü"}]
        bos = chatty.special_token("bos_token") or ""
        assert chatty.chat_templates == ["default"]
        assert chatty.chat_prompt(messages) == f"{bos}[user]Hi ü[assistant]"
        assert chatty.chat_prompt(messages, add_generation_prompt=False) == f"{bos}[user]Hi ü"
        prompt = chatty.chat_prompt(
            messages,
            tools=[{"name": "f"}],
            documents=[{"title": "t", "text": "x"}],
            now=datetime(2024, 2, 29, 1, 2, 3),
            variables={"mood": "calm"},
            template="default",
        )
        assert prompt == f'{bos}[user]Hi üT[{{"name": "f"}}]Dcalm2024-02-29[assistant]'
        answer = chatty.chat(messages, max_tokens=5, variables={"mood": "calm"})
        assert "".join(p.text for p in chatty.chat_stream(messages, 5, variables={"mood": "calm"})) == answer.text
        assert len(answer.tokens) == 5
        for wrong, kind in [
            ([], ValueError),
            ([1], ValueError),
            ([{"content": "x"}], ValueError),
            ("text", TypeError),
            ([{"role": "user", "content": float("nan")}], ValueError),
            ([{"role": "user", "content": object()}], TypeError),
        ]:
            with pytest.raises(kind):
                chatty.chat(wrong, max_tokens=1)  # type: ignore[arg-type]
        with pytest.raises(ValueError):
            chatty.chat(messages, template="other")
        for now in ("x", 3, datetime(2024, 2, 29).date()):
            with pytest.raises(TypeError, match="datetime"):
                chatty.chat(messages, max_tokens=1, now=now)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            chatty.chat_prompt(messages, temperature=1.0)  # type: ignore[call-arg]


def test_usage(place: Path) -> None:
    with blyan.Chain.in_memory() as chain:
        blyan.import_checkpoint(chain, MODEL)
        model = blyan.MoEModelManager(chain)
        usage = model.usage
        assert usage.top(5) == [] and len(usage) == 32 and "layer0.expert1" in usage
        assert isinstance(usage, Mapping) and usage == model.usage and hash(usage) == hash(model.usage)
        g = model.generate(PROMPT, max_tokens=10)
        # Four tokens of prompt, ten new ones of which the last was never read: two experts a layer.
        assert sum(expert.tokens for expert in usage.experts()) == (4 + 9) * 2 * 4
        top = usage.top(3)
        assert [e.tokens for e in top] == sorted((e.tokens for e in usage.values()), reverse=True)[:3]
        assert usage[top[0].slot] == top[0] and dict(usage.items())[top[0].slot] == top[0]
        assert set(usage) == set(usage.keys()) and set(g.receipt.blocks) & set(usage)
        assert sum(pair.tokens for pair in usage.co_use()) == 13 * 4
        assert usage.snapshot()["model"] == usage.model == model.model
        for wrong in ("layer9.expert0", "nonsense", "embedding"):
            with pytest.raises(KeyError) as error:
                usage[wrong]
            assert isinstance(error.value, exceptions.ExpertNotFoundError) and wrong not in usage
            assert usage.get(wrong) is None and usage.get(wrong, 1) == 1
        with pytest.raises(ValueError):
            usage.top(-1)
        usage.flush()
        usage.reset()
        assert usage.top(5) == [] and "0 of 32" in repr(usage)
        report = model.residency()
        assert report.blocks_verified > report.experts_touched > 0


def test_receipts(chain: blyan.Chain, model: blyan.MoEModelManager) -> None:
    g = model.generate(PROMPT, max_tokens=6, temperature=0.8, seed=1)
    receipt = g.receipt
    assert receipt.model == model.model and receipt.output_tokens == g.tokens and receipt.text == g.text
    assert receipt.prompt_tokens == model.tokenize(PROMPT) and receipt.finish_reason == g.finish_reason
    assert receipt.snapshot == chain.snapshot().root and receipt.spec == chain.snapshot().spec_block
    assert receipt.numerics_version == blyan.NUMERICS_VERSION == receipt.claim["numerics_version"]
    text = receipt.to_json()
    assert bytes(receipt) == text.encode() and json.loads(text)["claim"]["logits"] == receipt.logits
    for spelled in (text, text.encode(), json.dumps(json.loads(text), indent=3), bytearray(text, "utf8")):
        assert blyan.Receipt.from_json(spelled) == receipt
    assert blyan.replay(chain, receipt) is True and receipt.replay(chain, threads=1, isa="scalar") == []
    edited = json.loads(text)
    edited["claim"]["output_tokens"][2] += 1
    wrong = blyan.Receipt.from_json(json.dumps(edited))
    assert wrong != receipt and wrong.hash != receipt.hash and hash(wrong) != hash(receipt)
    with pytest.raises(exceptions.ReplayError) as error:
        blyan.replay(chain, wrong)
    (difference, *_) = [d for d in error.value.differences if d.path == "/claim/output_tokens/2"]
    assert difference.recomputed == g.tokens[2] == difference.claimed - 1 and str(difference) in str(error.value)
    assert "/claim/output_tokens/2" in [d.path for d in wrong.diff(receipt)]
    with blyan.Chain.in_memory() as other:
        assert [d.path for d in receipt.replay(other)] == ["/claim/model"]
    assert blyan.Receipt.of_claim(receipt.claim) == receipt
    with pytest.raises(exceptions.ReceiptError):
        blyan.Receipt.of_claim({"model": 1})
    for junk in ("", "{}", "[]", b"\xff", text[:-1], text.replace('"receipt_version":1', '"receipt_version":2')):
        with pytest.raises(exceptions.ReceiptError):
            blyan.Receipt.from_json(junk)
    for wrong_type in (None, 5):
        with pytest.raises(TypeError):
            blyan.Receipt.from_json(wrong_type)  # type: ignore[arg-type]
    assert receipt.hash.short in repr(receipt) and receipt.hash in receipt._repr_html_()


def test_snapshots(copy: blyan.Chain) -> None:
    base = copy.snapshot()
    assert base.spec["vocab_size"] == 2048 and base.manifest["spec"] == base.spec_block
    assert base == blyan.Snapshot.of_model(copy, base.base) == blyan.Snapshot.only_model(copy)  # type: ignore[arg-type]
    slot = "layer1.expert2"
    old = copy[base.slots[slot].block]
    assert copy[old].payload_hash == base.slots[slot].payload
    tensors = {name: (v.dtype, v.shape, bytes(v)) for name, v in old.tensors.items()}
    raw = numpy.asarray(old.tensors["down_proj.weight"]).copy()
    raw[0, 0] ^= 1
    tensors["down_proj.weight"] = ("BF16", old.tensors["down_proj.weight"].shape, raw)
    new = copy.append(
        blyan.Draft(
            "B", "expert", slot, blyan.write_tensors(tensors), "1.0.1", [base.spec_block, (old, "predecessor")]
        )
    )
    changed = base.with_block(new)
    assert changed != base and changed.root != base.root and hash(changed) != hash(base)
    assert base.diff(changed) == [blyan.SlotChange(slot, old.hash, new.hash)]
    trial = blyan.MoEModelManager(copy, changed, persist_usage=False)
    assert trial.model == changed.model_block() and trial.model not in copy
    published = changed.publish()
    assert published.hash == trial.model and changed.publish() == published
    assert copy.snapshot() == changed  # the only model that none follows
    assert (base.base, "predecessor") in published.parents
    named = blyan.release(copy, published, "my-model", "2.0.0-rc.1")
    assert named.kind == "release" and json.loads(bytes(named.payload))["model"] == published.hash
    for wrong, error in [
        (("Bad Name", "1.0.0"), exceptions.RefusedBlockError),
        (("name", "one"), ValueError),
    ]:
        with pytest.raises(error):
            blyan.release(copy, published, *wrong)
    with pytest.raises(exceptions.ModelError):
        blyan.release(copy, old, "name", "1.0.0")
    with pytest.raises(exceptions.ModelError):
        base.with_block(published)


def test_import_and_export(tmp_path: Path, chain: blyan.Chain, empty: blyan.Chain) -> None:
    plan = blyan.import_checkpoint(empty, MODEL, dry_run=True)
    assert isinstance(plan, blyan.ImportReport) and plan.blocks_new == 47 and len(empty) == 0
    seen: list[blyan.ImportProgress] = []
    meta = blyan.import_checkpoint(empty, str(MODEL), progress=seen.append)
    assert meta.report == plan and [p.blocks for p in seen] == list(range(1, 48))
    assert seen[-1].payload_bytes == seen[-1].total_payload_bytes
    assert blyan.import_checkpoint(empty, MODEL).report.blocks_new == 0  # type: ignore[union-attr]
    assert empty[meta].report is None
    with pytest.raises(exceptions.OptionError, match="max_shard_bytes"):
        blyan.export_checkpoint(empty, meta, tmp_path / "none", max_shard_bytes=0)
    assert not (tmp_path / "none").exists()
    written: list[blyan.ExportProgress] = []
    report = blyan.export_checkpoint(empty, meta, tmp_path / "out", max_shard_bytes=2**21, progress=written.append)
    assert report.files == sorted(p.name for p in (tmp_path / "out").iterdir())
    assert written[-1].tensor_bytes == written[-1].total_tensor_bytes == report.tensor_bytes
    original = {}
    from safetensors import safe_open

    with safe_open(MODEL / "model.safetensors", "numpy") as source:
        names = set(source.keys())
    found = set()
    for file in (tmp_path / "out").glob("*.safetensors"):
        with safe_open(file, "numpy") as shard:
            found |= set(shard.keys())
    assert found == names and original == {}
    with pytest.raises(exceptions.FolderNotEmptyError) as error:
        blyan.export_checkpoint(empty, meta, tmp_path / "out")
    assert isinstance(error.value, FileExistsError)
    blyan.export_checkpoint(empty, meta, tmp_path / "out", overwrite=True)
    with blyan.Chain.in_memory() as again:
        assert blyan.import_checkpoint(again, tmp_path / "out") == meta
    with pytest.raises(exceptions.ExportError):
        blyan.export_checkpoint(empty, next(empty.blocks(kind="spec")), tmp_path / "other")
    with pytest.raises(exceptions.BlockNotFoundError):
        blyan.export_checkpoint(empty, "0" * 64, tmp_path / "other")
    int8 = blyan.import_checkpoint(empty, MODEL, dtype="int8")
    assert int8 != meta and blyan.import_checkpoint(empty, MODEL, rope_frequencies="bf16") not in (int8, meta)


def test_checkpoints_that_are_none(tmp_path: Path, empty: blyan.Chain) -> None:
    for folder, error in [
        (tmp_path / "nothing", FileNotFoundError),
        (tmp_path, FileNotFoundError),
        (MODEL / "config.json", exceptions.CheckpointError),
    ]:
        with pytest.raises(error) as raised:
            blyan.import_checkpoint(empty, folder)
        assert isinstance(raised.value, exceptions.CheckpointError)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in MODEL.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((MODEL / "config.json").read_text())
    for change, code in [({"mystery_scale": 2}, "unknown_key"), ({"model_type": "gpt9"}, "unknown_architecture")]:
        (broken / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(exceptions.InvalidCheckpointError) as raised:
            blyan.import_checkpoint(empty, broken)
        assert raised.value.code == code and isinstance(raised.value, ValueError)
    assert "gpt9" in raised.value.model_type
    (broken / "config.json").write_text(json.dumps(config | {"mystery_scale": 2}))
    blyan.import_checkpoint(empty, broken, ignore_config_keys=["mystery_scale"])
    for options, error in [
        ({"dtype": "int7"}, ValueError),
        ({"dtype": 5}, TypeError),
        ({"progress": "yes"}, TypeError),
        ({"ignore_config_keys": [5]}, TypeError),
    ]:
        with pytest.raises(error):
            blyan.import_checkpoint(empty, MODEL, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        blyan.import_checkpoint("chain", MODEL)  # type: ignore[arg-type]


def test_gguf_files_that_are_none(tmp_path: Path, empty: blyan.Chain) -> None:
    # Their errors once came without fields, all under one code.
    def refused(data: bytes) -> exceptions.InvalidCheckpointError:
        file = tmp_path / "model.gguf"
        file.write_bytes(data)
        with pytest.raises(exceptions.InvalidCheckpointError) as error:
            blyan.import_checkpoint(empty, file)
        assert isinstance(error.value, ValueError) and error.value.file == "model.gguf"
        assert len(empty) == 0
        return error.value

    error = refused(b"nope")
    assert (error.code, error.magic) == ("gguf_magic", b"nope")
    error = refused(b"GGUF" + struct.pack("<IQQ", 1, 0, 0))
    assert (error.code, error.version) == ("gguf_version", 1)
    error = refused(b"GGUF\3\0\0\0")
    assert error.code == "gguf_truncated" and "number of tensors" in error.what
    error = refused(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert (error.code, error.key) == ("missing_key", "general.architecture")
    key = b"general.architecture"
    text = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, 3) + b"bee"
    error = refused(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + text)
    assert (error.code, error.architecture) == ("unknown_architecture", "bee")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names of files are text")
def test_names_of_files_that_are_no_text(tmp_path: Path, empty: blyan.Chain) -> None:
    # `filename` once was another name than the one that was given.
    place = tmp_path / "none\udcff"
    with pytest.raises(FileNotFoundError) as error:
        blyan.Chain(place, read_only=True)
    assert error.value.filename == str(place)
    with pytest.raises(FileNotFoundError) as error:
        blyan.import_checkpoint(empty, place)
    assert error.value.filename == str(place)


def test_threads_generate_at_the_same_time(model: blyan.MoEModelManager) -> None:
    alone = [model.generate(PROMPT, max_tokens=40, temperature=1.0, seed=seed) for seed in range(4)]
    inside = threading.Barrier(4, timeout=20)
    found: dict[int, blyan.Generation] = {}

    def work(seed: int) -> None:
        stream = model.stream(PROMPT, max_tokens=40, temperature=1.0, seed=seed)
        next(stream)
        inside.wait()  # all four have begun, none has ended
        for _ in stream:
            pass
        found[seed] = stream.finish()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[seed] for seed in range(4)] == alone


def test_the_lock_is_released_while_generating(model: blyan.MoEModelManager) -> None:
    # Python code that only ends the generation by running beside it: with the lock held, neither would end.
    token = blyan.CancelToken()
    thread = threading.Thread(target=token.cancel)
    generations: list[blyan.Generation] = []

    def generate() -> None:
        while not token.cancelled:
            generations.append(model.generate(PROMPT, max_tokens=200, ignore_eos=True, cancel=token))

    other = threading.Thread(target=generate)
    other.start()
    thread.start()
    thread.join(20)
    other.join(20)
    assert not other.is_alive() and token.cancelled


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the number of the rounding mode is that of x86-64")
def test_a_model_opened_under_another_rounding_mode_gives_the_same(chain: blyan.Chain) -> None:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    expected = blyan.MoEModelManager(chain, persist_usage=False).generate("In the beginning", max_tokens=8)
    assert libm.fesetround(0x800) == 0  # FE_UPWARD
    try:
        model = blyan.MoEModelManager(chain, persist_usage=False)
        read = blyan.Receipt.from_json(expected.receipt.to_json())
    finally:
        assert libm.fesetround(0) == 0
    assert model.generate("In the beginning", max_tokens=8) == expected and read == expected.receipt
