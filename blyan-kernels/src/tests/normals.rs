//! Weights that are known to be normal numbers: found where they are, and multiplied with the same bits.

use super::{Random, decode, f32_bytes};
use crate::dtype::DType;
use crate::normals::STRETCH;
use crate::{Input, Isa, MatMut, Weights};

/// Whether E4M3 is a normal number, by its value.
fn is_normal(bits: u8) -> bool {
    decode(DType::F8E4M3, &[bits])[0].abs() >= 2f64.powi(-6)
}

/// Instruction sets with a shorter way for them.
fn isas() -> impl Iterator<Item = Isa> {
    Isa::available().into_iter().filter(|isa| matches!(isa.name(), "avx512" | "amx"))
}

#[test]
fn stretches_of_normal_numbers_are_found_and_no_others() {
    for isa in isas() {
        for bits in 0..=u8::MAX {
            for at in [0, 1, 63, 64, STRETCH - 1] {
                let mut row = [0x38; 10 * STRETCH + 1];
                row[9 * STRETCH + at] = bits;
                // What is left of a row is not looked at.
                row[10 * STRETCH] = 0;
                let weights = Weights::new(DType::F8E4M3, 1, row.len(), &row, Some(&[0; 4])).unwrap();
                let expected = [0xff, if is_normal(bits) { 0b11 } else { 0b01 }];
                assert_eq!(isa.normals(&weights).row(0), expected, "{} {bits:#x} at {at}", isa.name());
            }
        }
    }
}

#[test]
fn nothing_is_found_in_other_weights() {
    for isa in Isa::available() {
        let weights = Weights::new(DType::I8, 1, STRETCH, &[0x38; STRETCH], Some(&[0; 4])).unwrap();
        assert!(isa.normals(&weights).row(0).is_empty());
    }
}

/// Each normal number in each place, then with one that is none in some rows.
#[test]
fn products_are_the_same() {
    let mut random = Random(11);
    let normal: Vec<u8> = (0..=u8::MAX).filter(|&bits| is_normal(bits)).collect();
    let others: Vec<u8> = (0..=u8::MAX).filter(|&bits| !is_normal(bits)).collect();
    let part = 5..normal.len() + 5;
    let (rows, cols) = (part.end + 2, 3 * STRETCH);
    let all_normal: Vec<u8> =
        (0..rows * cols).map(|at| normal[(at / cols + at % cols) % normal.len()]).collect();
    let scale = f32_bytes(&random.normals(rows));
    for tokens in [1, 2, 3, 4, 5, 9] {
        let x = random.normals(tokens * cols);
        let input = Input::new(&x, cols).unwrap();
        for one_in in [rows + 1, 7, 1] {
            let mut data = all_normal.clone();
            for row in (0..rows).filter(|row| row % one_in == one_in - 1) {
                data[row * cols + random.below(cols)] = others[random.below(others.len())];
            }
            let weights = Weights::new(DType::F8E4M3, rows, cols, &data, Some(&scale)).unwrap();
            let product = |isa: Isa, weights: &Weights<'_>| -> Vec<u32> {
                let mut out = vec![0.0; tokens * part.len()];
                let view = MatMut::from_slice(&mut out, tokens, part.len()).unwrap();
                isa.matmul(weights, part.clone(), &input, view).unwrap();
                out.iter().map(|x| x.to_bits()).collect()
            };
            let expected = product(Isa::SCALAR, &weights);
            for isa in isas() {
                let normals = isa.normals(&weights);
                for isa in [isa.as_on(false), isa.as_on(true)] {
                    let actual = product(isa, &weights.with_normals(&normals).unwrap());
                    assert!(expected == actual, "{} {tokens} tokens, one in {one_in}", isa.name());
                }
            }
        }
    }
}
