//! Data on the chain: from proposal to ruling, what is refused on the way, and that where a dataset
//! stands follows from the set of blocks alone.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::checkpoints::{fixture, imported, tiny_kjv};
use blyan_core::chain::Validators;
use blyan_core::evolve::dataset::{
    self, Audit, Dataset, DatasetDraft, DatasetError, DatasetRule, Field, Findings, Ruling, Stage, Tally,
    TextFindings, Tokens, Vote,
};
use blyan_core::evolve::{
    Evidence, EvolveError, InvalidEvidence, Policy, PolicyError, PublicKey, Statement, Tier,
};
use blyan_core::manager::Snapshot;
use blyan_core::storage::{Access, MemoryMedium};
use blyan_core::{BlockHash, BlockKind, Chain, ChainId, Draft, Parent, ParentRole, PayloadHash};
use ed25519_dalek::SigningKey;
use proptest::prelude::*;
use semver::Version;
use serde_json::Value;

const VALIDATORS: [u8; 2] = [1, 2];
const VOTERS: [u8; 5] = [11, 12, 13, 14, 15];
const STRANGER: u8 = 99;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> PublicKey {
    PublicKey::of(&key(seed))
}

/// Two validators, five voters of whom three must vote, windows of four tokens.
fn rules(model: BlockHash) -> Policy {
    Policy {
        required: 1,
        voters: VOTERS.map(public).into(),
        quorum: 3,
        window: 4,
        tiers: [Tier::Gold, Tier::Silver].into(),
        ..Policy::new(model, VALIDATORS.map(public))
    }
}

fn draft() -> DatasetDraft {
    let tokens = vec![1, 2, 3, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    DatasetDraft {
        tier: Tier::Silver,
        ..DatasetDraft::of_tokens("numbers", tokens, 10, "CC0-1.0", "counted by hand")
    }
}

/// A chain with a small model, a policy and a dataset.
struct World {
    chain: Chain,
    model: BlockHash,
    policy: BlockHash,
    dataset: BlockHash,
}

impl World {
    fn new() -> Self {
        let (chain, model) = imported(&fixture("mixtral"), None);
        let policy = rules(model).append(&chain).unwrap();
        let dataset = dataset::propose(&chain, draft()).unwrap();
        Self { chain, model, policy, dataset }
    }

    fn audit(&self) -> BlockHash {
        dataset::audit(&self.chain, &self.policy, &self.dataset, &key(VALIDATORS[0])).unwrap()
    }

    fn vote(&self, voter: u8, approve: bool) -> BlockHash {
        dataset::vote(&self.chain, &self.policy, &self.dataset, &key(voter), approve).unwrap()
    }

    fn tally(&self) -> BlockHash {
        dataset::tally(&self.chain, &self.policy, &self.dataset).unwrap()
    }

    fn rule(&self) -> BlockHash {
        dataset::rule(&self.chain, &self.policy, &self.dataset).unwrap()
    }

    fn stage(&self) -> Stage {
        dataset::state(&self.chain, &self.policy, &self.dataset).unwrap().stage
    }

    /// A vote that no constructor would make.
    fn raw_vote(&self, voter: u8, audit: BlockHash, approve: bool) -> BlockHash {
        let vote = Vote { policy: self.policy, dataset: self.dataset, audit, approve };
        Statement::sign(&key(voter), vote).unwrap().append(&self.chain).unwrap()
    }

    fn tally_of(&self, votes: &[BlockHash]) -> Tally {
        let read = |vote: &BlockHash| Statement::<Vote>::read(&self.chain, vote).unwrap().body().approve;
        let in_favour = votes.iter().filter(|vote| read(vote)).count() as u32;
        Tally {
            tally_version: 1,
            policy: self.policy,
            dataset: self.dataset,
            in_favour,
            against: votes.len() as u32 - in_favour,
            votes: votes.iter().copied().collect(),
        }
    }

    fn ruling_of(&self, tally: BlockHash, accepted: bool) -> Ruling {
        let (policy, dataset) = (self.policy, self.dataset);
        Ruling { ruling_version: 1, policy, dataset, tally, accepted }
    }

    /// The blocks of a whole life: audit, votes, tally, ruling.
    fn accepted(&self) -> Vec<BlockHash> {
        let mut blocks = vec![self.audit()];
        blocks.extend([11, 12, 13].map(|voter| self.vote(voter, voter != 13)));
        blocks.push(self.tally());
        blocks.push(self.rule());
        blocks
    }
}

/// The draft that a stored block was.
fn copy(chain: &Chain, block: &BlockHash) -> Draft {
    let stored = chain.get(block).unwrap();
    let header = stored.header();
    Draft {
        lane: header.lane,
        kind: header.kind,
        name: header.name.clone(),
        version: header.version.clone(),
        parents: header.parents.clone(),
        payload: chain.payload(block).unwrap().to_vec(),
        media_type: header.payload.media_type.clone(),
    }
}

/// Appending is refused for this reason, and changes nothing.
macro_rules! refuses {
    ($chain:expr, $draft:expr, $pattern:pat $(if $guard:expr)?) => {{
        let before = ($chain.root().unwrap(), $chain.len().unwrap());
        let error = EvolveError::from($chain.append($draft).unwrap_err());
        assert!(matches!(error.reason(), Some($pattern) $(if $guard)?), "{error:?}: {:?}", error.reason());
        assert_eq!(($chain.root().unwrap(), $chain.len().unwrap()), before);
    }};
}

/// A rule of datasets was broken.
macro_rules! breaks {
    ($chain:expr, $draft:expr, $pattern:pat $(if $guard:expr)?) => {
        refuses!($chain, $draft, InvalidEvidence::Dataset($pattern) $(if $guard)?)
    };
}

#[test]
fn a_dataset_goes_through_its_stages() {
    let world = World::new();
    let stage = |expected: Stage| assert_eq!(world.stage(), expected);
    stage(Stage::Pending);
    let audit = world.audit();
    stage(Stage::Audited);
    let votes = [world.vote(11, true), world.vote(12, true), world.vote(13, false)];
    stage(Stage::Audited);
    let tally = world.tally();
    stage(Stage::Voted);
    let ruling = world.rule();
    stage(Stage::Accepted);

    let state = dataset::state(&world.chain, &world.policy, &world.dataset).unwrap();
    assert_eq!(state.audits, [audit]);
    assert_eq!(BTreeSet::from_iter(state.votes), BTreeSet::from(votes));
    assert_eq!((state.tally, state.ruling), (Some(tally), Some(ruling)));
    assert!(state.equivocating.is_empty() && state.twins.is_empty() && state.duplicate_of.is_none());
    assert_eq!(state.dataset.num_tokens, 13);
    let tokens = Tokens::read(&world.chain, &state.dataset.tokens).unwrap();
    assert_eq!(tokens.ids(), draft().tokens);
    let listed = dataset::list(&world.chain, &world.policy).unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].stage, Stage::Accepted);

    // Everything a second time is nothing.
    let root = world.chain.root().unwrap();
    assert_eq!(dataset::propose(&world.chain, draft()).unwrap(), world.dataset);
    assert_eq!(world.audit(), audit);
    assert_eq!([world.vote(11, true), world.vote(12, true), world.vote(13, false)], votes);
    assert_eq!((world.tally(), world.rule()), (tally, ruling));
    assert_eq!(world.chain.root().unwrap(), root);
    assert!(world.chain.verify(&Default::default()).unwrap().bad.is_empty());
}

#[test]
fn the_share_of_approval_decides_and_nothing_else() {
    for (approval_ppm, in_favour, accepted) in [
        (500_000, 2, true),
        (500_001, 2, false),
        (500_001, 3, true),
        (750_000, 3, true),
        (750_001, 3, false),
        (1_000_000, 3, false),
        (1_000_000, 4, true),
        (1, 0, false),
        (1, 1, true),
    ] {
        let mut world = World::new();
        world.policy = Policy { approval_ppm, ..rules(world.model) }.append(&world.chain).unwrap();
        world.audit();
        for (place, voter) in [11, 12, 13, 14].into_iter().enumerate() {
            world.vote(voter, place < in_favour);
        }
        let tally = world.tally();
        let wrong = world.ruling_of(tally, !accepted).draft();
        breaks!(world.chain, wrong, DatasetRule::Ruling { accepted: said } if *said != accepted);
        world.rule();
        let expected = if accepted { Stage::Accepted } else { Stage::Rejected };
        assert_eq!(world.stage(), expected, "{in_favour} of 4 at {approval_ppm}");
    }
}

#[test]
fn another_policy_hears_nothing_of_it() {
    let world = World::new();
    world.accepted();
    let other = Policy { predecessor: Some(world.policy), quorum: 2, ..rules(world.model) };
    let other = other.append(&world.chain).unwrap();
    assert_eq!(dataset::state(&world.chain, &other, &world.dataset).unwrap().stage, Stage::Pending);
    assert_eq!(world.stage(), Stage::Accepted);
}

#[test]
fn out_of_turn_is_a_typed_error() {
    let World { chain, policy, dataset, .. } = &World::new();
    let dataset_error = |error: EvolveError| match error {
        EvolveError::Dataset(error) => error,
        error => panic!("{error:?}"),
    };
    let not_audited = DatasetError::NotAudited { dataset: *dataset };
    assert_eq!(
        dataset_error(dataset::vote(chain, policy, dataset, &key(11), true).unwrap_err()),
        not_audited
    );
    assert_eq!(dataset_error(dataset::tally(chain, policy, dataset).unwrap_err()), not_audited);
    let no_tally = DatasetError::NoTally { dataset: *dataset };
    assert_eq!(dataset_error(dataset::rule(chain, policy, dataset).unwrap_err()), no_tally);

    dataset::audit(chain, policy, dataset, &key(1)).unwrap();
    let given = dataset::vote(chain, policy, dataset, &key(11), true).unwrap();
    dataset::vote(chain, policy, dataset, &key(12), true).unwrap();
    let quorum = DatasetError::Quorum { votes: 2, quorum: 3 };
    assert_eq!(dataset_error(dataset::tally(chain, policy, dataset).unwrap_err()), quorum);
    let turned = DatasetError::AlreadyVoted { key: public(11), vote: given };
    assert_eq!(dataset_error(dataset::vote(chain, policy, dataset, &key(11), false).unwrap_err()), turned);

    let wrong = dataset::state(chain, dataset, dataset).unwrap_err();
    assert!(matches!(wrong, EvolveError::WrongKind { expected: BlockKind::POLICY, .. }), "{wrong:?}");
    let wrong = dataset::state(chain, policy, policy).unwrap_err();
    assert!(matches!(wrong, EvolveError::WrongKind { expected: BlockKind::DATASET, .. }), "{wrong:?}");
    let nothing = BlockHash::from_bytes([0; 32]);
    assert!(matches!(dataset::state(chain, policy, &nothing), Err(EvolveError::Chain(_))));
}

#[test]
fn strangers_neither_audit_nor_vote() {
    let World { chain, policy, dataset, .. } = &World::new();
    let found = dataset::recompute(chain, policy, dataset).unwrap();
    // A voter is no validator, and a validator no voter.
    for seed in [STRANGER, VOTERS[0]] {
        let error = dataset::audit(chain, policy, dataset, &key(seed)).unwrap_err();
        let by = public(seed);
        assert!(matches!(error.reason(), Some(InvalidEvidence::NotAValidator { key, .. }) if *key == by));
        let forged = Statement::sign(&key(seed), found.clone()).unwrap().draft();
        refuses!(chain, forged, InvalidEvidence::NotAValidator { key, .. } if *key == by);
    }
    let audit = dataset::audit(chain, policy, dataset, &key(1)).unwrap();
    for seed in [STRANGER, VALIDATORS[0]] {
        let error = dataset::vote(chain, policy, dataset, &key(seed), true).unwrap_err();
        let by = public(seed);
        assert!(matches!(error.reason(), Some(InvalidEvidence::NotAVoter { key, .. }) if *key == by));
        let vote = Vote { policy: *policy, dataset: *dataset, audit, approve: true };
        let forged = Statement::sign(&key(seed), vote).unwrap().draft();
        refuses!(chain, forged, InvalidEvidence::NotAVoter { key, .. } if *key == by);
    }
}

#[test]
fn a_forged_signature_is_refused() {
    let world = World::new();
    let chain = &world.chain;
    for block in world.accepted() {
        let stored = copy(chain, &block);
        let mut json: Value = serde_json::from_slice(&stored.payload).unwrap();
        let Some(signature) = json.get("signature").cloned() else { continue };
        let kind = stored.kind;
        let mut with = |field: &str, value: Value| {
            let before = json[field].clone();
            json[field] = value;
            let payload = serde_json::to_vec(&json).unwrap();
            json[field] = before;
            Draft { payload, ..stored.clone() }
        };
        // Another one's name under it, and another signature under the name.
        for seed in [STRANGER, VOTERS[4], VALIDATORS[1]] {
            let forged = with("key", public(seed).to_string().into());
            refuses!(chain, forged, InvalidEvidence::Signature { kind: of, .. } if *of == kind);
        }
        let zeros = with("signature", "0".repeat(128).into());
        refuses!(chain, zeros, InvalidEvidence::Signature { .. });
        let shorter = with("signature", signature.as_str().unwrap()[2..].into());
        refuses!(chain, shorter, InvalidEvidence::Json { .. });
        let upper = with("signature", signature.as_str().unwrap().to_uppercase().into());
        refuses!(chain, upper, InvalidEvidence::Json { .. });
    }
}

/// Calls `edited` with the document for every leaf of it changed, and the path to the leaf.
fn each_leaf(document: &Value, edited: &mut dyn FnMut(&str, &Value)) {
    fn paths(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| paths(value, &format!("{path}/{name}"), found));
            }
            Value::Array(items) if !items.is_empty() => {
                items.iter().enumerate().for_each(|(at, value)| paths(value, &format!("{path}/{at}"), found));
            }
            _ => found.push(path.to_owned()),
        }
    }
    let mut found = Vec::new();
    paths(document, "", &mut found);
    for path in found {
        let mut changed = document.clone();
        let leaf = changed.pointer_mut(&path).unwrap();
        *leaf = match &*leaf {
            Value::Null => Value::String("7".repeat(64)),
            Value::Bool(value) => Value::Bool(!value),
            Value::Number(value) => Value::from(value.as_u64().unwrap() + 1),
            Value::String(value) => {
                let last = if value.ends_with('0') { "1" } else { "0" };
                Value::String(format!("{}{last}", &value[..value.len() - 1]))
            }
            Value::Array(_) => Value::from(vec![Value::String("7".repeat(64))]),
            Value::Object(_) => unreachable!(),
        };
        edited(&path, &changed);
    }
}

#[test]
fn no_field_of_a_stage_can_be_edited() {
    let world = World::new();
    let mut edits = 0;
    for block in world.accepted() {
        let stored = copy(&world.chain, &block);
        each_leaf(&serde_json::from_slice(&stored.payload).unwrap(), &mut |path, changed| {
            let forged = Draft { payload: serde_json::to_vec(changed).unwrap(), ..stored.clone() };
            let before = world.chain.root().unwrap();
            let error = EvolveError::from(world.chain.append(forged).unwrap_err());
            assert!(error.reason().is_some(), "{} {path}: {error:?}", stored.kind);
            assert_eq!(world.chain.root().unwrap(), before);
            edits += 1;
        });
    }
    // 16 leaves of the audit, 7 of each vote, 8 of the tally, 5 of the ruling.
    assert_eq!(edits, 16 + 3 * 7 + 8 + 5);
}

#[test]
fn a_dataset_says_of_its_tokens_what_is_so() {
    let world = World::new();
    let stored = copy(&world.chain, &world.dataset);
    let free = ["/license", "/source", "/tier", "/text_hash", "/vocab_size"];
    each_leaf(&serde_json::from_slice(&stored.payload).unwrap(), &mut |path, changed| {
        let other = Draft { payload: serde_json::to_vec(changed).unwrap(), ..stored.clone() };
        // A tier that does not exist is refused too.
        if !free.contains(&path) || path == "/tier" {
            let before = world.chain.root().unwrap();
            let error = EvolveError::from(world.chain.append(other).unwrap_err());
            assert!(error.reason().is_some(), "{path}: {error:?}");
            assert_eq!(world.chain.root().unwrap(), before);
        } else {
            // Other words about the same tokens are another dataset.
            assert_ne!(world.chain.append(other).unwrap(), world.dataset, "{path}");
        }
    });
}

#[test]
fn wrong_datasets_are_refused_by_name() {
    let World { chain, dataset, .. } = &World::new();
    let good = Dataset::read(chain, dataset).unwrap();
    let other = Tokens::new(vec![1, 2, 3]).unwrap().append(chain).unwrap();

    let wrong = Dataset { num_tokens: 14, ..good.clone() };
    breaks!(chain, wrong.draft(), DatasetRule::NumTokens { found: 14, expected: 13 });
    let wrong = Dataset { vocab_size: 9, ..good.clone() };
    breaks!(chain, wrong.draft(), DatasetRule::OutOfVocabulary { token: 9, position: 12, vocab_size: 9 });
    let wrong = Dataset { tokens: other, ..good.clone() };
    breaks!(chain, wrong.draft(), DatasetRule::ContentHash { .. });
    let wrong = Dataset { content_hash: PayloadHash::of(b""), ..good.clone() };
    breaks!(chain, wrong.draft(), DatasetRule::ContentHash { .. });
    let wrong = Dataset { tokens: *dataset, ..good.clone() };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::TOKENS, .. });
    let wrong = Dataset { tokenizer: Some(other), ..good.clone() };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::TOKENIZER, .. });
    let wrong = Dataset { dataset_version: 2, ..good.clone() };
    refuses!(chain, wrong.draft(), InvalidEvidence::FormatVersion { found: 2, .. });

    let field = |wrong: Dataset, field: Field| {
        breaks!(chain, wrong.draft(), DatasetRule::Field { field: found } if *found == field);
    };
    field(Dataset { license: "public domain".into(), ..good.clone() }, Field::License);
    field(Dataset { license: String::new(), ..good.clone() }, Field::License);
    field(Dataset { source: String::new(), ..good.clone() }, Field::Source);
    field(Dataset { source: "a\u{7}".into(), ..good.clone() }, Field::Source);
    field(Dataset { source: "x".repeat(2049), ..good.clone() }, Field::Source);
    field(Dataset { vocab_size: 0, ..good.clone() }, Field::VocabSize);
    field(Dataset { num_tokens: 0, ..good.clone() }, Field::NumTokens);
    // A name that is no block name has no header either; the payload alone says so first elsewhere.
    let error = dataset::propose(chain, DatasetDraft { name: "Ä".into(), ..draft() }).unwrap_err();
    assert!(matches!(
        error.reason(),
        Some(InvalidEvidence::Dataset(DatasetRule::Field { field: Field::Name }))
    ));

    let before = chain.root().unwrap();
    let error = dataset::propose(chain, DatasetDraft { tokens: Vec::new(), ..draft() }).unwrap_err();
    assert!(matches!(error.reason(), Some(InvalidEvidence::TokensLength { len_bytes: 0 })));
    // The tokens of a refused dataset are not left behind.
    let tokens = vec![8, 9, 10];
    let error = dataset::propose(chain, DatasetDraft { tokens, ..draft() }).unwrap_err();
    assert!(matches!(
        error.reason(),
        Some(InvalidEvidence::Dataset(DatasetRule::OutOfVocabulary { token: 10, position: 2, .. }))
    ));
    assert_eq!(chain.root().unwrap(), before);
    let ragged = Draft::new(ChainId::Dataset, BlockKind::TOKENS, "tokens", vec![0; 6]);
    refuses!(chain, ragged, InvalidEvidence::TokensLength { len_bytes: 6 });
}

#[test]
fn versions_of_a_dataset_ascend() {
    let World { chain, dataset, .. } = &World::new();
    let next = |name: &str, version: &str| DatasetDraft {
        name: name.into(),
        version: version.parse().unwrap(),
        predecessor: Some(*dataset),
        ..draft()
    };
    let block = dataset::propose(chain, next("numbers", "1.1.0")).unwrap();
    let header = chain.get(&block).unwrap().header().clone();
    assert_eq!((header.name.as_str(), header.version), ("numbers", Version::new(1, 1, 0)));
    for (name, version) in [("numbers", "1.0.0"), ("numbers", "0.9.0"), ("letters", "1.1.0")] {
        let error = dataset::propose(chain, next(name, version)).unwrap_err();
        let reason = error.reason();
        assert!(
            matches!(reason, Some(InvalidEvidence::Dataset(DatasetRule::Predecessor { .. }))),
            "{error:?}"
        );
    }
}

/// Header, parents and spelling of every block of evidence follow from its payload.
#[test]
fn a_block_is_what_its_payload_makes_it() {
    let world = World::new();
    let chain = &world.chain;
    let stranger = Tokens::new(vec![1]).unwrap().append(chain).unwrap();
    let mut blocks = world.accepted();
    blocks.extend([world.policy, world.dataset]);
    for block in blocks {
        let good = copy(chain, &block);
        let lane = if good.lane == ChainId::Meta { ChainId::Dataset } else { ChainId::Meta };
        for (field, wrong) in [
            ("lane", Draft { lane, ..good.clone() }),
            ("name", Draft { name: "other".into(), ..good.clone() }),
            ("version", good.clone().with_version(Version::new(2, 0, 0))),
            ("media type", Draft { media_type: "text/plain".into(), ..good.clone() }),
        ] {
            refuses!(chain, wrong, InvalidEvidence::Header { field: found, .. } if *found == field);
        }
        let more = good.clone().with_parent(stranger, ParentRole::Evidence);
        refuses!(chain, more, InvalidEvidence::Parents { block } if *block == stranger);
        for at in 0..good.parents.len() {
            let parent = good.parents[at].hash;
            let mut fewer = good.clone();
            fewer.parents.remove(at);
            refuses!(chain, fewer, InvalidEvidence::Parents { .. });
            let mut other = good.clone();
            other.parents[at] = Parent { hash: parent, role: ParentRole::Evidence };
            refuses!(chain, other, InvalidEvidence::Parents { block } if *block == parent);
        }

        let text = String::from_utf8(good.payload.clone()).unwrap();
        let spelled = |text: String| Draft { payload: text.into_bytes(), ..good.clone() };
        for other in [text.replace(':', ": "), format!("{text}\n"), format!(" {text}")] {
            refuses!(chain, spelled(other), InvalidEvidence::NotCanonical { .. });
        }
        let first = text[1..text.find(',').unwrap() + 1].to_owned();
        let twice = format!("{{{first}{}", &text[1..]);
        refuses!(chain, spelled(twice), InvalidEvidence::Json { .. });
        let moved = format!("{{{},{}}}", &text[1 + first.len()..text.len() - 1], first.trim_end_matches(','));
        refuses!(chain, spelled(moved), InvalidEvidence::NotCanonical { .. });
        let unknown = format!("{},\"more\":1}}", &text[..text.len() - 1]);
        refuses!(chain, spelled(unknown), InvalidEvidence::Json { .. });
        for garbage in ["", "{}", "null", "[]", "\u{0}", "{\"a\":1e999}"] {
            refuses!(chain, spelled(garbage.to_owned()), InvalidEvidence::Json { .. });
        }
    }
}

#[test]
fn a_policy_names_a_model_and_datasets() {
    let World { chain, model, policy, dataset } = &World::new();
    let good = Policy { datasets: [*dataset].into(), predecessor: Some(*policy), ..rules(*model) };
    let block = good.append(chain).unwrap();
    assert_eq!(Policy::of(chain, &block).unwrap(), good);
    let wrong = Policy { model: *dataset, ..rules(*model) };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::MODEL, .. });
    let wrong = Policy { datasets: [*policy].into(), ..rules(*model) };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::DATASET, .. });
    let wrong = Policy { predecessor: Some(*dataset), ..rules(*model) };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::POLICY, .. });
    let wrong = Policy { quorum: 6, ..rules(*model) };
    refuses!(chain, wrong.draft(), InvalidEvidence::Policy(PolicyError::Quorum { quorum: 6, voters: 5 }));
}

#[test]
fn tallies_count_what_is_there() {
    let world = World::new();
    let chain = &world.chain;
    let audit = world.audit();
    let other_audit = dataset::audit(chain, &world.policy, &world.dataset, &key(2)).unwrap();
    assert_ne!(audit, other_audit);
    let votes = [world.vote(11, true), world.vote(12, true), world.vote(13, false)];
    let good = world.tally_of(&votes);

    let few = world.tally_of(&votes[..2]);
    breaks!(chain, few.draft(), DatasetRule::Quorum { votes: 2, quorum: 3 });
    for (in_favour, against) in [(3, 0), (2, 0), (2, 2), (u32::MAX, u32::MAX)] {
        let wrong = Tally { in_favour, against, ..good.clone() };
        breaks!(chain, wrong.draft(), DatasetRule::Counts { expected: [2, 1], .. });
    }
    // The same voice a second time, on another audit, and the other way.
    let repeated = [audit, other_audit].map(|audit| world.raw_vote(11, audit, true));
    let again = *repeated.iter().find(|vote| **vote != votes[0]).unwrap();
    let twice = world.tally_of(&[votes[0], votes[1], votes[2], again]);
    breaks!(chain, twice.draft(), DatasetRule::CountedTwice { key } if *key == public(11));
    let turned = world.raw_vote(11, audit, false);
    let twice = world.tally_of(&[votes[0], votes[1], votes[2], turned]);
    breaks!(chain, twice.draft(), DatasetRule::CountedTwice { key } if *key == public(11));
    // Votes on something else.
    let other = dataset::propose(chain, DatasetDraft { name: "other".into(), ..draft() }).unwrap();
    dataset::audit(chain, &world.policy, &other, &key(1)).unwrap();
    let foreign = dataset::vote(chain, &world.policy, &other, &key(14), true).unwrap();
    let wrong = world.tally_of(&[votes[1], votes[2], foreign]);
    breaks!(chain, wrong.draft(), DatasetRule::OtherSubject { block } if *block == foreign);
    let wrong = Tally { votes: votes.into_iter().chain([audit]).collect(), ..good.clone() };
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::VOTE, .. });
    // Rulings on something else, or on nothing.
    let tally = good.append(chain).unwrap();
    let wrong = Ruling { dataset: other, ..world.ruling_of(tally, true) };
    breaks!(chain, wrong.draft(), DatasetRule::OtherSubject { block } if *block == tally);
    let wrong = world.ruling_of(votes[0], true);
    refuses!(chain, wrong.draft(), InvalidEvidence::ParentKind { expected: BlockKind::TALLY, .. });
    breaks!(chain, world.ruling_of(tally, false).draft(), DatasetRule::Ruling { accepted: false });
}

/// Audits and votes of one dataset say nothing of another.
#[test]
fn votes_are_about_one_dataset_one_policy_and_a_tier() {
    let world = World::new();
    let chain = &world.chain;
    let audit = world.audit();
    let other = dataset::propose(chain, DatasetDraft { name: "other".into(), ..draft() }).unwrap();
    let vote = Vote { policy: world.policy, dataset: other, audit, approve: true };
    let vote = Statement::sign(&key(11), vote).unwrap();
    breaks!(chain, vote.draft(), DatasetRule::OtherSubject { block } if *block == audit);

    let tier = Tier::Experimental;
    let other = dataset::propose(chain, DatasetDraft { tier, ..draft() }).unwrap();
    let audit = dataset::audit(chain, &world.policy, &other, &key(1)).unwrap();
    let vote = Vote { policy: world.policy, dataset: other, audit, approve: true };
    let vote = Statement::sign(&key(11), vote).unwrap();
    breaks!(chain, vote.draft(), DatasetRule::Tier { tier: Tier::Experimental });
}

#[test]
fn a_tally_that_leaves_out_votes_loses_to_a_fuller_one() {
    let world = World::new();
    world.audit();
    let against = [11, 12, 13].map(|voter| world.vote(voter, false));
    let narrow = world.tally_of(&against).append(&world.chain).unwrap();
    assert_eq!(world.rule(), world.ruling_of(narrow, false).append(&world.chain).unwrap());
    assert_eq!(world.stage(), Stage::Rejected);
    // Two more were for it, still a minority; a tally without one of the others would turn it.
    let favour = [14, 15].map(|voter| world.vote(voter, true));
    let turned = world.tally_of(&[favour[0], favour[1], against[0]]).append(&world.chain).unwrap();
    let turned = world.ruling_of(turned, true).append(&world.chain).unwrap();
    let state = dataset::state(&world.chain, &world.policy, &world.dataset).unwrap();
    assert!(state.tally == Some(narrow) || state.ruling == Some(turned), "the smaller hash of equals");
    let full = world.tally();
    assert_eq!(Tally::read(&world.chain, &full).unwrap().votes.len(), 5);
    assert_eq!(world.stage(), Stage::Voted);
    world.rule();
    let state = dataset::state(&world.chain, &world.policy, &world.dataset).unwrap();
    assert_eq!((state.stage, state.tally), (Stage::Rejected, Some(full)));
}

#[test]
fn who_votes_both_ways_counts_for_nothing() {
    let world = World::new();
    let audit = world.audit();
    let votes = [11, 12, 13].map(|voter| world.vote(voter, true));
    world.tally();
    world.rule();
    assert_eq!(world.stage(), Stage::Accepted);
    world.raw_vote(13, audit, false);
    // The tally counted 13: it is void, and without 13 there is no quorum.
    let state = dataset::state(&world.chain, &world.policy, &world.dataset).unwrap();
    assert_eq!((state.stage, state.tally, state.ruling), (Stage::Audited, None, None));
    assert_eq!(state.equivocating, [public(13)].into());
    assert_eq!(BTreeSet::from_iter(state.votes), BTreeSet::from([votes[0], votes[1]]));
    let error = dataset::tally(&world.chain, &world.policy, &world.dataset).unwrap_err();
    assert!(matches!(error, EvolveError::Dataset(DatasetError::Quorum { votes: 2, quorum: 3 })));
    world.vote(14, true);
    world.tally();
    world.rule();
    assert_eq!(world.stage(), Stage::Accepted);
}

#[test]
fn of_datasets_with_the_same_tokens_one_is_accepted() {
    let world = World::new();
    let chain = &world.chain;
    world.accepted();
    let carry = |draft: DatasetDraft, voters: &[u8]| {
        let block = dataset::propose(chain, draft).unwrap();
        dataset::audit(chain, &world.policy, &block, &key(1)).unwrap();
        for voter in voters {
            dataset::vote(chain, &world.policy, &block, &key(*voter), true).unwrap();
        }
        dataset::tally(chain, &world.policy, &block).unwrap();
        dataset::rule(chain, &world.policy, &block).unwrap();
        block
    };
    let state = |block: &BlockHash| dataset::state(chain, &world.policy, block).unwrap();
    // The first has two votes in favour, this one three.
    let better = carry(DatasetDraft { name: "copied".into(), ..draft() }, &[11, 12, 13]);
    assert_eq!(state(&better).stage, Stage::Accepted);
    let first = state(&world.dataset);
    assert_eq!((first.stage, first.duplicate_of), (Stage::Rejected, Some(better)));
    assert_eq!((first.twins, state(&better).twins), (vec![better], vec![world.dataset]));
    // A later version is the one that its voters meant.
    let version = DatasetDraft {
        version: Version::new(1, 0, 1),
        predecessor: Some(world.dataset),
        license: "CC-BY-4.0".into(),
        ..draft()
    };
    let next = carry(version, &[11, 14, 15]);
    assert_eq!(state(&next).stage, Stage::Accepted);
    assert_eq!(state(&better).duplicate_of, Some(next));
    // A twin that nobody accepted takes nothing away.
    dataset::propose(chain, DatasetDraft { name: "again".into(), ..draft() }).unwrap();
    assert_eq!(state(&next).stage, Stage::Accepted);
    let accepted = dataset::list(chain, &world.policy).unwrap().into_iter();
    assert_eq!(accepted.filter(|state| state.stage == Stage::Accepted).count(), 1);
}

#[test]
fn findings_are_those_of_a_hand_count() {
    let World { chain, policy, dataset, model } = &World::new();
    let vocab_size = Snapshot::of_model(chain, model).unwrap().spec().vocab_size as u32;
    let findings = |block: &BlockHash| dataset::recompute(chain, policy, block).unwrap().findings;
    assert_eq!(
        findings(dataset),
        Findings {
            content_hash: PayloadHash::of(&Tokens::new(draft().tokens).unwrap().to_payload()),
            num_tokens: 13,
            out_of_vocabulary: 0,
            distinct_tokens: 9,
            windows: 3,
            duplicate_windows: 1,
            foreign_tokenizer: false,
        }
    );
    let tokens = vec![vocab_size - 1, vocab_size, vocab_size + 1];
    let wide = DatasetDraft { name: "wide".into(), tokens, vocab_size: vocab_size + 2, ..draft() };
    let wide = dataset::propose(chain, wide).unwrap();
    let found = findings(&wide);
    assert_eq!((found.out_of_vocabulary, found.windows, found.duplicate_windows), (2, 0, 0));

    // The model cannot read it: it stays pending, and nobody may vote on it.
    let audit = dataset::audit(chain, policy, &wide, &key(1)).unwrap();
    assert_eq!(dataset::state(chain, policy, &wide).unwrap().stage, Stage::Pending);
    let error = dataset::vote(chain, policy, &wide, &key(11), true).unwrap_err();
    assert!(matches!(error, EvolveError::Dataset(DatasetError::NotAudited { .. })));
    let vote = Vote { policy: *policy, dataset: wide, audit, approve: true };
    let vote = Statement::sign(&key(11), vote).unwrap();
    breaks!(chain, vote.draft(), DatasetRule::Unfit { audit: found } if *found == audit);
}

#[test]
fn findings_that_are_not_so_are_refused() {
    let World { chain, policy, dataset, .. } = &World::new();
    let good = dataset::recompute(chain, policy, dataset).unwrap();
    let signed = |audit: Audit| Statement::sign(&key(1), audit).unwrap().draft();
    let honest = good.findings;
    for findings in [
        Findings { num_tokens: 12, ..honest },
        Findings { out_of_vocabulary: 1, ..honest },
        Findings { distinct_tokens: 13, ..honest },
        Findings { windows: 0, ..honest },
        Findings { duplicate_windows: 0, ..honest },
        Findings { foreign_tokenizer: true, ..honest },
        Findings { content_hash: PayloadHash::of(b""), ..honest },
    ] {
        let wrong = signed(Audit { findings, ..good.clone() });
        breaks!(chain, wrong, DatasetRule::Findings { found, .. } if **found == findings);
    }
    let text = Some(TextFindings { decoded_hash: PayloadHash::of(b""), round_trip: true });
    breaks!(chain, signed(Audit { text, ..good.clone() }), DatasetRule::TextFindings { found: true });
    let other = Tokens::new(vec![1]).unwrap().append(chain).unwrap();
    breaks!(
        chain,
        signed(Audit { tokens: other, ..good.clone() }),
        DatasetRule::OtherBlock { field: "tokens", .. }
    );
    let wrong = signed(Audit { spec: good.model, model: good.spec, ..good.clone() });
    breaks!(chain, wrong, DatasetRule::OtherBlock { field: "model", .. });
    let wrong = signed(Audit { policy: good.dataset, dataset: good.policy, ..good });
    refuses!(chain, wrong, InvalidEvidence::ParentKind { expected: BlockKind::POLICY, .. });
}

#[test]
fn texts_are_tokenized_and_audited_with_the_models_tokenizer() {
    let (chain, model) = imported(&tiny_kjv(), None);
    let snapshot = Snapshot::of_model(&chain, &model).unwrap();
    let text = "In the beginning God created the heaven and the earth.\n";
    let proposed = |name: &str, change: fn(&mut DatasetDraft)| {
        let mut draft =
            DatasetDraft::of_text(&chain, &snapshot, name, text, "CC0-1.0", "King James Bible").unwrap();
        draft.tier = Tier::Gold;
        change(&mut draft);
        dataset::propose(&chain, draft).unwrap()
    };
    let genesis = proposed("genesis", |_| {});
    let described = Dataset::read(&chain, &genesis).unwrap();
    let ids = dataset::tokenize(&chain, &snapshot, text).unwrap();
    assert_eq!(Tokens::read(&chain, &described.tokens).unwrap().ids(), ids);
    assert_eq!(described.text_hash, Some(PayloadHash::of(text.as_bytes())));

    let policy = rules(model).append(&chain).unwrap();
    let audit = dataset::audit(&chain, &policy, &genesis, &key(1)).unwrap();
    let read = Statement::<Audit>::read(&chain, &audit).unwrap();
    let honest = TextFindings { decoded_hash: PayloadHash::of(text.as_bytes()), round_trip: true };
    assert_eq!(read.body().text, Some(honest));
    assert!(dataset::check_audit(&chain, &audit).is_ok());

    // Ids that no tokenizer gives for their text: letter by letter.
    let spelled = proposed("spelled", |draft| draft.tokens.reverse());
    let found = dataset::recompute(&chain, &policy, &spelled).unwrap().text.unwrap();
    assert_ne!(found.decoded_hash, honest.decoded_hash);

    // What a text decodes to is not computed when an audit is appended, but found out.
    let lie = TextFindings { decoded_hash: PayloadHash::of(b"something else"), round_trip: true };
    let lie = Audit { text: Some(lie), ..read.body().clone() };
    let lie = Statement::sign(&key(2), lie.clone()).unwrap().append(&chain).unwrap();
    let error = dataset::check_audit(&chain, &lie).unwrap_err();
    let by = public(2);
    assert!(matches!(error, EvolveError::Dataset(DatasetError::FalseAudit { key, .. }) if key == by));
    let silent = Audit { text: None, ..read.body().clone() };
    let silent = Statement::sign(&key(2), silent).unwrap();
    breaks!(chain, silent.draft(), DatasetRule::TextFindings { found: false });
    // Said two things: not heard. The other validator still is.
    dataset::audit(&chain, &policy, &genesis, &key(2)).unwrap();
    let state = dataset::state(&chain, &policy, &genesis).unwrap();
    assert_eq!((state.audits, state.equivocating), (vec![audit], [by].into()));

    // A model without tokenizer takes no text, and a policy no dataset of another tokenizer.
    let bare = crate::checkpoints::import_into(&chain, &fixture("mixtral"), None);
    let bare_snapshot = Snapshot::of_model(&chain, &bare).unwrap();
    let error = dataset::tokenize(&chain, &bare_snapshot, text).unwrap_err();
    assert!(matches!(error, EvolveError::Dataset(DatasetError::NoTokenizer)));
    let wrong = Policy { datasets: [genesis].into(), ..rules(bare) };
    refuses!(
        chain,
        wrong.draft(),
        InvalidEvidence::Policy(PolicyError::ForeignTokenizer { dataset }) if *dataset == genesis
    );
    let policy = rules(bare).append(&chain).unwrap();
    assert!(dataset::recompute(&chain, &policy, &genesis).unwrap().findings.foreign_tokenizer);
    dataset::audit(&chain, &policy, &genesis, &key(1)).unwrap();
    assert_eq!(dataset::state(&chain, &policy, &genesis).unwrap().stage, Stage::Pending);
}

/// A chain that somebody wrote without this library's validators tells nothing more.
#[test]
fn folds_pass_over_what_validators_would_have_refused() {
    let world = World::new();
    let blocks = world.accepted();
    let (audit, votes) = (blocks[0], &blocks[1..4]);
    let expected = dataset::state(&world.chain, &world.policy, &world.dataset).unwrap();

    let medium = Arc::new(MemoryMedium::new());
    let loose = Chain::open_with(medium, Access::ReadWrite, Validators::new()).unwrap();
    let mut writer = loose.writer().unwrap();
    for block in world.chain.topological_order() {
        writer.append(copy(&world.chain, &block.unwrap().hash())).unwrap();
    }
    writer.commit().unwrap();
    let (policy, dataset) = (world.policy, world.dataset);
    let vote = Vote { policy, dataset, audit, approve: false };
    let stranger = Statement::sign(&key(STRANGER), vote).unwrap().append(&loose).unwrap();
    // Another one's voice, the other way: it would silence 11.
    let mut forged = copy(&loose, &votes[0]);
    let text = String::from_utf8(forged.payload).unwrap();
    forged.payload = text.replace("\"approve\":true", "\"approve\":false").into_bytes();
    loose.append(forged).unwrap();
    let mut all: BTreeSet<BlockHash> = votes.iter().copied().collect();
    all.insert(stranger);
    let stuffed = Tally { in_favour: 0, against: 4, votes: all, ..world.tally_of(votes) };
    let stuffed = stuffed.append(&loose).unwrap();
    world.ruling_of(stuffed, false).append(&loose).unwrap();
    world.ruling_of(expected.tally.unwrap(), false).append(&loose).unwrap();
    let false_dataset = Dataset { num_tokens: 1, ..expected.dataset.clone() };
    let false_dataset = false_dataset.append(&loose).unwrap();

    assert_eq!(dataset::state(&loose, &policy, &dataset).unwrap(), expected);
    assert_eq!(dataset::list(&loose, &policy).unwrap(), [expected]);
    let error = dataset::state(&loose, &policy, &false_dataset).unwrap_err();
    assert!(matches!(error, EvolveError::InvalidBlock { block, .. } if block == false_dataset));
}

/// What one voter does in a random story.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Voice {
    Silent,
    For,
    Against,
    Both,
}

fn voice() -> impl Strategy<Value = Voice> {
    prop_oneof![
        Just(Voice::Silent),
        Just(Voice::For),
        Just(Voice::For),
        Just(Voice::Against),
        Just(Voice::Both)
    ]
}

/// A random story of one dataset, and where it ends by the rules as they are written down.
fn play(world: &World, voices: &[Voice], tallies: &[u8], ruled: &[bool]) -> (Stage, Option<BlockHash>) {
    let audit = world.audit();
    let mut votes: Vec<Vec<BlockHash>> = Vec::new();
    for (voice, voter) in voices.iter().zip(VOTERS) {
        votes.push(match voice {
            Voice::Silent => vec![],
            Voice::For => vec![world.raw_vote(voter, audit, true)],
            Voice::Against => vec![world.raw_vote(voter, audit, false)],
            Voice::Both => [true, false].map(|approve| world.raw_vote(voter, audit, approve)).to_vec(),
        });
    }
    // (votes, smaller hash first), whether it accepts, whether it was ruled
    let mut counting: Vec<(usize, BlockHash, bool, bool)> = Vec::new();
    for (members, ruled) in tallies.iter().zip(ruled) {
        let chosen: Vec<usize> =
            (0..VOTERS.len()).filter(|at| members >> at & 1 == 1 && !votes[*at].is_empty()).collect();
        let listed: Vec<BlockHash> = chosen.iter().map(|at| votes[*at][0]).collect();
        if listed.len() < 3 {
            continue;
        }
        let tally = world.tally_of(&listed);
        let (block, accepts) = (tally.append(&world.chain).unwrap(), tally.in_favour > tally.against);
        if *ruled {
            world.ruling_of(block, accepts).append(&world.chain).unwrap();
        }
        if chosen.iter().all(|at| voices[*at] != Voice::Both) {
            let known = counting.iter_mut().find(|(_, known, ..)| *known == block);
            match known {
                Some((.., before)) => *before |= *ruled,
                None => counting.push((listed.len(), block, accepts, *ruled)),
            }
        }
    }
    let most = counting.iter().map(|(votes, ..)| *votes).max();
    let mut best: Vec<_> = counting.into_iter().filter(|(votes, ..)| Some(*votes) == most).collect();
    best.sort_by_key(|(_, block, ..)| *block);
    match best.first() {
        None => (Stage::Audited, None),
        Some((_, block, _, false)) => (Stage::Voted, Some(*block)),
        Some((_, block, true, true)) => (Stage::Accepted, Some(*block)),
        Some((_, block, false, true)) => (Stage::Rejected, Some(*block)),
    }
}

/// The same blocks in a random order that puts parents first.
fn shuffled(chain: &Chain, seed: u64) -> Chain {
    let mut waiting: Vec<Draft> =
        chain.topological_order().map(|block| copy(chain, &block.unwrap().hash())).collect();
    let other = Chain::in_memory().unwrap();
    let mut writer = other.writer().unwrap();
    let mut random = seed;
    let mut known = BTreeSet::new();
    while !waiting.is_empty() {
        let ready: Vec<usize> = (0..waiting.len())
            .filter(|at| waiting[*at].parents.iter().all(|parent| known.contains(&parent.hash)))
            .collect();
        // Knuth's generator of 64 bits; its high bits are good enough to shuffle.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let next = waiting.swap_remove(ready[(random >> 33) as usize % ready.len()]);
        known.insert(writer.append(next).unwrap().hash);
    }
    writer.commit().unwrap();
    other
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_stage_is_a_function_of_the_set_of_blocks(
        voices in prop::array::uniform5(voice()),
        tallies in prop::collection::vec(0_u8..32, 0..4),
        ruled in prop::array::uniform4(any::<bool>()),
        seeds in prop::array::uniform2(any::<u64>()),
    ) {
        let world = World::new();
        let expected = play(&world, &voices, &tallies, &ruled);
        let listed = dataset::list(&world.chain, &world.policy).unwrap();
        prop_assert_eq!((listed[0].stage, listed[0].tally), expected);
        let both = voices.iter().zip(VOTERS).filter(|(voice, _)| **voice == Voice::Both);
        prop_assert_eq!(&listed[0].equivocating, &both.map(|(_, voter)| public(voter)).collect::<BTreeSet<_>>());
        for seed in seeds {
            let other = shuffled(&world.chain, seed);
            prop_assert_eq!(other.root().unwrap(), world.chain.root().unwrap());
            prop_assert_eq!(&dataset::list(&other, &world.policy).unwrap(), &listed);
        }
    }
}

/// A whole life, made by another implementation (tests/golden/make_datasets.py) from docs/format.md.
#[test]
fn blocks_are_the_ones_that_another_implementation_makes() {
    let golden: Value = serde_json::from_str(include_str!("golden/datasets.json")).unwrap();
    let world = World::new();
    let life = world.accepted();
    let tokens = Dataset::read(&world.chain, &world.dataset).unwrap().tokens;
    let mut blocks = vec![("tokens", tokens), ("policy", world.policy), ("dataset", world.dataset)];
    blocks.extend(["audit", "vote11", "vote12", "vote13", "tally", "ruling"].into_iter().zip(life));
    assert_eq!(golden.as_object().unwrap().len(), blocks.len());
    for (label, block) in blocks {
        let payload = world.chain.payload(&block).unwrap();
        let shown = match label {
            "tokens" => payload.iter().map(|byte| format!("{byte:02x}")).collect(),
            _ => String::from_utf8(payload.to_vec()).unwrap(),
        };
        assert_eq!(golden[label]["payload"], shown, "{label}");
        assert_eq!(golden[label]["hash"], block.to_string(), "{label}");
    }
}
