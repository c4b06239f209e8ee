//! What an author may show: weights of their own, also after others have copied them, and nobody else's.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use crate::checkpoints::{fixture, imported};
use crate::world::{OWNER, World, expert, key, noise};
use blyan_core::evolve::{ContributeError, ContributeOptions, ContributeStage, EvolveError, contribute};

const ALICE: u8 = 11;
const BOB: u8 = 12;
const CAROL: u8 = 13;

#[test]
fn weights_that_others_copied_stay_their_authors() {
    let (chain, model) = imported(&fixture("mixtral"), None);
    let world = World::new(chain, model, |_| {});
    let mut noise = noise(1);
    let slot = expert(0, 1);
    let blocks = world.changed(&world.model, slot, |_, _, weight| weight + 0.01 * noise());
    let splits = [[1, 2, 3, 4], [2, 3, 4, 5], [3, 4, 5, 6], [4, 5, 6, 7]];
    let contribute =
        |author, round| contribute(&world.chain, &key(author), round, &blocks, &ContributeOptions::default());

    // Nobody attests anything, so the base stays what it is. Bob takes what Alice has shown, with steps that do not look.
    world.round(&splits[0], &[(ALICE, blocks.clone())]);
    world.round(&splits[1], &[(BOB, blocks.clone())]);

    let round = world.open(OWNER, &splits[2]);
    let copied = contribute(CAROL, &round).unwrap_err();
    assert!(
        matches!(copied, EvolveError::Contribute(ContributeError::Copy { slot: at, .. }) if at == slot),
        "{copied}"
    );
    assert_eq!(contribute(ALICE, &round).unwrap().stage, ContributeStage::Claimed);
}
