//! Owns the `{% generation %}` tag, which marks what the model wrote, for training.

/// Turns the tag into a `with` of no variables, which treats white space alike and keeps what is set in it to itself, as
/// the tag does. Comments, raw blocks and texts inside other tags stay as they are.
pub(super) fn without_generation_tags(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        text.push_str(before);
        let len = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => tag_len(tag, "}}"),
            Some(b'%') => tag_len(tag, "%}"),
            _ => 1,
        };
        let (tag, mut after) = tag.split_at(len);
        let (open, word, close) = parts(tag);
        match word.trim() {
            "generation" => text.extend([open, " with ", close]),
            "endgeneration" => text.extend([open, " endwith ", close]),
            "raw" => {
                let end = after.find("endraw").unwrap_or(after.len());
                text.push_str(tag);
                text.push_str(&after[..end]);
                after = &after[end..];
            }
            _ => text.push_str(tag),
        }
        rest = after;
    }
    text.push_str(rest);
    text
}

/// Length of the tag that a text starts with: up to `end`, but not one inside quotes or braces.
fn tag_len(tag: &str, end: &str) -> usize {
    let mut quote = None;
    let mut depth = 0_usize;
    let mut bytes = tag.bytes().enumerate().skip(2);
    while let Some((place, byte)) = bytes.next() {
        match (quote, byte) {
            (Some(_), b'\\') => {
                bytes.next();
            }
            (Some(open), byte) if byte == open => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(byte),
            (None, _) if depth == 0 && tag.as_bytes()[place..].starts_with(end.as_bytes()) => {
                return place + 2;
            }
            (None, b'{') => depth += 1,
            (None, b'}') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    tag.len()
}

/// The opening, the inside and the closing of a `{% … %}` tag, with their white space controls.
fn parts(tag: &str) -> (&str, &str, &str) {
    let Some(inner) = tag.strip_prefix("{%").and_then(|rest| rest.strip_suffix("%}")) else {
        return (tag, "", "");
    };
    let inner = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let word = inner.strip_suffix(['-', '+']).unwrap_or(inner);
    let open = tag.len() - 2 - inner.len();
    (&tag[..open], word, &tag[open + word.len()..])
}
