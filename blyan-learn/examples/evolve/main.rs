//! A model evolves on evidence: two contributors improve different experts of one model in parallel, a third one
//! does harm; validators measure all of them on text that nobody was shown before, and what is better becomes a
//! release.
//!
//! ```console
//! $ cargo run --release -p blyan-learn --example evolve -- [OUT_FOLDER]
//! ```
//!
//! OUT_FOLDER (`target/evolve` unless it is given) must not be there yet: the chain and the picture are written
//! to it. README.md beside this file tells the story.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

mod picture;

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blyan_core::chain::{BundleOptions, UnbundleOptions};
use blyan_core::evolve::dataset::{self, DatasetDraft};
use blyan_core::evolve::{
    Attestation, CandidateBlocks, EvaluateOptions, Evidence, Policy, PublicKey, Statement, Tier, Verdict,
    attest_all, claim, close_round, evaluate, judge, open_round, propose_candidate, publish_release, reveal,
};
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{
    self, CompareOptions, GenerateOptions, LossDiff, ManagerOptions, MoEModelManager, Snapshot, compare,
};
use blyan_core::{BlockHash, Chain, Slot};
use blyan_learn::{Form, Schedule, TrainOptions, Trainer};
use ed25519_dalek::SigningKey;
use semver::Version;

use picture::{Dot, Look, Picture};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

/// What is learnt from: six letters of the New Testament, and half of its last book.
const LEARN: &str = include_str!("text/learn.txt");
/// Known to everybody too; no candidate may be worse on it.
const DATASET: &str = include_str!("text/dataset.txt");
/// Decides, and is shown only when all candidates are.
const SPLIT: &str = include_str!("text/split.txt");

const NAME: &str = "tiny-kjv-moe";
const PROMPT: &str = "And I saw";

/// Somebody who trains all experts of one layer.
struct Contributor {
    name: &'static str,
    seed: u8,
    layer: u32,
    form: Form,
    /// Largest learning rate.
    peak: f64,
    /// Learns the words in the wrong order, and says nothing about it.
    backwards: bool,
}

const CONTRIBUTORS: [Contributor; 3] = [
    Contributor { name: "Ada", seed: 11, layer: 1, form: Form::Full, peak: PEAK, backwards: false },
    Contributor {
        name: "Ben",
        seed: 12,
        layer: 3,
        form: Form::LowRank { rank: 16 },
        peak: LOW_RANK_PEAK,
        backwards: false,
    },
    Contributor { name: "Mal", seed: 13, layer: 2, form: Form::Full, peak: PEAK, backwards: true },
];

// Fixed before the split was looked at. `--rehearse` shows losses on the dataset alone.
const STEPS: u64 = 80;
const PEAK: f64 = 1e-3;
const LOW_RANK_PEAK: f64 = 3e-3;

/// The validators; the first one owns the round.
const VALIDATORS: [u8; 3] = [1, 2, 3];

/// A key that everybody can guess: for an example, and nothing else.
fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn public(seed: u8) -> PublicKey {
    PublicKey::of(&key(seed))
}

/// Takes blocks with their ancestors from one chain to another, without what is known there: how people meet.
fn send(from: &Chain, blocks: Vec<BlockHash>, known: Vec<BlockHash>, to: &Chain) -> Result<u64> {
    let mut bytes = Vec::new();
    let options = BundleOptions { blocks: Some(blocks), ancestors: true, known, ..BundleOptions::default() };
    from.bundle(&mut bytes, &options)?;
    Ok(to.unbundle(&mut bytes.as_slice(), &UnbundleOptions::default())?.blocks_new)
}

/// What a contributor has made, on a chain of their own that nobody else sees.
struct Work {
    chain: Chain,
    blocks: CandidateBlocks,
}

impl Contributor {
    fn slots(&self, snapshot: &Snapshot) -> Vec<Slot> {
        let own = |slot: &Slot| matches!(slot, Slot::Expert { layer, .. } if *layer == self.layer);
        snapshot.slots().keys().copied().filter(own).collect()
    }

    /// Trains from the same base as everybody, with one thread, so that the others can work beside.
    fn work(&self, common: &Chain, base: &BlockHash, arguments: &Arguments) -> Result<Work> {
        let chain = Chain::in_memory()?;
        send(common, vec![*base], Vec::new(), &chain)?;
        let snapshot = Snapshot::of_model(&chain, base)?;
        let mut tokens = dataset::tokenize(&chain, &snapshot, LEARN)?;
        // The dataset is for everybody: a contributor tries there before claiming anything.
        let known = dataset::tokenize(&chain, &snapshot, DATASET)?;
        // Harm is done in a quarter of the time.
        let steps = if self.backwards { arguments.steps / 4 } else { arguments.steps };
        if self.backwards {
            tokens.reverse();
        }
        let options = TrainOptions {
            slots: self.slots(&snapshot),
            form: self.form,
            steps,
            batch: 8,
            sequence: 256,
            schedule: Schedule { peak: arguments.rate * self.peak, floor: 0.1, warmup_steps: steps / 10 },
            seed: u64::from(self.seed),
            threads: Some(1),
            ..TrainOptions::default()
        };
        let mut trainer = Trainer::new(&chain, &snapshot, tokens, options)?;
        let (mut seen, mut spent) = (0, Duration::ZERO);
        let name = self.name;
        while trainer.steps_done() < steps {
            let report = trainer.step()?;
            seen += report.tokens;
            spent += report.time;
            let done = trainer.steps_done();
            if done % (steps / 4).max(1) == 0 {
                let there = trainer.loss(&known)?;
                println!("  {name} step {done:3}: loss {:.4}, on the dataset {there:.4}", report.loss);
            }
        }
        let blocks: CandidateBlocks = trainer
            .append_candidates(&chain)?
            .into_iter()
            .map(|candidate| (candidate.slot, candidate.block))
            .collect();
        let changed: Vec<BlockHash> = blocks.values().copied().collect();
        let candidate = snapshot.with_blocks(&chain, &changed)?;
        let options = EvaluateOptions { threads: Some(1), ..EvaluateOptions::default() };
        let [before, after] =
            [&snapshot, &candidate].map(|model| evaluate(&chain, model, &known, &options).map(|e| e.loss()));
        println!(
            "  {name} has {} experts of layer {}: {:.2} M numbers learnt at {:.0} tokens/s, dataset {:.4} → {:.4}",
            blocks.len(),
            self.layer,
            trainer.trained_parameters() as f64 / 1e6,
            seen as f64 / spent.as_secs_f64(),
            before?,
            after?
        );
        Ok(Work { chain, blocks })
    }
}

struct Arguments {
    out: PathBuf,
    /// Ends before anything is revealed.
    rehearse: bool,
    steps: u64,
    /// Times the learning rates.
    rate: f64,
}

fn arguments() -> Result<Arguments> {
    let usage = "usage: evolve [OUT_FOLDER] [--rehearse] [--steps N] [--rate FACTOR]";
    let mut found =
        Arguments { out: PathBuf::from("target/evolve"), rehearse: false, steps: STEPS, rate: 1.0 };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value: {usage}"));
        match argument.as_str() {
            "--steps" => found.steps = value()?.parse()?,
            "--rate" => found.rate = value()?.parse()?,
            "--rehearse" => found.rehearse = true,
            option if option.starts_with('-') => return Err(format!("{option}: {usage}").into()),
            folder => found.out = folder.into(),
        }
    }
    if found.out.exists() {
        let out = found.out.display();
        return Err(format!("{out} is there already: remove it or name another folder; {usage}").into());
    }
    Ok(found)
}

fn percent(base: f64, candidate: f64) -> String {
    format!("{:+.2} %", 100.0 * (candidate / base - 1.0))
}

/// A table's line: what, losses on split and dataset, and what follows.
fn print_losses(name: &str, attestation: &Attestation, verdict: &str) {
    let cells = attestation.losses.iter().map(|losses| {
        let (base, candidate) = (losses.base.value(), losses.candidate.value());
        format!("{candidate:.4} ({})", percent(base, candidate))
    });
    let cells: Vec<String> = cells.map(|cell| format!("{cell:<20}")).collect();
    println!("  {name:<12} {} {verdict}", cells.join(" "));
}

fn generate(chain: &Chain, version: &str) -> Result<String> {
    let name = Some(format!("{NAME}@{version}"));
    let options = ManagerOptions { name, persist_usage: false, ..ManagerOptions::default() };
    let model = MoEModelManager::open(chain, &options)?;
    let generation =
        model.generate(PROMPT, &GenerateOptions { max_tokens: Some(40), ..GenerateOptions::default() })?;
    Ok(generation.text.replace('\n', " / "))
}

#[allow(clippy::too_many_lines, reason = "a story is told from its beginning to its end")]
fn main() -> Result<()> {
    let arguments = arguments()?;
    let begin = Instant::now();
    let chain = match arguments.rehearse {
        true => Chain::in_memory()?,
        false => {
            fs::create_dir_all(&arguments.out)?;
            Chain::open(arguments.out.join("chain"))?
        }
    };

    // The model that everything begins with, and the rules, before anybody has done anything.
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(NAME);
    let base = import::checkpoint(&chain, folder, &ImportOptions::default())?.model;
    let first_release = manager::release(&chain, &base, NAME, Version::new(1, 0, 0))?;
    let before = Snapshot::of_model(&chain, &base)?;
    let source = "King James Bible, Revelation 12 to 15";
    let draft = DatasetDraft::of_text(&chain, &before, "revelation-12-15", DATASET, "CC0-1.0", source)?;
    let dataset = dataset::propose(&chain, DatasetDraft { tier: Tier::Gold, ..draft })?;
    let rules =
        Policy { required: 2, datasets: [dataset].into(), ..Policy::new(base, VALIDATORS.map(public)) };
    let policy = rules.append(&chain)?;
    println!(
        "policy {}: {} % better on the split, at most {} % worse on the dataset, {} of {} validators",
        policy.short(),
        f64::from(rules.threshold_ppm) / 1e4,
        f64::from(rules.tolerance_ppm) / 1e4,
        rules.required,
        rules.validators.len()
    );

    // A round: its owner commits to the split and keeps it.
    let owner = key(VALIDATORS[0]);
    let split = dataset::tokenize(&chain, &before, SPLIT)?;
    let round = open_round(&chain, &owner, &policy, &split)?;
    println!("round {}: on model {}, {} tokens committed to", round.short(), base.short(), split.len());

    // All train at the same time, from the same parent, each on a chain of their own.
    println!("training, all at the same time");
    let works = std::thread::scope(|scope| {
        let threads = CONTRIBUTORS.each_ref().map(|who| {
            let (chain, arguments) = (&chain, &arguments);
            scope.spawn(move || who.work(chain, &base, arguments))
        });
        let joined =
            threads.map(|thread| thread.join().unwrap_or_else(|_| Err("a contributor is gone".into())));
        joined.into_iter().collect::<Result<Vec<Work>>>()
    })?;
    if arguments.rehearse {
        println!("{:.0} s; nothing was claimed or revealed", begin.elapsed().as_secs_f64());
        return Ok(());
    }

    // Claims say only that there is something; candidates are shown when the list is closed, the split when
    // the candidates are.
    let everybody = || CONTRIBUTORS.iter().zip(&works);
    let claims: Vec<BlockHash> = everybody()
        .map(|(who, work)| claim(&chain, &key(who.seed), &round, &work.blocks))
        .collect::<Result<_, _>>()?;
    let closing = close_round(&chain, &owner, &round)?;
    let mut candidates = Vec::new();
    for ((who, work), claim) in everybody().zip(&claims) {
        let blocks: Vec<BlockHash> = work.blocks.values().copied().collect();
        let new = send(&work.chain, blocks, vec![base], &chain)?;
        let candidate = propose_candidate(&chain, &key(who.seed), claim, &work.blocks)?;
        println!("candidate {} by {}: {new} new blocks", candidate.short(), who.name);
        candidates.push(candidate);
    }
    let revealed = reveal(&chain, &owner, &round, &split)?;

    // Every validator measures for themselves.
    let mut attested: BTreeMap<BTreeSet<BlockHash>, Vec<(BlockHash, Attestation)>> = BTreeMap::new();
    for (number, seed) in VALIDATORS.iter().enumerate() {
        let begin = Instant::now();
        let blocks = attest_all(&chain, &key(*seed), &revealed, &EvaluateOptions::default())?;
        println!(
            "validator {}: {} attestations in {:.1} s",
            number + 1,
            blocks.len(),
            begin.elapsed().as_secs_f64()
        );
        for block in blocks {
            let body = Statement::<Attestation>::read(&chain, &block)?.body().clone();
            attested.entry(body.candidates.clone()).or_default().push((block, body));
        }
    }

    // What follows is a function of the blocks, for everyone who has them.
    let state = judge(&chain, &policy)?;
    println!("losses        split                dataset");
    let original = attested.values().flatten().next().map(|(_, body)| body.losses.clone());
    let original = original.ok_or("no validator attested anything")?;
    let originals: Vec<String> =
        original.iter().map(|losses| format!("{:<20}", format!("{:.4}", losses.base.value()))).collect();
    println!("  {:<12} {}", "base", originals.join(" "));
    let mut picture = Picture::new("How a model evolved");
    let lines = [1.0, 2.0, 3.0];
    let mut verdicts = Vec::new();
    for (who, candidate) in CONTRIBUTORS.iter().zip(&candidates) {
        let verdict = &state.candidates[candidate].verdict;
        let text = match verdict {
            Verdict::Accepted { validators, .. } => format!("accepted, {} validators", validators.len()),
            Verdict::Refused(_) => "refused".to_owned(),
        };
        let [(_, body), ..] = attested[&BTreeSet::from([*candidate])].as_slice() else { continue };
        print_losses(who.name, body, &text);
        if let Verdict::Refused(reason) = verdict {
            println!("  {:<12} refused: {reason}", "");
        }
        verdicts.push(verdict.is_accepted());
    }
    let names = |set: &BTreeSet<BlockHash>| {
        let of = CONTRIBUTORS.iter().zip(&candidates).filter(|(_, candidate)| set.contains(candidate));
        of.map(|(who, _)| who.name).collect::<Vec<_>>().join(" + ")
    };
    // What was measured together is one set, of those that were good enough alone.
    if let Some((set, all)) = attested.iter().find(|(set, _)| set.len() > 1)
        && let [(_, body), ..] = all.as_slice()
    {
        let accepted = state.rounds[&round].accepted.iter().any(|accepted| accepted.candidates == *set);
        print_losses(&names(set), body, if accepted { "accepted together" } else { "refused together" });
    }

    // The chosen model becomes a release.
    let chosen: BTreeSet<BlockHash> =
        state.chosen.steps.iter().flat_map(|step| step.candidates.iter().copied()).collect();
    if chosen.is_empty() {
        return Err("nothing was accepted".into());
    }
    let (model, release) = publish_release(&chain, &state, NAME, Version::new(1, 1, 0))?;
    let after = Snapshot::named(&chain, &format!("{NAME}@1.1.0"))?;
    println!("release {NAME} 1.1.0: model {} with the experts of {}", model.short(), names(&chosen));

    // What the release changed.
    let mut diff =
        compare(&chain, &before, &after, &CompareOptions { distances: true, ..Default::default() })?;
    let last = state.chosen.steps.last().and_then(|step| step.losses.first());
    diff.loss = last.map(|losses| LossDiff {
        before_bits: losses.base.bits(),
        after_bits: losses.candidate.bits(),
        tokens: split.len() as u64 - 1,
    });
    println!(
        "diff 1.0.0 1.1.0: {} slots, {:.1} MB to send",
        diff.slots.len(),
        diff.new_payload_bytes as f64 / 1e6
    );
    for who in &CONTRIBUTORS {
        let own = diff
            .slots
            .iter()
            .filter(|slot| matches!(slot.slot, Slot::Expert { layer, .. } if layer == who.layer));
        let moved: Vec<f64> = own
            .flat_map(|slot| &slot.tensors)
            .filter_map(|tensor| tensor.distance.and_then(|distance| distance.relative_norm))
            .collect();
        if let (Some(least), Some(most)) =
            (moved.iter().copied().reduce(f64::min), moved.iter().copied().reduce(f64::max))
        {
            let count = moved.len();
            let (least, most) = (100.0 * least, 100.0 * most);
            println!(
                "  layer {}: {count} tensors moved by {least:.1} to {most:.1} % of their norm",
                who.layer
            );
        }
    }
    if let Some(loss) = diff.loss {
        let [before, after] = [loss.before_bits, loss.after_bits].map(f64::from_bits);
        let [was, is] = [before, after].map(f64::exp);
        println!(
            "  perplexity of {} tokens: {was:.2} → {is:.2} (loss {})",
            loss.tokens,
            percent(before, after)
        );
    }

    // Somebody else takes the blocks in, and comes to the same.
    let other = Chain::in_memory()?;
    let mut bytes = Vec::new();
    chain.bundle(&mut bytes, &BundleOptions::default())?;
    other.unbundle(&mut bytes.as_slice(), &UnbundleOptions::default())?;
    let agree = judge(&other, &policy)? == state;
    println!(
        "a chain that took in the bundle of all blocks ({:.1} MB) judges the same: {agree}",
        bytes.len() as f64 / 1e6
    );
    for version in ["1.0.0", "1.1.0"] {
        println!("{version}: {PROMPT}{}", generate(&chain, version)?);
    }

    // The picture.
    let mut weights: Vec<BlockHash> = before.slots().values().map(|pinned| pinned.block).collect();
    weights.extend([base, *before.spec_block()]);
    picture.node(weights, NAME, "the base, all its blocks", Look::Weights, (0.0, 6.0));
    picture.node(vec![first_release], "release 1.0.0", NAME, Look::Weights, (0.0, 8.0));
    picture.node(
        vec![dataset],
        "dataset",
        source.trim_start_matches("King James Bible, "),
        Look::Evidence,
        (0.0, 1.0),
    );
    picture.node(vec![policy], "policy", "1 % better, 2 of 3", Look::Evidence, (1.0, 0.0));
    picture.node(vec![round], "round", "commits to the split", Look::Evidence, (2.0, 0.0));
    picture.node(vec![closing], "closing", "lists the claims", Look::Evidence, (4.0, 0.0));
    picture.node(vec![revealed], "reveal", "shows the split", Look::Evidence, (6.0, 0.0));
    for (index, (who, work)) in everybody().enumerate() {
        let (line, accepted) = (lines[index], verdicts[index]);
        let look = if accepted { Look::Accepted } else { Look::Refused };
        let blocks = work.blocks.values().copied().collect();
        let experts = format!("{} experts of layer {}", work.blocks.len(), who.layer);
        picture.node(blocks, format!("{} trains", who.name), experts, look, (3.0, line + 4.0));
        picture.node(
            vec![claims[index]],
            format!("{} claims", who.name),
            "a commitment",
            Look::Evidence,
            (3.0, line),
        );
        let word = if accepted { "accepted" } else { "refused" };
        picture.node(vec![candidates[index]], format!("{}'s candidate", who.name), word, look, (5.0, line));
    }
    let mut joint = None;
    for (set, all) in &attested {
        let line = match candidates.iter().position(|candidate| set.len() == 1 && set.contains(candidate)) {
            Some(index) => lines[index],
            None => 4.0,
        };
        let [(_, body), ..] = all.as_slice() else { continue };
        let Some(losses) = body.losses.first() else { continue };
        let (base, candidate) = (losses.base.value(), losses.candidate.value());
        let accepted = state.rounds[&round].accepted.iter().any(|accepted| accepted.candidates == *set);
        let look = if accepted { Look::Accepted } else { Look::Refused };
        let title = format!("{} attestations", all.len());
        let blocks = all.iter().map(|(block, _)| *block).collect();
        let node = picture.node(
            blocks,
            title,
            format!("{}: {}", names(set), percent(base, candidate)),
            look,
            (7.0, line),
        );
        picture.dots.push(Dot { name: names(set), value: candidate, look });
        if *set == chosen {
            joint = Some(node);
        }
    }
    let end = picture.node(vec![model], "chosen model", names(&chosen), Look::Accepted, (8.0, 6.0));
    picture.node(vec![release], "release 1.1.0", NAME, Look::Accepted, (8.0, 8.0));
    picture.follows = joint.map(|joint| (joint, end));
    if let Some(losses) = original.first() {
        let base = losses.base.value();
        picture.dots.insert(0, Dot { name: "base".to_owned(), value: base, look: Look::Weights });
        picture.limit = base * (1.0 - f64::from(rules.threshold_ppm) / 1e6);
    }
    let file = arguments.out.join("lineage.svg");
    fs::write(&file, picture.svg(&chain)?)?;
    println!("{} and the chain beside it, after {:.0} s", file.display(), begin.elapsed().as_secs_f64());
    Ok(())
}
