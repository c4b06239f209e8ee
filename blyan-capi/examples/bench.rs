//! Tokens a second without leaving Rust: what examples/c/bench.c does through C.

#![expect(clippy::print_stdout, reason = "prints its result")]

use std::time::Instant;

use blyan_core::Chain;
use blyan_core::import::{self, ImportOptions};
use blyan_core::manager::{GenerateOptions, ManagerOptions, MoEModelManager};

const TOKENS: usize = 200;
const GENERATIONS: usize = 9;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = std::env::args().nth(1).ok_or("bench MODEL_DIR")?;
    let chain = Chain::in_memory()?;
    import::checkpoint(&chain, folder, &ImportOptions::default())?;
    let model = MoEModelManager::open(&chain, &ManagerOptions::default())?;
    let options =
        GenerateOptions { max_tokens: Some(TOKENS), ignore_eos: true, ..GenerateOptions::default() };
    let mut rates = Vec::new();
    let mut bytes = 0;
    // The first one verifies and maps the blocks, and does not count.
    for _ in 0..=GENERATIONS {
        let start = Instant::now();
        let mut stream = model.stream("In the beginning", &options)?;
        for piece in &mut stream {
            bytes += piece?.text.len();
        }
        stream.finish()?;
        rates.push(TOKENS as f64 / start.elapsed().as_secs_f64());
    }
    let counted = rates.get_mut(1..).ok_or("nothing was measured")?;
    counted.sort_unstable_by(f64::total_cmp);
    println!("{:.1}", counted[GENERATIONS / 2]);
    if bytes == 0 { Err("no text was made".into()) } else { Ok(()) }
}
