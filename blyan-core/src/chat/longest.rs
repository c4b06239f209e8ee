//! Owns the length of the longest tag of a template, found as the engine finds it.

/// Length in bytes of the longest tag, without its texts and white space.
pub(super) fn longest_tag(template: &str) -> usize {
    let mut longest = 0;
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix('#') {
            rest = comment.split_once("#}").map_or("", |(_, after)| after);
        } else if let Some(raw) = after_tag(rest, "raw") {
            // What looks like a tag in there is text.
            let end = raw.match_indices('{').find_map(|(at, _)| after_tag(&raw[at + 1..], "endraw"));
            rest = end.unwrap_or_default();
        } else if let Some(inner) = rest.strip_prefix('%') {
            (longest, rest) = tag(inner, "%}", longest);
        } else if let Some(inner) = rest.strip_prefix('{') {
            (longest, rest) = tag(inner, "}}", longest);
        }
    }
    longest
}

/// What follows the tag of this one word, whose `{` was read.
fn after_tag<'a>(rest: &'a str, word: &str) -> Option<&'a str> {
    let inner = rest.strip_prefix('%')?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start().strip_prefix(word)?.trim_start();
    inner.strip_prefix(['-', '+']).unwrap_or(inner).strip_prefix("%}")
}

/// The larger of `longest` and the length of a tag without its texts and white space, and what
/// follows the tag. It ends where the engine says: outside of brackets.
fn tag<'a>(inner: &'a str, close: &str, longest: usize) -> (usize, &'a str) {
    let (mut len, mut open) = (0, 0_i64);
    let mut bytes = inner.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'%' | b'}' if open == 0 && inner[at..].starts_with(close) => {
                return (longest.max(len), &inner[at + close.len()..]);
            }
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open -= 1,
            b'"' | b'\'' => {
                while let Some((_, next)) = bytes.next().filter(|&(_, next)| next != byte) {
                    if next == b'\\' {
                        bytes.next();
                    }
                }
            }
            _ => {}
        }
        len += usize::from(!byte.is_ascii_whitespace());
    }
    (longest.max(len), "")
}
