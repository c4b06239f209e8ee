//! Owns the grammar of slot names: what a block fills in a model.
//!
//! ```text
//! slot   = "embedding" | "final_norm" | "head"
//!        | "tokenizer" | "tokenizer_config" | "special_tokens_map"
//!        | "chat_template" | "generation_config"
//!        | "layer" number "." part
//! part   = "attention" | "router" | "shared_expert" | "expert" number
//! number = "0" | [1-9][0-9]*            at most 4294967295
//! ```

use std::fmt;
use std::str::FromStr;

use super::kind::BlockKind;

/// A place in a model that one block fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Slot {
    /// Token embedding.
    Embedding,
    /// Norms, projections and biases of a layer's attention, and both norms of the layer.
    Attention {
        /// Layer index.
        layer: u32,
    },
    /// Router of a mixture-of-experts layer.
    Router {
        /// Layer index.
        layer: u32,
    },
    /// One expert; a dense layer is one expert without a router.
    Expert {
        /// Layer index.
        layer: u32,
        /// Expert index within the layer.
        expert: u32,
    },
    /// The expert every token uses, with its gate.
    SharedExpert {
        /// Layer index.
        layer: u32,
    },
    /// Norm before the output head.
    FinalNorm,
    /// Output head, where it is not tied to the embedding.
    Head,
    /// `tokenizer.json`.
    Tokenizer,
    /// `tokenizer_config.json`.
    TokenizerConfig,
    /// `special_tokens_map.json`.
    SpecialTokensMap,
    /// `chat_template.jinja`.
    ChatTemplate,
    /// `generation_config.json`.
    GenerationConfig,
}

impl Slot {
    /// The kind of block that fills this slot.
    pub const fn kind(self) -> BlockKind {
        match self {
            Self::Embedding => BlockKind::EMBEDDING,
            Self::Attention { .. } => BlockKind::ATTENTION,
            Self::Router { .. } => BlockKind::ROUTER,
            Self::Expert { .. } => BlockKind::EXPERT,
            Self::SharedExpert { .. } => BlockKind::SHARED_EXPERT,
            Self::FinalNorm => BlockKind::FINAL_NORM,
            Self::Head => BlockKind::HEAD,
            Self::Tokenizer => BlockKind::TOKENIZER,
            Self::TokenizerConfig => BlockKind::TOKENIZER_CONFIG,
            Self::SpecialTokensMap => BlockKind::SPECIAL_TOKENS_MAP,
            Self::ChatTemplate => BlockKind::CHAT_TEMPLATE,
            Self::GenerationConfig => BlockKind::GENERATION_CONFIG,
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedding => f.write_str("embedding"),
            Self::Attention { layer } => write!(f, "layer{layer}.attention"),
            Self::Router { layer } => write!(f, "layer{layer}.router"),
            Self::Expert { layer, expert } => write!(f, "layer{layer}.expert{expert}"),
            Self::SharedExpert { layer } => write!(f, "layer{layer}.shared_expert"),
            Self::FinalNorm => f.write_str("final_norm"),
            Self::Head => f.write_str("head"),
            Self::Tokenizer => f.write_str("tokenizer"),
            Self::TokenizerConfig => f.write_str("tokenizer_config"),
            Self::SpecialTokensMap => f.write_str("special_tokens_map"),
            Self::ChatTemplate => f.write_str("chat_template"),
            Self::GenerationConfig => f.write_str("generation_config"),
        }
    }
}

/// A name outside the slot grammar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name:?} is no slot name, such as layer3.expert7 or embedding")]
pub struct ParseSlotError {
    /// The name as given, cut to 80 characters.
    pub name: String,
}

/// A decimal number with exactly one spelling.
fn parse_number(digits: &str) -> Option<u32> {
    let canonical = digits.bytes().all(|c| c.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    canonical.then(|| digits.parse().ok())?
}

fn parse(name: &str) -> Option<Slot> {
    Some(match name {
        "embedding" => Slot::Embedding,
        "final_norm" => Slot::FinalNorm,
        "head" => Slot::Head,
        "tokenizer" => Slot::Tokenizer,
        "tokenizer_config" => Slot::TokenizerConfig,
        "special_tokens_map" => Slot::SpecialTokensMap,
        "chat_template" => Slot::ChatTemplate,
        "generation_config" => Slot::GenerationConfig,
        _ => {
            let (layer, part) = name.strip_prefix("layer")?.split_once('.')?;
            let layer = parse_number(layer)?;
            match part {
                "attention" => Slot::Attention { layer },
                "router" => Slot::Router { layer },
                "shared_expert" => Slot::SharedExpert { layer },
                _ => Slot::Expert { layer, expert: parse_number(part.strip_prefix("expert")?)? },
            }
        }
    })
}

impl FromStr for Slot {
    type Err = ParseSlotError;

    fn from_str(name: &str) -> Result<Self, ParseSlotError> {
        parse(name).ok_or_else(|| ParseSlotError { name: name.chars().take(80).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_round_trips() {
        let slots = [
            Slot::Embedding,
            Slot::Attention { layer: 0 },
            Slot::Router { layer: 10 },
            Slot::Expert { layer: 3, expert: 7 },
            Slot::SharedExpert { layer: u32::MAX },
            Slot::FinalNorm,
            Slot::Head,
            Slot::Tokenizer,
            Slot::TokenizerConfig,
            Slot::SpecialTokensMap,
            Slot::ChatTemplate,
            Slot::GenerationConfig,
        ];
        for slot in slots {
            assert_eq!(slot.to_string().parse::<Slot>(), Ok(slot));
        }
    }

    #[test]
    fn only_one_spelling_is_accepted() {
        for name in [
            "",
            "layer",
            "layer1",
            "layer01.router",
            "layer1.expert",
            "layer1.expert01",
            "layer1.expert+1",
            "layer4294967296.router",
            "Layer1.router",
            "layer1.router ",
            "layer-1.router",
            "../embedding",
            "layer1.expert1.gate",
        ] {
            assert!(name.parse::<Slot>().is_err(), "{name}");
        }
    }
}
