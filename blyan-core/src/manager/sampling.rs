//! Owns the choice of the next token from a row of logits.
//!
//! The order is that of transformers' `generate`: repetition penalty, temperature, top-k, top-p,
//! min-p, then one draw. All of it is bit-exact on every machine: comparisons, IEEE operations in the
//! order written here, and the softmax and logarithm of `kernels`.
//!
//! 1. *Repetition penalty* (arXiv:1909.05858): the logit of each token in the history, prompt
//!    included, once per distinct token: `l * penalty` if `l < 0`, else `l / penalty`.
//! 2. *Greedy* (temperature 0): the largest logit, ties to the lowest token; nothing below applies.
//! 3. *Temperature*: `l / temperature` in f32. Here as in step 1, overflow saturates at the largest
//!    finite f32; [`MIN_TEMPERATURE`] keeps it from logits below 3e8, whose order it would lose.
//! 4. *Top-k*: tokens whose score is at least the k-th largest, all that tie with it included, and
//!    above negative infinity.
//! 5. `w` = softmax of the scores that are left, ascending token, as the kernel defines it, in f32.
//!    Sums of `w` below are in f64, in the order given; none of the `w` is divided by them.
//! 6. *Top-p* (arXiv:1904.09751): tokens by descending score, ties by ascending token; each is kept
//!    while the sum of those before it is below `top_p` times the sum by ascending token. The first
//!    is always kept.
//! 7. *Min-p* (arXiv:2407.01082): tokens with `w >= min_p * largest w`, in f32.
//! 8. *Draw*: `u = (next_u64 >> 11) * 2^-53`; the first token, ascending, at which the running sum of
//!    `w` exceeds `u` times their whole sum.
//!
//! The random numbers are ChaCha8's key stream (stream 0, from block 0, little-endian 64-bit words)
//! under the key `seed as u64 little-endian ‖ "blyan sampling stream 1\0"`, one word a token.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::kernels::{FpEnv, Isa, math};

#[cfg(test)]
mod tests;

/// The smallest temperature that is not 0. Below it the logits of real models, divided, would overflow and
/// tie: the smaller the temperature, the more random the choice.
pub const MIN_TEMPERATURE: f32 = 1e-30;

/// How to choose each next token. The default is greedy.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamplingOptions {
    /// Divides the logits; 0 chooses greedily. Else at least [`MIN_TEMPERATURE`], 1e-30.
    pub temperature: f32,
    /// Keeps this many of the best tokens.
    pub top_k: Option<usize>,
    /// Keeps the best tokens that together reach this probability.
    pub top_p: Option<f32>,
    /// Keeps tokens at least this fraction as probable as the best.
    pub min_p: Option<f32>,
    /// Makes tokens that were seen already less likely if above 1.
    pub repetition_penalty: Option<f32>,
    /// Where the random numbers start.
    pub seed: u64,
}

impl Default for SamplingOptions {
    fn default() -> Self {
        Self { temperature: 0.0, top_k: None, top_p: None, min_p: None, repetition_penalty: None, seed: 0 }
    }
}

/// No token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// An option outside its range.
    #[error("{field} = {value} is out of range: expected {expected}")]
    OutOfRange {
        /// Name of the option.
        field: &'static str,
        /// Its value.
        value: f64,
        /// The values it may have.
        expected: &'static str,
    },
    /// A logit is NaN.
    #[error(
        "the logit of token {token} is NaN: a sum overflowed, or a key or value in a cache of f16; try one of f32"
    )]
    NanLogit {
        /// The first such token.
        token: u32,
    },
    /// A logit is positive infinity, so probabilities do not exist.
    #[error("the logit of token {token} is infinite: a sum overflowed")]
    InfiniteLogit {
        /// The first such token.
        token: u32,
    },
    /// There is no token with a logit above negative infinity.
    #[error("none of the {vocab_size} tokens can be chosen: every logit is negative infinity")]
    NoCandidate {
        /// Number of logits.
        vocab_size: usize,
    },
    /// Logits were asked about a token that has none.
    #[error("token {token} has no logit: the vocabulary has {vocab_size} tokens")]
    UnknownToken {
        /// The token.
        token: u32,
        /// Number of logits.
        vocab_size: usize,
    },
}

impl SamplingOptions {
    /// Checks every option.
    ///
    /// # Errors
    ///
    /// [`SamplingError::OutOfRange`] for the first option that is NaN or outside its range.
    pub fn check(&self) -> Result<(), SamplingError> {
        let check = |ok: bool, field, value: f64, expected| match ok {
            true => Ok(()),
            false => Err(SamplingError::OutOfRange { field, value, expected }),
        };
        let t = self.temperature;
        let greedy = t == 0.0 && t.is_sign_positive();
        let scales = t.is_finite() && t >= MIN_TEMPERATURE;
        check(greedy || scales, "temperature", decimal(t), "0 (greedy) or a number of at least 1e-30")?;
        if let Some(k) = self.top_k {
            check(k >= 1, "top_k", k as f64, "at least 1, or none to switch it off")?;
        }
        let fraction = |value: f32| (0.0..=1.0).contains(&value) && value.is_sign_positive();
        if let Some(p) = self.top_p {
            check(fraction(p), "top_p", decimal(p), "0 to 1")?;
        }
        if let Some(p) = self.min_p {
            check(fraction(p), "min_p", decimal(p), "0 to 1")?;
        }
        if let Some(penalty) = self.repetition_penalty {
            check(
                penalty.is_finite() && penalty > 0.0,
                "repetition_penalty",
                decimal(penalty),
                "a positive number",
            )?;
        }
        Ok(())
    }

    /// Whether no random number is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0
    }

    /// The same choices with every option that cannot change them switched off: what a receipt holds.
    pub fn effective(mut self) -> Self {
        if self.is_greedy() {
            self = Self { repetition_penalty: self.repetition_penalty, ..Self::default() };
        }
        self.top_p = self.top_p.filter(|&p| p < 1.0);
        self.min_p = self.min_p.filter(|&p| p > 0.0);
        self.repetition_penalty = self.repetition_penalty.filter(|&penalty| penalty != 1.0);
        self
    }
}

/// The f64 of an f32's shortest decimal: what was given, in all likelihood, and not 1.100000023841858.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}

/// A chosen token.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Choice {
    /// The token.
    pub token: u32,
    /// Its probability among the tokens that the samplers left; 1 if greedy.
    pub probability: f32,
    /// How many tokens the samplers left; 1 if greedy.
    pub candidates: usize,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    token: u32,
    score: f32,
    weight: f32,
}

/// Chooses tokens of one sequence, one after another.
///
/// Two samplers with the same options make the same choices from the same logits and histories.
#[derive(Debug, Clone)]
pub struct Sampler {
    isa: Isa,
    options: SamplingOptions,
    random: ChaCha8Rng,
    /// Logits after penalty and temperature, by token.
    scores: Vec<f32>,
    /// Bit set of the tokens in the history.
    seen: Vec<u64>,
    candidates: Vec<Candidate>,
    scratch: Vec<f32>,
}

impl Sampler {
    /// A sampler at the start of its random numbers. The instruction set changes no choice.
    ///
    /// # Errors
    ///
    /// As [`SamplingOptions::check`].
    pub fn new(isa: Isa, options: &SamplingOptions) -> Result<Self, SamplingError> {
        options.check()?;
        Ok(Self {
            isa,
            options: options.effective(),
            random: ChaCha8Rng::from_seed(key(options.seed)),
            scores: Vec::new(),
            seen: Vec::new(),
            candidates: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Chooses from `logits`, one for each token of the vocabulary. `history` is every token before,
    /// prompt and output; only the repetition penalty reads it, and ignores tokens without a logit.
    ///
    /// # Errors
    ///
    /// [`SamplingError`] if a logit is NaN or positive infinity, or all are negative infinity. No
    /// random number is used up then.
    pub fn next(&mut self, logits: &[f32], history: &[u32]) -> Result<Choice, SamplingError> {
        let _env = FpEnv::enter();
        let largest = check_logits(logits)?;
        if self.options.is_greedy() && self.options.repetition_penalty.is_none() {
            return Ok(greedy(logits, largest));
        }
        self.score(logits, history);
        if self.options.is_greedy() {
            return Ok(greedy(&self.scores, max(&self.scores)));
        }
        self.filter();
        Ok(self.draw())
    }

    /// Steps 1 and 3.
    fn score(&mut self, logits: &[f32], history: &[u32]) {
        self.scores.clear();
        self.scores.extend_from_slice(logits);
        if let Some(penalty) = self.options.repetition_penalty {
            self.penalize(penalty, history);
        }
        if self.options.is_greedy() {
            return;
        }
        let temperature = self.options.temperature;
        for score in &mut self.scores {
            // Adding 0 turns -0 into +0, so that both compare as one value everywhere below.
            *score = saturate(*score, *score / temperature) + 0.0;
        }
    }

    /// Steps 4 to 7: at least one candidate, the best, is left.
    fn filter(&mut self) {
        self.keep_top_k();
        if let Some(top_p) = self.options.top_p {
            self.keep_top_p(top_p);
        }
        if let Some(min_p) = self.options.min_p {
            let largest = self.candidates.iter().fold(0.0_f32, |w, candidate| w.max(candidate.weight));
            let least = min_p * largest;
            self.candidates.retain(|candidate| candidate.weight >= least);
        }
    }

    fn penalize(&mut self, penalty: f32, history: &[u32]) {
        self.seen.clear();
        self.seen.resize(self.scores.len().div_ceil(64), 0);
        for &token in history {
            let token = token as usize;
            let Some(score) = self.scores.get_mut(token) else { continue };
            let bit = 1 << (token % 64);
            let Some(word) = self.seen.get_mut(token / 64) else { continue };
            if *word & bit != 0 {
                continue;
            }
            *word |= bit;
            *score = saturate(*score, if *score < 0.0 { *score * penalty } else { *score / penalty });
        }
    }

    /// Steps 4 and 5: the tokens that top-k leaves, in ascending order, with their weights.
    fn keep_top_k(&mut self) {
        let least = match self.options.top_k {
            Some(k) if k < self.scores.len() => kth_largest(&self.scores, k, &mut self.scratch),
            _ => f32::NEG_INFINITY,
        };
        self.candidates.clear();
        self.scratch.clear();
        // Nearly all runs of 32 hold no candidate; a fold without a branch is fast to find that out.
        for (run, scores) in (0..).step_by(32).zip(self.scores.chunks(32)) {
            if !scores.iter().fold(false, |any, &score| any | (score >= least)) {
                continue;
            }
            for (token, &score) in (run..).zip(scores) {
                if score >= least && score > f32::NEG_INFINITY {
                    self.candidates.push(Candidate { token, score, weight: 0.0 });
                    self.scratch.push(score);
                }
            }
        }
        self.isa.softmax(&mut self.scratch);
        for (candidate, &weight) in self.candidates.iter_mut().zip(&self.scratch) {
            candidate.weight = weight;
        }
    }

    /// Step 6. Sorts ever larger heads of the candidates instead of all of them: nearly always a
    /// few of the best reach `top_p`.
    fn keep_top_p(&mut self, top_p: f32) {
        let candidates = &mut self.candidates[..];
        let better =
            |a: &Candidate, b: &Candidate| b.score.total_cmp(&a.score).then_with(|| a.token.cmp(&b.token));
        let total: f64 = candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let limit = f64::from(top_p) * total;
        let (mut kept, mut sum, mut head) = (0, 0.0, 64);
        'heads: while kept < candidates.len() {
            let rest = &mut candidates[kept..];
            let head_len = head.min(rest.len());
            if head_len < rest.len() {
                rest.select_nth_unstable_by(head_len - 1, better);
            }
            rest[..head_len].sort_unstable_by(better);
            for candidate in &rest[..head_len] {
                if kept > 0 && sum >= limit {
                    break 'heads;
                }
                sum += f64::from(candidate.weight);
                kept += 1;
            }
            head *= 8;
        }
        self.candidates.truncate(kept);
        self.candidates.sort_unstable_by_key(|candidate| candidate.token);
    }

    /// Step 8.
    fn draw(&mut self) -> Choice {
        let total: f64 = self.candidates.iter().map(|candidate| f64::from(candidate.weight)).sum();
        let uniform = (self.random.next_u64() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64);
        let limit = uniform * total;
        let mut sum = 0.0;
        let mut chosen = Candidate { token: 0, score: 0.0, weight: 0.0 };
        for &candidate in &self.candidates {
            if candidate.weight == 0.0 {
                continue;
            }
            // Should rounding make `limit` the whole total, the last token is the one.
            chosen = candidate;
            sum += f64::from(candidate.weight);
            if sum > limit {
                break;
            }
        }
        let probability = (f64::from(chosen.weight) / total) as f32;
        Choice { token: chosen.token, probability, candidates: self.candidates.len() }
    }
}

/// The ChaCha8 key of a seed.
fn key(seed: u64) -> [u8; 32] {
    let mut key = *b"\0\0\0\0\0\0\0\0blyan sampling stream 1\0";
    key[..8].copy_from_slice(&seed.to_le_bytes());
    key
}

/// What `before` was turned into, kept finite; but a token that was ruled out stays so.
fn saturate(before: f32, after: f32) -> f32 {
    if before == f32::NEG_INFINITY { before } else { after.clamp(f32::MIN, f32::MAX) }
}

/// The largest of numbers without NaN; negative infinity if there is none.
fn max(values: &[f32]) -> f32 {
    // Sixteen lanes, so that the compiler can use vectors. The order does not matter to a maximum.
    let mut lanes = [f32::NEG_INFINITY; 16];
    let chunks = values.chunks_exact(16);
    let tail = chunks.remainder();
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = if value > *lane { value } else { *lane };
        }
    }
    lanes.iter().chain(tail).fold(f32::NEG_INFINITY, |largest, &value| largest.max(value))
}

/// Refuses logits that have no probabilities; the largest of them.
fn check_logits(logits: &[f32]) -> Result<f32, SamplingError> {
    let position = |found: fn(&f32) -> bool| {
        (0..).zip(logits).find(|(_, logit)| found(logit)).map(|(token, _): (u32, _)| token)
    };
    if logits.iter().fold(false, |nan, logit| nan | logit.is_nan())
        && let Some(token) = position(|logit| logit.is_nan())
    {
        return Err(SamplingError::NanLogit { token });
    }
    let largest = max(logits);
    if largest == f32::INFINITY
        && let Some(token) = position(|&logit| logit == f32::INFINITY)
    {
        return Err(SamplingError::InfiniteLogit { token });
    }
    if largest == f32::NEG_INFINITY {
        return Err(SamplingError::NoCandidate { vocab_size: logits.len() });
    }
    Ok(largest)
}

fn greedy(scores: &[f32], largest: f32) -> Choice {
    let token = (0..).zip(scores).find(|&(_, &score)| score == largest).map_or(0, |(token, _)| token);
    Choice { token, probability: 1.0, candidates: 1 }
}

/// The k-th largest score; 1 <= k <= number of scores.
///
/// One pass that compares each score with the k-th largest so far, and rarely does more.
fn kth_largest(scores: &[f32], k: usize, top: &mut Vec<f32>) -> f32 {
    let room = k.saturating_mul(2).max(1024).min(scores.len());
    let mut least = f32::NEG_INFINITY;
    let shrink = |top: &mut Vec<f32>| {
        if top.len() < k {
            return f32::NEG_INFINITY;
        }
        let (_, &mut least, _) = top.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        top.truncate(k);
        least
    };
    top.clear();
    for &score in scores {
        // A score equal to the k-th largest so far does not change it.
        if score > least {
            top.push(score);
            if top.len() > room {
                least = shrink(top);
            }
        }
    }
    shrink(top)
}

/// A token with the logarithm of its probability under the raw logits, before any sampler.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Log-probabilities at one position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logprobs {
    /// The token that was chosen.
    pub chosen: TokenLogprob,
    /// The most probable tokens, best first, ties by ascending token.
    pub top: Vec<TokenLogprob>,
}

/// Log-softmax of the raw logits, for the chosen token and the `n` most probable ones.
///
/// `logprob = (l - m) + ln(p)` with `m` the largest logit and `p` its probability by the softmax
/// kernel; the difference in f32, the logarithm and the sum in f64, rounded to f32 at the end.
///
/// # Errors
///
/// [`SamplingError`] if a logit is NaN or positive infinity, all are negative infinity, or `chosen`
/// has none.
pub fn top_logprobs(isa: Isa, logits: &[f32], chosen: u32, n: usize) -> Result<Logprobs, SamplingError> {
    let _env = FpEnv::enter();
    let largest = check_logits(logits)?;
    let mut scratch = logits.to_vec();
    isa.softmax(&mut scratch);
    let ln_largest = math::ln_f64(f64::from(max(&scratch)));
    let logprob = |token: u32, logit: f32| {
        let logprob = (f64::from(logit - largest) + ln_largest) as f32;
        TokenLogprob { token, logprob }
    };
    let Some(&logit) = logits.get(chosen as usize) else {
        return Err(SamplingError::UnknownToken { token: chosen, vocab_size: logits.len() });
    };
    let mut top = Vec::new();
    if n > 0 {
        let least = kth_largest(logits, n.min(logits.len()), &mut scratch);
        top.extend((0..).zip(logits).filter(|&(_, &l)| l >= least).map(|(token, &l)| (token, l)));
        // Adding 0 makes both zeros one value, so that ties go by token alone.
        top.sort_by(|a: &(u32, f32), b| (b.1 + 0.0).total_cmp(&(a.1 + 0.0)).then(a.0.cmp(&b.0)));
        top.truncate(n);
    }
    let top = top.into_iter().map(|(token, l)| logprob(token, l)).collect();
    Ok(Logprobs { chosen: logprob(chosen, logit), top })
}
