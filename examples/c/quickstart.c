/* From a checkpoint folder to text: import, list, look into a tensor, stream, meet errors, and use one
 * model from two threads.
 *
 *     quickstart MODEL_DIR [CHAIN_DIR]
 */
#include <blyan.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Ends the program with the library's own words. */
static void check(blyan_status status, const char *what)
{
    const blyan_error *error;

    if (status == BLYAN_STATUS_OK)
        return;
    error = blyan_last_error();
    fprintf(stderr, "quickstart: %s: %s: %s\n", what, blyan_status_name(status), error->message);
    exit(EXIT_FAILURE);
}

static int show_progress(void *user, const blyan_progress *progress)
{
    (void)user;
    if (progress->blocks == progress->total_blocks)
        printf("imported %" PRIu64 " blocks, %" PRIu64 " bytes of payloads\n", progress->blocks,
               progress->bytes);
    return 0; /* anything else would stop the import */
}

static void import_model(const blyan_chain *chain, const char *dir)
{
    blyan_import_options options;
    blyan_import_report *report;
    blyan_import_info info;
    char hex[BLYAN_HASH_HEX_SIZE];

    check(blyan_import_options_init(&options, sizeof options), "options");
    options.on_progress = show_progress;
    check(blyan_import_checkpoint(chain, dir, BLYAN_NUL, &options, &report), "import");
    check(blyan_import_report_describe(report, &info, sizeof info), "report");
    check(blyan_hash_to_hex(&info.model, hex, sizeof hex), "hash");
    printf("model %s\n", hex);
    blyan_import_report_free(report);
}

static void list_experts(const blyan_chain *chain)
{
    blyan_blocks *blocks;
    blyan_block *block;
    blyan_block_info info;
    blyan_status status;
    uint16_t expert;
    int count = 0;

    check(blyan_kind_from_name("expert", BLYAN_NUL, &expert), "kind");
    check(blyan_chain_blocks_of_kind(chain, expert, &blocks), "blocks");
    while ((status = blyan_blocks_next(blocks, &block)) == BLYAN_STATUS_OK) {
        check(blyan_block_describe(block, &info, sizeof info), "block");
        if (count++ < 3)
            printf("  %s, %" PRIu64 " bytes\n", info.name.data, info.payload_bytes);
        blyan_block_free(block);
    }
    if (status != BLYAN_STATUS_END)
        check(status, "walk");
    printf("  ... %d experts\n", count);
    blyan_blocks_free(blocks);
}

/* Adds up the bytes of a tensor where they are mapped. */
static void read_tensor(const blyan_chain *chain)
{
    blyan_block_list *heads;
    blyan_block *block;
    blyan_block_info info;
    blyan_tensors *tensors;
    blyan_tensor tensor;
    uint64_t sum = 0;
    size_t i;

    check(blyan_chain_heads(chain, "layer0.expert1", BLYAN_NUL, &heads), "heads");
    check(blyan_block_list_get(heads, 0, &block), "head");
    check(blyan_block_describe(block, &info, sizeof info), "block");
    check(blyan_tensors_open(chain, &info.hash, &tensors), "tensors");
    check(blyan_tensors_find(tensors, "gate_proj.weight", BLYAN_NUL, &tensor, sizeof tensor), "tensor");
    for (i = 0; i < tensor.nbytes; i++)
        sum += ((const uint8_t *)tensor.data)[i];
    printf("%s: %zu x %zu, %zu bytes that add up to %" PRIu64 "\n", tensor.name.data, tensor.dims[0],
           tensor.dims[1], tensor.nbytes, sum);
    blyan_tensors_free(tensors); /* the view ends here */
    blyan_block_free(block);
    blyan_block_list_free(heads);
}

static int print_piece(void *user, const blyan_piece *piece)
{
    int *left = user;

    fwrite(piece->text.data, 1, piece->text.len, stdout);
    fflush(stdout);
    return left != NULL && --*left == 0;
}

static void generate(const blyan_chain *chain, const blyan_model *model)
{
    blyan_prompt prompt = {"And God said", BLYAN_NUL, NULL, 0};
    blyan_generate_options options;
    blyan_generation *generation;
    blyan_generation_info info;
    blyan_receipt *receipt;
    blyan_differences *differences;
    blyan_status status;
    int left = 4;

    check(blyan_generate_options_init(&options, sizeof options), "options");
    options.max_tokens = 16;
    options.on_token = print_piece;
    printf("And God said");
    check(blyan_model_generate(model, &prompt, &options, &generation), "generate");
    check(blyan_generation_describe(generation, &info, sizeof info), "generation");
    printf("\n%zu tokens, ended by %s\n", info.tokens_len, blyan_finish_reason_name(info.finish_reason));

    /* Anyone with the same blocks can check what was run. */
    check(blyan_generation_receipt(generation, &receipt), "receipt");
    check(blyan_receipt_replay(receipt, chain, NULL, &differences), "replay");
    printf("replayed: %zu differences\n", blyan_differences_len(differences));
    blyan_differences_free(differences);
    blyan_receipt_free(receipt);
    blyan_generation_free(generation);

    /* A callback that returns something else than 0 stops; what there is so far is kept. */
    options.user = &left;
    status = blyan_model_generate(model, &prompt, &options, &generation);
    if (status != BLYAN_STATUS_STOPPED)
        check(status, "generate");
    check(blyan_generation_describe(generation, &info, sizeof info), "generation");
    printf("\nstopped after %zu tokens\n", info.tokens_len);
    blyan_generation_free(generation);
}

static void meet_errors(const blyan_chain *chain, const blyan_model *model)
{
    blyan_hash nobody = {{0}};
    blyan_prompt prompt = {"\xff", 1, NULL, 0};
    blyan_block *block;
    blyan_generation *generation;
    blyan_status status;
    char hex[BLYAN_HASH_HEX_SIZE];

    status = blyan_chain_get(chain, &nobody, &block);
    check(blyan_hash_to_hex(blyan_last_error()->block, hex, sizeof hex), "hash");
    printf("%s: block %.8s...\n", blyan_status_name(status), hex);
    status = blyan_model_generate(model, &prompt, NULL, &generation);
    printf("%s: %s\n", blyan_status_name(status), blyan_last_error()->message);
}

struct work {
    const blyan_model *model;
    const char *prompt;
    char text[256];
};

static void *run(void *user)
{
    struct work *work = user;
    blyan_prompt prompt = {NULL, BLYAN_NUL, NULL, 0};
    blyan_generate_options options;
    blyan_generation *generation;
    blyan_generation_info info;

    prompt.text = work->prompt;
    check(blyan_generate_options_init(&options, sizeof options), "options");
    options.max_tokens = 8;
    check(blyan_model_generate(work->model, &prompt, &options, &generation), "generate");
    check(blyan_generation_describe(generation, &info, sizeof info), "generation");
    snprintf(work->text, sizeof work->text, "%s", info.text.data);
    blyan_generation_free(generation);
    return NULL;
}

static void use_two_threads(const blyan_model *model)
{
    struct work work[2] = {{model, "In the beginning", ""}, {model, "And the LORD", ""}};
    pthread_t threads[2];
    int i;

    for (i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, run, &work[i]) != 0)
            exit(EXIT_FAILURE);
    for (i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
        printf("%s:%s\n", work[i].prompt, work[i].text);
    }
}

int main(int argc, char **argv)
{
    blyan_chain *chain;
    blyan_model *model;

    if (argc < 2 || argc > 3) {
        fprintf(stderr, "quickstart MODEL_DIR [CHAIN_DIR]\n");
        return 2;
    }
    if (blyan_abi_version() != BLYAN_ABI_VERSION) {
        fprintf(stderr, "quickstart: the library is of another version than the header\n");
        return EXIT_FAILURE;
    }
    check(argc == 3 ? blyan_chain_open(argv[2], BLYAN_NUL, NULL, &chain) : blyan_chain_in_memory(&chain),
          "open");
    import_model(chain, argv[1]);
    list_experts(chain);
    read_tensor(chain);
    check(blyan_model_open(chain, NULL, &model), "model");
    generate(chain, model);
    meet_errors(chain, model);
    blyan_chain_free(chain); /* the model goes on without it */
    use_two_threads(model);
    blyan_model_free(model);
    return EXIT_SUCCESS;
}
