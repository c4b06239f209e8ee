/* How a model gets better, from C: it grows, deltas are merged into it, an expert is proposed, judged,
 * adopted and rewarded in a whole round, and an expert is trained.
 *
 *     evolve MODEL_DIR EMPTY_DIR
 */
#include "evolve.h"

int failures;

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

void must(blyan_status status, const char *file, int line)
{
    if (status != BLYAN_STATUS_OK) {
        fprintf(stderr, "%s:%d: %s: %s\n", file, line, blyan_status_name(status),
                blyan_last_error()->message);
        exit(EXIT_FAILURE);
    }
}

const char *hex_of(const blyan_hash *hash)
{
    static char digits[4][BLYAN_HASH_HEX_SIZE];
    static int last;

    last = (last + 1) % 4;
    MUST(blyan_hash_to_hex(hash, digits[last], sizeof digits[last]));
    return digits[last];
}

int equal(const blyan_hash *a, const blyan_hash *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

int names(const blyan_hash *block)
{
    return blyan_last_error()->block != NULL && equal(blyan_last_error()->block, block);
}

int holds(blyan_text *text, const char *part)
{
    int found = strstr(blyan_text_get(text).data, part) != NULL;

    if (!found)
        fprintf(stderr, "%s\n", blyan_text_get(text).data);
    blyan_text_free(text);
    return found;
}

int says(const blyan_chain *chain, const blyan_hash *block, const char *part)
{
    blyan_payload *payload;
    size_t len;
    char *text;
    int found;

    MUST(blyan_chain_payload(chain, block, &payload));
    len = blyan_payload_len(payload);
    text = malloc(len + 1);
    memcpy(text, blyan_payload_data(payload), len);
    text[len] = '\0';
    found = strstr(text, part) != NULL;
    if (!found)
        fprintf(stderr, "%s\n", text);
    free(text);
    blyan_payload_free(payload);
    return found;
}

blyan_key *key_of(uint8_t seed)
{
    uint8_t secret[BLYAN_SECRET_KEY_SIZE];
    blyan_key *key;

    memset(secret, seed, sizeof secret);
    MUST(blyan_key_from_secret(secret, sizeof secret, &key));
    return key;
}

blyan_public_key public_of(const blyan_key *key)
{
    blyan_public_key public_key;

    MUST(blyan_key_public(key, &public_key));
    return public_key;
}

blyan_slot slot_of(const blyan_chain *chain, const blyan_hash *model, const char *name)
{
    blyan_snapshot *snapshot;
    blyan_snapshot_info info;
    blyan_slot slot;
    size_t i;

    MUST(blyan_snapshot_open(chain, model, &snapshot));
    MUST(blyan_snapshot_describe(snapshot, &info, sizeof info));
    for (i = 0; i < info.slots_len; i++) {
        MUST(blyan_snapshot_slot(snapshot, i, &slot, sizeof slot));
        if (strcmp(slot.name.data, name) == 0)
            break;
    }
    EXPECT_TRUE(i < info.slots_len);
    slot.name.data = NULL; /* it goes with the snapshot */
    blyan_snapshot_free(snapshot);
    return slot;
}

blyan_hash negated(const blyan_chain *chain, const blyan_hash *model, const char *name)
{
    blyan_snapshot *snapshot;
    blyan_snapshot_info info;
    blyan_slot slot = slot_of(chain, model, name);
    blyan_tensors *tensors;
    blyan_tensor all[3];
    blyan_payload *payload;
    blyan_parent parents[2];
    blyan_draft draft;
    blyan_hash block;
    uint8_t *values = NULL;
    size_t i, byte;

    MUST(blyan_snapshot_open(chain, model, &snapshot));
    MUST(blyan_snapshot_describe(snapshot, &info, sizeof info));
    blyan_snapshot_free(snapshot);
    MUST(blyan_tensors_open(chain, &slot.block, &tensors));
    EXPECT_TRUE(blyan_tensors_len(tensors) == 3);
    for (i = 0; i < 3; i++) {
        MUST(blyan_tensors_get(tensors, i, &all[i], sizeof all[i]));
        if (strcmp(all[i].name.data, "down_proj.weight") == 0) {
            EXPECT_TRUE(all[i].dtype == BLYAN_DTYPE_BF16);
            values = malloc(all[i].nbytes);
            memcpy(values, all[i].data, all[i].nbytes);
            /* The sign is the highest bit of the second byte. */
            for (byte = 1; byte < all[i].nbytes; byte += 2)
                values[byte] ^= 0x80;
            all[i].data = values;
        }
    }
    MUST(blyan_tensors_write(all, 3, &payload));
    parents[0].hash = info.spec;
    parents[0].role = BLYAN_ROLE_DEPENDENCY;
    parents[1].hash = slot.block;
    parents[1].role = BLYAN_ROLE_PREDECESSOR;
    MUST(blyan_draft_init(&draft, sizeof draft));
    draft.kind = 19; /* an expert */
    draft.name.data = name;
    draft.name.len = BLYAN_NUL;
    draft.version.data = "1.0.1";
    draft.version.len = BLYAN_NUL;
    draft.parents = parents;
    draft.parents_len = 2;
    draft.payload = blyan_payload_data(payload);
    draft.payload_len = blyan_payload_len(payload);
    MUST(blyan_chain_append(chain, &draft, &block));
    blyan_payload_free(payload);
    blyan_tensors_free(tensors);
    free(values);
    return block;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "evolve MODEL_DIR EMPTY_DIR\n");
        return 2;
    }
    grow_a_model(argv[1], argv[2]);
    merge_deltas(argv[1], argv[2]);
    go_through_a_round(argv[1]);
    train_an_expert(argv[1]);
    say_anything(argv[1]);
    printf("%d failures\n", failures);
    return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
