//! From blocks to rewards: claims and candidates, recorded use, and the shares that follow, for everyone
//! with the same blocks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use crate::checkpoints::{import_into, tiny_kjv};
use blyan_core::evolve::{
    CandidateBlocks, ContributeError, ContributeOptions, ContributeReport, ContributeStage, EvaluateOptions,
    Evidence, EvolveError, InvalidEvidence, Ledger, Policy, PublicKey, RoundError, Share, Statement,
    UsageRecord, attest_all, audit_usage, close_round, contribute, judge, open_round, publish, record_usage,
    reveal, rewards_of, uses,
};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager, Receipt, Snapshot};
use blyan_core::tensor::write;
use blyan_core::{
    BlockHash, BlockKind, Chain, ChainId, DType, Draft, ParentRole, Shape, Slot, TensorBlock, VerifyOptions,
};
use ed25519_dalek::SigningKey;
use semver::Version;

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// Validators.
fn vera() -> SigningKey {
    key(1)
}
fn victor() -> SigningKey {
    key(2)
}
/// Authors.
fn alice() -> SigningKey {
    key(11)
}
fn bob() -> SigningKey {
    key(12)
}
fn carol() -> SigningKey {
    key(13)
}

const A: Slot = Slot::Expert { layer: 0, expert: 0 };
const B: Slot = Slot::Expert { layer: 1, expert: 1 };

fn run_options() -> ManagerOptions {
    ManagerOptions { threads: Some(1), persist_usage: false, ..ManagerOptions::default() }
}

/// The block of a slot with one matrix scaled: by 1 the weights as they were, in a new block.
fn variant(chain: &Chain, model: &BlockHash, of: &BlockHash, slot: Slot, scale: f32) -> BlockHash {
    let before = Snapshot::of_model(chain, model).unwrap().slots()[&slot].block;
    let source = TensorBlock::open(chain, of).unwrap();
    let tensors: Vec<(String, DType, Shape, Vec<u8>)> = source
        .tensors()
        .map(|(name, view)| {
            let scaled = name == "down_proj.weight" && scale != 1.0;
            let data = match view.dtype() {
                DType::BF16 if scaled => {
                    let values = view.to_f32_vec().into_iter();
                    values.flat_map(|x| half::bf16::from_f32(x * scale).to_le_bytes()).collect()
                }
                DType::F16 if scaled => {
                    let values = view.to_f32_vec().into_iter();
                    values.flat_map(|x| half::f16::from_f32(x * scale).to_le_bytes()).collect()
                }
                DType::F32 if scaled => {
                    view.to_f32_vec().into_iter().flat_map(|x| (x * scale).to_le_bytes()).collect()
                }
                _ => view.data().to_vec(),
            };
            (name.to_owned(), view.dtype(), view.shape().clone(), data)
        })
        .collect();
    let parts: Vec<_> =
        tensors.iter().map(|(n, dtype, shape, data)| (&**n, *dtype, shape, &**data)).collect();
    let header = chain.get(&before).unwrap().header().clone();
    let mut draft =
        Draft::new(ChainId::Parameter, BlockKind::EXPERT, slot.to_string(), write(&parts).unwrap())
            .with_version(Version::new(header.version.major, header.version.minor, header.version.patch + 1))
            .with_parent(before, ParentRole::Predecessor);
    draft.parents.extend(header.parents.iter().filter(|parent| parent.role == ParentRole::Dependency));
    chain.append(draft).unwrap()
}

/// A chain whose model has two spoilt experts, so that better ones are at hand.
struct World {
    chain: Chain,
    policy: BlockHash,
    /// What is good.
    good: BlockHash,
    /// What the policy begins with.
    model: BlockHash,
    /// Nobody has seen these tokens.
    splits: Vec<Vec<u32>>,
}

fn world() -> World {
    let chain = Chain::in_memory().unwrap();
    let good = import_into(&chain, &tiny_kjv(), None);
    let mut snapshot = Snapshot::of_model(&chain, &good).unwrap();
    for slot in [A, B] {
        let block = snapshot.slots()[&slot].block;
        let spoilt = variant(&chain, &good, &block, slot, -1.0);
        snapshot = snapshot.with_block(&chain, &spoilt).unwrap();
    }
    let model = snapshot.publish(&chain).unwrap();
    let validators = [PublicKey::of(&vera()), PublicKey::of(&victor())];
    let policy = Policy { window: 64, threshold_ppm: 500, ..Policy::new(model, validators) };
    let policy = policy.append(&chain).unwrap();
    let text = include_str!("texts/kjv_held_out.txt");
    let options = ManagerOptions { model: Some(good), ..run_options() };
    let manager = MoEModelManager::open(&chain, &options).unwrap();
    let tokens = manager.tokenizer().unwrap().encode(text, false).unwrap();
    let splits = tokens.chunks(400).take(4).map(<[u32]>::to_vec).collect();
    World { chain, policy, good, model, splits }
}

impl World {
    /// The weights of the good model, as a block for the model that is chosen now.
    fn better(&self, slot: Slot, scale: f32) -> CandidateBlocks {
        let base = judge(&self.chain, &self.policy).unwrap().chosen.model;
        let good = Snapshot::of_model(&self.chain, &self.good).unwrap().slots()[&slot].block;
        CandidateBlocks::from([(slot, variant(&self.chain, &base, &good, slot, scale))])
    }

    fn next(&self, author: &SigningKey, round: &BlockHash, blocks: &CandidateBlocks) -> ContributeReport {
        next(&self.chain, author, round, blocks).unwrap()
    }

    /// A round from its opening to its attestations; returns its reveal.
    fn round(&self, number: usize, authors: &[(SigningKey, CandidateBlocks)]) -> BlockHash {
        let round = open_round(&self.chain, &vera(), &self.policy, &self.splits[number]).unwrap();
        for (author, blocks) in authors {
            assert_eq!(self.next(author, &round, blocks).stage, ContributeStage::Claimed);
        }
        close_round(&self.chain, &vera(), &round).unwrap();
        for (author, blocks) in authors {
            assert_eq!(self.next(author, &round, blocks).stage, ContributeStage::Proposed);
        }
        let shown = reveal(&self.chain, &vera(), &round, &self.splits[number]).unwrap();
        let options = EvaluateOptions { threads: Some(1), ..EvaluateOptions::default() };
        for validator in [vera(), victor()] {
            attest_all(&self.chain, &validator, &shown, &options).unwrap();
        }
        let state = judge(&self.chain, &self.policy).unwrap();
        publish(&self.chain, &state).unwrap();
        shown
    }

    /// A receipt of the chosen model, as a block.
    fn receipt(&self, model: BlockHash, prompt: &str, stop: &[&str]) -> BlockHash {
        let options = ManagerOptions { model: Some(model), ..run_options() };
        let manager = MoEModelManager::open(&self.chain, &options).unwrap();
        let stop = stop.iter().map(ToString::to_string).collect();
        let options = GenerateOptions { max_tokens: Some(12), ignore_eos: true, stop, ..Default::default() };
        manager.generate(prompt, &options).unwrap().receipt.append(&self.chain).unwrap()
    }

    fn chosen(&self) -> BlockHash {
        judge(&self.chain, &self.policy).unwrap().chosen.model
    }

    fn record(&self, reveal: &BlockHash, receipts: &[BlockHash], by: &SigningKey) -> BlockHash {
        record_usage(&self.chain, &self.policy, reveal, receipts, by, &run_options()).unwrap()
    }

    fn shares(&self, period: u64) -> BTreeMap<PublicKey, u64> {
        shares(&rewards_of(&self.chain, &self.policy, period, POOL).unwrap())
    }

    fn len(&self) -> u64 {
        self.chain.len().unwrap()
    }
}

const POOL: u64 = 1_000_000;

fn shares(shares: &[Share]) -> BTreeMap<PublicKey, u64> {
    shares.iter().map(|share| (share.author, share.units)).collect()
}

/// The next step, asked for first and then done.
fn next(
    chain: &Chain,
    author: &SigningKey,
    round: &BlockHash,
    blocks: &CandidateBlocks,
) -> Result<ContributeReport, EvolveError> {
    let before = chain.len().unwrap();
    let dry = contribute(chain, author, round, blocks, &ContributeOptions { dry_run: true });
    assert_eq!(chain.len().unwrap(), before);
    let done = contribute(chain, author, round, blocks, &ContributeOptions::default());
    match (&dry, &done) {
        (Ok(dry), Ok(done)) => {
            assert_eq!(dry, done);
            assert_eq!(chain.len().unwrap(), before + u64::from(done.appended.is_some()));
            let again = contribute(chain, author, round, blocks, &ContributeOptions::default()).unwrap();
            assert_eq!((again.appended, again.stage), (None, done.stage));
        }
        (dry, done) => {
            assert_eq!(dry.as_ref().unwrap_err().to_string(), done.as_ref().unwrap_err().to_string());
            assert_eq!(chain.len().unwrap(), before);
        }
    }
    done
}

/// Tokens that were routed to an expert, counted by the tracker of a model that reads them all at once.
fn naive_uses(chain: &Chain, receipt: &BlockHash, slot: Slot) -> u64 {
    let receipt = Receipt::read(chain, receipt).unwrap();
    let options = ManagerOptions { model: Some(receipt.claim().model), ..run_options() };
    let manager = MoEModelManager::open(chain, &options).unwrap();
    let claim = receipt.claim();
    let read = [&claim.prompt_tokens[..], &claim.output_tokens[..claim.output_tokens.len() - 1]].concat();
    let one = GenerateOptions { max_tokens: Some(1), ignore_eos: true, ..Default::default() };
    manager.generate(read, &one).unwrap();
    manager.usage().by_name(&slot.to_string()).unwrap().tokens
}

#[test]
fn improvements_are_paid_by_their_use() {
    let world = world();
    let reveal = world.round(0, &[(alice(), world.better(A, 1.0)), (bob(), world.better(B, 1.0))]);
    let state = judge(&world.chain, &world.policy).unwrap();
    assert!(state.candidates.values().all(|candidate| candidate.verdict.is_accepted()), "{state:?}");
    assert_eq!(world.shares(0), BTreeMap::new(), "nothing was used");

    let receipts: Vec<BlockHash> = ["In the beginning", "And God said", "The LORD is my shepherd"]
        .iter()
        .map(|prompt| world.receipt(world.chosen(), prompt, &[]))
        .collect();
    world.record(&reveal, &receipts, &vera());
    assert_eq!(world.shares(0), BTreeMap::new(), "one of two validators");
    world.record(&reveal, &receipts[..2], &victor());

    // The formula of docs/rewards.md in floats, from attested losses and a run of our own.
    let step = state.chosen.steps.last().unwrap();
    assert_eq!(state.chosen.steps.len(), 1);
    let ratio =
        |losses: &[blyan_core::evolve::Losses]| (losses[0].base.value() / losses[0].candidate.value()).log2();
    let together = ratio(&step.losses);
    let mut made = Vec::new();
    for candidate in &step.candidates {
        let candidate = &state.candidates[candidate];
        let blyan_core::evolve::Verdict::Accepted { losses, .. } = &candidate.verdict else { panic!() };
        let slot = *candidate.blocks.keys().next().unwrap();
        let used: u64 = receipts[..2].iter().map(|receipt| naive_uses(&world.chain, receipt, slot)).sum();
        made.push((candidate.author, ratio(losses), used as f64));
    }
    assert!(made.iter().all(|(_, gain, used)| *gain > 0.0 && *used > 0.0), "{made:?}");
    let total: f64 = made.iter().map(|(_, gain, _)| gain).sum();
    let found = world.shares(0);
    for (author, gain, used) in &made {
        let credit = gain.min((together - (total - gain)).max(0.0));
        let others: f64 = made.iter().filter(|other| other.0 != *author).map(|(_, g, u)| g * u).sum();
        let expected =
            if credit > 0.0 { POOL as f64 * credit * used / (credit * used + others) } else { 0.0 };
        let units = found.get(author).copied().unwrap_or(0) as f64;
        assert!((units - expected).abs() < 2.0, "{units} {expected} {made:?} {together}");
    }
    assert!(found.values().sum::<u64>() <= POOL);
    let authors: BTreeSet<PublicKey> = [alice(), bob()].iter().map(PublicKey::of).collect();
    assert!(!found.is_empty() && found.keys().all(|key| authors.contains(key)));
    // Nothing was used in the next period, and nobody recorded in it.
    assert_eq!(world.shares(1), BTreeMap::new());

    // Anyone who gets the blocks, in whatever order, finds the same.
    let other = Chain::in_memory().unwrap();
    let mut left: Vec<_> = world.chain.topological_order().map(Result::unwrap).collect();
    left.reverse();
    while let Some(at) = left
        .iter()
        .position(|block| block.header().parents.iter().all(|parent| other.contains(&parent.hash).unwrap()))
    {
        let block = left.remove(at);
        let header = block.header().clone();
        let payload = world.chain.payload(&block.hash()).unwrap().to_vec();
        let (lane, kind, name, version) = (header.lane, header.kind, header.name, header.version);
        let media_type = header.payload.media_type;
        other
            .append(Draft { lane, kind, name, version, parents: header.parents, payload, media_type })
            .unwrap();
    }
    assert!(left.is_empty());
    assert_eq!(Ledger::of(&other, &world.policy).unwrap(), Ledger::of(&world.chain, &world.policy).unwrap());
    assert!(world.chain.verify(&VerifyOptions::default()).unwrap().bad.is_empty());
}

#[test]
fn who_comes_later_or_copies_earns_nothing() {
    let world = world();
    let first = world.better(A, 1.0);
    let reveal = world.round(0, &[(alice(), first.clone())]);
    let receipts = [world.receipt(world.chosen(), "In the beginning", &[])];
    for validator in [vera(), victor()] {
        world.record(&reveal, &receipts, &validator);
    }
    let all = BTreeMap::from([(PublicKey::of(&alice()), POOL)]);
    assert_eq!(world.shares(0), all);

    // The same receipt again, another one of the same run, and the same under the next reveal.
    let again = world.receipt(world.chosen(), "In the beginning", &["\u{1}never"]);
    assert_ne!(again, receipts[0]);
    for validator in [vera(), victor()] {
        world.record(&reveal, &[receipts[0], again, again], &validator);
    }
    let ledger = Ledger::of(&world.chain, &world.policy).unwrap();
    let runs: BTreeSet<[u8; 32]> = ledger.uses.iter().map(|used| used.run).collect();
    assert_eq!(runs.len(), 1);
    assert_eq!(uses(&world.chain, &world.policy).unwrap().len(), 2);

    // Nor does a generation of the same tokens that was ended before it read any take the run's place.
    let claim = Receipt::read(&world.chain, &receipts[0]).unwrap().claim().clone();
    let options = ManagerOptions { model: Some(claim.model), ..run_options() };
    let manager = MoEModelManager::open(&world.chain, &options).unwrap();
    let tokens = [&claim.prompt_tokens[..], &claim.output_tokens].concat();
    let stream = manager.stream(tokens, &GenerateOptions { max_tokens: Some(1), ..Default::default() });
    let unread = stream.unwrap().finish().unwrap().receipt.append(&world.chain).unwrap();
    for validator in [vera(), victor()] {
        world.record(&reveal, &[unread], &validator);
    }
    assert_eq!(world.shares(0), all);

    // Carol brings Alice's weights in a block of her own.
    let round = open_round(&world.chain, &vera(), &world.policy, &world.splits[1]).unwrap();
    let base = world.chosen();
    let block = first[&A];
    let worse = variant(&world.chain, &base, &block, A, 0.5);
    let copy = variant(&world.chain, &base, &block, A, 1.0);
    let error = next(&world.chain, &carol(), &round, &CandidateBlocks::from([(A, copy)])).unwrap_err();
    assert!(matches!(error, EvolveError::Contribute(ContributeError::Unchanged { slot: A, .. })), "{error}");
    // Bob claims; Carol comes when the round is closed.
    let bobs = world.better(B, 1.0);
    world.next(&bob(), &round, &bobs);
    close_round(&world.chain, &vera(), &round).unwrap();
    let late = next(&world.chain, &carol(), &round, &CandidateBlocks::from([(A, worse)])).unwrap_err();
    assert!(matches!(late, EvolveError::Contribute(ContributeError::ClosedBefore { .. })), "{late}");
    assert_eq!(world.next(&bob(), &round, &bobs).stage, ContributeStage::Proposed);
    reveal_and_attest(&world, &round, 1);
    assert_eq!(world.next(&bob(), &round, &bobs).stage, ContributeStage::Revealed);

    // In the next round Carol copies what Bob has shown, onto an older base's slot.
    let state = judge(&world.chain, &world.policy).unwrap();
    publish(&world.chain, &state).unwrap();
    let round = open_round(&world.chain, &vera(), &world.policy, &world.splits[2]).unwrap();
    let spoilt = Snapshot::of_model(&world.chain, &world.model).unwrap().slots()[&B].block;
    let base = world.chosen();
    let error = if Snapshot::of_model(&world.chain, &base).unwrap().slots()[&B].block == bobs[&B] {
        // Bob's is in the base now.
        let copy = variant(&world.chain, &base, &bobs[&B], B, 1.0);
        next(&world.chain, &carol(), &round, &CandidateBlocks::from([(B, copy)])).unwrap_err()
    } else {
        let copy = variant(&world.chain, &base, &bobs[&B], B, 1.0);
        assert_ne!(copy, spoilt);
        next(&world.chain, &carol(), &round, &CandidateBlocks::from([(B, copy)])).unwrap_err()
    };
    assert!(
        matches!(
            error,
            EvolveError::Contribute(ContributeError::Copy { .. } | ContributeError::Unchanged { .. })
        ),
        "{error}"
    );
    // Alice's earlier shares are what they were, and she is the heirs' ancestor in the next period.
    assert_eq!(world.shares(0), all);
}

fn reveal_and_attest(world: &World, round: &BlockHash, number: usize) -> BlockHash {
    let shown = reveal(&world.chain, &vera(), round, &world.splits[number]).unwrap();
    let options = EvaluateOptions { threads: Some(1), ..EvaluateOptions::default() };
    for validator in [vera(), victor()] {
        attest_all(&world.chain, &validator, &shown, &options).unwrap();
    }
    shown
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let world = world();
    let round = open_round(&world.chain, &vera(), &world.policy, &world.splits[0]).unwrap();
    let blocks = world.better(A, 1.0);
    let block = blocks[&A];
    let refused = |author: &SigningKey, blocks: &[(Slot, BlockHash)]| {
        next(&world.chain, author, &round, &blocks.iter().copied().collect()).unwrap_err()
    };
    assert!(matches!(refused(&alice(), &[]), EvolveError::Contribute(ContributeError::Nothing)));
    let moved = refused(&alice(), &[(B, block)]);
    assert!(matches!(moved, EvolveError::Contribute(ContributeError::WrongSlot { slot: B, .. })), "{moved}");
    let present = Snapshot::of_model(&world.chain, &world.model).unwrap().slots()[&A].block;
    let same = refused(&alice(), &[(A, present)]);
    assert!(matches!(same, EvolveError::Contribute(ContributeError::Unchanged { slot: A, .. })), "{same}");
    let unknown = refused(&alice(), &[(A, BlockHash::from_bytes([9; 32]))]);
    assert!(matches!(unknown, EvolveError::Chain(_)), "{unknown}");
    // What no candidate may hold is not claimed either: a text, or a head beside tied embeddings.
    let text = Draft::new(ChainId::Parameter, BlockKind::TOKENIZER, "tokenizer", "{}");
    let text = refused(&alice(), &[(Slot::Tokenizer, world.chain.append(text).unwrap())]);
    assert!(matches!(text.reason(), Some(InvalidEvidence::Round(RoundError::NotWeights { .. }))), "{text}");
    let model = Snapshot::of_model(&world.chain, &world.model).unwrap();
    let embedding = TensorBlock::open(&world.chain, &model.slots()[&Slot::Embedding].block).unwrap();
    let (_, view) = embedding.tensors().next().unwrap();
    let head = write(&[("lm_head.weight", view.dtype(), view.shape(), view.data())]).unwrap();
    let head = Draft::new(ChainId::Parameter, BlockKind::HEAD, "head", head)
        .with_parent(*model.spec_block(), ParentRole::Dependency);
    let head = refused(&alice(), &[(Slot::Head, world.chain.append(head).unwrap())]);
    assert!(matches!(head.reason(), Some(InvalidEvidence::Round(RoundError::UnknownSlot { .. }))), "{head}");
    // Who knows the split proposes nothing.
    let owner = refused(&vera(), &[(A, block)]);
    assert!(matches!(owner.reason(), Some(InvalidEvidence::Round(RoundError::OwnRound { .. }))), "{owner}");
    let before = world.len();
    let no_round = contribute(&world.chain, &alice(), &world.policy, &blocks, &ContributeOptions::default());
    assert!(matches!(no_round, Err(EvolveError::WrongKind { .. })));
    assert_eq!(world.len(), before);

    // Two claim, one shows what was claimed in time.
    let bobs = world.better(B, 1.0);
    world.next(&alice(), &round, &blocks);
    world.next(&bob(), &round, &bobs);
    close_round(&world.chain, &vera(), &round).unwrap();
    world.next(&alice(), &round, &blocks);
    reveal_and_attest(&world, &round, 0);
    let late = next(&world.chain, &bob(), &round, &bobs).unwrap_err();
    assert!(matches!(late, EvolveError::Contribute(ContributeError::RevealedBefore { .. })), "{late}");
}

#[test]
fn use_counts_only_if_it_recomputes() {
    let world = world();
    let shown = world.round(0, &[(alice(), world.better(A, 1.0))]);
    let good = world.receipt(world.chosen(), "In the beginning", &[]);
    let record = |receipts: &[BlockHash], key: &SigningKey, policy: &BlockHash, reveal: &BlockHash| {
        let before = world.len();
        let error = record_usage(&world.chain, policy, reveal, receipts, key, &run_options()).unwrap_err();
        assert_eq!(world.len(), before);
        error
    };
    let (policy, chain) = (&world.policy, &world.chain);
    assert!(matches!(record(&[], &vera(), policy, &shown), EvolveError::NoReceipts));
    let stranger = record(&[good], &alice(), policy, &shown);
    assert!(matches!(stranger.reason(), Some(InvalidEvidence::NotAValidator { .. })), "{stranger}");
    for (policy, reveal, receipt) in
        [(&shown, &shown, good), (policy, policy, good), (policy, &shown, *policy), (policy, &shown, shown)]
    {
        let error = record(&[receipt], &vera(), policy, reveal);
        assert!(matches!(error, EvolveError::WrongKind { .. }), "{error}");
    }
    let missing = BlockHash::from_bytes([3; 32]);
    assert!(matches!(record(&[missing], &vera(), policy, &shown), EvolveError::Chain(_)));

    // A receipt that tells another output.
    let mut claim = Receipt::read(chain, &good).unwrap().claim().clone();
    claim.output_tokens[3] ^= 1;
    let forged = Receipt::new(claim).append(chain).unwrap();
    let error = record(&[good, forged], &vera(), policy, &shown);
    let EvolveError::UntrueReceipt { receipt, difference } = &error else { panic!("{error}") };
    assert_eq!((*receipt, difference.as_str()), (forged, "/claim/output_tokens/3"));

    // Validators that say other numbers: of two, none is believed; who audits finds them.
    let honest = world.record(&shown, &[good], &vera());
    assert!(audit_usage(chain, &honest, &run_options()).unwrap().is_empty());
    let mut body = Statement::<UsageRecord>::read(chain, &honest).unwrap().body().clone();
    *body.receipts.get_mut(&good).unwrap().values_mut().next().unwrap() += 1;
    body.receipts.insert(forged, BTreeMap::from([(good, u64::MAX)]));
    let lie = Statement::sign(&victor(), body.clone()).unwrap().append(chain).unwrap();
    assert_eq!(
        audit_usage(chain, &lie, &run_options()).unwrap(),
        BTreeSet::from([good, forged]).into_iter().collect::<Vec<_>>()
    );
    assert!(uses(chain, policy).unwrap().is_empty());
    assert_eq!(world.shares(0), BTreeMap::new());
    // Saying the truth besides does not help: two words are none.
    world.record(&shown, &[good], &victor());
    assert!(uses(chain, policy).unwrap().is_empty());

    // A receipt of a model that was never adopted counts for nothing.
    let own = world.receipt(world.good, "And God said", &[]);
    for validator in [vera(), victor()] {
        world.record(&shown, &[own], &validator);
    }
    assert_eq!(uses(chain, policy).unwrap().len(), 1);
    assert!(Ledger::of(chain, policy).unwrap().uses.is_empty());

    // Payloads that are no records and no receipts.
    let bytes = |block: &BlockHash| chain.payload(block).unwrap().to_vec();
    for block in [honest, good] {
        let stored = chain.get(&block).unwrap().header().clone();
        let before = chain.len().unwrap();
        let append = |payload: Vec<u8>, parents: Vec<_>| {
            let mut draft = Draft::new(stored.lane, stored.kind, stored.name.as_str(), payload);
            draft.parents = parents;
            chain.append(draft).unwrap_err()
        };
        let text = String::from_utf8(bytes(&block)).unwrap();
        for payload in ["", "{}", "[", &text.replacen(':', ": ", 1), &text[..text.len() - 1]] {
            let error = append(payload.into(), stored.parents.clone());
            assert!(matches!(error, blyan_core::ChainError::Refused { .. }), "{error}");
        }
        let mut more = stored.parents.clone();
        more.push(blyan_core::Parent::dependency(lie));
        for parents in [Vec::new(), more] {
            let error = EvolveError::from(append(text.clone().into_bytes(), parents));
            assert!(matches!(error.reason(), Some(InvalidEvidence::Parents { .. })), "{error}");
        }
        assert_eq!(chain.len().unwrap(), before);
    }
}
