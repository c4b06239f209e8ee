/* Closes what other handles came from, asks for what there is not, has handles of other versions. */
#include "misuse.h"

#include <pthread.h>

/* A chain that is closed under everything made from it. */
void close_the_chain_first(const char *folder)
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

/* Options of a caller that is older, and of one that is newer than the library. */
void other_versions(const blyan_model *model)
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

/* Each thread has its own last error. */
static void *last_error_of_a_thread(void *user)
{
    EXPECT_TRUE(blyan_last_error() == NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_len(user, NULL));
    EXPECT_TRUE(blyan_last_error()->status == BLYAN_STATUS_NULL_ARGUMENT);
    return NULL;
}

void odd_values(const blyan_chain *chain, const blyan_model *model)
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
    options.threads = 65537;
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
