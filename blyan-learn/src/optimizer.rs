//! Owns AdamW (arXiv:1711.05101), the schedule of its learning rate, and clipping of gradients. candle's
//! own optimizer hides its moments, so a run could not be resumed to the same bits.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp2, Layout, Result, bail};
use rayon::prelude::*;

use crate::lanes::{ELEMENTS_PER_TASK, sum_of_squares, vector_fn};
use crate::parameters::Parameters;
use crate::storage::{floats, with_floats};

/// Numbers of AdamW.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Decay of the mean of gradients.
    pub beta1: f64,
    /// Decay of the mean of their squares.
    pub beta2: f64,
    /// Added to the root of the latter.
    pub eps: f64,
    /// Share of a matrix's weights that a step takes away, times the learning rate. Norms and biases keep
    /// theirs.
    pub weight_decay: f64,
}

impl Default for AdamW {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.0 }
    }
}

/// Learning rate by step: from 0 up in a straight line, then down along a cosine.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Largest learning rate.
    pub peak: f64,
    /// Share of the peak that the last step has.
    pub floor: f64,
    /// Steps until the peak.
    pub warmup_steps: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self { peak: 1e-4, floor: 0.1, warmup_steps: 0 }
    }
}

impl Schedule {
    /// Learning rate of a step, counted from 0, of so many.
    pub fn rate(&self, step: u64, steps: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let rest = steps.saturating_sub(self.warmup_steps).max(1);
        let share = ((step - self.warmup_steps) as f64 / rest as f64).min(1.0);
        let cosine = 0.5 * (1.0 + blyan_core::kernels::math::sin_cos_f64(std::f64::consts::PI * share).1);
        self.peak * (self.floor + (1.0 - self.floor) * cosine)
    }
}

/// Running means of a variable's gradients and of their squares.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

/// AdamW with its state.
#[derive(Debug)]
pub(crate) struct Optimizer {
    numbers: AdamW,
    pub(crate) moments: BTreeMap<String, Moments>,
}

impl Optimizer {
    pub(crate) fn new(numbers: AdamW, parameters: &Parameters) -> Self {
        let moments = parameters.all.iter().map(|(name, parameter)| {
            let zeros = vec![0.0; parameter.var.elem_count()];
            (name.clone(), Moments { first: zeros.clone(), second: zeros })
        });
        Self { numbers, moments: moments.collect() }
    }

    /// Changes every variable by its gradient; `step` counts from 0. Gradients are scaled down together if
    /// their norm is above `clip`. Returns the norm before that; if it is no finite number, nothing has
    /// changed.
    pub(crate) fn step(
        &mut self,
        parameters: &Parameters,
        gradients: &GradStore,
        (step, rate): (u64, f64),
        clip: Option<f64>,
    ) -> Result<f64> {
        let mut squares = 0.0;
        for parameter in parameters.all.values() {
            if let Some(gradient) = gradients.get(parameter.var.as_tensor()) {
                squares += with_floats(gradient, |gradient| Ok(sum_of_squares(gradient)))?;
            }
        }
        let norm = squares.sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        let AdamW { beta1, beta2, eps, weight_decay } = self.numbers;
        let power = i32::try_from(step + 1).unwrap_or(i32::MAX);
        for (name, parameter) in &parameters.all {
            let (Some(gradient), Some(moments)) =
                (gradients.get(parameter.var.as_tensor()), self.moments.get_mut(name))
            else {
                continue;
            };
            let numbers = StepNumbers {
                gradient_scale: scale as f32,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: eps as f32,
                keep: if parameter.decays { (1.0 - rate * weight_decay) as f32 } else { 1.0 },
                first_scale: (rate / (1.0 - beta1.powi(power))) as f32,
                second_scale: (1.0 / (1.0 - beta2.powi(power))) as f32,
            };
            let update = Update { moments: Mutex::new(moments), numbers };
            parameter.var.as_tensor().inplace_op2(&gradient.detach().contiguous()?, &update)?;
        }
        Ok(norm)
    }
}

/// One step of one variable.
struct Update<'a> {
    moments: Mutex<&'a mut Moments>,
    numbers: StepNumbers,
}

/// Numbers of one step.
#[derive(Clone, Copy)]
pub(crate) struct StepNumbers {
    gradient_scale: f32,
    beta1: f32,
    beta2: f32,
    eps: f32,
    keep: f32,
    first_scale: f32,
    second_scale: f32,
}

vector_fn! {
    fn adamw(
        values: &'a mut [f32],
        gradient: &'a [f32],
        first: &'a mut [f32],
        second: &'a mut [f32],
        numbers: StepNumbers,
    ) -> () {
        let StepNumbers { gradient_scale, beta1, beta2, eps, keep, first_scale, second_scale } = numbers;
        let states = first.iter_mut().zip(second);
        for ((value, gradient), (first, second)) in values.iter_mut().zip(gradient).zip(states) {
            let gradient = gradient * gradient_scale;
            *first = beta1 * *first + (1.0 - beta1) * gradient;
            *second = beta2 * *second + (1.0 - beta2) * gradient * gradient;
            let root = (*second * second_scale).sqrt() + eps;
            *value = *value * keep - *first * first_scale / root;
        }
    }
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        values: &mut CpuStorage,
        layout: &Layout,
        gradient: &CpuStorage,
        lg: &Layout,
    ) -> Result<()> {
        let gradient = floats(gradient, lg)?;
        let (CpuStorage::F32(values), Some((start, end))) = (values, layout.contiguous_offsets()) else {
            bail!("expected a contiguous variable of F32");
        };
        let mut moments = self.moments.lock().unwrap_or_else(PoisonError::into_inner);
        let Moments { first, second } = &mut **moments;
        let task = ELEMENTS_PER_TASK;
        let states = first.par_chunks_mut(task).zip(second.par_chunks_mut(task));
        let tasks = values[start..end].par_chunks_mut(task).zip(gradient.par_chunks(task)).zip(states);
        tasks.for_each(|((values, gradient), (first, second))| {
            adamw(values, gradient, first, second, self.numbers);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Tensor};
    use candle_nn::optim::{Optimizer as _, ParamsAdamW};

    #[test]
    fn steps_are_those_of_candles_adamw() {
        let start: Vec<f32> = (0..40).map(|i| (i as f32 - 20.0) / 7.0).collect();
        let mut parameters = Parameters::default();
        let ours = parameters.add("w".to_owned(), &[8, 5], start.clone(), &[]).unwrap();
        let theirs = candle_core::Var::from_vec(start, (8, 5), &Device::Cpu).unwrap();
        let numbers = AdamW { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
        let mut optimizer = Optimizer::new(numbers, &parameters);
        let params = ParamsAdamW { lr: 0.03, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1 };
        let mut reference = candle_nn::AdamW::new(vec![theirs.clone()], params).unwrap();
        let loss = |x: &Tensor| (x.sin().unwrap() * 3.0).unwrap().sqr().unwrap().sum_all().unwrap();
        for step in 0..20 {
            let gradients = loss(&ours).backward().unwrap();
            optimizer.step(&parameters, &gradients, (step, 0.03), None).unwrap();
            reference.backward_step(&loss(theirs.as_tensor())).unwrap();
        }
        let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        for (a, b) in values(&ours).iter().zip(values(theirs.as_tensor())) {
            assert!((a - b).abs() < 1e-5, "{a} {b}");
        }
    }

    #[test]
    fn gradients_are_clipped_by_their_common_norm() {
        let mut parameters = Parameters::default();
        let a = parameters.add("a".to_owned(), &[1], vec![3.0], &[]).unwrap();
        let b = parameters.add("b".to_owned(), &[1], vec![4.0], &[]).unwrap();
        // The gradient is (3, 4), so clipping to 1 leaves (0.6, 0.8).
        let loss = ((a.sqr().unwrap() + b.sqr().unwrap()).unwrap() * 0.5).unwrap().sum_all().unwrap();
        let mut optimizer = Optimizer::new(AdamW::default(), &parameters);
        let norm = optimizer.step(&parameters, &loss.backward().unwrap(), (0, 0.1), Some(1.0)).unwrap();
        assert!((norm - 5.0).abs() < 1e-6);
        for (name, expected) in [("a", 0.06), ("b", 0.08)] {
            assert!((optimizer.moments[name].first[0] - expected).abs() < 1e-6);
        }
    }

    #[test]
    fn the_schedule_rises_then_falls_to_its_floor() {
        let schedule = Schedule { peak: 2.0, floor: 0.25, warmup_steps: 4 };
        let rates: Vec<f64> = (0..=12).map(|step| schedule.rate(step, 12)).collect();
        assert_eq!(rates[..4], [0.5, 1.0, 1.5, 2.0]);
        assert_eq!(rates[4], 2.0);
        assert!((rates[8] - 2.0 * (0.25 + 0.75 * 0.5)).abs() < 1e-12);
        assert!((rates[12] - 0.5).abs() < 1e-12 && rates[4..].is_sorted_by(|a, b| a >= b));
    }
}
