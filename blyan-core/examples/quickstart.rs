//! From a checkpoint folder to text, from blocks alone.
//!
//! `cargo run --release --example quickstart` imports the small mixture of experts in `models/` into
//! a new chain, verifies it, writes text, and replays the receipt of what it wrote.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example talks to people")]

use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::chat::ChatRequest;
use blyan_core::manager::{GenerateOptions, Generation, ManagerOptions, MoEModelManager};
use blyan_core::{Chain, DType, VerifyOptions};
use indicatif::{ProgressBar, ProgressStyle};
use lexopt::{Arg, ValueExt};

const USAGE: &str = "\
cargo run --release --example quickstart [-- OPTIONS]

  --model DIR             checkpoint folder (default: the small MoE in models/)
  --chain DIR             chain to import into (default: a new one, removed at the end)
  --dtype TYPE            int8, int4, fp8, f16 or bf16 (default: as the checkpoint has it)
  --prompt TEXT           what to continue (default: \"And God said\")
  --chat TEXT             a message to answer, written by the model's chat template
  --max-tokens N          most new tokens (default: 64)
  --temperature X         0 chooses greedily (default: 0.8)
  --top-k N  --top-p X  --min-p X  --repetition-penalty X  --seed N
  --stop TEXT             ends the text; may be given again
  --ignore-eos            goes on after a token that ends a text
  --kv-cache TYPE         f16 or f32 (default: f16)
  --threads N             (default: all cores)
  --isa NAME              scalar, avx2, avx512 or amx (default: the best of this CPU)
";

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

struct Arguments {
    model: PathBuf,
    chain: Option<PathBuf>,
    dtype: Option<DType>,
    prompt: String,
    chat: bool,
    manager: ManagerOptions,
    generate: GenerateOptions,
}

fn main() -> ExitCode {
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            print!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("quickstart: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nquickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Option<Arguments>> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let repository = package.parent().unwrap_or(package);
    let mut arguments = Arguments {
        model: repository.join("models/tiny-kjv-moe"),
        chain: None,
        dtype: None,
        prompt: "And God said".to_owned(),
        chat: false,
        manager: ManagerOptions::default(),
        generate: GenerateOptions { max_tokens: Some(64), ..GenerateOptions::default() },
    };
    arguments.generate.sampling.temperature = 0.8;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let Arg::Long(name) = argument else { return Err(argument.unexpected().into()) };
        let name = name.to_owned();
        let generate = &mut arguments.generate;
        let sampling = &mut generate.sampling;
        if name == "help" {
            return Ok(None);
        }
        if name == "ignore-eos" {
            generate.ignore_eos = true;
            continue;
        }
        let value = parser.value()?;
        match name.as_str() {
            "model" => arguments.model = value.into(),
            "chain" => arguments.chain = Some(value.into()),
            "dtype" => arguments.dtype = Some(import::dtype_of_option(&value.string()?)?),
            "prompt" | "chat" => {
                arguments.prompt = value.string()?;
                arguments.chat = name == "chat";
            }
            "max-tokens" => generate.max_tokens = Some(value.parse()?),
            "temperature" => sampling.temperature = value.parse()?,
            "top-k" => sampling.top_k = Some(value.parse()?),
            "top-p" => sampling.top_p = Some(value.parse()?),
            "min-p" => sampling.min_p = Some(value.parse()?),
            "repetition-penalty" => sampling.repetition_penalty = Some(value.parse()?),
            "seed" => sampling.seed = value.parse()?,
            "stop" => generate.stop.push(value.string()?),
            "kv-cache" => arguments.manager.kv_cache = value.parse()?,
            "threads" => arguments.manager.threads = Some(value.parse()?),
            "isa" => arguments.manager.isa = Some(value.string()?),
            _ => return Err(format!("unknown option --{name}").into()),
        }
    }
    Ok(Some(arguments))
}

fn run(arguments: &Arguments) -> Result<()> {
    let folder = match &arguments.chain {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("blyan-quickstart-").tempdir()?),
    };
    let dir = arguments.chain.as_deref().or(folder.as_ref().map(|folder| folder.path()));
    let chain = Chain::open(dir.unwrap_or(Path::new("data")))?;

    let model = import_model(&chain, arguments)?;
    verify(&chain)?;

    let options = ManagerOptions { model: Some(model), ..arguments.manager.clone() };
    let manager = MoEModelManager::open(&chain, &options)?;
    let generation = generate(&manager, arguments)?;
    report(&manager, &generation);

    println!("\n== Receipt");
    let receipt = generation.receipt.to_json();
    println!("{receipt}");
    let replay = generation.receipt.replay(&chain, &arguments.manager)?;
    if !replay.is_ok() {
        return Err(format!("the receipt is not true: {:?}", replay.differences).into());
    }
    println!("\nreplayed: the same tokens, blocks and logits, bit for bit ({} bytes)", receipt.len());
    Ok(())
}

fn progress_bar(template: &str) -> Result<ProgressBar> {
    let bar = ProgressBar::new(0);
    bar.set_style(ProgressStyle::with_template(template)?);
    Ok(bar)
}

fn import_model(chain: &Chain, arguments: &Arguments) -> Result<blyan_core::BlockHash> {
    let here = std::env::current_dir()?;
    println!("== Import {}", arguments.model.strip_prefix(here).unwrap_or(&arguments.model).display());
    let start = Instant::now();
    let bar = progress_bar("{wide_bar} {bytes}/{total_bytes} {msg}")?;
    let show = |progress: import::ImportProgress| {
        bar.set_length(progress.total_payload_bytes);
        bar.set_position(progress.payload_bytes);
        bar.set_message(format!("block {} of {}", progress.blocks, progress.total_blocks));
    };
    let options = ImportOptions { dtype: arguments.dtype, progress: Some(&show), ..ImportOptions::default() };
    let report = import::checkpoint(chain, &arguments.model, &options)?;
    bar.finish_and_clear();
    println!("model    {}", report.model);
    println!("root     {}", report.root);
    println!(
        "blocks   {} new, {} known; {} payload bytes written in {:.2?}",
        report.blocks_new,
        report.blocks_known,
        report.payload_bytes_new,
        start.elapsed()
    );
    Ok(report.model)
}

fn verify(chain: &Chain) -> Result<()> {
    let start = Instant::now();
    let report = chain.verify(&VerifyOptions { full: true, ..VerifyOptions::default() })?;
    if let Some(bad) = report.bad.first() {
        return Err(format!("block {} is damaged: {}", bad.block, bad.reason).into());
    }
    let bytes = report.payload_bytes;
    println!("verified {} blocks, {bytes} payload bytes in {:.2?}", report.blocks, start.elapsed());
    Ok(())
}

fn generate(manager: &MoEModelManager, arguments: &Arguments) -> Result<Generation> {
    println!("\n== Generate ({}, {} threads)", manager.isa(), manager.threads());
    let start = Instant::now();
    let mut stream = if arguments.chat {
        let messages = [serde_json::json!({"role": "user", "content": arguments.prompt})];
        let request = ChatRequest { messages: &messages, ..ChatRequest::default() };
        manager.chat_stream(&request, &arguments.generate)?
    } else {
        print!("{}", arguments.prompt);
        manager.stream(arguments.prompt.as_str(), &arguments.generate)?
    };
    let mut first = None;
    for piece in &mut stream {
        print!("{}", piece?.text);
        std::io::stdout().flush()?;
        first.get_or_insert_with(|| start.elapsed());
    }
    let generation = stream.finish()?;
    let decode = start.elapsed().saturating_sub(first.unwrap_or_default()).as_secs_f64();
    println!(
        "\n\n{} tokens of prompt, first token after {:.2?}, then {:.0} tokens/s; ended by {:?}",
        generation.prompt_tokens,
        first.unwrap_or_default(),
        generation.tokens.len().saturating_sub(1) as f64 / decode.max(1e-9),
        generation.finish_reason
    );
    Ok(generation)
}

fn report(manager: &MoEModelManager, generation: &Generation) {
    let residency = manager.residency();
    println!("\n== Used");
    println!(
        "{} blocks verified and mapped, {} bytes, {} of them experts",
        residency.blocks_verified, residency.bytes_mapped, residency.experts_touched
    );
    let experts = manager.usage().top(8);
    if !experts.is_empty() {
        println!("\n{:<18} {:>6} {:>6} {:>11}  block", "busiest experts", "calls", "tokens", "share of w.");
    }
    for expert in experts {
        println!(
            "{:<18} {:>6} {:>6} {:>10.1}%  {}",
            expert.slot,
            expert.calls,
            expert.tokens,
            100.0 * expert.weight_share,
            expert.block.short()
        );
    }
    println!("\nblocks of this text");
    for (slot, block) in &generation.receipt.claim().blocks {
        println!("{slot:<18} {block}");
    }
}
