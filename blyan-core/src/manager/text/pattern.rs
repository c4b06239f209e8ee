//! Rewrites the patterns of `tokenizer.json` so that they mean here what they mean to their authors.
//!
//! Hugging Face's library runs them with Oniguruma in Ruby's syntax, this build with `fancy-regex`. Where
//! the two read the same text differently, token ids would differ without any error.

use std::mem;

use serde_json::Value;

/// Longest pattern that is read; published ones have a few hundred bytes.
const MAX_PATTERN_BYTES: usize = 1 << 16;

/// What `[[:punct:]]` holds: punctuation and symbols.
const PUNCT: &str = r"\p{P}\p{S}";

/// Most repeats that follow one another; each is a group to the library, which nests no more of them.
const MAX_STACKED: usize = 64;

/// What `\w` holds in a class; others count what joins letters as well, and not all of these letters.
const WORD_IN_CLASS: &str = r"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}";

/// What `\w` holds outside of one: six numbers of Latin-1 too.
const WORD: &str = r"[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\u00B2\u00B3\u00B9\u00BC-\u00BE]";

/// The parts of the file that say what is done to a text: what is not named here, the vocabulary above all, is only
/// skipped.
#[derive(serde::Deserialize)]
pub(super) struct Steps {
    #[serde(default)]
    pub(super) added_tokens: Value,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
}

impl Steps {
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| super::shorten(&error.to_string()))
    }
}

/// The pattern of a byte-level step that has none of its own.
const BYTE_LEVEL: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// A file whose patterns were rewritten.
#[derive(Debug, PartialEq)]
pub(super) struct Rewritten {
    /// The file, or `None` if nothing changed.
    pub(super) file: Option<Vec<u8>>,
    /// The patterns that texts are matched with before they become tokens.
    pub(super) patterns: Vec<String>,
}

/// The file, which has these steps, with every pattern rewritten.
pub(super) fn rewrite_file(bytes: &[u8], mut steps: Steps) -> Result<Rewritten, String> {
    let refuse = |error: serde_json::Error| super::shorten(&error.to_string());
    let (mut changed, mut patterns) = (false, Vec::new());
    for step in [&mut steps.normalizer, &mut steps.pre_tokenizer] {
        rewrite_within(step, &mut changed, &mut patterns)?;
    }
    rewrite_within(&mut steps.decoder, &mut changed, &mut Vec::new())?;
    if !changed {
        return Ok(Rewritten { file: None, patterns });
    }
    let mut file: serde_json::Map<String, Value> = serde_json::from_slice(bytes).map_err(refuse)?;
    for (name, step) in
        [("normalizer", steps.normalizer), ("pre_tokenizer", steps.pre_tokenizer), ("decoder", steps.decoder)]
    {
        if let Some(place) = file.get_mut(name) {
            *place = step;
        }
    }
    let file = serde_json::to_vec(&file).map_err(refuse)?;
    Ok(Rewritten { file: Some(file), patterns })
}

/// Rewrites every `"pattern": {"Regex": "..."}` in a value, and adds all patterns in it to a list.
fn rewrite_within(value: &mut Value, changed: &mut bool, patterns: &mut Vec<String>) -> Result<(), String> {
    match value {
        Value::Array(items) => {
            for item in items {
                rewrite_within(item, changed, patterns)?;
            }
        }
        Value::Object(fields) => {
            let is_byte_level = fields.get("type").is_some_and(|kind| kind == "ByteLevel");
            if is_byte_level && fields.get("use_regex") != Some(&Value::Bool(false)) {
                patterns.push(BYTE_LEVEL.to_owned());
            }
            for (name, field) in fields.iter_mut() {
                if name == "pattern"
                    && let Some(Value::String(pattern)) = field.get_mut("Regex")
                {
                    let rewritten = rewrite(pattern).map_err(|construct| {
                        let pattern = super::shorten(pattern);
                        format!("the pattern {pattern:?} has {construct}, which cannot be matched here")
                    })?;
                    if rewritten != *pattern {
                        *pattern = rewritten;
                        *changed = true;
                    }
                    patterns.push(pattern.clone());
                } else {
                    rewrite_within(field, changed, patterns)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// A pattern of Oniguruma as one of `fancy-regex`, or the construct that it has no way to write. Patterns
/// that are an error to both are left for the library to refuse.
pub(super) fn rewrite(pattern: &str) -> Result<String, String> {
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(format!("more than {MAX_PATTERN_BYTES} bytes"));
    }
    let out = String::with_capacity(pattern.len());
    let mut scanner = Scanner { rest: pattern, out, group: Group::default(), outer: Vec::new() };
    while !scanner.rest.is_empty() {
        if let Some(start) = scanner.atom()? {
            scanner.repeats(start)?;
        }
    }
    scanner.close_options();
    Ok(scanner.out)
}

/// A group that is open.
#[derive(Default)]
struct Group {
    /// Where it starts in the output.
    start: usize,
    /// Groups inside it that stand for options such as `(?i)` and end where it ends.
    options: usize,
    /// Blanks and `#` comments mean nothing in it.
    extended: bool,
}

struct Scanner<'a> {
    /// What is left to read.
    rest: &'a str,
    out: String,
    /// The innermost group, or the whole pattern.
    group: Group,
    /// The groups around it.
    outer: Vec<Group>,
}

impl<'a> Scanner<'a> {
    /// The next bytes, which are read with this.
    fn take(&mut self, len: usize) -> &'a str {
        let (head, tail) = self.rest.split_at_checked(len).unwrap_or((self.rest, ""));
        self.rest = tail;
        head
    }

    fn copy(&mut self, len: usize) {
        let text = self.take(len);
        self.out.push_str(text);
    }

    /// Writes `text` for the next bytes.
    fn replace(&mut self, len: usize, text: &str) {
        self.take(len);
        self.out.push_str(text);
    }

    /// Length of the comment or the blanks that come next.
    fn ignored(&self) -> usize {
        if let Some(comment) = self.rest.strip_prefix("(?#") {
            let mut escaped = false;
            let end = comment.find(|c: char| {
                let closes = c == ')' && !escaped;
                escaped = c == '\\' && !escaped;
                closes
            });
            return end.map_or(self.rest.len(), |end| "(?#".len() + end + 1);
        }
        if !self.group.extended {
            return 0;
        }
        if self.rest.starts_with('#') {
            return self.rest.find('\n').map_or(self.rest.len(), |end| end + 1);
        }
        self.rest.len() - self.rest.trim_start().len()
    }

    /// Rewrites one step of the pattern; where it starts in the output if it can be repeated.
    fn atom(&mut self) -> Result<Option<usize>, String> {
        let start = self.out.len();
        let ignored = self.ignored();
        if ignored > 0 {
            let text = self.take(ignored);
            if text.starts_with("(?#") {
                self.out.push_str(text);
            }
            return Ok(None);
        }
        let Some(first) = self.rest.chars().next() else { return Ok(None) };
        match first {
            '\\' => self.escape(false)?,
            '[' => self.class()?,
            '(' => {
                self.open()?;
                return Ok(None);
            }
            ')' => {
                self.close_options();
                self.copy(1);
                let Some(outer) = self.outer.pop() else { return Ok(None) };
                let group = mem::replace(&mut self.group, outer);
                return Ok(Some(group.start));
            }
            // Every line starts there, but none starts after the newline that ends the text.
            '^' => self.replace(1, r"(?:\A|(?m:^)(?!\z))"),
            '$' => self.replace(1, "(?m:$)"),
            // No interval to Oniguruma.
            '{' if self.rest.starts_with("{,}") => self.replace(1, r"\{"),
            '|' | '*' | '+' | '?' => {
                self.copy(1);
                return Ok(None);
            }
            other => self.copy(other.len_utf8()),
        }
        Ok(Some(start))
    }

    /// Rewrites what repeats the part of the output from `start` on. Any number of repeats may follow one
    /// another in Ruby's syntax, each repeating all that is before it.
    fn repeats(&mut self, start: usize) -> Result<(), String> {
        let mut stacked = 0;
        loop {
            let before = self.rest;
            loop {
                let ignored = self.ignored();
                if ignored == 0 {
                    break;
                }
                self.take(ignored);
            }
            let Some((text, len)) = repeat(self.rest)? else {
                self.rest = before;
                return Ok(());
            };
            if stacked == MAX_STACKED {
                return Err(format!("more than {MAX_STACKED} repeats of one another"));
            }
            if stacked > 0 {
                self.out.insert_str(start, "(?:");
                self.out.push(')');
            }
            self.replace(len, &text);
            stacked += 1;
        }
    }

    /// Rewrites the start of a group.
    fn open(&mut self) -> Result<(), String> {
        let (start, rest, extended) = (self.out.len(), self.rest, self.group.extended);
        let Some(kind) = rest.strip_prefix("(?") else {
            self.copy(1);
            self.enter(start, extended);
            return Ok(());
        };
        let head = match kind.chars().next() {
            Some(':' | '=' | '!' | '>') => 3,
            // The condition is a group of its own.
            Some('(') => 2,
            Some('<') if kind.starts_with("<=") || kind.starts_with("<!") => 4,
            Some('<') => rest.find('>').map_or(rest.len(), |end| end + 1),
            Some('\'') => quoted(kind).map_or(rest.len(), |len| len + 2),
            _ => return self.options(kind),
        };
        self.copy(head);
        self.enter(start, extended);
        Ok(())
    }

    fn enter(&mut self, start: usize, extended: bool) {
        let group = Group { start, options: 0, extended };
        self.outer.push(mem::replace(&mut self.group, group));
    }

    /// Rewrites `(?i:` or `(?i)`, where `kind` is what comes after the question mark.
    fn options(&mut self, kind: &str) -> Result<(), String> {
        let start = self.out.len();
        let letters = kind.split([':', ')']).next().unwrap_or_default();
        let (mut on, mut off) = (String::new(), String::new());
        let (mut extended, mut negative) = (self.group.extended, false);
        for letter in letters.chars() {
            let letters = if negative { &mut off } else { &mut on };
            match letter {
                '-' => negative = true,
                'i' => letters.push('i'),
                // Ruby calls "multiline" what others call "dot matches newline".
                'm' => letters.push('s'),
                // Blanks and comments are left out of the output.
                'x' => extended = !negative,
                other => return Err(format!("the group (?{other}")),
            }
        }
        let isolated = kind.get(letters.len()..).is_some_and(|rest| rest.starts_with(')'));
        self.take("(?".len() + letters.len() + 1);
        self.out.push_str("(?");
        self.out.push_str(&on);
        if !off.is_empty() {
            self.out.push('-');
            self.out.push_str(&off);
        }
        self.out.push(':');
        if isolated {
            // It holds for all alternatives up to the end of the group around it.
            self.group.options += 1;
            self.group.extended = extended;
        } else {
            self.enter(start, extended);
        }
        Ok(())
    }

    /// Ends the groups that stand for options in the innermost group.
    fn close_options(&mut self) {
        for _ in 0..mem::take(&mut self.group.options) {
            self.out.push(')');
        }
    }

    /// Rewrites what starts with a backslash.
    fn escape(&mut self, in_class: bool) -> Result<(), String> {
        let rest = self.rest;
        let Some(kind) = rest.chars().nth(1) else {
            self.copy(1);
            return Ok(());
        };
        let after = rest.get(1 + kind.len_utf8()..).unwrap_or_default();
        match kind {
            'p' | 'P' => {
                let name = after.strip_prefix('{').and_then(|name| name.split_once('}'));
                let Some((name, _)) = name else { return Err(format!("\\{kind} without braces")) };
                let len = r"\p{}".len() + name.len();
                let (name, caret) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
                let negative = caret != (kind == 'P');
                if caret {
                    let kind = if negative { 'P' } else { 'p' };
                    self.replace(len, &format!("\\{kind}{{{name}}}"));
                } else {
                    self.copy(len);
                }
            }
            '0'..='7' if in_class || kind == '0' => {
                let digits = rest.chars().skip(1).take(3).take_while(|c| c.is_digit(8));
                let digits: String = digits.collect();
                match u32::from_str_radix(&digits, 8) {
                    Ok(code) if code < 0x80 => self.replace(1 + digits.len(), &format!("\\x{code:02X}")),
                    _ => return Err(format!("the byte \\{digits}")),
                }
            }
            '0'..='9' if !in_class => {
                let digits = rest.chars().skip(1).take_while(char::is_ascii_digit).count();
                // A digit may follow, after blanks that are left out.
                self.out.push_str(if self.group.extended { "(?:" } else { "" });
                self.copy(1 + digits);
                self.out.push_str(if self.group.extended { ")" } else { "" });
            }
            // One byte of a character to Oniguruma, a character to others.
            'x' if after.get(..2).is_some_and(|hex| u8::from_str_radix(hex, 16).is_ok_and(|b| b >= 0x80)) => {
                return Err(format!("the byte \\x{}", after.get(..2).unwrap_or_default()));
            }
            // A whole character, to be repeated as one.
            'x' | 'u' if !in_class => {
                let most = if kind == 'x' { 2 } else { 4 };
                let len = match after.strip_prefix('{') {
                    Some(code) => code.find('}').map_or(0, |end| end + "{}".len()),
                    None => after.bytes().take(most).take_while(u8::is_ascii_hexdigit).count(),
                };
                self.copy(2 + len);
            }
            'k' | 'g' if !in_class => {
                let name = match after.chars().next() {
                    Some('<') => after.find('>').map(|end| end + 1),
                    Some('\'') => quoted(after),
                    _ => None,
                };
                self.copy(2 + name.unwrap_or(0));
            }
            // Before the last newline of the text, not before any number of them.
            'Z' if !in_class => self.replace(2, r"(?=\n?\z)"),
            // No edges of words in Ruby's syntax.
            '<' | '>' if !in_class => {
                self.take(1);
                self.copy(1);
            }
            'w' | 'W' if in_class => self.set(2, WORD_IN_CLASS, kind == 'W'),
            'w' => self.replace(2, WORD),
            'W' => self.replace(2, &WORD.replacen('[', "[^", 1)),
            'b' if !in_class => self.replace(2, &format!("(?:(?<={WORD})(?!{WORD})|(?<!{WORD})(?={WORD}))")),
            'B' if !in_class => self.replace(2, &format!("(?:(?<={WORD})(?={WORD})|(?<!{WORD})(?!{WORD}))")),
            _ => self.copy(1 + kind.len_utf8()),
        }
        Ok(())
    }

    /// Writes what a class inside another holds for the next bytes.
    fn set(&mut self, len: usize, set: &str, negative: bool) {
        let single = set.starts_with('\\') && set.matches('\\').count() == 1;
        let text = match (negative, single) {
            (true, _) => format!("[^{set}]"),
            (false, true) => set.to_owned(),
            (false, false) => format!("[{set}]"),
        };
        self.replace(len, &text);
    }

    /// Rewrites a class.
    fn class(&mut self) -> Result<(), String> {
        let mut depth = 0_usize;
        while let Some(first) = self.rest.chars().next() {
            match first {
                '\\' => self.escape(true)?,
                '[' => {
                    if depth > 0
                        && let Some((set, negative, len)) = posix(self.rest)?
                    {
                        self.set(len, set, negative);
                        continue;
                    }
                    depth += 1;
                    self.copy(1);
                    if self.rest.starts_with('^') {
                        self.copy(1);
                    }
                    // Neither ends the class, or subtracts from it, where it starts.
                    if self.rest.starts_with(']') {
                        self.replace(1, r"\]");
                    } else if self.rest.starts_with("--") {
                        self.replace(1, r"\-");
                    }
                }
                ']' => {
                    depth = depth.saturating_sub(1);
                    self.copy(1);
                    if depth == 0 {
                        return Ok(());
                    }
                }
                // Both are operators to `fancy-regex` alone.
                '-' if self.rest.starts_with("--") => {
                    self.copy(1);
                    self.replace(1, r"\-");
                }
                '~' if self.rest.starts_with("~~") => self.replace(1, r"\~"),
                other => self.copy(other.len_utf8()),
            }
        }
        Ok(())
    }
}

/// Length of the quoted name that a text starts with, with its quotes.
fn quoted(text: &str) -> Option<usize> {
    let name = text.strip_prefix('\'')?;
    name.find('\'').map(|end| end + 2)
}

/// The repeat that a text starts with, rewritten, and its length.
fn repeat(rest: &str) -> Result<Option<(String, usize)>, String> {
    let mut next = rest.chars();
    if let Some(mark @ ('?' | '*' | '+')) = next.next() {
        let mut text = String::from(mark);
        text.extend(next.next().filter(|suffix| matches!(suffix, '?' | '+')));
        let len = text.len();
        return Ok(Some((text, len)));
    }
    let Some((bounds, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
        return Ok(None);
    };
    let (low, high) = bounds.split_once(',').unwrap_or((bounds, bounds));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(low) || !digits(high) || (low.is_empty() && high.is_empty()) {
        return Ok(None);
    }
    if let (Ok(low), Ok(high)) = (low.parse::<u64>(), high.parse::<u64>())
        && low > high
    {
        return Err(format!("the interval {{{bounds}}}"));
    }
    let mut text = if low.is_empty() { format!("{{0{bounds}}}") } else { format!("{{{bounds}}}") };
    let mut len = bounds.len() + 2;
    // After a fixed count, a question mark is a repeat of its own, and so is a plus after any interval.
    if bounds.contains(',') && after.starts_with('?') {
        text.push('?');
        len += 1;
    }
    Ok(Some((text, len)))
}

/// The `[:name:]` that a text starts with: what it holds, whether it is negated, and its length.
fn posix(rest: &str) -> Result<Option<(&'static str, bool, usize)>, String> {
    let Some((name, _)) = rest.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
        return Ok(None);
    };
    let len = "[::]".len() + name.len();
    let (name, negative) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphabetic()) {
        return Ok(None);
    }
    let set = match name {
        "alpha" => r"\p{Alphabetic}",
        "upper" => r"\p{Uppercase}",
        "lower" => r"\p{Lowercase}",
        "digit" => r"\p{Nd}",
        "alnum" => r"\p{Alphabetic}\p{Nd}",
        "space" => r"\s",
        "blank" => r"\p{Zs}\t",
        "punct" => PUNCT,
        "cntrl" => r"\p{Cc}",
        "xdigit" => "0-9A-Fa-f",
        "ascii" => r"\x00-\x7F",
        "word" => WORD_IN_CLASS,
        other => return Err(format!("the class [:{other}:]")),
    };
    Ok(Some((set, negative, len)))
}
