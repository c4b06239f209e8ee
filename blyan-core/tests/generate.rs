//! Generation as its users see it: options, streams, stop strings, sessions, batches, chats, errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::checkpoints::{fixture, import_into, imported, open, tiny_kjv};
use crate::folders::Checkpoint;
use blyan_core::manager::chat::ChatRequest;
use blyan_core::manager::{
    FinishReason, GenerateOptions, ManagerError, ManagerOptions, MoEModelManager, SharedSession,
};
use blyan_core::{BlockKind, Chain, ChainId};
use serde_json::{Value, json};

fn options(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

#[test]
fn a_stream_gives_the_text_of_the_whole() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let whole = model.generate("And God said", &options(24)).unwrap();
    assert_eq!(whole.text, model.detokenize(&whole.tokens).unwrap());
    let mut stream = model.stream("And God said", &options(24)).unwrap();
    let pieces: Vec<_> = stream.by_ref().map(Result::unwrap).collect();
    assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), whole.text);
    assert_eq!(pieces.iter().map(|piece| piece.token).collect::<Vec<_>>(), whole.tokens);
    assert_eq!(pieces.last().unwrap().finish_reason, Some(FinishReason::MaxTokens));
    assert_eq!(stream.finish().unwrap(), whole);
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let whole = model.generate("And God said", &options(24)).unwrap().text;
    // Three characters that cross a token's end are likely; any place must do.
    for start in [3, 7, 11] {
        let stop: String = whole.chars().skip(start).take(3).collect();
        let mut options = options(24);
        options.stop = vec!["\u{0}".to_owned(), stop.clone()];
        let stopped = model.generate("And God said", &options).unwrap();
        assert_eq!(stopped.finish_reason, FinishReason::StopString);
        assert_eq!(stopped.text, whole[..whole.find(&stop).unwrap()]);
    }
}

#[test]
fn tokens_that_end_a_text_end_it() {
    let (chain, _) = imported(&fixture("llama"), None);
    let model = open(&chain, |_| ());
    let eos = model.snapshot().spec().tokens.eos_token_ids.clone();
    assert_eq!(eos, [1]);
    // Which prompt makes this random model choose token 1 is found by trying.
    let ends = (2..250).find_map(|token| {
        let generation = model.generate([token], &options(30)).unwrap();
        (generation.finish_reason == FinishReason::StopToken).then_some((token, generation))
    });
    let (token, generation) = ends.expect("some prompt ends");
    assert_eq!(generation.tokens.iter().position(|token| *token == 1), Some(generation.tokens.len() - 1));
    let mut on = options(30);
    on.ignore_eos = true;
    let beyond = model.generate([token], &on).unwrap();
    assert_eq!(beyond.tokens.len(), 30);
    assert_eq!(beyond.tokens[..generation.tokens.len()], generation.tokens);
}

/// Special tokens are no text, so that such a stop string was never found.
#[test]
fn a_stop_string_may_be_a_special_token() {
    let mut checkpoint = Checkpoint::of("llama");
    let special = json!({
        "id": 1, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true
    });
    let mut vocabulary: serde_json::Map<String, Value> =
        (0..256_u32).map(|id| (format!("t{id}"), id.into())).collect();
    vocabulary.remove("t1");
    vocabulary.insert("</s>".to_owned(), 1.into());
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
    });
    checkpoint.files.insert("tokenizer.json".to_owned(), tokenizer.to_string().into_bytes());
    let (chain, _) = imported(checkpoint.write().path(), None);
    let model = open(&chain, |_| ());
    let mut options = options(30);
    let mut generations = (2..250).map(|token| (token, model.generate([token], &options).unwrap()));
    let ends = generations.find(|(_, generation)| generation.finish_reason == FinishReason::StopToken);
    let (token, ended) = ends.expect("some prompt ends");
    options.ignore_eos = true;
    options.stop = vec!["</s>".to_owned()];
    let stopped = model.generate([token], &options).unwrap();
    assert_eq!(stopped.finish_reason, FinishReason::StopString);
    assert_eq!((&stopped.tokens, &stopped.text), (&ended.tokens, &ended.text));
    assert!(stopped.receipt.replay(&chain, &ManagerOptions::default()).unwrap().is_ok());
}

#[test]
fn a_full_context_is_an_error_before_anything_runs() {
    let (chain, _) = imported(&fixture("llama"), None);
    let model = open(&chain, |_| ());
    let prompt = vec![5; 250];
    match model.generate(prompt.clone(), &options(7)).unwrap_err() {
        ManagerError::ContextFull { prompt_tokens: 250, max_tokens: 7, capacity: 256 } => {}
        error => panic!("{error:?}"),
    }
    let mut fill = options(6);
    fill.ignore_eos = true;
    let generation = model.generate(prompt.clone(), &fill).unwrap();
    assert_eq!((generation.tokens.len(), generation.finish_reason), (6, FinishReason::ContextFull));
    fill.max_tokens = None;
    assert_eq!(model.generate(prompt, &fill).unwrap(), generation);
    assert!(matches!(model.generate(vec![5; 256], &fill), Err(ManagerError::ContextFull { .. })));
    assert!(matches!(model.logits(&[5; 257]), Err(ManagerError::ContextFull { .. })));
    assert_eq!(model.logits(&[5; 256]).unwrap().len(), 256 * 256);
}

#[test]
fn options_out_of_range_are_refused_by_name() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let refused = |change: &dyn Fn(&mut GenerateOptions), name: &str| {
        let mut options = options(4);
        change(&mut options);
        let error = model.generate("And", &options).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    };
    refused(&|options| options.sampling.temperature = f32::NAN, "temperature");
    refused(&|options| options.sampling.temperature = -1.0, "temperature");
    refused(&|options| options.sampling.top_p = Some(1.5), "top_p");
    refused(&|options| options.sampling.top_k = Some(0), "top_k");
    refused(&|options| options.sampling.min_p = Some(-0.1), "min_p");
    refused(&|options| options.sampling.repetition_penalty = Some(0.0), "repetition_penalty");
    refused(&|options| options.max_tokens = Some(0), "max_tokens");
    refused(&|options| options.stop = vec![String::new()], "stop");
    assert!(matches!(model.generate(Vec::new(), &options(4)), Err(ManagerError::EmptyPrompt)));
    assert!(model.generate([2048], &options(4)).is_err());
    assert!(model.logits(&[2048]).is_err());
    for change in [
        |options: &mut ManagerOptions| options.threads = Some(0),
        |options: &mut ManagerOptions| options.prefill_chunk = 0,
    ] {
        let mut options = ManagerOptions::default();
        change(&mut options);
        assert!(matches!(MoEModelManager::open(&chain, &options), Err(ManagerError::Zero { .. })));
    }
    let many = ManagerOptions { threads: Some(usize::MAX), ..ManagerOptions::default() };
    assert!(matches!(MoEModelManager::open(&chain, &many), Err(ManagerError::TooManyThreads { .. })));
}

#[test]
fn seeds_decide_what_is_sampled() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let with_seed = |seed| {
        let mut options = options(16);
        options.sampling.temperature = 1.0;
        options.sampling.seed = seed;
        model.generate("And God said", &options).unwrap()
    };
    assert_eq!(with_seed(1), with_seed(1));
    assert_ne!(with_seed(1).tokens, with_seed(2).tokens);
}

#[test]
fn logprobs_are_those_of_the_logits() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let mut options = options(4);
    options.logprobs = Some(3);
    let prompt = model.tokenize("And God said").unwrap();
    let generation = model.generate(prompt.clone(), &options).unwrap();
    assert_eq!(generation.logprobs.len(), generation.tokens.len());
    let vocab = model.snapshot().spec().vocab_size;
    let all = [&prompt[..], &generation.tokens].concat();
    let logits = model.logits(&all).unwrap();
    for (index, logprobs) in generation.logprobs.iter().enumerate() {
        let row = &logits[(prompt.len() - 1 + index) * vocab..][..vocab];
        let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
        let expected = f64::from(row[generation.tokens[index] as usize]) - total.ln();
        assert!((f64::from(logprobs.chosen.logprob) - expected).abs() < 1e-4);
        assert_eq!(logprobs.top.len(), 3);
        // Greedy: the chosen token is the best.
        assert_eq!(logprobs.top[0], logprobs.chosen);
        assert!(logprobs.top.is_sorted_by(|a, b| a.logprob >= b.logprob));
    }
}

#[test]
fn cancelling_ends_at_the_next_token_and_the_session_goes_on() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let cancel = Arc::new(AtomicBool::new(false));
    let mut options = options(24);
    options.cancel = Some(Arc::clone(&cancel));
    let mut session = model.session();
    let mut stream = session.stream("And God said", &options).unwrap();
    stream.next().unwrap().unwrap();
    stream.next().unwrap().unwrap();
    cancel.store(true, Ordering::Relaxed);
    assert!(stream.next().is_none());
    let first = stream.finish().unwrap();
    assert_eq!((first.tokens.len(), first.finish_reason), (2, FinishReason::Cancelled));

    cancel.store(false, Ordering::Relaxed);
    let second = session.generate(Vec::new(), &options).unwrap();
    cancel.store(false, Ordering::Relaxed);
    let mut whole = model.tokenize("And God said").unwrap();
    whole.extend(&first.tokens);
    assert_eq!(model.generate(whole, &options).unwrap(), second);
}

#[test]
fn a_stream_that_is_dropped_before_its_first_token_leaves_nothing_behind() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |options| options.prefill_chunk = 1);
    let cancel = Arc::new(AtomicBool::new(true));
    let mut session = model.session();
    let cancelled = GenerateOptions { cancel: Some(cancel), ..options(4) };
    assert!(session.generate("And God said unto Moses", &cancelled).unwrap().tokens.is_empty());
    assert!(session.tokens().is_empty());
    let expected = model.generate("In the beginning", &options(4)).unwrap();
    assert_eq!(session.generate("In the beginning", &options(4)).unwrap(), expected);
}

#[test]
fn a_session_can_be_rewound() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let mut session = model.session();
    let first = session.generate("And God said", &options(8)).unwrap();
    // To where it is not yet: nothing is forgotten.
    session.truncate(usize::MAX / 2 + 1);
    session.truncate(first.prompt_tokens);
    let again = session.generate(Vec::new(), &options(8)).unwrap();
    assert_eq!(again, first);
}

#[test]
fn several_threads_use_one_model() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let expected = model.generate("And God said", &options(12)).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(model.generate("And God said", &options(12)).unwrap(), expected));
        }
    });
}

#[test]
fn a_chat_without_a_template_is_refused() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let messages = [serde_json::json!({"role": "user", "content": "Hello"})];
    let request = ChatRequest { messages: &messages, ..ChatRequest::default() };
    let error = open(&chain, |_| ()).chat(&request, &options(4)).unwrap_err();
    assert!(matches!(error, ManagerError::Chat(_)), "{error:?}");
}

#[test]
fn a_model_without_a_tokenizer_takes_tokens_only() {
    let (chain, _) = imported(&fixture("qwen3"), None);
    let model = open(&chain, |_| ());
    assert!(matches!(model.generate("And", &options(4)), Err(ManagerError::NoTokenizer)));
    assert_eq!(model.generate([4, 5], &options(4)).unwrap().text, "");
}

#[test]
fn the_model_must_be_named_where_there_are_several() {
    let chain = Chain::in_memory().unwrap();
    let refuse = |chain: &Chain| MoEModelManager::open(chain, &ManagerOptions::default()).unwrap_err();
    assert!(matches!(refuse(&chain), ManagerError::NoModel));
    let first = import_into(&chain, &fixture("llama"), None);
    let second = import_into(&chain, &fixture("qwen3"), None);
    match refuse(&chain) {
        ManagerError::ManyModels { mut models } => {
            models.sort();
            let mut expected = vec![first, second];
            expected.sort();
            assert_eq!(models, expected);
        }
        error => panic!("{error:?}"),
    }
    assert_eq!(*open(&chain, |options| options.model = Some(second)).model(), second);
}

#[test]
fn usage_counts_every_routed_token() {
    let (chain, _) = imported(&tiny_kjv(), None);
    let model = open(&chain, |_| ());
    let generation = model.generate("And God said", &options(10)).unwrap();
    // The last token is never read, and each token uses two experts in each of four layers.
    let read = generation.prompt_tokens + generation.tokens.len() - 1;
    let experts = model.usage().experts();
    assert_eq!(experts.iter().map(|expert| expert.tokens).sum::<u64>(), (4 * 2 * read) as u64);
    for layer in 0..4 {
        let share: f64 = experts.iter().filter(|e| e.layer == layer).map(|e| e.weight_share).sum();
        assert!((share - 1.0).abs() < 1e-6);
    }
    let pairs: u64 = model.usage().co_use().iter().map(|pair| pair.tokens).sum();
    assert_eq!(pairs, (4 * read) as u64);
    let top = model.usage().top(1);
    assert_eq!(top[0].tokens, experts.iter().map(|expert| expert.tokens).max().unwrap());
    assert!(top[0].latency_mean_ns.unwrap() > 0.0);
    model.usage().reset().unwrap();
    assert!(model.usage().top(1).is_empty());
}

#[test]
fn a_shared_session_is_had_by_one_at_a_time_and_comes_back() {
    let (chain, _) = imported(&fixture("mixtral"), None);
    let model = open(&chain, |_| {});
    let options = GenerateOptions { max_tokens: Some(6), ignore_eos: true, ..GenerateOptions::default() };
    let prompt = || vec![3_u32, 17, 99];
    let expected = model.generate(prompt(), &options).unwrap().tokens;

    let shared = SharedSession::new(model.session());
    let busy = |error: ManagerError| matches!(error, ManagerError::SessionBusy);
    let mut stream = shared.stream(prompt(), &options).unwrap();
    let first = stream.next().unwrap().unwrap().token;
    assert_eq!(first, expected[0]);
    assert!(shared.stream(prompt(), &options).is_err_and(busy));
    assert!(shared.with(|session| session.tokens().len()).is_err_and(busy));
    // Dropped, it leaves what it had said.
    drop(stream);
    assert_eq!(shared.with(|session| session.tokens().to_vec()).unwrap(), [&prompt()[..], &[first]].concat());

    // Options that are refused leave the session where it was, and so does the end of a stream.
    let wrong = GenerateOptions { max_tokens: Some(100_000), ..options.clone() };
    assert!(shared.stream(Vec::<u32>::new(), &wrong).is_err());
    let rest = GenerateOptions { max_tokens: Some(5), ..options };
    let generation = shared.stream(Vec::<u32>::new(), &rest).unwrap();
    let pieces: Vec<u32> = generation.map(|piece| piece.unwrap().token).collect();
    assert_eq!(pieces, expected[1..]);
    assert_eq!(shared.with(|session| session.tokens().len()).unwrap(), 9);
}

#[test]
fn a_session_that_fails_midway_is_as_it_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain::open(dir.path()).unwrap();
    import_into(&chain, &tiny_kjv(), None);
    let experts = chain.blocks(ChainId::Parameter).map(Result::unwrap);
    let experts = experts.filter(|block| block.header().kind == BlockKind::EXPERT);
    let (mut failed, mut midway) = (0, 0);
    for block in experts {
        let name = block.header().payload.hash.to_string();
        let path = dir.path().join("payloads").join(&name[..2]).join(&name);
        let hidden = path.with_extension("hidden");
        std::fs::rename(&path, &hidden).unwrap();
        let chain = Chain::open_read_only(dir.path()).unwrap();
        let model = open(&chain, |_| ());
        let mut session = model.session();
        if session.generate("And God said", &options(8)).is_err() {
            failed += 1;
            assert!(session.tokens().is_empty());
            let mut stream = session.stream("And God said", &options(8)).unwrap();
            midway += usize::from(stream.by_ref().take_while(Result::is_ok).count() > 0);
        }
        std::fs::rename(&hidden, &path).unwrap();
    }
    assert!(failed > 0 && midway > 0, "{failed} experts were needed, {midway} of them not at first");
}
