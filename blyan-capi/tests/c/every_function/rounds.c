/* Wrong calls of rounds, attestations, judgements, contributions, extraction, recorded use and rewards. */
#include "every_function.h"

static blyan_hash a_round;
static blyan_audit_report *a_audit_report;
static blyan_claims *a_claims;
static blyan_extract_report *a_extract_report;
static blyan_judgement *a_judgement;
static blyan_ledger *a_ledger;
static blyan_shares *a_shares;

static blyan_audit_report *new_audit_report;
static blyan_claims *new_claims;
static blyan_extract_report *new_extract_report;
static blyan_judgement *new_judgement;
static blyan_ledger *new_ledger;
static blyan_shares *new_shares;
static blyan_audit_info a_audit_info;
static blyan_candidate_state a_candidate_state;
static blyan_chosen a_chosen;
static blyan_contribution a_contribution;
static blyan_extract_info a_extract_info;
static blyan_extract_options a_extract_options;
static blyan_extracted_block a_extracted_block;
static blyan_hash another_hash;
static blyan_judgement_info a_judgement_info;
static blyan_lie a_lie;
static blyan_public_key a_public_key;
static blyan_round_state a_round_state;
static blyan_share a_share;
static blyan_extract_options scratch_extract_options;
static blyan_extract_piece a_piece_of_it;
static blyan_slot_block a_slot_block;

static const uint32_t ids[3] = {3, 2, 1};
static const blyan_evaluate_options short_evaluate_options = {.size = 12};
static const blyan_extract_options short_extract_options = {.size = 12};

static void make_rounds(const blyan_key *key, const blyan_hash *policy)
{
    static const uint8_t secret[BLYAN_SECRET_KEY_SIZE] = {2};
    static blyan_hash model;
    blyan_key *author;
    blyan_snapshot_info info;

    a_slot_block.slot.data = "layer0.expert1";
    a_slot_block.slot.len = BLYAN_NUL;
    a_slot_block.block = *policy;
    MUST(blyan_round_open(a_chain, key, policy, ids, 3, &a_round));
    MUST(blyan_key_from_secret(secret, sizeof secret, &author));
    MUST(blyan_round_claim(a_chain, author, &a_round, &a_slot_block, 1, &another_hash));
    blyan_key_free(author);
    MUST(blyan_round_claims(a_chain, &a_round, &a_claims));
    MUST(blyan_audit(a_chain, policy, NULL, NULL, &a_audit_report));
    MUST(blyan_judge(a_chain, policy, &a_judgement));
    MUST(blyan_ledger_open(a_chain, policy, &a_ledger));
    MUST(blyan_ledger_rewards(a_ledger, 0, 1000, &a_shares));
    MUST(blyan_snapshot_describe(a_snapshot, &info, sizeof info));
    model = info.base;
    a_piece_of_it.source = a_slot_block.slot;
    MUST(blyan_extract_options_init(&a_extract_options, sizeof a_extract_options));
    a_extract_options.source = a_chain;
    a_extract_options.model = &model;
    MUST(blyan_extract(a_chain, &model, &a_piece_of_it, 1, &a_extract_options, &a_extract_report));
}

static void walk_steps(const blyan_key *key, const blyan_hash *policy)
{
    blyan_slot_block twice[2];

    EXPECT(NULL_ARGUMENT, blyan_round_open(NULL, key, policy, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_open(a_chain, NULL, policy, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_open(a_chain, key, NULL, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_open(a_chain, key, policy, NULL, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_open(a_chain, key, policy, ids, 3, NULL));
    EXPECT(INVALID_SIZE, blyan_round_open(a_chain, key, policy, ids, SIZE_MAX, &a_hash));
    EXPECT(EVIDENCE, blyan_round_open(a_chain, key, policy, ids, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claim(NULL, key, &a_round, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claim(a_chain, NULL, &a_round, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claim(a_chain, key, NULL, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claim(a_chain, key, &a_round, NULL, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claim(a_chain, key, &a_round, &a_slot_block, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_round_claim(a_chain, key, &a_round, &a_slot_block, SIZE_MAX, &a_hash));
    twice[0] = twice[1] = a_slot_block;
    EXPECT(INVALID_ARGUMENT, blyan_round_claim(a_chain, key, &a_round, twice, 2, &a_hash));
    twice[0].slot.data = "nowhere";
    EXPECT(INVALID_ARGUMENT, blyan_round_claim(a_chain, key, &a_round, twice, 1, &a_hash));
    twice[0].slot.data = BAD_UTF8;
    EXPECT(INVALID_UTF8, blyan_round_claim(a_chain, key, &a_round, twice, 1, &a_hash));
    /* Who owns the round knows its split. */
    EXPECT(REFUSED, blyan_round_claim(a_chain, key, &a_round, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_claims(NULL, &a_round, &new_claims));
    EXPECT(NULL_ARGUMENT, blyan_round_claims(a_chain, NULL, &new_claims));
    EXPECT(NULL_ARGUMENT, blyan_round_claims(a_chain, &a_round, NULL));
    EXPECT_TRUE(blyan_claims_len(NULL) == 0 && blyan_claims_len(a_claims) == 1);
    EXPECT(NULL_ARGUMENT, blyan_claims_get(NULL, 0, &a_hash, &a_public_key));
    EXPECT(NULL_ARGUMENT, blyan_claims_get(a_claims, 0, NULL, &a_public_key));
    EXPECT(NULL_ARGUMENT, blyan_claims_get(a_claims, 0, &a_hash, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_claims_get(a_claims, SIZE_MAX, &a_hash, &a_public_key));
    blyan_claims_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_round_close(NULL, key, &a_round, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_close(a_chain, NULL, &a_round, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_close(a_chain, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_close(a_chain, key, &a_round, NULL));
    EXPECT(WRONG_BLOCK, blyan_round_close(a_chain, key, policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_propose(NULL, key, &another_hash, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_propose(a_chain, NULL, &another_hash, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_propose(a_chain, key, NULL, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_propose(a_chain, key, &another_hash, NULL, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_propose(a_chain, key, &another_hash, &a_slot_block, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_round_propose(a_chain, key, &another_hash, &a_slot_block, SIZE_MAX, &a_hash));
    EXPECT(STEP, blyan_round_propose(a_chain, key, &another_hash, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_reveal(NULL, key, &a_round, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_reveal(a_chain, NULL, &a_round, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_reveal(a_chain, key, NULL, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_reveal(a_chain, key, &a_round, NULL, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_round_reveal(a_chain, key, &a_round, ids, 3, NULL));
    EXPECT(INVALID_SIZE, blyan_round_reveal(a_chain, key, &a_round, ids, SIZE_MAX, &a_hash));
    EXPECT(STEP, blyan_round_reveal(a_chain, key, &a_round, ids, 3, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_candidates(NULL, &a_hash, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_candidates(a_chain, NULL, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_candidates(a_chain, &a_hash, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_snapshot_of_candidates(a_chain, &a_hash, SIZE_MAX, &new_snapshot));
    EXPECT(EVIDENCE, blyan_snapshot_of_candidates(a_chain, NULL, 0, &new_snapshot));
}

static void walk_attestations(const blyan_key *key, const blyan_hash *policy)
{
    EXPECT(NULL_ARGUMENT, blyan_attest(NULL, key, &a_round, NULL, 0, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_attest(a_chain, NULL, &a_round, NULL, 0, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_attest(a_chain, key, NULL, NULL, 0, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_attest(a_chain, key, &a_round, NULL, 1, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_attest(a_chain, key, &a_round, NULL, 0, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_attest(a_chain, key, &a_round, &a_hash, SIZE_MAX, NULL, &new_hashes));
    EXPECT(INVALID_SIZE, blyan_attest(a_chain, key, &a_round, NULL, 0, &short_evaluate_options, &new_hashes));
    EXPECT(WRONG_BLOCK, blyan_attest(a_chain, key, &a_round, NULL, 0, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_audit(NULL, policy, key, NULL, &new_audit_report));
    EXPECT(NULL_ARGUMENT, blyan_audit(a_chain, NULL, key, NULL, &new_audit_report));
    EXPECT(NULL_ARGUMENT, blyan_audit(a_chain, policy, key, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_audit(a_chain, policy, key, &short_evaluate_options, &new_audit_report));
    EXPECT(WRONG_BLOCK, blyan_audit(a_chain, &a_round, key, NULL, &new_audit_report));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_describe(NULL, &a_audit_info, sizeof a_audit_info));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_describe(a_audit_report, NULL, sizeof a_audit_info));
    EXPECT_SIZES(blyan_audit_report_describe(a_audit_report, &a_audit_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_lie(NULL, 0, &a_lie, sizeof a_lie));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_lie(a_audit_report, 0, NULL, sizeof a_lie));
    EXPECT(INVALID_ARGUMENT, blyan_audit_report_lie(a_audit_report, 0, &a_lie, sizeof a_lie));
    EXPECT_SIZES(blyan_audit_report_lie(a_audit_report, 0, &a_lie, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_accuse(NULL, 0, a_chain, policy, key, &a_hash));
    EXPECT(INVALID_ARGUMENT, blyan_audit_report_accuse(a_audit_report, 0, a_chain, policy, key, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_accuse(a_audit_report, 0, a_chain, NULL, key, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_accuse(a_audit_report, 0, a_chain, policy, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_audit_report_json(a_audit_report, NULL));
    blyan_audit_report_free(NULL);
}

static void walk_judgements(const blyan_hash *policy)
{
    EXPECT(NULL_ARGUMENT, blyan_judge(NULL, policy, &new_judgement));
    EXPECT(NULL_ARGUMENT, blyan_judge(a_chain, NULL, &new_judgement));
    EXPECT(NULL_ARGUMENT, blyan_judge(a_chain, policy, NULL));
    EXPECT(WRONG_BLOCK, blyan_judge(a_chain, &a_round, &new_judgement));
    EXPECT(NULL_ARGUMENT, blyan_judgement_describe(NULL, &a_judgement_info, sizeof a_judgement_info));
    EXPECT(NULL_ARGUMENT, blyan_judgement_describe(a_judgement, NULL, sizeof a_judgement_info));
    EXPECT_SIZES(blyan_judgement_describe(a_judgement, &a_judgement_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_judgement_round(NULL, 0, &a_round_state, sizeof a_round_state));
    EXPECT(NULL_ARGUMENT, blyan_judgement_round(a_judgement, 0, NULL, sizeof a_round_state));
    EXPECT(INVALID_ARGUMENT, blyan_judgement_round(a_judgement, SIZE_MAX, &a_round_state,
               sizeof a_round_state));
    EXPECT_SIZES(blyan_judgement_round(a_judgement, 0, &a_round_state, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_judgement_candidate(NULL, 0, &a_candidate_state, sizeof a_candidate_state));
    EXPECT(NULL_ARGUMENT, blyan_judgement_candidate(a_judgement, 0, NULL, sizeof a_candidate_state));
    EXPECT(INVALID_ARGUMENT, blyan_judgement_candidate(a_judgement, 0, &a_candidate_state,
               sizeof a_candidate_state));
    EXPECT_SIZES(blyan_judgement_candidate(a_judgement, 0, &a_candidate_state, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_judgement_chosen(NULL, NULL, &a_chosen, sizeof a_chosen));
    EXPECT(NULL_ARGUMENT, blyan_judgement_chosen(a_judgement, NULL, NULL, sizeof a_chosen));
    EXPECT_SIZES(blyan_judgement_chosen(a_judgement, &a_round, &a_chosen, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_judgement_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_judgement_json(a_judgement, NULL));
    EXPECT(NULL_ARGUMENT, blyan_judgement_publish(NULL, a_chain, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_publish(a_judgement, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_publish(a_judgement, a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(NULL, a_chain, "a", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(a_judgement, NULL, "a", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(a_judgement, a_chain, NULL, BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(a_judgement, a_chain, "a", BLYAN_NUL, NULL, BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(a_judgement, a_chain, "a", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               NULL, &another_hash));
    EXPECT(NULL_ARGUMENT, blyan_judgement_release(a_judgement, a_chain, "a", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash, NULL));
    EXPECT(INVALID_UTF8, blyan_judgement_release(a_judgement, a_chain, BAD_UTF8, 1, "1.0.0", BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(INVALID_SIZE, blyan_judgement_release(a_judgement, a_chain, "a", SIZE_MAX - 1, "1.0.0", BLYAN_NUL,
               &a_hash, &another_hash));
    EXPECT(INVALID_UTF8, blyan_judgement_release(a_judgement, a_chain, "a", BLYAN_NUL, BAD_UTF8, 1, &a_hash,
               &another_hash));
    EXPECT(INVALID_ARGUMENT, blyan_judgement_release(a_judgement, a_chain, "a", BLYAN_NUL, "one", BLYAN_NUL,
               &a_hash, &another_hash));
    blyan_judgement_free(NULL);
}

static void walk_contributions(const blyan_key *key)
{
    static const size_t size = sizeof(blyan_contribution);

    EXPECT(NULL_ARGUMENT, blyan_contribute(NULL, key, &a_round, &a_slot_block, 1, true, &a_contribution,
               size));
    EXPECT(NULL_ARGUMENT, blyan_contribute(a_chain, NULL, &a_round, &a_slot_block, 1, true, &a_contribution,
               size));
    EXPECT(NULL_ARGUMENT, blyan_contribute(a_chain, key, NULL, &a_slot_block, 1, true, &a_contribution,
               size));
    EXPECT(NULL_ARGUMENT, blyan_contribute(a_chain, key, &a_round, NULL, 1, true, &a_contribution, size));
    EXPECT(NULL_ARGUMENT, blyan_contribute(a_chain, key, &a_round, &a_slot_block, 1, true, NULL, size));
    EXPECT(INVALID_SIZE, blyan_contribute(a_chain, key, &a_round, &a_slot_block, SIZE_MAX, true,
               &a_contribution, size));
    EXPECT_SIZES(blyan_contribute(a_chain, key, &a_round, &a_slot_block, 1, true, &a_contribution,
               bad_size));
    EXPECT(INVALID_ARGUMENT, blyan_contribute(a_chain, key, &a_round, NULL, 0, true, &a_contribution, size));
    EXPECT(WRONG_BLOCK, blyan_contribute(a_chain, key, &a_round, &a_slot_block, 1, true, &a_contribution,
               size));

    EXPECT(NULL_ARGUMENT, blyan_extract_options_init(NULL, sizeof(blyan_extract_options)));
    EXPECT_SIZES(blyan_extract_options_init(&scratch_extract_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_extract(NULL, &a_hash, &a_piece_of_it, 1, &a_extract_options,
               &new_extract_report));
    EXPECT(NULL_ARGUMENT, blyan_extract(a_chain, NULL, &a_piece_of_it, 1, &a_extract_options,
               &new_extract_report));
    EXPECT(NULL_ARGUMENT, blyan_extract(a_chain, &a_hash, NULL, 1, &a_extract_options,
               &new_extract_report));
    EXPECT(NULL_ARGUMENT, blyan_extract(a_chain, &a_hash, &a_piece_of_it, 1, &a_extract_options, NULL));
    EXPECT(INVALID_SIZE, blyan_extract(a_chain, &a_hash, &a_piece_of_it, SIZE_MAX, &a_extract_options,
               &new_extract_report));
    EXPECT(INVALID_SIZE, blyan_extract(a_chain, &a_hash, &a_piece_of_it, 1, &short_extract_options,
               &new_extract_report));
    EXPECT(INVALID_ARGUMENT, blyan_extract(a_chain, &a_hash, &a_piece_of_it, 1, NULL, &new_extract_report));
    EXPECT(WRONG_BLOCK, blyan_extract(a_chain, &a_round, &a_piece_of_it, 1, &a_extract_options,
               &new_extract_report));
    EXPECT(INVALID_ARGUMENT, blyan_extract(a_chain, a_extract_options.model, NULL, 0, &a_extract_options,
               &new_extract_report));
    EXPECT(NULL_ARGUMENT, blyan_extract_report_describe(NULL, &a_extract_info, sizeof a_extract_info));
    EXPECT(NULL_ARGUMENT, blyan_extract_report_describe(a_extract_report, NULL, sizeof a_extract_info));
    EXPECT_SIZES(blyan_extract_report_describe(a_extract_report, &a_extract_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_extract_report_block(NULL, 0, &a_extracted_block, sizeof a_extracted_block));
    EXPECT(NULL_ARGUMENT, blyan_extract_report_block(a_extract_report, 0, NULL, sizeof a_extracted_block));
    EXPECT(INVALID_ARGUMENT, blyan_extract_report_block(a_extract_report, SIZE_MAX, &a_extracted_block,
               sizeof a_extracted_block));
    EXPECT_SIZES(blyan_extract_report_block(a_extract_report, 0, &a_extracted_block, bad_size));
    blyan_extract_report_free(NULL);
}

static void walk_rewards(const blyan_key *key, const blyan_hash *policy)
{
    EXPECT(NULL_ARGUMENT, blyan_receipt_append(NULL, a_chain, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_append(a_receipt, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_append(a_receipt, a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(NULL, policy, &a_hash, &a_hash, 1, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(a_chain, NULL, &a_hash, &a_hash, 1, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(a_chain, policy, NULL, &a_hash, 1, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(a_chain, policy, &a_hash, NULL, 1, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(a_chain, policy, &a_hash, &a_hash, 1, NULL, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_record_usage(a_chain, policy, &a_hash, &a_hash, 1, key, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_record_usage(a_chain, policy, &a_hash, &a_hash, SIZE_MAX, key, NULL,
               &a_hash));
    EXPECT(INVALID_SIZE, blyan_record_usage(a_chain, policy, &a_hash, &a_hash, 1, key, &short_model_options,
               &a_hash));
    EXPECT(WRONG_BLOCK, blyan_record_usage(a_chain, policy, policy, NULL, 0, key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_audit_usage(NULL, &a_hash, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_audit_usage(a_chain, NULL, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_audit_usage(a_chain, &a_hash, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_audit_usage(a_chain, &a_hash, &short_model_options, &new_hashes));
    EXPECT(WRONG_BLOCK, blyan_audit_usage(a_chain, policy, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_recorded_uses_json(NULL, policy, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_recorded_uses_json(a_chain, NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_recorded_uses_json(a_chain, policy, NULL));
    EXPECT(WRONG_BLOCK, blyan_recorded_uses_json(a_chain, &a_round, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_ledger_open(NULL, policy, &new_ledger));
    EXPECT(NULL_ARGUMENT, blyan_ledger_open(a_chain, NULL, &new_ledger));
    EXPECT(NULL_ARGUMENT, blyan_ledger_open(a_chain, policy, NULL));
    EXPECT(WRONG_BLOCK, blyan_ledger_open(a_chain, &a_round, &new_ledger));
    EXPECT_TRUE(blyan_ledger_periods(NULL) == 0 && blyan_ledger_periods(a_ledger) == 1);
    EXPECT(NULL_ARGUMENT, blyan_ledger_rewards(NULL, 0, 1, &new_shares));
    EXPECT(NULL_ARGUMENT, blyan_ledger_rewards(a_ledger, 0, 1, NULL));
    EXPECT_TRUE(blyan_shares_len(NULL) == 0 && blyan_shares_len(a_shares) == 0);
    EXPECT(NULL_ARGUMENT, blyan_shares_get(NULL, 0, &a_share, sizeof a_share));
    EXPECT(NULL_ARGUMENT, blyan_shares_get(a_shares, 0, NULL, sizeof a_share));
    EXPECT(INVALID_ARGUMENT, blyan_shares_get(a_shares, 0, &a_share, sizeof a_share));
    EXPECT_SIZES(blyan_shares_get(a_shares, 0, &a_share, bad_size));
    blyan_shares_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_ledger_credits_json(NULL, 0, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_ledger_credits_json(a_ledger, 0, NULL));
    blyan_ledger_free(NULL);
}

void walk_rounds(const blyan_key *key, const blyan_hash *policy)
{
    make_rounds(key, policy);
    walk_steps(key, policy);
    walk_attestations(key, policy);
    walk_judgements(policy);
    walk_contributions(key);
    walk_rewards(key, policy);
    blyan_audit_report_free(a_audit_report);
    blyan_claims_free(a_claims);
    blyan_extract_report_free(a_extract_report);
    blyan_judgement_free(a_judgement);
    blyan_ledger_free(a_ledger);
    blyan_shares_free(a_shares);
}
