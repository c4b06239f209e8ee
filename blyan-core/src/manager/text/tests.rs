use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;

const KJV: &[u8] = include_bytes!("../../../../models/tiny-kjv-moe/tokenizer.json");

fn kjv() -> Tokenizer {
    static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| Tokenizer::from_json(KJV, 2048).unwrap());
    TOKENIZER.clone()
}

/// Token texts of every kind that some decoder treats in its own way. The first is special.
const TEXTS: [&str; 26] = [
    "<s>", "▁Hello", "▁", "▁▁", "wor", "ld", "<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0x41>", "##ing", ".",
    "Ġthe", "âĤ", "¬", "Ã", " ", "  x  ", "do n't", "low</w>", "</w>", "é", "\u{fffd}", "<0x0g>", "<pad>",
];

/// A tokenizer over [`TEXTS`] with a decoder of choice.
fn with_decoder(decoder: &Json) -> Tokenizer {
    let vocabulary: serde_json::Map<String, Json> =
        (0..).zip(TEXTS).map(|(id, text): (u32, _)| (text.to_owned(), json!(id))).collect();
    let special = json!({
        "id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    });
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<pad>"}
    });
    Tokenizer::from_json(file.to_string().as_bytes(), 64).unwrap()
}

/// Decoders of published tokenizers, and every step by itself.
fn decoders() -> Vec<Json> {
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let fallback = json!({"type": "ByteFallback"});
    let fuse = json!({"type": "Fuse"});
    let strip =
        |start: u32, stop: u32| json!({"type": "Strip", "content": " ", "start": start, "stop": stop});
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": true});
    let word_piece = |cleanup: bool| json!({"type": "WordPiece", "prefix": "##", "cleanup": cleanup});
    let sequence = |steps: &[&Json]| json!({"type": "Sequence", "decoders": steps});
    vec![
        Json::Null,
        byte_level.clone(),
        sequence(&[&replace, &fallback, &fuse, &strip(1, 0)]), // Llama 2, Mistral, Gemma without the strip
        sequence(&[&replace, &fallback, &fuse]),
        sequence(&[&fallback, &metaspace("always")]),
        sequence(&[&byte_level, &strip(3, 0)]),
        sequence(&[&replace, &fuse, &strip(1, 2)]),
        metaspace("always"),
        metaspace("first"),
        metaspace("never"),
        word_piece(true),
        word_piece(false),
        json!({"type": "BPEDecoder", "suffix": "</w>"}),
        json!({"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "▁", "cleanup": true}),
        replace.clone(),
        fallback.clone(),
        fuse.clone(),
        strip(2, 0),
        sequence(&[&fuse, &replace]),
        sequence(&[&json!({"type": "Replace", "pattern": {"Regex": "[a-z]+"}, "content": " "}), &fuse]),
    ]
}

/// The pieces of a stream.
fn streamed(tokenizer: &Tokenizer, tokens: &[u32], skip: bool) -> Result<String, TextError> {
    let mut stream = tokenizer.stream(skip);
    let mut text = String::new();
    for &token in tokens {
        text.push_str(&stream.push(token)?);
    }
    text.push_str(&stream.finish()?);
    Ok(text)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn pieces_join_to_the_full_decode(
        tokens in prop::collection::vec(0..TEXTS.len() as u32 + 2, 0..12),
        skip: bool,
    ) {
        for decoder in decoders() {
            let tokenizer = with_decoder(&decoder);
            let whole = tokenizer.decode(&tokens, skip);
            // The library itself fails where it strips an empty list or text.
            let Ok(whole) = whole else { continue };
            prop_assert_eq!(streamed(&tokenizer, &tokens, skip), Ok(whole), "{}", decoder);
        }
    }

    #[test]
    fn pieces_of_any_byte_level_tokens_join_to_the_full_decode(
        tokens in prop::collection::vec(prop_oneof![0..300_u32, 0..2048_u32], 0..60),
        skip: bool,
    ) {
        let whole = kjv().decode(&tokens, skip);
        prop_assert_eq!(streamed(&kjv(), &tokens, skip), whole);
    }

    #[test]
    fn text_comes_back(text in "\\PC{0,60}") {
        let tokens = kjv().encode(&text, false).unwrap();
        prop_assert_eq!(kjv().decode(&tokens, false).unwrap(), text.clone());
        prop_assert_eq!(kjv().count(&text, false).unwrap(), tokens.len());
        // Nothing is held back longer than the character lasts.
        let mut stream = kjv().stream(true);
        let mut streamed = String::new();
        for &token in &tokens {
            streamed.push_str(&stream.push(token).unwrap());
        }
        prop_assert_eq!(streamed, text);
        prop_assert_eq!(stream.finish().unwrap(), "");
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_but_never_panics(place in 0..KJV.len(), byte: u8, cut: bool) {
        let mut bytes = KJV.to_vec();
        if cut {
            bytes.truncate(place);
        } else if let Some(target) = bytes.get_mut(place) {
            *target = byte;
        }
        if let Ok(tokenizer) = Tokenizer::from_json(&bytes, 2048) {
            let _ = tokenizer.encode("In the beginning", true).map(|tokens| tokenizer.decode(&tokens, true));
        }
    }
}

#[test]
fn a_stream_waits_for_whole_characters_and_no_longer() {
    let euro = kjv().encode("€", false).unwrap();
    assert_eq!(euro.len(), 3, "the vocabulary spells it in bytes");
    let mut stream = kjv().stream(true);
    assert_eq!(stream.push(euro[0]).unwrap(), "");
    assert_eq!(stream.push(euro[1]).unwrap(), "");
    assert_eq!(stream.push(euro[2]).unwrap(), "€");
    assert_eq!(stream.push(euro[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    assert_eq!(stream.push(euro[0]).unwrap(), "", "a finished stream starts anew");

    let llama = with_decoder(&decoders()[2]);
    let mut stream = llama.stream(true);
    let mut push = |text: &str| {
        let id = TEXTS.iter().position(|t| *t == text).unwrap();
        stream.push(id as u32).unwrap()
    };
    assert_eq!(push("▁Hello"), "Hello", "the leading space is not text");
    assert_eq!(push("<0xE2>") + &push("<0x82>") + &push("<0xAC>"), "", "the run may become invalid");
    assert_eq!(push("▁Hello"), "€ Hello");
    assert_eq!(push("<0xFF>") + &push("<0x41>"), "");
    assert_eq!(push("<s>") + &push("."), "\u{fffd}\u{fffd}.");
}

#[test]
fn special_tokens_follow_the_post_processor() {
    let mut file: Json = serde_json::from_slice(KJV).unwrap();
    file["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}
    });
    file["truncation"] = json!(
        {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    );
    file["padding"] = json!({
        "strategy": {"Fixed": 50}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 1, "pad_type_id": 0, "pad_token": "</s>"
    });
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), 2048).unwrap();
    let plain = kjv().encode("In the beginning", false).unwrap();
    assert!(plain.len() > 2);
    assert_eq!(tokenizer.encode("In the beginning", false).unwrap(), plain);
    assert_eq!(tokenizer.encode("In the beginning", true).unwrap(), [&[0], &plain[..]].concat());
    assert_eq!(tokenizer.decode(&[0, plain[0]], true).unwrap(), tokenizer.decode(&plain[..1], true).unwrap());
    assert_eq!(tokenizer.encode("a</s>", false).unwrap().last(), Some(&1));
    assert_eq!((tokenizer.token_id("</s>"), tokenizer.token(1).as_deref()), (Some(1), Some("</s>")));
    assert_eq!(tokenizer.vocabulary().len(), 2048);
}

#[test]
fn tokens_outside_the_vocabulary_of_the_model_are_refused() {
    let token = kjv().encode(" the", false).unwrap()[0];
    let small = Tokenizer::from_json(KJV, token as usize).unwrap();
    let error = TextError::TokenOutOfRange { token, vocab_size: token as usize };
    assert_eq!(small.encode(" the", false), Err(error.clone()));
    assert_eq!(small.decode(&[token], true), Err(error.clone()));
    assert_eq!(small.stream(true).push(token), Err(error));
    let padded = Tokenizer::from_json(KJV, 4096).unwrap();
    assert_eq!(padded.decode(&[4095], false).unwrap(), "");
}

#[test]
fn a_random_tokenizer_is_refused() {
    let mut file: Json = serde_json::from_slice(KJV).unwrap();
    file["model"]["dropout"] = json!(0.1);
    assert!(matches!(
        Tokenizer::from_json(file.to_string().as_bytes(), 2048),
        Err(TextError::Tokenizer { reason }) if reason.contains("dropout")
    ));
}

#[test]
fn hostile_files_are_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for file in ["", "{}", "null", "[]", &deep, r#"{"version":"1.0","model":{"type":"BPE"}}"#] {
        assert!(
            matches!(Tokenizer::from_json(file.as_bytes(), 8), Err(TextError::Tokenizer { .. })),
            "{file:.20}"
        );
    }
}

/// The first end at which a stop string is complete, and the longest that ends there.
fn naive_stop(text: &str, stops: &[String]) -> Option<(usize, usize)> {
    (1..=text.len()).find_map(|end| {
        let ending = (0..stops.len()).filter(|&i| text.as_bytes()[..end].ends_with(stops[i].as_bytes()));
        let index = ending.max_by_key(|&i| (stops[i].len(), std::cmp::Reverse(i)))?;
        Some((index, end - stops[index].len()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn stop_strings_are_found_however_the_text_is_cut(
        pieces in prop::collection::vec("[abé€]{0,5}", 0..12),
        stops in prop::collection::vec("[abé€]{1,6}", 0..4),
    ) {
        let text = pieces.concat();
        let mut search = StopStrings::new(&stops).unwrap();
        let (mut passed, mut seen) = (String::new(), String::new());
        for piece in &pieces {
            passed.push_str(&search.push(piece));
            seen.push_str(piece);
            if search.stopped().is_none() {
                let open = |len: &usize| {
                    stops.iter().any(|stop| stop.as_bytes().starts_with(&seen.as_bytes()[seen.len() - len..]))
                };
                let held = (0..=seen.len()).rev().find(open).unwrap_or(0);
                prop_assert_eq!(passed.len(), seen.len() - held, "no more is held back than must be");
            }
        }
        passed.push_str(&search.finish());
        let expected = naive_stop(&text, &stops);
        prop_assert_eq!(search.stopped().map(|stopped| stopped.index), expected.map(|(index, _)| index));
        prop_assert_eq!(passed, &text[..expected.map_or(text.len(), |(_, start)| start)]);
    }
}

#[test]
fn unusable_stop_strings_are_refused() {
    assert_eq!(StopStrings::new(&["a", ""]).unwrap_err(), StopError::Empty { index: 1 });
    let long = "x".repeat(1025);
    assert_eq!(StopStrings::new(&[long]).unwrap_err(), StopError::TooLong { index: 0, len_bytes: 1025 });
    assert_eq!(StopStrings::new(&["x"; 65]).unwrap_err(), StopError::TooMany { count: 65 });
}

#[test]
fn replacements_that_grow_without_bound_are_refused() {
    let read = |part: &str, steps: &str, pattern: &Json, times: usize| {
        let step = json!({"type": "Replace", "pattern": pattern, "content": "\u{2581}"});
        let mut file: Json = serde_json::from_slice(KJV).unwrap();
        file[part] = json!({"type": "Sequence", steps: vec![step; times]});
        Tokenizer::from_json(file.to_string().as_bytes(), 2048)
    };
    for pattern in [json!({"String": " "}), json!({"Regex": "."}), json!({"String": ""})] {
        for (part, steps) in [("normalizer", "normalizers"), ("decoder", "decoders")] {
            assert!(read(part, steps, &pattern, 4).is_ok());
            assert!(matches!(read(part, steps, &pattern, 40), Err(TextError::Tokenizer { .. })));
        }
    }
}
