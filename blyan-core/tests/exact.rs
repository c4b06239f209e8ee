//! The same bits on every instruction set, thread count, chunk size and batch.

#![allow(clippy::print_stderr, reason = "what was not tested has to be said")]

use blyan_core::DType;
use blyan_core::manager::GenerateOptions;

use crate::checkpoints::{DTYPES, Reference, bits, fixture, fixtures, imported, name, open};

/// The vector code that this CPU can run. What it cannot is said, never passed over in silence.
fn isas() -> Vec<&'static str> {
    let wanted: &[&str] = if cfg!(target_arch = "x86_64") { &["avx2", "avx512", "amx"] } else { &[] };
    let mut isas = Vec::new();
    for &isa in wanted {
        match blyan_core::kernels::Isa::named(isa) {
            Ok(_) => isas.push(isa),
            Err(error) => eprintln!("not tested: {error}"),
        }
    }
    // AVX-512 is not everywhere that this is tested; with AVX2 the promise is proved on two.
    assert!(
        !isas.is_empty() || std::env::var_os("CI").is_none() || !cfg!(target_arch = "x86_64"),
        "CI has to run vector code beside the scalar"
    );
    isas
}

#[test]
fn instruction_sets_agree_on_every_fixture_in_every_dtype() {
    for folder in fixtures() {
        let tokens = Reference::read(&folder).prompt;
        for dtype in DTYPES {
            let (chain, _) = imported(&folder, dtype);
            let logits = |isa: &str| {
                let model = open(&chain, |options| options.isa = Some(isa.to_owned()));
                assert_eq!(model.isa(), isa, "the forced instruction set is the one that ran");
                bits(&model.logits(&tokens).unwrap())
            };
            let scalar = logits("scalar");
            for isa in isas() {
                assert!(logits(isa) == scalar, "{} {dtype:?}: {isa} differs from scalar", name(&folder));
            }
        }
    }
}

#[test]
fn threads_and_chunks_change_no_bit() {
    for folder in fixtures() {
        let tokens = Reference::read(&folder).prompt;
        for dtype in [None, Some(DType::I8), Some(DType::I4)] {
            let (chain, _) = imported(&folder, dtype);
            let logits = |threads, chunk| {
                let model = open(&chain, |options| {
                    options.threads = Some(threads);
                    options.prefill_chunk = chunk;
                });
                assert_eq!(model.threads(), threads);
                bits(&model.logits(&tokens).unwrap())
            };
            let expected = logits(1, 512);
            for threads in [1, 2, 3, 7] {
                for chunk in [1, 7, 512] {
                    let same = logits(threads, chunk) == expected;
                    assert!(same, "{} {dtype:?}: {threads} threads, chunks of {chunk}", name(&folder));
                }
            }
        }
    }
}

#[test]
fn a_sequence_is_the_same_alone_and_beside_others() {
    let dtypes = [DType::I8, DType::I4];
    for (folder, dtype) in
        fixtures().into_iter().flat_map(|folder| dtypes.map(|dtype| (folder.clone(), dtype)))
    {
        let (chain, _) = imported(&folder, Some(dtype));
        let tokens = Reference::read(&folder).prompt;
        let model = open(&chain, |options| options.prefill_chunk = 16);
        let prompts: Vec<Vec<u32>> =
            [12, 5, 1, 9].iter().map(|&len| tokens[tokens.len() - len..].to_vec()).collect();
        let mut options =
            GenerateOptions { max_tokens: Some(8), ignore_eos: true, ..GenerateOptions::default() };
        options.sampling.temperature = 0.9;
        options.sampling.seed = 3;
        let together = model.generate_batch(prompts.clone(), &options).unwrap();
        for (prompt, beside) in prompts.into_iter().zip(together) {
            let alone = model.generate(prompt, &options).unwrap();
            // The receipt holds the digest of all logits, so this compares their bits too.
            assert_eq!(alone, beside, "{} {dtype}", name(&folder));
        }
    }
}

#[test]
fn a_session_gives_the_bits_of_one_long_prompt() {
    let folder = fixture("mixtral");
    let (chain, _) = imported(&folder, None);
    let tokens = Reference::read(&folder).prompt;
    let model = open(&chain, |_| ());
    let options = GenerateOptions { max_tokens: Some(5), ignore_eos: true, ..GenerateOptions::default() };
    let mut session = model.session();
    let first = session.generate(&tokens[..4], &options).unwrap();
    let second = session.generate(&tokens[4..7], &options).unwrap();
    let whole = [&tokens[..4], &first.tokens, &tokens[4..7]].concat();
    assert_eq!(model.generate(whole, &options).unwrap(), second);
}

#[test]
fn forcing_an_unknown_instruction_set_is_refused() {
    let (chain, _) = imported(&fixture("llama"), None);
    let options =
        blyan_core::manager::ManagerOptions { isa: Some("avx1024".to_owned()), ..Default::default() };
    let error = blyan_core::manager::MoEModelManager::open(&chain, &options).unwrap_err();
    assert!(error.to_string().contains("avx1024"), "{error}");
}
