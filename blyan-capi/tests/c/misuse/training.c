/* Trains what is not there, on too little, twice at once and too fast; closes the chain under a run; goes on
 * from what is damaged or of another run. */
#include "misuse.h"

#include <math.h>
#include <pthread.h>

static const uint32_t TOKENS[20] = {3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22};
static const blyan_str ROUTER = {"layer3.router", BLYAN_NUL};

static blyan_train_options options_for(const blyan_str *slots, size_t slots_len)
{
    blyan_train_options options;

    EXPECT(OK, blyan_train_options_init(&options, sizeof options));
    options.slots = slots;
    options.slots_len = slots_len;
    options.steps = 2;
    options.batch = 1;
    options.sequence = 8;
    options.learning_rate = 0.01;
    options.threads = 1;
    return options;
}

static uint64_t steps_done(const blyan_trainer *trainer)
{
    blyan_trainer_info info = {UINT64_MAX, 0, 0, 0};

    EXPECT(OK, blyan_trainer_describe(trainer, &info, sizeof info));
    return info.steps_done;
}

static uint64_t len_of(const blyan_chain *chain)
{
    uint64_t len = 0;

    EXPECT(OK, blyan_chain_len(chain, &len));
    return len;
}

/* What a run with these options is refused with. */
static blyan_status begun(const blyan_chain *chain, const blyan_snapshot *base,
                          const blyan_train_options *options, const uint32_t *tokens, size_t tokens_len)
{
    blyan_trainer *trainer;
    blyan_status status = blyan_trainer_new(chain, base, tokens, tokens_len, options, &trainer);

    EXPECT_TRUE((trainer == NULL) == (status != BLYAN_STATUS_OK));
    blyan_trainer_free(trainer);
    return status;
}

/* One field of the options after the other. */
#define EXPECT_FIELD(field, value)                                                     \
    do {                                                                               \
        blyan_train_options bad = options_for(&ROUTER, 1);                             \
        bad.field = (value);                                                           \
        EXPECT(INVALID_ARGUMENT, begun(chain, base, &bad, TOKENS, 20));                \
    } while (0)

static void ask_for_nonsense(const blyan_chain *chain, const blyan_snapshot *base)
{
    static const uint32_t far[10] = {3, 4, 5, 6, 7, 8, 9, 10, 2048, 12};
    blyan_str slots[2] = {{"layer9.expert0", BLYAN_NUL}, {"layer3.router", BLYAN_NUL}};
    blyan_train_options options = options_for(slots, 2);

    EXPECT(NOT_FOUND, begun(chain, base, &options, TOKENS, 20));
    EXPECT_TRUE(strstr(blyan_last_error()->message, "layer9.expert0") != NULL);
    slots[0].data = "tokenizer";
    EXPECT(NOT_FOUND, begun(chain, base, &options, TOKENS, 20));
    slots[0].data = "nowhere";
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, TOKENS, 20));
    slots[0].data = "\xff";
    EXPECT(INVALID_UTF8, begun(chain, base, &options, TOKENS, 20));
    /* A norm has no matrix to add a delta to. */
    slots[0].data = "final_norm";
    options.form = BLYAN_FORM_INT8;
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, TOKENS, 20));
    options = options_for(&ROUTER, 1);
    options.form = BLYAN_FORM_LOW_RANK;
    options.rank = UINT64_C(1) << 40;
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, TOKENS, 20));

    EXPECT_FIELD(slots_len, 0);
    EXPECT_FIELD(batch, 0);
    EXPECT_FIELD(batch, UINT64_C(1) << 40);
    EXPECT_FIELD(sequence, 0);
    EXPECT_FIELD(sequence, UINT64_C(1) << 40);
    EXPECT_FIELD(threads, 0);
    EXPECT_FIELD(learning_rate, 0);
    EXPECT_FIELD(learning_rate, NAN);
    EXPECT_FIELD(learning_rate_floor, 2);
    EXPECT_FIELD(beta1, 1);
    EXPECT_FIELD(beta2, -1);
    EXPECT_FIELD(eps, 0);
    EXPECT_FIELD(weight_decay, INFINITY);
    EXPECT_FIELD(clip, -1);
    EXPECT_FIELD(clip, NAN);
    EXPECT_FIELD(balance, -1);

    options = options_for(&ROUTER, 1);
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, TOKENS, 8));
    EXPECT_TRUE(strstr(blyan_last_error()->message, "8 tokens are too few: expected at least 9") != NULL);
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, NULL, 0));
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, far, 10));
    EXPECT_TRUE(strstr(blyan_last_error()->message, "token 8 is 2048") != NULL);

    /* An older caller has no more than the form: the rest is garbage. */
    memset(&options, 0xff, sizeof options);
    EXPECT(OK, blyan_train_options_init(&options, offsetof(blyan_train_options, rank)));
    options.slots = &ROUTER;
    options.slots_len = 1;
    /* The sequence that it does not know is one of 256 tokens. */
    EXPECT(INVALID_ARGUMENT, begun(chain, base, &options, TOKENS, 20));
    EXPECT_TRUE(strstr(blyan_last_error()->message, "at least 257") != NULL);
}

struct inside {
    const blyan_trainer *trainer;
    int count;
};

static void *ask_elsewhere(void *user)
{
    double loss;

    EXPECT(BUSY, blyan_trainer_loss(user, TOKENS, 20, &loss));
    return NULL;
}

static int32_t on_step(void *user, const blyan_step_report *report)
{
    struct inside *inside = user;
    blyan_step_report other;
    blyan_trainer_info info;
    pthread_t thread;

    /* The run is in the call that we are in. */
    EXPECT(BUSY, blyan_trainer_describe(inside->trainer, &info, sizeof info));
    EXPECT(BUSY, blyan_trainer_step(inside->trainer, &other, sizeof other));
    EXPECT_TRUE(pthread_create(&thread, NULL, ask_elsewhere, (void *)inside->trainer) == 0);
    pthread_join(thread, NULL);
    EXPECT_TRUE(report->tokens == 8 && report->steps == 2);
    return ++inside->count == 2;
}

/* Twice at once; that it is done does not make a stop no stop. */
static void stop_at_the_end(const blyan_chain *chain, const blyan_snapshot *base)
{
    blyan_train_options options = options_for(&ROUTER, 1);
    blyan_step_report report;
    struct inside inside = {NULL, 0};
    blyan_trainer *trainer;
    blyan_cancel *cancel;
    float few[3];
    bool finished = false;

    EXPECT(OK, blyan_cancel_new(&cancel));
    EXPECT(OK, blyan_trainer_new(chain, base, TOKENS, 20, &options, &trainer));
    inside.trainer = trainer;
    EXPECT(STOPPED, blyan_trainer_run(trainer, on_step, &inside, cancel, &finished));
    EXPECT_TRUE(inside.count == 2 && !finished && blyan_cancel_is_set(cancel) && steps_done(trainer) == 2);
    /* All is done, so there is nothing that the flag could end. */
    EXPECT(OK, blyan_trainer_run(trainer, on_step, &inside, cancel, &finished));
    EXPECT_TRUE(inside.count == 2 && finished);
    EXPECT(OK, blyan_trainer_step(trainer, &report, sizeof report));
    EXPECT_TRUE(report.step == 2 && steps_done(trainer) == 3);
    EXPECT(INVALID_SIZE, blyan_trainer_logits(trainer, TOKENS, 1, few, 3));
    blyan_trainer_free(trainer);
    blyan_cancel_free(cancel);
}

/* Weights that are no numbers any more. */
static void learn_too_fast(const blyan_chain *chain, const blyan_snapshot *base)
{
    char names[8][16];
    blyan_str slots[8];
    blyan_train_options options;
    blyan_step_report report;
    blyan_trainer *trainer;
    blyan_trained_blocks *blocks;
    uint64_t before = len_of(chain);
    bool finished = false;
    int i;

    for (i = 0; i < 8; i++) {
        strcpy(names[i], "layer3.expert0");
        names[i][13] = (char)('0' + i);
        slots[i].data = names[i];
        slots[i].len = BLYAN_NUL;
    }
    options = options_for(slots, 8);
    options.learning_rate = 1e39;
    EXPECT(OK, blyan_trainer_new(chain, base, TOKENS, 20, &options, &trainer));
    EXPECT(OK, blyan_trainer_step(trainer, &report, sizeof report));
    EXPECT(DIVERGED, blyan_trainer_run(trainer, NULL, NULL, NULL, &finished));
    EXPECT_TRUE(!finished && steps_done(trainer) == 1);
    EXPECT(TENSOR, blyan_trainer_append_candidates(trainer, chain, &blocks));
    EXPECT_TRUE(blocks == NULL && len_of(chain) == before);
    blyan_trainer_free(trainer);
}

/* A checkpoint that is not what was saved, or of another run, changes nothing. */
static void resume_badly(const blyan_chain *chain, const blyan_snapshot *base)
{
    blyan_train_options options = options_for(&ROUTER, 1);
    blyan_step_report report;
    blyan_trainer *trainer;
    blyan_trainer *other;
    blyan_payload *saved;
    blyan_payload *after;
    size_t len, i;
    char *bytes;

    EXPECT(OK, blyan_trainer_new(chain, base, TOKENS, 20, &options, &trainer));
    EXPECT(OK, blyan_trainer_step(trainer, &report, sizeof report));
    EXPECT(OK, blyan_trainer_checkpoint(trainer, &saved));
    len = blyan_payload_len(saved);
    bytes = malloc(len);
    memcpy(bytes, blyan_payload_data(saved), len);
    for (i = 0; i < len; i += 1 + len / 16) {
        bytes[i] ^= 1;
        EXPECT(CHECKPOINT, blyan_trainer_resume(trainer, bytes, len));
        bytes[i] ^= 1;
        EXPECT(CHECKPOINT, blyan_trainer_resume(trainer, bytes, i));
    }
    EXPECT(CHECKPOINT, blyan_trainer_resume(trainer, bytes, len - 1));
    options.seed = 1;
    EXPECT(OK, blyan_trainer_new(chain, base, TOKENS, 20, &options, &other));
    EXPECT(CHECKPOINT, blyan_trainer_resume(other, bytes, len));
    EXPECT_TRUE(strstr(blyan_last_error()->message, "its seed is 0, this one's 1") != NULL);
    EXPECT_TRUE(steps_done(other) == 0);
    blyan_trainer_free(other);
    EXPECT(OK, blyan_trainer_checkpoint(trainer, &after));
    EXPECT_TRUE(blyan_payload_len(after) == len && memcmp(blyan_payload_data(after), bytes, len) == 0);
    EXPECT(OK, blyan_trainer_resume(trainer, bytes, len));
    EXPECT_TRUE(steps_done(trainer) == 1);
    free(bytes);
    blyan_payload_free(after);
    blyan_payload_free(saved);
    blyan_trainer_free(trainer);
}

void train_badly(const char *folder)
{
    blyan_train_options options = options_for(&ROUTER, 1);
    blyan_chain *chain;
    blyan_chain *other;
    blyan_snapshot *base;
    blyan_trainer *trainer;
    blyan_trained_blocks *blocks;
    blyan_writer *writer;
    blyan_hash model;
    uint64_t before;
    bool finished = false;

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_snapshot_open(chain, NULL, &base));
    before = len_of(chain);
    ask_for_nonsense(chain, base);
    stop_at_the_end(chain, base);
    learn_too_fast(chain, base);
    resume_badly(chain, base);

    EXPECT(OK, blyan_trainer_new(chain, base, TOKENS, 20, &options, &trainer));
    EXPECT(NOT_FOUND, blyan_trainer_append_model(trainer, chain, BLYAN_DTYPE_F32, NULL, 0, &model));
    /* This thread has a transaction: it would wait for itself. */
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(BUSY, blyan_trainer_append_candidates(trainer, chain, &blocks));
    blyan_writer_free(writer);
    /* It is what it was. */
    EXPECT(OK, blyan_trainer_append_candidates(trainer, chain, &blocks));
    EXPECT_TRUE(blyan_trained_blocks_len(blocks) == 0 && len_of(chain) == before);
    blyan_trained_blocks_free(blocks);
    blyan_snapshot_free(base);
    blyan_chain_free(chain);
    EXPECT(OK, blyan_trainer_run(trainer, NULL, NULL, NULL, &finished));
    EXPECT_TRUE(finished);
    EXPECT(OK, blyan_chain_in_memory(&other));
    EXPECT(NOT_FOUND, blyan_trainer_append_candidates(trainer, other, &blocks));
    EXPECT_TRUE(blocks == NULL && blyan_last_error()->block != NULL && len_of(other) == 0);
    blyan_chain_free(other);
    blyan_trainer_free(trainer);
}
