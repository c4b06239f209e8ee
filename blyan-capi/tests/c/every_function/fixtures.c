/* Owns the checks, the handles, and the places for results. */
#include "every_function.h"

int checks;
int failures;

void expect_true(int holds, const char *file, int line, const char *what)
{
    checks++;
    if (!holds) {
        failures++;
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    }
}

void expect(int32_t expected, int32_t status, const char *file, int line, const char *call)
{
    const blyan_error *error = blyan_last_error();

    checks++;
    if (status != expected) {
        failures++;
        fprintf(stderr, "%s:%d: %s is %s, expected %s\n", file, line, call, blyan_status_name(status),
                blyan_status_name(expected));
    } else if (error == NULL || (int32_t)error->status != status || error->message_len == 0 ||
               strlen(error->message) != error->message_len) {
        failures++;
        fprintf(stderr, "%s:%d: %s has no message\n", file, line, call);
    }
}

void must(blyan_status status, const char *file, int line)
{
    if (status != BLYAN_STATUS_OK) {
        fprintf(stderr, "%s:%d: %s: %s\n", file, line, blyan_status_name(status),
                blyan_last_error()->message);
        exit(EXIT_FAILURE);
    }
}

/* One good handle of each type. */
blyan_block *a_block;
blyan_block_list *a_block_list;
blyan_blocks *a_blocks;
blyan_cancel *a_cancel;
blyan_chain *a_chain;
blyan_co_uses *a_co_uses;
blyan_collect_report *a_collect_report;
blyan_comparison *a_comparison;
blyan_differences *a_differences;
blyan_experts *a_experts;
blyan_export_report *a_export_report;
blyan_generation *a_generation;
blyan_generations *a_generations;
blyan_hashes *a_hashes;
blyan_import_report *a_import_report;
blyan_model *a_model;
blyan_payload *a_payload;
blyan_receipt *a_receipt;
blyan_releases *a_releases;
blyan_session *a_session;
blyan_signatures *a_signatures;
blyan_slot_changes *a_slot_changes;
blyan_snapshot *a_snapshot;
blyan_stream *a_stream;
blyan_tensors *a_tensors;
blyan_text *a_text;
blyan_tokens *a_tokens;
blyan_verify_report *a_verify_report;
blyan_writer *a_writer;

blyan_chain *another_chain;

/* Places for results. */
blyan_block *new_block;
blyan_block_list *new_block_list;
blyan_blocks *new_blocks;
blyan_chain *new_chain;
blyan_co_uses *new_co_uses;
blyan_collect_report *new_collect_report;
blyan_comparison *new_comparison;
blyan_differences *new_differences;
blyan_experts *new_experts;
blyan_export_report *new_export_report;
blyan_generation *new_generation;
blyan_generations *new_generations;
blyan_hashes *new_hashes;
blyan_import_report *new_import_report;
blyan_model *new_model;
blyan_payload *new_payload;
blyan_receipt *new_receipt;
blyan_releases *new_releases;
blyan_session *new_session;
blyan_signatures *new_signatures;
blyan_slot_changes *new_slot_changes;
blyan_snapshot *new_snapshot;
blyan_stream *new_stream;
blyan_tensors *new_tensors;
blyan_text *new_text;
blyan_tokens *new_tokens;
blyan_verify_report *new_verify_report;
blyan_writer *new_writer;
blyan_appended a_appended;
blyan_bad_block a_bad_block;
blyan_block_info a_block_info;
blyan_bundle_info a_bundle_info;
blyan_co_use a_co_use;
blyan_collect_info a_collect_info;
blyan_comparison_info a_comparison_info;
blyan_difference a_difference;
blyan_draft a_draft;
blyan_expert_usage a_expert_usage;
blyan_export_info a_export_info;
blyan_generation_info a_generation_info;
blyan_hash a_hash;
blyan_import_info a_import_info;
blyan_logprobs a_logprobs;
blyan_model_info a_model_info;
blyan_piece a_piece;
blyan_receipt_info a_receipt_info;
blyan_release a_release;
blyan_residency a_residency;
blyan_signature a_signature;
blyan_slot a_slot;
blyan_slot_change a_slot_change;
blyan_slot_diff a_slot_diff;
blyan_snapshot_info a_snapshot_info;
blyan_str a_str;
blyan_tensor a_tensor;
blyan_tensor_diff a_tensor_diff;
blyan_unbundle_info a_unbundle_info;
blyan_verify_info a_verify_info;
blyan_bundle_options scratch_bundle_options;
blyan_chain_options scratch_chain_options;
blyan_chat_options scratch_chat_options;
blyan_collect_options scratch_collect_options;
blyan_compare_options scratch_compare_options;
blyan_draft scratch_draft;
blyan_export_options scratch_export_options;
blyan_generate_options scratch_generate_options;
blyan_import_options scratch_import_options;
blyan_model_options scratch_model_options;
blyan_unbundle_options scratch_unbundle_options;
blyan_verify_options scratch_verify_options;

float floats[4] = {1, 2, 3, 4};
float *logits;
size_t vocab_size;
char characters[BLYAN_HASH_HEX_SIZE];
bool truth;
uint16_t number16;
uint32_t number;
uint64_t number64;
size_t length;
blyan_prompt a_prompt = {"In the beginning", BLYAN_NUL, NULL, 0};
const size_t matrix_dims[2] = {1, 4};
blyan_tensor a_matrix;
uint32_t a_token = 1;

/* Structs of options that say to be 12 bytes long. */
const blyan_bundle_options short_bundle_options = {.size = 12};
const blyan_chain_options short_chain_options = {.size = 12};
const blyan_chat_options short_chat_options = {.size = 12};
const blyan_collect_options short_collect_options = {.size = 12};
const blyan_compare_options short_compare_options = {.size = 12};
const blyan_draft short_draft = {.size = 12};
const blyan_export_options short_export_options = {.size = 12};
const blyan_generate_options short_generate_options = {.size = 12};
const blyan_import_options short_import_options = {.size = 12};
const blyan_model_options short_model_options = {.size = 12};
const blyan_unbundle_options short_unbundle_options = {.size = 12};
const blyan_verify_options short_verify_options = {.size = 12};

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

void make_fixtures(const char *folder, const char *empty)
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
    MUST(blyan_model_tokenize(a_model, "And", BLYAN_NUL, true, &a_tokens));
    MUST(blyan_model_detokenize(a_model, &a_token, 1, true, &a_text));
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

void free_fixtures(void)
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
