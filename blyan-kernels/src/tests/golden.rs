//! Pins the bits of numerics version 2: one digest for each kernel, equal on every instruction set
//! and platform. A digest that changes means a new `NUMERICS_VERSION`.

use super::{Forms, Random, encode, encode_scales, scale_count};
use crate::dtype::DType;
use crate::{Attention, HeadShape, Input, Isa, MatMut, NUMERICS_VERSION, Vector, Weights, math};

fn digest(values: impl IntoIterator<Item = f32>) -> String {
    let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
    blake3::hash(&bytes).to_hex()[..16].to_string()
}

fn matmul(isa: Isa, dtype: DType, rows: usize) -> String {
    // The end of a row is no whole step.
    let (cols, tokens) = (if dtype == DType::I4 { 1056 } else { 1003 }, 5);
    let mut random = Random(40);
    let spread = match dtype {
        DType::I8 => 40.0,
        DType::I4 => 4.0,
        _ => 1.0,
    };
    let values: Vec<f32> = random.normals(rows * cols).iter().map(|x| x * spread).collect();
    let data = encode(dtype, &values);
    let scale = encode_scales(dtype, &random.normals(scale_count(dtype, rows, cols)));
    let x = random.normals(tokens * cols);
    let weights = Weights::new(dtype, rows, cols, &data, scale.as_deref()).unwrap();
    let forms = Forms::new(isa, &x, cols);
    let input = forms.with(Input::new(&x, cols).unwrap());
    let mut out = vec![0.0; tokens * rows];
    isa.matmul(&weights, 0..rows, &input, MatMut::from_slice(&mut out, tokens, rows).unwrap()).unwrap();
    // Few tokens take the rows in another order on some CPUs.
    for isa in [isa.as_on(false), isa.as_on(true)] {
        let mut few = vec![0.0; tokens * rows];
        for (chosen, few) in [0, 1, 2, 3, 4].chunks(2).zip(few.chunks_mut(2 * rows)) {
            let view = MatMut::from_slice(few, chosen.len(), rows).unwrap();
            isa.matmul(&weights, 0..rows, &input.choose(chosen).unwrap(), view).unwrap();
        }
        assert!(few == out, "{dtype}");
    }
    digest(out)
}

fn attention(isa: Isa, dtype: DType) -> String {
    let mut random = Random(41);
    let (queries, positions) = (random.normals(3 * 40), 77);
    let shape = HeadShape { dtype, head_dim: 40 };
    let (mut keys, mut values) = (vec![0; shape.keys_len(positions)], vec![0; shape.values_len(positions)]);
    for position in 0..positions {
        let (key, value) = (random.normals(40), random.normals(40));
        isa.store_position(shape, position, (&key, &value), (&mut keys, &mut values)).unwrap();
    }
    let span = 0..positions;
    let args = Attention {
        shape,
        keys: &keys,
        values: &values,
        queries: &queries,
        stride: 120,
        group: 3,
        spans: std::slice::from_ref(&span),
        scale: 0.2,
    };
    let mut out = vec![0.0; queries.len()];
    isa.attention(&args, &mut Vec::new(), MatMut::from_slice(&mut out, 1, 120).unwrap()).unwrap();
    digest(out)
}

fn rows(isa: Isa) -> [(&'static str, String); 5] {
    let mut random = Random(42);
    let (x, y) = (random.normals(515), random.normals(515));
    let in_place = |run: &dyn Fn(&mut [f32])| {
        let mut values = x.clone();
        run(&mut values);
        digest(values)
    };
    let weight = encode(DType::BF16, &y);
    let norm = |out: &mut [f32]| {
        isa.rms_norm(&x, &Vector::new(DType::BF16, 515, &weight).unwrap(), 1e-5, out).unwrap();
    };
    [
        ("rms_norm", in_place(&norm)),
        ("silu_mul", in_place(&|values| isa.silu_mul(values, &y).unwrap())),
        ("scale_add", in_place(&|values| isa.scale_add(values, 0.3, &y).unwrap())),
        ("rope", in_place(&|values| isa.rope(&mut values[..514], &y[..257], &y[258..]).unwrap())),
        ("softmax", in_place(&|values| isa.softmax(values))),
    ]
}

fn tables() -> String {
    let angles = (0..64).flat_map(|i| {
        let frequency = math::pow_f64(10_000.0, -f64::from(i) / 64.0);
        (0..50).map(move |position| f64::from(position * position * 997) * frequency)
    });
    digest(angles.flat_map(|angle| {
        let (sin, cos) = math::sin_cos_f64(angle);
        [sin as f32, cos as f32, math::ln_f64(angle + 1.0) as f32]
    }))
}

#[test]
fn bits_of_version_2() {
    assert_eq!(NUMERICS_VERSION, 2);
    for isa in Isa::available() {
        let mut actual = Vec::new();
        for dtype in DType::ALL {
            actual.push((dtype.name(), matmul(isa, dtype, 7)));
        }
        // Rows enough for the tiles of AMX, and some more.
        actual.push(("I8 of 37 rows", matmul(isa, DType::I8, 37)));
        actual.push(("attention F16", attention(isa, DType::F16)));
        actual.push(("attention F32", attention(isa, DType::F32)));
        actual.extend(rows(isa));
        actual.push(("tables", tables()));
        let actual: Vec<String> = actual.iter().map(|(name, digest)| format!("{name} {digest}")).collect();
        assert_eq!(actual, EXPECTED, "{}", isa.name());
    }
}

const EXPECTED: [&str; 15] = [
    "F32 5c8667f496fd96a0",
    "BF16 b38ca8cc00399bcc",
    "F16 c76d105b815a424f",
    "F8_E4M3 cf9e4f95ba1a8e20",
    "I8 ba3c249ffdb7a022",
    "I4 cce69f335af2c13b",
    "I8 of 37 rows a1255b174c8369b5",
    "attention F16 acb7db654d3b2c1b",
    "attention F32 ccb52e33dc0be1f4",
    "rms_norm ff9e8c70fc36e19d",
    "silu_mul 63113cefd1ed7fd8",
    "scale_add 53adbdd0a60ee4d7",
    "rope abc66c254e542184",
    "softmax 87dd274c1561067e",
    "tables bb56bf2b3a8daf45",
];

#[test]
fn the_page_names_the_constants_of_exp() {
    use crate::math::exp_f32::{LN_2_HIGH, LN_2_LOW, LOG2_E, POLYNOMIAL};
    let page = include_str!("../../../docs/numerics.md");
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let polynomial = POLYNOMIAL.map(|c| format!("{:#010x}", c.to_bits())).join(" ");
    assert!(words(page).contains(&polynomial), "{polynomial}");
    for constant in [LOG2_E, LN_2_HIGH, LN_2_LOW] {
        let bits = format!("{:#010x}", constant.to_bits());
        assert!(page.contains(&bits), "{bits}");
    }
}
