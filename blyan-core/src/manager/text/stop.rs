//! Owns stop strings: finding them in text that arrives in pieces.

/// Most stop strings of one generation.
pub(super) const MAX_STOPS: usize = 64;
/// Longest stop string in bytes.
pub(super) const MAX_STOP_BYTES: usize = 1024;

/// Stop strings that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// An empty stop string is everywhere.
    #[error("stop string {index} is empty: leave it out")]
    Empty {
        /// Its place in the list.
        index: usize,
    },
    /// A stop string is too long.
    #[error("stop string {index} has {len_bytes} bytes: at most {MAX_STOP_BYTES} are allowed")]
    TooLong {
        /// Its place in the list.
        index: usize,
        /// Its length.
        len_bytes: usize,
    },
    /// There are too many.
    #[error("{count} stop strings: at most {MAX_STOPS} are allowed")]
    TooMany {
        /// Their number.
        count: usize,
    },
}

/// A stop string that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Its place in the list.
    pub index: usize,
}

/// Passes on text until a stop string appears, and holds back what may be the start of one.
///
/// Of several stop strings the one that is complete first counts, of two that end together the
/// longer: so how the text is cut into pieces makes no difference.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<Stop>,
    held: String,
    stopped: Option<Stopped>,
}

/// A Knuth-Morris-Pratt automaton.
#[derive(Debug, Clone)]
struct Stop {
    text: Vec<u8>,
    /// For each length of a matched prefix, the length of its longest proper prefix that is also its
    /// suffix.
    failure: Vec<usize>,
    /// Length of the longest prefix that the text so far ends with.
    matched: usize,
}

impl Stop {
    fn new(text: &str) -> Self {
        let text = text.as_bytes().to_vec();
        let mut failure = vec![0; text.len() + 1];
        let mut border = 0;
        for end in 1..text.len() {
            while border > 0 && text[end] != text[border] {
                border = failure[border];
            }
            border += usize::from(text[end] == text[border]);
            failure[end + 1] = border;
        }
        Self { text, failure, matched: 0 }
    }

    /// Whether the text ends with the whole stop string, now that `byte` was added.
    fn advance(&mut self, byte: u8) -> bool {
        // A complete match ends the search, so `matched` is a proper prefix here.
        while self.matched > 0 && self.text[self.matched] != byte {
            self.matched = self.failure[self.matched];
        }
        self.matched += usize::from(self.text[self.matched] == byte);
        self.matched == self.text.len()
    }
}

impl StopStrings {
    /// Looks for any of `stops`; none is fine.
    ///
    /// # Errors
    ///
    /// [`StopError`] for an empty or overlong string, or too many.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Result<Self, StopError> {
        if stops.len() > MAX_STOPS {
            return Err(StopError::TooMany { count: stops.len() });
        }
        for (index, stop) in stops.iter().enumerate() {
            let len_bytes = stop.as_ref().len();
            if len_bytes == 0 {
                return Err(StopError::Empty { index });
            }
            if len_bytes > MAX_STOP_BYTES {
                return Err(StopError::TooLong { index, len_bytes });
            }
        }
        let stops = stops.iter().map(|stop| Stop::new(stop.as_ref())).collect();
        Ok(Self { stops, held: String::new(), stopped: None })
    }

    /// Adds text and returns what is certain to precede every stop string. After one was found,
    /// nothing is returned any more.
    pub fn push(&mut self, text: &str) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (place, &byte) in text.as_bytes().iter().enumerate() {
            let mut found: Option<(usize, usize)> = None;
            for (index, stop) in self.stops.iter_mut().enumerate() {
                let len = stop.text.len();
                if stop.advance(byte) && found.is_none_or(|(_, longest)| len > longest) {
                    found = Some((index, len));
                }
            }
            if let Some((index, len)) = found {
                self.stopped = Some(Stopped { index });
                // A stop string is UTF-8, so it starts and ends between characters.
                self.held.truncate(before + place + 1 - len);
                return std::mem::take(&mut self.held);
            }
        }
        let open = self.stops.iter().map(|stop| stop.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - open);
        std::mem::replace(&mut self.held, rest)
    }

    /// The stop string that was found.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped
    }

    /// Ends the text: returns what was held back, nothing if a stop string was found.
    pub fn finish(&mut self) -> String {
        for stop in &mut self.stops {
            stop.matched = 0;
        }
        std::mem::take(&mut self.held)
    }
}
