//! Ways to read and products of a token, in turns.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use blyan_core::DType;
use blyan_core::kernels::{GroupQuantized, Input, Isa, KernelError, MatMut, Normals, Quantized, Weights};
use peers_runner::median;
use rayon::prelude::*;
use serde_json::{Value, json};

use super::Outcome;
use super::read::{How, sum};

/// Parts of one turn: some 300 MB of a large model, so that a turn is short beside what a host's memory takes to change its
/// speed, and long beside what it takes to begin.
const PARTS_OF_TURN: usize = 48;

/// Each way to read, and products of one token with rows of 2048 and of 1024 weights, take turns over the parts. Of each:
/// the median rate, and the quarters of its ratios to the read in two runs beside it. The bytes are taken as rows of the
/// dtype, whatever they are, so a product is as fast as in the model only of a chain of that dtype; scales, which for int4
/// are an eighth more, are not counted.
pub(crate) fn turns(
    parts: &[&[u8]],
    rounds: usize,
    dtype: DType,
    threads: usize,
    least_bytes: usize,
) -> Outcome<Value> {
    if parts.iter().map(|part| part.len()).sum::<usize>() < least_bytes {
        return Err("too few bytes of payloads in huge pages: a cache would hold them, see --mib".into());
    }
    let per_turn = PARTS_OF_TURN.min(parts.len());
    parts.iter().for_each(|part| _ = black_box(sum(part, How::Plain)));
    type Work<'a> = Box<dyn Fn(usize) -> Result<(), KernelError> + Sync + 'a>;
    let mut ways: Vec<(String, Work<'_>)> = Vec::new();
    for (name, how) in How::ALL.into_iter().rev() {
        let work = move |at: usize| {
            black_box(sum(parts[at], how));
            Ok(())
        };
        ways.push((format!("read{name}"), Box::new(work)));
    }
    for cols in [2048, 1024] {
        let products =
            parts.iter().map(|part| Product::new(dtype, cols, part)).collect::<Result<Vec<_>, _>>()?;
        ways.push((format!("product_{cols}"), Box::new(move |at| products[at].run())));
    }
    let mut rates = vec![Vec::with_capacity(rounds); ways.len()];
    let mut first = 0;
    for round in 0..rounds {
        for turn in 0..ways.len() {
            // Another one begins each round, so that none meets the same parts again and again.
            let way = (round + turn) % ways.len();
            let of_turn = first..first + per_turn;
            let next = AtomicUsize::new(of_turn.start);
            let run = |_| -> Result<(), KernelError> {
                loop {
                    match next.fetch_add(1, Ordering::Relaxed) {
                        at if at < of_turn.end => ways[way].1(at % parts.len())?,
                        _ => return Ok(()),
                    }
                }
            };
            let begun = Instant::now();
            (0..threads).into_par_iter().with_max_len(1).try_for_each(run)?;
            let seconds = begun.elapsed().as_secs_f64();
            let bytes: usize = of_turn.clone().map(|at| parts[at % parts.len()].len()).sum();
            rates[way].push(bytes as f64 / seconds / 1e9);
            first = of_turn.end % parts.len();
        }
    }
    let mut result = json!({ "threads": threads, "dtype": dtype.to_string() });
    for ((name, _), of_way) in ways.iter().zip(&rates) {
        let mut ratios: Vec<f64> = of_way.iter().zip(&rates[0]).map(|(rate, read)| rate / read).collect();
        ratios.sort_by(f64::total_cmp);
        let quarters: Vec<f64> =
            [1, 2, 3].iter().filter_map(|q| ratios.get(q * ratios.len() / 4).copied()).collect();
        result[name] = json!({ "gb_per_s": median(of_way.clone()), "of_two_runs": quarters });
    }
    Ok(result)
}

/// One token and the rows that a part is taken as.
struct Product<'a> {
    isa: Isa,
    dtype: DType,
    rows: usize,
    cols: usize,
    weights: &'a [u8],
    scale: Option<Vec<u8>>,
    normals: Normals,
    token: Vec<f32>,
    quantized: Quantized,
    groups: GroupQuantized,
}

impl<'a> Product<'a> {
    fn new(dtype: DType, cols: usize, part: &'a [u8]) -> Result<Self, KernelError> {
        let isa = Isa::for_rows();
        let rows = part.len() / dtype.bytes_of(cols);
        let weights = &part[..rows * dtype.bytes_of(cols)];
        // Ones, or as good as that.
        let scale_bytes = if dtype == DType::I4 { rows * cols / 16 } else { 4 * rows };
        let scale = dtype.is_quantized().then(|| vec![0x3f; scale_bytes]);
        let normals = isa.normals(&Weights::new(dtype, rows, cols, weights, scale.as_deref())?);
        let token: Vec<f32> = (0..cols).map(|col| (col as f32 * 0.37).sin()).collect();
        let (mut quantized, mut groups) = (Quantized::default(), GroupQuantized::default());
        quantized.rows_for(&token, cols)?.for_each(|row| isa.quantize_row(row));
        groups.rows_for(&token, cols)?.for_each(|row| isa.quantize_row_by_group(row));
        Ok(Self { isa, dtype, rows, cols, weights, scale, normals, token, quantized, groups })
    }

    fn run(&self) -> Result<(), KernelError> {
        let weights = Weights::new(self.dtype, self.rows, self.cols, self.weights, self.scale.as_deref())?
            .with_normals(&self.normals)?;
        let input = Input::new(&self.token, self.cols)?;
        let input = input.with_quantized(&self.quantized)?.with_groups(&self.groups)?;
        let mut out = vec![0.0; self.rows];
        self.isa.matmul(&weights, 0..self.rows, &input, MatMut::from_slice(&mut out, 1, self.rows)?)?;
        black_box(&out);
        Ok(())
    }
}
