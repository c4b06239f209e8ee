//! Measures blyan through its public API: one case a process, one line of JSON each.
//!
//! ```text
//! blyan-peer dtype DTYPE                    whether the library has it
//! blyan-peer import FOLDER CHAIN DTYPE      int8, fp8, f16, bf16, int4, or kept
//! blyan-peer check    CHAIN                 every block and payload verified
//! blyan-peer sequence CHAIN [--prompt N] [--new N] [--repeat N]
//! blyan-peer batch    CHAIN [--prompt N] [--new N] [--sequences N]
//! blyan-peer open     CHAIN [--prompt N] [--trust]
//! blyan-peer verify   CHAIN
//! blyan-peer logits   CHAIN [--prompt N] | --tokens FILE --out FILE
//! ```
//!
//! Common options: `--threads N`, `--isa NAME`, `--prefill-chunk N`.

use std::error::Error;
use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use blyan_core::format::FeedForward;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};
use blyan_core::storage::DirMedium;
use blyan_core::{Chain, DType, Slot, TensorBlock, VerifyOptions};
use lexopt::prelude::*;
use memmap2::Mmap;
use peers_runner::{Parts, cores_ns, median, memory, seconds, tokens};
use rayon::prelude::*;
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Tokens of one pass that warms a model up, and how many such passes at most.
const WARM_UP_TOKENS: usize = 512;
const WARM_UP_PASSES: u64 = 3;

struct Arguments {
    command: String,
    /// A chain; of an import a folder, a chain and a dtype.
    places: Vec<String>,
    prompt: usize,
    new: usize,
    repeat: usize,
    sequences: usize,
    trust: bool,
    /// Token ids, and where the logits of all of them go as f32.
    files: (Option<PathBuf>, Option<PathBuf>),
    options: ManagerOptions,
}

impl Arguments {
    fn parse() -> Outcome<Self> {
        let mut arguments = Self {
            command: String::new(),
            places: Vec::new(),
            prompt: 16,
            new: 64,
            repeat: 3,
            sequences: 16,
            trust: false,
            files: (None, None),
            // What a run counts would be written into the chain's directory.
            options: ManagerOptions { persist_usage: false, ..ManagerOptions::default() },
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("prompt") => arguments.prompt = parser.value()?.parse()?,
                Long("new") => arguments.new = parser.value()?.parse()?,
                Long("repeat") => arguments.repeat = parser.value()?.parse()?,
                Long("sequences") => arguments.sequences = parser.value()?.parse()?,
                Long("trust") => arguments.trust = true,
                Long("tokens") => arguments.files.0 = Some(parser.value()?.into()),
                Long("out") => arguments.files.1 = Some(parser.value()?.into()),
                Long("threads") => arguments.options.threads = Some(parser.value()?.parse()?),
                Long("isa") => arguments.options.isa = Some(parser.value()?.string()?),
                Long("prefill-chunk") => arguments.options.prefill_chunk = parser.value()?.parse()?,
                Value(value) if arguments.command.is_empty() => arguments.command = value.string()?,
                Value(value) => arguments.places.push(value.string()?),
                _ => return Err(argument.unexpected().into()),
            }
        }
        Ok(arguments)
    }

    fn chain(&self) -> Outcome<Chain> {
        let dir = self.places.first().ok_or("name the chain's directory")?;
        Ok(Chain::open_read_only(dir)?)
    }

    fn greedy(&self, new: usize) -> GenerateOptions {
        GenerateOptions { max_tokens: Some(new), ignore_eos: true, ..GenerateOptions::default() }
    }
}

/// Bytes of the blocks that one token is computed with, and of all weight blocks.
fn weight_bytes(model: &MoEModelManager) -> (f64, u64) {
    let snapshot = model.snapshot();
    let spec = snapshot.spec();
    let share = |slot: Slot| match slot {
        // One row, unless it is the head as well.
        Slot::Embedding => f64::from(u8::from(spec.tie_word_embeddings)),
        Slot::Expert { layer, .. } => match spec.layers[layer as usize].feed_forward {
            FeedForward::Moe { num_experts, num_experts_per_tok, .. } => {
                num_experts_per_tok as f64 / num_experts as f64
            }
            FeedForward::Dense { .. } => 1.0,
        },
        slot => f64::from(u8::from(slot.kind().is_weights())),
    };
    let weights = || snapshot.slots().iter().filter(|(slot, _)| slot.kind().is_weights());
    let a_token = weights().map(|(slot, block)| share(*slot) * block.len_bytes as f64).sum();
    (a_token, weights().map(|(_, block)| block.len_bytes).sum())
}

/// Computes until every weight block was verified and touched, or until a pass finds no new one: some experts
/// are never chosen. Reports how many were touched.
fn warm_up(model: &MoEModelManager) -> Outcome<Value> {
    let spec = model.snapshot().spec();
    let all = model.snapshot().slots().keys().filter(|slot| slot.kind().is_weights()).count() as u64;
    let count = WARM_UP_TOKENS.min(spec.max_position_embeddings - 1);
    let options = GenerateOptions { max_tokens: Some(1), ignore_eos: true, ..GenerateOptions::default() };
    let begun = Instant::now();
    let mut verified = 0;
    for pass in 0..WARM_UP_PASSES {
        model.generate(tokens(1000 + pass, count, spec.vocab_size), &options)?;
        let before = std::mem::replace(&mut verified, model.residency().blocks_verified);
        if verified == all || verified == before {
            break;
        }
    }
    Ok(json!({ "blocks": all, "touched": verified, "seconds": begun.elapsed().as_secs_f64() }))
}

/// The dtype of a name; `None` keeps the checkpoint's.
fn dtype(name: &str) -> Outcome<Option<DType>> {
    Ok(if name == "kept" { None } else { Some(import::dtype_of_option(name)?) })
}

fn run_dtype(arguments: &Arguments) -> Outcome<Value> {
    dtype(arguments.places.first().ok_or("name a dtype")?).map(|_| json!({}))
}

fn run_import(arguments: &Arguments) -> Outcome<Value> {
    let [folder, chain, name] = &arguments.places[..] else {
        return Err("import FOLDER CHAIN DTYPE".into());
    };
    let dtype = dtype(name)?;
    let chain = Chain::open(chain)?;
    let options = ImportOptions { dtype, ..ImportOptions::default() };
    let (report, time) = seconds(|| import::checkpoint(&chain, folder, &options));
    let report = report?;
    Ok(json!({ "model": report.model.to_string(), "bytes": report.payload_bytes_new, "seconds": time }))
}

fn run_check(arguments: &Arguments) -> Outcome<Value> {
    let chain = arguments.chain()?;
    let (report, time) = seconds(|| chain.verify(&VerifyOptions::full()));
    if !report?.is_ok() {
        return Err("the chain is damaged".into());
    }
    Ok(json!({ "seconds": time }))
}

/// One sequence: prefill of the prompt, then decoding, timed a few tokens at a time.
fn run_sequence(arguments: &Arguments) -> Outcome<Value> {
    let chain = arguments.chain()?;
    let model = MoEModelManager::open(&chain, &arguments.options)?;
    let warm_up = warm_up(&model)?;
    let vocab_size = model.snapshot().spec().vocab_size;
    let (mut prefill, mut decode, mut best) = (Vec::new(), Parts::default(), f64::INFINITY);
    let mut kv_bytes = 0;
    for repeat in 0..arguments.repeat {
        let mut session = model.session();
        let prompt = tokens(repeat as u64, arguments.prompt, vocab_size);
        let mut stream = session.stream(prompt, &arguments.greedy(arguments.new + 1))?;
        let (first, time) = seconds(|| stream.next());
        first.ok_or("the stream ended")??;
        prefill.push(arguments.prompt as f64 / time);
        decode.run(arguments.new, 1, || -> Outcome<()> {
            let (piece, time) = seconds(|| stream.next());
            piece.ok_or("the stream ended")??;
            best = best.min(time);
            Ok(())
        })?;
        drop(stream);
        kv_bytes = session.cache_bytes();
    }
    let (token_bytes, all_bytes) = weight_bytes(&model);
    let (rate, parts) = decode.finish();
    // Halfway through what was written.
    let mid = arguments.prompt as f64 + arguments.new as f64 / 2.0;
    let kv_bytes_a_token = kv_bytes as f64 * mid / (arguments.prompt + arguments.new) as f64;
    Ok(json!({
        "prefill_tokens_per_s": median(prefill),
        "decode_tokens_per_s": rate,
        "decode_parts": parts,
        "best_decode_tokens_per_s": 1.0 / best,
        "weight_bytes_a_token": token_bytes,
        "kv_bytes_a_token": kv_bytes_a_token,
        "kv_bytes": kv_bytes,
        "weight_bytes": all_bytes,
        "touched_bytes": model.residency().bytes_mapped,
        "warm_up": warm_up,
        "isa": model.isa(),
    }))
}

/// Many sequences at once: the time of all their tokens less that of the prompts and the first one.
fn run_batch(arguments: &Arguments) -> Outcome<Value> {
    let chain = arguments.chain()?;
    let model = MoEModelManager::open(&chain, &arguments.options)?;
    let warm_up = warm_up(&model)?;
    let vocab_size = model.snapshot().spec().vocab_size;
    let prompts = || (0..arguments.sequences as u64).map(|i| tokens(100 + i, arguments.prompt, vocab_size));
    let mut parts = Parts::default();
    for _ in 0..arguments.repeat {
        let (first, prefill) = seconds(|| model.generate_batch(prompts(), &arguments.greedy(1)));
        first?;
        let mut before = cores_ns();
        let (all, time) = seconds(|| model.generate_batch(prompts(), &arguments.greedy(1 + arguments.new)));
        all?;
        parts.add((arguments.sequences * arguments.new) as f64 / (time - prefill), &mut before);
    }
    let (rate, parts) = parts.finish();
    Ok(json!({ "batch_tokens_per_s": rate, "batch_parts": parts, "warm_up": warm_up, "isa": model.isa() }))
}

/// From nothing to the first token, the start of the process not counted. With `--trust` what the same
/// prompt touches was verified, and recorded, by an opening before.
fn run_open(arguments: &Arguments) -> Outcome<Value> {
    let options = ManagerOptions { trust_verified: arguments.trust, ..arguments.options.clone() };
    let open = || -> Outcome<Value> {
        let begun = Instant::now();
        let chain = arguments.chain()?;
        let model = MoEModelManager::open(&chain, &options)?;
        let opened = begun.elapsed().as_secs_f64();
        let prompt = tokens(7, arguments.prompt, model.snapshot().spec().vocab_size);
        let mut stream = model.stream(prompt, &arguments.greedy(2))?;
        stream.next().ok_or("the stream ended")??;
        let first_token = begun.elapsed().as_secs_f64();
        Ok(json!({
            "open_s": opened,
            "first_token_s": first_token,
            "touched_bytes": model.residency().bytes_mapped,
        }))
    };
    if arguments.trust {
        open()?;
    }
    open()
}

/// Every weight block opened for the first time, against BLAKE3 over the same files and nothing else.
#[expect(unsafe_code, reason = "maps the chain's payload files, which nothing writes to")]
fn run_verify(arguments: &Arguments) -> Outcome<Value> {
    let dir = PathBuf::from(arguments.places.first().ok_or("name the chain's directory")?);
    let (mut open, mut verify, mut plain) = (Vec::new(), Vec::new(), Vec::new());
    let mut bytes = 0;
    for _ in 0..arguments.repeat {
        // A new chain each time: it remembers what it has verified.
        let chain = arguments.chain()?;
        let model = MoEModelManager::open(&chain, &arguments.options)?;
        let blocks: Vec<_> = (model.snapshot().slots().iter())
            .filter(|(slot, _)| slot.kind().is_weights())
            .map(|(_, pinned)| (pinned.block, pinned.payload, pinned.len_bytes))
            .collect();
        bytes = blocks.iter().map(|(_, _, len)| len).sum::<u64>();
        let rate = |time: f64| bytes as f64 / time / 1e9;

        let (opened, time) = seconds(|| {
            blocks
                .par_iter()
                .map(|(block, ..)| Ok(TensorBlock::open(&chain, block)?))
                .collect::<Outcome<Vec<_>>>()
        });
        opened?;
        open.push(rate(time));

        let medium = DirMedium::new(&dir);
        let (hashed, time) = seconds(|| {
            blocks.par_iter().try_for_each(|(_, payload, _)| -> Outcome<()> {
                let path = medium.payload_path(payload);
                if let Ok(file) = File::open(path) {
                    // SAFETY: a payload's file is never written to after it got its name.
                    let map = unsafe { Mmap::map(&file)? };
                    if blake3::hash(&map).as_bytes() != payload.as_bytes() {
                        return Err("a payload does not match its name".into());
                    }
                }
                Ok(())
            })
        });
        hashed?;
        plain.push(rate(time));

        let (report, time) = seconds(|| chain.verify(&VerifyOptions::full()));
        if !report?.is_ok() {
            return Err("the chain is damaged".into());
        }
        verify.push(rate(time));
    }
    Ok(json!({
        "first_open_gb_per_s": median(open),
        "chain_verify_gb_per_s": median(verify),
        "blake3_gb_per_s": median(plain),
        "bytes": bytes,
    }))
}

/// Logits after the prompt, to see that peers compute the same function.
fn run_logits(arguments: &Arguments) -> Outcome<Value> {
    let chain = arguments.chain()?;
    let model = MoEModelManager::open(&chain, &arguments.options)?;
    let vocab_size = model.snapshot().spec().vocab_size;
    if let (Some(ids), Some(out)) = &arguments.files {
        let text = std::fs::read_to_string(ids)?;
        let ids = text.split_whitespace().map(str::parse).collect::<Result<Vec<u32>, _>>()?;
        let logits = model.logits(&ids)?;
        std::fs::write(out, logits.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>())?;
        return Ok(json!({ "tokens": ids.len() }));
    }
    let all = model.logits(&tokens(7, arguments.prompt, vocab_size))?;
    Ok(json!({ "logits": &all[all.len() - vocab_size..] }))
}

fn run() -> Outcome<Value> {
    let arguments = Arguments::parse()?;
    let result = match &*arguments.command {
        "dtype" => run_dtype(&arguments),
        "import" => run_import(&arguments),
        "check" => run_check(&arguments),
        "sequence" => run_sequence(&arguments),
        "batch" => run_batch(&arguments),
        "open" => run_open(&arguments),
        "verify" => run_verify(&arguments),
        "logits" => run_logits(&arguments),
        _ => Err("give a command: dtype, import, check, sequence, batch, open, verify or logits".into()),
    };
    let mut result = result?;
    result["memory"] = memory();
    Ok(result)
}

fn main() {
    // A refusal is a result: the report has a line for it.
    println!("{}", run().unwrap_or_else(|error| json!({ "error": error.to_string() })));
}
