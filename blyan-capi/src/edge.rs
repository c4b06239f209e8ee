//! Owns the way from C's pointers to Rust's values: checked for NULL, alignment and length as far as C
//! allows. What cannot be checked is the caller's promise at the top of the header: a pointer that is
//! not NULL points to what its type says, for as long as the call lasts.

#![expect(unsafe_code, reason = "pointers of the caller")]

use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::ptr;
use std::sync::{Mutex, MutexGuard, TryLockError};

use crate::error::{Failure, Outcome, blyan_status};
use crate::text::{BLYAN_NUL, blyan_str};

/// Largest struct that any version of the library passes.
const MAX_STRUCT_BYTES: usize = 4096;
/// Structs grow by whole words, so that a field is there as a whole or not at all.
const WORD_BYTES: usize = 8;

fn check<T>(pointer: *const T, name: &str) -> Outcome {
    if pointer.is_null() {
        Err(Failure::new(blyan_status::NullArgument, format!("{name} is NULL")))
    } else if !pointer.is_aligned() {
        Err(Failure::argument(format!("{name} is not aligned to {} bytes", align_of::<T>())))
    } else {
        Ok(())
    }
}

/// Something that the caller lends.
///
/// # Safety
///
/// NULL or valid for reads while `'a` lasts.
pub(crate) unsafe fn read<'a, T>(pointer: *const T, name: &str) -> Outcome<&'a T> {
    check(pointer, name)?;
    // SAFETY: not NULL and aligned; the rest is the caller's promise.
    Ok(unsafe { &*pointer })
}

/// Something that the caller may lend.
///
/// # Safety
///
/// As [`read`].
pub(crate) unsafe fn read_optional<'a, T>(pointer: *const T, name: &str) -> Outcome<Option<&'a T>> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(None) } else { unsafe { read(pointer, name) }.map(Some) }
}

/// A place for a result.
pub(crate) struct Out<T>(*mut T);

impl<T> Out<T> {
    pub(crate) fn set(self, value: T) {
        // SAFETY: checked when it was made, and the caller promised that it can be written.
        unsafe { self.0.write(value) }
    }
}

/// # Safety
///
/// NULL or valid for writes while the result is used.
pub(crate) unsafe fn out<T>(pointer: *mut T, name: &str) -> Outcome<Out<T>> {
    check(pointer, name)?;
    Ok(Out(pointer))
}

/// A place for a new handle; NULL until there is one.
pub(crate) struct NewHandle<T>(Option<*mut *mut T>);

impl<T> NewHandle<T> {
    /// Hands the value to the caller; drops it if the caller wants none.
    pub(crate) fn set(self, value: T) {
        if let Some(place) = self.0 {
            // SAFETY: as in `Out::set`.
            unsafe { place.write(Box::into_raw(Box::new(value))) }
        }
    }
}

/// # Safety
///
/// As [`out`].
pub(crate) unsafe fn new_handle<T>(pointer: *mut *mut T, name: &str) -> Outcome<NewHandle<T>> {
    check(pointer, name)?;
    // SAFETY: checked, and the caller's promise.
    unsafe { pointer.write(ptr::null_mut()) };
    Ok(NewHandle(Some(pointer)))
}

/// # Safety
///
/// As [`out`].
pub(crate) unsafe fn optional_handle<T>(pointer: *mut *mut T, name: &str) -> Outcome<NewHandle<T>> {
    // SAFETY: the caller's promise.
    if pointer.is_null() { Ok(NewHandle(None)) } else { unsafe { new_handle(pointer, name) } }
}

/// Drops what [`NewHandle::set`] handed out; nothing for NULL.
///
/// # Safety
///
/// NULL or a handle that was not freed.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() && handle.is_aligned() {
        // SAFETY: it came from a box, and is the caller's to give back.
        let value = unsafe { Box::from_raw(handle) };
        // There is nobody to tell.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(value)));
    }
}

/// `len` values that the caller lends; NULL if there are none.
///
/// # Safety
///
/// NULL, or valid for reads of `len` values while `'a` lasts.
pub(crate) unsafe fn slice<'a, T>(pointer: *const T, len: usize, name: &str) -> Outcome<&'a [T]> {
    if len == 0 {
        return Ok(&[]);
    }
    check(pointer, name)?;
    check_len::<T>(len, name)?;
    // SAFETY: not NULL, aligned, no longer than an object can be; the rest is the caller's promise.
    Ok(unsafe { std::slice::from_raw_parts(pointer, len) })
}

fn check_len<T>(len: usize, name: &str) -> Outcome {
    let bytes = len.checked_mul(size_of::<T>()).filter(|&bytes| isize::try_from(bytes).is_ok());
    bytes.map(|_| ()).ok_or_else(|| Failure::size(format!("{name} cannot have {len} elements")))
}

/// Copies values into a buffer of the caller's, which must have exactly their length.
///
/// # Safety
///
/// NULL, or valid for writes of `len` values.
pub(crate) unsafe fn copy_out<T: Copy>(values: &[T], pointer: *mut T, len: usize, name: &str) -> Outcome {
    if len != values.len() {
        return Err(Failure::size(format!("{name} has room for {len}, {} are needed", values.len())));
    }
    if len > 0 {
        check(pointer, name)?;
        // SAFETY: checked; a new value cannot overlap the caller's buffer.
        unsafe { ptr::copy_nonoverlapping(values.as_ptr(), pointer, len) };
    }
    Ok(())
}

/// Bytes of a text, which ends with NUL if `len` says so.
///
/// # Safety
///
/// NULL, or valid for reads of `len` bytes or up to a NUL while `'a` lasts.
pub(crate) unsafe fn bytes<'a>(data: *const c_char, len: usize, name: &str) -> Outcome<&'a [u8]> {
    if len == BLYAN_NUL {
        check(data, name)?;
        // SAFETY: the caller promised a NUL.
        return Ok(unsafe { CStr::from_ptr(data) }.to_bytes());
    }
    // An empty text may be anywhere, but NULL is no text.
    check(data, name)?;
    // SAFETY: the caller's promise.
    unsafe { slice(data.cast::<u8>(), len, name) }
}

/// # Safety
///
/// As [`bytes`].
pub(crate) unsafe fn text<'a>(data: *const c_char, len: usize, name: &str) -> Outcome<&'a str> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(data, len, name) }?;
    std::str::from_utf8(bytes)
        .map_err(|error| Failure::new(blyan_status::InvalidUtf8, format!("{name} is not UTF-8: {error}")))
}

/// A text, or none if `data` is NULL.
///
/// # Safety
///
/// As [`bytes`].
pub(crate) unsafe fn optional_text<'a>(
    data: *const c_char,
    len: usize,
    name: &str,
) -> Outcome<Option<&'a str>> {
    // SAFETY: the caller's promise.
    if data.is_null() { Ok(None) } else { unsafe { text(data, len, name) }.map(Some) }
}

/// A list of texts.
///
/// # Safety
///
/// As [`slice`], and each of them as [`bytes`].
pub(crate) unsafe fn texts(list: *const blyan_str, len: usize, name: &str) -> Outcome<Vec<String>> {
    // SAFETY: the caller's promise.
    let list = unsafe { slice(list, len, name) }?;
    // SAFETY: as above.
    let text_of = |item: &blyan_str| unsafe { text(item.data, item.len, name) }.map(str::to_owned);
    list.iter().map(text_of).collect()
}

/// A path: any bytes on Unix, UTF-8 elsewhere; never empty.
///
/// # Safety
///
/// As [`bytes`].
pub(crate) unsafe fn path(data: *const c_char, len: usize, name: &str) -> Outcome<PathBuf> {
    // SAFETY: the caller's promise.
    let bytes = unsafe { bytes(data, len, name) }?;
    if bytes.is_empty() || bytes.contains(&0) {
        return Err(Failure::argument(format!("{name} is empty or holds a NUL: expected a path")));
    }
    #[cfg(unix)]
    {
        use std::os::unix::ffi::OsStrExt;
        Ok(std::ffi::OsStr::from_bytes(bytes).into())
    }
    #[cfg(not(unix))]
    {
        std::str::from_utf8(bytes)
            .map(PathBuf::from)
            .map_err(|error| Failure::new(blyan_status::InvalidUtf8, format!("{name} is not UTF-8: {error}")))
    }
}

/// A struct of options that the caller fills in, and that later versions make longer.
///
/// # Safety
///
/// `#[repr(C)]`, begins with `size: usize`, and every pattern of bits is a value: numbers, pointers and
/// optional functions.
pub(crate) unsafe trait Options: Sized {
    /// The defaults, with the size of the caller's struct.
    fn defaults(size: usize) -> Self;
}

fn check_size(size: usize, name: &str) -> Outcome {
    if (WORD_BYTES..=MAX_STRUCT_BYTES).contains(&size) && size.is_multiple_of(WORD_BYTES) {
        return Ok(());
    }
    Err(Failure::size(format!(
        "{name} has size {size}: expected a multiple of {WORD_BYTES} up to {MAX_STRUCT_BYTES}, as sizeof gives"
    )))
}

/// Fills a struct of options of the caller's size with defaults, zeros where this version has no field.
///
/// # Safety
///
/// NULL, or valid for writes of `size` bytes.
pub(crate) unsafe fn init_options<T: Options>(pointer: *mut T, size: usize) -> Outcome {
    check(pointer, "options")?;
    check_size(size, "options")?;
    // SAFETY: the caller's promise, checked as far as possible.
    unsafe { write_sized(pointer, size, T::defaults(size)) };
    Ok(())
}

/// Reads a struct of options: fields that an older caller does not have get their defaults; fields of a
/// newer one that are not zero are refused, because this version would ignore them. NULL is all defaults.
///
/// # Safety
///
/// NULL, or valid for reads of as many bytes as its size says.
pub(crate) unsafe fn options<T: Options>(pointer: *const T, name: &str) -> Outcome<T> {
    let mut value = T::defaults(size_of::<T>());
    if pointer.is_null() {
        return Ok(value);
    }
    check(pointer, name)?;
    // SAFETY: every struct of options begins with its size.
    let size = unsafe { pointer.cast::<usize>().read() };
    check_size(size, name)?;
    let known = size.min(size_of::<T>());
    // SAFETY: the caller promised `size` bytes, and any bits are a value of `T`.
    let tail = unsafe {
        ptr::copy_nonoverlapping(pointer.cast::<u8>(), (&raw mut value).cast::<u8>(), known);
        std::slice::from_raw_parts(pointer.cast::<u8>().add(known), size - known)
    };
    if tail.iter().any(|&byte| byte != 0) {
        return Err(Failure::size(format!(
            "{name} has fields that this version of the library does not know: initialize it, or use a newer library"
        )));
    }
    Ok(value)
}

/// Refuses a struct for a result before there is one.
pub(crate) fn check_room<T>(pointer: *const T, size: usize, name: &str) -> Outcome {
    check(pointer, name)?;
    check_size(size, name)
}

/// Writes what fits of a result into a struct of the caller's size, zeros where this version has no
/// field.
///
/// # Safety
///
/// NULL, or valid for writes of `size` bytes.
pub(crate) unsafe fn describe<T>(pointer: *mut T, size: usize, name: &str, value: T) -> Outcome {
    check_room(pointer, size, name)?;
    // SAFETY: the caller's promise, checked as far as possible.
    unsafe { write_sized(pointer, size, value) };
    Ok(())
}

/// # Safety
///
/// Valid for writes of `size` bytes.
unsafe fn write_sized<T>(pointer: *mut T, size: usize, value: T) {
    let known = size.min(size_of::<T>());
    // SAFETY: `known` bytes are inside of both, the rest is inside of the caller's.
    unsafe {
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), pointer.cast::<u8>(), known);
        ptr::write_bytes(pointer.cast::<u8>().add(known), 0, size - known);
    }
    std::mem::forget(value);
}

/// Takes a handle that one call at a time may have.
pub(crate) fn lock<'a, T>(mutex: &'a Mutex<T>, what: &str) -> Outcome<MutexGuard<'a, T>> {
    match mutex.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::WouldBlock) => Err(Failure::busy(what)),
        Err(TryLockError::Poisoned(_)) => {
            Err(Failure::new(blyan_status::Busy, format!("a call on the {what} panicked: free it")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A struct of two versions: the second has `later`.
    #[repr(C)]
    #[derive(Debug, PartialEq)]
    struct Old {
        size: usize,
        first: u64,
    }

    #[repr(C)]
    #[derive(Debug, PartialEq)]
    struct New {
        size: usize,
        first: u64,
        later: u64,
    }

    // SAFETY: numbers alone, the size first.
    unsafe impl Options for Old {
        fn defaults(size: usize) -> Self {
            Self { size, first: 1 }
        }
    }

    // SAFETY: as above.
    unsafe impl Options for New {
        fn defaults(size: usize) -> Self {
            Self { size, first: 1, later: 2 }
        }
    }

    #[test]
    fn an_older_caller_gets_defaults_for_what_it_does_not_know() {
        let old = Old { size: size_of::<Old>(), first: 7 };
        // SAFETY: valid for as many bytes as its size says.
        let read = unsafe { options((&raw const old).cast::<New>(), "options") }.unwrap();
        assert_eq!((read.first, read.later), (7, 2));
    }

    #[test]
    fn a_newer_caller_works_until_it_asks_for_more() {
        let mut new = New { size: size_of::<New>(), first: 7, later: 0 };
        // SAFETY: as above.
        assert_eq!(unsafe { options((&raw const new).cast::<Old>(), "options") }.unwrap().first, 7);
        new.later = 9;
        // SAFETY: as above.
        assert!(unsafe { options((&raw const new).cast::<Old>(), "options") }.is_err());
    }

    #[test]
    fn init_writes_what_the_caller_has_and_no_more() {
        let mut words = [u64::MAX; 4];
        // SAFETY: 16 of 32 bytes are written, and then 32.
        unsafe { init_options(words.as_mut_ptr().cast::<New>(), 16) }.unwrap();
        assert_eq!(words, [16, 1, u64::MAX, u64::MAX]);
        // SAFETY: as above.
        unsafe { init_options(words.as_mut_ptr().cast::<New>(), 32) }.unwrap();
        assert_eq!(words, [32, 1, 2, 0]);
    }

    #[test]
    fn sizes_that_no_struct_has_are_refused() {
        let mut words = [0_u64; 2];
        for size in [0, 1, 7, 12, MAX_STRUCT_BYTES + 8, usize::MAX] {
            words[0] = size as u64;
            // SAFETY: refused before anything behind the size is looked at.
            assert!(unsafe { options(words.as_ptr().cast::<Old>(), "options") }.is_err(), "{size}");
            // SAFETY: as above.
            assert!(unsafe { init_options(words.as_mut_ptr().cast::<Old>(), size) }.is_err(), "{size}");
        }
    }

    #[test]
    fn lengths_and_alignment_are_checked() {
        let words = [0_u64; 2];
        let odd = words.as_ptr().cast::<u8>().wrapping_add(1);
        // SAFETY: refused before anything is read.
        unsafe {
            assert!(read(odd.cast::<u64>(), "it").is_err());
            assert!(slice(words.as_ptr(), usize::MAX / 8, "it").is_err());
            assert!(slice(ptr::null::<u64>(), 1, "it").is_err());
            assert!(slice(ptr::null::<u64>(), 0, "it").unwrap().is_empty());
        }
    }
}
