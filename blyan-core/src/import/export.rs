//! Blocks → a checkpoint folder that transformers loads.
//!
//! Tensors are byte-identical to what was imported where their type was kept. config.json is written
//! from the spec. Quantized models are written in the layout of `compressed-tensors`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::{Value, json};

use super::config::{Details, config_json};
pub use super::error::ExportError;
use super::{names, texts};
use crate::chain::Chain;
use crate::dtype::{DType, GROUP, Shape};
use crate::format::{BlockKind, Manifest, ModelSpec, Slot, TensorRole};
use crate::hash::BlockHash;
use crate::tensor::packed::{self, Content};
use crate::tensor::{PayloadLayout, TensorBlock, TensorError, TensorView, scale_name};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// How to export a model.
#[derive(Clone)]
pub struct ExportOptions<'a> {
    /// Whether a folder that is not empty may be written to. Files of a checkpoint that was there are
    /// replaced or removed, others stay.
    pub overwrite: bool,
    /// Weights are split into files of at most this many bytes; one tensor is never split.
    pub max_shard_bytes: u64,
    /// Called after each tensor with the bytes written and to write.
    pub progress: Option<&'a (dyn Fn(ExportProgress) + Sync)>,
    /// Set to stop; the export then ends with [`ExportError::Cancelled`], leaving nothing behind.
    pub cancel: Option<&'a AtomicBool>,
}

impl Default for ExportOptions<'_> {
    /// Files of at most 5 GB, as Hugging Face writes them.
    fn default() -> Self {
        Self { overwrite: false, max_shard_bytes: 5_000_000_000, progress: None, cancel: None }
    }
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ExportProgress {
    /// Bytes of tensors written.
    pub tensor_bytes: u64,
    /// Bytes of tensors to write.
    pub total_tensor_bytes: u64,
}

/// What an export wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportReport {
    /// Names of the files, sorted.
    pub files: Vec<String>,
    /// Number of tensors.
    pub tensors: u64,
    /// Bytes of tensors.
    pub tensor_bytes: u64,
}

/// Writes a model as a checkpoint folder, created if it is not there. Everything is written under
/// another name first: the folder is complete or untouched. One that is there gets its files when all are written: its
/// config.json goes first and the new one comes last, so that no mixture of two checkpoints looks like one.
///
/// # Errors
///
/// [`ExportError`]; the folder is then as it was, unless moving the finished files failed.
pub fn checkpoint(
    chain: &Chain,
    model: &BlockHash,
    dir: impl AsRef<Path>,
    options: &ExportOptions<'_>,
) -> Result<ExportReport, ExportError> {
    let dir = dir.as_ref();
    if dir.as_os_str().is_empty() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the folder has no name");
        return Err(ExportError::Io { path: dir.to_owned(), source });
    }
    if options.max_shard_bytes == 0 {
        return Err(ExportError::NoShardBytes);
    }
    if !options.overwrite && !is_empty_or_absent(dir)? {
        return Err(ExportError::NotEmpty { dir: dir.to_owned() });
    }
    let model = Model::open(chain, model)?;
    let staging = Staging::new(dir)?;
    let mut files = Vec::new();

    let details = Details {
        torch_dtype: model.torch_dtype(),
        own_head: model.spec.tie_word_embeddings && model.has_head,
        quantization_config: model.quantization_config(),
    };
    staging.write(CONFIG, &mut files, |out| {
        out.write_all(&config_json(&model.spec, details)?).map_err(Failure::Io)
    })?;
    for (file, payload) in &model.texts {
        staging.write(file, &mut files, |out| out.write_all(payload).map_err(Failure::Io))?;
    }
    let tensor_bytes = model.write_weights(&staging, options, &mut files)?;
    // The last report may have been told to stop.
    if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
        return Err(ExportError::Cancelled);
    }
    staging.publish(&files)?;
    files.sort();
    Ok(ExportReport { files, tensors: model.tensors.len() as u64, tensor_bytes })
}

/// One tensor of a checkpoint, and the block that has it.
struct Exported {
    /// Name in the checkpoint.
    published: String,
    slot: Slot,
    /// Name inside the block.
    name: String,
    /// Whether transformers makes it a linear layer.
    linear: bool,
    dtype: DType,
    shape: Shape,
    len_bytes: u64,
}

/// A model to export, with all of its blocks open.
struct Model {
    spec: ModelSpec,
    has_head: bool,
    blocks: BTreeMap<Slot, TensorBlock>,
    /// In the order of slots, by published name.
    tensors: Vec<Exported>,
    texts: Vec<(&'static str, crate::storage::Payload)>,
}

impl Model {
    fn open(chain: &Chain, model: &BlockHash) -> Result<Self, ExportError> {
        let kind = chain.get(model)?.header().kind;
        if kind != BlockKind::MODEL {
            return Err(ExportError::NotAModel { block: *model, kind: kind.to_string() });
        }
        let manifest = Manifest::from_canonical_json(&chain.payload(model)?)?;
        let spec = ModelSpec::from_canonical_json(&chain.payload(&manifest.spec)?)?;
        let mut slots = spec.required_slots();
        let has_head = manifest.slots.contains_key(&Slot::Head);
        if has_head && spec.tie_word_embeddings {
            slots.push(Slot::Head);
        }
        let mut model =
            Self { spec, has_head, blocks: BTreeMap::new(), tensors: Vec::new(), texts: Vec::new() };
        for slot in slots {
            let missing = || ExportError::MissingSlot { slot: slot.to_string() };
            let block = manifest.slots.get(&slot).ok_or_else(missing)?;
            let block = TensorBlock::open(chain, block)
                .map_err(|source| ExportError::Tensor { slot: slot.to_string(), source })?;
            model.list(slot, &block)?;
            model.blocks.insert(slot, block);
        }
        for (slot, file, _) in texts::FILES {
            if let Some(block) = manifest.slots.get(&slot) {
                model.texts.push((file, chain.payload(block)?));
            }
        }
        Ok(model)
    }

    /// Adds the tensors of one block.
    fn list(&mut self, slot: Slot, block: &TensorBlock) -> Result<(), ExportError> {
        let in_slot = |source| ExportError::Tensor { slot: slot.to_string(), source };
        for tensor in self.spec.tensors_of(slot) {
            let published = names::published(&self.spec, slot, tensor.name);
            let view = block.tensor(tensor.name).map_err(in_slot)?;
            if *view.shape() != tensor.shape {
                let actual = view.shape().clone();
                let name = tensor.name.to_owned();
                return Err(in_slot(TensorError::Shape { tensor: name, actual, expected: tensor.shape }));
            }
            let linear = matches!(tensor.role, TensorRole::Projection | TensorRole::Router);
            self.tensors.push(Exported::new(published.clone(), slot, &view, linear));
            if let Some(scale) = block.scale(tensor.name) {
                self.tensors.push(Exported::new(scale_name(&published), slot, &scale, false));
            }
        }
        Ok(())
    }

    /// The type of the weights that are not quantized, under PyTorch's name.
    fn torch_dtype(&self) -> &'static str {
        match self.tensors.first().map(|embedding| embedding.dtype) {
            Some(DType::F32) => "float32",
            Some(DType::F16) => "float16",
            _ => "bfloat16",
        }
    }

    /// What `compressed-tensors` needs to know: one group for each quantized type, naming its layers
    /// unless it is the only one.
    fn quantization_config(&self) -> Option<Value> {
        let layers = |dtype: DType| -> Vec<&str> {
            let tensors = self.tensors.iter().filter(|tensor| tensor.linear && tensor.dtype == dtype);
            tensors.filter_map(|tensor| tensor.published.strip_suffix(".weight")).collect()
        };
        let mut types = vec![
            (layers(DType::I8), 8, "int", "int-quantized"),
            (layers(DType::F8E4M3), 8, "float", "float-quantized"),
            (layers(DType::I4), 4, "int", "pack-quantized"),
        ];
        types.retain(|(layers, ..)| !layers.is_empty());
        // transformers 5 takes the first group's type for all experts.
        types.sort_by_key(|(layers, ..)| std::cmp::Reverse(layers.len()));
        let (mixed, format) = match types.as_slice() {
            [] => return None,
            [(.., format)] => (false, *format),
            _ => (true, "mixed-precision"),
        };
        let groups = types.into_iter().enumerate().map(|(number, (layers, bits, number_type, format))| {
            let grouped = format == "pack-quantized";
            let group = json!({
                "targets": if mixed { json!(layers) } else { json!(["Linear"]) },
                "weights": {
                    "num_bits": bits,
                    "type": number_type,
                    "strategy": if grouped { "group" } else { "channel" },
                    "symmetric": true,
                    "dynamic": false,
                    "group_size": grouped.then_some(GROUP),
                    "block_structure": null,
                    "actorder": null,
                    "observer": "minmax",
                    "observer_kwargs": {},
                },
                "input_activations": null,
                "output_activations": null,
                "format": format,
            });
            (format!("group_{number}"), group)
        });
        let ignore: Vec<&str> = self
            .tensors
            .iter()
            .filter(|tensor| tensor.linear && !tensor.dtype.is_quantized())
            .filter_map(|tensor| tensor.published.strip_suffix(".weight"))
            .chain((self.spec.tie_word_embeddings && !self.has_head).then_some("lm_head"))
            .collect();
        Some(json!({
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "format": format,
            "config_groups": groups.collect::<serde_json::Map<_, _>>(),
            "ignore": ignore,
            "kv_cache_scheme": null,
            "global_compression_ratio": null,
        }))
    }

    /// Writes all tensors, in as many files as it takes. Returns their bytes.
    fn write_weights(
        &self,
        staging: &Staging,
        options: &ExportOptions<'_>,
        files: &mut Vec<String>,
    ) -> Result<u64, ExportError> {
        let mut shards: Vec<Vec<&Exported>> = Vec::new();
        let mut room = 0;
        for tensor in &self.tensors {
            match shards.last_mut() {
                Some(shard) if tensor.len_bytes <= room => shard.push(tensor),
                _ => {
                    shards.push(vec![tensor]);
                    room = options.max_shard_bytes;
                }
            }
            room = room.saturating_sub(tensor.len_bytes);
        }
        let total = self.tensors.iter().map(|tensor| tensor.len_bytes).sum();
        let mut progress = ExportProgress { tensor_bytes: 0, total_tensor_bytes: total };
        let mut weight_map = serde_json::Map::new();
        for (number, shard) in shards.iter().enumerate() {
            let file = match shards.len() {
                1 => SINGLE.to_owned(),
                count => format!("model-{:05}-of-{count:05}.safetensors", number + 1),
            };
            let names = shard.iter().flat_map(|tensor| packed::stored_names(&tensor.published, tensor.dtype));
            weight_map.extend(names.map(|name| (name, file.as_str().into())));
            staging.write(&file, files, |out| self.write_shard(shard, options, &mut progress, out))?;
        }
        if shards.len() > 1 {
            weight_map.sort_keys();
            let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
            staging.write(INDEX, files, |out| writeln!(out, "{index:#}").map_err(Failure::Io))?;
        }
        Ok(total)
    }

    fn write_shard(
        &self,
        shard: &[&Exported],
        options: &ExportOptions<'_>,
        progress: &mut ExportProgress,
        out: &mut dyn Write,
    ) -> Result<(), Failure> {
        let entries: Vec<(&str, DType, &Shape)> =
            shard.iter().map(|tensor| (tensor.published.as_str(), tensor.dtype, &tensor.shape)).collect();
        let by_name: BTreeMap<&str, &Exported> =
            shard.iter().map(|tensor| (tensor.published.as_str(), *tensor)).collect();
        let in_slot = |slot: Option<Slot>| {
            move |source| {
                let slot = slot.map_or_else(String::new, |slot| slot.to_string());
                Failure::Export(ExportError::Tensor { slot, source })
            }
        };
        let layout = PayloadLayout::published(&entries).map_err(in_slot(None))?;
        out.write_all(layout.header()).map_err(Failure::Io)?;
        for content in layout.contents() {
            let tensor = match content {
                Content::Tensor(name) => by_name.get(name.as_str()),
                Content::Bytes(bytes) => {
                    out.write_all(bytes).map_err(Failure::Io)?;
                    continue;
                }
            };
            let Some(tensor) = tensor else { continue };
            if options.cancel.is_some_and(|cancel| cancel.load(Ordering::Relaxed)) {
                return Err(Failure::Export(ExportError::Cancelled));
            }
            let Some(block) = self.blocks.get(&tensor.slot) else { continue };
            let view = block.tensor(&tensor.name).map_err(in_slot(Some(tensor.slot)))?;
            out.write_all(view.data()).map_err(Failure::Io)?;
            progress.tensor_bytes += tensor.len_bytes;
            if let Some(report) = options.progress {
                report(*progress);
            }
        }
        Ok(())
    }
}

impl Exported {
    fn new(published: String, slot: Slot, view: &TensorView<'_>, linear: bool) -> Self {
        let shape_bytes = if view.dtype() == DType::I4 { packed::SHAPE_BYTES } else { 0 };
        Self {
            published,
            slot,
            name: view.name().to_owned(),
            linear,
            dtype: view.dtype(),
            shape: view.shape().clone(),
            len_bytes: (view.data().len() + shape_bytes) as u64,
        }
    }
}

/// What writing one file can fail with; the path is added by whoever knows it.
enum Failure {
    Io(io::Error),
    Export(ExportError),
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

fn is_empty_or_absent(dir: &Path) -> Result<bool, ExportError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries.flatten().all(|entry| is_staging(&entry.file_name().to_string_lossy()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(source) => Err(ExportError::Io { path: dir.to_owned(), source }),
    }
}

/// Whether a name is that of an export under way, or of one that was killed.
fn is_staging(name: &str) -> bool {
    name.starts_with(".export-") && name.ends_with(".partial")
}

/// A folder beside the destination, removed unless it becomes the destination; or inside one that is there, which may
/// be a link or a mount point, and whose parent may not be ours to write to.
struct Staging {
    folder: PathBuf,
    destination: PathBuf,
    is_inside: bool,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already if it was published as a whole; else what remains is of no use to anyone.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

impl Staging {
    fn new(destination: &Path) -> Result<Self, ExportError> {
        let is_inside = destination.is_dir();
        let parent = match destination.parent() {
            _ if is_inside => destination,
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let io = |source| ExportError::Io { path: parent.to_owned(), source };
        fs::create_dir_all(parent).map_err(io)?;
        // Of a name that no other export has: of this process by the counter, of others by its id, and
        // of dead ones by trying on.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let folder = parent.join(format!(".export-{}-{number}.partial", std::process::id()));
            match fs::create_dir(&folder) {
                Ok(()) => return Ok(Self { folder, destination: destination.to_owned(), is_inside }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(io(source)),
            }
        }
    }

    fn write(
        &self,
        name: &str,
        files: &mut Vec<String>,
        content: impl FnOnce(&mut dyn Write) -> Result<(), Failure>,
    ) -> Result<(), ExportError> {
        let path = self.folder.join(name);
        let write = || -> Result<(), Failure> {
            let mut out = BufWriter::new(File::create_new(&path).map_err(Failure::Io)?);
            content(&mut out)?;
            let file = out.into_inner().map_err(|error| Failure::Io(error.into_error()))?;
            file.sync_all().map_err(Failure::Io)
        };
        write().map_err(|failure| match failure {
            Failure::Export(error) => error,
            Failure::Io(source) => ExportError::Io { path: self.destination.join(name), source },
        })?;
        files.push(name.to_owned());
        Ok(())
    }

    /// Moves the finished files to the destination: as a folder if that is not there, else one by one.
    fn publish(self, files: &[String]) -> Result<(), ExportError> {
        let destination = &self.destination;
        let io = |source| ExportError::Io { path: destination.clone(), source };
        if !self.is_inside {
            return fs::rename(&self.folder, destination).map_err(io);
        }
        if let Some(folder) = files.iter().map(|file| destination.join(file)).find(|path| path.is_dir()) {
            return Err(ExportError::Io { path: folder, source: io::ErrorKind::IsADirectory.into() });
        }
        // What says that this is a checkpoint goes first and comes last.
        remove(&destination.join(CONFIG)).map_err(io)?;
        remove_stale(destination, files).map_err(io)?;
        let mut in_order: Vec<&String> = files.iter().collect();
        in_order.sort_by_key(|file| *file == CONFIG);
        for file in in_order {
            fs::rename(self.folder.join(file), destination.join(file)).map_err(io)?;
        }
        Ok(())
    }
}

/// Removes a file, if it is there.
fn remove(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes what an importer would read beside new files of a checkpoint.
fn remove_stale(dir: &Path, new: &[String]) -> io::Result<()> {
    let templates = dir.join(texts::NAMED_TEMPLATES);
    let is_template = |name: &str| name.ends_with(".jinja");
    let is_stale = |name: &str| is_checkpoint_file(name) && !new.iter().any(|file| file == name);
    remove_files(dir, is_stale)?;
    if templates.is_dir() {
        remove_files(&templates, is_template)?;
        // What else somebody keeps there stays.
        let _ = fs::remove_dir(&templates);
    }
    Ok(())
}

fn remove_files(dir: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() && is_meant(&entry.file_name().to_string_lossy()) {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

const CONFIG: &str = "config.json";

/// Files of a tokenizer that are not exported.
const OTHER_TEXTS: [&str; 5] =
    ["added_tokens.json", "chat_template.json", "tokenizer.model", "vocab.json", "merges.txt"];

/// Whether a file is one that an importer would read as part of a checkpoint, ours or another.
fn is_checkpoint_file(name: &str) -> bool {
    let shard = name.starts_with("model-") && name.ends_with(".safetensors");
    shard
        || name == SINGLE
        || name == INDEX
        || OTHER_TEXTS.contains(&name)
        || texts::FILES.iter().any(|(_, file, _)| *file == name)
}
