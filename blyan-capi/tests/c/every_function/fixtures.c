/* Calls every function of blyan.h in every wrong way that C lets it notice: each pointer NULL in turn,
 * sizes that no struct has, lengths that no object has, text that is no UTF-8, numbers that name nothing.
 * Each must be an error with a code and a message, and leave everything as it was.
 *
 *     every_function MODEL_DIR EMPTY_DIR
 */
#include <blyan.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAD_UTF8 "\xff"
#define HEX "00000000000000000000000000000000000000000000000000000000000000ff"

static int checks;
static int failures;

static void expect_true(int holds, int line, const char *what)
{
    checks++;
    if (!holds) {
        failures++;
        fprintf(stderr, "every_function.c:%d: %s\n", line, what);
    }
}

static void expect(int32_t expected, int32_t status, int line, const char *call)
{
    const blyan_error *error = blyan_last_error();

    checks++;
    if (status != expected) {
        failures++;
        fprintf(stderr, "every_function.c:%d: %s is %s, expected %s\n", line, call,
                blyan_status_name(status), blyan_status_name(expected));
    } else if (error == NULL || (int32_t)error->status != status || error->message_len == 0 ||
               strlen(error->message) != error->message_len) {
        failures++;
        fprintf(stderr, "every_function.c:%d: %s has no message\n", line, call);
    }
}

#define EXPECT(status, call) expect(BLYAN_STATUS_##status, (int32_t)(call), __LINE__, #call)
#define EXPECT_TRUE(condition) expect_true((condition), __LINE__, #condition)

/* The same call with every size that a struct or buffer cannot have. */
#define EXPECT_SIZES(call)                                              \
    do {                                                                \
        static const size_t bad_sizes[] = {0, 1, 12, 64 + 4, SIZE_MAX}; \
        size_t each;                                                    \
        for (each = 0; each < 5; each++) {                              \
            size_t bad_size = bad_sizes[each];                          \
            EXPECT(INVALID_SIZE, call);                                 \
        }                                                               \
    } while (0)

static void must(blyan_status status, int line)
{
    if (status != BLYAN_STATUS_OK) {
        fprintf(stderr, "every_function.c:%d: %s: %s\n", line, blyan_status_name(status),
                blyan_last_error()->message);
        exit(EXIT_FAILURE);
    }
}

#define MUST(call) must((call), __LINE__)

/* One good handle of each type. */
static blyan_block *a_block;
static blyan_block_list *a_block_list;
static blyan_blocks *a_blocks;
static blyan_cancel *a_cancel;
static blyan_chain *a_chain;
static blyan_co_uses *a_co_uses;
static blyan_collect_report *a_collect_report;
static blyan_comparison *a_comparison;
static blyan_differences *a_differences;
static blyan_experts *a_experts;
static blyan_export_report *a_export_report;
static blyan_generation *a_generation;
static blyan_generations *a_generations;
static blyan_hashes *a_hashes;
static blyan_import_report *a_import_report;
static blyan_model *a_model;
static blyan_payload *a_payload;
static blyan_receipt *a_receipt;
static blyan_releases *a_releases;
static blyan_session *a_session;
static blyan_signatures *a_signatures;
static blyan_slot_changes *a_slot_changes;
static blyan_snapshot *a_snapshot;
static blyan_stream *a_stream;
static blyan_tensors *a_tensors;
static blyan_text *a_text;
static blyan_tokens *a_tokens;
static blyan_verify_report *a_verify_report;
static blyan_writer *a_writer;

static blyan_chain *another_chain;

/* Places for results. */
static blyan_block *new_block;
static blyan_block_list *new_block_list;
static blyan_blocks *new_blocks;
static blyan_chain *new_chain;
static blyan_co_uses *new_co_uses;
static blyan_collect_report *new_collect_report;
static blyan_comparison *new_comparison;
static blyan_differences *new_differences;
static blyan_experts *new_experts;
static blyan_export_report *new_export_report;
static blyan_generation *new_generation;
static blyan_generations *new_generations;
static blyan_hashes *new_hashes;
static blyan_import_report *new_import_report;
static blyan_model *new_model;
static blyan_payload *new_payload;
static blyan_receipt *new_receipt;
static blyan_releases *new_releases;
static blyan_session *new_session;
static blyan_signatures *new_signatures;
static blyan_slot_changes *new_slot_changes;
static blyan_snapshot *new_snapshot;
static blyan_stream *new_stream;
static blyan_tensors *new_tensors;
static blyan_text *new_text;
static blyan_tokens *new_tokens;
static blyan_verify_report *new_verify_report;
static blyan_writer *new_writer;
static blyan_appended a_appended;
static blyan_bad_block a_bad_block;
static blyan_block_info a_block_info;
static blyan_bundle_info a_bundle_info;
static blyan_co_use a_co_use;
static blyan_collect_info a_collect_info;
static blyan_comparison_info a_comparison_info;
static blyan_difference a_difference;
static blyan_draft a_draft;
static blyan_expert_usage a_expert_usage;
static blyan_export_info a_export_info;
static blyan_generation_info a_generation_info;
static blyan_hash a_hash;
static blyan_import_info a_import_info;
static blyan_logprobs a_logprobs;
static blyan_model_info a_model_info;
static blyan_piece a_piece;
static blyan_receipt_info a_receipt_info;
static blyan_release a_release;
static blyan_residency a_residency;
static blyan_signature a_signature;
static blyan_slot a_slot;
static blyan_slot_change a_slot_change;
static blyan_slot_diff a_slot_diff;
static blyan_snapshot_info a_snapshot_info;
static blyan_str a_str;
static blyan_tensor a_tensor;
static blyan_tensor_diff a_tensor_diff;
static blyan_unbundle_info a_unbundle_info;
static blyan_verify_info a_verify_info;
static blyan_bundle_options scratch_bundle_options;
static blyan_chain_options scratch_chain_options;
static blyan_chat_options scratch_chat_options;
static blyan_collect_options scratch_collect_options;
static blyan_compare_options scratch_compare_options;
static blyan_draft scratch_draft;
static blyan_export_options scratch_export_options;
static blyan_generate_options scratch_generate_options;
static blyan_import_options scratch_import_options;
static blyan_model_options scratch_model_options;
static blyan_unbundle_options scratch_unbundle_options;
static blyan_verify_options scratch_verify_options;

static float floats[4] = {1, 2, 3, 4};
static float *logits;
static size_t vocab_size;
static char characters[BLYAN_HASH_HEX_SIZE];
static bool truth;
static uint16_t number16;
static uint32_t number;
static uint64_t number64;
static size_t length;
static blyan_prompt a_prompt = {"In the beginning", BLYAN_NUL, NULL, 0};
static const size_t matrix_dims[2] = {1, 4};
static blyan_tensor a_matrix;
static uint32_t a_token = 1;

/* Structs of options that say to be 12 bytes long. */
static const blyan_bundle_options short_bundle_options = {.size = 12};
static const blyan_chain_options short_chain_options = {.size = 12};
static const blyan_chat_options short_chat_options = {.size = 12};
static const blyan_collect_options short_collect_options = {.size = 12};
static const blyan_compare_options short_compare_options = {.size = 12};
static const blyan_draft short_draft = {.size = 12};
static const blyan_export_options short_export_options = {.size = 12};
static const blyan_generate_options short_generate_options = {.size = 12};
static const blyan_import_options short_import_options = {.size = 12};
static const blyan_model_options short_model_options = {.size = 12};
static const blyan_unbundle_options short_unbundle_options = {.size = 12};
static const blyan_verify_options short_verify_options = {.size = 12};

static void make_tensors(void)
{
    static const size_t scale_dims[2] = {1, 1};
    static int8_t values[4];
    static float scale;
    blyan_tensor tensors[2];
    blyan_payload *payload;

    a_matrix.name.data = "w";
    a_matrix.name.len = 1;
    a_matrix.data = floats;
    a_matrix.nbytes = sizeof floats;
    a_matrix.dims = matrix_dims;
    a_matrix.rank = 2;
    a_matrix.dtype = BLYAN_DTYPE_F32;
    MUST(blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, values, sizeof values, &scale, 1));
    tensors[0] = a_matrix;
    tensors[0].data = values;
    tensors[0].nbytes = sizeof values;
    tensors[0].dtype = BLYAN_DTYPE_I8;
    tensors[1] = a_matrix;
    tensors[1].name.data = "w_scale";
    tensors[1].name.len = BLYAN_NUL;
    tensors[1].data = &scale;
    tensors[1].nbytes = sizeof scale;
    tensors[1].dims = scale_dims;
    MUST(blyan_tensors_write(tensors, 2, &payload));
    MUST(blyan_tensors_parse(blyan_payload_data(payload), blyan_payload_len(payload), &a_tensors));
    blyan_payload_free(payload);
}

static void make_fixtures(const char *folder, const char *empty)
{
    blyan_import_info info;
    blyan_model_info model_info;
    blyan_generate_options options;
    blyan_snapshot *changed;
    blyan_hash release;
    blyan_receipt *other;
    blyan_generation *generation;
    uint8_t secret_key[BLYAN_SECRET_KEY_SIZE] = {1};

    MUST(blyan_chain_in_memory(&a_chain));
    MUST(blyan_import_checkpoint(a_chain, folder, BLYAN_NUL, NULL, &a_import_report));
    MUST(blyan_import_report_describe(a_import_report, &info, sizeof info));
    a_hash = info.model;
    MUST(blyan_chain_get(a_chain, &a_hash, &a_block));
    MUST(blyan_chain_heads(a_chain, "model", BLYAN_NUL, &a_block_list));
    MUST(blyan_chain_all_blocks(a_chain, &a_blocks));
    MUST(blyan_chain_payload(a_chain, &a_hash, &a_payload));
    MUST(blyan_chain_tips(a_chain, BLYAN_LANE_META, &a_hashes));
    MUST(blyan_chain_verify(a_chain, NULL, &a_verify_report));
    MUST(blyan_sign(secret_key, sizeof secret_key, &a_hash, 1, &a_signature));
    MUST(blyan_chain_add_signature(a_chain, &a_hash, &a_signature));
    MUST(blyan_chain_signatures(a_chain, &a_hash, &a_signatures));
    MUST(blyan_cancel_new(&a_cancel));
    MUST(blyan_export_checkpoint(a_chain, &info.model, empty, BLYAN_NUL, NULL, &a_export_report));
    MUST(blyan_chain_in_memory(&another_chain));
    MUST(blyan_chain_writer(another_chain, &a_writer));

    MUST(blyan_model_open(a_chain, NULL, &a_model));
    MUST(blyan_model_describe(a_model, &model_info, sizeof model_info));
    vocab_size = (size_t)model_info.vocab_size;
    logits = malloc(vocab_size * sizeof *logits);
    MUST(blyan_generate_options_init(&options, sizeof options));
    options.max_tokens = 2;
    options.logprobs = 2;
    MUST(blyan_model_generate(a_model, &a_prompt, &options, &a_generation));
    MUST(blyan_generation_receipt(a_generation, &a_receipt));
    MUST(blyan_model_generate_batch(a_model, &a_prompt, 1, &options, &a_generations));
    MUST(blyan_model_stream(a_model, &a_prompt, &options, &a_stream));
    MUST(blyan_model_session(a_model, &a_session));
    MUST(blyan_model_tokenize(a_model, "And", BLYAN_NUL, &a_tokens));
    MUST(blyan_model_detokenize(a_model, &a_token, 1, &a_text));
    MUST(blyan_usage_top(a_model, 3, &a_experts));
    MUST(blyan_usage_co_use(a_model, &a_co_uses));
    options.max_tokens = 1;
    MUST(blyan_model_generate(a_model, &a_prompt, &options, &generation));
    MUST(blyan_generation_receipt(generation, &other));
    MUST(blyan_receipt_diff(a_receipt, other, &a_differences));
    blyan_receipt_free(other);
    blyan_generation_free(generation);

    MUST(blyan_draft_init(&a_draft, sizeof a_draft));
    a_draft.kind = 33;
    a_draft.name.data = "tokenizer_config";
    a_draft.name.len = BLYAN_NUL;
    a_draft.payload = "{}";
    a_draft.payload_len = 2;
    MUST(blyan_chain_append(a_chain, &a_draft, &a_hash));
    MUST(blyan_snapshot_open(a_chain, NULL, &a_snapshot));
    MUST(blyan_snapshot_with_block(a_snapshot, a_chain, &a_hash, &changed));
    MUST(blyan_snapshot_diff(a_snapshot, changed, &a_slot_changes));
    MUST(blyan_chain_compare(a_chain, a_snapshot, changed, NULL, &a_comparison));
    MUST(blyan_chain_release(a_chain, &info.model, "first", BLYAN_NUL, "1.0.0", BLYAN_NUL, &release));
    MUST(blyan_chain_releases(a_chain, &a_releases));
    MUST(blyan_chain_collect(a_chain, NULL, &a_collect_report));
    blyan_snapshot_free(changed);
    make_tensors();
}

static void free_fixtures(void)
{
    free(logits);
    blyan_chain_free(another_chain);
    blyan_block_free(a_block);
    blyan_block_list_free(a_block_list);
    blyan_blocks_free(a_blocks);
    blyan_cancel_free(a_cancel);
    blyan_chain_free(a_chain);
    blyan_co_uses_free(a_co_uses);
    blyan_collect_report_free(a_collect_report);
    blyan_comparison_free(a_comparison);
    blyan_differences_free(a_differences);
    blyan_experts_free(a_experts);
    blyan_export_report_free(a_export_report);
    blyan_generation_free(a_generation);
    blyan_generations_free(a_generations);
    blyan_hashes_free(a_hashes);
    blyan_import_report_free(a_import_report);
    blyan_model_free(a_model);
    blyan_payload_free(a_payload);
    blyan_receipt_free(a_receipt);
    blyan_releases_free(a_releases);
    blyan_session_free(a_session);
    blyan_signatures_free(a_signatures);
    blyan_slot_changes_free(a_slot_changes);
    blyan_snapshot_free(a_snapshot);
    blyan_stream_free(a_stream);
    blyan_tensors_free(a_tensors);
    blyan_text_free(a_text);
    blyan_tokens_free(a_tokens);
    blyan_verify_report_free(a_verify_report);
    blyan_writer_free(a_writer);
}

static void walk_blocks(void)
{
    EXPECT(NULL_ARGUMENT, blyan_kind_name(0, NULL));
    EXPECT(NULL_ARGUMENT, blyan_kind_from_name(NULL, BLYAN_NUL, &number16));
    EXPECT(NULL_ARGUMENT, blyan_kind_from_name("expert", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_kind_from_name(BAD_UTF8, 1, &number16));
    EXPECT(INVALID_SIZE, blyan_kind_from_name("expert", SIZE_MAX - 1, &number16));
    EXPECT(NULL_ARGUMENT, blyan_block_describe(NULL, &a_block_info, sizeof(blyan_block_info)));
    EXPECT(NULL_ARGUMENT, blyan_block_describe(a_block, NULL, sizeof(blyan_block_info)));
    EXPECT_SIZES(blyan_block_describe(a_block, &a_block_info, bad_size));
    blyan_block_free(NULL);
    EXPECT_TRUE(blyan_block_list_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_block_list_get(NULL, 0, &new_block));
    EXPECT(NULL_ARGUMENT, blyan_block_list_get(a_block_list, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_block_list_get(a_block_list, SIZE_MAX, &new_block));
    blyan_block_list_free(NULL);
    EXPECT_TRUE(blyan_payload_data(NULL) == 0);
    EXPECT_TRUE(blyan_payload_len(NULL) == 0);
    blyan_payload_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_draft_init(NULL, sizeof(blyan_draft)));
    EXPECT_SIZES(blyan_draft_init(&scratch_draft, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_draft_hash(NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_draft_hash(&a_draft, NULL));
    EXPECT(INVALID_SIZE, blyan_draft_hash(&short_draft, &a_hash));
}

static void walk_small(void)
{
    EXPECT(NULL_ARGUMENT, blyan_cancel_new(NULL));
    blyan_cancel_set(NULL, true);
    EXPECT_TRUE(!blyan_cancel_is_set(NULL));
    blyan_cancel_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_hash_to_hex(NULL, characters, BLYAN_HASH_HEX_SIZE));
    EXPECT(NULL_ARGUMENT, blyan_hash_to_hex(&a_hash, NULL, BLYAN_HASH_HEX_SIZE));
    EXPECT_SIZES(blyan_hash_to_hex(&a_hash, characters, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_hash_from_hex(NULL, BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_hash_from_hex(HEX, BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_hash_from_hex(BAD_UTF8, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_hash_from_hex(HEX, SIZE_MAX - 1, &a_hash));
    EXPECT_TRUE(blyan_hashes_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_hashes_get(NULL, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_hashes_get(a_hashes, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_hashes_get(a_hashes, SIZE_MAX, &a_hash));
    blyan_hashes_free(NULL);
    EXPECT_TRUE(blyan_text_get(NULL).len == 0);
    blyan_text_free(NULL);
    EXPECT_TRUE(blyan_tokens_data(NULL) == 0);
    EXPECT_TRUE(blyan_tokens_len(NULL) == 0);
    blyan_tokens_free(NULL);
}

static void walk_chains(void)
{
    EXPECT(NULL_ARGUMENT, blyan_chain_options_init(NULL, sizeof(blyan_chain_options)));
    EXPECT_SIZES(blyan_chain_options_init(&scratch_chain_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_open(NULL, BLYAN_NUL, NULL, &new_chain));
    EXPECT(NULL_ARGUMENT, blyan_chain_open("no/such/dir", BLYAN_NUL, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_chain_open("no/such/dir", SIZE_MAX - 1, NULL, &new_chain));
    EXPECT(INVALID_SIZE, blyan_chain_open("no/such/dir", BLYAN_NUL, &short_chain_options, &new_chain));
    EXPECT(NULL_ARGUMENT, blyan_chain_in_memory(NULL));
    blyan_chain_free(NULL);
    EXPECT_TRUE(blyan_chain_dir(NULL).len == 0);
    EXPECT_TRUE(!blyan_chain_is_writable(NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_len(NULL, &number64));
    EXPECT(NULL_ARGUMENT, blyan_chain_len(a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_contains(NULL, &a_hash, &truth));
    EXPECT(NULL_ARGUMENT, blyan_chain_contains(a_chain, NULL, &truth));
    EXPECT(NULL_ARGUMENT, blyan_chain_contains(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_get(NULL, &a_hash, &new_block));
    EXPECT(NULL_ARGUMENT, blyan_chain_get(a_chain, NULL, &new_block));
    EXPECT(NULL_ARGUMENT, blyan_chain_get(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_payload(NULL, &a_hash, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_chain_payload(a_chain, NULL, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_chain_payload(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_append(NULL, &a_draft, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_append(a_chain, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_append(a_chain, &a_draft, NULL));
    EXPECT(INVALID_SIZE, blyan_chain_append(a_chain, &short_draft, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks(NULL, 0, &new_blocks));
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks(a_chain, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_chain_blocks(a_chain, 3, &new_blocks));
    EXPECT(INVALID_ARGUMENT, blyan_chain_blocks(a_chain, -1, &new_blocks));
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks_of_kind(NULL, 0, &new_blocks));
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks_of_kind(a_chain, 0, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_all_blocks(NULL, &new_blocks));
    EXPECT(NULL_ARGUMENT, blyan_chain_all_blocks(a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_blocks_next(NULL, &new_block));
    EXPECT(NULL_ARGUMENT, blyan_blocks_next(a_blocks, NULL));
    blyan_blocks_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_heads(NULL, "name", BLYAN_NUL, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_heads(a_chain, NULL, BLYAN_NUL, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_heads(a_chain, "name", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_chain_heads(a_chain, BAD_UTF8, 1, &new_block_list));
    EXPECT(INVALID_SIZE, blyan_chain_heads(a_chain, "name", SIZE_MAX - 1, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_ancestors(NULL, &a_hash, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_ancestors(a_chain, NULL, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_ancestors(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_children(NULL, &a_hash, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_chain_children(a_chain, NULL, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_chain_children(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_tips(NULL, 0, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_chain_tips(a_chain, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_chain_tips(a_chain, 3, &new_hashes));
    EXPECT(INVALID_ARGUMENT, blyan_chain_tips(a_chain, -1, &new_hashes));
    EXPECT(NULL_ARGUMENT, blyan_chain_root(NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_root(a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_verify_options_init(NULL, sizeof(blyan_verify_options)));
    EXPECT_SIZES(blyan_verify_options_init(&scratch_verify_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_verify(NULL, NULL, &new_verify_report));
    EXPECT(NULL_ARGUMENT, blyan_chain_verify(a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_chain_verify(a_chain, &short_verify_options, &new_verify_report));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_describe(NULL, &a_verify_info,
               sizeof(blyan_verify_info)));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_describe(a_verify_report, NULL,
               sizeof(blyan_verify_info)));
    EXPECT_SIZES(blyan_verify_report_describe(a_verify_report, &a_verify_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_bad(NULL, 0, &a_bad_block, sizeof(blyan_bad_block)));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_bad(a_verify_report, 0, NULL, sizeof(blyan_bad_block)));
    EXPECT(INVALID_ARGUMENT, blyan_verify_report_bad(a_verify_report, SIZE_MAX, &a_bad_block,
               sizeof(blyan_bad_block)));
    EXPECT_SIZES(blyan_verify_report_bad(a_verify_report, 0, &a_bad_block, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_collected(NULL, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_verify_report_collected(a_verify_report, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_verify_report_collected(a_verify_report, 0, &a_hash));
    blyan_verify_report_free(NULL);
}

static void walk_models(void)
{
    EXPECT(NULL_ARGUMENT, blyan_chat_options_init(NULL, sizeof(blyan_chat_options)));
    EXPECT_SIZES(blyan_chat_options_init(&scratch_chat_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(NULL, "[]", BLYAN_NUL, NULL, false, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(a_model, NULL, BLYAN_NUL, NULL, false, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_prompt(a_model, "[]", BLYAN_NUL, NULL, false, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat_prompt(a_model, BAD_UTF8, 1, NULL, false, &new_text));
    EXPECT(INVALID_SIZE, blyan_model_chat_prompt(a_model, "[]", SIZE_MAX - 1, NULL, false, &new_text));
    EXPECT(INVALID_SIZE, blyan_model_chat_prompt(a_model, "[]", BLYAN_NUL, &short_chat_options, false,
               &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(NULL, "[]", BLYAN_NUL, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(a_model, NULL, BLYAN_NUL, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat(a_model, "[]", BLYAN_NUL, NULL, NULL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat(a_model, BAD_UTF8, 1, NULL, NULL, &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", SIZE_MAX - 1, NULL, NULL, &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", BLYAN_NUL, &short_chat_options, NULL,
               &new_generation));
    EXPECT(INVALID_SIZE, blyan_model_chat(a_model, "[]", BLYAN_NUL, NULL, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(NULL, "[]", BLYAN_NUL, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(a_model, NULL, BLYAN_NUL, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, NULL, NULL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_chat_stream(a_model, BAD_UTF8, 1, NULL, NULL, &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", SIZE_MAX - 1, NULL, NULL, &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, &short_chat_options, NULL,
               &new_stream));
    EXPECT(INVALID_SIZE, blyan_model_chat_stream(a_model, "[]", BLYAN_NUL, NULL,
               &short_generate_options, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(NULL, &a_prompt, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(a_model, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate(a_model, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_generate(a_model, &a_prompt, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(NULL, &a_prompt, 1, NULL, &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(a_model, NULL, 1, NULL, &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_generate_batch(a_model, &a_prompt, 1, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_generate_batch(a_model, &a_prompt, SIZE_MAX, NULL,
               &new_generations));
    EXPECT(INVALID_SIZE, blyan_model_generate_batch(a_model, &a_prompt, 1, &short_generate_options,
               &new_generations));
    EXPECT(NULL_ARGUMENT, blyan_model_options_init(NULL, sizeof(blyan_model_options)));
    EXPECT_SIZES(blyan_model_options_init(&scratch_model_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_open(NULL, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open(a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_open(a_chain, &short_model_options, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(NULL, a_snapshot, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(a_chain, NULL, NULL, &new_model));
    EXPECT(NULL_ARGUMENT, blyan_model_open_snapshot(a_chain, a_snapshot, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_open_snapshot(a_chain, a_snapshot, &short_model_options,
               &new_model));
    blyan_model_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_model_describe(NULL, &a_model_info, sizeof(blyan_model_info)));
    EXPECT(NULL_ARGUMENT, blyan_model_describe(a_model, NULL, sizeof(blyan_model_info)));
    EXPECT_SIZES(blyan_model_describe(a_model, &a_model_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_residency(NULL, &a_residency, sizeof(blyan_residency)));
    EXPECT(NULL_ARGUMENT, blyan_model_residency(a_model, NULL, sizeof(blyan_residency)));
    EXPECT_SIZES(blyan_model_residency(a_model, &a_residency, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(NULL, "name", BLYAN_NUL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(a_model, NULL, BLYAN_NUL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_tokenize(a_model, "name", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_tokenize(a_model, BAD_UTF8, 1, &new_tokens));
    EXPECT(INVALID_SIZE, blyan_model_tokenize(a_model, "name", SIZE_MAX - 1, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(NULL, "name", BLYAN_NUL, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(a_model, NULL, BLYAN_NUL, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_count_tokens(a_model, "name", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_count_tokens(a_model, BAD_UTF8, 1, &length));
    EXPECT(INVALID_SIZE, blyan_model_count_tokens(a_model, "name", SIZE_MAX - 1, &length));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(NULL, &a_token, 1, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(a_model, NULL, 1, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_detokenize(a_model, &a_token, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_model_detokenize(a_model, &a_token, SIZE_MAX, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(NULL, "name", BLYAN_NUL, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(a_model, NULL, BLYAN_NUL, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token_id(a_model, "name", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_model_token_id(a_model, BAD_UTF8, 1, &number));
    EXPECT(INVALID_SIZE, blyan_model_token_id(a_model, "name", SIZE_MAX - 1, &number));
    EXPECT(NULL_ARGUMENT, blyan_model_token(NULL, 1, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_model_token(a_model, 1, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(NULL, &a_token, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(a_model, NULL, 1, logits, vocab_size));
    EXPECT(NULL_ARGUMENT, blyan_model_logits(a_model, &a_token, 1, NULL, vocab_size));
    EXPECT(INVALID_SIZE, blyan_model_logits(a_model, &a_token, SIZE_MAX, logits, vocab_size));
    EXPECT(INVALID_SIZE, blyan_model_logits(a_model, &a_token, 1, logits, SIZE_MAX));
    EXPECT(NULL_ARGUMENT, blyan_model_snapshot(NULL, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_model_snapshot(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_session(NULL, &new_session));
    EXPECT(NULL_ARGUMENT, blyan_model_session(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(NULL, &a_prompt, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(a_model, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_model_stream(a_model, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_model_stream(a_model, &a_prompt, &short_generate_options, &new_stream));
}

static void walk_files(void)
{
    EXPECT(NULL_ARGUMENT, blyan_export_options_init(NULL, sizeof(blyan_export_options)));
    EXPECT_SIZES(blyan_export_options_init(&scratch_export_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_export_checkpoint(NULL, &a_hash, "no/such/dir", BLYAN_NUL, NULL,
               &new_export_report));
    EXPECT(NULL_ARGUMENT, blyan_export_checkpoint(a_chain, NULL, "no/such/dir", BLYAN_NUL, NULL,
               &new_export_report));
    EXPECT(NULL_ARGUMENT, blyan_export_checkpoint(a_chain, &a_hash, NULL, BLYAN_NUL, NULL,
               &new_export_report));
    EXPECT(INVALID_SIZE, blyan_export_checkpoint(a_chain, &a_hash, "no/such/dir", SIZE_MAX - 1, NULL,
               &new_export_report));
    EXPECT(INVALID_SIZE, blyan_export_checkpoint(a_chain, &a_hash, "no/such/dir", BLYAN_NUL,
               &short_export_options, &new_export_report));
    EXPECT(NULL_ARGUMENT, blyan_export_report_describe(NULL, &a_export_info,
               sizeof(blyan_export_info)));
    EXPECT(NULL_ARGUMENT, blyan_export_report_describe(a_export_report, NULL,
               sizeof(blyan_export_info)));
    EXPECT_SIZES(blyan_export_report_describe(a_export_report, &a_export_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_export_report_file(NULL, 0, &a_str));
    EXPECT(NULL_ARGUMENT, blyan_export_report_file(a_export_report, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_export_report_file(a_export_report, SIZE_MAX, &a_str));
    blyan_export_report_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_import_options_init(NULL, sizeof(blyan_import_options)));
    EXPECT_SIZES(blyan_import_options_init(&scratch_import_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_import_checkpoint(NULL, "no/such/dir", BLYAN_NUL, NULL,
               &new_import_report));
    EXPECT(NULL_ARGUMENT, blyan_import_checkpoint(a_chain, NULL, BLYAN_NUL, NULL, &new_import_report));
    EXPECT(INVALID_SIZE, blyan_import_checkpoint(a_chain, "no/such/dir", SIZE_MAX - 1, NULL,
               &new_import_report));
    EXPECT(INVALID_SIZE, blyan_import_checkpoint(a_chain, "no/such/dir", BLYAN_NUL,
               &short_import_options, &new_import_report));
    EXPECT(NULL_ARGUMENT, blyan_import_report_describe(NULL, &a_import_info,
               sizeof(blyan_import_info)));
    EXPECT(NULL_ARGUMENT, blyan_import_report_describe(a_import_report, NULL,
               sizeof(blyan_import_info)));
    EXPECT_SIZES(blyan_import_report_describe(a_import_report, &a_import_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_import_report_ignored_file(NULL, 0, &a_str));
    EXPECT(NULL_ARGUMENT, blyan_import_report_ignored_file(a_import_report, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_import_report_ignored_file(a_import_report, SIZE_MAX, &a_str));
    blyan_import_report_free(NULL);
}

static void walk_generations(void)
{
    EXPECT(NULL_ARGUMENT, blyan_generate_options_init(NULL, sizeof(blyan_generate_options)));
    EXPECT_SIZES(blyan_generate_options_init(&scratch_generate_options, bad_size));
    EXPECT_TRUE(blyan_generations_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_generations_get(NULL, 0, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_generations_get(a_generations, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_generations_get(a_generations, SIZE_MAX, &new_generation));
    blyan_generations_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_generation_describe(NULL, &a_generation_info,
               sizeof(blyan_generation_info)));
    EXPECT(NULL_ARGUMENT, blyan_generation_describe(a_generation, NULL, sizeof(blyan_generation_info)));
    EXPECT_SIZES(blyan_generation_describe(a_generation, &a_generation_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_generation_logprobs(NULL, 0, &a_logprobs, sizeof(blyan_logprobs)));
    EXPECT(NULL_ARGUMENT, blyan_generation_logprobs(a_generation, 0, NULL, sizeof(blyan_logprobs)));
    EXPECT(INVALID_ARGUMENT, blyan_generation_logprobs(a_generation, SIZE_MAX, &a_logprobs,
               sizeof(blyan_logprobs)));
    EXPECT_SIZES(blyan_generation_logprobs(a_generation, 0, &a_logprobs, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_generation_receipt(NULL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_generation_receipt(a_generation, NULL));
    blyan_generation_free(NULL);
}

static void walk_receipts(void)
{
    EXPECT(NULL_ARGUMENT, blyan_receipt_from_json(NULL, BLYAN_NUL, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_from_json("{}", BLYAN_NUL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_from_json("{}", SIZE_MAX - 1, &new_receipt));
    EXPECT(NULL_ARGUMENT, blyan_receipt_to_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_receipt_to_json(a_receipt, NULL));
    EXPECT(NULL_ARGUMENT, blyan_receipt_describe(NULL, &a_receipt_info, sizeof(blyan_receipt_info)));
    EXPECT(NULL_ARGUMENT, blyan_receipt_describe(a_receipt, NULL, sizeof(blyan_receipt_info)));
    EXPECT_SIZES(blyan_receipt_describe(a_receipt, &a_receipt_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(NULL, 0, &a_str, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(a_receipt, 0, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_receipt_block(a_receipt, 0, &a_str, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_receipt_block(a_receipt, SIZE_MAX, &a_str, &a_hash));
    blyan_receipt_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(NULL, a_chain, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(a_receipt, NULL, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_replay(a_receipt, a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_receipt_replay(a_receipt, a_chain, &short_model_options,
               &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(NULL, a_receipt, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(a_receipt, NULL, &new_differences));
    EXPECT(NULL_ARGUMENT, blyan_receipt_diff(a_receipt, a_receipt, NULL));
    EXPECT_TRUE(blyan_differences_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_differences_get(NULL, 0, &a_difference, sizeof(blyan_difference)));
    EXPECT(NULL_ARGUMENT, blyan_differences_get(a_differences, 0, NULL, sizeof(blyan_difference)));
    EXPECT(INVALID_ARGUMENT, blyan_differences_get(a_differences, SIZE_MAX, &a_difference,
               sizeof(blyan_difference)));
    EXPECT_SIZES(blyan_differences_get(a_differences, 0, &a_difference, bad_size));
    blyan_differences_free(NULL);
}

static void walk_sessions(void)
{
    EXPECT(NULL_ARGUMENT, blyan_session_generate(NULL, &a_prompt, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_generate(a_session, NULL, NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_generate(a_session, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_session_generate(a_session, &a_prompt, &short_generate_options,
               &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(NULL, &a_prompt, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(a_session, NULL, NULL, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_stream(a_session, &a_prompt, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_session_stream(a_session, &a_prompt, &short_generate_options, &new_stream));
    EXPECT(NULL_ARGUMENT, blyan_session_tokens(NULL, &new_tokens));
    EXPECT(NULL_ARGUMENT, blyan_session_tokens(a_session, NULL));
    EXPECT(NULL_ARGUMENT, blyan_session_cache_bytes(NULL, &length));
    EXPECT(NULL_ARGUMENT, blyan_session_cache_bytes(a_session, NULL));
    EXPECT(NULL_ARGUMENT, blyan_session_truncate(NULL, 0));
    blyan_session_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_stream_next(NULL, &a_piece, sizeof(blyan_piece)));
    EXPECT(NULL_ARGUMENT, blyan_stream_next(a_stream, NULL, sizeof(blyan_piece)));
    EXPECT_SIZES(blyan_stream_next(a_stream, &a_piece, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_stream_finish(NULL, &new_generation));
    EXPECT(NULL_ARGUMENT, blyan_stream_finish(a_stream, NULL));
    blyan_stream_free(NULL);
}

static void walk_writers(void)
{
    EXPECT(NULL_ARGUMENT, blyan_sign(NULL, BLYAN_SECRET_KEY_SIZE, &a_hash, 0, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_sign((const uint8_t *)characters, BLYAN_SECRET_KEY_SIZE, NULL, 0,
               &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_sign((const uint8_t *)characters, BLYAN_SECRET_KEY_SIZE, &a_hash, 0,
               NULL));
    EXPECT(NULL_ARGUMENT, blyan_signature_verifies(NULL, &a_hash, &truth));
    EXPECT(NULL_ARGUMENT, blyan_signature_verifies(&a_signature, NULL, &truth));
    EXPECT(NULL_ARGUMENT, blyan_signature_verifies(&a_signature, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_add_signature(NULL, &a_hash, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_chain_add_signature(a_chain, NULL, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_chain_add_signature(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_signatures(NULL, &a_hash, &new_signatures));
    EXPECT(NULL_ARGUMENT, blyan_chain_signatures(a_chain, NULL, &new_signatures));
    EXPECT(NULL_ARGUMENT, blyan_chain_signatures(a_chain, &a_hash, NULL));
    EXPECT_TRUE(blyan_signatures_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_signatures_get(NULL, 0, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_signatures_get(a_signatures, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_signatures_get(a_signatures, SIZE_MAX, &a_signature));
    blyan_signatures_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_writer(NULL, &new_writer));
    EXPECT(NULL_ARGUMENT, blyan_chain_writer(a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_writer_append(NULL, &a_draft, &a_appended));
    EXPECT(NULL_ARGUMENT, blyan_writer_append(a_writer, NULL, &a_appended));
    EXPECT(NULL_ARGUMENT, blyan_writer_append(a_writer, &a_draft, NULL));
    EXPECT(INVALID_SIZE, blyan_writer_append(a_writer, &short_draft, &a_appended));
    EXPECT(NULL_ARGUMENT, blyan_writer_add_signature(NULL, &a_hash, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_writer_add_signature(a_writer, NULL, &a_signature));
    EXPECT(NULL_ARGUMENT, blyan_writer_add_signature(a_writer, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_writer_contains(NULL, &a_hash, &truth));
    EXPECT(NULL_ARGUMENT, blyan_writer_contains(a_writer, NULL, &truth));
    EXPECT(NULL_ARGUMENT, blyan_writer_contains(a_writer, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_writer_commit(NULL));
    blyan_writer_free(NULL);
}

static void walk_snapshots(void)
{
    EXPECT(NULL_ARGUMENT, blyan_snapshot_open(NULL, &a_hash, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_open(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_with_block(NULL, a_chain, &a_hash, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_with_block(a_snapshot, NULL, &a_hash, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_with_block(a_snapshot, a_chain, NULL, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_with_block(a_snapshot, a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_describe(NULL, &a_snapshot_info, sizeof(blyan_snapshot_info)));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_describe(a_snapshot, NULL, sizeof(blyan_snapshot_info)));
    EXPECT_SIZES(blyan_snapshot_describe(a_snapshot, &a_snapshot_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_slot(NULL, 0, &a_slot, sizeof(blyan_slot)));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_slot(a_snapshot, 0, NULL, sizeof(blyan_slot)));
    EXPECT(INVALID_ARGUMENT, blyan_snapshot_slot(a_snapshot, SIZE_MAX, &a_slot, sizeof(blyan_slot)));
    EXPECT_SIZES(blyan_snapshot_slot(a_snapshot, 0, &a_slot, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_spec_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_spec_json(a_snapshot, NULL));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_model_block(NULL, a_chain, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_model_block(a_snapshot, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_model_block(a_snapshot, a_chain, NULL));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_publish(NULL, a_chain, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_publish(a_snapshot, NULL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_publish(a_snapshot, a_chain, NULL));
    blyan_snapshot_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_snapshot_diff(NULL, a_snapshot, &new_slot_changes));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_diff(a_snapshot, NULL, &new_slot_changes));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_diff(a_snapshot, a_snapshot, NULL));
    EXPECT_TRUE(blyan_slot_changes_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_slot_changes_get(NULL, 0, &a_slot_change, sizeof(blyan_slot_change)));
    EXPECT(NULL_ARGUMENT, blyan_slot_changes_get(a_slot_changes, 0, NULL, sizeof(blyan_slot_change)));
    EXPECT(INVALID_ARGUMENT, blyan_slot_changes_get(a_slot_changes, SIZE_MAX, &a_slot_change,
               sizeof(blyan_slot_change)));
    EXPECT_SIZES(blyan_slot_changes_get(a_slot_changes, 0, &a_slot_change, bad_size));
    blyan_slot_changes_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_release(NULL, &a_hash, "name", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_release(a_chain, NULL, "name", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_release(a_chain, &a_hash, NULL, BLYAN_NUL, "1.0.0", BLYAN_NUL,
               &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_release(a_chain, &a_hash, "name", BLYAN_NUL, NULL, BLYAN_NUL,
               &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_release(a_chain, &a_hash, "name", BLYAN_NUL, "1.0.0", BLYAN_NUL,
               NULL));
    EXPECT(INVALID_UTF8, blyan_chain_release(a_chain, &a_hash, BAD_UTF8, 1, "1.0.0", BLYAN_NUL,
               &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_release(a_chain, &a_hash, "name", SIZE_MAX - 1, "1.0.0", BLYAN_NUL,
               &a_hash));
    EXPECT(INVALID_UTF8, blyan_chain_release(a_chain, &a_hash, "name", BLYAN_NUL, BAD_UTF8, 1,
               &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_release(a_chain, &a_hash, "name", BLYAN_NUL, "1.0.0", SIZE_MAX - 1,
               &a_hash));
}

static void walk_releases(void)
{
    EXPECT(NULL_ARGUMENT, blyan_chain_releases(NULL, &new_releases));
    EXPECT(NULL_ARGUMENT, blyan_chain_releases(a_chain, NULL));
    EXPECT_TRUE(blyan_releases_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_releases_get(NULL, 0, &a_release, sizeof(blyan_release)));
    EXPECT(NULL_ARGUMENT, blyan_releases_get(a_releases, 0, NULL, sizeof(blyan_release)));
    EXPECT(INVALID_ARGUMENT, blyan_releases_get(a_releases, SIZE_MAX, &a_release, sizeof(blyan_release)));
    EXPECT_SIZES(blyan_releases_get(a_releases, 0, &a_release, bad_size));
    blyan_releases_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_chain_find_model(NULL, "latest", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_find_model(a_chain, NULL, BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_find_model(a_chain, "latest", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_chain_find_model(a_chain, BAD_UTF8, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_find_model(a_chain, "latest", SIZE_MAX - 1, &a_hash));
    EXPECT(NOT_FOUND, blyan_chain_find_model(a_chain, "nobody", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_find_block(NULL, "latest", BLYAN_NUL, NULL, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_find_block(a_chain, NULL, BLYAN_NUL, NULL, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_find_block(a_chain, "latest", BLYAN_NUL, NULL, 0, NULL));
    EXPECT(INVALID_UTF8, blyan_chain_find_block(a_chain, BAD_UTF8, 1, NULL, 0, &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_find_block(a_chain, "latest", SIZE_MAX - 1, NULL, 0, &a_hash));
    EXPECT(INVALID_UTF8, blyan_chain_find_block(a_chain, "head", BLYAN_NUL, BAD_UTF8, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_find_block(a_chain, "head", BLYAN_NUL, "latest", SIZE_MAX - 1,
               &a_hash));
}

static void walk_history(void)
{
    EXPECT(NULL_ARGUMENT, blyan_chain_lineage(NULL, &a_hash, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_lineage(a_chain, NULL, &new_block_list));
    EXPECT(NULL_ARGUMENT, blyan_chain_lineage(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_chain_rollback(NULL, &a_hash, &a_hash, "worse", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_rollback(a_chain, NULL, &a_hash, "worse", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_rollback(a_chain, &a_hash, NULL, "worse", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_rollback(a_chain, &a_hash, &a_hash, NULL, BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_rollback(a_chain, &a_hash, &a_hash, "worse", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_chain_rollback(a_chain, &a_hash, &a_hash, BAD_UTF8, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_rollback(a_chain, &a_hash, &a_hash, "worse", SIZE_MAX - 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_migrate(NULL, &a_hash, &a_hash, "wider", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_migrate(a_chain, NULL, &a_hash, "wider", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_migrate(a_chain, &a_hash, NULL, "wider", BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_migrate(a_chain, &a_hash, &a_hash, NULL, BLYAN_NUL, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_chain_migrate(a_chain, &a_hash, &a_hash, "wider", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_chain_migrate(a_chain, &a_hash, &a_hash, BAD_UTF8, 1, &a_hash));
    EXPECT(INVALID_SIZE, blyan_chain_migrate(a_chain, &a_hash, &a_hash, "wider", SIZE_MAX - 1, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_compare_options_init(NULL, sizeof(blyan_compare_options)));
    EXPECT_SIZES(blyan_compare_options_init(&scratch_compare_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_compare(NULL, a_snapshot, a_snapshot, NULL, &new_comparison));
    EXPECT(NULL_ARGUMENT, blyan_chain_compare(a_chain, NULL, a_snapshot, NULL, &new_comparison));
    EXPECT(NULL_ARGUMENT, blyan_chain_compare(a_chain, a_snapshot, NULL, NULL, &new_comparison));
    EXPECT(NULL_ARGUMENT, blyan_chain_compare(a_chain, a_snapshot, a_snapshot, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_chain_compare(a_chain, a_snapshot, a_snapshot, &short_compare_options,
               &new_comparison));
    EXPECT(NULL_ARGUMENT, blyan_comparison_describe(NULL, &a_comparison_info,
               sizeof(blyan_comparison_info)));
    EXPECT(NULL_ARGUMENT, blyan_comparison_describe(a_comparison, NULL, sizeof(blyan_comparison_info)));
    EXPECT_SIZES(blyan_comparison_describe(a_comparison, &a_comparison_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_comparison_slot(NULL, 0, &a_slot_diff, sizeof(blyan_slot_diff)));
    EXPECT(NULL_ARGUMENT, blyan_comparison_slot(a_comparison, 0, NULL, sizeof(blyan_slot_diff)));
    EXPECT(INVALID_ARGUMENT, blyan_comparison_slot(a_comparison, SIZE_MAX, &a_slot_diff,
               sizeof(blyan_slot_diff)));
    EXPECT_SIZES(blyan_comparison_slot(a_comparison, 0, &a_slot_diff, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_comparison_tensor(NULL, 0, 0, &a_tensor_diff, sizeof(blyan_tensor_diff)));
    EXPECT(NULL_ARGUMENT, blyan_comparison_tensor(a_comparison, 0, 0, NULL, sizeof(blyan_tensor_diff)));
    EXPECT(INVALID_ARGUMENT, blyan_comparison_tensor(a_comparison, SIZE_MAX, 0, &a_tensor_diff,
               sizeof(blyan_tensor_diff)));
    EXPECT(INVALID_ARGUMENT, blyan_comparison_tensor(a_comparison, 0, SIZE_MAX, &a_tensor_diff,
               sizeof(blyan_tensor_diff)));
    EXPECT_SIZES(blyan_comparison_tensor(a_comparison, 0, 0, &a_tensor_diff, bad_size));
    blyan_comparison_free(NULL);
}

static void walk_bundles(void)
{
    EXPECT(NULL_ARGUMENT, blyan_bundle_options_init(NULL, sizeof(blyan_bundle_options)));
    EXPECT_SIZES(blyan_bundle_options_init(&scratch_bundle_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle_file(NULL, "no/such/dir", BLYAN_NUL, NULL, &a_bundle_info,
               sizeof(blyan_bundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle_file(a_chain, NULL, BLYAN_NUL, NULL, &a_bundle_info,
               sizeof(blyan_bundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, NULL,
               sizeof(blyan_bundle_info)));
    EXPECT(INVALID_SIZE, blyan_chain_bundle_file(a_chain, "no/such/dir", SIZE_MAX - 1, NULL, &a_bundle_info,
               sizeof(blyan_bundle_info)));
    EXPECT(INVALID_SIZE, blyan_chain_bundle_file(a_chain, "no/such/dir", BLYAN_NUL, &short_bundle_options,
               &a_bundle_info, sizeof(blyan_bundle_info)));
    EXPECT_SIZES(blyan_chain_bundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, &a_bundle_info, bad_size));
    EXPECT(IO, blyan_chain_bundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, &a_bundle_info,
               sizeof(blyan_bundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_unbundle_options_init(NULL, sizeof(blyan_unbundle_options)));
    EXPECT_SIZES(blyan_unbundle_options_init(&scratch_unbundle_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle_file(NULL, "no/such/dir", BLYAN_NUL, NULL, &a_unbundle_info,
               sizeof(blyan_unbundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle_file(a_chain, NULL, BLYAN_NUL, NULL, &a_unbundle_info,
               sizeof(blyan_unbundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, NULL,
               sizeof(blyan_unbundle_info)));
    EXPECT(INVALID_SIZE, blyan_chain_unbundle_file(a_chain, "no/such/dir", SIZE_MAX - 1, NULL,
               &a_unbundle_info, sizeof(blyan_unbundle_info)));
    EXPECT(INVALID_SIZE, blyan_chain_unbundle_file(a_chain, "no/such/dir", BLYAN_NUL,
               &short_unbundle_options, &a_unbundle_info, sizeof(blyan_unbundle_info)));
    EXPECT_SIZES(blyan_chain_unbundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, &a_unbundle_info,
               bad_size));
    EXPECT(IO, blyan_chain_unbundle_file(a_chain, "no/such/dir", BLYAN_NUL, NULL, &a_unbundle_info,
               sizeof(blyan_unbundle_info)));
    EXPECT(NULL_ARGUMENT, blyan_collect_options_init(NULL, sizeof(blyan_collect_options)));
    EXPECT_SIZES(blyan_collect_options_init(&scratch_collect_options, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_chain_collect(NULL, NULL, &new_collect_report));
    EXPECT(NULL_ARGUMENT, blyan_chain_collect(a_chain, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_chain_collect(a_chain, &short_collect_options, &new_collect_report));
    EXPECT(NULL_ARGUMENT, blyan_collect_report_describe(NULL, &a_collect_info, sizeof(blyan_collect_info)));
    EXPECT(NULL_ARGUMENT, blyan_collect_report_describe(a_collect_report, NULL,
               sizeof(blyan_collect_info)));
    EXPECT_SIZES(blyan_collect_report_describe(a_collect_report, &a_collect_info, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_collect_report_block(NULL, 0, &a_hash));
    EXPECT(NULL_ARGUMENT, blyan_collect_report_block(a_collect_report, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_collect_report_block(a_collect_report, 0, &a_hash));
    blyan_collect_report_free(NULL);
}

static void walk_tensors(void)
{
    EXPECT(NULL_ARGUMENT, blyan_tensors_open(NULL, &a_hash, &new_tensors));
    EXPECT(NULL_ARGUMENT, blyan_tensors_open(a_chain, NULL, &new_tensors));
    EXPECT(NULL_ARGUMENT, blyan_tensors_open(a_chain, &a_hash, NULL));
    EXPECT(NULL_ARGUMENT, blyan_tensors_parse(NULL, 4, &new_tensors));
    EXPECT(NULL_ARGUMENT, blyan_tensors_parse(floats, 4, NULL));
    EXPECT(INVALID_SIZE, blyan_tensors_parse(floats, SIZE_MAX, &new_tensors));
    EXPECT_TRUE(blyan_tensors_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_tensors_get(NULL, 0, &a_tensor, sizeof(blyan_tensor)));
    EXPECT(NULL_ARGUMENT, blyan_tensors_get(a_tensors, 0, NULL, sizeof(blyan_tensor)));
    EXPECT(INVALID_ARGUMENT, blyan_tensors_get(a_tensors, SIZE_MAX, &a_tensor, sizeof(blyan_tensor)));
    EXPECT_SIZES(blyan_tensors_get(a_tensors, 0, &a_tensor, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_tensors_find(NULL, "w", BLYAN_NUL, &a_tensor, sizeof(blyan_tensor)));
    EXPECT(NULL_ARGUMENT, blyan_tensors_find(a_tensors, NULL, BLYAN_NUL, &a_tensor,
               sizeof(blyan_tensor)));
    EXPECT(NULL_ARGUMENT, blyan_tensors_find(a_tensors, "w", BLYAN_NUL, NULL, sizeof(blyan_tensor)));
    EXPECT(INVALID_UTF8, blyan_tensors_find(a_tensors, BAD_UTF8, 1, &a_tensor, sizeof(blyan_tensor)));
    EXPECT(INVALID_SIZE, blyan_tensors_find(a_tensors, "w", SIZE_MAX - 1, &a_tensor,
               sizeof(blyan_tensor)));
    EXPECT_SIZES(blyan_tensors_find(a_tensors, "w", BLYAN_NUL, &a_tensor, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_tensors_scale(NULL, "w", BLYAN_NUL, &a_tensor, sizeof(blyan_tensor)));
    EXPECT(NULL_ARGUMENT, blyan_tensors_scale(a_tensors, NULL, BLYAN_NUL, &a_tensor,
               sizeof(blyan_tensor)));
    EXPECT(NULL_ARGUMENT, blyan_tensors_scale(a_tensors, "w", BLYAN_NUL, NULL, sizeof(blyan_tensor)));
    EXPECT(INVALID_UTF8, blyan_tensors_scale(a_tensors, BAD_UTF8, 1, &a_tensor, sizeof(blyan_tensor)));
    EXPECT(INVALID_SIZE, blyan_tensors_scale(a_tensors, "w", SIZE_MAX - 1, &a_tensor,
               sizeof(blyan_tensor)));
    EXPECT_SIZES(blyan_tensors_scale(a_tensors, "w", BLYAN_NUL, &a_tensor, bad_size));
    EXPECT(NULL_ARGUMENT, blyan_tensors_to_f32(NULL, "w", BLYAN_NUL, floats, 4));
    EXPECT(NULL_ARGUMENT, blyan_tensors_to_f32(a_tensors, NULL, BLYAN_NUL, floats, 4));
    EXPECT(NULL_ARGUMENT, blyan_tensors_to_f32(a_tensors, "w", BLYAN_NUL, NULL, 4));
    EXPECT(INVALID_UTF8, blyan_tensors_to_f32(a_tensors, BAD_UTF8, 1, floats, 4));
    EXPECT(INVALID_SIZE, blyan_tensors_to_f32(a_tensors, "w", SIZE_MAX - 1, floats, 4));
    EXPECT(INVALID_SIZE, blyan_tensors_to_f32(a_tensors, "w", BLYAN_NUL, floats, SIZE_MAX));
    blyan_tensors_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_tensors_write(NULL, 1, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_tensors_write(&a_matrix, 1, NULL));
    EXPECT(INVALID_SIZE, blyan_tensors_write(&a_matrix, SIZE_MAX, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_convert(BLYAN_DTYPE_F32, NULL, 4, BLYAN_DTYPE_BF16, floats, 2));
    EXPECT(NULL_ARGUMENT, blyan_convert(BLYAN_DTYPE_F32, floats, 4, BLYAN_DTYPE_BF16, NULL, 2));
    EXPECT(INVALID_SIZE, blyan_convert(BLYAN_DTYPE_F32, floats, SIZE_MAX, BLYAN_DTYPE_BF16, floats, 2));
    EXPECT(INVALID_SIZE, blyan_convert(BLYAN_DTYPE_F32, floats, 4, BLYAN_DTYPE_BF16, floats, SIZE_MAX));
    EXPECT(NULL_ARGUMENT, blyan_quantize(NULL, BLYAN_DTYPE_I8, floats, 4, floats, 1));
    EXPECT(NULL_ARGUMENT, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, NULL, 4, floats, 1));
    EXPECT(NULL_ARGUMENT, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, 4, NULL, 1));
    EXPECT(INVALID_SIZE, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, SIZE_MAX, floats, 1));
    EXPECT(INVALID_SIZE, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, 4, floats, SIZE_MAX));
}

static void walk_usage(void)
{
    EXPECT(NULL_ARGUMENT, blyan_usage_top(NULL, 0, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_top(a_model, 0, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_experts(NULL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_experts(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(NULL, "layer0.expert1", BLYAN_NUL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(a_model, NULL, BLYAN_NUL, &new_experts));
    EXPECT(NULL_ARGUMENT, blyan_usage_expert(a_model, "layer0.expert1", BLYAN_NUL, NULL));
    EXPECT(INVALID_UTF8, blyan_usage_expert(a_model, BAD_UTF8, 1, &new_experts));
    EXPECT(INVALID_SIZE, blyan_usage_expert(a_model, "layer0.expert1", SIZE_MAX - 1, &new_experts));
    EXPECT_TRUE(blyan_experts_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_experts_get(NULL, 0, &a_expert_usage, sizeof(blyan_expert_usage)));
    EXPECT(NULL_ARGUMENT, blyan_experts_get(a_experts, 0, NULL, sizeof(blyan_expert_usage)));
    EXPECT(INVALID_ARGUMENT, blyan_experts_get(a_experts, SIZE_MAX, &a_expert_usage,
               sizeof(blyan_expert_usage)));
    EXPECT_SIZES(blyan_experts_get(a_experts, 0, &a_expert_usage, bad_size));
    blyan_experts_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_usage_co_use(NULL, &new_co_uses));
    EXPECT(NULL_ARGUMENT, blyan_usage_co_use(a_model, NULL));
    EXPECT_TRUE(blyan_co_uses_len(NULL) == 0);
    EXPECT(NULL_ARGUMENT, blyan_co_uses_get(NULL, 0, &a_co_use));
    EXPECT(NULL_ARGUMENT, blyan_co_uses_get(a_co_uses, 0, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_co_uses_get(a_co_uses, SIZE_MAX, &a_co_use));
    blyan_co_uses_free(NULL);
    EXPECT(NULL_ARGUMENT, blyan_usage_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_usage_json(a_model, NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_reset(NULL));
    EXPECT(NULL_ARGUMENT, blyan_usage_flush(NULL));
}

static void ignore(void *user, int32_t level, blyan_str target, blyan_str message)
{
    (void)user, (void)level, (void)target, (void)message;
}

static void walk_log(void)
{
    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(ignore, NULL, 0));
    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(ignore, NULL, 6));
    EXPECT_TRUE(blyan_set_log_callback(ignore, NULL, BLYAN_LOG_LEVEL_TRACE) == BLYAN_STATUS_OK);
    EXPECT_TRUE(blyan_set_log_callback(NULL, NULL, 0) == BLYAN_STATUS_OK);
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "every_function MODEL_DIR EMPTY_DIR\n");
        return 2;
    }
    EXPECT_TRUE(blyan_abi_version() == BLYAN_ABI_VERSION);
    EXPECT_TRUE(strlen(blyan_version()) > 0);
    EXPECT_TRUE(blyan_last_error() == NULL);
    EXPECT_TRUE(strcmp(blyan_status_name(-1), "unknown") == 0);
    EXPECT_TRUE(strcmp(blyan_finish_reason_name(-1), "unknown") == 0);
    make_fixtures(argv[1], argv[2]);
    walk_blocks();
    walk_small();
    walk_chains();
    walk_models();
    walk_files();
    walk_generations();
    walk_receipts();
    walk_sessions();
    walk_writers();
    walk_snapshots();
    walk_releases();
    walk_history();
    walk_bundles();
    walk_tensors();
    walk_usage();
    walk_log();
    free_fixtures();
    printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
