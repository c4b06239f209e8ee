/* An expert learns from a text: in one go, and stopped, saved and gone on with, to the same bits; as deltas,
 * too. A model begins with nothing. */
#include "evolve.h"

#include <math.h>

#define SENTENCE "In the beginning God created the heaven and the earth. "
#define WEIGHTS (192 * 256)
#define VOCAB_SIZE 2048
#define SEQUENCE 16

struct school {
    blyan_chain *chain;
    blyan_snapshot *base;
    blyan_hash model;
    const uint32_t *tokens;
    size_t tokens_len;
    /* Who learns. */
    char expert[32];
};

static blyan_train_options options_for(const blyan_str *slots, size_t slots_len)
{
    blyan_train_options options;

    MUST(blyan_train_options_init(&options, sizeof options));
    EXPECT_TRUE(options.form == BLYAN_FORM_FULL && options.steps == 100 && options.clip == 1);
    EXPECT_TRUE(options.learning_rate == 1e-4 && options.beta2 == 0.95 && options.threads == BLYAN_NONE);
    options.slots = slots;
    options.slots_len = slots_len;
    options.steps = 3;
    options.batch = 2;
    options.sequence = SEQUENCE;
    options.learning_rate = 1e-3;
    options.seed = 7;
    options.threads = 1;
    return options;
}

static blyan_trainer *begin(const struct school *school, const blyan_train_options *options)
{
    blyan_trainer *trainer;

    MUST(blyan_trainer_new(school->chain, school->base, school->tokens, school->tokens_len, options,
                           &trainer));
    return trainer;
}

/* The expert of a layer that has most to learn. */
static void find_expert(struct school *school)
{
    char names[8][32];
    blyan_str slots[8];
    blyan_train_options options;
    blyan_trainer *trainer;
    blyan_gradients *gradients;
    blyan_gradient gradient;
    double loss, squares, most = 0;
    size_t i, j;

    for (i = 0; i < 8; i++) {
        snprintf(names[i], sizeof names[i], "layer2.expert%d", (int)i);
        slots[i].data = names[i];
        slots[i].len = BLYAN_NUL;
    }
    options = options_for(slots, 8);
    trainer = begin(school, &options);
    MUST(blyan_trainer_gradients(trainer, school->tokens, 2 * SEQUENCE, &loss, &gradients));
    EXPECT_TRUE(loss > 0 && blyan_gradients_len(gradients) == 24);
    for (i = 0; i < 24; i++) {
        MUST(blyan_gradients_get(gradients, i, &gradient, sizeof gradient));
        EXPECT_TRUE(strcmp(gradient.slot.data, names[i / 3]) == 0 && gradient.values_len == WEIGHTS);
        EXPECT_TRUE(i % 3 != 0 || strcmp(gradient.tensor.data, "down_proj.weight") == 0);
        for (squares = 0, j = 0; j < WEIGHTS; j++)
            squares += (double)gradient.values[j] * gradient.values[j];
        if (squares > most) {
            most = squares;
            strcpy(school->expert, names[i / 3]);
        }
    }
    EXPECT_TRUE(most > 0);
    blyan_gradients_free(gradients);
    blyan_trainer_free(trainer);
}

/* The only candidate. The name of its slot is gone with the list. */
static blyan_trained_block candidate_of(const struct school *school, const blyan_trainer *trainer)
{
    blyan_slot base = slot_of(school->chain, &school->model, school->expert);
    blyan_trained_blocks *blocks;
    blyan_trained_block block;

    MUST(blyan_trainer_append_candidates(trainer, school->chain, &blocks));
    EXPECT_TRUE(blyan_trained_blocks_len(blocks) == 1);
    MUST(blyan_trained_blocks_get(blocks, 0, &block, sizeof block));
    EXPECT_TRUE(strcmp(block.slot.data, school->expert) == 0 && equal(&block.base, &base.block));
    block.slot.data = NULL;
    blyan_trained_blocks_free(blocks);
    return block;
}

static blyan_hash payload_of(const blyan_chain *chain, const blyan_hash *hash)
{
    blyan_block *block;
    blyan_block_info info;

    MUST(blyan_chain_get(chain, hash, &block));
    MUST(blyan_block_describe(block, &info, sizeof info));
    blyan_block_free(block);
    return info.payload;
}

static double evaluated(const struct school *school, const blyan_snapshot *snapshot)
{
    blyan_evaluate_options options;
    blyan_evaluation found;

    MUST(blyan_evaluate_options_init(&options, sizeof options));
    options.window = SEQUENCE;
    MUST(blyan_snapshot_evaluate(snapshot, school->chain, school->tokens, school->tokens_len, &options,
                                 &found, sizeof found));
    return found.loss;
}

struct heard {
    int count;
    int stop_at;
    double losses[3];
};

static int32_t on_step(void *user, const blyan_step_report *report)
{
    struct heard *heard = user;

    EXPECT_TRUE(report->step < 3 && report->steps == 3 && report->tokens == 2 * SEQUENCE);
    EXPECT_TRUE(report->loss > 0 && report->gradient_norm > 0 && report->balance == 0);
    EXPECT_TRUE(report->learning_rate > 0 && report->learning_rate <= 1e-3 && report->elapsed_s > 0);
    heard->losses[report->step % 3] = report->loss;
    return ++heard->count == heard->stop_at;
}

static uint64_t steps_done(const blyan_trainer *trainer)
{
    blyan_trainer_info info;

    MUST(blyan_trainer_describe(trainer, &info, sizeof info));
    EXPECT_TRUE(info.steps == 3 && info.trained_parameters == 3 * WEIGHTS && info.vocab_size == VOCAB_SIZE);
    return info.steps_done;
}

static int saved_alike(const blyan_trainer *a, const blyan_trainer *b)
{
    blyan_payload *first;
    blyan_payload *second;
    int alike;

    MUST(blyan_trainer_checkpoint(a, &first));
    MUST(blyan_trainer_checkpoint(b, &second));
    alike = blyan_payload_len(first) == blyan_payload_len(second) &&
            memcmp(blyan_payload_data(first), blyan_payload_data(second), blyan_payload_len(first)) == 0;
    blyan_payload_free(second);
    blyan_payload_free(first);
    return alike;
}

static void stop_and_go_on(const struct school *school)
{
    struct heard whole = {0, 0, {0, 0, 0}};
    struct heard parts = {0, 1, {0, 0, 0}};
    blyan_str expert;
    blyan_train_options options;
    blyan_trainer *one;
    blyan_trainer *two;
    blyan_cancel *cancel;
    blyan_payload *saved;
    blyan_step_report report;
    blyan_trained_block first, second;
    blyan_hash payload, again;
    blyan_snapshot *better;
    double before, after;
    bool finished = false;

    expert.data = school->expert;
    expert.len = BLYAN_NUL;
    options = options_for(&expert, 1);
    one = begin(school, &options);
    EXPECT_TRUE(steps_done(one) == 0);
    MUST(blyan_trainer_loss(one, school->tokens, school->tokens_len, &before));
    EXPECT_TRUE(fabs(before - evaluated(school, school->base)) < 0.01 * before);
    MUST(blyan_trainer_run(one, on_step, &whole, NULL, &finished));
    EXPECT_TRUE(finished && whole.count == 3 && steps_done(one) == 3);
    MUST(blyan_trainer_loss(one, school->tokens, school->tokens_len, &after));
    EXPECT_TRUE(after < before);
    MUST(blyan_trainer_run(one, on_step, &whole, NULL, &finished));
    EXPECT_TRUE(finished && whole.count == 3);

    MUST(blyan_cancel_new(&cancel));
    two = begin(school, &options);
    EXPECT(STOPPED, blyan_trainer_run(two, on_step, &parts, cancel, &finished));
    EXPECT_TRUE(parts.count == 1 && blyan_cancel_is_set(cancel) && steps_done(two) == 1);
    MUST(blyan_trainer_checkpoint(two, &saved));
    blyan_trainer_free(two);
    two = begin(school, &options);
    MUST(blyan_trainer_resume(two, blyan_payload_data(saved), blyan_payload_len(saved)));
    EXPECT_TRUE(steps_done(two) == 1);
    /* The flag is set still, which is no error. */
    MUST(blyan_trainer_run(two, on_step, &parts, cancel, &finished));
    EXPECT_TRUE(!finished && parts.count == 1 && steps_done(two) == 1);
    blyan_cancel_set(cancel, false);
    MUST(blyan_trainer_step(two, &report, sizeof report));
    EXPECT_TRUE(report.step == 1 && report.loss == whole.losses[1]);
    MUST(blyan_trainer_run(two, on_step, &parts, cancel, &finished));
    EXPECT_TRUE(finished && parts.count == 2 && saved_alike(one, two));
    EXPECT_TRUE(parts.losses[0] == whole.losses[0] && parts.losses[2] == whole.losses[2]);

    first = candidate_of(school, one);
    second = candidate_of(school, two);
    EXPECT_TRUE(equal(&first.block, &second.block) && !first.has_delta && !second.has_delta);
    payload = payload_of(school->chain, &first.block);
    again = payload_of(school->chain, &second.block);
    EXPECT_TRUE(equal(&payload, &again));
    MUST(blyan_snapshot_with_block(school->base, school->chain, &first.block, &better));
    EXPECT_TRUE(evaluated(school, better) < evaluated(school, school->base));
    blyan_snapshot_free(better);
    blyan_payload_free(saved);
    blyan_trainer_free(two);
    blyan_cancel_free(cancel);
    blyan_trainer_free(one);
}

/* What is learnt as a delta is a block, and gives the candidate. */
static void learn_deltas(const struct school *school)
{
    static const int32_t FORMS[2] = {BLYAN_FORM_LOW_RANK, BLYAN_FORM_INT8};
    blyan_str expert;
    blyan_train_options options;
    blyan_trainer *trainer;
    blyan_trained_block block;
    blyan_hash payload, merged;
    bool finished = false;
    int i;

    expert.data = school->expert;
    expert.len = BLYAN_NUL;
    options = options_for(&expert, 1);
    options.learning_rate = 0.01;
    for (i = 0; i < 2; i++) {
        options.form = FORMS[i];
        options.rank = FORMS[i] == BLYAN_FORM_LOW_RANK ? 2 : 0;
        trainer = begin(school, &options);
        MUST(blyan_trainer_run(trainer, NULL, NULL, NULL, &finished));
        EXPECT_TRUE(finished);
        block = candidate_of(school, trainer);
        EXPECT_TRUE(block.has_delta);
        payload = payload_of(school->chain, &block.block);
        MUST(blyan_delta_merged_hash(school->chain, &block.delta, &merged));
        EXPECT_TRUE(equal(&payload, &merged));
        blyan_trainer_free(trainer);
    }
}

/* The core computes what the run does. */
static void compare_logits(const struct school *school, const blyan_trainer *trainer, const blyan_chain *chain)
{
    static float ours[4 * VOCAB_SIZE], theirs[4 * VOCAB_SIZE];
    blyan_model_options options;
    blyan_model *model;
    float largest = 0, error = 0;
    size_t i;

    MUST(blyan_model_options_init(&options, sizeof options));
    options.kv_cache = BLYAN_KV_CACHE_F32;
    MUST(blyan_model_open(chain, &options, &model));
    MUST(blyan_model_logits(model, school->tokens, 4, theirs, 4 * VOCAB_SIZE));
    MUST(blyan_trainer_logits(trainer, school->tokens, 4, ours, 4 * VOCAB_SIZE));
    for (i = 0; i < 4 * VOCAB_SIZE; i++) {
        largest = fmaxf(largest, fabsf(theirs[i]));
        error = fmaxf(error, fabsf(ours[i] - theirs[i]));
    }
    EXPECT_TRUE(largest > 0 && error < 1e-3f * largest);
    blyan_model_free(model);
}

static void begin_with_nothing(const struct school *school)
{
    blyan_slot tokenizer = slot_of(school->chain, &school->model, "tokenizer");
    blyan_train_options options = options_for(NULL, 0);
    blyan_chain *other;
    blyan_trainer *trainer;
    blyan_trained_blocks *blocks;
    blyan_step_report report;
    blyan_payload *bytes;
    blyan_slot_bytes text;
    blyan_slot copied;
    blyan_text *spec;
    blyan_str json;
    blyan_hash model;
    uint64_t len;

    options.batch = 1;
    options.steps = 1;
    MUST(blyan_snapshot_spec_json(school->base, &spec));
    json = blyan_text_get(spec);
    MUST(blyan_trainer_from_nothing(json.data, json.len, 0.02, school->tokens, school->tokens_len, &options,
                                    &trainer));
    blyan_text_free(spec);
    MUST(blyan_trainer_step(trainer, &report, sizeof report));
    /* It knows nothing of what comes next. */
    EXPECT_TRUE(fabs(report.loss - log(VOCAB_SIZE)) < 0.5);
    EXPECT(INVALID_ARGUMENT, blyan_trainer_append_candidates(trainer, school->chain, &blocks));

    MUST(blyan_chain_payload(school->chain, &tokenizer.block, &bytes));
    text.slot.data = "tokenizer";
    text.slot.len = BLYAN_NUL;
    text.bytes.data = blyan_payload_data(bytes);
    text.bytes.len = blyan_payload_len(bytes);
    MUST(blyan_chain_in_memory(&other));
    EXPECT(INVALID_ARGUMENT, blyan_trainer_append_model(trainer, other, BLYAN_DTYPE_I8, &text, 1, &model));
    MUST(blyan_chain_len(other, &len));
    EXPECT_TRUE(len == 0);
    MUST(blyan_trainer_append_model(trainer, other, BLYAN_DTYPE_F32, &text, 1, &model));
    copied = slot_of(other, &model, "tokenizer");
    EXPECT_TRUE(equal(&copied.payload, &tokenizer.payload));
    compare_logits(school, trainer, other);
    blyan_chain_free(other);
    blyan_payload_free(bytes);
    blyan_trainer_free(trainer);
}

void train_an_expert(const char *folder)
{
    struct school school;
    blyan_snapshot_info info;
    blyan_tokens *tokens;

    MUST(blyan_chain_in_memory(&school.chain));
    MUST(blyan_import_checkpoint(school.chain, folder, BLYAN_NUL, NULL, NULL));
    MUST(blyan_snapshot_open(school.chain, NULL, &school.base));
    MUST(blyan_snapshot_describe(school.base, &info, sizeof info));
    school.model = info.base;
    MUST(blyan_snapshot_tokenize(school.base, school.chain,
                                 SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE SENTENCE, BLYAN_NUL, &tokens));
    school.tokens = blyan_tokens_data(tokens);
    school.tokens_len = blyan_tokens_len(tokens);
    EXPECT_TRUE(school.tokens_len > 3 * SEQUENCE);
    find_expert(&school);
    stop_and_go_on(&school);
    learn_deltas(&school);
    begin_with_nothing(&school);
    blyan_tokens_free(tokens);
    blyan_snapshot_free(school.base);
    blyan_chain_free(school.chain);
}
