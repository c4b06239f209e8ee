//! Owns releases: models that have a name and a version; and what blocks may be called.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::manager::{self, ReleaseEntry};

use crate::chain::blyan_chain;
use crate::edge::{describe, free, new_handle, optional_text, out, read, text};
use crate::error::{Failure, blyan_status, edge};
use crate::hash::{at, blyan_hash};
use crate::text::{Text, blyan_str};

/// Names a model: appends a release block, whose version is SemVer and which follows the release of the same
/// name with the next lower version, and gives its hash.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_release(
    chain: *const blyan_chain,
    model: *const blyan_hash,
    name: *const c_char,
    name_len: usize,
    version: *const c_char,
    version_len: usize,
    release: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, model, name, version, release) = unsafe {
            (
                read(chain, "chain")?,
                read(model, "model")?,
                text(name, name_len, "name")?,
                text(version, version_len, "version")?,
                out(release, "release")?,
            )
        };
        let version = version
            .parse()
            .map_err(|error| Failure::argument(format!("version {version:?} is no SemVer: {error}")))?;
        release.set(manager::release(chain.to_write()?, &model.block(), name, version)?.into());
        Ok(())
    })
}

/// A list of releases that the caller owns.
pub struct blyan_releases(Vec<Release>);

struct Release {
    entry: ReleaseEntry,
    name: Text,
    version: Text,
}

/// A model that has a name and a version. Texts live as long as the list.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_release {
    /// Its name.
    pub name: blyan_str,
    /// Its SemVer version.
    pub version: blyan_str,
    /// The release block.
    pub block: blyan_hash,
    /// The model block.
    pub model: blyan_hash,
    /// The release that it follows.
    pub predecessor: blyan_hash,
    /// Not 0 if `predecessor` is one.
    pub has_predecessor: i32,
    /// 0.
    pub reserved: i32,
}

/// Every release of a chain: by name, the highest version first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_releases(
    chain: *const blyan_chain,
    releases: *mut *mut blyan_releases,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (releases, chain) = unsafe { (new_handle(releases, "releases")?, read(chain, "chain")?) };
        let named = manager::releases(&chain.chain)?.into_iter().map(|entry| Release {
            name: Text::new(entry.name.as_str()),
            version: Text::new(entry.version.to_string()),
            entry,
        });
        releases.set(blyan_releases(named.collect()));
        Ok(())
    })
}

/// Number of releases; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_releases_len(releases: *const blyan_releases) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { releases.as_ref() }.map_or(0, |releases| releases.0.len())
}

/// One of the releases; `size` is `sizeof *release`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_releases_get(
    releases: *const blyan_releases,
    index: usize,
    release: *mut blyan_release,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let found = at(&unsafe { read(releases, "releases") }?.0, index)?;
        let ReleaseEntry { block, model, predecessor, .. } = found.entry;
        let description = blyan_release {
            name: found.name.view(),
            version: found.version.view(),
            block: block.into(),
            model: model.into(),
            predecessor: predecessor.map_or(blyan_hash::ZERO, Into::into),
            has_predecessor: predecessor.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(release, size, "release", description) }
    })
}

/// Frees a list of releases; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_releases_free(releases: *mut blyan_releases) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(releases) }
}

/// The model block of a name: "latest" for the one model that no other follows, a release ("name" is its
/// highest version, "name@1.2.0" one), or the hash of a model or release block or its first 4 digits or more.
/// `BLYAN_STATUS_NOT_FOUND` for a name of nothing, `BLYAN_STATUS_INVALID_ARGUMENT` for one of several blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_find_model(
    chain: *const blyan_chain,
    name: *const c_char,
    name_len: usize,
    model: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, name, model) =
            unsafe { (read(chain, "chain")?, text(name, name_len, "name")?, out(model, "model")?) };
        model.set(manager::find_model(&chain.chain, name)?.into());
        Ok(())
    })
}

/// The block of a name: as for `blyan_chain_find_model`, where a release is its own block and a hash may be
/// of any block; or a slot such as "layer0.expert1", of the model named `of`, which may be NULL for the latest.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_chain_find_block(
    chain: *const blyan_chain,
    name: *const c_char,
    name_len: usize,
    of: *const c_char,
    of_len: usize,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (chain, name, of, block) = unsafe {
            (
                read(chain, "chain")?,
                text(name, name_len, "name")?,
                optional_text(of, of_len, "of")?,
                out(block, "block")?,
            )
        };
        block.set(manager::find_block(&chain.chain, name, of)?.into());
        Ok(())
    })
}
