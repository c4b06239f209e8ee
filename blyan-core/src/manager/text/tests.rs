use std::collections::BTreeSet;
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

/// The library decodes such a token as what the normalizer makes of it, and then does not know it for special.
#[test]
fn special_tokens_that_are_normalized_are_special() {
    let mut file: Json = serde_json::from_slice(KJV).unwrap();
    file["normalizer"] = json!({"type": "Prepend", "prepend": "x"});
    file["added_tokens"][0]["normalized"] = json!(true);
    let tokenizer = Tokenizer::from_json(file.to_string().as_bytes(), 2048).unwrap();
    let word = tokenizer.token_id("a").unwrap();
    assert_eq!(tokenizer.decode(&[0, word, 0], true).unwrap(), "a");
    assert_eq!(tokenizer.decode(&[0], true).unwrap(), "");
    assert_eq!(streamed(&tokenizer, &[0, word, 0], true).unwrap(), "a");
    assert_eq!((tokenizer.token_id("<s>"), tokenizer.token(0).as_deref()), (Some(0), Some("<s>")));
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

/// Each of these took any memory, the first two from a few bytes on, the others for the first text.
#[test]
fn steps_that_take_any_memory_are_refused() {
    let read = |part: &str, step: Json| {
        let mut file: Json = serde_json::from_slice(KJV).unwrap();
        file[part] = step;
        if part == "normalizer" {
            file["added_tokens"][0]["normalized"] = json!(true);
        }
        Tokenizer::from_json(file.to_string().as_bytes(), 2048)
    };
    let template = |pieces: Json, ids: usize| {
        json!({
            "type": "TemplateProcessing", "single": pieces, "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {"x": {"id": "x", "ids": vec![0; ids], "tokens": ["x"]}}
        })
    };
    let (text, special) =
        (json!({"Sequence": {"id": "A", "type_id": 0}}), json!({"SpecialToken": {"id": "x", "type_id": 0}}));
    let prepend = |text: &str| json!({"type": "Prepend", "prepend": text});
    let spaces = |content: &str| json!({"type": "Replace", "pattern": {"String": " "}, "content": content});
    let byte_level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true});
    // SentencePiece's table: an empty trie, and one text of letters.
    let charsmap = json!({"precompiled_charsmap": format!("AAAAAGFh{}", "YWFh".repeat(1000))});
    let sequence = |name: &str, steps: &[Json]| {
        let mut sequence = json!({"type": "Sequence"});
        sequence[name] = steps.into();
        sequence
    };
    for (part, step) in [
        ("normalizer", sequence("normalizers", &vec![byte_level.clone(); 16])),
        ("normalizer", sequence("normalizers", &[prepend(&" ".repeat(1000)), spaces("xyz")])),
        ("normalizer", charsmap),
        ("pre_tokenizer", sequence("pretokenizers", &vec![byte_level; 16])),
        ("decoder", sequence("decoders", &vec![json!({"suffix": ""}); 16])),
        ("post_processor", template(json!(vec![special.clone(); 100]), 100)),
        ("post_processor", template(json!(vec![text.clone(); 100]), 1)),
    ] {
        match read(part, step) {
            Err(TextError::Tokenizer { reason }) => assert!(reason.starts_with("its "), "{part}: {reason}"),
            other => panic!("{part}: {other:?}"),
        }
    }
    assert!(read("normalizer", sequence("normalizers", &[prepend("\u{2581}"), spaces("\u{2581}")])).is_ok());
    assert!(read("post_processor", template(json!([special.clone(), text, special]), 1)).is_ok());
}

/// A tokenizer whose tokens are the pieces that a pattern splits a text into, from 1 on; others are 0.
fn with_pattern(pattern: &str, pieces: &[&str]) -> Result<Tokenizer, TextError> {
    let mut vocabulary = serde_json::Map::new();
    vocabulary.insert("<unk>".to_owned(), json!(0));
    for (index, piece) in pieces.iter().enumerate() {
        vocabulary.insert((*piece).to_owned(), json!(index + 1));
    }
    let split =
        json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": split, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}
    });
    Tokenizer::from_json(file.to_string().as_bytes(), 64)
}

#[test]
fn patterns_are_rewritten_from_rubys_syntax() {
    for (ruby, expected) in [
        (r"\p{N}{1,3}+", r"(?:\p{N}{1,3})+"),
        (r"(a|b){2}?c{1,2}?", r"(?:(a|b){2})?c{1,2}?"),
        (r"a{,2}b{2,}", r"a{0,2}b{2,}"),
        (r"a{,}", r"a\{,}"),
        (r"a{2}{3}", r"(?:a{2}){3}"),
        (r"a*?+b++c*+d?+", r"(?:a*?)+b++c*+d?+"),
        (r"(?<n>[ab])(?:c|(?=d)e)+?", r"(?<n>[ab])(?:c|(?=d)e)+?"),
        (r"[[:alpha:]]+", r"[\p{Alphabetic}]+"),
        (r"[^[:alnum:]_]", r"[^[\p{Alphabetic}\p{Nd}]_]"),
        (r"[[:upper:][:lower:][:space:]]", r"[\p{Uppercase}\p{Lowercase}\s]"),
        (r"[[:^digit:][:blank:]x]", r"[[^\p{Nd}][\p{Zs}\t]x]"),
        (r"[a-z&&[^[:digit:]b]]+", r"[a-z&&[^\p{Nd}b]]+"),
        (r"[[:punct:]]", r"[[\p{P}\p{S}]]"),
        (r"\x20{1,3}+a", r"(?:\x20{1,3})+a"),
        (r"\u4e00{2}+\x{e9}{2}+", r"(?:\u4e00{2})+(?:\x{e9}{2})+"),
        (r"\p{^L}\P{^L}\p{Punct}", r"\P{L}\p{L}\p{Punct}"),
        (r"^a$", r"(?:\A|(?m:^)(?!\z))a(?m:$)"),
        (r"\^[$^a]\$", r"\^[$^a]\$"),
        (r"a\Z|\Ab\z", r"a(?=\n?\z)|\Ab\z"),
        (r"(?m:.)(?i)a|b", r"(?s:.)(?i:a|b)"),
        (r"(a(?i)b|c)d", r"(a(?i:b|c))d"),
        ("(?x) a b # [\n {2} [ ]", "(?:ab{2}[ ])"),
        (r"a(?#b)+(?#[)b", r"a+(?#[)b"),
        (r"\<a\>", r"<a>"),
        (r"[\0\12]\0", r"[\x00\x0A]\x00"),
        (r"[+--][--a][~~]", r"[+-\-][\--a][\~~]"),
        (r"[]a]", r"[\]a]"),
        (r"\h\K\/\u00e9é", r"\h\K\/\u00e9é"),
        (r"[\w&&[^\W]]", r"[[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]&&[^[^\p{Alphabetic}\p{M}\p{Nd}\p{Pc}]]]"),
    ] {
        assert_eq!(pattern::rewrite(ruby).as_deref(), Ok(expected), "{ruby}");
        assert!(with_pattern(ruby, &[]).is_ok(), "{ruby}");
    }
}

#[test]
fn published_patterns_stay_as_they_are() {
    for published in [
        // GPT-2, Llama 3, o200k, DeepSeek, BLOOM
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        concat!(
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^"##,
            r"\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        r" ?[^(\s|[.,!?…。，、।۔،])]+",
    ] {
        assert_eq!(pattern::rewrite(published).as_deref(), Ok(published));
        assert!(with_pattern(published, &[]).is_ok(), "{published}");
    }
}

/// Expected pieces are those of Hugging Face's tokenizers for Python, which has Oniguruma.
#[test]
fn patterns_split_as_hugging_faces_library_does() {
    let split = |pattern: &str, pieces: &[&str], text: &str| {
        with_pattern(pattern, pieces).unwrap().encode(text, false).unwrap()
    };
    assert_eq!(split(r"\p{N}{1,3}+", &["1234567", "a"], "1234567a"), [1, 2]);
    assert_eq!(split(r"\p{N}{1,3}", &["123", "456", "7", "a"], "1234567a"), [1, 2, 3, 4]);
    assert_eq!(split("[[:alpha:]]+", &["é", "1"], "1é1"), [2, 1, 2]);
    assert_eq!(split("[[:punct:]]+", &["$¿", "a"], "a$¿a"), [2, 1, 2]);
    assert_eq!(split(r"\p{Punct}+", &["a$", "¿", "a"], "a$¿a"), [1, 2, 3]);
    assert_eq!(split(r"\s+$", &["a", "  ", "\nb"], "a  \nb"), [1, 2, 3]);
    assert_eq!(split("^.", &["a", "\n", "b"], "a\nb\n"), [1, 2, 3, 2]);
    assert_eq!(split(r"a\Z", &["ba\n\n", "a", "b", "\n"], "ba\n\n"), [1]);
    assert_eq!(split(r"a\Z", &["ba\n\n", "a", "b", "\n"], "ba\n"), [3, 2, 4]);
    assert_eq!(split("(?m:a.b)", &["a\nb", "c"], "ca\nbc"), [2, 1, 2]);
    assert_eq!(split("a{2}{2}", &["aaaa", "b"], "baaaab"), [2, 1, 2]);
    assert_eq!(split(r"\<a\>", &["<a>", "x"], "x<a>x"), [2, 1, 2]);

    let pieces = |pattern: &str, text: &str, expected: &[&str]| {
        let distinct: BTreeSet<&str> = expected.iter().copied().collect();
        let distinct: Vec<&str> = distinct.into_iter().collect();
        let tokenizer = with_pattern(pattern, &distinct).unwrap();
        let found = tokenizer.encode(text, false).unwrap();
        let found: Vec<&str> =
            found.iter().map(|&id| distinct.get(id as usize - 1).copied().unwrap()).collect();
        assert_eq!(found, expected, "{pattern}");
    };
    pieces(r"\w+", "a²ⓐ\u{200d}b", &["a²ⓐ", "\u{200d}", "b"]);
    pieces(r"[\w]+", "a²ⓐ\u{200d}b", &["a", "²", "ⓐ", "\u{200d}", "b"]);
    pieces(r"\W+", "a²ⓐ\u{200d}b-", &["a²ⓐ", "\u{200d}", "b", "-"]);
    pieces(r"[\W]+", "a²ⓐ\u{200d}b-", &["a", "²", "ⓐ", "\u{200d}", "b", "-"]);
    pieces(r"[^\w]+", "a²-b", &["a", "²-", "b"]);
    pieces(r"\b.", "ab ²c\u{200d}d", &["a", "b", " ", "²", "c", "\u{200d}", "d"]);
    pieces(r"\B.", "ab ²c\u{200d}d", &["a", "b", " ²", "c", "\u{200d}d"]);
    pieces(r"[\w&&[^a]]+", "abc", &["a", "bc"]);
    pieces(r"[^\W\d]+", "a1b_²", &["a", "1", "b_", "²"]);
    pieces("[[:punct:]]+", "a€😀b©×.c", &["a", "€😀", "b", "©×.", "c"]);
    pieces("[^[:punct:]]+", "a€b", &["a", "€", "b"]);
}

/// The tokenizer's library would end without an error where a match gives up.
#[test]
fn a_text_that_a_pattern_gives_up_on_is_refused() {
    let gpt2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    let tokenizer = with_pattern(gpt2, &["x"]).unwrap();
    let fine = format!("{}x y z", " ".repeat(100_000));
    assert_eq!(tokenizer.encode(&fine, false).unwrap()[..2], [0, 0]);
    let endless = format!("{}x y z", " ".repeat(1_100_000));
    match tokenizer.encode(&endless, false) {
        Err(TextError::Encode { reason }) => assert!(reason.contains("encode it in parts"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn patterns_that_cannot_be_rewritten_are_refused_by_name() {
    let long = "a".repeat((1 << 16) + 1);
    let stacked = format!("a{}", "{2}".repeat(65));
    for (ruby, construct) in [
        ("[[:graph:]]", "[:graph:]"),
        ("(?s:.)", "(?s"),
        (r"\pL", r"\p without braces"),
        ("a{3,1}", "{3,1}"),
        (stacked.as_str(), "64 repeats"),
        (r"[\xE9]", r"\xE9"),
        (r"[\377]", r"\377"),
        (long.as_str(), "bytes"),
    ] {
        match with_pattern(ruby, &[]) {
            Err(TextError::Tokenizer { reason }) => assert!(reason.contains(construct), "{reason}"),
            other => panic!("{construct}: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn rewriting_a_pattern_never_panics(
        ruby in r"([\[\](){}?+*,^$|\\:#~<>'-]|\\[pPxZk0-9]|[a-zé ]|\[:alpha:\]){0,24}",
    ) {
        let _ = pattern::rewrite(&ruby);
    }
}

#[test]
fn only_patterns_of_a_file_change() {
    let file = json!({
        "normalizer": {"type": "Replace", "pattern": {"Regex": "^x"}, "content": "^"},
        "decoder": {"type": "Replace", "pattern": {"String": "^"}, "content": "^"},
        "model": {"vocab": [["^", -1.234567890123456], ["$", -0.1]], "Regex": "^"}
    });
    let rewrite = |bytes: &[u8]| pattern::rewrite_file(bytes, pattern::Steps::read(bytes).unwrap());
    let pattern::Rewritten { file: rewritten, patterns } = rewrite(file.to_string().as_bytes()).unwrap();
    let rewritten = rewritten.unwrap();
    assert_eq!(patterns, [r"(?:\A|(?m:^)(?!\z))x"]);
    let mut expected = file;
    expected["normalizer"]["pattern"]["Regex"] = json!(r"(?:\A|(?m:^)(?!\z))x");
    assert_eq!(serde_json::from_slice::<Json>(&rewritten).unwrap(), expected);
    let unchanged = pattern::Rewritten { file: None, patterns: Vec::new() };
    assert_eq!(rewrite(br#"{"pattern": {"Regex": "a"}}"#), Ok(unchanged));
}
