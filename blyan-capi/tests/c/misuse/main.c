/* Programs do odd things: close the chain under a model, stop in the middle, use one handle from two
 * places, open what is damaged. Each is an error with a code, or works.
 *
 *     misuse MODEL_DIR EMPTY_DIR
 */
#include <blyan.h>

#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int failures;

static void expect_true(int holds, int line, const char *what)
{
    if (!holds) {
        failures++;
        fprintf(stderr, "misuse.c:%d: %s\n", line, what);
    }
}

static void expect(int32_t expected, int32_t status, int line, const char *call)
{
    if (status != expected) {
        failures++;
        fprintf(stderr, "misuse.c:%d: %s is %s, expected %s (%s)\n", line, call, blyan_status_name(status),
                blyan_status_name(expected), status > 1 ? blyan_last_error()->message : "");
    }
}

#define EXPECT(status, call) expect(BLYAN_STATUS_##status, (int32_t)(call), __LINE__, #call)
#define EXPECT_TRUE(condition) expect_true((condition), __LINE__, #condition)

static const blyan_prompt PROMPT = {"In the beginning", BLYAN_NUL, NULL, 0};

/* A chain that is closed under everything made from it. */
static void close_the_chain_first(const char *folder)
{
    blyan_chain *chain;
    blyan_model *model;
    blyan_session *session;
    blyan_stream *stream;
    blyan_tensors *tensors;
    blyan_tensor tensor;
    blyan_blocks *blocks;
    blyan_block *block;
    blyan_block_list *heads;
    blyan_block_info info;
    blyan_payload *payload;
    blyan_piece piece;
    blyan_generation *generation;
    blyan_generation *after;
    blyan_generation_info text;
    blyan_generation_info text_after;
    blyan_generate_options options;
    uint64_t sum = 0;
    size_t i;

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    EXPECT(OK, blyan_generate_options_init(&options, sizeof options));
    options.max_tokens = 4;
    EXPECT(OK, blyan_model_generate(model, &PROMPT, &options, &generation));
    EXPECT(OK, blyan_model_stream(model, &PROMPT, &options, &stream));
    EXPECT(OK, blyan_model_session(model, &session));
    EXPECT(OK, blyan_chain_all_blocks(chain, &blocks));
    EXPECT(OK, blyan_chain_heads(chain, "layer0.expert1", BLYAN_NUL, &heads));
    EXPECT(OK, blyan_block_list_get(heads, 0, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(OK, blyan_tensors_open(chain, &info.hash, &tensors));
    EXPECT(OK, blyan_chain_payload(chain, &info.hash, &payload));
    blyan_chain_free(chain);
    blyan_block_free(block);
    blyan_block_list_free(heads);

    EXPECT(OK, blyan_tensors_get(tensors, 0, &tensor, sizeof tensor));
    for (i = 0; i < tensor.nbytes; i++)
        sum += ((const uint8_t *)tensor.data)[i];
    EXPECT_TRUE(sum > 0);
    EXPECT_TRUE(blyan_payload_len(payload) > tensor.nbytes);
    EXPECT(OK, blyan_blocks_next(blocks, &block));
    blyan_block_free(block);

    EXPECT(OK, blyan_model_generate(model, &PROMPT, &options, &after));
    EXPECT(OK, blyan_generation_describe(generation, &text, sizeof text));
    EXPECT(OK, blyan_generation_describe(after, &text_after, sizeof text_after));
    EXPECT_TRUE(text.text.len == text_after.text.len &&
                memcmp(text.text.data, text_after.text.data, text.text.len) == 0);
    blyan_generation_free(after);
    blyan_generation_free(generation);

    /* And the model under its stream and session. */
    blyan_model_free(model);
    EXPECT(OK, blyan_stream_next(stream, &piece, sizeof piece));
    EXPECT(OK, blyan_stream_finish(stream, &generation));
    blyan_generation_free(generation);
    EXPECT(INVALID_ARGUMENT, blyan_stream_next(stream, &piece, sizeof piece));
    EXPECT(INVALID_ARGUMENT, blyan_stream_finish(stream, &generation));
    EXPECT_TRUE(generation == NULL);
    EXPECT(OK, blyan_session_generate(session, &PROMPT, &options, &generation));
    blyan_generation_free(generation);
    blyan_session_free(session);
    blyan_stream_free(stream);
    blyan_blocks_free(blocks);
    blyan_tensors_free(tensors);
    blyan_payload_free(payload);
}

struct calls {
    int count;
    int stop_at;
    blyan_session *session;
    blyan_status inner;
};

static int on_progress(void *user, const blyan_progress *progress)
{
    struct calls *calls = user;

    EXPECT_TRUE(progress->blocks <= progress->total_blocks);
    EXPECT_TRUE(progress->bytes <= progress->total_bytes);
    return ++calls->count == calls->stop_at ? -1 : 0;
}

static int on_token(void *user, const blyan_piece *piece)
{
    struct calls *calls = user;
    blyan_generation *generation;

    EXPECT_TRUE(piece->text.data[piece->text.len] == '\0');
    if (calls->session != NULL) {
        /* The session is in the call that we are in. */
        calls->inner = blyan_session_generate(calls->session, &PROMPT, NULL, &generation);
        EXPECT_TRUE(generation == NULL);
    }
    return ++calls->count == calls->stop_at;
}

static void stop_in_the_middle(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_import_options import;
    blyan_import_report *imported;
    blyan_export_options export;
    blyan_verify_options verify;
    blyan_verify_report *verified;
    blyan_cancel *cancel;
    struct calls calls = {0, 3, NULL, BLYAN_STATUS_OK};
    uint64_t len;
    blyan_hash model;
    blyan_snapshot *snapshot;
    char path[4096];

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_cancel_new(&cancel));
    EXPECT(OK, blyan_import_options_init(&import, sizeof import));
    import.on_progress = on_progress;
    import.user = &calls;
    EXPECT(STOPPED, blyan_import_checkpoint(chain, folder, BLYAN_NUL, &import, &imported));
    EXPECT_TRUE(calls.count == 3 && imported == NULL);
    EXPECT(OK, blyan_chain_len(chain, &len));
    EXPECT_TRUE(len == 0);

    import.cancel = cancel;
    blyan_cancel_set(cancel, true);
    EXPECT(CANCELLED, blyan_import_checkpoint(chain, folder, BLYAN_NUL, &import, NULL));
    blyan_cancel_set(cancel, false);
    EXPECT_TRUE(!blyan_cancel_is_set(cancel));
    calls.stop_at = -1;
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, &import, NULL));

    EXPECT(OK, blyan_verify_options_init(&verify, sizeof verify));
    verify.on_progress = on_progress;
    verify.user = &calls;
    calls.stop_at = calls.count + 1;
    EXPECT(STOPPED, blyan_chain_verify(chain, &verify, &verified));
    verify.on_progress = NULL;
    verify.cancel = cancel;
    blyan_cancel_set(cancel, true);
    EXPECT(CANCELLED, blyan_chain_verify(chain, &verify, &verified));

    EXPECT(OK, blyan_snapshot_open(chain, NULL, &snapshot));
    EXPECT(OK, blyan_snapshot_model_block(snapshot, chain, &model));
    EXPECT(OK, blyan_export_options_init(&export, sizeof export));
    export.on_progress = on_progress;
    export.user = &calls;
    calls.stop_at = calls.count + 2;
    snprintf(path, sizeof path, "%s/export", empty);
    EXPECT(STOPPED, blyan_export_checkpoint(chain, &model, path, BLYAN_NUL, &export, NULL));
    export.cancel = cancel;
    EXPECT(CANCELLED, blyan_export_checkpoint(chain, &model, path, BLYAN_NUL, &export, NULL));
    /* Nothing is left of it. */
    EXPECT(OK, blyan_export_checkpoint(chain, &model, path, BLYAN_NUL, NULL, NULL));
    EXPECT(EXPORT, blyan_export_checkpoint(chain, &model, path, BLYAN_NUL, NULL, NULL));
    blyan_snapshot_free(snapshot);
    blyan_cancel_free(cancel);
    blyan_chain_free(chain);
}

static void stop_generating(const blyan_model *model)
{
    static const uint32_t unknown[1] = {UINT32_MAX};
    blyan_prompt bad = {NULL, 0, unknown, 1};
    blyan_prompt both = {"And", BLYAN_NUL, unknown, 1};
    blyan_prompt neither = {NULL, 0, NULL, 0};
    blyan_prompt empty = {"", 0, NULL, 0};
    blyan_prompt pair[2];
    blyan_generate_options options;
    blyan_generation *generation;
    blyan_generation_info info;
    blyan_generations *batch;
    blyan_stream *stream;
    blyan_stream *other;
    blyan_piece piece;
    blyan_session *session;
    blyan_session *short_lived;
    blyan_tokens *tokens;
    blyan_cancel *cancel;
    struct calls calls = {0, 2, NULL, BLYAN_STATUS_OK};
    blyan_str stop[2] = {{"\xc3\x28", 2}, {"", 0}};

    EXPECT(OK, blyan_generate_options_init(&options, sizeof options));
    options.max_tokens = 6;
    options.on_token = on_token;
    options.user = &calls;
    EXPECT(STOPPED, blyan_model_generate(model, &PROMPT, &options, &generation));
    EXPECT(OK, blyan_generation_describe(generation, &info, sizeof info));
    EXPECT_TRUE(info.tokens_len == 2 && info.finish_reason == BLYAN_FINISH_REASON_CANCELLED);
    blyan_generation_free(generation);

    /* A session that stopped goes on from there. */
    EXPECT(OK, blyan_model_session(model, &session));
    calls.count = 0;
    calls.session = session;
    EXPECT(STOPPED, blyan_session_generate(session, &PROMPT, &options, &generation));
    EXPECT_TRUE(calls.inner == BLYAN_STATUS_BUSY);
    blyan_generation_free(generation);
    options.on_token = NULL;
    EXPECT(OK, blyan_session_generate(session, &empty, &options, &generation));
    EXPECT(OK, blyan_generation_describe(generation, &info, sizeof info));
    EXPECT_TRUE(info.tokens_len == 6);
    blyan_generation_free(generation);
    EXPECT(OK, blyan_session_truncate(session, SIZE_MAX));
    EXPECT(OK, blyan_session_tokens(session, &tokens));
    EXPECT_TRUE(blyan_tokens_len(tokens) == info.prompt_tokens + 6);
    blyan_tokens_free(tokens);
    /* While a stream has the session nothing else gets it; freed early, the stream gives it back. */
    EXPECT(OK, blyan_session_stream(session, &empty, NULL, &stream));
    EXPECT(OK, blyan_stream_next(stream, &piece, sizeof piece));
    EXPECT(BUSY, blyan_session_stream(session, &empty, NULL, &other));
    EXPECT(BUSY, blyan_session_generate(session, &empty, NULL, &generation));
    EXPECT(BUSY, blyan_session_truncate(session, 0));
    blyan_stream_free(stream);
    EXPECT(OK, blyan_session_stream(session, &empty, NULL, &stream));
    EXPECT(OK, blyan_stream_finish(stream, &generation));
    blyan_generation_free(generation);
    blyan_stream_free(stream);
    /* A stream outlives its session's handle. */
    EXPECT(OK, blyan_model_session(model, &short_lived));
    EXPECT(OK, blyan_session_stream(short_lived, &PROMPT, NULL, &stream));
    blyan_session_free(short_lived);
    EXPECT(OK, blyan_stream_next(stream, &piece, sizeof piece));
    blyan_stream_free(stream);
    EXPECT(OK, blyan_session_truncate(session, 0));
    EXPECT(INVALID_ARGUMENT, blyan_session_generate(session, &empty, &options, &generation));
    blyan_session_free(session);

    /* A flag is no error. */
    EXPECT(OK, blyan_cancel_new(&cancel));
    blyan_cancel_set(cancel, true);
    options.cancel = cancel;
    EXPECT(OK, blyan_model_generate(model, &PROMPT, &options, &generation));
    EXPECT(OK, blyan_generation_describe(generation, &info, sizeof info));
    EXPECT_TRUE(info.tokens_len == 0 && info.finish_reason == BLYAN_FINISH_REASON_CANCELLED);
    blyan_generation_free(generation);
    options.cancel = NULL;
    blyan_cancel_free(cancel);

    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &bad, &options, &generation));
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &both, &options, &generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(model, &neither, &options, &generation));
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &empty, &options, &generation));
    pair[0] = PROMPT;
    pair[1] = bad;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate_batch(model, pair, 2, &options, &batch));
    EXPECT_TRUE(batch == NULL);
    options.on_token = on_token;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate_batch(model, pair, 1, &options, &batch));
    EXPECT(INVALID_ARGUMENT, blyan_model_stream(model, &PROMPT, &options, &stream));
    options.on_token = NULL;

    options.stop = stop;
    options.stop_len = 1;
    EXPECT(INVALID_UTF8, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.stop = stop + 1;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.stop_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.stop = NULL;
    options.stop_len = 1;
    EXPECT(NULL_ARGUMENT, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.stop_len = 0;
    options.temperature = -1.0f;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.temperature = 0.0f;
    options.top_k = 0;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.top_k = BLYAN_NONE;
    options.max_tokens = 0;
    EXPECT(INVALID_ARGUMENT, blyan_model_generate(model, &PROMPT, &options, &generation));
    options.max_tokens = BLYAN_NONE - 1;
    EXPECT(CONTEXT_FULL, blyan_model_generate(model, &PROMPT, &options, &generation));
}

/* Options of a caller that is older, and of one that is newer than the library. */
static void other_versions(const blyan_model *model)
{
    struct {
        blyan_generate_options options;
        uint64_t later;
    } newer;
    blyan_generate_options older;
    blyan_generation *generation;
    blyan_generation_info info;
    uint64_t words[64];

    EXPECT(OK, blyan_generate_options_init(&newer.options, sizeof newer));
    EXPECT_TRUE(newer.later == 0);
    newer.options.max_tokens = 1;
    EXPECT(OK, blyan_model_generate(model, &PROMPT, &newer.options, &generation));
    blyan_generation_free(generation);
    newer.later = 1;
    EXPECT(INVALID_SIZE, blyan_model_generate(model, &PROMPT, &newer.options, &generation));

    /* What it does not have is not read: the rest is garbage. */
    memset(&older, 0xff, sizeof older);
    EXPECT(OK, blyan_generate_options_init(&older, 2 * sizeof(uint64_t)));
    older.max_tokens = 1;
    EXPECT(OK, blyan_model_generate(model, &PROMPT, &older, &generation));

    /* Nor is it written. */
    memset(words, 0xff, sizeof words);
    EXPECT(OK, blyan_generation_describe(generation, (blyan_generation_info *)words, 16));
    EXPECT(OK, blyan_generation_describe(generation, &info, sizeof info));
    EXPECT_TRUE(memcmp(words, &info, 16) == 0 && words[2] == UINT64_MAX);
    EXPECT(OK, blyan_generation_describe(generation, (blyan_generation_info *)words, sizeof words));
    EXPECT_TRUE(memcmp(words, &info, sizeof info) == 0 && words[63] == 0);
    blyan_generation_free(generation);
}

static void *append_elsewhere(void *user)
{
    blyan_draft draft;
    blyan_hash hash;

    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.lane = BLYAN_LANE_DATASET;
    draft.kind = 4096;
    draft.name.data = "note";
    draft.name.len = BLYAN_NUL;
    EXPECT(OK, blyan_chain_append(user, &draft, &hash));
    return NULL;
}

/* One transaction at a time: a thread that has one gets an error, others wait. */
static void write_twice(void)
{
    blyan_chain *chain;
    blyan_writer *writer;
    blyan_writer *second;
    blyan_draft draft;
    blyan_appended appended;
    blyan_hash hash;
    blyan_parent parent = {{{1}}, BLYAN_ROLE_DEPENDENCY};
    pthread_t thread;
    uint64_t len;
    bool contains;

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.kind = 4096;
    draft.name.data = "note";
    draft.name.len = 4;
    draft.payload = "abc";
    draft.payload_len = 3;
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(OK, blyan_writer_append(writer, &draft, &appended));
    EXPECT_TRUE(appended.new_block && appended.new_payload);
    EXPECT(BUSY, blyan_chain_writer(chain, &second));
    EXPECT(BUSY, blyan_chain_append(chain, &draft, &hash));
    EXPECT_TRUE(pthread_create(&thread, NULL, append_elsewhere, chain) == 0);
    EXPECT(OK, blyan_chain_contains(chain, &appended.hash, &contains));
    EXPECT_TRUE(!contains);
    EXPECT(OK, blyan_writer_contains(writer, &appended.hash, &contains));
    EXPECT_TRUE(contains);
    EXPECT(OK, blyan_writer_commit(writer));
    EXPECT(INVALID_ARGUMENT, blyan_writer_commit(writer));
    EXPECT(INVALID_ARGUMENT, blyan_writer_append(writer, &draft, &appended));
    pthread_join(thread, NULL);
    EXPECT(OK, blyan_chain_len(chain, &len));
    EXPECT_TRUE(len == 2);
    blyan_writer_free(writer);

    /* One that is not committed leaves nothing. */
    draft.payload_len = 2;
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(OK, blyan_writer_append(writer, &draft, &appended));
    blyan_writer_free(writer);
    EXPECT(OK, blyan_chain_contains(chain, &appended.hash, &contains));
    EXPECT_TRUE(!contains);

    draft.parents = &parent;
    draft.parents_len = 1;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &parent.hash, sizeof parent.hash) == 0);
    parent.role = 9;
    EXPECT(INVALID_ARGUMENT, blyan_chain_append(chain, &draft, &hash));
    draft.parents_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_chain_append(chain, &draft, &hash));
    draft.parents_len = 0;
    draft.kind = 65536;
    EXPECT(INVALID_ARGUMENT, blyan_chain_append(chain, &draft, &hash));
    draft.kind = 19;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    draft.name.data = "No Name";
    draft.name.len = BLYAN_NUL;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    blyan_chain_free(chain);
}

/* A payload that is gone is found, and named. */
static void lose_a_payload(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_chain *second;
    blyan_chain_options options;
    blyan_block_list *heads;
    blyan_block *block;
    blyan_block_info info;
    blyan_verify_report *report;
    blyan_verify_info found;
    blyan_bad_block bad;
    blyan_payload *payload;
    blyan_tensors *tensors;
    char hex[BLYAN_HASH_HEX_SIZE];
    char dir[4096];
    char path[8192];

    snprintf(dir, sizeof dir, "%s/chain", empty);
    EXPECT(OK, blyan_chain_options_init(&options, sizeof options));
    options.read_only = 1;
    EXPECT(NO_CHAIN, blyan_chain_open(dir, BLYAN_NUL, &options, &chain));
    EXPECT(INVALID_ARGUMENT, blyan_chain_open("", 0, NULL, &chain));
    EXPECT(OK, blyan_chain_open(dir, strlen(dir), NULL, &chain));
    EXPECT(LOCKED, blyan_chain_open(dir, BLYAN_NUL, NULL, &second));
    EXPECT_TRUE(second == NULL);
    EXPECT(OK, blyan_chain_open(dir, BLYAN_NUL, &options, &second));
    EXPECT(READ_ONLY, blyan_import_checkpoint(second, folder, BLYAN_NUL, NULL, NULL));
    EXPECT_TRUE(!blyan_chain_is_writable(second) && blyan_chain_is_writable(chain));
    EXPECT_TRUE(strcmp(blyan_chain_dir(second).data, dir) == 0);
    blyan_chain_free(second);
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(CHECKPOINT, blyan_import_checkpoint(chain, dir, BLYAN_NUL, NULL, NULL));

    EXPECT(OK, blyan_chain_heads(chain, "layer0.expert1", BLYAN_NUL, &heads));
    EXPECT(OK, blyan_block_list_get(heads, 0, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(OK, blyan_hash_to_hex(&info.payload, hex, sizeof hex));
    snprintf(path, sizeof path, "%s/payloads/%.2s/%s", dir, hex, hex);
    EXPECT_TRUE(remove(path) == 0);
    EXPECT(OK, blyan_chain_verify(chain, NULL, &report));
    EXPECT(OK, blyan_verify_report_describe(report, &found, sizeof found));
    EXPECT_TRUE(found.bad_len == 1);
    EXPECT(OK, blyan_verify_report_bad(report, 0, &bad, sizeof bad));
    EXPECT_TRUE(memcmp(&bad.block, &info.hash, sizeof bad.block) == 0);
    EXPECT_TRUE(strcmp(bad.name.data, "layer0.expert1") == 0);
    blyan_verify_report_free(report);
    EXPECT(DAMAGED, blyan_chain_payload(chain, &info.hash, &payload));
    EXPECT(DAMAGED, blyan_tensors_open(chain, &info.hash, &tensors));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &info.hash, sizeof info.hash) == 0);
    blyan_block_free(block);
    blyan_block_list_free(heads);

    EXPECT(OK, blyan_chain_heads(chain, "tokenizer", BLYAN_NUL, &heads));
    EXPECT(OK, blyan_block_list_get(heads, 0, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(WRONG_BLOCK, blyan_tensors_open(chain, &info.hash, &tensors));
    blyan_block_free(block);
    blyan_block_list_free(heads);
    blyan_chain_free(chain);
}

static int stop_at_once(void *user, const blyan_progress *progress)
{
    (void)user;
    return progress->blocks > 0;
}

static int is_empty(const blyan_chain *chain)
{
    uint64_t len = 1;

    EXPECT(OK, blyan_chain_len(chain, &len));
    return len == 0;
}

/* A bundle that is stopped, cut off, too large or taken in at a bad time changes nothing. */
static void exchange_badly(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_chain *other;
    blyan_writer *writer;
    blyan_bundle_options sending;
    blyan_bundle_info sent;
    blyan_unbundle_options taking;
    blyan_unbundle_info taken;
    blyan_collect_options collecting;
    blyan_collect_report *report;
    blyan_cancel *cancel;
    blyan_hash nobody = {{1}};
    uint64_t len;
    char path[4096];

    snprintf(path, sizeof path, "%s/bundle", empty);
    EXPECT(OK, blyan_cancel_new(&cancel));
    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_chain_in_memory(&other));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_bundle_options_init(&sending, sizeof sending));
    sending.on_progress = stop_at_once;
    EXPECT(STOPPED, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    EXPECT_TRUE(access(path, F_OK) != 0);
    sending.on_progress = NULL;
    sending.blocks = &nobody;
    sending.blocks_len = 1;
    EXPECT(NOT_FOUND, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    sending.blocks = NULL;
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    EXPECT(OK, blyan_chain_bundle_file(chain, path, BLYAN_NUL, NULL, &sent, sizeof sent));
    EXPECT(OK, blyan_chain_len(chain, &len));
    EXPECT_TRUE(sent.blocks == len && sent.payloads > 0 && sent.bytes > 0);

    EXPECT(OK, blyan_unbundle_options_init(&taking, sizeof taking));
    taking.on_progress = stop_at_once;
    EXPECT(STOPPED, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));
    taking.on_progress = NULL;
    taking.cancel = cancel;
    blyan_cancel_set(cancel, true);
    EXPECT(CANCELLED, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));
    taking.cancel = NULL;
    taking.max_payload_bytes = 8;
    EXPECT(BUNDLE, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));

    /* This thread has a transaction: it would wait for itself. */
    EXPECT(OK, blyan_chain_writer(other, &writer));
    EXPECT(BUSY, blyan_chain_unbundle_file(other, path, BLYAN_NUL, NULL, &taken, sizeof taken));
    EXPECT(BUSY, blyan_chain_collect(other, NULL, &report));
    EXPECT_TRUE(report == NULL);
    EXPECT(OK, blyan_collect_options_init(&collecting, sizeof collecting));
    collecting.dry_run = 1;
    EXPECT(OK, blyan_chain_collect(other, &collecting, &report));
    blyan_collect_report_free(report);
    blyan_writer_free(writer);

    collecting.cancel = cancel;
    EXPECT(CANCELLED, blyan_chain_collect(chain, &collecting, &report));
    collecting.cancel = NULL;
    collecting.roots = &nobody;
    collecting.roots_len = 1;
    EXPECT(NOT_FOUND, blyan_chain_collect(chain, &collecting, &report));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &nobody, sizeof nobody) == 0);
    collecting.roots_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_chain_collect(chain, &collecting, &report));

    EXPECT_TRUE(truncate(path, (off_t)sent.bytes - 1) == 0);
    EXPECT(BUNDLE, blyan_chain_unbundle_file(other, path, BLYAN_NUL, NULL, &taken, sizeof taken));
    EXPECT_TRUE(is_empty(other));
    blyan_cancel_free(cancel);
    blyan_chain_free(other);
    blyan_chain_free(chain);
}

struct log {
    int count;
    blyan_status inner;
};

static void on_log(void *user, int32_t level, blyan_str target, blyan_str message)
{
    struct log *log = user;

    EXPECT_TRUE(level >= BLYAN_LOG_LEVEL_ERROR && level <= BLYAN_LOG_LEVEL_TRACE);
    EXPECT_TRUE(strncmp(target.data, "blyan", 5) == 0 && message.len > 0);
    log->inner = blyan_set_log_callback(NULL, NULL, 0);
    log->count++;
}

/* A damaged file of usage counts is worth a warning, and no more. */
static void hear_warnings(const char *folder, const char *empty)
{
    struct log log = {0, BLYAN_STATUS_OK};
    blyan_chain *chain;
    blyan_model *model;
    blyan_model_info info;
    char hex[BLYAN_HASH_HEX_SIZE];
    char dir[4096];
    char path[8192];
    FILE *file;

    snprintf(dir, sizeof dir, "%s/warn", empty);
    EXPECT(OK, blyan_chain_open(dir, BLYAN_NUL, NULL, &chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    EXPECT(OK, blyan_usage_reset(model));
    EXPECT(OK, blyan_model_describe(model, &info, sizeof info));
    EXPECT(OK, blyan_hash_to_hex(&info.model, hex, sizeof hex));
    {
        blyan_generate_options options;
        blyan_generation *generation;

        EXPECT(OK, blyan_generate_options_init(&options, sizeof options));
        options.max_tokens = 1;
        EXPECT(OK, blyan_model_generate(model, &PROMPT, &options, &generation));
        blyan_generation_free(generation);
    }
    EXPECT(OK, blyan_usage_flush(model));
    blyan_model_free(model);
    snprintf(path, sizeof path, "%s/usage/%s.usage", dir, hex);
    file = fopen(path, "wb");
    EXPECT_TRUE(file != NULL && fputs("no counts", file) >= 0 && fclose(file) == 0);

    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(on_log, &log, 9));
    EXPECT(OK, blyan_set_log_callback(on_log, &log, BLYAN_LOG_LEVEL_WARN));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    EXPECT_TRUE(log.count > 0);
    EXPECT_TRUE(log.inner == BLYAN_STATUS_BUSY);
    blyan_model_free(model);
    EXPECT(OK, blyan_set_log_callback(NULL, NULL, 0));
    blyan_chain_free(chain);
}

/* Each thread has its own last error. */
static void *last_error_of_a_thread(void *user)
{
    EXPECT_TRUE(blyan_last_error() == NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_len(user, NULL));
    EXPECT_TRUE(blyan_last_error()->status == BLYAN_STATUS_NULL_ARGUMENT);
    return NULL;
}

static void odd_values(const blyan_chain *chain, const blyan_model *model)
{
    blyan_model_options options;
    blyan_model *opened;
    blyan_hash nobody = {{0}};
    blyan_receipt *receipt;
    blyan_text *text;
    blyan_experts *experts;
    blyan_import_options import;
    pthread_t thread;
    float few[3];
    uint32_t tokens[1] = {1};

    EXPECT(OK, blyan_model_options_init(&options, sizeof options));
    options.threads = 0;
    EXPECT(INVALID_ARGUMENT, blyan_model_open(chain, &options, &opened));
    options.threads = 1;
    options.kv_cache = 7;
    EXPECT(INVALID_ARGUMENT, blyan_model_open(chain, &options, &opened));
    options.kv_cache = BLYAN_KV_CACHE_F32;
    options.isa.data = "abacus";
    EXPECT(INVALID_ARGUMENT, blyan_model_open(chain, &options, &opened));
    options.isa.data = "scalar";
    options.model = &nobody;
    EXPECT(NOT_FOUND, blyan_model_open(chain, &options, &opened));
    EXPECT_TRUE(opened == NULL && blyan_last_error()->block != NULL);
    options.model = NULL;
    EXPECT(OK, blyan_model_open(chain, &options, &opened));
    blyan_model_free(opened);

    options.name.data = "nobody";
    EXPECT(NOT_FOUND, blyan_model_open(chain, &options, &opened));
    options.name.len = SIZE_MAX - 1;
    EXPECT(INVALID_SIZE, blyan_model_open(chain, &options, &opened));
    options.name.data = NULL;
    options.overlay_len = 1;
    EXPECT(NULL_ARGUMENT, blyan_model_open(chain, &options, &opened));
    options.overlay = &nobody;
    EXPECT(NOT_FOUND, blyan_model_open(chain, &options, &opened));
    /* A caller that was compiled when there was neither: the rest is garbage. */
    memset(&options, 0xff, sizeof options);
    EXPECT(OK, blyan_model_options_init(&options, offsetof(blyan_model_options, name)));
    EXPECT(OK, blyan_model_open(chain, &options, &opened));
    blyan_model_free(opened);

    EXPECT(RECEIPT, blyan_receipt_from_json("{}", BLYAN_NUL, &receipt));
    EXPECT(RECEIPT, blyan_receipt_from_json("\xff", 1, &receipt));
    EXPECT(INVALID_SIZE, blyan_model_logits(model, tokens, 1, few, 3));
    EXPECT(NOT_FOUND, blyan_usage_expert(model, "layer99.expert0", BLYAN_NUL, &experts));
    EXPECT(INVALID_ARGUMENT, blyan_usage_expert(model, "nowhere", BLYAN_NUL, &experts));
    EXPECT(INVALID_ARGUMENT, blyan_model_chat_prompt(model, "[", BLYAN_NUL, NULL, true, &text));
    EXPECT(CHAT, blyan_model_chat_prompt(model, "[{\"role\":\"user\",\"content\":\"Hi\"}]", BLYAN_NUL, NULL,
                                         true, &text));
    EXPECT(NOT_FOUND, blyan_model_token(model, UINT32_MAX, &text));
    EXPECT(INVALID_ARGUMENT, blyan_hash_from_hex("00", BLYAN_NUL, &nobody));
    EXPECT(OK, blyan_import_options_init(&import, sizeof import));
    import.dtype = 99;
    EXPECT(INVALID_ARGUMENT, blyan_import_checkpoint(chain, ".", BLYAN_NUL, &import, NULL));
    /* A pointer that cannot be one. */
    EXPECT(INVALID_ARGUMENT, blyan_chain_len((const blyan_chain *)((const char *)chain + 1), NULL));
    EXPECT_TRUE(pthread_create(&thread, NULL, last_error_of_a_thread, (void *)chain) == 0);
    pthread_join(thread, NULL);
    EXPECT_TRUE(blyan_last_error()->status == BLYAN_STATUS_INVALID_ARGUMENT);
}

int main(int argc, char **argv)
{
    blyan_chain *chain;
    blyan_model *model;

    if (argc != 3) {
        fprintf(stderr, "misuse MODEL_DIR EMPTY_DIR\n");
        return 2;
    }
    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(NO_MODEL, blyan_model_open(chain, NULL, &model));
    EXPECT(OK, blyan_import_checkpoint(chain, argv[1], BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    stop_generating(model);
    other_versions(model);
    odd_values(chain, model);
    blyan_model_free(model);
    blyan_chain_free(chain);

    close_the_chain_first(argv[1]);
    stop_in_the_middle(argv[1], argv[2]);
    write_twice();
    lose_a_payload(argv[1], argv[2]);
    exchange_badly(argv[1], argv[2]);
    hear_warnings(argv[1], argv[2]);
    printf("%d failures\n", failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
