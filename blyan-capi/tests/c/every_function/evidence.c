/* Wrong calls of growth, deltas, keys, policies, datasets and evaluation. */
#include "every_function.h"

static blyan_key *a_key;
static blyan_public_key a_public_key;
static blyan_policy a_policy;
static blyan_hash a_policy_block;
static blyan_dataset_draft a_dataset_draft;
static blyan_hash a_dataset;
static blyan_dataset_states *a_dataset_states;
static blyan_evaluations *a_evaluations;

static blyan_key *new_key;
static blyan_dataset_states *new_dataset_states;
static blyan_evaluations *new_evaluations;
static blyan_dataset_state a_dataset_state;
static blyan_evaluation a_evaluation;
static blyan_policy scratch_policy;
static blyan_dataset_draft scratch_dataset_draft;
static blyan_evaluate_options scratch_evaluate_options;

static const uint32_t ids[3] = {1, 2, 3};
static const blyan_policy short_policy = {.size = 12};
static const blyan_dataset_draft short_dataset_draft = {.size = 12};
static const blyan_evaluate_options short_evaluate_options = {.size = 12};

static blyan_str literal(const char *text)
{
    blyan_str view = {text, BLYAN_NUL};

    return view;
}

static void make_evidence(void)
{
    static const uint8_t secret[BLYAN_SECRET_KEY_SIZE] = {1};
    static blyan_hash model;
    blyan_snapshot_info info;

    MUST(blyan_key_from_secret(secret, sizeof secret, &a_key));
    MUST(blyan_key_public(a_key, &a_public_key));
    MUST(blyan_snapshot_describe(a_snapshot, &info, sizeof info));
    model = info.base;
    MUST(blyan_policy_init(&a_policy, sizeof a_policy));
    a_policy.model = &model;
    a_policy.validators = &a_public_key;
    a_policy.validators_len = 1;
    MUST(blyan_policy_append(a_chain, &a_policy, &a_policy_block));
    MUST(blyan_dataset_draft_init(&a_dataset_draft, sizeof a_dataset_draft));
    a_dataset_draft.name = literal("ids");
    a_dataset_draft.license = literal("CC0-1.0");
    a_dataset_draft.source = literal("counted by hand");
    a_dataset_draft.tokens = ids;
    a_dataset_draft.tokens_len = 3;
    a_dataset_draft.vocab_size = 4;
    MUST(blyan_dataset_propose(a_chain, &a_dataset_draft, &a_dataset));
    MUST(blyan_dataset_list(a_chain, &a_policy_block, NULL, &a_dataset_states));
}

static void walk_growth(void)
{
    blyan_layer_growth layer = {NULL, 1, {NULL, 0}, 0, 0};

    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(NULL, a_chain, &layer, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(a_snapshot, NULL, &layer, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(a_snapshot, a_chain, NULL, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(a_snapshot, a_chain, &layer, 1, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(a_snapshot, a_chain, &layer, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_snapshot_grow(a_snapshot, a_chain, &layer, SIZE_MAX, &new_snapshot));
    layer.experts_len = SIZE_MAX;
    layer.experts = (const blyan_bytes *)&layer;
    EXPECT(INVALID_SIZE, blyan_snapshot_grow(a_snapshot, a_chain, &layer, 1, &new_snapshot));
    layer.experts_len = 0;
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_grow(a_snapshot, a_chain, &layer, 1, &new_snapshot));
    layer.router.len = 1;
    EXPECT(NULL_ARGUMENT, blyan_snapshot_grow(a_snapshot, a_chain, &layer, 1, &new_snapshot));

    EXPECT(NULL_ARGUMENT, blyan_delta_append(NULL, &a_hash, floats, 4, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_append(a_chain, NULL, floats, 4, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_append(a_chain, &a_hash, NULL, 4, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_append(a_chain, &a_hash, floats, 4, NULL));
    EXPECT(INVALID_SIZE, blyan_delta_append(a_chain, &a_hash, floats, SIZE_MAX, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_merge(NULL, &a_hash, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_merge(a_chain, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_merge(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_hash(NULL, &a_hash, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_hash(a_chain, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_hash(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_payload(NULL, &a_hash, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_payload(a_chain, NULL, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_delta_merged_payload(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_delta_materialise(NULL, &a_hash, &truth));
    EXPECT(NULL_ARGUMENT, blyan_delta_materialise(a_chain, NULL, &truth));
    EXPECT(NULL_ARGUMENT, blyan_delta_materialise(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_delta_apply(NULL, 4, floats, 4, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_delta_apply(floats, 4, NULL, 4, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_delta_apply(floats, 4, floats, 4, NULL));
    EXPECT(INVALID_SIZE, blyan_delta_apply(floats, SIZE_MAX, floats, 4, &new_payload));
    EXPECT(INVALID_SIZE, blyan_delta_apply(floats, 4, floats, SIZE_MAX, &new_payload));
    EXPECT(TENSOR, blyan_delta_apply(floats, 4, floats, 4, &new_payload));
}

static void walk_keys(void)
{
    EXPECT(NULL_ARGUMENT, blyan_key_from_secret(NULL, BLYAN_SECRET_KEY_SIZE, &new_key));
    EXPECT(NULL_ARGUMENT, blyan_key_from_secret(a_public_key.bytes, BLYAN_SECRET_KEY_SIZE, NULL));
    EXPECT_SIZES(blyan_key_from_secret(a_public_key.bytes, bad_size, &new_key));
    EXPECT_TRUE(new_key == NULL);
    EXPECT(NULL_ARGUMENT, blyan_key_public(NULL, &a_public_key));
    EXPECT(NULL_ARGUMENT, blyan_key_public(a_key, NULL));
    blyan_key_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_public_key_to_hex(NULL, characters, BLYAN_HASH_HEX_SIZE));
    EXPECT(NULL_ARGUMENT, blyan_public_key_to_hex(&a_public_key, NULL, BLYAN_HASH_HEX_SIZE));
    EXPECT_SIZES(blyan_public_key_to_hex(&a_public_key, characters, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_public_key_from_hex(NULL, BLYAN_NUL, &a_public_key));
    EXPECT(NULL_ARGUMENT, blyan_public_key_from_hex(HEX, BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_public_key_from_hex(BAD_UTF8, 1, &a_public_key));
    EXPECT(INVALID_SIZE, blyan_public_key_from_hex(HEX, SIZE_MAX - 1, &a_public_key));
    EXPECT(INVALID_ARGUMENT, blyan_public_key_from_hex("00", BLYAN_NUL, &a_public_key));
}

static void walk_policies(void)
{
    EXPECT(NULL_ARGUMENT, blyan_policy_init(NULL, sizeof(blyan_policy)));
    EXPECT_SIZES(blyan_policy_init(&scratch_policy, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_policy_append(NULL, &a_policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_policy_append(a_chain, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_policy_append(a_chain, &a_policy, NULL));
    EXPECT(INVALID_SIZE, blyan_policy_append(a_chain, &short_policy, &a_hash));
    MUST(blyan_policy_init(&scratch_policy, sizeof scratch_policy));
    EXPECT(NULL_ARGUMENT, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    scratch_policy = a_policy;
    scratch_policy.validators_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    scratch_policy = a_policy;
    scratch_policy.voters_len = 1;
    EXPECT(NULL_ARGUMENT, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    scratch_policy = a_policy;
    scratch_policy.datasets_len = 1;
    EXPECT(NULL_ARGUMENT, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    scratch_policy = a_policy;
    scratch_policy.tiers = 8;
    EXPECT(INVALID_ARGUMENT, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    scratch_policy = a_policy;
    scratch_policy.required = 2;
    EXPECT(REFUSED, blyan_policy_append(a_chain, &scratch_policy, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_policy_json(NULL, &a_policy_block, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_policy_json(a_chain, NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_policy_json(a_chain, &a_policy_block, NULL));
    EXPECT(WRONG_BLOCK, blyan_policy_json(a_chain, a_policy.model, &new_text));
}

static void walk_datasets(void)
{
    EXPECT(NULL_ARGUMENT, blyan_snapshot_tokenize(NULL, a_chain, "And", BLYAN_NUL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_tokenize(a_snapshot, NULL, "And", BLYAN_NUL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_tokenize(a_snapshot, a_chain, NULL, BLYAN_NUL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_tokenize(a_snapshot, a_chain, "And", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_snapshot_tokenize(a_snapshot, a_chain, BAD_UTF8, 1, &new_tokens));
    EXPECT(INVALID_SIZE, blyan_snapshot_tokenize(a_snapshot, a_chain, "And", SIZE_MAX - 1, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_dataset_draft_init(NULL, sizeof(blyan_dataset_draft)));
    EXPECT_SIZES(blyan_dataset_draft_init(&scratch_dataset_draft, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_dataset_propose(NULL, &a_dataset_draft, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_propose(a_chain, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_propose(a_chain, &a_dataset_draft, NULL));
    EXPECT(INVALID_SIZE, blyan_dataset_propose(a_chain, &short_dataset_draft, &a_hash));
    MUST(blyan_dataset_draft_init(&scratch_dataset_draft, sizeof scratch_dataset_draft));
    EXPECT(NULL_ARGUMENT, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.source.data = BAD_UTF8;
    EXPECT(INVALID_UTF8, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.tokens_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.tier = 3;
    EXPECT(INVALID_ARGUMENT, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.version = literal("one");
    EXPECT(INVALID_ARGUMENT, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.text = literal("And");
    EXPECT(INVALID_ARGUMENT, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft.tokens_len = 0;
    scratch_dataset_draft.vocab_size = 0;
    EXPECT(INVALID_ARGUMENT, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));
    scratch_dataset_draft = a_dataset_draft;
    scratch_dataset_draft.license = literal("whatever you like");
    EXPECT(EVIDENCE, blyan_dataset_propose(a_chain, &scratch_dataset_draft, &a_hash));

    EXPECT(NULL_ARGUMENT, blyan_dataset_audit(NULL, &a_policy_block, &a_dataset, a_key, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_audit(a_chain, NULL, &a_dataset, a_key, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_audit(a_chain, &a_policy_block, NULL, a_key, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_audit(a_chain, &a_policy_block, &a_dataset, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_audit(a_chain, &a_policy_block, &a_dataset, a_key, NULL));
    EXPECT(NULL_ARGUMENT, blyan_dataset_check_audit(NULL, &a_dataset));
    EXPECT(NULL_ARGUMENT, blyan_dataset_check_audit(a_chain, NULL));
    EXPECT(WRONG_BLOCK, blyan_dataset_check_audit(a_chain, &a_dataset));
    EXPECT(NULL_ARGUMENT, blyan_dataset_recompute_json(NULL, &a_policy_block, &a_dataset, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_dataset_recompute_json(a_chain, NULL, &a_dataset, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_dataset_recompute_json(a_chain, &a_policy_block, NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_dataset_recompute_json(a_chain, &a_policy_block, &a_dataset, NULL));
    EXPECT(WRONG_BLOCK, blyan_dataset_recompute_json(a_chain, &a_dataset, &a_dataset, &new_text));
    EXPECT(WRONG_BLOCK, blyan_dataset_recompute_json(a_chain, &a_policy_block, &a_policy_block, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_dataset_vote(NULL, &a_policy_block, &a_dataset, a_key, true, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_vote(a_chain, NULL, &a_dataset, a_key, true, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_vote(a_chain, &a_policy_block, NULL, a_key, true, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_vote(a_chain, &a_policy_block, &a_dataset, NULL, true, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_vote(a_chain, &a_policy_block, &a_dataset, a_key, true, NULL));
    EXPECT(EVIDENCE, blyan_dataset_vote(a_chain, &a_policy_block, &a_dataset, a_key, true, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_tally(NULL, &a_policy_block, &a_dataset, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_tally(a_chain, NULL, &a_dataset, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_tally(a_chain, &a_policy_block, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_tally(a_chain, &a_policy_block, &a_dataset, NULL));
    EXPECT(STEP, blyan_dataset_tally(a_chain, &a_policy_block, &a_dataset, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_rule(NULL, &a_policy_block, &a_dataset, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_rule(a_chain, NULL, &a_dataset, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_rule(a_chain, &a_policy_block, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_dataset_rule(a_chain, &a_policy_block, &a_dataset, NULL));
    EXPECT(STEP, blyan_dataset_rule(a_chain, &a_policy_block, &a_dataset, &a_hash));

    EXPECT(NULL_ARGUMENT, blyan_dataset_list(NULL, &a_policy_block, NULL, &new_dataset_states));
    EXPECT(NULL_ARGUMENT, blyan_dataset_list(a_chain, NULL, NULL, &new_dataset_states));
    EXPECT(NULL_ARGUMENT, blyan_dataset_list(a_chain, &a_policy_block, NULL, NULL));
    EXPECT(WRONG_BLOCK, blyan_dataset_list(a_chain, &a_policy_block, &a_policy_block, &new_dataset_states));
    EXPECT_TRUE(new_dataset_states == NULL && blyan_dataset_states_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_dataset_states_get(NULL, 0, &a_dataset_state, sizeof a_dataset_state));
    EXPECT(NULL_ARGUMENT, blyan_dataset_states_get(a_dataset_states, 0, NULL, sizeof a_dataset_state));
    EXPECT(INVALID_ARGUMENT, blyan_dataset_states_get(a_dataset_states, SIZE_MAX, &a_dataset_state,
               sizeof a_dataset_state));
    EXPECT_SIZES(blyan_dataset_states_get(a_dataset_states, 0, &a_dataset_state, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_dataset_states_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_dataset_states_json(a_dataset_states, NULL));
    blyan_dataset_states_free(NULL);
}

static void walk_evaluation(void)
{
    static const size_t size = sizeof(blyan_evaluation);

    EXPECT(NULL_ARGUMENT, blyan_evaluate_options_init(NULL, sizeof(blyan_evaluate_options)));
    EXPECT_SIZES(blyan_evaluate_options_init(&scratch_evaluate_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate(NULL, a_chain, ids, 3, NULL, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate(a_snapshot, NULL, ids, 3, NULL, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate(a_snapshot, a_chain, NULL, 3, NULL, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate(a_snapshot, a_chain, ids, 3, NULL, NULL, size));
    EXPECT(INVALID_SIZE, blyan_snapshot_evaluate(a_snapshot, a_chain, ids, SIZE_MAX, NULL, &a_evaluation,
               size));
    EXPECT(INVALID_SIZE, blyan_snapshot_evaluate(a_snapshot, a_chain, ids, 3, &short_evaluate_options,
               &a_evaluation, size));
    EXPECT_SIZES(blyan_snapshot_evaluate(a_snapshot, a_chain, ids, 3, NULL, &a_evaluation, bad_size));
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_evaluate(a_snapshot, a_chain, ids, 1, NULL, &a_evaluation,
               size));
    EXPECT(NULL_ARGUMENT, blyan_model_evaluate(NULL, ids, 3, NULL, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_model_evaluate(a_model, NULL, 3, NULL, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_model_evaluate(a_model, ids, 3, NULL, NULL, size));
    EXPECT(INVALID_SIZE, blyan_model_evaluate(a_model, ids, SIZE_MAX, NULL, &a_evaluation, size));
    EXPECT(INVALID_SIZE, blyan_model_evaluate(a_model, ids, 3, &short_evaluate_options, &a_evaluation,
               size));
    EXPECT_SIZES(blyan_model_evaluate(a_model, ids, 3, NULL, &a_evaluation, bad_size));
    EXPECT(INVALID_ARGUMENT, blyan_model_evaluate(a_model, ids, 1, NULL, &a_evaluation, size));
    MUST(blyan_evaluate_options_init(&scratch_evaluate_options, sizeof scratch_evaluate_options));
    scratch_evaluate_options.window = 0;
    EXPECT(INVALID_ARGUMENT, blyan_model_evaluate(a_model, ids, 3, &scratch_evaluate_options,
               &a_evaluation, size));
}

static void walk_evaluations(void)
{
    static const size_t size = sizeof(blyan_evaluation);
    const blyan_snapshot *others[2];

    others[0] = a_snapshot;
    others[1] = NULL;
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(NULL, a_chain, others, 1, ids, 3, NULL,
               &new_evaluations));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, NULL, others, 1, ids, 3, NULL,
               &new_evaluations));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, a_chain, NULL, 1, ids, 3, NULL,
               &new_evaluations));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 2, ids, 3, NULL,
               &new_evaluations));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 1, NULL, 3, NULL,
               &new_evaluations));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 1, ids, 3, NULL,
               NULL));
    EXPECT(INVALID_SIZE, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, SIZE_MAX, ids, 3, NULL,
               &new_evaluations));
    EXPECT(INVALID_SIZE, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 1, ids, SIZE_MAX, NULL,
               &new_evaluations));
    EXPECT(INVALID_SIZE, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 1, ids, 3,
               &short_evaluate_options, &new_evaluations));
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_evaluate_together(a_snapshot, a_chain, others, 1, ids, 1, NULL,
               &new_evaluations));
    EXPECT_TRUE(new_evaluations == NULL && blyan_evaluations_len(NULL) == 0);
    MUST(blyan_snapshot_evaluate_together(a_snapshot, a_chain, NULL, 0, ids, 3, NULL, &a_evaluations));
    EXPECT_TRUE(blyan_evaluations_len(a_evaluations) == 1);
    EXPECT(NULL_ARGUMENT, blyan_evaluations_get(NULL, 0, &a_evaluation, size));
    EXPECT(NULL_ARGUMENT, blyan_evaluations_get(a_evaluations, 0, NULL, size));
    EXPECT(INVALID_ARGUMENT, blyan_evaluations_get(a_evaluations, 1, &a_evaluation, size));
    EXPECT_SIZES(blyan_evaluations_get(a_evaluations, 0, &a_evaluation, bad_size));
    blyan_evaluations_free(NULL);
    blyan_evaluations_free(a_evaluations);
}

void walk_evidence(void)
{
    make_evidence();
    walk_growth();
    walk_keys();
    walk_policies();
    walk_datasets();
    walk_evaluation();
    walk_evaluations();
    blyan_dataset_states_free(a_dataset_states);
    walk_rounds(a_key, &a_policy_block);
    walk_statements(a_key, &a_policy_block);
    blyan_key_free(a_key);
}
