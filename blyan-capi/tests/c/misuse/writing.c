/* Writes twice at once, loses a payload, exchanges bundles badly, damages the counts of use. */
#include "misuse.h"

#include <pthread.h>
#include <unistd.h>

static void *append_elsewhere(void *user)
{
    blyan_draft draft;
    blyan_hash hash;

    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.lane = BLYAN_LANE_DATASET;
    draft.kind = 4096;
    draft.name.data = "note";
    draft.name.len = BLYAN_NUL;
    EXPECT(OK, blyan_chain_append(user, &draft, &hash));
    return NULL;
}

struct begun {
    blyan_chain *chain;
    blyan_writer *writer;
};

static void *go_on_elsewhere(void *user)
{
    const struct begun *begun = user;
    blyan_draft draft;
    blyan_appended appended;
    blyan_hash hash;

    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.lane = BLYAN_LANE_DATASET;
    draft.kind = 4096;
    draft.name.data = "moved";
    draft.name.len = BLYAN_NUL;
    EXPECT(OK, blyan_writer_append(begun->writer, &draft, &appended));
    EXPECT(BUSY, blyan_chain_append(begun->chain, &draft, &hash));
    return NULL;
}

/* One transaction at a time: a thread that has one gets an error, others wait. */
void write_twice(void)
{
    blyan_chain *chain;
    blyan_writer *writer;
    blyan_writer *second;
    blyan_draft draft;
    blyan_appended appended;
    blyan_hash hash;
    blyan_parent parent = {{{1}}, BLYAN_ROLE_DEPENDENCY};
    struct begun begun;
    pthread_t thread;
    uint64_t len;
    bool contains;

    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_draft_init(&draft, sizeof draft));
    draft.kind = 4096;
    draft.name.data = "note";
    draft.name.len = 4;
    draft.payload = "abc";
    draft.payload_len = 3;
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(OK, blyan_writer_append(writer, &draft, &appended));
    EXPECT_TRUE(appended.new_block && appended.new_payload);
    EXPECT(BUSY, blyan_chain_writer(chain, &second));
    EXPECT(BUSY, blyan_chain_append(chain, &draft, &hash));
    EXPECT_TRUE(pthread_create(&thread, NULL, append_elsewhere, chain) == 0);
    EXPECT(OK, blyan_chain_contains(chain, &appended.hash, &contains));
    EXPECT_TRUE(!contains);
    EXPECT(OK, blyan_writer_contains(writer, &appended.hash, &contains));
    EXPECT_TRUE(contains);
    EXPECT(OK, blyan_writer_commit(writer));
    EXPECT(INVALID_ARGUMENT, blyan_writer_commit(writer));
    EXPECT(INVALID_ARGUMENT, blyan_writer_append(writer, &draft, &appended));
    pthread_join(thread, NULL);
    EXPECT(OK, blyan_chain_len(chain, &len));
    EXPECT_TRUE(len == 2);

    /* One that ended does not end the next: this thread must not come to wait for itself. */
    EXPECT(OK, blyan_chain_writer(chain, &second));
    EXPECT(INVALID_ARGUMENT, blyan_writer_commit(writer));
    EXPECT(BUSY, blyan_chain_append(chain, &draft, &hash));
    blyan_writer_free(writer);
    EXPECT(BUSY, blyan_chain_append(chain, &draft, &hash));
    blyan_writer_free(second);
    EXPECT(OK, blyan_chain_append(chain, &draft, &hash));

    /* One that moves to another thread is that thread's: it must not come to wait for itself there. */
    begun.chain = chain;
    EXPECT(OK, blyan_chain_writer(chain, &begun.writer));
    EXPECT_TRUE(pthread_create(&thread, NULL, go_on_elsewhere, &begun) == 0);
    pthread_join(thread, NULL);
    EXPECT(OK, blyan_writer_contains(begun.writer, &appended.hash, &contains));
    EXPECT(BUSY, blyan_chain_append(chain, &draft, &hash));
    blyan_writer_free(begun.writer);
    EXPECT(OK, blyan_chain_append(chain, &draft, &hash));

    /* One that is not committed leaves nothing. */
    draft.payload_len = 2;
    EXPECT(OK, blyan_chain_writer(chain, &writer));
    EXPECT(OK, blyan_writer_append(writer, &draft, &appended));
    blyan_writer_free(writer);
    EXPECT(OK, blyan_chain_contains(chain, &appended.hash, &contains));
    EXPECT_TRUE(!contains);

    draft.parents = &parent;
    draft.parents_len = 1;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &parent.hash, sizeof parent.hash) == 0);
    parent.role = 9;
    EXPECT(INVALID_ARGUMENT, blyan_chain_append(chain, &draft, &hash));
    draft.parents_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_chain_append(chain, &draft, &hash));
    draft.parents_len = 0;
    draft.kind = 65536;
    EXPECT(INVALID_ARGUMENT, blyan_chain_append(chain, &draft, &hash));
    draft.kind = 19;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    draft.name.data = "No Name";
    draft.name.len = BLYAN_NUL;
    EXPECT(REFUSED, blyan_chain_append(chain, &draft, &hash));
    blyan_chain_free(chain);
}

/* A payload that is gone is found, and named. */
void lose_a_payload(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_chain *second;
    blyan_chain_options options;
    blyan_block_list *heads;
    blyan_block *block;
    blyan_block_info info;
    blyan_verify_report *report;
    blyan_verify_info found;
    blyan_bad_block bad;
    blyan_payload *payload;
    blyan_tensors *tensors;
    char hex[BLYAN_HASH_HEX_SIZE];
    char dir[4096];
    char path[8192];

    snprintf(dir, sizeof dir, "%s/chain", empty);
    EXPECT(OK, blyan_chain_options_init(&options, sizeof options));
    options.read_only = 1;
    EXPECT(NO_CHAIN, blyan_chain_open(dir, BLYAN_NUL, &options, &chain));
    EXPECT(INVALID_ARGUMENT, blyan_chain_open("", 0, NULL, &chain));
    EXPECT(OK, blyan_chain_open(dir, strlen(dir), NULL, &chain));
    EXPECT(LOCKED, blyan_chain_open(dir, BLYAN_NUL, NULL, &second));
    EXPECT_TRUE(second == NULL);
    EXPECT(OK, blyan_chain_open(dir, BLYAN_NUL, &options, &second));
    EXPECT(READ_ONLY, blyan_import_checkpoint(second, folder, BLYAN_NUL, NULL, NULL));
    EXPECT_TRUE(!blyan_chain_is_writable(second) && blyan_chain_is_writable(chain));
    EXPECT_TRUE(strcmp(blyan_chain_dir(second).data, dir) == 0);
    blyan_chain_free(second);
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(CHECKPOINT, blyan_import_checkpoint(chain, dir, BLYAN_NUL, NULL, NULL));

    EXPECT(OK, blyan_chain_heads(chain, "layer0.expert1", BLYAN_NUL, &heads));
    EXPECT(OK, blyan_block_list_get(heads, 0, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(OK, blyan_hash_to_hex(&info.payload, hex, sizeof hex));
    snprintf(path, sizeof path, "%s/payloads/%.2s/%s", dir, hex, hex);
    EXPECT_TRUE(remove(path) == 0);
    EXPECT(OK, blyan_chain_verify(chain, NULL, &report));
    EXPECT(OK, blyan_verify_report_describe(report, &found, sizeof found));
    EXPECT_TRUE(found.bad_len == 1);
    EXPECT(OK, blyan_verify_report_bad(report, 0, &bad, sizeof bad));
    EXPECT_TRUE(memcmp(&bad.block, &info.hash, sizeof bad.block) == 0);
    EXPECT_TRUE(strcmp(bad.name.data, "layer0.expert1") == 0);
    blyan_verify_report_free(report);
    EXPECT(DAMAGED, blyan_chain_payload(chain, &info.hash, &payload));
    EXPECT(DAMAGED, blyan_tensors_open(chain, &info.hash, &tensors));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &info.hash, sizeof info.hash) == 0);
    blyan_block_free(block);
    blyan_block_list_free(heads);

    EXPECT(OK, blyan_chain_heads(chain, "tokenizer", BLYAN_NUL, &heads));
    EXPECT(OK, blyan_block_list_get(heads, 0, &block));
    EXPECT(OK, blyan_block_describe(block, &info, sizeof info));
    EXPECT(WRONG_BLOCK, blyan_tensors_open(chain, &info.hash, &tensors));
    blyan_block_free(block);
    blyan_block_list_free(heads);
    blyan_chain_free(chain);
}

static int stop_at_once(void *user, const blyan_progress *progress)
{
    (void)user;
    return progress->blocks > 0;
}

static int is_empty(const blyan_chain *chain)
{
    uint64_t len = 1;

    EXPECT(OK, blyan_chain_len(chain, &len));
    return len == 0;
}

/* A stream in memory; it ends, or stops the call, at a number of bytes. */
struct memory {
    uint8_t *data;
    size_t len, at, stop_at;
};

static int32_t keep(void *user, const void *data, size_t len)
{
    struct memory *memory = user;

    if (memory->len + len > memory->stop_at)
        return 1;
    memory->data = realloc(memory->data, memory->len + len);
    memcpy(memory->data + memory->len, data, len);
    memory->len += len;
    return 0;
}

static int32_t give(void *user, void *data, size_t capacity, size_t *len)
{
    struct memory *memory = user;

    if (memory->at > memory->stop_at)
        return -1;
    /* Odd parts. */
    *len = memory->len - memory->at < 999 ? memory->len - memory->at : 999;
    if (*len > capacity)
        *len = capacity;
    memcpy(data, memory->data + memory->at, *len);
    memory->at += *len;
    return 0;
}

/* A bundle as a stream has the bytes of the file, and a chain takes it in as well. */
static void exchange_streams(const blyan_chain *chain, const char *path, const blyan_bundle_info *expected)
{
    struct memory memory = {NULL, 0, 0, 1000};
    blyan_chain *other;
    blyan_bundle_info sent;
    blyan_unbundle_info taken;
    blyan_hash root;
    FILE *file = fopen(path, "rb");
    uint8_t *bytes = malloc((size_t)expected->bytes + 1);

    EXPECT_TRUE(file != NULL && fread(bytes, 1, (size_t)expected->bytes + 1, file) == expected->bytes);
    fclose(file);
    EXPECT(STOPPED, blyan_chain_bundle(chain, keep, &memory, NULL, &sent, sizeof sent));
    free(memory.data);
    memory.data = NULL;
    memory.len = 0;
    memory.stop_at = SIZE_MAX;
    EXPECT(OK, blyan_chain_bundle(chain, keep, &memory, NULL, &sent, sizeof sent));
    EXPECT_TRUE(sent.bytes == expected->bytes && sent.blocks == expected->blocks);
    EXPECT_TRUE(memory.len == sent.bytes && memcmp(memory.data, bytes, memory.len) == 0);
    free(bytes);

    EXPECT(OK, blyan_chain_in_memory(&other));
    memory.stop_at = memory.len / 2;
    EXPECT(STOPPED, blyan_chain_unbundle(other, give, &memory, NULL, &taken, sizeof taken));
    EXPECT_TRUE(is_empty(other));
    memory.stop_at = SIZE_MAX;
    memory.at = 1;
    EXPECT(BUNDLE, blyan_chain_unbundle(other, give, &memory, NULL, &taken, sizeof taken));
    EXPECT_TRUE(is_empty(other));
    memory.at = 0;
    EXPECT(OK, blyan_chain_unbundle(other, give, &memory, NULL, &taken, sizeof taken));
    EXPECT(OK, blyan_chain_root(chain, &root));
    EXPECT_TRUE(memory.at == memory.len && memcmp(&taken.root, &root, sizeof root) == 0);
    free(memory.data);
    blyan_chain_free(other);
}

/* A bundle that is stopped, cut off, too large or taken in at a bad time changes nothing. */
void exchange_badly(const char *folder, const char *empty)
{
    blyan_chain *chain;
    blyan_chain *other;
    blyan_writer *writer;
    blyan_bundle_options sending;
    blyan_bundle_info sent;
    blyan_unbundle_options taking;
    blyan_unbundle_info taken;
    blyan_collect_options collecting;
    blyan_collect_report *report;
    blyan_cancel *cancel;
    blyan_hash nobody = {{1}};
    uint64_t len;
    char path[4096];

    snprintf(path, sizeof path, "%s/bundle", empty);
    EXPECT(OK, blyan_cancel_new(&cancel));
    EXPECT(OK, blyan_chain_in_memory(&chain));
    EXPECT(OK, blyan_chain_in_memory(&other));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_bundle_options_init(&sending, sizeof sending));
    sending.on_progress = stop_at_once;
    EXPECT(STOPPED, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    EXPECT_TRUE(access(path, F_OK) != 0);
    sending.on_progress = NULL;
    sending.blocks = &nobody;
    sending.blocks_len = 1;
    EXPECT(NOT_FOUND, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    sending.blocks = NULL;
    EXPECT(NULL_ARGUMENT, blyan_chain_bundle_file(chain, path, BLYAN_NUL, &sending, &sent, sizeof sent));
    EXPECT(OK, blyan_chain_bundle_file(chain, path, BLYAN_NUL, NULL, &sent, sizeof sent));
    EXPECT(OK, blyan_chain_len(chain, &len));
    EXPECT_TRUE(sent.blocks == len && sent.payloads > 0 && sent.bytes > 0);
    exchange_streams(chain, path, &sent);

    EXPECT(OK, blyan_unbundle_options_init(&taking, sizeof taking));
    taking.on_progress = stop_at_once;
    EXPECT(STOPPED, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));
    taking.on_progress = NULL;
    taking.cancel = cancel;
    blyan_cancel_set(cancel, true);
    EXPECT(CANCELLED, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));
    taking.cancel = NULL;
    taking.max_payload_bytes = 8;
    EXPECT(BUNDLE, blyan_chain_unbundle_file(other, path, BLYAN_NUL, &taking, &taken, sizeof taken));

    /* This thread has a transaction: it would wait for itself. */
    EXPECT(OK, blyan_chain_writer(other, &writer));
    EXPECT(BUSY, blyan_chain_unbundle_file(other, path, BLYAN_NUL, NULL, &taken, sizeof taken));
    EXPECT(BUSY, blyan_chain_collect(other, NULL, &report));
    EXPECT_TRUE(report == NULL);
    EXPECT(OK, blyan_collect_options_init(&collecting, sizeof collecting));
    collecting.dry_run = 1;
    EXPECT(OK, blyan_chain_collect(other, &collecting, &report));
    blyan_collect_report_free(report);
    blyan_writer_free(writer);

    collecting.cancel = cancel;
    EXPECT(CANCELLED, blyan_chain_collect(chain, &collecting, &report));
    collecting.cancel = NULL;
    collecting.roots = &nobody;
    collecting.roots_len = 1;
    EXPECT(NOT_FOUND, blyan_chain_collect(chain, &collecting, &report));
    EXPECT_TRUE(blyan_last_error()->block != NULL &&
                memcmp(blyan_last_error()->block, &nobody, sizeof nobody) == 0);
    collecting.roots_len = SIZE_MAX;
    EXPECT(INVALID_SIZE, blyan_chain_collect(chain, &collecting, &report));

    EXPECT_TRUE(truncate(path, (off_t)sent.bytes - 1) == 0);
    EXPECT(BUNDLE, blyan_chain_unbundle_file(other, path, BLYAN_NUL, NULL, &taken, sizeof taken));
    EXPECT_TRUE(is_empty(other));
    blyan_cancel_free(cancel);
    blyan_chain_free(other);
    blyan_chain_free(chain);
}

struct log {
    int count;
    blyan_status inner;
};

static void on_log(void *user, int32_t level, blyan_str target, blyan_str message)
{
    struct log *log = user;

    EXPECT_TRUE(level >= BLYAN_LOG_LEVEL_ERROR && level <= BLYAN_LOG_LEVEL_TRACE);
    EXPECT_TRUE(strncmp(target.data, "blyan", 5) == 0 && message.len > 0);
    log->inner = blyan_set_log_callback(NULL, NULL, 0);
    log->count++;
}

/* A damaged file of usage counts is worth a warning, and no more. */
void hear_warnings(const char *folder, const char *empty)
{
    struct log log = {0, BLYAN_STATUS_OK};
    blyan_chain *chain;
    blyan_model *model;
    blyan_model_info info;
    char hex[BLYAN_HASH_HEX_SIZE];
    char dir[4096];
    char path[8192];
    FILE *file;

    snprintf(dir, sizeof dir, "%s/warn", empty);
    EXPECT(OK, blyan_chain_open(dir, BLYAN_NUL, NULL, &chain));
    EXPECT(OK, blyan_import_checkpoint(chain, folder, BLYAN_NUL, NULL, NULL));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    EXPECT(OK, blyan_usage_reset(model));
    EXPECT(OK, blyan_model_describe(model, &info, sizeof info));
    EXPECT(OK, blyan_hash_to_hex(&info.model, hex, sizeof hex));
    {
        blyan_generate_options options;
        blyan_generation *generation;

        EXPECT(OK, blyan_generate_options_init(&options, sizeof options));
        options.max_tokens = 1;
        EXPECT(OK, blyan_model_generate(model, &PROMPT, &options, &generation));
        blyan_generation_free(generation);
    }
    EXPECT(OK, blyan_usage_flush(model));
    blyan_model_free(model);
    snprintf(path, sizeof path, "%s/usage/%s.usage", dir, hex);
    file = fopen(path, "wb");
    EXPECT_TRUE(file != NULL && fputs("no counts", file) >= 0 && fclose(file) == 0);

    EXPECT(INVALID_ARGUMENT, blyan_set_log_callback(on_log, &log, 9));
    EXPECT(OK, blyan_set_log_callback(on_log, &log, BLYAN_LOG_LEVEL_WARN));
    EXPECT(OK, blyan_model_open(chain, NULL, &model));
    EXPECT_TRUE(log.count > 0);
    EXPECT_TRUE(log.inner == BLYAN_STATUS_BUSY);
    blyan_model_free(model);
    EXPECT(OK, blyan_set_log_callback(NULL, NULL, 0));
    blyan_chain_free(chain);
}
