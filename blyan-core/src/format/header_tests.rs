use super::*;

const GOLDEN_HASH: &str = "144dd1044bc222c4cf006c232c193d7774be0f71deb82f0f01972858ff01e131";

fn header() -> Header {
    Header {
        lane: ChainId::Parameter,
        kind: BlockKind::EXPERT,
        name: "layer0.expert1".into(),
        version: semver::Version::new(1, 2, 3),
        parents: vec![
            Parent { hash: BlockHash::from_bytes([0x11; 32]), role: ParentRole::Dependency },
            Parent { hash: BlockHash::from_bytes([0x22; 32]), role: ParentRole::Predecessor },
        ],
        payload: PayloadRef {
            hash: PayloadHash::from_bytes([0x33; 32]),
            len_bytes: 0x0102_0304_0506_0708,
            media_type: "application/vnd.safetensors".into(),
        },
    }
}

/// Written by hand from the table at the top of header.rs, not by the code under test.
fn golden() -> Vec<u8> {
    let hex = [
        "0100",                         // format version
        "01",                           // lane B
        "1300",                         // kind 19, expert
        "0e000000",                     // 14 bytes of name
        "6c61796572302e65787065727431", // layer0.expert1
        "05000000",                     // 5 bytes of version
        "312e322e33",                   // 1.2.3
        "02000000",                     // two parents
        "1111111111111111111111111111111111111111111111111111111111111111",
        "00", // dependency
        "2222222222222222222222222222222222222222222222222222222222222222",
        "01", // predecessor
        "3333333333333333333333333333333333333333333333333333333333333333",
        "0807060504030201", // payload length
        "1b000000",         // 27 bytes of media type
        "6170706c69636174696f6e2f766e642e7361666574656e736f7273",
    ]
    .concat();
    let nibble = |c: u8| (c as char).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|pair| nibble(pair[0]) << 4 | nibble(pair[1])).collect()
}

#[test]
fn header_bytes_of_version_1_never_change() {
    assert_eq!(header().to_bytes().unwrap(), golden());
    assert_eq!(Header::from_bytes(&golden()).unwrap(), header());
    let context_hash = blake3::derive_key("blyan block 1", &golden());
    assert_eq!(header().hash().unwrap().as_bytes(), &context_hash);
    assert_eq!(header().hash().unwrap().to_string(), GOLDEN_HASH);
}

#[test]
fn every_truncation_and_every_trailing_byte_is_refused() {
    let bytes = golden();
    for len in 0..bytes.len() {
        assert!(Header::from_bytes(&bytes[..len]).is_err(), "{len}");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(Header::from_bytes(&longer).is_err());
}

#[test]
fn a_flipped_bit_is_refused_or_another_header() {
    let bytes = golden();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(other) = Header::from_bytes(&damaged) {
            assert_ne!(other, header());
            assert_eq!(other.to_bytes().unwrap(), damaged);
        }
    }
}

#[test]
fn hostile_lengths_are_refused_without_allocating_them() {
    // A name of 4 GiB, then a list of 4 billion parents.
    let mut name = golden();
    name[5..9].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Header::from_bytes(&name).is_err());
    let mut parents = golden();
    parents[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(Header::from_bytes(&parents).is_err());
    assert_eq!(
        Header::from_bytes(&vec![0; MAX_HEADER_BYTES + 1]),
        Err(HeaderError::TooLong { len: MAX_HEADER_BYTES + 1 })
    );
}

#[test]
fn fields_outside_their_grammar_are_refused_in_both_directions() {
    let edits: [fn(&mut Header); 9] = [
        |h| h.name.clear(),
        |h| h.name = "a".repeat(129),
        |h| h.name = "../etc".into(),
        |h| h.name = "Layer0.expert1".into(),
        |h| h.version = "1.2.3+build".parse().unwrap(),
        |h| h.parents.reverse(),
        |h| h.parents[1].hash = h.parents[0].hash,
        |h| h.payload.media_type = "a b".into(),
        |h| h.payload.media_type.clear(),
    ];
    for (i, edit) in edits.iter().enumerate() {
        let mut bad = header();
        edit(&mut bad);
        assert!(bad.to_bytes().is_err(), "{i}");
        let wire = WireHeader {
            format_version: 1,
            lane: bad.lane,
            kind: bad.kind,
            name: &bad.name,
            version: &bad.version.to_string(),
            parents: &bad.parents,
            payload: &bad.payload,
        };
        assert!(Header::from_bytes(&borsh::to_vec(&wire).unwrap()).is_err(), "{i}");
    }
}

#[test]
fn other_versions_lanes_and_roles_are_refused() {
    let mut version = golden();
    version[0] = 2;
    assert_eq!(Header::from_bytes(&version), Err(HeaderError::FormatVersion { found: 2 }));
    let mut lane = golden();
    lane[2] = 3;
    assert!(matches!(Header::from_bytes(&lane), Err(HeaderError::Malformed { .. })));
    let mut role = golden();
    role[36 + 32] = 4;
    assert!(matches!(Header::from_bytes(&role), Err(HeaderError::Malformed { .. })));
}

#[test]
fn a_model_block_of_100_000_slots_fits() {
    let mut header = header();
    header.parents = (0..100_000_u32)
        .map(|i| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&i.to_be_bytes());
            Parent::dependency(BlockHash::from_bytes(bytes))
        })
        .collect();
    let bytes = header.to_bytes().unwrap();
    assert_eq!(Header::from_bytes(&bytes).unwrap(), header);
}
