//! Trains the quickstart's model from nothing but text, and writes it as a chain and as a checkpoint folder.
//!
//! ```console
//! $ cargo run --release -p blyan-learn --example pretrain [-- --text FOLDER --out FOLDER --steps N --batch N]
//! ```
//!
//! A folder of text holds text files, read in the order of their names, this folder's `kjv` if no other is given; the
//! last 30,000 tokens are held out. Shape and tokenizer are those of `models/tiny-kjv-moe`, or of `--shape FOLDER`. What
//! comes of it is in `target/pretrain` or the folder of `--out`; a run that was stopped goes on from its `run`.

#![allow(clippy::print_stdout, reason = "a program for the terminal")]

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::Snapshot;
use blyan_core::manager::text::Tokenizer;
use blyan_core::{Chain, DType, Slot, export};
use blyan_learn::{AdamW, Ended, Schedule, TrainOptions, Trainer};

/// Tokens at the end of the text that training never sees, as with the model that the project carries.
const HELD_OUT: usize = 30_000;
/// How often the loss on held-out text is measured, and the run saved.
const CHECK_EVERY: Duration = Duration::from_secs(300);

struct Arguments {
    text: PathBuf,
    out: PathBuf,
    shape: PathBuf,
    steps: u64,
    batch: usize,
    peak: f64,
    /// Ends after so many steps, as if interrupted: to measure.
    stop_after: Option<u64>,
}

fn arguments() -> Result<Arguments, String> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Arguments {
        text: package.join("examples/pretrain/kjv"),
        out: package.join("../target/pretrain"),
        shape: package.join("../models/tiny-kjv-moe"),
        steps: 1600,
        batch: 16,
        peak: 3e-3,
        stop_after: None,
    };
    let mut given = std::env::args().skip(1);
    while let Some(argument) = given.next() {
        let mut value = || given.next().ok_or(format!("{argument} needs a value"));
        let wrong = |error: &dyn std::fmt::Display| format!("{error}: expected a number");
        match argument.as_str() {
            "--text" => found.text = value()?.into(),
            "--out" => found.out = value()?.into(),
            "--shape" => found.shape = value()?.into(),
            "--steps" => found.steps = value()?.parse().map_err(|error| wrong(&error))?,
            "--batch" => found.batch = value()?.parse().map_err(|error| wrong(&error))?,
            "--peak" => found.peak = value()?.parse().map_err(|error| wrong(&error))?,
            "--stop-after" => found.stop_after = Some(value()?.parse().map_err(|error| wrong(&error))?),
            other => {
                return Err(format!(
                    "{other}: expected --text, --out or --shape with a folder, or --steps, --batch, --peak or --stop-after \
                     with a number"
                ));
            }
        }
    }
    Ok(found)
}

/// All files of a folder as one list of tokens.
fn read_tokens(folder: &Path, tokenizer: &Tokenizer) -> Result<Vec<u32>, Box<dyn Error>> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files.sort();
    let mut tokens = Vec::new();
    for file in files.iter().filter(|file| file.is_file()) {
        tokens.extend(tokenizer.encode(&fs::read_to_string(file)?, false)?);
    }
    Ok(tokens)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = arguments()?;
    let shape = Chain::in_memory()?;
    import::checkpoint(&shape, &arguments.shape, &ImportOptions::default())?;
    let snapshot = Snapshot::only_model(&shape)?;
    let spec = snapshot.spec().clone();
    let mut texts = Vec::new();
    for (slot, pinned) in snapshot.slots().iter().filter(|(slot, _)| !slot.kind().is_weights()) {
        texts.push((*slot, shape.payload(&pinned.block)?.to_vec()));
    }
    let json = texts.iter().find(|(slot, _)| *slot == Slot::Tokenizer).ok_or("the shape has no tokenizer")?;
    let tokenizer = Tokenizer::from_json(&json.1, spec.vocab_size)?;
    let mut tokens = read_tokens(&arguments.text, &tokenizer)?;
    let held_out = tokens.split_off(tokens.len().saturating_sub(HELD_OUT));
    println!("{} tokens to learn from, {} held out", tokens.len(), held_out.len());

    let options = TrainOptions {
        steps: arguments.steps,
        batch: arguments.batch,
        sequence: 256,
        schedule: Schedule { peak: arguments.peak, floor: 0.02, warmup_steps: 100 },
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1 },
        clip: Some(1.0),
        balance: 0.01,
        seed: 1,
        ..TrainOptions::default()
    };
    let mut trainer = Trainer::from_nothing(spec, 0.02, tokens, options)?;
    fs::create_dir_all(&arguments.out)?;
    let saved = arguments.out.join("run");
    if saved.exists() {
        trainer.resume(&fs::read(&saved)?)?;
        println!("going on from step {}", trainer.steps_done());
    }
    println!("{} parameters, {} steps", trainer.trained_parameters(), trainer.options().steps);

    let begin = Instant::now();
    let (mut spent, mut seen, mut last_check) = (Duration::ZERO, 0u64, Instant::now());
    let mut ended = Ended::Cancelled;
    while trainer.steps_done() < trainer.options().steps {
        if arguments.stop_after.is_some_and(|steps| trainer.steps_done() >= steps) {
            break;
        }
        let report = trainer.step()?;
        spent += report.time;
        seen += report.tokens;
        if report.step % 20 == 0 {
            let rate = seen as f64 / spent.as_secs_f64();
            println!(
                "step {:5}  loss {:.4}  balance {:.3}  norm {:.2}  rate {:.2e}  {rate:.0} tokens/s",
                report.step, report.loss, report.balance, report.gradient_norm, report.learning_rate
            );
        }
        if last_check.elapsed() > CHECK_EVERY {
            println!("step {:5}  held-out loss {:.4}", report.step, trainer.loss(&held_out)?);
            fs::write(&saved, trainer.checkpoint()?)?;
            last_check = Instant::now();
        }
        if trainer.steps_done() == trainer.options().steps {
            ended = Ended::Finished;
        }
    }
    fs::write(&saved, trainer.checkpoint()?)?;
    println!("held-out loss {:.4} after {:.0} s", trainer.loss(&held_out)?, begin.elapsed().as_secs_f64());
    if ended == Ended::Finished {
        let chain = Chain::open(arguments.out.join("chain"))?;
        let model = trainer.append_model(&chain, DType::BF16, &texts)?;
        export::checkpoint(&chain, &model, arguments.out.join("checkpoint"), &Default::default())?;
        println!("model {model} in {}", arguments.out.display());
    }
    Ok(())
}
