//! Owns the feed-forward half of a layer: SwiGLU (arXiv:2002.05202), dense or a mixture of experts.
//!
//! Experts of a token are summed in ascending index, whatever the batch, so that a token's result
//! does not depend on what runs beside it.

use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crate::format::{FeedForward, ModelSpec};
use crate::kernels::{Isa, math, top_k};

use super::ModelError;
use super::matmul::{self, Activations, Matmul, Tokens};
use super::residency::Residency;
use super::team::{CachePadded, Team};
use super::weights::ExpertWeights;

/// Which experts each token of a step used in one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerRouting {
    /// Index of the layer.
    pub layer: usize,
    /// Experts that each token uses.
    pub experts_per_token: usize,
    /// (tokens, experts_per_token): experts by falling weight, ties by index.
    pub experts: Vec<u32>,
    /// (tokens, experts_per_token): their weights.
    pub weights: Vec<f32>,
    /// Compute time of each expert used, in nanoseconds summed over threads; ascending experts.
    pub nanos: Vec<(u32, u64)>,
}

/// Feed-forward of one layer. `normed`: (tokens, hidden_size); returns (tokens, hidden_size), and
/// the routing of a layer that routes.
pub(crate) fn forward(
    isa: Isa,
    team: &Team,
    spec: &ModelSpec,
    layer: usize,
    residency: &Residency,
    mut normed: Activations,
) -> Result<(Vec<f32>, Option<LayerRouting>), ModelError> {
    let FeedForward::Moe { num_experts_per_tok, norm_topk_prob, shared_expert_intermediate_size, .. } =
        spec.layers[layer].feed_forward
    else {
        let expert = residency.expert(spec, layer, 0)?;
        normed.arrange_for(isa, team, &expert.inputs())?;
        let mut outputs = run_experts(isa, team, &[(expert, normed.all())], &[])?;
        normed.give_back(team.buffers());
        return Ok((outputs.remove(0), None));
    };

    let mut routing =
        route(isa, team, spec, layer, residency, &normed, (num_experts_per_tok, norm_topk_prob))?;
    let assignment = Assignment::new(&routing);
    let experts = residency.experts(team, spec, layer, &assignment.experts)?;
    let shared = match shared_expert_intermediate_size {
        Some(_) => Some(residency.shared_expert(spec, layer)?),
        None => None,
    };

    // Arranged once, however many experts meet a token.
    let mut matrices: Vec<_> = experts.iter().flat_map(|expert| expert.inputs()).collect();
    matrices.extend(shared.iter().flat_map(|shared| shared.inputs()));
    normed.arrange_for(isa, team, &matrices)?;
    let chosen = assignment.tokens.iter().map(|tokens| match normed.tokens() {
        1 => normed.all(),
        _ => normed.choose(tokens),
    });
    let mut jobs: Vec<(&ExpertWeights, Tokens<'_>)> = experts.iter().copied().zip(chosen).collect();
    jobs.extend(shared.map(|shared| (shared, normed.all())));
    let nanos: Vec<_> = experts.iter().map(|_| CachePadded(AtomicU64::new(0))).collect();
    let outputs = run_experts(isa, team, &jobs, &nanos)?;

    let gates = shared.map(|shared| shared_gates(isa, team, shared, &normed)).transpose()?;
    let hidden = spec.hidden_size;
    let mut mixed = team.buffers().take(normed.tokens() * hidden);
    team.for_each(mixed.chunks_mut(hidden).enumerate().collect(), |(token, sum)| {
        sum.fill(0.0);
        for &(job, row, weight) in &assignment.uses[token] {
            isa.scale_add(sum, weight, &outputs[job][row * hidden..][..hidden])?;
        }
        if let Some(gates) = &gates {
            let output = &outputs[experts.len()][token * hidden..][..hidden];
            isa.scale_add(sum, math::sigmoid(gates[token]), output)?;
        }
        Ok::<_, ModelError>(())
    })?;
    team.buffers().give_back(outputs);
    normed.give_back(team.buffers());
    let nanos = nanos.into_iter().map(|CachePadded(nanos)| nanos.into_inner());
    routing.nanos = assignment.experts.iter().map(|&expert| expert as u32).zip(nanos).collect();
    Ok((mixed, Some(routing)))
}

/// Softmax over all experts, then the best few of each token.
fn route(
    isa: Isa,
    team: &Team,
    spec: &ModelSpec,
    layer: usize,
    residency: &Residency,
    normed: &Activations,
    (experts_per_token, norm_topk_prob): (usize, bool),
) -> Result<LayerRouting, ModelError> {
    let router = residency.router(spec, layer)?;
    let mut scores = vec![0.0; normed.tokens() * router.rows];
    matmul::run(
        isa,
        team,
        vec![Matmul { linear: router, input: normed.all(), out: &mut scores, nanos: None }],
    )?;
    let mut routing = LayerRouting {
        layer,
        experts_per_token,
        experts: Vec::with_capacity(normed.tokens() * experts_per_token),
        weights: Vec::with_capacity(normed.tokens() * experts_per_token),
        nanos: Vec::new(),
    };
    let mut best = Vec::new();
    for scores in scores.chunks_exact_mut(router.rows) {
        isa.softmax(scores);
        top_k(scores, experts_per_token, &mut best);
        let sum: f32 = if norm_topk_prob { best.iter().map(|&(_, weight)| weight).sum() } else { 1.0 };
        for &(expert, weight) in &best {
            routing.experts.push(expert);
            routing.weights.push(if norm_topk_prob { weight / sum } else { weight });
        }
    }
    Ok(routing)
}

/// One use of an expert by a token: index of the job, row of the token in it, weight.
type Use = (usize, usize, f32);

/// Tokens sorted by the experts they use.
struct Assignment {
    /// Experts in use, ascending.
    experts: Vec<usize>,
    /// Tokens of each of them, ascending.
    tokens: Vec<Vec<usize>>,
    /// Uses of each token, in ascending expert.
    uses: Vec<Vec<Use>>,
}

impl Assignment {
    fn new(routing: &LayerRouting) -> Self {
        let per_token = routing.experts_per_token;
        let mut all: Vec<(usize, usize, f32)> = (routing.experts.iter().zip(&routing.weights).enumerate())
            .map(|(index, (&expert, &weight))| (expert as usize, index / per_token, weight))
            .collect();
        all.sort_unstable_by_key(|&(expert, token, _)| (expert, token));
        let mut assignment = Self {
            experts: Vec::new(),
            tokens: Vec::new(),
            uses: vec![Vec::with_capacity(per_token); routing.experts.len() / per_token],
        };
        for uses in all.chunk_by(|a, b| a.0 == b.0) {
            let job = assignment.experts.len();
            assignment.experts.push(uses[0].0);
            assignment.tokens.push(uses.iter().map(|&(_, token, _)| token).collect());
            for (row, &(_, token, weight)) in uses.iter().enumerate() {
                assignment.uses[token].push((job, row, weight));
            }
        }
        assignment
    }
}

/// All experts side by side: one region for gate and up, one for down. `nanos`: one counter for
/// each of the first jobs.
fn run_experts(
    isa: Isa,
    team: &Team,
    jobs: &[(&ExpertWeights, Tokens<'_>)],
    nanos: &[CachePadded<AtomicU64>],
) -> Result<Vec<Vec<f32>>, ModelError> {
    let room = |(expert, input): &(&ExpertWeights, Tokens<'_>)| {
        team.buffers().take(input.len() * expert.gate_proj.rows)
    };
    let mut gates: Vec<Vec<f32>> = jobs.iter().map(room).collect();
    let mut ups: Vec<Vec<f32>> = jobs.iter().map(room).collect();
    let counter = |index: usize| nanos.get(index).map(|CachePadded(nanos)| nanos);
    let mut products = Vec::with_capacity(2 * jobs.len());
    for (index, ((&(expert, input), gate), up)) in jobs.iter().zip(&mut gates).zip(&mut ups).enumerate() {
        let nanos = counter(index);
        products.push(Matmul { linear: &expert.gate_proj, input, out: gate, nanos });
        products.push(Matmul { linear: &expert.up_proj, input, out: up, nanos });
    }
    matmul::run(isa, team, products)?;

    let mut inner: Vec<Activations> = jobs.iter().map(|_| Activations::default()).collect();
    let activations = gates.into_iter().zip(ups).zip(&mut inner).enumerate();
    team.for_each(activations.collect(), |(index, ((mut gate, up), inner))| {
        let start = Instant::now();
        isa.silu_mul(&mut gate, &up)?;
        team.buffers().give_back([up]);
        let expert = jobs[index].0;
        *inner = Activations::new(gate, expert.down_proj.cols);
        inner.arrange_for(isa, team, &[&expert.down_proj])?;
        if let Some(nanos) = counter(index) {
            matmul::add_nanos(nanos, start);
        }
        Ok::<_, ModelError>(())
    })?;

    let mut outputs: Vec<Vec<f32>> =
        jobs.iter().map(|(expert, input)| team.buffers().take(input.len() * expert.down_proj.rows)).collect();
    let products = jobs.iter().zip(&inner).zip(&mut outputs).enumerate();
    let products = products.map(|(index, (((expert, _), input), out))| Matmul {
        linear: &expert.down_proj,
        input: input.all(),
        out,
        nanos: counter(index),
    });
    matmul::run(isa, team, products.collect())?;
    inner.into_iter().for_each(|inner| inner.give_back(team.buffers()));
    Ok(outputs)
}

/// The shared expert's gate before its sigmoid, (tokens,).
fn shared_gates(
    isa: Isa,
    team: &Team,
    shared: &ExpertWeights,
    normed: &Activations,
) -> Result<Vec<f32>, ModelError> {
    let mut gates = vec![0.0; normed.tokens()];
    if let Some(linear) = &shared.shared_expert_gate {
        matmul::run(isa, team, vec![Matmul { linear, input: normed.all(), out: &mut gates, nanos: None }])?;
    }
    Ok(gates)
}
