//! Owns the arguments: what can be said on the command line, and the help that explains it.

use std::path::PathBuf;

use blyan_core::evolve::DEFAULT_WINDOW;
use blyan_core::import::dtype_of_option;
use blyan_core::kernels::{Isa, KernelError};
use blyan_core::manager::SamplingOptions;
use blyan_core::manager::chat::CivilTime;
use blyan_core::model::KvDType;
use blyan_core::{BlockHash, BlockKind, ChainError, ChainId, DType, Draft};
use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args, Parser, Subcommand};

const OVERVIEW: &str = "\
A chain is a directory that holds models as blocks, each named by its hash,
one expert per block. A first session:

  blyan import models/tiny-kjv-moe      take a checkpoint apart into blocks
  blyan generate 'And God said' -n 40   run the model from its blocks
  blyan log                             list the blocks
  blyan show layer0.expert1             look at one of them
  blyan verify                          check every block against its hash

Blocks are named by their hash or its first 4 digits or more, by a slot of the
model (layer0.expert1, embedding, tokenizer), by a release (name or
name@version), or as latest: the model that no other follows.

Models evolve by blocks that follow others: blyan log latest, blyan diff,
blyan release, blyan rollback; blyan bundle and blyan unbundle carry them to
other chains.

Exit codes: 0 done and found well, 1 failed or found something bad, 2 wrong
arguments, 130 stopped by Ctrl-C. A chain is sound at every moment, also if a
command is killed.";

/// Keep models as content-addressed blocks, one expert per block, and run them from those blocks alone.
#[derive(Debug, Parser)]
#[command(name = "blyan", version, after_help = OVERVIEW)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(crate) struct Arguments {
    /// Directory of the chain [default: what the variable BLYAN_CHAIN says, or else data].
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) chain: Option<PathBuf>,

    /// Print one JSON document instead of text, and errors as JSON too.
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Arguments {
    /// Directory of the chain. An empty variable is as good as none.
    pub(crate) fn chain(&self) -> PathBuf {
        let variable = || std::env::var_os("BLYAN_CHAIN").filter(|dir| !dir.is_empty()).map(PathBuf::from);
        self.chain.clone().or_else(variable).unwrap_or_else(|| PathBuf::from("data"))
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Take a checkpoint folder or a GGUF file apart into blocks.
    Import(Import),
    /// Write a model back as a checkpoint folder.
    Export(Export),
    /// List blocks, or the history of one.
    Log(Log),
    /// Look at one block: header, tensors, parents, signatures.
    Show(Show),
    /// Check every block against its hash.
    Verify(Verify),
    /// Write text with a model, or answer a chat.
    Generate(Box<Generate>),
    /// Show which experts worked how much.
    Usage(Usage),
    /// Compare two models: slots, bytes, how far the weights moved.
    Diff(Diff),
    /// Give a model a name and a version.
    Release(Release),
    /// List releases.
    Releases(Releases),
    /// Go back to an older model, by a new one that follows.
    Rollback(Rollback),
    /// Write blocks into one file, for another chain.
    Bundle(Bundle),
    /// Take in the blocks of a bundle, checking all of them.
    Unbundle(Unbundle),
    /// Delete payloads that no release and no newest model needs.
    Gc(Gc),
    /// Check what a receipt claims.
    #[command(subcommand)]
    Receipt(Receipt),
}

const IMPORT: &str = "\
Examples:
  blyan import models/tiny-kjv-moe
  blyan import OLMoE-1B-7B --dtype int8
  blyan import SmolLM2-135M-Instruct.Q4_1.gguf --chain chats
  blyan import big-model --dry-run --json

The chain's directory is made if it is not there. Blocks that the chain holds
already are not written again, so a second import of the same checkpoint adds
nothing.";

#[derive(Debug, Args)]
#[command(after_help = IMPORT)]
pub(crate) struct Import {
    /// Folder in Hugging Face's layout, or a GGUF file (the first, if it is split).
    pub(crate) path: PathBuf,

    /// Type of the weights: f32, bf16, f16, fp8, int8 or int4 [default: as in the checkpoint; f16 for GGUF's
    /// quantized types].
    #[arg(long, value_name = "TYPE", value_parser = dtype_of_option)]
    pub(crate) dtype: Option<DType>,

    /// What rotary frequencies are rounded to: f32, or bf16 for a model that was cast to it as a whole.
    #[arg(long, value_name = "TYPE", value_parser = frequency_dtype)]
    pub(crate) rope_frequencies: Option<DType>,

    /// A key of config.json or of the GGUF metadata that is known not to change the arithmetic; may be given
    /// again.
    #[arg(long, value_name = "KEY")]
    pub(crate) ignore_key: Vec<String>,

    /// Only report what would be added.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

const EXPORT: &str = "\
Examples:
  blyan export out/tiny                     the chain's only model
  blyan export out/tiny --model 53b64b82    one of several
  blyan export out/tiny --overwrite";

#[derive(Debug, Args)]
#[command(after_help = EXPORT)]
pub(crate) struct Export {
    /// Folder to write; made if it is not there.
    pub(crate) dir: PathBuf,

    #[command(flatten)]
    pub(crate) model: Model,

    /// Write into a folder that is not empty.
    #[arg(long)]
    pub(crate) overwrite: bool,

    /// Split the weights into files of at most this many bytes.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) max_shard_bytes: Option<u64>,
}

const LOG: &str = "\
Examples:
  blyan log                       every block, parents before children
  blyan log --lane A              models and their specs
  blyan log --kind expert
  blyan log layer0.expert1        the block in a slot and those that it followed,
                                  the newest first
  blyan log layer0.expert1 --all  every block that was made for the slot
  blyan log latest                the newest model and those that it followed
  blyan log --tips                blocks that nothing in their lane builds on
  blyan log 53b64b82              a block and those that it followed, the newest
                                  first";

#[derive(Debug, Args)]
#[command(after_help = LOG, mut_arg("model", |model| model.requires("name")))]
pub(crate) struct Log {
    /// A slot or a block whose history to list.
    #[arg(value_name = "SLOT|MODEL|HASH")]
    pub(crate) name: Option<String>,

    /// Only this lane: A (specs, models, releases), B (weights and texts) or D (data).
    #[arg(long, value_parser = lane)]
    pub(crate) lane: Option<ChainId>,

    /// Only blocks of this kind, such as model, expert or attention.
    #[arg(long)]
    pub(crate) kind: Option<String>,

    #[command(flatten)]
    pub(crate) model: Model,

    /// Every block that was made for the slot, used or not, parents before children.
    #[arg(long, requires = "name")]
    pub(crate) all: bool,

    /// Only blocks without a child in their lane: what another chain needs to know of this one.
    #[arg(long, conflicts_with_all = ["name", "model", "all"])]
    pub(crate) tips: bool,

    /// At most this many blocks.
    #[arg(short = 'n', long, value_name = "N")]
    pub(crate) max: Option<usize>,
}

const SHOW: &str = "\
Examples:
  blyan show 53b6                 any block by the start of its hash
  blyan show layer0.expert1       the block in a slot of the chain's only model
  blyan show embedding -m 53b6    … of one of several models
  blyan show tiny@1.0.0           a release
  blyan show 53b6 --json | jq .slots";

#[derive(Debug, Args)]
#[command(after_help = SHOW)]
pub(crate) struct Show {
    /// Hash or its start, slot, or release.
    #[arg(value_name = "HASH|SLOT|MODEL")]
    pub(crate) name: String,

    #[command(flatten)]
    pub(crate) model: Model,
}

const VERIFY: &str = "\
Examples:
  blyan verify                    read and hash everything
  blyan verify --headers          only the index: seconds, however large the models are
  blyan verify --json | jq .bad

Goes on after a bad block and names them all; the exit code is then 1.
Importing the same checkpoint again repairs damaged payloads.";

#[derive(Debug, Args)]
#[command(after_help = VERIFY)]
pub(crate) struct Verify {
    /// Leave out the payload files.
    #[arg(long)]
    pub(crate) headers: bool,
}

const GENERATE: &str = "\
Examples:
  blyan generate 'In the beginning' -n 40
  blyan generate -f story.txt --temp 0.8 --top-p 0.95 --seed 7
  blyan generate --chat 'Name three colors.' --system 'Answer in French.'
  blyan generate --messages chat.json
  blyan generate 'And God said' -n 20 --receipt receipt.json

A file of messages is a list: [{\"role\": \"user\", \"content\": \"Hello\"}].

The text is written as it is made. With the same options the same model writes
the same text on every machine; --temp 0, the default, always takes the
likeliest token. Without -n the text ends where the model ends it, at the latest
where its context is full.";

#[derive(Debug, Args)]
#[command(after_help = GENERATE)]
#[command(group(ArgGroup::new("conversation").args(["chat", "messages"]).multiple(true)))]
pub(crate) struct Generate {
    /// What to continue, or with --chat the message to answer.
    #[arg(required_unless_present_any = ["file", "messages"])]
    pub(crate) prompt: Option<String>,

    /// Read the prompt from a file; - is the standard input.
    #[arg(short = 'f', long, value_name = "FILE", conflicts_with_all = ["prompt", "messages"])]
    pub(crate) file: Option<PathBuf>,

    /// Answer the prompt as a message, through the model's chat template.
    #[arg(long)]
    pub(crate) chat: bool,

    /// Begin the chat with this system message.
    #[arg(long, value_name = "TEXT", requires = "chat")]
    pub(crate) system: Option<String>,

    /// Answer the chat in a JSON file: a list of objects with role and content; - is the standard input.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["prompt", "system"])]
    pub(crate) messages: Option<PathBuf>,

    /// The time of the chat, for templates that print it: 2026-03-01 or 2026-03-01T09:05:07.
    #[arg(long, value_name = "TIME", requires = "conversation", value_parser = civil_time)]
    pub(crate) now: Option<CivilTime>,

    #[command(flatten)]
    pub(crate) model: Model,

    /// Try a block in its slot, without appending a model; may be given again. A slot means the block that the
    /// latest model has there, whatever --model says.
    #[arg(long, value_name = "BLOCK")]
    pub(crate) overlay: Vec<String>,

    /// Most new tokens.
    #[arg(short = 'n', long = "predict", visible_aliases = ["n-predict", "max-tokens"], value_name = "N")]
    #[arg(value_parser = at_least_one)]
    pub(crate) max_tokens: Option<usize>,

    /// Temperature; 0 takes the likeliest token.
    #[arg(long = "temp", visible_alias = "temperature", value_name = "X", default_value_t = 0.0)]
    #[arg(allow_negative_numbers = true, value_parser = temperature)]
    pub(crate) temperature: f32,

    /// Keep this many of the likeliest tokens.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub(crate) top_k: Option<usize>,

    /// Keep the likeliest tokens that together have this probability.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = top_p)]
    pub(crate) top_p: Option<f32>,

    /// Keep tokens at least this fraction as likely as the likeliest.
    #[arg(long, value_name = "X", allow_negative_numbers = true, value_parser = min_p)]
    pub(crate) min_p: Option<f32>,

    /// Above 1: make tokens that were seen already less likely.
    #[arg(long = "repeat-penalty", visible_alias = "repetition-penalty", value_name = "X")]
    #[arg(allow_negative_numbers = true, value_parser = repetition_penalty)]
    pub(crate) repetition_penalty: Option<f32>,

    /// Where the random numbers start.
    #[arg(short = 's', long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,

    /// End the text before this, special tokens included; may be given again.
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) stop: Vec<String>,

    /// Go on after a token that ends a text, which the model then reads.
    #[arg(long)]
    pub(crate) ignore_eos: bool,

    /// Type of keys and values: f16 or f32.
    #[arg(long, visible_alias = "cache-type", value_name = "TYPE", default_value = "f16")]
    pub(crate) kv_cache: KvDType,

    #[command(flatten)]
    pub(crate) machine: Machine,

    /// Write a receipt of what was run, for `blyan receipt verify`.
    #[arg(long, value_name = "FILE")]
    pub(crate) receipt: Option<PathBuf>,
}

const USAGE: &str = "\
Examples:
  blyan usage                     the experts that most tokens went through
  blyan usage layer0.expert1
  blyan usage -n 100 --json";

#[derive(Debug, Args)]
#[command(after_help = USAGE)]
pub(crate) struct Usage {
    /// One expert.
    #[arg(value_name = "SLOT")]
    pub(crate) slot: Option<String>,

    #[command(flatten)]
    pub(crate) model: Model,

    /// How many experts.
    #[arg(short = 'n', long = "top", value_name = "N", default_value_t = 20)]
    pub(crate) top: usize,

    /// Start all counts at 0.
    #[arg(long, conflicts_with = "slot")]
    pub(crate) reset: bool,
}

const DIFF: &str = "\
Examples:
  blyan diff tiny@1.0.0 tiny@1.0.1
  blyan diff tiny                 a release and the newest model
  blyan diff 53b64b82 9e12461a --no-weights --json
  blyan diff tiny --text page.txt       and what each of both loses on a text

How far a tensor moved is the norm of the difference over the norm before. The
loss is the mean over the text's tokens, in nats. Both are the same on every
machine.";

#[derive(Debug, Args)]
#[command(after_help = DIFF)]
pub(crate) struct Diff {
    /// The model before: hash, release or latest.
    #[arg(value_name = "BEFORE")]
    pub(crate) before: String,

    /// The model after [default: latest].
    #[arg(value_name = "AFTER")]
    pub(crate) after: Option<String>,

    /// Do not tell how far tensors moved.
    #[arg(long)]
    pub(crate) no_weights: bool,

    /// Measure the loss of both on this text, in the tokens of the model before; - is the standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) text: Option<PathBuf>,

    /// Tokens that a window of the text predicts, each beginning with an empty cache.
    #[arg(
        long, value_name = "N", requires = "text", default_value_t = DEFAULT_WINDOW,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..)
    )]
    pub(crate) window: usize,
}

const RELEASE: &str = "\
Examples:
  blyan release tiny 1.0.0              the chain's newest model
  blyan release tiny 1.0.1 53b64b82     one of several
  blyan generate 'And God said' -m tiny@1.0.0";

#[derive(Debug, Args)]
#[command(after_help = RELEASE)]
pub(crate) struct Release {
    /// The name: a-z, 0-9, '_', '.', '-'.
    pub(crate) name: String,

    /// The version, such as 1.2.0.
    pub(crate) version: semver::Version,

    /// The model [default: latest].
    #[arg(value_name = "MODEL")]
    pub(crate) model: Option<String>,
}

const RELEASES: &str = "\
Examples:
  blyan releases
  blyan releases tiny --json";

#[derive(Debug, Args)]
#[command(after_help = RELEASES)]
pub(crate) struct Releases {
    /// Only releases of this name.
    pub(crate) name: Option<String>,
}

const ROLLBACK: &str = "\
Examples:
  blyan rollback tiny@1.0.0
  blyan rollback tiny@1.0.0 --release tiny@1.0.2 --reason 'worse on Psalms'

Nothing is taken away: a new model follows the newest one and has the blocks of
the older.";

#[derive(Debug, Args)]
#[command(after_help = ROLLBACK)]
pub(crate) struct Rollback {
    /// The model to go back to.
    #[arg(value_name = "MODEL")]
    pub(crate) to: String,

    #[command(flatten)]
    pub(crate) model: Model,

    /// Release the model, too.
    #[arg(long, value_name = "NAME@VERSION", value_parser = name_and_version)]
    pub(crate) release: Option<(String, semver::Version)>,

    /// Why; kept if the two models have other architectures.
    #[arg(long, value_name = "TEXT", default_value = "rolled back")]
    pub(crate) reason: String,
}

const BUNDLE: &str = "\
Examples:
  blyan bundle all.bundle                       the whole chain
  blyan bundle tiny.bundle tiny@1.0.0           a release and all it needs
  blyan bundle news.bundle --lacking ../theirs  what another chain lacks
  blyan bundle - latest | ssh far blyan unbundle -

Payloads and signatures are in it, each once. The same blocks give the same
bytes.";

#[derive(Debug, Args)]
#[command(after_help = BUNDLE, mut_arg("model", |model| model.requires("names")))]
pub(crate) struct Bundle {
    /// File to write; - is the standard output.
    pub(crate) file: PathBuf,

    /// Blocks: hashes, slots, releases or latest [default: the whole chain].
    #[arg(value_name = "BLOCK")]
    pub(crate) names: Vec<String>,

    #[command(flatten)]
    pub(crate) model: Model,

    /// Only the blocks themselves, for who has their parents.
    #[arg(long, requires = "names")]
    pub(crate) no_ancestors: bool,

    /// Leave out the blocks that the chain in this directory has, also those whose payload it lost or collected.
    #[arg(long, value_name = "DIR")]
    pub(crate) lacking: Option<PathBuf>,

    /// Leave out this block and its ancestors, such as a tip of the other chain; may be given again.
    #[arg(long, value_name = "HASH")]
    pub(crate) known: Vec<BlockHash>,
}

const UNBUNDLE: &str = "\
Examples:
  blyan unbundle tiny.bundle
  blyan unbundle tiny.bundle --chain copy

Every block is checked as if it were made here. A bundle that is damaged, cut
off, or needs blocks that are not there changes nothing. Taking it in twice
does no harm.";

#[derive(Debug, Args)]
#[command(after_help = UNBUNDLE)]
pub(crate) struct Unbundle {
    /// The bundle; - is the standard input.
    pub(crate) file: PathBuf,
}

const GC: &str = "\
Examples:
  blyan gc --dry-run              what would be deleted
  blyan gc                        keep releases and models that none follows
  blyan gc --keep latest          keep the newest model alone
  blyan gc --keep tiny --keep layer0.expert1

Only payloads of weights go; every block stays, and its payload can come back
by a bundle or an import. Weights that are in no model yet go, too, unless
--keep names them. A model that follows one whose weights went can be bundled
only for a chain that has that one: bundle it before, or keep both.";

#[derive(Debug, Args)]
#[command(after_help = GC)]
pub(crate) struct Gc {
    /// Delete nothing, only report.
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Keep what this block needs, and nothing else; may be given again.
    #[arg(long, value_name = "BLOCK")]
    pub(crate) keep: Vec<String>,
}

const RECEIPT: &str = "\
Examples:
  blyan generate 'And God said' -n 20 --receipt receipt.json
  blyan receipt verify receipt.json
  blyan receipt verify receipt.json --overlay 9e12   what was made with --overlay

Runs the receipt's inputs again on this chain's blocks and names every
difference: other tokens, other blocks, other logits, an edited field. The exit
code is 1 if there is one.";

#[derive(Debug, Subcommand)]
pub(crate) enum Receipt {
    /// Run a receipt's inputs again and compare, bit for bit.
    #[command(after_help = RECEIPT)]
    Verify(ReceiptVerify),
}

#[derive(Debug, Args)]
#[command(mut_arg("model", |model| model.requires("overlay")))]
pub(crate) struct ReceiptVerify {
    /// The receipt; - is the standard input.
    pub(crate) file: PathBuf,

    #[command(flatten)]
    pub(crate) model: Model,

    /// The blocks that `blyan generate` was given as --overlay, if no model with them was appended since; may be
    /// given again. Without it the receipt says which model it is of.
    #[arg(long, value_name = "BLOCK")]
    pub(crate) overlay: Vec<String>,

    #[command(flatten)]
    pub(crate) machine: Machine,
}

/// Which model.
#[derive(Debug, Args)]
pub(crate) struct Model {
    /// The model, by the hash of its block or by a release [default: latest, the one that none follows].
    #[arg(id = "model", short = 'm', long, value_name = "HASH|RELEASE")]
    pub(crate) name: Option<String>,
}

/// How to compute; never what.
#[derive(Debug, Args)]
pub(crate) struct Machine {
    /// Threads that compute [default: all cores].
    #[arg(short = 't', long, value_name = "N", value_parser = at_least_one)]
    pub(crate) threads: Option<usize>,

    /// Instruction set: scalar, avx2, avx512, amx or neon [default: what the variable BLYAN_ISA says, or else the
    /// best of this CPU]. For amx, Linux is asked for this process's right to it.
    #[arg(long, value_name = "NAME", value_parser = isa)]
    pub(crate) isa: Option<String>,
}

/// A number that an option's check in the library takes.
fn sampling(text: &str, options: impl Fn(f32) -> SamplingOptions) -> Result<f32, String> {
    let value = text.parse().map_err(|_| "expected a number".to_owned())?;
    options(value).check().map(|()| value).map_err(|error| error.to_string())
}

fn temperature(text: &str) -> Result<f32, String> {
    // What is too small for an f32 does not become 0, which means something else.
    if text.parse() == Ok(0.0_f32) && text.parse::<f64>().is_ok_and(|number| number != 0.0) {
        return Err("expected 0 (greedy) or a number of at least 1e-30".to_owned());
    }
    sampling(text, |temperature| SamplingOptions { temperature, ..SamplingOptions::default() })
}

fn top_p(text: &str) -> Result<f32, String> {
    sampling(text, |p| SamplingOptions { top_p: Some(p), ..SamplingOptions::default() })
}

fn min_p(text: &str) -> Result<f32, String> {
    sampling(text, |p| SamplingOptions { min_p: Some(p), ..SamplingOptions::default() })
}

fn repetition_penalty(text: &str) -> Result<f32, String> {
    sampling(text, |p| SamplingOptions { repetition_penalty: Some(p), ..SamplingOptions::default() })
}

fn at_least_one(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|&number| number >= 1);
    number.ok_or_else(|| "expected a whole number of at least 1".to_owned())
}

fn frequency_dtype(text: &str) -> Result<DType, String> {
    let known = dtype_of_option(text).ok().filter(|dtype| matches!(dtype, DType::F32 | DType::BF16));
    known.ok_or_else(|| "expected f32 or bf16".to_owned())
}

/// A name that there is; whether this CPU has it shows when it is to compute.
fn isa(name: &str) -> Result<String, String> {
    match Isa::named(name) {
        Err(error @ KernelError::UnknownIsa { .. }) => Err(error.to_string()),
        _ => Ok(name.to_owned()),
    }
}

/// A name and a version that a release can have.
fn name_and_version(text: &str) -> Result<(String, semver::Version), String> {
    let parts = text.split_once('@').map(|(name, version)| (name, version.parse::<semver::Version>()));
    let Some((name, Ok(version))) = parts else {
        return Err("expected NAME@VERSION, such as tiny@1.0.2".to_owned());
    };
    if !blyan_core::format::Release::is_name(name) {
        return Err("expected a name that is neither a slot's nor latest".to_owned());
    }
    let draft = Draft::new(ChainId::Meta, BlockKind::RELEASE, name, "").with_version(version.clone());
    match draft.header() {
        Ok(_) => Ok((name.to_owned(), version)),
        Err(ChainError::Header { source, .. }) => Err(source.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// A date, or a date and a time of day.
fn civil_time(text: &str) -> Result<CivilTime, String> {
    let (date, time) = text.split_once('T').unwrap_or((text, "00:00:00"));
    let numbers = |text: &str, separator: char| -> Option<(u32, u32, u32)> {
        let mut numbers = text.split(separator).map(|digits| digits.parse().ok());
        let three = (numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(three)
    };
    let (date, time) = numbers(date, '-')
        .zip(numbers(time, ':'))
        .ok_or_else(|| "expected a date such as 2026-03-01, or 2026-03-01T09:05:07".to_owned())?;
    CivilTime::new(date, time).map_err(|error| error.to_string())
}

fn lane(text: &str) -> Result<ChainId, String> {
    let lane = ChainId::ALL.into_iter().find(|lane| lane.to_string().eq_ignore_ascii_case(text));
    lane.ok_or_else(|| "expected A, B or D".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
