/* Programs do odd things: close the chain under a model, stop in the middle, use one handle from two
 * places, open what is damaged. Each is an error with a code, or works.
 *
 *     misuse MODEL_DIR EMPTY_DIR
 */
#include "misuse.h"

int failures;

const blyan_prompt PROMPT = {"In the beginning", BLYAN_NUL, NULL, 0};

void expect_true(int holds, const char *file, int line, const char *what)
{
    if (!holds) {
        failures++;
        fprintf(stderr, "%s:%d: %s\n", file, line, what);
    }
}

void expect(int32_t expected, int32_t status, const char *file, int line, const char *call)
{
    if (status != expected) {
        failures++;
        fprintf(stderr, "%s:%d: %s is %s, expected %s (%s)\n", file, line, call, blyan_status_name(status),
                blyan_status_name(expected), status > 1 ? blyan_last_error()->message : "");
    }
}

int main(int argc, char **argv)
{
    blyan_chain *chain;
    blyan_model *model;

    if (argc != 3) {
        fprintf(stderr, "misuse MODEL_DIR EMPTY_DIR\n");
        return 2;
    }
    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(NO_MODEL, blyan_model_open(chain, NULL, &model));
    EXPECT(OK, blyan_import_checkpoint(chain, argv[1], BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    stop_generating(model);
    other_versions(model);
    odd_values(chain, model);
    blyan_model_free(model);
    blyan_chain_free(chain);

    close_the_chain_first(argv[1]);
    stop_in_the_middle(argv[1], argv[2]);
    write_twice();
    lose_a_payload(argv[1], argv[2]);
    exchange_badly(argv[1], argv[2]);
    hear_warnings(argv[1], argv[2]);
    say_what_is_not_so(argv[1], argv[2]);
    train_badly(argv[1]);
    printf("%d failures\n", failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
