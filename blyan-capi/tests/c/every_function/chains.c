/* Wrong calls of blocks, chains, transactions, signatures, files and bundles. */
#include "every_function.h"

void walk_blocks(void)
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
    new_block = a_block;
    EXPECT(NULL_ARGUMENT, blyan_block_list_get(NULL, 0, &new_block));
    EXPECT_TRUE(new_block == NULL);
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

void walk_small(void)
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

void walk_chains(void)
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
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks_of_kind_in(NULL, 0, 1, &new_blocks));
    EXPECT(NULL_ARGUMENT, blyan_chain_blocks_of_kind_in(a_chain, 0, 1, NULL));
    EXPECT(INVALID_ARGUMENT, blyan_chain_blocks_of_kind_in(a_chain, 3, 1, &new_blocks));
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

void walk_writers(void)
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

void walk_files(void)
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

static int32_t take_nothing(void *user, const void *data, size_t len)
{
    (void)user;
    (void)data;
    (void)len;
    return 1;
}

static int32_t give_nothing(void *user, void *data, size_t capacity, size_t *len)
{
    (void)data;
    (void)capacity;
    *len = 0;
    return user != NULL;
}

static int32_t give_too_much(void *user, void *data, size_t capacity, size_t *len)
{
    (void)user;
    (void)data;
    *len = capacity + 1;
    return 0;
}

static void walk_bundle_streams(void)
{
    static const size_t sent = sizeof(blyan_bundle_info), taken = sizeof(blyan_unbundle_info);

    EXPECT(NULL_ARGUMENT, blyan_chain_bundle(NULL, take_nothing, NULL, NULL, &a_bundle_info, sent));
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle(a_chain, NULL, NULL, NULL, &a_bundle_info, sent));
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle(a_chain, take_nothing, NULL, NULL, NULL, sent));
    EXPECT(INVALID_SIZE, blyan_chain_bundle(a_chain, take_nothing, NULL, &short_bundle_options,
               &a_bundle_info, sent));
    EXPECT_SIZES(blyan_chain_bundle(a_chain, take_nothing, NULL, NULL, &a_bundle_info, bad_size));
    EXPECT(STOPPED, blyan_chain_bundle(a_chain, take_nothing, NULL, NULL, &a_bundle_info, sent));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle(NULL, give_nothing, NULL, NULL, &a_unbundle_info, taken));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle(a_chain, NULL, NULL, NULL, &a_unbundle_info, taken));
    EXPECT(NULL_ARGUMENT, blyan_chain_unbundle(a_chain, give_nothing, NULL, NULL, NULL, taken));
    EXPECT(INVALID_SIZE, blyan_chain_unbundle(a_chain, give_nothing, NULL, &short_unbundle_options,
               &a_unbundle_info, taken));
    EXPECT_SIZES(blyan_chain_unbundle(a_chain, give_nothing, NULL, NULL, &a_unbundle_info, bad_size));
    EXPECT(BUNDLE, blyan_chain_unbundle(a_chain, give_nothing, NULL, NULL, &a_unbundle_info, taken));
    EXPECT(STOPPED, blyan_chain_unbundle(a_chain, give_nothing, &a_hash, NULL, &a_unbundle_info, taken));
    EXPECT(IO, blyan_chain_unbundle(a_chain, give_too_much, NULL, NULL, &a_unbundle_info, taken));
}

void walk_bundles(void)
{
    walk_bundle_streams();
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
