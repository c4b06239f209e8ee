use std::sync::Arc;

use super::*;
use crate::chain::{Chain, Draft, Validators};
use crate::format::{BlockKind, ChainId};
use crate::storage::{Access, MemoryMedium};

fn item(number: u64) -> Draft {
    Draft::new(ChainId::Dataset, BlockKind(5000), "item", number.to_string())
}

/// Appends items, each asked for before and after; their hashes.
fn append(chain: &Chain, numbers: std::ops::Range<u64>) -> Vec<BlockHash> {
    let mut writer = chain.writer().unwrap();
    let append = |number| {
        let appended = writer.append(item(number)).unwrap();
        assert!(appended.new_block);
        assert!(!writer.append(item(number)).unwrap().new_block);
        appended.hash
    };
    let hashes = numbers.map(append).collect();
    writer.commit().unwrap();
    hashes
}

fn filter_of(chain: &Chain) -> Option<u64> {
    chain
        .0
        .known
        .lock()
        .unwrap()
        .as_ref()
        .and_then(|known| known.filter.as_ref())
        .map(|filter| filter.made_for)
}

/// Appends again what is there.
fn append_again(chain: &Chain, hashes: &[BlockHash]) {
    let mut writer = chain.writer().unwrap();
    for (number, hash) in (0..).zip(hashes) {
        let again = writer.append(item(number)).unwrap();
        assert_eq!((again.hash, again.new_block), (*hash, false));
    }
    writer.commit().unwrap();
    assert_eq!(chain.len().unwrap(), hashes.len() as u64);
}

/// Whatever was appended before, in this transaction or in others, is found and not appended again, with a filter and
/// without, from before it was made and after.
#[test]
fn no_block_is_appended_twice() {
    let chain =
        Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new()).unwrap();
    let mut hashes = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    for end in [100, 400, 500, 1000, 1001, 3000, 3001, 9000, 10_000] {
        let start = hashes.len() as u64;
        hashes.extend(append(&chain, start..end));
        append_again(&chain, &hashes);
        seen.insert(filter_of(&chain));
        // A transaction that ends without a trace leaves nothing that would be taken for a block.
        let mut writer = chain.writer().unwrap();
        writer.append(item(1 << 40 | end)).unwrap();
        drop(writer);
        append_again(&chain, &hashes);
    }
    // Filters were made, grew out of use and were made anew.
    assert!(seen.contains(&None) && seen.len() >= 3, "{seen:?}");
    assert!(chain.verify(&crate::chain::VerifyOptions::headers()).unwrap().is_ok());
}

/// Writers of two threads may begin one before the other and leave what they know the other way round.
#[test]
fn what_an_earlier_writer_knew_is_not_used() {
    let chain =
        Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new()).unwrap();
    let mut hashes = append(&chain, 0..1000);
    hashes.extend(append(&chain, 1000..1500));
    assert!(filter_of(&chain).is_some());
    let earlier = chain.0.known.lock().unwrap().take();
    hashes.extend(append(&chain, 1500..1600));
    *chain.0.known.lock().unwrap() = earlier;
    append_again(&chain, &hashes);
}

#[test]
fn a_filter_holds_what_was_put_in_and_little_else() {
    const BLOCKS: u64 = 20_000;
    let words = (BLOCKS * BITS_PER_BLOCK / 64).next_power_of_two();
    let mut filter = Filter { words: vec![0; usize::try_from(words).unwrap()], made_for: BLOCKS };
    let start = |number: u64| *blake3::hash(&number.to_le_bytes()).as_bytes().first_chunk::<8>().unwrap();
    (0..BLOCKS).for_each(|number| filter.insert(start(number)));
    assert!((0..BLOCKS).all(|number| filter.may_hold(start(number))));
    let wrong = (BLOCKS..2 * BLOCKS).filter(|number| filter.may_hold(start(*number))).count() as u64;
    assert!(wrong < BLOCKS / 200, "{wrong}");
}
