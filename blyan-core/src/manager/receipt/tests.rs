use serde_json::json;

use super::*;

fn claim() -> Claim {
    let block = |name: &str| BlockHash::of_header(name.as_bytes());
    let mut logits = LogitsHasher::new(4);
    logits.update(&[1.0, -2.0, 0.5, 0.0]);
    Claim {
        numerics_version: 1,
        model: block("model"),
        snapshot: SnapshotRoot::from_bytes([7; 32]),
        spec: block("spec"),
        prompt_tokens: vec![3, 1],
        options: ReceiptOptions {
            temperature: 0.7,
            top_k: Some(40),
            top_p: None,
            min_p: Some(0.05),
            repetition_penalty: None,
            seed: u64::MAX,
            max_tokens: 8,
            stop: vec!["\n".to_owned(), "~/".to_owned()],
            stop_token_ids: vec![2, 1, 2],
            kv_cache: KvDType::F16,
            logprobs: None,
        },
        output_tokens: vec![2, 0],
        text: Some("é \"x\"".to_owned()),
        finish_reason: FinishReason::StopToken,
        logits: logits.digest(),
        blocks: ["layer0.expert1", "embedding", "layer0.router"]
            .into_iter()
            .map(|name| (name.to_owned(), block(name)))
            .collect(),
    }
}

/// JSON pointers of all leaves.
fn leaves(value: &Json, path: &str, out: &mut Vec<String>) {
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Json::Object(fields) => {
            fields.iter().for_each(|(k, v)| leaves(v, &format!("{path}/{}", escape(k)), out));
        }
        Json::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| leaves(v, &format!("{path}/{i}"), out));
        }
        _ => out.push(path.to_owned()),
    }
}

/// Another value of the same form.
fn edited(path: &str, value: &Json) -> Json {
    match value {
        Json::Null if path.ends_with("top_p") || path.ends_with("penalty") => json!(0.5),
        Json::Null => json!(3),
        Json::Bool(value) => json!(!value),
        Json::Number(number) if number.is_f64() => json!(0.25),
        Json::Number(number) => json!(number.as_u64().unwrap() ^ 1),
        Json::String(text) if path == "/claim/finish_reason" => {
            assert_ne!(text, "max_tokens");
            json!("max_tokens")
        }
        Json::String(text) if path == "/claim/options/kv_cache" => {
            assert_ne!(text, "f32");
            json!("f32")
        }
        Json::String(text) => {
            let first = if text.starts_with('0') { "1" } else { "0" };
            json!(first.to_owned() + text.get(1..).unwrap_or(""))
        }
        _ => unreachable!("no leaf"),
    }
}

#[test]
fn json_round_trips_and_names_itself() {
    let receipt = Receipt::new(claim());
    assert_eq!(receipt.claim().options.stop_token_ids, [1, 2]);
    let text = receipt.to_json();
    let read = Receipt::from_json(text.as_bytes()).unwrap();
    assert_eq!(read, receipt);
    assert_eq!(read.to_json(), text);
    assert_eq!(read.hash(), receipt.hash());
    assert_eq!(
        receipt.hash().as_bytes(),
        &blake3::derive_key("blyan receipt 1", text.as_bytes()),
        "the name is what the documentation says"
    );
    assert!(text.contains("\"temperature\":0.7,"), "an f32 keeps its own digits: {text}");
    let spaced = serde_json::to_string_pretty(&serde_json::from_str::<Json>(&text).unwrap()).unwrap();
    assert_eq!(Receipt::from_json(spaced.as_bytes()).unwrap().hash(), receipt.hash());
    assert_eq!(receipt.diff(&read), []);
}

/// What replay does with a receipt: inputs from the receipt, outputs from the run, stop tokens from
/// the model.
fn replayed(receipt: &Receipt) -> Receipt {
    let honest = claim();
    let Claim { model, mut options, prompt_tokens, .. } = receipt.claim().clone();
    options.stop_token_ids.clone_from(&honest.options.stop_token_ids);
    Receipt::new(Claim { model, options, prompt_tokens, ..honest })
}

#[test]
fn every_edited_leaf_is_named_though_the_outputs_stay() {
    let honest = Receipt::new(claim());
    let json = serde_json::to_value(&honest).unwrap();
    let mut paths = Vec::new();
    leaves(&json, "", &mut paths);
    assert!(paths.len() > 50, "{paths:?}");
    for path in paths {
        let mut other = json.clone();
        let leaf = other.pointer_mut(&path).unwrap();
        *leaf = edited(&path, leaf);
        if path == "/receipt_version" {
            let error = Receipt::from_json(other.to_string().as_bytes()).unwrap_err();
            assert_eq!(error, ReceiptError::Version { version: 0 });
            continue;
        }
        let other = Receipt::from_json(other.to_string().as_bytes()).unwrap();
        let differences = other.diff(&replayed(&other));
        assert!(differences.iter().any(|d| path == d.path), "{path}: {differences:?}");
    }
}

#[test]
fn a_resealed_lie_is_named_by_what_was_recomputed() {
    let mut lie = claim();
    lie.output_tokens[1] = 9;
    lie.blocks.remove("embedding");
    let differences = Receipt::new(lie).diff(&Receipt::new(claim()));
    let find = |path: &str| differences.iter().find(|d| d.path == path).unwrap();
    let token = find("/claim/output_tokens/1");
    assert_eq!((&token.claimed, &token.recomputed), (&Some(json!(9)), &Some(json!(0))));
    assert_eq!(token.to_string(), "/claim/output_tokens/1: claimed 9, recomputed 0");
    assert_eq!(find("/claim/blocks/embedding").claimed, None);
}

#[test]
fn the_differences_of_lists_and_missing_leaves() {
    let mut out = Vec::new();
    let a = json!({"a": [1, 2], "b": {"c": 1}, "d/~": 1});
    let b = json!({"a": [1], "b": 5, "d/~": 2, "e": null});
    compare(Some(&a), Some(&b), &mut String::new(), &mut out);
    let paths: Vec<&str> = out.iter().map(|d| d.path.as_str()).collect();
    assert_eq!(paths, ["/a/1", "/b", "/d~1~0", "/e"]);
    assert_eq!((&out[0].claimed, &out[0].recomputed), (&Some(json!(2)), &None));
    assert_eq!((&out[3].claimed, &out[3].recomputed), (&None, &Some(Json::Null)));
}

#[test]
fn other_json_is_refused() {
    let text = Receipt::new(claim()).to_json();
    for (from, to) in [
        ("\"claim\":{", "\"claim\":{\"more\":1,"),
        ("\"temperature\":0.7", "\"temperature\":\"0.7\""),
        ("\"temperature\":0.7,", ""),
        ("\"top_k\":40", "\"top_k\":-1"),
        ("\"numerics_version\":1", "\"numerics_version\":4294967296"),
        ("\"stop_token\"", "\"sleep\""),
        ("\"f16\"", "\"f8\""),
        ("\"embedding\":\"", "\"embeddings\":\""),
        ("\"embedding\":\"", "\"embedding\":\"0"),
        ("\"layer0.expert1\":", "\"layer0.router\":"),
        ("\"receipt_version\":1", "\"receipt_version\":1,\"receipt_version\":1"),
    ] {
        let other = text.replacen(from, to, 1);
        assert_ne!(other, text, "{from}");
        let read = Receipt::from_json(other.as_bytes());
        assert!(matches!(read, Err(ReceiptError::Json { .. })), "{from} {to}: {read:?}");
    }
    for bytes in [&b""[..], b"{", b"[]", b"null", b"\xff", "[".repeat(100_000).as_bytes()] {
        assert!(matches!(Receipt::from_json(bytes), Err(ReceiptError::Json { .. })));
    }
}

#[test]
fn the_digest_of_logits_is_what_the_documentation_says() {
    let rows = [[1.0_f32, f32::NAN, -0.0], [f32::NEG_INFINITY, 3.5, f32::from_bits(0xffff_ffff)]];
    let mut hasher = LogitsHasher::new(3);
    rows.iter().for_each(|row| hasher.update(row));
    let bits = [0x3f80_0000_u32, 0x7fc0_0000, 0x8000_0000, 0xff80_0000, 0x4060_0000, 0x7fc0_0000];
    let mut bytes = 3_u64.to_le_bytes().to_vec();
    bits.iter().for_each(|bits| bytes.extend(bits.to_le_bytes()));
    assert_eq!(hasher.digest().as_bytes(), &blake3::derive_key("blyan logits 1", &bytes));
    // A row longer than the buffer.
    let row: Vec<f32> = (0..9000_u16).map(f32::from).collect();
    let mut hasher = LogitsHasher::new(9000);
    hasher.update(&row);
    let mut bytes = 9000_u64.to_le_bytes().to_vec();
    row.iter().for_each(|x| bytes.extend(x.to_le_bytes()));
    assert_eq!(hasher.digest().as_bytes(), &blake3::derive_key("blyan logits 1", &bytes));
}
