//! Owns the reading of safetensors headers: a pure function over bytes, no I/O, no unsafe.
//!
//! The `safetensors` crate checks that tensors follow each other without gap or overlap, that shape,
//! dtype and offsets agree, and that no product overflows. What it does not check is checked here:
//! a name given twice (its map keeps the last one), the number of dimensions, a cap on the header
//! that fits its use, and that the tensors end where the file ends.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};

use super::error::TensorError;
use crate::dtype::{DType, Shape};

/// Longest header that is read; the limit that every safetensors reader has.
pub(crate) const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes of the little-endian length before the header.
const PREFIX_BYTES: usize = 8;

/// Most dimensions of a tensor.
pub(super) const MAX_RANK: usize = 8;

/// One tensor of a header, of whatever type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorEntry {
    /// Its name.
    pub(crate) name: String,
    /// Element type, under safetensors' name.
    pub(crate) dtype: safetensors::Dtype,
    /// Its dimensions.
    pub(crate) shape: Shape,
    /// Its bytes, counted from the start of the file.
    pub(crate) bytes: Range<u64>,
}

impl TensorEntry {
    /// The element type, if it is one that blocks can hold.
    ///
    /// # Errors
    ///
    /// [`TensorError::DType`] naming the tensor.
    pub(crate) fn supported_dtype(&self) -> Result<DType, TensorError> {
        self.dtype
            .to_string()
            .parse()
            .ok()
            // I4 is stored packed into I32, see `packed`.
            .filter(|dtype| *dtype != DType::I4)
            .ok_or_else(|| TensorError::DType { tensor: self.name.clone(), dtype: self.dtype.to_string() })
    }
}

/// Collects `(name, info)` in the order of the file, so that a repeated name is seen.
struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<(String, TensorInfo)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut tensors = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                map.next_value::<IgnoredAny>()?;
            } else {
                tensors.push((name, map.next_value()?));
            }
        }
        Ok(tensors)
    }
}

/// Length of the JSON that follows the eight bytes of `prefix`, checked against the file's length.
///
/// # Errors
///
/// [`TensorError::HeaderTruncated`] or [`TensorError::HeaderTooLarge`].
pub(crate) fn header_len_bytes(prefix: &[u8], file_len_bytes: u64, max: u64) -> Result<u64, TensorError> {
    let Some(Ok(prefix)) = prefix.get(..PREFIX_BYTES).map(<[u8; PREFIX_BYTES]>::try_from) else {
        return Err(TensorError::HeaderTruncated { needed: PREFIX_BYTES as u64, len_bytes: file_len_bytes });
    };
    let len_bytes = u64::from_le_bytes(prefix);
    if len_bytes > max {
        return Err(TensorError::HeaderTooLarge { len_bytes, max });
    }
    let needed = len_bytes + PREFIX_BYTES as u64;
    if needed > file_len_bytes {
        return Err(TensorError::HeaderTruncated { needed, len_bytes: file_len_bytes });
    }
    Ok(len_bytes)
}

/// Reads the JSON of a header. `file_len_bytes` is the length of the whole file. Tensors come back in
/// the order of their bytes.
///
/// # Errors
///
/// [`TensorError`] naming the tensor and what is wrong with it.
pub(crate) fn parse_json(json: &[u8], file_len_bytes: u64) -> Result<Vec<TensorEntry>, TensorError> {
    let invalid = |reason: String| TensorError::Header { reason };
    // Python's reader insists on this first byte.
    if json.first() != Some(&b'{') {
        return Err(invalid("it does not start with '{'".to_owned()));
    }
    let mut reader = serde_json::Deserializer::from_slice(json);
    let mut tensors = reader
        .deserialize_map(HeaderVisitor)
        .and_then(|tensors| reader.end().map(|()| tensors))
        .map_err(|error| invalid(error.to_string()))?;

    let mut names = BTreeSet::new();
    for (name, info) in &tensors {
        if !names.insert(name.as_str()) {
            return Err(TensorError::DuplicateTensor { tensor: name.clone() });
        }
        if info.shape.len() > MAX_RANK {
            return Err(TensorError::Rank { tensor: name.clone(), rank: info.shape.len(), max: MAX_RANK });
        }
    }
    drop(names);

    tensors.sort_by_key(|(_, info)| info.data_offsets);
    let data_start = json.len() as u64 + PREFIX_BYTES as u64;
    let data_len = file_len_bytes.saturating_sub(data_start);
    let mut expected_start = 0;
    let mut entries = Vec::with_capacity(tensors.len());
    for (name, info) in &tensors {
        let (start, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
        let offsets = |reason| TensorError::Offsets { tensor: name.clone(), start, end, reason };
        if start != expected_start {
            return Err(offsets("overlap another tensor or leave a gap"));
        }
        if end < start || end > data_len {
            return Err(offsets("lie outside of the file"));
        }
        expected_start = end;
        entries.push(TensorEntry {
            name: name.clone(),
            dtype: info.dtype,
            shape: Shape::new(info.shape.clone()),
            bytes: data_start + start..data_start + end,
        });
        // The crate is the judge of element sizes, some of which are no whole bytes. One tensor at a
        // time, moved to offset 0, so that the error can name it.
        let alone = TensorInfo {
            dtype: info.dtype,
            shape: info.shape.clone(),
            data_offsets: (0, info.data_offsets.1 - info.data_offsets.0),
        };
        if Metadata::new(None, vec![(String::new(), alone)]).is_err() {
            return Err(offsets("contradict shape and dtype"));
        }
    }
    if expected_start != data_len {
        let last = entries.pop().map_or_else(String::new, |entry| entry.name);
        return Err(TensorError::Offsets {
            tensor: last,
            start: expected_start,
            end: data_len,
            reason: "belong to no tensor: bytes are left over at the end of the file",
        });
    }
    Ok(entries)
}

/// Reads the header of a whole safetensors file. Tensors come back in the order of their bytes, which
/// are all inside `file`.
///
/// # Errors
///
/// [`TensorError`] naming the tensor and what is wrong with it.
pub(crate) fn parse(file: &[u8], max_header_bytes: u64) -> Result<Vec<TensorEntry>, TensorError> {
    let header_len = header_len_bytes(file, file.len() as u64, max_header_bytes)?;
    let end = PREFIX_BYTES + usize::try_from(header_len).unwrap_or(usize::MAX - PREFIX_BYTES);
    let json = file
        .get(PREFIX_BYTES..end)
        .ok_or(TensorError::HeaderTruncated { needed: end as u64, len_bytes: file.len() as u64 })?;
    parse_json(json, file.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &[u8]) -> Result<Vec<TensorEntry>, TensorError> {
        super::parse(file, MAX_HEADER_BYTES)
    }

    fn file(json: &str, data_len: usize) -> Vec<u8> {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(json.as_bytes());
        bytes.resize(bytes.len() + data_len, 0);
        bytes
    }

    #[test]
    fn a_good_file_is_read() {
        let json = concat!(
            r#"{"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"#,
            r#""a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"__metadata__":{"format":"pt"}}   "#
        );
        let entries = parse(&file(json, 16)).unwrap();
        let start = 8 + json.len() as u64;
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].name.as_str(), entries[0].bytes.clone()), ("a", start..start + 4));
        assert_eq!((entries[1].name.as_str(), entries[1].bytes.clone()), ("b", start + 4..start + 16));
        assert_eq!(entries[1].supported_dtype().unwrap(), DType::BF16);
    }

    #[test]
    fn hostile_headers_are_named() {
        let tensor = |name: &str, shape: &str, from: u64, to: u64| {
            format!(r#""{name}":{{"dtype":"I8","shape":{shape},"data_offsets":[{from},{to}]}}"#)
        };
        type Check = fn(&TensorError) -> bool;
        let cases: &[(&str, Vec<u8>, Check)] = &[
            ("empty", vec![], |e| matches!(e, TensorError::HeaderTruncated { .. })),
            ("seven bytes", vec![0; 7], |e| matches!(e, TensorError::HeaderTruncated { .. })),
            ("huge length", vec![0xff; 64], |e| matches!(e, TensorError::HeaderTooLarge { .. })),
            ("length beyond file", [&100u64.to_le_bytes()[..], b"{}"].concat(), |e| {
                matches!(e, TensorError::HeaderTruncated { needed: 108, .. })
            }),
            ("no JSON", file("{x", 0), |e| matches!(e, TensorError::Header { .. })),
            ("leading space", file(" {}", 0), |e| matches!(e, TensorError::Header { .. })),
            ("trailing JSON", file("{}{}", 0), |e| matches!(e, TensorError::Header { .. })),
            ("not UTF-8", [&2u64.to_le_bytes()[..], &[b'{', 0xff]].concat(), |e| {
                matches!(e, TensorError::Header { .. })
            }),
            (
                "twice",
                file(&format!("{{{},{}}}", tensor("a", "[4]", 0, 4), tensor("a", "[4]", 0, 4)), 4),
                |e| matches!(e, TensorError::DuplicateTensor { tensor } if tensor == "a"),
            ),
            (
                "twice in an escaped spelling",
                file(&format!("{{{},{}}}", tensor("a", "[4]", 0, 4), tensor("\\u0061", "[4]", 4, 8)), 8),
                |e| matches!(e, TensorError::DuplicateTensor { tensor } if tensor == "a"),
            ),
            (
                "overlap",
                file(&format!("{{{},{}}}", tensor("a", "[4]", 0, 4), tensor("b", "[4]", 2, 6)), 6),
                |e| matches!(e, TensorError::Offsets { tensor, .. } if tensor == "b"),
            ),
            (
                "gap",
                file(&format!("{{{},{}}}", tensor("a", "[4]", 0, 4), tensor("b", "[4]", 6, 10)), 10),
                |e| matches!(e, TensorError::Offsets { tensor, .. } if tensor == "b"),
            ),
            (
                "out of range",
                file(&format!("{{{}}}", tensor("a", "[4]", 0, 4)), 3),
                |e| matches!(e, TensorError::Offsets { tensor, .. } if tensor == "a"),
            ),
            ("left over", file(&format!("{{{}}}", tensor("a", "[4]", 0, 4)), 5), |e| {
                matches!(e, TensorError::Offsets { .. })
            }),
            (
                "end before start",
                file(&format!("{{{}}}", tensor("a", "[0]", 0, 0)).replace("[0,0]", "[4,0]"), 4),
                |e| matches!(e, TensorError::Offsets { .. }),
            ),
            ("shape against offsets", file(&format!("{{{}}}", tensor("a", "[5]", 0, 4)), 4), |e| {
                matches!(e, TensorError::Offsets { reason: "contradict shape and dtype", .. })
            }),
            (
                "overflowing product",
                file(&format!("{{{}}}", tensor("a", "[4294967296,4294967296]", 0, 0)), 0),
                |e| matches!(e, TensorError::Offsets { reason: "contradict shape and dtype", .. }),
            ),
            (
                "overflowing product times zero",
                file(&format!("{{{}}}", tensor("a", "[18446744073709551615,2,0]", 0, 0)), 0),
                |e| matches!(e, TensorError::Offsets { .. }),
            ),
            ("negative dimension", file(&format!("{{{}}}", tensor("a", "[-1]", 0, 0)), 0), |e| {
                matches!(e, TensorError::Header { .. })
            }),
            ("nine dimensions", file(&format!("{{{}}}", tensor("a", "[1,1,1,1,1,1,1,1,1]", 0, 1)), 1), |e| {
                matches!(e, TensorError::Rank { rank: 9, .. })
            }),
        ];
        for (what, bytes, expected) in cases {
            let error = parse(bytes).expect_err(what);
            assert!(expected(&error), "{what}: {error:?}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let json = format!("{{\"a\":{}", "[".repeat(1 << 20));
        assert!(matches!(parse(&file(&json, 0)), Err(TensorError::Header { .. })));
    }
}
