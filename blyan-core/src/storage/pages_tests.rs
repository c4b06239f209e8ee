use super::*;
use redb::backends::InMemoryBackend;

/// A file of `pages` pages as redb creates one: header first, its magic number last.
fn file(pages: u64) -> CheckedPages {
    let file = CheckedPages::new(Box::new(InMemoryBackend::new()));
    file.set_len(pages * PAGE).unwrap();
    let mut header = [0; HEADER];
    file.write(0, &header).unwrap();
    header[..4].copy_from_slice(MAGIC);
    file.write(0, &header).unwrap();
    for page in 1..pages {
        file.write(page * PAGE, &[page as u8; PAGE as usize]).unwrap();
    }
    file
}

fn read(file: &CheckedPages, offset: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0xaa; len];
    file.read(offset, &mut out).unwrap();
    out
}

fn refused(pages: u64) -> Vec<u8> {
    let mut node = vec![0xff; (pages * PAGE) as usize];
    node[..8].copy_from_slice(&[2, 0, 0, 0, 0, 0, 0, 0]);
    node
}

#[test]
fn it_is_a_plain_file_to_whoever_writes_anywhere() {
    let file = file(6);
    let mut model = read(&file, 0, 6 * PAGE as usize);
    assert_eq!(model[5 * PAGE as usize], 5);
    let mut state = 1_u64;
    for _ in 0..300 {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let offset = 4096 + (state >> 33) as usize % (5 * 4096);
        let len = (state >> 20) as usize % (6 * 4096 - offset).min(9000);
        let data = vec![state as u8; len];
        file.write(offset as u64, &data).unwrap();
        model[offset..offset + len].copy_from_slice(&data);
        assert_eq!(read(&file, 0, model.len()), model);
        assert_eq!(read(&file, offset as u64, len), data);
    }
    file.write(9, &[7]).unwrap();
    model[9] = 7;
    assert_eq!(read(&file, 5, 20), model[5..25]);
    assert_eq!(file.len().unwrap(), 6 * PAGE);
    assert_eq!(file.damage.describe(), None);
}

#[test]
fn every_flipped_bit_of_a_page_or_its_sum_is_noted_and_its_page_not_shown() {
    for at in (0..STRIDE).step_by(7) {
        let file = file(4);
        let mut byte = [0];
        let place = physical(2).unwrap() + at;
        file.file.read(place, &mut byte).unwrap();
        file.file.write(place, &[byte[0] ^ 0x10]).unwrap();
        assert_eq!(read(&file, 2 * PAGE, PAGE as usize), refused(1));
        assert_eq!(read(&file, PAGE, 3 * PAGE as usize), refused(3));
        assert_eq!(file.damage.describe().unwrap(), "checksum mismatch in page 2");
        assert_eq!(read(&file, 3 * PAGE, PAGE as usize), [3; PAGE as usize]);
    }
}

#[test]
fn a_page_in_the_place_of_another_is_noted() {
    let file = file(4);
    let mut page = [0; STRIDE as usize];
    file.file.read(physical(2).unwrap(), &mut page).unwrap();
    file.file.write(physical(3).unwrap(), &page).unwrap();
    assert_eq!(read(&file, 3 * PAGE, PAGE as usize), refused(1));
    assert!(file.damage.describe().is_some());
}

#[test]
fn a_damaged_header_is_an_error() {
    for at in 0..HEADER_WITH_SUM as u64 {
        let file = file(2);
        // Having matched once says nothing of what is there now.
        assert!(read(&file, 0, 64).starts_with(MAGIC));
        let mut byte = [0];
        file.file.read(at, &mut byte).unwrap();
        file.file.write(at, &[byte[0] ^ 1]).unwrap();
        assert_eq!(file.read(0, &mut [0; 64]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(file.len().unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}

#[test]
fn only_a_file_that_was_never_used_counts_as_empty() {
    let interrupted = CheckedPages::new(Box::new(InMemoryBackend::new()));
    assert_eq!(interrupted.len().unwrap(), 0);
    interrupted.set_len(5 * PAGE).unwrap();
    assert_eq!(interrupted.len().unwrap(), 0);
    interrupted.write(0, &[0; HEADER]).unwrap();
    assert_eq!(interrupted.len().unwrap(), 0);

    let wiped = file(3);
    wiped.file.write(0, &[0; HEADER_WITH_SUM]).unwrap();
    assert!(wiped.len().is_err());
    for len in [1, 300, 4000, PAGE + 1, PAGE + STRIDE - 1] {
        let cut = file(3);
        cut.file.set_len(len).unwrap();
        assert!(cut.len().is_err(), "{len}");
    }
    let short = file(3);
    short.file.set_len(PAGE + STRIDE).unwrap();
    // Whole pages are missing: redb's own header says so.
    assert_eq!(short.len().unwrap(), 2 * PAGE);
}
