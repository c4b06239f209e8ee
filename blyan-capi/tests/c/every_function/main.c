/* Calls every function of blyan.h in every wrong way that C lets it notice: each pointer NULL in turn,
 * sizes that no struct has, lengths that no object has, text that is no UTF-8, numbers that name nothing.
 * Each must be an error with a code and a message, and leave everything as it was.
 *
 *     every_function MODEL_DIR EMPTY_DIR
 */
#include "every_function.h"

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
    walk_evidence();
    walk_training();
    free_fixtures();
    printf("%d checks, %d failures\n", checks, failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
