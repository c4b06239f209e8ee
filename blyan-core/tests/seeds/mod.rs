//! Inputs of the corpus that only the library can make, or that take its hashes and signatures to be
//! hostile at all.

#![allow(clippy::unwrap_used, reason = "a seed that cannot be made is no seed")]

use std::sync::Arc;

use blyan_core::chain::{BundleOptions, Validators};
use blyan_core::evolve::Evidence;
use blyan_core::evolve::dataset::{self, Dataset, DatasetDraft};
use blyan_core::storage::{Access, MemoryMedium};
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, ParentRole, Shape, SignatureRecord, tensor,
};
use ed25519_dalek::{Signer, SigningKey};

/// Bundles that are one, and such that are well-formed to the last checksum and still none.
pub(crate) fn bundles(write: &dyn Fn(&str, &[u8])) {
    let chain = Chain::in_memory().unwrap();
    let note = |name: &str, payload: Vec<u8>| Draft::new(ChainId::Dataset, BlockKind(5000), name, payload);
    let root = chain.append(note("root", b"root".to_vec())).unwrap();
    let child = note("child", vec![7; 5000]).with_parent(root, ParentRole::Dependency);
    let child = chain.append(child).unwrap();
    let key = SigningKey::from_bytes(&[7; 32]);
    chain.add_signature(&child, SignatureRecord::sign(&key, &child, 1)).unwrap();
    let bundle = |blocks: Option<Vec<BlockHash>>| {
        let mut bytes = Vec::new();
        chain.bundle(&mut bytes, &BundleOptions { blocks, ..BundleOptions::default() }).unwrap();
        bytes
    };
    let whole = bundle(None);
    write("bundle/valid-notes", &whole);
    write("bundle/missing-parent", &bundle(Some(vec![child])));
    write("bundle/cut", &whole[..whole.len() - 1]);
    write("bundle/trailing", &[&whole[..], b"x"].concat());
    let sealed = |records: &[u8], counts: [u64; 3]| {
        let mut bytes = [b"BLYANBND\x01\x00", records, b"\x04"].concat();
        bytes.extend(counts.map(u64::to_le_bytes).concat());
        let hash = *blake3::hash(&bytes).as_bytes();
        [&bytes[..], &hash].concat()
    };
    let stray = [&[1][..], &3u64.to_le_bytes(), b"abc"].concat();
    write("bundle/valid-empty", &sealed(b"", [0; 3]));
    write("bundle/stray-payload", &sealed(&stray, [0, 1, 0]));
    write("bundle/payload-twice", &sealed(&stray.repeat(2), [0, 2, 0]));
    write("bundle/other-counts", &sealed(b"", [1 << 63; 3]));
    write("bundle/unknown-record", &sealed(&[5], [0; 3]));
    write("bundle/huge-payload", &sealed(&[&[1][..], &u64::MAX.to_le_bytes()].concat(), [0, 1, 0]));
    write("bundle/long-payload", &sealed(&[&[1][..], &(1u64 << 20).to_le_bytes()].concat(), [0, 1, 0]));
    write("bundle/huge-header", &sealed(&[&[2][..], &u32::MAX.to_le_bytes()].concat(), [1, 0, 0]));
    write("bundle/long-header", &sealed(&[&[2][..], &(8u32 << 20).to_le_bytes()].concat(), [1, 0, 0]));
    write("bundle/forged-signature", &sealed(&[&[3][..], &[1; 136]].concat(), [0, 0, 1]));
    write("bundle/other-version", b"BLYANBND\x02\x00");
    write("bundle/nothing", b"");
    // A block of a kind that has a validator, and is not what it says.
    let lawless =
        Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new()).unwrap();
    lawless.append(note("beside", b"a good one".to_vec())).unwrap();
    lawless.append(Draft::new(ChainId::Meta, BlockKind::SPEC, "spec", "{}")).unwrap();
    let mut bytes = Vec::new();
    lawless.bundle(&mut bytes, &BundleOptions::default()).unwrap();
    write("bundle/no-spec", &bytes);
}

/// Deltas for the base that the target has, and such that are well-formed and fit nothing.
pub(crate) fn deltas(write: &dyn Fn(&str, &[u8])) {
    type Tensors<'a> = &'a [(&'a str, DType, [usize; 2], Vec<u8>)];
    let seed = |name: &str, tensors: Tensors<'_>| {
        let shapes: Vec<Shape> = tensors.iter().map(|(_, _, dims, _)| Shape::new(*dims)).collect();
        let places = tensors.iter().zip(&shapes);
        let places = places.map(|((name, dtype, _, data), shape)| (*name, *dtype, shape, &data[..]));
        write(&format!("delta/{name}"), &tensor::write(&places.collect::<Vec<_>>()).unwrap());
    };
    let floats = |value: f32, count: usize| value.to_le_bytes().repeat(count);
    let (small, large) = (floats(0.25, 3), floats(0.5, 4));
    let factors = |matrix: &'static str, b: f32| {
        let names = match matrix {
            "f32" => ["f32.lora_A.weight", "f32.lora_B.weight"],
            "f16" => ["f16.lora_A.weight", "f16.lora_B.weight"],
            "fp8" => ["fp8.lora_A.weight", "fp8.lora_B.weight"],
            _ => ["int8.lora_A.weight", "int8.lora_B.weight"],
        };
        [(names[0], DType::F32, [1, 3], floats(2.0, 3)), (names[1], DType::F32, [4, 1], floats(b, 4))]
    };
    let difference = |dims: [usize; 2], value: u8| {
        let (len, rows) = (dims[0] * dims[1], dims[0]);
        [
            ("bf16.delta", DType::I8, dims, vec![value; len]),
            ("bf16.delta_scale", DType::F32, [rows, 1], floats(0.5, rows)),
        ]
    };
    let i4 = |dtype, one: [u8; 2]| {
        [
            ("int4.lora_A.weight", dtype, [2, 32], one.repeat(64)),
            ("int4.lora_B.weight", dtype, [4, 2], one.repeat(8)),
        ]
    };
    seed("valid-f32", &factors("f32", 1.0));
    seed("valid-f16", &factors("f16", 1.0));
    seed("valid-fp8", &factors("fp8", 1.0));
    seed("valid-int8", &factors("int8", 1.0));
    seed("valid-8-bit", &difference([4, 3], 0x81));
    seed("valid-int4-rank-2", &i4(DType::BF16, [0x80, 0x3f]));
    seed("valid-int4-f16", &i4(DType::F16, [0, 0x3c]));
    seed("valid-both", &[factors("f32", 1.0).to_vec(), difference([4, 3], 3).to_vec()].concat());
    seed(
        "valid-row",
        &[
            ("row.lora_A.weight", DType::F32, [1, 3], small.clone()),
            ("row.lora_B.weight", DType::F32, [1, 1], floats(0.5, 1)),
        ],
    );
    seed("no-tensors", &[]);
    seed("sum-beyond-f32", &factors("f32", 3e38));
    seed("sum-beyond-f16", &factors("f16", 4e4));
    seed("factor-nan", &factors("f32", f32::NAN));
    seed("factor-infinite", &factors("f32", f32::NEG_INFINITY));
    seed("factor-alone", &factors("f32", 1.0)[..1]);
    seed("other-factor-alone", &factors("f32", 1.0)[1..]);
    seed("difference-of-another-shape", &difference([3, 4], 1));
    seed("difference-of-one-row", &difference([1, 3], 1));
    seed("difference-float", &[("f32.delta", DType::F32, [4, 3], floats(1.0, 12))]);
    seed("difference-without-matrix", &[("f32.delta_scale", DType::F32, [4, 1], large.clone())]);
    let factors_of = |[a, b]: [&'static str; 2], rank: usize, [rows, cols]: [usize; 2]| {
        [
            (a, DType::F32, [rank, cols], floats(1.0, rank * cols)),
            (b, DType::F32, [rows, rank], floats(1.0, rows * rank)),
        ]
    };
    let of = |dims, rank| factors_of(["f32.lora_A.weight", "f32.lora_B.weight"], rank, dims);
    seed("rank-0", &of([4, 3], 0));
    seed("columns-too-many", &of([4, 4], 1));
    seed("rows-too-few", &of([3, 3], 1));
    seed("turned", &of([3, 4], 2));
    let [a, _] = of([4, 3], 2);
    let [_, b] = of([4, 3], 3);
    seed("ranks-differ", &[a, b]);
    seed("target-unknown", &factors_of(["x.lora_A.weight", "x.lora_B.weight"], 1, [4, 3]));
    seed("target-vector", &factors_of(["norm.lora_A.weight", "norm.lora_B.weight"], 1, [1, 3]));
    seed("target-empty-name", &factors_of([".lora_A.weight", ".lora_B.weight"], 1, [4, 3]));
    seed("name-of-the-base", &[("f32.weight", DType::F32, [4, 3], floats(1.0, 12))]);
    seed("name-of-a-third-factor", &[("f32.lora_C.weight", DType::F32, [4, 3], floats(1.0, 12))]);
    seed(
        "factor-quantized",
        &[
            ("f32.lora_A.weight", DType::I8, [1, 3], vec![1; 3]),
            ("f32.lora_A.weight_scale", DType::F32, [1, 1], floats(1.0, 1)),
            ("f32.lora_B.weight", DType::F32, [4, 1], large),
        ],
    );
    let whole = tensor::write(&[("f32.lora_A.weight", DType::F32, &Shape::new([1, 3]), &small)]).unwrap();
    write("delta/empty", b"");
    write("delta/cut", &whole[..whole.len() - 1]);
    write("delta/trailing", &[&whole[..], b"x"].concat());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The parts of a statement: key and signature of a body, whatever it says. Also of what the library would
/// not sign.
fn signed(kind: BlockKind, body: &str) -> ([u8; 32], [u8; 64]) {
    let key = SigningKey::from_bytes(&[1; 32]);
    let public = key.verifying_key().to_bytes();
    let mut hasher = blake3::Hasher::new_derive_key("blyan statement 1");
    hasher.update(&kind.0.to_le_bytes()).update(body.as_bytes()).update(&public);
    (public, key.sign(hasher.finalize().as_bytes()).to_bytes())
}

fn statement_of(body: &str, (key, signature): ([u8; 32], [u8; 64])) -> String {
    let (key, signature) = (hex(&key), hex(&signature));
    format!(r#"{{"statement_version":1,"body":{body},"key":"{key}","signature":"{signature}"}}"#)
}

/// Statements of every kind, and such that are well-formed, most of them well signed, and say nothing.
pub(crate) fn statements(write: &dyn Fn(&str, &[u8])) {
    let seed = |name: &str, text: &str| write(&format!("statement/{name}"), text.as_bytes());
    let block = |number: u8| format!("\"{}\"", hex(&[number; 32]));
    let [p, r, c, x, y] = [1, 2, 3, 4, 5].map(block);
    let other = hex(&SigningKey::from_bytes(&[2; 32]).verifying_key().to_bytes());
    let losses = |base: &str| format!(r#"[{{"data":{x},"base":"{base}","candidate":"400bd70a3d70a3d6"}}]"#);
    let loss = losses("400bd70a3d70a3d7");
    let round = |rest: &str| format!(r#"{{"policy":{p},"previous":null,{rest}}}"#);
    let round_of = |tokens: &str| {
        round(&format!(r#""attestations":[],"seen":[{x}],"base":{r},"split":{c},"tokens":{tokens}"#))
    };
    let claim = format!(r#"{{"policy":{p},"round":{r},"candidate":{c}}}"#);
    let closing = |claims: &str| format!(r#"{{"policy":{p},"round":{r},"claims":[{claims}]}}"#);
    let candidate = |slots: &str| {
        format!(
            r#"{{"policy":{p},"round":{r},"closing":{c},"claim":{x},"base":{y},"slots":{{{slots}}},"salt":{p}}}"#
        )
    };
    let reveal = |shown: &str| {
        format!(
            r#"{{"policy":{p},"round":{r},"closing":{c},"candidates":[{shown}],"tokens":{x},"salt":{y}}}"#
        )
    };
    let attestation = |candidates: &str, version: &str, losses: &str| {
        format!(
            r#"{{"policy":{p},"reveal":{r},"base":{c},"candidates":[{candidates}],"model_root":{y},"numerics_version":{version},"losses":{losses}}}"#
        )
    };
    let accusation = format!(r#"{{"policy":{p},"attestation":{r},"accused":"{other}","losses":{loss}}}"#);
    let usage =
        |tokens: &str| format!(r#"{{"policy":{p},"reveal":{r},"receipts":{{{c}:{{{x}:{tokens},{y}:1}}}}}}"#);
    let audit = |text: &str| {
        format!(
            r#"{{"policy":{p},"model":{r},"spec":{c},"dataset":{x},"tokens":{y},"findings":{{"content_hash":{p},"num_tokens":3,"out_of_vocabulary":0,"distinct_tokens":3,"windows":0,"duplicate_windows":0,"foreign_tokenizer":false}}{text}}}"#
        )
    };
    let text = format!(r#","text":{{"decoded_hash":{r},"round_trip":true}}"#);
    let vote = |approve: &str| format!(r#"{{"policy":{p},"dataset":{r},"audit":{c},"approve":{approve}}}"#);
    let slot = format!(r#""layer0.expert1":{x}"#);

    let say = |name: &str, kind, body: &str| seed(name, &statement_of(body, signed(kind, body)));
    say("valid-round", BlockKind::ROUND, &round_of("4"));
    say("valid-claim", BlockKind::CLAIM, &claim);
    say("valid-closing", BlockKind::CLOSING, &closing(&format!("{x},{y}")));
    say("valid-candidate", BlockKind::CANDIDATE, &candidate(&slot));
    say("valid-reveal", BlockKind::REVEAL, &reveal(&x));
    say("valid-attestation", BlockKind::ATTESTATION, &attestation(&x, "1", &loss));
    say("valid-attestation-nan", BlockKind::ATTESTATION, &attestation(&x, "7", &losses("7ff8000000000000")));
    say("valid-accusation", BlockKind::ACCUSATION, &accusation);
    say("valid-usage", BlockKind::USAGE_RECORD, &usage("18446744073709551615"));
    say("valid-audit", BlockKind::AUDIT, &audit(r#","text":null"#));
    say("valid-audit-text", BlockKind::AUDIT, &audit(&text));
    say("valid-vote", BlockKind::VOTE, &vote("false"));

    // Well signed, and not what their kind can say.
    for (name, tokens) in [("one", "1"), ("too-many", "268435457"), ("negative", "-4"), ("float", "4.0")] {
        say(&format!("round-tokens-{name}"), BlockKind::ROUND, &round_of(tokens));
    }
    let attested = format!(r#""attestations":[{x}],"seen":[],"base":{r},"split":{c},"tokens":4"#);
    say("round-nothing-attested", BlockKind::ROUND, &round(&attested));
    say("closing-no-claims", BlockKind::CLOSING, &closing(""));
    say("closing-claims-unordered", BlockKind::CLOSING, &closing(&format!("{y},{x}")));
    say("closing-claims-twice", BlockKind::CLOSING, &closing(&format!("{x},{x}")));
    say("candidate-no-slots", BlockKind::CANDIDATE, &candidate(""));
    for (name, slot) in [("text", "tokenizer"), ("leading-zero", "layer0.expert01"), ("path", "../head")] {
        say(&format!("candidate-slot-{name}"), BlockKind::CANDIDATE, &candidate(&format!("\"{slot}\":{x}")));
    }
    say("candidate-slot-twice", BlockKind::CANDIDATE, &candidate(&format!("{slot},{slot}")));
    say("reveal-no-candidates", BlockKind::REVEAL, &reveal(""));
    say("attestation-no-candidates", BlockKind::ATTESTATION, &attestation("", "1", &loss));
    say("attestation-numerics-0", BlockKind::ATTESTATION, &attestation(&x, "0", &loss));
    for (name, bits) in [
        ("negative", "c00bd70a3d70a3d7"),
        ("minus-zero", "8000000000000000"),
        ("other-nan", "7ff8000000000001"),
        ("upper-case", "400BD70A3D70A3D7"),
        ("short", "400bd70a3d70a3d"),
    ] {
        say(&format!("loss-{name}"), BlockKind::ATTESTATION, &attestation(&x, "1", &losses(bits)));
    }
    say("usage-tokens-beyond-u64", BlockKind::USAGE_RECORD, &usage("18446744073709551616"));
    say("audit-text-missing", BlockKind::AUDIT, &audit(""));
    say("vote-number", BlockKind::VOTE, &vote("1"));
    say("unknown-field", BlockKind::VOTE, &vote(r#"true,"x":1"#));
    say("space-in-body", BlockKind::VOTE, &vote(" true"));
    say("body-null", BlockKind::VOTE, "null");
    say("body-deep", BlockKind::VOTE, &format!("{}{}", "[".repeat(30_000), "]".repeat(30_000)));
    say("kind-of-others", BlockKind(5000), &claim);
    say("another-kind", BlockKind::VOTE, &claim);

    // Signed by nobody, or in another spelling of the signature.
    let (key, signature) = signed(BlockKind::CLAIM, &claim);
    let whole = statement_of(&claim, (key, signature));
    let mut flipped = signature;
    flipped[63] ^= 1;
    seed("signature-flipped", &statement_of(&claim, (key, flipped)));
    seed("signature-zero", &statement_of(&claim, (key, [0; 64])));
    seed("signature-short", &whole.replace(&hex(&signature), &hex(&signature[..63])));
    seed("signature-upper-case", &whole.replace(&hex(&signature), &hex(&signature).to_uppercase()));
    // The order of the group added to s: RFC 8032 asks for the smaller one.
    let order = "edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010";
    let (mut larger, mut carry) = (signature, 0);
    for (place, digits) in larger[32..].iter_mut().zip(order.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap();
        let sum = u16::from(*place) + u16::from_str_radix(digits, 16).unwrap() + carry;
        (*place, carry) = (sum as u8, sum >> 8);
    }
    seed("signature-s-beyond-the-order", &statement_of(&claim, (key, larger)));
    // Anyone can sign for the neutral element.
    let (mut neutral, mut anyones) = ([0; 32], [0; 64]);
    (neutral[0], anyones[0]) = (1, 1);
    seed("key-neutral", &statement_of(&claim, (neutral, anyones)));
    seed("key-no-point", &statement_of(&claim, ([0xff; 32], signature)));
    seed("key-of-another", &whole.replace(&hex(&key), &other));
    seed("key-upper-case", &whole.replace(&hex(&key), &hex(&key).to_uppercase()));
    seed("version-2", &whole.replace("statement_version\":1", "statement_version\":2"));
    seed("space", &whole.replacen(':', ": ", 1));
    seed("order", &format!("{{{},\"statement_version\":1}}", &whole[23..whole.len() - 1]));
    seed("signature-missing", &format!("{}}}", &whole[..whole.find(",\"signature").unwrap()]));
    seed("cut", &whole[..whole.len() - 1]);
    seed("trailing", &format!("{whole} "));
    seed("array", &format!("[{whole}]"));
    seed("nested-deep", &"[".repeat(30_000));
    seed("empty", "");
    seed("null", "null");
}

/// What is said about the tokens that the target has, and what is not so.
pub(crate) fn datasets(write: &dyn Fn(&str, &[u8])) {
    let chain = Chain::in_memory().unwrap();
    let draft = DatasetDraft::of_tokens("primes.2", vec![1, 2, 3], 4, "CC0-1.0 OR MIT", "the first ones");
    let block = dataset::propose(&chain, draft).unwrap();
    let good = String::from_utf8(chain.payload(&block).unwrap().to_vec()).unwrap();
    let seed = |name: &str, text: &str| write(&format!("dataset/{name}"), text.as_bytes());
    let with = |name: &str, from: &str, to: &str| {
        assert!(good.contains(from), "{from}");
        seed(name, &good.replacen(from, to, 1));
    };
    let zeros = "0".repeat(64);
    seed("valid-dataset", &good);
    with("valid-licence-with-exception", "CC0-1.0 OR MIT", "(GPL-2.0+ WITH Classpath-exception-2.0)");
    with("valid-source-unicode", "the first ones", "\u{e9} \u{1f600}");
    with("valid-tier-gold", "experimental", "gold");
    with("valid-text-hash", "\"text_hash\":null", &format!("\"text_hash\":\"{zeros}\""));
    with("valid-version-pre-release", "1.0.0\"", "1.0.0-rc.1\"");
    with("vocabulary-too-small", "\"vocab_size\":4", "\"vocab_size\":3");
    with("vocabulary-0", "\"vocab_size\":4", "\"vocab_size\":0");
    with("vocabulary-beyond-u32", "\"vocab_size\":4", "\"vocab_size\":4294967296");
    with("tokens-more", "\"num_tokens\":3", "\"num_tokens\":4");
    with("tokens-0", "\"num_tokens\":3", "\"num_tokens\":0");
    with("tokens-max", "\"num_tokens\":3", "\"num_tokens\":18446744073709551615");
    for (name, field) in [("tokens-of-nowhere", "\"tokens\":\""), ("content-of-others", "content_hash\":\"")]
    {
        let hash = good.find(field).unwrap() + field.len();
        seed(name, &format!("{}{zeros}{}", &good[..hash], &good[hash + 64..]));
    }
    with("tokenizer-missing", "\"tokenizer\":null", &format!("\"tokenizer\":\"{zeros}\""));
    with("predecessor-missing", "\"predecessor\":null", &format!("\"predecessor\":\"{zeros}\""));
    let tokens = format!("\"tokenizer\":{}", &good[good.find("\"tokens\":").unwrap() + 9..][..66]);
    with("tokenizer-of-tokens", "\"tokenizer\":null", &tokens);
    with("name-empty", "primes.2", "");
    with("name-upper-case", "primes.2", "Primes");
    with("name-path", "primes.2", "../primes");
    with("name-long", "primes.2", &"n".repeat(200));
    with("version-build", "1.0.0\"", "1.0.0+x\"");
    with("version-leading-zero", "1.0.0\"", "01.0.0\"");
    with("version-short", "1.0.0\"", "1.0\"");
    with("tier-unknown", "experimental", "bronze");
    with("licence-empty", "CC0-1.0 OR MIT", "");
    with("licence-operator-alone", "CC0-1.0 OR MIT", "OR");
    with("licence-unclosed", "CC0-1.0 OR MIT", "(CC0-1.0 OR MIT");
    with("licence-nested-deep", "CC0-1.0 OR MIT", &format!("{}MIT{}", "(".repeat(300), ")".repeat(300)));
    with("licence-two-spaces", "CC0-1.0 OR MIT", "CC0-1.0  OR MIT");
    with("source-empty", "the first ones", "");
    with("source-newline", "the first ones", "a\\nb");
    with("source-long", "the first ones", &"s".repeat(2049));
    with("description-version-2", "\"dataset_version\":1", "\"dataset_version\":2");
    with("unknown-field", "\"tier\"", "\"x\":1,\"tier\"");
    with("field-twice", "\"tier\"", "\"vocab_size\":4,\"tier\"");
    with("space", ":", ": ");
    seed("cut", &good[..good.len() - 1]);
    seed("nested-deep", &"[".repeat(30_000));
    seed("empty", "");

    // The same as bundles: with the tokens that it is said of, and without what makes it true.
    let bundle = |chain: &Chain| {
        let mut bytes = Vec::new();
        chain.bundle(&mut bytes, &BundleOptions::default()).unwrap();
        bytes
    };
    write("bundle/valid-dataset", &bundle(&chain));
    let lawless =
        Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new()).unwrap();
    lawless.append(dataset::Tokens::new(vec![1, 2, 3]).unwrap().draft()).unwrap();
    let mut lie = Dataset::read(&chain, &block).unwrap();
    lie.num_tokens = 4;
    lawless.append(lie.draft()).unwrap();
    write("bundle/dataset-of-other-tokens", &bundle(&lawless));
}
