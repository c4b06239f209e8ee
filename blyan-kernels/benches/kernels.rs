//! How fast the kernels are on one thread: `cargo bench -p blyan-kernels --bench kernels [-- SECTION]`,
//! where a section is matmul, memory (on all threads), rows, quantize or attention. `BLYAN_ISA` chooses one instruction set.
//!
//! Decoding reads each weight once for one token: GB/s of weight bytes, beside a plain read of as much
//! memory. Prefill uses each weight for 64 tokens: GFLOP/s, two for each product.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a report, of operands that fit")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use blyan_kernels::dtype::DType;
use blyan_kernels::{Attention, FpEnv, HeadShape, ISA_VARIABLE, Input, Isa, MatMut, Vector, Weights};

/// Best of several runs, which is what an idle machine does.
fn seconds(mut run: impl FnMut()) -> f64 {
    let mut best = f64::INFINITY;
    let start = Instant::now();
    let mut runs = 0;
    while runs < 3 || (runs < 200 && start.elapsed() < Duration::from_millis(700)) {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

/// Ones, or for I4 small numbers.
fn scales(dtype: DType, rows: usize, cols: usize) -> Vec<u8> {
    match dtype {
        DType::I4 => vec![0x3c; rows * cols / 16],
        _ => std::iter::repeat_n(1.0f32.to_le_bytes(), rows).flatten().collect(),
    }
}

fn matmul_seconds(isa: Isa, dtype: DType, rows: usize, cols: usize, tokens: usize) -> f64 {
    // 0x31 is a small ordinary number in every dtype.
    let data = vec![0x31u8; dtype.bytes_of(rows * cols)];
    let scale = scales(dtype, rows, cols);
    let scale = dtype.is_quantized().then_some(&*scale);
    let weights = Weights::new(dtype, rows, cols, &data, scale).unwrap();
    let x: Vec<f32> = (0..tokens * cols).map(|i| (i % 13) as f32 - 6.0).collect();
    let (quantized, groups) = (isa.quantize(&x, cols).unwrap(), isa.quantize_by_group(&x, cols).unwrap());
    let input =
        Input::new(&x, cols).unwrap().with_quantized(&quantized).unwrap().with_groups(&groups).unwrap();
    let mut out = vec![0.0; tokens * rows];
    seconds(|| {
        let out = MatMut::from_slice(black_box(&mut out), tokens, rows).unwrap();
        isa.matmul(&weights, 0..rows, &input, out).unwrap();
    })
}

/// A plain sum over memory, eight words at a time.
fn read_bandwidth(bytes: usize) -> f64 {
    let data = vec![1u64; bytes / 8];
    let time = seconds(|| {
        let mut sums = [0u64; 8];
        for chunk in data.chunks_exact(8) {
            for (sum, x) in sums.iter_mut().zip(chunk) {
                *sum = sum.wrapping_add(*x);
            }
        }
        black_box(sums);
    });
    bytes as f64 / time / 1e9
}

/// The reference is slow; a part of the work tells as much.
fn matmuls(isas: &[Isa]) {
    const BYTES: usize = 128 << 20;
    const COLS: usize = 2048;
    println!("plain read of {} MiB: {:.1} GB/s", BYTES >> 20, read_bandwidth(BYTES));
    println!("\nmatmul, {COLS} columns; 1 token: {} MiB of weights, 64 tokens: 1024 rows", BYTES >> 20);
    println!("{:8} {:8} {:>14} {:>18}", "isa", "dtype", "1 token GB/s", "64 tokens GFLOP/s");
    for &isa in isas {
        for dtype in DType::ALL {
            let (bytes, rows) = if isa == Isa::SCALAR { (BYTES / 64, 32) } else { (BYTES, 1024) };
            let decode_rows = bytes / dtype.bytes_of(COLS);
            let decode = bytes as f64 / matmul_seconds(isa, dtype, decode_rows, COLS, 1);
            let prefill = (2 * rows * COLS * 64) as f64 / matmul_seconds(isa, dtype, rows, COLS, 64);
            println!("{:8} {:8} {:14.2} {:18.1}", isa.name(), dtype.name(), decode / 1e9, prefill / 1e9);
        }
    }
}

/// Runs a part of the work on each of some threads, which start together. Best of several runs.
fn seconds_on(threads: usize, work: impl Fn(usize) + Sync) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let barrier = std::sync::Barrier::new(threads);
        let (barrier, work) = (&barrier, &work);
        let times: Vec<f64> = std::thread::scope(|scope| {
            let run = |thread| {
                move || {
                    let _env = FpEnv::enter();
                    barrier.wait();
                    let begin = Instant::now();
                    work(thread);
                    begin.elapsed().as_secs_f64()
                }
            };
            let handles: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
            handles.into_iter().map(|handle| handle.join().unwrap()).collect()
        });
        best = best.min(times.into_iter().fold(0.0, f64::max));
    }
    best
}

/// What the memory gives to all threads, and what decoding takes of it: experts of 2048 × 1024, each
/// used once for one token.
fn memory(isas: &[Isa]) {
    const BYTES: usize = 1600 << 20;
    const COLS: usize = 2048;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    // Tensors of a payload start at a cache line.
    let data = vec![0x31u8; BYTES + 64];
    let data = &data[data.as_ptr().align_offset(64)..][..BYTES];
    let part = BYTES / threads / (1 << 22) * (1 << 22);
    let read = seconds_on(threads, |thread| {
        let mut sums = [0u64; 16];
        for chunk in data[thread * part..][..part].as_chunks::<128>().0 {
            for (sum, x) in sums.iter_mut().zip(chunk.as_chunks::<8>().0) {
                *sum = sum.wrapping_add(u64::from_ne_bytes(*x));
            }
        }
        black_box(sums);
    });
    println!(
        "\n{threads} threads, GB/s over {} MiB: plain read {:.1}",
        BYTES >> 20,
        (threads * part) as f64 / read / 1e9
    );
    for &isa in isas.iter().filter(|&&isa| isa != Isa::SCALAR) {
        for dtype in DType::ALL {
            let rows = 1024;
            let matrix_bytes = dtype.bytes_of(rows * COLS);
            let scale = scales(dtype, rows, COLS);
            let x: Vec<f32> = (0..COLS).map(|i| (i % 13) as f32 - 6.0).collect();
            let (quantized, groups) =
                (isa.quantize(&x, COLS).unwrap(), isa.quantize_by_group(&x, COLS).unwrap());
            let scale = dtype.is_quantized().then_some(&*scale);
            let weights = |matrix| Weights::new(dtype, rows, COLS, matrix, scale).unwrap();
            // All matrices are alike.
            let normals = isa.normals(&weights(&data[..matrix_bytes]));
            let ways: &[_] = if dtype == DType::F8E4M3 { &[None, Some(&normals)] } else { &[None] };
            for normals in ways {
                let time = seconds_on(threads, |thread| {
                    let input = Input::new(&x, COLS).unwrap().with_quantized(&quantized).unwrap();
                    let input = input.with_groups(&groups).unwrap();
                    let mut out = vec![0.0; rows];
                    for matrix in data[thread * part..][..part].chunks_exact(matrix_bytes) {
                        let weights = weights(matrix);
                        let weights =
                            normals.map_or(weights, |normals| weights.with_normals(normals).unwrap());
                        let out = MatMut::from_slice(black_box(&mut out), 1, rows).unwrap();
                        isa.matmul(&weights, 0..rows, &input, out).unwrap();
                    }
                });
                let known = if normals.is_some() { " normal numbers known" } else { "" };
                let speed = (threads * part) as f64 / time / 1e9;
                println!("{:8} {:8} {speed:8.1}{known}", isa.name(), dtype.name());
            }
        }
    }
}

fn rows(isas: &[Isa]) {
    println!("\nrows, microseconds");
    println!("{:8} {:>14} {:>14} {:>14}", "isa", "rms_norm 2048", "silu_mul 8192", "softmax 8192");
    for &isa in isas {
        let x: Vec<f32> = (0..8192).map(|i| (i % 29) as f32 / 7.0 - 2.0).collect();
        let mut out = x.clone();
        let weight = vec![0x3fu8; 4096];
        let weight = Vector::new(DType::BF16, 2048, &weight).unwrap();
        let norm = seconds(|| isa.rms_norm(&x[..2048], &weight, 1e-5, black_box(&mut out[..2048])).unwrap());
        let silu = seconds(|| {
            out.copy_from_slice(&x);
            isa.silu_mul(black_box(&mut out), &x).unwrap();
        });
        let softmax = seconds(|| {
            out.copy_from_slice(&x);
            isa.softmax(black_box(&mut out));
        });
        println!("{:8} {:14.2} {:14.2} {:14.2}", isa.name(), norm * 1e6, silu * 1e6, softmax * 1e6);
    }
}

/// Weights of no pattern, as the scales that I4 tries hang on them.
fn quantize(isas: &[Isa]) {
    const COLS: usize = 2048;
    const ROWS: usize = 64;
    let dtypes = [DType::I8, DType::F8E4M3, DType::I4];
    println!("\nquantizing rows of {COLS} weights in F32, millions of them a second");
    println!("{:8} {:>8} {:>8} {:>8}", "isa", dtypes[0], dtypes[1], dtypes[2]);
    let mut bits = 1u32;
    let mut next = || {
        bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        bits as i32 as f32 / 2f32.powi(37)
    };
    let rows: Vec<f32> = (0..ROWS * COLS).map(|_| next() + next() + next()).collect();
    for &isa in isas {
        print!("{:8}", isa.name());
        for to in dtypes {
            let mut values = vec![0; to.bytes_of(COLS)];
            let mut scales = vec![0; if to == DType::I4 { COLS / 16 } else { 4 }];
            let time = seconds(|| {
                for row in rows.chunks_exact(COLS) {
                    isa.quantize_weights(to, row, black_box(&mut values), black_box(&mut scales)).unwrap();
                }
            });
            print!(" {:8.0}", rows.len() as f64 / time / 1e6);
        }
        println!();
    }
}

fn attention(isas: &[Isa]) {
    const BYTES: usize = 128 << 20;
    const POSITIONS: usize = 4096;
    const CASES: [(usize, usize, usize); 4] = [(1, 1, 128), (1, 4, 64), (1, 8, 128), (16, 1, 128)];
    println!(
        "\nattention over {POSITIONS} positions in F16, {} MiB of them, tokens × group × head: GB/s, GFLOP/s",
        BYTES >> 20
    );
    print!("{:8}", "isa");
    CASES.iter().for_each(|(tokens, group, head)| print!(" {:>16}", format!("{tokens} × {group} × {head}")));
    println!();
    for &isa in isas {
        print!("{:8}", isa.name());
        for (tokens, group, head_dim) in CASES {
            let shape = HeadShape { dtype: DType::F16, head_dim };
            let width = group * head_dim;
            let queries: Vec<f32> = (0..tokens * width).map(|i| (i % 29) as f32 / 7.0 - 2.0).collect();
            let (keys, values) = (shape.keys_len(POSITIONS), shape.values_len(POSITIONS));
            // The reference takes no longer for one head after the other than for the same one.
            let heads = if isa == Isa::SCALAR { 1 } else { BYTES / (keys + values) };
            let cache = vec![0x2fu8; heads * (keys + values)];
            let (mut scores, mut out) = (Vec::new(), vec![0.0; tokens * width]);
            let spans: Vec<_> = (0..tokens).map(|token| 0..POSITIONS - token).collect();
            let time = seconds(|| {
                for head in cache.chunks_exact(keys + values) {
                    let (keys, values) = head.split_at(keys);
                    let (queries, spans) = (&queries, &spans);
                    let args =
                        Attention { shape, keys, values, queries, stride: width, group, spans, scale: 0.1 };
                    let out = MatMut::from_slice(black_box(&mut out), tokens, width).unwrap();
                    isa.attention(&args, &mut scores, out).unwrap();
                }
            });
            let flops = 4 * heads * tokens * width * POSITIONS;
            let bytes = cache.len();
            print!(" {:8.2} {:7.1}", bytes as f64 / time / 1e9, flops as f64 / time / 1e9);
        }
        println!();
    }
}

fn main() {
    let _env = FpEnv::enter();
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with("--")).unwrap_or_default();
    let isas = match std::env::var_os(ISA_VARIABLE) {
        Some(_) => vec![Isa::from_env().unwrap()],
        None => Isa::available(),
    };
    if "matmul".contains(&filter) {
        matmuls(&isas);
    }
    if "memory".contains(&filter) {
        memory(&isas);
    }
    if "rows".contains(&filter) {
        rows(&isas);
    }
    if "quantize".contains(&filter) {
        quantize(&isas);
    }
    if "attention".contains(&filter) {
        attention(&isas);
    }
}
