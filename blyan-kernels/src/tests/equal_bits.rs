//! The same cases on every instruction set: each result must have the bits of the reference.

use std::ops::Range;

use super::{Forms, Random, encode, encode_scales, f32_bytes, scale_count, whole_groups};
use crate::dtype::{DType, GROUP};
use crate::simd::CACHED_BYTES;
use crate::{
    Aligned, Attention, GroupQuantized, HeadShape, Input, Isa, KernelError, MatMut, Quantized, Vector,
    Weights,
};

/// Runs each case, a `fn(Isa)` of this file, on each instruction set.
macro_rules! on_every_isa {
    ($($case:ident),* $(,)?) => {
        mod scalar { $(#[test] fn $case() { super::on("scalar", super::$case); })* }
        mod neon { $(#[test] fn $case() { super::on("neon", super::$case); })* }
        mod avx2 { $(#[test] fn $case() { super::on("avx2", super::$case); })* }
        mod avx512 { $(#[test] fn $case() { super::on("avx512", super::$case); })* }
        mod amx { $(#[test] fn $case() { super::on("amx", super::$case); })* }
    };
}

on_every_isa!(
    matmul_of_every_length,
    matmul_of_every_tile,
    matmul_of_large_tiles,
    matmul_of_long_rows,
    matmul_of_rows_larger_than_the_cache,
    matmul_of_hostile_values,
    matmul_of_largest_integers,
    matmul_of_largest_nibbles,
    matmul_of_part_of_the_rows,
    weights_of_every_bit_pattern,
    cache_rounding,
    quantized_weights,
    quantized_inputs,
    inputs_quantized_by_group,
    inputs_quantized_in_memory_of_others,
    norms,
    gates,
    gates_of_every_magnitude,
    sums,
    clamps,
    rotations,
    softmaxes,
    losses,
    attention_of_every_shape,
    attention_of_hostile_values,
);

fn on(name: &str, case: fn(Isa)) {
    match Isa::named(name) {
        Ok(isa) => {
            assert_eq!(isa.name(), name);
            case(isa.as_on(false));
            if isa.as_on(true) != isa.as_on(false) {
                case(isa.as_on(true));
            }
        }
        Err(KernelError::IsaUnavailable { missing, .. }) => eprintln!("not run: {missing} is missing"),
        Err(error) => panic!("{error}"),
    }
}

/// Lengths around every multiple of 16 and 32, and some longer ones.
fn lengths() -> impl Iterator<Item = usize> {
    (1..=70).chain([127, 128, 129, 255, 511, 577, 1023])
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// Compares bits, and that every NaN is the canonical one.
#[track_caller]
fn assert_same(expected: &[f32], actual: &[f32], what: &str) {
    assert_eq!(bits(expected), bits(actual), "{what}");
    for x in actual {
        assert!(!x.is_nan() || x.to_bits() == 0x7fc0_0000, "{what}: {:#x}", x.to_bits());
    }
}

/// A copy that starts `offset` elements into an allocation.
struct Misaligned<T> {
    buffer: Vec<T>,
    offset: usize,
}

impl<T: Copy> Misaligned<T> {
    fn new(values: &[T], offset: usize, fill: T) -> Self {
        let mut buffer = vec![fill; offset];
        buffer.extend_from_slice(values);
        Self { buffer, offset }
    }

    fn get(&self) -> &[T] {
        &self.buffer[self.offset..]
    }
}

struct Product {
    dtype: DType,
    rows: usize,
    cols: usize,
    data: Vec<u8>,
    scale: Vec<f32>,
    x: Vec<f32>,
}

impl Product {
    fn check(&self, isa: Isa, what: &str) {
        let tokens = self.x.len() / self.cols;
        let scale = encode_scales(self.dtype, &self.scale);
        let mut results = Vec::new();
        let aligned = Aligned::new(&self.x, self.cols).unwrap();
        let wrong = vec![1.0; self.x.len()];
        for (isa, offset, copied) in
            [(Isa::SCALAR, 0, false), (isa, 0, false), (isa, 1, true), (isa, 3, false), (isa, 0, true)]
        {
            let data = Misaligned::new(&self.data, offset, 0xff);
            let scale = scale.as_ref().map(|scale| Misaligned::new(scale, offset, 0xff));
            let scale = scale.as_ref().map(Misaligned::get);
            let x = Misaligned::new(&self.x, offset, f32::NAN);
            let mut weights = Weights::new(self.dtype, self.rows, self.cols, data.get(), scale).unwrap();
            let forms = Forms::new(isa, x.get(), self.cols);
            let mut input = forms.with(Input::new(x.get(), self.cols).unwrap());
            let normals = isa.normals(&weights);
            if copied {
                weights = weights.with_normals(&normals).unwrap();
                // The copy is read in their place.
                input = forms.with(Input::new(&wrong, self.cols).unwrap());
                input = input.with_aligned(&aligned).unwrap();
            }
            let mut out = vec![f32::NAN; tokens * self.rows];
            let view = MatMut::from_slice(&mut out, tokens, self.rows).unwrap();
            isa.matmul(&weights, 0..self.rows, &input, view).unwrap();
            results.push(out);
        }
        for actual in &results[1..] {
            let what = format!("{what}: {} ({}, {}) × {tokens}", self.dtype, self.rows, self.cols);
            assert_same(&results[0], actual, &what);
        }
    }

    fn tame(random: &mut Random, dtype: DType, rows: usize, cols: usize, tokens: usize) -> Self {
        let cols = whole_groups(dtype, cols);
        let spread = match dtype {
            DType::I8 => 40.0,
            DType::I4 => 4.0,
            _ => 1.0,
        };
        let values: Vec<f32> = random.normals(rows * cols).iter().map(|x| x * spread).collect();
        let data = encode(dtype, &values);
        let scale = random.normals(scale_count(dtype, rows, cols));
        Self { dtype, rows, cols, data, scale, x: random.normals(tokens * cols) }
    }
}

fn matmul_of_every_length(isa: Isa) {
    let mut random = Random(1);
    for dtype in DType::ALL {
        for cols in lengths() {
            Product::tame(&mut random, dtype, 3, cols, 2).check(isa, "length");
        }
    }
}

fn matmul_of_every_tile(isa: Isa) {
    let mut random = Random(2);
    for dtype in DType::ALL {
        for rows in (0..=13).chain([33]) {
            for tokens in [1, 2, 3, 4, 5, 7, 8, 9] {
                let cols = [1, 15, 16, 37, 64, 150, 333, 1100][random.below(8)];
                Product::tame(&mut random, dtype, rows, cols, tokens).check(isa, "tile");
            }
        }
    }
}

/// Rows and tokens by sixteens, which is how tiles that are registers of their own take them, and around that.
fn matmul_of_large_tiles(isa: Isa) {
    let mut random = Random(25);
    for (rows, cols, tokens) in [
        (31, 64, 16),
        (32, 63, 16),
        (32, 64, 4),
        (32, 64, 5),
        (32, 65, 16),
        (33, 127, 17),
        (63, 128, 31),
        (64, 129, 32),
        (65, 200, 33),
        (100, 1027, 21),
        // More than are arranged at once.
        (34, 4100, 140),
    ] {
        let mut product = Product::tame(&mut random, DType::I8, rows, cols, tokens);
        product.check(isa, "large tiles");
        product.data = random.bytes(rows * cols);
        for _ in 0..4 {
            product.scale = random.hostiles(rows);
            let place = random.below(product.x.len());
            product.x[place] = random.hostile();
            product.check(isa, "hostile large tiles");
        }
    }
    // Rows from the middle, into columns of a wider output, and tokens in any order.
    let product = Product::tame(&mut random, DType::I8, 100, 200, 21);
    let scale = f32_bytes(&product.scale);
    let weights = Weights::new(DType::I8, 100, 200, &product.data, Some(&scale)).unwrap();
    let forms = Forms::new(isa, &product.x, 200);
    let chosen: Vec<usize> = (0..23).map(|i| 8 * i % 21).collect();
    let input = forms.with(Input::new(&product.x, 200).unwrap()).choose(&chosen).unwrap();
    let mut whole = vec![0.0; 2300];
    Isa::SCALAR.matmul(&weights, 0..100, &input, MatMut::from_slice(&mut whole, 23, 100).unwrap()).unwrap();
    for at in [32, 33, 50, 67] {
        let mut parts = vec![f32::NAN; 2300];
        let (left, right) = MatMut::from_slice(&mut parts, 23, 100).unwrap().split_at_col(at).unwrap();
        isa.matmul(&weights, 0..at, &input, left).unwrap();
        isa.matmul(&weights, at..100, &input, right).unwrap();
        assert_same(&whole, &parts, &format!("large tiles split at {at}"));
    }
    // Sums as large as 32 bits hold, and larger ones.
    for cols in [1 << 16, 70_000] {
        for (weight, x) in [(-128i8, 3.0), (-128, -3.0), (127, 3.0)] {
            let data = vec![weight as u8; 32 * cols];
            let mut x = vec![x; 5 * cols];
            // A low byte of 255 beside the largest value.
            x[1..cols].fill(3.0 * 32767.0f32.recip() * 32511.0);
            Product { dtype: DType::I8, rows: 32, cols, data, scale: vec![1.0; 32], x }.check(isa, "largest");
        }
    }
}

/// Several whole runs of steps of every type, also of a token alone, without and with an end.
fn matmul_of_long_rows(isa: Isa) {
    let mut random = Random(24);
    for dtype in DType::ALL {
        for cols in [2048, 2080, 4640] {
            for tokens in [1, 2, 3, 4] {
                Product::tame(&mut random, dtype, 5, cols, tokens).check(isa, "long rows");
            }
        }
    }
}

/// Of which a core's cache holds not one, or a few, while the tokens pass by.
fn matmul_of_rows_larger_than_the_cache(isa: Isa) {
    let mut random = Random(21);
    for dtype in DType::ALL {
        let cols = CACHED_BYTES * GROUP / dtype.bytes_of(GROUP) + 1;
        Product::tame(&mut random, dtype, 3, cols, 2).check(isa, "long rows");
        for tokens in [1, 2, 3, 4] {
            Product::tame(&mut random, dtype, 27, cols / 8, tokens).check(isa, "blocks of rows");
        }
    }
}

fn matmul_of_hostile_values(isa: Isa) {
    let mut random = Random(3);
    for dtype in DType::ALL {
        for round in 0..300 {
            // Several steps, which are 512 of I4 and 64 at most of the others.
            let longest = if dtype == DType::I4 { 1200 } else { 300 };
            let (rows, cols, tokens) = (1 + random.below(9), 1 + random.below(longest), 1 + random.below(5));
            let mut product = Product::tame(&mut random, dtype, rows, cols, tokens);
            product.scale = random.hostiles(product.scale.len());
            if round % 3 > 0 {
                product.data = random.bytes(product.data.len());
            }
            if round % 3 < 2 {
                // One odd value among ordinary ones shows more than many, which end in NaN.
                let place = random.below(product.x.len());
                product.x[place] = random.hostile();
            }
            product.check(isa, "hostile");
        }
    }
}

fn matmul_of_largest_integers(isa: Isa) {
    // Around the points where a lane's 32 bits must have been emptied: after 64 steps of 32, or 255.
    for cols in [2047, 2048, 2049, 4097, 8128, 8159, 8160, 8161, 8191, 8192, 8193, 16320, 16321, 20000] {
        for (weight, sign) in [(-128i8, 1.0), (-128, -1.0), (127, 1.0), (127, -1.0)] {
            let data = vec![weight as u8; 9 * cols];
            for tokens in [1, 2, 4, 5] {
                let (data, x) = (data.clone(), vec![sign * 3.0; tokens * cols]);
                let product = Product { dtype: DType::I8, rows: 9, cols, data, scale: vec![1.0; 9], x };
                product.check(isa, "largest");

                let scale = f32_bytes(&product.scale);
                let weights = Weights::new(DType::I8, 9, cols, &product.data, Some(&scale)).unwrap();
                let quantized = isa.quantize(&product.x, cols).unwrap();
                let input = Input::new(&product.x, cols).unwrap().with_quantized(&quantized).unwrap();
                let mut out = vec![0.0; tokens * 9];
                let view = MatMut::from_slice(&mut out, tokens, 9).unwrap();
                isa.matmul(&weights, 0..9, &input, view).unwrap();
                let sum = cols as i64 * i64::from(weight) * 32767 * sign as i64;
                assert_eq!(out, vec![sum as f32 * (3.0 / 32767.0); tokens * 9], "{cols} × {weight}");
            }
        }
    }
}

/// Activations of the largest magnitude and of either sign by eights, by groups, and all of one: sums as large as they get,
/// on the way and at the end.
fn matmul_of_largest_nibbles(isa: Isa) {
    for cols in [32, 96, 512, 544, 4096] {
        for (nibbles, weight) in [(0x00, -8.0), (0xff, 7.0)] {
            let data = vec![nibbles; 5 * cols / 2];
            for run in [8, 32, usize::MAX] {
                let x: Vec<f32> =
                    (0..2 * cols).map(|k| if k / run % 2 == 0 { 127.0 } else { -127.0 }).collect();
                let (data, scale) = (data.clone(), vec![0.5; 5 * cols / 32]);
                Product { dtype: DType::I4, rows: 5, cols, data, scale, x }.check(isa, "largest");
            }

            let (data, scale) = (vec![nibbles; cols / 2], encode(DType::BF16, &vec![0.5; cols / 32]));
            let x = vec![127.0; cols];
            let weights = Weights::new(DType::I4, 1, cols, &data, Some(&scale)).unwrap();
            let forms = Forms::new(isa, &x, cols);
            let input = forms.with(Input::new(&x, cols).unwrap());
            let mut out = [0.0];
            isa.matmul(&weights, 0..1, &input, MatMut::from_slice(&mut out, 1, 1).unwrap()).unwrap();
            // The scale of the activations is 1, and each sum a half of an integer below 2^24: nothing is rounded.
            assert_eq!(out, [cols as f32 * weight * 0.5 * 127.0], "{cols} × {weight}");
        }
    }
}

fn matmul_of_part_of_the_rows(isa: Isa) {
    let mut random = Random(4);
    // 1100 are several steps of I4.
    for (dtype, cols) in DType::ALL.into_iter().flat_map(|dtype| [(dtype, 50), (dtype, 1100)]) {
        let product = Product::tame(&mut random, dtype, 23, cols, 6);
        let cols = product.cols;
        let scale = encode_scales(dtype, &product.scale);
        let weights = Weights::new(dtype, 23, cols, &product.data, scale.as_deref()).unwrap();
        let forms = Forms::new(isa, &product.x, cols);
        let input = forms.with(Input::new(&product.x, cols).unwrap());
        let mut whole = vec![0.0; 6 * 23];
        Isa::SCALAR.matmul(&weights, 0..23, &input, MatMut::from_slice(&mut whole, 6, 23).unwrap()).unwrap();
        // Few tokens take the rows in another order.
        for tokens in [1, 2, 3, 4, 6] {
            let input = input.choose(&[0, 1, 2, 3, 4, 5][..tokens]).unwrap();
            for at in 0..=23 {
                let mut parts = vec![f32::NAN; tokens * 23];
                let view = MatMut::from_slice(&mut parts, tokens, 23).unwrap();
                let (left, right) = view.split_at_col(at).unwrap();
                isa.matmul(&weights, 0..at, &input, left).unwrap();
                isa.matmul(&weights, at..23, &input, right).unwrap();
                let what = format!("{dtype} split at {at}, {tokens} tokens");
                assert_same(&whole[..tokens * 23], &parts, &what);
            }
        }
        // A token alone gives what it gives among others.
        for token in 0..6 {
            let x = &product.x[token * cols..][..cols];
            let forms = Forms::new(isa, x, cols);
            let input = forms.with(Input::new(x, cols).unwrap());
            let mut alone = vec![f32::NAN; 23];
            isa.matmul(&weights, 0..23, &input, MatMut::from_slice(&mut alone, 1, 23).unwrap()).unwrap();
            assert_same(&whole[token * 23..][..23], &alone, &format!("{dtype} token {token} alone"));
        }
        // Chosen tokens give what they give among all, from each form of the input.
        let aligned = Aligned::new(&product.x, cols).unwrap();
        for chosen in [&[4][..], &[2, 0, 2], &[5, 4, 3, 2, 1, 0, 5], &[]] {
            for input in [input, input.with_aligned(&aligned).unwrap()] {
                let input = input.choose(chosen).unwrap();
                let mut out = vec![f32::NAN; chosen.len() * 23];
                let view = MatMut::from_slice(&mut out, chosen.len(), 23).unwrap();
                isa.matmul(&weights, 0..23, &input, view).unwrap();
                let expected: Vec<f32> =
                    chosen.iter().flat_map(|token| &whole[token * 23..][..23]).copied().collect();
                assert_same(&expected, &out, &format!("{dtype} tokens {chosen:?}"));
            }
        }
    }
}

fn weights_of_every_bit_pattern(isa: Isa) {
    let mut random = Random(5);
    for dtype in DType::ALL {
        let data: Vec<u8> = match dtype.size_bytes() {
            1 => (0..=255).collect(),
            2 => (0..=u16::MAX).flat_map(u16::to_le_bytes).collect(),
            _ => random.hostiles(4099).iter().flat_map(|x| x.to_le_bytes()).collect(),
        };
        let per_byte = if dtype == DType::I4 { 2 } else { 1 };
        let cols = data.len() * per_byte / dtype.size_bytes();
        for scale in [1.0f32, 0.37, -3e38, f32::NAN, f32::INFINITY, 1e-42] {
            let scale = encode_scales(dtype, &vec![scale; scale_count(dtype, 1, cols)]);
            let weights = Weights::new(dtype, 1, cols, &data, scale.as_deref()).unwrap();
            let (mut expected, mut actual) = (vec![0.0; cols], vec![0.0; cols]);
            Isa::SCALAR.dequantize_row(&weights, 0, &mut expected).unwrap();
            isa.dequantize_row(&weights, 0, &mut actual).unwrap();
            assert_same(&expected, &actual, dtype.name());
        }
    }
}

fn cache_rounding(isa: Isa) {
    let mut random = Random(6);
    // Every binary16, the midpoints between neighbours, and one f32 to each side of both.
    let mut values = Vec::new();
    for half_bits in 0..=u16::MAX {
        let bits = half::f16::from_bits(half_bits).to_f32_const().to_bits();
        let middle = bits.wrapping_add(1 << 12);
        for bits in [bits, middle] {
            values.extend([bits.wrapping_sub(1), bits, bits.wrapping_add(1)].map(f32::from_bits));
        }
    }
    values.extend(random.hostiles(10_001));
    for dtype in [DType::F16, DType::F32] {
        for len in lengths().chain([values.len()]) {
            let values = &values[values.len() - len..];
            let mut expected = vec![0xaa; len * dtype.size_bytes()];
            let mut actual = vec![0x55; len * dtype.size_bytes()];
            Isa::SCALAR.round_to(dtype, values, &mut expected).unwrap();
            isa.round_to(dtype, values, &mut actual).unwrap();
            assert_eq!(expected, actual, "{dtype} {len}");
        }
    }
}

fn quantized_weights(isa: Isa) {
    let mut random = Random(24);
    for to in [DType::I8, DType::F8E4M3, DType::I4] {
        let bits_of = |isa: Isa, row: &[f32]| {
            let scales_len = if to == DType::I4 { row.len() / GROUP * 2 } else { 4 };
            let (mut values, mut scales) = (vec![0xaa; to.bytes_of(row.len())], vec![0x55; scales_len]);
            isa.quantize_weights(to, row, &mut values, &mut scales).unwrap();
            (values, scales)
        };
        let check = |mut row: Vec<f32>| {
            row.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = f32::MAX);
            assert_eq!(bits_of(Isa::SCALAR, &row), bits_of(isa, &row), "{to} {row:?}");
        };
        for cols in lengths().map(|cols| whole_groups(to, cols)) {
            check(random.normals(cols));
            check(random.hostiles(cols));
            check(vec![[0.0, -0.0, f32::MAX, f32::MIN, -1e-45][random.below(5)]; cols]);
            // Ties, and what the scales of I4 that are tried cut off.
            let largest = [127.0f32, -127.0, 448.0, -448.0, 7.5, 8.0, -8.0][random.below(7)];
            let ties = (0..cols).map(|_| (random.below(1 + 4 * largest.abs() as usize)) as f32 / 4.0);
            check(ties.map(|x| (x * 2.0 - largest).clamp(-largest.abs(), largest.abs())).collect());
        }
        for exponent in -149..128 {
            let row = random.normals(96);
            check(row.iter().map(|x| (f64::from(*x) * 2f64.powi(exponent)) as f32).collect());
        }
        check(Vec::new());
    }
}

fn quantized_inputs(isa: Isa) {
    let mut random = Random(7);
    let check = |x: &[f32], cols: usize| {
        let expected = Isa::SCALAR.quantize(x, cols).unwrap();
        let actual = isa.quantize(x, cols).unwrap();
        assert!(expected.tokens().eq(actual.tokens()), "{cols} {x:?}");
        assert_same(expected.scales(), actual.scales(), "scales");
    };
    for cols in lengths() {
        check(&random.normals(3 * cols), cols);
        check(&random.hostiles(3 * cols), cols);
        let mut x = random.normals(cols);
        let place = random.below(cols);
        x[place] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN][random.below(5)];
        check(&x, cols);
    }
    for exponent in -149..128 {
        let x: Vec<f32> =
            random.normals(33).iter().map(|x| (f64::from(*x) * 2f64.powi(exponent)) as f32).collect();
        check(&x, 33);
        check(&[-0.0, 2f64.powi(exponent) as f32], 2);
    }
    check(&[0.0, -0.0, 0.0], 3);
    check(&[], 4);
}

fn inputs_quantized_by_group(isa: Isa) {
    let mut random = Random(22);
    let bits_of = |isa: Isa, x: &[f32], cols: usize| -> Vec<_> {
        let quantized = isa.quantize_by_group(x, cols).unwrap();
        quantized.tokens().flatten().map(|(values, scale)| (values, scale.to_bits())).collect()
    };
    let check = |x: &[f32], cols: usize| {
        assert_eq!(bits_of(Isa::SCALAR, x, cols), bits_of(isa, x, cols), "{cols} {x:?}");
    };
    for cols in [32, 64, 480, 512, 544, 1024, 2080] {
        check(&random.normals(3 * cols), cols);
        check(&random.hostiles(3 * cols), cols);
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN] {
            let mut x = random.normals(cols);
            x[random.below(cols)] = odd;
            check(&x, cols);
        }
    }
    for exponent in -149..128 {
        let x: Vec<f32> =
            random.normals(96).iter().map(|x| (f64::from(*x) * 2f64.powi(exponent)) as f32).collect();
        check(&x, 96);
    }
    check(&[-0.0; 32], 32);
    check(&[], 32);
}

fn inputs_quantized_in_memory_of_others(isa: Isa) {
    let mut random = Random(23);
    let (mut quantized, mut by_group) = (Quantized::default(), GroupQuantized::default());
    for (tokens, cols) in [(3, 2080), (5, 96), (2, 160), (4, 512), (1, 544), (3, 2080)] {
        let mut x = random.normals(tokens * cols);
        // A group of zeros and one with a NaN.
        x[..32].fill(0.0);
        x[80] = f32::NAN;
        let expected = Forms::new(Isa::SCALAR, &x, cols);
        quantized.rows_for(&x, cols).unwrap().for_each(|row| isa.quantize_row(row));
        assert!(expected.quantized.tokens().eq(quantized.tokens()), "{cols}");
        assert_same(expected.quantized.scales(), quantized.scales(), "scales");
        by_group.rows_for(&x, cols).unwrap().for_each(|row| isa.quantize_row_by_group(row));
        // What lies beyond the groups counts as well.
        let parts = |quantized: &GroupQuantized| -> Vec<_> {
            let groups = (0..tokens).flat_map(|token| quantized.groups(token));
            groups.map(|groups| (groups.values, groups.offsets, groups.scales.map(f32::to_bits))).collect()
        };
        assert!(parts(expected.groups.as_ref().unwrap()) == parts(&by_group), "{cols}");
    }
}

fn norms(isa: Isa) {
    let mut random = Random(8);
    for n in lengths() {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            for hostile in [false, true] {
                let x = if hostile { random.hostiles(3 * n) } else { random.normals(3 * n) };
                let weight = encode(dtype, &random.normals(n));
                let weight = Vector::new(dtype, n, &weight).unwrap();
                let (mut expected, mut actual) = (vec![0.0; 3 * n], vec![f32::NAN; 3 * n]);
                let eps = [1e-5, 0.0][random.below(2)];
                Isa::SCALAR.rms_norm(&x, &weight, eps, &mut expected).unwrap();
                isa.rms_norm(&x, &weight, eps, &mut actual).unwrap();
                assert_same(&expected, &actual, &format!("{dtype} {n}"));
            }
        }
    }
    let zeros = [0.0; 20];
    let ones = f32_bytes(&[1.0; 20]);
    let mut out = [7.0; 20];
    isa.rms_norm(&zeros, &Vector::new(DType::F32, 20, &ones).unwrap(), 1e-6, &mut out).unwrap();
    assert_eq!(out, zeros);
}

/// Runs an in-place kernel on both, on aligned and misaligned slices.
fn in_place(isa: Isa, x: &[f32], what: &str, run: impl Fn(Isa, &mut [f32])) {
    let mut expected = x.to_vec();
    run(Isa::SCALAR, &mut expected);
    for offset in [0, 1] {
        let mut actual = Misaligned::new(x, offset, f32::NAN);
        run(isa, &mut actual.buffer[offset..]);
        assert_same(&expected, actual.get(), &format!("{what} of {}", x.len()));
    }
}

fn gates(isa: Isa) {
    let mut random = Random(9);
    for n in lengths().chain([0]) {
        for _ in 0..4 {
            let (gate, up) = (random.hostiles(n), random.hostiles(n));
            in_place(isa, &gate, "silu_mul", |isa, gate| isa.silu_mul(gate, &up).unwrap());
            let (gate, up) = (random.normals(n), random.normals(n));
            in_place(isa, &gate, "silu_mul", |isa, gate| isa.silu_mul(gate, &up).unwrap());
        }
    }
}

fn gates_of_every_magnitude(isa: Isa) {
    // A walk through all f32, where e^-x takes every course: NaN, overflow, subnormal, zero.
    let gate: Vec<f32> = (0..=u32::MAX).step_by(4099).map(f32::from_bits).collect();
    let near: Vec<f32> = (-1100..=1100).map(|i| i as f32 / 10.0).collect();
    let edges = [88.72283f32, 88.72284, 87.33654, 87.33655, 103.27892, 103.97207, 103.97208, 104.0, 89.0];
    let edges: Vec<f32> =
        edges.iter().flat_map(|x| [*x, -x, x.next_up(), x.next_down(), -x.next_up()]).collect();
    for gate in [gate, near, edges] {
        let up = vec![1.0; gate.len()];
        in_place(isa, &gate, "silu_mul", |isa, gate| isa.silu_mul(gate, &up).unwrap());
        // e^x itself, at position 1 of a pair with 0.
        for x in gate.iter().step_by(37).filter(|x| **x <= 0.0) {
            in_place(isa, &[0.0, *x], "softmax", Isa::softmax);
        }
    }
}

fn sums(isa: Isa) {
    let mut random = Random(10);
    for n in lengths().chain([0]) {
        let (acc, x) = (random.hostiles(n), random.hostiles(n));
        in_place(isa, &acc, "add", |isa, acc| isa.add(acc, &x).unwrap());
        let scale = random.hostile();
        in_place(isa, &acc, "scale_add", |isa, acc| isa.scale_add(acc, scale, &x).unwrap());
        if n > 0 {
            let rows = random.hostiles(3 * n);
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let bias = encode(dtype, &x);
                let bias = Vector::new(dtype, n, &bias).unwrap();
                in_place(isa, &rows, "add_vector", |isa, acc| isa.add_vector(acc, &bias).unwrap());
            }
        }
    }
}

fn clamps(isa: Isa) {
    let mut random = Random(11);
    for n in lengths().chain([0]) {
        let x = random.hostiles(n);
        for limit in [8.0, 0.0, f32::INFINITY, 1e-45, f32::NAN, -1.0] {
            in_place(isa, &x, "clamp", |isa, x| isa.clamp(x, limit));
        }
    }
}

fn rotations(isa: Isa) {
    let mut random = Random(12);
    for half in lengths().chain([0]) {
        for x in [random.normals(2 * half), random.hostiles(2 * half)] {
            let (cos, sin) = (random.normals(half), random.normals(half));
            in_place(isa, &x, "rope", |isa, x| isa.rope(x, &cos, &sin).unwrap());
        }
    }
}

fn softmaxes(isa: Isa) {
    let mut random = Random(13);
    for n in lengths().chain([0]) {
        let spread = [0.01, 1.0, 30.0][random.below(3)];
        let x: Vec<f32> = random.normals(n).iter().map(|x| x * spread).collect();
        in_place(isa, &x, "softmax", Isa::softmax);
        in_place(isa, &random.hostiles(n), "softmax", Isa::softmax);
        for fill in [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MAX, -1e30] {
            in_place(isa, &vec![fill; n], "softmax", Isa::softmax);
            if n > 0 {
                let mut x = x.clone();
                x[random.below(n)] = fill;
                in_place(isa, &x, "softmax", Isa::softmax);
            }
        }
    }
}

fn losses(isa: Isa) {
    let mut random = Random(14);
    let bits = |isa: Isa, x: &[f32], target| isa.loss(&mut x.to_vec(), target).unwrap().to_bits();
    for n in lengths().chain([1000]).filter(|n| *n > 0) {
        let spread = [0.01, 1.0, 30.0][random.below(3)];
        let x: Vec<f32> = random.normals(n).iter().map(|x| x * spread).collect();
        let mut cases = vec![x.clone(), random.hostiles(n)];
        for fill in [0.0, -0.0, f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::MAX, -1e30] {
            cases.push(vec![fill; n]);
            let mut x = x.clone();
            x[random.below(n)] = fill;
            cases.push(x);
        }
        for x in cases {
            let target = random.below(n);
            assert_eq!(bits(isa, &x, target), bits(Isa::SCALAR, &x, target), "loss of {target} in {x:?}");
        }
    }
}

/// A cache of random positions, as the reference stores them, and what attends to it.
struct Attended {
    shape: HeadShape,
    keys: Vec<u8>,
    values: Vec<u8>,
    queries: Vec<f32>,
    stride: usize,
    group: usize,
    spans: Vec<Range<usize>>,
}

impl Attended {
    fn new(shape: HeadShape, keys: &[f32], values: &[f32], group: usize, spans: Vec<Range<usize>>) -> Self {
        let positions = keys.len() / shape.head_dim;
        let mut store = (vec![0; shape.keys_len(positions)], vec![0; shape.values_len(positions)]);
        let rows = keys.chunks_exact(shape.head_dim).zip(values.chunks_exact(shape.head_dim));
        for (position, row) in rows.enumerate() {
            let place = (&mut store.0[..], &mut store.1[..]);
            Isa::SCALAR.store_position(shape, position, row, place).unwrap();
        }
        let stride = group * shape.head_dim + 3;
        let (keys, values) = store;
        Self { shape, keys, values, queries: vec![0.0; spans.len() * stride], stride, group, spans }
    }

    fn check(&self, isa: Isa) {
        let run = |isa: Isa, keys: &[u8], values: &[u8], scores: &mut Vec<f32>| {
            let args = Attention {
                shape: self.shape,
                keys,
                values,
                queries: &self.queries,
                stride: self.stride,
                group: self.group,
                spans: &self.spans,
                scale: 0.3,
            };
            let width = self.group * self.shape.head_dim;
            let mut out = vec![7.0; self.spans.len() * width];
            isa.attention(&args, scores, MatMut::from_slice(&mut out, self.spans.len(), width).unwrap())
                .unwrap();
            out
        };
        let expected = run(Isa::SCALAR, &self.keys, &self.values, &mut Vec::new());
        let keys = Misaligned::new(&self.keys, 1, 0xff);
        let values = Misaligned::new(&self.values, 3, 0xff);
        let actual = run(isa, keys.get(), values.get(), &mut vec![f32::NAN; 7]);
        let Self { shape, group, spans, .. } = self;
        assert_same(&expected, &actual, &format!("{shape:?} group {group}, {spans:?}"));
    }
}

/// Tokens one after the other that end at `positions`, each attending to at most `window`.
fn causal(tokens: usize, positions: usize, window: usize) -> Vec<Range<usize>> {
    (positions + 1 - tokens..=positions).map(|end| end.saturating_sub(window)..end).collect()
}

fn attention_of_every_shape(isa: Isa) {
    let mut random = Random(14);
    for dtype in [DType::F16, DType::F32] {
        let mut check = |head_dim: usize, group: usize, positions: usize, spans: Vec<Range<usize>>| {
            let len = head_dim * positions;
            let (keys, values) = (random.normals(len), random.normals(len));
            let mut attended = Attended::new(HeadShape { dtype, head_dim }, &keys, &values, group, spans);
            attended.queries = random.normals(attended.queries.len());
            attended.check(isa);
        };
        let positions = [1, 2, 3, 15, 16, 17, 31, 32, 33, 100];
        for (index, head_dim) in (1..=34).chain([47, 48, 64, 65, 80, 96, 127, 128, 144]).enumerate() {
            for group in [1, 2, 3, 4, 5, 7, 8] {
                let positions = positions[(index + group) % positions.len()];
                let tokens = 1 + (index * group) % positions.min(9);
                check(head_dim, group, positions, causal(tokens, positions, usize::MAX));
                check(head_dim, group, positions, causal(tokens, positions, 1 + index % 20));
            }
        }
        for positions in lengths().filter(|&positions| positions > 0) {
            check(20, 1, positions, causal(1, positions, usize::MAX));
            check(20, 3, positions, causal(1, positions, usize::MAX));
        }
        // More blocks of keys than a core's cache holds.
        check(128, 1, 1100, causal(1, 1100, usize::MAX));
        check(128, 1, 1100, causal(5, 1100, usize::MAX));
        // Past what is summed in one go, and spans that nothing orders.
        check(24, 2, 1100, causal(7, 1100, usize::MAX));
        check(24, 1, 1100, causal(7, 1100, 515));
        check(24, 1, 1100, vec![0..1, 700..1100, 0..0, 511..513, 512..1024, 3..900, 1099..1100]);
        check(5, 1, 9, vec![0..0, 4..4]);
    }
}

fn attention_of_hostile_values(isa: Isa) {
    let mut random = Random(15);
    for dtype in [DType::F16, DType::F32] {
        for round in 0..200 {
            let (head_dim, group, positions) =
                (1 + random.below(40), 1 + random.below(5), 1 + random.below(40));
            let mut keys = random.normals(positions * head_dim);
            let mut values = random.normals(positions * head_dim);
            if round % 3 > 0 {
                let target = if round % 3 == 1 { &mut keys } else { &mut values };
                let place = random.below(target.len());
                target[place] = random.hostile();
            }
            let spans = causal(1 + random.below(positions.min(6)), positions, 1 + random.below(40));
            let mut attended = Attended::new(HeadShape { dtype, head_dim }, &keys, &values, group, spans);
            attended.queries = random.normals(attended.queries.len());
            if round % 3 == 0 {
                let place = random.below(attended.queries.len());
                attended.queries[place] = random.hostile();
            }
            attended.check(isa);
        }
    }
}
