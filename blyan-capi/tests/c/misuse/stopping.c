/* Stops imports, exports, verifications and generations in the middle. */
#include "misuse.h"

struct calls {
    int count;
    int stop_at;
    blyan_session *session;
    blyan_status inner;
    const blyan_chain *importing;
};

static int on_progress(void *user, const blyan_progress *progress)
{
    struct calls *calls = user;

    EXPECT_TRUE(progress->blocks <= progress->total_blocks);
    EXPECT_TRUE(progress->bytes <= progress->total_bytes);
    if (calls->importing != NULL) {
        /* The import that we are told of has a transaction, which we cannot wait for. */
        blyan_writer *writer;
        calls->inner = blyan_chain_writer(calls->importing, &writer);
        EXPECT_TRUE(writer == NULL);
    }
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

void stop_in_the_middle(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_import_options import;
    blyan_import_report *imported;
    blyan_export_options export;
    blyan_verify_options verify;
    blyan_verify_report *verified;
    blyan_cancel *cancel;
    struct calls calls = {0, 3, NULL, BLYAN_STATUS_OK, NULL};
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
    calls.importing = chain;
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, &import, NULL));
    EXPECT_TRUE(calls.inner == BLYAN_STATUS_BUSY);
    calls.importing = NULL;
    calls.inner = BLYAN_STATUS_OK;
    {
        blyan_writer *writer;
        EXPECT(OK, blyan_chain_writer(chain, &writer));
        blyan_writer_free(writer);
    }

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

void stop_generating(const blyan_model *model)
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
    struct calls calls = {0, 2, NULL, BLYAN_STATUS_OK, NULL};
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
