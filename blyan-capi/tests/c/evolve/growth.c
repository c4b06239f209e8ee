/* One more expert for a layer; low-rank and 8-bit differences of an expert. */
#include "evolve.h"

#include <unistd.h>

/* The router of a layer with one of its rows once more, which is the row of a copy of that expert. */
static blyan_payload *wider_router(const blyan_chain *chain, const blyan_hash *router, size_t row)
{
    blyan_tensors *tensors;
    blyan_tensor gate;
    blyan_payload *payload;
    size_t dims[2], row_bytes;
    uint8_t *values;

    MUST(blyan_tensors_open(chain, router, &tensors));
    EXPECT_TRUE(blyan_tensors_len(tensors) == 1);
    MUST(blyan_tensors_find(tensors, "gate.weight", BLYAN_NUL, &gate, sizeof gate));
    row_bytes = gate.nbytes / gate.dims[0];
    values = malloc(gate.nbytes + row_bytes);
    memcpy(values, gate.data, gate.nbytes);
    memcpy(values + gate.nbytes, (const uint8_t *)gate.data + row * row_bytes, row_bytes);
    dims[0] = gate.dims[0] + 1;
    dims[1] = gate.dims[1];
    gate.dims = dims;
    gate.data = values;
    gate.nbytes += row_bytes;
    MUST(blyan_tensors_write(&gate, 1, &payload));
    free(values);
    blyan_tensors_free(tensors);
    return payload;
}

void grow_a_model(const char *folder, const char *empty)
{
    static const blyan_prompt PROMPT = {"In the beginning", BLYAN_NUL, NULL, 0};
    static const uint32_t TOKENS[] = {3, 17, 99, 4, 5, 6, 7, 8, 9};
    blyan_compare_options comparing;
    blyan_evaluation evaluation;
    blyan_chain *chain;
    blyan_snapshot *base;
    blyan_snapshot *grown;
    blyan_snapshot_info before;
    blyan_snapshot_info after;
    blyan_slot router, copied, added;
    blyan_payload *new_router;
    blyan_payload *expert;
    blyan_bytes bytes;
    blyan_layer_growth layer;
    blyan_comparison *comparison;
    blyan_comparison_info difference;
    blyan_text *spec;
    blyan_hash model;
    blyan_model *opened;
    blyan_generate_options options;
    blyan_generation *generation;

    (void)empty;
    MUST(blyan_chain_in_memory(&chain));
    MUST(blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    MUST(blyan_snapshot_open(chain, NULL, &base));
    MUST(blyan_snapshot_describe(base, &before, sizeof before));
    router = slot_of(chain, &before.base, "layer2.router");
    copied = slot_of(chain, &before.base, "layer2.expert5");
    new_router = wider_router(chain, &router.block, 5);
    MUST(blyan_chain_payload(chain, &copied.block, &expert));
    bytes.data = blyan_payload_data(expert);
    bytes.len = blyan_payload_len(expert);
    memset(&layer, 0, sizeof layer);
    layer.layer = 2;
    layer.experts = &bytes;
    layer.experts_len = 1;
    layer.router.data = blyan_payload_data(new_router);
    layer.router.len = blyan_payload_len(new_router);
    MUST(blyan_snapshot_grow(base, chain, &layer, 1, &grown));
    MUST(blyan_snapshot_describe(grown, &after, sizeof after));
    EXPECT_TRUE(after.slots_len == before.slots_len + 1 && !equal(&after.spec, &before.spec));
    MUST(blyan_snapshot_spec_json(grown, &spec));
    EXPECT_TRUE(holds(spec, "\"num_experts\":9"));

    /* All blocks are new, and no payload but the router's. */
    MUST(blyan_chain_compare(chain, base, grown, NULL, &comparison));
    MUST(blyan_comparison_describe(comparison, &difference, sizeof difference));
    EXPECT_TRUE(difference.new_payload_bytes == blyan_payload_len(new_router));
    EXPECT_TRUE(difference.loss_tokens == 0);
    blyan_comparison_free(comparison);
    MUST(blyan_compare_options_init(&comparing, sizeof comparing));
    comparing.tokens = TOKENS;
    comparing.tokens_len = sizeof TOKENS / sizeof *TOKENS;
    MUST(blyan_chain_compare(chain, base, grown, &comparing, &comparison));
    MUST(blyan_comparison_describe(comparison, &difference, sizeof difference));
    EXPECT_TRUE(difference.loss_tokens == comparing.tokens_len - 1);
    MUST(blyan_snapshot_evaluate(grown, chain, TOKENS, comparing.tokens_len, NULL, &evaluation, sizeof evaluation));
    EXPECT_TRUE(difference.after_loss == evaluation.loss && difference.before_loss > 0);
    blyan_comparison_free(comparison);
    comparing.tokens_len = 1;
    comparison = (blyan_comparison *)base;
    EXPECT(INVALID_ARGUMENT, blyan_chain_compare(chain, base, grown, &comparing, &comparison));
    EXPECT_TRUE(comparison == NULL);
    comparing.tokens = NULL;
    EXPECT(NULL_ARGUMENT, blyan_chain_compare(chain, base, grown, &comparing, &comparison));
    MUST(blyan_snapshot_publish(grown, chain, &model));
    added = slot_of(chain, &model, "layer2.expert8");
    EXPECT_TRUE(equal(&added.payload, &copied.payload) && !equal(&added.block, &copied.block));
    MUST(blyan_model_open(chain, NULL, &opened));
    MUST(blyan_generate_options_init(&options, sizeof options));
    options.max_tokens = 2;
    EXPECT(OK, blyan_model_generate(opened, &PROMPT, &options, &generation));
    blyan_generation_free(generation);
    blyan_model_free(opened);
    blyan_payload_free(expert);
    blyan_payload_free(new_router);
    blyan_snapshot_free(grown);
    blyan_snapshot_free(base);
    blyan_chain_free(chain);
}

/* A tensor of floats. */
static blyan_tensor floats(const char *name, const float *values, const size_t *dims)
{
    blyan_tensor tensor;

    memset(&tensor, 0, sizeof tensor);
    tensor.name.data = name;
    tensor.name.len = BLYAN_NUL;
    tensor.data = values;
    tensor.nbytes = dims[0] * dims[1] * sizeof *values;
    tensor.dims = dims;
    tensor.rank = 2;
    tensor.dtype = BLYAN_DTYPE_F32;
    return tensor;
}

/* To bfloat16, to nearest even, as a float; for numbers that are not too large. */
static float rounded(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    bits += 0x7fff + ((bits >> 16) & 1);
    bits &= 0xffff0000;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* A delta that adds `by` to one weight of a matrix of 192 x 256: a row and a column that are 0 elsewhere. */
static blyan_payload *one_weight(size_t row, size_t column, float by)
{
    static float a[256], b[192];
    static const size_t a_dims[2] = {1, 256}, b_dims[2] = {192, 1};
    blyan_tensor factors[2];
    blyan_payload *payload;

    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    a[column] = 2;
    b[row] = by / 2;
    factors[0] = floats("down_proj.lora_A.weight", a, a_dims);
    factors[1] = floats("down_proj.lora_B.weight", b, b_dims);
    MUST(blyan_tensors_write(factors, 2, &payload));
    return payload;
}

void merge_deltas(const char *folder, const char *empty)
{
    static float before[192 * 256], after[192 * 256];
    const size_t row = 17, column = 200, place = row * 256 + column;
    blyan_chain *chain;
    blyan_hash model, delta, merged, payload_hash, none;
    blyan_slot base;
    blyan_tensors *tensors;
    blyan_payload *difference;
    blyan_payload *payload;
    blyan_payload *whole;
    blyan_block *block;
    blyan_block_info info;
    const char *name;
    char dir[4096];
    char path[8192];
    bool made;
    size_t i, changed = 0;

    snprintf(dir, sizeof dir, "%s/deltas", empty);
    MUST(blyan_chain_open(dir, BLYAN_NUL, NULL, &chain));
    MUST(blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    MUST(blyan_chain_find_model(chain, "latest", BLYAN_NUL, &model));
    base = slot_of(chain, &model, "layer3.expert6");
    difference = one_weight(row, column, 0.25f);
    MUST(blyan_delta_append(chain, &base.block, blyan_payload_data(difference), blyan_payload_len(difference),
                            &delta));
    MUST(blyan_delta_merged_hash(chain, &delta, &payload_hash));
    EXPECT(OK, blyan_chain_get(chain, &delta, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT_TRUE(strcmp(info.kind_name.data, "delta") == 0 && strcmp(info.name.data, "layer3.expert6") == 0);
    blyan_block_free(block);
    MUST(blyan_delta_merge(chain, &delta, &merged));
    MUST(blyan_chain_get(chain, &merged, &block));
    MUST(blyan_block_describe(block, &info, sizeof info));
    EXPECT_TRUE(equal(&info.payload, &payload_hash) && strcmp(info.version.data, "1.0.1") == 0);
    EXPECT_TRUE(strcmp(info.kind_name.data, "expert") == 0);
    EXPECT(WRONG_BLOCK, blyan_delta_merge(chain, &merged, &none));

    /* One weight is another, all others are as they were. */
    MUST(blyan_tensors_open(chain, &base.block, &tensors));
    MUST(blyan_tensors_to_f32(tensors, "down_proj.weight", BLYAN_NUL, before, 192 * 256));
    blyan_tensors_free(tensors);
    MUST(blyan_tensors_open(chain, &merged, &tensors));
    MUST(blyan_tensors_to_f32(tensors, "down_proj.weight", BLYAN_NUL, after, 192 * 256));
    blyan_tensors_free(tensors);
    for (i = 0; i < 192 * 256; i++)
        changed += before[i] != after[i];
    EXPECT_TRUE(changed == 1 && after[place] == rounded(before[place] + 0.25f));

    /* The same without a chain. */
    MUST(blyan_chain_payload(chain, &base.block, &whole));
    MUST(blyan_delta_apply(blyan_payload_data(whole), blyan_payload_len(whole),
                           blyan_payload_data(difference), blyan_payload_len(difference), &payload));
    blyan_payload_free(whole);
    MUST(blyan_chain_payload(chain, &merged, &whole));
    EXPECT_TRUE(blyan_payload_len(whole) == blyan_payload_len(payload) &&
                memcmp(blyan_payload_data(whole), blyan_payload_data(payload),
                       blyan_payload_len(whole)) == 0);
    blyan_payload_free(whole);

    /* A merged payload that is gone is made again. */
    MUST(blyan_delta_materialise(chain, &merged, &made));
    EXPECT_TRUE(!made);
    name = hex_of(&info.payload);
    snprintf(path, sizeof path, "%s/payloads/%.2s/%s", dir, name, name);
    /* What an open chain has verified it keeps. */
    blyan_chain_free(chain);
    EXPECT_TRUE(unlink(path) == 0);
    MUST(blyan_chain_open(dir, BLYAN_NUL, NULL, &chain));
    EXPECT(DAMAGED, blyan_chain_payload(chain, &merged, &whole));
    MUST(blyan_delta_merged_payload(chain, &merged, &whole));
    EXPECT_TRUE(blyan_payload_len(whole) == blyan_payload_len(payload) &&
                memcmp(blyan_payload_data(whole), blyan_payload_data(payload),
                       blyan_payload_len(whole)) == 0);
    blyan_payload_free(whole);
    EXPECT(DAMAGED, blyan_chain_payload(chain, &merged, &whole));
    MUST(blyan_delta_materialise(chain, &merged, &made));
    EXPECT_TRUE(made);
    EXPECT(OK, blyan_chain_payload(chain, &merged, &whole));
    blyan_payload_free(whole);
    blyan_payload_free(payload);
    blyan_payload_free(difference);
    blyan_block_free(block);

    /* 1 x 256 is no factor of a matrix of 256 x 192. */
    difference = one_weight(0, 0, 1);
    base = slot_of(chain, &model, "layer3.router");
    EXPECT(REFUSED, blyan_delta_append(chain, &base.block, blyan_payload_data(difference),
                                       blyan_payload_len(difference), &none));
    blyan_payload_free(difference);
    blyan_chain_free(chain);
}
