//! Owns how weights of each dtype meet activations, step by step: what differs between the products of floats, of
//! integers and of integers in groups. What they share, the tiles, is in `matmul`.

use std::marker::PhantomData;

use super::operand::{GROUP_WORDS, GROUPS_COLS, GroupScale, Groups, Input, Weights};
use super::scalar::LANES;
use super::simd::{Chunk, Element, Simd};

/// How a row of weights meets a token: step by step, into one accumulator of lanes.
pub(super) trait Dot<S: Simd> {
    /// The weights of a step, as they are stored.
    type Weights: Chunk<Item = u8>;
    /// What scales a step's weights apart from others of their row; `()` for none.
    type Scale: Copy + 'static;
    /// The same in registers.
    type Spread: Copy;
    /// The activations of a step.
    type Values: Chunk;
    /// Weights after what is done to all of a step at once.
    type Prepared<'a>: Copy;
    /// A part of the weights in registers, shared by all tokens of a tile.
    type Wide: Copy;
    /// A part of the activations in registers, shared by all rows of a tile.
    type Loaded: Copy;
    /// Sums of a step, one per lane.
    type Sum: Copy;
    /// Running sums, one per lane.
    type Acc: Copy;
    /// Sum over lanes and blocks.
    type Total: Copy + Default;

    /// Whether [`Dot::prepare_normals`] takes fewer steps than [`Dot::prepare`].
    const NORMALS: bool = false;

    /// Elements of a step.
    const STEP: usize;

    /// Parts of a step.
    const PARTS: usize;

    /// Elements of a part, of which an unfinished step has those that are begun.
    const PART: usize;

    /// Steps after which the accumulator must be emptied into the total.
    const BLOCK: usize;

    /// Up to how many tokens rows are summed one after the other, as memory is read fastest, and not side by side:
    /// where so few chains of sums keep up with memory; unless [`Simd::reads_two_runs`].
    const ROW_BY_ROW: usize;

    /// One for each whole step of a row, or more, and one for what is left after them.
    fn scales<'a>(weights: &Weights<'a>, row: usize) -> (&'a [Self::Scale], Self::Scale);
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [<Self::Values as Chunk>::Item];
    fn zero(s: S) -> Self::Acc;
    fn prepare(s: S, weights: &Self::Weights) -> Self::Prepared<'_>;
    /// The same of normal numbers alone.
    #[inline(always)]
    fn prepare_normals(s: S, weights: &Self::Weights) -> Self::Prepared<'_> {
        Self::prepare(s, weights)
    }
    fn widen(s: S, weights: Self::Prepared<'_>, part: usize) -> Self::Wide;
    fn load(s: S, values: &Self::Values, part: usize) -> Self::Loaded;
    /// What a step's sum starts at: `acc`, unless steps have sums of their own.
    fn begin(s: S, acc: Self::Acc) -> Self::Sum;
    fn add(s: S, sum: Self::Sum, wide: Self::Wide, values: Self::Loaded) -> Self::Sum;
    /// The same of a part that is not in registers.
    #[inline(always)]
    fn add_from(s: S, sum: Self::Sum, wide: Self::Wide, values: &Self::Values, part: usize) -> Self::Sum {
        Self::add(s, sum, wide, Self::load(s, values, part))
    }
    fn spread(s: S, scale: &Self::Scale) -> Self::Spread;
    /// The running sums after a step with those values.
    fn end(s: S, acc: Self::Acc, sum: Self::Sum, scale: Self::Spread, values: &Self::Values) -> Self::Acc;
    fn flush(s: S, totals: &mut [Self::Total; 4], acc: [Self::Acc; 4]);
    fn token_scale(input: &Input<'_>, token: usize) -> f32;
    /// Results from totals, with the scales of the token and of the row of each.
    fn finish(totals: [Self::Total; 4], token_scales: [f32; 4], row_scales: [f32; 4]) -> [f32; 4];
}

/// What a row without scales of its own for each step has, of whatever length: it takes no memory.
const NO_SCALES: &[(); usize::MAX] = &[(); usize::MAX];

/// Floats: fused multiply-add of widened weights, 16 at a time, never emptied on the way.
pub(super) struct FloatDot<E>(PhantomData<E>);

impl<S: Simd, E: Element> Dot<S> for FloatDot<E> {
    type Weights = E::Step;
    type Scale = ();
    type Spread = ();
    type Values = [f32; 4 * LANES];
    type Prepared<'a> = E::Prepared<'a, S>;
    type Wide = S::Floats;
    type Loaded = S::Floats;
    type Sum = S::Floats;
    type Acc = S::Floats;
    type Total = f32;

    /// Of the types with a byte each, F8 alone meets floats.
    const NORMALS: bool = size_of::<E::Bytes>() == LANES && S::F8_NORMALS;
    const STEP: usize = 4 * LANES;
    const PARTS: usize = 4;
    const PART: usize = LANES;
    const BLOCK: usize = usize::MAX;

    /// Two tokens of 16-bit weights are chains enough. Those of F32 lose by it on Zen 3.
    const ROW_BY_ROW: usize = match size_of::<E::Bytes>() / LANES {
        1 => S::ROW_BY_ROW_COSTLY,
        2 => 2,
        _ => 1,
    };

    #[inline(always)]
    fn scales<'a>(_: &Weights<'a>, _: usize) -> (&'a [()], ()) {
        (NO_SCALES, ())
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [f32] {
        input.token(token)
    }
    #[inline(always)]
    fn zero(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    fn prepare(s: S, weights: &E::Step) -> E::Prepared<'_, S> {
        E::prepare(s, weights)
    }
    #[inline(always)]
    fn prepare_normals(s: S, weights: &E::Step) -> E::Prepared<'_, S> {
        E::prepare_normals(s, weights)
    }
    #[inline(always)]
    fn widen(s: S, weights: E::Prepared<'_, S>, part: usize) -> S::Floats {
        E::widen_part(s, weights, part)
    }
    #[inline(always)]
    fn load(s: S, values: &[f32; 4 * LANES], part: usize) -> S::Floats {
        s.load(&values.as_chunks().0[part])
    }
    #[inline(always)]
    fn begin(_: S, acc: S::Floats) -> S::Floats {
        acc
    }
    #[inline(always)]
    fn spread(_: S, (): &()) {}
    #[inline(always)]
    fn end(_: S, _: S::Floats, sum: S::Floats, (): (), _: &[f32; 4 * LANES]) -> S::Floats {
        sum
    }
    #[inline(always)]
    fn add(s: S, acc: S::Floats, wide: S::Floats, values: S::Floats) -> S::Floats {
        s.fma(wide, values, acc)
    }
    #[inline(always)]
    fn add_from(s: S, acc: S::Floats, wide: S::Floats, values: &[f32; 4 * LANES], part: usize) -> S::Floats {
        if size_of::<E::Bytes>() > LANES {
            // Too few instructions for one less to show, where values that two rows read each lie across two cache lines.
            return Self::add(s, acc, wide, <Self as Dot<S>>::load(s, values, part));
        }
        s.fma_from(wide, values, part, acc)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f32; 4], acc: [S::Floats; 4]) {
        *totals = s.sum_each(acc);
    }
    #[inline(always)]
    fn token_scale(_: &Input<'_>, _: usize) -> f32 {
        1.0
    }
    #[inline(always)]
    fn finish(totals: [f32; 4], _: [f32; 4], row_scales: [f32; 4]) -> [f32; 4] {
        // Without a scale nothing is multiplied, with the same result as by 1.
        times(totals, row_scales)
    }
}

/// Integers: exact sums of products of 8-bit weights and 16-bit activations, 32 at a time.
pub(super) struct IntDot;

impl<S: Simd> Dot<S> for IntDot {
    type Weights = [u8; 2 * LANES];
    type Scale = ();
    type Spread = ();
    type Values = [i16; 2 * LANES];
    type Prepared<'a> = &'a [u8; 2 * LANES];
    type Wide = S::Shorts;
    type Loaded = S::Shorts;
    type Sum = S::Sums;
    type Acc = S::Sums;
    type Total = f64;

    const STEP: usize = 2 * LANES;
    const PARTS: usize = 1;
    const PART: usize = 2 * LANES;

    /// As many steps as [`Simd::total_each`] is exact for.
    const BLOCK: usize = 64;

    const ROW_BY_ROW: usize = S::ROW_BY_ROW;

    #[inline(always)]
    fn scales<'a>(_: &Weights<'a>, _: usize) -> (&'a [()], ()) {
        (NO_SCALES, ())
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [i16] {
        input.quantized_token(token).0
    }
    #[inline(always)]
    fn zero(s: S) -> S::Sums {
        s.zero_sums()
    }
    #[inline(always)]
    fn prepare(_: S, weights: &[u8; 2 * LANES]) -> &[u8; 2 * LANES] {
        weights
    }
    #[inline(always)]
    fn widen(s: S, weights: &[u8; 2 * LANES], _: usize) -> S::Shorts {
        s.widen_i8_to_i16(weights)
    }
    #[inline(always)]
    fn load(s: S, values: &[i16; 2 * LANES], _: usize) -> S::Shorts {
        s.load_shorts(values)
    }
    #[inline(always)]
    fn begin(_: S, acc: S::Sums) -> S::Sums {
        acc
    }
    #[inline(always)]
    fn spread(_: S, (): &()) {}
    #[inline(always)]
    fn end(_: S, _: S::Sums, sum: S::Sums, (): (), _: &[i16; 2 * LANES]) -> S::Sums {
        sum
    }
    #[inline(always)]
    fn add(s: S, acc: S::Sums, wide: S::Shorts, values: S::Shorts) -> S::Sums {
        s.add_products(acc, wide, values)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f64; 4], acc: [S::Sums; 4]) {
        for (total, sum) in totals.iter_mut().zip(s.total_each(acc)) {
            *total += sum;
        }
    }
    #[inline(always)]
    fn token_scale(input: &Input<'_>, token: usize) -> f32 {
        input.quantized_token(token).1
    }
    #[inline(always)]
    fn finish(totals: [f64; 4], token_scales: [f32; 4], row_scales: [f32; 4]) -> [f32; 4] {
        times(times(totals.map(|total| total as f32), token_scales), row_scales)
    }
}

/// 4-bit integers and 8-bit activations, 16 groups at a time: the exact sum of a group's products goes to its lane, as
/// f32 times the scales of both.
pub(super) struct GroupDot;

/// Bytes of 16 groups.
const GROUPS_BYTES: usize = GROUPS_COLS / 2;

/// The scales of 16 groups.
type GroupsScales = [u8; size_of::<GroupScale>() * LANES];

impl<S: Simd> Dot<S> for GroupDot {
    type Weights = [u8; GROUPS_BYTES];
    type Scale = GroupsScales;
    type Spread = S::Floats;
    type Values = [Groups; 1];
    type Prepared<'a> = S::Words;
    type Wide = S::Bytes;
    type Loaded = S::Bytes;
    type Sum = S::GroupSums;
    type Acc = S::Floats;
    type Total = f32;

    const STEP: usize = GROUPS_COLS;
    const PARTS: usize = 2 * GROUP_WORDS;
    /// A part has elements from the whole step.
    const PART: usize = 1;
    const BLOCK: usize = usize::MAX;
    const ROW_BY_ROW: usize = S::ROW_BY_ROW;

    #[inline(always)]
    fn scales<'a>(weights: &Weights<'a>, row: usize) -> (&'a [GroupsScales], GroupsScales) {
        let (whole, rest) = GroupsScales::split(weights.group_scales(row).as_flattened());
        (whole, GroupsScales::padded(rest))
    }
    #[inline(always)]
    fn token<'a>(input: &Input<'a>, token: usize) -> &'a [Groups] {
        input.groups(token)
    }
    #[inline(always)]
    fn zero(s: S) -> S::Floats {
        s.splat(0.0)
    }
    #[inline(always)]
    fn prepare(s: S, weights: &[u8; GROUPS_BYTES]) -> S::Words {
        s.transpose_words(weights)
    }
    #[inline(always)]
    fn widen(s: S, words: S::Words, part: usize) -> S::Bytes {
        s.nibbles(words, part)
    }
    #[inline(always)]
    fn load(s: S, [groups]: &[Groups; 1], part: usize) -> S::Bytes {
        s.load_bytes(&groups.values[part])
    }
    #[inline(always)]
    fn begin(s: S, _: S::Floats) -> S::GroupSums {
        s.zero_group_sums()
    }
    #[inline(always)]
    fn add(s: S, sum: S::GroupSums, wide: S::Bytes, values: S::Bytes) -> S::GroupSums {
        s.add_nibble_products(sum, wide, values)
    }
    #[inline(always)]
    fn spread(s: S, scales: &GroupsScales) -> S::Floats {
        s.transpose_bf16(scales)
    }
    #[inline(always)]
    fn end(s: S, acc: S::Floats, sum: S::GroupSums, scales: S::Floats, [groups]: &[Groups; 1]) -> S::Floats {
        let sums = s.group_sums_to_floats(sum, &groups.offsets);
        s.fma(sums, s.mul(scales, s.load(&groups.scales)), acc)
    }
    #[inline(always)]
    fn flush(s: S, totals: &mut [f32; 4], acc: [S::Floats; 4]) {
        *totals = s.sum_each(acc);
    }
    #[inline(always)]
    fn token_scale(_: &Input<'_>, _: usize) -> f32 {
        1.0
    }
    #[inline(always)]
    fn finish(totals: [f32; 4], _: [f32; 4], _: [f32; 4]) -> [f32; 4] {
        totals
    }
}

/// The products, one by one.
#[inline(always)]
fn times(a: [f32; 4], b: [f32; 4]) -> [f32; 4] {
    [a[0] * b[0], a[1] * b[1], a[2] * b[2], a[3] * b[3]]
}
