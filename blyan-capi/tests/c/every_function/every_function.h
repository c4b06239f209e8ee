/* What the files of this program share: checks, one good handle of each type, places for results. */
#ifndef EVERY_FUNCTION_H
#define EVERY_FUNCTION_H

#include <blyan.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAD_UTF8 "\xff"
#define HEX "00000000000000000000000000000000000000000000000000000000000000ff"

extern int checks;
extern int failures;

void expect_true(int holds, const char *file, int line, const char *what);
void expect(int32_t expected, int32_t status, const char *file, int line, const char *call);
void must(blyan_status status, const char *file, int line);

#define EXPECT(status, call) \
    expect(BLYAN_STATUS_##status, (int32_t)(call), __FILE__, __LINE__, #call)
#define EXPECT_TRUE(condition) expect_true((condition), __FILE__, __LINE__, #condition)
#define MUST(call) must((call), __FILE__, __LINE__)

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

void make_fixtures(const char *folder, const char *empty);
void free_fixtures(void);

void walk_blocks(void);
void walk_small(void);
void walk_chains(void);
void walk_models(void);
void walk_files(void);
void walk_generations(void);
void walk_receipts(void);
void walk_sessions(void);
void walk_writers(void);
void walk_snapshots(void);
void walk_releases(void);
void walk_history(void);
void walk_bundles(void);
void walk_tensors(void);
void walk_usage(void);
void walk_log(void);
void walk_evidence(void);
void walk_training(void);
void walk_rounds(const blyan_key *key, const blyan_hash *policy);
void walk_statements(const blyan_key *key, const blyan_hash *policy);

/* One good handle of each type. */
extern blyan_block *a_block;
extern blyan_block_list *a_block_list;
extern blyan_blocks *a_blocks;
extern blyan_cancel *a_cancel;
extern blyan_chain *a_chain;
extern blyan_co_uses *a_co_uses;
extern blyan_collect_report *a_collect_report;
extern blyan_comparison *a_comparison;
extern blyan_differences *a_differences;
extern blyan_experts *a_experts;
extern blyan_export_report *a_export_report;
extern blyan_generation *a_generation;
extern blyan_generations *a_generations;
extern blyan_hashes *a_hashes;
extern blyan_import_report *a_import_report;
extern blyan_model *a_model;
extern blyan_payload *a_payload;
extern blyan_receipt *a_receipt;
extern blyan_releases *a_releases;
extern blyan_session *a_session;
extern blyan_signatures *a_signatures;
extern blyan_slot_changes *a_slot_changes;
extern blyan_snapshot *a_snapshot;
extern blyan_stream *a_stream;
extern blyan_tensors *a_tensors;
extern blyan_text *a_text;
extern blyan_tokens *a_tokens;
extern blyan_verify_report *a_verify_report;
extern blyan_writer *a_writer;

extern blyan_chain *another_chain;

/* Places for results. */
extern blyan_block *new_block;
extern blyan_block_list *new_block_list;
extern blyan_blocks *new_blocks;
extern blyan_chain *new_chain;
extern blyan_co_uses *new_co_uses;
extern blyan_collect_report *new_collect_report;
extern blyan_comparison *new_comparison;
extern blyan_differences *new_differences;
extern blyan_experts *new_experts;
extern blyan_export_report *new_export_report;
extern blyan_generation *new_generation;
extern blyan_generations *new_generations;
extern blyan_hashes *new_hashes;
extern blyan_import_report *new_import_report;
extern blyan_model *new_model;
extern blyan_payload *new_payload;
extern blyan_receipt *new_receipt;
extern blyan_releases *new_releases;
extern blyan_session *new_session;
extern blyan_signatures *new_signatures;
extern blyan_slot_changes *new_slot_changes;
extern blyan_snapshot *new_snapshot;
extern blyan_stream *new_stream;
extern blyan_tensors *new_tensors;
extern blyan_text *new_text;
extern blyan_tokens *new_tokens;
extern blyan_verify_report *new_verify_report;
extern blyan_writer *new_writer;
extern blyan_appended a_appended;
extern blyan_bad_block a_bad_block;
extern blyan_block_info a_block_info;
extern blyan_bundle_info a_bundle_info;
extern blyan_co_use a_co_use;
extern blyan_collect_info a_collect_info;
extern blyan_comparison_info a_comparison_info;
extern blyan_difference a_difference;
extern blyan_draft a_draft;
extern blyan_expert_usage a_expert_usage;
extern blyan_export_info a_export_info;
extern blyan_generation_info a_generation_info;
extern blyan_hash a_hash;
extern blyan_import_info a_import_info;
extern blyan_logprobs a_logprobs;
extern blyan_model_info a_model_info;
extern blyan_piece a_piece;
extern blyan_receipt_info a_receipt_info;
extern blyan_release a_release;
extern blyan_residency a_residency;
extern blyan_signature a_signature;
extern blyan_slot a_slot;
extern blyan_slot_change a_slot_change;
extern blyan_slot_diff a_slot_diff;
extern blyan_snapshot_info a_snapshot_info;
extern blyan_str a_str;
extern blyan_tensor a_tensor;
extern blyan_tensor_diff a_tensor_diff;
extern blyan_unbundle_info a_unbundle_info;
extern blyan_verify_info a_verify_info;
extern blyan_bundle_options scratch_bundle_options;
extern blyan_chain_options scratch_chain_options;
extern blyan_chat_options scratch_chat_options;
extern blyan_collect_options scratch_collect_options;
extern blyan_compare_options scratch_compare_options;
extern blyan_draft scratch_draft;
extern blyan_export_options scratch_export_options;
extern blyan_generate_options scratch_generate_options;
extern blyan_import_options scratch_import_options;
extern blyan_model_options scratch_model_options;
extern blyan_unbundle_options scratch_unbundle_options;
extern blyan_verify_options scratch_verify_options;

extern float floats[4];
extern float *logits;
extern size_t vocab_size;
extern char characters[BLYAN_HASH_HEX_SIZE];
extern bool truth;
extern uint16_t number16;
extern uint32_t number;
extern uint64_t number64;
extern size_t length;
extern blyan_prompt a_prompt;
extern const size_t matrix_dims[2];
extern blyan_tensor a_matrix;
extern uint32_t a_token;

/* Structs of options that say to be 12 bytes long. */
extern const blyan_bundle_options short_bundle_options;
extern const blyan_chain_options short_chain_options;
extern const blyan_chat_options short_chat_options;
extern const blyan_collect_options short_collect_options;
extern const blyan_compare_options short_compare_options;
extern const blyan_draft short_draft;
extern const blyan_export_options short_export_options;
extern const blyan_generate_options short_generate_options;
extern const blyan_import_options short_import_options;
extern const blyan_model_options short_model_options;
extern const blyan_unbundle_options short_unbundle_options;
extern const blyan_verify_options short_verify_options;

#endif
