/* Tokens a second through C: `cargo xtask bench-c` compares them with blyan-capi/examples/bench.rs, which
 * does the same without leaving Rust.
 *
 *     bench MODEL_DIR
 */
#include <blyan.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { TOKENS = 200, GENERATIONS = 9 };

static void check(blyan_status status)
{
    if (status != BLYAN_STATUS_OK) {
        fprintf(stderr, "bench: %s\n", blyan_last_error()->message);
        exit(EXIT_FAILURE);
    }
}

static int count_bytes(void *user, const blyan_piece *piece)
{
    *(size_t *)user += piece->text.len;
    return 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    blyan_prompt prompt = {"In the beginning", BLYAN_NUL, NULL, 0};
    blyan_chain *chain;
    blyan_model *model;
    blyan_generate_options options;
    double rates[GENERATIONS];
    size_t bytes = 0;
    int i;

    if (argc != 2)
        return 2;
    check(blyan_chain_in_memory(&chain));
    check(blyan_import_checkpoint(chain, argv[1], BLYAN_NUL, NULL, NULL));
    check(blyan_model_open(chain, NULL, &model));
    check(blyan_generate_options_init(&options, sizeof options));
    options.max_tokens = TOKENS;
    options.ignore_eos = 1;
    options.on_token = count_bytes;
    options.user = &bytes;
    /* The first one verifies and maps the blocks, and does not count. */
    for (i = -1; i < GENERATIONS; i++) {
        blyan_generation *generation;
        struct timespec start, end;

        clock_gettime(CLOCK_MONOTONIC, &start);
        check(blyan_model_generate(model, &prompt, &options, &generation));
        clock_gettime(CLOCK_MONOTONIC, &end);
        blyan_generation_free(generation);
        if (i >= 0)
            rates[i] = TOKENS / ((double)(end.tv_sec - start.tv_sec) + 1e-9 * (double)(end.tv_nsec - start.tv_nsec));
    }
    qsort(rates, GENERATIONS, sizeof *rates, compare);
    printf("%.1f\n", rates[GENERATIONS / 2]);
    blyan_model_free(model);
    blyan_chain_free(chain);
    return bytes == 0;
}
