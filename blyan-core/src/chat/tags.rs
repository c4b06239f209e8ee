//! Owns the tags of a template, found as the engine finds them: the length of the longest one, and what the
//! assignments to attributes among them may hold.

/// A `{% … %}` or `{{ … }}`.
struct Tag<'t> {
    /// What is between its braces, with its white space controls.
    inner: &'t str,
    /// Where that starts in the template.
    start: usize,
    is_statement: bool,
    /// Bytes without texts and white space.
    len: usize,
}

/// Length in bytes of the longest tag, without its texts and white space.
pub(super) fn longest_tag(template: &str) -> usize {
    tags(template).iter().map(|tag| tag.len).max().unwrap_or(0)
}

/// Passes what is assigned to an attribute, as in `{% set ns.found = item %}`, through `filter`.
///
/// # Errors
///
/// What cannot be passed through it.
pub(super) fn filter_attributes(template: &str, filter: &str) -> Result<String, &'static str> {
    let mut text = String::with_capacity(template.len());
    let mut copied = 0;
    for tag in tags(template) {
        let Some((before, after)) = attribute_assignment(&tag) else { continue };
        let Some(value) = after.strip_prefix('=') else {
            // The engine makes a text of the block, but a filter may make anything of that.
            if after.starts_with('|') {
                return Err("a block is assigned to an attribute through a filter");
            }
            continue;
        };
        let value = value.strip_suffix(['-', '+']).unwrap_or(value);
        let start = tag.start + before + 1;
        text.push_str(template.get(copied..start).unwrap_or_default());
        text.extend([" (", value, ")|", filter, " "]);
        copied = start + value.len();
    }
    text.push_str(template.get(copied..).unwrap_or_default());
    Ok(text)
}

/// Of an assignment with an attribute among its targets: how long what comes before its `=`, `|` or end is, and
/// what comes from there on.
fn attribute_assignment<'t>(tag: &Tag<'t>) -> Option<(usize, &'t str)> {
    let inner = tag.inner.strip_prefix(['-', '+']).unwrap_or(tag.inner).trim_start();
    let target = inner.strip_prefix("set").filter(|_| tag.is_statement)?;
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    if target.starts_with(is_name) {
        return None;
    }
    let is_target = |c: char| is_name(c) || c.is_whitespace() || ".,()".contains(c);
    let rest = target.trim_start_matches(is_target);
    let target = target.strip_suffix(rest)?;
    target.contains('.').then(|| (tag.inner.len() - rest.len(), rest))
}

fn tags(template: &str) -> Vec<Tag<'_>> {
    let mut tags = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        rest = &rest[start + 1..];
        if let Some(comment) = rest.strip_prefix('#') {
            rest = comment.split_once("#}").map_or("", |(_, after)| after);
        } else if let Some(raw) = after_tag(rest, "raw") {
            // What looks like a tag in there is text.
            let end = raw.match_indices('{').find_map(|(at, _)| after_tag(&raw[at + 1..], "endraw"));
            rest = end.unwrap_or_default();
        } else if let Some(inner) = rest.strip_prefix(['%', '{']) {
            let is_statement = rest.starts_with('%');
            let (len, inner_len) = measure(inner, if is_statement { "%}" } else { "}}" });
            let start = template.len() - inner.len();
            tags.push(Tag { inner: &inner[..inner_len], start, is_statement, len });
            rest = inner.get(inner_len + 2..).unwrap_or_default();
        }
    }
    tags
}

/// What follows the tag of this one word, whose `{` was read.
fn after_tag<'a>(rest: &'a str, word: &str) -> Option<&'a str> {
    let inner = rest.strip_prefix('%')?;
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner).trim_start().strip_prefix(word)?.trim_start();
    inner.strip_prefix(['-', '+']).unwrap_or(inner).strip_prefix("%}")
}

/// The length of a tag without its texts and white space, and all of its length. It ends where the engine says:
/// outside of brackets.
fn measure(inner: &str, close: &str) -> (usize, usize) {
    let (mut len, mut open) = (0, 0_i64);
    let mut bytes = inner.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'%' | b'}' if open == 0 && inner[at..].starts_with(close) => return (len, at),
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
    (len, inner.len())
}
