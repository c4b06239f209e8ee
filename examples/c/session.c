/* The scripted session of blyan-core/examples/session.rs in C: prints the same JSON, byte for byte.
 *
 *     session MODEL_DIR EMPTY_DIR
 */
#include <blyan.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char PROMPT[] = "In the beginning";

static void check(blyan_status status, const char *what)
{
    if (status == BLYAN_STATUS_OK)
        return;
    fprintf(stderr, "session: %s: %s: %s\n", what, blyan_status_name(status), blyan_last_error()->message);
    exit(EXIT_FAILURE);
}

/* A JSON string. */
static void print_string(blyan_str text)
{
    size_t i;

    putchar('"');
    for (i = 0; i < text.len; i++) {
        unsigned char c = (unsigned char)text.data[i];

        if (c == '"' || c == '\\')
            printf("\\%c", c);
        else if (c == '\n')
            printf("\\n");
        else if (c == '\t')
            printf("\\t");
        else if (c == '\r')
            printf("\\r");
        else if (c == '\b')
            printf("\\b");
        else if (c == '\f')
            printf("\\f");
        else if (c < 0x20)
            printf("\\u%04x", c);
        else
            putchar(c);
    }
    putchar('"');
}

static void print_hash(const blyan_hash *hash)
{
    char hex[BLYAN_HASH_HEX_SIZE];

    check(blyan_hash_to_hex(hash, hex, sizeof hex), "hash");
    printf("\"%s\"", hex);
}

static void print_import(const blyan_chain *chain, const char *dir)
{
    blyan_import_report *report;
    blyan_import_info info;

    check(blyan_import_checkpoint(chain, dir, BLYAN_NUL, NULL, &report), "import");
    check(blyan_import_report_describe(report, &info, sizeof info), "import report");
    printf("  \"import\": {\n    \"model\": ");
    print_hash(&info.model);
    printf(",\n    \"spec\": ");
    print_hash(&info.spec);
    printf(",\n    \"blocks\": %" PRIu64 ",\n    \"new_blocks\": %" PRIu64 "\n  },\n",
           info.blocks_new + info.blocks_known, info.blocks_new);
    blyan_import_report_free(report);
}

static void print_verify(const blyan_chain *chain)
{
    blyan_verify_report *report;
    blyan_verify_info info;
    size_t i;

    check(blyan_chain_verify(chain, NULL, &report), "verify");
    check(blyan_verify_report_describe(report, &info, sizeof info), "verify report");
    printf("  \"verify\": {\n    \"ok\": %s,\n    \"blocks\": %" PRIu64 ",\n    \"payload_bytes\": %" PRIu64
           ",\n    \"bad\": [",
           info.bad_len == 0 ? "true" : "false", info.blocks, info.payload_bytes);
    for (i = 0; i < info.bad_len; i++) {
        blyan_bad_block bad;

        check(blyan_verify_report_bad(report, i, &bad, sizeof bad), "bad block");
        printf("%s\n      {\n        \"block\": ", i == 0 ? "" : ",");
        print_hash(&bad.block);
        printf(",\n        \"reason\": ");
        print_string(bad.reason);
        printf("\n      }");
    }
    printf("%s]\n  },\n", info.bad_len == 0 ? "" : "\n    ");
    blyan_verify_report_free(report);
}

static void print_block(const blyan_block *block)
{
    static const char LANES[] = "ABD";
    blyan_block_info info;

    check(blyan_block_describe(block, &info, sizeof info), "block");
    printf("    {\n      \"hash\": ");
    print_hash(&info.hash);
    printf(",\n      \"lane\": \"%c\",\n      \"kind\": ", LANES[info.lane]);
    print_string(info.kind_name);
    printf(",\n      \"name\": ");
    print_string(info.name);
    printf(",\n      \"height\": %" PRIu64 ",\n      \"payload\": ", info.height);
    print_hash(&info.payload);
    printf(",\n      \"payload_bytes\": %" PRIu64 ",\n      \"parents\": %zu\n    }", info.payload_bytes,
           info.parents_len);
}

static void print_blocks(const blyan_chain *chain)
{
    static const int32_t LANES[] = {BLYAN_LANE_META, BLYAN_LANE_PARAMETER, BLYAN_LANE_DATASET};
    const char *between = "";
    size_t i;

    printf("  \"blocks\": [\n");
    for (i = 0; i < sizeof LANES / sizeof *LANES; i++) {
        blyan_blocks *blocks;
        blyan_block *block;
        blyan_status status;

        check(blyan_chain_blocks(chain, LANES[i], &blocks), "blocks");
        while ((status = blyan_blocks_next(blocks, &block)) == BLYAN_STATUS_OK) {
            printf("%s", between);
            print_block(block);
            blyan_block_free(block);
            between = ",\n";
        }
        if (status != BLYAN_STATUS_END)
            check(status, "walk");
        blyan_blocks_free(blocks);
    }
    printf("\n  ],\n");
}

static const char *dtype_name(int32_t dtype)
{
    switch (dtype) {
    case BLYAN_DTYPE_F32:
        return "F32";
    case BLYAN_DTYPE_BF16:
        return "BF16";
    case BLYAN_DTYPE_F16:
        return "F16";
    case BLYAN_DTYPE_F8E4M3:
        return "F8_E4M3";
    case BLYAN_DTYPE_I8:
        return "I8";
    default:
        return "I4";
    }
}

static void print_tensor(const blyan_chain *chain)
{
    blyan_block_list *heads;
    blyan_block *block;
    blyan_block_info info;
    blyan_tensors *tensors;
    blyan_tensor tensor;
    const uint8_t *data;
    uint64_t sum = 0;
    size_t i;

    check(blyan_chain_heads(chain, "layer0.expert1", BLYAN_NUL, &heads), "heads");
    check(blyan_block_list_get(heads, 0, &block), "head");
    check(blyan_block_describe(block, &info, sizeof info), "block");
    check(blyan_tensors_open(chain, &info.hash, &tensors), "tensors");
    check(blyan_tensors_find(tensors, "gate_proj.weight", BLYAN_NUL, &tensor, sizeof tensor), "tensor");
    printf("  \"tensor\": {\n    \"block\": ");
    print_hash(&info.hash);
    printf(",\n    \"name\": ");
    print_string(tensor.name);
    printf(",\n    \"dtype\": \"%s\",\n    \"shape\": [", dtype_name(tensor.dtype));
    for (i = 0; i < tensor.rank; i++)
        printf("%s\n      %zu", i == 0 ? "" : ",", tensor.dims[i]);
    printf("\n    ],\n    \"nbytes\": %zu,\n    \"first\": \"", tensor.nbytes);
    data = tensor.data;
    for (i = 0; i < tensor.nbytes; i++) {
        if (i < 16)
            printf("%02x", data[i]);
        sum += data[i];
    }
    printf("\",\n    \"sum\": %" PRIu64 "\n  },\n", sum);
    blyan_tensors_free(tensors);
    blyan_block_free(block);
    blyan_block_list_free(heads);
}

static blyan_receipt *print_generation(const blyan_model *model, const char *name,
                                       const blyan_generate_options *options)
{
    blyan_prompt prompt = {PROMPT, BLYAN_NUL, NULL, 0};
    blyan_str prompt_text = {PROMPT, sizeof PROMPT - 1};
    blyan_str reason;
    blyan_generation *generation;
    blyan_generation_info info;
    blyan_receipt *receipt;
    blyan_receipt_info claim;
    size_t i;

    check(blyan_model_generate(model, &prompt, options, &generation), "generate");
    check(blyan_generation_describe(generation, &info, sizeof info), "generation");
    check(blyan_generation_receipt(generation, &receipt), "receipt");
    check(blyan_receipt_describe(receipt, &claim, sizeof claim), "claim");
    printf("  \"%s\": {\n    \"prompt\": ", name);
    print_string(prompt_text);
    printf(",\n    \"tokens\": [");
    for (i = 0; i < info.tokens_len; i++)
        printf("%s\n      %" PRIu32, i == 0 ? "" : ",", info.tokens[i]);
    printf("\n    ],\n    \"text\": ");
    print_string(info.text);
    reason.data = blyan_finish_reason_name(info.finish_reason);
    reason.len = strlen(reason.data);
    printf(",\n    \"finish_reason\": ");
    print_string(reason);
    printf(",\n    \"receipt\": ");
    print_hash(&claim.hash);
    printf(",\n    \"logits\": ");
    print_hash(&claim.logits);
    printf("\n  },\n");
    blyan_generation_free(generation);
    return receipt;
}

static const char *replays(const blyan_receipt *receipt, const blyan_chain *chain)
{
    blyan_differences *differences;
    size_t count;

    check(blyan_receipt_replay(receipt, chain, NULL, &differences), "replay");
    count = blyan_differences_len(differences);
    blyan_differences_free(differences);
    return count == 0 ? "true" : "false";
}

static void print_usage(const blyan_model *model)
{
    blyan_experts *experts;
    size_t i;

    check(blyan_usage_top(model, 5, &experts), "usage");
    printf("  \"usage\": [");
    for (i = 0; i < blyan_experts_len(experts); i++) {
        blyan_expert_usage usage;

        check(blyan_experts_get(experts, i, &usage, sizeof usage), "expert");
        printf("%s\n    {\n      \"slot\": ", i == 0 ? "" : ",");
        print_string(usage.slot);
        printf(",\n      \"block\": ");
        print_hash(&usage.block);
        printf(",\n      \"tokens\": %" PRIu64 "\n    }", usage.tokens);
    }
    printf("\n  ],\n");
    blyan_experts_free(experts);
}

static void print_error(const blyan_chain *chain)
{
    blyan_hash nobody = {{0}};
    blyan_block *block;
    blyan_status status = blyan_chain_get(chain, &nobody, &block);

    printf("  \"error\": {\n    \"code\": \"%s\",\n    \"block\": ", blyan_status_name(status));
    print_hash(blyan_last_error()->block);
    printf("\n  }\n");
}

int main(int argc, char **argv)
{
    blyan_chain *chain;
    blyan_model *model;
    blyan_generate_options options;
    blyan_receipt *greedy;
    blyan_receipt *seeded;

    if (argc != 3) {
        fprintf(stderr, "session MODEL_DIR EMPTY_DIR\n");
        return 2;
    }
    check(blyan_chain_open(argv[2], BLYAN_NUL, NULL, &chain), "open");
    printf("{\n");
    print_import(chain, argv[1]);
    print_verify(chain);
    print_blocks(chain);
    print_tensor(chain);

    check(blyan_model_open(chain, NULL, &model), "model");
    check(blyan_generate_options_init(&options, sizeof options), "options");
    options.max_tokens = 24;
    greedy = print_generation(model, "greedy", &options);
    options.temperature = 0.8f;
    options.top_k = 40;
    options.top_p = 0.95f;
    options.min_p = 0.05f;
    options.repetition_penalty = 1.1f;
    options.seed = 7;
    seeded = print_generation(model, "seeded", &options);
    printf("  \"replay\": {\n    \"greedy\": %s,\n", replays(greedy, chain));
    printf("    \"seeded\": %s\n  },\n", replays(seeded, chain));
    print_usage(model);
    print_error(chain);
    printf("}\n");

    blyan_receipt_free(greedy);
    blyan_receipt_free(seeded);
    blyan_model_free(model);
    blyan_chain_free(chain);
    return EXIT_SUCCESS;
}
