use std::collections::BTreeMap;
use std::sync::Arc;

use redb::{Database, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition};

use super::*;
use crate::chain::{Chain, ChainError, Draft, Validators, VerifyOptions};
use crate::format::{BlockKind, ChainId};
use crate::storage::pages::CheckedPages;
use crate::storage::{Access, Medium, MemoryMedium, StorageError};

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

fn chain() -> Chain {
    Chain::open_with(Arc::new(MemoryMedium::new()), Access::ReadWrite, Validators::new()).unwrap()
}

/// Sorted entries among those of a table, alone, side by side and over others, against a map.
#[test]
fn sorted_entries_are_inserted_as_one_by_one() {
    const TABLE: TableDefinition<'static, &[u8], u64> = TableDefinition::new("entries");
    let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new()).unwrap();
    let mut random = Random(1);
    let mut expected: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
    for round in 0..60 {
        let mut entries: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        // Runs of neighbours, of every length from none, within a space that fills up.
        for _ in 0..random.below(20) {
            let start = random.below(5_000);
            for number in start..start + random.below(100) {
                let mut key = number.to_be_bytes().to_vec();
                key.extend(std::iter::repeat_n(7, random.below(3) as usize));
                entries.insert(key, round);
            }
        }
        let transaction = database.begin_write().unwrap();
        insert_sorted(
            &mut transaction.open_table(TABLE).unwrap(),
            entries.iter().map(|(key, value)| (key.as_slice(), *value)),
        )
        .unwrap();
        transaction.commit().unwrap();
        expected.append(&mut entries);
        let table = database.begin_read().unwrap().open_table(TABLE).unwrap();
        let found: BTreeMap<Vec<u8>, u64> = table
            .iter()
            .unwrap()
            .map(|entry| entry.map(|(key, value)| (key.value().to_vec(), value.value())).unwrap())
            .collect();
        assert_eq!(found, expected);
    }
    assert!(expected.len() > 5_000);
}

/// Entries go in beside a page that cannot be read if they do so one by one.
#[test]
fn a_damaged_page_keeps_nobody_from_its_neighbours() {
    const TABLE: TableDefinition<'static, [u8; 16], u64> = TableDefinition::new("entries");
    type Entries<'t> = Table<'t, [u8; 16], u64>;
    const ENTRIES: u64 = 999;
    let key = |number: u64, part: u64| tables::child_key(0x0123_4567_89ab_0000 + number, part);
    // Every third entry is gone. Where that was the last one of a page, there is room before the next page begins.
    for gone in 0..3 {
        let medium = MemoryMedium::new();
        let pages = CheckedPages::new(medium.open_index(Access::ReadWrite).unwrap());
        // Reads every page anew.
        let database = Database::builder().set_cache_size(0).create_with_backend(pages).unwrap();
        let transaction = database.begin_write().unwrap();
        {
            let mut table = transaction.open_table(TABLE).unwrap();
            insert_sorted(&mut table, (0..ENTRIES).map(|number| (key(number, 0), number))).unwrap();
            for number in (gone..ENTRIES).step_by(3) {
                table.remove(key(number, 0)).unwrap();
            }
        }
        transaction.commit().unwrap();

        let file = medium.index();
        let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
        file.read(0, &mut bytes).unwrap();
        // Neighbours are in one page of entries, and in none that leads there.
        let middle = ENTRIES / 2 / 3 * 3 + gone;
        let neighbours = [key(middle + 1, 0), key(middle + 2, 0)].concat();
        for at in 0..bytes.len() {
            if bytes[at..].starts_with(&neighbours) {
                file.write(at as u64, &[!bytes[at]]).unwrap();
            }
        }

        let attempt = |insert: &dyn Fn(&mut Entries<'_>) -> Result<(), redb::Error>| {
            let transaction = database.begin_write().unwrap();
            insert(&mut transaction.open_table(TABLE).unwrap()).is_ok()
        };
        let mut refused = 0;
        for number in 0..ENTRIES {
            let alone = attempt(&|table| table.insert(key(number, 1), 0).map(drop).map_err(Into::into));
            for count in 1..3 {
                let new = |part| (key(number, part), 0);
                assert_eq!(attempt(&|table| insert_sorted(table, (1..=count).map(new))), alone, "{number}");
            }
            refused += u64::from(!alone);
        }
        assert!((10..ENTRIES / 2).contains(&refused), "{refused}");
    }
}

/// Places in lanes move together or not at all: not where one of them goes to a page that cannot be read.
#[test]
fn recent_places_move_unless_a_page_that_they_go_to_is_damaged() {
    const HEIGHT: u64 = 417;
    let place = |number: u64, height| tables::lane_key(ChainId::Dataset, BlockKind(5000), height, number);
    let height_of = |number: u64| number / HEIGHT;
    let block = BlockHash::from_bytes([7; 32]);
    let medium = MemoryMedium::new();
    let pages = CheckedPages::new(medium.open_index(Access::ReadWrite).unwrap());
    // Reads every page anew.
    let database = Database::builder().set_cache_size(0).create_with_backend(pages).unwrap();
    let transaction = database.begin_write().unwrap();
    tables::create(&transaction).unwrap();
    {
        let mut lanes = transaction.open_table(tables::LANES).unwrap();
        for number in 0..2 * HEIGHT {
            lanes.insert(&place(number, height_of(number)), block.as_bytes()).unwrap();
        }
        // One goes behind those of height 0, one to the end.
        let mut recent = transaction.open_table(tables::RECENT_LANES).unwrap();
        for height in 0..2 {
            let key = tables::recent_lane_key(&place(2 * HEIGHT + height, height));
            recent.insert(&key, block.as_bytes()).unwrap();
        }
    }
    transaction.commit().unwrap();

    let file = medium.index();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read(0, &mut bytes).unwrap();
    for (damaged, moves) in [(10, true), (HEIGHT - 2, false), (HEIGHT + 200, true), (2 * HEIGHT - 2, false)] {
        // Neighbours are in one page of entries, and in none that leads there.
        let neighbours = [damaged, damaged + 1].map(|number| place(number, height_of(number))).concat();
        let places: Vec<usize> =
            (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&neighbours)).collect();
        assert!(!places.is_empty(), "{damaged}");
        places.iter().for_each(|&at| file.write(at as u64, &[!bytes[at]]).unwrap());
        let transaction = database.begin_write().unwrap();
        tables::settle(&transaction, 2 * HEIGHT + 2).unwrap();
        let meta = transaction.open_table(tables::META).unwrap();
        let settled = |key| meta.get(key).unwrap().unwrap().value();
        assert_eq!(settled(tables::SETTLED_KEY), 2 * HEIGHT + 2);
        let moved = settled(tables::SETTLED_LANES_KEY) == 2 * HEIGHT + 2;
        assert_eq!(moved, moves, "{damaged}");
        let left = transaction.open_table(tables::RECENT_LANES).unwrap().iter().unwrap().count();
        assert_eq!(left, if moves { 0 } else { 2 });
        drop(meta);
        drop(transaction);
        places.iter().for_each(|&at| file.write(at as u64, &[bytes[at]]).unwrap());
    }
}

/// A DAG of many names and lanes, with more blocks than are kept pending, comes out the same however it is cut into
/// transactions; and the audit, which derives every entry of every table from the headers, agrees.
#[test]
fn a_chain_does_not_depend_on_its_transactions() {
    let total = MAX_BLOCKS as u64 + 500;
    let lanes = ChainId::ALL;
    let whole = chain();
    let cut = chain();
    for (chain, count) in [(&whole, total), (&cut, 700)] {
        let mut random = Random(7);
        let mut hashes = Vec::new();
        while (hashes.len() as u64) < total {
            let mut writer = chain.writer().unwrap();
            for _ in 0..count.min(total - hashes.len() as u64) {
                let name = format!("name{}", random.below(300));
                let lane = lanes[random.below(lanes.len() as u64) as usize];
                let mut draft = Draft::new(lane, BlockKind(5000), name, hashes.len().to_string());
                for role in [ParentRole::Predecessor, ParentRole::Dependency] {
                    let known = hashes.len() as u64;
                    // Mostly of the blocks just before.
                    let back = if random.below(4) == 0 { known } else { known.min(20) };
                    let Some(parent) = (back > 0).then(|| hashes[(known - 1 - random.below(back)) as usize])
                    else {
                        continue;
                    };
                    if !draft.parents.iter().any(|other| other.hash == parent) {
                        draft = draft.with_parent(parent, role);
                    }
                }
                hashes.push(writer.append(draft).unwrap().hash);
            }
            writer.commit().unwrap();
        }
        let report = chain.verify(&VerifyOptions::headers()).unwrap();
        assert!(report.is_ok(), "{:?}", report.bad);
        assert_eq!(report.blocks, total);
    }
    assert_eq!(whole.root().unwrap(), cut.root().unwrap());
    let order = |chain: &Chain| {
        let blocks = chain.topological_order().map(|block| block.unwrap());
        blocks.map(|block| (block.hash(), block.height(), block.number())).collect::<Vec<_>>()
    };
    assert_eq!(order(&whole), order(&cut));
}

/// What cannot be entered into a table ends the transaction: nothing of it is committed, and it takes no more blocks.
#[test]
fn a_transaction_that_cannot_be_entered_leaves_nothing() {
    let chain = chain();
    let item = |number: usize| Draft::new(ChainId::Dataset, BlockKind(5000), "item", number.to_string());
    let first = chain.append(item(0)).unwrap();
    let mut batch = chain.0.index.begin_write().unwrap();
    batch
        .write(|write| {
            write.delete_table(tables::CHILDREN)?;
            write.open_table(TableDefinition::<u64, u64>::new("children"))?;
            Ok(())
        })
        .unwrap();
    batch.commit().unwrap();

    let damaged = |error: ChainError| matches!(error, ChainError::Storage(StorageError::IndexDamaged { .. }));
    let failed_before = |error: ChainError| matches!(error, ChainError::Storage(StorageError::Index { .. }));
    assert!(damaged(chain.append(item(1)).unwrap_err()));
    let mut writer = chain.writer().unwrap();
    let failed = (1..=MAX_BLOCKS + 1).find_map(|number| writer.append(item(number)).err()).unwrap();
    assert!(damaged(failed));
    for number in [0, 1, MAX_BLOCKS + 2] {
        assert!(failed_before(writer.append(item(number)).unwrap_err()));
    }
    assert!(failed_before(writer.contains(&first).unwrap_err()));
    assert!(writer.commit().is_err());
    assert_eq!(chain.len().unwrap(), 1);
}
