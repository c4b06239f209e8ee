use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;

fn sampled(temperature: f32) -> SamplingOptions {
    SamplingOptions { temperature, ..SamplingOptions::default() }
}

fn sampler(options: &SamplingOptions) -> Sampler {
    Sampler::new(Isa::detect(), options).unwrap()
}

/// What the samplers leave, with probabilities.
fn distribution(options: &SamplingOptions, logits: &[f32], history: &[u32]) -> Vec<(u32, f64)> {
    let mut sampler = sampler(options);
    sampler.score(logits, history);
    sampler.filter();
    let total: f64 = sampler.candidates.iter().map(|c| f64::from(c.weight)).sum();
    sampler.candidates.iter().map(|c| (c.token, f64::from(c.weight) / total)).collect()
}

/// The samplers as transformers writes them: each masks the whole vocabulary, with probabilities in
/// f64 and sorted copies. Also returns how close a decision was, so that a test can leave out coin flips.
fn oracle(options: &SamplingOptions, logits: &[f32], history: &[u32]) -> (Vec<(u32, f64)>, f64) {
    let mut scores = logits.to_vec();
    let mut margin = f64::INFINITY;
    if let Some(penalty) = options.repetition_penalty {
        for (token, score) in scores.iter_mut().enumerate() {
            if history.contains(&(token as u32)) {
                *score = if *score < 0.0 { *score * penalty } else { *score / penalty };
            }
        }
    }
    let mut scores: Vec<f64> = scores.into_iter().map(|s| f64::from(s / options.temperature)).collect();
    let descending = |scores: &[f64]| {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].partial_cmp(&scores[a]).unwrap().then(a.cmp(&b)));
        order
    };
    let softmax = |scores: &[f64]| -> Vec<f64> {
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let exps: Vec<f64> = scores.iter().map(|s| (s - largest).exp()).collect();
        let total: f64 = exps.iter().sum();
        exps.iter().map(|e| e / total).collect()
    };
    if let Some(k) = options.top_k {
        let least = scores[descending(&scores)[k.min(scores.len()) - 1]];
        scores.iter_mut().filter(|s| **s < least).for_each(|s| *s = f64::NEG_INFINITY);
    }
    if let Some(p) = options.top_p {
        let probabilities = softmax(&scores);
        let mut sum = 0.0;
        for (rank, token) in descending(&scores).into_iter().enumerate() {
            margin = margin.min((sum - f64::from(p)).abs());
            if rank > 0 && sum >= f64::from(p) {
                scores[token] = f64::NEG_INFINITY;
            }
            sum += probabilities[token];
        }
    }
    if let Some(p) = options.min_p {
        let probabilities = softmax(&scores);
        let least = f64::from(p) * probabilities.iter().copied().fold(0.0, f64::max);
        for (score, probability) in scores.iter_mut().zip(probabilities) {
            margin = margin.min((probability - least).abs());
            if probability < least {
                *score = f64::NEG_INFINITY;
            }
        }
    }
    let left = (0..).zip(softmax(&scores)).zip(&scores).filter(|(_, s)| **s > f64::NEG_INFINITY);
    (left.map(|(entry, _)| entry).collect(), margin)
}

fn assert_close(found: &[(u32, f64)], expected: &[(u32, f64)], case: &str) {
    let tokens = |list: &[(u32, f64)]| list.iter().map(|(token, _)| *token).collect::<Vec<_>>();
    assert_eq!(tokens(found), tokens(expected), "{case}");
    for ((token, p), (_, q)) in found.iter().zip(expected) {
        assert!((p - q).abs() <= 2e-6 * (1.0 + q), "{case}: token {token}: {p} {q}");
    }
}

#[test]
fn golden_values_of_transformers() {
    let golden: Json = serde_json::from_str(include_str!("../../../tests/golden/sampling.json")).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 60);
    for case in cases {
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
        let options: SamplingOptions = serde_json::from_value(case["options"].clone()).unwrap();
        let expected: Vec<(u32, f64)> = serde_json::from_value(case["probabilities"].clone()).unwrap();
        assert_close(&distribution(&options, &logits, &history), &expected, &case["options"].to_string());
    }
    for case in golden["greedy"].as_array().unwrap() {
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let history: Vec<u32> = serde_json::from_value(case["history"].clone()).unwrap();
        let penalty = serde_json::from_value(case["repetition_penalty"].clone()).unwrap();
        let options = SamplingOptions { repetition_penalty: penalty, ..SamplingOptions::default() };
        let choice = sampler(&options).next(&logits, &history).unwrap();
        assert_eq!(Some(u64::from(choice.token)), case["token"].as_u64());
    }
    for case in golden["logprobs"].as_array().unwrap() {
        let logits: Vec<f32> = serde_json::from_value(case["logits"].clone()).unwrap();
        let expected: Vec<f32> = serde_json::from_value(case["logprobs"].clone()).unwrap();
        let all = top_logprobs(Isa::detect(), &logits, 0, logits.len()).unwrap();
        assert_eq!(all.top.len(), expected.len());
        for TokenLogprob { token, logprob } in all.top {
            assert!((logprob - expected[token as usize]).abs() <= 1e-5, "{token}");
        }
    }
}

fn logits() -> impl Strategy<Value = Vec<f32>> {
    // Few distinct values, so that ties are common.
    let coarse = (-8..8_i8).prop_map(|n| f32::from(n) * 0.5);
    let fine = -9.0..9.0_f32;
    let masked = Just(f32::NEG_INFINITY);
    let logit = prop_oneof![4 => coarse, 4 => fine, 1 => masked];
    (0.0..3.0_f32, prop::collection::vec(logit, 0..90)).prop_map(|(first, mut rest)| {
        rest.push(first);
        rest
    })
}

fn options() -> impl Strategy<Value = SamplingOptions> {
    let fraction = || prop::option::of(0.0..=1.0_f32);
    (0.1..3.0_f32, prop::option::of(1..100_usize), fraction(), fraction(), prop::option::of(0.2..3.0_f32))
        .prop_map(|(temperature, top_k, top_p, min_p, repetition_penalty)| SamplingOptions {
            temperature,
            top_k,
            top_p,
            min_p,
            repetition_penalty,
            seed: 0,
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn every_chain_of_samplers_equals_the_oracle(
        logits in logits(),
        history in prop::collection::vec(0..120_u32, 0..20),
        options in options(),
    ) {
        let (expected, margin) = oracle(&options, &logits, &history);
        prop_assume!(margin > 1e-5);
        let found = distribution(&options, &logits, &history);
        assert_close(&found, &expected, &format!("{options:?}"));
    }

    #[test]
    fn the_largest_logit_is_greedy_and_ties_go_to_the_lowest_token(logits in logits()) {
        let choice = sampler(&SamplingOptions::default()).next(&logits, &[]).unwrap();
        let mut best = 0;
        for (token, logit) in logits.iter().enumerate() {
            if *logit > logits[best] {
                best = token;
            }
        }
        prop_assert_eq!(choice, Choice { token: best as u32, probability: 1.0, candidates: 1 });
    }

    #[test]
    fn the_kth_largest_is_that_of_the_sorted_values(
        values in prop::collection::vec(-20..20_i16, 1..6000),
        k in 1..6000_usize,
    ) {
        let values: Vec<f32> = values.into_iter().map(f32::from).collect();
        let k = k.min(values.len());
        let mut sorted = values.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        prop_assert_eq!(kth_largest(&values, k, &mut vec![1.0]), sorted[k - 1]);
    }
}

/// A pseudo-random vocabulary; well spread, without ties.
fn vocabulary(len: u64) -> Vec<f32> {
    let spread = |n: u64| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 1e6;
    (0..len).map(spread).collect()
}

#[test]
fn large_vocabularies_equal_the_oracle() {
    // Past the sizes at which top-k prunes and top-p sorts a second and third head.
    let logits = vocabulary(20_000);
    for (top_k, top_p) in [
        (Some(5000), None),
        (None, Some(0.05)),
        (None, Some(0.5)),
        (Some(9000), Some(0.999)),
        (Some(1), None),
    ] {
        let options = SamplingOptions { top_k, top_p, ..sampled(1.5) };
        let (expected, margin) = oracle(&options, &logits, &[]);
        assert!(margin > 1e-7);
        assert_close(&distribution(&options, &logits, &[]), &expected, &format!("{options:?}"));
    }
}

#[test]
fn ties_at_the_kth_place_are_all_kept() {
    let options = SamplingOptions { top_k: Some(2), ..sampled(1.0) };
    let kept = distribution(&options, &[1.0, 3.0, 1.0, -0.0, 1.0, 0.0], &[]);
    assert_eq!(kept.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1, 2, 4]);
    let zeros = SamplingOptions { top_k: Some(1), ..sampled(1.0) };
    assert_eq!(distribution(&zeros, &[-0.0, 0.0, -1.0], &[]).len(), 2);
}

#[test]
fn top_p_keeps_the_lower_of_equal_tokens() {
    let options = SamplingOptions { top_p: Some(0.5), ..sampled(1.0) };
    let kept = distribution(&options, &[0.0, 0.0, 0.0, 0.0], &[]);
    assert_eq!(kept.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [0, 1]);
    let none = SamplingOptions { top_p: Some(0.0), ..sampled(1.0) };
    assert_eq!(distribution(&none, &[0.0, 1.0, 1.0], &[]), [(1, 1.0)]);
}

#[test]
fn repeated_tokens_are_penalized_once() {
    let options = SamplingOptions { repetition_penalty: Some(2.0), ..SamplingOptions::default() };
    let mut sampler = sampler(&options);
    assert_eq!(sampler.next(&[4.0, 1.5, -1.0], &[0, 0, 0, 7]).unwrap().token, 0);
    assert_eq!(sampler.next(&[2.0, 1.5, -1.0], &[0, 0, 0, u32::MAX]).unwrap().token, 1);
    assert_eq!(sampler.next(&[-2.0, -1.5, -1.0], &[2]).unwrap().token, 1);
}

#[test]
fn impossible_logits_are_refused_and_draw_nothing() {
    for options in [SamplingOptions::default(), sampled(1.0)] {
        let mut sampler = sampler(&options);
        let mut refused = |logits: &[f32]| sampler.next(logits, &[]).unwrap_err();
        assert_eq!(refused(&[0.0, f32::NAN, f32::NAN]), SamplingError::NanLogit { token: 1 });
        assert_eq!(refused(&[0.0, 1.0, f32::INFINITY]), SamplingError::InfiniteLogit { token: 2 });
        assert_eq!(refused(&[f32::NEG_INFINITY; 3]), SamplingError::NoCandidate { vocab_size: 3 });
        assert_eq!(refused(&[]), SamplingError::NoCandidate { vocab_size: 0 });
        let mut fresh = self::sampler(&options);
        for _ in 0..20 {
            let logits = vocabulary(50);
            assert_eq!(sampler.next(&logits, &[]).unwrap(), fresh.next(&logits, &[]).unwrap());
        }
    }
}

#[test]
fn extreme_scores_stay_finite() {
    let logits = [f32::MAX, f32::MIN, -1e30, f32::NEG_INFINITY];
    for temperature in [MIN_TEMPERATURE, 1.0, f32::MAX] {
        let options = SamplingOptions { repetition_penalty: Some(1e-30), ..sampled(temperature) };
        let choice = sampler(&options).next(&logits, &[0, 1, 2, 3]).unwrap();
        assert!(choice.token < 3 && choice.probability > 0.0, "{choice:?}");
        let all_low = [-1e38_f32, -2e38];
        assert!(sampler(&sampled(temperature)).next(&all_low, &[]).unwrap().probability > 0.0);
    }
}

#[test]
fn options_out_of_range_are_named() {
    let default = SamplingOptions::default();
    let cases = [
        ("temperature", SamplingOptions { temperature: -0.1, ..default }),
        ("temperature", SamplingOptions { temperature: -0.0, ..default }),
        ("temperature", SamplingOptions { temperature: f32::NAN, ..default }),
        ("temperature", SamplingOptions { temperature: f32::INFINITY, ..default }),
        // Logits divided by these overflowed and tied: a draw of chance from the best tokens.
        ("temperature", sampled(1e-45)),
        ("temperature", sampled(1e-38)),
        ("temperature", sampled(MIN_TEMPERATURE.next_down())),
        ("top_k", SamplingOptions { top_k: Some(0), ..default }),
        ("top_p", SamplingOptions { top_p: Some(1.01), ..default }),
        ("top_p", SamplingOptions { top_p: Some(f32::NAN), ..default }),
        ("min_p", SamplingOptions { min_p: Some(-0.01), ..default }),
        ("repetition_penalty", SamplingOptions { repetition_penalty: Some(0.0), ..default }),
        ("repetition_penalty", SamplingOptions { repetition_penalty: Some(f32::INFINITY), ..default }),
    ];
    for (name, options) in cases {
        match Sampler::new(Isa::detect(), &options) {
            Err(SamplingError::OutOfRange { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn the_smallest_temperature_keeps_the_order_of_logits() {
    for (logits, best) in [([3e8, 2e8, -3e8], 0), ([5.0, 5.000_001, 4.0], 1)] {
        for seed in 0..20 {
            let mut sampler = sampler(&SamplingOptions { seed, ..sampled(MIN_TEMPERATURE) });
            assert_eq!(sampler.next(&logits, &[]).unwrap().token, best);
        }
    }
}

/// An f32 was once told in the digits of the f64 beside it.
#[test]
fn a_refused_number_is_the_one_that_was_given() {
    let options = SamplingOptions { top_p: Some(1.1), ..SamplingOptions::default() };
    assert_eq!(options.check().unwrap_err().to_string(), "top_p = 1.1 is out of range: expected 0 to 1");
}

#[test]
fn effective_options_choose_alike() {
    let idle = SamplingOptions {
        temperature: 0.0,
        top_k: Some(5),
        top_p: Some(0.5),
        min_p: Some(0.1),
        repetition_penalty: Some(1.0),
        seed: 9,
    };
    assert_eq!(idle.effective(), SamplingOptions::default());
    let active = SamplingOptions { temperature: 1.0, top_p: Some(1.0), min_p: Some(0.0), ..idle };
    let effective = SamplingOptions { top_k: Some(5), seed: 9, ..sampled(1.0) };
    assert_eq!(active.effective(), effective);
}

/// ChaCha8 as in RFC 8439 but with 8 rounds, a 64-bit counter and a 64-bit stream of 0.
fn chacha8_words(key: &[u8; 32], block: u64) -> [u32; 16] {
    let mut start = [0x6170_7865, 0x3320_646e, 0x7962_2d32, 0x6b20_6574, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (word, bytes) in start[4..12].iter_mut().zip(key.chunks_exact(4)) {
        *word = u32::from_le_bytes(bytes.try_into().unwrap());
    }
    (start[12], start[13]) = (block as u32, (block >> 32) as u32);
    let mut x = start;
    let mut quarter = |a: usize, b: usize, c: usize, d: usize| {
        for (rotate_d, rotate_b) in [(16, 12), (8, 7)] {
            x[a] = x[a].wrapping_add(x[b]);
            x[d] = (x[d] ^ x[a]).rotate_left(rotate_d);
            x[c] = x[c].wrapping_add(x[d]);
            x[b] = (x[b] ^ x[c]).rotate_left(rotate_b);
        }
    };
    for _ in 0..4 {
        (0..4).for_each(|i| quarter(i, 4 + i, 8 + i, 12 + i));
        (0..4).for_each(|i| quarter(i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4));
    }
    std::array::from_fn(|i| x[i].wrapping_add(start[i]))
}

#[test]
fn draws_follow_the_written_formula() {
    // 1024 equal tokens, whose sums are exact: the token is the top ten bits of the random word.
    let seed = 0x0123_4567_89ab_cdef;
    let mut sampler = sampler(&SamplingOptions { seed, ..sampled(1.0) });
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key[8..].copy_from_slice(b"blyan sampling stream 1\0");
    for draw in 0..100_u64 {
        let words = chacha8_words(&key, draw / 8);
        let place = 2 * (draw % 8) as usize;
        let word = u64::from(words[place + 1]) << 32 | u64::from(words[place]);
        let choice = sampler.next(&[0.25; 1024], &[]).unwrap();
        assert_eq!(u64::from(choice.token), word >> 54, "draw {draw}");
        assert_eq!(choice.candidates, 1024);
    }
}

#[test]
fn equal_seeds_repeat_and_other_seeds_do_not() {
    let run = |seed| {
        let mut sampler = sampler(&SamplingOptions { seed, top_k: Some(40), ..sampled(0.8) });
        (0..50).map(|_| sampler.next(&vocabulary(500), &[]).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn every_instruction_set_makes_the_same_choices() {
    let options = SamplingOptions { top_p: Some(0.9), min_p: Some(0.01), ..sampled(1.3) };
    let run = |isa| {
        let mut sampler = Sampler::new(isa, &options).unwrap();
        (0..50).map(|_| sampler.next(&vocabulary(3000), &[]).unwrap()).collect::<Vec<_>>()
    };
    let scalar = run(Isa::named("scalar").unwrap());
    for isa in Isa::available() {
        assert_eq!(run(isa), scalar, "{}", isa.name());
    }
}

#[test]
fn tokens_come_as_often_as_they_are_probable() {
    let logits = [0.0, 1.0, -1.0, 2.0, 0.5, -3.0, 1.5, f32::NEG_INFINITY, 0.25];
    let options = SamplingOptions { seed: 7, ..sampled(1.0) };
    let probabilities = distribution(&options, &logits, &[]);
    let mut sampler = sampler(&options);
    let draws = 20_000;
    let mut counts = [0_u32; 9];
    for _ in 0..draws {
        counts[sampler.next(&logits, &[]).unwrap().token as usize] += 1;
    }
    assert_eq!(counts[7], 0);
    let chi_square: f64 = probabilities
        .iter()
        .map(|&(token, p)| {
            let expected = p * f64::from(draws);
            (f64::from(counts[token as usize]) - expected).powi(2) / expected
        })
        .sum();
    // 7 degrees of freedom: 24.3 is exceeded once in a thousand seeds, and the seed is fixed.
    assert!(chi_square < 24.3, "{chi_square}");
}

#[test]
fn logprobs_are_of_the_raw_logits() {
    let logits = [1.0, 3.0, f32::NEG_INFINITY, 3.0, -0.0, 0.0];
    let logprobs = top_logprobs(Isa::detect(), &logits, 4, 3).unwrap();
    assert_eq!(logprobs.top.iter().map(|t| t.token).collect::<Vec<_>>(), [1, 3, 0]);
    let total: f64 = logits.iter().map(|&l| f64::from(l).exp()).sum();
    assert!((f64::from(logprobs.chosen.logprob) + total.ln()).abs() < 1e-6);
    let error = top_logprobs(Isa::detect(), &logits, 6, 0).unwrap_err();
    assert_eq!(error, SamplingError::UnknownToken { token: 6, vocab_size: 6 });
    assert_eq!(top_logprobs(Isa::detect(), &logits, 0, 99).unwrap().top.len(), 6);
}
