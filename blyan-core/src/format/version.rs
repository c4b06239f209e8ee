//! Owns what the version of a block says about the one whose place it takes: how much changed.

use std::fmt;

use semver::{Prerelease, Version};

use super::spec::{FeedForward, ModelSpec};

/// How much changed from a block to the one that takes its place; which part of the version rises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Change {
    /// Same spec, same slots: other weights in the same shapes.
    Patch,
    /// More slots: experts added, and the router that knows them; or a text that was not there.
    Minor,
    /// Another architecture, or slots that are gone.
    Major,
}

impl Change {
    /// The next version after such a change.
    pub fn next(self, before: &Version) -> Version {
        let mut next = before.clone();
        next.pre = Prerelease::EMPTY;
        match self {
            Self::Patch => next.patch = next.patch.saturating_add(1),
            Self::Minor => (next.minor, next.patch) = (next.minor.saturating_add(1), 0),
            Self::Major => {
                (next.major, next.minor, next.patch) = (next.major.saturating_add(1), 0, 0);
            }
        }
        next
    }

    /// Whether such a change leads from one version to the other: it is higher, and this part of it is
    /// the first that differs.
    pub fn leads(self, before: &Version, after: &Version) -> bool {
        let first = if before.major != after.major {
            Self::Major
        } else if before.minor != after.minor {
            Self::Minor
        } else {
            Self::Patch
        };
        after > before && first == self
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Patch => "patch",
            Self::Minor => "minor",
            Self::Major => "major",
        })
    }
}

impl ModelSpec {
    /// Whether this is `before` with more experts in some of its layers and nothing else changed: every
    /// block made for `before` except those layers' routers has the shapes that this spec needs.
    pub fn is_grown_from(&self, before: &Self) -> bool {
        let mut shrunk = self.clone();
        let mut grew = false;
        for (layer, old) in shrunk.layers.iter_mut().zip(&before.layers) {
            if let FeedForward::Moe { num_experts, .. } = &mut layer.feed_forward
                && let FeedForward::Moe { num_experts: old, .. } = &old.feed_forward
                && *num_experts > *old
            {
                *num_experts = *old;
                grew = true;
            }
        }
        grew && shrunk == *before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> Version {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_part_that_differs_is_the_change() {
        for (before, after, change) in [
            ("1.0.0", "1.0.1", Some(Change::Patch)),
            ("1.0.0", "1.0.7", Some(Change::Patch)),
            ("1.2.3-rc.1", "1.2.3", Some(Change::Patch)),
            ("1.2.3", "1.3.0", Some(Change::Minor)),
            ("1.2.3", "1.3.0-rc.1", Some(Change::Minor)),
            ("1.2.3", "2.0.0", Some(Change::Major)),
            ("1.2.3", "2.7.1", Some(Change::Major)),
            ("1.2.3", "1.2.3", None),
            ("1.2.3", "1.2.3-rc.1", None),
            ("1.2.3", "1.1.9", None),
            ("2.0.0", "1.9.9", None),
        ] {
            for change_asked in [Change::Patch, Change::Minor, Change::Major] {
                let leads = change_asked.leads(&version(before), &version(after));
                assert_eq!(leads, change == Some(change_asked), "{before} {after} {change_asked}");
            }
        }
    }

    #[test]
    fn the_next_version_is_one_that_the_change_leads_to() {
        for before in ["1.0.0", "0.9.9", "3.2.1-rc.7"].map(version) {
            for change in [Change::Patch, Change::Minor, Change::Major] {
                assert!(change.leads(&before, &change.next(&before)), "{before} {change}");
            }
        }
        assert_eq!(Change::Minor.next(&version("1.2.3")), version("1.3.0"));
        assert_eq!(Change::Major.next(&version("1.2.3")), version("2.0.0"));
        // There is no higher one: the block is then refused.
        let last = Version::new(1, 0, u64::MAX);
        assert!(!Change::Patch.leads(&last, &Change::Patch.next(&last)));
    }
}
