/* Wrong calls of snapshots, releases, names, lineage, comparisons and tensors. */
#include "every_function.h"

void walk_snapshots(void)
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
    EXPECT(NULL_ARGUMENT, blyan_snapshot_manifest_json(NULL, &new_text));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_manifest_json(a_snapshot, NULL));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_manifest(NULL, "{}", BLYAN_NUL, NULL, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_manifest(a_chain, NULL, BLYAN_NUL, NULL, &new_snapshot));
    EXPECT(NULL_ARGUMENT, blyan_snapshot_of_manifest(a_chain, "{}", BLYAN_NUL, NULL, NULL));
    EXPECT(INVALID_SIZE, blyan_snapshot_of_manifest(a_chain, "{}", SIZE_MAX - 1, NULL, &new_snapshot));
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

void walk_releases(void)
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

void walk_history(void)
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

void walk_tensors(void)
{
    static const size_t vast_dims[1] = {SIZE_MAX / 64};
    static const size_t group_dims[2] = {1, 32};
    static float group[32];
    uint8_t nibbles[16];
    uint16_t group_scale;
    blyan_tensor groups;
    blyan_tensor vast = a_matrix;

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
    vast.dims = vast_dims;
    vast.rank = 1;
    EXPECT(INVALID_SIZE, blyan_tensors_write(&vast, 1, &new_payload));
    EXPECT(NULL_ARGUMENT, blyan_convert(BLYAN_DTYPE_F32, NULL, 4, BLYAN_DTYPE_BF16, floats, 2));
    EXPECT(NULL_ARGUMENT, blyan_convert(BLYAN_DTYPE_F32, floats, 4, BLYAN_DTYPE_BF16, NULL, 2));
    EXPECT(INVALID_SIZE, blyan_convert(BLYAN_DTYPE_F32, floats, SIZE_MAX, BLYAN_DTYPE_BF16, floats, 2));
    EXPECT(INVALID_SIZE, blyan_convert(BLYAN_DTYPE_F32, floats, 4, BLYAN_DTYPE_BF16, floats, SIZE_MAX));
    EXPECT(NULL_ARGUMENT, blyan_quantize(NULL, BLYAN_DTYPE_I8, floats, 4, floats, 1));
    EXPECT(NULL_ARGUMENT, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, NULL, 4, floats, 1));
    EXPECT(NULL_ARGUMENT, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, 4, NULL, 1));
    EXPECT(INVALID_SIZE, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, SIZE_MAX, floats, 1));
    EXPECT(INVALID_SIZE, blyan_quantize(&a_matrix, BLYAN_DTYPE_I8, floats, 4, floats, SIZE_MAX));
    EXPECT(INVALID_ARGUMENT, blyan_quantize(&a_matrix, BLYAN_DTYPE_I4, floats, 2, floats, 1));
    groups = a_matrix;
    groups.data = group;
    groups.nbytes = sizeof group;
    groups.dims = group_dims;
    EXPECT(NULL_ARGUMENT, blyan_quantize_i4(NULL, nibbles, 16, &group_scale, 1));
    EXPECT(NULL_ARGUMENT, blyan_quantize_i4(&groups, NULL, 16, &group_scale, 1));
    nibbles[0] = 0x55;
    EXPECT(NULL_ARGUMENT, blyan_quantize_i4(&groups, nibbles, 16, NULL, 1));
    EXPECT_TRUE(nibbles[0] == 0x55);
    EXPECT(INVALID_SIZE, blyan_quantize_i4(&groups, nibbles, SIZE_MAX, &group_scale, 1));
    EXPECT(INVALID_SIZE, blyan_quantize_i4(&groups, nibbles, 16, &group_scale, SIZE_MAX));
    MUST(blyan_quantize_i4(&groups, nibbles, 16, &group_scale, 1));
    /* No whole group. */
    EXPECT(TENSOR, blyan_quantize_i4(&a_matrix, nibbles, 2, &group_scale, 1));
}
