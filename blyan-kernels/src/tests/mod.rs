//! Tests of the kernels: `equal_bits` compares every instruction set with the reference, `accuracy`
//! compares the reference with naive f64, `golden` pins the bits of this numerics version, `normals` looks at what is
//! found out about weights beforehand, `refusals` hands kernels what does not fit.

mod accuracy;
mod equal_bits;
mod golden;
mod normals;
mod refusals;

use super::{GroupQuantized, Input, Isa, Quantized};
use crate::dtype::{DType, GROUP};

/// Reproducible pseudo-random numbers (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.bits() % n as u64) as usize
    }

    /// Close to normal, with mean 0 and variance 1.
    fn normal(&mut self) -> f32 {
        let mut sum = 0.0f64;
        for _ in 0..12 {
            sum += (self.bits() >> 11) as f64 / (1u64 << 53) as f64;
        }
        (sum - 6.0) as f32
    }

    fn normals(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.normal()).collect()
    }

    /// A mixture that finds edges: special values, any bits at all, tiny and ordinary numbers.
    fn hostile(&mut self) -> f32 {
        const SPECIAL: [f32; 14] = [
            0.0,
            -0.0,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            -f32::MIN_POSITIVE,
            1e-45,
            -1e-45,
            65504.0,
            88.72284,
            -103.97208,
        ];
        match self.below(8) {
            0 => SPECIAL[self.below(SPECIAL.len())],
            1 => f32::from_bits(self.bits() as u32),
            2 => self.normal() * 1e-38,
            3 => self.normal() * 1e19,
            _ => self.normal() * 10.0,
        }
    }

    fn hostiles(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.hostile()).collect()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.bits() as u8).collect()
    }
}

/// Weights as stored, independent of the kernels' own conversions: truncated for BF16 (exact either
/// way once read back), by the half and float8 crates for the others.
fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    let one = |x: f32| match dtype {
        DType::F32 => x.to_le_bytes().to_vec(),
        DType::BF16 => half::bf16::from_f32(x).to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32_const(x).to_le_bytes().to_vec(),
        DType::F8E4M3 => vec![float8::F8E4M3::from_f32(x).to_bits()],
        DType::I8 => vec![x.round_ties_even() as i8 as u8],
        DType::I4 => vec![(x.round_ties_even().clamp(-8.0, 7.0) + 8.0) as u8],
    };
    if dtype == DType::I4 {
        // As compressed-tensors packs: element i of a word in its bits 4 i and up.
        let words = values.chunks(8).map(|word| {
            word.iter().enumerate().fold(0u32, |bits, (i, &x)| bits | u32::from(one(x)[0]) << (4 * i))
        });
        return words.flat_map(u32::to_le_bytes).collect();
    }
    values.iter().flat_map(|&x| one(x)).collect()
}

/// What [`encode`] wrote, in f64.
fn decode(dtype: DType, bytes: &[u8]) -> Vec<f64> {
    let one = |b: &[u8]| match dtype {
        DType::F32 => f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
        DType::BF16 => half::bf16::from_le_bytes([b[0], b[1]]).to_f64(),
        DType::F16 => f64::from(half::f16::from_le_bytes([b[0], b[1]]).to_f32_const()),
        DType::F8E4M3 => float8::F8E4M3::from_bits(b[0]).to_f64(),
        DType::I8 => f64::from(b[0] as i8),
        DType::I4 => f64::NAN,
    };
    if dtype == DType::I4 {
        let words = bytes.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word));
        return words.flat_map(|word| (0..8).map(move |i| f64::from(word >> (4 * i) & 15) - 8.0)).collect();
    }
    bytes.chunks_exact(dtype.size_bytes()).map(one).collect()
}

/// How many scales a matrix has: one for each row, for I4 one for each 32 columns of a row.
fn scale_count(dtype: DType, rows: usize, cols: usize) -> usize {
    if dtype == DType::I4 { rows * (cols / GROUP) } else { rows }
}

/// Scales as they are stored, where the type has them.
fn encode_scales(dtype: DType, scales: &[f32]) -> Option<Vec<u8>> {
    match dtype {
        DType::I4 => Some(encode(DType::BF16, scales)),
        _ => dtype.is_quantized().then(|| f32_bytes(scales)),
    }
}

/// A number of columns that the type can have.
fn whole_groups(dtype: DType, cols: usize) -> usize {
    if dtype == DType::I4 { cols.next_multiple_of(GROUP) } else { cols }
}

/// Activations in each form that weights of so many columns can want.
struct Forms {
    quantized: Quantized,
    groups: Option<GroupQuantized>,
}

impl Forms {
    fn new(isa: Isa, x: &[f32], cols: usize) -> Self {
        let groups = cols.is_multiple_of(GROUP).then(|| isa.quantize_by_group(x, cols).unwrap());
        Self { quantized: isa.quantize(x, cols).unwrap(), groups }
    }

    /// The same activations with these forms besides.
    fn with<'a>(&'a self, input: Input<'a>) -> Input<'a> {
        let input = input.with_quantized(&self.quantized).unwrap();
        self.groups.as_ref().map_or(input, |groups| input.with_groups(groups).unwrap())
    }
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    encode(DType::F32, values)
}
