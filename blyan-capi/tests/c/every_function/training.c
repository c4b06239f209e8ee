/* Wrong calls of trainers, gradients, and the blocks that come of training. */
#include "every_function.h"

static blyan_train_options a_train_options;
static blyan_trainer *a_trainer;
static blyan_gradients *a_gradients;
static blyan_trained_blocks *a_trained_blocks;
static blyan_text *a_spec;

static blyan_trainer *new_trainer;
static blyan_gradients *new_gradients;
static blyan_trained_blocks *new_trained_blocks;
static blyan_gradient a_gradient;
static blyan_slot_bytes a_slot_bytes;
static blyan_step_report a_step_report;
static blyan_trained_block a_trained_block;
static blyan_train_options scratch_train_options;
static blyan_trainer_info a_trainer_info;
static double real;

static const uint32_t ids[6] = {3, 4, 5, 6, 7, 8};
static const blyan_train_options short_train_options = {.size = 12};

static void make_training(void)
{
    static blyan_str router = {"layer3.router", BLYAN_NUL};

    MUST(blyan_train_options_init(&a_train_options, sizeof a_train_options));
    a_train_options.slots = &router;
    a_train_options.slots_len = 1;
    a_train_options.steps = 1;
    a_train_options.batch = 1;
    a_train_options.sequence = 4;
    a_train_options.learning_rate = 0.01;
    a_train_options.threads = 1;
    MUST(blyan_trainer_new(a_chain, a_snapshot, ids, 6, &a_train_options, &a_trainer));
    MUST(blyan_trainer_run(a_trainer, NULL, NULL, NULL, &truth));
    MUST(blyan_trainer_gradients(a_trainer, ids, 6, &real, &a_gradients));
    MUST(blyan_trainer_append_candidates(a_trainer, a_chain, &a_trained_blocks));
    MUST(blyan_snapshot_spec_json(a_snapshot, &a_spec));
    a_slot_bytes.slot.data = "tokenizer";
    a_slot_bytes.slot.len = BLYAN_NUL;
}

static void walk_options(void)
{
    EXPECT(NULL_ARGUMENT, blyan_train_options_init(NULL, sizeof(blyan_train_options)));
    EXPECT_SIZES(blyan_train_options_init(&scratch_train_options, bad_size));
    scratch_train_options = a_train_options;
    scratch_train_options.slots = NULL;
    EXPECT(NULL_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &scratch_train_options,
               &new_trainer));
    scratch_train_options.slots = a_train_options.slots;
    scratch_train_options.slots_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &scratch_train_options,
               &new_trainer));
    scratch_train_options = a_train_options;
    scratch_train_options.form = 3;
    EXPECT(INVALID_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &scratch_train_options,
               &new_trainer));
    scratch_train_options.form = BLYAN_FORM_LOW_RANK;
    EXPECT(INVALID_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &scratch_train_options,
               &new_trainer));
    scratch_train_options.form = BLYAN_FORM_FULL;
    scratch_train_options.rank = 1;
    EXPECT(INVALID_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &scratch_train_options,
               &new_trainer));
}

static void walk_beginnings(void)
{
    const char *spec = blyan_text_get(a_spec).data;

    EXPECT(NULL_ARGUMENT, blyan_trainer_new(NULL, a_snapshot, ids, 6, &a_train_options, &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_new(a_chain, NULL, ids, 6, &a_train_options, &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, NULL, 6, &a_train_options, &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &a_train_options, NULL));
    EXPECT(INVALID_SIZE, blyan_trainer_new(a_chain, a_snapshot, ids, SIZE_MAX, &a_train_options,
               &new_trainer));
    EXPECT(INVALID_SIZE, blyan_trainer_new(a_chain, a_snapshot, ids, 6, &short_train_options,
               &new_trainer));
    /* Nothing that learns. */
    EXPECT(INVALID_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 6, NULL, &new_trainer));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_new(a_chain, a_snapshot, ids, 4, &a_train_options, &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_from_nothing(NULL, BLYAN_NUL, 0.02, ids, 6, &a_train_options,
               &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_from_nothing(spec, BLYAN_NUL, 0.02, NULL, 6, &a_train_options,
               &new_trainer));
    EXPECT(NULL_ARGUMENT, blyan_trainer_from_nothing(spec, BLYAN_NUL, 0.02, ids, 6, &a_train_options, NULL));
    EXPECT(INVALID_SIZE, blyan_trainer_from_nothing(spec, SIZE_MAX - 1, 0.02, ids, 6, &a_train_options,
               &new_trainer));
    EXPECT(INVALID_SIZE, blyan_trainer_from_nothing(spec, BLYAN_NUL, 0.02, ids, SIZE_MAX, &a_train_options,
               &new_trainer));
    EXPECT(INVALID_SIZE, blyan_trainer_from_nothing(spec, BLYAN_NUL, 0.02, ids, 6, &short_train_options,
               &new_trainer));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_from_nothing(spec, BLYAN_NUL, 0.02, ids, 4, &a_train_options,
               &new_trainer));
    EXPECT(INVALID_MODEL, blyan_trainer_from_nothing("{}", BLYAN_NUL, 0.02, ids, 6, &a_train_options,
               &new_trainer));
    EXPECT(INVALID_MODEL, blyan_trainer_from_nothing(BAD_UTF8, 1, 0.02, ids, 6, &a_train_options,
               &new_trainer));
    EXPECT_TRUE(new_trainer == NULL);
    blyan_trainer_free(NULL);
}

static void walk_steps(void)
{
    EXPECT(NULL_ARGUMENT, blyan_trainer_describe(NULL, &a_trainer_info, sizeof a_trainer_info));
    EXPECT(NULL_ARGUMENT, blyan_trainer_describe(a_trainer, NULL, sizeof a_trainer_info));
    EXPECT_SIZES(blyan_trainer_describe(a_trainer, &a_trainer_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_trainer_run(NULL, NULL, NULL, NULL, &truth));
    EXPECT(NULL_ARGUMENT, blyan_trainer_run(a_trainer, NULL, NULL, NULL, NULL));
    EXPECT(NULL_ARGUMENT, blyan_trainer_step(NULL, &a_step_report, sizeof a_step_report));
    EXPECT(NULL_ARGUMENT, blyan_trainer_step(a_trainer, NULL, sizeof a_step_report));
    EXPECT_SIZES(blyan_trainer_step(a_trainer, &a_step_report, bad_size));
    MUST(blyan_trainer_describe(a_trainer, &a_trainer_info, sizeof a_trainer_info));
    EXPECT_TRUE(a_trainer_info.steps_done == 1);
    EXPECT(NULL_ARGUMENT, blyan_trainer_checkpoint(NULL, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_trainer_checkpoint(a_trainer, NULL));
    EXPECT(NULL_ARGUMENT, blyan_trainer_resume(NULL, ids, 4));
    EXPECT(NULL_ARGUMENT, blyan_trainer_resume(a_trainer, NULL, 4));
    EXPECT(INVALID_SIZE, blyan_trainer_resume(a_trainer, ids, SIZE_MAX));
    EXPECT(CHECKPOINT, blyan_trainer_resume(a_trainer, ids, sizeof ids));
    EXPECT(CHECKPOINT, blyan_trainer_resume(a_trainer, NULL, 0));
}

static void walk_measures(void)
{
    EXPECT(NULL_ARGUMENT, blyan_trainer_loss(NULL, ids, 6, &real));
    EXPECT(NULL_ARGUMENT, blyan_trainer_loss(a_trainer, NULL, 6, &real));
    EXPECT(NULL_ARGUMENT, blyan_trainer_loss(a_trainer, ids, 6, NULL));
    EXPECT(INVALID_SIZE, blyan_trainer_loss(a_trainer, ids, SIZE_MAX, &real));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_loss(a_trainer, ids, 1, &real));
    EXPECT(NULL_ARGUMENT, blyan_trainer_logits(NULL, &a_token, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_trainer_logits(a_trainer, NULL, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_trainer_logits(a_trainer, &a_token, 1, NULL, vocab_size));
    EXPECT(INVALID_SIZE, blyan_trainer_logits(a_trainer, &a_token, SIZE_MAX, logits, vocab_size));
    EXPECT(INVALID_SIZE, blyan_trainer_logits(a_trainer, &a_token, 1, logits, SIZE_MAX));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_logits(a_trainer, &a_token, 0, logits, 0));
    EXPECT(NULL_ARGUMENT, blyan_trainer_gradients(NULL, ids, 6, &real, &new_gradients));
    EXPECT(NULL_ARGUMENT, blyan_trainer_gradients(a_trainer, NULL, 6, &real, &new_gradients));
    EXPECT(NULL_ARGUMENT, blyan_trainer_gradients(a_trainer, ids, 6, NULL, &new_gradients));
    EXPECT(NULL_ARGUMENT, blyan_trainer_gradients(a_trainer, ids, 6, &real, NULL));
    EXPECT(INVALID_SIZE, blyan_trainer_gradients(a_trainer, ids, SIZE_MAX, &real, &new_gradients));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_gradients(a_trainer, ids, 1, &real, &new_gradients));
    EXPECT_TRUE(new_gradients == NULL);
    EXPECT_TRUE(blyan_gradients_len(NULL) == 0 && blyan_gradients_len(a_gradients) == 1);
    EXPECT(NULL_ARGUMENT, blyan_gradients_get(NULL, 0, &a_gradient, sizeof a_gradient));
    EXPECT(NULL_ARGUMENT, blyan_gradients_get(a_gradients, 0, NULL, sizeof a_gradient));
    EXPECT(INVALID_ARGUMENT, blyan_gradients_get(a_gradients, SIZE_MAX, &a_gradient, sizeof a_gradient));
    EXPECT_SIZES(blyan_gradients_get(a_gradients, 0, &a_gradient, bad_size));
    blyan_gradients_free(NULL);
}

static void walk_results(void)
{
    static const blyan_slot_bytes unread = {{"tokenizer", BLYAN_NUL}, {NULL, 1}};
    static const blyan_slot_bytes unnamed = {{NULL, 0}, {NULL, 0}};
    static const blyan_slot_bytes nowhere = {{"nowhere", BLYAN_NUL}, {NULL, 0}};
    const int32_t f32 = BLYAN_DTYPE_F32;

    EXPECT(NULL_ARGUMENT, blyan_trainer_append_candidates(NULL, a_chain, &new_trained_blocks));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_candidates(a_trainer, NULL, &new_trained_blocks));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_candidates(a_trainer, a_chain, NULL));
    EXPECT_TRUE(blyan_trained_blocks_len(NULL) == 0 && blyan_trained_blocks_len(a_trained_blocks) == 1);
    EXPECT(NULL_ARGUMENT, blyan_trained_blocks_get(NULL, 0, &a_trained_block, sizeof a_trained_block));
    EXPECT(NULL_ARGUMENT, blyan_trained_blocks_get(a_trained_blocks, 0, NULL, sizeof a_trained_block));
    EXPECT(INVALID_ARGUMENT, blyan_trained_blocks_get(a_trained_blocks, SIZE_MAX, &a_trained_block,
               sizeof a_trained_block));
    EXPECT_SIZES(blyan_trained_blocks_get(a_trained_blocks, 0, &a_trained_block, bad_size));
    blyan_trained_blocks_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(NULL, a_chain, f32, &a_slot_bytes, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(a_trainer, NULL, f32, &a_slot_bytes, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, f32, NULL, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, f32, &a_slot_bytes, 1, NULL));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, f32, &unread, 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, f32, &unnamed, 1, &a_hash));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, f32, &nowhere, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_trainer_append_model(a_trainer, a_chain, f32, &a_slot_bytes, SIZE_MAX,
               &a_hash));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, BLYAN_DTYPE_KEEP, NULL, 0,
               &a_hash));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_append_model(a_trainer, a_chain, 99, NULL, 0, &a_hash));
    /* Its run began with a snapshot. */
    EXPECT(NOT_FOUND, blyan_trainer_append_model(a_trainer, a_chain, f32, NULL, 0, &a_hash));
}

void walk_training(void)
{
    make_training();
    walk_options();
    walk_beginnings();
    walk_steps();
    walk_measures();
    walk_results();
    blyan_gradients_free(a_gradients);
    blyan_trained_blocks_free(a_trained_blocks);
    blyan_text_free(a_spec);
    blyan_trainer_free(a_trainer);
}
