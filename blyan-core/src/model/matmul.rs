//! Owns how matrix products are shared out: many products, one parallel region, split by output
//! rows and never along a sum, so that the number of threads cannot change a bit.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::kernels::{Aligned, GroupQuantized, Input, Isa, KernelError, MatMut, Quantized};

use super::ModelError;
use super::buffers::Buffers;
use super::team::Team;
use super::weights::{Form, Linear};

/// Multiply-adds below which a task is not worth handing to another thread.
const MIN_TASK_MACS: usize = 1 << 16;

/// A task takes half of what is left of its thread's share, down to this part of it. A task's begin costs some
/// misses of the cache, and at a region's end a thread waits for half a task of another on average: so the last
/// ones are small.
const SMALLEST_PART: usize = 48;

/// Rows of a task are a multiple of this, so that tiles of four, six and eight rows stay whole.
const ROW_MULTIPLE: usize = 24;

/// Rows of activations that one task quantizes.
const ROWS_PER_TASK: usize = 16;

/// Inputs of a product, in each form that a kernel wants at most once however many matrices use them.
#[derive(Debug, Default)]
pub(crate) struct Activations {
    /// (tokens, cols)
    values: Vec<f32>,
    tokens: usize,
    cols: usize,
    aligned: Option<Aligned>,
    quantized: Option<Quantized>,
    groups: Option<GroupQuantized>,
}

impl Activations {
    pub(crate) fn new(values: Vec<f32>, cols: usize) -> Self {
        let tokens = values.len() / cols;
        Self { values, tokens, cols, aligned: None, quantized: None, groups: None }
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    /// What a product of all tokens reads.
    pub(crate) fn all(&self) -> Tokens<'_> {
        Tokens { activations: self, chosen: None }
    }

    /// What a product of some tokens reads.
    pub(crate) fn choose<'a>(&'a self, tokens: &'a [usize]) -> Tokens<'a> {
        Tokens { activations: self, chosen: Some(tokens) }
    }

    /// Gives the memory to whoever needs it next.
    pub(crate) fn give_back(self, buffers: &Buffers) {
        buffers.give_back([self.values]);
        buffers.give_back_quantized(self.quantized);
        buffers.give_back_groups(self.groups);
    }

    /// Makes the forms that `linears` want: for floats, if there are several tokens, as vectors like them; for
    /// integers rounded to 16 bits, or to 8 by group.
    pub(crate) fn arrange_for(
        &mut self,
        isa: Isa,
        team: &Team,
        linears: &[&Linear],
    ) -> Result<(), ModelError> {
        let wanted = |form| linears.iter().any(|linear| linear.wants() == form);
        if self.tokens > 1 && wanted(Form::Floats) {
            self.aligned = Some(Aligned::new(&self.values, self.cols)?);
        }
        if wanted(Form::Quantized) {
            let bytes = Quantized::bytes_of(self.tokens, self.cols);
            let mut quantized = team.buffers().take_quantized(bytes);
            for_each_row(team, quantized.rows_for(&self.values, self.cols)?, |row| isa.quantize_row(row))?;
            self.quantized = Some(quantized);
        }
        if wanted(Form::Groups) {
            let bytes = GroupQuantized::bytes_of(self.tokens, self.cols);
            let mut groups = team.buffers().take_groups(bytes);
            let rows = groups.rows_for(&self.values, self.cols)?;
            for_each_row(team, rows, |row| isa.quantize_row_by_group(row))?;
            self.groups = Some(groups);
        }
        Ok(())
    }

    fn input(&self) -> Result<Input<'_>, KernelError> {
        let mut input = Input::new(&self.values, self.cols)?;
        if let Some(aligned) = &self.aligned {
            input = input.with_aligned(aligned)?;
        }
        if let Some(quantized) = &self.quantized {
            input = input.with_quantized(quantized)?;
        }
        if let Some(groups) = &self.groups {
            input = input.with_groups(groups)?;
        }
        Ok(input)
    }
}

/// Does something to each row, on all threads.
fn for_each_row<T: Send>(
    team: &Team,
    mut rows: impl Iterator<Item = T>,
    run: impl Fn(T) + Sync,
) -> Result<(), ModelError> {
    let tasks = std::iter::from_fn(|| {
        let task: Vec<T> = rows.by_ref().take(ROWS_PER_TASK).collect();
        (!task.is_empty()).then_some(task)
    });
    team.for_each(tasks.collect(), |rows: Vec<T>| {
        rows.into_iter().for_each(&run);
        Ok::<_, ModelError>(())
    })
}

/// Tokens of some activations, all of them or chosen ones.
#[derive(Clone, Copy)]
pub(crate) struct Tokens<'a> {
    activations: &'a Activations,
    chosen: Option<&'a [usize]>,
}

impl<'a> Tokens<'a> {
    pub(crate) fn len(self) -> usize {
        self.chosen.map_or(self.activations.tokens, <[usize]>::len)
    }

    fn input(self) -> Result<Input<'a>, KernelError> {
        let input = self.activations.input()?;
        self.chosen.map_or(Ok(input), |tokens| input.choose(tokens))
    }
}

/// One matrix product: `out = input · weightsᵀ + bias`.
pub(crate) struct Matmul<'a> {
    pub(crate) linear: &'a Linear,
    pub(crate) input: Tokens<'a>,
    /// (tokens, rows)
    pub(crate) out: &'a mut [f32],
    /// Nanoseconds of all threads are added here.
    pub(crate) nanos: Option<&'a AtomicU64>,
}

/// Some output rows of one product.
struct Task<'a> {
    linear: &'a Linear,
    input: Tokens<'a>,
    rows: Range<usize>,
    /// (tokens, rows.len())
    out: MatMut<'a>,
    nanos: Option<&'a AtomicU64>,
}

/// Runs all products in one parallel region. Every thread has the same number of multiply-adds to begin with.
pub(crate) fn run(isa: Isa, team: &Team, products: Vec<Matmul<'_>>) -> Result<(), ModelError> {
    let macs: usize = products.iter().map(|p| p.linear.rows * p.linear.cols * p.input.len()).sum();
    let share = macs.div_ceil(team.threads());
    let smallest = (share / SMALLEST_PART).max(MIN_TASK_MACS);
    let mut tasks = Vec::new();
    let mut starts = vec![0];
    let mut macs_before = 0;
    for Matmul { linear, input, out, nanos } in products {
        let row_macs = (linear.cols * input.len()).max(1);
        let mut rest = MatMut::from_slice(out, input.len(), linear.rows)?;
        let mut start = 0;
        while start < linear.rows {
            if macs_before >= starts.len() * share {
                starts.push(tasks.len());
            }
            let left = (starts.len() * share).saturating_sub(macs_before);
            let task_macs = (left / 2).max(smallest);
            let rows_per_task = (task_macs / row_macs).max(1).next_multiple_of(ROW_MULTIPLE);
            let rows = start..linear.rows.min(start + rows_per_task);
            let (out, remainder) = rest.split_at_col(rows.len())?;
            rest = remainder;
            start = rows.end;
            macs_before += rows.len() * row_macs;
            tasks.push(Task { linear, input, rows, out, nanos });
        }
    }
    team.for_each_in_shares(tasks, starts, |task| task.run(isa))
}

impl Task<'_> {
    fn run(mut self, isa: Isa) -> Result<(), ModelError> {
        let start = self.nanos.map(|_| Instant::now());
        let input = self.input.input()?;
        isa.matmul(&self.linear.weights()?, self.rows.clone(), &input, self.out.reborrow())?;
        if let Some(bias) = self.linear.bias(self.rows.clone())? {
            for token in 0..input.tokens() {
                if let Some(row) = self.out.row_mut(token) {
                    isa.add_vector(row, &bias)?;
                }
            }
        }
        if let (Some(nanos), Some(start)) = (self.nanos, start) {
            add_nanos(nanos, start);
        }
        Ok(())
    }
}

/// Adds the time since `start`.
pub(crate) fn add_nanos(nanos: &AtomicU64, start: Instant) {
    let elapsed = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    nanos.fetch_add(elapsed, Ordering::Relaxed);
}
