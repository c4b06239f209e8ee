//! Owns texts and lists of tokens on their way in and out.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;
use std::ptr;

use crate::edge::free;

/// As the length of a text that is given: it ends with NUL.
pub const BLYAN_NUL: usize = usize::MAX;

/// As a count in options: none.
pub const BLYAN_NONE: u64 = u64::MAX;

/// A text: UTF-8, lent, never owned.
///
/// One that the library gives belongs to the handle it was asked of and lives as long; a NUL follows its
/// last byte, and it may hold others. In one that is given to the library, `len` may be `BLYAN_NUL`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_str {
    /// First byte.
    pub data: *const c_char,
    /// Number of bytes.
    pub len: usize,
}

/// A text with a NUL behind it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Text(Vec<u8>);

impl Text {
    pub(crate) fn new(text: impl Into<Vec<u8>>) -> Self {
        let mut bytes = text.into();
        bytes.push(0);
        Self(bytes)
    }

    /// Takes the place of the text that it held, whose views end.
    pub(crate) fn set(&mut self, text: &str) {
        self.0.clear();
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    pub(crate) fn view(&self) -> blyan_str {
        match self.0.len().checked_sub(1) {
            Some(len) => blyan_str { data: self.0.as_ptr().cast(), len },
            None => EMPTY,
        }
    }
}

/// The text that is empty.
pub(crate) const EMPTY: blyan_str = blyan_str { data: c"".as_ptr(), len: 0 };

/// A text that the caller owns.
pub struct blyan_text(Text);

impl blyan_text {
    pub(crate) fn new(text: impl Into<Vec<u8>>) -> Self {
        Self(Text::new(text))
    }
}

/// The text; an empty one for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_text_get(text: *const blyan_text) -> blyan_str {
    // SAFETY: NULL or a handle.
    unsafe { text.as_ref() }.map_or(EMPTY, |text| text.0.view())
}

/// Frees a text; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_text_free(text: *mut blyan_text) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(text) }
}

/// A list of token ids that the caller owns.
pub struct blyan_tokens(pub(crate) Vec<u32>);

/// The token ids, `blyan_tokens_len` of them; NULL for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tokens_data(tokens: *const blyan_tokens) -> *const u32 {
    // SAFETY: NULL or a handle.
    unsafe { tokens.as_ref() }.map_or(ptr::null(), |tokens| tokens.0.as_ptr())
}

/// Number of token ids; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tokens_len(tokens: *const blyan_tokens) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { tokens.as_ref() }.map_or(0, |tokens| tokens.0.len())
}

/// Frees a list of token ids; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_tokens_free(tokens: *mut blyan_tokens) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(tokens) }
}
