//! Owns [`Receipt`]: what was run, complete enough to run again and compare.
//!
//! ```json
//! {"receipt_version":1,"claim":{"numerics_version":2,"model":"…",…},"seals":{"claim":{…},"options":{…}}}
//! ```
//!
//! Everything in the claim is an input of the run or can be computed again from those inputs: no
//! time, no machine, no name. Replaying recomputes the outputs, and [`Receipt::diff`] names each leaf
//! that differs.
//!
//! Recomputing cannot find a changed *input* that happens to leave the outputs alone, such as a seed
//! that a greedy run never reads: the changed claim is as true as the original. Seals make such a
//! change visible: eight bytes of hash for each field of the claim and of its options, two for each
//! token of the prompt and each stop string. They prove nothing, anyone can compute them; they tell
//! which field was edited after the run.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::de::{DeserializeOwned, Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value as Json;

use super::sampling::SamplingOptions;
use crate::format::Slot;
use crate::hash::{BlockHash, DomainHasher, LogitsDigest, ReceiptHash, SnapshotRoot};
use crate::kernels::FpEnv;
use crate::model::KvDType;

#[cfg(test)]
mod tests;

/// Version of the receipt's JSON.
pub const RECEIPT_VERSION: u32 = 1;

/// Largest receipt that is read, in bytes.
pub const MAX_RECEIPT_BYTES: usize = 256 << 20;

/// A receipt that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiptError {
    /// Too large.
    #[error("the receipt has {len_bytes} bytes: at most {MAX_RECEIPT_BYTES} are read")]
    TooLarge {
        /// Its size.
        len_bytes: usize,
    },
    /// Not the JSON of a receipt.
    #[error("not the JSON of a receipt of version {RECEIPT_VERSION}: {reason}")]
    Json {
        /// What the parser said.
        reason: String,
    },
    /// A receipt of another version.
    #[error("receipt_version is {version}, this program reads {RECEIPT_VERSION}")]
    Version {
        /// Its version.
        version: u32,
    },
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// A token that ends texts was chosen; it is the last output token.
    StopToken,
    /// A stop string appeared.
    StopString,
    /// `max_tokens` tokens were written.
    MaxTokens,
    /// The context of the model is full.
    ContextFull,
    /// The caller cancelled.
    Cancelled,
}

/// Every option that decides the outcome, with defaults resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceiptOptions {
    /// See [`SamplingOptions`].
    pub temperature: f32,
    /// See [`SamplingOptions`].
    pub top_k: Option<usize>,
    /// See [`SamplingOptions`].
    pub top_p: Option<f32>,
    /// See [`SamplingOptions`].
    pub min_p: Option<f32>,
    /// See [`SamplingOptions`].
    pub repetition_penalty: Option<f32>,
    /// See [`SamplingOptions`].
    pub seed: u64,
    /// Most output tokens.
    pub max_tokens: u64,
    /// Texts that end the output.
    pub stop: Vec<String>,
    /// Tokens that end the output, ascending.
    pub stop_token_ids: Vec<u32>,
    /// Element type of the KV cache.
    pub kv_cache: KvDType,
    /// How many log-probabilities were asked for at each position.
    pub logprobs: Option<u32>,
}

impl ReceiptOptions {
    /// The sampling part.
    pub fn sampling(&self) -> SamplingOptions {
        SamplingOptions {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            seed: self.seed,
        }
    }
}

/// What was run and what came out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// Version of the arithmetic.
    pub numerics_version: u32,
    /// The model block.
    pub model: BlockHash,
    /// Spec and slots of the model that ran.
    pub snapshot: SnapshotRoot,
    /// The spec block.
    pub spec: BlockHash,
    /// Tokens of the prompt.
    pub prompt_tokens: Vec<u32>,
    /// Options of the run.
    pub options: ReceiptOptions,
    /// Tokens that were chosen.
    pub output_tokens: Vec<u32>,
    /// The output as text; none if the model has no tokenizer.
    pub text: Option<String>,
    /// Why the run ended.
    pub finish_reason: FinishReason,
    /// Digest of the logits that each output token was chosen from.
    pub logits: LogitsDigest,
    /// Every block that was touched, by the name of its slot.
    #[serde(deserialize_with = "unique_slots")]
    pub blocks: BTreeMap<String, BlockHash>,
}

/// A claim with its seals.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    receipt_version: u32,
    claim: Claim,
    seals: Seals,
}

/// First eight bytes of a hash, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seal(u64);

impl Serialize for Seal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:016x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Seal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let seal = u64::from_str_radix(&text, 16).ok().filter(|seal| format!("{seal:016x}") == text);
        seal.map(Self).ok_or_else(|| D::Error::custom("a seal is 16 lowercase hexadecimal digits"))
    }
}

/// Seals of the claim's fields, of the options' one by one, and of the elements of those inputs that
/// are lists.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Seals {
    #[serde(deserialize_with = "unique_keys")]
    claim: BTreeMap<String, Seal>,
    #[serde(deserialize_with = "unique_keys")]
    options: BTreeMap<String, Seal>,
    /// Four hexadecimal digits for each token.
    prompt_tokens: String,
    /// Four hexadecimal digits for each stop string.
    stop: String,
}

/// One leaf in which two receipts differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Difference {
    /// JSON pointer (RFC 6901) into the receipt.
    pub path: String,
    /// What the receipt says; none if it lacks the leaf.
    pub claimed: Option<Json>,
    /// What was recomputed; none if there is no such leaf, or if all that is known is that the
    /// claimed value was edited after the receipt was sealed.
    pub recomputed: Option<Json>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show =
            |value: &Option<Json>| value.as_ref().map_or_else(|| "nothing".to_owned(), Json::to_string);
        match (&self.claimed, &self.recomputed) {
            (Some(claimed), None) => write!(f, "{}: {claimed} is not what was sealed", self.path),
            (claimed, recomputed) => {
                write!(f, "{}: claimed {}, recomputed {}", self.path, show(claimed), show(recomputed))
            }
        }
    }
}

impl Receipt {
    /// Seals a claim.
    pub fn new(mut claim: Claim) -> Self {
        claim.options.stop_token_ids.sort_unstable();
        claim.options.stop_token_ids.dedup();
        let seals = Seals::of(&claim);
        Self { receipt_version: RECEIPT_VERSION, claim, seals }
    }

    /// What was run and what came out.
    pub fn claim(&self) -> &Claim {
        &self.claim
    }

    /// The canonical bytes: fields in the order of the structs, maps by name, no white space.
    ///
    /// # Panics
    ///
    /// Never: texts, numbers and lists always serialize.
    pub fn to_json(&self) -> String {
        #[expect(clippy::expect_used, reason = "texts, numbers and lists always serialize")]
        serde_json::to_string(self).expect("a receipt serializes")
    }

    /// Reads a receipt, in any spelling of its JSON.
    ///
    /// # Errors
    ///
    /// [`ReceiptError`] for JSON of another form or version: unknown, missing or repeated fields
    /// included. Whether its content is true is for a replay to find out.
    pub fn from_json(json: &[u8]) -> Result<Self, ReceiptError> {
        if json.len() > MAX_RECEIPT_BYTES {
            return Err(ReceiptError::TooLarge { len_bytes: json.len() });
        }
        #[derive(Deserialize)]
        struct Version {
            receipt_version: u32,
        }
        // Numbers are read by f64 operations.
        let _env = FpEnv::enter();
        // The version first: another version may have other fields.
        let version = parse::<Version>(json)?.receipt_version;
        if version != RECEIPT_VERSION {
            return Err(ReceiptError::Version { version });
        }
        parse(json)
    }

    /// Names the receipt: `derive_key("blyan receipt 1")` of its canonical bytes.
    pub fn hash(&self) -> ReceiptHash {
        ReceiptHash::from_bytes(DomainHasher::receipt().update(self.to_json().as_bytes()).finish())
    }

    /// Every leaf in which `recomputed`, the receipt of running this one's inputs again, differs from
    /// this receipt; and every field that was edited after this receipt was sealed. None if the
    /// receipt is true.
    pub fn diff(&self, recomputed: &Self) -> Vec<Difference> {
        let mut differences = Vec::new();
        compare(Some(&json(self)), Some(&json(recomputed)), &mut String::new(), &mut differences);
        let fields = json(&self.claim);
        let resealed = Seals::of(&self.claim);
        let whole = broken(&self.seals.claim, &resealed.claim, "", &fields);
        let options = broken(&self.seals.options, &resealed.options, "/options", &fields);
        let tokens =
            broken_elements(&self.seals.prompt_tokens, &resealed.prompt_tokens, "/prompt_tokens", &fields);
        let stops = broken_elements(&self.seals.stop, &resealed.stop, "/options/stop", &fields);
        let edited = tokens.into_iter().chain(stops).chain(whole).chain(options);
        // An edited element breaks the seal of its list too; the element itself says more. A stranger's receipt may
        // have millions of them.
        let mut known: HashSet<String> =
            differences.iter().flat_map(|found| with_those_above(&found.path)).collect();
        for (path, value) in edited {
            if !known.contains(&path) {
                known.extend(with_those_above(&path));
                differences.push(Difference { path, claimed: value, recomputed: None });
            }
        }
        differences
    }
}

/// A path and those that it is below.
fn with_those_above(path: &str) -> impl Iterator<Item = String> + '_ {
    let above =
        path.match_indices('/').filter_map(|(end, _)| path.get(..end)).filter(|above| !above.is_empty());
    above.map(str::to_owned).chain([path.to_owned()])
}

/// Paths and values of the fields whose seal does not fit.
fn broken<'a>(
    claimed: &'a BTreeMap<String, Seal>,
    resealed: &'a BTreeMap<String, Seal>,
    below: &'a str,
    claim: &'a Json,
) -> impl Iterator<Item = (String, Option<Json>)> + 'a {
    resealed.iter().filter(|(name, seal)| claimed.get(*name) != Some(seal)).map(move |(name, _)| {
        let pointer = format!("{below}/{name}");
        (format!("/claim{pointer}"), claim.pointer(&pointer).cloned())
    })
}

/// Paths and values of the elements whose seal does not fit; none if elements came or went.
fn broken_elements(
    claimed: &str,
    resealed: &str,
    pointer: &str,
    claim: &Json,
) -> Vec<(String, Option<Json>)> {
    if claimed.len() != resealed.len() {
        return Vec::new();
    }
    let seals = claimed.as_bytes().chunks(ELEMENT_DIGITS).zip(resealed.as_bytes().chunks(ELEMENT_DIGITS));
    let broken =
        seals.enumerate().filter(|(_, (claimed, resealed))| claimed != resealed).map(|(index, _)| {
            let pointer = format!("{pointer}/{index}");
            (format!("/claim{pointer}"), claim.pointer(&pointer).cloned())
        });
    broken.collect()
}

/// The first eight bytes of the hash of a value at its place.
fn seal(pointer: &str, value: &Json) -> u64 {
    let mut hasher = DomainHasher::receipt();
    hasher.update(format!("seal {pointer} ").as_bytes()).update(value.to_string().as_bytes());
    let bytes = hasher.finish();
    let (head, _) = bytes.split_first_chunk().unwrap_or((&[0; 8], &[]));
    u64::from_be_bytes(*head)
}

/// Digits of an element's seal.
const ELEMENT_DIGITS: usize = 4;

/// The element seals of a list.
fn seal_elements(pointer: &str, list: Option<&Json>) -> String {
    let elements = list.and_then(Json::as_array).map_or(&[][..], Vec::as_slice).iter().enumerate();
    elements
        .map(|(index, value)| format!("{:04x}", seal(&format!("{pointer}/{index}"), value) >> 48))
        .collect()
}

impl Seals {
    fn of(claim: &Claim) -> Self {
        let claim = json(claim);
        let fields = claim.as_object().cloned().unwrap_or_default();
        let options = fields.get("options").and_then(Json::as_object).cloned().unwrap_or_default();
        // The options have a seal each instead of one together.
        let whole = fields.iter().filter(|(name, _)| *name != "options");
        let sealed = |below: &str, name: &String, value: &Json| {
            (name.clone(), Seal(seal(&format!("{below}/{name}"), value)))
        };
        Self {
            claim: whole.map(|(name, value)| sealed("", name, value)).collect(),
            options: options.iter().map(|(name, value)| sealed("/options", name, value)).collect(),
            prompt_tokens: seal_elements("/prompt_tokens", fields.get("prompt_tokens")),
            stop: seal_elements("/options/stop", options.get("stop")),
        }
    }
}

/// Parses JSON; an error names the field.
fn parse<T: DeserializeOwned>(json: &[u8]) -> Result<T, ReceiptError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let error = |reason: String| ReceiptError::Json { reason };
    let value = serde_path_to_error::deserialize(&mut deserializer)
        .map_err(|invalid| error(format!("{}: {}", invalid.path(), invalid.inner())))?;
    deserializer.end().map_err(|invalid| error(invalid.to_string()))?;
    Ok(value)
}

fn json(value: &impl Serialize) -> Json {
    // Through text, so that an f32 shows its own digits and not those of the f64 next to it. Texts,
    // numbers and lists always serialize.
    serde_json::to_string(value).and_then(|text| serde_json::from_str(&text)).unwrap_or_default()
}

/// Appends every differing leaf below `path`.
fn compare(a: Option<&Json>, b: Option<&Json>, path: &mut String, out: &mut Vec<Difference>) {
    if a == b {
        return;
    }
    let mut descend = |key: &str, a: Option<&Json>, b: Option<&Json>| {
        let len = path.len();
        path.push('/');
        path.push_str(&key.replace('~', "~0").replace('/', "~1"));
        compare(a, b, path, out);
        path.truncate(len);
    };
    match (a, b) {
        (Some(Json::Object(a)), Some(Json::Object(b))) => {
            for (key, value) in a {
                descend(key, Some(value), b.get(key));
            }
            for (key, value) in b.iter().filter(|(key, _)| !a.contains_key(*key)) {
                descend(key, None, Some(value));
            }
        }
        (Some(Json::Array(a)), Some(Json::Array(b))) => {
            for index in 0..a.len().max(b.len()) {
                descend(&index.to_string(), a.get(index), b.get(index));
            }
        }
        _ => out.push(Difference { path: path.clone(), claimed: a.cloned(), recomputed: b.cloned() }),
    }
}

/// A map that refuses repeated keys, which JSON allows.
fn unique_keys<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    struct Unique<V>(std::marker::PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut map = BTreeMap::new();
            while let Some((key, value)) = entries.next_entry::<String, V>()? {
                if map.contains_key(&key) {
                    return Err(A::Error::custom(format_args!("{key:?} is repeated")));
                }
                map.insert(key, value);
            }
            Ok(map)
        }
    }
    deserializer.deserialize_map(Unique(std::marker::PhantomData))
}

fn unique_slots<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, BlockHash>, D::Error> {
    let blocks: BTreeMap<String, BlockHash> = unique_keys(deserializer)?;
    match blocks.keys().find_map(|name| name.parse::<Slot>().err()) {
        Some(error) => Err(D::Error::custom(error)),
        None => Ok(blocks),
    }
}

/// Digests rows of logits: `derive_key("blyan logits 1")` over the vocabulary's size as `u64`
/// little-endian, then each row as binary32 little-endian with every NaN as `0x7fc00000`.
#[derive(Debug, Clone)]
pub struct LogitsHasher {
    hasher: DomainHasher,
}

impl LogitsHasher {
    /// A digest of no rows yet.
    pub fn new(vocab_size: usize) -> Self {
        let mut hasher = DomainHasher::logits();
        hasher.update(&(vocab_size as u64).to_le_bytes());
        Self { hasher }
    }

    /// Adds the logits that one token was chosen from.
    pub fn update(&mut self, row: &[f32]) {
        // Long enough for BLAKE3 to hash as many chunks side by side as it can.
        let mut bytes = [0; 1 << 15];
        for chunk in row.chunks(bytes.len() / 4) {
            for (place, &logit) in bytes.chunks_exact_mut(4).zip(chunk) {
                let bits = if logit.is_nan() { 0x7fc0_0000 } else { logit.to_bits() };
                place.copy_from_slice(&bits.to_le_bytes());
            }
            self.hasher.update(&bytes[..4 * chunk.len()]);
        }
    }

    /// The digest of the rows so far.
    pub fn digest(&self) -> LogitsDigest {
        LogitsDigest::from_bytes(self.hasher.finish())
    }
}
