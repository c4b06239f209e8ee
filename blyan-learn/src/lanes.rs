//! Owns loops over rows: sums in 16 lanes and an exponential, in functions that are compiled for the widest
//! vectors that the CPU has.
//!
//! Nothing here defines a bit of a model: what comes of training is judged by the core's arithmetic. Sums
//! are in a fixed order all the same, so a run repeats on one machine.

use rayon::prelude::*;

const LANES: usize = 16;

/// Rows that one task takes.
pub(crate) const ROWS_PER_TASK: usize = 64;

/// Elements that one task takes.
pub(crate) const ELEMENTS_PER_TASK: usize = 1 << 14;

/// Defines a function whose body is compiled once for each set of instructions, and runs on the best one.
/// Bodies have plain loops and call only `#[inline(always)]` functions: closures would be compiled apart, for
/// the least of CPUs. References have the lifetime `'a`.
macro_rules! vector_fn {
    ($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) -> $out:ty $body:block) => {
        $(#[$meta])*
        pub(crate) fn $name<'a>($($arg: $ty),*) -> $out {
            struct Loop<'a> {
                $($arg: $ty,)*
                marker: std::marker::PhantomData<&'a ()>,
            }
            impl<'a> pulp::WithSimd for Loop<'a> {
                type Output = $out;

                #[inline(always)]
                fn with_simd<S: pulp::Simd>(self, _: S) -> $out {
                    let Self { $($arg,)* marker: _ } = self;
                    $body
                }
            }
            pulp::Arch::new().dispatch(Loop { $($arg,)* marker: std::marker::PhantomData })
        }
    };
}
pub(crate) use vector_fn;

/// e^x within 2 ulp, for x of −87 to 88; beyond that the value at the end.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 × 2^23 rounds to an integer, which then lies in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_145_75, x);
    let r = n.mul_add(-1.428_606_8e-6, r);
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let y = p.mul_add(r * r, r) + 1.0;
    let exponent = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    y * f32::from_bits((exponent.wrapping_add(127) << 23) as u32)
}

#[inline(always)]
fn sum_of_lanes(lanes: [f32; LANES]) -> f32 {
    let mut sum = 0.0;
    for lane in lanes {
        sum += lane;
    }
    sum
}

#[inline(always)]
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let ((a, rest_a), (b, rest_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].mul_add(b[i], lanes[i]);
        }
    }
    let mut tail = 0.0;
    for (a, b) in rest_a.iter().zip(rest_b) {
        tail += a * b;
    }
    sum_of_lanes(lanes) + tail
}

#[inline(always)]
fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    let mut top = f32::NEG_INFINITY;
    for &x in &lanes {
        top = if x > top { x } else { top };
    }
    for &x in rest {
        top = if x > top { x } else { top };
    }
    top
}

/// Softmax of scale · x, in place.
#[inline(always)]
pub(crate) fn softmax(x: &mut [f32], scale: f32) {
    let top = max(x);
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            chunk[i] = exp((chunk[i] - top) * scale);
            lanes[i] += chunk[i];
        }
    }
    let mut sum = sum_of_lanes(lanes);
    for x in rest {
        *x = exp((*x - top) * scale);
        sum += *x;
    }
    let inverse = 1.0 / sum;
    for x in x {
        *x *= inverse;
    }
}

/// ln Σ e^x, without a buffer.
#[inline(always)]
fn log_sum_exp(x: &[f32]) -> f32 {
    let top = max(x);
    let mut lanes = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp(chunk[i] - top);
        }
    }
    let mut sum = sum_of_lanes(lanes);
    for x in rest {
        sum += exp(x - top);
    }
    top + sum.ln()
}

/// Through a softmax: `grad` becomes scale · p · (grad − Σ p · grad).
#[inline(always)]
pub(crate) fn softmax_backward(p: &[f32], grad: &mut [f32], scale: f32) {
    let inner = dot(p, grad);
    for (grad, p) in grad.iter_mut().zip(p) {
        *grad = (*grad - inner) * *p * scale;
    }
}

vector_fn! {
    /// Σ a · b
    fn dot_product(a: &'a [f32], b: &'a [f32]) -> f32 {
        dot(a, b)
    }
}

vector_fn! {
    /// ln Σ e^x
    fn log_sum(x: &'a [f32]) -> f32 {
        log_sum_exp(x)
    }
}

vector_fn! {
    /// sum += weight · x
    fn add_scaled(sum: &'a mut [f32], weight: f32, x: &'a [f32]) -> () {
        for (sum, x) in sum.iter_mut().zip(x) {
            *sum += weight * x;
        }
    }
}

/// Σ x², in a fixed order.
pub(crate) fn sum_of_squares(x: &[f32]) -> f64 {
    let parts: Vec<f64> = x.par_chunks(4096).map(|x| f64::from(dot_product(x, x))).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    vector_fn! {
        fn scaled_softmax(x: &'a mut [f32], scale: f32) -> () {
            softmax(x, scale);
        }
    }

    #[test]
    fn the_exponential_is_close_and_stays_finite() {
        let mut x = -87.0f32;
        while x < 88.0 {
            let exact = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - exact) / exact).abs() < 3e-7, "{x}");
            x += 0.0137;
        }
        assert!(exp(-1e30) < 1e-37 && exp(1e30).is_finite() && exp(0.0) == 1.0);
    }

    #[test]
    fn softmax_is_that_of_plain_sums() {
        for len in [1usize, 2, 15, 16, 17, 33, 70] {
            let x: Vec<f32> = (0..len).map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.4).collect();
            let mut y = x.clone();
            scaled_softmax(&mut y, 0.7);
            let e: Vec<f64> = x.iter().map(|x| (0.7 * f64::from(*x)).exp()).collect();
            let sum: f64 = e.iter().sum();
            for (y, e) in y.iter().zip(&e) {
                assert!((f64::from(*y) - e / sum).abs() < 1e-6);
            }
            let exact = x.iter().map(|x| f64::from(*x).exp()).sum::<f64>().ln();
            assert!((f64::from(log_sum(&x)) - exact).abs() < 1e-5);
        }
    }
}
