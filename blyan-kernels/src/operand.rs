//! Owns what kernels read: weight matrices and vectors as bytes of a mapped payload, and inputs.
//!
//! Constructors check every length, so a kernel that holds an operand never reads past it.

use super::error::{KernelError, check_len, whole_rows};
use super::normals::Normals;
use super::rows::Rows;
use super::scalar::LANES;
use super::simd::{self, unroll};
use crate::dtype::{DType, GROUP, Shape};

const SCALE_BYTES: usize = DType::F32.size_bytes();

/// The scale of a group, BF16.
pub(super) type GroupScale = [u8; DType::BF16.size_bytes()];

/// Sums of as many products of 8 and 16 bits are exact as f64: below 2^53.
const MOST_I8_COLS: usize = 1 << 31;

/// Elements in a 32-bit word of I4.
const WORD: usize = 8;

/// Words of a group.
pub(super) const GROUP_WORDS: usize = GROUP / WORD;

/// Activations that 16 groups of I4 meet.
pub(super) const GROUPS_COLS: usize = GROUP * LANES;

/// The lane of one of 16 groups, and the group of a lane: the places of a 4 × 4 matrix and of its transpose. Vectors
/// get there by transposing words of 16 groups within each 128 bits.
pub(super) const fn lane_of(group: usize) -> usize {
    4 * (group % 4) + group / 4 % 4
}

/// What 16 groups of I4 meet: 512 activations, those that meet the same nibbles of all groups side by side.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Groups {
    /// `values[2 * n + h]`: of word n of each lane's group the even elements, for an `h` of 0, or the odd ones.
    pub(super) values: [[i8; 4 * LANES]; 2 * GROUP_WORDS],
    /// −8 times the sum of each group's elements: I4 is stored plus 8.
    pub(super) offsets: [i32; LANES],
    pub(super) scales: [f32; LANES],
}

impl Default for Groups {
    fn default() -> Self {
        Self { values: [[0; 4 * LANES]; 2 * GROUP_WORDS], offsets: [0; LANES], scales: [0.0; LANES] }
    }
}

impl Groups {
    /// Sets the elements of a group.
    #[inline(always)]
    pub(super) fn set(&mut self, group: usize, values: &[i8; GROUP], scale: f32) {
        let lane = lane_of(group);
        for (word, halves) in values.as_chunks::<WORD>().0.iter().zip(self.values.as_chunks_mut::<2>().0) {
            for (half, row) in halves.iter_mut().enumerate() {
                row.as_chunks_mut::<4>().0[lane] =
                    [word[half], word[half + 2], word[half + 4], word[half + 6]];
            }
        }
        self.offsets[lane] = -8 * values.iter().map(|&x| i32::from(x)).sum::<i32>();
        self.scales[lane] = scale;
    }

    /// The elements of a group and their scale.
    pub(super) fn get(&self, group: usize) -> ([i8; GROUP], f32) {
        let lane = lane_of(group);
        let value = |k: usize| self.values[k / WORD * 2 + k % 2][4 * lane + k % WORD / 2];
        (std::array::from_fn(value), self.scales[lane])
    }
}

/// A row-major weight matrix `(rows, cols)`, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Weights<'a> {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    data: &'a [u8],
    scale: Option<&'a [u8]>,
    normals: Option<&'a Normals>,
}

impl<'a> Weights<'a> {
    /// Wraps `rows × cols` elements. `I8` and `F8_E4M3` need `scale`: `rows` little-endian F32; `I4`
    /// too: `rows × cols / 32` little-endian BF16, one for each 32 elements of a row.
    ///
    /// # Errors
    ///
    /// A length that does not fit the shape; scales missing, or given to a dtype without them; rows of
    /// `I4` that are no whole groups, or of `I8` that are longer than 2³¹.
    pub fn new(
        dtype: DType,
        rows: usize,
        cols: usize,
        data: &'a [u8],
        scale: Option<&'a [u8]>,
    ) -> Result<Self, KernelError> {
        check_len("weight data", Shape::new([rows, cols]).size_bytes(dtype)?, data.len())?;
        if scale.is_some() != dtype.is_quantized() {
            return Err(KernelError::Scale { dtype });
        }
        if dtype == DType::I4 && !cols.is_multiple_of(GROUP) {
            return Err(KernelError::Group { cols });
        }
        if dtype == DType::I8 && cols > MOST_I8_COLS {
            return Err(KernelError::OutOfRange {
                argument: "weight columns",
                index: cols,
                len: MOST_I8_COLS,
            });
        }
        if let Some(scale) = scale {
            let needed = match dtype {
                DType::I4 => Shape::new([rows, cols / GROUP]).size_bytes(DType::BF16)?,
                _ => Shape::new([rows]).size_bytes(DType::F32)?,
            };
            check_len("weight scale", needed, scale.len())?;
        }
        Ok(Self { dtype, rows, cols, row_bytes: dtype.bytes_of(cols), data, scale, normals: None })
    }

    /// Says where the same weights are normal numbers, so that their products take fewer steps. What was found of
    /// other weights makes results wrong.
    ///
    /// # Errors
    ///
    /// What was found of another shape.
    pub fn with_normals(self, normals: &'a Normals) -> Result<Self, KernelError> {
        check_len("columns of normals", self.cols, normals.cols)?;
        check_len("rows of normals", self.rows, normals.rows)?;
        Ok(Self { normals: Some(normals), ..self })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rows: outputs of the projection.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns: inputs of the projection.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of a row.
    pub(super) fn row_bytes(&self) -> usize {
        self.row_bytes
    }

    /// The bytes of one row.
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.data[row * self.row_bytes..][..self.row_bytes]
    }

    /// The bytes of some rows.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn rows_bytes(&self, rows: std::ops::Range<usize>) -> &'a [u8] {
        &self.data[rows.start * self.row_bytes..rows.end * self.row_bytes]
    }

    /// R rows from `first` on. From `rows` on, at least 1, the last one before is there once more.
    #[inline(always)]
    pub(super) fn tile<const R: usize>(&self, first: usize, rows: usize) -> [&'a [u8]; R] {
        let mut left = &self.data[first * self.row_bytes..][..rows * self.row_bytes];
        let mut row = &left[..self.row_bytes];
        let mut next = || {
            (row, left) = left.split_at_checked(self.row_bytes).unwrap_or((row, left));
            row
        };
        let mut tile: [&[u8]; R] = [&[]; R];
        unroll!(r < R, { tile[r] = next() });
        tile
    }

    /// What is read beside the rows' own bytes, as many of it for each row.
    pub(super) fn beside(&self) -> [&'a [u8]; 2] {
        [self.scale.unwrap_or_default(), self.normals.map_or(&[], Normals::bits)]
    }

    /// Which stretches of a row are known to hold normal numbers alone.
    pub(super) fn normals(&self, row: usize) -> &'a [u8] {
        self.normals.map_or(&[], |normals| normals.row(row))
    }

    /// The scales of one row's groups; none where this dtype has no groups.
    pub(super) fn group_scales(&self, row: usize) -> &'a [GroupScale] {
        let groups = self.cols / GROUP;
        match (self.dtype, self.scale) {
            (DType::I4, Some(scale)) => &scale.as_chunks().0[row * groups..(row + 1) * groups],
            _ => &[],
        }
    }

    /// The scale of one row, where this dtype has such scales.
    pub(super) fn row_scale(&self, row: usize) -> Option<f32> {
        self.row_scales(row, 1).first().map(|&bytes| f32::from_le_bytes(bytes))
    }

    /// The scales of a tile's rows, see [`Weights::tile`]; 1 where there is no row or this dtype has no such scales.
    #[inline(always)]
    pub(super) fn tile_scales<const R: usize>(&self, first: usize, rows: usize) -> [f32; R] {
        let scales = self.row_scales(first, rows);
        match <&[_; R]>::try_from(scales) {
            Ok(scales) => scales.map(f32::from_le_bytes),
            Err(_) => {
                let mut tile = [1.0; R];
                tile.iter_mut().zip(scales).for_each(|(to, &from)| *to = f32::from_le_bytes(from));
                tile
            }
        }
    }

    #[inline(always)]
    fn row_scales(&self, first: usize, rows: usize) -> &'a [[u8; SCALE_BYTES]] {
        match self.scale {
            Some(scale) if self.dtype != DType::I4 => &scale.as_chunks().0[first..first + rows],
            _ => &[],
        }
    }
}

/// A weight vector, such as a norm's or a bias: F32, BF16 or F16, little-endian, at any alignment.
#[derive(Debug, Clone, Copy)]
pub struct Vector<'a> {
    dtype: DType,
    data: &'a [u8],
}

impl<'a> Vector<'a> {
    /// Wraps `len` elements.
    ///
    /// # Errors
    ///
    /// A length that does not fit, or a quantized dtype.
    pub fn new(dtype: DType, len: usize, data: &'a [u8]) -> Result<Self, KernelError> {
        if dtype.is_quantized() {
            return Err(KernelError::UnsupportedDType { argument: "vector", dtype });
        }
        check_len("vector data", Shape::new([len]).size_bytes(dtype)?, data.len())?;
        Ok(Self { dtype, data })
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len() / self.dtype.size_bytes()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    pub(super) fn data(&self) -> &'a [u8] {
        self.data
    }
}

/// Activations rounded to 16 bits with one scale per token: what `I8` weights meet.
///
/// Made by [`Isa::quantize`](super::Isa::quantize); `x ≈ value × scale`.
#[derive(Debug, Clone, Default)]
pub struct Quantized {
    pub(super) values: Rows<i16>,
    pub(super) scales: Vec<f32>,
}

/// One token of [`Quantized`], to be filled by [`Isa::quantize_row`](super::Isa::quantize_row).
#[derive(Debug)]
pub struct QuantizedRow<'a> {
    pub(super) x: &'a [f32],
    pub(super) values: &'a mut [i16],
    pub(super) scale: &'a mut f32,
}

impl Quantized {
    /// Takes on the shape of `x`, `(tokens, cols)`, and gives its tokens one by one, to be filled in any order and on any
    /// thread. What is there now is not said. Memory of a larger shape is used again.
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows.
    pub fn rows_for<'a>(
        &'a mut self,
        x: &'a [f32],
        cols: usize,
    ) -> Result<impl Iterator<Item = QuantizedRow<'a>>, KernelError> {
        let tokens = whole_rows("x", x.len(), cols)?;
        self.values.resize(tokens, cols);
        self.scales.resize(tokens, 0.0);
        if cfg!(poisoned) {
            // Whoever relies on what is there gets a result that no test takes for right.
            self.values.rows_mut().for_each(|row| row.fill(i16::MIN));
            self.scales.fill(f32::NAN);
        }
        let rows = x.chunks_exact(cols).zip(self.values.rows_mut()).zip(&mut self.scales);
        Ok(rows.map(|((x, values), scale)| QuantizedRow { x, values, scale }))
    }

    /// Bytes of memory that a shape takes, at least.
    pub fn bytes_of(tokens: usize, cols: usize) -> usize {
        tokens.saturating_mul(cols.saturating_mul(size_of::<i16>()).saturating_add(size_of::<f32>()))
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.values.bytes() + self.scales.capacity() * size_of::<f32>()
    }

    /// The rounded values of each token, within ±32767.
    pub fn tokens(&self) -> impl Iterator<Item = &[i16]> {
        self.values.rows()
    }

    /// One scale per token; the canonical NaN where the token held a NaN or an infinity.
    pub fn scales(&self) -> &[f32] {
        &self.scales
    }
}

/// Activations rounded to 8 bits with one scale for each 32 neighbours of a token: what `I4` weights meet.
///
/// Made by [`Isa::quantize_by_group`](super::Isa::quantize_by_group); `x ≈ value × scale`.
#[derive(Debug, Clone, Default)]
pub struct GroupQuantized {
    groups: Vec<Groups>,
    tokens: usize,
    cols: usize,
}

/// One token of [`GroupQuantized`], to be filled by [`Isa::quantize_row_by_group`](super::Isa::quantize_row_by_group).
#[derive(Debug)]
pub struct GroupQuantizedRow<'a> {
    pub(super) x: &'a [f32],
    pub(super) groups: &'a mut [Groups],
}

impl GroupQuantized {
    /// The same as [`Quantized::rows_for`].
    ///
    /// # Errors
    ///
    /// A length that is no whole number of rows; columns that are no whole groups.
    pub fn rows_for<'a>(
        &'a mut self,
        x: &'a [f32],
        cols: usize,
    ) -> Result<impl Iterator<Item = GroupQuantizedRow<'a>>, KernelError> {
        let tokens = whole_rows("x", x.len(), cols)?;
        if !cols.is_multiple_of(GROUP) {
            return Err(KernelError::Group { cols });
        }
        (self.tokens, self.cols) = (tokens, cols);
        let per_token = cols.div_ceil(GROUPS_COLS);
        let len = tokens * per_token;
        // Memory of a larger shape stays as it is.
        if self.groups.len() < len {
            self.groups.resize(len, Groups::default());
        }
        if cfg!(poisoned) {
            // Whoever relies on what is there gets a result that no test takes for right.
            self.groups.fill(Groups {
                values: [[i8::MIN; 4 * LANES]; 2 * GROUP_WORDS],
                offsets: [i32::MIN; LANES],
                scales: [f32::NAN; LANES],
            });
        }
        let rows = x.chunks_exact(cols).zip(self.groups.chunks_exact_mut(per_token));
        Ok(rows.map(|(x, groups)| GroupQuantizedRow { x, groups }))
    }

    /// Bytes of memory that a shape takes.
    pub fn bytes_of(tokens: usize, cols: usize) -> usize {
        tokens.saturating_mul(cols.div_ceil(GROUPS_COLS)).saturating_mul(size_of::<Groups>())
    }

    /// Bytes of memory.
    pub fn bytes(&self) -> usize {
        self.groups.capacity() * size_of::<Groups>()
    }

    /// The rounded values of each token's groups, within ±127, and their scales; the canonical NaN where the group held a
    /// NaN or an infinity.
    pub fn tokens(&self) -> impl Iterator<Item = impl Iterator<Item = ([i8; GROUP], f32)>> {
        (0..self.tokens).map(|token| self.token(token))
    }

    fn token(&self, token: usize) -> impl Iterator<Item = ([i8; GROUP], f32)> {
        let groups = self.groups(token);
        (0..self.cols / GROUP).map(move |group| groups[group / LANES].get(group % LANES))
    }

    pub(super) fn groups(&self, token: usize) -> &[Groups] {
        let per_token = self.cols.div_ceil(GROUPS_COLS);
        &self.groups[token * per_token..(token + 1) * per_token]
    }
}

/// Activations laid out as vector loads like them: worth a copy where floating-point weights meet several tokens.
#[derive(Debug, Clone)]
pub struct Aligned {
    values: Rows<f32>,
}

impl Aligned {
    /// Copies activations, `(tokens, cols)`.
    ///
    /// # Errors
    ///
    /// `cols` of zero, or a length that is no whole number of rows.
    pub fn new(x: &[f32], cols: usize) -> Result<Self, KernelError> {
        let mut values = Rows::default();
        values.resize(whole_rows("x", x.len(), cols)?, cols);
        values.rows_mut().zip(x.chunks_exact(cols)).for_each(|(row, x)| row.copy_from_slice(x));
        Ok(Self { values })
    }
}

/// The activations that a projection reads: `(tokens, cols)`, row-major.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    x: &'a [f32],
    /// Tokens that each form holds.
    tokens: usize,
    cols: usize,
    /// Those that are meant, in their order; all if `None`.
    chosen: Option<&'a [usize]>,
    aligned: Option<&'a Aligned>,
    quantized: Option<&'a Quantized>,
    groups: Option<&'a GroupQuantized>,
}

impl<'a> Input<'a> {
    /// Wraps activations; the number of tokens follows from the length.
    ///
    /// # Errors
    ///
    /// `cols` of zero, or a length that is no whole number of rows.
    pub fn new(x: &'a [f32], cols: usize) -> Result<Self, KernelError> {
        let tokens = whole_rows("input", x.len(), cols)?;
        Ok(Self { x, tokens, cols, chosen: None, aligned: None, quantized: None, groups: None })
    }

    /// Adds a copy of the same activations, which is read in their place.
    ///
    /// # Errors
    ///
    /// Another shape than that of the activations.
    pub fn with_aligned(self, aligned: &'a Aligned) -> Result<Self, KernelError> {
        check_len("aligned columns", self.cols, aligned.values.cols())?;
        check_len("aligned tokens", self.tokens, aligned.values.len())?;
        Ok(Self { aligned: Some(aligned), ..self })
    }

    /// Adds the quantized form of the same activations, which `I8` weights need.
    ///
    /// # Errors
    ///
    /// Another shape than that of the activations.
    pub fn with_quantized(self, quantized: &'a Quantized) -> Result<Self, KernelError> {
        check_len("quantized columns", self.cols, quantized.values.cols())?;
        check_len("quantized tokens", self.tokens, quantized.values.len())?;
        Ok(Self { quantized: Some(quantized), ..self })
    }

    /// Adds the form of the same activations that `I4` weights need.
    ///
    /// # Errors
    ///
    /// Another shape than that of the activations.
    pub fn with_groups(self, groups: &'a GroupQuantized) -> Result<Self, KernelError> {
        check_len("grouped columns", self.cols, groups.cols)?;
        check_len("grouped tokens", self.tokens, groups.tokens)?;
        Ok(Self { groups: Some(groups), ..self })
    }

    /// The same of some tokens alone, in any order: each expert reads those that were routed to it in place. They are
    /// counted among all, whichever were chosen before.
    ///
    /// # Errors
    ///
    /// A token that there is not.
    pub fn choose(self, tokens: &'a [usize]) -> Result<Self, KernelError> {
        match tokens.iter().find(|&&token| token >= self.tokens) {
            Some(&index) => {
                Err(KernelError::OutOfRange { argument: "chosen tokens", index, len: self.tokens })
            }
            None => Ok(Self { chosen: Some(tokens), ..self }),
        }
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.chosen.map_or(self.tokens, <[usize]>::len)
    }

    /// Where a token is.
    fn place(&self, token: usize) -> usize {
        self.chosen.map_or(token, |chosen| chosen[token])
    }

    /// Values per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether there is what weights of a type meet.
    pub(super) fn suits(&self, dtype: DType) -> bool {
        match dtype {
            DType::I8 => self.quantized.is_some(),
            DType::I4 => self.groups.is_some(),
            DType::F32 | DType::BF16 | DType::F16 | DType::F8E4M3 => true,
        }
    }

    /// The rounded activations of one token as `I4` weights meet them.
    pub(super) fn groups(&self, token: usize) -> &'a [Groups] {
        self.groups.map_or(&[], |groups| groups.groups(self.place(token)))
    }

    /// The rounded activations of one token's groups and their scales.
    pub(super) fn grouped_token(&self, token: usize) -> impl Iterator<Item = ([i8; GROUP], f32)> {
        let token = self.place(token);
        self.groups.into_iter().flat_map(move |groups| groups.token(token))
    }

    /// The activations of one token.
    pub(super) fn token(&self, token: usize) -> &'a [f32] {
        let token = self.place(token);
        match self.aligned {
            Some(aligned) => aligned.values.row(token),
            None => &self.x[token * self.cols..(token + 1) * self.cols],
        }
    }

    /// The rounded activations of one token and their scale.
    pub(super) fn quantized_token(&self, token: usize) -> (&'a [i16], f32) {
        let token = self.place(token);
        // `matmul` refuses such weights without a quantized input, so the fallback is never taken.
        self.quantized.map_or((&[], f32::NAN), |q| (q.values.row(token), q.scales[token]))
    }
}
