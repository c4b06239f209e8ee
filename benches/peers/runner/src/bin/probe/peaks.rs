//! How many operations a second single instructions do at best.

#[cfg(target_arch = "x86_64")]
use std::time::Instant;

#[cfg(target_arch = "x86_64")]
use rayon::prelude::*;
use serde_json::Value;
#[cfg(target_arch = "x86_64")]
use serde_json::json;

#[cfg(target_arch = "x86_64")]
mod x86_64 {
    use std::arch::asm;

    use blyan_core::kernels::Isa;

    /// Ten chains that depend on nothing but themselves, so that only the instruction's throughput counts.
    macro_rules! ten_chains {
        ($name:ident, $features:literal, $instruction:literal, $register:literal) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(rounds: usize) {
                // SAFETY: arithmetic on registers that are declared as overwritten. They are zero, so that
                // no denormal or NaN slows them down.
                unsafe {
                    asm!(
                        "vpxor xmm10, xmm10, xmm10",
                        "vpxor xmm0, xmm0, xmm0",
                        "vpxor xmm1, xmm1, xmm1",
                        "vpxor xmm2, xmm2, xmm2",
                        "vpxor xmm3, xmm3, xmm3",
                        "vpxor xmm4, xmm4, xmm4",
                        "vpxor xmm5, xmm5, xmm5",
                        "vpxor xmm6, xmm6, xmm6",
                        "vpxor xmm7, xmm7, xmm7",
                        "vpxor xmm8, xmm8, xmm8",
                        "vpxor xmm9, xmm9, xmm9",
                        "2:",
                        concat!($instruction, " ", $register, "0, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "1, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "2, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "3, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "4, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "5, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "6, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "7, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "8, ", $register, "10, ", $register, "10"),
                        concat!($instruction, " ", $register, "9, ", $register, "10, ", $register, "10"),
                        "dec {rounds}",
                        "jnz 2b",
                        rounds = inout(reg) rounds => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _,
                        out("xmm5") _, out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _,
                        out("xmm10") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }
    ten_chains!(fma_avx512, "avx512f", "vfmadd231ps", "zmm");
    ten_chains!(fma_avx2, "avx2,fma", "vfmadd231ps", "ymm");
    ten_chains!(dot_i16_avx2, "avx2", "vpmaddwd", "ymm");
    ten_chains!(dot_u8_avx512, "avx512f,avx512vnni", "vpdpbusd", "zmm");
    ten_chains!(dot_i16_avx512, "avx512f,avx512vnni", "vpdpwssd", "zmm");
    ten_chains!(dot_bf16_avx512, "avx512f,avx512bf16", "vdpbf16ps", "zmm");

    /// What `ldtilecfg` reads: eight tiles of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Tiles([u8; 64]);

    /// Four chains of products of tiles, ten in each round.
    unsafe fn dot_i8_amx(rounds: usize) {
        let mut tiles = Tiles([0; 64]);
        tiles.0[0] = 1;
        (0..8).for_each(|tile| (tiles.0[16 + 2 * tile], tiles.0[48 + tile]) = (64, 16));
        // SAFETY: the caller says that the CPU has tiles and that the process may use them; nothing else is touched.
        unsafe {
            asm!(
                "ldtilecfg [{tiles}]",
                "2:",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "tdpbssd tmm2, tmm5, tmm6",
                "tdpbssd tmm3, tmm5, tmm7",
                "tdpbssd tmm0, tmm4, tmm6",
                "tdpbssd tmm1, tmm4, tmm7",
                "dec {rounds}",
                "jnz 2b",
                "tilerelease",
                tiles = in(reg) &raw const tiles,
                rounds = inout(reg) rounds => _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// Runs so many rounds of ten instructions.
    type Chain = unsafe fn(usize);

    /// Operations of one instruction, a multiplication and an addition being two, by the name they are reported
    /// under, and the chain where the CPU has it.
    pub(super) fn chains() -> [(&'static str, f64, Option<Chain>); 7] {
        let vnni = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni");
        let bf16 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16");
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        [
            ("fma_f32_avx512_gflops", 32.0, is_x86_feature_detected!("avx512f").then_some(fma_avx512 as _)),
            ("fma_f32_avx2_gflops", 16.0, avx2.then_some(fma_avx2 as _)),
            ("vpmaddwd_gops", 32.0, is_x86_feature_detected!("avx2").then_some(dot_i16_avx2 as _)),
            ("vpdpbusd_gops", 128.0, vnni.then_some(dot_u8_avx512 as _)),
            ("vpdpwssd_gops", 64.0, vnni.then_some(dot_i16_avx512 as _)),
            ("vdpbf16ps_gflops", 64.0, bf16.then_some(dot_bf16_avx512 as _)),
            // The library asks the system for the right to use tiles.
            ("tdpbssd_gops", 32768.0, Isa::named("amx").is_ok().then_some(dot_i8_amx as _)),
        ]
    }
}

/// 10^9 operations a second of all threads together.
#[cfg(target_arch = "x86_64")]
pub(crate) fn peaks(threads: usize, result: &mut Value) {
    const ROUNDS: usize = 20_000_000;
    for (name, operations, chain) in x86_64::chains() {
        let Some(chain) = chain else {
            result[name] = Value::Null;
            continue;
        };
        let mut best = f64::INFINITY;
        for _ in 0..2 {
            let begun = Instant::now();
            // SAFETY: `chains` gives those alone whose instructions the CPU has.
            (0..threads).into_par_iter().with_max_len(1).for_each(|_| unsafe { chain(ROUNDS) });
            best = best.min(begun.elapsed().as_secs_f64());
        }
        result[name] = json!((threads * ROUNDS * 10) as f64 * operations / best / 1e9);
    }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn peaks(_: usize, _: &mut Value) {}
