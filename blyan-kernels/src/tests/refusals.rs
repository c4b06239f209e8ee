//! What does not fit is a typed error, never a panic or a wrong result.

use super::f32_bytes;
use crate::dtype::DType;
use crate::{
    Aligned, Attention, GroupQuantized, HeadShape, Input, Isa, KernelError, MatMut, Quantized, Vector,
    Weights,
};

macro_rules! assert_refused {
    ($result:expr, $error:pat) => {
        match $result {
            Err($error) => {}
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn operands() {
    let data = [0u8; 24];
    assert_refused!(
        Weights::new(DType::F32, 2, 4, &data, None),
        KernelError::Length { argument: "weight data", expected: 32, actual: 24 }
    );
    assert_refused!(Weights::new(DType::F32, usize::MAX, 2, &data, None), KernelError::Shape(_));
    assert_refused!(Weights::new(DType::F32, 2, 3, &data, Some(&data[..8])), KernelError::Scale { .. });
    for dtype in [DType::I8, DType::F8E4M3] {
        assert_refused!(Weights::new(dtype, 2, 12, &data, None), KernelError::Scale { .. });
        assert_refused!(
            Weights::new(dtype, 2, 12, &data, Some(&data[..4])),
            KernelError::Length { argument: "weight scale", expected: 8, actual: 4 }
        );
        assert_refused!(Vector::new(dtype, 24, &data), KernelError::UnsupportedDType { .. });
        let error = Weights::new(dtype, 2, 12, &data, None).unwrap_err();
        assert!(error.to_string().contains("one F32 scale per row"), "{error}");
    }
    let longest = 1 << 31;
    Weights::new(DType::I8, 0, longest, &[], Some(&[])).unwrap();
    assert_refused!(
        Weights::new(DType::I8, 0, longest + 1, &[], Some(&[])),
        KernelError::OutOfRange { argument: "weight columns", .. }
    );
    assert_refused!(Weights::new(DType::I4, 1, 48, &data, Some(&data[..2])), KernelError::Group { cols: 48 });
    assert_refused!(Weights::new(DType::I4, 1, 32, &data[..16], None), KernelError::Scale { .. });
    assert_refused!(
        Weights::new(DType::I4, 1, 32, &data[..16], Some(&data[..4])),
        KernelError::Length { argument: "weight scale", expected: 2, actual: 4 }
    );
    assert_refused!(Weights::new(DType::I4, 1, 32, &data, Some(&data[..2])), KernelError::Length { .. });
    assert_refused!(Vector::new(DType::I4, 48, &data), KernelError::UnsupportedDType { .. });
    assert_refused!(Isa::SCALAR.quantize_by_group(&[0.0; 96], 48), KernelError::Group { cols: 48 });
    assert_refused!(Vector::new(DType::BF16, 11, &data), KernelError::Length { .. });
    assert_refused!(Input::new(&[0.0; 5], 2), KernelError::Ragged { .. });
    assert_refused!(Input::new(&[], 0), KernelError::Ragged { .. });
    assert_refused!(Aligned::new(&[0.0; 5], 2), KernelError::Ragged { .. });
    assert_refused!(Aligned::new(&[], 0), KernelError::Ragged { .. });
    let weights = |rows, cols| Weights::new(DType::F32, rows, cols, &data, None).unwrap();
    for (rows, cols) in [(3, 2), (1, 6), (6, 1)] {
        let normals = Isa::detect().normals(&weights(rows, cols));
        assert_refused!(weights(2, 3).with_normals(&normals), KernelError::Length { .. });
        weights(rows, cols).with_normals(&normals).unwrap();
    }
    let aligned = Aligned::new(&[0.0; 6], 3).unwrap();
    assert_refused!(Input::new(&[0.0; 6], 2).unwrap().with_aligned(&aligned), KernelError::Length { .. });
    assert_refused!(Input::new(&[0.0; 9], 3).unwrap().with_aligned(&aligned), KernelError::Length { .. });
    assert_refused!(Isa::SCALAR.quantize_by_group(&[0.0; 33], 32), KernelError::Ragged { .. });
    for cols in [0, 4, usize::MAX] {
        let (mut quantized, mut groups) = (Quantized::default(), GroupQuantized::default());
        assert_refused!(quantized.rows_for(&[0.0; 6], cols).map(Iterator::count), KernelError::Ragged { .. });
        assert_refused!(groups.rows_for(&[0.0; 6], cols).map(Iterator::count), KernelError::Ragged { .. });
        assert_refused!(Aligned::new(&[0.0; 6], cols), KernelError::Ragged { .. });
    }
    assert_refused!(Isa::SCALAR.quantize(&[], usize::MAX), KernelError::Ragged { .. });
    assert_refused!(Aligned::new(&[], usize::MAX), KernelError::Ragged { .. });
    let quantize = |to, row, values, scales| {
        Isa::SCALAR.quantize_weights(to, &[1.0; 96][..row], &mut [0; 90][..values], &mut [0; 6][..scales])
    };
    assert_eq!(quantize(DType::I4, 96, 48, 6), Ok(()));
    assert_refused!(quantize(DType::I4, 90, 45, 6), KernelError::Group { cols: 90 });
    assert_refused!(quantize(DType::I4, 96, 47, 6), KernelError::Length { argument: "values", .. });
    assert_refused!(quantize(DType::I4, 96, 48, 4), KernelError::Length { argument: "scales", .. });
    for to in [DType::I8, DType::F8E4M3] {
        assert_eq!(quantize(to, 90, 90, 4), Ok(()));
        assert_refused!(quantize(to, 90, 89, 4), KernelError::Length { argument: "values", .. });
        assert_refused!(quantize(to, 90, 90, 6), KernelError::Length { argument: "scales", .. });
    }
    assert_refused!(quantize(DType::BF16, 3, 6, 4), KernelError::UnsupportedDType { .. });
    let odd = [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    for (isa, odd) in Isa::available().into_iter().flat_map(|isa| odd.map(|odd| (isa, odd))) {
        let mut row = [1.0; 96];
        for place in [0, 40, 95] {
            row[place] = odd;
            for (to, len) in [(DType::I4, 6), (DType::I8, 4), (DType::F8E4M3, 4)] {
                let (mut values, mut scales) = (vec![0; to.bytes_of(96)], vec![0; len]);
                let refused = isa.quantize_weights(to, &row, &mut values, &mut scales);
                assert_refused!(refused, KernelError::NotFinite { .. });
            }
            row[place] = 1.0;
        }
    }
    let groups = Isa::SCALAR.quantize_by_group(&[0.0; 64], 32).unwrap();
    assert_refused!(Input::new(&[0.0; 64], 64).unwrap().with_groups(&groups), KernelError::Length { .. });
    assert_refused!(Input::new(&[0.0; 96], 32).unwrap().with_groups(&groups), KernelError::Length { .. });
    let quantized = Isa::SCALAR.quantize(&[0.0; 6], 3).unwrap();
    assert_refused!(Input::new(&[0.0; 6], 2).unwrap().with_quantized(&quantized), KernelError::Length { .. });
    assert_refused!(Input::new(&[0.0; 9], 3).unwrap().with_quantized(&quantized), KernelError::Length { .. });
}

#[test]
#[expect(clippy::reversed_empty_ranges, reason = "a caller may compute such a range")]
fn matmul() {
    for isa in Isa::available() {
        let data = [0u8; 12];
        let scale = f32_bytes(&[1.0; 4]);
        let weights = Weights::new(DType::I8, 4, 3, &data, Some(&scale)).unwrap();
        let x = [0.0; 6];
        let input = Input::new(&x, 3).unwrap();
        let mut out = [0.0; 8];
        let mut run = |rows, input: &Input<'_>, shape: (usize, usize)| {
            let out = &mut out[..shape.0 * shape.1];
            isa.matmul(&weights, rows, input, MatMut::from_slice(out, shape.0, shape.1).unwrap())
        };
        assert_refused!(run(0..4, &input, (2, 4)), KernelError::NotQuantized);
        let quantized = isa.quantize(&x, 3).unwrap();
        let input = input.with_quantized(&quantized).unwrap();
        run(0..4, &input, (2, 4)).unwrap();
        run(4..4, &input, (2, 0)).unwrap();
        assert_refused!(run(1..5, &input, (2, 4)), KernelError::OutOfRange { index: 5, len: 4, .. });
        assert_refused!(run(5..5, &input, (2, 0)), KernelError::OutOfRange { .. });
        assert_refused!(run(3..1, &input, (2, 0)), KernelError::OutOfRange { .. });
        assert_refused!(run(0..3, &input, (2, 4)), KernelError::Length { argument: "output columns", .. });
        assert_refused!(run(0..4, &input, (1, 4)), KernelError::Length { argument: "output rows", .. });
        let narrow = Input::new(&x, 2).unwrap();
        assert_refused!(run(0..4, &narrow, (3, 2)), KernelError::Length { argument: "input columns", .. });
        let beyond = input.choose(&[0, 2]);
        assert_refused!(beyond, KernelError::OutOfRange { argument: "chosen tokens", index: 2, len: 2 });
        let chosen = input.choose(&[1, 1, 0]).unwrap();
        run(0..2, &chosen, (3, 2)).unwrap();
        assert_refused!(run(0..4, &chosen, (2, 4)), KernelError::Length { argument: "output rows", .. });
        let nothing = Input::new(&[], 3).unwrap().with_quantized(&quantized);
        assert_refused!(nothing, KernelError::Length { .. });
    }
}

#[test]
fn integers_want_their_own_form_of_the_input() {
    for isa in Isa::available() {
        let (x, mut out) = ([1.0; 32], [0.0]);
        let (quantized, groups) = (isa.quantize(&x, 32).unwrap(), isa.quantize_by_group(&x, 32).unwrap());
        let input = Input::new(&x, 32).unwrap();
        let (of_token, of_groups) =
            (input.with_quantized(&quantized).unwrap(), input.with_groups(&groups).unwrap());
        let mut run = |weights: &Weights<'_>, input: &Input<'_>| {
            isa.matmul(weights, 0..1, input, MatMut::from_slice(&mut out, 1, 1).unwrap()).map(|()| out[0])
        };
        let weights = Weights::new(DType::I4, 1, 32, &[0x98; 16], Some(&[0x80, 0x3f])).unwrap();
        assert_refused!(run(&weights, &input), KernelError::NotQuantized);
        assert_refused!(run(&weights, &of_token), KernelError::NotQuantized);
        assert_eq!(run(&weights, &of_groups).unwrap(), 16.0);
        let one = f32_bytes(&[1.0]);
        let weights = Weights::new(DType::I8, 1, 32, &[1; 32], Some(&one)).unwrap();
        assert_refused!(run(&weights, &input), KernelError::NotQuantized);
        assert_refused!(run(&weights, &of_groups), KernelError::NotQuantized);
        assert_eq!(run(&weights, &of_token).unwrap(), 32.0);
    }
}

#[test]
fn rows_and_elements() {
    for isa in Isa::available() {
        let ones = f32_bytes(&[1.0; 3]);
        let three = Vector::new(DType::F32, 3, &ones).unwrap();
        let none = Vector::new(DType::F32, 0, &[]).unwrap();
        let weights = Weights::new(DType::F32, 1, 3, &ones, None).unwrap();
        let (mut a, b) = ([0.0; 6], [0.0; 5]);
        assert_refused!(isa.rms_norm(&b, &three, 1e-5, &mut a), KernelError::Ragged { .. });
        assert_refused!(isa.rms_norm(&b, &none, 1e-5, &mut a), KernelError::Ragged { .. });
        assert_refused!(isa.rms_norm(&b[..3], &three, 1e-5, &mut a), KernelError::Length { .. });
        assert_refused!(isa.silu_mul(&mut a, &b), KernelError::Length { .. });
        assert_refused!(isa.add(&mut a, &b), KernelError::Length { .. });
        assert_refused!(isa.scale_add(&mut a, 1.0, &b), KernelError::Length { .. });
        assert_refused!(isa.add_vector(&mut a[..5], &three), KernelError::Ragged { .. });
        assert_refused!(isa.add_vector(&mut a, &none), KernelError::Ragged { .. });
        assert_refused!(isa.rope(&mut a, &b[..3], &b[..2]), KernelError::Length { argument: "sin", .. });
        assert_refused!(isa.rope(&mut a, &b[..2], &b[..2]), KernelError::Length { argument: "x", .. });
        assert_refused!(isa.quantize(&b, 3), KernelError::Ragged { .. });
        assert_refused!(isa.quantize(&b, 0), KernelError::Ragged { .. });
        assert_refused!(isa.dequantize_row(&weights, 1, &mut a[..3]), KernelError::OutOfRange { .. });
        assert_refused!(isa.dequantize_row(&weights, 0, &mut a), KernelError::Length { .. });
        let mut bytes = [0; 11];
        assert_refused!(isa.round_to(DType::F16, &a, &mut bytes), KernelError::Length { .. });
        assert_refused!(isa.round_to(DType::BF16, &a, &mut bytes), KernelError::UnsupportedDType { .. });
    }
}

#[test]
fn attention() {
    for isa in Isa::available() {
        let shape = HeadShape { dtype: DType::F16, head_dim: 4 };
        let (x, keys, values) = ([1.0; 8], [0u8; 256], [0u8; 1024]);
        let (spans, past) = ([0..32, 3..5], [0..32, 3..33]);
        let fits = Attention {
            shape,
            keys: &keys,
            values: &values,
            queries: &x,
            stride: 4,
            group: 1,
            spans: &spans,
            scale: 1.0,
        };
        let run = |args: Attention<'_>, rows: usize, cols: usize| {
            let mut out = vec![0.0; rows * cols];
            let matrix = MatMut::from_slice(&mut out, rows, cols).unwrap();
            isa.attention(&args, &mut Vec::new(), matrix).map(|()| out)
        };
        assert!(run(fits, 2, 4).unwrap().iter().all(|x| *x == 0.0));
        let with = |dtype, head_dim| Attention { shape: HeadShape { dtype, head_dim }, ..fits };
        assert_refused!(run(with(DType::I8, 4), 2, 4), KernelError::UnsupportedDType { .. });
        assert_refused!(run(with(DType::F16, 0), 2, 0), KernelError::Ragged { .. });
        assert_refused!(run(with(DType::F16, 5), 2, 5), KernelError::Length { argument: "queries", .. });
        assert_refused!(run(with(DType::F16, usize::MAX), 2, 4), KernelError::Ragged { .. });
        assert_refused!(run(Attention { group: 0, ..fits }, 2, 0), KernelError::Ragged { .. });
        assert_refused!(run(Attention { stride: 3, ..fits }, 2, 4), KernelError::Length { .. });
        let short = Attention { keys: &keys[1..], ..fits };
        assert_refused!(run(short, 2, 4), KernelError::Length { argument: "keys", .. });
        let short = Attention { values: &values[1..], ..fits };
        assert_refused!(run(short, 2, 4), KernelError::Length { argument: "values", .. });
        let past = Attention { spans: &past, ..fits };
        assert_refused!(run(past, 2, 4), KernelError::Length { argument: "keys", .. });
        assert_refused!(run(fits, 1, 4), KernelError::Length { argument: "output rows", .. });
        assert_refused!(run(fits, 2, 3), KernelError::Length { argument: "output columns", .. });
        let none = Attention { keys: &[], values: &[], spans: &[0..0, 9..9], ..fits };
        assert!(run(none, 2, 4).unwrap().iter().all(|x| x.to_bits() == 0x7fc0_0000));

        let store = |position, key: &[f32], value: &[f32]| {
            let (mut keys, mut values) = ([0u8; 128], [0u8; 512]);
            isa.store_position(shape, position, (key, value), (&mut keys, &mut values))
        };
        store(15, &x[..4], &x[..4]).unwrap();
        assert_refused!(store(16, &x[..4], &x[..4]), KernelError::Length { argument: "keys", .. });
        assert_refused!(store(usize::MAX, &x[..4], &x[..4]), KernelError::Length { .. });
        assert_refused!(store(0, &x[..3], &x[..4]), KernelError::Length { argument: "key", .. });
        assert_refused!(store(0, &x[..4], &x[..5]), KernelError::Length { argument: "value", .. });
    }
}

#[test]
fn a_target_without_a_logit_is_refused() {
    for (len, target) in [(0, 0), (3, 3), (3, usize::MAX)] {
        let error = Isa::SCALAR.loss(&mut vec![0.0; len], target).unwrap_err();
        assert_eq!(error, KernelError::OutOfRange { argument: "target", index: target, len });
    }
}
