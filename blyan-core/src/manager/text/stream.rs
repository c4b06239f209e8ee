//! Owns incremental detokenization: pieces that together are the full decode.
//!
//! A tokenizer's decoder is a chain of steps over a list of token texts. Most steps look at one text
//! at a time, so their output is final at once; the others are done here with the least delay that
//! is possible: bytes wait until they are a character, `<0xE2>` tokens until their run ends (an
//! invalid byte anywhere in it turns all of it into U+FFFD), trailing characters that may have to be
//! stripped until another follows. A chain with any other step is decoded at the end, in one piece.

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::strip::Strip;
use tokenizers::{Decoder, Model};

use super::{TextError, Tokenizer, caught};

/// Decodes tokens as they come. The pieces, joined, equal [`Tokenizer::decode`] of all tokens.
#[derive(Debug)]
pub struct StreamDecoder {
    tokenizer: Tokenizer,
    skip_special_tokens: bool,
    chain: Chain,
}

#[derive(Debug)]
enum Chain {
    /// Every step is final token by token.
    Steps(Vec<Step>),
    /// Some step may change its mind: nothing is final before the end.
    Whole(Vec<u32>),
}

/// One step of a decoder, with what it holds back.
#[derive(Debug)]
enum Step {
    /// Looks at each text by itself.
    Each(DecoderWrapper),
    /// Looks at each text by itself, but treats the first one differently.
    First { decoder: DecoderWrapper, first: bool },
    /// Looks at each text by itself, but treats the last one differently.
    Last { decoder: DecoderWrapper, held: Option<String> },
    /// No decoder: a space between every two texts.
    Spaces { first: bool },
    /// Runs of `<0x..>` texts are bytes.
    Bytes { run: Vec<String> },
    /// Every character of a text is a byte; ends in one text.
    ByteLevel { bytes: Vec<u8> },
    /// Strips one text that arrives in pieces.
    Strip { strip: Strip, start_left: usize, held: String },
}

impl Step {
    /// The steps of a decoder, unless one of them is final only at the end.
    fn chain(decoder: Option<&DecoderWrapper>) -> Option<Vec<Self>> {
        let decoders = match decoder {
            None => return Some(vec![Self::Spaces { first: true }]),
            Some(DecoderWrapper::Sequence(sequence)) => sequence.get_decoders(),
            Some(decoder) => std::slice::from_ref(decoder),
        };
        let mut steps = Vec::with_capacity(decoders.len());
        // Whether what comes out of the steps so far is one text, in pieces.
        let mut fused = false;
        for decoder in decoders {
            steps.push(match decoder {
                DecoderWrapper::Fuse(_) => {
                    fused = true;
                    continue;
                }
                DecoderWrapper::Strip(strip) if fused => {
                    Self::Strip { strip: strip.clone(), start_left: strip.start, held: String::new() }
                }
                _ if fused => return None,
                DecoderWrapper::Replace(_) | DecoderWrapper::Strip(_) => Self::Each(decoder.clone()),
                DecoderWrapper::Metaspace(_) | DecoderWrapper::WordPiece(_) => {
                    Self::First { decoder: decoder.clone(), first: true }
                }
                DecoderWrapper::BPE(_) => Self::Last { decoder: decoder.clone(), held: None },
                DecoderWrapper::ByteFallback(_) => Self::Bytes { run: Vec::new() },
                DecoderWrapper::ByteLevel(_) => {
                    fused = true;
                    Self::ByteLevel { bytes: Vec::new() }
                }
                _ => return None,
            });
        }
        Some(steps)
    }

    /// Adds a text, and appends to `out` what became final.
    fn push(&mut self, text: String, out: &mut Vec<String>) -> tokenizers::Result<()> {
        match self {
            Self::Each(decoder) => out.extend(decoder.decode_chain(vec![text])?),
            Self::First { decoder, first } => {
                if std::mem::take(first) {
                    out.extend(decoder.decode_chain(vec![text])?);
                } else {
                    out.extend(decoder.decode_chain(vec![String::new(), text])?.into_iter().skip(1));
                }
            }
            Self::Last { decoder, held } => {
                if let Some(before) = held.replace(text) {
                    out.extend(decoder.decode_chain(vec![before, String::new()])?.into_iter().take(1));
                }
            }
            Self::Spaces { first } => {
                out.push(if std::mem::take(first) { text } else { format!(" {text}") });
            }
            Self::Bytes { run } => {
                if is_byte(&text) {
                    run.push(text);
                } else {
                    if !run.is_empty() {
                        out.extend(ByteFallback::new().decode_chain(std::mem::take(run))?);
                    }
                    out.push(text);
                }
            }
            Self::ByteLevel { bytes } => {
                match text.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                    Some(decoded) => bytes.extend(decoded),
                    None => bytes.extend(text.into_bytes()),
                }
                out.push(take_characters(bytes));
            }
            Self::Strip { strip, start_left, held } => {
                held.push_str(&text);
                while *start_left > 0 {
                    match held.chars().next() {
                        Some(c) if c == strip.content => {
                            held.remove(0);
                            *start_left -= 1;
                        }
                        Some(_) => *start_left = 0,
                        None => break,
                    }
                }
                let tail = held.chars().rev().take(strip.stop).take_while(|&c| c == strip.content).count();
                let rest = held.split_off(held.len() - tail * strip.content.len_utf8());
                out.push(std::mem::replace(held, rest));
            }
        }
        Ok(())
    }

    /// Appends to `out` what was held back, now that no text follows.
    fn finish(&mut self, out: &mut Vec<String>) -> tokenizers::Result<()> {
        match self {
            Self::Each(_) | Self::First { .. } | Self::Spaces { .. } => {}
            Self::Last { decoder, held } => {
                if let Some(text) = held.take() {
                    out.extend(decoder.decode_chain(vec![text])?);
                }
            }
            Self::Bytes { run } => out.extend(ByteFallback::new().decode_chain(std::mem::take(run))?),
            Self::ByteLevel { bytes } => {
                out.push(String::from_utf8_lossy(&std::mem::take(bytes)).into_owned());
            }
            // What is held is what is stripped.
            Self::Strip { held, .. } => held.clear(),
        }
        Ok(())
    }
}

/// Whether the byte-fallback step takes a text for a byte.
fn is_byte(text: &str) -> bool {
    let digits = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    digits.is_some_and(|digits| digits.len() == 2 && u8::from_str_radix(digits, 16).is_ok())
}

/// The byte that a character stands for in byte-level vocabularies: GPT-2's `bytes_to_unicode`, in
/// which printable Latin-1 characters stand for themselves and the rest follow from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&byte| printable(byte)),
        code => (0..=u8::MAX).filter(|&byte| !printable(byte)).nth((code - 0x100) as usize),
    }
}

/// Takes all whole characters off the front, with U+FFFD for what can be none; leaves the start of a
/// character that may still be completed.
fn take_characters(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        done += chunk.valid().len();
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            break;
        }
        let unfinished = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
        if unfinished && done + invalid.len() == bytes.len() {
            break;
        }
        text.push(char::REPLACEMENT_CHARACTER);
        done += invalid.len();
    }
    bytes.drain(..done);
    text
}

/// Runs texts through steps; with `finish`, each step also gives up what it holds.
fn run(steps: &mut [Step], mut texts: Vec<String>, finish: bool) -> tokenizers::Result<String> {
    for step in steps {
        let mut out = Vec::with_capacity(texts.len());
        for text in texts {
            step.push(text, &mut out)?;
        }
        if finish {
            step.finish(&mut out)?;
        }
        texts = out;
    }
    Ok(texts.concat())
}

impl StreamDecoder {
    pub(super) fn new(tokenizer: Tokenizer, skip_special_tokens: bool) -> Self {
        let chain = match Step::chain(tokenizer.0.tokenizer.get_decoder()) {
            Some(steps) => Chain::Steps(steps),
            None => Chain::Whole(Vec::new()),
        };
        Self { tokenizer, skip_special_tokens, chain }
    }

    /// Adds a token; returns the text that became final, often empty, never half a character.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, token: u32) -> Result<String, TextError> {
        self.tokenizer.check(&[token])?;
        if self.skip_special_tokens && self.tokenizer.is_special(token) {
            return Ok(String::new());
        }
        let inner = &self.tokenizer.0.tokenizer;
        match &mut self.chain {
            Chain::Whole(tokens) => {
                tokens.push(token);
                Ok(String::new())
            }
            Chain::Steps(steps) => {
                let added = inner.get_added_vocabulary();
                let text = added.simple_id_to_token(token).or_else(|| inner.get_model().id_to_token(token));
                match text {
                    Some(text) if !(self.skip_special_tokens && added.is_special_token(&text)) => {
                        caught(|| run(steps, vec![text], false))
                            .map_err(|reason| TextError::Decode { reason })
                    }
                    _ => Ok(String::new()),
                }
            }
        }
    }

    /// Ends the text and returns the rest of it; the decoder starts anew.
    ///
    /// # Errors
    ///
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self) -> Result<String, TextError> {
        let fresh = Self::new(self.tokenizer.clone(), self.skip_special_tokens);
        match std::mem::replace(self, fresh).chain {
            Chain::Whole(tokens) => self.tokenizer.decode(&tokens, self.skip_special_tokens),
            Chain::Steps(mut steps) => {
                caught(|| run(&mut steps, Vec::new(), true)).map_err(|reason| TextError::Decode { reason })
            }
        }
    }
}
