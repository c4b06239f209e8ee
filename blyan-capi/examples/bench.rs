//! Tokens a second without leaving Rust and without printing: what examples/c/bench.c and
//! python/tools/bench_overhead.py are measured against.
//!
//!     bench MODEL_DIR [stream|generate [THREADS [turns]]]
//!
//! Prints the median of nine generations, or with `turns` that of one for each line that it reads.

#![expect(clippy::print_stdout, reason = "prints its result")]

use std::io::BufRead;
use std::time::Instant;

use blyan_core::Chain;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{GenerateOptions, ManagerError, ManagerOptions, MoEModelManager};

const PROMPT: &str = "In the beginning";
const TOKENS: usize = 200;
const GENERATIONS: usize = 9;

/// Bytes of one generation, read piece by piece.
fn stream(model: &MoEModelManager, options: &GenerateOptions) -> Result<usize, ManagerError> {
    let mut stream = model.stream(PROMPT, options)?;
    let mut bytes = 0;
    for piece in &mut stream {
        bytes += piece?.text.len();
    }
    stream.finish()?;
    Ok(bytes)
}

/// Bytes of one generation as a whole.
fn generate(model: &MoEModelManager, options: &GenerateOptions) -> Result<usize, ManagerError> {
    Ok(model.generate(PROMPT, options)?.text.len())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("bench MODEL_DIR [stream|generate [THREADS [turns]]]")?;
    let run = match arguments.next().as_deref() {
        None | Some("stream") => stream,
        Some("generate") => generate,
        Some(other) => return Err(format!("{other}: expected stream or generate").into()),
    };
    let threads = arguments.next().map(|threads| threads.parse()).transpose()?;
    let in_turns = match arguments.next().as_deref() {
        None => false,
        Some("turns") => true,
        Some(other) => return Err(format!("{other}: expected turns").into()),
    };
    let chain = Chain::in_memory()?;
    import::checkpoint(&chain, folder, &ImportOptions::default())?;
    let model = MoEModelManager::open(&chain, &ManagerOptions { threads, ..ManagerOptions::default() })?;
    let options =
        GenerateOptions { max_tokens: Some(TOKENS), ignore_eos: true, ..GenerateOptions::default() };
    let rate = || -> Result<f64, Box<dyn std::error::Error>> {
        let start = Instant::now();
        let bytes = run(&model, &options)?;
        let rate = TOKENS as f64 / start.elapsed().as_secs_f64();
        if bytes == 0 { Err("no text was made".into()) } else { Ok(rate) }
    };
    // The first one verifies and maps the blocks, and does not count.
    rate()?;
    if in_turns {
        for line in std::io::stdin().lock().lines() {
            line?;
            println!("{:.1}", rate()?);
        }
        return Ok(());
    }
    let mut rates = (0..GENERATIONS).map(|_| rate()).collect::<Result<Vec<_>, _>>()?;
    rates.sort_unstable_by(f64::total_cmp);
    println!("{:.1}", rates[GENERATIONS / 2]);
    Ok(())
}
