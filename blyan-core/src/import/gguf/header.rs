//! Owns the reading of a GGUF header, from any reader: metadata, tensors, where the data begins.
//! Pure but for reading, no unsafe; nothing is allocated that the file does not pay for in bytes.
//!
//! Layout, little-endian (<https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>): `GGUF`, version
//! (u32), number of tensors and of keys (u64); the keys: name, type (u32), value; the tensors: name, number
//! of dimensions (u32), dimensions with the innermost first (u64), type (u32), offset (u64). Texts and
//! lists carry their length (u64). The data section follows at the next multiple of the alignment.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};

use super::error::GgufError;
use super::types::{self, Encoding};
use crate::dtype::{DType, Shape};
use crate::tensor::header::TensorEntry;

/// Longest header that is read; those of published models have up to some 20 MB.
const MAX_HEADER_BYTES: u64 = 256 << 20;
/// Most keys, and most tensors, of one file.
const MAX_ENTRIES: u64 = 1 << 20;
/// Longest name of a key or tensor.
const MAX_NAME_BYTES: u64 = 1 << 16;
/// Most elements of all lists together; a large vocabulary with its merges has a million.
const MAX_ELEMENTS: u64 = 1 << 23;
/// Dimensions of a tensor; ggml has no more.
const MAX_RANK: u32 = 4;
/// How deep lists may hold lists.
const MAX_DEPTH: u32 = 4;
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A value of the metadata. Numbers of all widths are one type, since writers differ in them.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Unsigned(u64),
    Signed(i64),
    /// An f32 is widened as its shortest decimal: 1e-5 stays 1e-5.
    Float(f64),
    Bool(bool),
    Text(String),
    List(List),
}

/// A list of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum List {
    Integers(Vec<i64>),
    Floats(Vec<f64>),
    Bools(Vec<bool>),
    Texts(Vec<String>),
    /// Lists, which no key that is known has; only counted.
    Lists(u64),
}

impl Value {
    /// The value cut to a length that fits an error message.
    pub(super) fn shortened(&self) -> String {
        let text = match self {
            Self::Unsigned(value) => value.to_string(),
            Self::Signed(value) => value.to_string(),
            Self::Float(value) => value.to_string(),
            Self::Bool(value) => value.to_string(),
            Self::Text(text) => format!("{:?}", text.chars().take(80).collect::<String>()),
            Self::List(list) => match list {
                List::Integers(values) => listed(values),
                List::Floats(values) => listed(values),
                List::Bools(values) => listed(values),
                List::Texts(values) => format!("{} texts", values.len()),
                List::Lists(count) => format!("{count} lists"),
            },
        };
        match text.char_indices().nth(80) {
            Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
            None => text,
        }
    }
}

fn listed<T: std::fmt::Debug>(values: &[T]) -> String {
    format!("{:?}", values.get(..16).unwrap_or(values))
}

/// A tensor of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tensor {
    /// Its bytes count from the start of the file.
    pub(super) entry: TensorEntry,
    pub(super) encoding: Encoding,
}

/// All that stands before the data.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Header {
    pub(super) metadata: BTreeMap<String, Value>,
    pub(super) tensors: Vec<Tensor>,
}

/// Why a header could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    Io(io::Error),
    Gguf(GgufError),
}

impl From<GgufError> for ReadError {
    fn from(error: GgufError) -> Self {
        Self::Gguf(error)
    }
}

/// Reads the header of a file of `file_len_bytes`.
pub(super) fn read(file: impl Read, file_len_bytes: u64) -> Result<Header, ReadError> {
    let mut reader = Reader { file, read: 0, len_bytes: file_len_bytes, elements: 0 };
    // An empty file is none either.
    let magic = if file_len_bytes < 4 { [0; 4] } else { reader.array("the first four bytes")? };
    if &magic != b"GGUF" {
        return Err(GgufError::Magic { magic }.into());
    }
    let version = reader.u32("the version")?;
    // A big-endian file has its version in the high bytes.
    if matches!(version.swap_bytes(), 1..=3) {
        return Err(GgufError::BigEndian { version: version.swap_bytes() }.into());
    }
    if !matches!(version, 2 | 3) {
        return Err(GgufError::Version { version }.into());
    }
    let tensors = reader.count("the number of tensors", MAX_ENTRIES, 24)?;
    let keys = reader.count("the number of keys", MAX_ENTRIES, 13)?;
    let mut metadata = BTreeMap::new();
    for number in 0..keys {
        let key = reader.name(&format!("the name of key {number}"))?;
        let kind = reader.u32(&key)?;
        let value = reader.value(&key, kind)?;
        if metadata.insert(key.clone(), value).is_some() {
            return Err(header_error(&key, "the key stands there twice").into());
        }
    }
    let alignment = alignment(&metadata)?;
    let mut infos = Vec::new();
    let mut names = BTreeSet::new();
    for number in 0..tensors {
        let info = reader.tensor(number)?;
        if !names.insert(info.name.clone()) {
            return Err(header_error(&info.name, "the tensor stands there twice").into());
        }
        infos.push(info);
    }
    let data_start = reader.read.next_multiple_of(alignment);
    let tensors = infos.into_iter().map(|info| info.place(data_start, alignment, file_len_bytes));
    let tensors = tensors.collect::<Result<Vec<_>, _>>()?;
    refuse_overlaps(&tensors)?;
    Ok(Header { metadata, tensors })
}

fn header_error(what: &str, reason: impl Into<String>) -> GgufError {
    GgufError::Header { what: what.chars().take(80).collect(), reason: reason.into() }
}

fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(&Value::Unsigned(alignment)) if alignment.is_power_of_two() && alignment <= MAX_ALIGNMENT => {
            Ok(alignment)
        }
        Some(value) => Err(GgufError::InvalidValue {
            key: key.to_owned(),
            value: value.shortened(),
            expected: "a power of two of at most 1048576".to_owned(),
        }),
    }
}

fn refuse_overlaps(tensors: &[Tensor]) -> Result<(), GgufError> {
    let mut places: Vec<_> = tensors.iter().map(|tensor| &tensor.entry).collect();
    places.sort_by_key(|entry| (entry.bytes.start, entry.bytes.end));
    for pair in places.windows(2) {
        if let [a, b] = pair
            && a.bytes.end > b.bytes.start
        {
            return Err(header_error(&b.name, format!("its bytes overlap those of {:?}", a.name)));
        }
    }
    Ok(())
}

/// What the header says of a tensor.
struct Info {
    name: String,
    shape: Shape,
    number: u32,
    offset: u64,
}

impl Info {
    /// Checks type, size and place.
    fn place(self, data_start: u64, alignment: u64, file_len_bytes: u64) -> Result<Tensor, GgufError> {
        let Self { name, shape, number, offset } = self;
        let (dtype, encoding) = match types::of_number(number) {
            Ok(found) => found,
            Err(found) => return Err(GgufError::Type { tensor: name, found }),
        };
        let error = |reason| GgufError::Tensor { tensor: name.clone(), shape: shape.clone(), offset, reason };
        let size_bytes = dtype.bitsize() / 8;
        let (elements, bytes) = encoding.block(size_bytes);
        if !shape.dims().last().is_some_and(|cols| cols.is_multiple_of(elements)) {
            return Err(error("its rows are no whole number of the type's blocks"));
        }
        // Also of its elements as numbers, which is what they become.
        let wide = shape.size_bytes(DType::F32).map_err(|_| error("its size overflows"))?;
        let len_bytes = (wide / 4 / elements) as u64 * bytes as u64;
        if !offset.is_multiple_of(alignment) {
            return Err(error("its offset is no multiple of general.alignment"));
        }
        let start = data_start.checked_add(offset).ok_or_else(|| error("its offset overflows"))?;
        let end = start.checked_add(len_bytes).ok_or_else(|| error("its offset overflows"))?;
        if end > file_len_bytes {
            return Err(error("it ends beyond the file, which is cut off"));
        }
        Ok(Tensor { entry: TensorEntry { name, dtype, shape, bytes: start..end }, encoding })
    }
}

/// Reads numbers and texts, and knows how many bytes are left to pay for what they announce.
struct Reader<R> {
    file: R,
    read: u64,
    len_bytes: u64,
    /// Elements of lists so far.
    elements: u64,
}

impl<R: Read> Reader<R> {
    /// Notes that so many bytes are read next.
    fn take(&mut self, len_bytes: u64, what: &str) -> Result<(), GgufError> {
        let end = self.read.checked_add(len_bytes).filter(|&end| end <= self.len_bytes);
        let end = end.ok_or_else(|| GgufError::Truncated { what: what.chars().take(80).collect() })?;
        if end > MAX_HEADER_BYTES {
            let what = what.chars().take(80).collect();
            return Err(GgufError::TooLong { what, max: MAX_HEADER_BYTES });
        }
        self.read = end;
        Ok(())
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ReadError> {
        self.take(N as u64, what)?;
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes).map_err(ReadError::Io)?;
        Ok(bytes)
    }

    fn bytes(&mut self, len_bytes: u64, what: &str) -> Result<Vec<u8>, ReadError> {
        self.take(len_bytes, what)?;
        let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or_default()];
        self.file.read_exact(&mut bytes).map_err(ReadError::Io)?;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32, ReadError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, ReadError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A number of things of at least `each` bytes, all of which must still lie in the file.
    fn count(&mut self, what: &str, max: u64, each: u64) -> Result<u64, ReadError> {
        let count = self.u64(what)?;
        if count > max {
            return Err(header_error(what, format!("{count} are more than the {max} that are read")).into());
        }
        if count.checked_mul(each).is_none_or(|bytes| bytes > self.len_bytes - self.read) {
            return Err(GgufError::Truncated { what: what.chars().take(80).collect() }.into());
        }
        Ok(count)
    }

    fn text(&mut self, what: &str) -> Result<String, ReadError> {
        let len_bytes = self.u64(what)?;
        let bytes = self.bytes(len_bytes, what)?;
        String::from_utf8(bytes).map_err(|_| header_error(what, "it is not UTF-8").into())
    }

    fn name(&mut self, what: &str) -> Result<String, ReadError> {
        let name = self.text(what)?;
        if name.is_empty() || name.len() as u64 > MAX_NAME_BYTES {
            return Err(header_error(what, format!("a name of {} bytes", name.len())).into());
        }
        Ok(name)
    }

    fn bool(&mut self, what: &str) -> Result<bool, ReadError> {
        match self.array(what)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [byte] => Err(header_error(what, format!("{byte} is neither true nor false")).into()),
        }
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, ReadError> {
        Ok(match kind {
            0 => Value::Unsigned(u8::from_le_bytes(self.array(key)?).into()),
            1 => Value::Signed(i8::from_le_bytes(self.array(key)?).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.array(key)?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.array(key)?).into()),
            4 => Value::Unsigned(u32::from_le_bytes(self.array(key)?).into()),
            5 => Value::Signed(i32::from_le_bytes(self.array(key)?).into()),
            6 => Value::Float(widened(f32::from_le_bytes(self.array(key)?))),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::Text(self.text(key)?),
            9 => Value::List(self.list(key, 0)?),
            10 => Value::Unsigned(u64::from_le_bytes(self.array(key)?)),
            11 => Value::Signed(i64::from_le_bytes(self.array(key)?)),
            12 => Value::Float(f64::from_le_bytes(self.array(key)?)),
            _ => return Err(header_error(key, format!("its type {kind} is unknown")).into()),
        })
    }

    fn list(&mut self, key: &str, depth: u32) -> Result<List, ReadError> {
        let kind = self.u32(key)?;
        let size: u64 = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return Err(header_error(key, format!("its element type {kind} is unknown")).into()),
        };
        let count = self.count(key, MAX_ELEMENTS - self.elements, size)?;
        self.elements += count;
        Ok(match kind {
            6 => {
                List::Floats(self.each(count, |reader| Ok(widened(f32::from_le_bytes(reader.array(key)?))))?)
            }
            12 => List::Floats(self.each(count, |reader| Ok(f64::from_le_bytes(reader.array(key)?)))?),
            7 => List::Bools(self.each(count, |reader| reader.bool(key))?),
            8 => List::Texts(self.each(count, |reader| reader.text(key))?),
            9 => {
                if depth == MAX_DEPTH {
                    return Err(header_error(key, "its lists are nested too deep").into());
                }
                for _ in 0..count {
                    self.list(key, depth + 1)?;
                }
                List::Lists(count)
            }
            _ => List::Integers(self.each(count, |reader| {
                match reader.value(key, kind)? {
                    Value::Signed(value) => Ok(value),
                    Value::Unsigned(value) => i64::try_from(value)
                        .map_err(|_| header_error(key, format!("{value} is too large")).into()),
                    _ => Ok(0),
                }
            })?),
        })
    }

    fn each<T>(
        &mut self,
        count: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, ReadError>,
    ) -> Result<Vec<T>, ReadError> {
        let mut values = Vec::new();
        for _ in 0..count {
            values.push(read(self)?);
        }
        Ok(values)
    }

    fn tensor(&mut self, number: u64) -> Result<Info, ReadError> {
        let name = self.name(&format!("the name of tensor {number}"))?;
        let rank = self.u32(&name)?;
        if rank == 0 || rank > MAX_RANK {
            return Err(header_error(&name, format!("{rank} dimensions: expected 1 to {MAX_RANK}")).into());
        }
        let mut dims = Vec::new();
        for _ in 0..rank {
            let dim = self.u64(&name)?;
            let dim = usize::try_from(dim).ok().filter(|&dim| dim > 0 && isize::try_from(dim).is_ok());
            dims.push(dim.ok_or_else(|| header_error(&name, "a dimension is 0 or too large"))?);
        }
        dims.reverse();
        let number = self.u32(&name)?;
        let offset = self.u64(&name)?;
        Ok(Info { name, shape: Shape::new(dims), number, offset })
    }
}

/// The f64 of a number's shortest decimal: what the f32 was made from, in all likelihood, and the
/// same for everyone.
fn widened(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::NAN)
}
