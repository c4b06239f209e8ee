//! Owns ggml's tensor types: how many elements a block has, how many bytes, and what they mean.
//!
//! The formulas are those of ggml's `dequantize_row_*`: each product and sum is rounded to f32 in
//! their order, nothing is fused, so the values are theirs bit for bit.

use half::f16;
use rayon::prelude::*;

use crate::kernels::FpEnv;

/// Names of the types that are read, for errors.
pub(super) const SUPPORTED: &str = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K";

/// Elements in a block of a K type.
const SUPER_BLOCK: usize = 256;
/// Elements in a block of the other quantized types.
const BLOCK: usize = 32;

/// A quantized type that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) enum BlockType {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4K,
    Q5K,
    Q6K,
}

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::import) enum Encoding {
    /// As numbers of the tensor's dtype.
    Plain,
    /// In blocks, to be read as F32.
    Blocks(BlockType),
}

/// Element type (of the numbers that come out) and encoding under ggml's number of a type; the name
/// or number of a type that is not supported.
pub(super) fn of_number(number: u32) -> Result<(safetensors::Dtype, Encoding), String> {
    use safetensors::Dtype;
    let blocks = |blocks| Ok((Dtype::F32, Encoding::Blocks(blocks)));
    match number {
        0 => Ok((Dtype::F32, Encoding::Plain)),
        1 => Ok((Dtype::F16, Encoding::Plain)),
        30 => Ok((Dtype::BF16, Encoding::Plain)),
        2 => blocks(BlockType::Q4_0),
        3 => blocks(BlockType::Q4_1),
        6 => blocks(BlockType::Q5_0),
        7 => blocks(BlockType::Q5_1),
        8 => blocks(BlockType::Q8_0),
        12 => blocks(BlockType::Q4K),
        13 => blocks(BlockType::Q5K),
        14 => blocks(BlockType::Q6K),
        _ => Err(match UNSUPPORTED.iter().find(|(known, _)| *known == number) {
            Some((_, name)) => (*name).to_owned(),
            None => format!("number {number}"),
        }),
    }
}

/// Types that ggml knows and this library does not read.
const UNSUPPORTED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl Encoding {
    /// Elements and bytes of one block; `size_bytes` is that of a plain element.
    pub(in crate::import) fn block(self, size_bytes: usize) -> (usize, usize) {
        match self {
            Self::Plain => (1, size_bytes),
            Self::Blocks(blocks) => (blocks.elements(), blocks.bytes()),
        }
    }
}

impl BlockType {
    const fn elements(self) -> usize {
        match self {
            Self::Q4K | Self::Q5K | Self::Q6K => SUPER_BLOCK,
            _ => BLOCK,
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 2 + 16,
            Self::Q4_1 => 2 + 2 + 16,
            Self::Q5_0 => 2 + 4 + 16,
            Self::Q5_1 => 2 + 2 + 4 + 16,
            Self::Q8_0 => 2 + 32,
            Self::Q4K => 2 + 2 + 12 + 128,
            Self::Q5K => 2 + 2 + 12 + 32 + 128,
            Self::Q6K => 128 + 64 + 16 + 2,
        }
    }

    /// Turns whole blocks into little-endian F32. `out` decides how many.
    pub(in crate::import) fn dequantize(self, blocks: &[u8], out: &mut [u8]) {
        match self {
            Self::Q4_0 => each::<18, BLOCK>(blocks, out, q4_0),
            Self::Q4_1 => each::<20, BLOCK>(blocks, out, q4_1),
            Self::Q5_0 => each::<22, BLOCK>(blocks, out, q5_0),
            Self::Q5_1 => each::<24, BLOCK>(blocks, out, q5_1),
            Self::Q8_0 => each::<34, BLOCK>(blocks, out, q8_0),
            Self::Q4K => each::<144, SUPER_BLOCK>(blocks, out, q4_k),
            Self::Q5K => each::<176, SUPER_BLOCK>(blocks, out, q5_k),
            Self::Q6K => each::<210, SUPER_BLOCK>(blocks, out, q6_k),
        }
    }
}

/// Dequantizes `BYTES` to `ELEMENTS` at a time, on all threads.
fn each<const BYTES: usize, const ELEMENTS: usize>(
    blocks: &[u8],
    out: &mut [u8],
    dequantize: impl Fn(&[u8; BYTES], &mut [f32; ELEMENTS]) + Sync,
) {
    /// Blocks that one task turns.
    const TASK: usize = 64;
    blocks.par_chunks(TASK * BYTES).zip(out.par_chunks_mut(TASK * ELEMENTS * 4)).for_each(|(blocks, out)| {
        let _env = FpEnv::enter();
        let mut values = [0.0; ELEMENTS];
        for (block, out) in blocks.as_chunks::<BYTES>().0.iter().zip(out.chunks_exact_mut(ELEMENTS * 4)) {
            dequantize(block, &mut values);
            for (value, out) in values.iter().zip(out.as_chunks_mut::<4>().0) {
                *out = value.to_le_bytes();
            }
        }
    });
}

/// The f16 at a place of a block.
fn half_at(block: &[u8], at: usize) -> f32 {
    let bytes = [block.get(at).copied().unwrap_or_default(), block.get(at + 1).copied().unwrap_or_default()];
    f16::from_le_bytes(bytes).to_f32()
}

/// The 32 nibbles of 16 bytes: all low ones, then all high ones.
fn nibbles(bytes: &[u8]) -> impl Iterator<Item = u8> {
    bytes.iter().map(|byte| byte & 15).chain(bytes.iter().map(|byte| byte >> 4))
}

/// 32 fifth bits, as the 16s that they stand for.
fn fifth_bits(bytes: [u8; 4]) -> impl Iterator<Item = u8> {
    let bits = u32::from_le_bytes(bytes);
    (0..32).map(move |bit| ((bits >> bit & 1) as u8) << 4)
}

fn q4_0(block: &[u8; 18], out: &mut [f32; BLOCK]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(nibbles(&block[2..])) {
        *out = d * f32::from(q as i8 - 8);
    }
}

fn q4_1(block: &[u8; 20], out: &mut [f32; BLOCK]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    for (out, q) in out.iter_mut().zip(nibbles(&block[4..])) {
        *out = d * f32::from(q) + m;
    }
}

fn q5_0(block: &[u8; 22], out: &mut [f32; BLOCK]) {
    let d = half_at(block, 0);
    let high = fifth_bits([block[2], block[3], block[4], block[5]]);
    for ((out, low), high) in out.iter_mut().zip(nibbles(&block[6..])).zip(high) {
        *out = d * f32::from((low | high) as i8 - 16);
    }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; BLOCK]) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let high = fifth_bits([block[4], block[5], block[6], block[7]]);
    for ((out, low), high) in out.iter_mut().zip(nibbles(&block[8..])).zip(high) {
        *out = d * f32::from(low | high) + m;
    }
}

fn q8_0(block: &[u8; 34], out: &mut [f32; BLOCK]) {
    let d = half_at(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(*q as i8);
    }
}

/// Scale and minimum of group `group` of 8, six bits each, in the 12 bytes of a Q4_K or Q5_K block:
/// those of the first four groups in the low six bits of a byte each, those of the last four in a nibble
/// and the two bits left over.
fn scale_and_min(scales: &[u8; 12], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (scales[group] & 63, scales[group + 4] & 63)
    } else {
        let low = scales[group + 4];
        ((low & 15) | scales[group - 4] >> 6 << 4, (low >> 4) | scales[group] >> 6 << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// The 12 bytes of scales after the two halves of a Q4_K or Q5_K block.
fn scales(block: &[u8]) -> [u8; 12] {
    let mut scales = [0; 12];
    scales.iter_mut().zip(block.iter().skip(4)).for_each(|(to, from)| *to = *from);
    scales
}

fn q4_k(block: &[u8; 144], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), scales(block));
    // Two groups of 32 elements share 32 bytes: low nibbles, then high ones.
    let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(block[16..].as_chunks::<32>().0);
    for (pair, (out, qs)) in pairs.enumerate() {
        let values = nibbles(qs);
        let groups = [scale_and_min(&scales, 2 * pair), scale_and_min(&scales, 2 * pair + 1)];
        let groups = groups.map(|(scale, min)| (d * scale, dmin * min));
        for (index, (out, q)) in out.iter_mut().zip(values).enumerate() {
            let (d, m) = groups[index / 32];
            *out = d * f32::from(q) - m;
        }
    }
}

fn q5_k(block: &[u8; 176], out: &mut [f32; SUPER_BLOCK]) {
    let (d, dmin, scales) = (half_at(block, 0), half_at(block, 2), scales(block));
    let high = &block[16..48];
    let pairs = out.as_chunks_mut::<64>().0.iter_mut().zip(block[48..].as_chunks::<32>().0);
    for (pair, (out, qs)) in pairs.enumerate() {
        let groups = [scale_and_min(&scales, 2 * pair), scale_and_min(&scales, 2 * pair + 1)];
        let groups = groups.map(|(scale, min)| (d * scale, dmin * min));
        for (index, (out, low)) in out.iter_mut().zip(nibbles(qs)).enumerate() {
            let (d, m) = groups[index / 32];
            // Bit g of byte j is the fifth bit of element j of group g.
            let fifth = high[index % 32] >> (2 * pair + index / 32) & 1;
            *out = d * f32::from(low | fifth << 4) - m;
        }
    }
}

fn q6_k(block: &[u8; 210], out: &mut [f32; SUPER_BLOCK]) {
    let d = half_at(block, 208);
    let (low, rest) = block.split_at(128);
    let (high, scales) = rest.split_at(64);
    for (index, out) in out.iter_mut().enumerate() {
        // Each half of 128 elements has 64 bytes of nibbles and 32 bytes of pairs of bits.
        let (half, place) = (index / 128, index % 128);
        let nibble = low[half * 64 + place % 64] >> (place / 64 * 4) & 15;
        let bits = high[half * 32 + place % 32] >> (place / 32 * 2) & 3;
        let q = (nibble | bits << 4) as i8 - 32;
        let scale = scales[index / 16] as i8;
        *out = d * f32::from(scale) * f32::from(q);
    }
}
