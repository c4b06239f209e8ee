/* Wrong calls of statements, and of what they commit with. */
#include "every_function.h"

#define REMARK 5000
#define POLICY 5
#define VOTE 67

static blyan_statement *a_statement;
static blyan_statement *new_statement;
static blyan_statement_info a_statement_info;
static blyan_public_key a_public_key;
static blyan_slot_block a_slot_block;

static void walk_commitments(const blyan_hash *policy)
{
    blyan_slot_block twice[2];

    a_slot_block.slot.data = "layer0.expert1";
    a_slot_block.slot.len = BLYAN_NUL;
    a_slot_block.block = *policy;
    EXPECT(NULL_ARGUMENT, blyan_candidate_root(NULL, &a_slot_block, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_candidate_root(policy, NULL, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_candidate_root(policy, &a_slot_block, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_candidate_root(policy, &a_slot_block, SIZE_MAX, &a_hash));
    twice[0] = twice[1] = a_slot_block;
    EXPECT(INVALID_ARGUMENT, blyan_candidate_root(policy, twice, 2, &a_hash));
    twice[0].slot.data = "nowhere";
    EXPECT(INVALID_ARGUMENT, blyan_candidate_root(policy, twice, 1, &a_hash));
    twice[0].slot.data = BAD_UTF8;
    EXPECT(INVALID_UTF8, blyan_candidate_root(policy, twice, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_claim_commitment(NULL, &a_public_key, policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_claim_commitment(policy, NULL, policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_claim_commitment(policy, &a_public_key, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_claim_commitment(policy, &a_public_key, policy, NULL));
    EXPECT(NULL_ARGUMENT, blyan_split_commitment(NULL, policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_split_commitment(policy, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_split_commitment(policy, policy, NULL));
}

void walk_statements(const blyan_key *key, const blyan_hash *policy)
{
    static const blyan_hash nobody = {{1}};

    MUST(blyan_key_public(key, &a_public_key));
    MUST(blyan_statement_sign(key, REMARK, "[1]", BLYAN_NUL, &a_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_sign(NULL, REMARK, "[1]", BLYAN_NUL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_sign(key, REMARK, NULL, BLYAN_NUL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_sign(key, REMARK, "[1]", BLYAN_NUL, NULL));
    EXPECT(INVALID_SIZE, blyan_statement_sign(key, REMARK, "[1]", SIZE_MAX - 1, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_sign(key, REMARK, BAD_UTF8, 1, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_sign(key, REMARK, "[1", BLYAN_NUL, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_sign(key, REMARK, "0.5", BLYAN_NUL, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_sign(key, VOTE, "{}", BLYAN_NUL, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_sign(key, POLICY, "{}", BLYAN_NUL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_from_json(REMARK, NULL, BLYAN_NUL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_from_json(REMARK, "{}", BLYAN_NUL, NULL));
    EXPECT(INVALID_SIZE, blyan_statement_from_json(REMARK, "{}", SIZE_MAX - 1, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_from_json(REMARK, BAD_UTF8, 1, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_from_json(REMARK, "{}", BLYAN_NUL, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_from_json(POLICY, "{}", BLYAN_NUL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_open(NULL, policy, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_open(a_chain, NULL, &new_statement));
    EXPECT(NULL_ARGUMENT, blyan_statement_open(a_chain, policy, NULL));
    EXPECT(NOT_FOUND, blyan_statement_open(a_chain, &nobody, &new_statement));
    EXPECT(EVIDENCE, blyan_statement_open(a_chain, policy, &new_statement));
    EXPECT_TRUE(new_statement == NULL);
    EXPECT(NULL_ARGUMENT, blyan_statement_describe(NULL, &a_statement_info, sizeof a_statement_info));
    EXPECT(NULL_ARGUMENT, blyan_statement_describe(a_statement, NULL, sizeof a_statement_info));
    EXPECT_SIZES(blyan_statement_describe(a_statement, &a_statement_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_statement_to_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_statement_to_json(a_statement, NULL));
    EXPECT(NULL_ARGUMENT, blyan_statement_append(NULL, a_chain, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_statement_append(a_statement, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_statement_append(a_statement, a_chain, NULL));
    EXPECT(EVIDENCE, blyan_statement_append(a_statement, a_chain, &a_hash));
    blyan_statement_free(NULL);
    blyan_statement_free(a_statement);
    walk_commitments(policy);
}
