//! Owns the grammar of licences: an SPDX license expression (SPDX 2.3, annex D).
//!
//! Only the grammar: the list of known licences grows, and a block that is valid today stays so.

/// Longest licence that is read, in bytes.
const MAX_LICENCE_BYTES: usize = 512;

/// What may come next in an expression.
#[derive(Clone, Copy, PartialEq)]
enum Expected {
    /// An identifier or an opening parenthesis.
    Operand,
    /// The identifier of an exception, after `WITH`.
    Exception,
    /// An operator, a closing parenthesis, or the end; `WITH` after an identifier only.
    Operator { after_identifier: bool },
}

fn is_identifier(word: &str) -> bool {
    let part = |text: &str| {
        let plain = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'.';
        !text.is_empty() && text.bytes().all(plain)
    };
    match word.split_once(':') {
        // A licence in another SPDX document.
        Some((document, licence)) => {
            let rest = document.strip_prefix("DocumentRef-").zip(licence.strip_prefix("LicenseRef-"));
            rest.is_some_and(|(document, licence)| part(document) && part(licence))
        }
        None => part(word.strip_suffix('+').unwrap_or(word)),
    }
}

/// Whether a text is an SPDX license expression, written with single spaces.
pub(super) fn is_licence(text: &str) -> bool {
    if text.len() > MAX_LICENCE_BYTES || !text.bytes().all(|c| (b' '..=b'~').contains(&c)) {
        return false;
    }
    let mut expected = Expected::Operand;
    let mut open = 0_usize;
    for word in text.split(' ') {
        let inner = word.trim_start_matches('(');
        let opened = word.len() - inner.len();
        let core = inner.trim_end_matches(')');
        let closed = inner.len() - core.len();
        expected = match (core, expected) {
            ("AND" | "OR", Expected::Operator { .. }) => Expected::Operand,
            ("WITH", Expected::Operator { after_identifier: true }) => Expected::Exception,
            ("AND" | "OR" | "WITH", _) => return false,
            (exception, Expected::Exception) if is_identifier(exception) && opened == 0 => {
                Expected::Operator { after_identifier: false }
            }
            (licence, Expected::Operand) if is_identifier(licence) => {
                open += opened;
                Expected::Operator { after_identifier: closed == 0 }
            }
            _ => return false,
        };
        let operand = matches!(expected, Expected::Operator { .. });
        if (!operand && opened + closed > 0) || closed > open {
            return false;
        }
        open -= closed;
    }
    matches!(expected, Expected::Operator { .. }) && open == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_of_the_standard_are_licences() {
        for text in [
            "CC0-1.0",
            "GPL-2.0+",
            "MIT OR Apache-2.0",
            "LicenseRef-public-domain",
            "DocumentRef-spdx-tool-1.2:LicenseRef-MIT-Style-2",
            "LGPL-2.1-only OR MIT AND BSD-3-Clause",
            "GPL-2.0-or-later WITH Bison-exception-2.2",
            "(LGPL-2.1-only OR BSD-3-Clause) AND MIT",
            "((MIT))",
            "MIT AND (LGPL-2.1-or-later OR (ISC AND GPL-2.0-only WITH Classpath-exception-2.0))",
        ] {
            assert!(is_licence(text), "{text}");
        }
    }

    #[test]
    fn other_texts_are_not() {
        for text in [
            "",
            " ",
            "MIT ",
            " MIT",
            "MIT  OR ISC",
            "public domain",
            "MIT OR",
            "AND",
            "OR MIT",
            "MIT ISC",
            "MIT or ISC",
            "(MIT",
            "MIT)",
            ")MIT(",
            "()",
            "MIT (OR) ISC",
            "MIT OR) ISC",
            "(MIT) WITH x",
            "MIT WITH",
            "MIT WITH (x)",
            "MIT WITH a WITH b",
            "Mïtt",
            "MIT\n",
            "MIT++",
            "DocumentRef-:LicenseRef-x",
            "DocumentRef-x:MIT",
        ] {
            assert!(!is_licence(text), "{text}");
        }
        assert!(is_licence(&"M".repeat(512)) && !is_licence(&"M".repeat(513)));
    }
}
