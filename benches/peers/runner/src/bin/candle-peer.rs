//! Measures candle on a GGUF file of the `olmoe` architecture: `candle-peer sequence FILE`, options as of
//! `blyan-peer`.
//!
//! candle-transformers has no OLMoE, and its routed experts of GGUF files (`fused_moe`) need a GPU. So the
//! model is put together here from candle's own quantized products, one for each expert that got tokens, as its
//! models for the CPU do; where candle has one kernel for several matrices of one input, that one is used.

use std::collections::HashMap;
use std::error::Error;
use std::fs::File;
use std::io::BufReader;

use candle_core::quantized::gguf_file::{Content, TensorInfo, Value as Entry};
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, DType, Device, IndexOp, Module, Tensor};
use candle_nn::kv_cache::KvCache;
use candle_nn::ops::{rms_norm, softmax_last_dim};
use candle_nn::rotary_emb::rope;
use lexopt::prelude::*;
use peers_runner::{Parts, median, memory, seconds, tokens};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const WARM_UP_TOKENS: usize = 512;
const DEVICE: Device = Device::Cpu;

/// Matrices that are multiplied with one input.
struct Matrices(Vec<(std::sync::Arc<QTensor>, QMatMul)>);

impl Matrices {
    fn new(tensors: Vec<QTensor>) -> Outcome<Self> {
        let pair = |tensor| {
            let tensor = std::sync::Arc::new(tensor);
            Ok((std::sync::Arc::clone(&tensor), QMatMul::from_arc(tensor)?))
        };
        Ok(Self(tensors.into_iter().map(pair).collect::<Outcome<_>>()?))
    }

    fn forward(&self, x: &Tensor) -> Outcome<Vec<Tensor>> {
        if x.elem_count() == x.dim(D::Minus1)? {
            let tensors: Vec<&QTensor> = self.0.iter().map(|(tensor, _)| &**tensor).collect();
            if let Some(all) = QTensor::gemv_fused_shared_lhs(&tensors, x)? {
                return Ok(all);
            }
        }
        self.0.iter().map(|(_, product)| Ok(product.forward(x)?)).collect()
    }

    fn only(&self, x: &Tensor) -> Outcome<Tensor> {
        Ok(self.forward(x)?.swap_remove(0))
    }
}

struct Expert {
    gate_up: Matrices,
    down: Matrices,
}

struct Layer {
    attention_norm: Tensor,
    qkv: Matrices,
    q_norm: Tensor,
    k_norm: Tensor,
    output: Matrices,
    expert_norm: Tensor,
    router: Tensor,
    experts: Vec<Expert>,
}

struct Model {
    embedding: QTensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Matrices,
    cos: Tensor,
    sin: Tensor,
    caches: Vec<KvCache>,
    heads: usize,
    experts_per_token: usize,
    eps: f32,
    vocab_size: usize,
    position: usize,
}

/// A GGUF file.
struct Source {
    content: Content,
    file: BufReader<File>,
}

impl Source {
    fn number(&self, key: &str) -> Outcome<f64> {
        let value = self.content.metadata.get(key).ok_or_else(|| format!("the file lacks {key}"))?;
        Ok(match value {
            Entry::F32(value) => f64::from(*value),
            value => f64::from(value.to_u32()?),
        })
    }

    fn quantized(&mut self, name: &str) -> Outcome<QTensor> {
        Ok(self.content.tensor(&mut self.file, name, &DEVICE)?)
    }

    fn float(&mut self, name: &str) -> Outcome<Tensor> {
        Ok(self.quantized(name)?.dequantize(&DEVICE)?)
    }

    /// The matrices of a stack (experts, rows, columns).
    fn stack(&mut self, name: &str) -> Outcome<Vec<QTensor>> {
        let start = self.content.tensor_data_offset;
        let info = self.content.tensor_infos.get(name).ok_or_else(|| format!("the file lacks {name}"))?;
        let (experts, rows, columns) = info.shape.dims3()?;
        let dtype = info.ggml_dtype;
        let bytes = rows * columns / dtype.block_size() * dtype.type_size();
        let parts: Vec<TensorInfo> = (0..experts)
            .map(|expert| TensorInfo {
                ggml_dtype: dtype,
                shape: (rows, columns).into(),
                offset: info.offset + (expert * bytes) as u64,
            })
            .collect();
        parts.iter().map(|part| Ok(part.read(&mut self.file, start, &DEVICE)?)).collect()
    }
}

impl Model {
    fn open(path: &str, positions: usize) -> Outcome<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let content = Content::read(&mut file)?;
        let mut source = Source { content, file };
        let number =
            |source: &Source, key: &str| Ok::<_, Box<dyn Error + Send + Sync>>(source.number(key)? as usize);
        let hidden = number(&source, "olmoe.embedding_length")?;
        let heads = number(&source, "olmoe.attention.head_count")?;
        let (cos, sin) = rotary(hidden / heads, source.number("olmoe.rope.freq_base")?, positions)?;
        let count = number(&source, "olmoe.block_count")?;
        let layers = (0..count).map(|layer| Layer::open(&mut source, layer)).collect::<Outcome<_>>()?;
        Ok(Self {
            embedding: source.quantized("token_embd.weight")?,
            layers,
            norm: source.float("output_norm.weight")?,
            head: Matrices::new(vec![source.quantized("output.weight")?])?,
            cos,
            sin,
            caches: (0..count).map(|_| KvCache::new(2, positions)).collect(),
            heads,
            experts_per_token: number(&source, "olmoe.expert_used_count")?,
            eps: source.number("olmoe.attention.layer_norm_rms_epsilon")? as f32,
            vocab_size: number(&source, "olmoe.vocab_size")?,
            position: 0,
        })
    }

    fn forget(&mut self) {
        self.caches.iter_mut().for_each(KvCache::reset);
        self.position = 0;
    }

    /// Logits after the last of the new tokens, (vocab_size,).
    fn forward(&mut self, ids: &[u32]) -> Outcome<Tensor> {
        let mut x = self.embedding.embedding(&Tensor::new(ids, &DEVICE)?)?;
        for index in 0..self.layers.len() {
            let attended =
                self.attention(index, &rms_norm(&x, &self.layers[index].attention_norm, self.eps)?)?;
            x = (x + attended)?;
            let layer = &self.layers[index];
            x = (&x
                + layer.experts(&rms_norm(&x, &layer.expert_norm, self.eps)?, self.experts_per_token)?)?;
        }
        self.position += ids.len();
        let last = x.i(ids.len() - 1..)?.contiguous()?;
        Ok(self.head.only(&rms_norm(&last, &self.norm, self.eps)?)?.squeeze(0)?)
    }

    /// x, result: (tokens, hidden)
    fn attention(&mut self, index: usize, x: &Tensor) -> Outcome<Tensor> {
        let layer = &self.layers[index];
        let (count, hidden) = x.dims2()?;
        let width = hidden / self.heads;
        let mut qkv = layer.qkv.forward(x)?;
        let (v, k, q) = (qkv.pop(), qkv.pop(), qkv.pop());
        let (Some(q), Some(k), Some(v)) = (q, k, v) else { return Err("three matrices gave fewer".into()) };
        let q = rms_norm(&q.contiguous()?, &layer.q_norm, self.eps)?;
        let k = rms_norm(&k.contiguous()?, &layer.k_norm, self.eps)?;
        let split = |x: &Tensor| x.reshape((1, count, self.heads, width))?.transpose(1, 2)?.contiguous();
        let cos = self.cos.narrow(0, self.position, count)?;
        let sin = self.sin.narrow(0, self.position, count)?;
        let (q, k) = (rope(&split(&q)?, &cos, &sin)?, rope(&split(&k)?, &cos, &sin)?);
        let (k, v) = self.caches[index].append(&k, &split(&v)?)?;
        let mut scores = (q.matmul(&k.transpose(2, 3)?.contiguous()?)? / (width as f64).sqrt())?;
        if count > 1 {
            scores = scores.broadcast_add(&self.mask(count)?)?;
        }
        let mixed = softmax_last_dim(&scores)?.matmul(&v.contiguous()?)?;
        layer.output.only(&mixed.transpose(1, 2)?.reshape((count, hidden))?)
    }

    /// (new tokens, all tokens): what a token must not see is minus infinity.
    fn mask(&self, count: usize) -> Outcome<Tensor> {
        let all = self.position + count;
        let hidden =
            |row: usize, column: usize| if column > self.position + row { f32::NEG_INFINITY } else { 0.0 };
        let mask: Vec<f32> =
            (0..count).flat_map(|row| (0..all).map(move |column| hidden(row, column))).collect();
        Ok(Tensor::from_vec(mask, (count, all), &DEVICE)?)
    }
}

impl Layer {
    fn open(source: &mut Source, layer: usize) -> Outcome<Self> {
        let name = |part: &str| format!("blk.{layer}.{part}.weight");
        let qkv = ["attn_q", "attn_k", "attn_v"].map(|part| source.quantized(&name(part)));
        let gates = source.stack(&name("ffn_gate_exps"))?;
        let ups = source.stack(&name("ffn_up_exps"))?;
        let downs = source.stack(&name("ffn_down_exps"))?;
        let experts = gates.into_iter().zip(ups).zip(downs).map(|((gate, up), down)| {
            Ok(Expert { gate_up: Matrices::new(vec![gate, up])?, down: Matrices::new(vec![down])? })
        });
        Ok(Self {
            attention_norm: source.float(&name("attn_norm"))?,
            qkv: Matrices::new(qkv.into_iter().collect::<Outcome<_>>()?)?,
            q_norm: source.float(&name("attn_q_norm"))?,
            k_norm: source.float(&name("attn_k_norm"))?,
            output: Matrices::new(vec![source.quantized(&name("attn_output"))?])?,
            expert_norm: source.float(&name("ffn_norm"))?,
            router: source.float(&name("ffn_gate_inp"))?,
            experts: experts.collect::<Outcome<_>>()?,
        })
    }

    /// x, result: (tokens, hidden)
    fn experts(&self, x: &Tensor, experts_per_token: usize) -> Outcome<Tensor> {
        let weights = softmax_last_dim(&x.matmul(&self.router.t()?)?)?.to_vec2::<f32>()?;
        let mut routed: HashMap<usize, (Vec<u32>, Vec<f32>)> = HashMap::new();
        for (token, weights) in weights.iter().enumerate() {
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|&a, &b| weights[b].total_cmp(&weights[a]));
            for &expert in order.iter().take(experts_per_token) {
                let (tokens, shares) = routed.entry(expert).or_default();
                tokens.push(token as u32);
                shares.push(weights[expert]);
            }
        }
        let mut sum = x.zeros_like()?;
        for (expert, (tokens, shares)) in routed {
            let expert = &self.experts[expert];
            let tokens = Tensor::new(tokens, &DEVICE)?;
            let shares = Tensor::new(shares, &DEVICE)?.unsqueeze(1)?;
            let input = x.index_select(&tokens, 0)?;
            let mut halves = expert.gate_up.forward(&input)?;
            let (Some(up), Some(gate)) = (halves.pop(), halves.pop()) else {
                return Err("a matrix gave nothing".into());
            };
            let output = expert.down.only(&(gate.silu()? * up)?)?.broadcast_mul(&shares)?;
            sum = sum.index_add(&tokens, &output, 0)?;
        }
        Ok(sum)
    }
}

/// (positions, width / 2) each
fn rotary(width: usize, base: f64, positions: usize) -> Outcome<(Tensor, Tensor)> {
    let frequencies: Vec<f32> =
        (0..width / 2).map(|i| base.powf(-2.0 * i as f64 / width as f64) as f32).collect();
    let frequencies = Tensor::new(frequencies, &DEVICE)?.unsqueeze(0)?;
    let positions = Tensor::arange(0, positions as u32, &DEVICE)?.to_dtype(DType::F32)?.unsqueeze(1)?;
    let angles = positions.matmul(&frequencies)?;
    Ok((angles.cos()?, angles.sin()?))
}

fn greedy(logits: &Tensor) -> Outcome<u32> {
    Ok(logits.argmax(D::Minus1)?.to_scalar::<u32>()?)
}

fn run() -> Outcome<Value> {
    let (mut words, mut prompt, mut new, mut repeat) = (Vec::new(), 16, 64, 3);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("prompt") => prompt = parser.value()?.parse()?,
            Long("new") => new = parser.value()?.parse()?,
            Long("repeat") => repeat = parser.value()?.parse()?,
            Long("threads") => {
                rayon::ThreadPoolBuilder::new().num_threads(parser.value()?.parse()?).build_global()?;
            }
            Value(value) => words.push(value.string()?),
            _ => return Err(argument.unexpected().into()),
        }
    }
    let [command, path] = &words[..] else { return Err("give a case and a file".into()) };
    if !matches!(&**command, "sequence" | "logits") {
        return Err(format!("{command} is not measured with candle").into());
    }
    let mut model = Model::open(path, WARM_UP_TOKENS.max(prompt + new) + 1)?;
    let vocab_size = model.vocab_size;
    if command == "logits" {
        let logits = model.forward(&tokens(7, prompt, vocab_size))?.to_vec1::<f32>()?;
        return Ok(json!({ "logits": logits, "memory": memory() }));
    }
    model.forward(&tokens(1000, WARM_UP_TOKENS, vocab_size))?;
    let (mut prefill, mut decode) = (Vec::new(), Parts::default());
    for index in 0..repeat {
        model.forget();
        let (logits, time) = seconds(|| model.forward(&tokens(index as u64, prompt, vocab_size)));
        let mut token = greedy(&logits?)?;
        prefill.push(prompt as f64 / time);
        decode.run(new, 1, || -> Outcome<()> {
            token = greedy(&model.forward(&[token])?)?;
            Ok(())
        })?;
    }
    let (rate, parts) = decode.finish();
    Ok(json!({
        "prefill_tokens_per_s": median(prefill),
        "decode_tokens_per_s": rate,
        "decode_parts": parts,
        "memory": memory(),
    }))
}

fn main() {
    println!("{}", run().unwrap_or_else(|error| json!({ "error": error.to_string() })));
}
